#[path = "peers_contention_tests.rs"]
mod contention;

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    Backend, BackendError, DEFAULT_PROTOCOL, Family, Hop, Host, HostFacts, LeaseAttrs, NetworkConfig,
    PerFamily, Protected, Published, Route, RouteId, Skip, State, Uplink,
};

const ME: NodeId = NodeId(7);
const OTHER: NodeId = NodeId(8);

/// What a peer must publish for the backend to leave it out.
const SKIPPED: &str = r#""no""#;

/// Plain routes, but for those who ask to be left out.
struct Routes;

impl Backend for Routes {
    fn kind(&self) -> &'static str {
        "host-gw"
    }

    fn configure(&self, _: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(Self))
    }
}

impl DataPlane for Routes {
    fn mtu(&self, _: &Host) -> u32 {
        1500
    }

    fn publish(&self, _: &Host, _: Option<&Lease>) -> Result<Published, BackendError> {
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        for (net, gateway) in peer.subnet.nets().zip(peer.attrs.public.v4) {
            let hop = Hop::via(gateway, context.host.uplink.device);
            out.insert(Route::unicast(net, hop, context.protocol));
        }
        match &peer.attrs.backend_data {
            Some(data) if data.get() == SKIPPED => Err(Skip("it asked for it".to_owned())),
            _ => Ok(()),
        }
    }
}

/// The peers of the host 192.0.2.1, which holds 10.5.0.0/24.
struct Fixture {
    peers: Peers,
    reconciler: Reconciler,
    config: NetworkConfig,
    host: Host,
    own: Lease,
    protected: Protected,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        let public = PerFamily {
            v4: Some("192.0.2.1".parse().unwrap()),
            v6: None,
        };
        let uplink = Uplink {
            device: "eth0".parse().unwrap(),
            mtu: 1500,
            addresses: public,
            public,
        };
        Self {
            peers: Peers::default(),
            reconciler: Reconciler::new(DEFAULT_PROTOCOL),
            config: NetworkConfig::from_json(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#)
                .unwrap(),
            host: Host {
                node: ME,
                uplink,
                facts: Arc::new(HostFacts::default()),
            },
            own: lease("10.5.0.0/24", 1, 0),
            protected: Protected::default(),
            now: Instant::now(),
        }
    }

    /// With peers in 10.5.1.0/24, 10.5.2.0/24 and so on.
    fn with(count: u8) -> Self {
        let mut fixture = Self::new();
        let leases = (1..=count).map(peer).collect();
        fixture.snapshot(leases, false);
        fixture.plan();
        fixture
    }

    fn admission(&self) -> Admission<'_> {
        Admission {
            config: &self.config,
            host: &self.host,
            own: self.own.subnet,
            protected: &self.protected,
            backend: "host-gw",
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            host: &self.host,
            own: &self.own,
            config: &self.config,
            protocol: DEFAULT_PROTOCOL,
        }
    }

    fn plan(&mut self) {
        let mut peers = std::mem::take(&mut self.peers);
        let mut reconciler = std::mem::replace(&mut self.reconciler, Reconciler::new(0));
        peers.plan(&self.admission(), &Routes, &self.context(), &mut reconciler);
        (self.peers, self.reconciler) = (peers, reconciler);
    }

    fn snapshot(&mut self, leases: Vec<Lease>, forgotten: bool) {
        self.peers.snapshot(leases, forgotten, ME, self.now);
    }

    fn sleep(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.peers.let_go(self.now);
        self.plan();
    }

    /// The destinations that are wanted, shortened: `10.5.7.0/24` is 7.
    fn wanted(&self) -> Vec<String> {
        let short = |id: &ObjectId| id.to_string().trim_start_matches("10.5.").replace(".0/24", "");
        self.reconciler.want().keys().map(short).collect()
    }

    /// What is wanted by leases held against each other from the oldest to the youngest.
    fn recomputed(&self) -> (State, usize, usize) {
        let mut leases: Vec<&Lease> = self.peers.leases.iter().collect();
        leases.sort_by_key(|lease| (lease.created, lease.subnet));
        let (mut want, mut admitted, mut refused) = (State::new(), Vec::<SubnetKey>::new(), 0);
        let admission = self.admission();
        for lease in leases.into_iter().filter(|lease| lease.subnet != self.own.subnet) {
            let overlapped = admitted.iter().any(|older| older.overlaps(&lease.subnet));
            match admission.check(lease) {
                Err(Refusal::Backend(_)) => {}
                Ok(()) if !overlapped => {
                    let mut desired = Desired::default();
                    if Routes.peer(&self.context(), lease, &mut desired).is_ok() {
                        want.extend(desired.into_state());
                    } else {
                        refused += 1;
                    }
                    // It has the subnet even where the backend can do nothing for it.
                    admitted.push(lease.subnet);
                }
                _ => refused += 1,
            }
        }
        let skipped = refused_by_backend(&self.peers);
        (want, admitted.len() - skipped, refused)
    }
}

