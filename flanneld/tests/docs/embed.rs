//! The code of the page on embedding, compiled and run: each block of the page stands in a file, word for word.

#![allow(unreachable_pub, reason = "the page's reader has the code in a library")]

mod backend;
mod etcd;
mod firewall;
mod status;

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use flannel_core::testing::{FakeKernel, FakeStore, PlainRoutes};
use flannel_core::{Backend, Engine, EngineHandle, NodeId, Options, StateDir, Status};
use nix::sched::{CloneFlags, unshare};

use crate::page::{self, Page};

/// For what takes milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Every block of Rust names a file that holds it.
///
/// # Panics
/// At a block that does not, or that no file holds.
pub(crate) fn compare_with_files(page: &Page) {
    let mut found = 0;
    for block in page.blocks.iter().filter(|block| block.info.language == "rust") {
        let place = format!("{}:{}", page.name, block.line);
        let file = block.info.file.as_ref();
        let file = file.unwrap_or_else(|| panic!("{place}: no file= behind the fence"));
        let text = fs::read_to_string(page::root().join(file)).unwrap();
        let shown = block.lines.join("\n");
        assert!(
            text.contains(&shown),
            "{place}: {} does not hold\n{shown}",
            file.display()
        );
        found += 1;
    }
    assert!(found > 0, "{}: no Rust", page.name);
}

/// Hosts in memory, whose store has a config of `backend`'s.
struct Hosts {
    store: FakeStore,
    kernels: Vec<FakeKernel>,
}

impl Hosts {
    fn new(backend: &str) -> Self {
        let store = FakeStore::new(Duration::from_secs(86_400));
        store.put_config(Some(&format!(
            r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{backend}"}}}}"#
        )));
        let kernels = (1..=2).map(|number| {
            let kernel = FakeKernel::host("eth0", &[&format!("192.0.2.{number}/24")], &["192.0.2.254"]);
            kernel.create_link("wg0", &["100.64.0.1/32"]);
            kernel
        });
        Self {
            kernels: kernels.collect(),
            store,
        }
    }

    fn engine(&self, host: u8, backend: impl Backend + 'static) -> Engine {
        let client = Arc::new(self.store.client());
        let kernel = Arc::new(self.kernels[usize::from(host)].clone());
        Engine::new(
            client,
            kernel,
            vec![Box::new(backend)],
            Options::new(NodeId(host.into())),
        )
    }
}

async fn ready_with_one_peer(engine: &EngineHandle) -> Arc<Status> {
    let ready = engine.wait_for(|status| status.is_ready() && status.peers.installed == 1);
    tokio::time::timeout(SOON, ready).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_engine_is_looked_at_and_stopped_as_the_page_shows() {
    let hosts = Hosts::new("host-gw");
    let neighbour = tokio::spawn(hosts.engine(1, PlainRoutes).run(std::future::pending()));
    let told = status::look_and_stop(hosts.engine(0, PlainRoutes)).await.unwrap();
    assert!(told[0].starts_with("ready: 10.5."), "{told:?}");
    assert!(told[1].ends_with("installed"), "{told:?}");
    assert_eq!(
        hosts.kernels[0].routes().len(),
        3,
        "its own, the default, and that to the peer: they stay"
    );
    neighbour.abort();
}

/// What the packet filter of the calling thread's namespace has.
fn rules() -> String {
    let output = Command::new("iptables-save").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn rules_are_kept_and_removed_as_the_page_shows() {
    let on_a_host = async {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("state");
        let subnet_env = directory.path().join("subnet.env");
        let state = StateDir::open(&root, "a network").unwrap();
        let engine =
            firewall::guard(Hosts::new("host-gw").engine(0, PlainRoutes), &state, &subnet_env).unwrap();
        let handle = engine.handle();
        let running = tokio::spawn(engine.run(std::future::pending()));
        let ready = handle.wait_for(Status::is_ready);
        let status = tokio::time::timeout(SOON, ready).await.unwrap().unwrap();
        let subnet = status.lease.unwrap().subnet;
        let returns = format!("-A FLANNEL-POSTRTG -s {subnet} -d 10.5.0.0/16");
        assert!(rules().contains(&returns), "{returns}\n{}", rules());

        running.abort();
        let _ = running.await;
        drop(state);
        firewall::remove(&root, "a network", &subnet_env).await.unwrap();
        assert!(!rules().contains("FLANNEL"), "{}", rules());
        assert!(!root.exists());
    };
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(on_a_host);
    });
    host.join().unwrap();
}

#[tokio::test]
async fn a_backend_of_ones_own_routes_into_its_device() {
    let device = "wg0".parse().unwrap();
    let hosts = Hosts::new("tunnel");
    let engines = [0, 1].map(|host| hosts.engine(host, backend::Tunnel { device }));
    let handle = engines[0].handle();
    let running = engines.map(|engine| tokio::spawn(engine.run(std::future::pending())));
    ready_with_one_peer(&handle).await;
    let routes: Vec<String> = hosts.kernels[0]
        .routes()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        routes.iter().any(|route| route.contains("dev wg0 proto 70")),
        "{routes:?}"
    );
    for running in running {
        running.abort();
    }
}

#[tokio::test]
async fn an_etcd_store_is_opened_as_the_page_shows() {
    let error = etcd::open("/etc/no/such/ca.pem").err().unwrap();
    assert!(error.to_string().contains("/etc/no/such/ca.pem"), "{error}");
}
