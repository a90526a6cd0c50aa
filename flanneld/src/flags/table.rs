//! Every flag, once: name, type, default, help, and whether what it steers is there.
//!
//! **Nothing else in the crate spells a flag's default or help text**; names that the code reads values by are
//! the constants below.

pub(super) const DRY_RUN: &str = "dry-run";
pub(super) const ETCD_CAFILE: &str = "etcd-cafile";
pub(super) const ETCD_CERTFILE: &str = "etcd-certfile";
pub(super) const ETCD_ENDPOINTS: &str = "etcd-endpoints";
pub(super) const ETCD_KEYFILE: &str = "etcd-keyfile";
pub(super) const ETCD_PASSWORD: &str = "etcd-password";
pub(super) const ETCD_PREFIX: &str = "etcd-prefix";
pub(super) const ETCD_USERNAME: &str = "etcd-username";
pub(super) const ETCD_V2_IMPORT: &str = "etcd-v2-import";
pub(super) const HEALTHZ_IP: &str = "healthz-ip";
pub(super) const HEALTHZ_PORT: &str = "healthz-port";
pub(super) const IFACE: &str = "iface";
pub(super) const IFACE_CAN_REACH: &str = "iface-can-reach";
pub(super) const IFACE_REGEX: &str = "iface-regex";
pub(super) const IP_BLACKHOLE_ROUTE: &str = "ip-blackhole-route";
pub(super) const IP_MASQ: &str = "ip-masq";
pub(super) const IP_MASQ_FULLY_RANDOM_DISABLE: &str = "ip-masq-fully-random-disable";
pub(super) const IPTABLES_FORWARD_RULES: &str = "iptables-forward-rules";
pub(super) const IPTABLES_RESYNC: &str = "iptables-resync";
pub(super) const LOG_FORMAT: &str = "log-format";
pub(super) const PUBLIC_IP: &str = "public-ip";
pub(super) const PUBLIC_IPV6: &str = "public-ipv6";
pub(super) const ROUTE_PROTOCOL: &str = "route-protocol";
pub(super) const STATE_DIR: &str = "state-dir";
pub(super) const STORE: &str = "store";
pub(super) const SUBNET: &str = "subnet";
pub(super) const SUBNET_FILE: &str = "subnet-file";
pub(super) const SUBNET_LEASE_RENEW_MARGIN: &str = "subnet-lease-renew-margin";
pub(super) const VERBOSITY: &str = "v";
pub(super) const VERSION: &str = "version";

/// The value of `--store` that remedies recommend.
pub(super) const STORE_EXAMPLE: &str = "file:///var/lib/flannel/net";

/// One flag.
#[derive(Debug)]
pub(super) struct FlagSpec {
    /// Without dashes.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As it would be written on a command line; empty is none.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) support: Support,
}

/// What a flag's value is, as Go's `flag` package reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// May stand without a value, which means true.
    Bool,
    /// The base follows from the prefix.
    Int,
    /// Decimal, 32 bits (klog's levels).
    Decimal,
    Text,
    /// May be repeated.
    List,
}

/// Whether what a flag steers is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    Ready,
    /// Accepted for flannel's sake, without effect.
    Ignored,
    /// Refused, unless the value turns the feature off.
    Missing(Feature),
}

/// What is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    Etcd,
    Kubernetes,
}

impl Feature {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "a build with the etcd store",
            Self::Kubernetes => "the Kubernetes store",
        }
    }

    pub(super) fn remedy(self) -> String {
        match self {
            Self::Etcd | Self::Kubernetes => format!("give --{STORE}={STORE_EXAMPLE} instead"),
        }
    }
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    help: &'static str,
) -> FlagSpec {
    FlagSpec {
        name,
        kind,
        default,
        help,
        support,
    }
}

use Feature::{Etcd, Kubernetes};
use Kind::{Bool, Decimal, Int, List, Text};
use Support::{Ignored, Missing, Ready};

/// The feature `etcd` of this crate.
const ETCD: Support = if cfg!(feature = "etcd") {
    Ready
} else {
    Missing(Etcd)
};

