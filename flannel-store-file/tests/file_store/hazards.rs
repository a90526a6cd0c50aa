//! What can happen to a directory while it is watched.

use std::fs::{self, File};
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::task::Poll;
use std::time::Duration;

use flannel_core::{Gap, StoreError, StoreEvent, SubnetStore};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::place::{CONFIG, Events, HOUR, PATIENCE, Place, attrs, open, subnet, watch};

const LEASE: &str = r#"{"PublicIP":"192.0.2.1"}"#;

/// Nothing but what comes next is to be said.
async fn nothing_happened(place: &Place, events: &mut Events) {
    place.write("subnets/10.5.250.0-24", LEASE);
    assert_eq!(events.put().await.subnet, subnet("10.5.250.0/24"));
    place.remove("subnets/10.5.250.0-24");
    assert_eq!(events.delete().await, subnet("10.5.250.0/24"));
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_silence_and_then_another_history() {
    let place = Place::new();
    let (root, aside) = (place.root(), place.root().with_extension("aside"));
    place.write("config", CONFIG);
    place.write("subnets/10.5.1.0-24", LEASE);
    let mut events = watch(&place.open(HOUR)).await;

    fs::rename(&root, &aside).unwrap();
    events.silent().await;
    assert!(
        timeout(Duration::from_millis(300), events.0.next())
            .await
            .is_err(),
        "it is said once"
    );
    assert!(!root.exists(), "a watch makes no directory");
    let new = root.with_extension("new");
    open(&new, HOUR);
    fs::write(new.join("config"), CONFIG).unwrap();
    fs::rename(&new, &root).unwrap();
    let leases = events.snapshot(Gap::HistoryLost).await;
    assert!(leases.is_empty(), "{leases:?}");
    nothing_happened(&place, &mut events).await;

    place.write("subnets/10.5.2.0-24", LEASE);
    events.put().await;
    fs::remove_dir_all(&root).unwrap();
    // Its files were deleted first, which withdraws none of the leases.
    events.silent().await;
    fs::rename(&aside, &root).unwrap();
    let leases = events.snapshot(Gap::HistoryLost).await;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].subnet, subnet("10.5.1.0/24"));
    nothing_happened(&place, &mut events).await;
}

#[tokio::test]
async fn a_store_without_its_subnets_is_silent_until_they_are_back() {
    let place = Place::new();
    let store = place.open(HOUR);
    fs::remove_dir(place.path("subnets")).unwrap();
    let mut events = Events(store.watch().await.unwrap());
    events.silent().await;
    fs::create_dir(place.path("subnets")).unwrap();
    assert!(matches!(events.next().await, StoreEvent::Config(Err(_))));
    events.snapshot(Gap::Start).await;

    fs::remove_dir(place.path("subnets")).unwrap();
    events.silent().await;
    fs::create_dir(place.path("subnets")).unwrap();
    events.snapshot(Gap::HistoryLost).await;
    nothing_happened(&place, &mut events).await;
}

#[tokio::test]
async fn notices_that_the_kernel_dropped_are_made_up_for_by_a_snapshot() {
    let place = Place::new();
    let mut events = watch(&place.open(HOUR)).await;
    place.write("subnets/10.5.1.0-24", LEASE);
    assert_eq!(events.put().await.subnet, subnet("10.5.1.0/24"));
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let [one, other] = [place.path("subnets/one"), place.path("subnets/other")];
    place.write("subnets/one", LEASE);
    for _ in 0..queue / 4 + 1 {
        fs::rename(&one, &other).unwrap();
        fs::rename(&other, &one).unwrap();
    }
    fs::remove_file(&one).unwrap();
    place.remove("subnets/10.5.1.0-24");
    place.write("subnets/10.5.2.0-24", LEASE);
    let leases = events.snapshot(Gap::Missed).await;
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].subnet, subnet("10.5.2.0/24"));
    nothing_happened(&place, &mut events).await;
}

