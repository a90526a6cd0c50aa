//! A network namespace with a link, and somebody else's hand in it.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::testing::programmer_contract::{Disturbance, Foreign, ProgrammerHarness};
use flannel_core::{
    Changed, DeviceName, Family, Forwarding, Hop, Hops, Object, Op, Route, RouteKind, RouteProgrammer, Scope,
};
use flannel_netlink::Netlink;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use nix::sched::CloneFlags;
use tokio::time::Instant;

/// How long an announcement may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A namespace that goes with the thread that is in it, a link `v0` with 192.168.9.1/16 and
/// fd00:9::1/64 whose other end is up, and a `Netlink`.
pub(crate) struct Bench {
    pub(crate) netlink: Netlink,
}

/// Runs a test in a namespace of its own.
pub(crate) fn run(test: impl AsyncFnOnce(Bench) + Send + 'static) {
    on_a_thread(async || test(Bench::fresh()).await);
}

/// Runs a test on a thread that may change its namespace.
pub(crate) fn on_a_thread(test: impl AsyncFnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests make network namespaces: run them as root"
    );
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread into a new namespace, with nothing in it.
pub(crate) fn enter_a_new_namespace() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
}

impl Bench {
    pub(crate) fn fresh() -> Self {
        enter_a_new_namespace();
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        // No duplicate address detection, whose outcome would come at its leisure.
        for end in ["v0", "v1"] {
            ip(&format!("link set {end} addrgenmode none"));
            ip(&format!("link set {end} up"));
        }
        ip("address add 192.168.9.1/16 dev v0");
        ip("address add fd00:9::1/64 dev v0 nodad");
        Self {
            netlink: Netlink::open().unwrap(),
        }
    }

    /// Waits until the link's own announcements are over.
    pub(crate) fn settle() {
        let until = Instant::now() + PATIENCE;
        while ip("-br link show dev v0").split_whitespace().nth(1) != Some("UP") {
            assert!(Instant::now() < until, "the link does not come up");
        }
    }

    pub(crate) fn uplink() -> DeviceName {
        "v0".parse().unwrap()
    }

    pub(crate) fn other_end() -> DeviceName {
        "v1".parse().unwrap()
    }

    pub(crate) async fn add(&self, routes: impl IntoIterator<Item = Route>) {
        add(&self.netlink, routes).await;
    }

    pub(crate) async fn dump(&self, network: &str) -> Vec<Object> {
        self.netlink.dump(&scope(network)).await.unwrap()
    }

    pub(crate) fn watch(&self, network: &str) -> Watch {
        Watch::of(&self.netlink, &scope(network))
    }
}

