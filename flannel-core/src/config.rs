//! The network's configuration: flannel's JSON, its defaults and its validation.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::json::{MemberError, Members, cut, is_null};
use crate::spelling::nearest;
use crate::subnet::parse_net;
use crate::{Family, PerFamily, SubnetKey};

/// What the store says about the whole network: its ranges, how they are cut, the backend.
///
/// ```
/// use flannel_core::NetworkConfig;
///
/// let json = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}"#;
/// let config = NetworkConfig::from_json(json)?;
/// let v4 = config.ranges.v4.unwrap();
/// assert_eq!((v4.subnet_len, v4.first.to_string()), (24, "10.5.1.0".to_owned()));
/// assert_eq!(config.backend.kind, "host-gw");
/// # Ok::<(), flannel_core::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The range of each enabled family. At least one is there.
    pub ranges: PerFamily<Range>,
    /// Which backend, and its options.
    pub backend: BackendConfig,
    /// Whether firewall rules go to nftables instead of iptables.
    pub nftables: bool,
    /// Destinations to which pods keep their addresses where the network is masqueraded
    /// (`NonMasqueradeCIDRs`, which flannel does not know): of either family, each once.
    pub unmasqueraded: Vec<IpNet>,
    /// Members that are ignored, as all are that nobody knows, and were hardly meant to be.
    pub misspelt: Vec<Misspelt>,
    /// The text that it was read from, without the space around it.
    pub text: Box<str>,
}

/// A member that nobody knows, and whose name is nearly a known one's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{found:?} is no member of the network config: was {meant:?} meant?")]
pub struct Misspelt {
    /// Its name, cut off after 100 characters.
    pub found: String,
    /// The known name.
    pub meant: &'static str,
}

/// The part of one family: a network, cut into subnets of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The whole network, host bits cut off.
    pub network: IpNet,
    /// The prefix length of the subnet that each host gets.
    pub subnet_len: u8,
    /// The first subnet that is given out (`SubnetMin`).
    pub first: IpAddr,
    /// The last subnet that is given out (`SubnetMax`).
    pub last: IpAddr,
}

/// The `Backend` object.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    /// `Type` in lower case.
    pub kind: String,
    /// The whole object as it was written, for the backend to read its options from.
    pub options: Box<RawValue>,
}

