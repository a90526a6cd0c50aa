//! The operator's mistakes: each is told with its object, its value and what to paste, and is over when it is mended,
//! without a restart.

use std::fs;
use std::time::{Duration, Instant};

use lab::{Daemon, DaemonOptions, Families, Host, Lab, UPLINK, ping, wait_until};

use crate::network::{
    SETTLED, SOON, config, find_lease, lease_of, net, network, put_peer, routes_to, settled, settled_with,
    subnets, subnets_of, value_at, wait_for_routes,
};

/// What nothing announces is looked at every 10 s, the packet filter with a look of its own.
const NEXT_LOOK: Duration = Duration::from_secs(25);

/// Waits until the log has told of something, in a line with all of these, and returns the line.
#[track_caller]
fn told(daemon: &Daemon, parts: &[&str]) -> String {
    told_within(daemon, parts, SOON)
}

#[track_caller]
fn told_within(daemon: &Daemon, parts: &[&str], within: Duration) -> String {
    let parts = [&[" WARN ", "not as it ought to be"], parts].concat();
    let line = wait_until(within, format!("a line with {parts:?}"), || {
        daemon.lines_with(&parts).into_iter().next()
    });
    line.unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()))
}

/// Waits until the log has said, of what it had told of before in these words, that it is over.
#[track_caller]
fn over(daemon: &Daemon, part: &str) {
    wait_until(NEXT_LOOK, format!("the end of {part}"), || {
        !daemon.lines_with(&["mended", part]).is_empty()
    })
    .unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()));
    daemon.must_run("its mistakes to be mended").unwrap();
}

/// Pastes what stands between these words of a message, on a host.
#[track_caller]
fn paste(host: &Host, line: &str, before: &str, after: &str) {
    let command = line
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    let (command, _) = command.unwrap_or_else(|| panic!("no command in {line}"));
    host.exec(&["sh", "-euc", command]).unwrap();
}

fn node_of(lab: &Lab, host: &Host) -> String {
    let lease: serde_json::Value = serde_json::from_str(&lease_of(lab, host).text).unwrap();
    lease["NodeID"].as_str().unwrap().to_owned()
}

#[test]
fn a_public_ip_copied_from_another_host_is_told_of_with_that_hosts_lease_and_takes_nothing() {
    let lab = network("copiedip", 2, Families::V4);
    let first = settled(lab.host(0));
    let lease = lease_of(&lab, lab.host(0));
    let copied = DaemonOptions::arguments(["--public-ip=192.168.77.11"]);
    let second = lab.host(1).start_daemon(copied).unwrap();
    told(
        &second,
        &[
            "--public-ip is 192.168.77.11, but eth0 has 192.168.77.12",
            "leave out --public-ip",
        ],
    );
    let subnet = subnets_of(lab.host(0))[0].to_string();
    let holder = format!("192.168.77.11 (node {})", node_of(&lab, lab.host(0)));
    told(
        &second,
        &[
            "our public address 192.168.77.11",
            &format!("the lease {subnet} of {holder}"),
            "give each host its own --public-ip",
        ],
    );
    assert_eq!(lab.leases().unwrap(), [lease]);
    assert!(first.lines_with(&["WARN"]).is_empty(), "{}", first.log());
    // The first host is moved, and its address is the second's indeed.
    lab.host(0)
        .change_address("192.168.77.99/24".parse().unwrap())
        .unwrap();
    over(&second, "our public address 192.168.77.11");
    lab.host(1)
        .change_address("192.168.77.11/24".parse().unwrap())
        .unwrap();
    second.wait_for_log(SETTLED, SOON).unwrap();
}

#[test]
fn two_hosts_with_one_address_are_told_of_on_both_and_the_lease_stays_with_the_first() {
    let lab = network("oneaddress", 3, Families::V4);
    let first = settled(lab.host(0));
    let third = settled(lab.host(2));
    let (lease, node) = (lease_of(&lab, lab.host(0)), node_of(&lab, lab.host(0)));
    let expected = routes_to(&subnets_of(lab.host(0)), lab.host(0));
    wait_for_routes(lab.host(2), expected.clone(), SOON);
    let monitor = lab.host(2).monitor_routes().unwrap();
    lab.host(1)
        .change_address("192.168.77.11/24".parse().unwrap())
        .unwrap();
    let second = lab.host(1).start_daemon(DaemonOptions::default()).unwrap();
    let subnet = subnets_of(lab.host(0))[0].to_string();
    told(
        &second,
        &[
            "our public address 192.168.77.11",
            &format!("the lease {subnet} of 192.168.77.11 (node {node}), which is alive"),
            "give each host its own --public-ip",
        ],
    );
    told(
        &first,
        &[
            "another host, node ",
            "publishes our address 192.168.77.11",
            &subnet,
            "--public-ip",
        ],
    );
    assert!(!lab.host(1).subnet_env_path(DaemonOptions::INSTANCE).exists());
    assert_eq!(lease_of(&lab, lab.host(0)).key, lease.key);
    assert_eq!(node_of(&lab, lab.host(0)), node);
    assert!(first.lines_with(&["ERROR"]).is_empty(), "{}", first.log());
    // With an address of its own it goes on by itself.
    lab.host(1)
        .change_address("192.168.77.12/24".parse().unwrap())
        .unwrap();
    second.wait_for_log(SETTLED, SOON).unwrap();
    assert_ne!(subnets_of(lab.host(1)), subnets_of(lab.host(0)));
    let own = subnets_of(lab.host(0));
    wait_for_routes(
        lab.host(2),
        [expected, routes_to(&subnets_of(lab.host(1)), lab.host(1))].concat(),
        SOON,
    );
    let events = monitor.stop().unwrap();
    let touched: Vec<_> = events
        .iter()
        .filter(|event| own.contains(&event.destination))
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
    third.must_run("the end of the test").unwrap();
}

