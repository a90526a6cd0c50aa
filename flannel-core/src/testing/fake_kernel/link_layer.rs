//! Neighbours, and the forwarding databases of VXLAN devices.

use std::collections::BTreeMap;

use super::kernel::{Kernel, refused, refused_because};
use super::nic::is_v6;
use crate::{
    Changed, DeviceName, Forwarding, ForwardingId, MacAddress, Neighbour, NeighbourId, ObjectId, OpError,
    OpErrorKind,
};

/// The neighbours and forwarding entries of all devices.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkLayer {
    neighbours: BTreeMap<NeighbourId, Entry>,
    forwarding: BTreeMap<(DeviceName, MacAddress), Vec<Forwarding>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    mac: MacAddress,
    permanent: bool,
}

impl LinkLayer {
    /// The permanent ones.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = Neighbour> {
        let permanent = self.neighbours.iter().filter(|(_, entry)| entry.permanent);
        permanent.map(|(id, entry)| Neighbour {
            id: *id,
            mac: entry.mac,
        })
    }

    /// All of them, numbered where there are several for one MAC address.
    pub(super) fn forwarding(&self) -> impl Iterator<Item = Forwarding> {
        self.forwarding.values().flat_map(|entries| {
            (0..).zip(entries).map(|(position, entry)| Forwarding {
                id: ForwardingId { position, ..entry.id },
                ..*entry
            })
        })
    }
}

impl Kernel {
    /// Makes a permanent neighbour, or puts it in the place of the one that is there
    /// (`NLM_F_CREATE | NLM_F_REPLACE`).
    pub(super) fn put_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), OpError> {
        if self.link(neighbour.id.device).is_none() {
            return Err(refused(OpErrorKind::NoDevice, neighbour));
        }
        let entry = Entry {
            mac: neighbour.mac,
            permanent: true,
        };
        if self.link_layer.neighbours.insert(neighbour.id, entry) != Some(entry) {
            self.announce(Changed::Appeared((*neighbour).into()));
        }
        Ok(())
    }

    /// Removes the permanent neighbour that is like this one in every field. What is announced is one
    /// that has failed, as `neigh_delete` makes it before it goes.
    pub(super) fn remove_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), OpError> {
        let entry = Entry {
            mac: neighbour.mac,
            permanent: true,
        };
        if self.link_layer.neighbours.get(&neighbour.id) != Some(&entry) {
            return Err(refused(OpErrorKind::Gone, neighbour));
        }
        self.link_layer.neighbours.remove(&neighbour.id);
        self.announce(Changed::Gone(ObjectId::Neighbour(neighbour.id)));
        Ok(())
    }

    /// Has a neighbour age from now on (`ip neigh replace ... nud stale`); says whether there is one.
    pub(super) fn age_neighbour(&mut self, id: NeighbourId) -> bool {
        let entry = self.link_layer.neighbours.get_mut(&id);
        let there = entry.is_some();
        entry.into_iter().for_each(|entry| entry.permanent = false);
        if there {
            self.announce(Changed::Gone(ObjectId::Neighbour(id)));
        }
        there
    }

    /// Makes a forwarding entry, or puts it in the place of the one that is there: the kernel keeps one
    /// for each MAC address of a host. Group addresses have several, which differ in their position.
    pub(super) fn put_forwarding(&mut self, entry: &Forwarding) -> Result<(), OpError> {
        let nic = self.nic(entry.id.device);
        let nic = nic.ok_or_else(|| refused(OpErrorKind::NoDevice, entry))?;
        let vxlan = nic
            .vxlan()
            .ok_or_else(|| refused_because(OpErrorKind::Other, entry, "Not supported (os error 95)"))?;
        if entry.host.is_none_or(|host| host.is_ipv6() != is_v6(vxlan)) {
            let words = "Address family not supported by protocol (os error 97)";
            return Err(refused_because(OpErrorKind::Other, entry, words));
        }
        let place = (entry.id.device, entry.id.mac);
        let entries = self.link_layer.forwarding.entry(place).or_default();
        let unicast = entry.id.mac.is_unicast();
        let at = if unicast {
            0
        } else {
            usize::from(entry.id.position)
        };
        let made = Forwarding {
            id: ForwardingId {
                position: 0,
                ..entry.id
            },
            ..*entry
        };
        match entries.get_mut(at) {
            Some(there) if *there == made => return Ok(()),
            Some(there) => *there = made,
            None => entries.push(made),
        }
        self.announce(Changed::Appeared(made.into()));
        Ok(())
    }

    /// Removes the forwarding entry that is like this one in every field but its position.
    pub(super) fn remove_forwarding(&mut self, entry: &Forwarding) -> Result<(), OpError> {
        let place = (entry.id.device, entry.id.mac);
        let is_it = |there: &Forwarding| there.host == entry.host && there.decorated == entry.decorated;
        let entries = self.link_layer.forwarding.get_mut(&place);
        let removed = entries.and_then(|entries| {
            let at = entries.iter().position(is_it)?;
            Some(entries.remove(at))
        });
        let removed = removed.ok_or_else(|| refused(OpErrorKind::Gone, entry))?;
        if self.link_layer.forwarding.get(&place).is_some_and(Vec::is_empty) {
            self.link_layer.forwarding.remove(&place);
        }
        self.announce(Changed::Vanished(removed.into()));
        Ok(())
    }

    /// Drops neighbours as `neigh_flush_dev` does, permanent ones, too.
    pub(super) fn flush_neighbours(&mut self, gone: impl Fn(&NeighbourId) -> bool) {
        let flushed = self
            .link_layer
            .neighbours()
            .filter(|neighbour| gone(&neighbour.id));
        let flushed: Vec<Neighbour> = flushed.collect();
        self.link_layer.neighbours.retain(|id, _| !gone(id));
        for neighbour in flushed {
            self.announce(Changed::Vanished(neighbour.into()));
        }
    }

    /// Drops the forwarding database of a device that goes.
    pub(super) fn flush_forwarding(&mut self, device: DeviceName) {
        let flushed = self
            .link_layer
            .forwarding()
            .filter(|entry| entry.id.device == device);
        let flushed: Vec<Forwarding> = flushed.collect();
        self.link_layer.forwarding.retain(|(of, _), _| *of != device);
        for entry in flushed {
            self.announce(Changed::Vanished(entry.into()));
        }
    }
}
