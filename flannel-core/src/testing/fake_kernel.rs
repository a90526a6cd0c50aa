//! A kernel in memory: links, what is on them, and table main of one host.

mod by_hand;
mod host;
mod kernel;
mod link_layer;
mod nic;
mod notice;
mod objects;
mod table;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use ipnet::IpNet;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

pub use self::by_hand::Operator;
use self::kernel::{Fault, Kernel, Target};
use self::nic::Nic;
use self::notice::Notice;
use super::fake_store::delay::{Delay, pass};
use crate::{
    Applied, Changed, DeviceKind, DeviceName, Family, Filter, Hop, HostFacts, HostSource, KernelError,
    KernelRelease, Link, LinkAddress, MacAddress, Object, ObjectId, Op, OpError, OpErrorKind, PROTOCOL_BOOT,
    Route, RouteProgrammer, Scope, Unforwarded,
};

/// How many notifications wait for a reader before it is told of an overrun.
const QUEUE: usize = 256;

/// The MTU of a link that is made without one, in bytes.
const DEFAULT_MTU: u32 = 1500;

/// The version that it says it is.
const RELEASE: KernelRelease = KernelRelease { major: 6, minor: 18 };

/// The kernel of one host, in memory: a [`RouteProgrammer`] and a [`HostSource`]. A clone is the
/// same kernel, so that a test keeps a hand on what it gives to an engine.
///
/// It behaves as Linux 6 does, where routing daemons notice:
///
/// * An addition never replaces. A replacement puts its route in the place of the first of a stack
///   and is not announced when it changes nothing (IPv4). Removal matches every field. An IPv6
///   route that is appended becomes a further hop.
/// * A gateway must be on the device's link: the longest match over that device has no gateway. So
///   the connected routes, which come and go with the addresses of links that are up, decide.
/// * A link that goes down, or away, takes its routes with it, IPv4 ones without an event. So does
///   the last IPv4 address of a link. One of several takes the IPv4 routes that prefer it as source.
///   Other routes stay when their gateway is no longer on the link.
/// * A VXLAN device keeps its index while it is changed in place. It goes with its uplink, and is cut to
///   its uplink's MTU when it is made. One that goes down loses its neighbours and IPv6 addresses and
///   keeps its forwarding entries, and comes up only when nobody else has its UDP port. Another MAC
///   address costs it all its neighbours, the last IPv4 address those of IPv4.
///   A plan that gives it another puts them back. One that is to be made anew stays where that cannot be.
/// * An added neighbour or forwarding entry takes the place of the one that is there. An address does
///   not.
/// * Every change is announced, to whoever made it, too. No event tells a route's position. A link
///   in scope that comes, changes or goes is [`Changed::Device`]. Of others, one that goes down or away
///   or loses an address is [`Changed::Down`], and any other change [`Changed::Host`].
///
/// It is simpler than Linux in this: links that are no VXLAN devices keep their IPv6 addresses while
/// they are down (`keep_addr_on_down`), no link has a link-local address unless it is given one,
/// addresses do not depend on each other (`promote_secondaries`), a multipath route stays until all of
/// its links are down, VXLAN devices learn nothing, and there are no nexthop objects.
///
/// ```
/// use flannel_core::testing::FakeKernel;
/// use flannel_core::{Hop, Op, Route, RouteProgrammer, Scope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), flannel_core::KernelError> {
/// let kernel = FakeKernel::host("eth0", &["192.0.2.7/24"], &["192.0.2.1"]);
/// let hop = Hop::via("192.0.2.8".parse().unwrap(), "eth0".parse().unwrap());
/// let route = Route::unicast("10.5.8.0/24".parse().unwrap(), hop, 70);
/// let applied = kernel.apply(&[Op::Add(route.clone().into())]).await?;
/// assert!(applied.failed.is_empty());
///
/// let scope = Scope { networks: vec!["10.5.0.0/16".parse().unwrap()], ..Scope::default() };
/// assert_eq!(kernel.dump(&scope).await?, [route.into()]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FakeKernel(Arc<Shared>);

struct Shared {
    kernel: Mutex<Kernel>,
    notices: broadcast::Sender<Notice>,
}

/// An operation that was asked of a [`FakeKernel`], and what became of it.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// When it was done.
    pub at: Instant,
    /// What was asked.
    pub op: Op,
    /// What became of it, whether or not the reply was lost.
    pub outcome: Result<(), OpError>,
}

impl FakeKernel {
    /// A host with nothing but its loopback device.
    #[must_use]
    pub fn new() -> Self {
        let kernel = Self(Arc::new(Shared {
            kernel: Mutex::default(),
            notices: broadcast::Sender::new(QUEUE),
        }));
        kernel.set_release(Some(RELEASE));
        kernel.create_link("lo", &["127.0.0.1/8", "::1/128"]);
        kernel
    }

