//! Which device, and which of its addresses, lead to the other hosts. Pure: facts in, choice out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::family::is_link_local;
use crate::{DeviceName, Family, HostFacts, Link, LinkAddress, PerFamily};

/// What the operator said about the uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UplinkOptions {
    /// Tried in this order until one fits. None: the device that owns a public address, else that
    /// of the default route.
    pub rules: Vec<UplinkRule>,
    /// The addresses to publish in place of the device's own.
    pub public: PerFamily<IpAddr>,
}

/// One way to find the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UplinkRule {
    /// The device of this name, or the one that owns this address (`--iface`).
    Named(String),
    /// The first device one of whose addresses matches, else whose name does (`--iface-regex`).
    Matching(Pattern),
    /// The device by which the kernel reaches this address (`--iface-can-reach`).
    CanReach(IpAddr),
}

/// A compiled pattern. This crate has no regex engine: the caller brings the function.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    matches: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Pattern {
    /// A pattern that reads `text` and takes what `matches` takes.
    pub fn new(text: &str, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            text: text.into(),
            matches: Arc::new(matches),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The way to the other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// The device.
    pub device: DeviceName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The device's address in each enabled family.
    pub addresses: PerFamily<IpAddr>,
    /// What is published: the same, unless the operator said otherwise.
    pub public: PerFamily<IpAddr>,
}

/// Why there is no uplink. All of these may heal by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// None of the rules fits.
    #[error("no interface fits {tried}; there are {present}")]
    NoneFits {
        /// Each rule with the reason against it.
        tried: String,
        /// The devices and their addresses.
        present: String,
    },
    /// Nothing was asked for, and there is no default route to go by.
    #[error("unable to find default route for {0}; give --iface, or add a default route")]
    NoDefaultRoute(Family),
    /// The device lacks an address.
    #[error("failed to find {family} address for interface {device}; add one, or give --iface")]
    NoAddress {
        /// The device.
        device: DeviceName,
        /// What it lacks.
        family: Family,
    },
}

/// Chooses the uplink. `current` is kept while it fits the rules and has its addresses, so that a
/// further address or default route does not move the host.
///
/// # Errors
///
/// [`UplinkError`], with every rule that was tried.
pub fn choose_uplink(
    options: &UplinkOptions,
    facts: &HostFacts,
    families: &[Family],
    current: Option<&Uplink>,
) -> Result<Uplink, UplinkError> {
    if options.rules.is_empty() {
        return by_default(options, facts, families, current);
    }
    let mut tried = Vec::new();
    for rule in &options.rules {
        match apply(rule, facts, families, current).map(|found| found.uplink(options, families, current)) {
            Ok(Ok(uplink)) => return Ok(uplink),
            Ok(Err(error)) => tried.push(error.to_string()),
            Err(why) => tried.push(why),
        }
    }
    Err(UplinkError::NoneFits {
        tried: tried.join("; "),
        present: list(facts),
    })
}

/// A device, and the addresses on it that are asked for.
struct Found<'a> {
    link: &'a Link,
    fixed: PerFamily<IpAddr>,
}

impl<'a> Found<'a> {
    fn at(link: &'a Link, address: Option<IpAddr>) -> Self {
        let fixed = PerFamily::from_fn(|family| address.filter(|address| Family::of(*address) == family));
        Self { link, fixed }
    }

    fn uplink(
        &self,
        options: &UplinkOptions,
        families: &[Family],
        current: Option<&Uplink>,
    ) -> Result<Uplink, UplinkError> {
        let device = self.link.name;
        let current = current.filter(|current| current.device == device);
        let mut addresses = PerFamily::NONE;
        for &family in families {
            let fixed = self.fixed.get(family).copied();
            let kept = current.and_then(|current| current.addresses.get(family).copied());
            let global = |address: &IpAddr| !is_link_local(*address);
            // Once there was a global address, it is waited for; until there is one, any will do.
            let best = best_address(self.link, family)
                .filter(|best| global(best) || !kept.as_ref().is_some_and(global));
            let kept = kept.filter(|kept| {
                let better = best.as_ref().is_some_and(global) && !global(kept);
                usable(self.link, family).any(|own| own.net.addr() == *kept) && !better
            });
            let address = fixed.or(kept).or(best);
            let address = address.ok_or(UplinkError::NoAddress { device, family })?;
            addresses.set(family, Some(address));
        }
        let public = PerFamily::from_fn(|family| {
            let own = addresses.get(family)?;
            Some(*options.public.get(family).unwrap_or(own))
        });
        Ok(Uplink {
            device,
            mtu: self.link.mtu,
            addresses,
            public,
        })
    }
}

