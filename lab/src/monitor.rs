//! A record of what changes in a namespace's kernel, by `ip monitor`.

use std::fs;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;

use crate::program::{Line, Recorder, command};
use crate::route::{Family, destination};
use crate::{LabError, Namespace, wait_until};

/// Time for `ip monitor` to subscribe, or to have written everything it was told.
const MONITOR_DEADLINE: Duration = Duration::from_secs(5);
/// The legacy group bits of IPv4 and IPv6 routes (`RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_ROUTE`, linux/rtnetlink.h).
const ROUTE_GROUPS: u32 = 0x40 | 0x400;
/// Begins the line of what went.
const DELETED: &str = "Deleted ";
/// What [`KernelMonitor`] listens to. Entries of forwarding databases are told as neighbours.
const EVERYTHING: &[&str] = &["link", "address", "route", "neigh"];

/// Records changes of devices, addresses, routes, neighbours and forwarding databases until it is stopped or dropped.
#[derive(Debug)]
pub struct KernelMonitor {
    recorder: Recorder,
}

/// Records route changes until it is stopped or dropped.
#[derive(Debug)]
pub struct RouteMonitor(KernelMonitor);

/// One change.
#[derive(Clone, Debug)]
pub struct KernelEvent {
    /// When it was read.
    pub at: Instant,
    /// Whether the object went; otherwise it came, or was changed.
    pub deleted: bool,
    /// The line of `ip monitor`.
    pub line: String,
}

/// One change of a route.
#[derive(Clone, Debug)]
pub struct RouteEvent {
    /// When it was read.
    pub at: Instant,
    /// Whether the route went; otherwise it came, or was replaced.
    pub deleted: bool,
    /// The route's destination.
    pub destination: IpNet,
    /// The line of `ip monitor`.
    pub line: String,
}

impl KernelMonitor {
    pub(crate) fn start(namespace: &Namespace) -> Result<Self, LabError> {
        Self::of(namespace, EVERYTHING)
    }

    fn of(namespace: &Namespace, objects: &[&str]) -> Result<Self, LabError> {
        let arguments = [&["-o", "-n", namespace.name(), "monitor"], objects].concat();
        let recorder = Recorder::start(command("ip", arguments))?;
        let monitor = Self { recorder };
        // A change before it listens would be missed, and a test that looks for none would see none. It subscribes
        // first and then lists the links by the same socket, throwing away what is announced meanwhile.
        wait_until(
            MONITOR_DEADLINE,
            format!("the monitor of {}", namespace.name()),
            || monitor.waits_for_more(),
        )?;
        Ok(monitor)
    }

    /// What was read so far. The last changes may still be on their way: [`Self::stop`] has them all.
    pub fn events(&self) -> Vec<KernelEvent> {
        self.recorder.lines().into_iter().map(KernelEvent::read).collect()
    }

    /// Ends the record and returns everything up to now.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if the monitor could not keep up.
    pub fn stop(self) -> Result<Vec<KernelEvent>, LabError> {
        Ok(self.end()?.into_iter().map(KernelEvent::read).collect())
    }

    fn end(self) -> Result<Vec<Line>, LabError> {
        wait_until(MONITOR_DEADLINE, "the monitor to write all it was told", || {
            self.waits_for_more()
        })?;
        Ok(self.recorder.stop(Signal::SIGTERM))
    }

    /// Whether it has subscribed, has written all it was told, and waits for the next change.
    fn waits_for_more(&self) -> bool {
        self.unread() == Some(0) && self.sleeps()
    }

    /// Bytes in the monitor's socket; `None` before it has subscribed.
    fn unread(&self) -> Option<u64> {
        let sockets = fs::read_to_string(format!("/proc/{}/net/netlink", self.recorder.pid())).ok()?;
        unread_of(&sockets, self.recorder.pid())
    }

    /// Whether the monitor sleeps. It does so for nothing but the next message: the kernel answers requests, as for a
    /// list of links, before they return.
    fn sleeps(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.recorder.pid())).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('S'))
        })
    }
}

