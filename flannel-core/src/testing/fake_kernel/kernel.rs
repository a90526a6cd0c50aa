//! What a request does to the host: by the kernel's rules, or by a fault that a test asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::LogEntry;
use super::link_layer::LinkLayer;
use super::nic::Nic;
use super::notice::Notice;
use super::table::{How, Table};
use crate::testing::fake_store::delay::Delay;
use crate::{
    Applied, Changed, Filter, Hops, HostFacts, KernelError, KernelRelease, Object, ObjectId, Op, OpError,
    OpErrorKind, Route, RouteKind, Scope, Unforwarded,
};

/// How many operations the log holds; a test that makes more has to clear it now and then.
const LOG_LIMIT: usize = 1 << 20;

/// What the fake says it has waited for a reply that was lost.
const DEADLINE: Duration = Duration::from_secs(2);

/// The state of one host.
#[derive(Default)]
pub(super) struct Kernel {
    /// By index.
    pub(super) nics: BTreeMap<u32, Nic>,
    pub(super) last_index: u32,
    pub(super) link_layer: LinkLayer,
    pub(super) table: Table,
    /// UDP ports, and what holds them.
    pub(super) ports: BTreeMap<u16, String>,
    pub(super) resolvers: Vec<IpAddr>,
    pub(super) unforwarded: Unforwarded,
    pub(super) filters: Vec<Filter>,
    pub(super) release: Option<KernelRelease>,
    pub(super) outbox: Vec<Notice>,
    pub(super) muted: bool,
    pub(super) faults: Vec<Fault>,
    pub(super) failing_dumps: u32,
    pub(super) failing_facts: u32,
    pub(super) lost_replies: u32,
    pub(super) log: Vec<LogEntry>,
    pub(super) dumps: u64,
    pub(super) delay: Delay,
}

/// Operations that fail because a test wants them to.
pub(super) struct Fault {
    pub(super) to: Target,
    pub(super) kind: OpErrorKind,
    pub(super) times: u32,
}

/// What they are about.
pub(super) enum Target {
    /// Routes to destinations in it, neighbours and addresses in it.
    Within(IpNet),
    Object(ObjectId),
}

impl Kernel {
    pub(super) fn apply(&mut self, plan: &[Op]) -> Result<Applied, KernelError> {
        let lost = take(&mut self.lost_replies);
        let done = match lost {
            true => self.delay.draw(plan.len() as u64) as usize,
            false => plan.len(),
        };
        let mut applied = Applied::default();
        for (place, op) in plan.iter().enumerate().take(done) {
            let outcome = self.operate(op);
            assert!(
                self.log.len() < LOG_LIMIT,
                "the log is full; call clear_log() now and then"
            );
            self.log.push(LogEntry {
                at: Instant::now(),
                op: op.clone(),
                outcome: outcome.clone(),
            });
            applied.failed.extend(outcome.err().map(|error| (place, error)));
        }
        match lost {
            true => Err(no_answer("change routes")),
            false => Ok(applied),
        }
    }

    /// Answers a dump.
    pub(super) fn dump(&mut self, scope: &Scope) -> Result<Vec<Object>, KernelError> {
        self.dumps += 1;
        if take(&mut self.failing_dumps) {
            return Err(no_answer("dump routes"));
        }
        Ok(self.objects(scope).collect())
    }

    /// Answers the question for the facts about the host.
    pub(super) fn ask(&mut self, reach: &[IpAddr]) -> Result<HostFacts, KernelError> {
        match take(&mut self.failing_facts) {
            true => Err(no_answer("read links and addresses")),
            false => Ok(self.facts(reach)),
        }
    }

    fn operate(&mut self, op: &Op) -> Result<(), OpError> {
        let mut faults = self.faults.iter_mut();
        if let Some(fault) = faults.find(|fault| fault.applies(&op.id()) && fault.times > 0) {
            fault.times -= 1;
            return Err(refused(fault.kind, op.object()));
        }
        match op {
            Op::Add(object) => self.add(object),
            Op::Replace {
                from: Object::Device(from),
                to: Object::Device(to),
            } => self.replace_device(from, to),
            Op::Replace { to, .. } => self.replace(to),
            Op::Remove(object) => self.remove(object),
        }
    }

