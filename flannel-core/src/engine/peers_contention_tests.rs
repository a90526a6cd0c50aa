//! Peers that ask for the same object: alike, as leases of one host do, or otherwise, as copied hosts do.

use super::*;
use crate::{Forwarding, MacAddress, Neighbour, NeighbourId, Object};

/// A tunnel: a peer publishes the MAC address of its device.
struct Tunnel;

const DEVICE: &str = "flannel.1";

impl DataPlane for Tunnel {
    fn mtu(&self, _: &Host) -> u32 {
        1450
    }

    fn publish(&self, _: &Host, _: Option<&Lease>) -> Result<Published, BackendError> {
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        let device = DEVICE.parse().unwrap();
        let (Some(net), Some(host)) = (peer.subnet.net(Family::V4), peer.attrs.public.v4) else {
            return Err(Skip("no address".to_owned()));
        };
        let mac = mac_of(peer);
        let (address, id) = (net.addr(), |address| NeighbourId { device, address });
        let hop = Hop {
            onlink: true,
            ..Hop::via(address, device)
        };
        out.insert(Forwarding::to(device, mac, host));
        out.insert(Neighbour { id: id(address), mac });
        out.insert(Route::unicast(net, hop, context.protocol));
        Ok(())
    }
}

fn mac_of(lease: &Lease) -> MacAddress {
    let data = lease.attrs.backend_data.as_ref().expect("a MAC address");
    MacAddress([2, 0, 0, 0, 0, data.get().parse().unwrap()])
}

/// The lease 10.5.`number`.0/24 of this host, with this MAC address, made in the order of the numbers.
fn tunnelling(number: u8, host: u8, mac: u8) -> Lease {
    let mut lease = lease(&format!("10.5.{number}.0/24"), host, number.into());
    lease.attrs.backend_data = serde_json::value::RawValue::from_string(mac.to_string()).ok();
    lease
}

/// `10.5.7.0/24` is 7.
fn number_of(subnet: &SubnetKey) -> u8 {
    match subnet.nets().next().map(|net| net.addr()) {
        Some(IpAddr::V4(address)) => address.octets()[2],
        _ => unreachable!("an IPv4 subnet"),
    }
}

impl Fixture {
    fn plan_tunnels(&mut self) {
        let mut peers = std::mem::take(&mut self.peers);
        let mut reconciler = std::mem::replace(&mut self.reconciler, Reconciler::new(0));
        peers.plan(&self.admission(), &Tunnel, &self.context(), &mut reconciler);
        (self.peers, self.reconciler) = (peers, reconciler);
    }

    fn put(&mut self, lease: Lease) {
        self.peers.put(lease);
        self.plan_tunnels();
    }

    fn delete(&mut self, number: u8) {
        self.peers.delete(&subnet(number));
        self.plan_tunnels();
    }

    /// Where frames for MAC addresses go: `9 to 21`.
    fn entries(&self) -> Vec<String> {
        let want = self.reconciler.want().values();
        let entries = want.filter_map(|object| match object {
            Object::Forwarding(Forwarding {
                id,
                host: Some(IpAddr::V4(host)),
                ..
            }) => Some(format!("{} to {}", id.mac.0[5], host.octets()[3])),
            _ => None,
        });
        entries.collect()
    }

    /// The peers by their numbers.
    fn admitted(&self) -> Vec<u8> {
        let admitted = self.peers.verdicts.iter();
        let admitted = admitted.filter(|(_, verdict)| matches!(verdict, Verdict::Peer(_)));
        admitted.map(|(subnet, _)| number_of(subnet)).collect()
    }

    /// Why a lease is left out.
    fn skipped(&self, number: u8) -> Option<String> {
        match self.peers.verdicts.get(&subnet(number)) {
            Some(Verdict::Skipped(why)) => Some(why.clone()),
            _ => None,
        }
    }

    /// The same, one lease after the other from the oldest on.
    fn recomputed_tunnels(&self) -> (State, Vec<u8>, usize) {
        let mut leases: Vec<&Lease> = self.peers.leases.iter().collect();
        leases.sort_by_key(|lease| (lease.created, lease.subnet));
        let (mut want, mut peers, mut refused) = (State::new(), Vec::new(), 0);
        for lease in leases {
            let mut desired = Desired::default();
            Tunnel.peer(&self.context(), lease, &mut desired).unwrap();
            let desired = desired.into_state();
            let fits = |(id, object)| want.get(id).is_none_or(|there| there == object);
            if desired.iter().all(fits) {
                want.extend(desired);
                peers.push(number_of(&lease.subnet));
            } else {
                refused += 1;
            }
        }
        peers.sort_unstable();
        (want, peers, refused)
    }
}

#[test]
fn of_two_that_ask_for_an_object_otherwise_the_older_prevails_in_whichever_order_they_come() {
    for order in [[1, 2], [2, 1]] {
        let mut fixture = Fixture::new();
        for number in order {
            fixture.put(tunnelling(number, 20 + number, 9));
        }
        assert_eq!(fixture.admitted(), [1]);
        assert_eq!(fixture.entries(), ["9 to 21"]);
        assert_eq!((fixture.peers.admitted, fixture.peers.refused), (1, 1));
        let why = fixture.skipped(2).unwrap();
        assert!(
            why.contains("02:00:00:00:00:09") && why.contains("10.5.1.0/24"),
            "{why}"
        );
        assert_eq!(fixture.reconciler.want().len(), 3, "nothing of the younger one");
    }
}

