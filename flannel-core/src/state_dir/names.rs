//! Which daemon of a host has flannel's own names for its rules. Every other adds a suffix to them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{NAME_LEN, StateDir, StateDirError};
use crate::subnet_env::{write_atomically, write_where_different};

/// Below the root, locked by whoever has flannel's own names.
pub(super) const LOCK: &str = "names";

/// In a state: the suffix, empty for flannel's own names.
pub(super) const SUFFIX: &str = "names";

/// In a state: where its daemon writes `subnet.env`, as no other does.
const SUBNET_ENV: &str = "subnet-env";

/// Letters and digits of a suffix.
const SUFFIX_LEN: usize = 8;

impl StateDir {
    /// The suffix of the names of this daemon's chains and tables in the packet filter. `None`: they
    /// have flannel's own. Those are the first daemon's, also while it does not run, since its rules
    /// stay; and its successor's in the same `subnet_env`. Who once has a suffix keeps it.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Io`].
    pub fn names_suffix(&self, subnet_env: &Path) -> Result<Option<String>, StateDirError> {
        let failed = |source| StateDirError::Io {
            path: self.path.clone(),
            source,
        };
        if let Some(suffix) = remembered(&self.path).filter(|suffix| !suffix.is_empty()) {
            return Ok(Some(suffix));
        }
        let place = subnet_env.display().to_string();
        write_where_different(&self.path.join(SUBNET_ENV), place.as_bytes()).map_err(failed)?;
        let others = || states(&self.root).filter(|state| *state != self.path && has_flannels(state));
        let is_former = |state: &PathBuf| is_former(state, &self.path);
        let taken = !has_flannels(&self.path) && others().any(|state| !is_former(&state));
        let suffix = match self.names.try_lock() {
            Ok(()) if !taken => {
                // It will find that it has none.
                for former in others().filter(is_former) {
                    fs::remove_file(former.join(SUFFIX)).map_err(failed)?;
                }
                String::new()
            }
            Ok(()) => {
                self.names.unlock().map_err(failed)?;
                self.own_suffix()
            }
            Err(TryLockError::WouldBlock) => self.own_suffix(),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        write_atomically(&self.path.join(SUFFIX), format!("{suffix}\n").as_bytes()).map_err(failed)?;
        Ok((!suffix.is_empty()).then_some(suffix))
    }

    fn own_suffix(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.chars().take(SUFFIX_LEN).collect()
    }
}

/// Whether the daemon of a state has the `subnet.env` of another, which is its successor then.
pub(super) fn is_former(state: &Path, successor: &Path) -> bool {
    let place = |state: &Path| fs::read_to_string(state.join(SUBNET_ENV)).ok();
    place(state).is_some_and(|its| Some(its) == place(successor))
}

fn has_flannels(state: &Path) -> bool {
    remembered(state).is_some_and(|suffix| suffix.is_empty())
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
    let claimed = states(root).any(|state| has_flannels(&state));
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
