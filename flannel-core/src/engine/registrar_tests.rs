#[path = "registrar_contest_tests.rs"]
mod contest;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Token;

const ME: NodeId = NodeId(7);
const OTHER: NodeId = NodeId(8);
const MY_ADDRESS: &str = "192.0.2.1";
const MARGIN: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(120);

/// A network of four subnets, 10.5.0.0/24 to 10.5.3.0/24.
const FOUR: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.3.0","Backend":{"Type":"host-gw"}}"#;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn subnet(number: u8) -> SubnetKey {
    format!("10.5.{number}.0/24").parse().unwrap()
}

fn public(address: &str) -> PerFamily<IpAddr> {
    PerFamily {
        v4: Some(address.parse().unwrap()),
        v6: None,
    }
}

fn attrs(address: &str, node: Option<NodeId>) -> LeaseAttrs {
    LeaseAttrs {
        public: public(address),
        backend: "host-gw".to_owned(),
        node,
        ..LeaseAttrs::default()
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        doing: "reach the store".to_owned(),
        source: "connection refused".into(),
    }
}

/// A registrar, and what it is shown.
struct Fixture {
    registrar: Registrar,
    config: NetworkConfig,
    leases: Leases,
    generation: u64,
    attrs: LeaseAttrs,
    neighbours: bool,
    protected: Protected,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self::wishing(Wish::default())
    }

    fn wishing(wish: Wish) -> Self {
        Self {
            registrar: Registrar::new(ME, MARGIN, wish, true),
            config: NetworkConfig::from_json(FOUR).unwrap(),
            leases: Leases::default(),
            generation: 0,
            attrs: attrs(MY_ADDRESS, Some(ME)),
            neighbours: false,
            protected: Protected::default(),
            now: Instant::now(),
        }
    }

    /// A host that holds 10.5.1.0/24 for as long as a new lease lives.
    fn holding() -> Self {
        let mut fixture = Self::wishing(Wish {
            previous: Some(subnet(1)),
            ..Wish::default()
        });
        let claim = fixture.next().unwrap();
        fixture.grant(&claim);
        fixture
    }

    fn next(&mut self) -> Option<Request> {
        let view = View {
            config: &self.config,
            leases: &self.leases,
            generation: self.generation,
            public: self.attrs.public,
            neighbours: self.neighbours,
            attrs: &self.attrs,
            protected: &self.protected,
        };
        let request = self.registrar.next(view, self.now);
        let wake = self.registrar.wake();
        assert!(
            request.is_some() || wake.is_none_or(|at| at > self.now),
            "it asks to be woken in the past, and has nothing to do: {:?}",
            self.registrar
        );
        request
    }

    /// Lets time pass until the registrar wants to be asked, and says how long that took.
    fn sleep(&mut self) -> Duration {
        let wake = self.registrar.wake().expect("it wants to be woken");
        let slept = wake.saturating_duration_since(self.now);
        self.now += slept;
        slept
    }

    fn lease(&self, number: u8, address: &str, node: Option<NodeId>) -> Lease {
        Lease {
            expires: Some(self.now + TTL),
            ..Lease::new(subnet(number), attrs(address, node))
        }
    }

    /// The store says so, of its own accord.
    fn put(&mut self, lease: Lease) {
        self.registrar.observe(&lease.subnet, Some(&lease));
        self.generation += 1;
        self.leases.insert(lease);
    }

    fn delete(&mut self, number: u8) {
        self.registrar.observe(&subnet(number), None);
        self.generation += 1;
        self.leases.remove(&subnet(number));
    }

    /// The store does what it was asked, and shows it.
    fn grant(&mut self, request: &Request) {
        let lease = self.answer(request);
        if let Some(lease) = lease {
            self.put(lease);
        }
    }

    /// The store does what it was asked, and has yet to show it.
    fn answer(&mut self, request: &Request) -> Option<Lease> {
        let lease = match request {
            Request::Claim { subnet, attrs, .. } => Some(Lease::new(*subnet, attrs.clone())),
            Request::Keep { own, attrs } => Some(Lease::new(own.subnet, attrs.clone())),
            Request::Release(lease) => {
                self.leases.remove(&lease.subnet);
                self.generation += 1;
                None
            }
        };
        let lease = lease.map(|lease| Lease {
            expires: Some(self.now + TTL),
            ..lease
        });
        self.registrar.done(request, Ok(lease.clone()), self.now);
        lease
    }

    fn refuse(&mut self, request: &Request, error: StoreError) {
        self.registrar.done(request, Err(error), self.now);
    }

    fn held(&self) -> Option<SubnetKey> {
        self.registrar.own().map(|own| own.subnet)
    }
}

/// Which subnet a request creates a lease of.
fn created(request: Option<Request>) -> SubnetKey {
    match request {
        Some(Request::Claim {
            subnet, seen: None, ..
        }) => subnet,
        other => panic!("no creation: {other:?}"),
    }
}

/// Which lease a request takes over.
fn taken_over(request: Option<Request>) -> Lease {
    match request {
        Some(Request::Claim { seen: Some(seen), .. }) => seen,
        other => panic!("no takeover: {other:?}"),
    }
}

/// What a request writes.
fn written(request: &Option<Request>) -> LeaseAttrs {
    match request {
        Some(Request::Claim { attrs, .. } | Request::Keep { attrs, .. }) => attrs.clone(),
        other => panic!("nothing is written: {other:?}"),
    }
}

