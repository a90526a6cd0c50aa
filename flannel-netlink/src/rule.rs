//! What a rule of nftables decides, as far as that can be told without being the kernel. Pure.
//!
//! A rule is a row of expressions: one loads a part of the packet into a register, the next cuts bits
//! off or compares, and the last gives a verdict (`linux/netfilter/nf_tables.h`). iptables-nft writes
//! the same.

use flannel_core::Family;
use ipnet::IpNet;
use netlink_packet_core::DecodeError;

use crate::attribute::{attribute, attributes, number, text};
use crate::nf_tables::{IPV4, IPV6};

/// `NFTA_RULE_EXPRESSIONS`, `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
const ATTR_EXPRESSIONS: u16 = 4;
const ATTR_EXPRESSION_NAME: u16 = 1;
const ATTR_EXPRESSION_DATA: u16 = 2;

/// `NFTA_DATA_VALUE` and `NFTA_DATA_VERDICT`.
const ATTR_VALUE: u16 = 1;
const ATTR_VERDICT: u16 = 2;

/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;

/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// The keys of `NFTA_META_KEY` that tell of the way of a packet: `NFT_META_PROTOCOL`, `IIF`, `OIF`,
/// `IIFNAME`, `OIFNAME`, `IIFTYPE`, `OIFTYPE`; and the one that tells of its family, `NFT_META_NFPROTO`.
const WAY: [u32; 7] = [1, 4, 5, INPUT_NAME, OUTPUT_NAME, 8, 9];
const INPUT_NAME: u32 = 6;
const OUTPUT_NAME: u32 = 7;
const FAMILY: u32 = 15;

/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

/// `NF_DROP` and `NF_ACCEPT`, and `NFT_JUMP`, `NFT_GOTO` and `NFT_RETURN` as unsigned numbers.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const JUMP: u32 = (-3_i32).cast_unsigned();
const GOTO: u32 = (-4_i32).cast_unsigned();
const RETURN: u32 = (-5_i32).cast_unsigned();

/// What becomes of packets for which a rule's conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// They are accepted.
    Accept,
    /// They are dropped or refused.
    Drop,
    /// The rules of a chain decide, and after them the next rule.
    Jump(String),
    /// The rules of a chain decide instead of this one's.
    Goto(String),
    /// The chain that led here decides.
    Return,
    /// Something else, or nothing.
    Other,
}

/// For which packets a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The only family whose packets it is about, if it names one.
    pub(crate) family: Option<Family>,
    pub(crate) reach: Reach,
    /// The way that they have to take, if it names one.
    pub(crate) way: Option<Way>,
    pub(crate) action: Action,
}

/// By which devices packets have to come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// Whether they have to come by a device, or by another.
    input: Vec<(bool, String)>,
    /// The same of where they go.
    pub(crate) output: Vec<(bool, String)>,
    /// Whether anything else is demanded.
    untold: bool,
    /// For which of those that take it the rule decides.
    reach: Reach,
}

impl Rule {
    /// For which packets of a family it decides, of all or of those `towards` a device that come by
    /// others; `None` for none.
    pub(crate) fn reach_in(&self, family: Family, towards: Option<&str>) -> Option<Reach> {
        let reach = match (&self.way, towards) {
            (Some(way), Some(device)) => way.reach_towards(device, self.reach)?,
            _ => self.reach,
        };
        let of = match reach {
            Reach::Network(network) => Some(Family::of_net(network)),
            _ => None,
        };
        let is_other = |named: Option<Family>| named.is_some_and(|named| named != family);
        (!is_other(self.family) && !is_other(of)).then_some(reach)
    }
}

impl Way {
    fn reach_towards(&self, device: &str, otherwise: Reach) -> Option<Reach> {
        let output = self.output.iter().all(|(same, name)| (name == device) == *same);
        let input = !self.input.iter().any(|(same, name)| name == device && *same);
        // By which of the others they come is not known.
        let any_input = self.input.iter().all(|(_, name)| name == device);
        let known = any_input && !self.untold;
        (output && input).then_some(if known { self.reach } else { otherwise })
    }
}

/// What a rule does, out of the attributes of `NFT_MSG_NEWRULE`.
pub(crate) fn decode(rule: &[u8]) -> Result<Rule, DecodeError> {
    let mut reading = Reading::default();
    for element in attributes(attribute(rule, ATTR_EXPRESSIONS)?.unwrap_or_default()) {
        let (_, expression) = element?;
        let name = text(expression, ATTR_EXPRESSION_NAME)?.unwrap_or_default();
        let data = attribute(expression, ATTR_EXPRESSION_DATA)?.unwrap_or_default();
        reading.take(&name, data)?;
    }
    let on_way = reading.reach_on_way();
    let reach = reading.reach();
    let way = reading.way.map(|way| Way { reach: on_way, ..way });
    Ok(Rule {
        family: reading.family,
        reach,
        way,
        action: reading.action,
    })
}

