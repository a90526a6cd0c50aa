//! Beside Docker: its bridge, its chains, its policy DROP and its own masquerading. Pods reach pods, and what is
//! Docker's stays as it was.

use std::net::IpAddr;
use std::time::Duration;

use lab::{Daemon, DaemonOptions, Family, Host, Lab, LabError, Options, Pod, Receiver};

use crate::network::{Mode, SOON, becomes, ready};
use crate::programs::Variant;

/// The network of hosts whose subnets are told by their numbers.
fn config(mode: Mode) -> String {
    let nftables = mode == Mode::Nftables;
    format!(r#"{{"Network":"172.7.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"host-gw"}}}}"#)
}

const BRIDGE: &str = "docker0";
const PORT: u16 = 7000;
/// Nobody answers within this time who answers at all.
const IN_VAIN: Duration = Duration::from_millis(800);

/// The rules of Docker 20 to 27 on a host whose containers are in this subnet, as `iptables-save` prints them.
fn docker(subnet: &str) -> String {
    format!(
        "*nat\n\
         :PREROUTING ACCEPT\n\
         :INPUT ACCEPT\n\
         :OUTPUT ACCEPT\n\
         :POSTROUTING ACCEPT\n\
         :DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s {subnet} ! -o docker0 -j MASQUERADE\n\
         -A DOCKER -i docker0 -j RETURN\n\
         COMMIT\n\
         *filter\n\
         :INPUT ACCEPT\n\
         :FORWARD DROP\n\
         :OUTPUT ACCEPT\n\
         :DOCKER -\n\
         :DOCKER-ISOLATION-STAGE-1 -\n\
         :DOCKER-ISOLATION-STAGE-2 -\n\
         :DOCKER-USER -\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
         -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o docker0 -j DOCKER\n\
         -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n\
         -A FORWARD -i docker0 -o docker0 -j ACCEPT\n\
         -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -j RETURN\n\
         COMMIT\n"
    )
}

/// All that flannel adds by default.
const ADDED: &[&str] = &[
    ":FLANNEL-FWD -",
    "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
    "-A FLANNEL-FWD -s 172.7.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT",
    "-A FLANNEL-FWD -d 172.7.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT",
];

/// Two hosts with Docker, whose subnets are pinned, and a machine outside.
struct Site {
    lab: Lab,
    variant: Variant,
    before: [Vec<String>; 2],
}

impl Site {
    fn new(name: &str, mode: Mode, variant: Variant) -> Self {
        let options = Options::numbered([21, 22, 9])
            .pod_bridge(BRIDGE)
            .flanneld(env!("CARGO_BIN_EXE_flanneld"));
        let lab = Lab::new(name, options).unwrap();
        lab.write_config(&config(mode)).unwrap();
        let before = [0, 1].map(|index| {
            let host = lab.host(index);
            host.feed(&[&variant.program("iptables-restore")], &docker(subnet(index)))
                .unwrap();
            rules(host, variant)
        });
        Self { lab, variant, before }
    }

    fn options(&self, index: usize, arguments: &[&str]) -> DaemonOptions {
        let pinned = format!("--subnet={}", subnet(index));
        let arguments = std::iter::once(pinned.as_str()).chain(arguments.iter().copied());
        self.variant.found(&self.lab, DaemonOptions::arguments(arguments))
    }

    fn pods(&self) -> [Pod; 2] {
        [0, 1].map(|index| self.lab.host(index).add_pod().unwrap())
    }
}

fn subnet(index: usize) -> &'static str {
    ["172.7.21.0/24", "172.7.22.0/24"][index]
}

fn address(pod: &Pod) -> IpAddr {
    pod.addresses().next().unwrap()
}

/// The rules of a host in their order, without counts and the time of day.
fn rules(host: &Host, variant: Variant) -> Vec<String> {
    let saved = host.exec(&[&variant.program("iptables-save")]).unwrap();
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" [").next().unwrap_or(line).to_owned())
        .collect()
}

fn containers_reach_containers_beside_docker(name: &str, variant: Variant) {
    let site = Site::new(name, Mode::Iptables, variant);
    let _daemons = [0, 1].map(|index| ready(site.lab.host(index), site.options(index, &[])));
    let pods = site.pods();
    let outside = site.lab.host(2);
    for (here, there) in [(0, 1), (1, 0)] {
        let receiver = Receiver::open(&pods[there], Family::V4, PORT).unwrap();
        receiver
            .source_of_connection(&pods[here], address(&pods[there]), SOON)
            .unwrap();
        let receiver = Receiver::open(outside, Family::V4, PORT).unwrap();
        let to = outside.ipv4().unwrap().into();
        let seen = receiver.source_of_connection(&pods[here], to, SOON).unwrap();
        assert_eq!(
            seen,
            site.lab.host(here).ipv4().unwrap(),
            "Docker's masquerading is broken"
        );
    }
    for index in [0, 1] {
        let now = rules(site.lab.host(index), variant);
        let (added, rest): (Vec<_>, Vec<_>) = now.into_iter().partition(|line| line.contains("FLANNEL"));
        assert_eq!(rest, site.before[index]);
        assert_eq!(added, ADDED);
    }
}

