//! What changes by itself taken out of what programs print.

use regex::Regex;

/// By part: what is taken out of each line, and what stands there instead. A line that ends up empty is left out.
const VOLATILE: &[(&str, &str, &str)] = &[
    // `3: eth0@if8: …`: devices that are made again get another index.
    ("links", r"^\d+: ([^:@]+)(@[^:]+)?:", "$1:"),
    ("links", r"\\ +", ""),
    ("links", r"(hello|tcn|topology_change|gc)_timer +\S+ ", ""),
    ("addresses", r"^\d+: ", ""),
    ("addresses", r"\\ +", ""),
    ("addresses", r" tentative", ""),
    ("addresses", r"_lft \d+sec", "_lft limited"),
    ("routes", r" expires \d+sec", ""),
    ("neighbours", r"^(2(2[4-9]|3\d)\.|ff).*NOARP.*", ""),
    ("fdb", r"^(33:33|01:00:5e):.*", ""),
];

/// The comparable lines of a part.
pub(super) fn lines(part: &str, text: &str) -> Vec<String> {
    match part {
        "nftables" => tables(text),
        "iptables" | "ip6tables" | "iptables-nft" | "ip6tables-nft" => saved_tables(text),
        _ => steady(part, text),
    }
}

fn steady(part: &str, text: &str) -> Vec<String> {
    let volatile = VOLATILE.iter().filter(|(of, ..)| *of == part);
    let volatile: Vec<_> = volatile
        .filter_map(|(_, pattern, instead)| Some((Regex::new(pattern).ok()?, instead)))
        .collect();
    let steady = text.lines().map(|line| {
        volatile.iter().fold(line.to_owned(), |line, (pattern, instead)| {
            pattern.replace_all(&line, **instead).into_owned()
        })
    });
    steady
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty() && (part != "fdb" || is_configured(line)))
        .collect()
}

/// Whether somebody set an FDB entry, or it was learned from a packet.
fn is_configured(entry: &str) -> bool {
    entry
        .split(' ')
        .any(|word| word == "permanent" || word == "static")
}

/// Each line of `nft list ruleset` behind the table and chain that it is in. Tables come sorted, because their order is
/// that of their making and means nothing; what is in them keeps its order.
fn tables(text: &str) -> Vec<String> {
    let mut tables: Vec<Vec<String>> = Vec::new();
    let mut inside: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line == "}" {
            inside.pop();
            continue;
        }
        if inside.is_empty() {
            tables.push(Vec::new());
        }
        let opened = line.strip_suffix(" {");
        let path = [inside.as_slice(), &[opened.unwrap_or(line)]].concat().join(": ");
        if let Some(table) = tables.last_mut() {
            table.push(path);
        }
        inside.extend(opened);
    }
    tables.sort();
    tables.concat()
}

/// Each line of `iptables-save`, without counters, behind its table. A table of built-in chains that are empty and accept
/// is left out: it may be there because somebody looked.
fn saved_tables(text: &str) -> Vec<String> {
    let mut tables: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(vec![name.to_owned()]);
        } else if let (false, Some(table)) = (line.starts_with('#') || line == "COMMIT", tables.last_mut()) {
            let counted = line.starts_with(':').then(|| line.rsplit_once(" [")).flatten();
            table.push(format!(
                "{}: {}",
                table[0],
                counted.map_or(line, |(chain, _)| chain)
            ));
        }
    }
    tables.retain(|table| {
        table
            .iter()
            .skip(1)
            .any(|line| !line.ends_with(" ACCEPT") || !line.contains(": :"))
    });
    tables.sort();
    tables.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same(part: &str, one: &str, other: &str) {
        assert_eq!(lines(part, one), lines(part, other));
    }

    #[test]
    fn what_changes_by_itself_makes_no_difference() {
        same(
            "links",
            "3: eth0@if8: <UP> mtu 1500 \\    link/ether 02:00:00:00:00:01",
            "9: eth0@if4: <UP> mtu 1500 \\    link/ether 02:00:00:00:00:01",
        );
        same(
            "links",
            "2: br0: <UP> \\    bridge hello_timer    0.00 tcn_timer    0.00 gc_timer    0.08 vlan 1",
            "2: br0: <UP> \\    bridge hello_timer    1.53 tcn_timer    0.00 gc_timer  299.18 vlan 1",
        );
        same(
            "addresses",
            "2: br0    inet6 fe80::1/64 scope link tentative \\       valid_lft 20sec preferred_lft forever",
            "5: br0    inet6 fe80::1/64 scope link \\       valid_lft 19sec preferred_lft forever",
        );
        same(
            "routes",
            "fe80::/64 dev a expires 30sec pref low",
            "fe80::/64 dev a expires 29sec pref low",
        );
        same(
            "iptables",
            "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j ACCEPT\nCOMMIT\n# Completed on Sunday\n",
            "*nat\n:POSTROUTING ACCEPT [7:420]\n-A POSTROUTING -j ACCEPT\nCOMMIT\n",
        );
    }

    #[test]
    fn what_somebody_set_does_make_one() {
        for (part, one, other) in [
            ("links", "3: eth0: <UP> mtu 1500", "3: eth0: <UP> mtu 1450"),
            (
                "addresses",
                "2: a inet6 fe80::1/64 valid_lft 20sec",
                "2: a inet6 fe80::1/64 valid_lft forever",
            ),
            (
                "neighbours",
                "10.7.0.1 dev a lladdr 02:00:00:00:00:01 PERMANENT",
                "",
            ),
            ("fdb", "02:00:00:00:00:01 dev vx dst 10.7.0.1 self permanent", ""),
            ("sysctls", "ipv4/ip_forward:1", "ipv4/ip_forward:0"),
            ("iptables", "*nat\n:POSTROUTING DROP [0:0]\nCOMMIT\n", ""),
            (
                "iptables",
                "*nat\n:POSTROUTING ACCEPT [0:0]\n:OURS - [0:0]\nCOMMIT\n",
                "",
            ),
            (
                "iptables",
                "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j ACCEPT\nCOMMIT\n",
                "",
            ),
            ("nftables", "table ip nat {\n}\n", ""),
        ] {
            assert_ne!(lines(part, one), lines(part, other), "{part}");
        }
    }

    #[test]
    fn what_is_learned_or_belongs_to_groups_is_left_out() {
        assert!(lines("neighbours", "ff02::16 dev a lladdr 33:33:00:00:00:16 NOARP \n").is_empty());
        assert!(lines("neighbours", "224.0.0.22 dev a lladdr 01:00:5e:00:00:16 NOARP \n").is_empty());
        let fdb = "33:33:00:00:00:01 dev a self permanent\n02:00:00:00:00:01 dev a master cni0 \n";
        assert!(lines("fdb", fdb).is_empty());
        assert!(
            lines(
                "iptables",
                "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn each_rule_stands_behind_its_table_and_chain_in_its_order_and_tables_in_any() {
        let one = "table ip b {\n\tchain c {\n\t\ttype nat hook postrouting priority 100; policy accept;\n\t\treturn\n\t\tdrop\n\t}\n}\n";
        let other = "table ip a {\n}\n";
        assert_eq!(
            tables(&[one, other].concat()),
            [
                "table ip a",
                "table ip b",
                "table ip b: chain c",
                "table ip b: chain c: type nat hook postrouting priority 100; policy accept;",
                "table ip b: chain c: return",
                "table ip b: chain c: drop",
            ]
        );
        assert_eq!(tables(&[one, other].concat()), tables(&[other, one].concat()));
    }
}
