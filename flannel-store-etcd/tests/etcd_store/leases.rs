//! Leases as this store keeps them: flannel's values, etcd's leases.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use flannel_core::{Gap, Lease, LeaseAttrs, NodeId, StoreError, StoreEvent, SubnetStore};
use flannel_store_etcd::EtcdStore;
use tokio::time::{Instant, sleep};

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs, subnet};

/// The values that flannel writes, by key.
const FLANNELS: [(&str, &str); 8] = [
    (
        "10.5.1.0-24",
        r#"{"PublicIP":"10.99.0.12","PublicIPv6":null,"BackendType":"host-gw"}"#,
    ),
    (
        "10.5.2.0-24",
        r#"{"PublicIP":"10.99.0.13","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a8"}}"#,
    ),
    (
        "10.5.3.0-24&fd00:5:0:5::-64",
        r#"{"PublicIP":"10.99.0.14","PublicIPv6":"fd00::14","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a9"},"BackendV6Data":{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:aa"}}"#,
    ),
    (
        "0.0.0.0-0&fd00:5:0:6::-64",
        r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::15","BackendType":"host-gw"}"#,
    ),
    (
        "10.5.5.0-24",
        r#"{"PublicIP":"10.99.0.16","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=","Port":51820}}"#,
    ),
    (
        "10.5.6.0-24",
        r#"{"PublicIP":"10.99.0.17","PublicIPv6":null,"BackendType":"extension","BackendData":"the output of a command\n"}"#,
    ),
    ("10.5.7.0-24", r#"{"PublicIP":"10.99.0.18","PublicIPv6":null}"#),
    (
        "10.5.8.0-24",
        r#"{"PublicIP":"10.99.0.19","PublicIPv6":null,"BackendType":"host-gw","NodeID":"0000000000000000000000000000002a","Rack":{"row":[1,2.50]}}"#,
    ),
];

/// What stands under a lease's key, and with which etcd lease.
async fn stands(client: &Client, key: &str) -> (String, i64) {
    let answer = client
        .clone()
        .get(format!("{PREFIX}/subnets/{key}"), None)
        .await
        .unwrap();
    let pair = answer.kvs().first().expect("the key stands");
    (pair.value_str().unwrap().to_owned(), pair.lease())
}

async fn client(place: &Place) -> Client {
    Client::connect([place.etcd.endpoint()], None).await.unwrap()
}

async fn grants(client: &Client) -> BTreeSet<i64> {
    client
        .clone()
        .leases()
        .await
        .unwrap()
        .leases()
        .iter()
        .map(|lease| lease.id())
        .collect()
}

/// Waits until exactly so many etcd leases are left.
async fn grants_left(client: &Client, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = grants(client).await.len();
        if left == count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{left} etcd leases are left, and not {count}"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_flannel_writes_is_read_and_written_back_without_loss() {
    let place = Place::new();
    let mut raw = client(&place).await;
    // As flannel does: every key with an etcd lease of a day.
    for (key, value) in FLANNELS {
        let grant = raw.lease_grant(86_400, None).await.unwrap().id();
        let options = PutOptions::new().with_lease(grant);
        raw.put(format!("{PREFIX}/subnets/{key}"), value, Some(options))
            .await
            .unwrap();
    }
    let store = place.open();
    let mut watch = Watch::begin(&store).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Err(_))));
    let leases = watch.snapshot(Gap::Start).await;
    assert_eq!(leases.len(), FLANNELS.len());
    for (key, value) in FLANNELS {
        let lease = leases
            .iter()
            .find(|lease| lease.subnet.to_key() == key)
            .expect(key);
        assert_eq!(lease.attrs.to_json(), value);
        assert!(lease.expires.is_some());
        let taken = store
            .claim(lease.subnet, Some(lease), &lease.attrs)
            .await
            .unwrap();
        let (written, grant) = stands(&raw, key).await;
        assert_eq!(written, value, "a take-over loses nothing");
        assert!(
            grant != 0 && grant != lease.token.grant,
            "with an etcd lease of our own"
        );

        let named = LeaseAttrs {
            node: Some(NodeId(7)),
            ..taken.attrs.clone()
        };
        store.keep(&taken, &named).await.unwrap();
        let (written, kept) = stands(&raw, key).await;
        assert_eq!(written, named.to_json());
        assert_eq!(kept, grant, "a renewal keeps the etcd lease");
    }
}

