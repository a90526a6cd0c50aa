//! A store in a directory of its own, and a watch that knows what it expects.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flannel_core::{Gap, Lease, LeaseAttrs, NodeId, StoreEvent, SubnetKey, SubnetStore};
use flannel_store_file::{FileStore, FileStoreOptions};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

pub(crate) const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that is gone when this is dropped. The store lies one level down.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.open(HOUR);
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("net")
    }

    pub(crate) fn open(&self, ttl: Duration) -> FileStore {
        open(&self.root(), ttl)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Writes in place, as an editor may.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}

pub(crate) fn open(path: &Path, ttl: Duration) -> FileStore {
    FileStore::open(path, FileStoreOptions { ttl }).unwrap()
}

pub(crate) fn subnet(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

pub(crate) fn attrs(host: u128) -> LeaseAttrs {
    let json = format!(r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
    LeaseAttrs {
        node: Some(NodeId(host)),
        ..LeaseAttrs::from_json(&json).unwrap()
    }
}

/// The stream of a store, past its config and its first snapshot.
pub(crate) async fn watch(store: &FileStore) -> Events {
    let mut events = Events(store.watch().await.unwrap());
    let config = events.next().await;
    assert!(matches!(config, StoreEvent::Config(_)), "{config:?}");
    events.snapshot(Gap::Start).await;
    events
}

pub(crate) struct Events(pub(crate) BoxStream<'static, StoreEvent>);

impl Events {
    pub(crate) async fn next(&mut self) -> StoreEvent {
        let event = timeout(PATIENCE, self.0.next()).await.expect("an event");
        event.expect("a watch does not end")
    }

    pub(crate) async fn snapshot(&mut self, expected: Gap) -> Vec<Lease> {
        match self.next().await {
            StoreEvent::Snapshot { leases, gap } if gap == expected => leases,
            other => panic!("not a snapshot after {expected:?}: {other:?}"),
        }
    }

    pub(crate) async fn put(&mut self) -> Lease {
        match self.next().await {
            StoreEvent::Put(lease) => lease,
            other => panic!("not a put: {other:?}"),
        }
    }

    pub(crate) async fn delete(&mut self) -> SubnetKey {
        match self.next().await {
            StoreEvent::Delete(subnet) => subnet,
            other => panic!("not a deletion: {other:?}"),
        }
    }

    pub(crate) async fn unreadable(&mut self) -> (String, String) {
        match self.next().await {
            StoreEvent::Unreadable { name, reason } => (name, reason),
            other => panic!("not an unreadable entry: {other:?}"),
        }
    }

    pub(crate) async fn silent(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, StoreEvent::Silent { .. }), "{event:?}");
    }
}
