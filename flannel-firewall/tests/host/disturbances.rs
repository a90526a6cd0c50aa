//! What others do to our rules.

use flannel_core::Family;

use crate::setting::{Mode, program};

/// Something that somebody does to our rules of a family, for the shell.
pub(crate) struct Disturbance {
    pub(crate) what: &'static str,
    pub(crate) command: String,
}

/// Everything that is to be put right.
pub(crate) fn all(mode: Mode, family: Family) -> Vec<Disturbance> {
    let list = match mode {
        Mode::Nftables => in_nftables(family),
        Mode::IptablesNft => {
            let mut list = in_iptables(mode, family);
            let header = header(family);
            list.extend([
                ("the table is deleted", format!("nft delete table {header} nat")),
                ("everything is flushed", "nft flush ruleset".to_owned()),
            ]);
            list
        }
        Mode::IptablesLegacy => in_iptables(mode, family),
    };
    list.into_iter()
        .map(|(what, command)| Disturbance { what, command })
        .collect()
}

fn in_nftables(family: Family) -> Vec<(&'static str, String)> {
    let header = header(family);
    let table = match family {
        Family::V4 => "ip flannel-ipv4",
        Family::V6 => "ip6 flannel-ipv6",
    };
    let (network, _, groups) = nets(family);
    let masquerade = format!("{header} saddr {network} {header} daddr != {groups} masquerade fully-random");
    let handle = |chain: &str, rule: &str| {
        format!("$(nft -a list chain {table} {chain} | sed -n 's,.*{rule} # handle ,,p' | head -n 1)")
    };
    let delete =
        |chain: &str, rule: &str| format!("nft delete rule {table} {chain} handle {}", handle(chain, rule));
    vec![
        ("a rule is deleted", delete("postrtg", "return")),
        ("a forwarding rule is deleted", delete("forward", "accept")),
        (
            "a foreign rule is first",
            format!("nft insert rule {table} postrtg accept"),
        ),
        (
            "a foreign rule is last",
            format!("nft add rule {table} forward drop"),
        ),
        (
            "rules are in another order",
            format!(
                "{} && nft insert rule {table} postrtg {masquerade}",
                delete("postrtg", &masquerade)
            ),
        ),
        (
            "a rule is replaced",
            format!(
                "nft replace rule {table} postrtg handle {} {header} saddr {network} accept",
                handle("postrtg", "return")
            ),
        ),
        ("the chain is flushed", format!("nft flush chain {table} postrtg")),
        ("there is another chain", format!("nft add chain {table} other")),
        (
            "the policy is to drop",
            format!("nft chain {table} forward '{{ policy drop; }}'"),
        ),
        (
            "the table sleeps",
            format!("nft add table {table} '{{ flags dormant; }}'"),
        ),
        (
            "the chain is another hook's",
            format!(
                "nft delete chain {table} forward && nft add chain {table} forward '{{ type filter hook input \
                 priority 0; }}' && nft add rule {table} forward {header} saddr {network} accept && \
                 nft add rule {table} forward {header} daddr {network} accept"
            ),
        ),
        ("the table is deleted", format!("nft delete table {table}")),
        ("everything is flushed", "nft flush ruleset".to_owned()),
    ]
}

fn in_iptables(mode: Mode, family: Family) -> Vec<(&'static str, String)> {
    let program = program(mode, family);
    let (network, subnet, groups) = nets(family);
    let (nat, filter) = (format!("{program} -t nat"), format!("{program} -t filter"));
    let jump = "POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG";
    let masquerade = format!(
        "FLANNEL-POSTRTG -s {network} ! -d {groups} -m comment --comment 'flanneld masq' -j MASQUERADE --random-fully"
    );
    vec![
        ("a rule is deleted", format!("{nat} -D FLANNEL-POSTRTG 2")),
        (
            "a forwarding rule is deleted",
            format!("{filter} -D FLANNEL-FWD 2"),
        ),
        (
            "a foreign rule is first",
            format!("{nat} -I FLANNEL-POSTRTG -j ACCEPT"),
        ),
        (
            "a foreign rule is last",
            format!("{filter} -A FLANNEL-FWD -j DROP"),
        ),
        (
            "rules are in another order",
            format!("{nat} -D {masquerade} && {nat} -I {masquerade}"),
        ),
        (
            "a rule is replaced",
            format!("{nat} -R FLANNEL-POSTRTG 3 -s {network} -d {subnet} -j ACCEPT"),
        ),
        ("a rule is doubled", format!("{nat} -A {masquerade}")),
        ("the chain is flushed", format!("{nat} -F FLANNEL-POSTRTG")),
        ("the jump is deleted", format!("{nat} -D {jump}")),
        ("the jump is doubled", format!("{nat} -A {jump}")),
        (
            "the jump is there three times",
            format!("{nat} -A {jump} && {nat} -A {jump}"),
        ),
        ("POSTROUTING is flushed", format!("{nat} -F POSTROUTING")),
        ("the tables are flushed", format!("{nat} -F && {filter} -F")),
        (
            "the tables are flushed and swept",
            format!("{nat} -F && {nat} -X && {filter} -F && {filter} -X"),
        ),
    ]
}

const fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The network, our subnet of it, and all groups.
const fn nets(family: Family) -> (&'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("10.244.0.0/16", "10.244.7.0/24", "224.0.0.0/4"),
        Family::V6 => ("fd00:244::/48", "fd00:244:0:7::/64", "ff00::/8"),
    }
}
