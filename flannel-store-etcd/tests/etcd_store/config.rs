//! The network config: read, written, followed.

use flannel_core::{ConfigStore, Gap, StoreEvent, SubnetStore};
use flannel_store_etcd::EtcdStore;

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs, subnet};

#[tokio::test]
async fn a_config_is_written_where_flannel_reads_it_and_read_as_it_stands() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.read_config().await.unwrap(), None);
    store.write_config(CONFIG).await.unwrap();
    let shown = place
        .etcd
        .etcdctl(&["get", "--print-value-only", &format!("{PREFIX}/config")])
        .unwrap();
    assert_eq!(shown.trim(), CONFIG);
    place.put("config", "whatever it is");
    assert_eq!(
        store.read_config().await.unwrap().as_deref(),
        Some("whatever it is")
    );
    store.write_config(CONFIG).await.unwrap();
    store.write_config(CONFIG).await.unwrap();
    assert_eq!(store.read_config().await.unwrap().as_deref(), Some(CONFIG));
}

#[tokio::test]
async fn a_missing_config_is_said_with_the_ways_to_put_it_and_one_that_appears_at_once() {
    let place = Place::new();
    let mut watch = Watch::begin(&place.open()).await;
    let StoreEvent::Config(Err(error)) = watch.next().await else {
        panic!("there is no config");
    };
    let text = error.to_string();
    for part in [
        PREFIX,
        "API v3",
        "flanneld config set",
        "ETCDCTL_API=3",
        "API v2",
        "is off",
    ] {
        assert!(text.contains(part), "{text}");
    }
    watch.snapshot(Gap::Start).await;
    place.open().write_config(CONFIG).await.unwrap();
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
}

#[tokio::test]
async fn the_prefix_is_cleaned_as_flannel_does() {
    let place = Place::new();
    let mut options = place.options();
    options.prefix = "/coreos.com//network/".to_owned();
    let store = EtcdStore::open(options).unwrap();
    store.write_config(CONFIG).await.unwrap();
    store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let keys = place
        .etcd
        .etcdctl(&["get", "--prefix", "--keys-only", "/"])
        .unwrap();
    let keys: Vec<&str> = keys.split_whitespace().collect();
    assert_eq!(
        keys,
        [
            "/coreos.com/network/config",
            "/coreos.com/network/subnets/10.5.1.0-24"
        ]
    );
}