/// The host knows that another one of its address lives.
#[track_caller]
fn assert_alive(host: &Fixture, number: u8) {
    let trouble = host.registrar.trouble().unwrap();
    let named = [
        "our public address 192.0.2.1".to_owned(),
        format!("the lease {} of 192.0.2.1 (node {OTHER})", subnet(number)),
        "which is alive; give each host its own --public-ip".to_owned(),
    ];
    assert!(named.iter().all(|part| trouble.contains(part)), "{trouble}");
    assert_eq!(host.held(), None);
}

#[test]
fn a_host_without_a_lease_claims_a_free_subnet_once() {
    let mut host = Fixture::new();
    host.put(host.lease(0, "192.0.2.2", Some(OTHER)));
    let claim = host.next().unwrap();
    assert!(
        host.next().is_none(),
        "a second request while the first is under way"
    );
    assert_eq!(host.registrar.wake(), None);
    host.grant(&claim);
    let held = host.held().unwrap();
    assert_ne!(held, subnet(0));
    assert_eq!(host.registrar.own().unwrap().attrs, host.attrs);
    assert_eq!(host.registrar.life(), Some(TTL));
    assert!(host.next().is_none());
}

#[test]
fn a_lease_that_is_found_is_kept_and_nothing_is_written() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, Some(ME)));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(2)));
    assert_eq!(host.registrar.life(), Some(TTL));
    assert_eq!(host.sleep(), TTL * 2 / 3);
    assert!(matches!(host.next(), Some(Request::Keep { own, .. }) if own.subnet == subnet(2)));
}

#[test]
fn a_lease_whose_end_the_store_does_not_show_is_renewed_as_soon_as_it_is_found() {
    let mut host = Fixture::new();
    host.registrar = Registrar::new(ME, MARGIN, Wish::default(), false);
    let found = host.lease(2, MY_ADDRESS, Some(ME));
    host.put(found.clone());
    let keep = host.next();
    assert!(
        matches!(&keep, Some(Request::Keep { own, .. }) if own.subnet == found.subnet),
        "{keep:?}"
    );
    host.grant(&keep.unwrap());
    assert!(host.next().is_none(), "once");
}

#[test]
fn a_lease_that_is_found_about_to_expire_is_renewed_at_once_with_the_members_that_are_nobodys() {
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","NodeID":"00000000000000000000000000000007","Rack":7}"#;
    let mut host = Fixture::new();
    let found = Lease::new(subnet(2), LeaseAttrs::from_json(value).unwrap());
    host.put(found);
    let Some(Request::Keep { attrs, .. }) = host.next() else {
        panic!("not renewed");
    };
    assert_eq!(attrs.to_json(), value.replace("vxlan", "host-gw"));
}

#[test]
fn members_that_are_nobodys_survive_takeover_and_renewal() {
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw","Rack":7}"#;
    let ours = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw","NodeID":"00000000000000000000000000000007","Rack":7}"#;
    let mut host = Fixture::new();
    host.put(Lease::new(subnet(2), LeaseAttrs::from_json(value).unwrap()));
    let claim = host.next().unwrap();
    assert!(matches!(&claim, Request::Claim { attrs, .. } if attrs.to_json() == ours));
    host.grant(&claim);
    assert!(
        host.next().is_none(),
        "a member that is not ours is no reason to write"
    );
    host.sleep();
    assert!(matches!(host.next(), Some(Request::Keep { attrs, .. }) if attrs.to_json() == ours));
}

#[test]
fn a_lease_is_renewed_when_the_margin_or_a_third_of_its_life_is_left() {
    for (life, margin, left) in [(120, 3600, 40), (86_400, 3600, 3600), (3, 3600, 1), (120, 10, 10)] {
        let mut host = Fixture::new();
        host.registrar.margin = Duration::from_secs(margin);
        let claim = host.next().unwrap();
        let lease = Lease {
            expires: Some(host.now + Duration::from_secs(life)),
            ..Lease::new(subnet(0), host.attrs.clone())
        };
        host.registrar.done(&claim, Ok(Some(lease.clone())), host.now);
        host.put(lease);
        assert!(host.next().is_none());
        assert_eq!(host.sleep(), Duration::from_secs(life - left), "{life} {margin}");
        assert!(matches!(host.next(), Some(Request::Keep { .. })));
    }
}

#[test]
fn a_lease_without_expiry_is_never_renewed() {
    let mut host = Fixture::new();
    host.put(Lease::new(subnet(2), host.attrs.clone()));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(2)));
    assert_eq!((host.registrar.wake(), host.registrar.life()), (None, None));
}

#[test]
fn a_renewal_that_fails_is_tried_again_with_backoff_and_says_why() {
    let mut host = Fixture::holding();
    host.sleep();
    for delay in [100, 200, 400] {
        let keep = host.next().unwrap();
        host.refuse(&keep, unavailable());
        assert_eq!(
            host.registrar.trouble().as_deref(),
            Some("cannot reach the store: connection refused")
        );
        assert!(host.next().is_none());
        assert_eq!(host.sleep(), ms(delay));
    }
    let keep = host.next().unwrap();
    host.grant(&keep);
    assert_eq!(host.registrar.trouble(), None);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), TTL * 2 / 3);
    let keep = host.next().unwrap();
    host.refuse(&keep, unavailable());
    assert_eq!(host.sleep(), ms(100), "the backoff did not begin anew");
}