fn refused_by_backend(peers: &Peers) -> usize {
    let skipped = |verdict: &&Verdict| matches!(verdict, Verdict::Skipped(_));
    peers.verdicts.values().filter(skipped).count()
}

fn lease(subnet: &str, host: u8, created: u64) -> Lease {
    let attrs = LeaseAttrs {
        public: PerFamily {
            v4: Some(IpAddr::from([192, 0, 2, host])),
            v6: None,
        },
        backend: "host-gw".to_owned(),
        node: Some(OTHER),
        ..LeaseAttrs::default()
    };
    Lease {
        created,
        ..Lease::new(subnet.parse().unwrap(), attrs)
    }
}

/// The host 192.0.2.`10 + number`, which holds 10.5.`number`.0/24.
fn peer(number: u8) -> Lease {
    lease(&format!("10.5.{number}.0/24"), 10 + number, number.into())
}

fn subnet(number: u8) -> SubnetKey {
    peer(number).subnet
}

#[test]
fn peers_are_what_the_store_has_but_for_our_own_lease() {
    let mut fixture = Fixture::with(3);
    fixture.peers.put(fixture.own.clone());
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "2", "3"]);
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (3, 0));
    let id = *fixture.reconciler.want().keys().next().unwrap();
    assert_eq!(fixture.peers.owners(&id), [subnet(1)]);
}

#[test]
fn a_deleted_lease_goes_at_once() {
    let mut fixture = Fixture::with(3);
    let id = *fixture.reconciler.want().keys().nth(1).unwrap();
    fixture.peers.delete(&subnet(2));
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "3"]);
    assert_eq!(fixture.peers.admitted, 2);
    assert_eq!(fixture.peers.owners(&id), []);
}

#[test]
fn a_lease_that_changed_is_planned_anew_and_one_that_was_only_renewed_is_not() {
    let mut fixture = Fixture::with(3);
    let generation = fixture.peers.generation;
    fixture.peers.put(Lease {
        expires: Some(fixture.now),
        token: crate::Token {
            revision: 9,
            grant: 9,
        },
        ..peer(2)
    });
    assert!(fixture.peers.dirty.is_empty());
    assert_ne!(
        fixture.peers.generation, generation,
        "a takeover needs the new version"
    );
    fixture.peers.put(lease("10.5.2.0/24", 99, 2));
    assert_eq!(fixture.peers.dirty, BTreeSet::from([subnet(2)]));
    fixture.plan();
    let gateways: Vec<String> = fixture
        .reconciler
        .want()
        .values()
        .map(ToString::to_string)
        .collect();
    assert!(gateways[1].contains("192.0.2.99"), "{gateways:?}");
    // Its age decides between it and others.
    fixture.peers.put(lease("10.5.2.0/24", 99, 3));
    assert_eq!(fixture.peers.dirty, BTreeSet::from([subnet(2)]));
}

#[test]
fn deleting_what_is_not_there_is_nothing() {
    let mut fixture = Fixture::with(1);
    let generation = fixture.peers.generation;
    fixture.peers.delete(&subnet(9));
    assert!(fixture.peers.dirty.is_empty());
    assert_eq!(fixture.peers.generation, generation);
}

#[test]
fn what_an_ordinary_snapshot_lacks_goes_at_once() {
    let mut fixture = Fixture::with(3);
    fixture.snapshot(vec![peer(1), peer(3)], false);
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "3"]);
    assert_eq!(fixture.peers.wake(), None);
}

