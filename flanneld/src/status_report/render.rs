//! For people, on a terminal of 100 columns.

use std::fmt::Write;

use super::{DeviceReport, PeerReport, ReasonReport, StatusReport};

/// No line is longer.
const COLUMNS: usize = 100;

/// Where the values of the first lines begin.
const VALUES: usize = 11;

/// How far what belongs to a line above is moved in.
const INDENT: usize = 4;

/// What `flanneld status` prints about one daemon. It ends with a line feed.
#[must_use]
pub fn render(report: &StatusReport) -> String {
    let mut page = Page::default();
    page.line(&format!(
        "flanneld {}, pid {}, since {}: {}",
        report.version, report.pid, report.started, report.state
    ));
    page.value("subnet", &subnet(report));
    page.value("lease", &lease(report));
    page.value("uplink", &uplink(report));
    for device in &report.devices {
        page.value("device", &self::device(device));
    }
    page.value("store", &store(report));
    page.value("peers", &peers(report));
    page.value("repairs", &repairs(report));
    if report.counters.dropped_log_lines > 0 {
        page.value(
            "log",
            &format!("{} lines lost", report.counters.dropped_log_lines),
        );
    }
    page.reasons(&report.reasons);
    page.peers(&report.peers.list, report.peers.total);
    page.conflicts(report);
    page.text
}

fn subnet(report: &StatusReport) -> String {
    let own = report
        .lease
        .as_ref()
        .map_or_else(|| "none".to_owned(), |lease| lease.subnet.join(","));
    let network = match &report.network[..] {
        [] => "of a network that is not known yet".to_owned(),
        network => format!("of {}", network.join(",")),
    };
    let backend = report.backend.as_deref().unwrap_or("not known yet");
    format!("{own} {network}, backend {backend}")
}

fn lease(report: &StatusReport) -> String {
    let Some(lease) = &report.lease else {
        return "none".to_owned();
    };
    match (&lease.until, lease.seconds) {
        (Some(until), Some(0)) => format!("ended at {until}"),
        (Some(until), Some(left)) => format!("until {until}, {} left", span(left)),
        (Some(until), None) => format!("until {until}"),
        (None, _) => "does not end".to_owned(),
    }
}

fn uplink(report: &StatusReport) -> String {
    let Some(uplink) = &report.uplink else {
        return "none".to_owned();
    };
    let published = if uplink.public == uplink.addresses {
        String::new()
    } else {
        format!(", published as {}", uplink.public.join(","))
    };
    format!(
        "{} {}{published}, MTU {}",
        uplink.device,
        uplink.addresses.join(","),
        uplink.mtu
    )
}

fn device(device: &DeviceReport) -> String {
    let state = if device.up { "" } else { ", down" };
    format!("{} {}, MTU {}{state}", device.device, device.mac, device.mtu)
}

fn store(report: &StatusReport) -> String {
    let store = &report.store;
    let contact = match (&store.last_contact, store.silent_seconds) {
        (Some(at), Some(silent)) => format!("not heard from for {}, since {at}", span(silent)),
        (Some(_), None) => "in contact".to_owned(),
        (None, _) => "not heard from yet".to_owned(),
    };
    format!("{} {}: {contact}", store.kind, store.place)
}

