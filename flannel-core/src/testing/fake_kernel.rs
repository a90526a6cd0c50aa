//! A kernel in memory: links, addresses and table main of one host.

mod host;
mod kernel;
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

use self::kernel::{Fault, Kernel, is_default};
use self::table::How;
use super::fake_store::delay::{Delay, pass};
use crate::{
    Applied, Changed, DeviceName, Family, Filter, Hop, HostFacts, HostSource, KernelError, Link, LinkAddress,
    Object, Op, OpError, OpErrorKind, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route, RouteProgrammer, Scope,
    Unforwarded,
};

/// How many notifications wait for a reader before it is told of an overrun.
const QUEUE: usize = 256;

/// The MTU of a link that is made without one, in bytes.
const DEFAULT_MTU: u32 = 1500;

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
/// * Every change is announced, to whoever made it, too. No event tells a route's position. A link
///   that goes down or away or loses an address is [`Changed::Down`], any other change to a link
///   [`Changed::Host`].
///
/// It is simpler than Linux in this: links keep their IPv6 addresses while they are down
/// (`keep_addr_on_down`), no link has a link-local address unless it is given one, addresses do not
/// depend on each other (`promote_secondaries`), a multipath route stays until all of its
/// links are down, and there are no nexthop objects.
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
/// let scope = Scope { networks: vec!["10.5.0.0/16".parse().unwrap()] };
/// assert_eq!(kernel.dump(&scope).await?, [route.into()]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FakeKernel(Arc<Shared>);

struct Shared {
    kernel: Mutex<Kernel>,
    notices: broadcast::Sender<Changed>,
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

/// What an operator does by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `ip route add`.
    Add(Route),
    /// `ip route replace`.
    Replace(Route),
    /// `ip route append`.
    Append(Route),
    /// `ip route del`, with every field given.
    Delete(Route),
}

impl FakeKernel {
    /// A host with nothing but its loopback device.
    #[must_use]
    pub fn new() -> Self {
        let kernel = Self(Arc::new(Shared {
            kernel: Mutex::default(),
            notices: broadcast::Sender::new(QUEUE),
        }));
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
            let link = Link {
                name,
                index: kernel.last_index,
                mtu: DEFAULT_MTU,
                up: true,
                loopback: name.as_str() == "lo",
                addresses: addresses.iter().map(|text| address(text)).collect(),
            };
            kernel.set_link(link.index, Some(link));
        });
    }

    /// Deletes a link with its addresses and routes.
    pub fn delete_link(&self, name: &str) {
        self.change(|kernel| {
            let link = kernel.link(device(name)).expect("there is such a link");
            kernel.set_link(link.index, None);
        });
    }

    /// Changes anything about a link but its name and index: its MTU, the flags of its addresses.
    pub fn change_link(&self, name: &str, edit: impl FnOnce(&mut Link)) {
        self.change(|kernel| {
            let mut link = kernel.link(device(name)).expect("there is such a link").clone();
            let index = link.index;
            edit(&mut link);
            kernel.set_link(index, Some(link));
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

    /// Announces that a table of the packet filter has changed; `None`: that any may have.
    pub fn change_table(&self, table: Option<&str>) {
        let table = table.map(str::to_owned);
        self.change(|kernel| kernel.announce(Changed::Table(table)));
    }

    /// Does what an operator does by hand, by the kernel's rules.
    ///
    /// # Errors
    ///
    /// [`OpError`], as the kernel would refuse it.
    pub fn operator(&self, action: Operator) -> Result<(), OpError> {
        self.change(|kernel| match action {
            Operator::Add(route) => kernel.put(&route, How::Exclusive),
            Operator::Replace(route) => kernel.put(&route, How::Replace),
            Operator::Append(route) => kernel.put(&route, How::Append),
            Operator::Delete(route) => kernel.remove(&route),
        })
    }

    /// Puts a route behind what is there, without asking whether its gateway is on the link: what
    /// another process left, before the addresses changed.
    pub fn stray(&self, route: Route) {
        self.change(|kernel| {
            if let Ok(Some(appeared)) = kernel.table.put(&route, How::Append) {
                kernel.announce(appeared);
            }
        });
    }

    /// Removes every route but the kernel's own and the default ones. For a flush that nobody
    /// hears of, [`FakeKernel::mute`] first.
    pub fn flush(&self) {
        let spared = |route: &Route| route.protocol == PROTOCOL_KERNEL || is_default(route);
        self.change(|kernel| {
            for route in kernel.table.flush(|route| !spared(route)) {
                kernel.announce(Changed::Vanished(route.into()));
            }
        });
    }

    /// Fails the next `times` operations on destinations within this prefix, without effect.
    pub fn fail(&self, within: IpNet, kind: OpErrorKind, times: u32) {
        self.change(|kernel| kernel.faults.push(Fault { within, kind, times }));
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

    /// Every operation that a plan has tried since [`FakeKernel::clear_log`], in order.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.kernel().log.clone()
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
            loop {
                let changed = match notices.recv().await {
                    Ok(changed) => changed,
                    Err(RecvError::Lagged(_)) => Changed::Overrun,
                    Err(RecvError::Closed) => return None,
                };
                let heard = match &changed {
                    Changed::Appeared(Object::Route(route)) | Changed::Vanished(Object::Route(route)) => {
                        scope.covers(route.id.destination)
                    }
                    Changed::Host | Changed::Table(_) | Changed::Down(_) | Changed::Overrun => true,
                };
                if heard {
                    return Some((changed, (notices, scope)));
                }
            }
        });
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
#[path = "fake_kernel/tests.rs"]
mod tests;
