//! What a daemon says of itself: the health endpoints, `flanneld status` and systemd's protocol.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::{Daemon, DaemonOptions, Families, Host, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::network::{
    SOON, bare, config, config_between, key, lease_of, network, put_peer, settled, settled_with, subnets,
    subnets_of, value_of_node,
};

/// What is wrong is told this soon, and that it is over.
const AT_ONCE: Duration = Duration::from_secs(2);

const PORT: &str = "--healthz-port=8081";

/// The socket that a daemon makes in its state directory, for which it waits.
fn socket(host: &Host) -> PathBuf {
    let state = host.state_directory(DaemonOptions::INSTANCE);
    wait_until(SOON, "status.sock", || {
        let entries = fs::read_dir(&state).ok()?;
        let sockets = entries.map(|entry| entry.unwrap().path().join("status.sock"));
        sockets
            .into_iter()
            .find(|socket| UnixStream::connect(socket).is_ok())
    })
    .unwrap()
}

/// One daemon's endpoints.
struct Endpoints(PathBuf);

impl Endpoints {
    fn of(host: &Host) -> Self {
        Self(socket(host))
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(AT_ONCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        parse(&answer)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// Waits until `/readyz` says so, and returns how long that took; `/healthz` is well all the time.
    #[track_caller]
    fn becomes(&self, code: u16, parts: &[&str]) -> Duration {
        let begin = Instant::now();
        let mut seen = (0, String::new());
        let reached = wait_until(SOON, "", || {
            assert_eq!(self.get("/healthz"), (200, "flanneld is running".to_owned()));
            seen = self.get("/readyz");
            seen.0 == code && parts.iter().all(|part| seen.1.contains(part))
        });
        let took = begin.elapsed();
        assert!(reached.is_ok(), "not {code} with {parts:?}, but {seen:?}");
        println!("{code} {parts:?} after {took:.1?}");
        took
    }

    /// Likewise, soon after it came to be so.
    #[track_caller]
    fn becomes_at_once(&self, code: u16, parts: &[&str]) {
        let took = self.becomes(code, parts);
        assert!(took <= AT_ONCE, "{code} {parts:?} only after {took:.1?}");
    }
}

fn parse(answer: &str) -> (u16, String) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

#[test]
fn a_config_that_is_missing_is_why_a_daemon_is_not_ready_and_when_it_comes_it_is() {
    let lab = bare("hconfig", 1, Families::V4);
    let _daemon = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    let endpoints = Endpoints::of(lab.host(0));
    endpoints.becomes_at_once(503, &["\"not ready\"", "\"config\"", "no network config at"]);
    lab.write_config(&config(Families::V4)).unwrap();
    endpoints.becomes_at_once(200, &["ready"]);
    assert!(lab.host(0).subnet_env_path(DaemonOptions::INSTANCE).exists());
}

#[test]
fn a_daemon_that_finds_no_subnet_is_not_ready_until_one_is_free() {
    let lab = bare("hfull", 2, Families::V4);
    lab.write_config(&config_between("10.77.1.0", "10.77.1.0"))
        .unwrap();
    let holder = settled(lab.host(0));
    let lease = lease_of(&lab, lab.host(0));
    let _late = lab.host(1).start_daemon(DaemonOptions::default()).unwrap();
    let endpoints = Endpoints::of(lab.host(1));
    endpoints.becomes_at_once(503, &["\"lease\"", "out of subnets"]);
    holder.kill().unwrap();
    lab.delete_lease(&lease.key).unwrap();
    endpoints.becomes_at_once(200, &["ready"]);
}

#[test]
fn a_daemon_whose_lease_is_another_hosts_now_is_not_ready() {
    let lab = network("hlost", 2, Families::V4);
    let pinned = DaemonOptions::arguments(["--subnet=10.77.150.0/24"]);
    let _daemon = settled_with(lab.host(0), pinned);
    let endpoints = Endpoints::of(lab.host(0));
    endpoints.becomes_at_once(200, &["ready"]);
    let theirs = value_of_node(9, lab.host(1));
    lab.put_lease("10.77.150.0-24", &theirs).unwrap();
    endpoints.becomes_at_once(503, &["\"lease\"", "10.77.150.0/24"]);
    lab.delete_lease("10.77.150.0-24").unwrap();
    endpoints.becomes_at_once(200, &["ready"]);
}

#[test]
fn a_subnet_env_that_cannot_be_written_is_why_a_daemon_is_not_ready() {
    let lab = network("henv", 1, Families::V4);
    let host = lab.host(0);
    let path = host.subnet_env_path(DaemonOptions::INSTANCE);
    // No file can take the place of a directory that is not empty.
    fs::create_dir_all(path.join("x")).unwrap();
    let _daemon = host.start_daemon(DaemonOptions::default()).unwrap();
    let endpoints = Endpoints::of(host);
    endpoints.becomes_at_once(503, &["\"subnet_env\"", "subnet.env"]);
    fs::remove_dir_all(&path).unwrap();
    // It is tried again less and less often.
    endpoints.becomes(200, &["ready"]);
    assert!(path.is_file());
}

#[test]
fn an_uplink_that_is_down_makes_a_daemon_not_ready_until_it_is_up() {
    let lab = network("huplink", 2, Families::V4);
    put_peer(&lab, &subnets(Families::V4, 200), lab.host(1));
    let host = lab.host(0);
    let _daemon = settled(host);
    let endpoints = Endpoints::of(host);
    endpoints.becomes_at_once(200, &["ready"]);
    for _ in 0..3 {
        host.uplink_down().unwrap();
        endpoints.becomes_at_once(503, &["eth0"]);
        host.uplink_up().unwrap();
        endpoints.becomes_at_once(200, &["ready"]);
    }
}

#[test]
fn a_store_that_is_away_degrades_a_daemon_and_the_seconds_are_counted() {
    let lab = network("hstore", 2, Families::V4);
    put_peer(&lab, &subnets(Families::V4, 200), lab.host(1));
    let _daemon = settled(lab.host(0));
    let endpoints = Endpoints::of(lab.host(0));
    let away = lab.directory().join("store.away");
    fs::rename(lab.store_dir(), &away).unwrap();
    endpoints.becomes_at_once(200, &["\"degraded\"", "\"store\""]);
    let silent = || endpoints.status()["store"]["silent_seconds"].as_u64();
    wait_until(SOON, "seconds of silence", || silent() >= Some(2)).unwrap();
    assert!(endpoints.get("/readyz").1.contains("\"seconds\":"));
    let metrics = endpoints.get("/metrics").1;
    assert!(
        metrics.contains("flannel_reason{reason=\"store\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("flannel_ready 1\n"), "{metrics}");
    fs::rename(&away, lab.store_dir()).unwrap();
    endpoints.becomes(200, &["ready"]);
    wait_until(SOON, "no silence", || silent().is_none()).unwrap();
}

#[test]
fn a_peer_whose_place_is_taken_degrades_a_daemon_and_all_of_them_make_it_not_ready() {
    let lab = network("hroutes", 2, Families::V4);
    let host = lab.host(0);
    for number in [200, 201] {
        put_peer(&lab, &subnets(Families::V4, number), lab.host(1));
    }
    let _daemon = settled(host);
    let endpoints = Endpoints::of(host);
    endpoints.becomes_at_once(200, &["ready"]);
    let gateway = lab.host(1).ipv4().unwrap().to_string();
    let occupy = |number| {
        let net = subnets(Families::V4, number)[0];
        let rest = ["via", &gateway, "dev", "eth0", "proto", "static"];
        host.replace_route(net, &rest).unwrap();
    };
    occupy(200);
    endpoints.becomes_at_once(
        200,
        &["\"degraded\"", "\"routes\"", "1 of 2 peers", "\"conflicts\""],
    );
    let status = endpoints.status();
    assert_eq!(status["peers"]["list"][0]["subnet"][0], "10.77.200.0/24");
    assert_eq!(status["peers"]["list"][0]["state"], "failed");
    assert_eq!(status["peers"]["list"][1]["state"], "installed");
    assert_eq!(status["conflicts"]["count"], 1);
    occupy(201);
    endpoints.becomes_at_once(503, &["\"routes\"", "2 of 2 peers"]);
    for number in [200, 201] {
        host.delete_route(subnets(Families::V4, number)[0]).unwrap();
    }
    endpoints.becomes_at_once(200, &["ready"]);
}

#[test]
fn a_process_that_is_stopped_gives_no_answer_and_one_that_goes_on_does() {
    let lab = network("hfrozen", 1, Families::V4);
    let daemon = settled(lab.host(0));
    let endpoints = Endpoints::of(lab.host(0));
    let answers = || {
        let mut stream = UnixStream::connect(&endpoints.0).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    };
    assert!(answers());
    daemon.signal(Signal::SIGSTOP).unwrap();
    assert!(!answers());
    daemon.signal(Signal::SIGCONT).unwrap();
    endpoints.becomes_at_once(200, &["ready"]);
}

/// One request over TCP, by a shell in the host's namespace.
fn over_tcp(host: &Host, address: &str, request: &str) -> (u16, String) {
    let script = format!(
        "exec 3<>/dev/tcp/{address}/8081 && printf '{request} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' >&3 && cat <&3"
    );
    parse(&host.exec(&["bash", "-c", &script]).unwrap())
}

#[test]
fn the_endpoints_are_on_the_port_where_flannels_are_from_the_first_moment_on() {
    let lab = bare("hport", 1, Families::V4);
    let host = lab.host(0);
    let daemon = host.start_daemon(DaemonOptions::arguments([PORT])).unwrap();
    daemon.wait_for_log("no network config at", SOON).unwrap();
    let own = host.ipv4().unwrap().to_string();
    for address in ["127.0.0.1", &own] {
        for method in ["GET", "POST", "HEAD"] {
            let (code, body) = over_tcp(host, address, &format!("{method} /healthz"));
            let said = if method == "HEAD" {
                ""
            } else {
                "flanneld is running"
            };
            assert_eq!((code, &*body), (200, said), "{method}");
        }
        assert_eq!(over_tcp(host, address, "GET /readyz").0, 503);
    }
    lab.write_config(&config(Families::V4)).unwrap();
    Endpoints::of(host).becomes_at_once(200, &["ready"]);
    assert_eq!(over_tcp(host, &own, "GET /readyz"), (200, "ready".to_owned()));
    assert_eq!(over_tcp(host, &own, "POST /readyz").0, 405);
    assert_eq!(over_tcp(host, &own, "GET /elsewhere").0, 404);
    let (code, metrics) = over_tcp(host, &own, "GET /metrics");
    assert_eq!(code, 200);
    assert!(
        metrics.contains("\nflannel_ready 1\n") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    let only_here = DaemonOptions::arguments([PORT, "--healthz-ip=127.0.0.1"]);
    daemon.terminate(SOON).unwrap();
    let _daemon = settled_with(host, only_here);
    Endpoints::of(host).becomes_at_once(200, &["ready"]);
    let refused = host.exec(&["bash", "-c", &format!("exec 3<>/dev/tcp/{own}/8081")]);
    assert!(refused.is_err());
}

#[test]
fn clients_that_stall_keep_neither_probes_nor_leases_waiting() {
    let lab = network("hstall", 2, Families::V4);
    let host = lab.host(0);
    let daemon = settled(host);
    let endpoints = Endpoints::of(host);
    let mut stalled = Vec::new();
    for number in 0..300 {
        let mut stream = UnixStream::connect(&endpoints.0).unwrap();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /status HTTP/1.1\r\nHo").unwrap(),
            _ => stream
                .write_all(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap(),
        }
        stalled.push(stream);
        if number % 50 == 0 {
            endpoints.becomes_at_once(200, &["ready"]);
        }
    }
    crate::network::catch_up(&lab, host, Families::V4, 200, lab.host(1));
    endpoints.becomes_at_once(200, &["ready"]);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .count();
    assert!(descriptors < 100, "{descriptors} descriptors");
    for stream in &mut stalled {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut rest = Vec::new();
        // Cut off or answered, and in any case done with.
        let _ = stream.read_to_end(&mut rest);
    }
    wait_until(SOON, "the descriptors to be closed", || {
        let now = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count();
        now + 20 < descriptors || now < 30
    })
    .unwrap();
    daemon.must_run("the end of the test").unwrap();
}

/// `flanneld status` on a host: whether it ends well, and what it prints.
fn status(host: &Host) -> (bool, String) {
    let state = host.state_directory(DaemonOptions::INSTANCE);
    let arguments = format!("--state-dir={}", state.display());
    let script = format!(
        "{} status {arguments} 2>&1; echo \"=$?\"",
        env!("CARGO_BIN_EXE_flanneld")
    );
    let said = host.exec(&["bash", "-c", &script]).unwrap();
    let (text, code) = said.rsplit_once('=').unwrap();
    (code.trim() == "0", text.to_owned())
}

#[test]
fn status_prints_subnet_lease_store_uplink_and_a_row_for_each_peer() {
    let lab = network("hstatus", 2, Families::V4);
    let host = lab.host(0);
    let peer = subnets(Families::V4, 200);
    put_peer(&lab, &peer, lab.host(1));
    let nowhere = r#"{"PublicIP":"127.0.0.1","BackendType":"host-gw"}"#;
    lab.put_lease(&key(&subnets(Families::V4, 201)), nowhere).unwrap();
    let daemon = settled(host);
    Endpoints::of(host).becomes_at_once(200, &["ready"]);
    let (ready, text) = status(host);
    assert!(ready, "{text}");
    let own = subnets_of(host)[0];
    for line in [
        &*format!(
            "flanneld {}, pid {}, since 20",
            env!("CARGO_PKG_VERSION"),
            daemon.pid()
        ),
        &format!("\nsubnet     {own} of 10.77.0.0/16, backend host-gw\n"),
        "\nlease      until 20",
        &format!("\nuplink     eth0 {}, MTU ", host.ipv4().unwrap()),
        "\nstore      file ",
        ": in contact\n",
        "\npeers      1 of 1 installed, 1 refused\n",
        &format!("\n{}  {}", peer[0], lab.host(1).ipv4().unwrap()),
        " installed\n",
        "\n10.77.201.0/24  127.0.0.1 ",
        " refused",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");

    host.uplink_down().unwrap();
    Endpoints::of(host).becomes_at_once(503, &[]);
    let (ready, text) = status(host);
    assert!(!ready && text.contains(": not ready\n"), "{text}");
    host.uplink_up().unwrap();
    Endpoints::of(host).becomes_at_once(200, &["ready"]);
    assert!(status(host).0);

    daemon.kill().unwrap();
    let (ready, text) = status(host);
    assert!(!ready && text.contains("status.sock"), "{text}");
}

/// What a service manager has heard so far.
fn heard(manager: &UnixDatagram) -> Vec<String> {
    let next = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    };
    std::iter::from_fn(next).collect()
}

/// Waits until it has heard this, and returns everything up to then.
#[track_caller]
fn hears(manager: &UnixDatagram, daemon: &Daemon, what: &str) -> Vec<String> {
    let mut all = Vec::new();
    let found = wait_until(SOON, what, || {
        all.extend(heard(manager));
        all.iter().any(|message| message.starts_with(what))
    });
    assert!(found.is_ok(), "{all:?}\n{}", daemon.log());
    all
}

#[test]
fn systemd_hears_ready_when_routes_and_subnet_env_are_in_place_and_stopping_at_the_end() {
    let lab = bare("hnotify", 2, Families::V4);
    let host = lab.host(0);
    let path = lab.directory().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let options = DaemonOptions {
        environment: vec![
            ("NOTIFY_SOCKET".into(), path.display().to_string()),
            ("WATCHDOG_USEC".into(), "1000000".into()),
        ],
        ..DaemonOptions::default()
    };
    let peer = subnets(Families::V4, 200);
    put_peer(&lab, &peer, lab.host(1));
    let daemon = host.start_daemon(options).unwrap();
    let before = hears(&manager, &daemon, "STATUS=not ready: no lease");
    assert!(
        !before.iter().any(|message| message.contains("READY=1")),
        "{before:?}"
    );
    lab.write_config(&config(Families::V4)).unwrap();
    hears(&manager, &daemon, "READY=1\nSTATUS=ready: 10.77.");
    assert!(!host.routes_to(peer[0]).unwrap().is_empty());
    assert!(host.subnet_env_path(DaemonOptions::INSTANCE).is_file());
    hears(&manager, &daemon, "WATCHDOG=1");
    host.uplink_down().unwrap();
    hears(&manager, &daemon, "STATUS=not ready: ");
    host.uplink_up().unwrap();
    hears(&manager, &daemon, "STATUS=ready: ");
    assert!(daemon.terminate(SOON).unwrap().success());
    hears(&manager, &daemon, "STOPPING=1");
}
