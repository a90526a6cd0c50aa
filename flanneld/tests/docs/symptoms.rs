//! The mistakes of an operator, made one after the other, for the table of what flanneld says to each.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::wait_until;

use crate::fit::fits;
use crate::page::{self, Page, code_spans};
use crate::stage::Stage;

/// Time for a message to be there. Two daemons that publish one address take three seconds to find out.
const SOON: Duration = Duration::from_secs(15);

/// What a daemon says once all is well.
const SETTLED: &str = "routes are in place";

/// A row of the table, by its first cell, and how it comes to that on host1, where etcd runs, the options of the page
/// are in the environment, and a config is in place.
struct Case {
    symptom: &'static str,
    made: Made,
    /// Put right again.
    after: &'static str,
}

enum Made {
    /// By a daemon with more flags, after this has been done.
    Daemon(&'static str, &'static str),
    /// By this, done to a daemon that runs.
    Change(&'static str),
    /// By this, asked of a daemon that has ended.
    Ended(&'static str),
    /// By this, asked of a daemon that runs.
    Running(&'static str),
    /// By this build script, where there is no program at all.
    Build(&'static str),
}

use Made::{Build, Change, Daemon, Ended, Running};

const fn case(symptom: &'static str, made: Made, after: &'static str) -> Case {
    Case { symptom, made, after }
}

/// A lease of another host: address, subnet, and whatever else stands in its value.
macro_rules! lease {
    ($address:literal, $subnet:literal) => {
        concat!(
            "etcdctl put /coreos.com/network/subnets/",
            $subnet,
            "-24 '{\"PublicIP\":\"",
            $address,
            "\",\"PublicIPv6\":null,\"BackendType\":\"host-gw\"}'"
        )
    };
}

const CASES: &[Case] = &[
    case(
        "etcd is down, or its port another",
        Daemon("", "--etcd-endpoints=https://192.168.77.11:2399"),
        "",
    ),
    case(
        "the CA is another cluster's",
        Daemon("authority other", "--etcd-cafile=other.pem"),
        "",
    ),
    case(
        "the server's certificate lacks the address",
        Daemon(
            "certificate elsewhere $'subjectAltName=IP:192.168.77.99\\nextendedKeyUsage=serverAuth,clientAuth' && \
             serve elsewhere",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "the server's certificate names no host",
        Daemon(
            "certificate plain extendedKeyUsage=serverAuth,clientAuth && serve plain",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "a certificate was made without `-extfile`",
        Daemon(
            "certificate old '' && serve old",
            "--etcd-endpoints=https://192.168.77.11:2389",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "no client certificate",
        Daemon("unset FLANNELD_ETCD_CERTFILE FLANNELD_ETCD_KEYFILE", ""),
        "",
    ),
    case(
        "the client certificate is another CA's",
        Daemon(
            "authority other && CA=other certificate stranger extendedKeyUsage=clientAuth",
            "--etcd-certfile=stranger.pem --etcd-keyfile=stranger-key.pem",
        ),
        "",
    ),
    case(
        "the key belongs to another certificate",
        Daemon("", "--etcd-keyfile=/etc/flannel/ca-key.pem"),
        "",
    ),
    case(
        "`http://` for a server with TLS",
        Daemon(
            "",
            "--etcd-endpoints=http://192.168.77.11:2379 --etcd-cafile= --etcd-certfile= --etcd-keyfile=",
        ),
        "",
    ),
    case(
        "the port is in use",
        Daemon("", "--healthz-port=2379 --healthz-ip=192.168.77.11"),
        "",
    ),
    case(
        "a second flanneld",
        Daemon(
            "begin first && until grep -q 'routes are in place' first.log; do sleep 0.05; done",
            "",
        ),
        "end first",
    ),
    case(
        "no config",
        Daemon("etcdctl del /coreos.com/network/config", ""),
        "",
    ),
    case(
        "the config was put with `etcdctl set`, API v2 is off",
        Daemon("etcdctl del /coreos.com/network/config", ""),
        "",
    ),
    case(
        "the config was put with `etcdctl set`, an old flannel still runs",
        Daemon(
            r#"serve_v2 && v2 set /coreos.com/network/config '{"Network":"172.7.0.0/16"}' &&
               v2 set /coreos.com/network/subnets/172.7.12.0-24 '{"PublicIP":"192.168.77.12"}'"#,
            "--etcd-endpoints=http://127.0.0.1:2389 --etcd-cafile= --etcd-certfile= --etcd-keyfile=",
        ),
        "systemctl stop other-etcd",
    ),
    case(
        "a typo in the config",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Netwrok":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "a backend that is not there",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","Backend":{"Type":"vxlan"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "packets are not forwarded",
        Daemon("echo 0 >/proc/sys/net/ipv4/ip_forward", ""),
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ),
    case(
        "iptables is not installed",
        Daemon("hide iptables", ""),
        "umount \"$hidden\"",
    ),
    case(
        "FORWARD drops, and `--iptables-forward-rules` is off",
        Daemon("iptables -P FORWARD DROP", "--iptables-forward-rules=false"),
        "iptables -P FORWARD ACCEPT",
    ),
    case(
        "FORWARD rejects before our rules (RHEL's last line)",
        Daemon(
            "iptables -A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "",
        ),
        "iptables -D FORWARD -j REJECT --reject-with icmp-host-prohibited",
    ),
    case(
        "FORWARD of iptables drops, rules are in nftables",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}' &&
               iptables -P FORWARD DROP"#,
            "",
        ),
        "iptables -P FORWARD ACCEPT",
    ),
    case(
        "firewalld rejects them",
        Daemon("firewalld", ""),
        "nft delete table inet firewalld",
    ),
    case(
        "somebody changes our rules all the time",
        Change(
            "until grep -q 'rules for 172.7.0.0/16 written' flanneld.log; do sleep 0.05; done; iptables -F FLANNEL-FWD",
        ),
        "",
    ),
    case(
        "a range that is none in `NonMasqueradeCIDRs`",
        Daemon(
            r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","NonMasqueradeCIDRs":["192.168.0.300/16"],"Backend":{"Type":"host-gw"}}'"#,
            "",
        ),
        "",
    ),
    case(
        "two hosts with one `--public-ip`",
        Daemon(
            lease!("192.168.77.12", "172.7.12.0"),
            "--public-ip=192.168.77.12 --iface=eth0",
        ),
        "",
    ),
    case(
        "the pinned subnet is another host's",
        Daemon(lease!("192.168.77.13", "172.7.11.0"), ""),
        "",
    ),
    case(
        "the bridge has an address of another subnet",
        Daemon(
            "ip link add docker0 type bridge && ip addr add 172.7.99.1/24 dev docker0 && ip link set docker0 up",
            "",
        ),
        "ip link del docker0",
    ),
    case(
        "a peer stands on another segment",
        Daemon(lease!("10.9.9.23", "172.7.23.0"), ""),
        "",
    ),
    case(
        "a route of somebody else's",
        Daemon(
            concat!(
                lease!("192.168.77.12", "172.7.12.0"),
                " && ip route add 172.7.12.0/24 via 192.168.77.13 proto static"
            ),
            "",
        ),
        "ip route del 172.7.12.0/24 proto static",
    ),
    case("no such interface", Daemon("", "--iface=eth9"), ""),
    case(
        "another host has written over the lease",
        Change(lease!("192.168.77.13", "172.7.11.0")),
        "",
    ),
    case(
        "etcd was restored, or its data is gone",
        Change("systemctl stop etcd && rm -r /var/lib/etcd/default && systemctl start etcd"),
        "",
    ),
    case(
        "every subnet is given out",
        Daemon(
            concat!(
                r#"etcdctl put /coreos.com/network/config '{"Network":"172.7.0.0/16","SubnetMin":"172.7.12.0","SubnetMax":"172.7.12.0","Backend":{"Type":"host-gw"}}' && "#,
                lease!("192.168.77.12", "172.7.12.0"),
            ),
            "--subnet=",
        ),
        "",
    ),
    case("`flanneld status` finds nobody", Ended("flanneld status"), ""),
    case(
        "`flanneld cleanup` while it runs",
        Running("flanneld cleanup"),
        "",
    ),
    case(
        "`cargo build` without protoc",
        Build("flannel-store-etcd/build.rs"),
        "",
    ),
];

/// The words of the cases.
const WORDS: &str = include_str!("symptoms.sh");

/// Makes every mistake of the table, and looks for what the table says that flanneld says.
///
/// # Panics
/// At a row that nothing is done for, and with what was said where it is something else.
pub(crate) fn make_all(stage: &mut Stage, page: &Page, heading: &str) {
    let rows = page.rows(heading);
    stage.prepare(0, WORDS);
    for case in CASES {
        let found = rows.iter().any(|(_, cells)| cells[0] == case.symptom);
        assert!(found, "{}: no row {:?}", page.name, case.symptom);
    }
    let mut wrong = Vec::new();
    for (line, cells) in &rows {
        let messages = code_spans(&cells[1]);
        let case = CASES.iter().find(|case| case.symptom == cells[0]);
        let case = case.unwrap_or_else(|| panic!("{}:{line}: nobody tries {:?}", page.name, cells[0]));
        assert!(!messages.is_empty(), "{}:{line}: no message", page.name);
        let said = match case.made {
            Daemon(before, flags) => {
                begin(stage, before, flags);
                end(stage, &messages, case.after)
            }
            Change(change) => {
                begin(stage, "", "");
                hear(stage, &[SETTLED.to_owned()]);
                stage.prepare(0, change);
                end(stage, &messages, case.after)
            }
            Ended(question) => {
                begin(stage, "", "");
                end(stage, &[SETTLED.to_owned()], case.after);
                ask(stage, question)
            }
            Running(question) => {
                begin(stage, "", "");
                hear(stage, &[SETTLED.to_owned()]);
                let said = ask(stage, question);
                end(stage, &[], case.after);
                said
            }
            Build(script) => by_build(script),
        };
        println!("== {}\n{said}", cells[0]);
        for message in messages {
            if !is_said(&message, &said) {
                wrong.push(format!("{}:{line}: {message}\nis not said:\n{said}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Starts a daemon after `before` has been done.
fn begin(stage: &mut Stage, before: &str, flags: &str) {
    let before = if before.is_empty() { "true" } else { before };
    stage.prepare(0, &format!("restore && cd && {before}"));
    stage.prepare(0, &format!("begin flanneld {flags}"));
}

/// What it has said when all of this is among it, or when the time is up.
fn hear(stage: &Stage, messages: &[String]) -> String {
    let log = stage.inside(0, "/root/flanneld.log");
    let mut said = String::new();
    let _ = wait_until(SOON, "the messages", || {
        said = fs::read_to_string(&log).unwrap_or_default().replace("\\\"", "\"");
        messages.iter().all(|message| is_said(message, &said))
    });
    said
}

fn end(stage: &mut Stage, messages: &[String], after: &str) -> String {
    let said = hear(stage, messages);
    stage.prepare(0, &format!("end flanneld; {after}\ntrue"));
    said
}

/// What a command says, however it ends.
fn ask(stage: &mut Stage, question: &str) -> String {
    stage.prepare(0, &format!("{question} >said.txt 2>&1\ntrue"));
    fs::read_to_string(stage.inside(0, "/root/said.txt")).unwrap()
}

fn is_said(message: &str, said: &str) -> bool {
    said.lines().any(|line| fits(&[format!("…{message}…")], line))
}

/// What cargo would show.
fn by_build(script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "-o"])
        .arg(&program)
        .arg(page::root().join(script))
        .status();
    assert!(compiled.unwrap().success(), "{script}");
    let output = Command::new(program).env_clear().output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
