//! A release as `make dist` packs it, but with the daemon under test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::page;

/// What lies beside the daemon and the files of `dist/`.
const BESIDE: [&str; 3] = ["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// The version of this source, with the last number raised by `later`.
pub(crate) fn version(later: u32) -> String {
    let (rest, patch) = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap();
    format!("{rest}.{}", patch.parse::<u32>().unwrap() + later)
}

/// Puts the tarball of a version, and its checksum, into each directory.
pub(crate) fn pack(directories: &[PathBuf], version: &str) {
    let staging = tempfile::tempdir().unwrap();
    fs::copy(env!("CARGO_BIN_EXE_flanneld"), staging.path().join("flanneld")).unwrap();
    for name in BESIDE {
        fs::copy(page::root().join(name), staging.path().join(name)).unwrap();
    }
    let packed = tempfile::tempdir().unwrap();
    let name = format!("flannel-{version}-linux-amd64.tar.gz");
    let (root, target) = (page::root().display(), packed.path().display());
    let script = format!(
        "cp -r {root}/dist/. .; tar -c -I 'gzip -1' -f {target}/{name} -- *; cd {target}; sha256sum {name} >{name}.sha256"
    );
    let done = Command::new("sh")
        .args(["-euc", &script])
        .current_dir(&staging)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    for file in fs::read_dir(&packed).unwrap() {
        let file = file.unwrap();
        for directory in directories {
            fs::copy(file.path(), directory.join(file.file_name())).unwrap();
        }
    }
}
