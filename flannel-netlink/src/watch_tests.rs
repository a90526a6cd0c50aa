use flannel_core::{Hop, Route};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;

use super::*;
use crate::route::{Purpose, encode};

const OURS: u32 = 42;

fn reader() -> Reader {
    Reader {
        scope: Scope {
            networks: vec!["10.5.0.0/16".parse().unwrap()],
        },
        own_port: OURS,
        names: Names::default(),
    }
}

fn datagram(message: RouteNetlinkMessage, port: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
    message.header.port_number = port;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn said(reader: &mut Reader, message: RouteNetlinkMessage) -> Vec<Changed> {
    let mut said = Vec::new();
    reader.read(&datagram(message, 0), |changed| said.push(changed));
    said
}

fn link(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn route(destination: &str, device: &str) -> Route {
    let hop = Hop::via("192.0.2.7".parse().unwrap(), device.parse().unwrap());
    Route::unicast(destination.parse().unwrap(), hop, 70)
}

fn message(route: &Route) -> RouteMessage {
    encode(route, Purpose::Make, |_| Some(3)).unwrap()
}

#[test]
fn routes_in_scope_appear_and_vanish_by_the_name_that_their_device_has_then() {
    let mut reader = reader();
    let wire = message(&route("10.5.7.0/24", "eth0"));
    let appeared = |device| Changed::Appeared(route("10.5.7.0/24", device).into());
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewRoute(wire.clone())),
        [appeared("if3")]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewLink(link(3, "eth0"))),
        [Changed::Host]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewRoute(wire.clone())),
        [appeared("eth0")]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewLink(link(3, "wan"))),
        [Changed::Host]
    );
    let vanished = Changed::Vanished(route("10.5.7.0/24", "wan").into());
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::DelRoute(wire.clone())),
        [vanished]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::DelLink(link(3, "wan"))),
        [Changed::Host]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewRoute(wire)),
        [appeared("if3")]
    );
}

#[test]
fn routes_out_of_scope_are_passed_over_unless_they_are_default_routes() {
    let mut reader = reader();
    for outside in ["10.6.0.0/24", "10.4.0.0/15", "0.0.0.0/1"] {
        let wire = message(&route(outside, "eth0"));
        assert_eq!(
            said(&mut reader, RouteNetlinkMessage::NewRoute(wire)),
            [],
            "{outside}"
        );
    }
    for default in ["0.0.0.0/0", "::/0"] {
        let wire = message(&route(default, "eth0"));
        assert_eq!(
            said(&mut reader, RouteNetlinkMessage::DelRoute(wire)),
            [Changed::Host],
            "{default}"
        );
    }
}

#[test]
fn addresses_that_come_and_go_are_facts_about_the_host() {
    let mut reader = reader();
    let address = AddressMessage::default();
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewAddress(address.clone())),
        [Changed::Host]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::DelAddress(address)),
        [Changed::Host]
    );
}

#[test]
fn an_echo_of_our_own_change_is_passed_over() {
    let wire = RouteNetlinkMessage::NewRoute(message(&route("10.5.7.0/24", "eth0")));
    let mut said = 0;
    for (port, expected) in [(OURS, 0), (OURS + 1, 1), (0, 2)] {
        reader().read(&datagram(wire.clone(), port), |_| said += 1);
        assert_eq!(said, expected);
    }
}

#[test]
fn an_announcement_that_makes_no_sense_is_a_reason_to_look() {
    let wire = RouteNetlinkMessage::NewRoute(message(&route("10.5.7.0/24", "eth0")));
    let datagram = datagram(wire, 0);
    let mut said = Vec::new();
    reader().read(&datagram[..datagram.len() - 4], |changed| said.push(changed));
    assert_eq!(said, [Changed::Overrun]);
}

#[test]
fn a_burst_of_facts_is_told_once() {
    let route = Changed::Appeared(route("10.5.7.0/24", "eth0").into());
    let mut ready = VecDeque::new();
    let burst = [
        Changed::Host,
        Changed::Host,
        route.clone(),
        route.clone(),
        Changed::Host,
    ];
    for changed in burst {
        push(&mut ready, changed);
    }
    assert_eq!(ready, [Changed::Host, route.clone(), route, Changed::Host]);
}
