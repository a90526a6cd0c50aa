//! The command line as users write it, and what becomes of it.

use super::table::{Kind, TABLE};
use super::*;
use crate::logging::LogFormat;

const STORE: &str = "--store=file:///var/lib/flannel/net";

/// A command line of the daemon.
#[derive(Debug)]
struct Run {
    flags: Flags,
    log: LogOptions,
    notes: Vec<Note>,
}

fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Run, Refusal> {
    let lookup = |name: &str| {
        env.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| OsString::from(value))
    };
    let Parsed { command, log, notes } = Parsed::new(args.iter().map(OsString::from), lookup)?;
    match command {
        Command::Run(flags) => Ok(Run {
            flags: *flags,
            log,
            notes,
        }),
        other => panic!("{args:?}: {other:?}"),
    }
}

/// With a store, which every accepted command line needs.
fn parsed(args: &[&str], env: &[(&str, &str)]) -> Run {
    let args: Vec<&str> = [STORE].iter().chain(args).copied().collect();
    parse_with(&args, env).unwrap_or_else(|refusal| panic!("{args:?} {env:?}: {refusal}"))
}

fn flags(args: &[&str]) -> Flags {
    parsed(args, &[]).flags
}

/// Refused with that exit code and with a single line that contains all of that.
fn assert_refused(args: &[&str], env: &[(&str, &str)], exit_code: u8, said: &[&str]) {
    let args: Vec<&str> = [STORE].iter().chain(args).copied().collect();
    assert_refused_without_store(&args, env, exit_code, said);
}

fn assert_refused_without_store(args: &[&str], env: &[(&str, &str)], exit_code: u8, said: &[&str]) {
    let refusal = match parse_with(args, env) {
        Ok(parsed) => panic!("{args:?} {env:?} accepted: {parsed:?}"),
        Err(refusal) => refusal,
    };
    let message = refusal.to_string();
    assert_eq!(refusal.exit_code(), exit_code, "{args:?} {env:?}: {message}");
    assert!(!refusal.to_stdout(), "{args:?}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in said {
        assert!(
            message.contains(part),
            "{args:?} {env:?}: {part:?} is not in: {message}"
        );
    }
}

/// Of flannel v0.28.
#[test]
fn every_flag_of_flannel_is_known_with_its_type_and_default() {
    let flannel = [
        (
            "etcd-endpoints",
            Kind::Text,
            "http://127.0.0.1:4001,http://127.0.0.1:2379",
        ),
        ("etcd-prefix", Kind::Text, "/coreos.com/network"),
        ("etcd-keyfile", Kind::Text, ""),
        ("etcd-certfile", Kind::Text, ""),
        ("etcd-cafile", Kind::Text, ""),
        ("etcd-username", Kind::Text, ""),
        ("etcd-password", Kind::Text, ""),
        ("kube-subnet-mgr", Kind::Bool, "false"),
        ("kube-api-url", Kind::Text, ""),
        ("kubeconfig-file", Kind::Text, ""),
        ("kube-annotation-prefix", Kind::Text, "flannel.alpha.coreos.com"),
        ("set-node-network-unavailable", Kind::Bool, "true"),
        ("net-config-path", Kind::Text, "/etc/kube-flannel/net-conf.json"),
        ("iface", Kind::List, ""),
        ("iface-regex", Kind::List, ""),
        ("iface-can-reach", Kind::Text, ""),
        ("public-ip", Kind::Text, ""),
        ("public-ipv6", Kind::Text, ""),
        ("subnet-file", Kind::Text, "/run/flannel/subnet.env"),
        ("subnet-lease-renew-margin", Kind::Int, "60"),
        ("ip-masq", Kind::Bool, "false"),
        ("ip-masq-fully-random-disable", Kind::Bool, "false"),
        ("iptables-forward-rules", Kind::Bool, "true"),
        ("iptables-resync", Kind::Int, "5"),
        ("ip-blackhole-route", Kind::Bool, "false"),
        ("healthz-ip", Kind::Text, "0.0.0.0"),
        ("healthz-port", Kind::Int, "0"),
        ("version", Kind::Bool, "false"),
        ("v", Kind::Decimal, "0"),
        ("vmodule", Kind::Text, ""),
        ("log_backtrace_at", Kind::Text, ":0"),
    ];
    for (name, kind, default) in flannel {
        let spec = table::find(name).unwrap_or_else(|| panic!("--{name} is unknown"));
        assert_eq!((spec.kind, spec.default), (kind, default), "--{name}");
    }
    let ours = [
        "dry-run",
        "etcd-v2-import",
        "log-format",
        "route-protocol",
        "state-dir",
        "store",
        "subnet",
    ];
    assert_eq!(TABLE.len(), flannel.len() + ours.len());
    assert!(ours.iter().all(|name| table::find(name).is_some()));
    assert!(TABLE.is_sorted_by_key(|spec| spec.name));
}

