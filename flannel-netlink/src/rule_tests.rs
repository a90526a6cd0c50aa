use super::*;

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn be(kind: u16, number: u32) -> Vec<u8> {
    nested(kind, &number.to_be_bytes())
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let name = nested(1, format!("{name}\0").as_bytes());
    nested(1, &[name, nested(2, &data.concat())].concat())
}

fn payload(offset: u32, length: u32) -> Vec<u8> {
    expression("payload", &[be(1, 1), be(2, 1), be(3, offset), be(4, length)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[be(1, 1), be(2, key)])
}

fn ct() -> Vec<u8> {
    expression("ct", &[be(1, 1), be(2, 0)])
}

fn mask(bytes: &[u8]) -> Vec<u8> {
    expression("bitwise", &[be(1, 1), be(2, 1), nested(4, &nested(1, bytes))])
}

fn cmp(operator: u32, bytes: &[u8]) -> Vec<u8> {
    expression("cmp", &[be(1, 1), be(2, operator), nested(3, &nested(1, bytes))])
}

fn lookup(into: Option<u32>) -> Vec<u8> {
    let into = into.map(|register| be(3, register));
    expression(
        "lookup",
        &[nested(1, b"set\0"), be(2, 1), into.unwrap_or_default()],
    )
}

fn xt(name: &str) -> Vec<u8> {
    expression("match", &[nested(1, format!("{name}\0").as_bytes())])
}

fn verdict(code: u32, chain: Option<&str>) -> Vec<u8> {
    let chain = chain.map(|chain| nested(2, format!("{chain}\0").as_bytes()));
    let verdict = [be(1, code), chain.unwrap_or_default()].concat();
    expression("immediate", &[be(1, 0), nested(2, &nested(2, &verdict))])
}

fn accept() -> Vec<u8> {
    verdict(ACCEPT, None)
}

fn counter() -> Vec<u8> {
    expression("counter", &[be(1, 0)])
}

fn rule(expressions: &[Vec<u8>]) -> Vec<u8> {
    let names = [nested(1, b"filter\0"), nested(2, b"FORWARD\0")].concat();
    [names, nested(4, &expressions.concat())].concat()
}

fn read(expressions: &[Vec<u8>]) -> (Reach, Action) {
    let rule = decode(&rule(expressions)).unwrap();
    (rule.reach, rule.action)
}

fn net(text: &str) -> Reach {
    Reach::Network(text.parse().unwrap())
}

#[test]
fn networks_are_read_out_of_rules_as_iptables_and_nft_write_them() {
    let v6 = [0xfd, 0x07, 0, 0, 0, 0x21];
    for (expressions, expected) in [
        (vec![payload(12, 2), cmp(0, &[10, 5])], net("10.5.0.0/16")),
        (vec![payload(16, 1), cmp(0, &[10])], net("10.0.0.0/8")),
        (
            vec![payload(16, 4), mask(&[255, 255, 192, 0]), cmp(0, &[10, 5, 64, 0])],
            net("10.5.64.0/18"),
        ),
        (vec![payload(12, 4), cmp(0, &[10, 5, 7, 2])], net("10.5.7.2/32")),
        (vec![payload(8, 6), cmp(0, &v6)], net("fd07:0:21::/48")),
        (vec![payload(24, 6), cmp(0, &v6)], net("fd07:0:21::/48")),
        // By a device, in a family, with a comment, counted.
        (
            vec![
                meta(15),
                cmp(0, &[2]),
                meta(6),
                cmp(0, b"eth0\0"),
                payload(12, 2),
                cmp(0, &[10, 5]),
                xt("comment"),
                counter(),
            ],
            net("10.5.0.0/16"),
        ),
        // From and to.
        (
            vec![payload(12, 1), cmp(0, &[10]), payload(16, 2), cmp(0, &[10, 5])],
            net("10.5.0.0/16"),
        ),
        (
            vec![payload(12, 2), cmp(0, &[10, 6]), payload(16, 2), cmp(0, &[10, 5])],
            Reach::Some,
        ),
    ] {
        assert_eq!(
            read(&[expressions.concat(), accept()]),
            (expected, Action::Accept)
        );
    }
}

#[test]
fn what_cannot_be_told_may_be_anything_and_what_is_narrower_is_some() {
    for (expressions, expected) in [
        (vec![], Reach::All),
        (vec![counter(), expression("log", &[])], Reach::All),
        (vec![meta(6), cmp(0, b"cni0\0")], Reach::Some),
        (vec![meta(7), cmp(1, b"docker0\0")], Reach::Some),
        (vec![meta(6), lookup(None)], Reach::Some),
        (vec![xt("physdev")], Reach::Some),
        (vec![ct(), mask(&[6, 0, 0, 0]), cmp(1, &[0; 4])], Reach::Some),
        (vec![xt("conntrack")], Reach::Some),
        (vec![expression("limit", &[])], Reach::Some),
        (vec![meta(16), cmp(0, &[6])], Reach::Some),
        // Not even from our network, if only to one port.
        (
            vec![
                payload(12, 2),
                cmp(0, &[10, 5]),
                expression("payload", &[be(1, 1), be(2, 2), be(3, 2), be(4, 2)]),
                cmp(0, &[0, 80]),
            ],
            Reach::Some,
        ),
        (vec![payload(12, 4), lookup(None)], Reach::Unknown),
        (vec![payload(12, 4), expression("range", &[])], Reach::Unknown),
        (vec![payload(12, 2), cmp(1, &[10, 6])], Reach::Unknown),
        (
            vec![payload(12, 4), mask(&[255, 0, 255, 0]), cmp(0, &[10, 0, 5, 0])],
            Reach::Unknown,
        ),
        (vec![xt("set")], Reach::Unknown),
        // Source and destination at once are single addresses.
        (
            vec![payload(12, 8), cmp(0, &[10, 5, 7, 2, 10, 5, 8, 3])],
            Reach::Some,
        ),
    ] {
        assert_eq!(
            read(&[expressions.concat(), accept()]),
            (expected, Action::Accept)
        );
    }
}

#[test]
fn verdicts_are_told_apart() {
    let target = |name: &str| expression("target", &[nested(1, format!("{name}\0").as_bytes())]);
    for (last, action) in [
        (verdict(ACCEPT, None), Action::Accept),
        (verdict(DROP, None), Action::Drop),
        (
            verdict(JUMP, Some("DOCKER-USER")),
            Action::Jump("DOCKER-USER".into()),
        ),
        (verdict(GOTO, Some("mine")), Action::Goto("mine".into())),
        (verdict(RETURN, None), Action::Return),
        // `NFT_CONTINUE`.
        (verdict((-1_i32).cast_unsigned(), None), Action::Other),
        (expression("reject", &[be(1, 2)]), Action::Drop),
        (target("REJECT"), Action::Drop),
        (target("DROP"), Action::Drop),
        (target("MARK"), Action::Other),
        (Vec::new(), Action::Other),
    ] {
        assert_eq!(read(&[last]), (Reach::All, action));
    }
    // `ct state vmap { established : accept }` lets nothing new in; other maps may.
    assert_eq!(read(&[ct(), lookup(Some(0))]).1, Action::Other);
    let by_device = [meta(6), lookup(Some(0))];
    assert_eq!(read(&by_device), (Reach::Unknown, Action::Accept));
    for queue in [expression("queue", &[]), target("NFQUEUE")] {
        assert_eq!(read(&[queue]), (Reach::Unknown, Action::Accept), "a program may");
    }
}

#[test]
fn a_counter_by_name_is_no_condition_and_a_quota_is_one() {
    let objref = |kind| expression("objref", &[be(1, kind), nested(2, b"name\0")]);
    assert_eq!(
        read(&[objref(1), expression("last", &[]), verdict(DROP, None)]),
        (Reach::All, Action::Drop)
    );
    assert_eq!(
        read(&[objref(2), verdict(DROP, None)]),
        (Reach::Some, Action::Drop)
    );
}

#[test]
fn a_rule_about_a_family_is_about_all_of_it_and_none_of_the_other() {
    let v4 = decode(&rule(&[meta(15), cmp(0, &[2]), verdict(DROP, None)])).unwrap();
    let v6 = decode(&rule(&[meta(15), cmp(0, &[10]), verdict(DROP, None)])).unwrap();
    let reach = |rule: &Rule| Family::ALL.map(|family| rule.reach_in(family, None));
    assert_eq!(reach(&v4), [Some(Reach::All), None]);
    assert_eq!(reach(&v6), [None, Some(Reach::All)]);
    let not_v4 = decode(&rule(&[meta(15), cmp(1, &[2]), verdict(DROP, None)])).unwrap();
    assert_eq!(reach(&not_v4), [Some(Reach::Some); 2]);
    let network = decode(&rule(&[payload(12, 1), cmp(0, &[10]), accept()])).unwrap();
    assert_eq!(reach(&network), [Some(net("10.0.0.0/8")), None]);
}

#[test]
fn a_rule_about_devices_is_judged_for_packets_that_come_from_elsewhere_and_go_by_one() {
    const INPUT: u32 = 6;
    const OUTPUT: u32 = 7;
    let decide = |conditions: &[(u32, u32, &[u8])]| {
        let conditions = conditions.iter();
        let mut all: Vec<Vec<u8>> = conditions
            .flat_map(|(key, operator, name)| [meta(*key), cmp(*operator, name)])
            .collect();
        all.push(verdict(DROP, None));
        let rule = decode(&rule(&all)).unwrap();
        assert_eq!(rule.reach_in(Family::V4, None), Some(Reach::Some));
        rule.reach_in(Family::V4, Some("docker0"))
    };
    let padded: &[u8] = b"docker0\0\0\0\0\0\0\0\0\0";
    for (conditions, expected) in [
        // -o docker0, ! -i docker0 -o docker0, ! -o eth0.
        (&[(OUTPUT, 0, &b"docker0\0"[..])][..], Some(Reach::All)),
        (&[(OUTPUT, 0, padded)], Some(Reach::All)),
        (
            &[(INPUT, 1, b"docker0\0"), (OUTPUT, 0, b"docker0\0")],
            Some(Reach::All),
        ),
        (&[(OUTPUT, 1, b"eth0\0")], Some(Reach::All)),
        // -i docker0, -o eth0, ! -o docker0.
        (&[(INPUT, 0, b"docker0\0")], None),
        (&[(OUTPUT, 0, b"eth0\0")], None),
        (&[(OUTPUT, 1, b"docker0\0")], None),
        // Some come by eth0, and others do not; what begins alike may be anything.
        (
            &[(INPUT, 0, b"eth0\0"), (OUTPUT, 0, b"docker0\0")],
            Some(Reach::Some),
        ),
        (&[(INPUT, 1, b"eth0\0")], Some(Reach::Some)),
        (&[(OUTPUT, 0, b"docker")], Some(Reach::Some)),
        (&[(OUTPUT, 5, b"docker0\0")], Some(Reach::Some)),
    ] {
        assert_eq!(decide(conditions), expected, "{conditions:?}");
    }
    let narrow = [meta(OUTPUT), cmp(0, b"docker0\0"), ct(), cmp(0, &[2]), accept()];
    let narrow = decode(&rule(&narrow)).unwrap();
    assert_eq!(narrow.reach_in(Family::V4, Some("docker0")), Some(Reach::Some));
    let network = [
        meta(OUTPUT),
        cmp(0, b"docker0\0"),
        payload(12, 1),
        cmp(0, &[10]),
        accept(),
    ];
    let network = decode(&rule(&network)).unwrap();
    let reach = |towards| network.reach_in(Family::V4, Some(towards));
    assert_eq!((reach("docker0"), reach("eth0")), (Some(net("10.0.0.0/8")), None));
}

#[test]
fn a_rule_cut_anywhere_is_refused_or_read_without_harm() {
    let whole = rule(&[payload(12, 4), mask(&[255; 4]), cmp(0, &[10, 5, 7, 2]), accept()]);
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = decode(&rule(&[bytes.clone(), accept()]));
        let _ = decode(&rule(&[expression("cmp", &[bytes])]));
    }

    #[test]
    fn every_network_is_read_out_of_value_and_mask(bits in 0u32.., length in 0u8..=32) {
        let net = ipnet::Ipv4Net::new(bits.into(), length).unwrap().trunc();
        let value = net.network().octets();
        let read = network(Family::V4, &value, Some(&net.netmask().octets()));
        proptest::prop_assert_eq!(read, Some(IpNet::V4(net)));
        let whole = usize::from(length / 8);
        if length % 8 == 0 && length > 0 {
            proptest::prop_assert_eq!(network(Family::V4, &value[..whole], None), Some(IpNet::V4(net)));
        }
    }
}
