//! A socket on which the kernel announces what changes.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use tokio::runtime::Handle;

use crate::namespace::Namespace;
use crate::socket::RECEIVE_LEN;

/// Room for some thousands of announcements that nobody has read yet.
const BUFFER_LEN: usize = 4 << 20;

/// How many datagrams are read before what they say is handed on, and others have their turn.
const READ_AT_ONCE: usize = 32;

/// A subscription.
pub(crate) struct Announcements {
    socket: TokioSocket,
    /// Announcements are being lost: what still comes is thrown away.
    overrun: bool,
    buffer: Vec<u8>,
}

impl Announcements {
    /// Subscribes to groups of a protocol of `linux/netlink.h`.
    pub(crate) fn subscribe(namespace: &Namespace, protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let mut socket = namespace.within(move || {
            let _context = runtime.enter();
            TokioSocket::new(protocol)
        })?;
        let socket_ref = socket.socket_ref();
        // Beyond the system's limit, which takes CAP_NET_ADMIN; without it, as much as there is.
        if setsockopt(socket_ref, sockopt::RcvBufForce, &BUFFER_LEN).is_err() {
            setsockopt(socket_ref, sockopt::RcvBuf, &BUFFER_LEN)?;
        }
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.socket_ref().add_membership(*group)?;
        }
        Ok(Self {
            socket,
            overrun: false,
            buffer: Vec::with_capacity(RECEIVE_LEN),
        })
    }

    /// Waits for announcements and has those that are there taken, datagram by datagram. Whether some
    /// were lost, said once all that were not have been read: the kernel goes on losing announcements
    /// until then, without a further word, and whoever looked earlier would miss something. Nothing is
    /// lost where this is dropped before it has ended.
    pub(crate) async fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        self.buffer.clear();
        let mut received = self.socket.recv_from(&mut self.buffer).await;
        for _ in 0..READ_AT_ONCE {
            self.received(received, &mut take)?;
            self.buffer.clear();
            let socket = self.socket.socket_ref();
            received = match socket.recv_from(&mut self.buffer, MsgFlags::MSG_DONTWAIT.bits()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(std::mem::take(&mut self.overrun));
                }
                received => received.map(|(_, sender)| sender),
            };
        }
        self.received(received, &mut take)?;
        Ok(false)
    }

    /// Of a datagram that was longer than the buffer, the last message is longer than the rest.
    fn received(&mut self, received: io::Result<SocketAddr>, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        match received {
            // Any process may send to any port; the kernel's is 0.
            Ok(sender) if sender.port_number() == 0 && !self.overrun => take(&self.buffer),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => self.overrun = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