#[test]
fn who_was_left_out_comes_in_when_the_older_goes_moves_or_is_another() {
    type Change = fn(&mut Fixture);
    let changes: [(Change, &[u8]); 3] = [
        (|fixture| fixture.delete(1), &[2]),
        (|fixture| fixture.put(tunnelling(1, 22, 9)), &[1, 2]),
        (|fixture| fixture.put(tunnelling(1, 21, 8)), &[1, 2]),
    ];
    for (change, admitted) in changes {
        let mut fixture = Fixture::new();
        fixture.put(tunnelling(1, 21, 9));
        fixture.put(tunnelling(2, 22, 9));
        assert_eq!(fixture.admitted(), [1]);
        change(&mut fixture);
        assert_eq!(fixture.admitted(), admitted);
        assert_eq!(fixture.peers.refused, 0);
        assert!(
            fixture.entries().contains(&"9 to 22".to_owned()),
            "{:?}",
            fixture.entries()
        );
    }
}

#[test]
fn an_object_that_several_ask_for_alike_stays_until_the_last_of_them_goes() {
    let mut fixture = Fixture::new();
    for number in 1..=3 {
        fixture.put(tunnelling(number, 21, 9));
    }
    assert_eq!(fixture.admitted(), [1, 2, 3]);
    let shared = Forwarding::to(
        DEVICE.parse().unwrap(),
        MacAddress([2, 0, 0, 0, 0, 9]),
        [192, 0, 2, 21].into(),
    );
    let id = ObjectId::Forwarding(shared.id);
    assert_eq!(fixture.peers.owners(&id), [subnet(1), subnet(2), subnet(3)]);
    for number in [2, 1] {
        fixture.delete(number);
        assert_eq!(fixture.entries(), ["9 to 21"]);
    }
    assert_eq!(fixture.peers.owners(&id), [subnet(3)]);
    fixture.delete(3);
    assert!(fixture.reconciler.want().is_empty());
    assert!(fixture.peers.owners.is_empty());
}

#[test]
fn one_of_several_alike_that_changes_is_left_out_unless_it_is_the_oldest() {
    let mut fixture = Fixture::new();
    for number in 1..=3 {
        fixture.put(tunnelling(number, 21, 9));
    }
    fixture.put(tunnelling(2, 22, 9));
    assert_eq!(fixture.admitted(), [1, 3]);
    assert_eq!(fixture.entries(), ["9 to 21"]);
    fixture.put(tunnelling(1, 22, 9));
    assert_eq!(fixture.admitted(), [1, 2]);
    assert_eq!(fixture.entries(), ["9 to 22"]);
    assert!(fixture.skipped(3).is_some());
}

#[test]
fn who_was_left_out_comes_in_before_younger_ones_that_agreed_with_the_oldest() {
    let mut fixture = Fixture::new();
    for (number, host) in [(1, 21), (2, 22), (3, 21)] {
        fixture.put(tunnelling(number, host, 9));
    }
    assert_eq!(fixture.admitted(), [1, 3]);
    fixture.delete(1);
    assert_eq!(fixture.admitted(), [2]);
    assert_eq!(fixture.entries(), ["9 to 22"]);
}

#[test]
fn a_lease_that_is_made_anew_is_the_youngest() {
    let mut fixture = Fixture::new();
    fixture.put(tunnelling(1, 21, 9));
    fixture.put(tunnelling(2, 22, 9));
    assert_eq!(fixture.admitted(), [1]);
    fixture.put(Lease {
        created: 7,
        ..tunnelling(1, 21, 9)
    });
    assert_eq!(fixture.admitted(), [2]);
    assert_eq!(fixture.entries(), ["9 to 22"]);
}

/// The lease of this number, made by this host, at that time.
fn any_tunnel() -> impl Strategy<Value = Lease> {
    (1u8..7, 21u8..24, 7u8..10, 0u64..3).prop_map(|(number, host, mac, created)| Lease {
        created,
        ..tunnelling(number, host, mac)
    })
}

#[derive(Debug, Clone)]
enum Step {
    Put(Lease),
    Delete(u8),
    Together(Vec<Lease>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_tunnel().prop_map(Step::Put),
        3 => (1u8..7).prop_map(Step::Delete),
        1 => proptest::collection::vec(any_tunnel(), 0..6).prop_map(Step::Together),
    ]
}

proptest! {
    #[test]
    fn whoever_contends_wants_are_what_a_look_from_the_oldest_on_says(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut fixture = Fixture::new();
        for step in steps {
            match step {
                Step::Put(lease) => fixture.put(lease),
                Step::Delete(number) => fixture.delete(number),
                Step::Together(leases) => {
                    let leases: Leases = leases.into_iter().collect();
                    fixture.snapshot(leases.iter().cloned().collect(), false);
                    fixture.plan_tunnels();
                }
            }
            let (want, peers, refused) = fixture.recomputed_tunnels();
            prop_assert_eq!(fixture.reconciler.want(), &want);
            prop_assert_eq!(fixture.admitted(), peers);
            prop_assert_eq!(fixture.peers.refused, refused);
            prop_assert_eq!(fixture.peers.owners.len(), want.len());
        }
    }
}