#[test]
fn the_subnet_of_another_host_is_told_of_with_its_holder_whether_pinned_or_in_subnet_env() {
    let lab = network("copiedsubnet", 3, Families::V4);
    let pinned = DaemonOptions::arguments(["--subnet=10.77.150.0/24"]);
    let first = settled_with(lab.host(0), pinned.clone());
    let holder = format!(
        "the lease 10.77.150.0/24 of 192.168.77.11 (node {})",
        node_of(&lab, lab.host(0))
    );

    let second = lab.host(1).start_daemon(pinned).unwrap();
    told(
        &second,
        &["the pinned subnet 10.77.150.0/24 is taken by", &holder],
    );
    assert_eq!(find_lease(&lab, lab.host(1)), None);

    let env = lab.host(2).subnet_env_path(DaemonOptions::INSTANCE);
    fs::create_dir_all(env.parent().unwrap()).unwrap();
    fs::write(
        &env,
        "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.150.1/24 # copied\n",
    )
    .unwrap();
    let third = settled(lab.host(2));
    let own = lease_of(&lab, lab.host(2));
    assert_ne!(own.key, "10.77.150.0-24");
    let has = format!("this host has {} instead", subnets_of(lab.host(2))[0]);
    told(
        &third,
        &[
            "10.77.150.0/24, which subnet.env named, is taken by",
            &holder,
            &has,
        ],
    );

    first.kill().unwrap();
    lab.delete_lease("10.77.150.0-24").unwrap();
    over(&second, "the pinned subnet 10.77.150.0/24");
    second.wait_for_log(SETTLED, SOON).unwrap();
    assert_eq!(subnets_of(lab.host(1)), [net("10.77.150.0/24")]);
    third.must_run("the end of the test").unwrap();
}

#[test]
fn a_bridge_with_an_address_of_another_hosts_subnet_is_told_of_and_the_pasted_command_mends_it() {
    let lab = network("otherbridge", 2, Families::V4);
    let host = lab.host(0);
    // As docker0 of a host whose --bip was copied from the other.
    host.ip(&["link", "add", "docker0", "type", "bridge"]).unwrap();
    host.ip(&["addr", "add", "10.77.200.1/24", "dev", "docker0"])
        .unwrap();
    host.ip(&["link", "set", "docker0", "up"]).unwrap();
    put_peer(&lab, &subnets(Families::V4, 200), lab.host(1));
    let daemon = host.start_daemon(DaemonOptions::default()).unwrap();
    let own = subnets_of(host)[0];
    let line = told(
        &daemon,
        &[
            "docker0 has the address 10.77.200.1/24",
            &format!("not in this host's subnet {own}"),
            "the lease 10.77.200.0/24 of 192.168.77.12",
        ],
    );
    paste(host, &line, "behind it; ", " (docker:");
    over(&daemon, "docker0 has the address 10.77.200.1/24");
    // Its route was where the one to the other host belongs.
    let route = routes_to(&[net("10.77.200.0/24")], lab.host(1));
    wait_until(SOON, "the route to the other host", || {
        host.routes_to(net("10.77.200.0/24")).unwrap() == route
    })
    .unwrap();
    let shown = host.ip(&["-o", "addr", "show", "dev", "docker0"]).unwrap();
    let ought = format!("{}/24", own.hosts().next().unwrap());
    assert!(
        shown.contains(&ought) && !shown.contains("10.77.200.1"),
        "{shown}"
    );
    // Set up wrongly later, and put right.
    host.ip(&["addr", "add", "10.77.201.1/24", "dev", "docker0"])
        .unwrap();
    told(&daemon, &["docker0 has the address 10.77.201.1/24"]);
    host.ip(&["link", "del", "docker0"]).unwrap();
    over(&daemon, "docker0 has the address 10.77.201.1/24");
}

