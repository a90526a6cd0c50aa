//! The lab itself, without any daemon. Needs root, as all that makes namespaces.

#![allow(
    clippy::disallowed_methods,
    reason = "the lab is measured in real time, and one of its runs is killed"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{
    DaemonOptions, Families, Family, Lab, LabError, Options, Pod, STATIC, Signal, SubnetEnv, UPLINK, ping,
    wait_until,
};

const SOON: Duration = Duration::from_secs(5);
/// Makes the second process of the sweep test play its part.
const LEFT_BEHIND: &str = "LAB_TEST_LEFT_BEHIND";
/// Obeys the lab's part of the daemon's contract.
const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand-in-flanneld");

fn namespace_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn addresses(host: &lab::Host) -> Vec<IpAddr> {
    host.ipv4()
        .map(IpAddr::from)
        .into_iter()
        .chain(host.ipv6().map(IpAddr::from))
        .collect()
}

/// A pod on each host in subnets of one's own choice, as a daemon would write them to `subnet.env`.
fn pod_on(lab: &Lab, index: usize) -> Pod {
    let subnet = SubnetEnv {
        subnet: Some(format!("10.77.{index}.1/24").parse().unwrap()),
        ipv6_subnet: Some(format!("fd77:0:0:{index}::1/64").parse().unwrap()),
        mtu: 1400,
    };
    lab.host(index).add_pod_in(&subnet).unwrap()
}

/// Two hosts with a pod each and the routes between them, set by hand.
fn two_routed_pods(name: &str) -> (Lab, Pod, Pod) {
    let lab = Lab::new(name, Options::hosts(2)).unwrap();
    let pods = (pod_on(&lab, 0), pod_on(&lab, 1));
    for (here, there) in [(0, 1), (1, 0)] {
        let (host, other) = (lab.host(here), lab.host(there));
        let via4 = other.ipv4().unwrap().to_string();
        let via6 = other.ipv6().unwrap().to_string();
        let v4 = format!("10.77.{there}.0/24").parse().unwrap();
        let v6 = format!("fd77:0:0:{there}::/64").parse().unwrap();
        host.replace_route(v4, &["via", &via4, "dev", UPLINK, "proto", "static"])
            .unwrap();
        host.replace_route(v6, &["via", &via6, "dev", UPLINK, "proto", "static"])
            .unwrap();
    }
    (lab, pods.0, pods.1)
}

#[test]
fn three_hosts_reach_each_other_and_the_gateway_in_both_families() {
    let lab = Lab::new("mesh", Options::hosts(3)).unwrap();
    for from in lab.hosts() {
        for to in lab.hosts().iter().flat_map(addresses) {
            ping(from, to, 1, SOON).unwrap();
        }
        for gateway in ["192.168.77.1", "fd00:77::1"] {
            ping(from, gateway.parse().unwrap(), 1, SOON).unwrap();
        }
    }
}