#[test]
fn what_a_store_that_may_have_forgotten_lacks_is_kept_for_60_s() {
    let mut fixture = Fixture::with(3);
    fixture.snapshot(vec![peer(1)], true);
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "2", "3"]);
    assert_eq!(fixture.peers.wake(), Some(fixture.now + Duration::from_secs(60)));
    fixture.sleep(59);
    assert_eq!(fixture.wanted(), ["1", "2", "3"]);
    fixture.sleep(1);
    assert_eq!(fixture.wanted(), ["1"]);
    assert_eq!((fixture.peers.wake(), fixture.peers.admitted), (None, 1));
}

#[test]
fn what_is_kept_stays_through_further_snapshots_but_no_longer_than_60_s() {
    let mut fixture = Fixture::with(2);
    fixture.snapshot(Vec::new(), true);
    fixture.sleep(30);
    for forgotten in [true, false] {
        fixture.snapshot(vec![peer(1)], forgotten);
        fixture.plan();
        assert_eq!(fixture.wanted(), ["1", "2"], "{forgotten}");
    }
    fixture.sleep(30);
    assert_eq!(
        fixture.wanted(),
        ["1"],
        "one that came back, and one that did not"
    );
}

#[test]
fn a_delete_ends_what_is_kept() {
    let mut fixture = Fixture::with(2);
    fixture.snapshot(Vec::new(), true);
    fixture.peers.delete(&subnet(2));
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1"]);
    fixture.sleep(60);
    assert_eq!(fixture.peers.wake(), None);
}

#[test]
fn what_is_kept_makes_way_for_who_takes_its_subnet_or_a_part_of_it_and_nothing_else_does() {
    for newcomer in ["10.5.2.0/24", "10.5.2.0/25", "10.5.2.0/23"] {
        let mut fixture = Fixture::with(4);
        fixture.snapshot(vec![peer(1)], true);
        // However young it is.
        fixture.peers.put(lease(newcomer, 99, 1000));
        fixture.plan();
        assert!(
            !fixture.wanted().contains(&"2".to_owned()) || newcomer == "10.5.2.0/24",
            "{newcomer}"
        );
        let hop = fixture
            .reconciler
            .want()
            .values()
            .filter(|object| object.id() == ObjectId::Route(RouteId::to(newcomer.parse().unwrap())))
            .map(ToString::to_string)
            .next();
        assert!(hop.unwrap().contains("192.0.2.99"), "{newcomer}");
        assert!(fixture.wanted().contains(&"4".to_owned()), "{newcomer}");
        assert!(fixture.wanted().contains(&"1".to_owned()), "{newcomer}");
        fixture.sleep(60);
        assert!(
            !fixture.wanted().contains(&"4".to_owned()) && fixture.wanted().contains(&"1".to_owned()),
            "{newcomer}"
        );
        assert_eq!(fixture.peers.admitted, 2);
    }
}

#[test]
fn our_own_lease_is_never_kept() {
    let mut fixture = Fixture::with(1);
    let mut own = fixture.own.clone();
    own.attrs.node = Some(ME);
    fixture.peers.put(own);
    fixture.snapshot(Vec::new(), true);
    assert!(fixture.peers.leases().get(&fixture.own.subnet).is_none());
    assert!(fixture.peers.leases().get(&subnet(1)).is_some());
}

#[test]
fn when_the_oldest_of_a_chain_goes_each_that_overlaps_the_next_changes_sides() {
    let mut fixture = Fixture::new();
    // A covers B's subnet, B covers C's, C covers D's; A and C share nothing, nor do B and D.
    let chain = ["10.5.8.0/24", "10.5.8.0/23", "10.5.9.0/25"];
    for (place, net) in chain.iter().enumerate() {
        fixture.peers.put(lease(net, 20, place as u64));
    }
    fixture.plan();
    assert_eq!(fixture.wanted(), ["8", "9.0/25"]);
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (2, 1));
    fixture.peers.delete(&chain[0].parse().unwrap());
    fixture.plan();
    assert_eq!(fixture.wanted(), ["8.0/23"]);
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (1, 1));
    fixture.peers.put(lease(chain[0], 20, 0));
    fixture.plan();
    assert_eq!(fixture.wanted(), ["8", "9.0/25"]);
}

