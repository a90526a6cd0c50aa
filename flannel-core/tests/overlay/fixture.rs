//! A host in a network of tunnels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flannel_backend_vxlan::Vxlan;
use flannel_core::testing::{FakeKernel, FakeStore, FakeStoreClient};
use flannel_core::{
    Backend, Engine, EngineHandle, Lease, MacAddress, NodeId, Object, ObjectId, Op, Options, PROTOCOL_KERNEL,
    Reason, Scope, Status, SubnetKey,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Longer than any test.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Until then everything is there that can be.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is looked whether something has come about.
const STEP: Duration = Duration::from_millis(10);

/// Time for a clock that only moves when everybody waits: what is due is done by then.
pub(crate) const MOMENT: Duration = Duration::from_secs(1);

pub(crate) const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}"#;
pub(crate) const V4: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// The devices of these networks.
const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

pub(crate) fn store(config: &str) -> FakeStore {
    let store = FakeStore::new(TTL);
    store.put_config(Some(config));
    store
}

pub(crate) fn kernel() -> FakeKernel {
    FakeKernel::host(
        "eth0",
        &["192.0.2.1/24", "2001:db8::1/64"],
        &["192.0.2.254", "2001:db8::fe"],
    )
}

/// Puts the lease of a peer behind a router: the `n`th subnet, with these MAC address and host.
pub(crate) fn put(store: &FakeStore, n: u8, mac: &str, host: u8) {
    let subnet: SubnetKey = peer_subnet(n);
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#);
    store.put_raw(
        &subnet.to_key(),
        &format!(
            r#"{{"PublicIP":"198.51.100.{host}","PublicIPv6":"2001:db8:1::{host}","BackendType":"vxlan","BackendData":{data},"BackendV6Data":{data}}}"#
        ),
    );
}

pub(crate) fn delete(store: &FakeStore, n: u8) {
    store.delete_raw(&peer_subnet(n).to_key());
}

/// The subnet of the `n`th peer: of both families where the network has both.
pub(crate) fn peer_subnet(n: u8) -> SubnetKey {
    format!("10.5.{n}.0/24,fd05:0:0:{n:x}::/64").parse().unwrap()
}

/// The MAC address of the `n`th peer.
pub(crate) fn mac(n: u8) -> String {
    format!("02:00:00:00:00:{n:02x}")
}

pub(crate) fn put_peers(store: &FakeStore, peers: impl IntoIterator<Item = u8>) {
    for n in peers {
        put(store, n, &mac(n), n);
    }
}

/// A host on which an engine runs, until this is dropped.
pub(crate) struct Host {
    pub(crate) store: FakeStore,
    pub(crate) client: FakeStoreClient,
    pub(crate) kernel: FakeKernel,
    pub(crate) engine: EngineHandle,
    task: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Host {
    pub(crate) fn start(store: &FakeStore, kernel: &FakeKernel, options: Options) -> Self {
        Self::start_with(store, store.client(), kernel, options)
    }

    pub(crate) fn start_with(
        store: &FakeStore,
        client: FakeStoreClient,
        kernel: &FakeKernel,
        options: Options,
    ) -> Self {
        let backends: Vec<Box<dyn Backend>> = vec![Box::new(Vxlan)];
        let engine = Engine::new(
            Arc::new(client.clone()),
            Arc::new(kernel.clone()),
            backends,
            options,
        );
        let handle = engine.handle();
        let task = tokio::spawn(async move { engine.run(std::future::pending()).await.unwrap() });
        Self {
            store: store.clone(),
            client,
            kernel: kernel.clone(),
            engine: handle,
            task,
        }
    }

    /// One in a network of both families with three peers, and all is as it ought to be.
    pub(crate) async fn ready() -> Self {
        let store = store(DUAL);
        put_peers(&store, 7..=9);
        let host = Self::start(&store, &kernel(), Options::new(NodeId(1)));
        host.has(3).await;
        host
    }

    /// Waits until it is ready with so many peers.
    pub(crate) async fn has(&self, peers: usize) {
        let asked = |status: &Status| status.is_ready() && status.settled && status.peers.installed == peers;
        if timeout(PATIENCE, self.engine.wait_for(asked)).await.is_err() {
            panic!("it has not {peers} peers: {:#?}", self.engine.status());
        }
        // What follows from the last event is done, too.
        sleep(MOMENT).await;
    }

    /// Waits until something holds, and says how long that took.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what} does not come about: {:#?}\n{:#?}",
                self.picture(),
                self.engine.status()
            );
            sleep(STEP).await;
        }
        start.elapsed()
    }

    /// What is in the kernel, without what it made by itself.
    pub(crate) fn picture(&self) -> Vec<String> {
        picture(&self.kernel)
    }

    pub(crate) fn reasons(&self) -> Vec<Reason> {
        self.engine.status().reasons.clone()
    }

    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        self.reasons().iter().map(Reason::kind).collect()
    }

    /// Its own lease.
    pub(crate) fn lease(&self) -> Lease {
        let own = self.engine.status().lease.expect("a lease").subnet;
        let mut leases = self.store.leases().into_iter();
        leases.find(|lease| lease.subnet == own).unwrap()
    }

    /// Its MAC address in the kernel.
    pub(crate) fn device_mac(&self) -> Option<MacAddress> {
        self.kernel.device("flannel.1").map(|device| device.mac)
    }

    /// The changes that were made to the kernel since the log was cleared.
    pub(crate) fn ops(&self) -> Vec<Op> {
        let log = self.kernel.log().into_iter();
        log.filter(|entry| entry.outcome.is_ok())
            .map(|entry| entry.op)
            .collect()
    }

    pub(crate) async fn stop(self) {
        self.task.abort();
        sleep(STEP).await;
    }
}

pub(crate) fn scope() -> Scope {
    Scope {
        networks: vec!["10.5.0.0/16".parse().unwrap(), "fd05::/48".parse().unwrap()],
        devices: DEVICES.map(|name| name.parse().unwrap()).to_vec(),
        underlay: false,
    }
}

pub(crate) fn picture(kernel: &FakeKernel) -> Vec<String> {
    let made = kernel.objects(&scope()).into_iter().filter(|object| {
        let by_itself = matches!(object, Object::Route(route) if route.protocol == PROTOCOL_KERNEL);
        !by_itself
    });
    made.map(|object| object.to_string()).collect()
}

/// What of a picture mentions this.
pub(crate) fn about<'a>(picture: &'a [String], what: &str) -> Vec<&'a str> {
    let lines = picture.iter().map(String::as_str);
    lines.filter(|line| line.contains(what)).collect()
}

/// Replays what was done to a kernel, and panics where a neighbour leads to a MAC address for which there
/// is no forwarding entry.
pub(crate) fn assert_reachable_throughout(before: &[Object], log: &[Op]) {
    let mut there: BTreeMap<ObjectId, Object> = before
        .iter()
        .map(|object| (object.id(), object.clone()))
        .collect();
    for op in log {
        match op.result() {
            Some(object) => drop(there.insert(op.id(), object.clone())),
            None => drop(there.remove(&op.id())),
        }
        for object in there.values() {
            let Object::Neighbour(neighbour) = object else {
                continue;
            };
            let found = there.values().any(|other| {
                matches!(other, Object::Forwarding(entry)
                    if entry.id.mac == neighbour.mac && entry.id.device == neighbour.id.device)
            });
            assert!(found, "after {op:?} nothing says where {object} is");
        }
    }
}
