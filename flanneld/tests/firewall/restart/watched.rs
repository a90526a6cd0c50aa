//! Something done while rules and connections are watched without a pause.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Family, Host, Pod, Receiver, wait_until};

use super::stream::{Stream, Told};
use crate::faults::{Ground, SOON, masquerades, rules, rules_of, run};

/// Where the outside answers, in IPv4 and IPv6.
const PORTS: [u16; 2] = [7700, 7701];
const STREAM_PORTS: [u16; 2] = [7702, 7703];
/// A connection whose first packet is lost takes longer: TCP sends it again after a second.
const CONNECTED: Duration = Duration::from_secs(1);

/// Between two connections: they are not to take the processors from what they watch.
const PAUSE: Duration = Duration::from_millis(10);

/// What is watched.
pub(super) struct Watched<'a> {
    pub(super) ground: &'a Ground,
    /// Whose connections to the outside, if anybody's.
    pub(super) pod: Option<&'a Pod>,
    /// Looks at the rules, at least; with 0 there are none.
    pub(super) samples: usize,
    /// For IPv4 and IPv6: the networks of which one has to be masqueraded in every sample, if there are any.
    pub(super) networks: [&'a [&'a str]; 2],
}

/// What was seen: nothing amiss.
pub(super) struct Seen {
    samples: usize,
    connections: Vec<Duration>,
    streams: Vec<Told>,
}

/// Tells the watchers to end, also when what they watch has panicked.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Watched<'_> {
    /// Watches while `action` goes on, and as long as samples are missing.
    ///
    /// # Panics
    /// If one of the samples shows a family that is not masqueraded, if a new connection is not masqueraded or had to
    /// try again, or if a packet of a long one was lost.
    #[track_caller]
    pub(super) fn during(&self, action: impl FnOnce()) -> Seen {
        let streams: Vec<Stream> = self.pod.into_iter().flat_map(|pod| self.streams(pod)).collect();
        let over = AtomicBool::new(false);
        let (samples, connections) = thread::scope(|scope| {
            let sampler = scope.spawn(|| self.sample(&over));
            let connector = scope.spawn(|| self.pod.map(|pod| self.connect(pod, &over)).unwrap_or_default());
            let ends = Ends(&over);
            action();
            drop(ends);
            (sampler.join().unwrap(), connector.join().unwrap())
        });
        let seen = Seen {
            samples,
            connections,
            streams: streams.into_iter().map(Stream::stop).collect(),
        };
        if self.pod.is_some() {
            let longest = seen.connections.iter().max().unwrap();
            assert!(*longest < CONNECTED, "{seen}");
        }
        for told in &seen.streams {
            assert!(told.answers > 0 && !told.about.is_empty(), "{told:?}");
            assert!(
                !told.about.contains("retrans:"),
                "a packet was sent again: {told:?}"
            );
        }
        seen
    }

    /// Looks at one family after the other.
    fn sample(&self, over: &AtomicBool) -> usize {
        let families = [Family::V4, Family::V6].into_iter().zip(self.networks);
        let families: Vec<_> = families.filter(|(_, networks)| !networks.is_empty()).collect();
        let mut samples = 0;
        while self.samples > 0 && (!over.load(Ordering::Relaxed) || samples < self.samples) {
            let (family, networks) = families[samples % families.len()];
            let rules = rules_of(self.ground.host(), family);
            assert!(
                networks.iter().any(|network| masquerades(&rules, network)),
                "in sample {samples} none of {networks:?} is masqueraded: {rules:#?}"
            );
            samples += 1;
        }
        samples
    }

    /// One connection after the other, in both families.
    fn connect(&self, pod: &Pod, over: &AtomicBool) -> Vec<Duration> {
        let open = |(family, port)| Receiver::open(self.ground.outside(), family, port).unwrap();
        // The outside remembers no connection that is over: masqueraded, a new one may come from the port of an old one,
        // and its first packet would be dropped as one of that.
        run(self.ground.outside(), "sysctl -qw net.ipv4.tcp_max_tw_buckets=0");
        let receivers = [(Family::V4, PORTS[0]), (Family::V6, PORTS[1])].map(open);
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            for (receiver, (to, masqueraded)) in receivers.iter().zip(self.ways()) {
                let begin = Instant::now();
                let source = receiver.source_of_connection(pod, to, SOON).unwrap();
                times.push(begin.elapsed());
                assert_eq!(source, masqueraded, "connection {}", times.len());
            }
            thread::sleep(PAUSE);
        }
        times
    }

    fn streams(&self, pod: &Pod) -> Vec<Stream> {
        let ways = self.ways().into_iter().zip(STREAM_PORTS);
        ways.map(|((to, _), port)| Stream::open(pod, self.ground.outside(), to, port))
            .collect()
    }

    /// For each family, an address outside and the one that it has to see.
    fn ways(&self) -> [(IpAddr, IpAddr); 2] {
        let (host, outside) = (self.ground.host(), self.ground.outside());
        [
            (outside.ipv4().unwrap().into(), host.ipv4().unwrap().into()),
            (outside.ipv6().unwrap().into(), host.ipv6().unwrap().into()),
        ]
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "masqueraded in {0} of {0} samples", self.samples)?;
        if let Some(longest) = self.connections.iter().max() {
            let count = self.connections.len();
            write!(f, ", {count} new connections, the slowest in {longest:.0?}")?;
        }
        for told in &self.streams {
            write!(
                f,
                ", {} answers on one, the slowest after {:.0?}",
                told.answers, told.longest
            )?;
        }
        Ok(())
    }
}

/// Waits for a state of the rules.
#[track_caller]
pub(super) fn wait_for_rules(host: &Host, what: &str, reached: impl Fn(&[String]) -> bool) {
    let mut seen = Vec::new();
    let outcome = wait_until(SOON, "", || {
        seen = rules(host);
        reached(&seen)
    });
    assert!(outcome.is_ok(), "the rules ought {what}, but are {seen:#?}");
}
