//! What the kernel and the store ought to have, worked out from the leases and the host by the backend itself.

use std::sync::Arc;

use flannel_backend_vxlan::Vxlan;
use flannel_core::{
    Backend, Context, DataPlane, Desired, Device, DeviceName, HostFacts, Lease, NetworkConfig, NodeId,
    Object, State, Underlay, Uplink,
};
use ipnet::IpNet;
use lab::{Family, Host, UNICAST, UPLINK};

use super::present::present;
use super::{BOTH, Network, PROTOCOL, core_family, per_family, public};

/// The name of the overlay's device of one family.
pub(super) fn device(config: &NetworkConfig, family: Family) -> Option<DeviceName> {
    let prefix = match family {
        Family::V4 => "flannel.",
        Family::V6 => "flannel-v6.",
    };
    let mut devices = data_plane(config).devices().into_iter();
    devices.find(|name| name.as_str().starts_with(prefix))
}

/// Everything about a host that is not as it ought to be.
pub(super) fn differences(network: &Network, index: usize) -> Vec<String> {
    let (host, config) = (network.lab.host(index), network.config());
    let data_plane = data_plane(&config);
    let own = network.lease(index);
    let mut wrong = published(network, index, &own);
    let facts = facts(host, &config);
    let mut peers = network.leases();
    peers.retain(|lease| lease.subnet != own.subnet);
    let context = Context {
        host: &facts,
        own: &own,
        config: &config,
        protocol: PROTOCOL,
    };
    let mut desired = Desired::default();
    data_plane.base(&context, &mut desired);
    for peer in &peers {
        if let Err(skip) = data_plane.peer(&context, peer, &mut desired) {
            wrong.push(format!("the peer {} is left out: {skip}", peer.subnet));
        }
    }
    let networks: Vec<IpNet> = config.networks().collect();
    let present = present(host, &data_plane.devices(), &networks);
    wrong.extend(unlike(&present, &desired.into_state()));
    let (written, mtu) = (host.subnet_env().unwrap().mtu, data_plane.mtu(&facts));
    let devices = BOTH
        .into_iter()
        .filter_map(|family| network.device(index, family));
    let narrowest = devices.map(|device| device.mtu).min();
    if written != mtu || narrowest != Some(mtu) {
        wrong.push(format!(
            "subnet.env has MTU {written}, the narrowest device {narrowest:?}, and it ought to be {mtu}"
        ));
    }
    wrong
}

/// What the lease says that the kernel and the lab do not.
fn published(network: &Network, index: usize, own: &Lease) -> Vec<String> {
    let host = network.lab.host(index);
    let mut wrong = Vec::new();
    let mut expect = |what: &str, is: Option<String>, ought: Option<String>| {
        if is != ought {
            wrong.push(format!("the lease's {what} is {is:?} and ought to be {ought:?}"));
        }
    };
    expect("backend", Some(own.attrs.backend.clone()), Some("vxlan".into()));
    for family in BOTH {
        let at = own.attrs.public.get(core_family(family));
        let ought = public(host, family).filter(|_| network.families.contains(family));
        expect(
            "address",
            at.map(ToString::to_string),
            ought.map(|ip| ip.to_string()),
        );
        let data = match family {
            Family::V4 => &own.attrs.backend_data,
            Family::V6 => &own.attrs.backend_v6_data,
        };
        let device = network.device(index, family);
        // Byte for byte as flannel writes it.
        let ought = device.and_then(|link| {
            let vni = link.vxlan?.vni;
            Some(format!(r#"{{"VNI":{vni},"VtepMAC":"{}"}}"#, link.mac))
        });
        expect("data", data.as_ref().map(|data| data.get().to_owned()), ought);
    }
    wrong
}

fn data_plane(config: &NetworkConfig) -> Arc<dyn DataPlane> {
    Vxlan.configure(config).unwrap()
}

/// The host as the backend sees it, as far as it looks.
fn facts(host: &Host, config: &NetworkConfig) -> flannel_core::Host {
    let wanted = |family: Family| config.ranges.get(core_family(family)).is_some();
    let uplink = host.link(UPLINK).unwrap().unwrap();
    let mut underlay = Underlay::default();
    for line in BOTH.into_iter().flat_map(|family| host.routes(family).unwrap()) {
        let direct = line.kind == UNICAST && line.gateway.is_none();
        let device = line.device.filter(|_| direct);
        underlay.insert(
            line.destination,
            line.metric,
            device.map(|name| name.parse().unwrap()),
        );
    }
    let networks: Vec<IpNet> = config.networks().collect();
    let facts = HostFacts {
        underlay: underlay.outside(&networks),
        ..HostFacts::default()
    };
    flannel_core::Host {
        // Goes only into what a first lease says.
        node: NodeId(0),
        uplink: Uplink {
            device: UPLINK.parse().unwrap(),
            mtu: uplink.mtu,
            addresses: per_family(|family| host.address(family).filter(|_| wanted(family))),
            public: per_family(|family| public(host, family).filter(|_| wanted(family))),
        },
        facts: Arc::new(facts),
    }
}

/// The objects that are missing, too many, or otherwise than wanted.
fn unlike(present: &State, desired: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, wanted) in desired {
        // Not among what `ip` shows.
        let wanted = match wanted.clone() {
            Object::Device(device) => Device {
                checksum_offload: None,
                ..device
            }
            .into(),
            other => other,
        };
        match present.get(id) {
            None => wrong.push(format!("missing: {wanted}")),
            Some(is) if *is != wanted => wrong.push(format!("{is} ought to be {wanted}: {is:?}")),
            Some(_) => {}
        }
    }
    let extra = present.iter().filter(|(id, _)| !desired.contains_key(id));
    wrong.extend(extra.map(|(_, object)| format!("too many: {object}")));
    wrong
}
