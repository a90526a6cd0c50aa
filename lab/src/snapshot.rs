//! What a network daemon could change on a host, as text that two looks are compared by.

mod files;
mod plain;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use regex::Regex;

use crate::program::{command, succeed};
use crate::{Family, LabError, Namespace};

/// Begins each part with a line `@@ <part>`.
const PART: &str = "part() { echo \"@@ $1\"; }\n";
/// Prints what the kernel holds of legacy iptables. The program makes a table by listing it: looking must not change what
/// is looked at, so that only those are listed that the kernel names already.
const LEGACY: &str = r#"
legacy() {
    [ -e "/proc/net/$1_names" ] || return 0
    while read -r table; do
        "$2" -t "$table" </dev/null
    done <"/proc/net/$1_names"
}
"#;
/// One family at a time: `nft` 1.0.6 leaves out targets of iptables in the second family that it lists. It shows the
/// chains that there are, and `iptables-nft-save` whole rules.
const RULES: &str = "
part nftables; for family in ip ip6 inet arp bridge netdev; do nft -s list ruleset $family; done
part iptables-nft; iptables-nft-save
part ip6tables-nft; ip6tables-nft-save
part iptables; legacy ip_tables iptables-legacy-save
part ip6tables; legacy ip6_tables ip6tables-legacy-save
";
const RULES_V4: &str = "
part nftables; nft -s list ruleset ip
part iptables; legacy ip_tables iptables-legacy-save
";
const RULES_V6: &str = "
part nftables; nft -s list ruleset ip6
part ip6tables; legacy ip6_tables ip6tables-legacy-save
";
const ALL_ELSE: &str = "
part links; ip -o -d link show
part addresses; ip -o addr show
part routes; ip -d -4 route show table all; ip -d -6 route show table all
part nexthops; ip -d nexthop show
part rules; ip -4 rule show; ip -6 rule show
part neighbours; ip neigh show nud permanent; ip neigh show nud noarp; ip neigh show proxy
part fdb; bridge fdb show
part sysctls; cd /proc/sys/net; grep -rs '' ipv4 ipv6 bridge || true
";

/// The parts of which the order of lines has a meaning.
const ORDERED: &[&str] = &[
    "rules",
    "nftables",
    "iptables-nft",
    "ip6tables-nft",
    "iptables",
    "ip6tables",
];

/// Everything of a namespace that a network daemon could change, and the files below some directories.
///
/// Parts: `links`, `addresses`, `routes` (every table), `nexthops`, `rules`, `neighbours`, `fdb`, `nftables`,
/// `iptables-nft` and `ip6tables-nft` (the same tables as iptables sees them), `iptables` and `ip6tables` (the legacy
/// variants), `sysctls` (`net.ipv4`, `net.ipv6`, `net.bridge`) and `files`.
///
/// Left out, because it changes by itself: interface indices, timers of bridges and remaining lifetimes of addresses and
/// routes; counters of rules; neighbours and FDB entries that were learned, or that the kernel keeps for multicast
/// groups; legacy iptables tables as the kernel makes them, which nothing but unloading a module takes away; the logs of
/// the lab's own daemons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<String, Vec<String>>,
}

impl Namespace {
    /// Looks at everything here, and at the files below `directories`, of which one that is not there has none.
    ///
    /// # Errors
    /// Those of the programs, and [`LabError::Io`] for a file that cannot be read.
    pub fn snapshot<P: AsRef<Path>>(&self, directories: &[P]) -> Result<Snapshot, LabError> {
        let mut snapshot = self.look(&[PART, LEGACY, RULES, ALL_ELSE].concat())?;
        let mut files = Vec::new();
        for directory in directories {
            files::list(directory.as_ref(), &mut files)?;
        }
        files.sort();
        snapshot.parts.insert("files".into(), files);
        Ok(snapshot)
    }

    /// Looks at the packet filter alone.
    ///
    /// # Errors
    /// Those of the programs.
    pub fn snapshot_of_rules(&self) -> Result<Snapshot, LabError> {
        self.look(&[PART, LEGACY, RULES].concat())
    }

