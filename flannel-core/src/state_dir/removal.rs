//! The end of a state: what a daemon that will not come back has left in files, and its removal.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{LOCK, StateDir, StateDirError, directory_name, holder, made, names, purpose_of, territory};
use crate::{DeviceName, SubnetEnv};

/// What a daemon that does not run has left behind in files. As long as this value lives it cannot be
/// started. Looking changes nothing.
///
/// ```no_run
/// use std::path::Path;
///
/// use flannel_core::Leftovers;
///
/// let (states, env) = (Path::new("/var/lib/flannel"), Path::new("/run/flannel/subnet.env"));
/// if let Some(left) = Leftovers::find(states, "etcd /coreos.com/network", env)? {
///     println!("routes may be left in {:?}", left.networks());
///     left.remove()?;
/// }
/// # Ok::<(), flannel_core::StateDirError>(())
/// ```
#[derive(Debug)]
pub struct Leftovers {
    root: PathBuf,
    state: PathBuf,
    subnet_env: PathBuf,
    _lock: Option<File>,
}

/// Files beside the states.
const SHARED: [&str; 5] = [
    made::MADE,
    names::LOCK,
    territory::DEVICES,
    TABLES,
    TABLES_HALF_WRITTEN,
];

/// Remembers which tables of the packet filter were not there before ours.
const TABLES: &str = "tables";

/// What is left of that file where its writer was killed.
const TABLES_HALF_WRITTEN: &str = "tables.new";

impl Leftovers {
    /// Looks below `root` for the state of the daemon with this purpose, whose `subnet.env` is there.
    /// `None`: it has none, and whatever is on this host, even at that place, is not known to be its.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Locked`] while the daemon runs.
    pub fn find(root: &Path, purpose: &str, subnet_env: &Path) -> Result<Option<Self>, StateDirError> {
        let path = root.join(directory_name(purpose));
        let lock = match File::open(path.join(LOCK)) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(file),
                Err(TryLockError::WouldBlock) => {
                    return Err(StateDirError::Locked {
                        purpose: purpose.to_owned(),
                        pid: holder(file),
                        directory: path,
                    });
                }
                Err(TryLockError::Error(source)) => return Err(StateDirError::Io { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StateDirError::Io { path, source }),
        };
        Ok(path.is_dir().then(|| Self {
            root: root.to_owned(),
            state: path,
            subnet_env: subnet_env.to_owned(),
            _lock: lock,
        }))
    }

    /// The networks in which routes may be left.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        let env = SubnetEnv::read(&self.subnet_env).unwrap_or_default();
        let mut networks = territory::read(&self.state).networks;
        networks.extend(env.networks.iter().map(|(_, network)| *network));
        networks.sort_unstable();
        networks.dedup();
        networks
    }

    /// The devices that may be left.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceName> {
        territory::read(&self.state).devices
    }

    /// The suffix of the names that its rules have, `Some(None)` for flannel's own; `None` when it
    /// has no rules that are not another daemon's.
    #[must_use]
    pub fn names_suffix(&self) -> Option<Option<String>> {
        match names::remembered(&self.state) {
            Some(suffix) if suffix.is_empty() => Some(None),
            Some(suffix) => Some(Some(suffix)),
            None => names::are_free(&self.root).then_some(None),
        }
    }

    /// Where it is remembered which tables of the packet filter were not there before ours.
    #[must_use]
    pub fn tables_file(&self) -> PathBuf {
        self.root.join(TABLES)
    }

    /// The files and directories that [`Leftovers::remove`] removes, in this order. Of the directories,
    /// those that hold something of somebody else's by then stay.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        if self.subnet_env.is_file() {
            paths.push(self.subnet_env.clone());
        }
        paths.extend(half_written(&self.subnet_env));
        paths.extend(files(&self.state));
        paths.push(self.state.clone());
        if self.is_last() {
            let shared = SHARED.map(|name| self.root.join(name));
            paths.extend(shared.into_iter().filter(|path| path.is_file()));
        }
        // The innermost first: what is around them may be empty then.
        let is_around = |directory: &PathBuf| {
            let inside = [&self.root, &self.subnet_env];
            inside.iter().any(|path| path.starts_with(directory))
        };
        let made = made::noted(&self.root).into_iter().rev();
        for directory in made.filter(is_around) {
            if entries(&directory).all(|entry| paths.contains(&entry)) {
                paths.push(directory);
            }
        }
        paths
    }

    /// Removes them. Goes on after a failure, of which the first is returned.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Io`].
    pub fn remove(self) -> Result<(), StateDirError> {
        let mut failure = None;
        for path in self.paths() {
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let removed = if is_directory {
                fs::remove_dir(&path)
            } else {
                fs::remove_file(&path)
            };
            if let Err(source) = removed
                && source.kind() != io::ErrorKind::NotFound
            {
                failure.get_or_insert(StateDirError::Left { path, source });
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Whether no other daemon has a state here, so that what they share is of no use any more.
    fn is_last(&self) -> bool {
        names::states(&self.root).all(|state| state == self.state)
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// What is left of a file where its writer was killed before it gave it its name: see
/// [`write_atomically`](crate::subnet_env::write_atomically).
fn half_written(file: &Path) -> Vec<PathBuf> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.");
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let process = name.strip_prefix(&prefix).unwrap_or_default();
        !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut paths: Vec<PathBuf> = file
        .parent()
        .into_iter()
        .flat_map(entries)
        .filter(is_ours)
        .collect();
    paths.sort();
    paths
}

/// The files of a directory, and its sockets.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = entries(directory).filter(|path| !path.is_dir()).collect();
    files.sort();
    files
}

impl StateDir {
    /// Where it is remembered which tables of the packet filter were not there before ours. All daemons
    /// of the host share it; it is removed with the last state.
    #[must_use]
    pub fn tables_file(&self) -> PathBuf {
        self.root.join(TABLES)
    }

    /// What every daemon of this host is for that has a state below `root`.
    #[must_use]
    pub fn purposes(root: &Path) -> Vec<String> {
        let all = names::states(root).map(|state| purpose_of(&state));
        let mut purposes: Vec<String> = all.filter(|purpose| !purpose.is_empty()).collect();
        purposes.sort();
        purposes
    }
}
