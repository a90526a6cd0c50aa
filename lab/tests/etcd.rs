//! Real etcd members and the certificates they need. On loopback none of it needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its etcd has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{
    Certificate, CertificateForm, CertificateOptions, Etcd, EtcdCluster, EtcdOptions, EtcdTls, KeyFormat,
    KeyUsage, Lab, Options, Pki, Signal, wait_until,
};

/// Tells a second process of a test where to leave its etcd's process id.
const LEFT_BEHIND: &str = "LAB_TEST_ETCD_LEFT_BEHIND";
const LOCAL: &[&str] = &["IP:127.0.0.1"];

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lab-etcd-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tls(pki: &Pki, certificate: Certificate) -> EtcdTls {
    EtcdTls {
        authority: pki.ca_file(),
        certificate,
        client_cert_auth: true,
    }
}

fn value(etcd: &Etcd, key: &str) -> String {
    let printed = etcdctl(etcd, &["get", key, "--print-value-only"]);
    printed.trim_end().to_owned()
}

fn etcdctl(etcd: &Etcd, arguments: &[&str]) -> String {
    etcd.etcdctl(arguments).unwrap()
}

fn cluster_id(etcd: &Etcd) -> String {
    let status = etcdctl(etcd, &["get", "x", "-w", "json"]);
    let (_, id) = status.split_once("\"cluster_id\":").unwrap();
    id.split(',').next().unwrap().to_owned()
}

#[test]
fn a_member_keeps_its_data_ports_and_cluster_over_stop_and_kill() {
    let scratch = Scratch::new("restart");
    let etcd = Etcd::start(EtcdOptions::new("one", &scratch.0)).unwrap();
    let (endpoint, id) = (etcd.endpoint(), cluster_id(&etcd));
    etcdctl(&etcd, &["put", "/key", "kept"]);
    etcd.stop().unwrap();
    assert!(!etcd.is_running());
    assert!(etcd.etcdctl(&["get", "/key", "--command-timeout=100ms"]).is_err());
    etcd.start_again().unwrap();
    etcd.kill().unwrap();
    etcd.start_again().unwrap();
    assert_eq!(value(&etcd, "/key"), "kept");
    assert_eq!((etcd.endpoint(), cluster_id(&etcd)), (endpoint, id));
}

#[test]
fn a_wiped_member_begins_again_under_the_same_or_a_new_cluster_id() {
    let scratch = Scratch::new("wipe");
    let etcd = Etcd::start(EtcdOptions::new("one", &scratch.0)).unwrap();
    let first = cluster_id(&etcd);
    etcdctl(&etcd, &["put", "/key", "gone"]);
    etcd.kill().unwrap();
    etcd.wipe().unwrap();
    etcd.start_again().unwrap();
    assert_eq!(value(&etcd, "/key"), "");
    assert_eq!(cluster_id(&etcd), first);
    etcd.kill().unwrap();
    etcd.wipe_into_a_new_cluster().unwrap();
    etcd.start_again().unwrap();
    assert_ne!(cluster_id(&etcd), first);
}

#[test]
fn a_stopped_process_answers_nobody_until_it_continues() {
    let scratch = Scratch::new("stop");
    let etcd = Etcd::start(EtcdOptions::new("one", &scratch.0)).unwrap();
    etcd.signal(Signal::SIGSTOP).unwrap();
    assert!(etcd.etcdctl(&["get", "x", "--command-timeout=200ms"]).is_err());
    assert!(etcd.is_running());
    etcd.signal(Signal::SIGCONT).unwrap();
    etcd.wait_ready(Duration::from_secs(10)).unwrap();
}

#[test]
fn three_members_with_tls_outlive_one_and_refuse_clients_without_a_certificate() {
    let scratch = Scratch::new("cluster");
    let pki = Pki::new(scratch.0.join("certs")).unwrap();
    let options = ["a", "b", "c"].map(|name| {
        let certificate = pki.issue(name, LOCAL).unwrap();
        EtcdOptions::new(name, &scratch.0).tls(tls(&pki, certificate))
    });
    let cluster = EtcdCluster::start(options.into()).unwrap();
    assert_eq!(cluster.endpoints().matches("https://127.0.0.1:").count(), 3);
    etcdctl(cluster.member(0), &["put", "/key", "shared"]);
    cluster.member(1).kill().unwrap();
    wait_until(Duration::from_secs(10), "a value from the third member", || {
        cluster
            .member(2)
            .etcdctl(&["get", "/key", "--print-value-only"])
            .is_ok_and(|value| value.trim_end() == "shared")
    })
    .unwrap();
    let anonymous = cluster.member(0).etcdctl(&["get", "/key", "--cert=", "--key="]);
    assert!(anonymous.is_err(), "{anonymous:?}");
}

