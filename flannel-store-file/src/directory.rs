//! The store's files. Everything here blocks.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use flannel_core::SubnetKey;
use nix::fcntl::OFlag;
use thiserror::Error;

use crate::entry::{Entry, digest};

/// No lease and no config is as long as this.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// A directory with more entries than this is something else.
const MAX_ENTRIES: usize = 65_536;
/// A temporary file of this age is nobody's any more: no write takes so long.
const ABANDONED: Duration = Duration::from_secs(600);

/// `<root>/config`, `<root>/lock`, and one file for each lease in `<root>/subnets`.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) root: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) subnets: PathBuf,
}

/// What could not be done to which file.
#[derive(Debug, Error)]
#[error("cannot {doing} {path}: {source}{remedy}", remedy = remedy(source))]
pub(crate) struct FileError {
    pub(crate) doing: &'static str,
    pub(crate) path: String,
    pub(crate) source: io::Error,
}

/// What stands under a name.
#[derive(Debug)]
pub(crate) enum Reading {
    Absent,
    Lease(SubnetKey, Entry),
    /// A regular file, whose content is no lease. It may not have been written to its end yet.
    Garbled {
        reason: String,
        /// Differs from one content to the next.
        version: u64,
    },
    /// Something that cannot be a lease, or cannot be read at all.
    Unreadable(String),
}

/// What stands in the config's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigText {
    Missing,
    Text(String),
    Unreadable(String),
}

/// Whether a file that is already there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Nothing,
    WhatIsThere,
}

/// The lock of a directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// The very directories, which another pair of the same names is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inodes([(u64, u64); 2]);

