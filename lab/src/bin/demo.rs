//! `make demo`: three hosts, a flanneld on each, pods that reach each other, and a route that is cut and comes back.

#![allow(
    clippy::disallowed_methods,
    reason = "measures in real time what a person watches"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{
    Daemon, DaemonOptions, Families, Family, Host, Lab, LabError, Namespace, Options, Pod, RouteLine,
    SubnetEnv, UPLINK, ping, wait_until,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const HOSTS: usize = 3;
const CONFIG: &str = r#"{
  "Network": "10.77.0.0/16",
  "EnableIPv6": true,
  "IPv6Network": "fd77::/48",
  "Backend": { "Type": "host-gw" }
}"#;
/// What a daemon has to do takes milliseconds; this is for a machine under load.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long nothing may be said.
const SILENCE: Duration = Duration::from_secs(2);
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// A daemon ends within three seconds of being asked.
const END_DEADLINE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Without it the next run sweeps what this one leaves.
        let _ = signal_hook::flag::register(signal, Arc::clone(&interrupted));
    }
    let demo = Demo {
        interrupted,
        begin: Instant::now(),
    };
    match demo.run() {
        Ok(outcome) => {
            say(&format!("\nOK: {outcome}"));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("\nFAILED: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line. A reader that is gone is no reason to leave anything behind.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("interrupted; hosts, pods, daemons and files are removed")]
    Interrupted,
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("{0}")]
    Wrong(String),
}

struct Demo {
    interrupted: Arc<AtomicBool>,
    begin: Instant,
}

/// A host with what runs on it.
struct Node<'lab> {
    host: &'lab Host,
    subnet: SubnetEnv,
    pod: Pod,
}

impl Node<'_> {
    /// The destinations that lead to this host's pods, with the gateway that the others must use.
    fn reached_by(&self) -> Vec<(IpNet, IpAddr)> {
        reached_by(self.host, &self.subnet)
    }
}

fn reached_by(host: &Host, subnet: &SubnetEnv) -> Vec<(IpNet, IpAddr)> {
    let v4 = subnet
        .subnet
        .zip(host.ipv4())
        .map(|(net, host)| (IpNet::V4(net.trunc()), IpAddr::V4(host)));
    let v6 = subnet
        .ipv6_subnet
        .zip(host.ipv6())
        .map(|(net, host)| (IpNet::V6(net.trunc()), IpAddr::V6(host)));
    v4.into_iter().chain(v6).collect()
}

impl Demo {
    fn run(&self) -> Result<String, Failure> {
        self.step(&format!(
            "{HOSTS} hosts: network namespaces on one wire, with IPv4 and IPv6 addresses"
        ));
        let lab = Lab::new("demo", Options::hosts(HOSTS).families(Families::Both))?;
        let outcome = self.on(&lab);
        self.step("removing hosts, pods and files");
        let removed = lab.remove();
        let outcome = outcome?;
        removed?;
        Ok(format!(
            "{outcome}; nothing is left behind ({:.1} s)",
            self.begin.elapsed().as_secs_f64()
        ))
    }

    fn on(&self, lab: &Lab) -> Result<String, Failure> {
        lab.write_config(CONFIG)?;
        self.step(&format!(
            "a flanneld on each host; the network's config is in {}",
            lab.store_dir().display()
        ));
        let start = |host: &Host| host.start_daemon(DaemonOptions::default());
        let daemons = lab.hosts().iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let subnets = self.subnets(lab, &daemons)?;
        self.step("a pod on each host, in the subnet that its flanneld leased");
        let mut nodes = Vec::new();
        for (host, subnet) in lab.hosts().iter().zip(subnets) {
            self.go_on()?;
            nodes.push(Node {
                host,
                subnet,
                pod: host.add_pod_in(&subnet)?,
            });
        }
        self.wait("each host's routes to the others", &daemons, || {
            nodes
                .iter()
                .all(|node| has_its_routes(node, &nodes))
                .then_some(())
        })?;
        say(&format!("\n{}", leases_and_routes(lab, &nodes)?));
        let answered = self.ping_all(&nodes)?;
        let back = self.cut_one_route(&nodes, &daemons)?;
        self.step("stopping the daemons");
        for (daemon, node) in daemons.iter().zip(&nodes) {
            let status = daemon.terminate(END_DEADLINE)?;
            if !status.success() {
                return Err(Failure::Wrong(format!(
                    "flanneld on {} ended with {status}",
                    node.host.label()
                )));
            }
        }
        Ok(format!(
            "{answered} pings answered, the cut route was back after {}",
            milliseconds(back)
        ))
    }

