//! One look at the rules of each family, and what has to be done about them.

use std::path::Path;

use flannel_core::{Family, FirewallError, Kept, PodNetwork};
use ipnet::IpNet;

use super::HostFirewall;
use super::writing::{Site, Upkeep};
use crate::iptables_host::Known;
use crate::place::{Place, Places};
use crate::ruleset::Ruleset;

/// The settings of br_netfilter, which are not there where it is not loaded.
const BRIDGE_SETTINGS: &str = "/proc/sys/net/bridge";

/// What is known from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    known: Known,
    v4: Standing,
    v6: Standing,
    /// What has been said last about other places than the one with our rules.
    complaint: Option<String>,
    bridge_checked: bool,
}

/// How it stands with the rules of a family.
#[derive(Debug, Default)]
struct Standing {
    /// Where rules are wanted.
    place: Option<Place>,
    /// The tables of nftables that have them.
    tables: Vec<String>,
    upkeep: Upkeep,
    /// For what nothing of ours is left in other places.
    alone: Option<Asked>,
}

/// What decides where rules of ours may be left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    networks: Vec<IpNet>,
    nftables: bool,
}

impl Keeper {
    /// The tables of nftables that have our rules.
    pub(super) fn tables(&self) -> Vec<String> {
        let standings = [&self.v4, &self.v6].into_iter();
        standings.flat_map(|standing| standing.tables.clone()).collect()
    }

    /// Keeps both families. One that fails does not keep the other from being kept.
    pub(super) async fn keep(
        &mut self,
        host: &HostFirewall,
        pods: &PodNetwork,
    ) -> Result<Kept, FirewallError> {
        self.check_bridge(host, pods, Path::new(BRIDGE_SETTINGS));
        let mut kept = Kept::default();
        let v4 = self.keep_family(host, pods, Family::V4, &mut kept).await;
        let v6 = self.keep_family(host, pods, Family::V6, &mut kept).await;
        v4.and(v6).inspect_err(|_| {
            // Nobody hears of these otherwise.
            for done in &kept.written {
                tracing::info!("{done}");
            }
        })?;
        Ok(kept)
    }

    async fn keep_family(
        &mut self,
        host: &HostFirewall,
        pods: &PodNetwork,
        family: Family,
        kept: &mut Kept,
    ) -> Result<(), FirewallError> {
        let rules = Ruleset::for_pods(family, pods, host.options);
        let asked = Asked {
            networks: networks(family, pods),
            nftables: pods.nftables,
        };
        let idle = rules.network.is_none() && self.standing(family).alone.as_ref() == Some(&asked);
        if idle {
            return Ok(());
        }
        let places = Places::find(family, &host.directories, &mut self.known).await;
        let own = if rules.is_empty() {
            None
        } else {
            Some(places.wanted(pods)?)
        };
        self.standing(family).move_to(own.as_ref(), &rules, host);
        if let Some(own) = &own {
            let upkeep = &mut self.standing(family).upkeep;
            let site = Site {
                host,
                place: own,
                nft: places.nft.as_ref(),
            };
            let brought = upkeep.bring_about(&site, pods, &asked.networks).await?;
            if brought.written {
                kept.written.push(told(&rules, own));
            }
            kept.filters
                .extend(own.obstacles(&brought.found, &rules, &host.names, false));
        }
        let alone = self.standing(family).alone.as_ref() == Some(&asked);
        let mut failed = false;
        for place in places
            .all()
            .filter(|place| !own.as_ref().is_some_and(|own| own.is(place)))
        {
            let site = Site {
                host,
                place: &place,
                nft: places.nft.as_ref(),
            };
            let done = if alone {
                Ok(())
            } else {
                site.clear(&asked.networks).await.map(|cleared| {
                    kept.written
                        .extend(cleared.then(|| format!("rules removed from {place}")));
                })
            };
            let filters = site.filters(&rules).await;
            match done.and(filters) {
                Ok(filters) => kept.filters.extend(filters),
                Err(error) => {
                    failed = true;
                    self.complain(&place, &error);
                }
            }
        }
        if !alone && !failed {
            self.standing(family).alone = Some(asked);
        }
        Ok(())
    }

    const fn standing(&mut self, family: Family) -> &mut Standing {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Says that another place cannot be looked after. The rules that are wanted stand all the same.
    fn complain(&mut self, place: &Place, error: &FirewallError) {
        let text = format!("rules of an earlier run may be left in {place}: {error}");
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.complaint = Some(text);
        }
    }

    /// Says at first what is missing for services of Kubernetes.
    fn check_bridge(&mut self, host: &HostFirewall, pods: &PodNetwork, settings: &Path) {
        let concerned = host.options.masquerade && !pods.nftables && !pods.networks.is_empty();
        if !concerned || std::mem::replace(&mut self.bridge_checked, true) || settings.exists() {
            return;
        }
        tracing::warn!(
            "br_netfilter is not loaded: iptables does not see packets from one pod of this host to another \
             on the same bridge, which Kubernetes needs for services; on its nodes: modprobe br_netfilter"
        );
    }
}

impl Standing {
    /// Forgets what was known of another place than this.
    fn move_to(&mut self, own: Option<&Place>, rules: &Ruleset, host: &HostFirewall) {
        let stays = match (own, &self.place) {
            (Some(own), Some(before)) => own.is(before),
            (own, before) => own.is_none() && before.is_none(),
        };
        if !stays {
            *self = Self::default();
        }
        self.place = own.cloned();
        self.tables = own.map_or_else(Vec::new, |own| own.tables(rules, &host.names));
    }
}

/// The networks of which a family may have rules: the one it has now, and those of earlier runs.
fn networks(family: Family, pods: &PodNetwork) -> Vec<IpNet> {
    let former = pods.former.iter().filter(|net| Family::of_net(**net) == family);
    pods.networks
        .get(family)
        .into_iter()
        .chain(former)
        .copied()
        .collect()
}

fn told(rules: &Ruleset, place: &Place) -> String {
    let network = rules
        .network
        .map_or_else(String::new, |network| format!(" for {network}"));
    format!("rules{network} written to {place}")
}
