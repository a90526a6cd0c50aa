//! The packet filter's rules for our own subnet.

use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::Instant;

use super::World;
use crate::engine::rules::Rules;
use crate::{Firewall, FirewallError, Kept, PerFamily, PodNetwork};

impl World {
    /// Has the packet filter's rules kept by this.
    pub(in crate::engine) fn guard(&mut self, firewall: Arc<dyn Firewall>) {
        self.rules = Rules::new(Some(firewall));
    }

    /// Asks for them.
    pub(super) fn plan_own_subnet(&mut self) {
        let (Some(config), Some(own)) = (self.surroundings.config(), &self.planned_with) else {
            return;
        };
        let configured = |network: &IpNet| config.networks().any(|other| other == *network);
        let former = self.options.former_networks.iter().copied();
        self.rules.want(PodNetwork {
            networks: PerFamily::from_fn(|family| Some(config.ranges.get(family)?.network)),
            subnets: PerFamily::from_fn(|family| {
                own.subnet
                    .net(family)
                    .filter(|_| config.ranges.get(family).is_some())
            }),
            unmasqueraded: config.unmasqueraded.clone(),
            nftables: config.nftables,
            former: former.filter(|network| !configured(network)).collect(),
        });
    }

    /// Who is to look at the packet filter's rules, and for what, if that is due.
    pub(in crate::engine) fn next_rules(&mut self, now: Instant) -> Option<(Arc<dyn Firewall>, PodNetwork)> {
        self.rules.next(now)
    }

    /// What came of that.
    pub(in crate::engine) fn ruled(
        &mut self,
        pods: PodNetwork,
        result: Result<Kept, FirewallError>,
        started: Instant,
        now: Instant,
    ) {
        self.rules.kept(pods, result, started, now, &mut self.reasons);
    }
}