#[test]
fn hosts_have_the_numbers_and_the_names_of_interfaces_that_they_are_given() {
    let options = Options::numbered([21, 12]).uplink("eth1").pod_bridge("docker0");
    let lab = Lab::new("named", options).unwrap();
    assert_eq!(lab.host(0).ipv4(), Some("192.168.77.21".parse().unwrap()));
    assert_eq!(lab.host(1).ipv6(), Some("fd00:77::12".parse().unwrap()));
    let pod = pod_on(&lab, 0);
    ping(&pod, "10.77.0.1".parse().unwrap(), 1, SOON).unwrap();
    ping(lab.host(1), "192.168.77.21".parse().unwrap(), 1, SOON).unwrap();
    let links = lab.host(0).ip(&["-br", "link"]).unwrap();
    assert!(
        links.contains("eth1@") && links.contains("docker0 ") && !links.contains("eth0"),
        "{links}"
    );
    let error = Lab::new("too far", Options::numbered([255]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 to 254"), "{error}");
}

#[test]
fn hosts_of_one_family_have_no_address_or_default_route_of_the_other() {
    let lab = Lab::new("six", Options::hosts(2).families(Families::V6)).unwrap();
    assert_eq!(lab.host(0).ipv4(), None);
    assert_eq!(lab.host(0).routes(Family::V4).unwrap(), []);
    ping(lab.host(0), lab.host(1).ipv6().unwrap().into(), 1, SOON).unwrap();
}

#[test]
fn forty_hosts_are_up_within_ten_seconds() {
    let begin = Instant::now();
    let lab = Lab::new("forty", Options::hosts(40)).unwrap();
    let up = begin.elapsed();
    for to in addresses(lab.host(39)) {
        ping(lab.host(0), to, 1, SOON).unwrap();
    }
    assert!(up < Duration::from_secs(10), "{up:?}");
    lab.remove().unwrap();
}

#[test]
fn pods_reach_each_other_over_static_routes_and_no_longer_without() {
    let (lab, here, there) = two_routed_pods("pods");
    for to in there.addresses() {
        ping(&here, to, 2, SOON).unwrap();
        ping(lab.host(0), to, 2, SOON).unwrap();
    }
    let subnet = "10.77.1.0/24".parse().unwrap();
    let route = lab.host(0).routes_to(subnet).unwrap().remove(0);
    assert_eq!(route.gateway, lab.host(1).ipv4().map(IpAddr::from));
    assert_eq!((route.device.as_deref(), route.protocol), (Some(UPLINK), STATIC));

    lab.host(0).delete_route(subnet).unwrap();
    assert_eq!(lab.host(0).routes_to(subnet).unwrap(), []);
    let lost = ping(
        &here,
        there.addresses().next().unwrap(),
        1,
        Duration::from_secs(1),
    )
    .unwrap_err();
    assert!(matches!(lost, LabError::NoAnswer { received: 0, .. }), "{lost}");
}

#[test]
fn a_monitor_has_every_change_of_a_route_and_a_replace_is_no_delete() {
    let (lab, _here, _there) = two_routed_pods("monitor");
    let host = lab.host(0);
    let [v4, v6] = ["10.77.1.0/24", "fd77:0:0:1::/64"].map(|net| net.parse().unwrap());
    let monitor = host.monitor_routes().unwrap();
    host.replace_route(v4, &["via", "192.168.77.1"]).unwrap();
    host.delete_route(v6).unwrap();
    let events = monitor.stop().unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.deleted, event.destination))
        .collect();
    assert_eq!(seen, [(false, v4), (true, v6)], "{events:?}");
}

#[test]
fn a_partition_loses_pings_while_the_carrier_stays_and_heals() {
    let lab = Lab::new("partition", Options::hosts(2)).unwrap();
    let other = lab.host(1).ipv4().unwrap().into();
    let pinger = lab.host(0).pinger(other).unwrap();
    pinger.wait_for_replies(3, SOON).unwrap();
    lab.host(1).partition().unwrap();
    let cut = ping(lab.host(0), other, 1, Duration::from_secs(1)).unwrap_err();
    assert!(cut.is_transient(), "{cut}");
    assert!(
        lab.host(1)
            .ip(&["link", "show", UPLINK])
            .unwrap()
            .contains("LOWER_UP")
    );
    lab.host(1).heal().unwrap();
    ping(lab.host(0), other, 1, SOON).unwrap();
    let report = pinger.stop().unwrap();
    assert!(
        report.lost > 0 && report.longest_gap > Duration::from_millis(500),
        "{report:?}"
    );
}

#[test]
fn an_undisturbed_pinger_loses_nothing_in_either_family() {
    let lab = Lab::new("steady", Options::hosts(2)).unwrap();
    let pingers: Vec<_> = addresses(lab.host(1))
        .into_iter()
        .map(|to| lab.host(0).pinger(to).unwrap())
        .collect();
    assert_eq!(pingers.len(), 2);
    for pinger in pingers {
        pinger.wait_for_replies(30, SOON).unwrap();
        let report = pinger.stop().unwrap();
        assert_eq!(report.lost, 0, "{report:?}");
        assert!(report.received >= 30, "{report:?}");
    }
}

#[test]
fn an_uplink_comes_back_after_down_and_up_and_with_a_new_index_after_recreation() {
    let lab = Lab::new("uplink", Options::hosts(2)).unwrap();
    let host = lab.host(1);
    let index = || host.exec(&["cat", "/sys/class/net/eth0/ifindex"]).unwrap();
    let (before, routes) = (
        index(),
        [Family::V4, Family::V6].map(|family| host.routes(family).unwrap()),
    );
    let all_answer = || {
        addresses(host)
            .into_iter()
            .all(|to| ping(lab.host(0), to, 1, SOON).is_ok())
    };
    host.uplink_down().unwrap();
    assert_eq!(host.routes(Family::V4).unwrap(), []);
    host.uplink_up().unwrap();
    assert!(all_answer());
    assert_eq!(index(), before);
    host.recreate_uplink().unwrap();
    assert!(all_answer());
    assert_ne!(index(), before);
    assert_eq!(
        [Family::V4, Family::V6].map(|family| host.routes(family).unwrap()),
        routes
    );
}