impl RouteMonitor {
    pub(crate) fn start(namespace: &Namespace) -> Result<Self, LabError> {
        KernelMonitor::of(namespace, &["route"]).map(Self)
    }

    /// What was read so far. The last changes may still be on their way: [`Self::stop`] has them all.
    pub fn events(&self) -> Vec<RouteEvent> {
        let lines = self.0.recorder.lines().into_iter();
        lines.filter_map(RouteEvent::read).collect()
    }

    /// The removals among [`Self::events`].
    pub fn deletes(&self) -> Vec<RouteEvent> {
        self.events().into_iter().filter(|event| event.deleted).collect()
    }

    /// Ends the record and returns everything up to now.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if the monitor could not keep up.
    pub fn stop(self) -> Result<Vec<RouteEvent>, LabError> {
        Ok(self.0.end()?.into_iter().filter_map(RouteEvent::read).collect())
    }
}

/// The `Rmem` of the route socket of `pid` that listens to route changes, in the text of `/proc/net/netlink`.
fn unread_of(sockets: &str, pid: u32) -> Option<u64> {
    sockets.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let protocol: u32 = fields.next()?.parse().ok()?;
        let port: u32 = fields.next()?.parse().ok()?;
        let groups = u32::from_str_radix(fields.next()?, 16).ok()?;
        let unread = fields.next()?.parse().ok()?;
        (protocol == 0 && port == pid && groups & ROUTE_GROUPS == ROUTE_GROUPS).then_some(unread)
    })
}

impl KernelEvent {
    fn read(Line { at, text }: Line) -> Self {
        Self {
            at,
            deleted: text.starts_with(DELETED),
            line: text,
        }
    }
}

impl RouteEvent {
    /// Reads a line. One without a destination is no route but a complaint of `ip`, such as that of a link whose peer's
    /// namespace is just being deleted.
    fn read(Line { at, text }: Line) -> Option<Self> {
        let family = if text.contains(':') {
            Family::V6
        } else {
            Family::V4
        };
        let (deleted, route) = text
            .strip_prefix(DELETED)
            .map_or((false, text.as_str()), |route| (true, route));
        // A type such as `blackhole` or `local` comes before the destination.
        let destination = route
            .split_whitespace()
            .take(2)
            .find_map(|word| destination(family, word))?;
        Some(Self {
            at,
            deleted,
            destination,
            line: text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> RouteEvent {
        line(text).unwrap()
    }

    fn line(text: &str) -> Option<RouteEvent> {
        RouteEvent::read(Line {
            at: Instant::now(),
            text: text.into(),
        })
    }

    #[test]
    fn a_monitors_line_tells_what_came_and_what_went() {
        let came = event("10.77.3.0/24 via 192.168.77.12 dev eth0 proto 70 ");
        assert!(!came.deleted);
        assert_eq!(came.destination, "10.77.3.0/24".parse().unwrap());
        let went = event("Deleted fd77:0:0:3::/64 via fd00:77::12 dev eth0 proto 70 metric 1024 pref medium");
        assert!(went.deleted);
        assert_eq!(went.destination, "fd77:0:0:3::/64".parse().unwrap());
        assert_eq!(
            event("Deleted blackhole 10.9.0.0/16 ").destination,
            "10.9.0.0/16".parse().unwrap()
        );
        assert_eq!(
            event("default via fd00:77::1 dev eth0").destination,
            "::/0".parse().unwrap()
        );
    }

    #[test]
    fn what_ip_complains_about_is_no_change_of_a_route() {
        assert!(line("Error: Peer netns reference is invalid.").is_none());
    }

    #[test]
    fn only_a_subscribed_route_socket_of_the_monitor_counts() {
        let sockets = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                       0000000000000000 0   4242       00000000 0        0        0     2        0        71\n\
                       0000000000000000 15  4242       00000440 0        0        0     2        0        72\n\
                       0000000000000000 0   4243       00000440 0        0        0     2        0        73\n";
        assert_eq!(unread_of(sockets, 4242), None);
        assert_eq!(unread_of(sockets, 4243), Some(0));
    }
}
