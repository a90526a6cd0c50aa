#![doc = include_str!("../README.md")]
#![allow(
    clippy::disallowed_methods,
    reason = "the one crate that runs programs, waits in real time and reads its environment"
)]

mod counter;
mod daemon;
mod error;
mod etcd;
mod host;
mod link;
mod link_layer;
mod monitor;
mod namespace;
mod ping;
mod pki;
mod pod;
mod program;
mod route;
mod rule_monitor;
mod snapshot;
mod store;
mod subnet_env;
mod sweep;
mod topology;
mod traffic;
mod wait;
mod wire;

pub use counter::Counter;
pub use daemon::{Daemon, DaemonOptions};
pub use error::LabError;
pub use etcd::{Etcd, EtcdCluster, EtcdOptions, EtcdTls};
pub use host::{Host, UPLINK};
pub use link::{LinkLine, PacketCounts, VxlanLine};
pub use link_layer::{ForwardingLine, NeighbourLine};
pub use monitor::{KernelEvent, KernelMonitor, RouteEvent, RouteMonitor};
pub use namespace::Namespace;
pub use nix::sys::signal::Signal;
pub use ping::{PingReport, Pinger, ping, ping_whole};
pub use pki::{Certificate, CertificateForm, CertificateOptions, KeyFormat, KeyUsage, Pki};
pub use pod::{POD_BRIDGE, Pod};
pub use route::{BOOT, Family, KERNEL, RouteLine, STATIC, UNICAST};
pub use rule_monitor::RuleMonitor;
pub use snapshot::Snapshot;
pub use store::LeaseFile;
pub use subnet_env::SubnetEnv;
pub use topology::{Families, Lab, MAX_HOSTS, Options};
pub use traffic::Receiver;
pub use wait::{Condition, wait_until, wait_until_told};
pub use wire::{MAX_WIRES, WIRE_V4, WIRE_V6, Wire};
