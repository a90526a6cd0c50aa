//! One look at the rules of each family, and what has to be done about them.

use std::path::Path;

use flannel_core::{Family, FirewallError, Kept, PodNetwork};
use ipnet::IpNet;

use super::HostFirewall;
use super::writing::{Site, Upkeep};
use crate::iptables_host::Known;
use crate::place::{Place, Places};
use crate::ruleset::{RuleOptions, Ruleset};

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
    /// Whether it has been remembered that rules are there.
    remembered: bool,
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
            networks: networks(pods),
            nftables: pods.nftables,
        };
        let idle = rules.network.is_none() && self.standing(family).alone.as_ref() == Some(&asked);
        if idle {
            return Ok(());
        }
        let places = Places::find(family, &host.directories, &mut self.known).await;
        let wanted = (!rules.is_empty()).then(|| places.wanted(pods));
        let own = wanted.transpose()?;
        self.standing(family).move_to(own.as_ref(), &rules, host);
        if let Some(own) = &own {
            let site = Site::new(host, own, &places);
            // Rules that are right already are not written.
            if !std::mem::replace(&mut self.standing(family).remembered, true) {
                host.origin.remember(own, &host.names).await;
            }
            let upkeep = &mut self.standing(family).upkeep;
            let brought = upkeep.bring_about(&site, pods, &asked.networks).await?;
            if brought.written {
                kept.written.push(told(&rules, own));
            }
            let filters = own.obstacles(&brought.found, &rules, &host.names, false);
            kept.filters.extend(filters);
        }
        // Only now: what is wanted stands, so that there is no moment without.
        let alone = self.standing(family).alone.as_ref() == Some(&asked);
        let is_own = |place: &Place| own.as_ref().is_some_and(|own| own.is(place));
        let mut cleared = alone || !self.is_lost(host, &places).await;
        for place in places.all().filter(|place| !is_own(place)) {
            let site = Site::new(host, &place, &places);
            cleared &= alone || self.clear(&site, &asked.networks, kept).await;
            kept.filters.extend(site.filters(&rules).await);
        }
        if cleared {
            self.standing(family).alone = Some(asked);
        }
        Ok(())
    }

    /// Whether an earlier run had written rules by a program that is not there any more.
    async fn is_lost(&mut self, host: &HostFirewall, places: &Places) -> bool {
        let written = host.origin.places(places.family(), &host.names).await;
        let lost = written.map_or_else(|error| vec![error], |written| places.lost(&written));
        for error in &lost {
            self.complain(format!("rules of an earlier run may be left: {error}"));
        }
        !lost.is_empty()
    }

    /// Removes our rules from a place where none are wanted. Whether that is done is not what pods
    /// depend on.
    async fn clear(&mut self, site: &Site<'_>, networks: &[IpNet], kept: &mut Kept) -> bool {
        match site.clear_and_forget(networks).await {
            Ok(there_were) => {
                let text = there_were.then(|| format!("rules removed from {}", site.place));
                kept.written.extend(text);
                true
            }
            Err(error) => {
                self.complain(format!(
                    "rules of an earlier run may be left in {}: {error}",
                    site.place
                ));
                false
            }
        }
    }

    const fn standing(&mut self, family: Family) -> &mut Standing {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Says that another place cannot be looked after. The rules that are wanted stand all the same.
    fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.complaint = Some(text);
        }
    }

    /// Says once what is missing for services of Kubernetes.
    fn check_bridge(&mut self, host: &HostFirewall, pods: &PodNetwork, settings: &Path) {
        if !self.bridge_checked && lacks_bridge_filter(host.options, pods, settings) {
            tracing::warn!(
                "br_netfilter is not loaded: iptables does not see packets from one pod of this host to another on \
                 the same bridge, which Kubernetes needs for services; on its nodes: modprobe br_netfilter"
            );
        }
        self.bridge_checked |= !pods.nftables;
    }
}

/// Whether iptables is to masquerade, and does not see what stays on a bridge.
fn lacks_bridge_filter(options: RuleOptions, pods: &PodNetwork, settings: &Path) -> bool {
    options.masquerade && !pods.nftables && !pods.networks.is_empty() && !settings.exists()
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

/// The networks of which there may be rules: the present ones, and those of earlier runs.
fn networks(pods: &PodNetwork) -> Vec<IpNet> {
    let present = pods.networks.iter().map(|(_, network)| *network);
    present.chain(pods.former.iter().copied()).collect()
}

fn told(rules: &Ruleset, place: &Place) -> String {
    let network = rules
        .network
        .map_or_else(String::new, |network| format!(" for {network}"));
    format!("rules{network} written to {place}")
}

#[cfg(test)]
#[path = "keeping_tests.rs"]
mod tests;