    /// Looks at the packet filter of one family, and at nothing twice: parts `nftables` (at one moment), then `iptables`
    /// or `ip6tables`. The quickest look.
    ///
    /// # Errors
    /// Those of the programs.
    pub fn snapshot_of_family(&self, family: Family) -> Result<Snapshot, LabError> {
        let rules = match family {
            Family::V4 => RULES_V4,
            Family::V6 => RULES_V6,
        };
        self.look(&[PART, LEGACY, rules].concat())
    }

    fn look(&self, script: &str) -> Result<Snapshot, LabError> {
        // Without `ip netns exec`, whose mounts take longer than the look.
        let text = self.inside(|| succeed(command("sh", ["-euc", script]), ""))??;
        Ok(Snapshot::read(&text))
    }
}

impl Snapshot {
    fn read(text: &str) -> Self {
        let mut parts = BTreeMap::new();
        for part in text.split("@@ ").skip(1) {
            let (name, text) = part.split_once('\n').unwrap_or((part, ""));
            let mut lines = plain::lines(name, text);
            if !ORDERED.contains(&name) {
                lines.sort();
            }
            parts.insert(name.to_owned(), lines);
        }
        Self { parts }
    }

    /// The lines of a part; none for one that there is not.
    pub fn part(&self, name: &str) -> &[String] {
        self.parts.get(name).map_or(&[], Vec::as_slice)
    }

    /// The same without the lines that match a regular expression: without what is known to be a daemon's own, for
    /// example.
    ///
    /// # Errors
    /// [`LabError::Text`] if the pattern is none.
    pub fn without(mut self, pattern: &str) -> Result<Self, LabError> {
        let own =
            Regex::new(pattern).map_err(|error| LabError::text("a pattern of lines", error, pattern))?;
        for lines in self.parts.values_mut() {
            lines.retain(|line| !own.is_match(line));
        }
        Ok(self)
    }

    /// What is otherwise in `later`, part by part, with `-` before a line that is gone and `+` before one that came;
    /// empty where nothing is.
    pub fn diff(&self, later: &Self) -> String {
        let mut text = String::new();
        for name in self.parts.keys() {
            let (before, after) = (self.part(name), later.part(name));
            if before == after {
                continue;
            }
            // `let _`: writing to a String cannot fail.
            let _ = writeln!(text, "{name}:");
            let (gone, came) = (missing(before, after), missing(after, before));
            let moved = gone.is_empty() && came.is_empty();
            let (gone, came) = if moved {
                (before.to_vec(), after.to_vec())
            } else {
                (gone, came)
            };
            for (sign, lines) in [('-', gone), ('+', came)] {
                for line in lines {
                    let _ = writeln!(text, "  {sign} {line}");
                }
            }
            if moved {
                let _ = writeln!(text, "  the same lines in another order");
            }
        }
        text
    }

