//! Three machines: two nodes with pods, and a third that only has a member of etcd.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use lab::{
    Certificate, CertificateOptions, EtcdCluster, EtcdOptions, EtcdTls, Host, KeyUsage, Lab, Options, Pinger,
    Pki, Pod, SubnetEnv, ping, wait_until,
};

use crate::node::{Node, Shell};

/// For what takes milliseconds, on a machine under load, where the time is not what is tested.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A ping that is answered within this is, and one that is not is not.
const PING: Duration = Duration::from_secs(1);
/// Where guides put the config.
pub(crate) const CONFIG_KEY: &str = "/coreos.com/network/config";
pub(crate) const CONFIG: &str = r#"{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// Their last octet is that of their pods' subnet, too.
const NODES: [u8; 2] = [21, 22];
const THIRD: u8 = 12;

/// The cluster, whatever of it runs.
pub(crate) struct Cluster {
    // In this order: what uses a namespace goes before it.
    pub(crate) etcd: EtcdCluster,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    certificates: Certificates,
    lab: Lab,
}

impl Cluster {
    /// With etcd running and answering, and the nodes set up but not started.
    pub(crate) fn new(name: &str) -> Self {
        let cluster = Self::unstarted(name, |options| options);
        cluster.etcd.wait_ready(SOON).unwrap();
        cluster
    }

