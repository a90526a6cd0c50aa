use flannel_core::{Hop, Route};
use futures_util::stream::{Repeat, repeat};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::*;
use crate::route::{Purpose, encode};

#[path = "watch_device_tests.rs"]
mod devices;

const OURS: u32 = 42;

fn reader() -> Reader {
    Reader {
        scope: Scope {
            networks: vec!["10.5.0.0/16".parse().unwrap()],
            ..Scope::default()
        },
        own_port: OURS,
        names: Names::default(),
        down: BTreeSet::new(),
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
    let mut message = link_that_is_down(index, name);
    message.header.flags = LinkFlags::Up;
    message
}

fn link_that_is_down(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn down(device: &str) -> Changed {
    Changed::Down(device.parse().unwrap())
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
        [down("wan")]
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
fn a_new_address_is_a_fact_about_the_host_and_a_lost_one_takes_routes_along() {
    let mut reader = reader();
    let mut address = AddressMessage::default();
    address.header.index = 3;
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::NewAddress(address.clone())),
        [Changed::Host]
    );
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::DelAddress(address.clone())),
        [Changed::Overrun],
        "nobody knows whose it was"
    );
    said(&mut reader, RouteNetlinkMessage::NewLink(link(3, "eth0")));
    assert_eq!(
        said(&mut reader, RouteNetlinkMessage::DelAddress(address)),
        [down("eth0")]
    );
}

#[test]
fn a_link_goes_down_once_until_it_has_been_up_and_whenever_it_is_not_known() {
    let mut reader = reader();
    let is_up = RouteNetlinkMessage::NewLink(link(3, "eth0"));
    let is_down = RouteNetlinkMessage::NewLink(link_that_is_down(3, "eth0"));
    let renamed = RouteNetlinkMessage::NewLink(link_that_is_down(3, "wan"));
    for (message, expected) in [
        (&is_down, down("eth0")),
        (&is_down, Changed::Host),
        (&renamed, Changed::Host),
        (&is_up, Changed::Host),
        (&is_up, Changed::Host),
        (&renamed, down("wan")),
    ] {
        assert_eq!(said(&mut reader, message.clone()), [expected]);
    }
    // It may have been up in what made no sense.
    let cut = datagram(is_up, 0);
    reader.read(&cut[..cut.len() - 4], drop);
    assert_eq!(said(&mut reader, is_down), [down("eth0")]);
}

#[test]
fn a_link_that_is_gone_was_down_whatever_was_said_before() {
    let mut reader = reader();
    for _ in 0..2 {
        let is_down = RouteNetlinkMessage::NewLink(link_that_is_down(3, "eth0"));
        assert_eq!(said(&mut reader, is_down), [down("eth0")]);
        let gone = RouteNetlinkMessage::DelLink(link_that_is_down(3, "eth0"));
        assert_eq!(said(&mut reader, gone), [down("eth0")]);
    }
}

#[test]
fn a_link_that_leaves_a_bridge_is_still_there() {
    let mut reader = reader();
    said(&mut reader, RouteNetlinkMessage::NewLink(link(3, "eth0")));
    let mut port = link_that_is_down(3, "eth0");
    port.header.interface_family = AddressFamily::Bridge;
    for message in [
        RouteNetlinkMessage::NewLink(port.clone()),
        RouteNetlinkMessage::DelLink(port),
    ] {
        assert_eq!(said(&mut reader, message), [Changed::Host]);
    }
    let is_down = RouteNetlinkMessage::NewLink(link_that_is_down(3, "eth0"));
    assert_eq!(said(&mut reader, is_down), [down("eth0")]);
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
fn a_burst_of_reasons_to_look_is_told_once() {
    let route = Changed::Appeared(route("10.5.7.0/24", "eth0").into());
    let (eth0, wan, host, overrun) = (down("eth0"), down("wan"), Changed::Host, Changed::Overrun);
    let folded = |burst: &[&Changed]| {
        let mut ready = VecDeque::new();
        for changed in burst {
            push(&mut ready, (*changed).clone());
        }
        Vec::from(ready)
    };
    assert_eq!(
        folded(&[&host, &host, &route, &route, &host]),
        [host.clone(), route.clone(), route.clone(), host.clone()]
    );
    assert_eq!(
        folded(&[&host, &eth0, &eth0, &host, &wan, &eth0]),
        [host.clone(), eth0.clone(), wan]
    );
    let device = Changed::Device("eth0".parse().unwrap());
    assert_eq!(
        folded(&[&host, &device, &host, &device, &route, &device]),
        [host.clone(), device.clone(), route.clone(), device]
    );
    assert_eq!(
        folded(&[&eth0, &route, &host]),
        [eth0.clone(), route, host.clone()]
    );
    assert_eq!(folded(&[&overrun, &overrun, &host, &eth0]), [overrun, eth0]);
}

#[tokio::test]
async fn routes_and_tables_take_turns() {
    let table = Changed::Table(None);
    let routes = || repeat(Changed::Overrun).take(3);
    let flood = Ok(repeat(table.clone()));
    let told: Vec<Changed> = merged(routes(), flood).take(6).collect().await;
    let routes_told = told.iter().filter(|changed| **changed == Changed::Overrun);
    assert_eq!(routes_told.count(), 3, "{told:?}");
}

#[tokio::test]
async fn routes_are_watched_where_tables_cannot_be() {
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let tables: io::Result<Repeat<Changed>> = Err(denied);
    let told: Vec<Changed> = merged(repeat(Changed::Overrun).take(3), tables).collect().await;
    assert_eq!(told, vec![Changed::Overrun; 3]);
}
