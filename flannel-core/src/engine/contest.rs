//! Two hosts that publish one address: whose holder has been asked whether it lives, and who has asked
//! us. No I/O. How the question is put is the business of [`challenge`](crate::challenge).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::challenge::challenged;
use crate::choose::{flag, shared};
use crate::{Lease, Leases, NodeId, PerFamily, SubnetKey};

/// So long the holder of a challenged lease has to object. It hears of the challenge at once, and has
/// one write to make.
const OBJECTION: Duration = Duration::from_secs(5);

/// It is said so long that another host has claimed our lease; whether that host still has our address
/// would not show.
const RIVAL_FOR: Duration = Duration::from_secs(600);

/// How it stands with the hosts that publish our address.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// The lease that we have challenged, and until when its holder may object.
    asked: Option<(SubnetKey, Instant)>,
    /// A holder that has objected. It is not asked again: that two lived at once shows that neither
    /// is the other installed anew, and it may be silent for no more than a reboot.
    alive: Option<NodeId>,
    /// Leases that we have challenged and whose holders did not object.
    undisputed: BTreeSet<SubnetKey>,
    /// Our own lease with somebody's challenge, to which we have yet to object.
    challenge: Option<Lease>,
    /// Who challenged us last, in words, and until when that is said.
    rival: Option<(String, Instant)>,
}

impl Contest {
    /// Leases that we have challenged and whose holders did not object.
    pub(super) const fn undisputed(&self) -> &BTreeSet<SubnetKey> {
        &self.undisputed
    }

    /// The lease whose holder may object yet.
    pub(super) fn open(&self, now: Instant) -> Option<SubnetKey> {
        let open = self.asked.filter(|(_, until)| now < *until);
        open.map(|(subnet, _)| subnet)
    }

    /// Whether the time for an objection has passed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.asked.is_some_and(|(_, until)| now >= until)
    }

    /// When that is.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.asked.map(|(_, until)| until)
    }

    /// Whether the holder of a lease is known to live.
    pub(super) fn knows(&self, lease: &Lease) -> bool {
        self.alive.is_some() && self.alive == holder(lease)
    }

    /// A lease carries our challenge, and its holder may object.
    pub(super) fn ask(&mut self, subnet: SubnetKey, now: Instant) {
        self.asked = Some((subnet, now + OBJECTION));
    }

    /// The holder of a lease that we challenged has objected.
    pub(super) fn objected(&mut self, lease: &Lease) {
        self.asked = None;
        self.alive = holder(lease);
    }

    /// There is nobody to be asked, or nothing is known of anybody any more.
    pub(super) const fn settle(&mut self) {
        self.alive = None;
    }

    /// Takes note of a lease whose holder has let its time pass.
    pub(super) fn conclude(&mut self, leases: &Leases, me: NodeId, now: Instant) {
        let Some((subnet, _)) = self.asked.take_if(|(_, until)| now >= *until) else {
            return;
        };
        if leases
            .get(&subnet)
            .is_some_and(|lease| lease.attrs.node == Some(me))
        {
            self.undisputed.insert(subnet);
        }
    }

    /// What the store has under a subnet changed.
    pub(super) fn observe(&mut self, subnet: &SubnetKey, now_there: Option<&Lease>, me: NodeId) {
        if now_there.is_some_and(|lease| lease.attrs.node == Some(me)) {
            return;
        }
        self.undisputed.remove(subnet);
        if self.asked.take_if(|(asked, _)| asked == subnet).is_some() {
            self.alive = now_there.and_then(holder);
        }
    }

    /// Our own lease carries somebody's challenge.
    pub(super) fn challenged(&mut self, lease: &Lease) {
        self.challenge = Some(lease.clone());
    }

    /// There is nothing to object to, or nothing that we could object for.
    pub(super) fn rest(&mut self) {
        self.challenge = None;
    }

    /// The challenge to object to. Whoever made it publishes what we publish, `public`.
    pub(super) fn object(&mut self, public: PerFamily<IpAddr>, now: Instant) -> Option<&Lease> {
        let lease = self.challenge.as_ref()?;
        if let (Some(node), Some(address)) = (lease.attrs.node, shared(lease, public)) {
            let flag = flag(address);
            let text = format!(
                "another host, node {node}, publishes our address {address}, and has claimed our lease {}, which we \
                 keep; give each host its own {flag}",
                lease.subnet
            );
            self.rival = Some((text, now + RIVAL_FOR));
        }
        Some(lease)
    }

    /// What to say about another host that publishes our address.
    pub(super) fn rival(&self, now: Instant) -> Option<&str> {
        let rival = self.rival.as_ref().filter(|(_, until)| now < *until);
        rival.map(|(text, _)| text.as_str())
    }
}

/// Whoever has challenged a lease does not hold it yet.
fn holder(lease: &Lease) -> Option<NodeId> {
    challenged(&lease.attrs).or(lease.attrs.node)
}
