//! Rules of a family brought about in one place.

use std::collections::BTreeSet;
use std::time::Duration;

use flannel_core::{Family, Filter, FirewallError, PodNetwork};
use ipnet::IpNet;
use tokio::time::Instant;

use super::HostFirewall;
use crate::iptables_host::{self, Refused};
use crate::nft_host::{Nft, Outline};
use crate::place::{Found, Place, Places};
use crate::ruleset::{RuleOptions, Ruleset};

/// Writes in one go: others may change what was read, or be at it right now.
const ATTEMPTS: u32 = 3;

/// How long is waited for somebody else who is at it.
const PAUSE: Duration = Duration::from_millis(200);

/// Rules that do not read back as they were written are written again so often.
const REWRITE: Duration = Duration::from_secs(60);

/// What is known of rules that are kept in one place.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Ports are not chosen at random: that is not asked for, or not to be had.
    in_order: bool,
    unreadable: Option<Unreadable>,
    /// Tables of the older iptables that are there since they have been written.
    tables: BTreeSet<&'static str>,
}

/// What is read right after rules have been written, where it does not say them.
#[derive(Debug)]
struct Unreadable {
    found: Found,
    rules: Ruleset,
    since: Instant,
}

/// The rules are there.
pub(super) struct Brought {
    /// What is there beside them.
    pub(super) found: Found,
    pub(super) written: bool,
}

/// A place, and what it takes to change it.
pub(super) struct Site<'a> {
    host: &'a HostFirewall,
    pub(super) place: &'a Place,
    nft: Option<&'a Nft>,
}

impl Upkeep {
    /// Makes the rules what they ought to be.
    pub(super) async fn bring_about(
        &mut self,
        site: &Site<'_>,
        pods: &PodNetwork,
        networks: &[IpNet],
    ) -> Result<Brought, FirewallError> {
        let Site { host, place, .. } = site;
        let options = host.options;
        self.in_order |= !options.masquerade || !options.random_fully;
        let (mut written, mut misread) = (false, None);
        let (mut refused, mut refusal) = (0_u32, None);
        for _ in 0..=ATTEMPTS {
            // What is refused twice is not refused for what somebody else has changed meanwhile.
            let in_order = self.in_order || refused > 1;
            let rules = rules(place.family(), pods, options, in_order);
            let found = place.look(&host.names, &self.tables).await?;
            let wanted = place.correction(&found, &rules, &host.names, networks);
            let Some(text) = wanted.filter(|_| !self.is_unreadable(&found, &rules)) else {
                return Ok(Brought { found, written });
            };
            if written && place.may_say(&found, &rules, &host.names, &text) {
                if misread.as_ref() == Some(&found) {
                    self.give_up_reading(place, &found, rules);
                    return Ok(Brought { found, written });
                }
                misread = Some(found.clone());
            }
            for command in place.outdated(&found, &rules, &host.names, networks) {
                tracing::info!("a rule of flannel before v0.16 is replaced: {command}");
            }
            match site.write(&text).await {
                Ok(()) => {
                    written = true;
                    self.tables.extend(iptables_host::tables(&text));
                    if in_order && !self.in_order {
                        self.do_without_random(place, refusal.as_ref());
                    }
                }
                Err(Refused { error, .. }) if error.is_transient() => return Err(error),
                Err(Refused { busy, error }) => {
                    if busy {
                        tokio::time::sleep(PAUSE).await;
                    } else {
                        refused += 1;
                    }
                    refusal = refusal.or(Some(error));
                }
            }
        }
        Err(refusal.unwrap_or_else(|| FirewallError::Failed {
            command: format!("writing rules to {place}"),
            reason: "somebody else changes them as fast as they are written".to_owned(),
        }))
    }

    fn is_unreadable(&self, found: &Found, rules: &Ruleset) -> bool {
        let is_it = |known: &Unreadable| known.found == *found && known.rules == *rules;
        let known = self.unreadable.as_ref().filter(|known| is_it(known));
        known.is_some_and(|known| known.since.elapsed() < REWRITE)
    }

    /// Takes what is read for the rules, though it says something else.
    fn give_up_reading(&mut self, place: &Place, found: &Found, rules: Ruleset) {
        if self.unreadable.is_none() {
            tracing::warn!(
                "what {place} says of our rules, right after they have been written, is as many rules as were \
                 written, in words not known here: either it is another version, or somebody else replaces them at once"
            );
        }
        self.unreadable = Some(Unreadable {
            found: found.clone(),
            rules,
            since: Instant::now(),
        });
    }