/// What the last expression has loaded to be compared.
#[derive(Debug, Default)]
enum Loaded {
    /// The source or destination address, and which of its bits.
    Address(Family, Option<Vec<u8>>),
    /// By which device the packet comes or goes, by this key.
    Way(u32),
    /// Of which family it is.
    Family,
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
    family: Option<Family>,
    /// The conditions about the way, if there are any.
    way: Option<Way>,
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
            family: None,
            way: None,
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
                self.loaded = match number(data, 2)? {
                    Some(FAMILY) => Loaded::Family,
                    Some(key) if WAY.contains(&key) => Loaded::Way(key),
                    _ => Loaded::Other,
                };
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
                self.compare(operator, value.unwrap_or_default());
            }
            "range" => self.unknown_value(),
            "lookup" => match (number(data, 3)?, &self.loaded) {
                (None, _) => self.unknown_value(),
                // A map of verdicts. By the state of a connection no new one is let in.
                (Some(0), Loaded::Connection) => {}
                (Some(0), _) => self.may_accept(),
                (Some(_), _) => self.loaded = Loaded::Other,
            },
            "immediate" if number(data, 1)? == Some(0) => {
                let verdict = attribute(data, 2)?.unwrap_or_default();
                let verdict = attribute(verdict, ATTR_VERDICT)?.unwrap_or_default();
                let chain = text(verdict, 2)?;
                self.action = match (number(verdict, 1)?, chain) {
                    (Some(DROP), _) => Action::Drop,
                    (Some(ACCEPT), _) => Action::Accept,
                    (Some(JUMP), Some(chain)) => Action::Jump(chain),
                    (Some(GOTO), Some(chain)) => Action::Goto(chain),
                    (Some(RETURN), _) => Action::Return,
                    _ => Action::Other,
                };
            }
            "reject" => self.action = Action::Drop,
            // A program decides.
            "queue" => self.may_accept(),
            "target" => match text(data, 1)?.as_deref() {
                Some("REJECT" | "DROP") => self.action = Action::Drop,
                Some("NFQUEUE") => self.may_accept(),
                _ => {}
            },
            "match" => match text(data, 1)?.as_deref() {
                Some("comment") => {}
                Some("physdev") => self.on_way().untold = true,
                Some("iprange" | "set") => self.unknown = true,
                _ => self.narrow = true,
            },
            // These are no conditions.
            "counter" | "last" | "log" | "immediate" | "notrack" => {}
            "objref" if number(data, 1)? == Some(COUNTER) => {}
            _ => {
                self.narrow = true;
                self.loaded = Loaded::Other;
            }
        }
        Ok(())
    }

    fn may_accept(&mut self) {
        self.unknown = true;
        self.action = Action::Accept;
    }

    fn compare(&mut self, operator: Option<u32>, value: &[u8]) {
        let equal = operator == Some(EQUAL);
        match &self.loaded {
            Loaded::Way(key @ (INPUT_NAME | OUTPUT_NAME)) if equal || operator == Some(UNEQUAL) => {
                let key = *key;
                match name(value) {
                    Some(name) if key == INPUT_NAME => self.on_way().input.push((equal, name)),
                    Some(name) => self.on_way().output.push((equal, name)),
                    None => self.on_way().untold = true,
                }
            }
            Loaded::Family if equal && value == [IPV4] => self.family = Some(Family::V4),
            Loaded::Family if equal && value == [IPV6] => self.family = Some(Family::V6),
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
            Loaded::Way(_) | Loaded::Family => self.on_way().untold = true,
            Loaded::Connection | Loaded::Other => self.narrow = true,
        }
    }

    fn on_way(&mut self) -> &mut Way {
        self.way.get_or_insert_with(|| Way {
            input: Vec::new(),
            output: Vec::new(),
            untold: false,
            reach: Reach::All,
        })
    }

    fn reach(&self) -> Reach {
        match self.reach_on_way() {
            Reach::All if self.way.is_some() => Reach::Some,
            reach => reach,
        }
    }

    fn reach_on_way(&self) -> Reach {
        if self.narrow {
            return Reach::Some;
        }
        if self.unknown {
            return Reach::Unknown;
        }
        match &self.networks[..] {
            [] => Reach::All,
            [network] => Reach::Network(*network),
            // From one to the other.
            [one, other, ..] if one.contains(other) => Reach::Network(*other),
            [one, other, ..] if other.contains(one) => Reach::Network(*one),
            _ => Reach::Some,
        }
    }
}

/// A device's name, where it is compared as a whole and not by how it begins.
fn name(value: &[u8]) -> Option<String> {
    let (last, name) = value.split_last()?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    (*last == 0 && !name.is_empty()).then(|| name.to_owned())
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
#[path = "rule_tests.rs"]
mod tests;
