#![doc = include_str!("../README.md")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use flannel_backend_hostgw::HostGw;
use flannel_core::{
    Applied, Changed, Context, DataPlane, DefaultRoute, Desired, Engine, EngineHandle, Family, Gap, Host,
    HostFacts, HostSource, KernelError, Lease, LeaseAttrs, Link, LinkAddress, NetworkConfig, NodeId, Object,
    ObjectId, Op, Options, PerFamily, RouteProgrammer, Scope, State, StoreError, StoreEvent, SubnetKey,
    SubnetStore, Uplink,
};
use futures_util::stream::{self, BoxStream, StreamExt};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::{Notify, mpsc};

/// Events that wait for the engine at most.
const QUEUE: usize = 1024;

/// The network in which the benched hosts live: room for 65,536 subnets of /24.
const NETWORK: &str = r#"{"Network": "10.0.0.0/8", "SubnetLen": 24, "Backend": {"Type": "host-gw"}}"#;

/// The network config of the benches.
#[must_use]
pub fn config() -> Arc<NetworkConfig> {
    match NetworkConfig::from_json(NETWORK) {
        Ok(config) => Arc::new(config),
        Err(error) => unreachable!("the benches' config is valid: {error}"),
    }
}

/// The lease of peer `number`, at the first or at another address.
#[must_use]
pub fn lease(number: u32, moved: bool) -> Lease {
    let subnet = Ipv4Net::new_assert(Ipv4Addr::from(0x0a01_0000 + (number << 8)), 24);
    let address = Ipv4Addr::from(0xac10_0000 + number + if moved { 1 << 18 } else { 0 });
    let attrs = LeaseAttrs {
        public: PerFamily {
            v4: Some(IpAddr::V4(address)),
            v6: None,
        },
        backend: "host-gw".to_owned(),
        node: Some(NodeId(u128::from(number) + 1)),
        ..LeaseAttrs::default()
    };
    Lease {
        created: u64::from(number),
        ..Lease::new(SubnetKey::from(subnet), attrs)
    }
}

/// The host's facts: one uplink that reaches every peer.
#[must_use]
pub fn facts() -> HostFacts {
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 1), 12));
    let address = LinkAddress {
        net,
        unusable: false,
        permanent: true,
        temporary: false,
    };
    let device = uplink();
    HostFacts {
        links: vec![Link {
            name: device,
            index: 2,
            mtu: 1500,
            up: true,
            loopback: false,
            mac: None,
            strict_reverse_path: false,
            addresses: vec![address],
        }],
        default_routes: vec![DefaultRoute {
            family: Family::V4,
            device,
            gateway: None,
            metric: 0,
        }],
        ..HostFacts::default()
    }
}

fn uplink() -> flannel_core::DeviceName {
    match "eth0".parse() {
        Ok(device) => device,
        Err(error) => unreachable!("{error}"),
    }
}

/// What a host with these peers wants of the kernel: what the backend asks for.
#[must_use]
pub fn desired(leases: impl Iterator<Item = Lease>) -> State {
    let own = lease(0xffff - 0x100, false);
    let address = PerFamily {
        v4: Some(IpAddr::V4(Ipv4Addr::new(172, 31, 0, 1))),
        v6: None,
    };
    let uplink = Uplink {
        device: uplink(),
        mtu: 1500,
        addresses: address,
        public: address,
    };
    let (host, config) = (
        Host {
            node: NodeId(1),
            uplink,
            facts: Arc::new(facts()),
        },
        config(),
    );
    let context = Context {
        host: &host,
        own: &own,
        config: &config,
        protocol: 70,
    };
    let mut desired = Desired::default();
    for peer in leases {
        if let Err(skip) = HostGw.peer(&context, &peer, &mut desired) {
            unreachable!("every benched peer is reachable: {skip}");
        }
    }
    desired.into_state()
}

/// A running engine over a store that says what it is told to, and a kernel that is a map: what is
/// timed is the engine, from the event of a lease to the operation on its route.
pub struct Running {
    runtime: tokio::runtime::Runtime,
    events: mpsc::Sender<StoreEvent>,
    kernel: Arc<MapKernel>,
    handle: EngineHandle,
}

impl Running {
    /// An engine that has settled with `peers` peers.
    ///
    /// # Errors
    ///
    /// The runtime's.
    pub fn with_peers(peers: u32) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let (events, inbox) = mpsc::channel(QUEUE);
        let store = Arc::new(ToldStore {
            inbox: Mutex::new(Some(inbox)),
        });
        let kernel = Arc::new(MapKernel::default());
        let engine = Engine::new(
            store,
            kernel.clone(),
            vec![Box::new(HostGw)],
            Options::new(NodeId(0)),
        );
        let handle = engine.handle();
        runtime.spawn(engine.run(std::future::pending()));
        let leases = (0..peers).map(|number| lease(number, false)).collect();
        runtime.block_on(async {
            let _ = events.send(StoreEvent::Config(Ok(config()))).await;
            let _ = events
                .send(StoreEvent::Snapshot {
                    leases,
                    gap: Gap::Start,
                })
                .await;
            let all =
                |status: &flannel_core::Status| status.is_ready() && status.peers.installed == peers as usize;
            handle.wait_for(all).await;
        });
        Ok(Self {
            runtime,
            events,
            kernel,
            handle,
        })
    }

    /// Moves the first `changed` peers to another address, and waits until their routes are, too.
    pub fn change(&self, changed: u32, moved: bool) {
        let before = self.kernel.ops.load(Ordering::Relaxed);
        self.runtime.block_on(async {
            for number in 0..changed {
                let _ = self.events.send(StoreEvent::Put(lease(number, moved))).await;
            }
            while self.kernel.ops.load(Ordering::Relaxed) < before + changed as usize {
                self.kernel.applied.notified().await;
            }
        });
    }

    /// How the engine is doing.
    #[must_use]
    pub const fn handle(&self) -> &EngineHandle {
        &self.handle
    }
}

/// A store that says what it is told to.
struct ToldStore {
    inbox: Mutex<Option<mpsc::Receiver<StoreEvent>>>,
}

#[async_trait]
impl SubnetStore for ToldStore {
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(stream::unfold(inbox, |mut inbox| async move {
            let event = inbox.as_mut()?.recv().await?;
            Some((event, inbox))
        })
        .boxed())
    }

    async fn claim(
        &self,
        subnet: SubnetKey,
        _: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        Ok(Lease::new(subnet, attrs.clone()))
    }

    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        Ok(Lease::new(own.subnet, attrs.clone()))
    }

    async fn release(&self, _: &Lease) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A kernel that is a map.
#[derive(Default)]
struct MapKernel {
    routes: Mutex<BTreeMap<ObjectId, Object>>,
    ops: AtomicUsize,
    applied: Notify,
}

#[async_trait]
impl RouteProgrammer for MapKernel {
    async fn dump(&self, _: &Scope) -> Result<Vec<Object>, KernelError> {
        Ok(self
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect())
    }

    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for op in plan {
            match op.result() {
                Some(object) => drop(routes.insert(op.id(), object.clone())),
                None => drop(routes.remove(&op.id())),
            }
        }
        self.ops.fetch_add(plan.len(), Ordering::Relaxed);
        self.applied.notify_one();
        Ok(Applied::default())
    }

    fn watch(&self, _: &Scope) -> Result<BoxStream<'static, Changed>, KernelError> {
        Ok(stream::pending().boxed())
    }
}

#[async_trait]
impl HostSource for MapKernel {
    async fn facts(&self, _: &[IpAddr]) -> Result<HostFacts, KernelError> {
        Ok(facts())
    }
}
