//! Packets whose receiver tells where they came from: what address translation made of their source.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::wait::POLL;
use crate::{Family, LabError, Namespace, wait_until};

/// Time between two datagrams of one question: the first may be lost while a neighbour is looked for.
const AGAIN: Duration = Duration::from_millis(50);
/// Time for a port to be free again that was closed.
const LET_GO_DEADLINE: Duration = Duration::from_secs(2);
/// Senders have ports of their own, counted from here: below those that Linux gives out, so that no connection is
/// taken for an earlier one, whose translation would hold.
const FIRST_PORT: u16 = 20_000;
/// And up to here.
const LAST_PORT: u16 = 31_999;
/// Longer than any question.
const MAX_QUESTION: usize = 64;

static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);

/// Listens on a port of a namespace, for datagrams and for connections.
#[derive(Debug)]
pub struct Receiver {
    name: String,
    datagrams: UdpSocket,
    connections: TcpListener,
}

impl Receiver {
    /// Listens in a namespace, on a port of every address of one family that it has or gets. One of IPv6 takes the port
    /// for IPv4 as well.
    ///
    /// # Errors
    /// [`LabError::Io`], for example that the port is in use.
    pub fn open(at: impl AsRef<Namespace>, family: Family, port: u16) -> Result<Self, LabError> {
        let at = at.as_ref();
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listen = || -> io::Result<_> {
            let connections = TcpListener::bind((any, port))?;
            connections.set_nonblocking(true)?;
            let datagrams = UdpSocket::bind((any, port))?;
            datagrams.set_read_timeout(Some(AGAIN))?;
            Ok((datagrams, connections))
        };
        let mut sockets = at.inside(listen)?;
        // A program that another thread is just starting holds what was closed here, until it is itself.
        let begin = Instant::now();
        while in_use(&sockets) && begin.elapsed() < LET_GO_DEADLINE {
            thread::sleep(POLL);
            sockets = at.inside(listen)?;
        }
        let (datagrams, connections) =
            sockets.map_err(|source| failed(&format!("listen on port {port}"), at.name(), source))?;
        Ok(Self {
            name: at.name().to_owned(),
            datagrams,
            connections,
        })
    }

    /// Hears what is sent to a multicast group as well, over the device that the group's route has.
    ///
    /// # Errors
    /// [`LabError::Io`], for example that there is no such route.
    pub fn join(&self, group: IpAddr) -> Result<(), LabError> {
        let joined = match group {
            IpAddr::V4(group) => self.datagrams.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(group) => self.datagrams.join_multicast_v6(&group, 0),
        };
        joined.map_err(|source| failed(&format!("join {group}"), &self.name, source))
    }

    /// Sends datagrams from an address of another namespace to `to`, which is one of ours or a group, until one of them
    /// has come, and returns the source address that it came with.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if none has come within this time; [`LabError::Io`] if none can be sent.
    pub fn source_of_datagram(
        &self,
        from: impl AsRef<Namespace>,
        source: IpAddr,
        to: IpAddr,
        within: Duration,
    ) -> Result<IpAddr, LabError> {
        let from = from.as_ref();
        let failed = |source| failed(&format!("send a datagram to {to}"), from.name(), source);
        let to = SocketAddr::new(to, self.datagrams.local_addr().map_err(failed)?.port());
        let own = SocketAddr::new(source, next_port());
        let socket = from.inside(|| UdpSocket::bind(own))?.map_err(failed)?;
        let question = own.to_string();
        let mut buffer = [0; MAX_QUESTION];
        wait_until(
            within,
            format!("a datagram from {own} to {to} in {}", self.name),
            || {
                match socket.send_to(question.as_bytes(), to) {
                    Ok(_) => {}
                    // What an earlier one came to: there is a new way with the next look, or none before the deadline.
                    Err(error) if unreachable(error.kind()) => return None,
                    Err(error) => return Some(Err(failed(error))),
                }
                // Until our own comes; others are of a question that was given up.
                while let Ok((length, seen)) = self.datagrams.recv_from(&mut buffer) {
                    if &buffer[..length] == question.as_bytes() {
                        return Some(Ok(seen.ip()));
                    }
                }
                None
            },
        )?
    }

    /// Connects from another namespace to `to`, which is one of ours, and returns the source address that the connection
    /// came with. Unlike a datagram, it needs a way back.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if there is no connection within this time; [`LabError::Io`] for what goes wrong otherwise.
    pub fn source_of_connection(
        &self,
        from: impl AsRef<Namespace>,
        to: IpAddr,
        within: Duration,
    ) -> Result<IpAddr, LabError> {
        let from = from.as_ref();
        let failed = |source| failed(&format!("connect to {to}"), from.name(), source);
        let to = SocketAddr::new(to, self.connections.local_addr().map_err(failed)?.port());
        let what = format!("a connection from {} to {to} in {}", from.name(), self.name);
        let begin = Instant::now();
        let mut stream = wait_until(within, &what, || {
            // A timeout of zero is refused.
            let left = within.saturating_sub(begin.elapsed()).max(AGAIN);
            match from.inside(|| TcpStream::connect_timeout(&to, left)) {
                Ok(Err(error)) if error.kind() == ErrorKind::TimedOut || unreachable(error.kind()) => None,
                Ok(connected) => Some(connected.map_err(failed)),
                Err(error) => Some(Err(error)),
            }
        })??;
        let question = stream.local_addr().map_err(failed)?.to_string();
        stream.write_all(question.as_bytes()).map_err(failed)?;
        wait_until(within, &what, || {
            // Until our own comes; others are of a question that was given up.
            while let Ok((mut accepted, seen)) = self.connections.accept() {
                let mut buffer = vec![0; question.len()];
                let read = accepted
                    .set_read_timeout(Some(within))
                    .and_then(|()| accepted.read_exact(&mut buffer));
                if read.is_ok() && buffer == question.as_bytes() {
                    return Some(seen.ip());
                }
            }
            None
        })
    }
}

fn in_use<T>(bound: &io::Result<T>) -> bool {
    bound
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// There was no way, or somebody said that there was none.
fn unreachable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::ConnectionRefused
    )
}

fn next_port() -> u16 {
    let next = |port: u16| Some(if port >= LAST_PORT { FIRST_PORT } else { port + 1 });
    NEXT_PORT
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .unwrap_or(FIRST_PORT)
}

fn failed(what: &str, namespace: &str, source: io::Error) -> LabError {
    LabError::Io {
        action: format!("{what} in {namespace}"),
        source,
    }
}