fn peers(report: &StatusReport) -> String {
    let peers = &report.peers;
    let mut line = format!("{} of {} installed", peers.installed, peers.desired);
    for (count, what) in [(peers.failed, "failed"), (peers.refused, "refused")] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

fn repairs(report: &StatusReport) -> String {
    let counters = &report.counters;
    let mut line = format!(
        "{} restored, {} corrected, {} removed",
        counters.restored, counters.corrected, counters.removed
    );
    if counters.rules > 0 {
        let _ = write!(line, ", rules put right {} times", counters.rules);
    }
    line
}

/// Seconds in the two largest units that they fill.
fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let minutes = seconds / 60 % 60;
    match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {hours} h"),
        (0, 1.., _) => format!("{hours} h {minutes} min"),
        (0, 0, 1..) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, 0) => format!("{seconds} s"),
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.wrapped("", 0, text);
    }

    fn value(&mut self, name: &str, value: &str) {
        self.wrapped(&format!("{name:<VALUES$}"), VALUES, value);
    }

    /// Under a line, moved in.
    fn under(&mut self, text: &str) {
        let indent = " ".repeat(INDENT);
        self.wrapped(&indent, INDENT, text);
    }

    fn section(&mut self, title: &str) {
        self.text.push('\n');
        self.line(title);
    }

    fn reasons(&mut self, reasons: &[ReasonReport]) {
        if reasons.is_empty() {
            return;
        }
        self.section("not as it ought to be");
        for reason in reasons {
            let weight = if reason.blocking { "" } else { " (not blocking)" };
            self.under(&format!("{}{weight}: {}", reason.reason, reason.message));
        }
    }

    fn peers(&mut self, rows: &[PeerReport], total: usize) {
        if rows.is_empty() {
            return;
        }
        let width = |title: &str, cells: &dyn Fn(&PeerReport) -> usize| {
            let longest = rows.iter().map(cells).max().unwrap_or_default();
            longest.max(title.len())
        };
        let longest = |cell: &[String]| {
            cell.iter()
                .map(|line| line.chars().count())
                .max()
                .unwrap_or_default()
        };
        let (subnets, addresses) = ("SUBNET", "PUBLIC ADDRESS");
        let first = width(subnets, &|row| longest(&row.subnet));
        let second = width(addresses, &|row| longest(&row.public));
        self.text.push('\n');
        self.raw(&format!("{subnets:<first$}  {addresses:<second$}  STATE"));
        for row in rows {
            let whole = row.why.as_ref().map(|why| format!("{}: {why}", row.state));
            let fits = |text: &String| first + second + 4 + text.chars().count() <= COLUMNS;
            let (state, below) = match whole {
                Some(text) if fits(&text) => (text, None),
                _ => (row.state.clone(), row.why.as_deref()),
            };
            // A line for each family.
            for line in 0..row.subnet.len().max(row.public.len()).max(1) {
                let cell = |cells: &[String]| cells.get(line).cloned().unwrap_or_default();
                let (subnet, public) = (cell(&row.subnet), cell(&row.public));
                let state = if line == 0 { state.as_str() } else { "" };
                let text = format!("{subnet:<first$}  {public:<second$}  {state}");
                self.raw(text.trim_end());
            }
            if let Some(why) = below {
                self.under(why);
            }
        }
        if total > rows.len() {
            self.line(&format!("and {} more", total - rows.len()));
        }
    }

    fn conflicts(&mut self, report: &StatusReport) {
        let conflicts = &report.conflicts;
        if conflicts.count == 0 {
            return;
        }
        self.section("routes of somebody else's that run into the network");
        for conflict in &conflicts.first {
            self.under(conflict);
        }
        if conflicts.count > conflicts.first.len() {
            self.under(&format!("and {} more", conflicts.count - conflicts.first.len()));
        }
    }

    /// Writes `text` after `head`, in lines that begin below its start, broken between words where that is possible.
    fn wrapped(&mut self, head: &str, indent: usize, text: &str) {
        let room = COLUMNS - indent;
        let mut line = head.to_owned();
        let mut used = 0;
        for word in text.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if used > 0 && used + 1 + word.len() > room {
                self.raw(&line);
                (line, used) = (" ".repeat(indent), 0);
            } else if used > 0 {
                line.push(' ');
                used += 1;
            }
            while word.len() > room {
                let rest = word.split_off(room);
                line.extend(word);
                self.raw(&line);
                (line, used) = (" ".repeat(indent), 0);
                word = rest;
            }
            used += word.len();
            line.extend(word);
        }
        self.raw(line.trim_end());
    }

    /// One line. What others published may not steer the terminal.
    fn raw(&mut self, line: &str) {
        let shown = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
        self.text.extend(shown);
        self.text.push('\n');
    }
}
