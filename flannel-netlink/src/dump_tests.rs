use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::*;
use crate::attribute::{encoded, encoded_text};
use crate::socket::tests::in_a_namespace;

/// A VXLAN device that there is not.
fn gone() -> SeenDevice {
    let mut message = LinkMessage::default();
    message.header.index = 99;
    let message = RouteNetlinkMessage::NewLink(message);
    let mut payload = vec![0; message.buffer_len()];
    message.serialize(&mut payload);
    payload.extend(encoded(18, &encoded_text(1, "vxlan")));
    SeenDevice::decode(&payload).unwrap().unwrap()
}

#[test]
fn on_a_device_that_went_after_it_was_seen_is_nothing() {
    in_a_namespace(|mut socket| {
        let gone = gone();
        assert!(matches!(gone.kind, SeenKind::Vxlan(_)));
        let mut objects = Vec::new();
        on_device(&mut socket, &gone, &mut objects).unwrap();
        assert_eq!(objects, []);
    });
}

#[test]
fn a_refusal_for_another_reason_is_an_error() {
    in_a_namespace(|mut socket| {
        let mut message = netlink_packet_route::neighbour::NeighbourMessage::default();
        message.header.family = netlink_packet_route::AddressFamily::Inet;
        message.header.state = netlink_packet_route::neighbour::NeighbourState::Permanent;
        let question = RouteNetlinkMessage::GetNeighbour(message);
        let refused = of_device(&mut socket, "ask wrongly", &question, |_| Ok(None::<()>));
        let error = refused.unwrap_err().to_string();
        assert!(
            error.starts_with("the kernel refused to ask wrongly: Invalid values in header"),
            "{error}"
        );
    });
}
