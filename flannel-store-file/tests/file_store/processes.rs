//! Several daemons on one machine: processes of their own, which race and are killed.
#![allow(
    clippy::disallowed_methods,
    reason = "this very program runs again, as another daemon would"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flannel_core::{Gap, LeaseAttrs, StoreError, StoreEvent, SubnetStore};
use tokio::time::{Instant, sleep};

use crate::place::{Events, HOUR, PATIENCE, Place, attrs, open, subnet};

const ROLE: &str = "FLANNEL_STORE_FILE_TEST_ROLE";
const STORE: &str = "FLANNEL_STORE_FILE_TEST_STORE";
const HOST: &str = "FLANNEL_STORE_FILE_TEST_HOST";

const RACERS: u8 = 6;
const SUBNETS: u8 = 5;

/// A daemon, killed when the test ends.
struct Daemon(Child);

impl Daemon {
    fn start(role: &str, host: u8, place: &Place) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command
            .args(["--exact", "processes::another_daemon", "--ignored"])
            .env(ROLE, role)
            .env(STORE, place.root())
            .env(HOST, host.to_string())
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn processes_that_start_together_never_get_one_subnet() {
    let place = Place::new();
    let mut racers: Vec<Daemon> = (1..=RACERS)
        .map(|host| Daemon::start("race", host, &place))
        .collect();
    until(|| (1..=RACERS).all(|host| place.path(&format!("ready-{host}")).exists())).await;
    place.write("go", "");
    for racer in &mut racers {
        assert!(racer.0.wait().unwrap().success());
    }
    let won = |host| fs::read_to_string(place.path(&format!("won-{host}"))).unwrap();
    let mut won: Vec<String> = (1..=RACERS)
        .flat_map(|host| won(host).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    won.sort();
    let each: Vec<String> = (1..=SUBNETS)
        .map(|number| format!("10.5.{number}.0/24"))
        .collect();
    assert_eq!(won, each, "each subnet has exactly one winner");
}

#[tokio::test]
async fn a_writer_that_is_killed_leaves_a_whole_lease_and_no_lock() {
    let place = Place::new();
    for round in 0..10 {
        let mut writer = Daemon::start("write", 1, &place);
        let mut events = Events(place.open(HOUR).watch().await.unwrap());
        assert!(matches!(events.next().await, StoreEvent::Config(_)));
        events.snapshot(Gap::Start).await;
        for _ in 0..=round {
            events.put().await;
        }
        writer.0.kill().unwrap();
        writer.0.wait().unwrap();

        let store = place.open(HOUR);
        let mut events = Events(store.watch().await.unwrap());
        assert!(matches!(events.next().await, StoreEvent::Config(_)));
        let leases = events.snapshot(Gap::Start).await;
        assert_eq!(leases.len(), 1);
        store.keep(&leases[0], &attrs(2)).await.unwrap();
        store.release(&leases[0]).await.unwrap();
        place.remove("subnets/10.5.1.0-24");
    }
}

#[tokio::test]
#[ignore = "what the processes of the other tests do"]
async fn another_daemon() {
    let Some(role) = std::env::var_os(ROLE) else {
        return;
    };
    let path = PathBuf::from(std::env::var_os(STORE).unwrap());
    let host: u8 = std::env::var_os(HOST).unwrap().to_str().unwrap().parse().unwrap();
    match role.to_str().unwrap() {
        "race" => race(&path, host).await,
        "write" => write(&path).await,
        other => panic!("no such role: {other}"),
    }
}

async fn race(path: &Path, host: u8) {
    let store = open(path, HOUR);
    fs::write(path.join(format!("ready-{host}")), "").unwrap();
    until(|| path.join("go").exists()).await;
    let mut won = String::new();
    for number in 1..=SUBNETS {
        let text = format!("10.5.{number}.0/24");
        match store.claim(subnet(&text), None, &attrs(host.into())).await {
            Ok(_) => won += &(text + "\n"),
            Err(StoreError::Taken { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    fs::write(path.join(format!("won-{host}")), won).unwrap();
}

async fn write(path: &Path) {
    let store = open(path, HOUR);
    let mut own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let end = Instant::now() + PATIENCE;
    for number in 0u32.. {
        let attrs = LeaseAttrs {
            backend: format!("backend-{}", "x".repeat(number as usize % 3000)),
            ..attrs(1)
        };
        own = store.keep(&own, &attrs).await.unwrap();
        assert!(Instant::now() < end, "nobody ended this writer");
    }
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "still not so after {PATIENCE:?}");
        sleep(Duration::from_millis(1)).await;
    }
}
