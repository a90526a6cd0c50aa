//! Making, changing and removing devices: each change with a few requests of its own.

use flannel_core::{
    Device, DeviceKind, DeviceName, KernelError, Neighbour, Object, Op, OpError, OpErrorKind, Vxlan,
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use nix::errno::Errno;

use crate::device::{self, SeenDevice, SeenKind};
use crate::ethtool::{self, Ethtool};
use crate::link::{self, Names};
use crate::namespace::Namespace;
use crate::refusal::{self, refusal};
use crate::reply::Failure;
use crate::socket::{Request, RequestSocket};
use crate::{dump, facts, neighbour, port_holder, sysctl, vxlan};

const DOING: &str = "change a device";

/// The longest packet of a device that is only tried out: with less than 1280 bytes (RFC 8200, section 5)
/// it is given no IPv6 address.
const TRIAL_MTU: u32 = 1279;

/// What came of an operation, if the kernel answered.
type Changed = Result<Result<(), OpError>, KernelError>;

/// Changes devices.
pub(crate) struct Changer<'a> {
    pub(crate) socket: &'a mut RequestSocket,
    pub(crate) namespace: &'a Namespace,
    pub(crate) ethtool: &'a Ethtool,
}

impl Changer<'_> {
    /// Carries out an operation on a device.
    pub(crate) fn carry_out(&mut self, op: &Op) -> Changed {
        match op {
            Op::Add(Object::Device(device)) => self.add(op, device),
            Op::Replace {
                from: Object::Device(from),
                to: Object::Device(to),
            } => self.replace(op, from, to),
            Op::Remove(Object::Device(device)) => self.remove(op, device),
            _ => Ok(Err(refusal(op, OpErrorKind::Other, "it is about no device"))),
        }
    }

    fn add(&mut self, op: &Op, device: &Device) -> Changed {
        let link = match self.uplink(op, device)? {
            Ok(link) => link,
            Err(error) => return Ok(Err(error)),
        };
        let Some(message) = device::made(device, link) else {
            let reason = "devices of such a kind, or with such settings, are not made here";
            return Ok(Err(refusal(op, OpErrorKind::Other, reason)));
        };
        if let Some((_, failure)) = self.socket.change(DOING, &[make(message)])?.pop() {
            return self.explain(op, device, &failure).map(Err);
        }
        self.finish(op, device)
    }

    /// What is left once the link is as it was asked for.
    fn finish(&mut self, op: &Op, device: &Device) -> Changed {
        let Some(seen) = self.look_up(device.name)? else {
            let reason = "it was removed at once";
            return Ok(Err(refusal(op, OpErrorKind::NoDevice, reason)));
        };
        // The kernel cuts down the MTU of a new device without a word.
        if seen.link.mtu < device.mtu {
            let reason = self.mtu_reason(device)?;
            let reason = reason.unwrap_or_else(|| format!("its MTU became {}", seen.link.mtu));
            return Ok(Err(refusal(op, OpErrorKind::Other, &reason)));
        }
        Ok(self.set_the_rest(op, &seen, device))
    }

    fn replace(&mut self, op: &Op, from: &Device, to: &Device) -> Changed {
        let link = match self.uplink(op, to)? {
            Ok(link) => link,
            Err(error) => return Ok(Err(error)),
        };
        let seen = match self.look_up(from.name)? {
            Some(seen) if is_the_same(&seen, from) => seen,
            Some(seen) => return Ok(Err(another(op, &seen))),
            None => return self.add(op, to),
        };
        if from.is_remade_for(to).is_some() {
            if let Err(error) = self.try_out(op, &seen, to, link)? {
                return Ok(Err(error));
            }
            return match self.delete(op, &seen)? {
                Ok(()) => self.add(op, to),
                Err(error) => Ok(Err(error)),
            };
        }
        let (SeenKind::Vxlan(vxlan), DeviceKind::Vxlan(to_vxlan)) = (&seen.kind, &to.kind) else {
            return Ok(Err(refusal(op, OpErrorKind::Other, "it is no VXLAN device")));
        };
        let now = (
            &seen.named(&Names::default(), None),
            &vxlan.named(&Names::default()),
        );
        let messages = device::changed(now, (to, to_vxlan), seen.index(), vxlan.link, link);
        let requests: Vec<Request> = messages.into_iter().map(change).collect();
        if requests.is_empty() {
            return Ok(self.set_the_rest(op, &seen, to));
        }
        // With another MAC address the kernel drops all neighbours, the permanent ones, too.
        let neighbours = if now.0.mac == to.mac {
            Vec::new()
        } else {
            dump::neighbours(self.socket, seen.index(), seen.name())?
        };
        let failed = self.socket.change(DOING, &requests)?;
        self.put_back(&neighbours, seen.index())?;
        if let Some((_, failure)) = failed.into_iter().next() {
            return self.explain(op, to, &failure).map(Err);
        }
        // With its MTU a device may have begun to do IPv6, as by default.
        self.finish(op, to)
    }

    /// Whether a device could be made in the place of one that there is, with all that is on it: its port may
    /// be held, or its identifier be another's. Made under another name and removed again, by one datagram: we
    /// may end at any time.
    fn try_out(&mut self, op: &Op, seen: &SeenDevice, to: &Device, link: Option<u32>) -> Changed {
        let Some(wanted) = vxlan(to) else {
            return Ok(Ok(()));
        };
        let now = seen.named(&Names::default(), None);
        if let Some(now) = vxlan(&now) {
            if is_told_alike(now, wanted) {
                return Ok(Ok(()));
            }
            // What the device itself is in the way of can be told only by looking.
            if port_holder::is_held_unlike(seen, wanted) {
                let others = self.others(to.name)?;
                if !others
                    .iter()
                    .any(|other| port_holder::is_held_unlike(other, wanted))
                {
                    return Ok(Ok(()));
                }
                let failure = Failure {
                    errno: Errno::EADDRINUSE,
                    text: None,
                };
                return self.explain(op, to, &failure).map(Err);
            }
        }
        let trial = Device {
            name: trial_name(seen.index()),
            mtu: to.mtu.min(TRIAL_MTU),
            ..to.clone()
        };
        let question = link::question(Some(&trial.name));
        let taken = self.socket.ask(DOING, question, link::decode)?.is_ok();
        let Some(made) = device::made(&trial, link).filter(|_| !taken) else {
            return Ok(Ok(()));
        };
        let remove = Request {
            message: RouteNetlinkMessage::DelLink(device::removed_by_name(trial.name)),
            flags: 0,
        };
        let requests = [make(made), remove];
        match self.socket.change(DOING, &requests)?.into_iter().next() {
            Some((0, failure)) => self.explain(op, to, &failure).map(Err),
            Some((_, failure)) => Ok(Err(refusal::error(op, &failure))),
            None => Ok(Ok(())),
        }
    }

    fn put_back(&mut self, neighbours: &[Neighbour], index: u32) -> Result<(), KernelError> {
        let put = |neighbour: &Neighbour| Request {
            message: RouteNetlinkMessage::NewNeighbour(neighbour::encode(neighbour, index)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        };
        let requests: Vec<Request> = neighbours.iter().map(put).collect();
        for (_, failure) in self.socket.change(DOING, &requests)? {
            tracing::debug!(%failure, "a neighbour was lost with its device's MAC address");
        }
        Ok(())
    }

    fn remove(&mut self, op: &Op, device: &Device) -> Changed {
        match self.look_up(device.name)? {
            Some(seen) if is_the_same(&seen, device) => self.delete(op, &seen),
            Some(seen) => Ok(Err(another(op, &seen))),
            None => Ok(Err(refusal(op, OpErrorKind::Gone, "it is gone"))),
        }
    }

    fn delete(&mut self, op: &Op, seen: &SeenDevice) -> Changed {
        let request = Request {
            message: RouteNetlinkMessage::DelLink(device::removed(seen.index())),
            flags: 0,
        };
        let failed = self.socket.change(DOING, &[request])?.pop();
        Ok(failed.map_or(Ok(()), |(_, failure)| Err(refusal::error(op, &failure))))
    }

    /// What is no property of a link: whether routers are heard, and checksums left to others.
    fn set_the_rest(&self, op: &Op, seen: &SeenDevice, to: &Device) -> Result<(), OpError> {
        let now = seen.named(&Names::default(), None);
        if now.accepts_advertisements != to.accepts_advertisements {
            let accept = to.accepts_advertisements;
            let set = sysctl::accept_advertisements(self.namespace, to.name, accept);
            set.map_err(|error| {
                let value = u8::from(accept);
                let reason = format!(
                    "net.ipv6.conf.{0}.accept_ra cannot be set to {value}: {error}; set it with `sysctl -w \
                     net/ipv6/conf/{0}/accept_ra={value}`",
                    to.name
                );
                refusal(op, OpErrorKind::Other, &reason)
            })?;
        }
        let Some(wanted) = to.checksum_offload else {
            return Ok(());
        };
        match self.ethtool.checksum_offload(self.namespace, seen.index()) {
            Some(is) if is == wanted => return Ok(()),
            Some(_) => {}
            // Before Linux 5.7 nobody would see whether it has been done.
            None => {
                let reason = ethtool::refused(to.name, wanted, "the kernel does not tell how it is");
                tracing::warn!(device = %to.name, reason, "a setting of the device is left as it is");
                return Ok(());
            }
        }
        let set = self
            .ethtool
            .set_checksum_offload(self.namespace, seen.index(), wanted);
        set.map_err(|error| {
            let reason = ethtool::refused(to.name, wanted, &error);
            refusal(op, OpErrorKind::Other, &reason)
        })
    }

    /// The index of the device below, if there is to be one.
    fn uplink(&mut self, op: &Op, device: &Device) -> Result<Result<Option<u32>, OpError>, KernelError> {
        let Some(name) = vxlan(device).and_then(|vxlan| vxlan.uplink) else {
            return Ok(Ok(None));
        };
        Ok(match self.look_up(name)? {
            Some(seen) => Ok(Some(seen.index())),
            None => {
                let reason = format!("there is no device {name} by which its packets could leave");
                Err(refusal(op, OpErrorKind::NoDevice, &reason))
            }
        })
    }

    /// A device that goes by this name; alternative ones are in no dump.
    fn look_up(&mut self, name: DeviceName) -> Result<Option<SeenDevice>, KernelError> {
        let question = link::question(Some(&name));
        let seen = self.socket.ask(DOING, question, SeenDevice::decode)?;
        Ok(seen.ok().flatten().filter(|seen| seen.name() == name))
    }

    /// Why the kernel refused a device, with the names of others that are the reason.
    fn explain(&mut self, op: &Op, device: &Device, failure: &Failure) -> Result<OpError, KernelError> {
        let reason = match failure.errno {
            Errno::EADDRINUSE => self.port_reason(device)?,
            Errno::EEXIST => self.exists_reason(op, device)?,
            Errno::EINVAL => self.mtu_reason(device)?,
            _ => None,
        };
        let reason = reason.or_else(|| refusal::remedy(op, failure));
        Ok(refusal::explained(op, failure, reason))
    }

    fn port_reason(&mut self, device: &Device) -> Result<Option<String>, KernelError> {
        let Some(vxlan) = vxlan(device) else {
            return Ok(None);
        };
        let others = self.others(device.name)?;
        let holder = port_holder::find(self.namespace, vxlan, &others);
        Ok(Some(holder.told(vxlan.port)))
    }

    fn exists_reason(&mut self, op: &Op, device: &Device) -> Result<Option<String>, KernelError> {
        if let Some(seen) = self.look_up(device.name)? {
            let now = seen.named(&Names::default(), None);
            let what = match &now.kind {
                DeviceKind::Other(kind) if kind.is_empty() => "a network card".to_owned(),
                DeviceKind::Other(kind) => format!("a device of the kind {kind}"),
                DeviceKind::Vxlan(_) => return self.twin_reason(device, matches!(op, Op::Add(_))),
                _ => "a device of another kind".to_owned(),
            };
            let name = device.name;
            return Ok(Some(format!(
                "{name} is {what}: rename it, or remove it with `ip link del {name}`"
            )));
        }
        self.twin_reason(device, false)
    }

    /// About a VXLAN device whose identifier another has, or whose name one may have `just_made` its own.
    fn twin_reason(&mut self, device: &Device, just_made: bool) -> Result<Option<String>, KernelError> {
        let Some(wanted) = vxlan(device) else {
            return Ok(None);
        };
        let (vni, port) = (wanted.vni, wanted.port);
        let others = self.others(device.name)?;
        let mut others = others.iter().map(|other| other.named(&Names::default(), None));
        let twin = others.find_map(|other| {
            let found = vxlan(&other)?;
            let ours = other.mac == device.mac && found.local == wanted.local;
            ((found.vni, found.port) == (vni, port)).then_some((other.name, ours))
        });
        let otherwise = "or set another VNI or Port in the network config, for all nodes";
        Ok(Some(match twin {
            Some((name, true)) => format!(
                "{name} is this device under another name: give it back its own, with all that is on it, with \
                 `ip link set {name} name {}` (before Linux 6.2 only while it is down)",
                device.name
            ),
            Some((name, false)) => format!(
                "{name} has VNI {vni} on port {port}: remove it with `ip link del {name}`, {otherwise}"
            ),
            None if just_made => "somebody else has just made it".to_owned(),
            None => format!(
                "a device that was made here and is in another network namespace has VNI {vni} on port {port}: find \
                 it with `ip -all netns exec ip -d link show type vxlan`, or in the namespaces that `lsns -t net` \
                 lists, and remove it there, {otherwise}"
            ),
        }))
    }

    fn mtu_reason(&mut self, device: &Device) -> Result<Option<String>, KernelError> {
        let Some((vxlan, name)) = vxlan(device).and_then(|vxlan| Some((vxlan, vxlan.uplink?))) else {
            return Ok(None);
        };
        let (mtu, overhead) = (device.mtu, vxlan::overhead(vxlan));
        let uplink = self.look_up(name)?;
        let small = uplink.filter(|uplink| uplink.link.mtu < mtu.saturating_add(overhead));
        Ok(small.map(|uplink| {
            let below = uplink.link.mtu;
            format!("an MTU of {mtu} and {overhead} bytes around it are more than the MTU of {name}, {below}")
        }))
    }

    fn others(&mut self, name: DeviceName) -> Result<Vec<SeenDevice>, KernelError> {
        let mut devices = facts::seen_links(self.socket, SeenDevice::decode)?;
        devices.retain(|device| device.name() != name);
        Ok(devices)
    }
}

