//! Settings of the network namespace that route netlink does not tell.

use std::fs;
use std::io;

use crate::namespace::Namespace;

/// Either of them, and IPv6 packets are forwarded, by whatever device they come in; the second is new
/// in Linux 6.17.
const IPV6_FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/all/force_forwarding",
];

/// Whether the namespace forwards IPv6 packets; `None` where that cannot be read, as without IPv6.
pub(crate) fn ipv6_forwarding(namespace: &Namespace) -> Option<bool> {
    let read = namespace.within(|| {
        let [forwarding, forced] = IPV6_FORWARDING.map(is_on);
        Ok::<_, io::Error>(forwarding? || forced.unwrap_or(false))
    });
    read.inspect_err(|error| tracing::debug!(%error, "whether IPv6 is forwarded cannot be read"))
        .ok()
}

/// Below `/proc/sys/net` a file shows the settings of the thread that opens it.
fn is_on(path: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() != "0")
}
