//! What a rule of nftables accepts, as far as that can be told without being the kernel. Pure.
//!
//! A rule is a row of expressions: one loads a part of the packet into a register, the next cuts bits
//! off or compares, and the last gives a verdict (`linux/netfilter/nf_tables.h`). iptables-nft writes
//! the same.

use flannel_core::Family;
use ipnet::IpNet;
use netlink_packet_core::DecodeError;

use crate::attribute::{attribute, attributes, number, text};

/// `NFTA_RULE_EXPRESSIONS`, `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
const ATTR_EXPRESSIONS: u16 = 4;
const ATTR_EXPRESSION_NAME: u16 = 1;
const ATTR_EXPRESSION_DATA: u16 = 2;

/// `NFTA_DATA_VALUE` and `NFTA_DATA_VERDICT`.
const ATTR_VALUE: u16 = 1;
const ATTR_VERDICT: u16 = 2;

/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;

/// `NFT_CMP_EQ`.
const EQUAL: u32 = 0;

/// The keys of `NFTA_META_KEY` that tell of the way and the family of a packet: `NFT_META_PROTOCOL`,
/// `IIF`, `OIF`, `IIFNAME`, `OIFNAME`, `IIFTYPE`, `OIFTYPE`, `NFPROTO`.
const WAY: [u32; 8] = [1, 4, 5, 6, 7, 8, 9, 15];

/// `NF_ACCEPT`, and `NFT_JUMP` and `NFT_GOTO` as unsigned numbers.
const ACCEPT: u32 = 1;
const JUMP: u32 = (-3_i32).cast_unsigned();
const GOTO: u32 = (-4_i32).cast_unsigned();

/// What becomes of packets for which a rule's conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// They are accepted.
    Accept,
    /// The rules of a chain decide.
    Chain(String),
    /// Something else, or nothing.
    Other,
}

/// For which packets a rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of them.
    All,
    /// Those from or to this network, perhaps on some devices only.
    Network(IpNet),
    /// That cannot be told: perhaps all.
    Unknown,
    /// Some of them, such as those of a connection or a device.
    Some,
}

/// What a rule does, out of the payload of `NFT_MSG_NEWRULE` behind its header.
pub(crate) fn decode(rule: &[u8]) -> Result<(Reach, Action), DecodeError> {
    let mut reading = Reading::default();
    for element in attributes(attribute(rule, ATTR_EXPRESSIONS)?.unwrap_or_default()) {
        let (_, expression) = element?;
        let name = text(expression, ATTR_EXPRESSION_NAME)?.unwrap_or_default();
        let data = attribute(expression, ATTR_EXPRESSION_DATA)?.unwrap_or_default();
        reading.take(&name, data)?;
    }
    Ok((reading.reach(), reading.action))
}

/// What the last expression has loaded to be compared.
#[derive(Debug, Default)]
enum Loaded {
    /// The source or destination address, and which of its bits.
    Address(Family, Option<Vec<u8>>),
    /// By which device or in which family the packet comes or goes.
    Way,
    /// The state of its connection.
    Connection,
    #[default]
    Other,
}

/// A rule, read up to some expression.
#[derive(Debug)]
struct Reading {
    loaded: Loaded,
    networks: Vec<IpNet>,
    /// Whether there is a condition about the way.
    way: bool,
    /// Whether there is a condition about an address that cannot be told.
    unknown: bool,
    /// Whether there is any other condition.
    narrow: bool,
    action: Action,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            loaded: Loaded::Other,
            networks: Vec::new(),
            way: false,
            unknown: false,
            narrow: false,
            action: Action::Other,
        }
    }
}

impl Reading {
    fn take(&mut self, name: &str, data: &[u8]) -> Result<(), DecodeError> {
        match name {
            "payload" => self.loaded = load(data)?,
            "meta" => {
                let is_way = number(data, 2)?.is_some_and(|key| WAY.contains(&key));
                self.loaded = if is_way { Loaded::Way } else { Loaded::Other };
            }
            "ct" => self.loaded = Loaded::Connection,
            "bitwise" => {
                if let Loaded::Address(_, mask) = &mut self.loaded {
                    let value = attribute(data, 4)?.map(|mask| attribute(mask, ATTR_VALUE));
                    *mask = value.transpose()?.flatten().map(<[u8]>::to_vec);
                }
            }
            "cmp" => {
                let operator = number(data, 2)?;
                let value = attribute(attribute(data, 3)?.unwrap_or_default(), ATTR_VALUE)?;
                self.compare(operator == Some(EQUAL), value.unwrap_or_default());
            }
            "range" => self.unknown_value(),
            "lookup" => match (number(data, 3)?, &self.loaded) {
                (None, _) => self.unknown_value(),
                // A map of verdicts. By the state of a connection no new one is let in.
                (Some(0), Loaded::Connection) => {}
                (Some(0), _) => {
                    self.unknown = true;
                    self.action = Action::Accept;
                }
                (Some(_), _) => self.loaded = Loaded::Other,
            },
            "immediate" if number(data, 1)? == Some(0) => {
                let verdict = attribute(data, 2)?.unwrap_or_default();
                let verdict = attribute(verdict, ATTR_VERDICT)?.unwrap_or_default();
                self.action = match number(verdict, 1)? {
                    Some(ACCEPT) => Action::Accept,
                    Some(JUMP | GOTO) => text(verdict, 2)?.map_or(Action::Other, Action::Chain),
                    _ => Action::Other,
                };
            }
            "match" => match text(data, 1)?.as_deref() {
                Some("comment") => {}
                Some("physdev") => self.way = true,
                Some("iprange" | "set") => self.unknown = true,
                _ => self.narrow = true,
            },
            // These are no conditions.
            "counter" | "log" | "immediate" | "notrack" | "target" => {}
            _ => {
                self.narrow = true;
                self.loaded = Loaded::Other;
            }
        }
        Ok(())
    }

