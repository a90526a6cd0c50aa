//! The request socket. It blocks: the kernel does the work of a request inside `send`, holding its
//! own lock, so that an asynchronous socket would stall its thread all the same.

use std::io;
use std::time::Duration;

use flannel_core::KernelError;
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use tokio::time::Instant;

use crate::namespace::Namespace;
use crate::reply::{Dump, Dumped, Failure, Message, Reply, messages};

/// How long one exchange with the kernel may take. It answers in milliseconds, but may hold its lock
/// for seconds while somebody else changes many routes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The most requests in one datagram. 256 answers overrun the default receive buffer, and the most
/// that one datagram can cause is an answer each.
pub(crate) const REQUESTS_AT_ONCE: usize = 128;

/// The length at which a datagram is sent; the default send buffer takes 208 KiB.
const SEND_LEN: usize = 64 * 1024;

/// The longest datagram that is received; the kernel's dumps come in pieces of 32 KiB.
pub(crate) const RECEIVE_LEN: usize = 64 * 1024;

/// How often a dump is redone that changed under our eyes.
const DUMPS: u32 = 8;

/// What an exchange brought: the kernel's answer or its refusal, or no answer at all.
pub(crate) type Answer<T> = Result<Result<T, Failure>, KernelError>;

/// A change or a question.
#[derive(Debug)]
pub(crate) struct Request<M = RouteNetlinkMessage> {
    pub(crate) message: M,
    /// `NLM_F_CREATE` and the like.
    pub(crate) flags: u16,
}

/// A socket for requests, one exchange at a time.
pub(crate) struct RequestSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    /// Answers to an exchange that was given up may still come.
    unfinished: bool,
    buffer: Vec<u8>,
}

impl RequestSocket {
    /// One for rtnetlink.
    pub(crate) fn open(namespace: &Namespace) -> Result<Self, KernelError> {
        Self::open_for(NETLINK_ROUTE, namespace)
    }

