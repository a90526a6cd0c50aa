#![doc = include_str!("../README.md")]

mod admit;
mod backend;
mod challenge;
mod choose;
mod config;
mod device;
mod engine;
mod family;
mod firewall;
mod host;
mod json;
mod kernel;
mod lease;
mod mac;
mod object;
mod ownership;
mod plan;
mod preflight;
mod spelling;
mod state_dir;
mod status;
mod store;
mod subnet;
mod subnet_env;
mod territory;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod uplink;

pub use admit::{Admission, Refusal};
pub use backend::{Backend, BackendError, Context, DataPlane, Desired, Published, Skip};
pub use choose::{Choice, Identity, Rival, TakeOver, Unavailable, Wish, choose};
pub use config::{BackendConfig, ConfigError, Misspelt, NetworkConfig, Range};
pub use device::{DeviceName, DeviceNameError};
pub use engine::{Engine, EngineHandle, Options};
pub use family::{Family, PerFamily};
pub use firewall::{Firewall, FirewallError, Kept, PodNetwork};
pub use host::{
    DefaultRoute, Filter, Host, HostFacts, HostSource, KernelRelease, Link, LinkAddress, Protected, Reached,
    Underlay, Unforwarded,
};
pub use json::{MemberError, Members};
pub use kernel::{Applied, Changed, KernelError, OpError, OpErrorKind, RouteProgrammer, Scope};
pub use lease::{Lease, LeaseAttrs, LeaseValueError, Leases, NodeId, NodeIdError, Token};
pub use mac::{MacAddress, MacAddressError};
pub use object::{
    Address, AddressId, Device, DeviceKind, Forwarding, ForwardingId, Hop, Hops, Neighbour, NeighbourId,
    Object, ObjectId, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route, RouteId, RouteKind, State, Vxlan,
};
pub use ownership::{Conflict, DEFAULT_PROTOCOL, Effect, Owner, Ownership};
pub use plan::{Op, Plan, diff};
pub use state_dir::{Leftovers, StateDir, StateDirError};
pub use status::{
    Counters, Failure, LeaseStatus, PeerCounts, PeerList, PeerState, PeerStatus, Readiness, Reason, Repairs,
    Status, StoreContact, Timings,
};
pub use store::{ConfigStore, Gap, StoreError, StoreEvent, SubnetStore};
pub use subnet::{SubnetKey, SubnetKeyError};
pub use subnet_env::{SubnetEnv, SubnetEnvError};
pub use uplink::{Pattern, Uplink, UplinkError, UplinkOptions, UplinkRule, choose_uplink};
