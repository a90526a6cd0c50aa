use flannel_core::DeviceName;
use netlink_packet_core::{Emitable, Nla};
use proptest::prelude::*;

use super::*;
use crate::attribute::encoded;

fn uplink() -> DeviceName {
    "if3".parse().unwrap()
}

/// The settings in a request, as the kernel would take them.
fn data(info: &LinkAttribute) -> Vec<u8> {
    let LinkAttribute::LinkInfo(infos) = info else {
        panic!("{info:?}");
    };
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    let data = data.unwrap().as_slice();
    let mut bytes = vec![0; data.buffer_len()];
    data.emit(&mut bytes);
    bytes
}

fn kinds(info: Option<LinkAttribute>) -> Vec<u16> {
    let Some(LinkAttribute::LinkInfo(infos)) = info else {
        return Vec::new();
    };
    let data = infos.into_iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    data.unwrap().iter().map(Nla::kind).collect()
}

fn seen(bytes: &[u8]) -> Vxlan {
    SeenVxlan::decode(bytes).unwrap().named(&Names::default())
}

#[test]
fn what_no_device_here_has_decorates_it_and_what_the_kernel_adds_does_not() {
    let plain = data(&made(&Vxlan::new(1, 8472), None).unwrap());
    let with = |kind, value: &[u8]| seen(&[plain.clone(), encoded(kind, value)].concat());
    for kind in [
        PROXY,
        RSC,
        L2MISS,
        L3MISS,
        COLLECT_METADATA,
        VNIFILTER,
        REMCSUM_TX,
        REMCSUM_RX,
        MC_ROUTE,
    ] {
        assert!(with(kind, &[1]).decorated, "{kind}");
        assert!(!with(kind, &[0]).decorated, "{kind}");
    }
    for kind in [GPE, REMCSUM_NOPARTIAL] {
        assert!(with(kind, &[]).decorated, "{kind}");
    }
    assert!(with(GROUP, &[239, 0, 0, 1]).decorated);
    assert!(with(GROUP6, &[0xff; 16]).decorated);
    assert!(with(LIMIT, &100_u32.to_ne_bytes()).decorated);
    assert!(!with(LIMIT, &[0; 4]).decorated);
    // Time to live, type of service, ageing, source ports, checksums, and what is yet to come.
    for kind in [5, 6, 8, 10, 18, 19, 20, 26, 28, 29, 31, 32, 33, 99] {
        assert_eq!(with(kind, &[1, 1, 1, 1]), Vxlan::new(1, 8472), "{kind}");
    }
}

#[test]
fn a_change_names_what_differs_and_nothing_else() {
    let vxlan = Vxlan {
        local: "192.0.2.1".parse().ok(),
        ..Vxlan::new(1, 8472)
    };
    let local = Vxlan {
        local: "192.0.2.2".parse().ok(),
        ..vxlan.clone()
    };
    let learning = Vxlan {
        learning: true,
        ..vxlan.clone()
    };
    let to = |other, link| kinds(changed(&vxlan, other, Some(3), link));
    assert_eq!(to(&vxlan, Some(3)), Vec::<u16>::new());
    assert_eq!(to(&local, Some(3)), [LOCAL]);
    assert_eq!(to(&learning, Some(3)), [LEARNING]);
    assert_eq!(to(&vxlan, Some(4)), [LINK]);
    let without = changed(&vxlan, &Vxlan::new(1, 8472), Some(3), Some(3)).unwrap();
    assert_eq!(data(&without), encoded(LOCAL, &[0; 4]));
}

#[test]
fn a_decorated_device_is_not_made() {
    let vxlan = Vxlan {
        decorated: true,
        ..Vxlan::new(1, 8472)
    };
    assert_eq!(made(&vxlan, None), None);
}

#[test]
fn settings_of_a_wrong_length_are_refused() {
    for (kind, value) in [(ID, &[1, 0][..]), (PORT, &[1, 2, 3]), (LINK, &[1])] {
        assert!(SeenVxlan::decode(&encoded(kind, value)).is_err(), "{kind}");
    }
}

proptest! {
    #[test]
    fn every_device_comes_back_as_it_was_written(
        vni in 0..1_u32 << 24,
        port in 1..=u16::MAX,
        flags in any::<(bool, bool, bool)>(),
        v4 in any::<bool>(),
        address in proptest::option::of(any::<[u8; 16]>()),
    ) {
        let local = address.map(|bytes| {
            let [a, b, c, d, ..] = bytes;
            if v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) }
        });
        let (learning, gbp, has_uplink) = flags;
        let uplink = has_uplink.then(uplink);
        let vxlan = Vxlan { gbp, learning, local, uplink, ..Vxlan::new(vni, port) };
        let bytes = data(&made(&vxlan, has_uplink.then_some(3)).unwrap());
        prop_assert_eq!(seen(&bytes), vxlan);
    }

    #[test]
    fn no_settings_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = SeenVxlan::decode(&bytes);
    }
}