#[tokio::test]
async fn a_renewal_keeps_the_etcd_lease_alive_and_is_no_write() {
    let place = Place::new();
    let raw = client(&place).await;
    let mut options = place.options();
    options.ttl = Duration::from_secs(60);
    let store = EtcdStore::open(options).unwrap();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let revision = async || {
        raw.clone()
            .get("x", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision()
    };
    let before = revision().await;
    let mut kept = own.clone();
    for _ in 0..3 {
        kept = store.keep(&kept, &attrs(1)).await.unwrap();
        assert_eq!(kept.token, own.token);
    }
    assert_eq!(revision().await, before, "nothing was written");
    assert_eq!(grants(&raw).await, BTreeSet::from([own.token.grant]));
    let left = kept.expires.unwrap().duration_since(Instant::now());
    assert!(left > Duration::from_secs(58), "{left:?}");
}

#[tokio::test]
async fn a_lease_lives_as_long_as_the_server_says() {
    // A server that elects within a second raises the time to live to two.
    let place = Place::with(|mut options| {
        options.arguments = ["--heartbeat-interval=100", "--election-timeout=1000"]
            .map(String::from)
            .to_vec();
        options
    });
    let mut options = place.options();
    options.ttl = Duration::from_millis(400);
    let store = EtcdStore::open(options).unwrap();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let left = own.expires.unwrap().duration_since(Instant::now());
    assert!(left > Duration::from_secs(1), "{left:?}");
    let kept = store.keep(&own, &attrs(1)).await.unwrap();
    let left = kept.expires.unwrap().duration_since(Instant::now());
    assert!(left > Duration::from_secs(1), "{left:?}");
}

#[tokio::test]
async fn no_etcd_lease_is_left_behind_by_a_claim_that_lost_or_a_release() {
    let place = Place::new();
    let raw = client(&place).await;
    let (store, other) = (place.open(), place.open());
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    for _ in 0..3 {
        let lost = other.claim(own.subnet, None, &attrs(2)).await;
        assert!(matches!(lost, Err(StoreError::Taken { .. })), "{lost:?}");
    }
    grants_left(&raw, 1).await;
    store.release(&own).await.unwrap();
    grants_left(&raw, 0).await;
}

#[tokio::test]
async fn a_lease_that_no_store_has_seen_is_nothing_to_take_over() {
    let place = Place::new();
    let store = place.open();
    let imagined = Lease::new(subnet("10.5.1.0/24"), attrs(1));
    let claimed = store.claim(imagined.subnet, Some(&imagined), &attrs(1)).await;
    assert!(matches!(claimed, Err(StoreError::Taken { .. })), "{claimed:?}");
}

#[tokio::test]
async fn a_lease_whose_etcd_lease_was_revoked_is_lost() {
    let place = Place::new();
    let store = place.open();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    client(&place).await.lease_revoke(own.token.grant).await.unwrap();
    let kept = store.keep(&own, &attrs(1)).await;
    assert!(matches!(kept, Err(StoreError::LeaseLost { .. })), "{kept:?}");
}

#[tokio::test]
async fn a_lease_of_ours_that_was_put_again_by_hand_is_kept_as_the_reservation_that_it_is_now() {
    let place = Place::new();
    let raw = client(&place).await;
    let store = place.open();
    let named = LeaseAttrs {
        node: Some(NodeId(7)),
        ..attrs(1)
    };
    let own = store.claim(subnet("10.5.1.0/24"), None, &named).await.unwrap();
    place.put("subnets/10.5.1.0-24", &named.to_json());
    let kept = store.keep(&own, &named).await.unwrap();
    assert_eq!(kept.expires, None);
    let kept = store.keep(&kept, &named).await.unwrap();
    assert_eq!((kept.expires, kept.token.grant), (None, 0));
    assert_eq!(stands(&raw, "10.5.1.0-24").await, (named.to_json(), 0));
}

#[tokio::test]
async fn a_lease_of_ours_that_was_garbled_is_mended_by_its_renewal() {
    let place = Place::new();
    let mut raw = client(&place).await;
    let store = place.open();
    for (text, is_alive) in [("10.5.1.0/24", true), ("10.5.2.0/24", false)] {
        let own = store.claim(subnet(text), None, &attrs(1)).await.unwrap();
        place.put(
            &format!("subnets/{}", own.subnet.to_key()),
            r#"{"PublicIP":"192.0"#,
        );
        if !is_alive {
            raw.lease_revoke(own.token.grant).await.unwrap();
        }
        let kept = store.keep(&own, &attrs(1)).await.unwrap();
        let (value, grant) = stands(&raw, &own.subnet.to_key()).await;
        assert_eq!(value, attrs(1).to_json());
        assert_eq!(grant, kept.token.grant);
        assert_eq!(grant == own.token.grant, is_alive, "it ends as a lease does");
        assert!(grant != 0 && kept.expires.is_some());
    }
}

#[tokio::test]
async fn keys_beside_the_leases_are_none() {
    let place = Place::new();
    place.put("config", CONFIG);
    let value = attrs(1).to_json();
    let beside = [
        "subnets-backup/10.5.9.0-24",
        "subnets",
        "subnet/10.5.8.0-24",
        "subnets0",
        "config2",
    ];
    for key in beside {
        place.put(key, &value);
    }
    let mut watch = Watch::begin(&place.open()).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
    assert!(watch.snapshot(Gap::Start).await.is_empty());
    for key in beside {
        place.put(key, "another value");
        place.delete(key);
    }
    place.put("subnets/10.5.1.0-24", &value);
    assert_eq!(watch.put().await.subnet, subnet("10.5.1.0/24"));
}

#[tokio::test]
async fn thousands_of_leases_are_listed_as_they_were_at_one_revision() {
    const LEASES: usize = 2500;
    let place = Place::new();
    let raw = client(&place).await;
    let key = |index: usize| format!("{PREFIX}/subnets/10.{}.{}.0-24", 16 + index / 256, index % 256);
    let value = attrs(1).to_json();
    for first in (0..LEASES).step_by(100) {
        let puts: Vec<TxnOp> = (first..first + 100)
            .map(|index| TxnOp::put(key(index), value.as_str(), None))
            .collect();
        raw.clone().txn(Txn::new().and_then(puts)).await.unwrap();
    }
    // One lease is always either at the beginning or at the end.
    let ends = ["10.0.0.0-24", "10.250.0.0-24"].map(|name| format!("{PREFIX}/subnets/{name}"));
    let mut writer = raw.clone();
    writer.put(ends[0].as_str(), value.as_str(), None).await.unwrap();
    let moving = tokio::spawn(async move {
        for turn in 0.. {
            let (from, to) = (&ends[turn % 2], &ends[(turn + 1) % 2]);
            let swap = [
                TxnOp::delete(from.as_str(), None),
                TxnOp::put(to.as_str(), value.as_str(), None),
            ];
            writer.txn(Txn::new().and_then(swap)).await.unwrap();
        }
    });
    for _ in 0..10 {
        let mut watch = Watch::begin(&place.open()).await;
        assert!(matches!(watch.next().await, StoreEvent::Config(Err(_))));
        let leases = watch.snapshot(Gap::Start).await;
        assert_eq!(leases.len(), LEASES + 1);
        let subnets: BTreeSet<_> = leases.iter().map(|lease| lease.subnet).collect();
        assert_eq!(subnets.len(), LEASES + 1);
    }
    moving.abort();
}
