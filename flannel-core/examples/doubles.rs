//! Three hosts of one network in memory: any operating system, no root.
//!
//! `cargo run -p flannel-core --features testing --example doubles`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "an example shows what it does"
)]

use std::sync::Arc;
use std::time::Duration;

use flannel_core::testing::{FakeKernel, FakeStore, PlainRoutes};
use flannel_core::{Engine, NodeId, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = FakeStore::new(Duration::from_secs(86_400));
    store.put_config(Some(
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}"#,
    ));
    let mut hosts = Vec::new();
    for number in 1..=3 {
        let address = format!("192.0.2.{number}/24");
        let kernel = FakeKernel::host("eth0", &[&address], &["192.0.2.254"]);
        let options = Options::new(NodeId(number));
        let client = Arc::new(store.client());
        let engine = Engine::new(
            client,
            Arc::new(kernel.clone()),
            vec![Box::new(PlainRoutes)],
            options,
        );
        hosts.push((engine.handle(), kernel));
        tokio::spawn(engine.run(std::future::pending()));
    }
    for (engine, kernel) in &hosts {
        let two_peers = engine
            .wait_for(|status| status.is_ready() && status.peers.installed == 2)
            .await;
        let subnet = two_peers
            .and_then(|status| status.lease)
            .map(|lease| lease.subnet);
        println!("subnet {subnet:?}");
        for route in kernel.routes() {
            println!("    {route}");
        }
    }
}
