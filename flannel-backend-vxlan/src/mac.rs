//! Which MAC addresses this host's devices have.

use flannel_core::{DeviceName, Family, Host, Lease, MacAddress, NodeId, PerFamily};
use serde_json::value::RawValue;

use crate::KIND;
use crate::data::TunnelEnd;

/// The MAC address of each device. What `lease`, our own, says comes first, then what the device has,
/// then one that follows from the node's id and the device's name. So it outlives restarts, devices
/// that are made again, reboots, and even a lease that is lost. No two devices get the same.
pub(crate) fn macs(
    devices: &PerFamily<DeviceName>,
    host: &Host,
    lease: Option<&Lease>,
) -> PerFamily<MacAddress> {
    let mut taken = None;
    PerFamily::from_fn(|family| {
        let device = devices.get(family)?;
        let published = || Some(TunnelEnd::read(data(lease?, family)?).ok()?.mac);
        let present = || host.facts.link(device)?.mac.filter(|mac| mac.is_unicast());
        let free = |mac: &MacAddress| taken != Some(*mac);
        let known = published().filter(free).or_else(|| present().filter(free));
        let mac = known.unwrap_or_else(|| derived(host.node, device));
        taken = Some(mac);
        Some(mac)
    })
}

/// What a lease says about its end of a family's tunnel, if it is one of this backend.
pub(crate) fn data(lease: &Lease, family: Family) -> Option<&RawValue> {
    let attrs = Some(&lease.attrs).filter(|attrs| attrs.backend == KIND)?;
    match family {
        Family::V4 => attrs.backend_data.as_deref(),
        Family::V6 => attrs.backend_v6_data.as_deref(),
    }
}

/// The MAC address that follows from the node's id, which the state directory keeps, and the device's
/// name. It has to be the same in every version.
fn derived(node: NodeId, device: &DeviceName) -> MacAddress {
    let node = node.0.to_be_bytes();
    MacAddress::local(mixed(hash(node.iter().chain(device.as_str().as_bytes()))))
}

/// 64-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>).
fn hash<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// The finaliser of splitmix64: a MAC address takes the lower bits, and all are to count there.
const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
#[path = "mac_tests.rs"]
mod tests;
