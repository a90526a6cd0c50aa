use flannel_core::{Address, Forwarding, Hop, Hops, Neighbour, NeighbourId, Route};

use super::*;

fn device() -> DeviceName {
    "flannel.1".parse().unwrap()
}

fn route() -> Route {
    let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
    Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70)
}

fn on_a_device() -> [Object; 3] {
    let mac = "02:00:00:00:00:07".parse().unwrap();
    let address = "10.5.7.0".parse().unwrap();
    let id = NeighbourId {
        device: device(),
        address,
    };
    [
        Address::permanent(device(), "10.5.7.0/32".parse().unwrap()).into(),
        Forwarding::to(device(), mac, "192.0.2.7".parse().unwrap()).into(),
        Neighbour { id, mac }.into(),
    ]
}

#[test]
fn a_missing_device_is_named_without_asking_the_kernel() {
    let error = request(&Op::Add(route().into()), |_| None).unwrap_err();
    assert_eq!(error.kind, OpErrorKind::NoDevice);
    assert!(
        error.text.ends_with("proto 70: there is no device eth0"),
        "{error}"
    );
    for object in on_a_device() {
        let error = request(&Op::Add(object.clone()), |_| None).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::NoDevice);
        assert_eq!(
            error.text,
            format!("cannot add {object}: there is no device flannel.1")
        );
        let error = request(&Op::Remove(object), |_| None).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::Gone, "it went with its device");
    }
}

#[test]
fn the_devices_of_an_operation_are_those_that_it_is_on_and_leads_over() {
    let devices = |object: Object| devices(&Op::Add(object)).collect::<Vec<_>>();
    assert_eq!(devices(route().into()), ["eth0".parse().unwrap()]);
    for object in on_a_device() {
        assert_eq!(devices(object), [device()]);
    }
}

#[test]
fn only_what_the_kernel_makes_itself_on_our_devices_is_taken_over() {
    let [address, forwarding, neighbour] = on_a_device();
    for (object, takes_over) in [
        (address, false),
        (route().into(), false),
        (forwarding, true),
        (neighbour, true),
    ] {
        let added = request(&Op::Add(object.clone()), |_| Some(7)).unwrap();
        let expected = if takes_over { NLM_F_REPLACE } else { NLM_F_EXCL };
        assert_eq!(added.flags, NLM_F_CREATE | expected, "{object}");
        let replaced = Op::Replace {
            from: object.clone(),
            to: object,
        };
        let replaced = request(&replaced, |_| Some(7)).unwrap();
        assert_eq!(replaced.flags, NLM_F_CREATE | NLM_F_REPLACE);
    }
}

#[test]
fn an_entry_that_leads_to_no_host_is_removed_before_it_is_replaced() {
    let [_, Object::Forwarding(to), _] = on_a_device() else {
        panic!("an entry");
    };
    let kinds = |from: Forwarding| {
        let op = Op::Replace {
            from: from.into(),
            to: to.into(),
        };
        let requests = requests(&op, |_| Some(7)).unwrap().into_iter();
        requests
            .map(|request| matches!(request.message, RouteNetlinkMessage::NewNeighbour(_)))
            .collect::<Vec<_>>()
    };
    let nowhere = Forwarding {
        host: None,
        decorated: true,
        ..to
    };
    assert_eq!(kinds(nowhere), [false, true]);
    assert_eq!(kinds(to), [true]);
}

#[test]
fn a_route_with_more_hops_than_fit_is_refused() {
    let many = Route {
        hops: Hops::Many(vec![route().hops.as_slice()[0]; 5000]),
        ..route()
    };
    let error = request(&Op::Add(many.into()), |_| Some(1)).unwrap_err();
    assert!(
        error.text.ends_with("5000 hops are more than a message holds"),
        "{error}"
    );
}

/// The route to fd00:5:0:7::/64 by a device: onlink over the tunnel, or via a host on the uplink.
fn v6(gateway: &str, device: &str) -> Object {
    let hop = Hop {
        onlink: device != "eth0",
        ..Hop::via(gateway.parse().unwrap(), device.parse().unwrap())
    };
    Route::unicast("fd00:5:0:7::/64".parse().unwrap(), hop, 70).into()
}

#[test]
fn an_ipv6_route_to_an_onlink_gateway_can_be_made_by_a_step() {
    let (direct, tunnelled) = (v6("2001:db8::7", "eth0"), v6("fd00:5:0:7::", "flannel-v6.1"));
    let replace = |from: &Object, to: &Object| Op::Replace {
        from: from.clone(),
        to: to.clone(),
    };
    for op in [replace(&direct, &tunnelled), Op::Add(tunnelled.clone())] {
        let step = stepping_stone(&op).unwrap();
        assert_eq!(step.to_string(), "fd00:5:0:7::/128 dev flannel-v6.1 proto 70");
        let requests = requests_by_a_step(&op, |_| Some(7)).unwrap();
        assert_eq!(requests.len(), 3);
    }
    for op in [
        replace(&tunnelled, &direct),
        Op::Add(direct),
        Op::Remove(tunnelled),
    ] {
        assert_eq!(stepping_stone(&op), None, "{op:?}");
    }
    let hop = Hop {
        onlink: true,
        ..Hop::via("10.5.7.0".parse().unwrap(), device())
    };
    let v4 = Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70);
    assert_eq!(stepping_stone(&Op::Add(v4.into())), None);
}
