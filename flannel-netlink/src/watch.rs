//! What the kernel announces, as [`Changed`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use flannel_core::{Changed, DeviceName, KernelError, Link, Object, ObjectId, Scope};
use futures_util::stream::{BoxStream, Stream, StreamExt, select, unfold};
use netlink_packet_core::DecodeError;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::neighbour::NeighbourHeader;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::announcements::Announcements;
use crate::link::{self, Names};
use crate::reply::{Message, messages};
use crate::{Netlink, forwarding, neighbour, route, tables};

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE` in
/// `linux/rtnetlink.h`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// `RTNLGRP_NEIGH`: neighbours and forwarding entries of all devices, of which there may be many.
const NEIGHBOURS: u32 = 3;

/// The pause after an error that reading again may meet at once.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// `RTM_*` in `linux/rtnetlink.h`.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DEL_NEIGHBOUR: u16 = 29;

/// Subscribes, and makes a stream of what comes.
pub(crate) fn watch(netlink: Netlink, scope: Scope) -> Result<BoxStream<'static, Changed>, KernelError> {
    let mut groups = GROUPS.to_vec();
    groups.extend((!scope.devices.is_empty()).then_some(NEIGHBOURS));
    let announcements = Announcements::subscribe(netlink.namespace(), NETLINK_ROUTE, &groups);
    let watch = Watch {
        announcements: announcements.map_err(|source| KernelError::System {
            doing: "subscribe to the kernel's announcements",
            source,
        })?,
        reader: Reader {
            scope,
            own_port: netlink.port(),
            names: Names::default(),
            down: BTreeSet::new(),
        },
        netlink: netlink.clone(),
        names_known: false,
        ready: VecDeque::new(),
    };
    let routes = unfold(watch, async |mut watch| Some((watch.next().await, watch)));
    Ok(merged(routes, tables::watch(netlink)))
}

/// Routes and tables of the packet filter take turns, so that neither waits for a flood of the other.
/// Where no tables are announced, as without nf_tables, routes are all the same.
fn merged(
    routes: impl Stream<Item = Changed> + Send + 'static,
    tables: io::Result<impl Stream<Item = Changed> + Send + 'static>,
) -> BoxStream<'static, Changed> {
    match tables {
        Ok(tables) => select(routes, tables).boxed(),
        Err(error) => {
            tracing::debug!(%error, "changes of the packet filter are not announced");
            routes.boxed()
        }
    }
}

struct Watch {
    announcements: Announcements,
    netlink: Netlink,
    reader: Reader,
    names_known: bool,
    /// Read and not yet handed on: what one read brought.
    ready: VecDeque<Changed>,
}

impl Watch {
    async fn next(&mut self) -> Changed {
        loop {
            if let Some(changed) = self.ready.pop_front() {
                return changed;
            }
            if !self.names_known {
                self.learn_names().await;
            } else if let Err(error) = self.read().await {
                tracing::warn!(%error, "cannot read the kernel's announcements; trying again");
                self.reader.forget();
                self.push(Changed::Overrun);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Announcements name devices by index. Those of links keep the names current. Whether a link
    /// is up is not learned here: what is still to be read may be older than the answer.
    async fn learn_names(&mut self) {
        self.names_known = true;
        match self.netlink.names().await {
            Ok(names) => self.reader.names = names,
            // Routes with the wrong device look changed, so that somebody looks.
            Err(error) => {
                self.reader.names = Names::default();
                tracing::debug!(%error, "announcements will lack names of devices");
                self.push(Changed::Overrun);
            }
        }
    }

    /// Waits for announcements and takes those that are there.
    async fn read(&mut self) -> io::Result<()> {
        let Self {
            announcements,
            reader,
            ready,
            ..
        } = self;
        let lost = announcements.read(|datagram| reader.read(datagram, |changed| push(ready, changed)));
        if lost.await? {
            self.push(Changed::Overrun);
            self.reader.forget();
            self.names_known = false;
        }
        Ok(())
    }

    fn push(&mut self, changed: Changed) {
        push(&mut self.ready, changed);
    }
}

/// Something that is only a reason to look again need not be said twice in a row of such reasons, nor with
/// one that is a reason to look at even more.
fn push(ready: &mut VecDeque<Changed>, changed: Changed) {
    let reason = |changed: &Changed| {
        matches!(
            changed,
            Changed::Host | Changed::Device(_) | Changed::Down(_) | Changed::Overrun
        )
    };
    // The kernel says twice that a neighbour is none any more.
    if matches!(changed, Changed::Gone(_)) && ready.back() == Some(&changed) {
        return;
    }
    let mut row = ready.iter().rev().take_while(|said| reason(said));
    let said = reason(&changed)
        && row.any(|said| {
            *said == changed
                || changed == Changed::Host && matches!(said, Changed::Down(_) | Changed::Overrun)
        });
    if !said {
        ready.push_back(changed);
    }
}

/// Makes sense of announcements. Pure.
struct Reader {
    scope: Scope,
    /// What we changed ourselves is known.
    own_port: u32,
    names: Names,
    /// The links of which it was said that they are down, since when there are no routes over them.
    down: BTreeSet<u32>,
}

impl Reader {
    fn read(&mut self, datagram: &[u8], mut tell: impl FnMut(Changed)) {
        for message in messages(datagram) {
            let read = message.and_then(|message| self.read_one(&message, &mut tell));
            if let Err(error) = read {
                tracing::debug!(%error, "an announcement that makes no sense");
                self.forget();
                tell(Changed::Overrun);
            }
        }
    }

    fn read_one(&mut self, message: &Message<'_>, tell: &mut impl FnMut(Changed)) -> Result<(), DecodeError> {
        let own = message.port == self.own_port;
        match message.kind {
            // Names are learned from what we change ourselves, too.
            NEW_LINK | DEL_LINK if own => {
                let link = link::decode(message.payload)?;
                if let Some(link) = link {
                    self.link_changed(message.kind, &link, &mut drop);
                }
            }
            _ if own => {}
            NEW_LINK | DEL_LINK => match link::decode(message.payload)? {
                Some(link) => self.link_changed(message.kind, &link, tell),
                None => tell(Changed::Host),
            },
            NEW_ADDRESS | DEL_ADDRESS => self.address_changed(message, tell)?,
            NEW_ROUTE | DEL_ROUTE => self.route_changed(message, tell)?,
            NEW_NEIGHBOUR | DEL_NEIGHBOUR => self.neighbour_changed(message, tell)?,
            _ => {}
        }
        Ok(())
    }

    fn link_changed(&mut self, kind: u16, link: &Link, tell: &mut impl FnMut(Changed)) {
        let before = self.names.known(link.index);
        tell(match kind {
            NEW_LINK => self.link_is(link),
            _ => self.link_is_gone(link),
        });
        let renamed = before.filter(|before| *before != link.name);
        for name in renamed.into_iter().chain([link.name]) {
            self.device_changed(name, tell);
        }
    }

    fn address_changed(
        &self,
        message: &Message<'_>,
        tell: &mut impl FnMut(Changed),
    ) -> Result<(), DecodeError> {
        let device = self.names.known(AddressHeader::parse(message.payload)?.index);
        tell(match (message.kind, device) {
            (NEW_ADDRESS, _) => Changed::Host,
            (_, Some(device)) => Changed::Down(device),
            (_, None) => Changed::Overrun,
        });
        if let Some(device) = device {
            self.device_changed(device, tell);
        }
        Ok(())
    }

    fn device_changed(&self, device: DeviceName, tell: &mut impl FnMut(Changed)) {
        if self.scope.has(&device) {
            tell(Changed::Device(device));
        }
    }

    fn route_changed(
        &self,
        message: &Message<'_>,
        tell: &mut impl FnMut(Changed),
    ) -> Result<(), DecodeError> {
        let Some(seen) = route::decode(message.payload)?.filter(route::SeenRoute::is_entry) else {
            return Ok(());
        };
        let covered = self.scope.covers(seen.id.destination);
        if seen.is_default() || self.scope.underlay && !covered {
            tell(Changed::Host);
        }
        if covered {
            tell(changed(message.kind == NEW_ROUTE, seen.named(&self.names)));
        }
        Ok(())
    }

    /// On a host with many containers most are about other devices, and are passed over at once.
    fn neighbour_changed(
        &self,
        message: &Message<'_>,
        tell: &mut impl FnMut(Changed),
    ) -> Result<(), DecodeError> {
        let header = NeighbourHeader::parse(message.payload)?;
        let device = self.names.known(header.ifindex);
        let Some(device) = device.filter(|device| self.scope.has(device)) else {
            return Ok(());
        };
        let appeared = message.kind == NEW_NEIGHBOUR;
        match header.family {
            AddressFamily::Bridge => {
                if let Some(entry) = forwarding::decode(message.payload)? {
                    let named = entry.named(device);
                    tell(if entry.lasting {
                        changed(appeared, named)
                    } else {
                        Changed::Gone(ObjectId::Forwarding(named.id))
                    });
                }
            }
            AddressFamily::Inet | AddressFamily::Inet6 => {
                if let Some(seen) = neighbour::decode(message.payload)? {
                    tell(match seen.named(device) {
                        Some(neighbour) => changed(appeared, neighbour),
                        None => Changed::Gone(ObjectId::Neighbour(seen.id(device))),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Without its carrier a link keeps its routes, and under another name, too.
    fn link_is(&mut self, link: &Link) -> Changed {
        self.names.put(link);
        if link.up {
            self.down.remove(&link.index);
        } else if self.down.insert(link.index) {
            return Changed::Down(link.name);
        }
        Changed::Host
    }

    fn link_is_gone(&mut self, link: &Link) -> Changed {
        self.names.remove(link);
        self.down.remove(&link.index);
        Changed::Down(link.name)
    }

    /// Announcements were lost: a link that was down may have been up in between.
    fn forget(&mut self) {
        self.down.clear();
    }
}

fn changed(appeared: bool, object: impl Into<Object>) -> Changed {
    if appeared {
        Changed::Appeared(object.into())
    } else {
        Changed::Vanished(object.into())
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
