//! What the tests of faults, restarts and clean-ups share: one host for each way to keep rules, and what is seen there.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::{Daemon, DaemonOptions, Families, Family, Host, Lab, Options, Snapshot, wait_until};

pub(crate) const V4: &str = "10.77.0.0/16";
pub(crate) const V6: &str = "fd77::/48";
/// For what takes milliseconds, on a machine under load, where the time is not what is tested.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Said once, when the kernel is as the leases ask for the first time.
const SETTLED: &str = "routes are in place";
/// Where every program is that a daemon may run.
const SYSTEM: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// What a daemon says of itself comes as fast.
const ANSWER: Duration = Duration::from_secs(2);

/// By what rules are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `nft`.
    Nftables,
    /// The variant of `iptables` that is built on nftables.
    Iptables,
    /// The one that is not.
    Legacy,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Legacy];

    /// Letters for a lab's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nft",
            Self::Iptables => "ipt",
            Self::Legacy => "leg",
        }
    }

    pub(crate) fn nftables(self) -> bool {
        self == Self::Nftables
    }

    /// The `iptables` of both families that an operator of such a host has.
    pub(crate) fn iptables(self) -> [&'static str; 2] {
        match self {
            Self::Nftables | Self::Iptables => ["iptables-nft", "ip6tables-nft"],
            Self::Legacy => ["iptables-legacy", "ip6tables-legacy"],
        }
    }

    /// The one program behind the `iptables` of both families.
    fn multi(self) -> &'static str {
        match self {
            Self::Nftables | Self::Iptables => "xtables-nft-multi",
            Self::Legacy => "xtables-legacy-multi",
        }
    }

    pub(crate) fn config(self) -> String {
        config(self.nftables(), V4, V6)
    }
}

pub(crate) fn config(nftables: bool, v4: &str, v6: &str) -> String {
    format!(
        r#"{{"Network":"{v4}","EnableIPv6":true,"IPv6Network":"{v6}","EnableNFTables":{nftables},"Backend":{{"Type":"host-gw"}}}}"#
    )
}

/// A host to keep rules on, and a second one without a daemon, which knows no way to the pods.
pub(crate) struct Ground {
    pub(crate) lab: Lab,
    pub(crate) mode: Mode,
}

impl Ground {
    pub(crate) fn new(name: &str, mode: Mode) -> Self {
        let options = Options::hosts(2)
            .families(Families::Both)
            .flanneld(env!("CARGO_BIN_EXE_flanneld"));
        let lab = Lab::new(&format!("{}{name}", mode.name()), options).unwrap();
        lab.write_config(&mode.config()).unwrap();
        let ground = Self { lab, mode };
        ground.lay_programs();
        ground
    }

    pub(crate) fn host(&self) -> &Host {
        self.lab.host(0)
    }

    pub(crate) fn outside(&self) -> &Host {
        self.lab.host(1)
    }

    /// Programs that come first in the daemon's `PATH`: each notes that it was called, and becomes the real one.
    fn lay_programs(&self) {
        fs::create_dir_all(self.programs()).unwrap();
        fs::write(self.calls_file(), "").unwrap();
        self.lay_program("nft", "/usr/sbin/nft");
        self.lay_iptables(self.mode.multi());
    }

    /// Makes this the program behind `iptables`.
    pub(crate) fn lay_iptables(&self, multi: &str) {
        for family in ["iptables", "ip6tables"] {
            for part in ["", "-save", "-restore"] {
                let name = format!("{family}{part}");
                self.lay_program(&name, &format!("/usr/sbin/{multi} {name}"));
            }
        }
    }