    fn compare(&mut self, equal: bool, value: &[u8]) {
        match &self.loaded {
            Loaded::Address(family, mask) if equal => match network(*family, value, mask.as_deref()) {
                Some(network) => self.networks.push(network),
                None => self.unknown = true,
            },
            _ => self.unknown_value(),
        }
    }

    fn unknown_value(&mut self) {
        match self.loaded {
            Loaded::Address(..) => self.unknown = true,
            Loaded::Way => self.way = true,
            Loaded::Connection | Loaded::Other => self.narrow = true,
        }
    }

    fn reach(&self) -> Reach {
        if self.narrow {
            return Reach::Some;
        }
        if self.unknown {
            return Reach::Unknown;
        }
        match &self.networks[..] {
            [] if self.way => Reach::Some,
            [] => Reach::All,
            [network] => Reach::Network(*network),
            // From one to the other.
            [one, other, ..] if one.contains(other) => Reach::Network(*other),
            [one, other, ..] if other.contains(one) => Reach::Network(*one),
            _ => Reach::Some,
        }
    }
}

/// What a `payload` expression loads: both headers have source and destination one behind the other.
fn load(data: &[u8]) -> Result<Loaded, DecodeError> {
    let (base, offset, length) = (number(data, 2)?, number(data, 3)?, number(data, 4)?);
    Ok(match (base, offset, length) {
        (Some(NETWORK_HEADER), Some(12 | 16), Some(1..=4)) => Loaded::Address(Family::V4, None),
        (Some(NETWORK_HEADER), Some(8 | 24), Some(1..=16)) => Loaded::Address(Family::V6, None),
        _ => Loaded::Other,
    })
}

/// The network whose addresses begin with `value`, of which only the bits of `mask` count. Whole
/// leading bytes are compared without a mask.
fn network(family: Family, value: &[u8], mask: Option<&[u8]>) -> Option<IpNet> {
    let full = vec![0xff; value.len()];
    let mask = mask.unwrap_or(&full);
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let set: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let whole = mask.iter().take_while(|byte| **byte == 0xff).count();
    let is_prefix = ones == set && mask.iter().skip(whole + 1).all(|byte| *byte == 0);
    let length = u8::try_from(ones).ok().filter(|_| is_prefix)?;
    let mut octets = [0; 16];
    octets.get_mut(..value.len())?.copy_from_slice(value);
    let net = match family {
        Family::V4 => IpNet::new(<[u8; 4]>::try_from(&octets[..4]).ok()?.into(), length),
        Family::V6 => IpNet::new(octets.into(), length),
    };
    net.ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
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
            let read = decode(&rule(&[expressions.concat(), accept()])).unwrap();
            assert_eq!(read, (expected, Action::Accept));
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
            let read = decode(&rule(&[expressions.concat(), accept()])).unwrap();
            assert_eq!(read, (expected, Action::Accept));
        }
    }

    #[test]
    fn verdicts_are_told_apart() {
        for (last, action) in [
            (verdict(ACCEPT, None), Action::Accept),
            (verdict(0, None), Action::Other),
            (
                verdict(JUMP, Some("DOCKER-USER")),
                Action::Chain("DOCKER-USER".into()),
            ),
            (verdict(GOTO, Some("mine")), Action::Chain("mine".into())),
            (verdict((-5_i32).cast_unsigned(), None), Action::Other),
            (expression("target", &[nested(1, b"REJECT\0")]), Action::Other),
            (Vec::new(), Action::Other),
        ] {
            assert_eq!(decode(&rule(&[last])).unwrap(), (Reach::All, action));
        }
        // `ct state vmap { established : accept }` lets nothing new in; other maps may.
        let by_state = rule(&[ct(), lookup(Some(0))]);
        assert_eq!(decode(&by_state).unwrap().1, Action::Other);
        let by_device = rule(&[meta(6), lookup(Some(0))]);
        assert_eq!(decode(&by_device).unwrap(), (Reach::Unknown, Action::Accept));
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
}
