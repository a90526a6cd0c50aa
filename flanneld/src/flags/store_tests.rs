//! Which store, where the health endpoints listen, and the verbs.

use std::path::Path;

use super::*;

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, Refusal> {
    let lookup = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    Parsed::new(args.iter().map(OsString::from), lookup)
}

fn flags(args: &[&str], env: &[(&str, &str)]) -> Flags {
    match parse(args, env).unwrap().command {
        Command::Run(flags) => *flags,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn refusal(args: &[&str]) -> (u8, String) {
    let refusal = match parse(args, &[]) {
        Ok(parsed) => panic!("{args:?} accepted: {parsed:?}"),
        Err(refusal) => refusal,
    };
    (refusal.exit_code(), refusal.to_string())
}

#[cfg(feature = "etcd")]
mod etcd {
    use super::*;

    fn etcd(args: &[&str], env: &[(&str, &str)]) -> EtcdFlags {
        match flags(args, env).store {
            StoreFlags::Etcd(etcd) => etcd,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn etcd_is_the_store_unless_another_is_named() {
        let expected = EtcdFlags {
            endpoints: "http://127.0.0.1:4001,http://127.0.0.1:2379".to_owned(),
            prefix: "/coreos.com/network".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            v2_import: true,
        };
        assert_eq!(etcd(&[], &[]), expected);
        assert_eq!(etcd(&["--store="], &[]), expected);
        let empty = [
            "--etcd-endpoints=",
            "--etcd-prefix=",
            "--etcd-cafile=",
            "--etcd-certfile=",
            "--etcd-keyfile=",
            "--etcd-username=",
            "--etcd-password=",
            "--etcd-v2-import=",
        ];
        assert_eq!(etcd(&empty, &[]), expected);
    }

    #[test]
    fn each_flag_of_etcd_says_one_thing() {
        let env = [
            ("FLANNELD_ETCD_PASSWORD", "hunter2"),
            ("FLANNELD_ETCD_PREFIX", "/mine"),
        ];
        let etcd = etcd(
            &[
                "--etcd-endpoints=https://10.0.0.1:2379, https://[::1]:2379",
                "-etcd-cafile",
                "./certs/ca.pem",
                "--etcd-certfile=client.pem",
                "--etcd-keyfile=client-key.pem",
                "--etcd-username=flannel",
                "--etcd-v2-import=off",
            ],
            &env,
        );
        let expected = EtcdFlags {
            endpoints: "https://10.0.0.1:2379, https://[::1]:2379".to_owned(),
            prefix: "/mine".to_owned(),
            ca_file: Some("./certs/ca.pem".into()),
            cert_file: Some("client.pem".into()),
            key_file: Some("client-key.pem".into()),
            username: Some("flannel".to_owned()),
            password: Some(Secret("hunter2".to_owned())),
            v2_import: false,
        };
        assert_eq!(etcd, expected);
        let shown = format!("{etcd:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn two_stores_at_once_are_refused() {
        let (code, said) = refusal(&["--store=file:///srv/net", "--etcd-endpoints=http://10.0.0.1:2379"]);
        assert_eq!(code, 1);
        assert!(
            said.contains("both --store and --etcd-endpoints are given"),
            "{said}"
        );
        parse(&["--store=file:///srv/net", "--etcd-cafile="], &[]).unwrap();
    }

    #[test]
    fn an_import_is_on_or_off() {
        let (code, said) = refusal(&["--etcd-v2-import=yes"]);
        assert_eq!(code, 2);
        assert!(
            said.contains("\"yes\" for --etcd-v2-import: give auto or off"),
            "{said}"
        );
    }
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_build_without_etcd_asks_for_another_store() {
    for args in [&[][..], &["--etcd-endpoints=http://10.0.0.1:2379"]] {
        let (code, said) = refusal(args);
        assert_eq!(code, 1);
        assert!(
            said.contains("give --store=file:///var/lib/flannel/net"),
            "{said}"
        );
    }
}

const STORE: &str = "--store=file:///srv/net";

#[test]
fn health_endpoints_listen_where_flannel_s_do() {
    let health = |args: &[&str]| flags(&[&[STORE], args].concat(), &[]).health;
    for off in [
        &[][..],
        &["--healthz-port=0"],
        &["--healthz-port=-1"],
        &["--healthz-ip=127.0.0.1"],
    ] {
        assert_eq!(health(off), None, "{off:?}");
    }
    for (args, expected) in [
        (&["--healthz-port=2401"][..], "0.0.0.0:2401"),
        (&["--healthz-port=0x961", "--healthz-ip="], "0.0.0.0:2401"),
        (&["--healthz-port=1", "--healthz-ip=127.0.0.1"], "127.0.0.1:1"),
        (&["--healthz-port=65535", "--healthz-ip=::1"], "[::1]:65535"),
        (&["--healthz-port=1", "--healthz-ip=[::]"], "[::]:1"),
    ] {
        assert_eq!(health(args), Some(expected.parse().unwrap()), "{args:?}");
    }
    for (wrong, said) in [
        (
            ["--healthz-port=65536", "--healthz-ip=::1"],
            "give a port from 1 to 65535",
        ),
        (
            ["--healthz-port=1", "--healthz-ip=localhost"],
            "\"localhost\" for --healthz-ip: not an IP address",
        ),
    ] {
        let (code, message) = refusal(&[&[STORE], &wrong[..]].concat());
        assert_eq!(code, 2);
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn verbs_stand_first_and_take_the_daemon_s_flags() {
    let command = |args: &[&str]| parse(&[args, &[STORE]].concat(), &[]).unwrap().command;
    assert!(matches!(command(&[]), Command::Run(_)));
    // It needs no store, and may be given all that the daemon is given.
    let status = parse(&["status", "--state-dir=/srv/state", "--ip-masq"], &[]).unwrap();
    assert!(matches!(status.command, Command::Status { state_dir } if state_dir == Path::new("/srv/state")));
    let cleanup = |args: &[&str]| match command(&[&["cleanup"], args].concat()) {
        Command::Cleanup { flags, dry_run } => (flags.route_protocol, dry_run),
        other => panic!("{args:?}: {other:?}"),
    };
    assert_eq!(cleanup(&[]), (70, false));
    assert_eq!(cleanup(&["--dry-run", "--route-protocol=71"]), (71, true));
    for args in [
        &["--dry-run"][..],
        &["status", "--dry-run"],
        &["config", "get", "--dry-run"],
    ] {
        let (code, message) = refusal(&[args, &[STORE]].concat());
        assert_eq!(
            (code, &*message),
            (2, "--dry-run is for flanneld cleanup"),
            "{args:?}"
        );
    }
    let text = || ConfigSource::Text("{}".to_owned());
    for (args, expected) in [
        (&["config", "get"][..], ConfigVerb::Get),
        (&["config", "--iface=eth0", "get"], ConfigVerb::Get),
        (&["config", "set", "{}"], ConfigVerb::Set(text())),
        (
            &["config", "set", "--iface", "eth0", "{}"],
            ConfigVerb::Set(text()),
        ),
        (&["config", "set", "-"], ConfigVerb::Set(ConfigSource::Stdin)),
        (&["config", "check"], ConfigVerb::Check(None)),
        (&["config", "check", "{}"], ConfigVerb::Check(Some(text()))),
        (
            &["config", "check", "-"],
            ConfigVerb::Check(Some(ConfigSource::Stdin)),
        ),
    ] {
        match command(args) {
            Command::Config(verb, _) => assert_eq!(verb, expected, "{args:?}"),
            other => panic!("{args:?}: {other:?}"),
        }
    }
    let parsed = parse(&["config", "set", STORE, "--", "-{}"], &[]).unwrap();
    let Command::Config(ConfigVerb::Set(source), _) = parsed.command else {
        panic!("{parsed:?}")
    };
    assert_eq!(source, ConfigSource::Text("-{}".to_owned()));
    assert_eq!(parsed.notes, [], "notes are for the daemon");
}

#[test]
fn a_verb_that_is_not_whole_is_told_how_to_be_written() {
    for (args, said) in [
        (&["config"][..], "config needs a verb: write flanneld config get"),
        (
            &["config", "put", "{}"],
            "unknown verb \"put\" of config: write flanneld config get",
        ),
        (&["config", "set"], "no config given: write "),
        (&["config", "get", "x"], "unexpected argument \"x\""),
        (
            &["config", "set", "{", "}"],
            "unexpected argument \"}\", quote JSON as one word",
        ),
        (&["status", "x"], "unexpected argument \"x\""),
        (&["statsu"], "unexpected argument \"statsu\""),
        (
            &["--iface=eth0", "status"],
            "unexpected argument \"status\": a verb stands first, write flanneld status",
        ),
    ] {
        let (code, message) = refusal(&[args, &[STORE]].concat());
        assert_eq!(code, 2, "{message}");
        assert!(
            message.contains(said) && message.lines().count() == 1,
            "{args:?}: {message}"
        );
    }
}