    /// Waits until each daemon has leased a subnet.
    fn subnets(&self, lab: &Lab, daemons: &[Daemon]) -> Result<Vec<SubnetEnv>, Failure> {
        let mut subnets = Vec::new();
        for host in lab.hosts() {
            let path = host.subnet_env_path(DaemonOptions::INSTANCE);
            subnets.push(
                self.wait(&format!("{} to lease a subnet", host.label()), daemons, || {
                    SubnetEnv::parse(&std::fs::read_to_string(&path).ok()?).ok()
                })?,
            );
        }
        let distinct: BTreeSet<_> = subnets
            .iter()
            .map(|subnet| (subnet.subnet, subnet.ipv6_subnet))
            .collect();
        if distinct.len() < subnets.len() {
            return Err(Failure::Wrong(format!(
                "two hosts leased one subnet: {subnets:?}"
            )));
        }
        Ok(subnets)
    }

    /// Every pod from every other pod and from every host, in both families, as a table.
    fn ping_all(&self, nodes: &[Node<'_>]) -> Result<usize, Failure> {
        let mut lost = Vec::new();
        let mut answered = 0;
        let header = nodes.iter().map(|node| format!("{} pod", node.host.label()));
        let mut rows = vec![
            std::iter::once("PING FROM \\ TO".to_owned())
                .chain(header)
                .collect::<Vec<_>>(),
        ];
        let pods = nodes
            .iter()
            .map(|node| (format!("{} pod", node.host.label()), node.pod.as_ref()));
        let hosts = nodes
            .iter()
            .map(|node| (node.host.label().to_owned(), node.host.as_ref()));
        for (name, from) in pods.chain(hosts) {
            let mut row = vec![name];
            for node in nodes {
                self.go_on()?;
                if from == node.pod.as_ref() {
                    row.push("-".into());
                    continue;
                }
                let mut cell = Vec::new();
                for to in node.pod.addresses() {
                    let reply = answer(from, to);
                    answered += usize::from(reply.is_some());
                    cell.push(reply.map_or("lost".into(), |time| format!("{:.2}", time.as_secs_f64() * 1e3)));
                    if reply.is_none() {
                        lost.push(format!("{to} from {}", row[0]));
                    }
                }
                row.push(cell.join(" / "));
            }
            rows.push(row);
        }
        say(&table(&rows));
        say("Round trips in ms, IPv4 / IPv6.\n");
        if lost.is_empty() {
            return Ok(answered);
        }
        Err(Failure::Wrong(format!(
            "{} of {} pings lost: {}",
            lost.len(),
            answered + lost.len(),
            lost.join(", ")
        )))
    }

    /// Deletes a route on the first host, and returns how long it was gone: the kernel's word, not ours.
    fn cut_one_route(&self, nodes: &[Node<'_>], daemons: &[Daemon]) -> Result<Duration, Failure> {
        let [first, second, ..] = nodes else {
            return Err(Failure::Wrong("a cut needs two hosts".into()));
        };
        let &[(subnet, gateway), ..] = &second.reached_by()[..] else {
            return Err(Failure::Wrong("the second host has no subnet".into()));
        };
        self.step(&format!(
            "cutting a route by hand: {}# ip route del {subnet}",
            first.host.label()
        ));
        let monitor = first.host.monitor_routes()?;
        first.host.delete_route(subnet)?;
        self.wait("the cut route", daemons, || {
            first
                .host
                .routes_to(subnet)
                .is_ok_and(|routes| is_right(&routes, gateway))
                .then_some(())
        })?;
        let events = monitor.stop()?;
        let mut of_it = events
            .iter()
            .filter(|event| event.destination == subnet)
            .skip_while(|event| !event.deleted);
        let (Some(cut), Some(back)) = (of_it.next(), of_it.find(|event| !event.deleted)) else {
            return Err(Failure::Wrong(format!(
                "the kernel did not tell of {subnet} going and coming: {events:?}"
            )));
        };
        let gone = back.at.saturating_duration_since(cut.at);
        self.step(&format!(
            "back after {}: {}",
            milliseconds(gone),
            back.line.trim()
        ));
        match second.pod.addresses().next().map(|to| answer(&first.pod, to)) {
            Some(Some(_)) => Ok(gone),
            _ => Err(Failure::Wrong(format!(
                "{subnet} has its route again, but its pod does not answer"
            ))),
        }
    }

    /// Waits for a condition, says so every two seconds, and gives up when a daemon ends or the user does.
    fn wait<T>(
        &self,
        what: &str,
        daemons: &[Daemon],
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        let begin = Instant::now();
        loop {
            let seen = wait_until(SILENCE, what, || {
                let stop = self.go_on().and_then(|()| {
                    daemons
                        .iter()
                        .try_for_each(|daemon| daemon.must_run(what))
                        .map_err(Failure::from)
                });
                condition().map(Ok).or_else(|| stop.err().map(Err))
            });
            match seen {
                Ok(outcome) => return outcome,
                Err(error) if begin.elapsed() >= DEADLINE => {
                    let logs: String = daemons.iter().map(Daemon::log).collect();
                    return Err(Failure::Wrong(format!("{error}; the daemons said:\n{logs}")));
                }
                Err(_) => self.step(&format!("still waiting for {what}")),
            }
        }
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Relaxed) {
            Err(Failure::Interrupted)
        } else {
            Ok(())
        }
    }

    fn step(&self, what: &str) {
        say(&format!("[{:5.1} s] {what}", self.begin.elapsed().as_secs_f64()));
    }
}

fn answer(from: impl AsRef<Namespace>, to: IpAddr) -> Option<Duration> {
    ping(from, to, 1, PING_DEADLINE)
        .ok()
        .and_then(|report| report.fastest)
}

/// Whether a host has exactly one route, the right one, to each other host's pods.
fn has_its_routes(node: &Node<'_>, nodes: &[Node<'_>]) -> bool {
    let others = nodes
        .iter()
        .filter(|other| other.host.label() != node.host.label());
    others.flat_map(Node::reached_by).all(|(subnet, gateway)| {
        node.host
            .routes_to(subnet)
            .is_ok_and(|routes| is_right(&routes, gateway))
    })
}

