//! The contract that every store keeps.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flannel_core::SubnetStore;
use flannel_core::testing::store_contract::{self, StoreHarness};

use crate::place::Place;

const TTL: Duration = Duration::from_secs(2);

#[async_trait]
impl StoreHarness for Place {
    async fn connect(&self) -> Arc<dyn SubnetStore> {
        Arc::new(self.open(TTL))
    }

    async fn put_config(&self, json: Option<&str>) {
        match json {
            Some(json) => self.write("config", json),
            None => self.remove("config"),
        }
    }

    async fn put_raw(&self, key: &str, value: &str) {
        self.write(&format!("subnets/{key}"), value);
    }

    async fn delete_raw(&self, key: &str) {
        self.remove(&format!("subnets/{key}"));
    }

    fn ttl(&self) -> Duration {
        TTL
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_store_keeps_the_contract() {
    store_contract::all(async || Place::new()).await;
}
