use netlink_packet_core::Emitable;
use netlink_packet_route::link::{InfoKind, LinkInfo};
use proptest::prelude::*;

use super::*;
use crate::attribute::encoded;

const INDEX: u32 = 7;
const LINK: u32 = 3;

fn vxlan() -> Vxlan {
    Vxlan {
        local: "192.0.2.1".parse().ok(),
        uplink: "if3".parse().ok(),
        ..Vxlan::new(1, 8472)
    }
}

fn device() -> Device {
    Device {
        name: "flannel.1".parse().unwrap(),
        kind: DeviceKind::Vxlan(vxlan()),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
}

fn bytes(message: &LinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn seen(payload: &[u8]) -> Device {
    let seen = SeenDevice::decode(payload).unwrap().unwrap();
    seen.named(&Names::default(), None)
}

/// What is asked for so that the device becomes the other.
fn to(other: &Device) -> Vec<LinkMessage> {
    let DeviceKind::Vxlan(other_vxlan) = &other.kind else {
        panic!("{other}");
    };
    let link = other_vxlan
        .uplink
        .map(|uplink| if uplink.as_str() == "if3" { LINK } else { 4 });
    changed(
        (&device(), &vxlan()),
        (other, other_vxlan),
        INDEX,
        Some(LINK),
        link,
    )
}

fn with(change: impl FnOnce(&mut Vxlan)) -> Device {
    let mut vxlan = vxlan();
    change(&mut vxlan);
    Device {
        kind: DeviceKind::Vxlan(vxlan),
        ..device()
    }
}

#[test]
fn a_device_comes_back_as_it_was_asked_for() {
    let message = made(&device(), Some(LINK)).unwrap();
    assert_eq!(seen(&bytes(&message)), device());
    let down = Device {
        up: false,
        ..device()
    };
    assert_eq!(seen(&bytes(&made(&down, Some(LINK)).unwrap())), down);
}

#[test]
fn another_kind_of_device_is_told_by_its_kind_and_not_made() {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName("flannel.1".to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    let bridge = seen(&bytes(&message));
    assert_eq!(bridge.kind, DeviceKind::Other("bridge".to_owned()));
    assert_eq!(made(&bridge, None), None);
    message.attributes.pop();
    assert_eq!(seen(&bytes(&message)).kind, DeviceKind::Other(String::new()));
}

#[test]
fn a_tunnel_that_leaves_by_another_namespace_is_decorated() {
    let mut payload = bytes(&made(&device(), Some(LINK)).unwrap());
    payload.extend(encoded(ATTR_LINK_NAMESPACE, &0_u32.to_ne_bytes()));
    assert_eq!(seen(&payload), with(|vxlan| vxlan.decorated = true));
}

#[test]
fn one_request_changes_what_is_no_property_of_the_tunnel() {
    assert_eq!(to(&device()), []);
    let other = Device {
        mac: "02:00:00:00:00:02".parse().unwrap(),
        mtu: 1400,
        up: false,
        ..device()
    };
    let [message] = &to(&other)[..] else {
        panic!("not one request");
    };
    assert_eq!(message.header.index, INDEX);
    assert_eq!(
        (message.header.change_mask, message.header.flags),
        (LinkFlags::Up, LinkFlags::empty())
    );
    let expected = [
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 2]),
        LinkAttribute::Mtu(1400),
    ];
    assert_eq!(message.attributes, expected);
}

#[test]
fn the_tunnel_is_changed_alone_and_the_mtu_set_again_after_it() {
    for other in [
        with(|vxlan| vxlan.local = "192.0.2.2".parse().ok()),
        with(|vxlan| vxlan.learning = true),
        with(|vxlan| vxlan.uplink = "if4".parse().ok()),
    ] {
        let [tunnel, rest] = &to(&other)[..] else {
            panic!("not two requests");
        };
        assert!(
            matches!(tunnel.attributes[..], [LinkAttribute::LinkInfo(_)]),
            "{tunnel:?}"
        );
        assert_eq!(rest.attributes, [LinkAttribute::Mtu(1450)]);
        assert!(rest.header.change_mask.is_empty());
    }
}

proptest! {
    #[test]
    fn no_damage_to_a_message_is_too_strange(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        length in any::<prop::sample::Index>(),
    ) {
        let mut payload = bytes(&made(&device(), Some(LINK)).unwrap());
        let place = place.index(payload.len());
        payload[place] = byte;
        let _ = SeenDevice::decode(&payload);
        let _ = SeenDevice::decode(&payload[..length.index(payload.len())]);
    }
}