    /// A host with one uplink, its addresses with their prefixes, and its default gateways.
    #[must_use]
    pub fn host(device: &str, addresses: &[&str], gateways: &[&str]) -> Self {
        let kernel = Self::new();
        kernel.create_link(device, addresses);
        for gateway in gateways {
            kernel.add_default_route(gateway, device);
        }
        kernel
    }

    /// Makes a link, up, under the next free index. The one called `lo` is loopback.
    pub fn create_link(&self, name: &str, addresses: &[&str]) {
        let name = device(name);
        self.change(|kernel| {
            assert!(kernel.link(name).is_none(), "there is a link {name} already");
            kernel.last_index += 1;
            let index = kernel.last_index;
            let loopback = name.as_str() == "lo";
            let link = Link {
                name,
                index,
                mtu: DEFAULT_MTU,
                up: true,
                loopback,
                mac: (!loopback).then(|| MacAddress::local(index.into())),
                strict_reverse_path: false,
                addresses: addresses.iter().map(|text| address(text)).collect(),
            };
            let nic = Nic {
                link,
                kind: DeviceKind::Other(String::new()),
                accepts_advertisements: true,
                checksum_offload: None,
            };
            kernel.set_nic(index, Some(nic));
        });
    }

    /// Deletes a link with its addresses and routes, with what else is on it, and with the VXLAN
    /// devices over it.
    pub fn delete_link(&self, name: &str) {
        self.change(|kernel| {
            let link = kernel.link(device(name)).expect("there is such a link");
            kernel.set_nic(link.index, None);
        });
    }

    /// Changes anything about a link but its name and index: its MTU, the flags of its addresses.
    pub fn change_link(&self, name: &str, edit: impl FnOnce(&mut Link)) {
        self.change(|kernel| {
            let mut nic = kernel.nic(device(name)).expect("there is such a link").clone();
            let index = nic.link.index;
            edit(&mut nic.link);
            kernel.set_nic(index, Some(nic));
        });
    }

    /// Takes a link down: its routes are gone, and the default routes over it do not come back.
    pub fn link_down(&self, name: &str) {
        self.change_link(name, |link| link.up = false);
    }

    /// Brings a link up: its connected routes are there again.
    pub fn link_up(&self, name: &str) {
        self.change_link(name, |link| link.up = true);
    }

