//! What can heal by itself is waited for, with a line at once that says what is missing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use lab::{DaemonOptions, Families, Host, SubnetEnv, wait_until};

use crate::network::{
    SETTLED, SOON, WITHOUT_POWER_OVER_FILES, bare, behind, config, find_lease, key, lease_of, net, network,
    network_with_prologue, put_peer, report, routes_of, routes_to, routes_within, settled, subnets,
    subnets_of, wait_for_routes,
};

/// What is wrong is said this soon, and what is mended is taken up.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_missing_config_is_named_at_once_and_taken_up_when_it_appears() {
    let lab = bare("noconfig", 1, Families::V4);
    let daemon = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    let place = lab.store_dir().join("config").display().to_string();
    daemon
        .wait_for_log(
            &format!("WARN .*no network config at {place}; put one there"),
            AT_ONCE,
        )
        .unwrap();
    assert!(lab.leases().unwrap().is_empty());
    lab.write_config(&config(Families::V4)).unwrap();
    let begin = Instant::now();
    daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
    println!("the config is taken up after {:.1?}", begin.elapsed());
    assert_eq!(
        daemon
            .lines_with(&["no network config at"])
            .iter()
            .filter(|line| line.contains("WARN"))
            .count(),
        1
    );
}

#[test]
fn each_invalid_config_is_named_at_once_and_a_mended_one_is_taken_up() {
    let lab = bare("badconfig", 1, Families::V4);
    lab.write_config("{\"Network\":").unwrap();
    let daemon = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    daemon
        .wait_for_log("WARN .*the network config is not a JSON object", AT_ONCE)
        .unwrap();
    for (text, says) in [
        (
            r#"{"Backend":{"Type":"host-gw"}}"#,
            "please define a correct Network parameter",
        ),
        (r#"{"Network":"10.77.0.0/16"}"#, "has no Backend; add one"),
        (
            r#"{"Network":"10.77.0.0/29","Backend":{"Type":"host-gw"}}"#,
            "network is too small",
        ),
        (
            r#"{"Network":"10.77.0.0/16","SubnetMin":"10.1.0.0","Backend":{"Type":"host-gw"}}"#,
            "SubnetMin is not in the range",
        ),
        (
            r#"{"Network":"10.77.0.0/16","Backend":{"Type":"carrier-pigeon"}}"#,
            "unknown backend type: carrier-pigeon.*host-gw",
        ),
    ] {
        lab.write_config(text).unwrap();
        daemon.wait_for_log(&format!("WARN .*{says}"), AT_ONCE).unwrap();
    }
    assert!(lab.leases().unwrap().is_empty());
    lab.write_config(&config(Families::V4)).unwrap();
    daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
}

#[test]
fn a_config_that_turns_bad_while_it_is_used_changes_nothing() {
    let lab = network("turnsbad", 2, Families::V4);
    let (host, peer) = (lab.host(0), subnets(Families::V4, 200));
    put_peer(&lab, &peer, lab.host(1));
    let daemon = settled(host);
    let lease = lease_of(&lab, host);
    let monitor = host.monitor_routes().unwrap();
    for (text, says) in [
        ("{", "not a JSON object.*going on with the config as it was"),
        (
            r#"{"Network":"10.99.0.0/16","Backend":{"Type":"host-gw"}}"#,
            "does not give out our subnet",
        ),
        (
            r#"{"Network":"10.77.0.0/16","Backend":{"Type":"wireguard"}}"#,
            "unknown backend type: wireguard.*going on with the config as it was",
        ),
        (
            r#"{"Network":"10.77.0.0/16","Backend":{"Type":"vxlan","Port":"8472"}}"#,
            "Port is .*going on with the config as it was",
        ),
        (
            r#"{"Network":"10.77.0.0/16","Backend":{"Type":"vxlan"}}"#,
            "the backend changed from host-gw to vxlan; going on with the config as it was",
        ),
    ] {
        lab.write_config(text).unwrap();
        daemon.wait_for_log(&format!("WARN .*{says}"), AT_ONCE).unwrap();
    }
    fs::remove_file(lab.store_dir().join("config")).unwrap();
    daemon
        .wait_for_log(
            "WARN .*the network config is gone from .*put it back, .flanneld config set .*10.77.0.0/16",
            AT_ONCE,
        )
        .unwrap();
    lab.write_config(&config(Families::V4)).unwrap();
    crate::network::catch_up(&lab, host, Families::V4, 201, lab.host(1));
    assert_eq!(lease_of(&lab, host), lease);
    let events = monitor.stop().unwrap();
    assert!(
        events
            .iter()
            .all(|event| event.destination == net("10.77.201.0/24")),
        "{events:#?}"
    );
}

#[test]
fn a_missing_interface_is_named_at_once_and_used_when_it_appears() {
    let lab = network("nointerface", 1, Families::V4);
    let host = lab.host(0);
    let daemon = host
        .start_daemon(DaemonOptions::arguments(["--iface=eth7"]))
        .unwrap();
    let said = daemon
        .wait_for_log("WARN .*eth7 .no such network interface", AT_ONCE)
        .unwrap();
    assert!(
        said.contains("eth0:[192.168.77.11"),
        "it tells what there is: {said}"
    );
    host.ip(&["link", "add", "eth7", "type", "bridge"]).unwrap();
    daemon
        .wait_for_log("WARN .*IPv4 address for interface eth7", AT_ONCE)
        .unwrap();
    host.ip(&["addr", "add", "172.16.7.1/24", "dev", "eth7"]).unwrap();
    host.ip(&["link", "set", "eth7", "up"]).unwrap();
    let begin = Instant::now();
    daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
    println!("the interface is used after {:.1?}", begin.elapsed());
    assert!(lab.leases().unwrap()[0].text.contains("172.16.7.1"));
}

#[test]
fn a_missing_default_route_is_named_at_once_and_used_when_it_appears() {
    for (families, option, gateway) in [
        (Families::V4, "-4", "192.168.77.1"),
        (Families::V6, "-6", "fd00:77::1"),
    ] {
        let lab = network(&format!("nodefault{families:?}"), 1, families);
        let host = lab.host(0);
        host.ip(&[option, "route", "del", "default"]).unwrap();
        let daemon = host.start_daemon(DaemonOptions::default()).unwrap();
        daemon
            .wait_for_log(
                "WARN .*unable to find default route for IPv[46]; give --iface",
                AT_ONCE,
            )
            .unwrap();
        host.ip(&["route", "add", "default", "via", gateway]).unwrap();
        daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
    }
}

#[test]
fn a_store_that_cannot_be_opened_yet_is_waited_for_with_its_remedy() {
    let lab = network_with_prologue("nostore", 1);
    let store = lab.store_dir();
    chown(&store, Some(1), None).unwrap();
    fs::set_permissions(&store, Permissions::from_mode(0o700)).unwrap();
    let options = behind(WITHOUT_POWER_OVER_FILES.into(), DaemonOptions::default());
    let daemon = lab.host(0).start_daemon(options).unwrap();
    let said = daemon
        .wait_for_log("WARN .*waiting for the store", AT_ONCE)
        .unwrap();
    assert!(
        said.contains(&store.display().to_string()) && said.contains("let the user of this process"),
        "{said}"
    );
    chown(&store, Some(0), None).unwrap();
    daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
}

#[test]
fn a_store_that_is_missing_is_made_and_its_config_waited_for() {
    let lab = bare("madestore", 1, Families::V4);
    let store = lab.directory().join("some/where/net");
    let options = DaemonOptions {
        store: Some(format!("file://{}", store.display())),
        ..DaemonOptions::default()
    };
    let daemon = lab.host(0).start_daemon(options).unwrap();
    daemon
        .wait_for_log("WARN .*no network config at .*/some/where/net/config", AT_ONCE)
        .unwrap();
    fs::write(store.join("config"), config(Families::V4)).unwrap();
    daemon.wait_for_log(SETTLED, AT_ONCE).unwrap();
    assert_eq!(fs::read_dir(store.join("subnets")).unwrap().count(), 1);
}

#[test]
fn a_store_where_no_directory_can_be_ends_the_daemon_with_the_reason() {
    let lab = bare("filestore", 1, Families::V4);
    let place = lab.directory().join("file");
    fs::write(&place, "").unwrap();
    let store = Some(format!("file://{}/net", place.display()));
    let daemon = lab
        .host(0)
        .start_daemon(DaemonOptions {
            store,
            ..DaemonOptions::default()
        })
        .unwrap();
    assert_eq!(daemon.wait(AT_ONCE).unwrap().code(), Some(1));
    let said = daemon.lines_with(&["ERROR", &place.display().to_string(), "choose another directory"]);
    assert_eq!(said.len(), 1, "{}", daemon.log());
}

#[test]
fn another_store_in_place_of_the_first_withdraws_no_peer_and_gets_the_same_subnet() {
    let lab = network("swapped", 2, Families::V4);
    let (host, peer) = (lab.host(0), subnets(Families::V4, 200));
    put_peer(&lab, &peer, lab.host(1));
    let daemon = settled(host);
    let lease = lease_of(&lab, host);
    let monitor = host.monitor_routes().unwrap();
    let restored = lab.directory().join("restored");
    fs::create_dir_all(restored.join("subnets")).unwrap();
    fs::write(restored.join("config"), config(Families::V4)).unwrap();
    fs::rename(lab.store_dir(), lab.directory().join("lost")).unwrap();
    fs::rename(&restored, lab.store_dir()).unwrap();
    let begin = Instant::now();
    let again = wait_until(Duration::from_secs(5), "the lease in the other store", || {
        find_lease(&lab, host)
    })
    .unwrap();
    println!("the lease is in the other store after {:.1?}", begin.elapsed());
    assert_eq!(again.key, lease.key);
    crate::network::catch_up(&lab, host, Families::V4, 201, lab.host(1));
    let both = [peer, subnets(Families::V4, 201)].concat();
    wait_for_routes(host, routes_to(&both, lab.host(1)), SOON);
    assert!(monitor.stop().unwrap().iter().all(|event| !event.deleted));
    daemon.must_run("the end of the test").unwrap();
}

#[test]
fn while_the_store_is_away_all_stays_and_when_it_is_back_it_is_followed() {
    let lab = network("away", 2, Families::Both);
    let (host, peer) = (lab.host(0), subnets(Families::Both, 200));
    put_peer(&lab, &peer, lab.host(1));
    let daemon = settled(host);
    let lease = lease_of(&lab, host);
    let monitor = host.monitor_routes().unwrap();
    let away = lab.directory().join("store.away");
    let mut times = Vec::new();
    for number in 201..=203 {
        fs::rename(lab.store_dir(), &away).unwrap();
        wait_until(AT_ONCE, "the daemon to say so", || {
            daemon.lines_with(&["WARN", "store"]).len() >= usize::from(number - 200)
        })
        .unwrap();
        // Routes are repaired all the same.
        for net in &peer {
            host.delete_route(*net).unwrap();
            wait_until(Duration::from_secs(1), format!("{net} again"), || {
                !host.routes_to(*net).unwrap().is_empty()
            })
            .unwrap();
        }
        fs::rename(&away, lab.store_dir()).unwrap();
        let begin = Instant::now();
        crate::network::catch_up(&lab, host, Families::Both, number, lab.host(1));
        times.push(begin.elapsed());
    }
    let (_, longest) = report("followed after the store came back", &times);
    assert!(longest < Duration::from_secs(5), "{times:?}");
    assert_eq!(lease_of(&lab, host), lease);
    let deleted: Vec<_> = monitor
        .stop()
        .unwrap()
        .into_iter()
        .filter(|event| event.deleted)
        .collect();
    assert_eq!(deleted.len(), 6, "the test's own: {deleted:#?}");
    daemon.must_run("the end of the test").unwrap();
}

fn env_of(host: &Host, instance: &str) -> SubnetEnv {
    let path = host.subnet_env_path(instance);
    wait_until(SOON, path.display().to_string(), || {
        SubnetEnv::parse(&fs::read_to_string(&path).ok()?).ok()
    })
    .unwrap()
}

#[test]
fn two_daemons_with_stores_of_their_own_on_one_host_do_not_disturb_each_other() {
    let lab = bare("two", 2, Families::V4);
    let networks = [("red", "10.77.0.0/16"), ("blue", "10.78.0.0/16")];
    let start = |host: &Host, (name, _): (&str, &str)| {
        let store = format!("file://{}", lab.directory().join(name).display());
        let options = DaemonOptions {
            store: Some(store),
            ..DaemonOptions::default()
        };
        let daemon = host.start_daemon(options.instance(name)).unwrap();
        daemon.wait_for_log(SETTLED, SOON).unwrap();
        daemon
    };
    for (name, network) in networks {
        fs::create_dir_all(lab.directory().join(name).join("subnets")).unwrap();
        let config = config(Families::V4).replace("10.77.0.0/16", network);
        fs::write(lab.directory().join(name).join("config"), config).unwrap();
    }
    let mut running: Vec<_> = lab
        .hosts()
        .iter()
        .flat_map(|host| networks.map(|network| start(host, network)))
        .collect();
    let expected = |here: &Host, there: &Host| {
        let mut all: Vec<_> = networks
            .iter()
            .flat_map(|(name, network)| {
                let subnet = env_of(there, name).subnet.unwrap().trunc();
                assert!(
                    net(network).contains(&ipnet::IpNet::V4(subnet)),
                    "{name} on {}",
                    here.label()
                );
                routes_to(&[subnet.into()], there)
            })
            .collect();
        all.sort();
        all
    };
    let both = networks.map(|(_, network)| net(network));
    let host = lab.host(0);
    let right = expected(host, lab.host(1));
    let in_place = || routes_within(host, &both) == right;
    wait_until(SOON, "the routes of both networks", in_place).unwrap();
    let monitor = host.monitor_routes().unwrap();
    for index in [0, 1, 0, 1] {
        running[index].kill().unwrap();
        running[index] = start(host, networks[index]);
    }
    assert!(in_place());
    let events = monitor.stop().unwrap();
    assert!(events.is_empty(), "{events:#?}");
    for daemon in &running {
        assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
    }
}

#[test]
fn a_second_daemon_of_the_same_store_and_subnet_file_ends_and_names_the_first() {
    let lab = network("second", 1, Families::V4);
    let first = settled(lab.host(0));
    let lease = lease_of(&lab, lab.host(0));
    let second = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    let named = format!("is in use by process {}[ ;]", first.pid());
    second.wait_for_log(&named, AT_ONCE).unwrap();
    let status = second.wait(Duration::from_secs(4)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(
        !second
            .lines_with(&["ERROR", &first.pid().to_string(), "--state-dir"])
            .is_empty(),
        "{}",
        second.log()
    );
    first.must_run("the end of the test").unwrap();
    assert_eq!(lease_of(&lab, lab.host(0)), lease);
    assert_eq!(key(&subnets_of(lab.host(0))), lease.key);
}

#[test]
fn a_second_daemon_takes_over_from_a_first_that_is_about_to_end() {
    let lab = network("overlap", 2, Families::V4);
    let (host, peer) = (lab.host(0), subnets(Families::V4, 200));
    put_peer(&lab, &peer, lab.host(1));
    let first = settled(host);
    let second = host.start_daemon(DaemonOptions::default()).unwrap();
    second.wait_for_log("is in use by process", AT_ONCE).unwrap();
    assert!(first.terminate(SOON).unwrap().success());
    second.wait_for_log(SETTLED, AT_ONCE).unwrap();
    wait_for_routes(host, routes_to(&peer, lab.host(1)), SOON);
    assert_eq!(routes_of(host).len(), 1);
}
