//! What `make dist` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Etcd, EtcdOptions, Host, Lab, Options};

use crate::cluster::{CONFIG, CONFIG_KEY, address};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Bytes of the daemon at most.
const MAX_SIZE: u64 = 8 * 1024 * 1024;

fn output_of(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes it, which takes minutes the first time, and returns its path.
fn make() -> PathBuf {
    let said = output_of("scripts/dist", &[], Path::new(REPOSITORY));
    let line = said.lines().last().unwrap();
    line.split_once(": ").unwrap().0.into()
}

/// What a daemon says in three seconds in a root that holds this and nothing else.
fn said_in(root: &Path, host: &Host) -> String {
    let root = root.display();
    let line = format!(
        "timeout 3 chroot {root} /flanneld --etcd-endpoints=http://etcd.example:2379 --iface=eth1 \
         --state-dir=/state --subnet-file=/run/subnet.env 2>&1 || [ $? = 124 ]"
    );
    host.exec(&["sh", "-c", &line]).unwrap()
}

#[test]
#[ignore = "long: builds the daemon for release"]
fn the_tarball_is_flat_and_always_the_same_and_its_daemon_needs_nothing_of_the_machine() {
    let tarball = make();
    let directory = tarball.parent().unwrap();
    let name = tarball.file_name().unwrap().to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(name.starts_with(&format!("flannel-{version}-linux-")), "{name}");
    output_of("sha256sum", &["--check", &format!("{name}.sha256")], directory);
    let first = fs::read(&tarball).unwrap();
    assert_eq!(make(), tarball);
    assert!(fs::read(&tarball).unwrap() == first, "a second one differs");

    let lab = Lab::new("tarball", Options::numbered([21]).uplink("eth1")).unwrap();
    let root = lab.directory().join("root");
    fs::create_dir(&root).unwrap();
    let names = output_of("tar", &["--list", "--file", tarball.to_str().unwrap()], &root);
    for expected in [
        "flanneld",
        "flanneld.sh",
        "mk-docker-opts.sh",
        "README.md",
        "flannel.service",
    ] {
        assert!(
            names.lines().any(|name| name == expected),
            "no {expected} in {names}"
        );
    }
    output_of(
        "tar",
        &["--extract", "--file", tarball.to_str().unwrap(), "flanneld"],
        &root,
    );
    let size = fs::metadata(root.join("flanneld")).unwrap().len();
    assert!(size <= MAX_SIZE, "{size} bytes");

    let host = lab.host(0);
    let without_names = said_in(&root, host);
    assert!(
        without_names.contains("http://etcd.example:2379"),
        "{without_names}"
    );
    assert!(
        without_names.contains("asked to end"),
        "it ended by itself: {without_names}"
    );

    let etcd = Etcd::start(EtcdOptions::new("etcd", lab.directory()).within(host, address(host))).unwrap();
    etcd.etcdctl(&["put", CONFIG_KEY, CONFIG]).unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    let hosts = format!("{} etcd.example\n", address(host));
    fs::write(root.join("etc/hosts"), hosts).unwrap();
    // A module of glibc's that a static program must not load, were it there.
    fs::write(root.join("etc/nsswitch.conf"), "hosts: myhostname\n").unwrap();
    let with_names = said_in(&root, host);
    assert!(with_names.contains("lease acquired"), "{with_names}");
}
