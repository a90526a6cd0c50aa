//! What a lease file means, and what the store's own requests make of it.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flannel_core::{Lease, LeaseAttrs, StoreError, SubnetStore};
use flannel_store_file::{FileStore, FileStoreOptions};

use crate::place::{CONFIG, HOUR, Place, attrs, subnet, watch};

fn is_taken(outcome: &Result<Lease, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Taken { .. }))
}

fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

#[tokio::test]
async fn a_subnet_that_overlaps_a_lease_is_taken_and_one_that_overlaps_an_expired_one_is_not() {
    let place = Place::new();
    let store = place.open(HOUR);
    store.claim(subnet("10.5.0.0/20"), None, &attrs(1)).await.unwrap();
    for text in ["10.5.1.0/24", "10.5.0.0/16", "10.5.15.0/24,fd00::/64"] {
        let claimed = store.claim(subnet(text), None, &attrs(2)).await;
        assert!(is_taken(&claimed), "{text}: {claimed:?}");
    }
    let expired = format!(r#"{{"PublicIP":"192.0.2.9","Expires":{}}}"#, seconds_from_now(-1));
    place.write("subnets/10.5.64.0-20", &expired);
    place.write("subnets/10.5.65.0-24", &expired);
    for text in ["10.5.65.0/24", "10.5.16.0/24"] {
        let claimed = store.claim(subnet(text), None, &attrs(3)).await;
        assert!(claimed.is_ok(), "{text}: {claimed:?}");
    }
}

#[tokio::test]
async fn a_subnet_whose_file_cannot_be_read_is_taken_and_the_file_stays_as_it_is() {
    let place = Place::new();
    place.write("subnets/10.5.1.0-24", "garbage");
    let claimed = place
        .open(HOUR)
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await;
    assert!(is_taken(&claimed), "{claimed:?}");
    assert_eq!(
        fs::read_to_string(place.path("subnets/10.5.1.0-24")).unwrap(),
        "garbage"
    );
}

#[tokio::test]
async fn the_next_renewal_mends_a_lease_whose_file_was_garbled() {
    let place = Place::new();
    let store = place.open(HOUR);
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    place.write("subnets/10.5.1.0-24", "{\"Public");
    let kept = store.keep(&own, &attrs(1)).await.unwrap();
    assert_eq!((kept.token, kept.created), (own.token, own.created));
    let text = fs::read_to_string(place.path("subnets/10.5.1.0-24")).unwrap();
    assert!(text.starts_with(r#"{"PublicIP":"192.0.2.1""#), "{text}");
}

#[tokio::test]
async fn a_lease_that_was_edited_by_hand_stays_its_holders_while_it_carries_its_name_and_address() {
    let place = Place::new();
    let store = place.open(HOUR);
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let edited = LeaseAttrs {
        backend: "vxlan".to_owned(),
        ..attrs(1)
    };
    place.write("subnets/10.5.1.0-24", &edited.to_json());
    let kept = store.keep(&own, &attrs(1)).await.unwrap();
    assert_eq!(
        (kept.expires, &kept.attrs),
        (None, &attrs(1)),
        "it lost its expiry by hand"
    );

    let moved = LeaseAttrs {
        node: attrs(1).node,
        ..attrs(9)
    };
    place.write("subnets/10.5.1.0-24", &moved.to_json());
    let lost = store.keep(&own, &attrs(1)).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
}

#[tokio::test]
async fn a_reservation_that_its_holder_keeps_unchanged_is_not_rewritten() {
    let place = Place::new();
    let store = place.open(HOUR);
    let text = format!("{}  \n", attrs(1).to_json());
    let mut events = watch(&store).await;
    place.write("subnets/10.5.1.0-24", &text);
    let own = events.put().await;
    store.keep(&own, &attrs(1)).await.unwrap();
    assert_eq!(
        fs::read_to_string(place.path("subnets/10.5.1.0-24")).unwrap(),
        text
    );
}

#[tokio::test]
async fn a_wall_clock_that_was_set_ahead_ends_no_lease_that_its_holder_still_has() {
    let place = Place::new();
    let store = place.open(HOUR);
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let path = place.path("subnets/10.5.1.0-24");
    let text = fs::read_to_string(&path).unwrap();
    // To a clock that is far ahead the file looks as this one does to ours.
    let (before, _) = text.split_once(r#""Expires":"#).unwrap();
    fs::write(&path, format!(r#"{before}"Expires":1}}"#)).unwrap();
    let kept = store.keep(&own, &attrs(1)).await.unwrap();
    assert_eq!(kept.token, own.token);
    assert!(!fs::read_to_string(&path).unwrap().contains(r#""Expires":1}"#));
}

#[tokio::test]
async fn the_file_of_an_expired_lease_is_removed_by_whoever_watches() {
    let place = Place::new();
    place.write("config", CONFIG);
    place.write("subnets/10.5.1.0-24", r#"{"PublicIP":"192.0.2.9","Expires":1}"#);
    let store = place.open(Duration::from_millis(200));
    let mut events = watch(&store).await;
    let own = store.claim(subnet("10.5.2.0/24"), None, &attrs(1)).await.unwrap();
    assert_eq!(events.put().await.subnet, own.subnet);
    assert_eq!(events.delete().await, own.subnet);
    let deadline = tokio::time::Instant::now() + crate::place::PATIENCE;
    while fs::read_dir(place.path("subnets")).unwrap().count() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "an expired lease stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_store_that_cannot_be_is_refused_with_its_place_and_the_remedy() {
    let place = Place::new();
    place.write("config", CONFIG);
    let file = place.path("config");
    for path in [file.clone(), file.join("below")] {
        let error = FileStore::open(&path, FileStoreOptions::default()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Unusable { .. }), "{text}");
        assert!(
            text.contains("config") && text.contains("choose another directory"),
            "{text}"
        );
    }
    let endless = FileStoreOptions { ttl: Duration::ZERO };
    let text = FileStore::open(place.root(), endless).unwrap_err().to_string();
    assert!(text.contains("give them a time to live"), "{text}");
}

#[tokio::test]
async fn a_store_whose_directory_is_gone_answers_that_and_makes_none() {
    let place = Place::new();
    let store = place.open(HOUR);
    fs::remove_dir_all(place.root()).unwrap();
    let error = store
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(error.is_transient(), "{text}");
    assert!(
        text.starts_with("cannot claim 10.5.1.0/24 in ") && text.contains("No such file"),
        "{text}"
    );
    assert!(!place.root().exists());
}
