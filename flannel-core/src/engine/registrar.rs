//! Our own lease: found, taken, kept. No I/O: it says what to ask of the store, and is told the
//! answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::contest::Contest;
use super::displaced::Displaced;
use super::pace::Backoff;
use crate::challenge::{challenge, challenged, settled};
use crate::choose::{address_taken, holder};
use crate::{
    Choice, Identity, Lease, LeaseAttrs, Leases, NetworkConfig, NodeId, PerFamily, Protected, Rival,
    StoreError, SubnetKey, TakeOver, Token, Unavailable, Wish, choose,
};

/// A lease is renewed when this part of its life is left, or the margin if that is less.
const RENEW_AT: u32 = 3;

/// A claimed lease that the watch has not shown by then is asked about.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

/// While the watch goes on saying nothing it is asked about less and less often, down to this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// Former addresses of ours that are remembered.
const PUBLISHED: usize = 16;

/// What to ask of the store.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Claim {
        subnet: SubnetKey,
        seen: Option<Lease>,
        attrs: LeaseAttrs,
    },
    Keep {
        own: Lease,
        attrs: LeaseAttrs,
    },
    Release(Lease),
}

impl Request {
    const fn subnet(&self) -> SubnetKey {
        match self {
            Self::Claim { subnet, .. } => *subnet,
            Self::Keep { own, .. } => own.subnet,
            Self::Release(lease) => lease.subnet,
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
struct Asked {
    subnet: SubnetKey,
    /// What the store was last seen to have there since.
    overtaken: Option<Option<Token>>,
}

/// What the registrar goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) config: &'a NetworkConfig,
    pub(super) leases: &'a Leases,
    pub(super) generation: u64,
    pub(super) public: PerFamily<IpAddr>,
    /// Whether that is surely another host's.
    pub(super) neighbours: bool,
    pub(super) attrs: &'a LeaseAttrs,
    pub(super) protected: &'a Protected,
}

#[derive(Debug)]
pub(super) struct Registrar {
    node: NodeId,
    margin: Duration,
    /// Whether the watch tells when a lease ends.
    shows_expiry: bool,
    own: Option<Lease>,
    /// What this process held last.
    held: Option<SubnetKey>,
    /// The life that the store gave the lease when last renewed.
    life: Option<Duration>,
    lost: bool,
    /// Addresses that this process has published: a value that carries one is an old one of ours.
    published: Vec<PerFamily<IpAddr>>,
    wish: Wish,
    displaced: Displaced,
    waiting: Option<Unavailable>,
    /// The leases at which `waiting` was found.
    considered: Option<u64>,
    contest: Contest,
    leftovers: Vec<Lease>,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// The request that is under way.
    asked: Option<Asked>,
    /// When to ask whether a claimed lease is still ours: until the watch has shown it, nobody would
    /// say that it is gone.
    ask_again: Option<Instant>,
    /// How long the watch is waited for before the next question.
    patience: Duration,
    trouble: Option<String>,
}

impl Registrar {
    pub(super) fn new(node: NodeId, margin: Duration, wish: Wish, shows_expiry: bool) -> Self {
        Self {
            node,
            margin,
            shows_expiry,
            own: None,
            held: None,
            life: None,
            lost: false,
            published: Vec::new(),
            displaced: Displaced::new(wish.previous.filter(|_| wish.pinned.is_none())),
            wish,
            waiting: None,
            considered: None,
            contest: Contest::default(),
            leftovers: Vec::new(),
            backoff: Backoff::default(),
            not_before: None,
            asked: None,
            ask_again: None,
            patience: CONFIRMED_WITHIN,
            trouble: None,
        }
    }

    /// The lease that is ours.
    pub(super) const fn own(&self) -> Option<&Lease> {
        self.own.as_ref()
    }

    /// What keeps us from a lease, or from renewing it.
    pub(super) fn trouble(&self) -> Option<String> {
        self.waiting
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| self.trouble.clone())
    }

    /// Who else publishes our address, as far as that has shown.
    pub(super) fn rival(&self, now: Instant) -> Option<&str> {
        self.contest.rival(now)
    }

    /// That the subnet which `subnet.env` named is another's.
    pub(super) fn displaced(&self, now: Instant) -> Option<String> {
        self.displaced.text(self.own.as_ref()?.subnet, now)
    }

    /// The life of our lease from renewal to expiry.
    pub(super) const fn life(&self) -> Option<Duration> {
        self.life
    }

    /// The store is being heard from again: no reason to wait any longer.
    pub(super) fn store_is_back(&mut self) {
        if self.trouble.is_some() {
            self.backoff = Backoff::default();
            self.not_before = None;
        }
    }

    /// Config or host changed: what could not be had may be had now.
    pub(super) const fn reconsider(&mut self) {
        self.considered = None;
    }

    /// What the store has: all of it.
    pub(super) fn observe_all(&mut self, leases: &[Lease]) {
        let own = self.own.as_ref().map(|own| own.subnet);
        let asked = self.asked.as_ref().map(|asked| asked.subnet);
        let absent = |subnet: &SubnetKey| leases.iter().all(|lease| lease.subnet != *subnet);
        for gone in own.into_iter().chain(asked).filter(absent) {
            self.observe(&gone, None);
        }
        for lease in leases {
            self.observe(&lease.subnet, Some(lease));
        }
    }

    /// The store went back to what was before: nobody has written what it shows now.
    pub(super) const fn history_lost(&mut self) {
        self.contest.settle();
    }

    /// What the store has under our subnet changed: `now_there` is what it is.
    pub(super) fn observe(&mut self, subnet: &SubnetKey, now_there: Option<&Lease>) {
        self.wish.taken.remove(subnet);
        self.contest.observe(subnet, now_there, self.node);
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.subnet == *subnet) {
            asked.overtaken = Some(now_there.map(|lease| lease.token));
        }
        let Some(own) = &self.own else { return };
        if own.subnet != *subnet {
            // A claim whose answer was lost, after which another subnet was taken.
            let leftover = now_there
                .filter(|lease| self.is_leftover(lease, own.subnet, own.attrs.public))
                .cloned();
            self.leftovers.extend(leftover);
            return;
        }
        match now_there {
            None => {
                warn!(%subnet, "our lease was removed; taking it again");
                self.let_go();
            }
            // An address that we no longer have is put right by the next request.
            Some(lease)
                if lease.attrs.node == own.attrs.node && self.published.contains(&lease.attrs.public) =>
            {
                self.ask_again = None;
                self.contest.rest();
                // A late event may carry less life than the renewal that overtook it.
                let expires = lease.expires.map(|at| own.expires.map_or(at, |own| at.max(own)));
                self.adopt(Lease {
                    expires,
                    ..lease.clone()
                });
            }
            // Whoever asks whether we live is answered by the next request.
            Some(lease)
                if challenged(&lease.attrs).is_some() && self.published.contains(&lease.attrs.public) =>
            {
                self.contest.challenged(lease);
            }
            Some(lease) => {
                self.lost |= lease.attrs.node.is_some() || lease.attrs.public != own.attrs.public;
                error!(
                    %subnet,
                    holder = %holder(lease),
                    "our lease is now another's; taking another subnet"
                );
                self.let_go();
            }
        }
    }

