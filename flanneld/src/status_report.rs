//! How a daemon is doing: what `/status` says, and what `flanneld status` makes of it for people.

mod fetch;
mod render;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use fetch::{FetchError, SOCKET, fetch};
pub use render::render;

/// How a daemon is doing. Readers take unknown members and missing ones, so that either side may be the newer one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started, as RFC 3339 has it; so are all times.
    pub started: String,
    /// `ready`, `degraded` or `not ready`.
    pub state: String,
    /// Whether pods can reach those of other hosts: all but `not ready`.
    pub ready: bool,
    /// The network, one for each family.
    pub network: Vec<String>,
    /// The backend at work.
    pub backend: Option<String>,
    /// This host's lease.
    pub lease: Option<LeaseReport>,
    /// Where the leases are.
    pub store: StoreReport,
    /// The way to the other hosts.
    pub uplink: Option<UplinkReport>,
    /// The backend's own devices.
    pub devices: Vec<DeviceReport>,
    /// The other hosts.
    pub peers: PeersReport,
    /// Routes of somebody else's that run into the network.
    pub conflicts: ConflictsReport,
    /// What could not be programmed, the first few.
    pub failures: Vec<FailureReport>,
    /// What is not as it ought to be.
    pub reasons: Vec<ReasonReport>,
    /// What has been done so far.
    pub counters: CountersReport,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseReport {
    /// Its subnet, one for each family.
    pub subnet: Vec<String>,
    /// When it ends unless renewed; `None`: never.
    pub until: Option<String>,
    /// The seconds until then.
    pub seconds: Option<u64>,
}

/// Where the leases are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// `etcd` or `file`.
    pub kind: String,
    /// Endpoints or directory.
    pub place: String,
    /// When it was last there; `None`: not yet.
    pub last_contact: Option<String>,
    /// The seconds since then, if it is not there now.
    pub silent_seconds: Option<u64>,
}

/// The way to the other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UplinkReport {
    /// The device.
    pub device: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address in each family.
    pub addresses: Vec<String>,
    /// What is published.
    pub public: Vec<String>,
}

/// A device of the backend's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceReport {
    /// Its name.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// The other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeersReport {
    /// Those that are peers.
    pub desired: usize,
    /// Those for which the kernel is as it ought to be.
    pub installed: usize,
    /// Those for which it refused.
    pub failed: usize,
    /// Leases that are no peers.
    pub refused: usize,
    /// Leases in all.
    pub total: usize,
    /// As many of them as are listed.
    pub list: Vec<PeerReport>,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerReport {
    /// Its subnet, one for each family.
    pub subnet: Vec<String>,
    /// Its address, one for each family.
    pub public: Vec<String>,
    /// `installed`, `pending`, `failed`, `refused` or `elsewhere`.
    pub state: String,
    /// Why it is not installed.
    pub why: Option<String>,
}

/// Routes of somebody else's that run into the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictsReport {
    /// How many there are.
    pub count: usize,
    /// The first few.
    pub first: Vec<String>,
}

/// A kernel object that could not be programmed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureReport {
    /// Which object.
    pub object: String,
    /// The kernel's answer.
    pub error: String,
}

/// Something that is not as it ought to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReasonReport {
    /// One word for its kind, that of `flannel_reason` in the metrics.
    pub reason: String,
    /// What it is, and what to do.
    pub message: String,
    /// Whether it keeps pods from being reached.
    pub blocking: bool,
    /// How long it has been so, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// What has been done so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CountersReport {
    /// Full lists of leases from the store.
    pub snapshots: u64,
    /// Kernel objects that were missing and put back.
    pub restored: u64,
    /// Those that were different and put right.
    pub corrected: u64,
    /// Those of ours that belong nowhere and were removed.
    pub removed: u64,
    /// How often rules of the packet filter were put right.
    pub rules: u64,
    /// Plans that the kernel was given.
    pub plans: u64,
    /// Log lines lost because nobody took them.
    pub dropped_log_lines: u64,
}