#[test]
fn a_change_marks_younger_ones_that_overlap_and_younger_ones_that_overlap_them_and_no_others() {
    let mut fixture = Fixture::with(5);
    for (net, created) in [("10.5.1.0/25", 20), ("10.5.0.0/23", 30)] {
        fixture.peers.put(lease(net, 50, created));
    }
    fixture.plan();
    assert!(fixture.peers.dirty.is_empty());
    for (deleted, marked) in [
        ("10.5.1.0/25", vec!["10.5.1.0/25", "10.5.0.0/23"]),
        ("10.5.1.0/24", vec!["10.5.1.0/24", "10.5.0.0/23"]),
        ("10.5.0.0/23", vec!["10.5.0.0/23"]),
    ] {
        fixture.peers.delete(&deleted.parse().unwrap());
        let marked: BTreeSet<SubnetKey> = marked.iter().map(|net| net.parse().unwrap()).collect();
        assert_eq!(fixture.peers.dirty, marked, "{deleted}");
        fixture.plan();
    }
}

#[test]
fn a_route_that_passes_from_one_lease_to_another_with_the_same_subnet_stays() {
    // The same IPv4 subnet, alone and paired with an IPv6 one: before and behind the other in order.
    for (older, younger) in [
        ("10.5.1.0/24", "10.5.1.0/24,fd00:5::/64"),
        ("10.5.1.0/24,fd00:5::/64", "10.5.1.0/24"),
    ] {
        let mut fixture = Fixture::new();
        let (older, younger) = (lease(older, 20, 1), lease(younger, 21, 2));
        fixture.peers.put(older.clone());
        fixture.peers.put(younger.clone());
        fixture.plan();
        let refused = fixture.peers.refused;
        assert_eq!(fixture.peers.admitted + refused, 2);
        fixture.peers.delete(&older.subnet);
        fixture.plan();
        fixture.peers.put(older);
        fixture.plan();
        let (want, admitted, refused) = fixture.recomputed();
        assert_eq!(fixture.reconciler.want(), &want);
        assert_eq!(
            (fixture.peers.admitted, fixture.peers.refused),
            (admitted, refused)
        );
    }
}

#[test]
fn leases_that_are_no_peers_are_counted_and_those_of_another_backend_are_nobodys_fault() {
    let mut fixture = Fixture::with(2);
    fixture.peers.put(lease("10.6.1.0/24", 20, 1));
    let mut skipped = lease("10.5.20.0/24", 20, 1);
    skipped.attrs.backend_data = serde_json::value::RawValue::from_string(SKIPPED.to_owned()).ok();
    fixture.peers.put(skipped.clone());
    let mut elsewhere = lease("10.5.21.0/24", 21, 1);
    elsewhere.attrs.backend = "vxlan".to_owned();
    fixture.peers.put(elsewhere);
    fixture.plan();
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (2, 2));
    assert_eq!(
        fixture.wanted(),
        ["1", "2"],
        "half of what a skipped peer asks for"
    );
    skipped.attrs.backend_data = None;
    fixture.peers.put(skipped);
    fixture.peers.delete(&"10.6.1.0/24".parse().unwrap());
    fixture.plan();
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (3, 0));
}

#[test]
fn everything_is_judged_anew_when_everything_is_marked() {
    let mut fixture = Fixture::with(3);
    fixture.own = lease("10.5.2.0/24", 1, 0);
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "2", "3"]);
    fixture.peers.mark_all();
    fixture.plan();
    assert_eq!(fixture.wanted(), ["1", "3"]);
    assert_eq!(fixture.peers.admitted, 2);
}

#[test]
fn a_prefix_is_a_peers_subnet_only_if_it_is_exactly_that_of_an_admitted_lease() {
    let mut fixture = Fixture::with(1);
    fixture.peers.put(lease("10.6.1.0/24", 20, 1));
    fixture.plan();
    for (net, exactly, partly) in [
        ("10.5.1.0/24", true, true),
        ("10.5.1.0/25", false, true),
        ("10.5.0.0/16", false, true),
        ("10.5.2.0/24", false, false),
        ("10.6.1.0/24", false, false),
        ("10.5.0.0/24", false, false),
    ] {
        let net = net.parse().unwrap();
        assert_eq!(fixture.peers.is_subnet(net), exactly, "{net}");
        assert_eq!(fixture.peers.overlaps_peer(net), partly, "{net}");
    }
}

/// Something that happens to leases.
#[derive(Debug, Clone)]
enum Happening {
    Put(Lease),
    Delete(SubnetKey),
    Snapshot(Vec<Lease>, bool),
    Sleep(u64),
    Plan,
    OwnSubnet(u8),
}

