//! A network namespace with programs, and what is in its packet filter.

use std::fmt::Write as _;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use flannel_core::{Family, Firewall, Kept, PerFamily, PodNetwork};
use flannel_firewall::{HostFirewall, Names, RuleOptions};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where rules go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Nftables, Mode::IptablesNft, Mode::IptablesLegacy];

pub(crate) const ALL_RULES: RuleOptions = RuleOptions {
    masquerade: true,
    forward: true,
    random_fully: true,
};

const FILES: &str = "/usr/sbin";

/// Programs in a directory, as a host has them.
pub(crate) struct Programs(TempDir);

impl Programs {
    /// All that there are, `iptables` being of the mode's variant.
    pub(crate) fn of(mode: Mode) -> Self {
        let programs = Self::none();
        programs.add("nft", "nft");
        for name in ["iptables", "ip6tables"] {
            let usual = if mode == Mode::IptablesLegacy {
                "legacy"
            } else {
                "nft"
            };
            programs.add_iptables(name, &format!("{name}-{usual}"));
            for variant in ["nft", "legacy"] {
                let name = format!("{name}-{variant}");
                programs.add_iptables(&name, &name);
            }
        }
        programs
    }

    pub(crate) fn none() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn add_iptables(&self, name: &str, program: &str) {
        self.add(name, program);
        self.add(&format!("{name}-restore"), &format!("{program}-restore"));
    }

    /// Has `iptables` be the mode's variant.
    pub(crate) fn set_iptables(&self, mode: Mode) {
        let variant = if mode == Mode::IptablesLegacy {
            "legacy"
        } else {
            "nft"
        };
        for name in ["iptables", "ip6tables"] {
            for program in [name.to_owned(), format!("{name}-restore")] {
                let _ = std::fs::remove_file(self.0.path().join(program));
            }
            self.add_iptables(name, &format!("{name}-{variant}"));
        }
    }

    pub(crate) fn add(&self, name: &str, program: &str) {
        let file = std::fs::canonicalize(Path::new(FILES).join(program)).unwrap();
        symlink(file, self.0.path().join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub(crate) fn firewall(&self, options: RuleOptions) -> HostFirewall {
        self.firewall_named(options, Names::flannels())
    }

    pub(crate) fn firewall_named(&self, options: RuleOptions, names: Names) -> HostFirewall {
        HostFirewall::new(options, names, Duration::from_secs(5)).with_programs_of(vec![self.directory()])
    }
}

/// Runs a test in a network namespace of its own, this thread's.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: F) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test);
}

/// Runs a test for each mode, each time in a namespace of its own.
pub(crate) fn in_each_mode(test: impl AsyncFn(Mode, &Programs)) {
    for mode in MODES {
        let programs = Programs::of(mode);
        in_namespace(test(mode, &programs));
    }
}

/// `10.244.0.0/16` with `10.244.7.0/24`, and the like of IPv6.
pub(crate) fn pods(mode: Mode) -> PodNetwork {
    PodNetwork {
        networks: both("10.244.0.0/16", "fd00:244::/48"),
        subnets: both("10.244.7.0/24", "fd00:244:0:7::/64"),
        nftables: mode == Mode::Nftables,
        ..PodNetwork::default()
    }
}

pub(crate) fn both(v4: &str, v6: &str) -> PerFamily<ipnet::IpNet> {
    PerFamily {
        v4: Some(v4.parse().unwrap()),
        v6: Some(v6.parse().unwrap()),
    }
}

pub(crate) async fn keep(firewall: &HostFirewall, pods: &PodNetwork) -> Kept {
    firewall.keep(pods).await.unwrap()
}

/// Keeps the rules, which have to be right already.
pub(crate) async fn keep_untouched(firewall: &HostFirewall, pods: &PodNetwork) {
    let before = handles().await;
    assert_eq!(keep(firewall, pods).await.written, [""; 0]);
    assert_eq!(handles().await, before);
}

/// What the shell prints, of a command that has to succeed.
pub(crate) async fn sh(command: &str) -> String {
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Gives a program a text to read.
pub(crate) async fn feed(program: &str, arguments: &[&str], text: &str) {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .await
        .unwrap();
    assert!(child.wait().await.unwrap().success(), "{program} refuses\n{text}");
}

/// All that the packet filter has, without counters, in both variants' words for it. Tables and chains
/// are sorted: they are kept in the order in which they were made.
pub(crate) async fn everything() -> String {
    // What iptables says below, nft tells now one way and now another.
    let listed = sh("nft -s list ruleset")
        .await
        .replace("counter masquerade fully-random", "counter ");
    let mut text = sorted_blocks(&listed, "}\n");
    for family in ["iptables", "ip6tables"] {
        for variant in ["nft", "legacy"] {
            let saved = sh(&format!("{family}-{variant}-save")).await;
            let lines = saved.lines().filter(|line| !line.starts_with('#'));
            let plain: String = lines
                .map(|line| format!("{}\n", line.split(" [").next().unwrap()))
                .collect();
            let _ = write!(
                text,
                "== {family}-{variant}\n{}",
                sorted_blocks(&plain, "COMMIT\n")
            );
        }
    }
    text
}

/// Sorts tables, and the chains in each.
fn sorted_blocks(text: &str, end: &str) -> String {
    let mut tables: Vec<String> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        table += line;
        table += "\n";
        if format!("{line}\n") == end {
            tables.push(sorted_chains(&table, end));
            table.clear();
        }
    }
    tables.sort_unstable();
    tables.concat()
}

fn sorted_chains(table: &str, end: &str) -> String {
    let (head, body) = table.split_once('\n').unwrap();
    let body = body.strip_suffix(end).unwrap();
    if end == "COMMIT\n" {
        // Rules keep their order, as words of the same chain.
        let mut lines: Vec<&str> = body.lines().collect();
        lines.sort_by_key(|line| line.split(' ').find(|word| *word != "-A"));
        return format!("{head}\n{}\n{end}", lines.join("\n"));
    }
    let mut chains: Vec<&str> = body
        .split("\n\n")
        .map(|chain| chain.trim_end_matches('\n'))
        .collect();
    chains.sort_unstable();
    format!("{head}\n{}\n{end}", chains.join("\n"))
}

/// The same with the numbers that tell a rule from one that was written anew.
pub(crate) async fn handles() -> String {
    sh("nft -a -s list ruleset | sed 's/counter masquerade fully-random/counter /'; iptables-legacy-save -c | grep -v '^#'; ip6tables-legacy-save -c | grep -v '^#'; true")
        .await
}

/// The program that writes rules of a family in a mode.
pub(crate) const fn program(mode: Mode, family: Family) -> &'static str {
    match (mode, family) {
        (Mode::Nftables, _) => "nft",
        (Mode::IptablesNft, Family::V4) => "iptables-nft",
        (Mode::IptablesNft, Family::V6) => "ip6tables-nft",
        (Mode::IptablesLegacy, Family::V4) => "iptables-legacy",
        (Mode::IptablesLegacy, Family::V6) => "ip6tables-legacy",
    }
}
