//! What a host remembers between runs: who it is, and where it has put what.

mod made;
mod names;
mod removal;
mod territory;

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;
use tracing::warn;

pub use removal::Leftovers;

use crate::subnet_env::write_atomically;
use crate::{DeviceName, NodeId};

pub(crate) use territory::remember;

/// The state of one daemon, locked for as long as this value lives.
///
/// A directory per (store, prefix, subnet file), so that several networks on one host share nothing.
#[derive(Debug)]
pub struct StateDir {
    /// The directory that the states of all daemons of the host share.
    root: PathBuf,
    path: PathBuf,
    node: NodeId,
    /// Locked by whoever has flannel's own names for its rules. Opened before the lock, and so let go
    /// before it, too: a successor that has the state finds the names free.
    names: File,
    _lock: File,
}

/// Why there is no state directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// Another process holds it.
    #[error(
        "{purpose} is in use by process {pid}; stop that one, or give this one another --state-dir or --subnet-file"
    )]
    Locked {
        /// What the directory is for.
        purpose: String,
        /// The process that holds the lock, as it wrote it there.
        pid: String,
        /// The directory that it holds.
        directory: PathBuf,
    },
    /// Something of it cannot be removed.
    #[error("cannot remove {path}: {source}")]
    Left {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon of this host has a device of the name that ours is to have.
    #[error(
        "{device} is the device of {theirs} on this host, and would be that of {ours}, too; give one of the two \
         networks another VNI, or run `flanneld cleanup` with the flags of the one that will not come back"
    )]
    DeviceTaken {
        /// The device.
        device: DeviceName,
        /// What we are for.
        ours: String,
        /// What the other daemon is for.
        theirs: String,
    },
    /// It cannot be used.
    #[error("cannot use {path}, which holds the state: {source}; give a writable directory with --state-dir")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateDir {
    /// Opens, or makes, the directory below `root` that belongs to `purpose`: one line that tells
    /// this network on this host from every other, such as store and subnet file.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Locked`] while another process has it open.
    pub fn open(root: &Path, purpose: &str) -> Result<Self, StateDirError> {
        let path = root.join(directory_name(purpose));
        let failed = |source| StateDirError::Io {
            path: path.clone(),
            source,
        };
        made::make(root, &path).map_err(failed)?;
        let names = open_to_lock(&root.join(names::LOCK)).map_err(failed)?;
        let lock = lock(&path, purpose).map_err(|error| error.or_io(&path))?;
        let node = node_id(&path.join("node-id")).map_err(failed)?;
        let described = path.join(PURPOSE);
        if !described.exists() {
            write_atomically(&described, format!("{purpose}\n").as_bytes()).map_err(failed)?;
        }
        Ok(Self {
            root: root.to_owned(),
            path,
            node,
            names,
            _lock: lock,
        })
    }

    /// Makes the directory of `file`, and remembers what was missing of it, so that
    /// [`Leftovers::remove`](crate::Leftovers::remove) takes away no more and no less.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Io`].
    pub fn make_way_for(&self, file: &Path) -> Result<(), StateDirError> {
        let Some(directory) = file.parent() else {
            return Ok(());
        };
        made::make(&self.root, directory).map_err(|source| StateDirError::Io {
            path: directory.to_owned(),
            source,
        })
    }

    /// Where it is. Whoever holds it may keep files of their own there.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this host is.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The networks in which routes of ours may be left from earlier runs.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        territory::read(&self.path).networks
    }

    /// The devices that earlier runs may have left.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceName> {
        territory::read(&self.path).devices
    }
}

/// Hexadecimal digits of a directory's name.
const NAME_LEN: usize = 16;

/// FNV-1a: the name must stay the same in every version.
fn directory_name(purpose: &str) -> String {
    let digest = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{digest:0NAME_LEN$x}")
}

enum LockError {
    Held(StateDirError),
    Io(io::Error),
}