    /// What to ask now, if anything.
    pub(super) fn next(&mut self, view: View<'_>, now: Instant) -> Option<Request> {
        if self.asked.is_some() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        if let (Some(own), Some(seen)) = (&self.own, self.contest.object(view.public, now)) {
            let request = Request::Claim {
                subnet: own.subnet,
                attrs: over(seen, view.attrs),
                seen: Some(seen.clone()),
            };
            return Some(self.begin(request));
        }
        let request = match &self.own {
            Some(own) if self.ask_again.is_some_and(|at| now >= at) || self.due(own, view.attrs, now) => {
                Some(Request::Keep {
                    own: own.clone(),
                    attrs: over(own, view.attrs),
                })
            }
            Some(_) => {
                // Whatever failed has come to be as it ought to, or need not any longer.
                self.trouble = None;
                self.backoff = Backoff::default();
                self.leftovers.pop().map(Request::Release)
            }
            None => self.find(view, now),
        };
        request.map(|request| self.begin(request))
    }

    fn begin(&mut self, request: Request) -> Request {
        // The event of a write may come before its answer, and carries what is being published.
        if let Request::Claim { attrs, .. } | Request::Keep { attrs, .. } = &request
            && challenged(attrs).is_none()
        {
            self.remember(attrs.public);
        }
        self.asked = Some(Asked {
            subnet: request.subnet(),
            overtaken: None,
        });
        request
    }