    fn lay_program(&self, name: &str, becomes: &str) {
        let calls = self.calls_file();
        let text = format!(
            "#!/bin/sh\necho \"{name} $*\" >>{}\nexec {becomes} \"$@\"\n",
            calls.display()
        );
        let path = self.programs().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn programs(&self) -> PathBuf {
        self.lab.directory().join("programs")
    }

    fn calls_file(&self) -> PathBuf {
        self.lab.directory().join("calls")
    }

    /// The programs that daemons have run so far, with their arguments.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.calls_file()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// How many of these may have changed rules.
    pub(crate) fn writes(&self) -> usize {
        let writes = |call: &&String| {
            let (program, arguments) = call.split_once(' ').unwrap_or((call, ""));
            let given = |options: &[&str]| arguments.split(' ').any(|word| options.contains(&word));
            match program {
                "nft" => given(&["-f"]) && !given(&["-c", "--check"]),
                _ => program.ends_with("-restore") && !given(&["-t", "--test"]),
            }
        };
        self.calls().iter().filter(writes).count()
    }

    pub(crate) fn path(&self) -> String {
        format!("{}:{SYSTEM}", self.programs().display())
    }

    /// A daemon that masquerades, with these arguments more.
    pub(crate) fn options(&self, arguments: &[&str]) -> DaemonOptions {
        self.plain_options(&[&["--ip-masq"], arguments].concat())
    }

    /// One that does not.
    pub(crate) fn plain_options(&self, arguments: &[&str]) -> DaemonOptions {
        let mut options = DaemonOptions::arguments(arguments.iter().copied());
        options.environment.push(("PATH".into(), self.path()));
        options
    }

    /// Starts one and waits until its routes and rules are in place.
    #[track_caller]
    pub(crate) fn start(&self, options: DaemonOptions) -> Daemon {
        start(self.host(), options)
    }

    /// Rules of somebody else, before any of ours and of every kind that there may be on such a host.
    pub(crate) fn lay_rules_of_an_operator(&self) {
        let host = self.host();
        host.exec(&["nft", OPERATORS]).unwrap();
        for (program, net) in self
            .mode
            .iptables()
            .into_iter()
            .zip(["172.30.0.0/16", "fd99::/64"])
        {
            for rule in [
                format!("-t nat -A POSTROUTING -s {net} -m comment --comment operator -j MASQUERADE"),
                "-t nat -A POSTROUTING -p udp --dport 7 -j ACCEPT".into(),
                "-N OPERATOR".into(),
                format!("-A OPERATOR -s {net} -j DROP"),
                "-A FORWARD -j OPERATOR".into(),
                "-A INPUT -p tcp --dport 9 -j DROP".into(),
            ] {
                run(host, &format!("{program} {rule}"));
            }
        }
    }
}

/// A table of an operator, with chains at the hooks that ours have.
const OPERATORS: &str = "
table inet operator {
    set known { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
    chain post { type nat hook postrouting priority 90; policy accept; ip saddr @known masquerade; }
    chain through { type filter hook forward priority 10; policy accept; ip saddr 192.0.2.0/24 drop; }
}";

/// Starts a daemon and waits until its routes and rules are in place.
#[track_caller]
pub(crate) fn start(host: &Host, options: DaemonOptions) -> Daemon {
    let state = state_directory(host, &options);
    let daemon = host.start_daemon(options).unwrap();
    daemon.wait_for_log(SETTLED, SOON).unwrap();
    let mut said = Vec::new();
    let ready = wait_until(SOON, "", || {
        said = readiness(&state);
        is_ready(&said)
    });
    assert!(ready.is_ok(), "not ready, but {said:?}\n{}", daemon.log());
    daemon
}

/// Where a daemon of these options keeps its state.
pub(crate) fn state_directory(host: &Host, options: &DaemonOptions) -> PathBuf {
    let named = options
        .arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--state-dir="));
    named.map_or_else(|| host.state_directory(&options.instance), PathBuf::from)
}

/// What the daemons that share a state directory answer to `/readyz`: code and text.
pub(crate) fn readiness(state: &Path) -> Vec<(u16, String)> {
    let Ok(entries) = fs::read_dir(state) else {
        return Vec::new();
    };
    let sockets = entries.flatten().map(|entry| entry.path().join("status.sock"));
    // One that nobody listens at is of a daemon that was killed.
    let streams = sockets.filter_map(|socket| UnixStream::connect(socket).ok());
    streams.map(|stream| ask(stream).unwrap_or_default()).collect()
}

pub(crate) fn is_ready(answers: &[(u16, String)]) -> bool {
    !answers.is_empty() && answers.iter().all(|(code, _)| *code == 200)
}

fn ask(mut stream: UnixStream) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Runs a line of words that hold no blanks.
#[track_caller]
pub(crate) fn run(host: &Host, line: &str) -> String {
    host.exec(&line.split_whitespace().collect::<Vec<_>>()).unwrap()
}

/// The lines of the packet filter, of every program's rules.
pub(crate) fn rules(host: &Host) -> Vec<String> {
    lines_of(&host.snapshot_of_rules().unwrap())
}

/// Those of one family, of which each rule is told once.
pub(crate) fn rules_of(host: &Host, family: Family) -> Vec<String> {
    lines_of(&host.snapshot_of_family(family).unwrap())
}

fn lines_of(snapshot: &Snapshot) -> Vec<String> {
    [
        "nftables",
        "iptables-nft",
        "ip6tables-nft",
        "iptables",
        "ip6tables",
    ]
    .iter()
    .flat_map(|part| {
        let mut lines = snapshot.part(part).to_vec();
        // Chains are listed in the order of their making, which means nothing. Rules stay in theirs.
        lines.sort_by(|one, other| chain_of(one).cmp(&chain_of(other)));
        lines
    })
    .collect()
}

/// The table and the chain at the beginning of a line.
fn chain_of(line: &str) -> Vec<&str> {
    if line.starts_with("table ") {
        line.split(": ").take(2).collect()
    } else {
        // `nat: :CHAIN -`, and `nat: -A CHAIN …`.
        let words = line
            .split([' ', ':'])
            .filter(|word| !word.is_empty() && *word != "-A");
        words.take(2).collect()
    }
}

/// Of the lines of rules those that are flannel's: in its chains and tables, and the jumps there.
pub(crate) fn ours(rules: &[String]) -> Vec<String> {
    let of = |line: &&String| line.to_ascii_lowercase().contains("flannel");
    rules.iter().filter(of).cloned().collect()
}

/// The others.
pub(crate) fn others(rules: &[String]) -> Vec<String> {
    let of = |line: &&String| !line.to_ascii_lowercase().contains("flannel");
    rules.iter().filter(of).cloned().collect()
}

/// Fails if a rule that somebody else had before is gone. More tables and chains may be there: those that iptables makes.
#[track_caller]
pub(crate) fn assert_all_there(before: &[String], now: &[String]) {
    let missing: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(missing.is_empty(), "gone, of what others had: {missing:#?}");
}

/// Waits until our rules are exactly these, and returns how long that took.
#[track_caller]
pub(crate) fn wait_for_ours(host: &Host, expected: &[String], within: Duration, after: &str) -> Duration {
    let begin = Instant::now();
    let mut seen = Vec::new();
    let equal = wait_until(within, "", || {
        seen = ours(&rules(host));
        seen == expected
    });
    assert!(
        equal.is_ok(),
        "{within:?} after {after}, our rules are\n{seen:#?}\nbut ought to be\n{expected:#?}"
    );
    begin.elapsed()
}

/// Whether packets that leave `network` are masqueraded, by whatever program's rules.
pub(crate) fn masquerades(rules: &[String], network: &str) -> bool {
    let has = |chain: &str, parts: &[&str]| {
        let mut in_chain = rules.iter().filter(|line| line.starts_with(chain));
        in_chain.any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let (family, groups) = if network.contains(':') {
        ("ip6", "ff00::/8")
    } else {
        ("ip", "224.0.0.0/4")
    };
    let nft = [
        format!("{family} saddr {network} {family} daddr != {groups} "),
        "masquerade".into(),
    ];
    let legacy = [format!("-s {network} ! -d {groups} "), "-j MASQUERADE".into()];
    let nft = nft.each_ref().map(String::as_str);
    let legacy = legacy.each_ref().map(String::as_str);
    let base = format!("table {family} nat: chain POSTROUTING: ");
    has(&format!("table {family} flannel-"), &nft)
        || has(&base, &nft)
        || has(&base, &["jump FLANNEL-POSTRTG"])
            && has(&format!("table {family} nat: chain FLANNEL-POSTRTG"), &nft)
        || has("nat: -A POSTROUTING ", &legacy)
        || has("nat: -A POSTROUTING ", &["-j FLANNEL-POSTRTG"]) && has("nat: -A FLANNEL-POSTRTG", &legacy)
}

/// Prints times, and returns the longest.
pub(crate) fn report(what: &str, times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let longest = sorted[sorted.len() - 1];
    println!(
        "{what}: median {:.2?}, longest {longest:.2?}, of {}",
        sorted[sorted.len() / 2],
        sorted.len()
    );
    longest
}
