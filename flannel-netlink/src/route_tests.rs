use flannel_core::{Object, PROTOCOL_BOOT};
use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_route::route::{RouteCacheInfo, RouteCacheInfoBuffer, RouteMetric, RouteProtocol};
use proptest::prelude::*;

use super::*;

fn bytes(message: &RouteMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn seen(message: &RouteMessage) -> SeenRoute {
    decode(&bytes(message)).unwrap().unwrap()
}

fn device(index: u32) -> DeviceName {
    format!("dev{index}").parse().unwrap()
}

fn index(device: &DeviceName) -> Option<u32> {
    device.as_str().strip_prefix("dev")?.parse().ok()
}

fn names() -> Names {
    (1..10)
        .map(|index| flannel_core::Link {
            name: device(index),
            index,
            mtu: 1500,
            up: true,
            loopback: false,
            mac: None,
            strict_reverse_path: false,
            addresses: Vec::new(),
        })
        .collect()
}

fn plain() -> Route {
    let hop = Hop::via("192.0.2.7".parse().unwrap(), device(3));
    Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70)
}

/// What the kernel would send for the plain route.
fn wire() -> RouteMessage {
    encode(&plain(), Purpose::Make, index).unwrap()
}

fn with(attribute: RouteAttribute) -> Route {
    let mut message = wire();
    message.attributes.push(attribute);
    seen(&message).named(&names())
}

#[test]
fn a_plain_route_is_written_as_the_kernel_writes_it() {
    let message = wire();
    let header = &message.header;
    assert_eq!(header.table, RouteHeader::RT_TABLE_MAIN);
    assert_eq!(header.protocol, RouteProtocol::Other(70));
    assert_eq!(header.kind, RouteType::Unicast);
    assert_eq!(
        (header.destination_prefix_length, u8::from(header.scope)),
        (24, 0)
    );
    let expected = [
        RouteAttribute::Destination(RouteAddress::Inet([10, 5, 7, 0].into())),
        RouteAttribute::Priority(0),
        RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 7].into())),
        RouteAttribute::Oif(3),
    ];
    assert_eq!(message.attributes, expected);
    assert_eq!(seen(&message).named(&names()), plain());
}

#[test]
fn attributes_that_ours_never_carry_decorate_a_route() {
    let decorating = [
        RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
        RouteAttribute::Expires(60),
        RouteAttribute::Mark(1),
        RouteAttribute::Iif(2),
        RouteAttribute::Realm(netlink_packet_route::route::RouteRealm {
            source: 1,
            destination: 2,
        }),
        RouteAttribute::EncapType(RouteLwEnCapType::Mpls),
        RouteAttribute::Preference(RoutePreference::High),
        RouteAttribute::CacheInfo(cache_info(1)),
        // An attribute of a later kernel, and one that is too short to be read.
        RouteAttribute::Other(DefaultNla::new(99, vec![1])),
        RouteAttribute::Other(DefaultNla::new(8, vec![1])),
    ];
    for attribute in decorating {
        let decorated = Route {
            decorated: true,
            ..plain()
        };
        assert_eq!(with(attribute.clone()), decorated, "{attribute:?}");
    }
    let mut from = wire();
    from.header.source_prefix_length = 8;
    from.attributes
        .push(RouteAttribute::Source(RouteAddress::Inet([10, 0, 0, 0].into())));
    assert!(seen(&from).named(&names()).decorated);
}

#[test]
fn what_the_kernel_adds_by_itself_decorates_nothing() {
    let silent = [
        RouteAttribute::Preference(RoutePreference::Medium),
        RouteAttribute::CacheInfo(cache_info(0)),
        RouteAttribute::Table(254),
    ];
    for attribute in silent {
        assert_eq!(with(attribute.clone()), plain(), "{attribute:?}");
    }
    let mut offloaded = wire();
    offloaded.header.flags |=
        RouteFlags::Linkdown | RouteFlags::Dead | RouteFlags::Offload | RouteFlags::RtOffload;
    assert_eq!(seen(&offloaded).named(&names()), plain());
}

