//! A config that `etcdctl set` put into API v2.

use std::time::Duration;

use flannel_core::{ConfigError, ConfigStore, Gap, StoreEvent};
use flannel_store_etcd::{EtcdStore, V2Import};
use lab::EtcdOptions;

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs};

fn place() -> Place {
    let place = Place::with(EtcdOptions::api_v2);
    set(&place, "config", CONFIG);
    place
}

/// As manuals of flannel v0.11 have it.
fn set(place: &Place, key: &str, value: &str) {
    place
        .etcd
        .etcdctl_v2(&["set", &format!("{PREFIX}/{key}"), value])
        .unwrap();
}

async fn refusal(watch: &mut Watch) -> String {
    match watch.next().await {
        StoreEvent::Config(Err(error)) => {
            assert!(matches!(*error, ConfigError::Unreadable { .. }), "{error:?}");
            error.to_string()
        }
        other => panic!("not a config that is refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_config_that_stands_in_api_v2_alone_is_copied() {
    let place = place();
    let store = place.open();
    let mut watch = Watch::begin(&store).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
    watch.snapshot(Gap::Start).await;
    assert_eq!(store.read_config().await.unwrap().as_deref(), Some(CONFIG));

    place.put("subnets/10.5.1.0-24", &attrs(1).to_json());
    watch.put().await;
    let other = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#;
    set(&place, "config", other);
    let mut later = Watch::begin(&place.open()).await;
    assert!(matches!(later.next().await, StoreEvent::Config(Ok(_))));
    assert_eq!(
        store.read_config().await.unwrap().as_deref(),
        Some(CONFIG),
        "v3 counts once it has one"
    );
}

#[tokio::test]
async fn a_config_beside_leases_in_api_v2_is_refused_and_both_are_named() {
    let place = place();
    for subnet in ["10.5.77.0-24", "10.5.78.0-24"] {
        set(&place, &format!("subnets/{subnet}"), &attrs(1).to_json());
    }
    let store = place.open();
    let text = refusal(&mut Watch::begin(&store).await).await;
    for part in [
        "/coreos.com/network/config in etcd's API v2",
        "2 leases",
        "10.5.77.0-24",
        "/coreos.com/network/subnets",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(store.read_config().await.unwrap(), None);
}

#[tokio::test]
async fn a_config_that_is_removed_from_v3_is_not_replaced_by_an_older_one_of_v2() {
    let place = place();
    let theirs = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#;
    place.put("config", theirs);
    place.put("subnets/10.6.1.0-24", &attrs(1).to_json());
    let store = place.open();
    let mut watch = Watch::begin(&store).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
    watch.snapshot(Gap::Start).await;
    place.delete("config");
    let gone = |event| match event {
        StoreEvent::Config(Err(error)) => {
            assert!(matches!(*error, ConfigError::Missing { .. }), "{error:?}");
            assert!(
                error.to_string().contains("none is taken over from API v2"),
                "{error}"
            );
        }
        other => panic!("not a config that is missing: {other:?}"),
    };
    gone(watch.next().await);
    // Nor by a host that has never seen it.
    gone(Watch::begin(&place.open()).await.next().await);
    assert_eq!(store.read_config().await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_directory_of_leases_in_api_v2_is_in_nobodys_way() {
    let place = place();
    place
        .etcd
        .etcdctl_v2(&["mkdir", &format!("{PREFIX}/subnets")])
        .unwrap();
    let mut watch = Watch::begin(&place.open()).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
}

#[tokio::test]
async fn what_is_no_config_in_api_v2_is_refused_with_the_reason_and_not_copied() {
    let place = Place::with(EtcdOptions::api_v2);
    set(
        &place,
        "config",
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}"#,
    );
    let store = place.open();
    let text = refusal(&mut Watch::begin(&store).await).await;
    assert!(
        text.contains("API v2") && text.contains("not a JSON object"),
        "{text}"
    );
    assert_eq!(store.read_config().await.unwrap(), None);
}

#[tokio::test]
async fn api_v2_without_a_config_is_said_to_have_none_either() {
    let place = Place::with(EtcdOptions::api_v2);
    let mut watch = Watch::begin(&place.open()).await;
    let StoreEvent::Config(Err(error)) = watch.next().await else {
        panic!("there is no config");
    };
    let text = error.to_string();
    assert!(
        matches!(*error, ConfigError::Missing { .. }) && text.contains("has none either"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "long: API v2 is asked every half a minute"]
async fn a_config_that_is_put_into_api_v2_later_is_found() {
    let place = Place::with(EtcdOptions::api_v2);
    let mut watch = Watch::begin(&place.open()).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Err(_))));
    watch.snapshot(Gap::Start).await;
    set(&place, "config", CONFIG);
    let found = watch.within(Duration::from_secs(40)).await;
    assert!(matches!(found, Some(StoreEvent::Config(Ok(_)))), "{found:?}");
}

#[tokio::test]
async fn without_import_api_v2_is_not_asked() {
    let place = place();
    let mut options = place.options();
    options.v2_import = V2Import::Off;
    let store = EtcdStore::open(options).unwrap();
    let mut watch = Watch::begin(&store).await;
    let StoreEvent::Config(Err(error)) = watch.next().await else {
        panic!("there is no config in API v3");
    };
    assert!(!error.to_string().contains("API v2"), "{error}");
    watch.snapshot(Gap::Start).await;
    assert_eq!(store.read_config().await.unwrap(), None);
}
