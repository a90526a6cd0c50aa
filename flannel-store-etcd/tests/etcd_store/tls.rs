//! Certificates: what works, and what is said of what does not.

use std::fs;
use std::path::{Path, PathBuf};

use flannel_core::{ConfigStore, StoreError, StoreEvent, SubnetStore};
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions};
use lab::{
    Certificate, CertificateForm, CertificateOptions, Etcd, EtcdOptions, EtcdTls, KeyFormat, KeyUsage, Pki,
};
use tempfile::TempDir;

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs, subnet};
use crate::proxy::Proxy;

/// An authority, and servers with certificates of it.
struct Authority {
    directory: TempDir,
    pki: Pki,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path().join("pki")).unwrap();
        Self { directory, pki }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, name: &str, form: CertificateForm, names: &[&str]) -> Certificate {
        let options = CertificateOptions {
            names: names.iter().map(ToString::to_string).collect(),
            form,
            ..CertificateOptions::default()
        };
        self.pki.issue_with(name, &options).unwrap()
    }

    /// A server that wants certificates of its clients.
    fn strict(&self, address: &str) -> Etcd {
        let name = format!("server {address}").replace([':', ' '], "-");
        let certificate = self.issue(&name, CertificateForm::Sound, &[&format!("IP:{address}")]);
        let mut options = EtcdOptions::new(&name, self.directory.path()).tls(EtcdTls {
            authority: self.pki.ca_file(),
            certificate,
            client_cert_auth: true,
        });
        options.address = address.parse().unwrap();
        Etcd::start(options).unwrap()
    }

    /// A server that looks at nobody's certificate, and whose own may be as odd as can be.
    fn lenient(&self, certificate: Certificate) -> Etcd {
        let name = certificate
            .cert
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let mut options = EtcdOptions::new(&name, self.directory.path()).tls(EtcdTls {
            authority: self.pki.ca_file(),
            certificate,
            client_cert_auth: false,
        });
        options.arguments = [
            "--trusted-ca-file=",
            "--peer-trusted-ca-file=",
            "--peer-client-cert-auth=false",
        ]
        .map(String::from)
        .to_vec();
        Etcd::start(options).unwrap()
    }
}

fn open(url: &str, ca: &Path, identity: Option<&Certificate>) -> Result<EtcdStore, StoreError> {
    let mut options = EtcdStoreOptions::endpoints(url);
    options.ca_file = Some(ca.to_owned());
    options.cert_file = identity.map(|identity| identity.cert.clone());
    options.key_file = identity.map(|identity| identity.key.clone());
    EtcdStore::open(options)
}

