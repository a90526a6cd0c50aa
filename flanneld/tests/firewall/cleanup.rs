//! `flanneld cleanup` leaves a host as it was before the first daemon.

use std::fs;
use std::path::PathBuf;

use lab::{Daemon, DaemonOptions, Host, LabError, Snapshot, wait_until};

use crate::faults::{Ground, Mode, SOON, V4, V6, config, masquerades, others, ours, rules, run, start};

/// How it ended and what it printed.
#[derive(Debug)]
struct Told {
    code: i32,
    lines: Vec<String>,
    errors: String,
}

/// `flanneld cleanup` as an operator runs it: with the daemon's own options, in the same environment.
fn cleanup(ground: &Ground, options: &DaemonOptions, more: &[&str]) -> Told {
    let host = ground.host();
    let instance = &options.instance;
    let path = format!("PATH={}", ground.path());
    let store = options.store.clone();
    let store = store.unwrap_or_else(|| format!("file://{}", ground.lab.store_dir().display()));
    let own = [
        format!("--store={store}"),
        format!("--state-dir={}", host.state_directory(instance).display()),
        format!("--subnet-file={}", host.subnet_env_path(instance).display()),
    ];
    let mut line = vec!["env", &path, env!("CARGO_BIN_EXE_flanneld"), "cleanup"];
    line.extend(more);
    line.extend(own.iter().map(String::as_str));
    line.extend(options.arguments.iter().map(String::as_str));
    match host.exec(&line) {
        Ok(printed) => Told {
            code: 0,
            lines: printed.lines().map(str::to_owned).collect(),
            errors: String::new(),
        },
        Err(LabError::Program { status, stderr, .. }) => Told {
            code: status.code().unwrap(),
            lines: Vec::new(),
            errors: stderr,
        },
        Err(other) => panic!("{other}"),
    }
}

const BLACKHOLE: &str = "--ip-blackhole-route";

/// Where a daemon's files are.
fn directory(host: &Host) -> PathBuf {
    host.state_directory(DaemonOptions::INSTANCE)
        .parent()
        .unwrap()
        .to_owned()
}

fn look(host: &Host) -> Snapshot {
    host.snapshot(&[directory(host)]).unwrap()
}

/// What somebody else has on the host, close to what is ours.
fn lay_things_of_an_operator(ground: &Ground) {
    let host = ground.host();
    ground.lay_rules_of_an_operator();
    for program in ground.mode.iptables() {
        run(host, &format!("{program} -P FORWARD DROP"));
    }
    for line in [
        "ip route add 10.77.240.0/24 via 192.168.77.9 proto static",
        "ip route add 10.77.241.0/24 via 192.168.77.9 proto 42",
        "ip route add blackhole 10.77.242.0/24",
        "ip -6 route add fd77:0:0:240::/64 via fd00:77::9 proto static",
        "ip route add 10.77.243.0/24 via 192.168.77.9 table 9",
        "ip rule add from 10.77.243.0/24 table 9",
        "ip nexthop add id 7 via 192.168.77.9 dev eth0",
        "ip neigh add 192.168.77.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        "bridge fdb add 02:00:00:00:00:09 dev eth0 self permanent",
        "sysctl -qw net.ipv4.conf.eth0.rp_filter=2",
    ] {
        run(host, line);
    }
    let directory = directory(host);
    let state = host.state_directory(DaemonOptions::INSTANCE);
    fs::create_dir_all(state.join("notes")).unwrap();
    for file in [
        directory.join("subnet.env.old"),
        state.join("README"),
        state.join("notes/mine"),
    ] {
        fs::write(file, "of an operator\n").unwrap();
    }
}

