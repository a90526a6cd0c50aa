//! Users and passwords.

use std::time::Duration;

use flannel_core::{ConfigStore, Gap, StoreError, StoreEvent, SubnetStore};
use flannel_store_etcd::EtcdStore;
use tokio::time::sleep;

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs, subnet};

/// The life of a token here, in seconds.
const TOKEN_LIFE: u64 = 1;

const PASSWORD: &str = "correct horse";

/// A server that demands a user.
fn place() -> Place {
    let place = Place::with(|mut options| {
        options.arguments.push(format!("--auth-token-ttl={TOKEN_LIFE}"));
        options
    });
    place.put("config", CONFIG);
    place.etcd.enable_authentication(PASSWORD).unwrap();
    place
}

fn open(place: &Place, name: &str, password: &str) -> EtcdStore {
    let mut options = place.options();
    options.username = Some(name.to_owned());
    options.password = Some(password.into());
    EtcdStore::open(options).unwrap()
}

fn denied<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(error @ StoreError::Denied { .. }) => {
            assert!(!error.is_transient());
            let text = format!("{error} {error:?}");
            assert!(!text.contains(PASSWORD) && !text.contains("battery"), "{text}");
            text
        }
        other => panic!("not denied: {other:?}"),
    }
}

#[tokio::test]
async fn who_has_no_user_or_a_wrong_password_is_told_which_flags_to_give() {
    let place = place();
    let nobody = EtcdStore::open(place.options()).unwrap();
    let wrong = open(&place, "root", "battery staple");
    for store in [&nobody, &wrong] {
        for text in [
            denied(store.read_config().await),
            denied(store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await),
        ] {
            assert!(
                text.contains("--etcd-username") && text.contains("--etcd-password"),
                "{text}"
            );
        }
        let mut watch = Watch::begin(store).await;
        match watch.next().await {
            StoreEvent::Silent { reason, .. } => assert!(reason.contains("--etcd-password"), "{reason}"),
            other => panic!("not silent: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_that_has_expired_is_replaced_and_nobody_notices() {
    let place = place();
    let store = open(&place, "root", PASSWORD);
    let mut watch = Watch::ready(&store).await;
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    assert_eq!(watch.put().await.subnet, own.subnet);
    sleep(Duration::from_secs(TOKEN_LIFE + 2)).await;
    let own = store.keep(&own, &attrs(1)).await.unwrap();
    sleep(Duration::from_secs(TOKEN_LIFE + 2)).await;
    let own = store.keep(&own, &attrs(2)).await.unwrap();
    assert_eq!(watch.put().await.attrs, attrs(2));

    // A watch must be begun with a token, too.
    place.etcd.stop().unwrap();
    place.etcd.start_again().unwrap();
    sleep(Duration::from_secs(TOKEN_LIFE + 2)).await;
    store.keep(&own, &attrs(3)).await.unwrap();
    loop {
        match watch.next().await {
            StoreEvent::Put(lease) if lease.attrs == attrs(3) => break,
            StoreEvent::Snapshot {
                leases,
                gap: Gap::Missed,
            } if leases[0].attrs == attrs(3) => break,
            StoreEvent::Silent { .. } | StoreEvent::Snapshot { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_rights_that_flannel_needs_are_enough() {
    let place = Place::new();
    place.put("config", CONFIG);
    let keys = [format!("{PREFIX}/config"), format!("{PREFIX}/subnets/")];
    for words in [
        vec!["user", "add", "flannel:secret"],
        vec!["role", "add", "flannel"],
        vec!["role", "grant-permission", "flannel", "read", &keys[0]],
        vec![
            "role",
            "grant-permission",
            "flannel",
            "readwrite",
            "--prefix=true",
            &keys[1],
        ],
        vec!["user", "grant-role", "flannel", "flannel"],
    ] {
        place.etcd.etcdctl(&words).unwrap();
    }
    place.etcd.enable_authentication(PASSWORD).unwrap();
    let store = open(&place, "flannel", "secret");
    let mut watch = Watch::ready(&store).await;
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    watch.put().await;
    let own = store.keep(&own, &attrs(2)).await.unwrap();
    watch.put().await;
    store.release(&own).await.unwrap();
    assert!(matches!(watch.next().await, StoreEvent::Delete(_)));
    let text = denied(store.write_config("{}").await);
    assert!(text.contains("grant-permission"), "{text}");
}

#[tokio::test]
async fn a_user_that_nobody_asks_for_does_no_harm() {
    let place = Place::new();
    let store = open(&place, "root", PASSWORD);
    assert_eq!(store.read_config().await.unwrap(), None);
    store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
}