#[test]
fn a_store_that_is_heard_from_again_is_asked_at_once() {
    let mut host = Fixture::holding();
    host.sleep();
    for _ in 0..8 {
        let keep = host.next().unwrap();
        host.refuse(&keep, unavailable());
        host.sleep();
    }
    let keep = host.next().unwrap();
    host.refuse(&keep, unavailable());
    assert!(host.next().is_none());
    host.registrar.store_is_back();
    let keep = host.next().expect("asked at once");
    host.refuse(&keep, unavailable());
    assert_eq!(host.sleep(), ms(100));
}

#[test]
fn a_store_that_refuses_takeovers_is_not_asked_faster_because_it_is_heard_from() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, None));
    let claim = host.next().unwrap();
    host.refuse(&claim, StoreError::Taken { subnet: subnet(2) });
    host.registrar.store_is_back();
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(100));
}

#[test]
fn a_new_address_is_published_at_once_and_after_a_failure_without_waiting_for_the_renewal() {
    let mut host = Fixture::holding();
    assert!(host.next().is_none());
    host.attrs.public = public("192.0.2.50");
    let keep = host.next().unwrap();
    assert!(matches!(&keep, Request::Keep { attrs, .. } if attrs.public == public("192.0.2.50")));
    host.refuse(&keep, unavailable());
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(100));
    assert!(matches!(host.next(), Some(Request::Keep { .. })));
}

#[test]
fn a_claimed_lease_that_the_watch_does_not_show_is_asked_about_after_1_s_and_then_less_often_until_it_does() {
    let mut host = Fixture::new();
    let claim = host.next().unwrap();
    let mut lease = host.answer(&claim).unwrap();
    for waits in [1000, 2000, 4000] {
        assert!(host.next().is_none());
        assert_eq!(host.sleep(), ms(waits));
        let keep = host.next().unwrap();
        assert!(matches!(keep, Request::Keep { .. }));
        lease = host.answer(&keep).unwrap();
    }
    host.put(lease);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), TTL * 2 / 3);
}

#[test]
fn a_claimed_lease_that_was_gone_before_the_answer_came_is_asked_about_at_once() {
    for there in [None, Some("192.0.2.2")] {
        let mut host = Fixture::new();
        let claim = host.next().unwrap();
        let Request::Claim { subnet, .. } = claim else {
            panic!("no claim: {claim:?}");
        };
        let there = there.map(|address| Lease {
            subnet,
            token: Token {
                revision: 9,
                grant: 0,
            },
            ..host.lease(0, address, Some(OTHER))
        });
        host.registrar.observe(&subnet, there.as_ref());
        host.answer(&claim);
        let keep = host.next().unwrap();
        assert!(matches!(keep, Request::Keep { .. }));
        host.refuse(&keep, StoreError::LeaseLost { subnet });
        assert_eq!(host.held(), None);
        assert_eq!(
            host.sleep(),
            ms(100),
            "a second question about a lease that was let go"
        );
    }
}

#[test]
fn a_snapshot_without_the_lease_that_is_being_claimed_puts_the_answer_in_doubt() {
    let mut host = Fixture::new();
    let claim = host.next().unwrap();
    host.registrar.observe_all(&[]);
    host.answer(&claim);
    assert!(matches!(host.next(), Some(Request::Keep { .. })));
}

#[test]
fn a_snapshot_tells_what_became_of_our_lease_and_of_those_that_we_do_not_use() {
    let mut host = Fixture::holding();
    let own = host.registrar.own().unwrap().clone();
    let leftover = host.lease(3, MY_ADDRESS, Some(ME));
    host.registrar.observe_all(&[own, leftover]);
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(matches!(host.next(), Some(Request::Release(lease)) if lease.subnet == subnet(3)));
    let mut host = Fixture::holding();
    host.registrar
        .observe_all(&[host.lease(3, "192.0.2.2", Some(OTHER))]);
    assert_eq!(host.held(), None);
}

#[test]
fn a_claimed_lease_that_was_shown_before_the_answer_came_is_believed() {
    let mut host = Fixture::new();
    let claim = host.next().unwrap();
    let shown = Lease {
        subnet: created(Some(claim.clone())),
        ..host.lease(0, MY_ADDRESS, Some(ME))
    };
    host.registrar.observe(&shown.subnet, Some(&shown));
    host.answer(&claim);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), TTL * 2 / 3);
}

#[test]
fn an_event_about_another_subnet_does_not_put_an_answer_in_doubt() {
    let mut host = Fixture::wishing(Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    });
    let claim = host.next().unwrap();
    host.put(host.lease(2, "192.0.2.2", Some(OTHER)));
    host.answer(&claim);
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(1000));
}

#[test]
fn our_lease_overwritten_by_anybody_else_is_never_taken_back() {
    for (address, node) in [
        ("192.0.2.2", Some(OTHER)),
        // flannel, on another host.
        ("192.0.2.2", None),
        // A twin, with a copy of our state directory.
        ("192.0.2.2", Some(ME)),
    ] {
        let mut host = Fixture::holding();
        let theirs = host.lease(1, address, node);
        host.put(theirs);
        assert_eq!(host.held(), None, "{address} {node:?}");
        let claim = host.next();
        assert_ne!(created(claim.clone()), subnet(1), "{address} {node:?}");
        host.grant(&claim.unwrap());
        host.leases.remove(&host.held().unwrap());
        host.delete(0);
        host.delete(2);
        host.delete(3);
        // Nor later, when ours is lost again.
        let held = host.held();
        assert!(held.is_none() || host.next().is_none());
        host.registrar.let_go();
        host.generation += 1;
        assert_ne!(created(host.next()), subnet(1), "{address} {node:?}");
    }
}

