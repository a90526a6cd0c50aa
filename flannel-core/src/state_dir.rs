//! What a host remembers between runs: who it is, and where it has put what.

mod made;
mod names;
mod removal;

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;
use tracing::warn;

pub use removal::Leftovers;

use crate::NodeId;
use crate::subnet::parse_net;
use crate::subnet_env::{write_atomically, write_where_different};

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
        let names = names::open(root).map_err(failed)?;
        let lock = lock(&path, purpose).map_err(|error| error.or_io(&path))?;
        let node = node_id(&path.join("node-id")).map_err(failed)?;
        let described = path.join("purpose");
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
        read_networks(&self.path)
    }

    /// Where the networks are remembered, for [`remember_networks`].
    pub(crate) fn networks_file(&self) -> PathBuf {
        self.path.join(NETWORKS)
    }
}

/// In a state: a network in each line.
const NETWORKS: &str = "networks";

/// The networks that a state remembers.
fn read_networks(state: &Path) -> Vec<IpNet> {
    let text = fs::read_to_string(state.join(NETWORKS)).unwrap_or_default();
    text.lines().filter_map(parse_net).collect()
}

/// Remembers the networks in which routes of ours are.
pub(crate) fn remember_networks(file: &Path, networks: &[IpNet]) -> Result<(), StateDirError> {
    let text: String = networks.iter().map(|network| format!("{network}\n")).collect();
    let written = write_where_different(file, text.as_bytes());
    written.map(drop).map_err(|source| StateDirError::Io {
        path: file.to_owned(),
        source,
    })
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

fn lock(directory: &Path, purpose: &str) -> Result<File, LockError> {
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join("lock"));
    let mut file = options.map_err(LockError::Io)?;
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
    fn networks_are_remembered() {
        let root = root("networks");
        let state = StateDir::open(&root, "x").unwrap();
        assert_eq!(state.networks(), []);
        let networks = ["10.5.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()];
        remember_networks(&state.networks_file(), &networks).unwrap();
        assert_eq!(state.networks(), networks);
        fs::remove_dir_all(root).unwrap();
    }
}
