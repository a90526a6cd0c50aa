//! On a clock that only moves when everybody waits, over real sockets.

use std::sync::Arc;

use flannel_core::testing::{Cut, FakeKernel, FakeStore, FakeStoreClient, PlainRoutes};
use flannel_core::{Backend, Engine, NodeId, Options};
use tempfile::TempDir;

use super::*;

const WATCHDOG: Duration = Duration::from_secs(30);

/// A service manager that listens.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket }
    }

    /// What was said since the last time.
    fn heard(&self) -> Vec<String> {
        let next = || {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
        };
        std::iter::from_fn(next).collect()
    }

    /// The same, without the watchdog.
    fn told(&self) -> Vec<String> {
        let heard = self.heard().into_iter();
        heard.filter(|message| message != "WATCHDOG=1").collect()
    }
}

struct Fixture {
    directory: TempDir,
    store: FakeStore,
    client: FakeStoreClient,
}

impl Fixture {
    fn new() -> Self {
        let store = FakeStore::new(Duration::from_secs(60));
        Self {
            directory: tempfile::tempdir().unwrap(),
            client: store.client(),
            store,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("notify")
    }

    fn manager(&self) -> Manager {
        Manager::at(&SocketAddr::from_pathname(self.path()).unwrap())
    }

    fn engine(&self) -> Engine {
        let kernel = FakeKernel::host("eth0", &["192.0.2.1/24"], &["192.0.2.254"]);
        let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
        let store = Arc::new(self.client.clone());
        Engine::new(store, Arc::new(kernel), backends, Options::new(NodeId(1)))
    }

    fn put_config(&self) {
        self.store
            .put_config(Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#));
    }

    fn put_peer(&self) {
        self.store.put_raw(
            "10.5.7.0-24",
            r#"{"PublicIP":"192.0.2.7","BackendType":"host-gw"}"#,
        );
    }

    /// Starts to tell whoever these variables name.
    fn follow(&self, variables: &[(&str, &str)]) -> Engine {
        let path = self.path();
        let path = ("NOTIFY_SOCKET", path.to_str().unwrap());
        let engine = self.engine();
        let notify = notify(&[&[path], variables].concat());
        tokio::spawn(follow(engine.handle(), notify));
        engine
    }
}

fn notify(variables: &[(&str, &str)]) -> Notify {
    Notify::new(|name| {
        let of_name = variables.iter().find(|(known, _)| *known == name);
        of_name.map(|(_, value)| value.into())
    })
}

fn seconds(seconds: u64) -> impl Future<Output = ()> {
    sleep(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn ready_is_said_once_when_the_data_plane_is_right_and_the_state_whenever_it_changes() {
    let fixture = Fixture::new();
    let manager = fixture.manager();
    let engine = fixture.follow(&[]);
    tokio::spawn(engine.run(std::future::pending()));
    seconds(5).await;
    let told = manager.told();
    assert!(!told.is_empty());
    for message in told {
        assert!(
            message.starts_with("STATUS=not ready: no lease, 0 of 0"),
            "{message}"
        );
    }

    fixture.put_peer();
    fixture.put_config();
    seconds(5).await;
    let told = manager.told();
    let ready: Vec<&String> = told
        .iter()
        .filter(|message| message.starts_with("READY=1\n"))
        .collect();
    assert_eq!(ready.len(), 1, "{told:?}");
    let last = told.last().unwrap();
    assert!(last.contains("STATUS=ready: 10.5."), "{told:?}");
    assert!(last.ends_with("/24, 1 of 1 peers installed"), "{told:?}");

    // Renewals and looks at the kernel are nothing new.
    seconds(600).await;
    assert_eq!(manager.told(), [] as [&str; 0]);

    fixture.client.cut(Cut::Hangs);
    seconds(300).await;
    let told = manager.told();
    assert!(
        told.iter()
            .any(|message| message.starts_with("STATUS=degraded: 10.5.")),
        "{told:?}"
    );
    assert!(told.last().unwrap().starts_with("STATUS=not ready: "), "{told:?}");
    fixture.client.heal();
    seconds(60).await;
    let told = manager.told();
    assert!(told.last().unwrap().starts_with("STATUS=ready: "), "{told:?}");
    assert!(
        !told.iter().any(|message| message.contains("READY=1")),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn ready_that_nobody_took_is_said_again() {
    let fixture = Fixture::new();
    fixture.put_config();
    let engine = fixture.follow(&[]);
    tokio::spawn(engine.run(std::future::pending()));
    seconds(60).await;
    let manager = fixture.manager();
    seconds(3).await;
    let told = manager.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("READY=1\nSTATUS=ready: "), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_abstract_address_works() {
    let fixture = Fixture::new();
    fixture.put_config();
    let name = format!("flanneld-notify-{}", std::process::id());
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let engine = fixture.engine();
    let handle = engine.handle();
    let notify = notify(&[("NOTIFY_SOCKET", &format!("@{name}"))]);
    tokio::spawn(follow(handle, notify.clone()));
    tokio::spawn(engine.run(std::future::pending()));
    seconds(1).await;
    assert!(
        manager
            .told()
            .iter()
            .any(|message| message.starts_with("READY=1\n"))
    );
    notify.status("waiting for the store");
    notify.stopping();
    assert_eq!(
        manager.told(),
        [
            "STATUS=waiting for the store",
            "STOPPING=1\nSTATUS=ending; routes stay"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_is_fed_twice_as_often_as_it_must_be_and_only_while_the_event_loop_turns() {
    let fixture = Fixture::new();
    fixture.put_config();
    let manager = fixture.manager();
    let micros = WATCHDOG.as_micros().to_string();
    let own = std::process::id().to_string();
    let engine = fixture.follow(&[("WATCHDOG_USEC", &micros), ("WATCHDOG_PID", &own)]);
    let fed = |manager: &Manager| {
        let heard = manager.heard();
        heard.iter().filter(|message| *message == "WATCHDOG=1").count()
    };
    seconds(300).await;
    assert_eq!(fed(&manager), 0, "the engine does not run");
    let running = tokio::spawn(engine.run(std::future::pending()));
    seconds(15).await;
    fed(&manager);
    let mut count = 0;
    for _ in 0..10 {
        // Its queue is short (net.unix.max_dgram_qlen).
        seconds(30).await;
        count += fed(&manager);
    }
    assert!((19..=21).contains(&count), "{count} times in 300 s");
    running.abort();
    seconds(300).await;
    assert!(fed(&manager) <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_watchdog_that_is_anothers_or_none_is_not_fed() {
    let other = (std::process::id() + 1).to_string();
    for variables in [
        &[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", &*other)][..],
        &[("WATCHDOG_USEC", "soon")],
        &[("WATCHDOG_USEC", "0")],
        &[("WATCHDOG_USEC", "-1")],
        &[],
    ] {
        let fixture = Fixture::new();
        fixture.put_config();
        let manager = fixture.manager();
        let engine = fixture.follow(variables);
        tokio::spawn(engine.run(std::future::pending()));
        seconds(60).await;
        let heard = manager.heard();
        assert!(
            heard.iter().any(|message| message.starts_with("READY=1")),
            "{heard:?}"
        );
        assert!(
            !heard.iter().any(|message| message == "WATCHDOG=1"),
            "{variables:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_service_manager_nothing_is_done() {
    let long = "/x".repeat(100);
    for variables in [&[][..], &[("NOTIFY_SOCKET", "")], &[("NOTIFY_SOCKET", &*long)]] {
        let notify = notify(variables);
        notify.stopping();
        let fixture = Fixture::new();
        let engine = fixture.engine();
        // It ends at once, though the engine does not.
        let ended = timeout(Duration::from_secs(1), follow(engine.handle(), notify)).await;
        assert!(ended.is_ok(), "{variables:?}");
    }
}

#[test]
fn a_status_is_one_line_of_bounded_length() {
    let message = status_message("one\nREADY=1\u{7}two");
    assert_eq!(message, "STATUS=one READY=1 two");
    let long = status_message(&"ö".repeat(10_000));
    assert_eq!(long.chars().count(), "STATUS=".len() + LONGEST_STATUS);
}
