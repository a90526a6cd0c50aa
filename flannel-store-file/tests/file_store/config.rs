//! The config as an administrator reads and writes it.

use std::fs;
use std::os::unix::fs::symlink;

use flannel_core::ConfigStore;
use flannel_store_file::{FileStore, FileStoreOptions};

#[tokio::test]
async fn what_is_written_is_read_back_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), FileStoreOptions::default()).unwrap();
    assert_eq!(store.read_config().await.unwrap(), None);
    for text in ["{\"Network\": \"10.5.0.0/16\"}", "{}"] {
        store.write_config(text).await.unwrap();
        assert_eq!(store.read_config().await.unwrap().as_deref(), Some(text));
    }
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["config", "lock", "subnets"]);
}

#[tokio::test]
async fn a_config_that_is_a_link_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let (place, target) = (folder.path().join("net"), folder.path().join("shared.json"));
    let store = FileStore::open(&place, FileStoreOptions::default()).unwrap();
    fs::write(&target, "old").unwrap();
    symlink(&target, place.join("config")).unwrap();
    store.write_config("new").await.unwrap();
    assert!(fs::symlink_metadata(place.join("config")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
}

#[tokio::test]
async fn a_config_that_cannot_be_read_or_written_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), FileStoreOptions::default()).unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    let place = folder.path().join("config").display().to_string();
    let read = store.read_config().await.unwrap_err().to_string();
    let written = store.write_config("{}").await.unwrap_err().to_string();
    assert!(
        read.contains(&place) && written.contains(&place),
        "{read}\n{written}"
    );
}
