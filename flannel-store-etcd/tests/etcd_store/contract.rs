//! The contract that every store keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use flannel_core::SubnetStore;
use flannel_core::testing::store_contract::{self, StoreHarness};
use flannel_store_etcd::EtcdStore;

use crate::place::Place;

const TTL: Duration = Duration::from_secs(2);

/// A prefix of its own on the one server.
struct Harness {
    place: Arc<Place>,
    client: Client,
    prefix: String,
}

#[async_trait]
impl StoreHarness for Harness {
    async fn connect(&self) -> Arc<dyn SubnetStore> {
        let mut options = self.place.options();
        options.prefix.clone_from(&self.prefix);
        options.ttl = TTL;
        Arc::new(EtcdStore::open(options).unwrap())
    }

    async fn put_config(&self, json: Option<&str>) {
        let key = format!("{}/config", self.prefix);
        match json {
            Some(json) => drop(self.client.clone().put(key, json, None).await.unwrap()),
            None => drop(self.client.clone().delete(key, None).await.unwrap()),
        }
    }

    async fn put_raw(&self, key: &str, value: &str) {
        let key = format!("{}/subnets/{key}", self.prefix);
        self.client.clone().put(key, value, None).await.unwrap();
    }

    async fn delete_raw(&self, key: &str) {
        let key = format!("{}/subnets/{key}", self.prefix);
        self.client.clone().delete(key, None).await.unwrap();
    }

    fn ttl(&self) -> Duration {
        TTL
    }
}

#[tokio::test]
async fn the_etcd_store_keeps_the_contract() {
    let place = Arc::new(Place::new());
    let count = AtomicUsize::new(0);
    let client = Client::connect([place.etcd.endpoint()], None).await.unwrap();
    store_contract::all(async || Harness {
        place: Arc::clone(&place),
        client: client.clone(),
        prefix: format!("/network/{}", count.fetch_add(1, Ordering::Relaxed)),
    })
    .await;
}
