//! Networks, a host and leases to test with.

use std::sync::Arc;

use flannel_core::{
    Context, DataPlane, Desired, DeviceName, Host, HostFacts, Lease, LeaseAttrs, Link, MacAddress,
    NetworkConfig, NodeId, PerFamily, Skip, Underlay, Uplink,
};

use crate::overlay::Overlay;

pub(crate) const V4: &str = r#""Network":"10.5.0.0/16""#;
pub(crate) const V6: &str = r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48""#;
pub(crate) const DUAL: &str = r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48""#;

/// The data of this host's lease.
pub(crate) const OWN: [&str; 2] = [
    r#"{"VNI":1,"VtepMAC":"02:00:00:00:04:01"}"#,
    r#"{"VNI":1,"VtepMAC":"02:00:00:00:06:01"}"#,
];

/// The data of host 7's.
pub(crate) const SEVENTH: [&str; 2] = [
    r#"{"VNI":1,"VtepMAC":"02:00:00:00:04:07"}"#,
    r#"{"VNI":1,"VtepMAC":"02:00:00:00:06:07"}"#,
];

/// A network whose backend has these options: `"VNI":7,"Port":4789`.
pub(crate) fn network(families: &str, options: &str) -> NetworkConfig {
    let comma = if options.is_empty() { "" } else { "," };
    let json = format!(r#"{{{families},"Backend":{{"Type":"vxlan"{comma}{options}}}}}"#);
    NetworkConfig::from_json(&json).unwrap()
}

/// A host with `192.0.2.1` and `2001:db8::1`, as far as the network has the families.
pub(crate) fn host(config: &NetworkConfig) -> Host {
    let own = |v4: &str, v6: &str| PerFamily {
        v4: config.ranges.v4.map(|_| v4.parse().unwrap()),
        v6: config.ranges.v6.map(|_| v6.parse().unwrap()),
    };
    let uplink = Uplink {
        device: name("eth0"),
        mtu: 1500,
        addresses: own("192.0.2.1", "2001:db8::1"),
        public: own("192.0.2.1", "2001:db8::1"),
    };
    Host {
        node: NodeId(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f),
        uplink,
        facts: Arc::default(),
    }
}

/// The same host with `192.0.2.0/24` and `2001:db8::/64` on its uplink's link.
pub(crate) fn on_link(mut host: Host) -> Host {
    let mut underlay = Underlay::default();
    let uplink = Some(host.uplink.device);
    underlay.insert("192.0.2.0/24".parse().unwrap(), 0, uplink);
    underlay.insert("2001:db8::/64".parse().unwrap(), 256, uplink);
    change(&mut host, |facts| facts.underlay = underlay);
    host
}

pub(crate) fn change(host: &mut Host, change: impl FnOnce(&mut HostFacts)) {
    change(Arc::make_mut(&mut host.facts));
}

/// A device that is up.
pub(crate) fn link(device: &str, mac: Option<MacAddress>) -> Link {
    Link {
        name: name(device),
        index: 9,
        mtu: 1450,
        up: true,
        loopback: false,
        mac,
        strict_reverse_path: false,
        addresses: Vec::new(),
    }
}

pub(crate) fn name(device: &str) -> DeviceName {
    device.parse().unwrap()
}

/// A lease of this backend. What is empty is left out.
pub(crate) fn lease(subnet: &str, public: [&str; 2], data: [&str; 2]) -> Lease {
    let member = |name: &str, value: &str, quote: &str| match value {
        "" => String::new(),
        value => format!(r#","{name}":{quote}{value}{quote}"#),
    };
    let json = format!(
        r#"{{"BackendType":"vxlan"{}{}{}{}}}"#,
        member("PublicIP", public[0], "\""),
        member("PublicIPv6", public[1], "\""),
        member("BackendData", data[0], ""),
        member("BackendV6Data", data[1], ""),
    );
    let attrs = LeaseAttrs::from_json(&json).unwrap();
    Lease::new(subnet.parse().unwrap(), attrs)
}

/// This host's lease.
pub(crate) fn own() -> Lease {
    lease("10.5.1.0/24,fd00:5:0:1::/64", ["192.0.2.1", "2001:db8::1"], OWN)
}

/// Host 7's, which is on the link of [`on_link`].
pub(crate) fn seventh() -> Lease {
    lease(
        "10.5.7.0/24,fd00:5:0:7::/64",
        ["192.0.2.7", "2001:db8::7"],
        SEVENTH,
    )
}

/// What a host in this network wants for itself.
pub(crate) fn base(config: &NetworkConfig, host: &Host, own: &Lease) -> Vec<String> {
    let mut out = Desired::default();
    let overlay = Overlay::new(config).unwrap();
    overlay.base(&context(config, host, own), &mut out);
    texts(out)
}

/// What a host in this network wants for a peer.
pub(crate) fn wanted(config: &NetworkConfig, host: &Host, peer: &Lease) -> Result<Vec<String>, String> {
    let mut out = Desired::default();
    let overlay = Overlay::new(config).unwrap();
    match overlay.peer(&context(config, host, &own()), peer, &mut out) {
        Ok(()) => Ok(texts(out)),
        Err(Skip(why)) => {
            assert_eq!(out, Desired::default(), "a part of a peer");
            Err(why)
        }
    }
}

fn context<'a>(config: &'a NetworkConfig, host: &'a Host, own: &'a Lease) -> Context<'a> {
    Context {
        host,
        own,
        config,
        protocol: 77,
    }
}

fn texts(out: Desired) -> Vec<String> {
    out.into_state().values().map(ToString::to_string).collect()
}
