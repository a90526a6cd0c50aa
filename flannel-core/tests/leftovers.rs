//! What a daemon leaves in files, whose names its rules have, and the end of both.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::fs;
use std::path::{Path, PathBuf};

use flannel_core::{Leftovers, StateDir, StateDirError};
use tempfile::TempDir;

const PURPOSE: &str = "file:///net with subnet file /run/subnet.env";
const OTHER: &str = "file:///other with subnet file /run/other.env";

struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("lib/flannel")
    }

    fn env(&self) -> PathBuf {
        self.path("run/flannel/subnet.env")
    }

    fn open(&self, purpose: &str) -> StateDir {
        StateDir::open(&self.root(), purpose).unwrap()
    }

    fn look(&self, purpose: &str) -> Option<Leftovers> {
        Leftovers::find(&self.root(), purpose, &self.env()).unwrap()
    }

    fn find(&self, purpose: &str) -> Leftovers {
        self.look(purpose).unwrap()
    }

    /// Every file and directory.
    fn tree(&self) -> Vec<String> {
        fn walk(directory: &Path, tree: &mut Vec<String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                tree.push(path.display().to_string());
                if path.is_dir() {
                    walk(&path, tree);
                }
            }
        }
        let mut tree = Vec::new();
        walk(self.directory.path(), &mut tree);
        tree.sort();
        tree
    }

    /// Runs a daemon once, as far as its files go.
    fn run_once(&self, purpose: &str) {
        let state = self.open(purpose);
        state.make_way_for(&self.env()).unwrap();
        state.names_suffix(&self.env()).unwrap();
        fs::write(
            self.env(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\n",
        )
        .unwrap();
        fs::write(state.path().join("networks"), "10.4.0.0/16\n").unwrap();
        fs::write(state.tables_file(), "ip nat\n").unwrap();
    }
}

#[test]
fn after_the_removal_everything_is_as_it_was_before_the_first_start() {
    let host = Host::new();
    let before = host.tree();
    host.run_once(PURPOSE);
    host.run_once(PURPOSE);
    let left = host.find(PURPOSE);
    let networks: Vec<String> = left.networks().iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.4.0.0/16", "10.5.0.0/16"]);
    let paths = left.paths();
    let there = host.tree();
    assert!(
        paths
            .iter()
            .all(|path| there.contains(&path.display().to_string())),
        "{paths:?}"
    );
    left.remove().unwrap();
    assert_eq!(host.tree(), before);
    assert_eq!(there.len() - before.len(), paths.len(), "{paths:?} of {there:?}");
}

#[test]
fn directories_that_were_there_before_or_hold_something_of_others_stay() {
    let host = Host::new();
    fs::create_dir_all(host.root()).unwrap();
    fs::create_dir_all(host.path("run")).unwrap();
    let before = host.tree();
    host.run_once(PURPOSE);
    fs::write(host.path("run/flannel/of-others"), "x").unwrap();
    host.find(PURPOSE).remove().unwrap();
    let mut expected = before;
    expected
        .extend(["run/flannel", "run/flannel/of-others"].map(|name| host.path(name).display().to_string()));
    expected.sort();
    assert_eq!(host.tree(), expected);
}

/// As after a reboot, of which what lies in memory is gone.
#[test]
fn a_directory_that_others_have_made_at_the_place_of_ours_stays() {
    let host = Host::new();
    host.run_once(PURPOSE);
    let kept = host.path("kept");
    fs::rename(host.path("run"), &kept).unwrap();
    fs::create_dir_all(host.path("run/flannel")).unwrap();
    let left = host.find(PURPOSE);
    let of_others = [host.path("run"), host.path("run/flannel")];
    assert!(
        !left.paths().iter().any(|path| of_others.contains(path)),
        "{:?}",
        left.paths()
    );
    left.remove().unwrap();
    assert!(of_others.iter().all(|path| path.is_dir()));
}

#[test]
fn links_and_directories_elsewhere_are_not_taken_for_what_was_made() {
    let host = Host::new();
    host.run_once(PURPOSE);
    fs::create_dir(host.path("elsewhere")).unwrap();
    let made = host.root().join("made");
    let line = fs::read_to_string(&made).unwrap();
    fs::write(&made, line.replace("run/flannel", "elsewhere")).unwrap();
    let target = host.path("moved");
    let state = host
        .find(PURPOSE)
        .paths()
        .into_iter()
        .find(|path| path.is_dir())
        .unwrap();
    fs::rename(&state, &target).unwrap();
    std::os::unix::fs::symlink(&target, &state).unwrap();
    host.find(PURPOSE).remove().unwrap();
    assert!(host.path("elsewhere").is_dir() && target.is_dir());
    assert!(!state.exists());
}