#[test]
fn many_keys_are_put_at_once() {
    let scratch = Scratch::new("txn");
    let etcd = Etcd::start(EtcdOptions::new("one", &scratch.0)).unwrap();
    etcd.etcdctl_with_input(&["txn"], "\nput /a 1\nput /b 2\n\n\n")
        .unwrap();
    assert_eq!((value(&etcd, "/a"), value(&etcd, "/b")), ("1".into(), "2".into()));
}

#[test]
fn a_password_is_demanded_once_authentication_is_enabled() {
    let scratch = Scratch::new("password");
    let etcd = Etcd::start(EtcdOptions::new("one", &scratch.0)).unwrap();
    etcd.enable_authentication("secret").unwrap();
    etcdctl(&etcd, &["put", "/key", "guarded"]);
    assert_eq!(value(&etcd, "/key"), "guarded");
    let wrong = etcd
        .etcdctl(&["get", "/key", "--user=root:wrong"])
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("authentication failed"), "{wrong}");
}

#[test]
fn api_v2_is_served_where_it_is_asked_for_and_keeps_its_keys_apart() {
    let scratch = Scratch::new("v2");
    let with = Etcd::start(EtcdOptions::new("with", &scratch.0).api_v2()).unwrap();
    with.etcdctl_v2(&["set", "/coreos.com/network/config", "{}"])
        .unwrap();
    assert_eq!(
        with.etcdctl_v2(&["get", "/coreos.com/network/config"])
            .unwrap()
            .trim(),
        "{}"
    );
    assert_eq!(value(&with, "/coreos.com/network/config"), "");
    let without = Etcd::start(EtcdOptions::new("without", &scratch.0)).unwrap();
    assert!(without.etcdctl_v2(&["set", "/key", "x"]).is_err());
}

#[test]
fn a_member_lives_in_a_hosts_namespace_and_is_reached_over_the_wire() {
    let lab = Lab::new("etcd", Options::hosts(2)).unwrap();
    let here = lab.host(0);
    let member = EtcdOptions::new("one", lab.directory()).within(here, here.ipv4().unwrap());
    let etcd = Etcd::start(member).unwrap();
    assert_eq!(etcd.endpoint(), "http://192.168.77.11:2379");
    let endpoints = format!("--endpoints={}", etcd.endpoint());
    let there = lab
        .host(1)
        .exec(&["env", "ETCDCTL_API=3", "etcdctl", &endpoints, "put", "/key", "x"]);
    assert_eq!(there.unwrap().trim(), "OK");
    assert_eq!(value(&etcd, "/key"), "x");
}

#[test]
fn the_end_of_etcd_is_told_with_its_last_words() {
    let scratch = Scratch::new("refused");
    let mut options = EtcdOptions::new("one", &scratch.0);
    options.arguments.push("--auto-compaction-mode=never".into());
    let error = Etcd::start(options).unwrap_err().to_string();
    assert!(error.contains("auto-compaction-mode"), "{error}");
}

#[test]
fn a_member_whose_port_is_taken_is_not_waited_for() {
    let scratch = Scratch::new("taken");
    let first = Etcd::start(EtcdOptions::new("first", &scratch.0)).unwrap();
    let mut options = EtcdOptions::new("second", &scratch.0);
    options.client_port = first.options().client_port;
    let error = Etcd::start(options).unwrap_err().to_string();
    assert!(error.contains("address already in use"), "{error}");
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the run that is killed is a process of its own"
)]
fn a_member_goes_with_the_process_that_started_it_even_if_that_is_killed() {
    if let Some(directory) = std::env::var_os(LEFT_BEHIND) {
        let etcd = Etcd::start(EtcdOptions::new("one", &directory)).unwrap();
        let file = Path::new(&directory).join("pid");
        fs::write(&file, etcd.pid().unwrap().to_string()).unwrap();
        let _ = wait_until(Duration::from_secs(600), "the end", || false);
    }
    let scratch = Scratch::new("killed");
    let mut run = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_member_goes_with_the_process_that_started_it_even_if_that_is_killed",
        ])
        .env(LEFT_BEHIND, &scratch.0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = wait_until(Duration::from_secs(20), "the other run's etcd", || {
        fs::read_to_string(scratch.0.join("pid"))
            .ok()?
            .parse::<u32>()
            .ok()
    });
    run.kill().unwrap();
    run.wait().unwrap();
    let pid = pid.unwrap();
    // A zombie has ended; only its new parent has not looked yet.
    let ended =
        || !fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("etcd"));
    wait_until(Duration::from_secs(5), "the etcd to end", ended).unwrap();
}