    /// When [`Registrar::next`] may have something to do without anything happening before.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.asked.is_some() {
            return None;
        }
        let own = self.own.as_ref();
        let renewal = own.and_then(|own| self.renewal(own));
        let question = self.ask_again.filter(|_| own.is_some());
        let contest = self.contest.wake().filter(|_| own.is_none());
        self.not_before
            .or_else(|| renewal.into_iter().chain(question).chain(contest).min())
    }

    /// The store's answer. Which leases there are is for the watch alone to say.
    pub(super) fn done(
        &mut self,
        request: &Request,
        result: Result<Option<Lease>, StoreError>,
        now: Instant,
    ) {
        let overtaken = self.asked.take().and_then(|asked| asked.overtaken);
        self.not_before = None;
        match (request, result) {
            (_, Ok(lease)) => {
                self.backoff = Backoff::default();
                self.trouble = None;
                if let Some(lease) = lease {
                    if challenged(&lease.attrs).is_some() {
                        match overtaken {
                            Some(seen) if seen != Some(lease.token) => self.contest.objected(&lease),
                            _ => self.contest.ask(lease.subnet, now),
                        }
                        self.considered = None;
                        return;
                    }
                    if overtaken.is_none_or(|seen| seen == Some(lease.token)) {
                        self.contest.rest();
                    }
                    if self.own.as_ref().is_none_or(|own| own.subnet != lease.subnet) {
                        info!(subnet = %lease.subnet, "lease acquired");
                    }
                    self.life = lease.expires.map(|at| at.saturating_duration_since(now));
                    let confirmed = overtaken == Some(Some(lease.token));
                    // Which came first, answer or event, cannot be told; the next answer tells.
                    self.ask_again = match request {
                        _ if confirmed => None,
                        _ if overtaken.is_some() => Some(now),
                        Request::Claim { .. } => {
                            self.patience = CONFIRMED_WITHIN;
                            Some(now + self.patience)
                        }
                        _ => self.ask_again.map(|_| {
                            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
                            now + self.patience
                        }),
                    };
                    self.adopt(lease);
                }
            }
            (Request::Claim { subnet, seen, .. }, Err(StoreError::Taken { .. })) => {
                self.trouble = None;
                if seen.is_none() {
                    // Its lease has not been seen yet; the next choice is another.
                    self.wish.taken.insert(*subnet);
                    self.wish.seed = self.wish.seed.wrapping_add(1);
                } else {
                    self.retry(now);
                }
                self.considered = None;
            }
            (Request::Keep { own, .. }, Err(StoreError::LeaseLost { .. })) => {
                self.trouble = None;
                warn!(subnet = %own.subnet, "our lease is gone; taking it again if it is free");
                self.let_go();
                self.retry(now);
            }
            (Request::Release(_), Err(error)) => {
                warn!(%error, "a lease left over was not released");
                if self.own.is_none() {
                    // It stands in our way.
                    self.considered = None;
                    self.retry(now);
                }
            }
            (_, Err(error)) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    warn!(%error, "the store did not do it; trying again");
                }
                self.trouble = Some(text);
                self.waiting = None;
                self.retry(now);
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next_delay());
    }

    fn due(&self, own: &Lease, attrs: &LeaseAttrs, now: Instant) -> bool {
        let published = LeaseAttrs {
            unknown: Vec::new(),
            ..own.attrs.clone()
        };
        let renewal = self.renewal(own);
        published != *attrs || challenged(&own.attrs).is_some() || renewal.is_some_and(|at| now >= at)
    }

    fn renewal(&self, own: &Lease) -> Option<Instant> {
        let expires = own.expires?;
        let life = self.life.unwrap_or(Duration::MAX);
        let left = self.margin.min(life / RENEW_AT);
        Some(expires.checked_sub(left).unwrap_or(expires))
    }

    fn adopt(&mut self, lease: Lease) {
        self.waiting = None;
        self.displaced.settle();
        self.wish.taken = BTreeSet::new();
        self.wish.previous = Some(lease.subnet);
        self.held = Some(lease.subnet);
        // A lease that was another's carries that one's addresses until it is written.
        if challenged(&lease.attrs).is_none() {
            self.remember(lease.attrs.public);
        }
        self.own = Some(lease);
    }

    /// Notes an address as one of ours, the latest first.
    fn remember(&mut self, public: PerFamily<IpAddr>) {
        self.published.retain(|known| *known != public);
        self.published.truncate(PUBLISHED - 1);
        self.published.insert(0, public);
    }

    fn let_go(&mut self) {
        self.own = None;
        self.contest.rest();
        self.ask_again = None;
        self.considered = None;
    }

    fn find(&mut self, view: View<'_>, now: Instant) -> Option<Request> {
        if let Some(asked) = self.contest.open(now) {
            let lease = view.leases.get(&asked);
            self.waiting = lease.and_then(|lease| address_taken(lease, view.public, Rival::Asked));
            return None;
        }
        // Nothing has changed since there was nothing to be had.
        if self.considered == Some(view.generation) && !self.contest.is_over(now) {
            return None;
        }
        self.contest.conclude(view.leases, self.node, now);
        let successor = self.held.and_then(|subnet| view.leases.get(&subnet));
        self.lost |= successor.is_some_and(|lease| {
            lease.attrs.node.is_some_and(|node| node != self.node) && lease.attrs.public != view.public
        });
        let me = Identity {
            node: self.node,
            public: view.public,
            lost: self.lost,
            neighbours: view.neighbours,
            undisputed: self.contest.undisputed().clone(),
        };
        let choice = choose(view.config, view.leases, &me, &self.wish, view.protected);
        if !matches!(choice, Choice::Challenge(_)) {
            self.contest.settle();
        }
        if let Choice::Keep(Lease { subnet, .. })
        | Choice::TakeOver {
            lease: Lease { subnet, .. },
            ..
        }
        | Choice::Create(subnet) = &choice
        {
            self.displaced
                .note(*subnet, self.node, view.leases, &self.wish.taken, now);
        }
        match choice {
            Choice::Keep(lease) => {
                info!(subnet = %lease.subnet, "lease found, keeping it");
                self.life = self
                    .life
                    .or_else(|| lease.expires.map(|at| at.saturating_duration_since(now)));
                self.leftovers = self.leftovers(view, lease.subnet);
                let due = !self.shows_expiry || self.due(&lease, view.attrs, now);
                self.adopt(lease.clone());
                due.then(|| Request::Keep {
                    attrs: over(&lease, view.attrs),
                    own: lease,
                })
            }
            Choice::TakeOver { lease, why } => {
                let subnet = lease.subnet;
                match why {
                    TakeOver::Readdressed => info!(%subnet, "our address changed; telling the others"),
                    TakeOver::Unnamed => {
                        info!(%subnet, "lease written by flannel for our address; taking it over")
                    }
                    TakeOver::Claimed => info!(%subnet, "our lease was claimed by another; keeping it"),
                }
                self.leftovers = self.leftovers(view, subnet);
                Some(Request::Claim {
                    subnet,
                    attrs: over(&lease, view.attrs),
                    seen: Some(lease),
                })
            }
            Choice::Challenge(lease) => {
                if self.contest.knows(&lease) {
                    self.waiting = address_taken(&lease, view.public, Rival::Alive);
                    self.considered = Some(view.generation);
                    return None;
                }
                Some(Request::Claim {
                    subnet: lease.subnet,
                    attrs: challenge(&lease, self.node),
                    seen: Some(lease),
                })
            }
            // By an earlier run, or a claim whose answer was lost.
            Choice::Contested(lease) => {
                self.contest.ask(lease.subnet, now);
                self.waiting = address_taken(&lease, view.public, Rival::Asked);
                None
            }
            Choice::Create(subnet) => {
                self.leftovers = self.leftovers(view, subnet);
                Some(Request::Claim {
                    subnet,
                    seen: None,
                    attrs: view.attrs.clone(),
                })
            }
            // What is in our own way is given back first.
            Choice::Wait(Unavailable::PinnedTaken { pinned, by, .. })
                if view
                    .leases
                    .get(&by)
                    .is_some_and(|lease| self.is_leftover(lease, pinned, view.public)) =>
            {
                self.considered = Some(view.generation);
                view.leases.get(&by).cloned().map(Request::Release)
            }
            Choice::Wait(unavailable) => {
                self.considered = Some(view.generation);
                self.waiting = Some(unavailable);
                if !self.wish.taken.is_empty() {
                    // Claims of others that were never seen may have come to nothing.
                    self.wish.taken.clear();
                    self.considered = None;
                    self.retry(now);
                }
                None
            }
        }
    }

    /// Leases of this very host that it does not use: after a change of the network, or a claim
    /// whose answer was lost. Those with its id and an address that it never had are a twin's.
    fn leftovers(&self, view: View<'_>, held: SubnetKey) -> Vec<Lease> {
        view.leases
            .iter()
            .filter(|lease| self.is_leftover(lease, held, view.public))
            .cloned()
            .collect()
    }

    fn is_leftover(&self, lease: &Lease, held: SubnetKey, public: PerFamily<IpAddr>) -> bool {
        let address = lease.attrs.public;
        // Whose holder may object is not ours to give back.
        let disputed =
            challenged(&lease.attrs).is_some() && !self.contest.undisputed().contains(&lease.subnet);
        lease.subnet != held
            && !disputed
            && lease.attrs.node == Some(self.node)
            && (address == public || self.published.contains(&address))
    }
}

/// What is to be written over a lease: its members that are nobody's here stay.
fn over(lease: &Lease, attrs: &LeaseAttrs) -> LeaseAttrs {
    LeaseAttrs {
        unknown: settled(&lease.attrs),
        ..attrs.clone()
    }
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
