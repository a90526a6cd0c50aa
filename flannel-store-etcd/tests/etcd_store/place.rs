//! A server of one's own, and what others would write there.

use std::time::Duration;

use flannel_core::{Gap, Lease, LeaseAttrs, StoreEvent, SubnetKey, SubnetStore};
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use lab::{Etcd, EtcdOptions};
use tempfile::TempDir;
use tokio::time::timeout;

/// The prefix that flannel uses.
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// How long something that must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// One server in plain text.
pub(crate) struct Place {
    pub(crate) etcd: Etcd,
    _directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(|options| options)
    }

    pub(crate) fn with(change: impl FnOnce(EtcdOptions) -> EtcdOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            etcd: Etcd::start(change(EtcdOptions::new("etcd", directory.path()))).unwrap(),
            _directory: directory,
        }
    }

    pub(crate) fn options(&self) -> EtcdStoreOptions {
        EtcdStoreOptions::endpoints(&self.etcd.endpoint())
    }

    pub(crate) fn open(&self) -> EtcdStore {
        EtcdStore::open(self.options()).unwrap()
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        put(&self.etcd, key, value);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.etcd.etcdctl(&["del", &format!("{PREFIX}/{key}")]).unwrap();
    }
}

/// A store on these servers.
pub(crate) fn open(endpoints: &str) -> EtcdStore {
    EtcdStore::open(EtcdStoreOptions::endpoints(endpoints)).unwrap()
}

/// Puts a value below the prefix.
pub(crate) fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.etcdctl(&["put", &format!("{PREFIX}/{key}"), "--", value])
        .unwrap();
}

pub(crate) fn subnet(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

pub(crate) fn attrs(host: u8) -> LeaseAttrs {
    let json = format!(r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
    LeaseAttrs::from_json(&json).unwrap()
}

/// A watch, and what is expected of it.
pub(crate) struct Watch(BoxStream<'static, StoreEvent>);

impl Watch {
    pub(crate) async fn begin(store: &EtcdStore) -> Self {
        Self(store.watch().await.unwrap())
    }

    /// Past its config and its first snapshot.
    pub(crate) async fn ready(store: &EtcdStore) -> Self {
        let mut watch = Self::begin(store).await;
        assert!(matches!(watch.next().await, StoreEvent::Config(_)));
        watch.snapshot(Gap::Start).await;
        watch
    }

    pub(crate) async fn next(&mut self) -> StoreEvent {
        self.within(PATIENCE).await.expect("an event was to come")
    }

    /// The next event, if there is one in time.
    pub(crate) async fn within(&mut self, time: Duration) -> Option<StoreEvent> {
        timeout(time, self.0.next())
            .await
            .ok()
            .map(|event| event.expect("a watch does not end"))
    }

    /// The next event that does not speak of silence.
    pub(crate) async fn beyond_silence(&mut self) -> StoreEvent {
        loop {
            match self.next().await {
                StoreEvent::Silent { .. } => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn snapshot(&mut self, expected: Gap) -> Vec<Lease> {
        match self.beyond_silence().await {
            StoreEvent::Snapshot { leases, gap } => {
                assert_eq!(gap, expected);
                leases
            }
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    pub(crate) async fn put(&mut self) -> Lease {
        match self.beyond_silence().await {
            StoreEvent::Put(lease) => lease,
            other => panic!("not a put: {other:?}"),
        }
    }
}
