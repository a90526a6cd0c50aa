//! Which directories were made on the way, so that they and no others can be removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Lists them, one in each line, below the root of the states.
pub(super) const MADE: &str = "made";

/// Makes a directory and whatever is missing above it, and notes in `root` what was.
pub(super) fn make(root: &Path, directory: &Path) -> io::Result<()> {
    let missing = missing(root).into_iter().chain(missing_beside(root, directory));
    let missing: Vec<PathBuf> = missing.collect();
    fs::create_dir_all(root)?;
    if !missing.is_empty() {
        let noted = noted(root);
        let mut file = File::options().append(true).create(true).open(root.join(MADE))?;
        for directory in missing.iter().filter(|directory| !noted.contains(directory)) {
            writeln!(file, "{}", directory.display())?;
        }
    }
    fs::create_dir_all(directory)
}

/// What was noted in `root`, in the order in which it was made.
pub(super) fn noted(root: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(root.join(MADE)).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
        .collect()
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