impl FileError {
    fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self { doing, path, source }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; let the user of this process read and write there",
        ErrorKind::ReadOnlyFilesystem => "; mount it writable, or keep the store elsewhere",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space",
        _ => "",
    }
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            config: root.join("config"),
            lock: root.join("lock"),
            subnets: root.join("subnets"),
        }
    }

    /// Makes the directories that are missing.
    pub(crate) fn make(&self) -> Result<(), FileError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.subnets)
            .map_err(FileError::at("make", &self.subnets))
    }

    /// Both directories as they are now. What is missing is an error: it is not made anew, since an
    /// unmounted volume must not turn into an empty store.
    pub(crate) fn inodes(&self) -> Result<Inodes, FileError> {
        let inode = |path: &Path| {
            let metadata = fs::metadata(path)?;
            if !metadata.is_dir() {
                return Err(ErrorKind::NotADirectory.into());
            }
            Ok((metadata.dev(), metadata.ino()))
        };
        Ok(Inodes([
            inode(&self.root).map_err(FileError::at("find", &self.root))?,
            inode(&self.subnets).map_err(FileError::at("find", &self.subnets))?,
        ]))
    }

    /// Takes the lock, unless somebody has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>, FileError> {
        self.inodes()?;
        let failed = || FileError::at("lock", &self.lock);
        // Opened for writing, its closing would wake everybody who watches the directory.
        let file = match File::open(&self.lock) {
            Err(error) if error.kind() == ErrorKind::NotFound => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(&self.lock),
            opened => opened,
        };
        let file = file.map_err(failed())?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
            Ok(()) => {}
        }
        // A lock on a file that was replaced meanwhile keeps nobody out.
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = file.metadata().map(inode).map_err(failed())?;
        let named = fs::metadata(&self.lock).map(inode).ok();
        Ok((named == Some(held)).then_some(Lock { _file: file }))
    }

    /// The names in `subnets`, without those that begin with a dot.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, FileError> {
        let failed = || FileError::at("list", &self.subnets);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.subnets).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            if !is_hidden(&name) {
                names.push(name);
            }
            if names.len() > MAX_ENTRIES {
                let error = format!("more than {MAX_ENTRIES} entries; remove what is no lease");
                return Err(failed()(io::Error::other(error)));
            }
        }
        Ok(names)
    }

    /// Reads one entry of `subnets`.
    pub(crate) fn read(&self, name: &OsStr) -> Reading {
        let path = self.subnets.join(name);
        let subnet = match SubnetKey::from_key(&name.to_string_lossy()) {
            Ok(subnet) => subnet,
            Err(_) if fs::symlink_metadata(&path).is_err() => return Reading::Absent,
            Err(error) => return Reading::Unreadable(error.to_string()),
        };
        let bytes = match read_file(&path) {
            Ok(None) => return Reading::Absent,
            Ok(Some(bytes)) => bytes,
            Err(error) => return Reading::Unreadable(error.to_string() + remedy(&error)),
        };
        let entry = match std::str::from_utf8(&bytes) {
            Ok(text) => Entry::parse(text).map_err(|error| error.to_string()),
            Err(error) => Err(format!("not JSON: {error}")),
        };
        match entry {
            Ok(entry) => Reading::Lease(subnet, entry),
            Err(reason) => Reading::Garbled {
                reason,
                version: digest(&bytes),
            },
        }
    }

    /// Reads the config.
    pub(crate) fn read_config(&self) -> ConfigText {
        match read_file(&self.config) {
            Ok(None) => ConfigText::Missing,
            Ok(Some(bytes)) => String::from_utf8(bytes).map_or_else(
                |error| ConfigText::Unreadable(format!("it is not JSON: {error}")),
                ConfigText::Text,
            ),
            Err(error) => ConfigText::Unreadable(format!("{error}{}", remedy(&error))),
        }
    }

    /// Writes the config so that at every moment, a crash included, there is the old text or the new
    /// one. Where a link stands for it, what it leads to is written.
    pub(crate) fn write_config(&self, text: &str) -> Result<(), FileError> {
        let path = fs::canonicalize(&self.config).unwrap_or_else(|_| self.config.clone());
        let mut temporary = path.clone();
        temporary.set_file_name(format!(".config.{}", std::process::id()));
        let written = write_to_disk(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(FileError::at("write", &path))?;
        let directory = path.parent().unwrap_or(&self.root);
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(FileError::at("write", directory))
    }

    /// Writes a lease so that at every moment, a crash included, there is the old file or the new
    /// one. `false`: there is one already, and it was not to be replaced.
    pub(crate) fn write(&self, subnet: SubnetKey, text: &str, over: Over) -> Result<bool, FileError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let key = subnet.to_key();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .subnets
            .join(format!(".{key}.{}.{number}", std::process::id()));
        let path = self.subnets.join(&key);
        let written = write_to_disk(&temporary, text)
            .map_err(FileError::at("write", &temporary))
            .and_then(|()| put(&temporary, &path, over).map_err(FileError::at("write", &path)));
        if !matches!(written, Ok(Put::Renamed)) {
            // What cannot be removed now is swept at the next start.
            let _ = fs::remove_file(&temporary);
        }
        let written = written?;
        self.sync()?;
        Ok(written != Put::Refused)
    }

    /// Removes a lease. One that is gone already is no error.
    pub(crate) fn remove(&self, subnet: SubnetKey) -> Result<(), FileError> {
        let path = self.subnets.join(subnet.to_key());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::at("remove", &path)(error)),
            Ok(()) => self.sync(),
        }
    }

    /// Removes the temporary files of runs that died while they wrote.
    pub(crate) fn sweep(&self) -> Result<(), FileError> {
        let failed = || FileError::at("list", &self.subnets);
        for entry in fs::read_dir(&self.subnets).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let old = modified.is_ok_and(|modified| {
                SystemTime::now()
                    .duration_since(modified)
                    .is_ok_and(|age| age > ABANDONED)
            });
            if old && is_temporary(&entry.file_name()) {
                let path = entry.path();
                match fs::remove_file(&path) {
                    Ok(()) => tracing::info!(file = %path.display(), "removed what a dead run left"),
                    Err(error) => tracing::debug!(file = %path.display(), %error, "cannot remove"),
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), FileError> {
        File::open(&self.subnets)
            .and_then(|directory| directory.sync_all())
            .map_err(FileError::at("sync", &self.subnets))
    }
}

/// Whether a name is none of a lease, whoever made it: editors and copying tools, too, put dots
/// before the names of what is not finished.
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether it is a name that [`Directory::write`] makes: `.<key>.<process>.<number>`.
fn is_temporary(name: &OsStr) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.to_str().and_then(|name| {
        let (rest, counter) = name.strip_prefix('.')?.rsplit_once('.')?;
        let (key, process) = rest.rsplit_once('.')?;
        Some((key, process, counter))
    });
    parts.is_some_and(|(key, process, counter)| {
        number(process) && number(counter) && SubnetKey::from_key(key).is_ok()
    })
}

/// The content of a regular file, or of one that a symbolic link leads to; `None` without one.
/// Anything else is refused before it is opened: a FIFO would block, a device might act.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let refuse_other = |metadata: fs::Metadata| {
        if metadata.is_file() {
            Ok(())
        } else {
            Err(io::Error::other("not a regular file; remove it"))
        }
    };
    let read = || {
        refuse_other(fs::metadata(path)?)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)?;
        refuse_other(file.metadata()?)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
        }
        Ok(bytes)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(bytes) => Ok(Some(bytes)),
    }
}

fn write_to_disk(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Renamed,
    Linked,
    Refused,
}

/// Moves a finished file to its place. A link, unlike a rename, never replaces what somebody who
/// knows nothing of our lock has put there a moment ago.
fn put(temporary: &Path, path: &Path, over: Over) -> io::Result<Put> {
    if over == Over::Nothing {
        match fs::hard_link(temporary, path) {
            Ok(()) => return Ok(Put::Linked),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Put::Refused),
            // FAT has no links.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {}
            Err(error) => return Err(error),
        }
    }
    fs::rename(temporary, path).map(|()| Put::Renamed)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