#[test]
fn a_changed_address_answers_and_the_old_one_does_not() {
    let lab = Lab::new("dhcp", Options::hosts(2)).unwrap();
    for new in ["192.168.77.111/24", "fd00:77::111/64"] {
        lab.host(1).change_address(new.parse().unwrap()).unwrap();
    }
    for to in addresses(lab.host(1)) {
        assert!(to.to_string().ends_with("111"));
        ping(lab.host(0), to, 1, SOON).unwrap();
    }
    for old in ["192.168.77.12", "fd00:77::12"] {
        assert!(
            ping(lab.host(0), old.parse().unwrap(), 1, Duration::from_secs(1)).is_err(),
            "{old}"
        );
    }
}

#[test]
fn two_pods_of_a_host_reach_each_other_and_carry_its_mtu() {
    let lab = Lab::new("bridge", Options::hosts(1)).unwrap();
    let (first, second) = (pod_on(&lab, 0), pod_on(&lab, 0));
    for to in second.addresses() {
        ping(&first, to, 1, SOON).unwrap();
    }
    assert!(first.ip(&["link", "show", "eth0"]).unwrap().contains("mtu 1400"));
}

#[test]
fn a_daemon_is_told_its_paths_runs_in_its_host_and_ends_when_asked() {
    let lab = Lab::new("daemon", Options::hosts(1).flanneld(STAND_IN)).unwrap();
    let host = lab.host(0);
    let daemon = host
        .start_daemon(DaemonOptions::arguments(["--iface=eth0"]))
        .unwrap();
    let line = daemon.wait_for_log("started with .*--iface=eth0", SOON).unwrap();
    let store = format!("--store=file://{} ", lab.store_dir().display());
    let state = format!(
        "--state-dir={} ",
        host.state_directory(DaemonOptions::INSTANCE).display()
    );
    assert!(line.contains(&store) && line.contains(&state), "{line}");
    let inside = host
        .ip(&["netns", "identify", &daemon.pid().to_string()])
        .unwrap();
    assert_eq!(inside.trim(), host.name());
    assert_eq!(daemon.try_wait(), None);
    assert_eq!(daemon.get("/readyz"), None, "a stand-in has no socket");
    assert!(daemon.terminate(SOON).unwrap().success());
    assert!(daemon.log().ends_with("ending\n"), "{}", daemon.log());
}

#[test]
fn a_daemon_that_will_not_end_is_told_of_and_can_be_killed() {
    let lab = Lab::new("deaf", Options::hosts(1).flanneld(STAND_IN)).unwrap();
    let daemon = lab
        .host(0)
        .start_daemon(DaemonOptions::arguments(["--deaf"]))
        .unwrap();
    daemon.wait_for_log("started", SOON).unwrap();
    let error = daemon.terminate(Duration::from_millis(100)).unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("started with"),
        "{error}"
    );
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&daemon.kill().unwrap()),
        Some(Signal::SIGKILL as i32)
    );
}

#[test]
fn a_daemon_that_ends_early_is_reported_at_once_with_its_log() {
    let lab = Lab::new("early", Options::hosts(1).flanneld(STAND_IN)).unwrap();
    let daemon = lab
        .host(0)
        .start_daemon(DaemonOptions::arguments(["--fail"]))
        .unwrap();
    let error = daemon
        .wait_for_log("started", Duration::from_secs(60))
        .unwrap_err();
    assert!(
        matches!(&error, LabError::DaemonEnded { status, .. } if status.code() == Some(3)),
        "{error}"
    );
    assert!(error.to_string().contains("cannot go on"), "{error}");
}