/// Where our accept cannot do anything about it, or is not there, what drops is named.
fn docker_drops(name: &str, mode: Mode, variant: Variant, forward_rules: &str) {
    let site = Site::new(name, mode, variant);
    let daemons: [Daemon; 2] = [0, 1].map(|index| {
        let options = site.options(index, &[forward_rules, "--iptables-resync=1"]);
        site.lab.host(index).start_daemon(options).unwrap()
    });
    for daemon in &daemons {
        let what = ["\"filter\"", "FORWARD", "ip filter", "172.7.0.0/16"];
        becomes(daemon, 200, &what);
    }
    let pods = site.pods();
    for (here, there) in [(0, 1), (1, 0)] {
        let receiver = Receiver::open(&pods[there], Family::V4, PORT).unwrap();
        let lost = receiver.source_of_connection(&pods[here], address(&pods[there]), IN_VAIN);
        assert!(
            lost.as_ref().is_err_and(LabError::is_transient),
            "nothing is dropped: {lost:?}"
        );
        assert_eq!(rules(site.lab.host(here), variant), site.before[here]);
    }
}

#[test]
fn containers_of_two_hosts_reach_each_other_and_the_outside_beside_docker_on_iptables_nft() {
    containers_reach_containers_beside_docker("dockernft", Variant::Nft);
}

#[test]
fn containers_of_two_hosts_reach_each_other_and_the_outside_beside_docker_on_iptables_legacy() {
    containers_reach_containers_beside_docker("dockerleg", Variant::Legacy);
}

#[test]
fn without_forward_rules_dockers_policy_is_named_as_what_drops_on_iptables_nft() {
    let without = "--iptables-forward-rules=false";
    docker_drops("dropnft", Mode::Iptables, Variant::Nft, without);
}

#[test]
fn without_forward_rules_dockers_policy_is_named_as_what_drops_on_iptables_legacy() {
    let without = "--iptables-forward-rules=false";
    docker_drops("dropleg", Mode::Iptables, Variant::Legacy, without);
}

#[test]
fn in_nftables_mode_dockers_policy_is_named_as_what_drops_on_iptables_nft() {
    let all_the_same = "--iptables-forward-rules=true";
    docker_drops("nftdropnft", Mode::Nftables, Variant::Nft, all_the_same);
}

#[test]
fn in_nftables_mode_dockers_policy_is_named_as_what_drops_on_iptables_legacy() {
    let all_the_same = "--iptables-forward-rules=true";
    docker_drops("nftdropleg", Mode::Nftables, Variant::Legacy, all_the_same);
}

/// Docker 28 drops what comes from elsewhere to a container's own address, before any rule of ours.
#[test]
fn what_docker_28_drops_is_named_with_its_bridge_and_the_pasted_command_lets_the_pods_through() {
    let site = Site::new("docker28", Mode::Iptables, Variant::Nft);
    let daemons = [0, 1].map(|index| ready(site.lab.host(index), site.options(index, &[])));
    let pods = site.pods();
    let host = site.lab.host(0);
    let reach = |within| {
        let receiver = Receiver::open(&pods[0], Family::V4, PORT).unwrap();
        receiver.source_of_connection(&pods[1], address(&pods[0]), within)
    };
    reach(SOON).unwrap();
    let drop = "iptables-nft -A DOCKER ! -i docker0 -o docker0 -j DROP";
    host.exec(&drop.split(' ').collect::<Vec<_>>()).unwrap();
    becomes(
        &daemons[0],
        200,
        &["\"filter\"", "on its way to docker0", "172.7.0.0/16"],
    );
    let lost = reach(IN_VAIN);
    assert!(
        lost.as_ref().is_err_and(LabError::is_transient),
        "nothing is dropped: {lost:?}"
    );
    let (_, body) = daemons[0].get("/readyz").unwrap();
    let command = body.split_once("to accept 172.7.0.0/16; ").unwrap().1;
    let command = command.split_once('"').unwrap().0;
    host.exec(&["sh", "-euc", command]).unwrap();
    reach(SOON).unwrap();
    becomes(&daemons[0], 200, &[]);
}