/// What openssl tells of a certificate.
fn described(path: &Path) -> String {
    let output = lab_openssl(&["x509", "-noout", "-text", "-in", path.to_str().unwrap()]);
    String::from_utf8(output).unwrap()
}

#[allow(
    clippy::disallowed_methods,
    reason = "an openssl of the test's own judges what the lab made"
)]
fn lab_openssl(arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(arguments).output();
    output.unwrap().stdout
}

#[test]
fn keys_come_in_the_three_formats_that_are_found_in_the_field() {
    let scratch = Scratch::new("keys");
    let pki = Pki::new(&scratch.0).unwrap();
    for (key, label) in [
        (KeyFormat::Pkcs8, "-----BEGIN PRIVATE KEY-----"),
        (KeyFormat::Sec1, "-----BEGIN EC PRIVATE KEY-----"),
        (KeyFormat::Pkcs1, "-----BEGIN RSA PRIVATE KEY-----"),
    ] {
        let options = CertificateOptions {
            key,
            ..CertificateOptions::default()
        };
        let made = pki.issue_with("key", &options).unwrap();
        assert!(
            fs::read_to_string(made.key).unwrap().starts_with(label),
            "{key:?}"
        );
        let ca = pki.ca_file();
        let verified = lab_openssl(&[
            "verify",
            "-CAfile",
            ca.to_str().unwrap(),
            made.cert.to_str().unwrap(),
        ]);
        assert!(String::from_utf8(verified).unwrap().ends_with("OK\n"), "{key:?}");
    }
}

#[test]
fn odd_certificates_are_as_odd_as_asked() {
    let scratch = Scratch::new("odd");
    let pki = Pki::new(&scratch.0).unwrap();
    let made = |form, usage, names: &[&str]| {
        let options = CertificateOptions {
            names: names.iter().map(ToString::to_string).collect(),
            form,
            usage,
            ..CertificateOptions::default()
        };
        pki.issue_with("odd", &options).unwrap()
    };
    let both = KeyUsage::ServerAndClient;
    let sound = described(&made(CertificateForm::Sound, both, LOCAL).cert);
    assert!(
        sound.contains("IP Address:127.0.0.1") && sound.contains("Version: 3"),
        "{sound}"
    );
    let nameless = described(&made(CertificateForm::Sound, both, &[]).cert);
    assert!(!nameless.contains("Alternative Name"), "{nameless}");
    let old = described(&made(CertificateForm::Version1, both, &[]).cert);
    assert!(
        old.contains("Version: 1") && old.contains("Issuer: CN = lab authority"),
        "{old}"
    );
    let own = described(&made(CertificateForm::SelfSigned, both, LOCAL).cert);
    assert!(own.contains("Issuer: CN = odd"), "{own}");
    let client = described(&made(CertificateForm::Sound, KeyUsage::Client, LOCAL).cert);
    assert!(client.contains("Client Authentication") && !client.contains("Server Authentication"));
    let server = described(&made(CertificateForm::Sound, KeyUsage::Server, LOCAL).cert);
    assert!(server.contains("Server Authentication") && !server.contains("Client Authentication"));
    let expired = made(CertificateForm::Expired, both, LOCAL).cert;
    let verdict = lab_openssl(&[
        "x509",
        "-checkend",
        "0",
        "-noout",
        "-in",
        expired.to_str().unwrap(),
    ]);
    let verdict = String::from_utf8(verdict).unwrap();
    assert!(verdict.contains("Certificate will expire"), "{verdict}");
}
