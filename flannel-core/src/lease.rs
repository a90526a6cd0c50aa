//! Leases: what every host publishes about itself, and its JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::time::Instant;

use crate::json::{MemberError, Members, is_null};
use crate::{Family, PerFamily, SubnetKey};

/// The member of a lease value that holds the [`NodeId`]. flannel ignores it.
const NODE_ID: &str = "NodeID";

/// A subnet that a host holds, as the store has it.
///
/// ```
/// use flannel_core::{Lease, LeaseAttrs};
///
/// let attrs = LeaseAttrs::from_json(r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#)?;
/// let lease = Lease::new("10.5.1.0/24".parse().unwrap(), attrs);
/// assert_eq!(lease.subnet.to_key(), "10.5.1.0-24");
/// # Ok::<(), flannel_core::LeaseValueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lease {
    /// Which subnet.
    pub subnet: SubnetKey,
    /// What its holder published.
    pub attrs: LeaseAttrs,
    /// When it ends unless renewed. `None`: never, it was put there by hand.
    pub expires: Option<Instant>,
    /// Which of two overlapping leases is older: the lower. Units are the store's own.
    pub created: u64,
    /// What the store compares when it swaps. Opaque to everybody else.
    pub token: Token,
}

impl Lease {
    /// A lease that never expires and that no store has seen.
    #[must_use]
    pub fn new(subnet: SubnetKey, attrs: LeaseAttrs) -> Self {
        Self {
            subnet,
            attrs,
            expires: None,
            created: 0,
            token: Token::default(),
        }
    }
}

/// A version of a lease in its store. Only the store that made it can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Token {
    /// Differs whenever the stored value does: etcd's mod revision, a digest of the file.
    pub revision: u64,
    /// What keeps the value alive, where that is an object of its own: etcd's lease id.
    pub grant: i64,
}

/// Which host a lease belongs to, whatever its address: 128 random bits, kept in the state directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| hex);
        number.map(Self).ok_or_else(|| NodeIdError(text.to_owned()))
    }
}

/// A text that is no [`NodeId`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a node id: 32 hexadecimal digits")]
pub struct NodeIdError(pub String);

/// What a host publishes with its lease. As JSON it is flannel's lease value: the same members in
/// the same order, then ours, then whatever else stood there when it was read.
#[derive(Debug, Clone, Default)]
pub struct LeaseAttrs {
    /// The address at which other hosts reach this one, per family.
    pub public: PerFamily<IpAddr>,
    /// The backend's name, `host-gw`. Empty where flannel leaves it out (udp, alloc).
    pub backend: String,
    /// The backend's data for IPv4, raw JSON.
    pub backend_data: Option<Box<RawValue>>,
    /// The backend's data for IPv6, raw JSON.
    pub backend_v6_data: Option<Box<RawValue>>,
    /// Who holds the lease. `None`: written by flannel.
    pub node: Option<NodeId>,
    /// Members that are nobody's here; they are written back as they were.
    pub unknown: Vec<(String, Box<RawValue>)>,
}