#[test]
fn without_flags_the_defaults_hold() {
    let Run { flags, notes, log } = parsed(&[], &[]);
    assert_eq!(flags.store, StoreFlags::File("/var/lib/flannel/net".into()));
    assert_eq!(flags.state_dir, PathBuf::from("/var/lib/flannel"));
    assert_eq!(flags.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(flags.pinned_subnet, None);
    assert_eq!(flags.route_protocol, 70);
    assert_eq!(flags.renew_margin, Duration::from_secs(3600));
    assert!(flags.uplink.iface.is_empty() && flags.uplink.iface_regex.is_empty());
    assert_eq!(
        (
            flags.uplink.can_reach,
            flags.uplink.public_ip,
            flags.uplink.public_ipv6
        ),
        (None, None, None)
    );
    assert_eq!(log, LogOptions::default());
    assert_eq!(notes, []);
}

#[test]
fn flags_are_written_as_for_go() {
    for args in [
        &["-iface=eth0"][..],
        &["--iface=eth0"],
        &["-iface", "eth0"],
        &["--iface", "eth0"],
        &["--iface=eth0", "--"],
        &["-ip-masq=false", "-iface", "eth0"],
    ] {
        assert_eq!(flags(args).uplink.iface, ["eth0"], "{args:?}");
    }
    for args in [
        &["-v=2"][..],
        &["-v", "2"],
        &["--v=2"],
        &["--v", "2"],
        &["-v=1", "-v=2"],
    ] {
        assert_eq!(parsed(args, &[]).log.verbosity, 2, "{args:?}");
    }
    assert_eq!(parsed(&["-v", "-1"], &[]).log.verbosity, -1);
    assert_eq!(flags(&["--iface=a=b"]).uplink.iface, ["a=b"]);
    assert_eq!(flags(&["--iface", "-eth0"]).uplink.iface, ["-eth0"]);
}

#[test]
fn lists_accumulate_in_order_and_of_scalars_the_last_wins() {
    let uplink = flags(&[
        "--iface=b",
        "--iface-regex=^10[.]",
        "-iface",
        "a",
        "--iface-regex",
        "eth.*",
    ])
    .uplink;
    assert_eq!(uplink.iface, ["b", "a"]);
    assert_eq!(
        uplink.iface_regex.iter().map(Regex::as_str).collect::<Vec<_>>(),
        ["^10[.]", "eth.*"]
    );
    let twice = flags(&[
        "--subnet-file=/a",
        "--subnet-file=/b",
        "--ip-masq",
        "--ip-masq=false",
    ]);
    assert_eq!(twice.subnet_file, PathBuf::from("/b"));
}

#[test]
fn booleans_are_those_of_go() {
    for literal in ["0", "f", "F", "false", "FALSE", "False"] {
        assert!(!flags(&[&format!("--ip-masq={literal}")]).rules.masquerade);
    }
    for literal in ["1", "t", "T", "true", "TRUE", "True"] {
        assert!(flags(&[&format!("--ip-masq={literal}")]).rules.masquerade);
    }
    for literal in ["", "yes", "tRUE", "2", " true"] {
        let said = format!("invalid value {literal:?} for --ip-masq: a boolean is true or false");
        assert_refused(&[&format!("--ip-masq={literal}")], &[], 2, &[&said]);
    }
}

#[test]
fn integers_are_those_of_go() {
    for (text, minutes) in [
        ("16", 16),
        ("+16", 16),
        ("0x10", 16),
        ("0X1f", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b101", 5),
        ("1_000", 1000),
        ("0x_1_0", 16),
        ("0_17", 15),
    ] {
        let margin = flags(&["--subnet-lease-renew-margin", text]).renew_margin;
        assert_eq!(margin, Duration::from_secs(minutes * 60), "{text}");
    }
    for text in [
        "",
        "x",
        "1.5",
        "08",
        "0x",
        "0xg",
        "_1",
        "1_",
        "1__0",
        "+-1",
        "1 ",
        "9223372036854775808",
        "-",
    ] {
        let arg = format!("--subnet-lease-renew-margin={text}");
        assert_refused(
            &[&arg],
            &[],
            2,
            &["--subnet-lease-renew-margin", "not an integer"],
        );
    }
    // Verbosity is decimal and has 32 bits.
    for text in ["0x1", "2147483648", ""] {
        assert_refused(&[&format!("-v={text}")], &[], 2, &["--v", "decimal"]);
    }
}

#[test]
fn variables_fill_in_for_flags_that_are_not_given() {
    let env = [
        ("FLANNELD_STORE", "file:///srv/net"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_IFACE_REGEX", "^eth"),
        ("FLANNELD_PUBLIC_IP", ""),
        ("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "30"),
        ("FLANNELD_IPTABLES_FORWARD_RULES", "false"),
        ("FLANNELD_V", "1"),
        ("FLANNELD_VERSION", "no boolean"),
        ("FLANNELD_IP_MASQ", ""),
        ("FLANNELD_LOG_FORMAT", "json"),
    ];
    let Run { flags, notes, log } = parse_with(&[], &env).unwrap();
    assert_eq!(flags.store, StoreFlags::File("/srv/net".into()));
    assert_eq!(flags.uplink.iface, ["eth0,eth1"]);
    assert_eq!(flags.uplink.iface_regex.len(), 1);
    assert_eq!(flags.uplink.public_ip, None);
    assert_eq!(flags.renew_margin, Duration::from_secs(1800));
    assert_eq!(
        log,
        LogOptions {
            verbosity: 1,
            format: LogFormat::Json
        }
    );
    assert_eq!(notes, []);

    let Run { flags, log, .. } = parse_with(&[STORE, "--iface=lo", "-v=0"], &env).unwrap();
    assert_eq!((flags.uplink.iface, log.verbosity), (vec!["lo".to_owned()], 0));
    assert_eq!(flags.store, StoreFlags::File("/var/lib/flannel/net".into()));
}

#[test]
fn a_bad_variable_is_an_error_unless_its_flag_is_given() {
    for (variable, value, reason) in [
        ("FLANNELD_IP_MASQ", "maybe", "a boolean is true or false"),
        ("FLANNELD_SUBNET_LEASE_RENEW_MARGIN", "soon", "not an integer"),
        ("FLANNELD_IFACE_REGEX", "(", "not a regular expression"),
        ("FLANNELD_LOG_FORMAT", "xml", "text or json"),
        ("FLANNELD_SUBNET", "10.5", "not a CIDR"),
    ] {
        let value_said = format!("{value:?} for {variable}:");
        assert_refused(
            &[],
            &[(variable, value)],
            2,
            &[&value_said, reason, "correct the variable or unset it"],
        );
    }
    assert_refused(
        &[],
        &[("FLANNELD_KUBE_SUBNET_MGR", "true")],
        1,
        &["FLANNELD_KUBE_SUBNET_MGR", "the Kubernetes store"],
    );
    parsed(&["--ip-masq=false"], &[("FLANNELD_IP_MASQ", "maybe")]);
}

#[test]
fn what_is_not_understood_is_named_with_a_remedy() {
    for (args, said) in [
        (
            &["--ip-masq", "false"][..],
            "unexpected argument \"false\": booleans take '=', write --ip-masq=false",
        ),
        (
            &["--iface=a", "#", "comment"],
            "unexpected argument \"#\": a comment cannot stand among the flags",
        ),
        (&["--iface=a", "# comment"], "a comment cannot stand"),
        (
            &["--iface=a", " "],
            "unexpected argument \" \": nothing, not even a space, may follow the '\\'",
        ),
        (&["--iface", "eth0", "eth1"], "unexpected argument \"eth1\""),
        (
            &["--version=false", "true"],
            "unexpected argument \"true\": flanneld takes flags only",
        ),
        (&["--", "--iface=a"], "unexpected argument \"--iface=a\""),
        (&["-", "--iface=a"], "unexpected argument \"-\""),
        (&["iface=eth0"], "flags begin with dashes, write --iface=eth0"),
        (&["\u{2013}iface=eth0"], "its dash is not the ASCII one"),
        (&["---iface=eth0"], "bad flag syntax \"---iface\""),
        (&["-=x"], "bad flag syntax \"-\""),
        (&["--iface"], "--iface needs a value: write --iface=VALUE"),
        (
            &["--iface", "--ip-masq=false"],
            "--iface needs a value, but the flag --ip-masq follows",
        ),
        (
            &["--bogus"],
            "unknown flag --bogus: flanneld --help lists the flags",
        ),
        (&["--ifcae=eth0"], "unknown flag --ifcae: did you mean --iface?"),
        (&["--ip_masq"], "did you mean --ip-masq?"),
        (
            &["--iptables-forward-rule=false"],
            "did you mean --iptables-forward-rules?",
        ),
        (&["-x\ny"], "unknown flag --x\\ny"),
        (&["-logtostderr"], "unknown flag --logtostderr"),
        (&["--iface="], "give an interface name or address"),
        (
            &["--iface-regex=("],
            "invalid value \"(\" for --iface-regex: not a regular expression: unclosed group",
        ),
        (&["--iface-regex="], "would match every interface"),
        (
            &["--iface-can-reach=gateway"],
            "invalid value \"gateway\" for --iface-can-reach: not an IP address",
        ),
        (
            &["--log-format=xml"],
            "invalid value \"xml\" for --log-format: give text or json",
        ),
        (&["--subnet-file="], "leave the flag out for its default"),
        (&["--state-dir=/"], "not a path that names"),
        (&["--subnet=10.5.63.0"], "not a CIDR; write e.g. 10.5.63.0/24"),
        (
            &["--subnet=10.5.63.1/24"],
            "10.5.63.1/24 has host bits set; write 10.5.63.0/24",
        ),
        (&["--subnet=10.5.63.0/24,10.5.64.0/24"], "or one of each"),
        (&["--subnet=10.5.63.0/24,fd00::/64,10.6.0.0/24"], "or one of each"),
        (&["--route-protocol=256"], "not a protocol number, give 5 to 255"),
        (&["--route-protocol=bgp"], "not an integer, 70 is the default"),
        (
            &["--store=/var/lib/flannel/net"],
            "not a URL with a scheme; give --store=file:///var/lib/flannel/net",
        ),
        (&["--store=file://var/lib/flannel"], "a file store has no host"),
        (&["--store=file:///"], "names no directory"),
        (&["--store=file:///srv/../net"], "without .."),
        (&["--store=file:///srv/a%20b"], "write the plain path"),
    ] {
        assert_refused(args, &[], 2, &[said]);
    }
}

#[test]
fn what_is_understood_but_cannot_be_is_refused_with_the_reason() {
    for (args, said) in [
        (
            &["--subnet-lease-renew-margin=0"][..],
            &[
                "Invalid subnet-lease-renew-margin option, out of acceptable range",
                "=0; give 1 to 1439 minutes",
            ][..],
        ),
        (
            &["--subnet-lease-renew-margin=1440"],
            &["out of acceptable range", "1440", "give 1 to 1439"],
        ),
        (
            &["--subnet-lease-renew-margin=-60"],
            &["out of acceptable range", "-60"],
        ),
        (
            &["--public-ip=nat"],
            &["invalid public IP address: nat (--public-ip): give an IPv4 address"],
        ),
        (
            &["--public-ip=fd00::1"],
            &["invalid public IP address: fd00::1", "--public-ipv6"],
        ),
        (&["--public-ipv6=nat"], &["invalid public IPv6 address: nat"]),
        (
            &["--public-ipv6=10.0.0.1"],
            &["invalid public IPv6 address: 10.0.0.1", "--public-ip"],
        ),
        (
            &["--route-protocol=0"],
            &["--route-protocol=0 is reserved", "give 5 to 255"],
        ),
        (
            &["--route-protocol=4"],
            &["--route-protocol=4 is reserved", "static"],
        ),
        (
            &["--store=etcd://127.0.0.1:2379"],
            &["no store for \"etcd\"", "leave it out for etcd"],
        ),
    ] {
        assert_refused(args, &[], 1, said);
    }
    for (margin, minutes) in [("1", 1), ("1439", 1439)] {
        let renew_margin = flags(&["--subnet-lease-renew-margin", margin]).renew_margin;
        assert_eq!(renew_margin, Duration::from_secs(minutes * 60));
    }
}

#[test]
fn a_flag_whose_feature_is_not_there_is_refused_unless_it_turns_it_off() {
    for (asks, turns_off) in [
        ("kube-subnet-mgr", "kube-subnet-mgr=false"),
        ("kube-api-url=https://x", "kube-api-url="),
        ("kubeconfig-file=/k", "kubeconfig-file="),
        (
            "kube-annotation-prefix=x",
            "kube-annotation-prefix=flannel.alpha.coreos.com",
        ),
        ("kube-api-url=http://y", "set-node-network-unavailable=true"),
        (
            "net-config-path=/x",
            "net-config-path=/etc/kube-flannel/net-conf.json",
        ),
    ] {
        let name = asks.split('=').next().unwrap();
        assert_refused(
            &[&format!("--{asks}")],
            &[],
            1,
            &["not there yet", &format!("--{name} (needs ")],
        );
        parsed(&[&format!("--{turns_off}")], &[]);
    }
}

#[test]
fn rules_are_as_the_flags_ask() {
    let rules = |args: &[&str]| flags(args).rules;
    let defaults = RuleFlags {
        masquerade: false,
        random_fully: true,
        forward: true,
        resync: Duration::from_secs(5),
    };
    assert_eq!(rules(&[]), defaults);
    assert!(rules(&["--ip-masq"]).masquerade);
    assert!(!rules(&["--ip-masq-fully-random-disable"]).random_fully);
    assert!(!rules(&["--iptables-forward-rules=false"]).forward);
    assert_eq!(rules(&["--iptables-resync=1"]).resync, Duration::from_secs(1));
    assert!(!flags(&[]).blackhole && flags(&["--ip-blackhole-route"]).blackhole);
    for seconds in ["0", "-5", "86401"] {
        let flag = format!("--iptables-resync={seconds}");
        assert_refused(&[&flag], &[], 1, &[&flag, "give 1 to 86400 seconds"]);
    }
}

#[test]
fn all_that_is_not_there_is_told_at_once_and_no_secret_with_it() {
    let args = ["--etcd-password=hunter2", "--kube-subnet-mgr"];
    assert_refused_without_store(
        &args,
        &[("FLANNELD_KUBE_API_URL", "http://y")],
        1,
        &[
            "not there yet: ",
            "--kube-subnet-mgr (needs the Kubernetes store;",
            "FLANNELD_KUBE_API_URL",
        ],
    );
    for args in [
        &args[..],
        &["--etcd-passwd=hunter2"],
        &["---etcd-password=hunter2"],
    ] {
        let refusal = parse_with(args, &[]).unwrap_err();
        assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
    }
}

#[test]
fn klog_flags_are_accepted_with_a_note() {
    let notes = parsed(&["-vmodule=x=1", "-log_backtrace_at", "a.go:1"], &[]).notes;
    assert_eq!(
        notes,
        [
            Note::Ignored {
                flag: "log_backtrace_at"
            },
            Note::Ignored { flag: "vmodule" }
        ]
    );
}

#[test]
fn values_become_domain_values() {
    for (text, key) in [
        ("10.5.63.0/24", "10.5.63.0-24"),
        ("fd00:5:0:1b::/64", "0.0.0.0-0&fd00:5:0:1b::-64"),
        ("10.5.63.0/24,fd00:5:0:1b::/64", "10.5.63.0-24&fd00:5:0:1b::-64"),
        ("fd00:5:0:1b::/64, 10.5.63.0/24", "10.5.63.0-24&fd00:5:0:1b::-64"),
    ] {
        let pinned = flags(&["--subnet", text])
            .pinned_subnet
            .map(|subnet| subnet.to_key());
        assert_eq!(pinned.as_deref(), Some(key), "{text}");
    }
    let uplink = flags(&[
        "--public-ip=192.0.2.1",
        "--public-ipv6=fd00::1",
        "--iface-can-reach=fd00::2",
    ])
    .uplink;
    assert_eq!(uplink.public_ip, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(uplink.public_ipv6, Some("fd00::1".parse().unwrap()));
    assert_eq!(uplink.can_reach, Some("fd00::2".parse().unwrap()));
    assert_eq!(
        flags(&["--public-ip=::ffff:192.0.2.1"]).uplink.public_ip,
        Some(Ipv4Addr::new(192, 0, 2, 1))
    );
    assert_eq!(flags(&["--route-protocol=0xff"]).route_protocol, 255);
    assert_eq!(flags(&["--route-protocol=5"]).route_protocol, 5);
    for url in ["file:///srv/net", "file:///srv//./net/", "file:////srv/net"] {
        assert_eq!(
            flags(&["--store", url]).store,
            StoreFlags::File("/srv/net".into()),
            "{url}"
        );
    }
}

#[test]
fn help_and_version_are_answers() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["-help"],
        &["--iface=a", "-h", "--bogus"],
    ] {
        let help = parse_with(args, &[]).unwrap_err();
        assert_eq!((help.exit_code(), help.to_stdout()), (0, true), "{args:?}");
        for spec in TABLE {
            assert!(
                help.to_string().contains(&format!("\n  --{}", spec.name)),
                "--{} is not in the help",
                spec.name
            );
        }
    }
    for args in [&["--version"][..], &["-version=1", "--etcd-prefix=/x"]] {
        let version = parse_with(args, &[("FLANNELD_IP_MASQ", "maybe")]).unwrap_err();
        assert_eq!(
            version,
            Refusal::Version(format!("v{}", env!("CARGO_PKG_VERSION"))),
            "{args:?}"
        );
        assert_eq!((version.exit_code(), version.to_stdout()), (0, true));
    }
    assert_refused(&["--bogus", "--help"], &[], 2, &["--bogus"]);
}

#[test]
fn what_is_not_utf8_is_misuse() {
    use std::os::unix::ffi::OsStringExt;
    let bad = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    for args in [
        vec![bad(b"--iface=\xff")],
        vec![bad(b"--iface"), bad(b"\xff")],
        vec![bad(b"\xff")],
    ] {
        let refusal = Parsed::new(args, |_| None).unwrap_err();
        assert_eq!(refusal.exit_code(), 2);
        assert!(refusal.to_string().contains("is not UTF-8"), "{refusal}");
    }
    let refusal = Parsed::new([], |name| (name == "FLANNELD_IFACE").then(|| bad(b"\xff"))).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the variable FLANNELD_IFACE is not UTF-8: correct it or unset it"
    );
}