/// A peer's lease for the daemon to make routes of, and the waiting for these.
fn add_peer(ground: &Ground) {
    let (key, holder) = ("10.77.200.0-24&fd77:0:0:200::-64", ground.outside());
    let (v4, v6) = (holder.ipv4().unwrap(), holder.ipv6().unwrap());
    let value = format!(r#"{{"PublicIP":"{v4}","PublicIPv6":"{v6}","BackendType":"host-gw"}}"#);
    ground.lab.put_lease(key, &value).unwrap();
    for net in ["10.77.200.0/24", "fd77:0:0:200::/64"] {
        let there = || !ground.host().routes_to(net.parse().unwrap()).unwrap().is_empty();
        wait_until(SOON, format!("the route to {net}"), there).unwrap();
    }
}

fn wait_for_blackholes(host: &Host) {
    for family in ["-4", "-6"] {
        let there = || {
            run(host, &format!("ip {family} route show type blackhole proto 70"))
                .lines()
                .count()
                > 0
        };
        wait_until(SOON, format!("a blackhole route, {family}"), there).unwrap();
    }
}

/// What befalls a daemon before the clean-up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Terminated,
    Killed,
    /// Killed as soon as there is a rule of the other kind: with rules of both, or of that one.
    KilledWhileRulesChangeOver,
}

impl End {
    fn befall(self, ground: &Ground, daemon: &Daemon) {
        if self == Self::Terminated {
            assert!(daemon.terminate(SOON).unwrap().success());
            return;
        }
        if self == Self::KilledWhileRulesChangeOver {
            ground
                .lab
                .write_config(&config(!ground.mode.nftables(), V4, V6))
                .unwrap();
            let name = chain_of(!ground.mode.nftables());
            let there = || rules(ground.host()).iter().any(|line| line.contains(name));
            wait_until(SOON, format!("a line with {name}"), there).unwrap();
        }
        daemon.kill().unwrap();
    }
}

/// What rules of a kind are known by.
fn chain_of(nftables: bool) -> &'static str {
    if nftables {
        "table ip flannel-ipv4"
    } else {
        "FLANNEL-POSTRTG"
    }
}

/// The objects that lines are about, however it is said that they go.
fn objects(lines: &[String]) -> Vec<String> {
    let object = |line: &String| {
        let words = line.split_whitespace().filter(|word| {
            let word = word.trim_end_matches([':', ',']).to_ascii_lowercase();
            !["would", "be", "remove", "removes", "removed", "removing"].contains(&word.as_str())
        });
        words.collect::<Vec<_>>().join(" ")
    };
    lines.iter().map(object).collect()
}