const fn make(message: LinkMessage) -> Request {
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn change(message: LinkMessage) -> Request {
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
    }
}

/// Whether a device is the one that was seen before, though other settings may have changed since.
fn is_the_same(seen: &SeenDevice, before: &Device) -> bool {
    let now = seen.named(&Names::default(), None);
    match (vxlan(&now), vxlan(before)) {
        (Some(now), Some(before)) => (now.vni, now.port) == (before.vni, before.port),
        _ => now.kind == before.kind,
    }
}

/// Whether the kernel tells the packets of the device that there is and of the one in its place apart by nothing,
/// as far as is known: then it has what the other needs, and would be in its way.
fn is_told_alike(now: &Vxlan, wanted: &Vxlan) -> bool {
    let is_ipv6 = |vxlan: &Vxlan| vxlan.local.is_some_and(|local| local.is_ipv6());
    let read_alike = now.gbp == wanted.gbp && is_ipv6(now) == is_ipv6(wanted);
    (now.vni, now.port) == (wanted.vni, wanted.port) && (now.decorated || read_alike)
}

fn trial_name(index: u32) -> DeviceName {
    #[expect(clippy::expect_used, reason = "at most 15 letters and digits")]
    format!("fltry{index}").parse().expect("a device name")
}

fn another(op: &Op, seen: &SeenDevice) -> OpError {
    let now = seen.named(&Names::default(), None);
    refusal(
        op,
        OpErrorKind::Gone,
        &format!("another device has the name by now, {now}"),
    )
}

const fn vxlan(device: &Device) -> Option<&Vxlan> {
    match &device.kind {
        DeviceKind::Vxlan(vxlan) => Some(vxlan),
        _ => None,
    }
}