    /// Etcd has been told to start; `member` may change how.
    pub(crate) fn unstarted(name: &str, member: impl Fn(EtcdOptions) -> EtcdOptions) -> Self {
        let numbers = NODES.iter().chain([&THIRD]).map(|number| usize::from(*number));
        let options = Options::numbered(numbers)
            .families(lab::Families::V4)
            .uplink("eth1")
            .pod_bridge("docker0");
        let lab = Lab::new(name, options).unwrap();
        let certificates = Certificates::issue(&lab);
        let members = lab.hosts().iter().map(|host| {
            let directory = lab.directory().join(host.label());
            let options = EtcdOptions::new(format!("etcd-{}", host.label()), directory);
            member(options.within(host, address(host)).tls(certificates.of_members()))
        });
        let etcd = EtcdCluster::launch(members.collect()).unwrap();
        let hosts = || lab.hosts().iter().zip(NODES);
        let pods = hosts().map(|(host, number)| pod_on(host, number)).collect();
        let shells = [Shell::Bash, Shell::Dash];
        let nodes = hosts().zip(shells).map(|((host, number), shell)| {
            let node = Node::set_up(&lab, host, number, shell, &etcd.endpoints());
            node.bring_certificates(&certificates.authority, &certificates.client);
            node
        });
        Self {
            nodes: nodes.collect(),
            etcd,
            pods,
            certificates,
            lab,
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Node, &Host)> {
        self.nodes.iter().zip(self.lab.hosts())
    }

    pub(crate) fn node(&self, index: usize) -> (&Node, &Host) {
        (&self.nodes[index], self.lab.host(index))
    }

    /// The machine with etcd alone.
    pub(crate) fn third(&self) -> &Host {
        self.lab.host(2)
    }

    /// The flags that every program of ours needs to talk to this etcd.
    pub(crate) fn etcd_flags(&self) -> Vec<String> {
        let Certificates {
            authority, client, ..
        } = &self.certificates;
        vec![
            format!("--etcd-endpoints={}", self.etcd.endpoints()),
            format!("--etcd-cafile={}", authority.display()),
            format!("--etcd-certfile={}", client.cert.display()),
            format!("--etcd-keyfile={}", client.key.display()),
        ]
    }

    /// Writes the config as today's manuals have it.
    pub(crate) fn put_config(&self) {
        self.etcd.member(0).etcdctl(&["put", CONFIG_KEY, CONFIG]).unwrap();
    }

    /// Starts both supervisors, and with them the daemons, and waits until the routes are there.
    pub(crate) fn start_nodes(&self) {
        for (node, host) in self.nodes() {
            node.start_supervisor(host);
        }
        self.wait_until_connected();
    }

    pub(crate) fn wait_until_connected(&self) {
        for (index, (node, host)) in self.nodes().enumerate() {
            let other = NODES[1 - index];
            let route = format!("172.7.{other}.0/24");
            let there = wait_until(SOON, format!("a route to {route}"), || {
                !host.routes_to(route.parse().unwrap()).unwrap().is_empty()
            });
            assert!(there.is_ok(), "{}", node.log());
        }
    }

    /// From pods and hosts to the other host's pod.
    fn ways(&self) -> Vec<(&lab::Namespace, IpAddr)> {
        (0..NODES.len())
            .flat_map(|from| {
                let to = IpAddr::from(pod_address(NODES[1 - from]));
                let (pod, host): (&lab::Namespace, &lab::Namespace) = (&self.pods[from], self.lab.host(from));
                [(pod, to), (host, to)]
            })
            .collect()
    }

    pub(crate) fn assert_connected(&self) {
        for (from, to) in self.ways() {
            ping(from, to, 3, SOON).unwrap();
        }
    }

    pub(crate) fn assert_disconnected(&self) {
        // All at once: each waits in vain for as long as it may.
        thread::scope(|scope| {
            for (from, to) in self.ways() {
                scope.spawn(move || {
                    assert!(ping(from, to, 1, PING).is_err(), "{to} answers {}", from.name());
                });
            }
        });
    }

    /// Pings every 10 ms, both ways between the pods.
    pub(crate) fn pingers(&self) -> Vec<Pinger> {
        let ways = self.pods.iter().zip(NODES.iter().rev());
        let pingers: Vec<Pinger> = ways
            .map(|(pod, to)| pod.pinger(pod_address(*to).into()).unwrap())
            .collect();
        for pinger in &pingers {
            pinger.wait_for_replies(10, SOON).unwrap();
        }
        pingers
    }

    /// The keys of the leases, sorted.
    pub(crate) fn leases(&self, member: usize) -> Vec<(String, String)> {
        let printed = self
            .etcd
            .member(member)
            .etcdctl(&["get", "--prefix", "/coreos.com/network/subnets"]);
        let printed = printed.unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        lines
            .chunks_exact(2)
            .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
            .collect()
    }

    /// Each host holds its pinned subnet, and there is no other lease.
    pub(crate) fn assert_pinned(&self) {
        let leases = self.leases(0);
        let keys: Vec<&str> = leases.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            NODES.map(|number| format!("/coreos.com/network/subnets/172.7.{number}.0-24")),
            "{leases:?}"
        );
        for ((_, value), (_, host)) in leases.iter().zip(self.nodes()) {
            let holder = format!(r#""PublicIP":"{}""#, address(host));
            assert!(value.contains(&holder), "{value} does not hold {holder}");
        }
    }

    /// Puts the lease of another node, which has the third machine's address, and waits until both nodes have a route to
    /// it.
    pub(crate) fn announce(&self, member: usize, number: u8) {
        self.put_leases(member, number..=number, address(self.third()));
        let subnet = format!("172.7.{number}.0/24").parse().unwrap();
        for (node, host) in self.nodes() {
            let there = wait_until(SOON, "a route to the new node", || {
                !host.routes_to(subnet).unwrap().is_empty()
            });
            assert!(
                there.is_ok(),
                "no route to {subnet} on {}: {}",
                host.label(),
                node.log()
            );
        }
    }

    /// Puts leases of other nodes, all at once.
    pub(crate) fn put_leases(&self, member: usize, numbers: RangeInclusive<u8>, holder: Ipv4Addr) {
        let mut transaction = String::from("\n");
        for number in numbers {
            transaction += &format!(
                "put /coreos.com/network/subnets/172.7.{number}.0-24 \
                 {{\"PublicIP\":\"{holder}\",\"PublicIPv6\":null,\"BackendType\":\"host-gw\"}}\n"
            );
        }
        transaction += "\n\n";
        // Where a member has just died, the others may have to elect a leader first.
        wait_until(SOON, "etcd to take leases", || {
            self.etcd
                .member(member)
                .etcdctl_with_input(&["txn"], &transaction)
                .is_ok()
        })
        .unwrap();
    }
}

/// As in the guides: one certificate for all members, one for all clients.
struct Certificates {
    authority: PathBuf,
    peer: Certificate,
    client: Certificate,
}

impl Certificates {
    fn issue(lab: &Lab) -> Self {
        let pki = Pki::new(lab.directory().join("pki")).unwrap();
        let hosts = lab.hosts().iter();
        let names: Vec<String> = hosts.map(|host| format!("IP:{}", address(host))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let client = CertificateOptions {
            usage: KeyUsage::Client,
            ..CertificateOptions::default()
        };
        Self {
            authority: pki.ca_file(),
            peer: pki.issue("etcd-peer", &names).unwrap(),
            client: pki.issue_with("client", &client).unwrap(),
        }
    }

    fn of_members(&self) -> EtcdTls {
        EtcdTls {
            authority: self.authority.clone(),
            certificate: self.peer.clone(),
            client_cert_auth: true,
        }
    }
}

/// No ping was lost.
pub(crate) fn assert_nothing_lost(pingers: Vec<Pinger>) {
    for pinger in pingers {
        let report = pinger.stop().unwrap();
        assert_eq!(report.lost, 0, "{report:?}");
    }
}

pub(crate) fn address(host: &Host) -> Ipv4Addr {
    host.ipv4().unwrap()
}

fn pod_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 7, number, 3)
}

/// Docker's second container: the first has `.2`.
fn pod_on(host: &Host, number: u8) -> Pod {
    let docker = SubnetEnv {
        subnet: Some(format!("172.7.{number}.1/24").parse().unwrap()),
        ipv6_subnet: None,
        mtu: 1500,
    };
    let pods = [(); 2].map(|()| host.add_pod_in(&docker).unwrap());
    let [_, pod] = pods;
    assert_eq!(
        pod.addresses().collect::<Vec<_>>(),
        [IpAddr::from(pod_address(number))]
    );
    pod
}
