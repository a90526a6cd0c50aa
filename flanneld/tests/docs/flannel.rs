//! Hosts that run flannel v0.28, and what the page about it says of flags and log lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::page::{self, Page, code_spans};
use crate::stage::Stage;

/// flannel as a service, a bridge with its subnet, and a pod behind it.
const RUNS_FLANNEL: &str = r"
cat >/etc/systemd/system/flanneld.service <<END
[Service]
Type=simple
ExecStart=/bin/bash @SOURCE@/flannel.sh
[Install]
WantedBy=multi-user.target
END
systemctl enable --now flanneld &&
until [ -s /run/flannel/subnet.env ]; do sleep 0.05; done &&
. /run/flannel/subnet.env &&
ip link add docker0 type bridge && ip addr add $FLANNEL_SUBNET dev docker0 && ip link set docker0 up &&
ip netns add pod && ip link add veth0 master docker0 up type veth peer name eth0 netns pod &&
ip -n pod addr add ${FLANNEL_SUBNET%.1/24}.3/24 dev eth0 && ip -n pod link set eth0 up &&
ip -n pod route add default via ${FLANNEL_SUBNET%/24}
";

pub(crate) fn run_flannel(stage: &mut Stage, backend: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs");
    let config = format!(r#"{{"Network":"172.7.0.0/16","Backend":{{"Type":"{backend}"}}}}"#);
    stage.prepare(0, &format!("etcdctl put /coreos.com/network/config '{config}'"));
    for host in [0, 1] {
        stage.prepare(
            host,
            &RUNS_FLANNEL.replace("@SOURCE@", &source.display().to_string()),
        );
    }
}

/// What the table says of each flag, next to what `flanneld --help` says.
pub(crate) fn compare_flags(page: &Page, heading: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_flanneld"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut flags = BTreeMap::new();
    let mut lines = help.lines();
    while let Some(line) = lines.next() {
        if let Some(flag) = line.strip_prefix("  --") {
            let name = flag.split([' ', ',']).next().unwrap();
            let help = lines.next().unwrap_or_default();
            let here = if help.ends_with("(not there yet)") {
                "not there yet"
            } else if help.contains("accepted, has no effect") {
                "ignored"
            } else {
                "there"
            };
            flags.insert(format!("--{name}"), here);
        }
    }
    let table = page.rows(heading).into_iter().map(|(_, cells)| {
        let name = code_spans(&cells[0]).remove(0);
        let here = match cells[1].as_str() {
            "same" | "new" => "there",
            "ignored" => "ignored",
            "not there yet" => "not there yet",
            other => panic!("{}: {name} is {other:?}", page.name),
        };
        (name, here)
    });
    assert_eq!(table.collect::<BTreeMap<_, _>>(), flags);
}

/// Where the lines about single changes are put together.
const PASS_LOG: &str = include_str!("../../../flannel-core/src/engine/pass_log.rs");

/// Whether it is one of them: of what kind the object is, and what became of it.
fn is_change(message: &str) -> bool {
    let quoted = |word: &str| PASS_LOG.contains(&format!("\"{word}\""));
    let spaces = message.match_indices(' ');
    let mut parts = spaces.map(|(at, _)| (&message[..at], &message[at + 1..]));
    parts.any(|(kind, became)| quoted(kind) && (quoted(became) || quoted(&format!("{{}} {became}"))))
}

/// Every line that this column of the table says this program logs is one that a source holds.
pub(crate) fn find_log_lines(page: &Page, heading: &str, column: usize) {
    let mut source = String::new();
    for krate in fs::read_dir(page::root()).unwrap() {
        read_sources(&krate.unwrap().path().join("src"), &mut source);
    }
    for (line, cells) in page.rows(heading) {
        for message in code_spans(&cells[column]) {
            for part in message
                .split('…')
                .map(str::trim_end)
                .filter(|part| !part.is_empty())
            {
                let is_command = part.starts_with("flanneld status");
                assert!(
                    is_command || is_change(part) || source.contains(part),
                    "{}:{line}: nobody logs {part:?}",
                    page.name
                );
            }
        }
    }
}

fn read_sources(directory: &Path, source: &mut String) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, source);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            source.extend(text.split("\\\n").map(str::trim_start));
        }
    }
}
