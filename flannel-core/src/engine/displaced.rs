//! That the subnet which `subnet.env` named at the start is another host's. No I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::choose::holder;
use crate::{Leases, NodeId, SubnetKey};

/// It is said so long: `subnet.env` is right by then, and nothing shows when whoever went by the old one
/// has been set up anew.
const SAID_FOR: Duration = Duration::from_secs(600);

/// What `subnet.env` named, and what became of that.
#[derive(Debug, Default)]
pub(super) struct Displaced {
    /// Until a lease is held.
    named: Option<SubnetKey>,
    /// That another has it, and until when that is said.
    told: Option<(String, Instant)>,
}

impl Displaced {
    pub(super) const fn new(named: Option<SubnetKey>) -> Self {
        Self { named, told: None }
    }

    /// A lease is held: what `subnet.env` named counts no longer.
    pub(super) const fn settle(&mut self) {
        self.named = None;
    }

    /// Takes note of who has the named subnet when another is chosen. `taken` are subnets of leases
    /// that are not shown yet.
    pub(super) fn note(
        &mut self,
        chosen: SubnetKey,
        me: NodeId,
        leases: &Leases,
        taken: &BTreeSet<SubnetKey>,
        now: Instant,
    ) {
        let Some(named) = self.named.filter(|named| *named != chosen) else {
            return;
        };
        let overlapping = leases.overlapping(&named);
        let by = match leases.get(&named).or_else(|| overlapping.first().copied()) {
            Some(lease) if lease.attrs.node == Some(me) => return,
            Some(lease) => format!("the lease {} of {}", lease.subnet, holder(lease)),
            None if taken.iter().any(|taken| taken.overlaps(&named)) => {
                "another host, whose lease is not shown yet".to_owned()
            }
            None => return,
        };
        let text = format!("the subnet {named}, which subnet.env named, is taken by {by}");
        self.told = Some((text, now + SAID_FOR));
    }

    /// What to say of it to a host that holds `own`.
    pub(super) fn text(&self, own: SubnetKey, now: Instant) -> Option<String> {
        let (taken, _) = self.told.as_ref().filter(|(_, until)| now < *until)?;
        Some(format!(
            "{taken}; this host has {own} instead, and subnet.env says so now: set up anew what goes by it, such as \
             docker's --bip"
        ))
    }
}
