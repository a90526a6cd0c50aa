//! What others do to a host behind the daemon's back: operators, udev and NetworkManager, network services, hardware.

use std::process::Command;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use lab::{Family, Host, UPLINK, wait_until};

use crate::network::{PROTOCOL, SOON};

/// Routes, neighbours, forwarding entries and what the kernel changes on a device in place.
pub(super) const IN_PLACE: Duration = Duration::from_secs(1);
/// A device that has to be made again, and whatever befalls the uplink.
pub(super) const ANEW: Duration = Duration::from_secs(2);
/// Long enough for whatever is tried again at growing intervals to be tried rarely.
const AWAY: Duration = Duration::from_secs(1);
/// The uplink's MTU in the beginning, and a smaller one.
pub(super) const WIDE: u32 = 1500;
const NARROW: u32 = 1400;
/// Nobody's.
const STRANGE_MAC: &str = "02:00:00:00:00:99";

/// One end of a tunnel of one family.
pub(super) struct End {
    pub(super) subnet: IpNet,
    pub(super) public: String,
    pub(super) mac: String,
}

impl End {
    /// Its address in the tunnel.
    fn gateway(&self) -> String {
        self.subnet.network().to_string()
    }
}

/// Where a fault strikes.
pub(super) struct Target<'a> {
    pub(super) host: &'a Host,
    pub(super) family: Family,
    /// The overlay's device of this family on the host.
    pub(super) device: String,
    pub(super) own: End,
    /// What is done to one peer's entries is done to this one's.
    pub(super) peer: End,
    /// Another.
    pub(super) other: End,
}

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Entries of one peer.
    Peer,
    /// The device, and with it all peers.
    Device,
    /// The way to the other hosts.
    Uplink,
}

/// Something that somebody does.
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) about: About,
    /// Time for everything to be right again, and for a ping to pass.
    pub(super) limit: Duration,
    /// What goes before, and cannot be repaired yet.
    prepare: fn(&Target<'_>),
    strike: fn(&Target<'_>),
    /// Whether a daemon that does nothing leaves tables that are not as they ought to be.
    pub(super) shows: bool,
}

impl Fault {
    const fn of(about: About, name: &'static str, strike: fn(&Target<'_>)) -> Self {
        Self {
            name,
            about,
            limit: IN_PLACE,
            prepare: |_| {},
            strike,
            shows: true,
        }
    }

    const fn peer(name: &'static str, strike: fn(&Target<'_>)) -> Self {
        Self::of(About::Peer, name, strike)
    }

    const fn device(name: &'static str, strike: fn(&Target<'_>)) -> Self {
        Self::of(About::Device, name, strike)
    }

    const fn uplink(name: &'static str, prepare: fn(&Target<'_>), strike: fn(&Target<'_>)) -> Self {
        Self {
            limit: ANEW,
            prepare,
            ..Self::of(About::Uplink, name, strike)
        }
    }

    const fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// One that takes the daemon's doing, or that the kernel's tables get over.
    const fn without_traces(self) -> Self {
        Self { shows: false, ..self }
    }

    /// Whether one peer's entries in one family are all that it is about.
    pub(super) fn is_about_one_peer(&self) -> bool {
        self.about == About::Peer
    }

    pub(super) fn prepare(&self, target: &Target<'_>) {
        (self.prepare)(target);
    }

    pub(super) fn strike(&self, target: &Target<'_>) {
        (self.strike)(target);
    }
}

