use std::path::PathBuf;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn peer(subnet: &[&str], public: &[&str], state: &str, why: Option<&str>) -> PeerReport {
    PeerReport {
        subnet: list(subnet),
        public: list(public),
        state: state.to_owned(),
        why: why.map(str::to_owned),
    }
}

fn well() -> StatusReport {
    StatusReport {
        version: "0.1.0".to_owned(),
        pid: 4711,
        started: "2026-01-02T03:04:05Z".to_owned(),
        state: "ready".to_owned(),
        ready: true,
        network: list(&["172.7.0.0/16"]),
        backend: Some("host-gw".to_owned()),
        lease: Some(LeaseReport {
            subnet: list(&["172.7.21.0/24"]),
            until: Some("2026-01-03T03:04:05Z".to_owned()),
            seconds: Some(86_340),
        }),
        store: StoreReport {
            kind: "etcd".to_owned(),
            place: "https://10.4.7.12:2379,https://10.4.7.21:2379 below /coreos.com/network".to_owned(),
            last_contact: Some("2026-01-02T04:00:00Z".to_owned()),
            silent_seconds: None,
        },
        uplink: Some(UplinkReport {
            device: "eth1".to_owned(),
            mtu: 1500,
            addresses: list(&["10.4.7.21"]),
            public: list(&["10.4.7.21"]),
        }),
        peers: PeersReport {
            desired: 1,
            installed: 1,
            total: 1,
            list: vec![peer(&["172.7.22.0/24"], &["10.4.7.22"], "installed", None)],
            ..PeersReport::default()
        },
        ..StatusReport::default()
    }
}

#[test]
fn a_daemon_that_is_well_takes_ten_lines() {
    let expected = "\
flanneld 0.1.0, pid 4711, since 2026-01-02T03:04:05Z: ready
subnet     172.7.21.0/24 of 172.7.0.0/16, backend host-gw
lease      until 2026-01-03T03:04:05Z, 23 h 59 min left
uplink     eth1 10.4.7.21, MTU 1500
store      etcd https://10.4.7.12:2379,https://10.4.7.21:2379 below /coreos.com/network: in contact
peers      1 of 1 installed
repairs    0 restored, 0 corrected, 0 removed

SUBNET         PUBLIC ADDRESS  STATE
172.7.22.0/24  10.4.7.22       installed
";
    assert_eq!(render(&well()), expected);
}