#[test]
fn who_lost_a_lease_to_anybody_takes_no_other_over_by_its_node_id() {
    for (address, node) in [
        ("192.0.2.2", Some(OTHER)),
        ("192.0.2.2", None),
        ("192.0.2.2", Some(ME)),
    ] {
        let mut host = Fixture::holding();
        host.put(host.lease(1, address, node));
        host.put(host.lease(3, "192.0.2.3", Some(ME)));
        let claimed = created(host.next());
        assert!(claimed != subnet(1) && claimed != subnet(3), "{address} {node:?}");
    }
}

#[test]
fn who_lost_a_lease_to_a_host_of_its_own_address_asks_before_it_publishes_that_again() {
    let mut host = Fixture::holding();
    // Somebody who took us for dead, or has our address by mistake.
    host.put(host.lease(1, MY_ADDRESS, Some(OTHER)));
    assert_eq!(host.held(), None);
    let challenge = host.next();
    assert_eq!(challenged(&written(&challenge)), Some(OTHER));
    host.grant(&challenge.unwrap());
    host.put(host.lease(1, MY_ADDRESS, Some(OTHER)));
    assert!(
        host.next().is_none(),
        "another subnet, with an address that is in use"
    );
    assert_alive(&host, 1);
}

#[test]
fn our_lease_rewritten_by_flannel_with_our_address_is_taken_over_again() {
    let mut host = Fixture::holding();
    host.put(host.lease(1, MY_ADDRESS, None));
    assert_eq!(host.held(), None);
    assert_eq!(taken_over(host.next()).subnet, subnet(1));
}

#[test]
fn our_lease_rewritten_without_our_id_does_not_count_as_lost() {
    let mut host = Fixture::holding();
    host.put(host.lease(1, MY_ADDRESS, None));
    let claim = host.next().unwrap();
    host.grant(&claim);
    host.registrar.let_go();
    // As after a change of address.
    host.put(host.lease(1, "192.0.2.2", Some(ME)));
    assert_eq!(taken_over(host.next()).subnet, subnet(1));
}

#[test]
fn our_lease_put_back_to_a_former_address_of_ours_is_mended_in_place() {
    let mut host = Fixture::holding();
    host.attrs.public = public("192.0.2.50");
    let keep = host.next().unwrap();
    host.grant(&keep);
    host.put(host.lease(1, MY_ADDRESS, Some(ME)));
    assert_eq!(host.held(), Some(subnet(1)));
    let keep = host.next();
    assert!(matches!(keep, Some(Request::Keep { attrs, .. }) if attrs.public == public("192.0.2.50")));
}

#[test]
fn an_event_that_overtakes_the_answer_about_a_new_address_is_our_own() {
    let mut host = Fixture::holding();
    host.attrs.public = public("192.0.2.50");
    let keep = host.next().unwrap();
    host.put(host.lease(1, "192.0.2.50", Some(ME)));
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(!host.registrar.lost);
    host.grant(&keep);
    assert_eq!(host.held(), Some(subnet(1)));
}

#[test]
fn the_last_sixteen_addresses_are_known_for_ours() {
    let mut host = Fixture::holding();
    for number in 50..66 {
        host.attrs.public = public(&format!("192.0.2.{number}"));
        let keep = host.next().unwrap();
        host.grant(&keep);
    }
    assert_eq!(host.registrar.published.len(), 16);
    host.put(host.lease(1, "192.0.2.50", Some(ME)));
    assert_eq!(host.held(), Some(subnet(1)));

    // The seventeenth might be anybody's.
    let mut host = Fixture::holding();
    for number in 50..66 {
        host.attrs.public = public(&format!("192.0.2.{number}"));
        let keep = host.next().unwrap();
        host.grant(&keep);
    }
    host.put(host.lease(1, MY_ADDRESS, Some(ME)));
    assert_ne!(created(host.next()), subnet(1));
}

#[test]
fn an_event_about_our_lease_as_it_is_changes_nothing_and_shortens_no_life() {
    let mut host = Fixture::holding();
    let before = host.registrar.own().unwrap().clone();
    let late = Lease {
        expires: Some(host.now + Duration::from_secs(1)),
        token: Token {
            revision: 9,
            grant: 1,
        },
        ..before.clone()
    };
    host.put(late);
    let own = host.registrar.own().unwrap();
    assert_eq!((own.expires, own.token.revision), (before.expires, 9));
    let renewed = Lease {
        expires: Some(host.now + TTL * 2),
        ..before.clone()
    };
    host.put(renewed);
    assert_eq!(host.registrar.own().unwrap().expires, Some(host.now + TTL * 2));
    host.put(Lease {
        expires: None,
        ..before
    });
    assert_eq!(host.registrar.own().unwrap().expires, None);
}

#[test]
fn our_lease_that_is_removed_is_claimed_again_at_once() {
    let mut host = Fixture::holding();
    host.delete(1);
    assert_eq!(host.held(), None);
    assert_eq!(created(host.next()), subnet(1));
}

#[test]
fn events_about_other_subnets_do_not_disturb_our_lease() {
    let mut host = Fixture::holding();
    host.put(host.lease(2, "192.0.2.2", Some(OTHER)));
    host.delete(2);
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(host.next().is_none());
}

