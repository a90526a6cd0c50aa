use netlink_packet_core::Emitable;
use proptest::prelude::*;

use super::*;

const INDEX: u32 = 7;

fn device() -> DeviceName {
    "flannel.1".parse().unwrap()
}

fn entry(mac: &str, host: &str) -> Forwarding {
    Forwarding::to(device(), mac.parse().unwrap(), host.parse().unwrap())
}

fn peer() -> Forwarding {
    entry("02:00:00:00:00:07", "192.0.2.7")
}

fn bytes(message: &NeighbourMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn seen(entry: &Forwarding) -> SeenForwarding {
    decode(&bytes(&encode(entry, INDEX))).unwrap().unwrap()
}

fn numbered(seen: &[SeenForwarding]) -> Vec<Forwarding> {
    super::numbered(seen, device())
}

#[test]
fn an_entry_comes_back_as_it_was_asked_for() {
    for host in ["192.0.2.7", "2001:db8::7"] {
        let entry = entry("02:00:00:00:00:07", host);
        let seen = seen(&entry);
        assert_eq!((seen.index, seen.lasting), (INDEX, true));
        assert_eq!(seen.named(device()), entry);
    }
}

#[test]
fn what_was_learned_does_not_last_and_what_somebody_put_there_does() {
    for (state, lasting) in [
        (NeighbourState::Permanent, true),
        (NeighbourState::Noarp, true),
        (NeighbourState::Reachable, false),
        (NeighbourState::Stale, false),
    ] {
        let mut message = encode(&peer(), INDEX);
        message.header.state = state;
        let seen = decode(&bytes(&message)).unwrap().unwrap();
        assert_eq!(seen.lasting, lasting, "{state}");
        assert_eq!(numbered(&[seen]).len(), usize::from(lasting));
    }
}

#[test]
fn the_entries_of_a_bridge_are_passed_over() {
    let mut message = encode(&peer(), INDEX);
    message.header.flags = NeighbourFlags::Controller;
    assert_eq!(decode(&bytes(&message)).unwrap(), None);
}

#[test]
fn an_entry_that_goes_its_own_way_is_decorated_and_removed_without_naming_its_host() {
    let changes: [NeighbourAttribute; 4] = [
        NeighbourAttribute::Port(4789),
        NeighbourAttribute::Vni(7),
        NeighbourAttribute::IfIndex(2),
        NeighbourAttribute::SourceVni(7),
    ];
    for change in changes {
        let mut message = encode(&peer(), INDEX);
        message.attributes.push(change.clone());
        let [decorated] = numbered(&[decode(&bytes(&message)).unwrap().unwrap()])[..] else {
            panic!("not one entry");
        };
        let expected = Forwarding {
            decorated: true,
            ..peer()
        };
        assert_eq!(decorated, expected, "{change:?}");
        assert_eq!(seen(&decorated).host, None);
    }
}

#[test]
fn hosts_of_a_group_are_numbered_and_each_is_removed_by_name() {
    let group = |host| entry("00:00:00:00:00:00", host);
    let (first, second) = (group("192.0.2.7"), group("192.0.2.8"));
    let all = [seen(&first), seen(&peer()), seen(&second)];
    let mut behind = second;
    behind.id.position = 1;
    assert_eq!(numbered(&all), [first, behind, peer()]);
    assert_eq!(seen(&behind).host, second.host);
}

#[test]
fn what_a_dump_shows_twice_is_one_entry() {
    let group = entry("00:00:00:00:00:00", "192.0.2.7");
    assert_eq!(numbered(&[seen(&group), seen(&group)]), [group]);
    let moved = entry("02:00:00:00:00:07", "192.0.2.8");
    assert_eq!(
        numbered(&[seen(&peer()), seen(&moved)]),
        [moved],
        "a host has one entry, and its place was changed meanwhile"
    );
}

proptest! {
    #[test]
    fn no_payload_is_too_strange(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(&payload);
    }
}