#[test]
fn a_peer_off_the_segment_is_told_of_with_what_would_reach_it_and_routed_once_it_is_on_it() {
    let lab = network("offsegment", 2, Families::V4);
    let daemon = settled(lab.host(0));
    lab.put_lease("10.77.210.0-24", &value_at(Some(&"172.30.0.1"), None::<&String>))
        .unwrap();
    let line = daemon
        .wait_for_log("WARN .*10.77.210.0/24 via 172.30.0.1 dev eth0", SOON)
        .unwrap();
    assert!(
        line.contains("not on the device's segment")
            && line.contains("use the backend vxlan with DirectRouting"),
        "{line}"
    );
    lab.host(0)
        .ip(&["addr", "add", "172.30.0.9/24", "dev", UPLINK])
        .unwrap();
    wait_until(SOON, "the route to the peer", || {
        !lab.host(0).routes_to(net("10.77.210.0/24")).unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn forwarding_that_is_off_is_told_of_and_the_pasted_command_mends_it() {
    let lab = network("noforward", 1, Families::Both);
    let host = lab.host(0);
    let set = |name: &str, value: &str| {
        host.exec(&["sh", "-euc", &format!("echo {value} >/proc/sys/net/{name}")])
            .unwrap()
    };
    set("ipv4/ip_forward", "0");
    set("ipv6/conf/all/forwarding", "0");
    let daemon = settled(host);
    let line = told(
        &daemon,
        &[
            "net.ipv4.conf.eth0.forwarding is 0",
            "net.ipv6.conf.all.forwarding is 0",
        ],
    );
    let (v4, v6) = line.split_once("; IPv6").unwrap();
    paste(host, &format!("{v4};"), "reach each other; ", ";");
    paste(host, v6, "reach each other; ", " (after");
    over(&daemon, "net.ipv6.conf.all.forwarding is 0");
    let left = host.exec(&[
        "sysctl",
        "-n",
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
    ]);
    assert_eq!(left.unwrap(), "1\n1\n");
}

#[test]
fn forwarding_that_is_switched_off_later_is_told_of_within_the_next_look() {
    let lab = network("forwardlater", 1, Families::V4);
    let host = lab.host(0);
    let daemon = settled(host);
    assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
    host.exec(&["sysctl", "-w", "net.ipv4.ip_forward=0"]).unwrap();
    let begin = Instant::now();
    told_within(&daemon, &["net.ipv4.conf.eth0.forwarding is 0"], NEXT_LOOK);
    println!("forwarding is missed after {:.1?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(12));
}

#[test]
fn a_forward_chain_that_drops_is_told_of_and_the_pasted_command_lets_the_pods_through() {
    let lab = network("forwarddrop", 2, Families::V4);
    let daemons = [0, 1].map(|host| {
        let options = DaemonOptions::arguments(["--iptables-forward-rules=false"]);
        let daemon = lab.host(host).start_daemon(options).unwrap();
        daemon.wait_for_log(SETTLED, SOON).unwrap();
        daemon
    });
    let pods = [lab.host(0).add_pod().unwrap(), lab.host(1).add_pod().unwrap()];
    let reach = |within: Duration| ping(&pods[0], pods[1].addresses().next().unwrap(), 1, within);
    reach(SOON).unwrap();
    lab.host(0)
        .exec(&["iptables-nft", "-P", "FORWARD", "DROP"])
        .unwrap();
    assert!(reach(Duration::from_secs(1)).is_err(), "nothing is dropped");
    let line = told_within(
        &daemons[0],
        &["the chain FORWARD (table ip filter) drops", "accept 10.77.0.0/16"],
        NEXT_LOOK,
    );
    assert!(
        daemons[1].lines_with(&["WARN"]).is_empty(),
        "{}",
        daemons[1].log()
    );
    paste(lab.host(0), &format!("{line}\""), "accept 10.77.0.0/16; ", "\"");
    reach(SOON).unwrap();
    over(&daemons[0], "the chain FORWARD (table ip filter)");
}

#[test]
fn a_slip_in_the_config_is_told_of_with_what_was_meant() {
    let lab = network("slips", 1, Families::V4);
    let good = config(Families::V4);
    lab.write_config(&good.replace("Network", "Netwrok")).unwrap();
    let daemon = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    let quoted = |line: &str| line.replace('\\', "");
    let line = told(&daemon, &["please define a correct Network parameter"]);
    assert!(
        quoted(&line).contains(r#""Netwrok" is no member of the network config: was "Network" meant?"#),
        "{line}"
    );
    lab.write_config(&good.replace("host-gw", "hots-gw")).unwrap();
    let line = told(&daemon, &["unknown backend type: hots-gw"]);
    assert!(quoted(&line).contains(r#"was "host-gw" meant?"#), "{line}");
    // From here on it works, and a member more or less makes no difference.
    lab.write_config(&good.replace(r#""Backend""#, r#""SubnetLen ":26,"Backend""#))
        .unwrap();
    daemon.wait_for_log(SETTLED, SOON).unwrap();
    let line = told(&daemon, &["SubnetLen "]);
    assert!(
        quoted(&line).contains(r#""SubnetLen " is no member of the network config: was "SubnetLen" meant?"#),
        "{line}"
    );
    lab.write_config(&good).unwrap();
    over(&daemon, "SubnetLen ");
}