impl Target<'_> {
    /// `ip`, in this family.
    fn ip(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.host
            .ip(&[&[self.family.option()], &words[..]].concat())
            .unwrap();
    }

    /// `bridge fdb`, on the device.
    fn fdb(&self, verb: &str, mac: &str, rest: &str) {
        let line = format!("bridge fdb {verb} {mac} dev {} {rest}", self.device);
        self.host.exec(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }

    /// A route to that subnet as ours are, by way of that gateway.
    fn route(&self, verb: &str, subnet: IpNet, gateway: &str) {
        let device = &self.device;
        self.ip(&format!(
            "route {verb} {subnet} via {gateway} dev {device} onlink proto {PROTOCOL}"
        ));
    }

    /// A peer that there is not.
    fn nobody(&self) -> IpNet {
        let text = match self.family {
            Family::V4 => "10.77.222.0/24",
            Family::V6 => "fd77:0:0:222::/64",
        };
        text.parse().unwrap()
    }

    /// An address of the wire that no host has.
    fn nowhere(&self) -> &'static str {
        match self.family {
            Family::V4 => "192.168.77.222",
            Family::V6 => "fd00:77::222",
        }
    }

    fn flush_neighbours(&self) {
        self.ip(&format!("neigh flush dev {} nud permanent", self.device));
    }

    fn flush_routes(&self) {
        self.ip(&format!("route flush dev {} proto {PROTOCOL}", self.device));
    }

    /// `bridge fdb flush` is younger than many kernels.
    fn flush_forwarding(&self) {
        let mut batch = String::new();
        for entry in self.host.fdb(&self.device).unwrap() {
            batch += &format!("fdb del {} dev {} self\n", entry.mac, self.device);
        }
        self.host.feed(&["bridge", "-batch", "-"], &batch).unwrap();
    }

    fn delete_device(&self) {
        self.ip(&format!("link del {}", self.device));
    }
}

/// What can be done to the entries of one peer.
pub(super) const OF_A_PEER: &[Fault] = &[
    Fault::peer("route deleted", |at| {
        at.host.delete_route(at.peer.subnet).unwrap()
    }),
    Fault::peer("route has another gateway", |at| {
        at.route("replace", at.peer.subnet, &at.other.gateway());
    }),
    Fault::peer("route without onlink", |at| {
        // The kernel takes it only if another route says that the gateway is on the link.
        let (device, subnet, gateway) = (&at.device, at.peer.subnet, at.peer.gateway());
        let link = IpNet::from(at.peer.subnet.network());
        let batch = format!(
            "route add {link} dev {device} proto static\n\
             route replace {subnet} via {gateway} dev {device} proto {PROTOCOL}\n\
             route del {link}\n"
        );
        at.host.feed(&["ip", "-batch", "-"], &batch).unwrap();
    }),
    Fault::peer("route over the uplink", |at| {
        at.ip(&format!("route replace {} dev {UPLINK}", at.peer.subnet));
    }),
    Fault::peer("route is a blackhole", |at| {
        at.ip(&format!("route replace blackhole {}", at.peer.subnet));
    }),
    Fault::peer("route too many", |at| {
        at.route("add", at.nobody(), &at.nobody().network().to_string());
    }),
    Fault::peer("neighbour deleted", |at| {
        at.ip(&format!("neigh del {} dev {}", at.peer.gateway(), at.device));
    }),
    Fault::peer("neighbour has another MAC", |at| {
        let (gateway, device) = (at.peer.gateway(), &at.device);
        at.ip(&format!(
            "neigh replace {gateway} lladdr {STRANGE_MAC} dev {device} nud permanent"
        ));
    }),
    Fault::peer("neighbour ages", |at| {
        let (gateway, mac, device) = (at.peer.gateway(), &at.peer.mac, &at.device);
        at.ip(&format!(
            "neigh replace {gateway} lladdr {mac} dev {device} nud reachable"
        ));
    }),
    Fault::peer("neighbour too many", |at| {
        let (gateway, device) = (at.nobody().network(), &at.device);
        at.ip(&format!(
            "neigh add {gateway} lladdr {STRANGE_MAC} dev {device} nud permanent"
        ));
    }),
    Fault::peer("FDB entry deleted", |at| at.fdb("del", &at.peer.mac, "self")),
    Fault::peer("FDB entry leads elsewhere", |at| {
        at.fdb(
            "replace",
            &at.peer.mac,
            &format!("dst {} self permanent", at.other.public),
        );
    }),
    Fault::peer("FDB entry ages", |at| {
        at.fdb(
            "replace",
            &at.peer.mac,
            &format!("dst {} self dynamic", at.peer.public),
        );
    }),
    Fault::peer("FDB entry too many", |at| {
        at.fdb(
            "add",
            STRANGE_MAC,
            &format!("dst {} self permanent", at.other.public),
        );
    }),
    Fault::peer("FDB entry for all others", |at| {
        at.fdb(
            "append",
            "00:00:00:00:00:00",
            &format!("dst {} self permanent", at.other.public),
        );
    }),
];