    /// Makes a route, if the kernel would.
    pub(super) fn put_route(&mut self, route: &Route, how: How) -> Result<(), OpError> {
        let put = self.check(route).and_then(|()| self.table.put(route, how));
        if let Some(appeared) = put.map_err(|kind| refused(kind, route))? {
            self.announce(appeared);
        }
        Ok(())
    }

    /// Removes a route, if it is there in every field.
    pub(super) fn remove_route(&mut self, route: &Route) -> Result<(), OpError> {
        let vanished = self
            .table
            .remove(route)
            .ok_or_else(|| refused(OpErrorKind::Gone, route))?;
        self.announce(vanished);
        Ok(())
    }

    /// What `fib_create_info` and `ip6_route_info_create` check, in their order.
    fn check(&self, route: &Route) -> Result<(), OpErrorKind> {
        let destination = route.id.destination;
        let source_is_ours = route.source.is_none_or(|source| self.owns(source));
        let leads_somewhere = match route.hops {
            Hops::None => route.kind != RouteKind::Unicast,
            Hops::One(_) | Hops::Many(_) => route.kind == RouteKind::Unicast,
            Hops::Object(_) => false,
        };
        if destination != destination.trunc() || !source_is_ours || !leads_somewhere {
            return Err(OpErrorKind::Other);
        }
        for hop in route.hops.as_slice() {
            let link = self.link(hop.device).ok_or(OpErrorKind::NoDevice)?;
            match hop.gateway {
                Some(gateway) if gateway.is_ipv6() && self.owns(gateway) => return Err(OpErrorKind::Other),
                Some(gateway) if !hop.onlink && !self.table.is_on_link(gateway, hop.device) => {
                    return Err(OpErrorKind::Unreachable);
                }
                _ if !link.up => return Err(OpErrorKind::NoDevice),
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells the watchers, unless they are deaf.
    pub(super) fn announce(&mut self, changed: Changed) {
        self.notify(Notice::Changed(changed));
    }

    /// Likewise.
    pub(super) fn notify(&mut self, notice: Notice) {
        if !self.muted {
            self.outbox.push(notice);
        }
    }
}

impl Fault {
    fn applies(&self, id: &ObjectId) -> bool {
        let within = match self.to {
            Target::Within(within) => within,
            Target::Object(object) => return object == *id,
        };
        match id {
            ObjectId::Route(route) => within.contains(&route.destination),
            ObjectId::Address(address) => within.contains(&address.net),
            ObjectId::Neighbour(neighbour) => within.contains(&neighbour.address),
            ObjectId::Device(_) | ObjectId::Forwarding(_) => false,
        }
    }
}

/// Whether it leads everywhere.
pub(super) fn is_default(route: &Route) -> bool {
    route.id.destination.prefix_len() == 0
}

/// Counts down, and says whether there was anything to count.
const fn take(times: &mut u32) -> bool {
    let some = *times > 0;
    *times = times.saturating_sub(1);
    some
}

const fn no_answer(doing: &'static str) -> KernelError {
    KernelError::Deadline {
        doing,
        deadline: DEADLINE,
    }
}

/// The error that the kernel answers with.
pub(super) fn refused(kind: OpErrorKind, object: &impl fmt::Display) -> OpError {
    let words = match kind {
        OpErrorKind::Exists => "File exists (os error 17)",
        OpErrorKind::Gone => "No such process (os error 3)",
        OpErrorKind::Unreachable => "Nexthop has invalid gateway: Network is unreachable (os error 101)",
        OpErrorKind::NoDevice => "No such device, or it is down (os error 19 or 100)",
        OpErrorKind::Denied => "Operation not permitted (os error 1)",
        OpErrorKind::Other => "Invalid argument (os error 22)",
    };
    refused_because(kind, object, words)
}

/// Likewise, in other words.
pub(super) fn refused_because(kind: OpErrorKind, object: &impl fmt::Display, words: &str) -> OpError {
    OpError {
        kind,
        text: format!("{object}: {words}"),
    }
}