#[test]
fn a_file_store_and_files_of_others_below_the_root_stay() {
    let host = Host::new();
    host.run_once(PURPOSE);
    fs::create_dir_all(host.root().join("net/subnets")).unwrap();
    fs::write(host.root().join("notes"), "x").unwrap();
    host.find(PURPOSE).remove().unwrap();
    let left: Vec<PathBuf> = ["net", "notes"].map(|name| host.root().join(name)).into();
    let mut there: Vec<PathBuf> = fs::read_dir(host.root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    there.sort();
    assert_eq!(there, left);
}

#[test]
fn what_daemons_share_goes_with_the_last_of_them() {
    let host = Host::new();
    let before = host.tree();
    host.run_once(PURPOSE);
    drop(host.open(OTHER));
    host.find(PURPOSE).remove().unwrap();
    assert!(host.root().join("made").is_file());
    host.find(OTHER).remove().unwrap();
    assert_eq!(host.tree(), before);
}

#[test]
fn looking_changes_nothing_and_after_the_removal_there_is_nothing_to_find() {
    let host = Host::new();
    assert!(host.look(PURPOSE).is_none());
    host.run_once(PURPOSE);
    let lock = host.open(PURPOSE).path().join("lock");
    let before = (host.tree(), fs::read(&lock).unwrap());
    drop(host.find(PURPOSE));
    assert_eq!((host.tree(), fs::read(&lock).unwrap()), before);
    host.find(PURPOSE).remove().unwrap();
    assert!(host.look(PURPOSE).is_none());
}

#[test]
fn a_daemon_that_has_no_state_here_is_not_taken_for_the_owner_of_what_is_there() {
    let host = Host::new();
    host.run_once(PURPOSE);
    assert!(
        host.look(OTHER).is_none(),
        "though subnet.env is where it would have it"
    );
    assert_eq!(StateDir::purposes(&host.root()), [PURPOSE]);
}

#[test]
fn a_daemon_that_runs_is_left_alone_and_named() {
    let host = Host::new();
    let running = host.open(PURPOSE);
    let error = Leftovers::find(&host.root(), PURPOSE, &host.env()).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(
        matches!(&error, StateDirError::Locked { pid: holder, .. } if *holder == pid),
        "{error}"
    );
    drop(running);
    let left = host.find(PURPOSE);
    assert!(matches!(
        StateDir::open(&host.root(), PURPOSE),
        Err(StateDirError::Locked { .. })
    ));
    drop(left);
    host.open(PURPOSE);
}

#[test]
fn flannels_names_are_the_first_daemons_and_each_other_keeps_its_suffix() {
    let host = Host::new();
    let first = host.open(PURPOSE);
    assert_eq!(first.names_suffix(&host.env()).unwrap(), None);
    let second = host.open(OTHER);
    let names = |state: &StateDir| state.names_suffix(&host.path("other.env")).unwrap();
    let suffix = names(&second).unwrap();
    assert!(
        suffix.len() == 8 && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{suffix}"
    );
    drop(first);
    assert_eq!(names(&second).as_ref(), Some(&suffix));
    drop(second);
    let second = host.open(OTHER);
    assert_eq!(names(&second), Some(suffix), "though nobody holds flannel's");
    assert_eq!(host.open(PURPOSE).names_suffix(&host.env()).unwrap(), None);
}

#[test]
fn a_daemon_that_does_not_run_keeps_flannels_names_since_its_rules_stay() {
    let host = Host::new();
    drop(host.open(PURPOSE).names_suffix(&host.env()).unwrap());
    let second = host.open(OTHER);
    assert!(second.names_suffix(&host.path("other.env")).unwrap().is_some());
    assert_eq!(host.find(PURPOSE).names_suffix(), Some(None));
    assert_eq!(host.open(PURPOSE).names_suffix(&host.env()).unwrap(), None);
}

#[test]
fn a_successor_in_the_same_subnet_env_takes_flannels_names_over() {
    let host = Host::new();
    drop(host.open(PURPOSE).names_suffix(&host.env()).unwrap());
    let successor = host.open(OTHER);
    assert_eq!(successor.names_suffix(&host.env()).unwrap(), None);
    assert_eq!(
        host.find(PURPOSE).names_suffix(),
        None,
        "its rules are another's by now"
    );
    assert!(host.open(PURPOSE).names_suffix(&host.env()).unwrap().is_some());
}

#[test]
fn rules_are_removed_under_the_names_that_the_daemon_had() {
    let host = Host::new();
    let first = host.open(PURPOSE);
    first.names_suffix(&host.env()).unwrap();
    let second = host.open(OTHER);
    let suffix = second.names_suffix(&host.path("other.env")).unwrap();
    drop(second);
    assert_eq!(host.find(OTHER).names_suffix(), Some(suffix));
    drop(host.open("never made rules"));
    let names = || host.find("never made rules").names_suffix();
    assert_eq!(names(), None, "they are the first one's");
    drop(first);
    assert_eq!(names(), None, "they are the first one's, though it does not run");
    assert_eq!(host.find(PURPOSE).names_suffix(), Some(None));
    host.find(PURPOSE).remove().unwrap();
    assert_eq!(names(), Some(None), "flannel's own may be left");
}

#[test]
fn a_corrupt_memory_of_names_is_as_good_as_none() {
    let host = Host::new();
    let state = host.open(PURPOSE);
    fs::write(state.path().join("names"), "; flush ruleset").unwrap();
    assert_eq!(state.names_suffix(&host.env()).unwrap(), None);
}
