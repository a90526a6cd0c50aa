//! Which directories were made on the way, so that they and no others can be removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Lists them below the root of the states: in each line which one it is, and its path.
pub(super) const MADE: &str = "made";

/// Makes a directory and whatever is missing above it, and notes in `root` what was.
pub(super) fn make(root: &Path, directory: &Path) -> io::Result<()> {
    let missing = missing(root).into_iter().chain(missing_beside(root, directory));
    let missing: Vec<PathBuf> = missing.collect();
    fs::create_dir_all(root)?;
    fs::create_dir_all(directory)?;
    if missing.is_empty() {
        return Ok(());
    }
    let mut file = File::options().append(true).create(true).open(root.join(MADE))?;
    for directory in missing {
        writeln!(file, "{} {}", identity(&directory)?, directory.display())?;
    }
    Ok(())
}

/// What was noted in `root` and is there still, in the order in which it was made.
pub(super) fn noted(root: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(root.join(MADE)).unwrap_or_default();
    let noted = text.lines().filter_map(|line| line.split_once(' '));
    let still_there = |(made, path): (&str, &str)| {
        let path = PathBuf::from(path);
        let same = identity(&path).is_ok_and(|identity| identity == made);
        same.then_some(path)
    };
    noted.filter_map(still_there).collect()
}

/// Tells a directory from one that somebody makes at its place, as after a reboot.
fn identity(directory: &Path) -> io::Result<String> {
    let metadata = fs::symlink_metadata(directory)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(format!("{:x}:{:x}", metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    Ok("0:0".to_owned())
}

/// What lies in `root` goes with it.
fn missing_beside(root: &Path, directory: &Path) -> Vec<PathBuf> {
    if directory.starts_with(root) {
        return Vec::new();
    }
    missing(directory)
}

/// The outermost first.
fn missing(directory: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = directory
        .ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    missing
}
