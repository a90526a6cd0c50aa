//! What a watch holds, it gives back. Alone in its process, since it counts.
#![allow(clippy::unwrap_used, reason = "a failed check is a panic")]

use std::fs;

use flannel_core::SubnetStore;
use flannel_store_file::{FileStore, FileStoreOptions};
use futures_util::StreamExt;

fn queues() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links
        .filter(|link| link.as_os_str() == "anon_inode:inotify")
        .count()
}

#[tokio::test]
async fn a_watch_that_is_dropped_gives_its_descriptor_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileStore::open(directory.path(), FileStoreOptions::default()).unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = store.watch().await.unwrap();
        stream.next().await.unwrap();
        streams.push(stream);
    }
    assert_eq!(queues(), 3);
    streams.pop();
    assert_eq!(queues(), 2);
    drop((store, streams));
    assert_eq!(queues(), 0);
}