    /// One for a protocol of `linux/netlink.h`.
    pub(crate) fn open_for(protocol: isize, namespace: &Namespace) -> Result<Self, KernelError> {
        let (socket, port) = bound(protocol, namespace).map_err(|source| KernelError::System {
            doing: "open a socket for requests to the kernel",
            source,
        })?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            unfinished: false,
            buffer: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// The port that announcements of changes made through this socket carry.
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    /// Dumps a table; `read` turns a message into a value, or passes over it. All or nothing.
    pub(crate) fn dump<M: NetlinkSerializable + Clone, T>(
        &mut self,
        doing: &'static str,
        table: &M,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Answer<Vec<T>> {
        for _ in 0..DUMPS {
            let request = Request {
                message: table.clone(),
                flags: NLM_F_DUMP,
            };
            let sequence = self.send(doing, &[request], 0)?;
            let mut dump = Dump::new();
            let dumped = self.collect(doing, |message| {
                if message.sequence == sequence {
                    dump.take(&message, &mut read)
                } else {
                    Ok(None)
                }
            })?;
            match dumped {
                Dumped::Whole(objects) => return Ok(Ok(objects)),
                Dumped::Refused(failure) => return Ok(Err(failure)),
                Dumped::Interrupted => {}
            }
        }
        Err(KernelError::Unstable { doing, times: DUMPS })
    }

    /// Asks for one object.
    pub(crate) fn ask<M: NetlinkSerializable + Clone, T>(
        &mut self,
        doing: &'static str,
        question: M,
        read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Answer<T> {
        let request = Request {
            message: question,
            flags: 0,
        };
        let sequence = self.send(doing, &[request], 0)?;
        self.collect(doing, |message| {
            if message.sequence != sequence {
                return Ok(None);
            }
            match message.reply()? {
                Reply::Object(payload) => Ok(Some(Ok(read(payload)?))),
                Reply::Failed(failure) => Ok(Some(Err(failure))),
                Reply::Done(_) | Reply::Acknowledged => Err("an answer without an object".into()),
            }
        })
    }

    /// Makes changes in their order and tells which failed, by their place.
    pub(crate) fn change<M: NetlinkSerializable + Clone>(
        &mut self,
        doing: &'static str,
        changes: &[Request<M>],
    ) -> Result<Vec<(usize, Failure)>, KernelError> {
        let mut failed = Vec::new();
        let mut done = 0;
        while let Some(left) = changes.get(done..).filter(|left| !left.is_empty()) {
            let count = sendable(left);
            let first = self.send(doing, &left[..count], NLM_F_ACK)?;
            // Answers come in order, and only failures and the last request have one.
            self.collect(doing, |message| {
                let place = usize::try_from(message.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if place >= count {
                    return Ok(None);
                }
                match message.reply()? {
                    Reply::Failed(failure) => failed.push((done + place, failure)),
                    Reply::Acknowledged => {}
                    Reply::Done(_) | Reply::Object(_) => return Err("a change answered by an object".into()),
                }
                Ok((place + 1 == count).then_some(()))
            })?;
            done += count;
        }
        Ok(failed)
    }

    /// Sends requests in one datagram, the last with `last_flags`. Returns the sequence number of the
    /// first.
    fn send<M: NetlinkSerializable + Clone>(
        &mut self,
        doing: &'static str,
        requests: &[Request<M>],
        last_flags: u16,
    ) -> Result<u32, KernelError> {
        if self.unfinished {
            self.drain(doing)?;
        }
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(requests.iter().map(wire_len).sum());
        for (place, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let payload = NetlinkPayload::InnerMessage(request.message.clone());
            let mut message = NetlinkMessage::new(Default::default(), payload);
            message.header.flags = NLM_F_REQUEST | request.flags;
            if place + 1 == requests.len() {
                message.header.flags |= last_flags;
            }
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + wire_len(request), 0);
            message.serialize(&mut datagram[start..]);
        }
        self.unfinished = true;
        match self.socket.send(&datagram, 0) {
            Ok(_) => Ok(first),
            Err(source) => Err(KernelError::System { doing, source }),
        }
    }

    /// Gives every message for us to `take`, until that has its answer.
    fn collect<T>(
        &mut self,
        doing: &'static str,
        mut take: impl FnMut(Message<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<T, KernelError> {
        let malformed = |error: DecodeError| KernelError::Malformed {
            doing,
            text: error.to_string(),
        };
        let until = Instant::now() + DEADLINE;
        loop {
            self.receive(doing, until)?;
            for message in messages(&self.buffer) {
                let message = message.map_err(malformed)?;
                if message.port != self.port {
                    continue;
                }
                if let Some(answer) = take(message).map_err(malformed)? {
                    self.unfinished = false;
                    return Ok(answer);
                }
            }
        }
    }

    /// Waits for the next datagram of the kernel.
    fn receive(&mut self, doing: &'static str, until: Instant) -> Result<(), KernelError> {
        loop {
            if Instant::now() >= until {
                return Err(too_late(doing));
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, MsgFlags::MSG_TRUNC.bits()) {
                Ok(length) if length > self.buffer.len() => {
                    let text = format!("a datagram of {length} bytes");
                    return Err(KernelError::Malformed { doing, text });
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(too_late(doing)),
                Err(source) => return Err(KernelError::System { doing, source }),
            }
        }
    }

    /// Throws away what is left of an exchange that was given up; a dump in progress would make the
    /// kernel refuse the next.
    fn drain(&mut self, doing: &'static str) -> Result<(), KernelError> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, MsgFlags::MSG_DONTWAIT.bits()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unfinished = false;
                    return Ok(());
                }
                // What was lost would have been thrown away.
                Ok(_) | Err(_) => {}
            }
        }
        Err(too_late(doing))
    }
}

fn bound(protocol: isize, namespace: &Namespace) -> io::Result<(Socket, u32)> {
    let mut socket = namespace.within(move || Socket::new(protocol))?;
    // Each of these is newer than the oldest kernels that are of use without it.
    for set in [
        Socket::set_netlink_get_strict_chk,
        Socket::set_ext_ack,
        Socket::set_cap_ack,
    ] {
        match set(&socket, true) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => {}
            other => other?,
        }
    }
    let wait = TimeVal::new(i64::try_from(DEADLINE.as_secs()).unwrap_or(i64::MAX), 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &wait)?;
    let address = socket.bind_auto()?;
    // To the kernel, so that nobody else can send to it.
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok((socket, address.port_number()))
}

/// How many of the requests go into one datagram.
fn sendable<M: NetlinkSerializable>(requests: &[Request<M>]) -> usize {
    let mut length = 0;
    let fitting = requests.iter().take(REQUESTS_AT_ONCE).take_while(|request| {
        length += wire_len(request);
        length <= SEND_LEN
    });
    fitting.count().max(1)
}

fn wire_len<M: NetlinkSerializable>(request: &Request<M>) -> usize {
    const HEADER_LEN: usize = 16;
    (HEADER_LEN + request.message.buffer_len()).next_multiple_of(4)
}

fn too_late(doing: &'static str) -> KernelError {
    KernelError::Deadline {
        doing,
        deadline: DEADLINE,
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
pub(crate) mod tests;