#[test]
fn a_lease_that_expired_is_claimed_again_after_a_moment_if_it_is_free() {
    let mut host = Fixture::holding();
    host.sleep();
    let keep = host.next().unwrap();
    host.refuse(&keep, StoreError::LeaseLost { subnet: subnet(1) });
    assert_eq!(host.held(), None);
    assert!(host.next().is_none());
    host.leases.remove(&subnet(1));
    host.generation += 1;
    assert_eq!(host.sleep(), ms(100));
    assert_eq!(created(host.next()), subnet(1));
}

#[test]
fn a_lease_that_expired_and_went_to_another_is_lost_for_good() {
    let mut host = Fixture::holding();
    host.sleep();
    let keep = host.next().unwrap();
    host.refuse(&keep, StoreError::LeaseLost { subnet: subnet(1) });
    // What the watch shows of our former subnet when no lease is ours.
    host.put(host.lease(1, "192.0.2.2", Some(OTHER)));
    host.put(host.lease(2, "192.0.2.3", Some(ME)));
    host.sleep();
    let claimed = created(host.next());
    assert!(claimed != subnet(1) && claimed != subnet(2), "{claimed}");
}

#[test]
fn a_taken_subnet_that_subnet_env_named_is_told_of_with_its_holder_for_10_minutes() {
    let mut host = Fixture::wishing(Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    });
    host.put(host.lease(1, "192.0.2.2", Some(OTHER)));
    let claim = host.next().unwrap();
    assert_eq!(
        host.registrar.displaced(host.now),
        None,
        "before there is another"
    );
    host.grant(&claim);
    let text = host.registrar.displaced(host.now).unwrap();
    let own = host.held().unwrap().to_string();
    let named = [
        "the subnet 10.5.1.0/24, which subnet.env named, is taken by the lease 10.5.1.0/24 of 192.0.2.2 (node \
         00000000000000000000000000000008)",
        &format!("this host has {own} instead"),
    ];
    assert!(named.iter().all(|part| text.contains(part)), "{text}");
    host.now += ms(599_000);
    assert!(host.registrar.displaced(host.now).is_some());
    host.now += ms(1_000);
    assert_eq!(host.registrar.displaced(host.now), None);
}

#[test]
fn a_subnet_in_subnet_env_that_is_taken_unseen_or_beside_a_lease_of_ours_is_told_of_too() {
    let wish = || Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    };
    let mut host = Fixture::wishing(wish());
    let claim = host.next().unwrap();
    host.refuse(&claim, StoreError::Taken { subnet: subnet(1) });
    let claim = host.next().unwrap();
    host.grant(&claim);
    let text = host.registrar.displaced(host.now).unwrap();
    assert!(text.contains("taken by another host"), "{text}");

    let mut host = Fixture::wishing(wish());
    host.put(host.lease(1, "192.0.2.2", Some(OTHER)));
    host.put(host.lease(2, MY_ADDRESS, Some(ME)));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(2)));
    let text = host.registrar.displaced(host.now).unwrap();
    assert!(text.contains("this host has 10.5.2.0/24 instead"), "{text}");
}

#[test]
fn nothing_is_said_of_subnet_env_when_what_it_names_is_had_is_free_or_was_lost_later() {
    let wish = || Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    };
    let had = Fixture::holding();
    assert_eq!(had.registrar.displaced(had.now), None);

    // Ours, but too wide for the network by now.
    let mut outgrown = Fixture::wishing(wish());
    let wide = outgrown.lease(0, MY_ADDRESS, Some(ME));
    outgrown.put(Lease {
        subnet: "10.5.0.0/23".parse().unwrap(),
        ..wide
    });
    let claim = outgrown.next().unwrap();
    outgrown.grant(&claim);
    assert_eq!(outgrown.registrar.displaced(outgrown.now), None);

    let mut elsewhere = Fixture::wishing(wish());
    elsewhere.put(elsewhere.lease(2, MY_ADDRESS, Some(ME)));
    assert!(elsewhere.next().is_none());
    assert_eq!(elsewhere.registrar.displaced(elsewhere.now), None);

    let mut lost = Fixture::holding();
    lost.put(lost.lease(1, "192.0.2.2", Some(OTHER)));
    let claim = lost.next().unwrap();
    lost.grant(&claim);
    assert_eq!(lost.registrar.displaced(lost.now), None);

    let mut pinned = Fixture::wishing(Wish {
        pinned: Some(subnet(2)),
        ..wish()
    });
    pinned.put(pinned.lease(1, "192.0.2.2", Some(OTHER)));
    let claim = pinned.next().unwrap();
    pinned.grant(&claim);
    assert_eq!(pinned.registrar.displaced(pinned.now), None);
}

#[test]
fn a_takeover_that_comes_too_late_is_considered_anew_after_a_moment() {
    let mut host = Fixture::new();
    host.put(host.lease(2, MY_ADDRESS, None));
    let claim = host.next().unwrap();
    host.put(host.lease(2, "192.0.2.2", Some(OTHER)));
    host.refuse(&claim, StoreError::Taken { subnet: subnet(2) });
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(100));
    assert_ne!(created(host.next()), subnet(2));
}

#[test]
fn a_creation_that_comes_too_late_is_followed_by_one_of_another_subnet_at_once() {
    let mut host = Fixture::new();
    let mut tried = BTreeSet::new();
    for _ in 0..4 {
        let claim = host.next();
        let subnet = created(claim.clone());
        assert!(tried.insert(subnet), "{subnet} was tried twice");
        host.refuse(&claim.unwrap(), StoreError::Taken { subnet });
    }
    // All have been taken by claims that nobody has seen: some may have come to nothing.
    assert!(host.next().is_none());
    assert!(host.registrar.trouble().unwrap().contains("out of subnets"));
    assert_eq!(host.sleep(), ms(100));
    created(host.next());
}