    /// Fails with [`Self::diff`] unless `later` is equal.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_same(&self, later: &Self, when: &str) {
        let diff = self.diff(later);
        assert!(diff.is_empty(), "{when}, this is otherwise:\n{diff}");
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, lines) in &self.parts {
            writeln!(f, "{name}:")?;
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// The lines that `before` has and `after` has not, or not as often.
fn missing(before: &[String], after: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = after.iter().collect();
    let mut gone = Vec::new();
    for line in before {
        match left.iter().position(|other| *other == line) {
            Some(index) => drop(left.swap_remove(index)),
            None => gone.push(line.clone()),
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lab, Options};

    const NOWHERE: &[&str] = &[];

    /// By part: what makes a difference there, and what takes it back.
    const CHANGES: &[(&str, &str, &str)] = &[
        ("links", "ip link add d0 type bridge", "ip link del d0"),
        ("links", "ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500"),
        (
            "addresses",
            "ip addr add 10.9.0.1/32 dev lo",
            "ip addr del 10.9.0.1/32 dev lo",
        ),
        (
            "routes",
            "ip route add 10.9.0.0/16 dev eth0 proto 70",
            "ip route del 10.9.0.0/16",
        ),
        (
            "routes",
            "ip -6 route add blackhole fd99::/64 table 9",
            "ip -6 route del fd99::/64 table 9",
        ),
        (
            "nexthops",
            "ip nexthop add id 7 via 192.168.77.9 dev eth0",
            "ip nexthop del id 7",
        ),
        (
            "rules",
            "ip rule add from 10.9.0.0/16 table 9",
            "ip rule del from 10.9.0.0/16 table 9",
        ),
        (
            "neighbours",
            "ip neigh add 192.168.77.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
            "ip neigh del 192.168.77.9 dev eth0",
        ),
        (
            "fdb",
            "bridge fdb add 02:00:00:00:00:09 dev eth0 self permanent",
            "bridge fdb del 02:00:00:00:00:09 dev eth0 self permanent",
        ),
        ("nftables", "nft add table ip6 x", "nft delete table ip6 x"),
        (
            "iptables",
            "iptables-legacy -t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE",
            "iptables-legacy -t nat -F POSTROUTING",
        ),
        ("ip6tables", "ip6tables-legacy -N X", "ip6tables-legacy -X X"),
        (
            "sysctls",
            "sysctl -qw net.ipv4.ip_forward=0",
            "sysctl -qw net.ipv4.ip_forward=1",
        ),
        (
            "sysctls",
            "sysctl -qw net.ipv6.conf.eth0.accept_ra=0",
            "sysctl -qw net.ipv6.conf.eth0.accept_ra=1",
        ),
    ];

    #[test]
    fn a_change_of_any_kind_shows_in_its_part_and_once_it_is_undone_nothing_does() {
        let lab = Lab::new("snapshot", Options::hosts(1)).unwrap();
        let host = lab.host(0);
        let look = || host.snapshot(NOWHERE).unwrap();
        let before = look();
        for (part, change, undo) in CHANGES {
            host.exec(&change.split(' ').collect::<Vec<_>>()).unwrap();
            let diff = before.diff(&look());
            assert!(diff.contains(&format!("{part}:\n")), "{change}: {diff:?}");
            host.exec(&undo.split(' ').collect::<Vec<_>>()).unwrap();
            before.assert_same(&look(), undo);
        }
    }

    #[test]
    fn looking_makes_no_table_that_was_not_there() {
        let lab = Lab::new("looking", Options::hosts(1)).unwrap();
        let host = lab.host(0);
        host.snapshot(NOWHERE).unwrap();
        assert_eq!(host.exec(&["nft", "list", "tables"]).unwrap(), "");
        let names = ["cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
        assert_eq!(host.exec(&names).unwrap(), "");
    }

    #[test]
    fn a_difference_names_its_part_and_what_came_and_went() {
        let before = Snapshot::read("@@ routes\na\nb\n@@ rules\n1\n2\n");
        let after = Snapshot::read("@@ routes\nb\nc\n@@ rules\n1\n2\n");
        assert_eq!(before.diff(&after), "routes:\n  - a\n  + c\n");
        assert_eq!(before.diff(&before.clone()), "");
    }

    #[test]
    fn lines_that_are_left_out_make_no_difference() {
        let look = |links: &str| Snapshot::read(&format!("@@ links\n{links}@@ rules\n1\n"));
        let own = |snapshot: Snapshot| snapshot.without(r"\bflannel\.1\b").unwrap();
        let before = own(look("eth0: UP\n"));
        assert_eq!(before.diff(&own(look("eth0: UP\nflannel.1: UP\n"))), "");
        assert_eq!(
            before.diff(&own(look("eth0: UP\nflannel.10: UP\n"))),
            "links:\n  + flannel.10: UP\n"
        );
        assert!(look("").without("(").is_err());
    }

    #[test]
    fn order_counts_where_it_has_a_meaning() {
        let look =
            |routes: &str, rules: &str| Snapshot::read(&format!("@@ routes\n{routes}@@ rules\n{rules}"));
        assert_eq!(look("a\nb\n", "").diff(&look("b\na\n", "")), "");
        let diff = look("", "1\n2\n").diff(&look("", "2\n1\n"));
        assert!(diff.contains("in another order"), "{diff}");
    }

    #[test]
    fn one_of_two_equal_lines_that_is_gone_is_missed() {
        let twice = ["a".to_owned(), "a".to_owned()];
        assert_eq!(missing(&twice, &twice[..1]), ["a"]);
        assert!(missing(&twice[..1], &twice).is_empty());
    }
}
