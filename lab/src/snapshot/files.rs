//! Files: where they are, of what kind, and what is in them.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::LabError;

/// Adds a line for `path` and for everything below it; none where there is nothing.
pub(super) fn list(path: &Path, lines: &mut Vec<String>) -> Result<(), LabError> {
    let read = |error| LabError::io("read", path, error);
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(read)?,
    };
    if about.is_file() && is_log_of_the_lab(path) {
        return Ok(());
    }
    let what = if about.is_dir() {
        "directory".to_owned()
    } else if about.is_symlink() {
        format!("link to {}", fs::read_link(path).map_err(read)?.display())
    } else if about.is_file() {
        let content = fs::read(path).map_err(read)?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        format!("{} bytes, hash {:016x}", content.len(), hasher.finish())
    } else {
        "special file".to_owned()
    };
    let mode = about.permissions().mode() & 0o7777;
    lines.push(format!("{} {mode:04o} {what}", path.display()));
    if about.is_dir() {
        for entry in fs::read_dir(path).map_err(read)? {
            list(&entry.map_err(read)?.path(), lines)?;
        }
    }
    Ok(())
}

/// `7.log`, which the lab writes for a daemon.
fn is_log_of_the_lab(path: &Path) -> bool {
    let number = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_suffix(".log"));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        list(path, &mut lines).unwrap();
        lines.sort();
        lines
    }

    #[test]
    fn every_change_below_a_directory_shows_but_a_log_of_the_labs_daemons() {
        let root = std::env::temp_dir().join(format!("lab-files-{}", std::process::id()));
        assert!(listed(&root).is_empty());
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("a/b"), "one").unwrap();
        let before = listed(&root);
        assert_eq!(before.len(), 3);
        fs::write(root.join("12.log"), "x").unwrap();
        assert_eq!(listed(&root), before);
        fs::write(root.join("a/b"), "two").unwrap();
        assert_ne!(listed(&root), before);
        fs::write(root.join("a/b"), "one").unwrap();
        assert_eq!(listed(&root), before);
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o4600)).unwrap();
        assert_ne!(listed(&root), before);
        fs::remove_file(root.join("a/b")).unwrap();
        assert_ne!(listed(&root), before);
        fs::remove_dir_all(&root).unwrap();
    }
}
