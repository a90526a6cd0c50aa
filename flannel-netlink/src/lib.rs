#![doc = include_str!("../README.md")]

mod address;
mod all_devices;
mod announcements;
mod apply;
mod attribute;
mod chain;
mod device;
mod device_change;
mod dump;
mod ethtool;
mod facts;
mod filter;
mod forwarding;
mod link;
mod namespace;
mod neighbour;
mod nf_tables;
mod port_holder;
mod refusal;
mod reply;
mod request;
mod resolv;
mod route;
mod rule;
mod socket;
mod sysctl;
mod tables;
mod vxlan;
mod walk;
mod watch;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use flannel_core::{
    Applied, Changed, HostFacts, HostSource, KernelError, Object, Op, RouteProgrammer, Scope,
};
use futures_util::stream::BoxStream;
use tokio::sync::Mutex;

use crate::ethtool::Ethtool;
use crate::facts::Elsewhere;
use crate::filter::Filters;
use crate::link::Names;
use crate::namespace::Namespace;
use crate::socket::{DEADLINE, RequestSocket};

/// The kernel of the network namespace in which it was opened. Clones share one socket, and take
/// turns.
///
/// Its methods are to be called within a tokio runtime that has I/O and time enabled.
#[derive(Clone)]
pub struct Netlink {
    shared: Arc<Shared>,
}

struct Shared {
    socket: Arc<Mutex<RequestSocket>>,
    port: u32,
    namespace: Namespace,
    filters: Filters,
    ethtool: Ethtool,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace, to which everything that is asked
    /// through it belongs from then on, from whatever thread. Needs no privilege; changes need
    /// `CAP_NET_ADMIN`, and a watch that is begun from another namespace `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    ///
    /// [`KernelError::System`], when there is no such socket to be had.
    pub fn open() -> Result<Self, KernelError> {
        let namespace = Namespace::current();
        let socket = RequestSocket::open(&namespace)?;
        let shared = Shared {
            port: socket.port(),
            socket: Arc::new(Mutex::new(socket)),
            namespace,
            filters: Filters::default(),
            ethtool: Ethtool::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn namespace(&self) -> &Namespace {
        &self.shared.namespace
    }

    fn port(&self) -> u32 {
        self.shared.port
    }

    fn filters(&self) -> &Filters {
        &self.shared.filters
    }

    async fn names(&self) -> Result<Names, KernelError> {
        let doing = "list the devices";
        let links = self.exchange(doing, facts::links);
        Ok(links.await?.into_iter().collect())
    }

    /// Runs a conversation with the kernel where it may block. One that takes too long is left to
    /// end by itself, and those who come after it wait for that, up to their own deadline.
    async fn exchange<T: Send + 'static>(
        &self,
        doing: &'static str,
        talk: impl FnOnce(&mut RequestSocket) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let socket = Arc::clone(&self.shared.socket);
        let talked = async {
            let mut socket = socket.lock_owned().await;
            tokio::task::spawn_blocking(move || talk(&mut socket)).await
        };
        match tokio::time::timeout(DEADLINE, talked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(stopped)) => Err(KernelError::System {
                doing,
                source: stopped.into(),
            }),
            Err(_) => Err(KernelError::Deadline {
                doing,
                deadline: DEADLINE,
            }),
        }
    }
}

#[async_trait]
impl RouteProgrammer for Netlink {
    /// Which addresses, neighbours and forwarding entries there are is asked for each device in scope, and
    /// for no other.
    async fn dump(&self, scope: &Scope) -> Result<Vec<Object>, KernelError> {
        let (scope, shared) = (scope.clone(), self.shared());
        let dump = self.exchange("list the objects in scope", move |socket| {
            dump::dump(socket, &shared.namespace, &shared.ethtool, &scope)
        });
        dump.await
    }

    /// An IPv4 route with metric 0 is removed by its other properties: the kernel takes 0 for "any metric".
    /// Of neighbours it compares the address alone, and of devices the kind, and for VXLAN the identifier and
    /// the port, are compared here.
    ///
    /// An added neighbour or forwarding entry takes the place of one that is there, as nothing else does: all that
    /// is on a device of ours is ours, and the kernel itself may have put one there, for an address that it has
    /// asked for in vain, or learned one from a packet. Refused, the peer would be out of reach until the next
    /// look.
    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError> {
        apply::apply(self, plan).await
    }

    /// What this `Netlink` changes itself is not announced to its own watches where the kernel says whose a
    /// change is: of devices and forwarding entries it often does not. An announcement does not tell how deep in
    /// a stack a route or a forwarding entry is: its position is always 0. A neighbour that somebody removed is
    /// [`Changed::Gone`]: the kernel does not tell which MAC address it had.
    ///
    /// A [`Changed::Table`] is told once for every transaction at most, and where it may be about chains
    /// that drop forwarded packets, a [`Changed::Host`] comes as soon as [`Netlink::facts`] has them anew.
    /// Without nf_tables, or the right to listen to it, no table is told of.
    fn watch(&self, scope: &Scope) -> Result<BoxStream<'static, Changed>, KernelError> {
        watch::watch(self.clone(), scope.clone())
    }
}

#[async_trait]
impl HostSource for Netlink {
    /// Whether packets are forwarded, and which chains of nftables drop them, is read along. The chains are
    /// read at most every 5 s, and after a watch has told that they may have changed, at most every 200 ms.
    /// Whatever of that cannot be read is left out.
    async fn facts(&self, reach: &[IpAddr]) -> Result<HostFacts, KernelError> {
        let (reach, shared) = (reach.to_vec(), self.shared());
        let gather = self.exchange("learn about the host", move |socket| {
            let elsewhere = Elsewhere {
                v6_forwarding: sysctl::ipv6_forwarding(&shared.namespace),
                kernel: sysctl::kernel(),
            };
            let facts = facts::gather(socket, &reach, &elsewhere)?;
            Ok(HostFacts {
                filters: shared.filters.look(&shared.namespace),
                ..facts
            })
        });
        gather.await
    }
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink")
            .field("port", &self.shared.port)
            .finish_non_exhaustive()
    }
}