#[test]
fn a_weight_or_an_attribute_of_one_hop_decorates_the_route() {
    let mut many = plain();
    many.hops = Hops::Many(vec![plain().hops.as_slice()[0]; 2]);
    let message = encode(&many, Purpose::Make, index).unwrap();
    assert_eq!(seen(&message).named(&names()), many);
    let changes: [fn(&mut RouteNextHop); 2] = [
        |hop| hop.hops = 1,
        |hop| hop.attributes.push(RouteAttribute::Mark(1)),
    ];
    for change in changes {
        let mut message = message.clone();
        for attribute in &mut message.attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                change(&mut hops[1]);
            }
        }
        assert!(seen(&message).named(&names()).decorated);
    }
}

#[test]
fn a_nexthop_object_counts_and_not_the_hop_that_the_kernel_spells_out_for_it() {
    let route = with(RouteAttribute::NhId(17));
    assert_eq!(route.hops, Hops::Object(17));
    let back = encode(&route, Purpose::Make, index).unwrap();
    assert_eq!(seen(&back).named(&names()), route);
}

#[test]
fn only_entries_of_table_main_count() {
    assert!(seen(&wire()).is_entry());
    let changes: [fn(&mut RouteMessage); 4] = [
        |message| message.header.kind = RouteType::Local,
        |message| message.header.kind = RouteType::Multicast,
        |message| message.header.flags |= RouteFlags::Cloned,
        // Tables above 255 have their number in an attribute only.
        |message| message.attributes.push(RouteAttribute::Table(1000)),
    ];
    for change in changes {
        let mut message = wire();
        change(&mut message);
        assert!(!seen(&message).is_entry(), "{message:?}");
    }
}

#[test]
fn an_ipv6_route_that_drops_packets_has_no_hop_and_is_removed_from_loopback_alone() {
    let mut route = plain();
    route.id = RouteId::to("fd10:5::/64".parse().unwrap());
    route.kind = RouteKind::Blackhole;
    route.hops = Hops::None;
    let removal = encode(&route, Purpose::Remove, index).unwrap();
    assert!(removal.attributes.contains(&RouteAttribute::Oif(1)));
    assert_eq!(seen(&removal).named(&names()), route);
    let addition = encode(&route, Purpose::Make, index).unwrap();
    assert!(
        !addition
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, RouteAttribute::Oif(_)))
    );
}

#[test]
fn a_glance_tells_where_a_route_leads_and_whether_through_a_gateway() {
    let told = |message: &RouteMessage| glance(&bytes(message)).unwrap().unwrap();
    let destination = plain().id.destination;
    let expected = |destination, has_gateway| Glance {
        destination,
        has_gateway,
    };
    assert_eq!(told(&wire()), expected(destination, true));
    let is_gateway = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_));
    let mut direct = wire();
    direct.attributes.retain(|attribute| !is_gateway(attribute));
    assert_eq!(told(&direct), expected(destination, false));
    let mut via = direct.clone();
    let gateway = RouteVia::Inet6("fe80::1".parse().unwrap());
    via.attributes.push(RouteAttribute::Via(gateway));
    assert_eq!(told(&via), expected(destination, true));
    direct.attributes.clear();
    direct.header.destination_prefix_length = 0;
    assert_eq!(told(&direct), expected("0.0.0.0/0".parse().unwrap(), false));
    direct.header.address_family = AddressFamily::Mpls;
    assert_eq!(glance(&bytes(&direct)).unwrap(), None);
}

#[test]
fn routes_in_one_place_are_numbered_from_the_first() {
    let mut other = plain();
    other.id.metric = 7;
    let mut routes = [plain(), plain(), other.clone(), plain()];
    number(&mut routes);
    assert_eq!(routes.map(|route| route.id.position), [0, 1, 0, 2]);
}

#[test]
fn a_route_that_does_not_say_where_it_leads_is_refused() {
    let mut message = wire();
    message.attributes.remove(0);
    assert!(decode(&bytes(&message)).is_err());
    message.header.destination_prefix_length = 0;
    let default = seen(&message);
    assert!(default.is_default());
    assert_eq!(default.id.destination.to_string(), "0.0.0.0/0");
}

