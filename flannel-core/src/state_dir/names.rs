//! Which daemon of a host has flannel's own names for its rules. Every other adds a suffix to them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{NAME_LEN, StateDir, StateDirError};
use crate::subnet_env::write_atomically;

/// Below the root, locked by whoever has flannel's own names.
pub(super) const LOCK: &str = "names";

/// In a state: the suffix, empty for flannel's own names.
pub(super) const SUFFIX: &str = "names";

/// Letters and digits of a suffix.
const SUFFIX_LEN: usize = 8;

impl StateDir {
    /// The suffix of the names of this daemon's chains and tables in the packet filter. `None`: they
    /// have flannel's own. Those are the first daemon's, and no other has them while it runs; who once
    /// has a suffix keeps it.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Io`].
    pub fn names_suffix(&self) -> Result<Option<String>, StateDirError> {
        let failed = |source| StateDirError::Io {
            path: self.path.clone(),
            source,
        };
        if let Some(suffix) = remembered(&self.path).filter(|suffix| !suffix.is_empty()) {
            return Ok(Some(suffix));
        }
        let suffix = match self.names.try_lock() {
            Ok(()) => {
                take_from_others(&self.root, &self.path).map_err(failed)?;
                String::new()
            }
            Err(TryLockError::WouldBlock) => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                name.chars().take(SUFFIX_LEN).collect()
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        write_atomically(&self.path.join(SUFFIX), format!("{suffix}\n").as_bytes()).map_err(failed)?;
        Ok((!suffix.is_empty()).then_some(suffix))
    }
}

/// The suffix that a state remembers.
pub(super) fn remembered(state: &Path) -> Option<String> {
    let text = fs::read_to_string(state.join(SUFFIX)).ok()?;
    let suffix = text.trim().to_owned();
    let sound = suffix.len() <= SUFFIX_LEN && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    sound.then_some(suffix)
}

/// Whether flannel's own names are nobody's below `root`.
pub(super) fn are_free(root: &Path) -> bool {
    let claimed = states(root).any(|state| remembered(&state).is_some_and(|suffix| suffix.is_empty()));
    let held = || {
        let lock = File::open(root.join(LOCK));
        lock.is_ok_and(|lock| lock.try_lock().is_err())
    };
    !claimed && !held()
}

/// Every daemon's state.
pub(super) fn states(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let is_state = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        path.is_dir() && name.len() == NAME_LEN && name.iter().all(u8::is_ascii_hexdigit)
    };
    entries.map(|entry| entry.path()).filter(is_state)
}

/// The file that is locked; not locked yet.
pub(super) fn open(root: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(root.join(LOCK))
}

/// Whoever had them does not run: it will find that it has none.
fn take_from_others(root: &Path, own: &Path) -> io::Result<()> {
    for state in states(root).filter(|state| state != own) {
        if remembered(&state).is_some_and(|suffix| suffix.is_empty()) {
            fs::remove_file(state.join(SUFFIX))?;
        }
    }
    Ok(())
}