impl BackendConfig {
    /// Options that nobody knows, and whose names are nearly those of `known` ones.
    #[must_use]
    pub fn misspelt(&self, known: &[&'static str]) -> Vec<Misspelt> {
        let members: Members = serde_json::from_str(self.options.get()).unwrap_or_default();
        let members = members.rest();
        let is_known = |name: &str| {
            let mut all = known.iter().chain(&[TYPE]);
            all.any(|known| known.eq_ignore_ascii_case(name))
        };
        let unknown = members.iter().filter(|(name, _)| !is_known(name));
        let misspelt = unknown.filter_map(|(name, _)| {
            let meant = nearest(name, known.iter().copied())?;
            let found = name.chars().take(100).collect();
            Some(Misspelt { found, meant })
        });
        misspelt.take(MISSPELT).collect()
    }
}

/// Why a text is not a network configuration. Where flannel has a message, this is it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no configuration at all.
    #[error("no network config at {place}; put one there, such as {example}", example = EXAMPLE)]
    Missing {
        /// Where the store looked.
        place: String,
    },
    /// There is one, but it cannot be read.
    #[error("cannot read the network config at {place}: {reason}")]
    Unreadable {
        /// Where the store looked.
        place: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// Not a JSON object.
    #[error("the network config is not a JSON object: {0}")]
    NotJson(#[source] serde_json::Error),
    /// A member has a value of the wrong kind.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// flannel would take udp, which no kernel forwards for; nobody means that.
    #[error("the network config has no Backend; add one, such as \"Backend\": {{\"Type\": \"host-gw\"}}")]
    NoBackend,
    /// Neither family is enabled.
    #[error("none defined stack: EnableIPv4 is false and EnableIPv6 is not true; enable one of them")]
    NoFamily,
    /// The ranges contradict each other or the network.
    #[error("{0}")]
    Range(String),
    /// It cannot be read, perhaps because of a misspelt member.
    #[error("{error}; {misspelt}")]
    Misspelt {
        /// Why it cannot be read.
        error: Box<ConfigError>,
        /// The first such member.
        misspelt: Misspelt,
    },
}

/// A configuration that works, for messages.
const EXAMPLE: &str = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}"#;

/// The members that belong to neither family.
const COMMON: [&str; 5] = [
    "Backend",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    NON_MASQUERADE,
];

/// The member of `Backend` that names the backend.
const TYPE: &str = "Type";

const NON_MASQUERADE: &str = "NonMasqueradeCIDRs";

/// Each of them is a rule that packets are compared with.
const MOST_UNMASQUERADED: usize = 256;

/// What people write before the names of IPv4's members, in analogy to IPv6's.
const V4_PREFIX: &str = "IPv4";

/// Misspelt members that are told of.
const MISSPELT: usize = 8;

/// The names and limits in which the families differ; everything else is one piece of code.
struct Names {
    network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    cidr: &'static str,
    address: &'static str,
    /// The longest subnet: a /30, a /126.
    longest_subnet: u8,
    /// Up to this network length the default subnet is `default_subnet`.
    widest_cut: u8,
    default_subnet: u8,
    smallest_network: u8,
}

const NAMES: [Names; 2] = [
    Names {
        network: "Network",
        subnet_len: "SubnetLen",
        min: "SubnetMin",
        max: "SubnetMax",
        cidr: "an IPv4 CIDR such as \"10.244.0.0/16\"",
        address: "an IPv4 address such as \"10.244.1.0\"",
        longest_subnet: 30,
        widest_cut: 22,
        default_subnet: 24,
        smallest_network: 28,
    },
    Names {
        network: "IPv6Network",
        subnet_len: "IPv6SubnetLen",
        min: "IPv6SubnetMin",
        max: "IPv6SubnetMax",
        cidr: "an IPv6 CIDR such as \"fd00:10::/48\"",
        address: "an IPv6 address such as \"fd00:10:0:1::\"",
        longest_subnet: 126,
        widest_cut: 62,
        default_subnet: 64,
        smallest_network: 124,
    },
];

impl NetworkConfig {
    /// Reads what flannel reads: names in any case, the last duplicate wins, unknown members are
    /// ignored, `null` leaves a number, a flag or an IPv6 bound at its default.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with flannel's own words where it has some.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let members: Members = serde_json::from_str(json).map_err(ConfigError::NotJson)?;
        let members = members.rest();
        let misspelt: Vec<Misspelt> = members
            .iter()
            .filter_map(|(name, _)| misspelt(name))
            .take(MISSPELT)
            .collect();
        match (Self::from_members(members.into()), misspelt.first()) {
            (Err(error), Some(misspelt)) => Err(ConfigError::Misspelt {
                error: Box::new(error),
                misspelt: misspelt.clone(),
            }),
            (config, _) => Ok(Self {
                misspelt,
                text: json.trim().into(),
                ..config?
            }),
        }
    }

    fn from_members(mut members: Members) -> Result<Self, ConfigError> {
        let enabled = [
            members.read("EnableIPv4", "true or false")?.unwrap_or(true),
            members.read("EnableIPv6", "true or false")?.unwrap_or(false),
        ];
        let mut ranges = PerFamily::NONE;
        for family in Family::ALL {
            let written = Written::read(&mut members, family)?;
            if enabled[family as usize] {
                ranges.set(family, Some(written.range(family)?));
            }
        }
        if ranges.is_empty() {
            return Err(ConfigError::NoFamily);
        }
        let nftables = members.read("EnableNFTables", "true or false")?.unwrap_or(false);
        let unmasqueraded = unmasqueraded(&mut members)?;
        let options = members.take("Backend").ok_or(ConfigError::NoBackend)?;
        let kind = backend_kind(&options)?;
        Ok(Self {
            ranges,
            backend: BackendConfig { kind, options },
            nftables,
            unmasqueraded,
            misspelt: Vec::new(),
            text: Box::default(),
        })
    }

    /// Whether a host may hold this subnet: of exactly the enabled families, cut as configured,
    /// between the first and the last.
    #[must_use]
    pub fn gives_out(&self, subnet: &SubnetKey) -> bool {
        Family::ALL
            .into_iter()
            .all(|family| match (self.ranges.get(family), subnet.net(family)) {
                (None, None) => true,
                (Some(range), Some(net)) => range.gives_out(net),
                _ => false,
            })
    }

    /// Whether it says the same.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.ranges == other.ranges
            && self.backend.kind == other.backend.kind
            && self.backend.options.get() == other.backend.options.get()
            && self.nftables == other.nftables
            && self.unmasqueraded == other.unmasqueraded
    }

    /// The networks of the enabled families.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.ranges.iter().map(|(_, range)| range.network)
    }
}