fn is_right(routes: &[RouteLine], gateway: IpAddr) -> bool {
    matches!(routes, [route] if route.gateway == Some(gateway) && route.device.as_deref() == Some(UPLINK))
}

/// Per host: what it leased, where its lease says it can be reached, and its routes to the others' subnets.
fn leases_and_routes(lab: &Lab, nodes: &[Node<'_>]) -> Result<String, LabError> {
    let leases = lab.leases()?;
    let pod_networks: Vec<IpNet> = nodes
        .iter()
        .flat_map(|node| node.reached_by())
        .map(|(net, _)| net)
        .collect();
    let mut rows = vec![
        ["HOST", "SUBNET", "PUBLIC IP", "ROUTES TO THE OTHERS"]
            .map(String::from)
            .to_vec(),
    ];
    for node in nodes {
        let subnets: Vec<String> = node.reached_by().iter().map(|(net, _)| net.to_string()).collect();
        let key = subnets
            .first()
            .map(|net| net.replace('/', "-"))
            .unwrap_or_default();
        let lease = leases
            .iter()
            .find(|lease| lease.key.split('&').any(|part| part == key));
        let value = lease.and_then(|lease| serde_json::from_str(&lease.text).ok());
        let public: Vec<String> = ["PublicIP", "PublicIPv6"]
            .iter()
            .filter_map(|name| field(value.as_ref()?, name))
            .collect();
        let mut routes = Vec::new();
        for family in [Family::V4, Family::V6] {
            for route in node.host.routes(family)? {
                if let (Some(gateway), true) = (route.gateway, pod_networks.contains(&route.destination)) {
                    let device = route.device.unwrap_or_default();
                    routes.push(format!(
                        "{} via {gateway} dev {device} proto {}",
                        route.destination, route.protocol
                    ));
                }
            }
        }
        let cell = |column: &[String], line: usize| column.get(line).cloned().unwrap_or_default();
        for line in 0..routes.len().max(subnets.len()) {
            let host = if line == 0 { node.host.label() } else { "" };
            rows.push(vec![
                host.to_owned(),
                cell(&subnets, line),
                cell(&public, line),
                cell(&routes, line),
            ]);
        }
    }
    Ok(table(&rows))
}

/// The text of a field, wherever in a lease file it stands.
fn field(value: &serde_json::Value, name: &str) -> Option<String> {
    let object = value.as_object()?;
    let here = object
        .get(name)
        .and_then(|found| found.as_str())
        .map(str::to_owned);
    here.or_else(|| object.values().find_map(|inner| field(inner, name)))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // `let _`: writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}   ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