impl LockError {
    fn or_io(self, path: &Path) -> StateDirError {
        match self {
            Self::Held(error) => error,
            Self::Io(source) => StateDirError::Io {
                path: path.to_owned(),
                source,
            },
        }
    }
}

/// What the daemon of a state is for.
fn purpose_of(state: &Path) -> String {
    let text = fs::read_to_string(state.join(PURPOSE)).unwrap_or_default();
    text.trim().to_owned()
}

/// Whether the daemon of a state runs.
fn is_held(state: &Path) -> bool {
    let lock = File::open(state.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// In a state: locked by its daemon while it runs.
const LOCK: &str = "lock";

/// In a state: what its daemon is for.
const PURPOSE: &str = "purpose";

/// A file as it is, or made; not locked yet.
fn open_to_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

fn lock(directory: &Path, purpose: &str) -> Result<File, LockError> {
    let mut file = open_to_lock(&directory.join(LOCK)).map_err(LockError::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = holder(file);
            return Err(LockError::Held(StateDirError::Locked {
                purpose: purpose.to_owned(),
                pid,
                directory: directory.to_owned(),
            }));
        }
        Err(TryLockError::Error(source)) => return Err(LockError::Io(source)),
    }
    let rewritten = file.set_len(0).and_then(|()| file.rewind());
    rewritten
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(LockError::Io)?;
    Ok(file)
}

/// The process that holds the lock, as it wrote it there.
fn holder(lock: File) -> String {
    let mut pid = String::new();
    let _ = lock.take(20).read_to_string(&mut pid);
    pid.trim().to_owned()
}

fn node_id(path: &Path) -> io::Result<NodeId> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(node) => return Ok(node),
            Err(error) => {
                warn!(file = %path.display(), %error, "the node id is unreadable; taking a new one")
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let node = random_node_id();
    write_atomically(path, format!("{node}\n").as_bytes())?;
    Ok(node)
}

/// Each `RandomState` is keyed by the operating system's randomness: enough for an id, and no
/// dependency.
fn random_node_id() -> NodeId {
    let random = || u128::from(RandomState::new().build_hasher().finish());
    NodeId(random() << 64 | random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("flannel-state-{test}-{}", std::process::id()))
    }

    #[test]
    fn the_node_id_stays_and_each_purpose_has_its_own() {
        let root = root("node");
        let first = StateDir::open(&root, "store a").unwrap();
        let other = StateDir::open(&root, "store b").unwrap();
        assert_ne!(first.node(), other.node());
        let node = first.node();
        drop(first);
        assert_eq!(StateDir::open(&root, "store a").unwrap().node(), node);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let root = root("lock");
        let first = StateDir::open(&root, "file:///net for /run/subnet.env").unwrap();
        let error = StateDir::open(&root, "file:///net for /run/subnet.env")
            .unwrap_err()
            .to_string();
        let expected = format!(
            "file:///net for /run/subnet.env is in use by process {}",
            std::process::id()
        );
        assert!(error.starts_with(&expected), "{error}");
        drop(first);
        StateDir::open(&root, "file:///net for /run/subnet.env").unwrap();
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_corrupt_node_id_is_replaced() {
        let root = root("corrupt");
        let state = StateDir::open(&root, "x").unwrap();
        let path = state.path.join("node-id");
        drop(state);
        fs::write(&path, "garbage").unwrap();
        let node = StateDir::open(&root, "x").unwrap().node();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), node.to_string());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn networks_and_devices_are_remembered() {
        let root = root("networks");
        let state = StateDir::open(&root, "x").unwrap();
        assert_eq!(state.networks(), []);
        let networks = ["10.5.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()];
        let devices = vec!["flannel.1".parse().unwrap()];
        let networks = networks.to_vec();
        let territory = crate::territory::Territory { networks, devices };
        remember(&state.path, &territory).unwrap();
        assert_eq!(state.networks(), territory.networks);
        assert_eq!(state.devices(), territory.devices);
        fs::remove_dir_all(root).unwrap();
    }
}
