//! What an operator may have set up wrongly, found before any server is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use flannel_core::{StoreError, SubnetStore};
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions};
use lab::{Certificate, CertificateForm, CertificateOptions, Pki};

/// What is said of options that cannot work.
fn problem(options: EtcdStoreOptions) -> String {
    match EtcdStore::open(options) {
        Err(error @ StoreError::Unusable { .. }) => {
            assert!(!error.is_transient());
            error.to_string()
        }
        Err(other) => panic!("not unusable: {other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[track_caller]
fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused_by_their_flags() {
    let with = |endpoints: &str, change: fn(&mut EtcdStoreOptions)| {
        let mut options = EtcdStoreOptions::endpoints(endpoints);
        change(&mut options);
        problem(options)
    };
    let (plain, secure) = ("http://10.0.0.1:2379", "https://10.0.0.1:2379");
    assert_names(&with("", |_| ()), &["--etcd-endpoints"]);
    assert_names(
        &with("http://10.0.0.1", |_| ()),
        &["http://10.0.0.1", "no port", "2379"],
    );
    assert_names(
        &with(secure, |_| ()),
        &[secure, "--etcd-cafile", "/etc/ssl/certs/ca-certificates.crt"],
    );
    assert_names(
        &with(plain, |options| options.ca_file = Some("ca.pem".into())),
        &["--etcd-cafile", plain, "https://"],
    );
    assert_names(
        &with(secure, |options| options.cert_file = Some("cert.pem".into())),
        &["--etcd-certfile", "--etcd-keyfile"],
    );
    assert_names(
        &with(secure, |options| options.key_file = Some("key.pem".into())),
        &["--etcd-certfile", "--etcd-keyfile"],
    );
    let text = with(plain, |options| options.password = Some("hunter2".into()));
    assert_names(&text, &["--etcd-username"]);
    assert!(!text.contains("hunter2"), "{text}");
    let text = with("http://root:hunter2@10.0.0.1:2379", |_| ());
    assert_names(&text, &["--etcd-password"]);
    assert!(!text.contains("hunter2"), "{text}");
    assert_names(
        &with(plain, |options| options.ttl = Duration::ZERO),
        &["time to live"],
    );
}

#[test]
fn addresses_of_servers_are_known_and_names_are_not_resolved() {
    let list = "http://10.0.0.1:2379, http://[fd00::1]:2379, http://etcd.example:2379";
    let store = EtcdStore::open(EtcdStoreOptions::endpoints(list)).unwrap();
    let addresses: Vec<String> = store.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
}

#[test]
fn files_that_hold_no_certificate_or_key_are_named_with_their_flags() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new(directory.path().join("pki")).unwrap();
    let client = pki.issue("client", &[]).unwrap();
    let other = pki.issue("other", &[]).unwrap();
    let version1 = CertificateOptions {
        form: CertificateForm::Version1,
        ..CertificateOptions::default()
    };
    let version1 = pki.issue_with("version1", &version1).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let garbage = file("garbage", b"\xff\xfe garbage");
    let empty = file("empty", b"");
    let damaged = file(
        "damaged",
        b"-----BEGIN CERTIFICATE-----\n****\n-----END CERTIFICATE-----\n",
    );
    let no_der = file(
        "no-der",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let no_key = file(
        "no-key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let missing = directory.path().join("missing");
    let circle = directory.path().join("circle");
    symlink(&circle, &circle).unwrap();
    let encrypted = directory.path().join("encrypted");
    encrypt(&client, &encrypted);

    let with = |ca: &PathBuf, cert: &PathBuf, key: &PathBuf| {
        let mut options = EtcdStoreOptions::endpoints("https://10.0.0.1:2379");
        options.ca_file = Some(ca.clone());
        options.cert_file = Some(cert.clone());
        options.key_file = Some(key.clone());
        problem(options)
    };
    let ca = pki.ca_file();
    for (file, parts) in [
        (&missing, &["missing", "No such file"][..]),
        (&circle, &["circle", "cannot be read"]),
        (&directory.path().to_owned(), &["cannot be read", "directory"]),
        (&garbage, &["garbage", "no certificate in PEM"]),
        (&empty, &["empty", "no certificate in PEM"]),
        (&damaged, &["damaged", "is damaged"]),
        (&no_der, &["no-der"]),
        (&client.key, &["client.key", "--etcd-keyfile"]),
    ] {
        let text = with(file, &client.cert, &client.key);
        assert_names(&text, &["(--etcd-cafile)"]);
        assert_names(&text, parts);
        let text = with(&ca, file, &client.key);
        assert_names(&text, &["(--etcd-certfile)"]);
        assert_names(&text, parts);
    }
    for (file, parts) in [
        (&missing, &["missing", "No such file"][..]),
        (&garbage, &["garbage", "no key in PEM", "PKCS#8"]),
        (&no_key, &["no-key", "no key that can be used"]),
        (&client.cert, &["client.pem", "belongs in --etcd-certfile"]),
        (
            &other.key,
            &["other.key", "not the key of the certificate", "client.pem"],
        ),
        (&encrypted, &["encrypted", "passphrase", "openssl pkey"]),
    ] {
        let text = with(&ca, &client.cert, file);
        assert_names(&text, &["(--etcd-keyfile)"]);
        assert_names(&text, parts);
    }
    let text = with(&ca, &version1.cert, &version1.key);
    assert_names(&text, &["version1.pem", "--etcd-certfile", "version 1"]);
}

#[allow(
    clippy::disallowed_methods,
    reason = "there is no key with a passphrase in the lab"
)]
fn encrypt(client: &Certificate, to: &PathBuf) {
    let encrypted = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes256", "-passout", "pass:x", "-in"])
        .arg(&client.key)
        .arg("-out")
        .arg(to)
        .status()
        .unwrap();
    assert!(encrypted.success());
}
