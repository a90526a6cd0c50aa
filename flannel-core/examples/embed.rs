//! An overlay inside another program: needs Linux, root, and a config in the store's directory.
//!
//! `mkdir -p /tmp/net; echo '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}' > /tmp/net/config`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_macros,
    reason = "an example shows what it does"
)]

use std::{path::Path, sync::Arc};

use flannel_backend_hostgw::HostGw;
use flannel_core::{Engine, Options, StateDir};
use flannel_netlink::Netlink;
use flannel_store_file::{FileStore, FileStoreOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = StateDir::open(Path::new("/tmp/net-state"), "my program's network")?;
    let store = Arc::new(FileStore::open("/tmp/net", FileStoreOptions::default())?);
    let netlink = Arc::new(Netlink::open()?);
    let engine = Engine::new(store, netlink, vec![Box::new(HostGw)], Options::of(&state));
    let handle = engine.handle();
    tokio::spawn(async move {
        if let Some(ready) = handle.wait_for(|status| status.is_ready()).await {
            println!("ready: {:?}, {:?}", ready.lease, ready.peers);
        }
    });
    Ok(engine.run(std::future::pending()).await?)
}