pub(crate) struct Watch(BoxStream<'static, Changed>);

impl Watch {
    pub(crate) fn of(netlink: &Netlink, scope: &Scope) -> Self {
        Self(netlink.watch(scope).unwrap())
    }

    pub(crate) async fn next(&mut self) -> Changed {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await;
        next.expect("an announcement in time").unwrap()
    }

    /// What can be read without waiting.
    pub(crate) fn now(&mut self) -> Option<Changed> {
        self.0.next().now_or_never().flatten()
    }

    /// The next device that went down or away or lost an address, but for the other end of the link,
    /// which goes with it.
    pub(crate) async fn next_down(&mut self) -> DeviceName {
        loop {
            match self.next().await {
                Changed::Down(device) if device != Bench::other_end() => break device,
                _ => {}
            }
        }
    }

    /// The next table of the packet filter.
    pub(crate) async fn next_table(&mut self) -> Option<String> {
        loop {
            match self.next().await {
                Changed::Table(table) => break table,
                Changed::Host | Changed::Down(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next that is not about the host, which a new link is slow to settle on, nor its packet filter.
    pub(crate) async fn next_object(&mut self) -> Changed {
        loop {
            match self.next().await {
                Changed::Host | Changed::Down(_) | Changed::Table(_) => {}
                changed => break changed,
            }
        }
    }
}

pub(crate) async fn add(netlink: &Netlink, routes: impl IntoIterator<Item = Route>) {
    let plan = routes.into_iter().map(|route| Op::Add(route.into()));
    let applied = netlink.apply(&plan.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(applied.failed, []);
}

pub(crate) fn scope(network: &str) -> Scope {
    Scope {
        networks: vec![network.parse().unwrap()],
        ..Scope::default()
    }
}

/// A route of ours over the link.
pub(crate) fn route(destination: &str, gateway: &str) -> Route {
    let hop = Hop::via(gateway.parse().unwrap(), Bench::uplink());
    Route::unicast(destination.parse().unwrap(), hop, 70)
}

/// Runs `ip` in this thread's namespace and returns what it says.
#[allow(
    clippy::disallowed_methods,
    reason = "iproute2 is the judge that does not share our code"
)]
pub(crate) fn ip(arguments: &str) -> String {
    let output = std::process::Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.expect("iproute2");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program in this thread's namespace.
#[allow(
    clippy::disallowed_methods,
    reason = "the programs that operators use are the judges"
)]
pub(crate) fn program(name: &str, arguments: &[&str], input: &str) {
    let child = std::process::Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name} (Debian: iptables, nftables): {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
}

pub(crate) fn bridge(arguments: &str) {
    program("bridge", &arguments.split_whitespace().collect::<Vec<_>>(), "");
}

pub(crate) fn nft(ruleset: &str) {
    program("nft", &["-f", "-"], ruleset);
}

pub(crate) fn iptables(arguments: &str) {
    program(
        "iptables-nft",
        &arguments.split_whitespace().collect::<Vec<_>>(),
        "",
    );
}

pub(crate) fn ip6tables(arguments: &str) {
    program(
        "ip6tables-nft",
        &arguments.split_whitespace().collect::<Vec<_>>(),
        "",
    );
}

#[async_trait::async_trait]
impl ProgrammerHarness for Bench {
    fn programmer(&self) -> Arc<dyn RouteProgrammer> {
        Arc::new(self.netlink.clone())
    }

    fn uplink(&self) -> DeviceName {
        Self::uplink()
    }

    fn gateway(&self, family: Family, n: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(192, 168, 9, n + 2).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, u16::from(n) + 2).into(),
        }
    }

    async fn foreign(&self, change: Foreign) {
        let (verb, route) = match change {
            Foreign::Add(route) => ("add", route),
            Foreign::Append(route) => ("append", route),
            Foreign::Remove(route) => ("del", route),
            Foreign::Replace(route) => ("replace", route),
            Foreign::LinkDown => return drop(ip("link set v0 down")),
            Foreign::LinkUp => {
                ip("link set v0 up");
                return drop(ip("address replace fd00:9::1/64 dev v0 nodad"));
            }
        };
        let family = match Family::of_net(route.id.destination) {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        ip(&format!("-{family} route {verb} {}", spell(&route)));
    }

    async fn disturb(&self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::MakeOtherKind(name) => drop(ip(&format!("link add {name} type bridge"))),
            Disturbance::Change(device) => {
                let (name, mac, mtu) = (device.name, device.mac, device.mtu);
                let state = if device.up { "up" } else { "down" };
                ip(&format!("link set {name} address {mac} mtu {mtu} {state}"));
            }
            Disturbance::Put(object) => put(&object),
            Disturbance::Delete(Object::Route(route)) => self.foreign(Foreign::Remove(route)).await,
            Disturbance::Delete(object) => delete(&object),
            Disturbance::Age(neighbour) => drop(ip(&format!(
                "neigh replace {} lladdr {} dev {} nud stale",
                neighbour.id.address, neighbour.mac, neighbour.id.device
            ))),
            Disturbance::DeleteUplink => drop(ip("link del v0")),
            other => panic!("{other:?}"),
        }
    }
}

fn put(object: &Object) {
    match object {
        Object::Address(address) => {
            let id = address.id;
            let lifetime = if address.permanent {
                ""
            } else {
                "valid_lft 3600 preferred_lft 3600"
            };
            ip(&format!(
                "address replace {} dev {} nodad {lifetime}",
                id.net, id.device
            ));
        }
        Object::Neighbour(neighbour) => {
            let id = neighbour.id;
            ip(&format!(
                "neigh replace {} lladdr {} dev {} nud permanent",
                id.address, neighbour.mac, id.device
            ));
        }
        Object::Forwarding(entry) => {
            let verb = if entry.id.mac.is_unicast() {
                "replace"
            } else {
                "append"
            };
            bridge(&format!("fdb {verb} {} self permanent", spell_entry(entry)));
        }
        other => panic!("{other:?}"),
    }
}

fn delete(object: &Object) {
    match object {
        Object::Device(device) => drop(ip(&format!("link del {}", device.name))),
        Object::Address(address) => {
            ip(&format!(
                "address del {} dev {}",
                address.id.net, address.id.device
            ));
        }
        Object::Neighbour(neighbour) => {
            let id = neighbour.id;
            ip(&format!("neigh del {} dev {}", id.address, id.device));
        }
        Object::Forwarding(entry) => bridge(&format!("fdb del {} self", spell_entry(entry))),
        other => panic!("{other:?}"),
    }
}

fn spell_entry(entry: &Forwarding) -> String {
    let host = entry.host.map(|host| format!(" dst {host}")).unwrap_or_default();
    format!("{} dev {}{host}", entry.id.mac, entry.id.device)
}

/// A route in the words of `ip route`.
fn spell(route: &Route) -> String {
    let kind = match route.kind {
        RouteKind::Unicast => "unicast",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Other(8) => "prohibit",
        other => panic!("{other:?}"),
    };
    let (id, protocol) = (route.id, route.protocol);
    let mut words = format!(
        "{kind} {} tos {} metric {} proto {protocol}",
        id.destination, id.tos, id.metric
    );
    if route.decorated {
        words.push_str(" mtu 1400");
    }
    match &route.hops {
        Hops::None => {}
        Hops::One(hop) => words.push_str(&hop.to_string()),
        Hops::Many(hops) => hops
            .iter()
            .for_each(|hop| words.push_str(&format!(" nexthop{hop}"))),
        Hops::Object(id) => words.push_str(&format!(" nhid {id}")),
    }
    words
}
