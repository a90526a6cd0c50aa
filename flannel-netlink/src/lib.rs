#![doc = include_str!("../README.md")]

mod announcements;
mod attribute;
mod chain;
mod facts;
mod filter;
mod link;
mod namespace;
mod nf_tables;
mod outcome;
mod reply;
mod resolv;
mod route;
mod rule;
mod socket;
mod sysctl;
mod tables;
mod walk;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use flannel_core::{
    Applied, Changed, DeviceName, Family, HostFacts, HostSource, KernelError, Object, Op, RouteProgrammer,
    Scope,
};
use futures_util::stream::BoxStream;
use tokio::sync::Mutex;

use crate::filter::Filters;
use crate::link::Names;
use crate::namespace::Namespace;
use crate::socket::{DEADLINE, REQUESTS_AT_ONCE, RequestSocket};

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
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
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

    /// The indices of the plan's devices, as far as they exist.
    async fn indices(&self, plan: &[Op]) -> Result<BTreeMap<DeviceName, u32>, KernelError> {
        let doing = "look up the devices of a plan";
        let mut named = plan.iter().flat_map(outcome::devices).collect::<Vec<_>>();
        named.sort_unstable();
        named.dedup();
        if named.is_empty() {
            return Ok(BTreeMap::new());
        }
        let index = move |socket: &mut RequestSocket| {
            let mut indices = BTreeMap::new();
            for name in named {
                let link = socket.ask(doing, link::question(Some(&name)), link::decode)?;
                // A device also answers to its alternative names, which no dump shows.
                let link = link.ok().flatten().filter(|link| link.name == name);
                indices.extend(link.map(|link| (name, link.index)));
            }
            Ok(indices)
        };
        self.exchange(doing, index).await
    }
}

#[async_trait]
impl RouteProgrammer for Netlink {
    async fn dump(&self, scope: &Scope) -> Result<Vec<Object>, KernelError> {
        let scope = scope.clone();
        let dump = self.exchange("list the routes", move |socket| {
            // First, since the kernel answers this only when whoever changes links or addresses is
            // done: it announces such a change before it drops the routes over them.
            let names = facts::links(socket)?.into_iter().collect::<Names>();
            let mut seen = Vec::new();
            for family in Family::ALL {
                if scope.networks.iter().any(|net| Family::of_net(*net) == family) {
                    let covered = |route: &route::SeenRoute| scope.covers(route.id.destination);
                    seen.extend(facts::routes(socket, family, covered)?);
                }
            }
            let mut routes = seen.iter().map(|route| route.named(&names)).collect::<Vec<_>>();
            route::number(&mut routes);
            Ok(routes.into_iter().map(Object::from).collect())
        });
        dump.await
    }

    /// Makes the changes in chunks; each has a deadline of its own, so that a plan may be of any
    /// length. An IPv4 route with metric 0 is removed by its other properties: the kernel takes 0 for
    /// "any metric".
    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError> {
        const DOING: &str = "change routes";
        let indices = self.indices(plan).await?;
        let mut failed = Vec::new();
        for (chunk, first) in plan.chunks(REQUESTS_AT_ONCE).zip((0..).step_by(REQUESTS_AT_ONCE)) {
            let (mut asked, mut requests) = (Vec::new(), Vec::new());
            for (place, op) in (first..).zip(chunk) {
                match outcome::request(op, |name| indices.get(name).copied()) {
                    Ok(request) => {
                        asked.push((place, op));
                        requests.push(request);
                    }
                    Err(error) => failed.push((place, error)),
                }
            }
            let refused = self.exchange(DOING, move |socket| socket.change(DOING, &requests));
            for (nth, failure) in refused.await? {
                if let Some((place, op)) = asked.get(nth) {
                    failed.push((*place, outcome::error(op, &failure)));
                }
            }
        }
        failed.sort_by_key(|(place, _)| *place);
        Ok(Applied { failed })
    }

    /// What this `Netlink` changes itself is not announced to its own watches. An announcement does
    /// not tell how deep in a stack a route is: its position is always 0.
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
        let (reach, shared) = (reach.to_vec(), Arc::clone(&self.shared));
        let gather = self.exchange("learn about the host", move |socket| {
            let v6_forwarding = sysctl::ipv6_forwarding(&shared.namespace);
            let facts = facts::gather(socket, &reach, v6_forwarding)?;
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