    /// Gives a link these addresses. First those that are not among them are removed, then the new
    /// ones are added: when all of them are new, the link has none in between, as with DHCP.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let wanted: Vec<LinkAddress> = addresses.iter().map(|text| address(text)).collect();
        self.change_link(name, |link| link.addresses.retain(|own| wanted.contains(own)));
        self.change_link(name, |link| link.addresses = wanted);
    }

    /// Adds a default route with the default metric.
    pub fn add_default_route(&self, gateway: &str, name: &str) {
        let gateway: IpAddr = gateway.parse().expect("an IP address");
        let everything = IpNet::new(Family::of(gateway).unspecified(), 0).expect("a length of 0");
        let route = Route::unicast(everything, Hop::via(gateway, device(name)), PROTOCOL_BOOT);
        self.operator(Operator::Add(route))
            .expect("a gateway on the link");
    }

    /// Sets the name servers. Nothing announces them.
    pub fn set_resolvers(&self, resolvers: &[IpAddr]) {
        self.change(|kernel| kernel.resolvers = resolvers.to_vec());
    }

    /// Switches forwarding off where these say so, and on everywhere else. Nothing announces it.
    pub fn set_unforwarded(&self, unforwarded: Unforwarded) {
        self.change(|kernel| kernel.unforwarded = unforwarded);
    }

    /// Sets the chains of the packet filter that drop packets. Nothing announces them.
    pub fn set_filters(&self, filters: Vec<Filter>) {
        self.change(|kernel| kernel.filters = filters);
    }

    /// Sets the version that the facts name. Nothing announces it.
    pub fn set_release(&self, release: Option<KernelRelease>) {
        self.change(|kernel| kernel.release = release);
    }

    /// Announces that a table of the packet filter has changed; `None`: that any may have.
    pub fn change_table(&self, table: Option<&str>) {
        let table = table.map(str::to_owned);
        self.change(|kernel| kernel.announce(Changed::Table(table)));
    }

    /// Fails the next `times` operations on routes to destinations within this prefix, and on addresses
    /// and neighbours in it, without effect.
    pub fn fail(&self, within: IpNet, kind: OpErrorKind, times: u32) {
        let to = Target::Within(within);
        self.change(|kernel| kernel.faults.push(Fault { to, kind, times }));
    }

    /// Fails the next `times` operations on one object, without effect.
    pub fn fail_object(&self, id: ObjectId, kind: OpErrorKind, times: u32) {
        let to = Target::Object(id);
        self.change(|kernel| kernel.faults.push(Fault { to, kind, times }));
    }

    /// Ends whatever [`FakeKernel::fail`] began.
    pub fn stop_failing(&self) {
        self.change(|kernel| kernel.faults.clear());
    }

    /// Fails the next `times` dumps.
    pub fn fail_dumps(&self, times: u32) {
        self.change(|kernel| kernel.failing_dumps = times);
    }

    /// Fails the next `times` questions for the facts about the host.
    pub fn fail_facts(&self, times: u32) {
        self.change(|kernel| kernel.failing_facts = times);
    }

    /// Loses the replies to the next `times` plans: each takes effect up to some operation, drawn
    /// by the seed, and ends with [`KernelError::Deadline`].
    pub fn lose_replies(&self, times: u32) {
        self.change(|kernel| kernel.lost_replies = times);
    }

    /// Drops notifications without a word, as a socket does that looks at another namespace.
    pub fn mute(&self) {
        self.change(|kernel| kernel.muted = true);
    }

    /// Announces changes again. Those meanwhile stay unheard of.
    pub fn unmute(&self) {
        self.change(|kernel| kernel.muted = false);
    }

    /// Lets every request take a while before and after it takes effect: from nothing to
    /// `longest`, in whole milliseconds of tokio's clock, drawn by the seed.
    pub fn set_latency(&self, longest: Duration, seed: u64) {
        self.change(|kernel| kernel.delay = Delay::new(longest, seed));
    }

    /// Every route of table main, whoever made it.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        self.kernel().table.routes().collect()
    }

    /// The facts about the host, without asking.
    pub(super) fn facts_now(&self) -> HostFacts {
        self.kernel().facts(&[])
    }

    /// Every operation that a plan has tried since [`FakeKernel::clear_log`], in order.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.kernel().log.clone()
    }

    /// The log without so many of its first entries, unless it has been cleared since, and its length.
    pub(super) fn log_from(&self, first: usize) -> (Vec<LogEntry>, usize) {
        let log = &self.kernel().log;
        (log.get(first..).unwrap_or(log).to_vec(), log.len())
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.kernel().log.clear();
    }

    /// How many dumps were asked for.
    #[must_use]
    pub fn dumps(&self) -> u64 {
        self.kernel().dumps
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.kernel.lock().expect("no panic while the lock was held")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kernel) -> T) -> T {
        let mut kernel = self.kernel();
        let result = change(&mut kernel);
        for changed in kernel.outbox.drain(..) {
            // An error says that nobody listens.
            drop(self.0.notices.send(changed));
        }
        result
    }

    /// One request: some time passes, it takes effect, some time passes.
    async fn request<T>(&self, effect: impl FnOnce(&mut Kernel) -> T) -> T {
        let (before, after) = self.change(|kernel| (kernel.delay.next(), kernel.delay.next()));
        pass(before).await;
        let reply = self.change(effect);
        pass(after).await;
        reply
    }
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl RouteProgrammer for FakeKernel {
    async fn dump(&self, scope: &Scope) -> Result<Vec<Object>, KernelError> {
        self.request(|kernel| kernel.dump(scope)).await
    }

    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError> {
        self.request(|kernel| kernel.apply(plan)).await
    }

    fn watch(&self, scope: &Scope) -> Result<BoxStream<'static, Changed>, KernelError> {
        let notices = self.0.notices.subscribe();
        let watch = stream::unfold((notices, scope.clone()), |(mut notices, scope)| async move {
            let told = match notices.recv().await {
                Ok(notice) => notice.told(&scope),
                Err(RecvError::Lagged(_)) => vec![Changed::Overrun],
                Err(RecvError::Closed) => return None,
            };
            Some((stream::iter(told), (notices, scope)))
        });
        let watch = watch.flatten();
        Ok(watch.boxed())
    }
}

#[async_trait]
impl HostSource for FakeKernel {
    async fn facts(&self, reach: &[IpAddr]) -> Result<HostFacts, KernelError> {
        self.request(|kernel| kernel.ask(reach)).await
    }
}

fn device(name: &str) -> DeviceName {
    name.parse().expect("a device name")
}

fn address(text: &str) -> LinkAddress {
    LinkAddress {
        net: text.parse().expect("an address with its prefix length"),
        unusable: false,
        permanent: true,
        temporary: false,
    }
}

#[cfg(test)]
#[path = "fake_kernel/device_tests.rs"]
mod device_tests;
#[cfg(test)]
#[path = "fake_kernel/tests.rs"]
mod tests;