prop_compose! {
    /// Inside the network or just outside, of any size, some of them unfit.
    fn any_lease()(
        third in 0u8..4, length in 22u8..27, outside in 0u8..10, host in 0u8..5, created in 0u64..6, kind in 0u8..8,
        node in prop_oneof![Just(ME), Just(OTHER)],
    ) -> Lease {
        let second = if outside == 0 { 6 } else { 5 };
        let net: ipnet::IpNet = format!("10.{second}.{third}.64/{length}").parse().unwrap();
        let mut lease = lease(&net.trunc().to_string(), host, created);
        lease.attrs.node = Some(node);
        match kind {
            0 => lease.attrs.backend = "vxlan".to_owned(),
            1 => lease.attrs.public.set(Family::V4, None),
            2 => {
                lease.attrs.backend_data =
                    serde_json::value::RawValue::from_string(SKIPPED.to_owned()).ok();
            }
            _ => {}
        }
        lease
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => any_lease().prop_map(Happening::Put),
        4 => any_lease().prop_map(|lease| Happening::Delete(lease.subnet)),
        2 => (proptest::collection::vec(any_lease(), 0..6), any::<bool>())
            .prop_map(|(leases, forgotten)| Happening::Snapshot(leases, forgotten)),
        2 => (0u64..70).prop_map(Happening::Sleep),
        4 => Just(Happening::Plan),
        1 => (0u8..4).prop_map(Happening::OwnSubnet),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_wants_and_counts_are_what_a_look_at_all_leases_says(
        happenings in proptest::collection::vec(happening(), 1..60),
    ) {
        let mut fixture = Fixture::new();
        for happening in happenings {
            match happening {
                Happening::Put(lease) => fixture.peers.put(lease),
                Happening::Delete(subnet) => fixture.peers.delete(&subnet),
                Happening::Snapshot(leases, forgotten) => {
                    let leases: Leases = leases.into_iter().collect();
                    fixture.snapshot(leases.iter().cloned().collect(), forgotten);
                    for lease in leases.iter() {
                        prop_assert!(fixture.peers.leases.get(&lease.subnet).is_some());
                    }
                }
                Happening::Sleep(seconds) => fixture.sleep(seconds),
                Happening::OwnSubnet(number) => {
                    fixture.own = lease(&format!("10.5.{number}.0/24"), 1, 0);
                    fixture.peers.mark_all();
                }
                Happening::Plan => {}
            }
            fixture.peers.let_go(fixture.now);
            prop_assert!(fixture.peers.wake().is_none_or(|at| at > fixture.now));
            fixture.plan();
            let (want, admitted, refused) = fixture.recomputed();
            prop_assert_eq!(fixture.reconciler.want(), &want);
            prop_assert_eq!((fixture.peers.admitted, fixture.peers.refused), (admitted, refused));
            for id in want.keys() {
                let owners = fixture.peers.owners(id);
                prop_assert!(!owners.is_empty());
                prop_assert!(owners.iter().all(|owner| fixture.peers.leases.get(owner).is_some()));
            }
            prop_assert_eq!(fixture.peers.owners.len(), want.len());
            for subnet in fixture.peers.kept.keys() {
                prop_assert!(fixture.peers.leases.get(subnet).is_some());
            }
        }
    }
}

#[test]
fn a_lease_that_we_left_behind_is_not_called_another_hosts_fault() {
    let mut fixture = Fixture::with(2);
    fixture.own.attrs.node = Some(ME);
    let left = lease("10.5.9.0/24", 1, 9);
    fixture.peers.put(left.clone());
    fixture.plan();
    let verdict = |fixture: &Fixture| fixture.peers.verdicts.get(&left.subnet).cloned();
    let address = left.attrs.public.v4.unwrap();
    assert_eq!(
        verdict(&fixture),
        Some(Verdict::Refused(Refusal::OurAddress(address)))
    );

    let mut ours = left.clone();
    ours.attrs.node = Some(ME);
    fixture.peers.put(ours);
    fixture.plan();
    assert_eq!(verdict(&fixture), Some(Verdict::Refused(Refusal::LeftBehind)));
    assert_eq!((fixture.peers.admitted, fixture.peers.refused), (2, 1));
}
