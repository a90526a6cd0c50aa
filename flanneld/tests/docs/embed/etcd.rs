use std::sync::Arc;

use flannel_core::{StoreError, SubnetStore};
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions};

/// An etcd with TLS in place of the directory.
pub fn open(ca: &str) -> Result<Arc<dyn SubnetStore>, StoreError> {
    let options = EtcdStoreOptions {
        ca_file: Some(ca.into()),
        ..EtcdStoreOptions::endpoints("https://10.4.7.12:2379,https://10.4.7.21:2379")
    };
    Ok(Arc::new(EtcdStore::open(options)?))
}