#[test]
fn what_is_wrong_is_said_in_whole() {
    let unreachable = "the gateway 10.9.9.23 is on no link of this host";
    let long =
        "the lease overlaps that of 172.7.23.0/24, which is older; give one of the hosts another subnet";
    let conflict =
        "172.7.99.0/24 via 10.4.7.1 dev eth1 proto static leads into the network and is not ours; left alone";
    let report = StatusReport {
        state: "degraded".to_owned(),
        lease: Some(LeaseReport {
            subnet: list(&["172.7.21.0/24"]),
            until: Some("2026-01-03T03:04:05Z".to_owned()),
            seconds: Some(59),
        }),
        store: StoreReport {
            silent_seconds: Some(75),
            place: "https://10.4.7.12:2379".to_owned(),
            ..well().store
        },
        peers: PeersReport {
            desired: 2,
            installed: 1,
            failed: 1,
            refused: 1,
            total: 1200,
            list: vec![
                peer(&["172.7.22.0/24"], &["10.4.7.22"], "installed", None),
                peer(&["172.7.23.0/24"], &["10.9.9.23"], "failed", Some(unreachable)),
                peer(&["172.7.23.128/25"], &["10.4.7.24"], "refused", Some(long)),
            ],
        },
        conflicts: ConflictsReport {
            count: 3,
            first: list(&[conflict]),
        },
        reasons: vec![
            ReasonReport {
                reason: "store".to_owned(),
                message: "nothing is heard from the store: no answer within 10s (for 75 s)".to_owned(),
                blocking: false,
                seconds: Some(75),
            },
            ReasonReport {
                reason: "lease".to_owned(),
                message: "no lease yet".to_owned(),
                blocking: true,
                seconds: None,
            },
        ],
        devices: vec![
            DeviceReport {
                device: "flannel.1".to_owned(),
                mac: "8e:bc:f1:25:6b:a8".to_owned(),
                mtu: 1450,
                up: true,
            },
            DeviceReport {
                device: "flannel-v6.1".to_owned(),
                mac: "8e:bc:f1:25:6b:a9".to_owned(),
                mtu: 1430,
                up: false,
            },
        ],
        counters: CountersReport {
            restored: 3,
            corrected: 2,
            removed: 1,
            rules: 4,
            dropped_log_lines: 17,
            ..CountersReport::default()
        },
        ..well()
    };
    let expected = "\
flanneld 0.1.0, pid 4711, since 2026-01-02T03:04:05Z: degraded
subnet     172.7.21.0/24 of 172.7.0.0/16, backend host-gw
lease      until 2026-01-03T03:04:05Z, 59 s left
uplink     eth1 10.4.7.21, MTU 1500
device     flannel.1 8e:bc:f1:25:6b:a8, MTU 1450
device     flannel-v6.1 8e:bc:f1:25:6b:a9, MTU 1430, down
store      etcd https://10.4.7.12:2379: not heard from for 1 min 15 s, since 2026-01-02T04:00:00Z
peers      1 of 2 installed, 1 failed, 1 refused
repairs    3 restored, 2 corrected, 1 removed, rules put right 4 times
log        17 lines lost

not as it ought to be
    store (not blocking): nothing is heard from the store: no answer within 10s (for 75 s)
    lease: no lease yet

SUBNET           PUBLIC ADDRESS  STATE
172.7.22.0/24    10.4.7.22       installed
172.7.23.0/24    10.9.9.23       failed: the gateway 10.9.9.23 is on no link of this host
172.7.23.128/25  10.4.7.24       refused
    the lease overlaps that of 172.7.23.0/24, which is older; give one of the hosts another subnet
and 1197 more

routes of somebody else's that run into the network
    172.7.99.0/24 via 10.4.7.1 dev eth1 proto static leads into the network and is not ours; left
    alone
    and 2 more
";
    assert_eq!(render(&report), expected);
}

#[test]
fn with_two_families_each_has_its_line() {
    let report = StatusReport {
        peers: PeersReport {
            desired: 1,
            total: 1,
            list: vec![peer(
                &["10.5.7.0/24", "fd05:0:0:7::/64"],
                &["192.0.2.7", "fd00::7"],
                "pending",
                None,
            )],
            ..PeersReport::default()
        },
        ..well()
    };
    let page = render(&report);
    let expected = "\
SUBNET           PUBLIC ADDRESS  STATE
10.5.7.0/24      192.0.2.7       pending
fd05:0:0:7::/64  fd00::7
";
    assert!(page.ends_with(expected), "{page}");
}

#[test]
fn a_daemon_that_has_nothing_yet_says_so() {
    let expected = "\
flanneld 0.1.0, pid 4711, since 2026-01-02T03:04:05Z: not ready
subnet     none of a network that is not known yet, backend not known yet
lease      none
uplink     none
store      file /var/lib/flannel/store: not heard from yet
peers      0 of 0 installed
repairs    0 restored, 0 corrected, 0 removed
";
    let report = StatusReport {
        version: "0.1.0".to_owned(),
        pid: 4711,
        started: "2026-01-02T03:04:05Z".to_owned(),
        state: "not ready".to_owned(),
        store: StoreReport {
            kind: "file".to_owned(),
            place: "/var/lib/flannel/store".to_owned(),
            ..StoreReport::default()
        },
        ..StatusReport::default()
    };
    assert_eq!(render(&report), expected);
}

