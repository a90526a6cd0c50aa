//! What systemd is told: sd_notify(3).
//!
//! Nothing waits for the service manager but this: a socket that takes nothing delays no lease and no route.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use flannel_core::{EngineHandle, Readiness, Status};
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, warn};

/// The service manager takes a message so soon, or not at all.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// How often that is tried.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// `READY=1` that was not taken is said again after this.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Of a status line the service manager shows no more.
const LONGEST_STATUS: usize = 400;

/// The way to the service manager, if one listens.
#[derive(Debug, Clone, Default)]
pub struct Notify {
    socket: Option<SocketAddr>,
    /// Half of the time after which the service manager gives the daemon up.
    watchdog: Option<Duration>,
}

impl Notify {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, which `get` looks up. An address that cannot be one is
    /// reported and left aside.
    #[must_use]
    pub fn new(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let named = get("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = named.and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&name),
            };
            address
                .inspect_err(|error| warn!(socket = ?name, %error, "NOTIFY_SOCKET is no address of a socket"))
                .ok()
        });
        let number = |name| -> Option<u64> { get(name)?.to_str()?.parse().ok() };
        // Without a process it is for whoever reads it.
        let ours = get("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 1);
        Self {
            socket,
            watchdog: watchdog.map(|micros| Duration::from_micros(micros / 2)),
        }
    }

    /// A line for `systemctl status`, without waiting for anybody.
    pub fn status(&self, text: &str) {
        let _ = self.tell(&status_message(text));
    }

    /// The daemon ends now.
    pub fn stopping(&self) {
        let _ = self.tell("STOPPING=1\nSTATUS=ending; routes stay");
    }

    fn tell(&self, message: &str) -> io::Result<()> {
        let Some(address) = &self.socket else {
            return Ok(());
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(address)?;
        socket.send(message.as_bytes()).map(drop)
    }

    /// Whether the message was taken, or nobody listens.
    async fn tell_in_time(&self, message: &str) -> bool {
        let deadline = Instant::now() + SEND_DEADLINE;
        loop {
            match self.tell(message) {
                Ok(()) => return true,
                // Its queue is full.
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    sleep(TRY_EVERY).await;
                }
                Err(error) => {
                    debug!(%error, "the service manager takes no message");
                    return false;
                }
            }
        }
    }
}

/// Tells the service manager how the engine is doing, until that ends: `READY=1` when the data plane is right for the
/// first time, `STATUS=` whenever there is something new to say, `WATCHDOG=1` while the event loop turns.
pub async fn follow(engine: EngineHandle, notify: Notify) {
    if notify.socket.is_none() {
        return;
    }
    tokio::join!(tell_status(&engine, &notify), feed_watchdog(&engine, &notify));
}

async fn tell_status(engine: &EngineHandle, notify: &Notify) {
    let mut statuses = std::pin::pin!(engine.statuses());
    let mut ready = Ready::No;
    let mut told = String::new();
    loop {
        let status = tokio::select! {
            status = statuses.next() => status,
            () = sleep(RETRY_EVERY), if ready == Ready::Untold => Some(engine.status()),
        };
        let Some(status) = status else { return };
        if ready == Ready::No && status.is_ready() {
            ready = Ready::Untold;
        }
        let line = status_message(&summary(&status));
        let message = match ready {
            Ready::Untold => format!("READY=1\n{line}"),
            Ready::No | Ready::Told if line == told => continue,
            Ready::No | Ready::Told => line.clone(),
        };
        if notify.tell_in_time(&message).await {
            told = line;
            if ready == Ready::Untold {
                ready = Ready::Told;
            }
        }
    }
}

/// Whether the data plane has been right, and the service manager knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    No,
    Untold,
    Told,
}

async fn feed_watchdog(engine: &EngineHandle, notify: &Notify) {
    let Some(half) = notify.watchdog else { return };
    let mut ticks = interval(half);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(half, engine.is_alive()).await {
            Ok(true) => drop(notify.tell_in_time("WATCHDOG=1").await),
            Ok(false) => return,
            Err(_) => warn!("the event loop does not turn: the watchdog is not fed"),
        }
    }
}

/// The state in one line, without anything that changes while nothing happens.
fn summary(status: &Status) -> String {
    let readiness = status.readiness();
    let lease = status.lease.map(|lease| lease.subnet.to_string());
    let lease = lease.unwrap_or_else(|| "no lease".to_owned());
    let peers = &status.peers;
    let state = format!(
        "{}: {lease}, {} of {} peers installed",
        readiness.name(),
        peers.installed,
        peers.desired
    );
    let blocking = status.reasons.iter().find(|reason| reason.is_blocking());
    match blocking.or_else(|| status.reasons.first()) {
        Some(reason) if readiness != Readiness::Ready => format!("{state}; {reason}"),
        _ => state,
    }
}

/// One line, whatever is in it: a line feed would begin another assignment.
fn status_message(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = line.take(LONGEST_STATUS).collect();
    format!("STATUS={line}")
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