impl Range {
    /// Whether `subnet` is one of those that this range is cut into.
    #[must_use]
    pub fn gives_out(&self, subnet: IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len
            && subnet == subnet.trunc()
            && Family::of_net(subnet) == Family::of_net(self.network)
            && (self.first..=self.last).contains(&subnet.network())
    }

    /// How many subnets there are to give out; 0 when `SubnetMin` lies above `SubnetMax`.
    #[must_use]
    pub fn count(&self) -> u128 {
        let (first, last) = (Family::to_number(self.first), Family::to_number(self.last));
        if first > last {
            0
        } else {
            ((last - first) >> self.host_bits()) + 1
        }
    }

    /// The subnet at `index`, counted from the first; `None` beyond the last.
    #[must_use]
    pub fn nth(&self, index: u128) -> Option<IpNet> {
        if index >= self.count() {
            return None;
        }
        let number = Family::to_number(self.first) + (index << self.host_bits());
        IpNet::new(Family::of_net(self.network).address(number), self.subnet_len).ok()
    }

    /// The places of the subnets that share an address with `net`; `None` when there are none.
    pub(crate) fn indices(&self, net: IpNet) -> Option<std::ops::Range<u128>> {
        if Family::of_net(net) != Family::of_net(self.network) {
            return None;
        }
        let first = Family::to_number(self.first);
        let place =
            |address| (Family::to_number(address).checked_sub(first)).map(|bits| bits >> self.host_bits());
        let start = place(net.network()).unwrap_or(0);
        let end = (place(net.broadcast())? + 1).min(self.count());
        (start < end).then_some(start..end)
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.network.max_prefix_len() - self.subnet_len)
    }
}

/// The members of one family as they stand in the JSON.
struct Written {
    network: Option<IpNet>,
    subnet_len: u8,
    min: Option<IpAddr>,
    max: Option<IpAddr>,
}

impl Written {
    fn read(members: &mut Members, family: Family) -> Result<Self, ConfigError> {
        let names = &NAMES[family as usize];
        let network = members
            .take(names.network)
            .map(|value| cidr(&value, family))
            .transpose()?;
        let mut bound = |member| {
            // flannel takes null for the bounds of IPv6 alone.
            let value = members
                .take(member)
                .filter(|value| family == Family::V4 || !is_null(value));
            value.map(|value| address(&value, member, family)).transpose()
        };
        let (min, max) = (bound(names.min)?, bound(names.max)?);
        let subnet_len: Option<u64> = members.read(names.subnet_len, "a whole number")?;
        let some = |address: &IpAddr| !address.is_unspecified();
        Ok(Self {
            network: network
                .map(|network| network.trunc())
                .filter(|net| net.prefix_len() > 0),
            subnet_len: u8::try_from(subnet_len.unwrap_or(0)).unwrap_or(u8::MAX),
            min: min.filter(some),
            max: max.filter(some),
        })
    }

    fn range(&self, family: Family) -> Result<Range, ConfigError> {
        let names = &NAMES[family as usize];
        let Some(network) = self.network else {
            return refuse(format!(
                "please define a correct {} parameter in the flannel config",
                names.network
            ));
        };
        let prefix = network.prefix_len();
        let subnet_len = match self.subnet_len {
            0 if prefix > names.smallest_network => {
                let name = if family == Family::V4 {
                    "network"
                } else {
                    names.network
                };
                return refuse(format!(
                    "{name} is too small. Minimum useful network prefix is /{}",
                    names.smallest_network
                ));
            }
            0 if prefix <= names.widest_cut => names.default_subnet,
            0 => prefix + 2,
            len if len > names.longest_subnet => {
                return refuse(format!(
                    "SubnetLen must be less than /{}",
                    names.longest_subnet + 1
                ));
            }
            len if len < prefix + 2 => {
                return refuse("network must be able to accommodate at least four subnets");
            }
            len => len,
        };
        let size = 1u128 << (family.bits() - subnet_len);
        let first = self
            .min
            .unwrap_or_else(|| family.address(Family::to_number(network.network()) + size));
        let last = self
            .max
            .unwrap_or_else(|| family.address(Family::to_number(network.broadcast()) - (size - 1)));
        for (name, bound) in [(names.min, first), (names.max, last)] {
            if !network.contains(&bound) {
                return refuse(format!("{name} is not in the range of the {}", names.network));
            }
        }
        for (name, bound) in [(names.min, first), (names.max, last)] {
            if !Family::to_number(bound).is_multiple_of(size) {
                return refuse(format!("{name} is not on a SubnetLen boundary: {bound}"));
            }
        }
        Ok(Range {
            network,
            subnet_len,
            first,
            last,
        })
    }
}

