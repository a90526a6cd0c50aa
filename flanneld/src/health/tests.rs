//! Over connections in memory, on a clock that only moves when everybody waits: what must be at once takes no time.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flannel_core::testing::{Cut, FakeKernel, FakeStore, FakeStoreClient, PlainRoutes};
use flannel_core::{Backend, Engine, NodeId, OpErrorKind, Options, Status};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::*;
use crate::status_report::StatusReport;

const TTL: Duration = Duration::from_secs(60);

/// Bytes on their way in each direction.
const ROOM: usize = 64 << 10;

/// A health server, and the daemon behind it.
struct Fixture {
    store: FakeStore,
    client: FakeStoreClient,
    kernel: FakeKernel,
    health: Arc<Health>,
    door: mpsc::UnboundedSender<io::Result<DuplexStream>>,
}

impl Fixture {
    /// There is no engine yet.
    fn new() -> Self {
        let place = StorePlace {
            kind: "etcd".to_owned(),
            place: "https://root:secret@192.0.2.254:2379/coreos.com/network".to_owned(),
        };
        let health = Arc::new(Health::new(place, None));
        let (door, mut knocks) = mpsc::unbounded_channel();
        let served = health.clone();
        tokio::spawn(async move {
            let accept = |context: &mut Context<'_>| match knocks.poll_recv(context) {
                Poll::Ready(Some(knock)) => Poll::Ready(knock),
                // The test is over.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            };
            server::serve(accept, served).await;
        });
        let store = FakeStore::new(TTL);
        Self {
            client: store.client(),
            store,
            kernel: FakeKernel::host("eth0", &["192.0.2.1/24"], &["192.0.2.254"]),
            health,
            door,
        }
    }

    /// Makes the engine that is told about.
    fn engine(&self) -> Engine {
        let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
        let engine = Engine::new(
            Arc::new(self.client.clone()),
            Arc::new(self.kernel.clone()),
            backends,
            Options::new(NodeId(1)),
        );
        self.health.watch(engine.handle());
        engine
    }

