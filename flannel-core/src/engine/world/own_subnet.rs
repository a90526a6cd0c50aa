//! What is to be there whoever the peers are.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::time::Instant;

use super::World;
use crate::engine::rules::Rules;
use crate::{Firewall, FirewallError, Kept, Object, ObjectId, PerFamily, PodNetwork, Route};

impl World {
    /// Has the packet filter's rules kept by this.
    pub(in crate::engine) fn guard(&mut self, firewall: Arc<dyn Firewall>) {
        self.rules = Rules::new(Some(firewall));
    }

    /// The rules of the packet filter, and the route that drops what is for no pod.
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
        if self.options.blackhole {
            let routes = own
                .subnet
                .nets()
                .map(|net| Route::blackhole(net, self.ownership.protocol));
            let routes: BTreeMap<ObjectId, Object> = routes
                .map(|route| (ObjectId::Route(route.id), Object::Route(route)))
                .collect();
            for gone in self.blackholes.iter().filter(|id| !routes.contains_key(id)) {
                self.reconciler.set_want(*gone, None);
            }
            self.blackholes = routes.keys().copied().collect();
            for (id, route) in routes {
                self.reconciler.set_want(id, Some(route));
            }
        }
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
