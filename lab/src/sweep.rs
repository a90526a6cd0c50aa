//! Names, owners and removal: what a lab leaves on the machine, and how it goes, also after a kill.
//!
//! **Invariant: only namespaces and directories whose name begins with `flab-<pid>-` are touched, and another run's only
//! when that process, told apart by its start time, lives no more.**

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::program::{PROGRAM_DEADLINE, command, run, signal_pid};
use crate::{LabError, wait_until};

/// Where `ip netns` keeps its names.
pub(crate) const NAMESPACES: &str = "/run/netns";
const DIRECTORIES: &str = "/tmp";
const MARK: &str = "flab-";
/// Names who made a directory: `<pid> <start time>`.
const OWNER: &str = "owner";
/// Time for killed processes to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// The prefix of a lab of this process. The name has no hyphen, so that a namespace's last one ends the prefix.
pub(crate) fn prefix(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("{MARK}{}-{name}", process::id())
}

/// Makes the lab's directory and writes down whose it is, before any namespace is made.
pub(crate) fn take_directory(prefix: &str) -> Result<PathBuf, LabError> {
    let directory = Path::new(DIRECTORIES).join(prefix);
    fs::create_dir(&directory).map_err(|error| LabError::io("make", &directory, error))?;
    let owner = directory.join(OWNER);
    let line = format!(
        "{} {}\n",
        process::id(),
        start_time(process::id()).unwrap_or_default()
    );
    fs::write(&owner, line).map_err(|error| LabError::io("write", &owner, error))?;
    Ok(directory)
}

/// Removes what runs that live no more have left, and returns how many they were.
pub(crate) fn sweep() -> Result<usize, LabError> {
    let mut prefixes: BTreeSet<String> = names_in(DIRECTORIES)?.into_iter().collect();
    prefixes.extend(
        names_in(NAMESPACES)?
            .iter()
            .filter_map(|name| Some(name.rsplit_once('-')?.0.to_owned())),
    );
    let mut swept = 0;
    for prefix in prefixes.iter().filter(|prefix| is_dead(prefix)) {
        // Two runs may sweep at once: what is gone already is no failure, and what stays is tried again next time.
        swept += usize::from(remove(prefix).is_ok());
    }
    Ok(swept)
}

/// Kills what runs in the namespaces of `prefix`, deletes them and the directory.
pub(crate) fn remove(prefix: &str) -> Result<(), LabError> {
    let names = || -> Result<Vec<String>, LabError> {
        let mut names = names_in(NAMESPACES)?;
        names.retain(|name| name.rsplit_once('-').is_some_and(|(of, _)| of == prefix));
        Ok(names)
    };
    let found = names()?;
    if !found.is_empty() {
        kill_all_in(&found)?;
        let batch: String = found.iter().map(|name| format!("netns del {name}\n")).collect();
        let output = run(command("ip", ["-force", "-batch", "-"]), &batch, PROGRAM_DEADLINE)?;
        if !names()?.is_empty() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::Program {
                line: "ip netns del".into(),
                status: output.status,
                stderr,
            });
        }
    }
    let directory = Path::new(DIRECTORIES).join(prefix);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LabError::io("remove", &directory, error))
        }
        _ => Ok(()),
    }
}

/// The lab names in a directory; none if it does not exist.
fn names_in(directory: &str) -> Result<Vec<String>, LabError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LabError::io("read", Path::new(directory), error)),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| owner_of(name).is_some()).collect())
}

/// The process id in a lab's name.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(MARK)?.split_once('-')?.0.parse().ok()
}

/// Whether the process that made a lab lives no more.
fn is_dead(prefix: &str) -> bool {
    let Some(pid) = owner_of(prefix) else { return false };
    let owner = fs::read_to_string(Path::new(DIRECTORIES).join(prefix).join(OWNER)).ok();
    has_died(start_time(pid), owner.as_deref())
}

/// Judges by when the process of that id started, if it lives, and by the owner file. Without the file, or while it is
/// being written, only the process id can tell.
fn has_died(started: Option<u64>, owner: Option<&str>) -> bool {
    let Some(now) = started else { return true };
    let then = owner.and_then(|line| line.strip_suffix('\n')?.split_once(' ')?.1.parse::<u64>().ok());
    then.is_some_and(|then| then != now)
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`, proc(5)); `None` if it lives no
/// more, a zombie included.
fn start_time(pid: u32) -> Option<u64> {
    started(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn started(stat: &str) -> Option<u64> {
    // The second field, the program's name, may hold blanks and parentheses: count from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| alive)
}

fn kill_all_in(namespaces: &[String]) -> Result<(), LabError> {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|file| file.ino());
    let own = inode("/proc/self/ns/net".into());
    let inodes: BTreeSet<u64> = namespaces
        .iter()
        .filter_map(|name| inode(Path::new(NAMESPACES).join(name)))
        .filter(|inode| Some(*inode) != own)
        .collect();
    wait_until(
        KILL_DEADLINE,
        "the processes in the lab's namespaces to end",
        || {
            let inside = processes_in(&inodes);
            for pid in &inside {
                let _ = signal_pid(*pid, Signal::SIGKILL);
            }
            inside.is_empty()
        },
    )
}

fn processes_in(inodes: &BTreeSet<u64>) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| {
        // `net:[4026531840]`; a process that has ended has none.
        let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let inode = link.as_ref().and_then(|link| {
            link.to_str()?
                .strip_prefix("net:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        });
        inode.is_some_and(|inode: u64| inodes.contains(&inode))
    };
    pids.filter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_read_behind_the_oddest_program_name() {
        let rest = (4..=22)
            .map(|field| field.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(started(&format!("7 (a) b) S {rest} 0")), Some(22));
        assert_eq!(started(&format!("7 (a) Z {rest} 0")), None);
        assert!(start_time(process::id()).is_some());
    }

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner_of("flab-123-three_hosts-host1"), Some(123));
        for other in ["flab-x-y-z", "flab-12", "cni-1234", "flab-"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_id_in_use_again_does_not_protect_what_its_predecessor_left() {
        assert!(has_died(Some(500), Some("77 400\n")));
        assert!(!has_died(Some(400), Some("77 400\n")));
        assert!(has_died(None, Some("77 400\n")));
    }

    #[test]
    fn while_the_owner_is_unknown_a_living_process_id_protects() {
        for owner in [None, Some(""), Some("77 40"), Some("nonsense\n")] {
            assert!(!has_died(Some(400), owner), "{owner:?}");
        }
        assert!(has_died(None, None));
    }
}