fn cleaned_up(mode: Mode, name: &str, things: bool, end: End) {
    let ground = Ground::new(name, mode);
    let host = ground.host();
    fs::create_dir_all(directory(host)).unwrap();
    if things {
        lay_things_of_an_operator(&ground);
    }
    let before = look(host);
    let options = ground.options(&[BLACKHOLE, "--iptables-resync=1"]);
    let daemon = ground.start(options.clone());
    add_peer(&ground);
    wait_for_blackholes(host);
    end.befall(&ground, &daemon);

    let during = look(host);
    assert_ne!(before.part("routes"), during.part("routes"));
    assert_ne!(before.part("files"), during.part("files"));
    assert!(!ours(&rules(host)).is_empty());
    let dry = cleanup(&ground, &options, &["--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    during.assert_same(&look(host), "after a dry run");

    let done = cleanup(&ground, &options, &[]);
    assert_eq!(done.code, 0, "{done:?}");
    before.assert_same(
        &look(host),
        &format!("{mode:?}: after cleanup, which told {:#?}", done.lines),
    );
    let (announced, removed) = (objects(&dry.lines), objects(&done.lines));
    let differ = |line: &&String| announced.contains(line) != removed.contains(line);
    let differing: Vec<_> = announced.iter().chain(&removed).filter(differ).collect();
    assert!(
        differing.is_empty(),
        "told by a dry run alone, or by the removal alone: {differing:#?}"
    );
    // Each thing that was there more than before has a line that names it.
    let told = done.lines.join("\n");
    let subnet_file = host
        .subnet_env_path(DaemonOptions::INSTANCE)
        .display()
        .to_string();
    for named in ["10.77.200.0/24", "fd77:0:0:200::/64", "blackhole", &subnet_file] {
        assert!(told.contains(named), "{named} in {told}");
    }
    let chain = chain_of(mode.nftables() != (end == End::KilledWhileRulesChangeOver));
    let chain = chain.rsplit(' ').next().unwrap();
    assert!(told.contains(chain), "{chain} in {told}");

    let again = cleanup(&ground, &options, &[]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(
        again.lines.len() == 1 && again.lines[0].contains("nothing"),
        "{again:?}"
    );
    before.assert_same(&look(host), "after a second cleanup");
}

#[test]
fn after_a_daemon_with_nftables_a_host_is_as_it_was() {
    cleaned_up(Mode::Nftables, "clean", false, End::Terminated);
    cleaned_up(Mode::Nftables, "cleankill", true, End::Killed);
}

#[test]
fn after_a_daemon_with_iptables_a_host_is_as_it_was() {
    cleaned_up(Mode::Iptables, "clean", false, End::Terminated);
    cleaned_up(Mode::Iptables, "cleankill", true, End::Killed);
}

#[test]
fn after_a_daemon_with_legacy_iptables_a_host_is_as_it_was() {
    cleaned_up(Mode::Legacy, "clean", false, End::Terminated);
    cleaned_up(Mode::Legacy, "cleankill", true, End::Killed);
}

#[test]
fn after_a_daemon_that_was_killed_while_rules_changed_over_a_host_is_as_it_was() {
    for mode in Mode::ALL {
        cleaned_up(mode, "cleanswitch", true, End::KilledWhileRulesChangeOver);
    }
}

#[test]
fn rules_of_others_in_chains_that_were_made_for_ours_stay_and_their_tables_are_not_told_of() {
    for mode in [Mode::Iptables, Mode::Legacy] {
        let ground = Ground::new("shared", mode);
        let host = ground.host();
        let options = ground.options(&[]);
        ground.start(options.clone()).kill().unwrap();
        for program in mode.iptables() {
            run(
                host,
                &format!("{program} -t nat -A POSTROUTING -p sctp -j ACCEPT"),
            );
            run(host, &format!("{program} -A FORWARD -p sctp -j ACCEPT"));
        }
        let expected = others(&rules(host));
        let dry = cleanup(&ground, &options, &["--dry-run"]);
        let done = cleanup(&ground, &options, &[]);
        assert_eq!((dry.code, done.code), (0, 0), "{dry:?} {done:?}");
        assert_eq!(rules(host), expected, "{mode:?}");
        for line in dry.lines.iter().chain(&done.lines) {
            let is_there = [
                "table ip nat",
                "table ip filter",
                "table ip6 nat",
                "table ip6 filter",
            ];
            let told = is_there.iter().find(|table| line.ends_with(*table));
            assert!(told.is_none(), "{line}: it is still there");
        }
    }
}

/// The system's `iptables` is another one by now than when the daemon ran.
#[test]
fn rules_that_the_other_variant_of_iptables_has_made_are_removed_too() {
    for (mode, links) in [(Mode::Legacy, "nft"), (Mode::Iptables, "legacy")] {
        let ground = Ground::new("variant", mode);
        let host = ground.host();
        fs::create_dir_all(directory(host)).unwrap();
        lay_things_of_an_operator(&ground);
        let before = look(host);
        let options = ground.options(&[]);
        ground.start(options.clone()).kill().unwrap();
        ground.lay_iptables(&format!("xtables-{links}-multi"));
        assert_eq!(cleanup(&ground, &options, &[]).code, 0);
        before.assert_same(
            &look(host),
            &format!("{mode:?}: after cleanup with the other variant"),
        );
    }
}

#[test]
fn while_the_daemon_runs_nothing_is_removed_and_it_is_named() {
    let ground = Ground::new("running", Mode::Nftables);
    let host = ground.host();
    let options = ground.options(&[]);
    let daemon = ground.start(options.clone());
    add_peer(&ground);
    let before = look(host);
    for more in [&[][..], &["--dry-run"]] {
        let told = cleanup(&ground, &options, more);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.errors.contains(&daemon.pid().to_string()), "{told:?}");
        before.assert_same(&look(host), "while a daemon runs");
    }
    daemon.must_run("the end of the test").unwrap();
}

/// The daemon is told by its store and its subnet file; with another store there is none.
#[test]
fn with_another_store_nothing_of_a_daemon_is_removed() {
    let ground = Ground::new("otherstore", Mode::Nftables);
    let host = ground.host();
    let options = ground.options(&[]);
    let mut mistaken = options.clone();
    mistaken.store = Some(format!(
        "file://{}",
        ground.lab.directory().join("other").display()
    ));
    let daemon = ground.start(options);
    let before = look(host);
    cleanup(&ground, &mistaken, &[]);
    before.assert_same(&look(host), "while the daemon runs");
    daemon.kill().unwrap();
    let before = look(host);
    cleanup(&ground, &mistaken, &[]);
    before.assert_same(&look(host), "after the daemon was killed");
}

#[test]
fn on_a_host_that_never_had_a_daemon_there_is_nothing_to_remove() {
    let ground = Ground::new("never", Mode::Iptables);
    let host = ground.host();
    let before = look(host);
    let told = cleanup(&ground, &ground.options(&[]), &[]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(
        told.lines.len() == 1 && told.lines[0].contains("nothing"),
        "{told:?}"
    );
    before.assert_same(&look(host), "after cleanup");
}

/// Two networks on one host, whose daemons share the state directory.
#[test]
fn two_daemons_on_a_host_have_rules_of_their_own_and_each_is_cleaned_up_alone() {
    for mode in Mode::ALL {
        let ground = Ground::new("two", mode);
        let host = ground.host();
        let state = host.state_directory("red");
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        let daemon_of = |name: &str, v4: &str, v6: &str| {
            let store = ground.lab.directory().join(name);
            fs::create_dir_all(store.join("subnets")).unwrap();
            fs::write(store.join("config"), config(mode.nftables(), v4, v6)).unwrap();
            let mut options = ground.options(&["--iptables-resync=1"]).instance(name);
            options.arguments.push(format!("--state-dir={}", state.display()));
            options.store = Some(format!("file://{}", store.display()));
            options
        };
        let red = daemon_of("red", V4, V6);
        let blue = daemon_of("blue", "10.78.0.0/16", "fd78::/48");
        let of = |net: &'static str| move |line: &&String| line.contains(net);
        let lines_of = |net: &'static str| rules(host).iter().filter(of(net)).cloned().collect::<Vec<_>>();

        let first = start(host, red.clone());
        let alone = ours(&rules(host));
        let second = start(host, blue.clone());
        let together = rules(host);
        assert!(
            alone.iter().all(|line| together.contains(line)),
            "{mode:?}: {alone:#?} in {together:#?}"
        );
        let blues = lines_of("10.78.");
        assert!(!blues.is_empty(), "{together:#?}");
        let monitor = host.monitor_rules().unwrap();
        let writes = ground.writes();
        for (daemon, options) in [(&first, &red), (&second, &blue)] {
            daemon.kill().unwrap();
            drop(start(host, options.clone()));
        }
        // Each looks at its own rules at least once more.
        let calls = ground.calls().len();
        let both = [start(host, red.clone()), start(host, blue.clone())];
        wait_until(SOON, "looks at the rules", || ground.calls().len() > calls + 12).unwrap();
        assert_eq!(ground.writes(), writes, "{mode:?}: {:#?}", ground.calls());
        let events = monitor.stop().unwrap();
        assert!(events.is_empty(), "{mode:?}: {events:#?}");
        assert_eq!(rules(host), together, "{mode:?}");
        drop(both);

        assert_eq!(cleanup(&ground, &blue, &[]).code, 0);
        assert_eq!(ours(&rules(host)), alone, "{mode:?}");
        assert!(lines_of("10.78.").is_empty(), "{mode:?}");
        assert!(
            masquerades(&rules(host), V4) && masquerades(&rules(host), V6),
            "{mode:?}"
        );
        assert!(host.subnet_env_path("red").exists() && !host.subnet_env_path("blue").exists());
        assert_eq!(cleanup(&ground, &red, &[]).code, 0);
        assert_eq!(ours(&rules(host)), [""; 0], "{mode:?}");
        assert!(!state.exists(), "{:?}", fs::read_dir(&state));
    }
}