#[test]
fn leases_that_end_have_ended_or_never_do_read_so() {
    let line = |until: Option<&str>, seconds| {
        let report = StatusReport {
            lease: Some(LeaseReport {
                subnet: list(&["10.5.1.0/24"]),
                until: until.map(str::to_owned),
                seconds,
            }),
            ..well()
        };
        let page = render(&report);
        page.lines().nth(2).unwrap().to_owned()
    };
    let until = Some("2026-01-03T03:04:05Z");
    assert_eq!(line(None, None), "lease      does not end");
    assert_eq!(line(until, Some(0)), "lease      ended at 2026-01-03T03:04:05Z");
    for (seconds, left) in [
        (1, "1 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ] {
        let expected = format!("lease      until 2026-01-03T03:04:05Z, {left} left");
        assert_eq!(line(until, Some(seconds)), expected);
    }
}

#[test]
fn whatever_is_published_no_line_is_longer_than_100_columns_and_none_steers_the_terminal() {
    let nasty = format!("\u{1b}[2J{} \r\n\u{9b}x {}", "a".repeat(333), "word ".repeat(60));
    let nasty = &*nasty;
    let report = StatusReport {
        version: nasty.to_owned(),
        network: list(&[nasty]),
        store: StoreReport {
            place: nasty.to_owned(),
            ..StoreReport::default()
        },
        peers: PeersReport {
            list: vec![peer(
                &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
                &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
                "refused",
                Some(nasty),
            )],
            ..PeersReport::default()
        },
        conflicts: ConflictsReport {
            count: 1,
            first: list(&[nasty]),
        },
        reasons: vec![ReasonReport {
            reason: nasty.to_owned(),
            message: nasty.to_owned(),
            ..ReasonReport::default()
        }],
        ..well()
    };
    let page = render(&report);
    for line in page.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
    // Nothing is cut off.
    assert_eq!(page.matches("word").count(), 7 * 60, "{page}");
}

#[test]
fn a_report_of_a_newer_or_an_older_daemon_is_read() {
    let newer = r#"{"state":"ready","ready":true,"pid":7,"moon":{"phase":3},"peers":{"desired":1,"x":[]}}"#;
    let report: StatusReport = serde_json::from_str(newer).unwrap();
    assert_eq!((report.pid, report.peers.desired, report.ready), (7, 1, true));
    assert_eq!(
        serde_json::from_str::<StatusReport>("{}").unwrap(),
        StatusReport::default()
    );
    let written = serde_json::to_string(&well()).unwrap();
    assert_eq!(serde_json::from_str::<StatusReport>(&written).unwrap(), well());
}

fn socket() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SOCKET);
    (directory, path)
}

/// Answers one request with these bytes.
async fn answering(answer: String) -> (TempDir, PathBuf) {
    let (directory, path) = socket();
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    (directory, path)
}

#[tokio::test]
async fn what_a_daemon_answers_is_fetched_whole() {
    use crate::health::{Health, StorePlace, serve_unix};
    let (_directory, path) = socket();
    let listener = UnixListener::bind(&path).unwrap();
    let place = StorePlace {
        kind: "file".to_owned(),
        place: "/somewhere".to_owned(),
    };
    let health = std::sync::Arc::new(Health::new(place, None));
    tokio::spawn(serve_unix(listener, health));
    let report = fetch(&path).await.unwrap();
    assert_eq!(
        (&*report.state, &*report.store.place),
        ("not ready", "/somewhere")
    );
    assert_eq!(report.reasons[0].reason, "starting");
}

#[tokio::test]
async fn a_large_answer_is_fetched_whole() {
    let mut report = well();
    let long = "w".repeat(300);
    report.peers.list = vec![peer(&["10.5.7.0/24"], &["192.0.2.7"], "failed", Some(&long)); 5000];
    let body = serde_json::to_string(&report).unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let (_directory, path) = answering(head + &body).await;
    assert_eq!(fetch(&path).await.unwrap(), report);
}

#[tokio::test]
async fn where_no_daemon_is_the_error_says_where_it_was_looked_for() {
    let (_directory, path) = socket();
    let missing = fetch(&path).await.unwrap_err();
    // A socket that a daemon left behind.
    drop(UnixListener::bind(&path).unwrap());
    let left = fetch(&path).await.unwrap_err();
    for error in [missing, left] {
        assert!(matches!(error, FetchError::NotRunning { .. }), "{error:?}");
        assert!(error.to_string().contains("status.sock"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_given_up() {
    let (_directory, path) = socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let error = fetch(&path).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Silent { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(error.to_string().contains("within 5 s"), "{error}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_named() {
    let long = format!(r#"{{"state":"{}"}}"#, "a".repeat(9 << 20));
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    for answer in [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\noops",
        "HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{}",
        &endless,
    ] {
        let (_directory, path) = answering(answer.to_owned()).await;
        let error = fetch(&path).await.unwrap_err();
        assert!(matches!(error, FetchError::Malformed { .. }), "{error:?}");
    }
}
