//! When a device is as it ought to be, and when it has to be made anew.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use flannel_core::{Device, DeviceKind, MacAddress, Object, Vxlan};

fn vxlan(edit: impl FnOnce(&mut Vxlan)) -> DeviceKind {
    let mut vxlan = Vxlan {
        local: "192.0.2.1".parse().ok(),
        uplink: "eth0".parse().ok(),
        ..Vxlan::new(1, 8472)
    };
    edit(&mut vxlan);
    DeviceKind::Vxlan(vxlan)
}

fn wanted() -> Device {
    Device {
        name: "flannel.1".parse().unwrap(),
        kind: vxlan(|_| {}),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
}

#[test]
fn a_checksum_offload_counts_where_it_is_asked_for_and_seen() {
    for (asked, seen, satisfied) in [
        (None, Some(true), true),
        (None, Some(false), true),
        (None, None, true),
        (Some(true), Some(true), true),
        (Some(true), Some(false), false),
        (Some(true), None, true),
        (Some(false), Some(false), true),
        (Some(false), Some(true), false),
        (Some(false), None, true),
    ] {
        let wanted = Device {
            checksum_offload: asked,
            ..wanted()
        };
        let there = Device {
            checksum_offload: seen,
            ..wanted.clone()
        };
        assert_eq!(there.satisfies(&wanted), satisfied, "{asked:?} {seen:?}");
        let (there, wanted) = (Object::from(there), Object::from(wanted));
        assert_eq!(there.satisfies(&wanted), satisfied, "{asked:?} {seen:?}");
    }
}

#[test]
fn a_device_works_though_settings_that_only_concern_itself_are_not_as_wanted() {
    let wanted = Device {
        checksum_offload: Some(false),
        ..wanted()
    };
    let odd = Device {
        accepts_advertisements: true,
        checksum_offload: Some(true),
        ..wanted.clone()
    };
    assert!(odd.works_as(&wanted) && !odd.satisfies(&wanted));
    for broken in [
        Device {
            up: false,
            ..odd.clone()
        },
        Device {
            mtu: 1400,
            ..odd.clone()
        },
        Device {
            kind: vxlan(|vxlan| vxlan.learning = true),
            ..odd.clone()
        },
    ] {
        assert!(!broken.works_as(&wanted), "{broken}");
    }
}

#[test]
fn a_device_that_sends_from_nowhere_in_particular_is_one_for_ipv4() {
    let v6 = of(vxlan(|vxlan| vxlan.local = "2001:db8::1".parse().ok()));
    let v4 = of(vxlan(|_| {}));
    let open = of(vxlan(|vxlan| vxlan.local = None));
    assert!(open.is_remade_for(&v6).is_some());
    assert!(v6.is_remade_for(&open).is_some());
    assert_eq!(open.is_remade_for(&v4), None);
    assert_eq!(v4.is_remade_for(&open), None);
}

#[test]
fn a_device_that_leaves_by_one_uplink_is_made_anew_to_leave_by_any() {
    let (bound, free) = (wanted(), of(vxlan(|vxlan| vxlan.uplink = None)));
    assert!(bound.is_remade_for(&free).is_some());
    assert_eq!(free.is_remade_for(&bound), None);
}

#[test]
fn every_field_of_a_device_counts_and_only_some_have_it_made_anew() {
    let plain = wanted();
    let v6 = |vxlan: &mut Vxlan| vxlan.local = "2001:db8::1".parse().ok();
    for (other, anew) in [
        (
            Device {
                mac: MacAddress([2, 0, 0, 0, 0, 9]),
                ..plain.clone()
            },
            None,
        ),
        (
            Device {
                mtu: 1400,
                ..plain.clone()
            },
            None,
        ),
        (
            Device {
                up: false,
                ..plain.clone()
            },
            None,
        ),
        (
            Device {
                accepts_advertisements: true,
                ..plain.clone()
            },
            None,
        ),
        (of(vxlan(|vxlan| vxlan.learning = true)), None),
        (of(vxlan(|vxlan| vxlan.local = "192.0.2.9".parse().ok())), None),
        (of(vxlan(|vxlan| vxlan.local = None)), None),
        (of(vxlan(|vxlan| vxlan.uplink = "eth1".parse().ok())), None),
        (of(vxlan(|vxlan| vxlan.uplink = None)), None),
        (
            of(vxlan(|vxlan| vxlan.vni = 2)),
            Some("its VNI is 2 and ought to be 1"),
        ),
        (
            of(vxlan(|vxlan| vxlan.port = 4789)),
            Some("its port is 4789 and ought to be 8472"),
        ),
        (
            of(vxlan(|vxlan| vxlan.gbp = true)),
            Some("GBP is on and ought to be off"),
        ),
        (of(vxlan(v6)), Some("address family")),
        (of(vxlan(|vxlan| vxlan.decorated = true)), Some("ip -d link")),
        (
            of(DeviceKind::Other("bridge".to_owned())),
            Some("it is of another kind"),
        ),
    ] {
        assert!(!other.satisfies(&plain), "{other}");
        assert!(plain.satisfies(&plain));
        let why = other.is_remade_for(&plain);
        match anew {
            None => assert_eq!(why, None, "{other}"),
            Some(expected) => assert!(why.clone().unwrap().contains(expected), "{why:?}"),
        }
    }
    let both = of(vxlan(|vxlan| (vxlan.vni, vxlan.port) = (7, 4789)));
    assert_eq!(
        both.is_remade_for(&plain).unwrap(),
        "its VNI is 7 and ought to be 1; its port is 4789 and ought to be 8472"
    );
}

fn of(kind: DeviceKind) -> Device {
    Device { kind, ..wanted() }
}