#[test]
fn hosts_that_choose_the_same_choose_differently_after_a_collision() {
    let mut host = Fixture::new();
    host.config =
        NetworkConfig::from_json(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    let seed = host.registrar.wish.seed;
    let claim = host.next();
    let subnet = created(claim.clone());
    host.refuse(&claim.unwrap(), StoreError::Taken { subnet });
    assert_ne!(host.registrar.wish.seed, seed);
}

#[test]
fn a_subnet_that_was_taken_may_be_chosen_again_once_the_store_says_that_it_is_free() {
    let mut host = Fixture::wishing(Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    });
    let claim = host.next().unwrap();
    host.refuse(&claim, StoreError::Taken { subnet: subnet(1) });
    host.put(host.lease(1, "192.0.2.2", Some(OTHER)));
    host.delete(1);
    assert_eq!(created(host.next()), subnet(1));
}

#[test]
fn a_subnet_that_was_taken_is_no_longer_avoided_once_another_is_held() {
    let mut host = Fixture::wishing(Wish {
        previous: Some(subnet(1)),
        ..Wish::default()
    });
    let claim = host.next().unwrap();
    host.refuse(&claim, StoreError::Taken { subnet: subnet(1) });
    let claim = host.next().unwrap();
    host.grant(&claim);
    let held = host.held().unwrap();
    for number in (0..4).filter(|number| *number != 1) {
        host.put(host.lease(number, "192.0.2.2", Some(OTHER)));
    }
    assert_ne!(host.held(), Some(held));
    assert_eq!(created(host.next()), subnet(1));
}

#[test]
fn a_claim_whose_reply_was_lost_is_found_and_kept_without_writing_again() {
    let mut host = Fixture::new();
    let claim = host.next();
    let number = created(claim.clone());
    host.refuse(&claim.unwrap(), unavailable());
    host.put(Lease {
        subnet: number,
        ..host.lease(0, MY_ADDRESS, Some(ME))
    });
    assert!(host.next().is_none());
    host.sleep();
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(number));
    assert!(host.next().is_none());
    assert_eq!(host.registrar.trouble(), None);
}

#[test]
fn a_renewal_whose_reply_was_lost_and_that_shows_up_is_no_trouble_any_longer() {
    let mut host = Fixture::holding();
    host.sleep();
    let keep = host.next().unwrap();
    host.refuse(&keep, unavailable());
    host.put(host.lease(1, MY_ADDRESS, Some(ME)));
    host.sleep();
    assert!(host.next().is_none());
    assert_eq!(host.registrar.trouble(), None);
    assert_eq!(host.sleep(), TTL * 2 / 3 - ms(100));
}

#[test]
fn a_claim_whose_reply_was_lost_and_that_shows_up_after_another_was_taken_is_released() {
    let mut host = Fixture::holding();
    let leftover = host.lease(3, MY_ADDRESS, Some(ME));
    host.put(leftover);
    let release = host.next();
    assert!(matches!(&release, Some(Request::Release(lease)) if lease.subnet == subnet(3)));
    host.grant(&release.unwrap());
    assert_eq!(host.held(), Some(subnet(1)));
    assert!(host.next().is_none());
}

#[test]
fn leases_of_this_host_that_it_does_not_use_are_released_and_nobody_elses() {
    let mut host = Fixture::wishing(Wish {
        previous: Some(subnet(2)),
        ..Wish::default()
    });
    host.put(host.lease(0, MY_ADDRESS, Some(ME)));
    host.put(host.lease(1, "192.0.2.77", Some(ME)));
    host.put(host.lease(2, MY_ADDRESS, Some(ME)));
    host.put(host.lease(3, MY_ADDRESS, Some(OTHER)));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(2)));
    let release = host.next().unwrap();
    assert!(matches!(&release, Request::Release(lease) if lease.subnet == subnet(0)));
    host.refuse(&release, unavailable());
    assert!(host.next().is_none(), "a twin's lease was released");
}

#[test]
fn leases_with_a_former_address_of_this_host_are_taken_over_or_released() {
    let mut host = Fixture::holding();
    host.attrs.public = public("192.0.2.50");
    let (first, second) = (
        host.lease(1, MY_ADDRESS, Some(ME)),
        host.lease(3, MY_ADDRESS, Some(ME)),
    );
    host.registrar.let_go();
    host.put(first);
    host.put(second);
    let claim = host.next();
    assert_eq!(taken_over(claim.clone()).subnet, subnet(1));
    host.grant(&claim.unwrap());
    assert!(matches!(host.next(), Some(Request::Release(lease)) if lease.subnet == subnet(3)));
}

#[test]
fn renewal_comes_before_releases() {
    let mut host = Fixture::holding();
    host.put(host.lease(3, MY_ADDRESS, Some(ME)));
    host.sleep();
    assert!(matches!(host.next(), Some(Request::Keep { .. })));
}

#[test]
fn a_lease_that_was_to_be_released_is_not_when_it_has_become_ours() {
    let mut host = Fixture::holding();
    host.put(host.lease(3, MY_ADDRESS, Some(ME)));
    host.put(host.lease(1, "192.0.2.2", Some(OTHER)));
    assert!(host.next().is_none());
    assert_eq!(host.held(), Some(subnet(3)));
    assert!(host.next().is_none());
}

