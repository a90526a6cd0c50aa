//! Whatever backend options and a peer's lease say, the overlay asks for objects on its own devices and for routes to
//! the peer's subnet, or for nothing at all. The input's first line is the network config, the rest the lease value.
#![no_main]

use flannel_backend_vxlan::Vxlan;
use flannel_core::{
    Backend, Context, DEFAULT_PROTOCOL, Desired, Host, HostFacts, Lease, LeaseAttrs, NetworkConfig, NodeId,
    Object, PerFamily, Uplink,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let Some((config, value)) = input.split_once('\n') else {
        return;
    };
    let (Ok(config), Ok(attrs)) = (NetworkConfig::from_json(config), LeaseAttrs::from_json(value)) else {
        return;
    };
    let Ok(data_plane) = Vxlan.configure(&config) else {
        return;
    };
    let addresses = PerFamily {
        v4: "192.0.2.1".parse().ok(),
        v6: "2001:db8::1".parse().ok(),
    };
    let uplink = Uplink {
        device: "eth0".parse().unwrap_or_else(|error| panic!("{error}")),
        mtu: 1500,
        addresses,
        public: addresses,
    };
    let host = Host {
        node: NodeId(7),
        uplink,
        facts: HostFacts::default().into(),
    };
    let subnet = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
    let peer = Lease::new(subnet("10.5.7.0/24,fd00:5:0:7::/64"), attrs);
    let Ok(published) = data_plane.publish(&host, Some(&peer)) else {
        return;
    };
    let own = LeaseAttrs {
        public: addresses,
        backend: "vxlan".to_owned(),
        backend_data: published.data,
        backend_v6_data: published.v6_data,
        ..LeaseAttrs::default()
    };
    let own = Lease::new(subnet("10.5.1.0/24,fd00:5:0:1::/64"), own);
    // What is published for a lease is not changed by reading it back.
    let again = data_plane.publish(&host, Some(&own)).map(|published| published.data);
    assert_eq!(
        again.ok().flatten().map(|data| data.get().to_owned()),
        own.attrs.backend_data.as_ref().map(|data| data.get().to_owned()),
    );
    let context = Context {
        host: &host,
        own: &own,
        config: &config,
        protocol: DEFAULT_PROTOCOL,
    };
    let mut desired = Desired::default();
    data_plane.base(&context, &mut desired);
    let skipped = data_plane.peer(&context, &peer, &mut desired).is_err();
    let devices = data_plane.devices();
    for object in desired.into_state().values() {
        match object {
            Object::Route(route) => assert!(
                !skipped && peer.subnet.nets().any(|net| net == route.id.destination),
                "{route}"
            ),
            object => assert!(
                object.id().device().is_some_and(|device| devices.contains(&device)),
                "{object}"
            ),
        }
    }
});