#[test]
fn other_families_are_passed_over() {
    let mut message = wire();
    message.header.address_family = AddressFamily::Mpls;
    assert_eq!(decode(&bytes(&message)).unwrap(), None);
}

fn cache_info(expires: u32) -> RouteCacheInfo {
    let mut bytes = vec![0; size_of::<RouteCacheInfoBuffer>()];
    bytes[8..12].copy_from_slice(&expires.to_ne_bytes());
    RouteCacheInfo::parse(&bytes).unwrap()
}

fn any_family_address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        Family::V6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn any_hop(family: Family) -> impl Strategy<Value = Hop> {
    // An IPv4 route may have an IPv6 gateway.
    let gateway = prop_oneof![any_family_address(family), any_family_address(Family::V6)];
    (proptest::option::of(gateway), 1..10_u32, any::<bool>()).prop_map(|(gateway, index, onlink)| Hop {
        gateway,
        device: device(index),
        onlink,
    })
}

fn any_hops(family: Family) -> impl Strategy<Value = (RouteKind, Hops)> {
    let hops = prop_oneof![
        any_hop(family).prop_map(Hops::One),
        proptest::collection::vec(any_hop(family), 1..5).prop_map(Hops::Many),
        any::<u32>().prop_map(Hops::Object),
    ];
    let dropping = prop_oneof![
        Just(RouteKind::Blackhole),
        Just(RouteKind::Unreachable),
        Just(RouteKind::Other(8)),
    ];
    prop_oneof![
        hops.prop_map(|hops| (RouteKind::Unicast, hops)),
        dropping.prop_map(|kind| (kind, Hops::None)),
    ]
}

fn any_route() -> impl Strategy<Value = Route> {
    prop_oneof![Just(Family::V4), Just(Family::V6)].prop_flat_map(|family| {
        let destination = (any_family_address(family), 0..=family.bits());
        let source = proptest::option::of(any_family_address(family));
        let numbers = (any::<u8>(), any::<u32>(), any::<u8>(), any::<u8>());
        (destination, source, numbers, any_hops(family)).prop_map(
            move |(destination, source, numbers, hops)| {
                let (tos, metric, protocol, scope) = numbers;
                let v4 = family == Family::V4;
                Route {
                    id: RouteId {
                        destination: IpNet::new(destination.0, destination.1).unwrap().trunc(),
                        tos: if v4 { tos } else { 0 },
                        metric,
                        position: 0,
                    },
                    kind: hops.0,
                    protocol,
                    hops: hops.1,
                    source,
                    scope: if v4 { scope } else { 0 },
                    decorated: false,
                }
            },
        )
    })
}

proptest! {
    #[test]
    fn every_route_comes_back_as_it_was_written(route in any_route()) {
        for purpose in [Purpose::Make, Purpose::Remove] {
            let message = encode(&route, purpose, index).unwrap();
            prop_assert_eq!(Object::from(seen(&message).named(&names())), Object::from(route.clone()));
        }
    }

    #[test]
    fn no_payload_is_too_strange(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&payload).map(|seen| seen.map(|seen| seen.named(&names())));
    }

    #[test]
    fn no_damage_to_a_message_is_too_strange(
        route in any_route(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        length in any::<prop::sample::Index>(),
    ) {
        let mut payload = bytes(&encode(&route, Purpose::Make, index).unwrap());
        let place = place.index(payload.len());
        payload[place] = byte;
        payload.truncate(length.index(payload.len() + 1));
        let _ = decode(&payload).map(|seen| seen.map(|seen| seen.named(&names())));
    }
}

#[test]
fn a_bare_route_of_ip_route_add_is_read_as_boot() {
    let mut message = wire();
    message.header.protocol = RouteProtocol::Boot;
    assert_eq!(seen(&message).named(&names()).protocol, PROTOCOL_BOOT);
}