    /// The engine runs, and has two peers.
    async fn ready() -> Self {
        let fixture = Self::new();
        fixture
            .store
            .put_config(Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#));
        fixture.put_peer(7);
        fixture.put_peer(8);
        tokio::spawn(fixture.engine().run(std::future::pending()));
        fixture
            .until(|status| status.is_ready() && status.peers.installed == 2)
            .await;
        fixture
    }

    fn put_peer(&self, number: u8) {
        self.store.put_raw(
            &format!("10.5.{number}.0-24"),
            &format!(r#"{{"PublicIP":"192.0.2.{number}","BackendType":"host-gw"}}"#),
        );
    }

    async fn until(&self, holds: impl Fn(&Status) -> bool + Send) {
        let engine = self.health.engine.get().unwrap();
        let reached = timeout(Duration::from_secs(300), engine.wait_for(holds)).await;
        assert!(reached.is_ok(), "{:#?}", engine.status());
    }

    fn connect(&self, room: usize) -> DuplexStream {
        let (here, there) = duplex(room);
        self.door.send(Ok(there)).unwrap();
        here
    }

    async fn request(&self, request: &str) -> Answer {
        let mut stream = self.connect(ROOM);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        Answer::of(&text)
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        self.request(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            code: code.unwrap_or_else(|| panic!("no answer: {text:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// Code, state, and the kinds of reasons.
    fn readyz(&self) -> (u16, String, Vec<String>) {
        let json = self.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let reasons = json["reasons"].as_array().unwrap();
        let kinds = reasons.iter().map(|reason| text(&reason["reason"]));
        (self.code, text(&json["state"]), kinds.collect())
    }
}

fn readyz(code: u16, state: &str, kinds: &[&str]) -> (u16, String, Vec<String>) {
    let kinds = kinds.iter().map(|kind| (*kind).to_owned());
    (code, state.to_owned(), kinds.collect())
}

#[tokio::test(start_paused = true)]
async fn healthz_says_flannels_words_to_every_method_with_and_without_an_engine_and_a_store() {
    let starting = Fixture::new();
    let running = Fixture::ready().await;
    let cut_off = Fixture::ready().await;
    cut_off.client.cut(Cut::Hangs);
    sleep(TTL * 2).await;
    for fixture in [&starting, &running, &cut_off] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = fixture.ask(method, "/healthz").await;
            assert_eq!(
                (answer.code, &*answer.body),
                (200, "flanneld is running"),
                "{method}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn healthz_fails_when_the_event_loop_does_not_turn() {
    let fixture = Fixture::new();
    let stuck = fixture.engine();
    let begin = Instant::now();
    assert_eq!(fixture.get("/healthz").await.code, 503);
    assert_eq!(begin.elapsed(), ENGINE_DEADLINE);
    // And so do questions about peers.
    let status = fixture.get("/status").await;
    assert_eq!(status.json()["peers"]["list"], Value::Array(Vec::new()));
    tokio::spawn(stuck.run(std::future::pending()));
    assert_eq!(fixture.get("/healthz").await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn readyz_follows_the_data_plane_and_names_what_is_wrong() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.get("/readyz").await.readyz(),
        readyz(503, "not ready", &["starting"])
    );
    tokio::spawn(fixture.engine().run(std::future::pending()));
    fixture.until(|status| status.counters.snapshots == 1).await;
    assert_eq!(
        fixture.get("/readyz").await.readyz(),
        readyz(503, "not ready", &["config"])
    );

    let fixture = Fixture::ready().await;
    let answer = fixture.get("/readyz").await;
    assert_eq!((answer.code, &*answer.body), (200, "ready"));

    fixture.client.cut(Cut::Hangs);
    fixture.until(|status| !status.reasons.is_empty()).await;
    sleep(Duration::from_secs(7)).await;
    let answer = fixture.get("/readyz").await;
    assert_eq!(answer.readyz(), readyz(200, "degraded", &["store"]));
    let reason = &answer.json()["reasons"][0];
    let seconds = reason["seconds"].as_u64().unwrap();
    let message = reason["message"].as_str().unwrap();
    assert!(message.ends_with(&format!("(for {seconds} s)")), "{message}");
    sleep(Duration::from_secs(5)).await;
    let later = fixture.get("/readyz").await.json()["reasons"][0]["seconds"].as_u64();
    assert_eq!(later, Some(seconds + 5));

    fixture.until(|status| !status.is_ready()).await;
    assert_eq!(
        fixture.get("/readyz").await.readyz(),
        readyz(503, "not ready", &["lease", "store"])
    );
    fixture.client.heal();
    fixture.until(|status| status.reasons.is_empty()).await;
    assert_eq!(fixture.get("/readyz").await.body, "ready");

    fixture
        .kernel
        .fail("10.5.9.0/24".parse().unwrap(), OpErrorKind::Unreachable, u32::MAX);
    fixture.put_peer(9);
    fixture.until(|status| status.peers.failed == 1).await;
    let answer = fixture.get("/readyz").await;
    assert_eq!(answer.readyz(), readyz(200, "degraded", &["routes"]));
    assert!(answer.body.contains("1 of 3 peers"), "{}", answer.body);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_read_takes_get_and_head_and_nothing_else_is_there() {
    let fixture = Fixture::ready().await;
    for path in ["/readyz", "/metrics", "/status"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = fixture.ask(method, path).await;
            assert_eq!(answer.code, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get, head"), "{answer:?}");
        }
        assert_eq!(fixture.get(&format!("{path}?verbose=1")).await.code, 200);
    }
    for path in ["/", "/healthz/", "/readyz/x", "/debug/pprof", "//healthz", "/.."] {
        assert_eq!(fixture.get(path).await.code, 404, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_get_without_the_body() {
    let fixture = Fixture::ready().await;
    for path in ["/healthz", "/readyz", "/metrics", "/status"] {
        let (get, head) = (fixture.get(path).await, fixture.ask("HEAD", path).await);
        assert_eq!((head.code, &*head.body), (200, ""), "{path}");
        // What is told of time differs in length.
        let named = |answer: &Answer| {
            let lines = answer
                .head
                .lines()
                .filter(|line| line.starts_with("content-type:"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(named(&head), named(&get), "{path}");
        assert!(
            head.head.contains("content-length: ") && !get.body.is_empty(),
            "{head:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_nothing_more_to_say_is_answered_all_the_same() {
    let fixture = Fixture::ready().await;
    for path in ["/healthz", "/readyz", "/metrics", "/status"] {
        let mut stream = fixture.connect(ROOM);
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(Answer::of(&answer).code, 200, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn status_tells_what_people_ask_about() {
    let fixture = Fixture::ready().await;
    fixture
        .kernel
        .fail("10.5.9.0/24".parse().unwrap(), OpErrorKind::Unreachable, u32::MAX);
    fixture.put_peer(9);
    fixture.until(|status| status.peers.failed == 1).await;
    let answer = fixture.get("/status").await;
    assert!(!answer.body.contains("secret"), "{}", answer.body);
    let report: StatusReport = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&*report.state, report.ready), ("degraded", true));
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(report.pid, std::process::id());
    assert_eq!(report.network, ["10.5.0.0/16"]);
    assert_eq!(report.backend.as_deref(), Some("host-gw"));
    assert_eq!(report.store.kind, "etcd");
    assert_eq!(report.store.place, "https://192.0.2.254:2379/coreos.com/network");
    assert!(report.store.last_contact.is_some() && report.store.silent_seconds.is_none());
    let lease = report.lease.unwrap();
    assert!(lease.subnet[0].starts_with("10.5."), "{lease:?}");
    let left = lease.seconds.unwrap();
    assert!((1..=TTL.as_secs()).contains(&left), "{left}");
    assert!(lease.until.unwrap().ends_with('Z'));
    let uplink = report.uplink.unwrap();
    assert_eq!(
        (&*uplink.device, uplink.mtu, &*uplink.public),
        ("eth0", 1500, &["192.0.2.1".to_owned()][..])
    );
    assert_eq!(
        (report.peers.desired, report.peers.installed, report.peers.total),
        (3, 2, 3)
    );
    let states: Vec<(&str, &str)> = report
        .peers
        .list
        .iter()
        .map(|peer| (&*peer.subnet[0], &*peer.state))
        .collect();
    assert_eq!(
        states,
        [
            ("10.5.7.0/24", "installed"),
            ("10.5.8.0/24", "installed"),
            ("10.5.9.0/24", "failed")
        ]
    );
    assert!(report.peers.list[2].why.is_some());
    assert!(report.failures[0].object.contains("10.5.9.0/24"));
    assert_eq!(report.reasons[0].reason, "routes");
    assert_eq!(report.counters.snapshots, 1);
    assert!(report.counters.plans > 0);
}

/// Name and labels of each sample, with its value; fails on what OpenMetrics does not allow.
fn samples(text: &str) -> Vec<(String, f64)> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
    let (mut family, mut kind) = (String::new(), String::new());
    let mut samples: Vec<(String, f64)> = Vec::new();
    let label = regex::Regex::new(r#"^[a-z_]+(\{[a-z]+="[^"\\]*"\})?$"#).unwrap();
    for line in body.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "HELP", name, ..] => name.clone_into(&mut family),
            ["#", "TYPE", name, of] => {
                assert_eq!(name, family, "{line}");
                of.clone_into(&mut kind);
            }
            [sample, value] => {
                let name = sample.split('{').next().unwrap();
                let suffixes: &[&str] = match &*kind {
                    "gauge" => &[""],
                    "counter" => &["_total"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    "info" => &["_info"],
                    other => panic!("a {other}"),
                };
                let suffix = name.strip_prefix(&*family).expect(line);
                assert!(suffixes.contains(&suffix), "{line}");
                assert!(label.is_match(sample), "{line}");
                assert!(samples.iter().all(|(known, _)| known != sample), "twice: {line}");
                samples.push((sample.to_owned(), value.parse().expect(line)));
            }
            _ => panic!("{line}"),
        }
    }
    samples
}

fn value(samples: &[(String, f64)], sample: &str) -> f64 {
    let found = samples.iter().find(|(name, _)| name == sample);
    found.unwrap_or_else(|| panic!("no {sample} in {samples:#?}")).1
}

#[tokio::test(start_paused = true)]
async fn metrics_have_every_name_from_the_first_moment_on() {
    let (starting, running) = (Fixture::new(), Fixture::ready().await);
    for fixture in [&starting, &running] {
        let answer = fixture.get("/metrics").await;
        assert_eq!(answer.code, 200);
        assert!(
            answer
                .head
                .contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
            "{}",
            answer.head
        );
        let samples = samples(&answer.body);
        for sample in [
            "flannel_ready",
            "flannel_lease_expiry_timestamp_seconds",
            "flannel_store_last_contact_timestamp_seconds",
            "flannel_snapshots_total",
            r#"flannel_peers{state="desired"}"#,
            r#"flannel_peers{state="installed"}"#,
            r#"flannel_peers{state="failed"}"#,
            r#"flannel_peers{state="refused"}"#,
            r#"flannel_repairs_total{kind="restored"}"#,
            r#"flannel_repairs_total{kind="corrected"}"#,
            r#"flannel_repairs_total{kind="removed"}"#,
            "flannel_rule_repairs_total",
            "flannel_conflicts",
            "flannel_plan_seconds_sum",
            "flannel_plan_seconds_count",
            r#"flannel_plan_seconds_bucket{le="+Inf"}"#,
            "flannel_apply_seconds_sum",
            "flannel_apply_seconds_count",
            r#"flannel_apply_seconds_bucket{le="+Inf"}"#,
            "flannel_dropped_log_lines_total",
        ] {
            value(&samples, sample);
        }
        assert!(answer.body.contains("# TYPE flannel_reason gauge\n"));
        let build = format!(r#"flannel_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
        assert_eq!(value(&samples, &build), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_how_things_stand() {
    let starting = samples(&Fixture::new().get("/metrics").await.body);
    for sample in [
        "flannel_ready",
        "flannel_lease_expiry_timestamp_seconds",
        "flannel_store_last_contact_timestamp_seconds",
    ] {
        assert_eq!(value(&starting, sample), 0.0, "{sample}");
    }

    let fixture = Fixture::ready().await;
    let unix = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs_f64()
    };
    let at = unix();
    let running = samples(&fixture.get("/metrics").await.body);
    assert_eq!(value(&running, "flannel_ready"), 1.0);
    assert_eq!(value(&running, "flannel_snapshots_total"), 1.0);
    assert_eq!(value(&running, r#"flannel_peers{state="installed"}"#), 2.0);
    let expiry = value(&running, "flannel_lease_expiry_timestamp_seconds") - at;
    assert!(
        (TTL.as_secs_f64() - 5.0..TTL.as_secs_f64() + 5.0).contains(&expiry),
        "{expiry}"
    );
    let contact = value(&running, "flannel_store_last_contact_timestamp_seconds") - at;
    assert!(contact.abs() < 5.0, "{contact}");
    assert!(!running.iter().any(|(name, _)| name.starts_with("flannel_reason")));
    let count = value(&running, "flannel_apply_seconds_count");
    assert!(count >= 1.0);
    assert_eq!(
        value(&running, r#"flannel_apply_seconds_bucket{le="+Inf"}"#),
        count
    );

    fixture.client.cut(Cut::Hangs);
    fixture.until(|status| !status.is_ready()).await;
    let cut_off = samples(&fixture.get("/metrics").await.body);
    assert_eq!(value(&cut_off, "flannel_ready"), 0.0);
    assert_eq!(value(&cut_off, r#"flannel_reason{reason="lease"}"#), 1.0);
    assert_eq!(value(&cut_off, r#"flannel_reason{reason="store"}"#), 1.0);
    let contact = value(&cut_off, "flannel_store_last_contact_timestamp_seconds") - unix();
    assert!(contact < -20.0, "{contact}");
}

/// Whether the server has hung up. Nothing is read.
async fn has_hung_up(stream: &mut DuplexStream) -> bool {
    let written = timeout(Duration::from_millis(1), stream.write_all(b"a")).await;
    matches!(written, Ok(Err(_)))
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_are_cut_off_and_keep_nobody_from_an_answer() {
    let fixture = Fixture::ready().await;
    let mut stalled = Vec::new();
    for number in 0..10 * server::CONNECTIONS {
        // Three kinds: silent, in the midst of a header, and never reading.
        let mut stream = fixture.connect(if number % 3 == 2 { 64 } else { ROOM });
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /readyz HTTP/1.1\r\nHost").await.unwrap(),
            _ => stream
                .write_all(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap(),
        }
        stalled.push(stream);
    }
    let begin = Instant::now();
    assert_eq!(fixture.get("/healthz").await.body, "flanneld is running");
    assert_eq!(fixture.get("/readyz").await.body, "ready");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let mut open = 0;
    for stream in &mut stalled {
        open += usize::from(!has_hung_up(stream).await);
    }
    assert!(open <= server::CONNECTIONS, "{open} at one time");
    sleep(Duration::from_secs(6)).await;
    for (number, stream) in stalled.iter_mut().enumerate() {
        assert!(has_hung_up(stream).await, "number {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_one_byte_after_the_other_is_not_waited_for() {
    let fixture = Fixture::ready().await;
    let mut stream = fixture.connect(ROOM);
    let begin = Instant::now();
    let request = "GET /readyz HTTP/1.1\r\nHost: ".to_owned() + &"a".repeat(100);
    for byte in request.bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    let took = begin.elapsed();
    assert!(took <= Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_none_or_too_large_get_an_answer_or_none_and_the_next_is_served() {
    let fixture = Fixture::ready().await;
    let long_header = format!("GET /readyz HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(60 << 10));
    let many_headers = format!("GET /readyz HTTP/1.1\r\n{}\r\n", "A: a\r\n".repeat(500));
    let body = format!(
        "POST /readyz HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n{}",
        "b".repeat(1000)
    );
    for request in [
        &*long_header,
        &many_headers,
        &body,
        "\0\0\0\0\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = fixture.connect(ROOM);
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert_eq!(fixture.get("/healthz").await.code, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_one_request() {
    let fixture = Fixture::ready().await;
    let twice = "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2);
    let answer = fixture.request(&twice).await;
    assert_eq!((answer.code, &*answer.body), (200, "ready"));
    assert!(answer.head.contains("connection: close"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_while_accepting_end_nothing() {
    let fixture = Fixture::ready().await;
    for kind in [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::Other,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::OutOfMemory,
    ] {
        fixture.door.send(Err(kind.into())).unwrap();
    }
    let begin = Instant::now();
    assert_eq!(fixture.get("/healthz").await.code, 200);
    assert!(begin.elapsed() < Duration::from_secs(1));
}