    fn do_without_random(&mut self, place: &Place, refusal: Option<&FirewallError>) {
        self.in_order = true;
        let refusal = refusal.map_or_else(String::new, |error| format!(" ({error})"));
        tracing::info!("{place} refuses to choose ports at random{refusal}: masquerading does without");
    }
}

fn rules(family: Family, pods: &PodNetwork, options: RuleOptions, in_order: bool) -> Ruleset {
    let options = RuleOptions {
        random_fully: options.random_fully && !in_order,
        ..options
    };
    Ruleset::for_pods(family, pods, options)
}

impl<'a> Site<'a> {
    pub(super) const fn new(host: &'a HostFirewall, place: &'a Place, places: &'a Places) -> Self {
        let nft = places.nft.as_ref();
        Self { host, place, nft }
    }

    /// Removes rules of ours, and says whether there were any.
    async fn clear(&self, networks: &[IpNet]) -> Result<bool, FirewallError> {
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let Some(found) = self.look().await? else {
                return Ok(false);
            };
            let Some(text) = self.place.removal(&found, &self.host.names, networks) else {
                return Ok(false);
            };
            match self.place.write(&text).await {
                Ok(()) => return Ok(true),
                Err(Refused { busy, error }) => {
                    if busy {
                        tokio::time::sleep(PAUSE).await;
                    }
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(false), Err)
    }

    /// The same, after which nobody has to look here any more.
    pub(super) async fn clear_and_forget(&self, networks: &[IpNet]) -> Result<bool, FirewallError> {
        let there_were = self.clear(networks).await?;
        self.host.origin.forget(self.place, &self.host.names).await?;
        Ok(there_were)
    }

    /// What is there; None where the kernel has none of its tables, which looking might make, or where
    /// the program does not understand what others have there, and we have nothing.
    pub(super) async fn look(&self) -> Result<Option<Found>, FirewallError> {
        if self.is_empty().await? {
            return Ok(None);
        }
        match self.place.look(&self.host.names, &BTreeSet::new()).await {
            Err(FirewallError::Failed { .. }) if self.has_no_chain_of_ours().await? => Ok(None),
            found => found.map(Some),
        }
    }

    /// Chains of this place that drop packets which rules elsewhere accept.
    pub(super) async fn filters(&self, rules: &Ruleset) -> Vec<Filter> {
        let seen = async {
            if rules.network.is_none() || self.is_empty().await? {
                return Ok(None);
            }
            self.place.look_at_forward().await
        };
        match seen.await {
            Ok(None) => Vec::new(),
            Ok(Some(found)) => self.place.obstacles(&found, rules, &self.host.names, true),
            Err::<_, FirewallError>(error) => {
                tracing::debug!(%error, "what {} drops is not known", self.place);
                Vec::new()
            }
        }
    }

    async fn has_no_chain_of_ours(&self) -> Result<bool, FirewallError> {
        let Some(outline) = self.outline().await? else {
            return Ok(false);
        };
        let names = &self.host.names;
        let ours = [
            ("nat", names.masquerade_chain()),
            ("filter", names.forward_chain()),
        ];
        Ok(!ours.iter().any(|(table, chain)| outline.has_chain(table, chain)))
    }

    async fn is_empty(&self) -> Result<bool, FirewallError> {
        let outline = self.outline().await?;
        Ok(outline.is_some_and(|outline| !outline.has_table("nat") && !outline.has_table("filter")))
    }

    /// What nft sees of what iptables has in nftables.
    async fn outline(&self) -> Result<Option<Outline>, FirewallError> {
        match self.nft.filter(|_| self.place.is_iptables_in_nftables()) {
            None => Ok(None),
            Some(nft) => nft.outline(self.place.family()).await.map(Some),
        }
    }

    async fn write(&self, text: &str) -> Result<(), Refused> {
        self.host.origin.remember(self.place, &self.host.names).await;
        let Some(nft) = self.nft.filter(|_| self.place.is_iptables_in_nftables()) else {
            return self.place.write(text).await;
        };
        let origin = &self.host.origin;
        let absent = origin.before(nft, self.place.family()).await;
        self.place.write(text).await?;
        origin.after(nft, self.place.family(), absent).await;
        Ok(())
    }
}
