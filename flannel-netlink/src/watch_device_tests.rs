use flannel_core::{Forwarding, Neighbour, NeighbourId};
use netlink_packet_route::neighbour::NeighbourState;

use super::*;

/// One that looks after a device of ours.
fn reader_of_ours() -> Reader {
    let mut reader = reader();
    reader.scope.devices = vec!["flannel.1".parse().unwrap()];
    reader.names.put(
        &crate::link::decode(&payload(link(7, "flannel.1")))
            .unwrap()
            .unwrap(),
    );
    reader
        .names
        .put(&crate::link::decode(&payload(link(3, "eth0"))).unwrap().unwrap());
    reader
}

fn payload(message: LinkMessage) -> Vec<u8> {
    datagram(RouteNetlinkMessage::NewLink(message), 0).split_off(16)
}

fn device(name: &str) -> Changed {
    Changed::Device(name.parse().unwrap())
}

#[test]
fn whatever_happens_to_a_device_in_scope_is_told_by_its_name() {
    let mut reader = reader_of_ours();
    let (host, ours) = (Changed::Host, device("flannel.1"));
    let mut address = AddressMessage::default();
    address.header.index = 7;
    for (message, expected) in [
        (RouteNetlinkMessage::NewLink(link(7, "flannel.1")), &host),
        (RouteNetlinkMessage::NewAddress(address.clone()), &host),
        (RouteNetlinkMessage::DelAddress(address), &down("flannel.1")),
        (
            RouteNetlinkMessage::NewLink(link_that_is_down(7, "flannel.1")),
            &down("flannel.1"),
        ),
        (
            RouteNetlinkMessage::DelLink(link(7, "flannel.1")),
            &down("flannel.1"),
        ),
    ] {
        assert_eq!(said(&mut reader, message), [expected.clone(), ours.clone()]);
    }
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewLink(link(3, "eth0"))),
        [host]
    );
}

#[test]
fn a_device_that_is_renamed_is_told_by_its_name_in_scope() {
    let mut reader = reader_of_ours();
    for name in ["other", "flannel.1"] {
        let renamed = RouteNetlinkMessage::NewLink(link(7, name));
        assert_eq!(said(&mut reader, renamed), [Changed::Host, device("flannel.1")]);
    }
    let renamed = RouteNetlinkMessage::NewLink(link(3, "wan"));
    assert_eq!(said(&mut reader, renamed), [Changed::Host]);
}

#[test]
fn the_name_of_a_device_that_we_made_is_known() {
    let mut reader = reader_of_ours();
    let made = datagram(RouteNetlinkMessage::NewLink(link(9, "flannel.1")), OURS);
    reader.read(&made, |changed| panic!("{changed:?}"));
    let wire = encode(&route("10.5.7.0/24", "flannel.1"), Purpose::Make, |_| Some(9)).unwrap();
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewRoute(wire)),
        [Changed::Appeared(route("10.5.7.0/24", "flannel.1").into())]
    );
}

#[test]
fn neighbours_on_a_device_in_scope_are_told_and_others_are_not() {
    let mut reader = reader_of_ours();
    let id = NeighbourId {
        device: "flannel.1".parse().unwrap(),
        address: "10.5.7.0".parse().unwrap(),
    };
    let mac = "02:00:00:00:00:07".parse().unwrap();
    let neighbour = Neighbour { id, mac };
    let wire = |index| crate::neighbour::encode(&neighbour, index);
    let mut ages = wire(7);
    ages.header.state = NeighbourState::Stale;
    let gone = Changed::Gone(ObjectId::Neighbour(id));
    for (message, expected) in [
        (
            RouteNetlinkMessage::NewNeighbour(wire(7)),
            vec![Changed::Appeared(neighbour.into())],
        ),
        (
            RouteNetlinkMessage::DelNeighbour(wire(7)),
            vec![Changed::Vanished(neighbour.into())],
        ),
        (
            RouteNetlinkMessage::NewNeighbour(ages.clone()),
            vec![gone.clone()],
        ),
        (RouteNetlinkMessage::DelNeighbour(ages), vec![gone]),
        (RouteNetlinkMessage::NewNeighbour(wire(3)), vec![]),
        (RouteNetlinkMessage::NewNeighbour(wire(99)), vec![]),
    ] {
        assert_eq!(said(&mut reader, message.clone()), expected, "{message:?}");
    }
}

#[test]
fn forwarding_entries_of_a_device_in_scope_are_told_and_others_are_not() {
    let mut reader = reader_of_ours();
    let mac = "02:00:00:00:00:07".parse().unwrap();
    let entry = Forwarding::to("flannel.1".parse().unwrap(), mac, "192.0.2.7".parse().unwrap());
    let wire = |index| crate::forwarding::encode(&entry, index);
    let mut learned = wire(7);
    learned.header.state = NeighbourState::Reachable;
    for (message, expected) in [
        (
            RouteNetlinkMessage::NewNeighbour(wire(7)),
            vec![Changed::Appeared(entry.into())],
        ),
        (
            RouteNetlinkMessage::DelNeighbour(wire(7)),
            vec![Changed::Vanished(entry.into())],
        ),
        (
            RouteNetlinkMessage::NewNeighbour(learned),
            vec![Changed::Gone(ObjectId::Forwarding(entry.id))],
        ),
        (RouteNetlinkMessage::NewNeighbour(wire(3)), vec![]),
    ] {
        assert_eq!(said(&mut reader, message.clone()), expected, "{message:?}");
    }
}

#[test]
fn routes_outside_the_networks_are_facts_about_the_host_where_the_underlay_matters() {
    let mut reader = reader_of_ours();
    let outside = RouteNetlinkMessage::NewRoute(message(&route("192.0.2.0/24", "eth0")));
    assert_eq!(said(&mut reader, outside.clone()), []);
    reader.scope.underlay = true;
    assert_eq!(said(&mut reader, outside), [Changed::Host]);
    let inside = RouteNetlinkMessage::NewRoute(message(&route("10.5.7.0/24", "eth0")));
    assert_eq!(
        said(&mut reader, inside),
        [Changed::Appeared(route("10.5.7.0/24", "eth0").into())]
    );
    let mut elsewhere = message(&route("192.0.2.0/24", "eth0"));
    elsewhere.header.table = 100;
    assert_eq!(said(&mut reader, RouteNetlinkMessage::NewRoute(elsewhere)), []);
}
