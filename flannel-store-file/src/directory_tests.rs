//! What the store's files hold to.

use super::*;

fn directory() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::new(&root.path().join("net"));
    directory.make().unwrap();
    (root, directory)
}

fn subnet() -> SubnetKey {
    SubnetKey::from_key("10.5.1.0-24").unwrap()
}

fn all_names(directory: &Directory) -> Vec<OsString> {
    let names = fs::read_dir(&directory.subnets).unwrap();
    names.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_new_file_never_replaces_one_and_leaves_nothing_behind() {
    let (_root, directory) = directory();
    assert!(directory.write(subnet(), "{}", Over::Nothing).unwrap());
    assert!(!directory.write(subnet(), "[]", Over::Nothing).unwrap());
    assert!(matches!(
        directory.read(OsStr::new("10.5.1.0-24")),
        Reading::Lease(..)
    ));
    assert!(directory.write(subnet(), "[]", Over::WhatIsThere).unwrap());
    assert!(matches!(
        directory.read(OsStr::new("10.5.1.0-24")),
        Reading::Garbled { .. }
    ));
    assert_eq!(all_names(&directory), ["10.5.1.0-24"]);
    directory.remove(subnet()).unwrap();
    directory.remove(subnet()).unwrap();
    assert!(matches!(
        directory.read(OsStr::new("10.5.1.0-24")),
        Reading::Absent
    ));
}

#[test]
fn only_old_temporary_files_of_ours_are_swept() {
    let (_root, directory) = directory();
    let long_ago = SystemTime::now() - ABANDONED - Duration::from_secs(1);
    for (name, old) in [
        (".10.5.1.0-24.123.0", true),
        (".10.5.1.0-24.124.7", false),
        (".10.5.1.0-24.Xy12Zw", true),
        (".swp.1.2", true),
        ("10.5.2.0-24", true),
    ] {
        let file = File::create(directory.subnets.join(name)).unwrap();
        if old {
            file.set_modified(long_ago).unwrap();
        }
    }
    directory.sweep().unwrap();
    let mut left = all_names(&directory);
    left.sort();
    assert_eq!(
        left,
        [
            ".10.5.1.0-24.124.7",
            ".10.5.1.0-24.Xy12Zw",
            ".swp.1.2",
            "10.5.2.0-24"
        ]
    );
}

#[test]
fn what_is_no_regular_file_is_refused_without_being_opened() {
    let (_root, directory) = directory();
    let fifo = directory.subnets.join("10.5.1.0-24");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(directory.subnets.join("10.5.2.0-24")).unwrap();
    for name in ["10.5.1.0-24", "10.5.2.0-24"] {
        let reading = directory.read(OsStr::new(name));
        assert!(
            matches!(&reading, Reading::Unreadable(reason) if reason.contains("not a regular file")),
            "{reading:?}"
        );
    }
    let large = "x".repeat(MAX_FILE_BYTES as usize + 1);
    fs::write(directory.subnets.join("10.5.3.0-24"), large).unwrap();
    let reading = directory.read(OsStr::new("10.5.3.0-24"));
    assert!(
        matches!(&reading, Reading::Unreadable(reason) if reason.contains("larger than 65536 bytes")),
        "{reading:?}"
    );
}

#[test]
fn a_link_to_a_regular_file_is_a_lease_and_one_to_nowhere_is_none() {
    let (root, directory) = directory();
    let target = root.path().join("lease");
    std::os::unix::fs::symlink(&target, directory.subnets.join("10.5.1.0-24")).unwrap();
    assert!(matches!(
        directory.read(OsStr::new("10.5.1.0-24")),
        Reading::Absent
    ));
    fs::write(&target, "{}").unwrap();
    assert!(matches!(
        directory.read(OsStr::new("10.5.1.0-24")),
        Reading::Lease(..)
    ));
}

#[test]
fn one_at_a_time_holds_the_lock() {
    let (_root, directory) = directory();
    let held = directory.try_lock().unwrap();
    assert!(held.is_some());
    assert!(directory.try_lock().unwrap().is_none());
    drop(held);
    assert!(directory.try_lock().unwrap().is_some());
}

#[test]
fn a_directory_that_is_gone_is_not_made_anew() {
    let (_root, directory) = directory();
    fs::remove_dir(&directory.subnets).unwrap();
    let error = directory.try_lock().unwrap_err().to_string();
    assert!(error.contains("subnets: No such file"), "{error}");
    assert!(!directory.lock.exists());
}