#[test]
fn out_of_subnets_is_waited_for_in_silence_until_one_is_freed() {
    let mut host = Fixture::new();
    for number in 0..4 {
        host.put(host.lease(number, &format!("192.0.2.{}", number + 2), Some(OTHER)));
    }
    assert!(host.next().is_none());
    assert_eq!(
        host.registrar.trouble().as_deref(),
        Some("out of subnets; remove a lease, or enlarge the network")
    );
    assert_eq!(host.registrar.wake(), None);
    assert!(host.next().is_none());
    host.delete(2);
    let claim = host.next();
    assert_eq!(created(claim.clone()), subnet(2));
    host.grant(&claim.unwrap());
    assert_eq!(host.registrar.trouble(), None);
}

#[test]
fn out_of_subnets_is_considered_again_when_the_config_changes() {
    let mut host = Fixture::new();
    for number in 0..4 {
        host.put(host.lease(number, "192.0.2.2", Some(OTHER)));
    }
    assert!(host.next().is_none());
    host.config =
        NetworkConfig::from_json(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap();
    assert!(host.next().is_none());
    host.registrar.reconsider();
    created(host.next());
}

fn pinned(number: u8) -> Fixture {
    Fixture::wishing(Wish {
        pinned: Some(subnet(number)),
        ..Wish::default()
    })
}

#[test]
fn a_pinned_subnet_is_waited_for_rather_than_another_taken() {
    let mut host = pinned(2);
    host.put(host.lease(2, "192.0.2.2", Some(OTHER)));
    assert!(host.next().is_none());
    assert_eq!((host.held(), host.registrar.wake()), (None, None));
    let trouble = host.registrar.trouble().unwrap();
    assert!(
        trouble.contains("10.5.2.0/24 of 192.0.2.2 (node 00000000000000000000000000000008)"),
        "{trouble}"
    );
    host.delete(2);
    assert_eq!(created(host.next()), subnet(2));
}

#[test]
fn a_pinned_subnet_that_was_taken_unseen_is_tried_again_with_backoff() {
    let mut host = pinned(2);
    for delay in [100, 200] {
        let claim = host.next().unwrap();
        host.refuse(&claim, StoreError::Taken { subnet: subnet(2) });
        assert!(host.next().is_none());
        assert!(host.registrar.trouble().unwrap().contains("pinned"));
        assert_eq!(host.sleep(), ms(delay));
    }
}

#[test]
fn a_lease_of_ours_in_the_way_of_the_pinned_subnet_is_given_back_until_it_is_gone() {
    let mut host = pinned(2);
    let wide = Lease {
        subnet: "10.5.2.0/23".parse().unwrap(),
        ..host.lease(2, MY_ADDRESS, Some(ME))
    };
    host.put(wide.clone());
    let release = host.next().unwrap();
    assert!(matches!(&release, Request::Release(lease) if lease.subnet == wide.subnet));
    host.refuse(&release, unavailable());
    assert!(host.next().is_none());
    assert_eq!(host.sleep(), ms(100));
    let release = host.next().expect("tried again");
    host.grant(&release);
    assert_eq!(created(host.next()), subnet(2));
}

#[test]
fn a_lease_of_another_in_the_way_of_the_pinned_subnet_is_left_alone() {
    for (address, node) in [
        ("192.0.2.2", Some(ME)),
        ("192.0.2.2", Some(OTHER)),
        (MY_ADDRESS, None),
    ] {
        let mut host = pinned(2);
        host.put(Lease {
            subnet: "10.5.2.0/23".parse().unwrap(),
            ..host.lease(2, address, node)
        });
        assert!(host.next().is_none(), "{address} {node:?}");
    }
}

#[test]
fn another_lease_of_ours_is_released_once_the_pinned_subnet_is_held() {
    let mut host = pinned(2);
    host.put(host.lease(0, MY_ADDRESS, Some(ME)));
    let claim = host.next();
    assert_eq!(created(claim.clone()), subnet(2));
    host.grant(&claim.unwrap());
    assert!(matches!(host.next(), Some(Request::Release(lease)) if lease.subnet == subnet(0)));
}

/// A store that does what it is asked, and what watches have yet to show of it.
#[derive(Default)]
struct Server {
    leases: BTreeMap<SubnetKey, Lease>,
    events: Vec<(SubnetKey, Option<Lease>)>,
    revision: u64,
}

impl Server {
    fn write(&mut self, subnet: SubnetKey, attrs: Option<LeaseAttrs>, now: Instant) -> Option<Lease> {
        self.revision += 1;
        let revision = self.revision;
        let lease = attrs.map(|attrs| Lease {
            expires: Some(now + TTL),
            token: Token { revision, grant: 0 },
            ..Lease::new(subnet, attrs)
        });
        match lease.clone() {
            Some(lease) => drop(self.leases.insert(subnet, lease)),
            None => drop(self.leases.remove(&subnet)),
        }
        self.events.push((subnet, lease.clone()));
        lease
    }

    fn serve(&mut self, request: &Request, now: Instant) -> Result<Option<Lease>, StoreError> {
        let token = |server: &Self, subnet| server.leases.get(subnet).map(|lease| lease.token);
        match request {
            Request::Claim { subnet, seen, attrs } => {
                if token(self, subnet) != seen.as_ref().map(|lease| lease.token) {
                    return Err(StoreError::Taken { subnet: *subnet });
                }
                Ok(self.write(*subnet, Some(attrs.clone()), now))
            }
            Request::Keep { own, attrs } => match self.leases.get_mut(&own.subnet) {
                Some(lease) if lease.token == own.token && lease.attrs == *attrs => {
                    lease.expires = Some(now + TTL);
                    Ok(Some(lease.clone()))
                }
                Some(lease) if lease.token == own.token => {
                    Ok(self.write(own.subnet, Some(attrs.clone()), now))
                }
                _ => Err(StoreError::LeaseLost { subnet: own.subnet }),
            },
            Request::Release(lease) => {
                if token(self, &lease.subnet) == Some(lease.token) {
                    self.write(lease.subnet, None, now);
                }
                Ok(None)
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let due = |lease: &&Lease| lease.expires.is_some_and(|at| at <= now);
        let due: Vec<SubnetKey> = self
            .leases
            .values()
            .filter(due)
            .map(|lease| lease.subnet)
            .collect();
        for subnet in due {
            self.write(subnet, None, now);
        }
    }
}

/// Something that happens to a registrar.
#[derive(Debug, Clone)]
enum Happening {
    /// It is asked what to do, and the store answers so.
    Asked(Answer),
    /// So much of what the store has to say arrives.
    Heard(usize),
    Sleep(u64),
    SleepUntilItWakes,
    /// Somebody writes a lease: whose address, whose id.
    Put(u8, u8, Option<u8>),
    Delete(u8),
    Readdressed(u8),
    Back,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Honest,
    Refused,
    Lost,
}

fn happening() -> impl Strategy<Value = Happening> {
    let answer = prop_oneof![3 => Just(Answer::Honest), 1 => Just(Answer::Refused), 1 => Just(Answer::Lost)];
    prop_oneof![
        8 => answer.prop_map(Happening::Asked),
        6 => (0usize..4).prop_map(Happening::Heard),
        3 => (0u64..200_000).prop_map(Happening::Sleep),
        4 => Just(Happening::SleepUntilItWakes),
        2 => (0u8..4, 1u8..4, proptest::option::of(7u8..9)).prop_map(|(n, a, id)| Happening::Put(n, a, id)),
        2 => (0u8..4).prop_map(Happening::Delete),
        1 => (1u8..3).prop_map(Happening::Readdressed),
        1 => Just(Happening::Back),
    ]
}

fn play(host: &mut Fixture, server: &mut Server, happening: &Happening) {
    server.expire(host.now);
    match happening {
        Happening::Asked(answer) => {
            let Some(request) = host.next() else { return };
            let result = match answer {
                Answer::Honest => server.serve(&request, host.now),
                Answer::Refused => Err(unavailable()),
                Answer::Lost => server.serve(&request, host.now).and(Err(unavailable())),
            };
            host.registrar.done(&request, result, host.now);
        }
        Happening::Heard(count) => {
            let events: Vec<_> = server.events.drain(..(*count).min(server.events.len())).collect();
            for (subnet, lease) in events {
                host.registrar.observe(&subnet, lease.as_ref());
                host.generation += 1;
                match lease {
                    Some(lease) => drop(host.leases.insert(lease)),
                    None => drop(host.leases.remove(&subnet)),
                }
            }
        }
        Happening::Sleep(millis) => host.now += ms(*millis),
        Happening::SleepUntilItWakes => {
            if host.registrar.wake().is_some() {
                host.sleep();
            }
        }
        Happening::Put(number, address, id) => {
            let attrs = attrs(&format!("192.0.2.{address}"), id.map(|id| NodeId(id.into())));
            server.write(subnet(*number), Some(attrs), host.now);
        }
        Happening::Delete(number) => {
            if server.leases.contains_key(&subnet(*number)) {
                server.write(subnet(*number), None, host.now);
            }
        }
        Happening::Readdressed(address) => host.attrs.public = public(&format!("192.0.2.{address}")),
        Happening::Back => host.registrar.store_is_back(),
    }
}

proptest! {
    /// `Fixture::next` asserts that the registrar never asks to be woken in vain.
    #[test]
    fn whatever_happens_it_comes_to_hold_one_lease_as_soon_as_the_store_works(
        happenings in proptest::collection::vec(happening(), 1..60),
        seed in any::<u64>(),
        crowd in any::<Index>(),
    ) {
        let mut host = Fixture::wishing(Wish { seed, ..Wish::default() });
        let mut server = Server::default();
        for happening in &happenings {
            play(&mut host, &mut server, happening);
        }
        // At least one subnet is nobody's.
        play(&mut host, &mut server, &Happening::Delete(crowd.index(4) as u8));
        for _ in 0..40 {
            play(&mut host, &mut server, &Happening::Heard(usize::MAX));
            play(&mut host, &mut server, &Happening::Asked(Answer::Honest));
            // A holder that is asked whether it lives says nothing.
            let waits = host.held().is_none() && host.registrar.wake().is_some();
            if host.registrar.not_before.is_some() || waits {
                host.sleep();
            }
        }
        play(&mut host, &mut server, &Happening::Heard(usize::MAX));
        let own = host.registrar.own().expect("a lease").clone();
        let there = server.leases.get(&own.subnet).expect("it is there");
        prop_assert_eq!(&there.attrs, &host.attrs);
        prop_assert_eq!(&own.attrs, &host.attrs);
        prop_assert!(host.next().is_none());
        prop_assert_eq!(host.registrar.trouble(), None);
    }
}