/// Why a text is not a lease value.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LeaseValueError {
    /// No JSON object at all.
    #[error("not a JSON object: {0}")]
    NotJson(#[source] serde_json::Error),
    /// A member has a value that it cannot have.
    #[error(transparent)]
    Member(#[from] MemberError),
}

impl LeaseAttrs {
    /// Reads a lease value as flannel does: names in any case, missing and unknown ones accepted.
    ///
    /// # Errors
    ///
    /// [`LeaseValueError`], when it is no JSON object or a known member is of the wrong kind.
    pub fn from_json(json: &str) -> Result<Self, LeaseValueError> {
        let mut members: Members = serde_json::from_str(json).map_err(LeaseValueError::NotJson)?;
        let v4: Option<Ipv4Addr> = members.read("PublicIP", "an IPv4 address")?;
        let v6: Option<Ipv6Addr> = members.read("PublicIPv6", "an IPv6 address")?;
        // flannel writes 0.0.0.0 for "none": the member is never left out.
        let v4 = v4.filter(|v4| !v4.is_unspecified()).map(IpAddr::V4);
        let v6 = v6.filter(|v6| !v6.is_unspecified()).map(IpAddr::V6);
        let backend: Option<String> = members.read("BackendType", "a string")?;
        let node: Option<String> = members.read(NODE_ID, "a string")?;
        Ok(Self {
            public: PerFamily { v4, v6 },
            backend: backend.unwrap_or_default(),
            backend_data: members.take("BackendData").filter(|data| !is_null(data)),
            backend_v6_data: members.take("BackendV6Data").filter(|data| !is_null(data)),
            // An id that we could not have written is as good as none.
            node: node.and_then(|node| node.parse().ok()),
            unknown: members.rest(),
        })
    }

    /// Takes a member that belongs to a store, such as its expiry, out of the unknown ones.
    ///
    /// # Errors
    ///
    /// [`MemberError`], when its value is not what `expected` describes.
    pub fn take_unknown<T: DeserializeOwned>(
        &mut self,
        member: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, MemberError> {
        let mut members = Members::from(std::mem::take(&mut self.unknown));
        let value = members.read(member, expected);
        self.unknown = members.rest();
        value
    }

    /// The value as stores keep it.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for LeaseAttrs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("PublicIP", &self.public.v4.unwrap_or(Family::V4.unspecified()))?;
        map.serialize_entry("PublicIPv6", &self.public.v6)?;
        if !self.backend.is_empty() {
            map.serialize_entry("BackendType", &self.backend)?;
        }
        if let Some(data) = &self.backend_data {
            map.serialize_entry("BackendData", data)?;
        }
        if let Some(data) = &self.backend_v6_data {
            map.serialize_entry("BackendV6Data", data)?;
        }
        if let Some(node) = self.node {
            map.serialize_entry(NODE_ID, &node.to_string())?;
        }
        for (name, value) in &self.unknown {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl PartialEq for LeaseAttrs {
    fn eq(&self, other: &Self) -> bool {
        let text = |data: &Option<Box<RawValue>>| data.as_ref().map(|data| data.get().to_owned());
        self.public == other.public
            && self.backend == other.backend
            && self.node == other.node
            && text(&self.backend_data) == text(&other.backend_data)
            && text(&self.backend_v6_data) == text(&other.backend_v6_data)
            && self.unknown.len() == other.unknown.len()
            && self
                .unknown
                .iter()
                .zip(&other.unknown)
                .all(|((name, value), (theirs, other))| name == theirs && value.get() == other.get())
    }
}

impl Eq for LeaseAttrs {}

/// The leases that a store holds, by subnet, with the look-ups that planning needs.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    by_subnet: BTreeMap<SubnetKey, Lease>,
    // One entry per part, ordered so that what overlaps a prefix stands next to it.
    parts: [BTreeMap<(IpAddr, u8), Vec<SubnetKey>>; 2],
}

impl Leases {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_subnet.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_subnet.is_empty()
    }

    /// The lease of exactly this subnet.
    #[must_use]
    pub fn get(&self, subnet: &SubnetKey) -> Option<&Lease> {
        self.by_subnet.get(subnet)
    }

    /// All of them, ordered by subnet.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_subnet.values()
    }

    /// Puts a lease, and returns the one that stood under its subnet.
    pub fn insert(&mut self, lease: Lease) -> Option<Lease> {
        let subnet = lease.subnet;
        let before = self.by_subnet.insert(subnet, lease);
        if before.is_none() {
            for net in subnet.nets() {
                self.part(net)
                    .entry((net.network(), net.prefix_len()))
                    .or_default()
                    .push(subnet);
            }
        }
        before
    }

    /// Takes a lease out.
    pub fn remove(&mut self, subnet: &SubnetKey) -> Option<Lease> {
        let lease = self.by_subnet.remove(subnet)?;
        for net in subnet.nets() {
            let key = (net.network(), net.prefix_len());
            let part = self.part(net);
            if let Some(subnets) = part.get_mut(&key) {
                subnets.retain(|other| other != subnet);
                if subnets.is_empty() {
                    part.remove(&key);
                }
            }
        }
        Some(lease)
    }

    /// The leases that share an address with `net`. Costs the length of an address and what is found.
    pub fn overlapping_net(&self, net: IpNet) -> impl Iterator<Item = &Lease> {
        let net = net.trunc();
        let part = &self.parts[Family::of_net(net) as usize];
        let wider = (0..net.prefix_len()).filter_map(move |len| {
            let supernet = IpNet::new(net.addr(), len).ok()?.trunc();
            part.get(&(supernet.addr(), len))
        });
        let inside = part
            .range((net.network(), 0)..=(net.broadcast(), u8::MAX))
            .filter(move |((_, len), _)| *len >= net.prefix_len())
            .map(|(_, subnets)| subnets);
        wider
            .chain(inside)
            .flatten()
            .filter_map(|subnet| self.by_subnet.get(subnet))
    }

    /// The leases other than its own that share an address with `subnet`, each once.
    #[must_use]
    pub fn overlapping(&self, subnet: &SubnetKey) -> Vec<&Lease> {
        let mut found: Vec<&Lease> = subnet
            .nets()
            .flat_map(|net| self.overlapping_net(net))
            .filter(|lease| lease.subnet != *subnet)
            .collect();
        found.sort_by_key(|lease| lease.subnet);
        found.dedup_by_key(|lease| lease.subnet);
        found
    }

    fn part(&mut self, net: IpNet) -> &mut BTreeMap<(IpAddr, u8), Vec<SubnetKey>> {
        &mut self.parts[Family::of_net(net) as usize]
    }
}

impl FromIterator<Lease> for Leases {
    fn from_iter<I: IntoIterator<Item = Lease>>(leases: I) -> Self {
        let mut all = Self::default();
        for lease in leases {
            all.insert(lease);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_that_flannel_writes_come_back_byte_for_byte() {
        for json in [
            r#"{"PublicIP":"10.99.0.12","PublicIPv6":null,"BackendType":"host-gw"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::7","BackendType":"host-gw"}"#,
            r#"{"PublicIP":"10.99.0.12","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a8"}}"#,
            r#"{"PublicIP":"10.99.0.12","PublicIPv6":"fd00::7","BackendType":"vxlan","BackendData":{"VNI":1},"BackendV6Data":{"VNI":1}}"#,
        ] {
            assert_eq!(LeaseAttrs::from_json(json).unwrap().to_json(), json);
        }
    }

    #[test]
    fn unknown_members_are_kept_to_the_byte_behind_ours() {
        let json = r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw","NodeID":"000102030405060708090a0b0c0d0e0f","Rack":  {"a" : [1,2.50]},"Zone":"b"}"#;
        let attrs = LeaseAttrs::from_json(json).unwrap();
        assert_eq!(
            attrs.node,
            Some(NodeId(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f))
        );
        assert_eq!(attrs.to_json(), json.replace("  {", "{"));
    }

    #[test]
    fn names_match_in_any_case_and_what_flannel_omits_may_be_missing() {
        let attrs = LeaseAttrs::from_json(r#"{"publicip":"1.2.3.4","BACKENDTYPE":"vxlan"}"#).unwrap();
        assert_eq!(attrs.public.v4, Some("1.2.3.4".parse().unwrap()));
        assert_eq!((attrs.public.v6, attrs.backend.as_str()), (None, "vxlan"));
        assert!(LeaseAttrs::from_json("{}").unwrap().public.is_empty());
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_member() {
        for (json, text) in [
            ("garbage", "not a JSON object"),
            ("[1]", "not a JSON object"),
            (
                r#"{"PublicIP":"1.2.3"}"#,
                r#"PublicIP is "1.2.3", which is not an IPv4 address"#,
            ),
            (r#"{"PublicIP":"fd00::1"}"#, "PublicIP"),
            (
                r#"{"PublicIPv6":7}"#,
                "PublicIPv6 is 7, which is not an IPv6 address",
            ),
            (
                r#"{"BackendType":{}}"#,
                "BackendType is {}, which is not a string",
            ),
            (r#"{"PublicIP":"1.2.3.4"} x"#, "trailing"),
        ] {
            let error = LeaseAttrs::from_json(json).unwrap_err().to_string();
            assert!(error.contains(text), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_overlap_index_agrees_with_comparing_every_pair(
            nets in proptest::collection::vec((0u32..1 << 12, 20u8..=31), 1..30),
            removed in proptest::collection::vec(any::<bool>(), 30),
        ) {
            let nets: Vec<SubnetKey> = nets
                .iter()
                .map(|&(bits, len)| ipnet::Ipv4Net::new(Ipv4Addr::from(0x0a05_0000 | bits), len).unwrap().into())
                .collect();
            let mut leases: Leases = nets.iter().map(|net| Lease::new(*net, LeaseAttrs::default())).collect();
            for (net, _) in nets.iter().zip(&removed).filter(|(_, removed)| **removed) {
                leases.remove(net);
            }
            for net in &nets {
                let found: Vec<_> = leases.overlapping(net).iter().map(|lease| lease.subnet).collect();
                let expected: Vec<_> = leases.iter().map(|lease| lease.subnet)
                    .filter(|other| other != net && other.overlaps(net)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