/// What can be done to a device, or to everything on it.
pub(super) const OF_THE_DEVICE: &[Fault] = &[
    Fault::device("device down", |at| at.ip(&format!("link set {} down", at.device))),
    Fault::device("device without its address", |at| {
        let address = IpNet::from(at.own.subnet.network());
        at.ip(&format!("addr del {address} dev {}", at.device));
    }),
    Fault::device("device has an address too many", |at| {
        let address = IpNet::from(at.nobody().network());
        at.ip(&format!("addr add {address} dev {}", at.device));
    }),
    Fault::device("device has another MTU", |at| {
        at.ip(&format!("link set {} mtu 1300", at.device));
    }),
    Fault::device("device has another MAC", |at| {
        at.ip(&format!("link set {} address {STRANGE_MAC}", at.device));
    }),
    Fault::device("device learns", |at| {
        at.ip(&format!("link set {} type vxlan learning", at.device));
    }),
    Fault::device("device has another local address", |at| {
        at.ip(&format!(
            "link set {} type vxlan local {}",
            at.device,
            at.nowhere()
        ));
    }),
    Fault::device("all routes flushed", |at| at.flush_routes()),
    Fault::device("all neighbours flushed", |at| at.flush_neighbours()),
    Fault::device("all FDB entries flushed", |at| at.flush_forwarding()),
    Fault::device("everything flushed", |at| {
        at.flush_routes();
        at.flush_neighbours();
        at.flush_forwarding();
    }),
    Fault::device("device deleted", |at| at.delete_device()).within(ANEW),
    Fault::device("device deleted, its MAC changed at once", |at| {
        at.delete_device();
        // As udev does with a device that it is told of.
        let line = ["link", "set", &at.device, "address", STRANGE_MAC];
        wait_until(SOON, format!("another {}", at.device), || {
            at.host.ip(&line).is_ok()
        })
        .unwrap();
    })
    .within(ANEW)
    .without_traces(),
];

/// What can befall the uplink while its address stays.
pub(super) const OF_THE_UPLINK: &[Fault] = &[
    Fault::uplink(
        "uplink down and up",
        |_| {},
        |at| {
            at.host.uplink_down().unwrap();
            at.host.uplink_up().unwrap();
        },
    )
    .without_traces(),
    Fault::uplink(
        "uplink up after a while",
        |at| {
            at.host.uplink_down().unwrap();
            thread::sleep(AWAY);
        },
        |at| at.host.uplink_up().unwrap(),
    )
    .without_traces(),
    Fault::uplink(
        "uplink deleted and made again",
        |_| {},
        |at| {
            let before = index(at.host);
            at.host.recreate_uplink().unwrap();
            assert_ne!(index(at.host), before);
        },
    ),
    Fault::uplink(
        "uplink made again after a while",
        |at| {
            at.host.delete_uplink().unwrap();
            thread::sleep(AWAY);
        },
        |at| at.host.make_uplink().unwrap(),
    ),
    Fault::uplink(
        "uplink back with its old index",
        |at| {
            // For this namespace it is deleted. In one that has no device of that index it keeps its own.
            let away = format!("{}away", at.host.name());
            let before = index(at.host);
            outside(&["netns", "add", &away]);
            outside(&["-n", at.host.name(), "link", "set", UPLINK, "netns", &away]);
            outside(&["-n", &away, "link", "set", UPLINK, "netns", at.host.name()]);
            outside(&["netns", "del", &away]);
            assert_eq!(index(at.host), before);
        },
        |at| at.host.uplink_up().unwrap(),
    ),
    // There and back.
    Fault::uplink("uplink with another MTU", |_| {}, |at| change_mtu(at.host)),
    Fault::uplink("uplink with yet another MTU", |_| {}, |at| change_mtu(at.host)),
];

/// To the one of two that it has not.
fn change_mtu(host: &Host) {
    let is = host.link(UPLINK).unwrap().unwrap().mtu;
    host.change_mtu(if is == WIDE { NARROW } else { WIDE }).unwrap();
}

/// `ip`, in no namespace: one that it makes in another is not seen here.
fn outside(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}: {status}");
}

fn index(host: &Host) -> u32 {
    host.link(UPLINK).unwrap().unwrap().index
}