/// Nobody can use this store, and both a request and a watch say why, in these words.
async fn assert_trouble(store: &EtcdStore, words: &[&str]) {
    let error = store
        .read_config()
        .await
        .expect_err("this cannot work")
        .to_string();
    let mut watch = Watch::begin(store).await;
    let StoreEvent::Silent { reason, .. } = watch.next().await else {
        panic!("the watch is not silent");
    };
    for word in words {
        for text in [&error, &reason] {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
    }
}

#[tokio::test]
async fn keys_of_every_format_work() {
    let authority = Authority::new();
    let server = authority.strict("127.0.0.1");
    for key in [KeyFormat::Pkcs8, KeyFormat::Pkcs1, KeyFormat::Sec1] {
        let options = CertificateOptions {
            key,
            usage: KeyUsage::Client,
            ..CertificateOptions::default()
        };
        let client = authority.pki.issue_with(&format!("{key:?}"), &options).unwrap();
        let store = open(&server.endpoint(), &authority.pki.ca_file(), Some(&client)).unwrap();
        assert_eq!(store.read_config().await.unwrap(), None, "{key:?}");
    }
    // As `openssl ecparam -genkey` writes it unless told otherwise.
    let client = authority.issue("client", CertificateForm::Sound, &[]);
    let sec1 = authority.issue_with_key("sec1", KeyFormat::Sec1);
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    fs::write(
        &sec1.key,
        parameters.to_owned() + &fs::read_to_string(&sec1.key).unwrap(),
    )
    .unwrap();
    for identity in [&client, &sec1] {
        let store = open(&server.endpoint(), &authority.pki.ca_file(), Some(identity)).unwrap();
        assert_eq!(store.read_config().await.unwrap(), None);
    }
}

impl Authority {
    fn issue_with_key(&self, name: &str, key: KeyFormat) -> Certificate {
        let options = CertificateOptions {
            key,
            ..CertificateOptions::default()
        };
        self.pki.issue_with(name, &options).unwrap()
    }
}

#[tokio::test]
async fn a_store_works_over_tls_with_a_ca_alone_and_by_ipv6() {
    let authority = Authority::new();
    let sound = authority.issue(
        "lenient",
        CertificateForm::Sound,
        &["IP:127.0.0.1", "DNS:localhost"],
    );
    let lenient = authority.lenient(sound);
    let client = authority.issue("client", CertificateForm::Sound, &[]);
    let strict = authority.strict("::1");
    assert!(strict.endpoint().contains("[::1]"));
    let by_name = lenient.endpoint().replace("127.0.0.1", "localhost");
    for (prefix, url, identity) in [
        ("/a", lenient.endpoint(), None),
        ("/b", by_name, None),
        ("/c", strict.endpoint(), Some(&client)),
    ] {
        let mut options = EtcdStoreOptions::endpoints(&url);
        options.prefix = prefix.to_owned();
        options.ca_file = Some(authority.pki.ca_file());
        options.cert_file = identity.map(|identity| identity.cert.clone());
        options.key_file = identity.map(|identity| identity.key.clone());
        let store = EtcdStore::open(options).unwrap();
        store.write_config(CONFIG).await.unwrap();
        let mut watch = Watch::ready(&store).await;
        let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
        assert_eq!(watch.put().await.subnet, own.subnet);
        store.keep(&own, &attrs(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_named_with_the_reason_and_the_remedy() {
    use CertificateForm::{Expired, SelfSigned, Sound, Version1};
    let authority = Authority::new();
    let localhost = ["IP:127.0.0.1"];
    let elsewhere = ["IP:10.0.0.1", "DNS:etcd.example"];
    let ca = authority.pki.ca_file();
    for (name, form, names, parts) in [
        (
            "v1",
            Version1,
            &localhost[..],
            ["version 1", "subjectAltName=IP:127.0.0.1"],
        ),
        (
            "self-signed",
            SelfSigned,
            &localhost,
            ["not signed by a CA", "--etcd-cafile"],
        ),
        ("expired", Expired, &localhost, ["has expired", "clock"]),
        (
            "nameless",
            Sound,
            &[],
            ["names no host", "subjectAltName=IP:127.0.0.1"],
        ),
        (
            "elsewhere",
            Sound,
            &elsewhere,
            [
                "valid for 10.0.0.1, etcd.example and not for 127.0.0.1",
                "--etcd-endpoints",
            ],
        ),
    ] {
        let server = authority.lenient(authority.issue(name, form, names));
        let store = open(&server.endpoint(), &ca, None).unwrap();
        assert_trouble(&store, &[&server.endpoint()]).await;
        assert_trouble(&store, &parts).await;
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_where_it_is_named_as_the_ca() {
    let authority = Authority::new();
    let own = authority.issue("own", CertificateForm::SelfSigned, &["IP:127.0.0.1"]);
    let server = authority.lenient(own.clone());
    let store = open(&server.endpoint(), &own.cert, None).unwrap();
    assert_eq!(store.read_config().await.unwrap(), None);
    // That of a CA is none of a server's, though Go takes it for one.
    let ca = Certificate {
        cert: authority.pki.ca_file(),
        key: authority.pki.ca_file().with_extension("key"),
    };
    let server = authority.lenient(ca);
    let store = open(&server.endpoint(), &authority.pki.ca_file(), None).unwrap();
    assert_trouble(&store, &["that of a CA", "basicConstraints=CA:FALSE"]).await;
}

#[tokio::test]
async fn the_wrong_ca_file_is_told_from_a_wrong_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.strict("127.0.0.1");
    let client = authority.issue("client", CertificateForm::Sound, &[]);
    let store = open(&server.endpoint(), &other.pki.ca_file(), Some(&client)).unwrap();
    assert_trouble(&store, &["not of its CA", "--etcd-cafile"]).await;
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_refused_is_named_with_its_flag() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.strict("127.0.0.1");
    let ca = authority.pki.ca_file();
    let store = open(&server.endpoint(), &ca, None).unwrap();
    assert_trouble(
        &store,
        &["wants a client certificate", "--etcd-certfile", "--etcd-keyfile"],
    )
    .await;
    for refused in [
        other.issue("of-another", CertificateForm::Sound, &[]),
        authority.issue("expired", CertificateForm::Expired, &[]),
        authority
            .pki
            .issue_with(
                "server-only",
                &CertificateOptions {
                    usage: KeyUsage::Server,
                    ..CertificateOptions::default()
                },
            )
            .unwrap(),
    ] {
        let store = open(&server.endpoint(), &ca, Some(&refused)).unwrap();
        assert_trouble(&store, &["refuses the client certificate", "--etcd-certfile"]).await;
    }
}

#[tokio::test]
async fn the_wrong_scheme_is_told() {
    let authority = Authority::new();
    let server = authority.strict("127.0.0.1");
    let plain = server.endpoint().replace("https", "http");
    let store = EtcdStore::open(EtcdStoreOptions::endpoints(&plain)).unwrap();
    assert_trouble(&store, &[&plain, "write https://"]).await;

    let place = Place::new();
    let secure = place.etcd.endpoint().replace("http", "https");
    let store = open(&secure, &authority.pki.ca_file(), None).unwrap();
    assert_trouble(&store, &[&secure, "write http://"]).await;
}

#[tokio::test]
async fn one_server_that_cannot_be_trusted_is_passed_over() {
    let authority = Authority::new();
    let bad = authority.lenient(authority.issue("bad", CertificateForm::Version1, &[]));
    let good = authority.lenient(authority.issue("good", CertificateForm::Sound, &["IP:127.0.0.1"]));
    let url = format!("{},{}", bad.endpoint(), good.endpoint());
    let store = open(&url, &authority.pki.ca_file(), None).unwrap();
    store.write_config(CONFIG).await.unwrap();
    Watch::ready(&store).await;
}

#[tokio::test]
async fn certificates_that_were_rotated_are_used_after_a_reload_and_bad_ones_are_not() {
    let (before, after) = (Authority::new(), Authority::new());
    let client = before.issue("client", CertificateForm::Sound, &[]);
    let server = before.strict("127.0.0.1");
    let files = [
        before.path("ca.pem"),
        before.path("cert.pem"),
        before.path("key.pem"),
    ];
    let install = |authority: &Authority, identity: &Certificate| {
        for (from, to) in [&authority.pki.ca_file(), &identity.cert, &identity.key]
            .into_iter()
            .zip(&files)
        {
            fs::copy(from, to).unwrap();
        }
    };
    install(&before, &client);
    let identity = Certificate {
        cert: files[1].clone(),
        key: files[2].clone(),
    };
    let store = open(&server.endpoint(), &files[0], Some(&identity)).unwrap();
    store.write_config(CONFIG).await.unwrap();
    let mut watch = Watch::ready(&store).await;

    fs::write(&files[2], "no key any more").unwrap();
    let error = store.reload().expect_err("the key is gone");
    let text = error.to_string();
    assert!(
        text.contains("key.pem") && text.contains("--etcd-keyfile"),
        "{text}"
    );
    store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    watch.put().await;

    // The whole cluster moves to another authority.
    server.stop().unwrap();
    let mut options = server.options().clone();
    options.tls = Some(EtcdTls {
        authority: after.pki.ca_file(),
        certificate: after.issue("server", CertificateForm::Sound, &["IP:127.0.0.1"]),
        client_cert_auth: true,
    });
    let server = Etcd::start(options).unwrap();
    assert!(store.read_config().await.is_err(), "the old ones do not do");
    install(&after, &after.issue("client", CertificateForm::Sound, &[]));
    store.reload().unwrap();
    assert_eq!(store.read_config().await.unwrap().as_deref(), Some(CONFIG));
    server
        .etcdctl(&[
            "put",
            &format!("{PREFIX}/subnets/10.5.2.0-24"),
            &attrs(2).to_json(),
        ])
        .unwrap();
    while !matches!(watch.beyond_silence().await, StoreEvent::Put(lease) if lease.attrs == attrs(2)) {}
}

#[tokio::test]
async fn a_reload_counts_for_new_connections_and_interrupts_nothing() {
    let authority = Authority::new();
    let server = authority.strict("127.0.0.1");
    let client = authority.issue("client", CertificateForm::Sound, &[]);
    let proxy = Proxy::to(&server.endpoint()).await;
    let url = proxy.url().replace("http", "https");
    let store = open(&url, &authority.pki.ca_file(), Some(&client)).unwrap();
    store.write_config(CONFIG).await.unwrap();
    let mut watch = Watch::ready(&store).await;
    assert_eq!(proxy.connections(), 1, "one connection does for everything");
    store.reload().unwrap();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    assert_eq!(proxy.connections(), 2);
    assert_eq!(watch.put().await.subnet, own.subnet);
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn a_config_in_api_v2_is_found_over_tls() {
    let authority = Authority::new();
    let certificate = authority.issue("server", CertificateForm::Sound, &["IP:127.0.0.1"]);
    let client = authority.issue("client", CertificateForm::Sound, &[]);
    let server = Etcd::start(
        EtcdOptions::new("etcd", authority.directory.path())
            .tls(EtcdTls {
                authority: authority.pki.ca_file(),
                certificate,
                client_cert_auth: true,
            })
            .api_v2(),
    )
    .unwrap();
    server
        .etcdctl_v2(&["set", &format!("{PREFIX}/config"), CONFIG])
        .unwrap();
    let store = open(&server.endpoint(), &authority.pki.ca_file(), Some(&client)).unwrap();
    let mut watch = Watch::begin(&store).await;
    assert!(matches!(watch.next().await, StoreEvent::Config(Ok(_))));
}
