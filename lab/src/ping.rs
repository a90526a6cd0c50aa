//! Pings, once or without end, by iputils' `ping`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::program::{Recorder, run};
use crate::route::Family;
use crate::{LabError, Namespace, wait_until};

/// Time that `ping` itself gets beyond the deadline it was told, to start and to report.
const GRACE: Duration = Duration::from_secs(5);
/// Between two pings.
const INTERVAL: &str = "0.01";
/// Sequence numbers wrap here (RFC 792: 16 bits).
const SEQUENCE_WRAP: u64 = 1 << 16;
/// What an echo request adds to its data: headers of IPv4, or of IPv6, and of ICMP (RFC 791, 8200, 792, 4443).
const OVERHEAD: [u32; 2] = [20 + 8, 40 + 8];

/// What became of a series of pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
    /// Requests without an answer. The very last one does not count: it may have been on its way at the end.
    pub lost: u64,
    /// When those were sent, or one interval later.
    pub lost_at: Vec<SystemTime>,
    /// The longest time without a reply, from the first reply on.
    pub longest_gap: Duration,
    /// The quickest round trip.
    pub fastest: Option<Duration>,
}

/// Pings `to` from a namespace, 100 times a second, until `count` replies came.
///
/// # Errors
/// [`LabError::NoAnswer`] if fewer came within `within`, which is rounded up to seconds.
pub fn ping(
    from: impl AsRef<Namespace>,
    to: IpAddr,
    count: u32,
    within: Duration,
) -> Result<PingReport, LabError> {
    ping_with(from.as_ref(), to, &[], count, within)
}

/// As [`ping`], with packets of so many bytes, IP header included, that nobody on the way may cut into pieces ("don't
/// fragment").
///
/// # Errors
/// As [`ping`], also where a packet is longer than the way allows.
pub fn ping_whole(
    from: impl AsRef<Namespace>,
    to: IpAddr,
    bytes: u32,
    count: u32,
    within: Duration,
) -> Result<PingReport, LabError> {
    ping_with(from.as_ref(), to, &whole(to, bytes), count, within)
}