#[tokio::test]
async fn what_is_no_file_blocks_nobody_and_is_named() {
    let place = Place::new();
    let fifo = |name: &str| {
        let path = place.path(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    fifo("subnets/10.5.1.0-24");
    let mut events = watch(&place.open(HOUR)).await;
    let (name, reason) = events.unreadable().await;
    assert_eq!(name, "10.5.1.0-24");
    assert!(reason.contains("not a regular file; remove it"), "{reason}");

    fifo("subnets/10.5.2.0-24");
    assert_eq!(events.unreadable().await.0, "10.5.2.0-24");
    fs::create_dir(place.path("subnets/10.5.3.0-24")).unwrap();
    assert_eq!(events.unreadable().await.0, "10.5.3.0-24");
    let _socket = UnixListener::bind(place.path("subnets/10.5.4.0-24")).unwrap();
    assert_eq!(events.unreadable().await.0, "10.5.4.0-24");
    fifo("config");
    let config = events.next().await;
    assert!(
        matches!(&config, StoreEvent::Config(Err(error)) if error.to_string().contains("not a regular file"))
    );
    nothing_happened(&place, &mut events).await;
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_awaited() {
    let place = Place::new();
    let mut events = watch(&place.open(HOUR)).await;
    let mut files = ["subnets/10.5.1.0-24", "config"].map(|name| File::create(place.path(name)).unwrap());
    files[0].write_all(&LEASE.as_bytes()[..10]).unwrap();
    files[1].write_all(&CONFIG.as_bytes()[..10]).unwrap();
    nothing_happened(&place, &mut events).await;
    let [mut lease, mut config] = files;
    lease.write_all(&LEASE.as_bytes()[10..]).unwrap();
    drop(lease);
    assert_eq!(events.put().await.subnet, subnet("10.5.1.0/24"));
    config.write_all(&CONFIG.as_bytes()[10..]).unwrap();
    drop(config);
    assert!(matches!(events.next().await, StoreEvent::Config(Ok(_))));
}

#[tokio::test]
async fn links_that_a_configuration_tool_makes_are_leases_and_configs() {
    let place = Place::new();
    let mut events = watch(&place.open(HOUR)).await;
    let aside = place.root().with_extension("aside");
    fs::write(&aside, LEASE).unwrap();
    symlink(&aside, place.path("subnets/10.5.1.0-24")).unwrap();
    assert_eq!(events.put().await.subnet, subnet("10.5.1.0/24"));
    fs::hard_link(&aside, place.path("subnets/10.5.2.0-24")).unwrap();
    assert_eq!(events.put().await.subnet, subnet("10.5.2.0/24"));

    for (version, network) in [("v1", "10.5.0.0/16"), ("v2", "10.6.0.0/16")] {
        fs::create_dir(place.path(version)).unwrap();
        place.write(
            &format!("{version}/config"),
            &CONFIG.replace("10.5.0.0/16", network),
        );
    }
    symlink("v1", place.path("..data")).unwrap();
    symlink("..data/config", place.path("config")).unwrap();
    assert!(matches!(events.next().await, StoreEvent::Config(Ok(_))));
    symlink("v2", place.path("..data_new")).unwrap();
    fs::rename(place.path("..data_new"), place.path("..data")).unwrap();
    match events.next().await {
        StoreEvent::Config(Ok(config)) => {
            assert_eq!(config.networks().next().unwrap().to_string(), "10.6.0.0/16");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn names_that_begin_with_a_dot_are_nobodys_business() {
    let place = Place::new();
    place.write("subnets/.10.5.1.0-24.77.0", LEASE);
    let mut events = watch(&place.open(HOUR)).await;
    place.write("subnets/.swp", "garbage");
    nothing_happened(&place, &mut events).await;
}

#[tokio::test]
async fn what_a_writer_left_when_it_died_is_no_lease_and_in_nobodys_way() {
    let place = Place::new();
    let store = place.open(HOUR);
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    // Half a renewal, under the very name that this process uses next.
    for number in 0..1000 {
        let name = format!("subnets/.10.5.1.0-24.{}.{number}", std::process::id());
        place.write(&name, r#"{"PublicIP":"192.0.2"#);
    }
    let mut events = Events(store.watch().await.unwrap());
    assert!(matches!(events.next().await, StoreEvent::Config(_)));
    let leases = events.snapshot(Gap::Start).await;
    assert_eq!((leases.len(), leases[0].token), (1, own.token));
    let kept = store.keep(&own, &attrs(2)).await.unwrap();
    assert_eq!(events.put().await.token, kept.token);
}

#[tokio::test(start_paused = true)]
async fn a_holder_of_the_lock_that_hangs_makes_requests_fail_and_not_hang() {
    let place = Place::new();
    let store = place.open(HOUR);
    let lock = File::create(place.path("lock")).unwrap();
    lock.lock().unwrap();
    let start = Instant::now();
    let error = store
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await
        .unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(6), "{:?}", start.elapsed());
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{text}");
    assert!(text.contains("fuser -v") && text.contains("/lock"), "{text}");
    drop(lock);
    store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_with_nothing_to_say_sleeps_until_the_first_lease_ends() {
    let place = Place::new();
    let store = place.open(HOUR);
    place.write("subnets/10.5.1.0-24", LEASE);
    let mut events = watch(&store).await;
    let mut polls = 0;
    let quiet = poll_fn(|cx| {
        polls += 1;
        events.0.poll_next_unpin(cx).map(drop)
    });
    assert!(timeout(HOUR * 1000, quiet).await.is_err());
    assert!(polls <= 3, "polled {polls} times");

    store.claim(subnet("10.5.2.0/24"), None, &attrs(1)).await.unwrap();
    events.put().await;
    let mut polls = 0;
    let quiet = poll_fn(|cx| {
        polls += 1;
        match events.0.poll_next_unpin(cx) {
            Poll::Ready(event) => panic!("{event:?}"),
            Poll::Pending => Poll::<()>::Pending,
        }
    });
    assert!(timeout(HOUR / 2, quiet).await.is_err());
    assert!(polls <= 10, "polled {polls} times");
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let place = Place::new();
    let store = place.open(HOUR);
    let mut events = watch(&store).await;
    for host in 1..=200u8 {
        place.write(&format!("subnets/10.5.{host}.0-24"), LEASE);
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 200 {
        seen.insert(timeout(PATIENCE, events.put()).await.unwrap().subnet);
    }
}