/// Sorted by name. The names, types and defaults are those of flannel v0.28, but for
/// `dry-run`, `etcd-v2-import`, `log-format`, `route-protocol`, `state-dir`, `store` and `subnet`, which it does not have.
#[rustfmt::skip]
pub(super) static TABLE: &[FlagSpec] = &[
    flag(DRY_RUN, Bool, "false", Ready, "with cleanup: say what would be removed, and remove nothing"),
    flag(ETCD_CAFILE, Text, "", ETCD, "PEM file with the certificate authority of the etcd servers"),
    flag(ETCD_CERTFILE, Text, "", ETCD, "PEM file with the client certificate for etcd"),
    flag(ETCD_ENDPOINTS, Text, "http://127.0.0.1:4001,http://127.0.0.1:2379", ETCD, "etcd servers, separated by commas"),
    flag(ETCD_KEYFILE, Text, "", ETCD, "PEM file with the key of the client certificate for etcd"),
    flag(ETCD_PASSWORD, Text, "", ETCD, "password for etcd; the variable keeps it out of the process list"),
    flag(ETCD_PREFIX, Text, "/coreos.com/network", ETCD, "prefix of the network's keys in etcd"),
    flag(ETCD_USERNAME, Text, "", ETCD, "user name for etcd"),
    flag(ETCD_V2_IMPORT, Text, "auto", ETCD, "auto or off: where etcd v3 has no config, take over the one written with etcdctl's API v2"),
    flag(HEALTHZ_IP, Text, "0.0.0.0", Ready, "address of /healthz, /readyz, /metrics and /status"),
    flag(HEALTHZ_PORT, Int, "0", Ready, "port of /healthz, /readyz, /metrics and /status, 0 for none"),
    flag(IFACE, List, "", Ready, "uplink by name or address; repeat it for alternatives, tried in order"),
    flag(IFACE_CAN_REACH, Text, "", Ready, "uplink is where the kernel routes this address"),
    flag(IFACE_REGEX, List, "", Ready, "uplink by a regular expression that matches one of its addresses or its name; repeatable"),
    flag(IP_BLACKHOLE_ROUTE, Bool, "false", Ready, "drop what is for the own subnet and for no pod, instead of sending it back by the default route"),
    flag(IP_MASQ, Bool, "false", Ready, "masquerade traffic that leaves the network"),
    flag(IP_MASQ_FULLY_RANDOM_DISABLE, Bool, "false", Ready, "masquerade without fully random ports"),
    flag(IPTABLES_FORWARD_RULES, Bool, "true", Ready, "accept forwarded traffic of the network"),
    flag(IPTABLES_RESYNC, Int, "5", Ready, "seconds between two looks at the rules, 1 to 86400; changes that nftables tells of are seen at once"),
    flag("kube-annotation-prefix", Text, "flannel.alpha.coreos.com", Missing(Kubernetes), "prefix of the node annotations"),
    flag("kube-api-url", Text, "", Missing(Kubernetes), "Kubernetes API server, instead of the kubeconfig's"),
    flag("kube-subnet-mgr", Bool, "false", Missing(Kubernetes), "take the subnet from the Kubernetes node"),
    flag("kubeconfig-file", Text, "", Missing(Kubernetes), "kubeconfig file"),
    flag(LOG_FORMAT, Text, "text", Ready, "text or json"),
    flag("log_backtrace_at", Text, ":0", Ignored, "accepted, has no effect"),
    flag("net-config-path", Text, "/etc/kube-flannel/net-conf.json", Missing(Kubernetes), "network config beside the Kubernetes store"),
    flag(PUBLIC_IP, Text, "", Ready, "IPv4 address under which other hosts reach this one; finds the uplink too if no --iface flag is given"),
    flag(PUBLIC_IPV6, Text, "", Ready, "IPv6 address under which other hosts reach this one"),
    flag(ROUTE_PROTOCOL, Int, "70", Ready, "protocol number that marks the routes as ours, 5 to 255"),
    flag("set-node-network-unavailable", Bool, "true", Missing(Kubernetes), "clear the node's NetworkUnavailable condition"),
    flag(STATE_DIR, Text, "/var/lib/flannel", Ready, "directory for what must outlive a restart"),
    flag(STORE, Text, "", Ready, "where the network's config and leases are, if not in etcd: file:///DIRECTORY"),
    flag(SUBNET, Text, "", Ready, "take this subnet and no other: an IPv4 or IPv6 CIDR, or one of each with a comma"),
    flag(SUBNET_FILE, Text, "/run/flannel/subnet.env", Ready, "file that tells other programs the subnet and the MTU"),
    flag(SUBNET_LEASE_RENEW_MARGIN, Int, "60", Ready, "minutes before its end at which the lease is renewed, 1 to 1439"),
    flag(VERBOSITY, Decimal, "0", Ready, "verbosity: 0 info, 1 debug, 2 trace; the variable RUST_LOG overrides it"),
    flag(VERSION, Bool, "false", Ready, "print the version and exit"),
    flag("vmodule", Text, "", Ignored, "accepted, has no effect"),
];

/// The flag of that name.
pub(super) fn find(name: &str) -> Option<&'static FlagSpec> {
    TABLE.iter().find(|spec| spec.name == name)
}