fn ping_with(
    from: &Namespace,
    to: IpAddr,
    options: &[String],
    count: u32,
    within: Duration,
) -> Result<PingReport, LabError> {
    let seconds = within.as_secs() + u64::from(within.subsec_nanos() > 0);
    let limits = ["-c", &count.to_string(), "-w", &seconds.max(1).to_string()].map(str::to_owned);
    let words = words(to, INTERVAL, &[options, &limits].concat());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = run(from.command(&words), "", within + GRACE)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() && !stdout.contains(" packets transmitted") {
        return Err(LabError::Program {
            line: words.join(" "),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let report = parse(stdout.lines())?;
    if report.received < u64::from(count) {
        let PingReport { sent, received, .. } = report;
        return Err(LabError::NoAnswer {
            from: from.name().to_owned(),
            to,
            within,
            sent,
            received,
        });
    }
    Ok(report)
}

/// The command line, with options before the address.
fn words(to: IpAddr, interval: &str, options: &[String]) -> Vec<String> {
    let usual = ["ping", Family::of(to).option(), "-n", "-D", "-O", "-i", interval].map(str::to_owned);
    let mut words = [&usual, options].concat();
    words.push(to.to_string());
    words
}

/// The options for packets of so many bytes that stay whole.
fn whole(to: IpAddr, bytes: u32) -> [String; 4] {
    let data = bytes.saturating_sub(OVERHEAD[usize::from(to.is_ipv6())]);
    ["-M", "do", "-s", &data.to_string()].map(str::to_owned)
}

/// Pings until it is stopped, and knows afterwards what was lost.
#[derive(Debug)]
pub struct Pinger {
    recorder: Recorder,
    to: IpAddr,
}

impl Pinger {
    /// With packets of so many bytes that stay whole, or with ping's own.
    pub(crate) fn start(from: &Namespace, to: IpAddr, bytes: Option<u32>) -> Result<Self, LabError> {
        let options = bytes.map_or_else(Vec::new, |bytes| whole(to, bytes).to_vec());
        let words = words(to, INTERVAL, &options);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(Self {
            recorder: Recorder::start(from.command(&words))?,
            to,
        })
    }

    /// Waits until `count` replies have come since the start.
    ///
    /// # Errors
    /// [`LabError::TimedOut`].
    pub fn wait_for_replies(&self, count: usize, within: Duration) -> Result<(), LabError> {
        wait_until(within, format!("{count} replies of {}", self.to), || {
            self.replies() >= count
        })
    }

    /// Waits until `count` more replies have come than there are now.
    ///
    /// # Errors
    /// [`LabError::TimedOut`].
    pub fn wait_for_more(&self, count: usize, within: Duration) -> Result<(), LabError> {
        self.wait_for_replies(self.replies() + count, within)
    }

    fn replies(&self) -> usize {
        let lines = self.recorder.lines();
        lines.iter().filter(|line| reply(&line.text).is_some()).count()
    }

    /// Requests that the next one went out after without an answer, so far. Some may still be answered.
    pub fn unanswered_so_far(&self) -> usize {
        let lines = self.recorder.lines();
        lines
            .iter()
            .filter(|line| unanswered(&line.text).is_some())
            .count()
    }

    /// Ends the pings and reports.
    ///
    /// # Errors
    /// [`LabError::Text`] with all that `ping` said, if it did not even start.
    pub fn stop(self) -> Result<PingReport, LabError> {
        let lines = self.recorder.stop(Signal::SIGINT);
        parse(lines.iter().map(|line| line.text.as_str()))
    }
}

struct Reply {
    sequence: u64,
    round_trip: Option<Duration>,
}

/// `[1700000000.123456] 64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.021 ms`.
fn reply(line: &str) -> Option<Reply> {
    if !line.contains(" bytes from ") || line.contains("(DUP!)") {
        return None;
    }
    let value = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    let round_trip = value("time=")
        .and_then(|text| text.parse::<f64>().ok())
        .map(|ms| Duration::from_secs_f64(ms / 1e3));
    Some(Reply {
        sequence: value("icmp_seq=")?.parse().ok()?,
        round_trip,
    })
}

/// The number in `no answer yet for icmp_seq=3`, which `-O` writes when the next request goes out.
fn unanswered(line: &str) -> Option<u64> {
    line.split_once("no answer yet for icmp_seq=")?
        .1
        .trim()
        .parse()
        .ok()
}

/// The time in brackets that `-D` puts before a line, since the epoch.
fn stamp(line: &str) -> Option<Duration> {
    let (stamp, _) = line.strip_prefix('[')?.split_once(']')?;
    stamp.parse().ok().map(Duration::from_secs_f64)
}

/// What a sequence number was before it wrapped: requests come in order but for a few, so that the number nearest to the
/// `last` one is right.
fn unwrapped(number: u64, last: u64) -> u64 {
    let wraps = (last + SEQUENCE_WRAP / 2).saturating_sub(number) / SEQUENCE_WRAP;
    number + wraps * SEQUENCE_WRAP
}

fn parse<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Result<PingReport, LabError> {
    let sent: u64 = lines
        .clone()
        .find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok())
        .ok_or_else(|| {
            LabError::text(
                "the output of `ping`",
                "no summary",
                lines.clone().collect::<Vec<_>>().join("\n"),
            )
        })?;
    let mut received = 0;
    let mut last_sequence = 0;
    let mut fastest: Option<Duration> = None;
    let (mut last_reply, mut last_line): (Option<Duration>, Option<Duration>) = (None, None);
    let mut longest_gap = Duration::ZERO;
    // By number; an answer may still come.
    let mut waiting = BTreeMap::new();
    let mut last_waiting = 0;
    for line in lines {
        let at = stamp(line);
        last_line = at.or(last_line);
        if let (Some(number), Some(at)) = (unanswered(line), at) {
            last_waiting = unwrapped(number, last_waiting.max(last_sequence));
            waiting.insert(last_waiting, at);
        }
        let Some(reply) = reply(line) else { continue };
        received += 1;
        let sequence = unwrapped(reply.sequence, last_waiting.max(last_sequence));
        waiting.remove(&sequence);
        last_sequence = last_sequence.max(sequence);
        fastest = [fastest, reply.round_trip].into_iter().flatten().min();
        if let (Some(before), Some(at)) = (last_reply, at) {
            longest_gap = longest_gap.max(at.saturating_sub(before));
        }
        last_reply = at.or(last_reply);
    }
    if let (Some(reply), Some(line)) = (last_reply, last_line) {
        longest_gap = longest_gap.max(line.saturating_sub(reply));
    }
    let in_flight = u64::from(last_sequence < sent && received < sent);
    Ok(PingReport {
        sent,
        received,
        lost: sent.saturating_sub(received + in_flight),
        lost_at: waiting.into_values().map(|at| UNIX_EPOCH + at).collect(),
        longest_gap,
        fastest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> PingReport {
        parse(text.lines()).unwrap()
    }

    #[test]
    fn replies_losses_and_the_longest_gap_are_counted() {
        let report = parsed(
            "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
             [1700000000.100000] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.050 ms\n\
             [1700000000.110000] 64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=0.030 ms\n\
             [1700000000.130000] no answer yet for icmp_seq=3\n\
             [1700000000.135000] From 10.0.0.1 icmp_seq=4 Destination Host Unreachable\n\
             [1700000000.150000] 64 bytes from 10.0.0.2: icmp_seq=5 ttl=64 time=0.040 ms\n\
             [1700000000.150100] 64 bytes from 10.0.0.2: icmp_seq=5 ttl=64 time=0.041 ms (DUP!)\n\
             \n--- 10.0.0.2 ping statistics ---\n\
             5 packets transmitted, 3 received, +1 duplicates, +1 errors, 40% packet loss, time 50ms\n",
        );
        assert_eq!((report.sent, report.received, report.lost), (5, 3, 2));
        // Fractions of a second are read as floating point.
        let lost_at = report
            .lost_at
            .iter()
            .map(|at| at.duration_since(UNIX_EPOCH).unwrap());
        let micros: Vec<u128> = lost_at.map(|at| at.as_micros()).collect();
        assert_eq!(micros, [1_700_000_000_130_000]);
        assert!((39..=41).contains(&report.longest_gap.as_millis()), "{report:?}");
        assert_eq!(report.fastest, Some(Duration::from_micros(30)));
    }

    #[test]
    fn a_request_still_on_its_way_at_the_end_is_not_lost() {
        let report = parsed(
            "[1700000000.100000] 64 bytes from fd00::2: icmp_seq=1 ttl=64 time=0.050 ms\n\
             2 packets transmitted, 1 received, 50% packet loss, time 10ms\n",
        );
        assert_eq!((report.sent, report.lost), (2, 0));
    }

    #[test]
    fn a_request_that_is_answered_late_is_not_lost() {
        let report = parsed(
            "[1700000000.100000] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.050 ms\n\
             [1700000000.120000] no answer yet for icmp_seq=2\n\
             [1700000000.121000] 64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=11.0 ms\n\
             2 packets transmitted, 2 received, 0% packet loss, time 10ms\n",
        );
        assert_eq!((report.lost, report.lost_at), (0, Vec::new()));
    }

    #[test]
    fn the_bytes_of_a_whole_packet_include_its_headers() {
        for (to, data) in [("10.0.0.2", "1422"), ("fd00::2", "1402")] {
            assert_eq!(whole(to.parse().unwrap(), 1450)[3], data);
        }
    }

    #[test]
    fn silence_at_the_end_counts_as_loss_and_as_a_gap() {
        let report = parsed(
            "[1700000000.100000] 64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.050 ms\n\
             [1700000000.120000] no answer yet for icmp_seq=2\n\
             [1700000000.900000] no answer yet for icmp_seq=3\n\
             4 packets transmitted, 1 received, 75% packet loss, time 800ms\n",
        );
        assert_eq!(report.lost, 2);
        assert!(
            (799..=801).contains(&report.longest_gap.as_millis()),
            "{report:?}"
        );
    }

    #[test]
    fn sequence_numbers_may_wrap() {
        let mut text = String::new();
        for sequence in [65534u64, 65535, 0, 1] {
            text +=
                &format!("[1700000000.1] 64 bytes from 10.0.0.2: icmp_seq={sequence} ttl=64 time=0.05 ms\n");
        }
        text += "65537 packets transmitted, 65537 received\n";
        // The four lines stand for all: the last is number 65537, so none was on its way.
        assert_eq!(parsed(&text).lost, 65537 - 4);
    }

    #[test]
    fn a_ping_that_never_started_is_an_error_with_its_words() {
        let error = parse("ping: connect: Network is unreachable".lines()).unwrap_err();
        assert!(error.to_string().contains("Network is unreachable"), "{error}");
    }
}