/// What is meant by a member of this name, unless it is known or nothing like it is.
fn misspelt(name: &str) -> Option<Misspelt> {
    let of_family = |names: &Names| [names.network, names.subnet_len, names.min, names.max];
    let known = || NAMES.iter().flat_map(of_family).chain(COMMON);
    if known().any(|known| known.eq_ignore_ascii_case(name)) {
        return None;
    }
    let prefix = name.get(..V4_PREFIX.len());
    let analogous = prefix
        .filter(|prefix| prefix.eq_ignore_ascii_case(V4_PREFIX))
        .is_some();
    let (name_meant, family) = match analogous {
        true => (&name[V4_PREFIX.len()..], &NAMES[..1]),
        false => (name, &NAMES[..]),
    };
    let meant = nearest(name_meant, family.iter().flat_map(of_family).chain(COMMON))?;
    let found = name.chars().take(100).collect();
    Some(Misspelt { found, meant })
}

fn refuse<T>(why: impl Display) -> Result<T, ConfigError> {
    Err(ConfigError::Range(why.to_string()))
}

fn unmasqueraded(members: &mut Members) -> Result<Vec<IpNet>, ConfigError> {
    let expected = "a list of CIDRs such as [\"192.168.0.0/16\"]";
    let texts: Vec<String> = members.read(NON_MASQUERADE, expected)?.unwrap_or_default();
    let mut ranges: Vec<IpNet> = Vec::new();
    for text in texts {
        let Some(range) = parse_net(&text) else {
            let text: String = text.chars().take(100).collect();
            return refuse(format!(
                "{NON_MASQUERADE} holds {text:?}, which is no CIDR such as \"192.168.0.0/16\" or \"fd00:20::/48\""
            ));
        };
        if !ranges.contains(&range.trunc()) {
            ranges.push(range.trunc());
        }
    }
    if ranges.len() > MOST_UNMASQUERADED {
        return refuse(format!(
            "{NON_MASQUERADE} holds {} ranges; {MOST_UNMASQUERADED} is the most: join those that are neighbours",
            ranges.len()
        ));
    }
    Ok(ranges)
}

fn backend_kind(options: &RawValue) -> Result<String, ConfigError> {
    let expected = "an object such as {\"Type\": \"host-gw\"}";
    let wrong = || MemberError::new("Backend", options.get(), expected);
    let mut backend: Members = serde_json::from_str(options.get()).map_err(|_| wrong())?;
    let kind: Option<String> = backend.read(TYPE, "a string such as \"host-gw\"")?;
    match kind {
        Some(kind) if !kind.is_empty() => Ok(kind.to_ascii_lowercase()),
        _ => Err(wrong().into()),
    }
}

/// A CIDR of this family, host bits and all.
fn cidr(value: &RawValue, family: Family) -> Result<IpNet, ConfigError> {
    let names = &NAMES[family as usize];
    let text = unquoted(value);
    let wrong = |what: &str| {
        refuse(format!(
            "{what}: {text}; {} must be {}",
            names.network, names.cidr
        ))
    };
    match parse_net(&text) {
        Some(net) if Family::of_net(net) == family => Ok(net),
        Some(_) => wrong(&format!("invalid {family} CIDR format")),
        None => wrong("invalid CIDR address"),
    }
}

/// An address of this family.
fn address(value: &RawValue, member: &str, family: Family) -> Result<IpAddr, ConfigError> {
    let names = &NAMES[family as usize];
    let text = unquoted(value);
    let wrong = |what: &str| refuse(format!("{what}: {text}; {member} must be {}", names.address));
    match text.parse::<IpAddr>() {
        Ok(address) if Family::of(address) == family => Ok(address),
        Ok(_) => wrong(&format!("invalid {family} address format")),
        Err(_) => wrong("invalid IP address format"),
    }
}

/// flannel strips quotes before it parses addresses, so that a bare number fails as an address.
fn unquoted(value: &RawValue) -> String {
    cut(value.get()).trim_matches('"').to_owned()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