fn apply<'a>(
    rule: &UplinkRule,
    facts: &'a HostFacts,
    families: &[Family],
    current: Option<&Uplink>,
) -> Result<Found<'a>, String> {
    match rule {
        UplinkRule::Named(name) => match name.parse::<IpAddr>() {
            Ok(address) => match owner(facts, address) {
                Some(link) => Ok(Found::at(link, Some(address))),
                None => Err(format!("{name} (no interface with given IP found)")),
            },
            Err(_) => match facts.links.iter().find(|link| link.name.as_str() == name) {
                Some(link) => Ok(Found::at(link, None)),
                None => Err(format!("{name} (no such network interface)")),
            },
        },
        UplinkRule::Matching(pattern) => matching(pattern, facts, families, current)
            .ok_or_else(|| format!("the pattern {:?} (could not match any interface)", pattern.text)),
        UplinkRule::CanReach(address) => {
            let reached = facts.reached.get(address);
            let link = reached.and_then(|reached| facts.link(&reached.device));
            match (link, reached) {
                (Some(link), Some(reached)) => Ok(Found::at(link, reached.source)),
                _ => Err(format!("a route to {address} (the kernel has none)")),
            }
        }
    }
}

/// The device with a fitting address in each family; else the one whose name fits.
fn matching<'a>(
    pattern: &Pattern,
    facts: &'a HostFacts,
    families: &[Family],
    current: Option<&Uplink>,
) -> Option<Found<'a>> {
    // What is in use comes first, and so is kept while it fits.
    let in_use = |link: &&Link| current.is_some_and(|current| current.device == link.name);
    let used = facts.links.iter().filter(in_use);
    let links = used.chain(facts.links.iter().filter(|link| !in_use(link)));
    let address = |link: &Link, family: Family| {
        let fits = |address: &IpAddr| (pattern.matches)(&address.to_string());
        let kept = current.and_then(|current| current.addresses.get(family).copied());
        let mut fitting = sorted(link, family)
            .into_iter()
            .map(|own| own.net.addr())
            .filter(fits);
        let first = fitting.next()?;
        Some(
            kept.filter(|kept| fitting.any(|other| other == *kept))
                .unwrap_or(first),
        )
    };
    let by_address = links.clone().find_map(|link| {
        let wanted = |family| families.contains(&family);
        let fixed = PerFamily::from_fn(|family| address(link, family).filter(|_| wanted(family)));
        (fixed.iter().count() == families.len()).then_some(Found { link, fixed })
    });
    let mut named = links.filter(|link| (pattern.matches)(link.name.as_str()));
    by_address.or_else(|| Some(Found::at(named.next()?, None)))
}

/// Without a rule: the device that owns a public address, else that of the default route.
fn by_default(
    options: &UplinkOptions,
    facts: &HostFacts,
    families: &[Family],
    current: Option<&Uplink>,
) -> Result<Uplink, UplinkError> {
    let owned = families.iter().find_map(|&family| {
        let address = *options.public.get(family)?;
        owner(facts, address).map(|link| Found::at(link, Some(address)))
    });
    if let Some(owned) = owned {
        return owned.uplink(options, families, current);
    }
    let sticky = current
        .and_then(|current| facts.link(&current.device))
        .map(|link| Found::at(link, None));
    if let Some(Ok(uplink)) = sticky.map(|found| found.uplink(options, families, current)) {
        return Ok(uplink);
    }
    let mut last = None;
    let Some(&first) = families.first() else {
        return Err(UplinkError::NoDefaultRoute(Family::V4));
    };
    for route in facts.default_routes.iter().filter(|route| route.family == first) {
        let Some(link) = facts.link(&route.device) else {
            continue;
        };
        match Found::at(link, None).uplink(options, families, current) {
            Ok(uplink) => return Ok(uplink),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or(UplinkError::NoDefaultRoute(first)))
}

fn owner(facts: &HostFacts, address: IpAddr) -> Option<&Link> {
    let owns = |link: &&Link| {
        link.addresses
            .iter()
            .any(|own| own.net.addr() == address && !own.unusable)
    };
    facts.links.iter().find(owns)
}

fn usable(link: &Link, family: Family) -> impl Iterator<Item = &LinkAddress> {
    link.addresses.iter().filter(move |own| {
        let address = own.net.addr();
        Family::of(address) == family
            && !own.unusable
            && !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unspecified()
    })
}

/// flannel's order: global before link-local, permanent before dynamic, lasting before temporary.
fn sorted(link: &Link, family: Family) -> Vec<&LinkAddress> {
    let mut all: Vec<_> = usable(link, family).collect();
    all.sort_by_key(|own| (is_link_local(own.net.addr()), !own.permanent, own.temporary));
    all
}

fn best_address(link: &Link, family: Family) -> Option<IpAddr> {
    sorted(link, family).first().map(|own| own.net.addr())
}

/// Every device that others could reach, with its addresses, for the message that none fits: pods
/// come and go without changing it.
fn list(facts: &HostFacts) -> String {
    let links = facts.links.iter().filter_map(|link| {
        let addresses = link.addresses.iter().map(|own| own.net.addr());
        let addresses: Vec<String> = addresses
            .filter(|own| !is_link_local(*own))
            .map(|own| own.to_string())
            .collect();
        (!addresses.is_empty()).then(|| format!("{}:[{}]", link.name, addresses.join(" ")))
    });
    links.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