#[test]
fn daemons_side_by_side_have_files_of_their_own_and_a_pod_waits_for_its_subnet() {
    let lab = Lab::new("side", Options::hosts(1).flanneld(STAND_IN)).unwrap();
    let host = lab.host(0);
    let daemons = ["flanneld", "second"].map(|name| {
        host.start_daemon(DaemonOptions::default().instance(name))
            .unwrap()
    });
    assert_eq!(
        host.add_pod().unwrap().addresses().collect::<Vec<_>>(),
        ["10.77.9.2".parse::<IpAddr>().unwrap()]
    );
    for (daemon, name) in daemons.iter().zip(["flanneld", "second"]) {
        daemon.wait_for_log("started", SOON).unwrap();
        assert!(host.subnet_env_path(name).exists());
    }
    assert_ne!(daemons[0].log_path(), daemons[1].log_path());
}

#[test]
fn without_a_binary_the_remedy_is_named() {
    let lab = Lab::new("nobinary", Options::hosts(1).flanneld("/nowhere/flanneld")).unwrap();
    let error = lab.host(0).start_daemon(DaemonOptions::default()).unwrap_err();
    assert!(error.to_string().contains("cargo build -p flanneld"), "{error}");
}

#[test]
fn the_store_shows_leases_but_not_what_is_being_written() {
    let lab = Lab::new("store", Options::hosts(0)).unwrap();
    assert_eq!(lab.leases().unwrap(), []);
    lab.put_lease("10.77.3.0-24", "{}").unwrap();
    std::fs::write(lab.store_dir().join("subnets/.10.77.4.0-24.new"), "{").unwrap();
    let keys: Vec<String> = lab.leases().unwrap().into_iter().map(|lease| lease.key).collect();
    assert_eq!(keys, ["10.77.3.0-24"]);
    lab.delete_lease("10.77.3.0-24").unwrap();
    assert_eq!(lab.leases().unwrap(), []);
}

#[test]
fn two_labs_of_one_name_are_refused_and_the_first_stays() {
    let first = Lab::new("same", Options::hosts(1)).unwrap();
    let refused = Lab::new("same", Options::hosts(1)).unwrap_err();
    assert!(matches!(refused, LabError::NameTaken(_)), "{refused}");
    assert!(namespace_file(first.host(0).name()).exists());
}

#[test]
fn a_dropped_lab_leaves_no_process_namespace_or_file() {
    let lab = Lab::new("drop", Options::hosts(1)).unwrap();
    let pod = pod_on(&lab, 0);
    let files = [
        lab.directory().to_owned(),
        namespace_file(lab.host(0).name()),
        namespace_file(pod.name()),
    ];
    assert!(files.iter().all(|file| file.exists()));
    let mut lost = Command::new("ip")
        .args(["netns", "exec", pod.name(), "sleep", "600"])
        .spawn()
        .unwrap();
    wait_until(SOON, "the process to be inside", || {
        pod.ip(&["netns", "pids", pod.name()])
            .is_ok_and(|pids| !pids.is_empty())
    })
    .unwrap();
    drop(lab);
    assert!(!files.iter().any(|file| file.exists()));
    assert!(!lost.wait().unwrap().success());
}

#[test]
fn what_a_killed_run_left_is_swept_and_a_living_runs_is_not() {
    if std::env::var_os(LEFT_BEHIND).is_some() {
        let lab = Lab::new("left behind", Options::hosts(2)).unwrap();
        lab.host(0).exec(&["sleep", "600"]).unwrap();
    }
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "what_a_killed_run_left_is_swept_and_a_living_runs_is_not",
        ])
        .env(LEFT_BEHIND, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let prefix = format!("flab-{}-", run.id());
    let left = || -> Vec<String> {
        let listed = |directory| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = listed("/run/netns")
            .chain(listed("/tmp"))
            .map(|entry| entry.file_name());
        names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    };
    let asleep = || {
        let pids = Command::new("ip")
            .args(["netns", "pids", &format!("{prefix}left_behind-host1")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&pids.stdout).trim().parse::<u32>().ok()
    };
    let sleeper = wait_until(SOON, "the other run's lab", asleep).unwrap();
    // Three namespaces and a directory.
    assert_eq!(left().len(), 4);
    Lab::sweep().unwrap();
    assert_eq!(left().len(), 4, "a living run was swept");

    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(left().len(), 4, "a killed run cannot clean up");
    // Other tests sweep too: whoever comes first.
    Lab::sweep().unwrap();
    wait_until(SOON, "the sweep", || left().is_empty()).unwrap();
    wait_until(SOON, "the killed run's program to end", || {
        std::fs::read_link(format!("/proc/{sleeper}/exe")).is_err()
    })
    .unwrap();
}
