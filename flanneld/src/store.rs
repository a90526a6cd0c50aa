//! Opens the store that the flags name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flannel_core::{ConfigStore, StoreError, SubnetStore};
use flannel_store_file::{FileStore, FileStoreOptions};
use tokio::time::{Instant, sleep};
use tracing::warn;

#[cfg(feature = "etcd")]
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions, V2Import};

use crate::blocking::off_the_loop;
#[cfg(feature = "etcd")]
use crate::flags::EtcdFlags;
use crate::flags::StoreFlags;
use crate::health::StorePlace;

/// How often a store that may come yet is tried.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// How often the log says that it is still being waited for.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// A store, as the engine and as an administrator see it.
#[derive(Clone)]
pub(crate) enum Store {
    File(Arc<FileStore>),
    #[cfg(feature = "etcd")]
    Etcd(Arc<EtcdStore>),
}

impl Store {
    /// Opens it, and waits for a directory that may come yet. Nobody is asked over the network.
    pub(crate) async fn open(flags: &StoreFlags) -> Result<Self, StoreError> {
        match flags {
            StoreFlags::File(directory) => file(directory).await.map(|store| Self::File(Arc::new(store))),
            #[cfg(feature = "etcd")]
            StoreFlags::Etcd(flags) => {
                let options = options(flags);
                let store = off_the_loop(move || EtcdStore::open(options)).await?;
                Ok(Self::Etcd(Arc::new(store)))
            }
            #[cfg(not(feature = "etcd"))]
            StoreFlags::Etcd(_) => Err(StoreError::Unusable {
                place: "etcd".to_owned(),
                problem: "this build has no etcd store; build it with `--features etcd`".to_owned(),
            }),
        }
    }

    pub(crate) fn subnets(&self) -> Arc<dyn SubnetStore> {
        match self {
            Self::File(store) => store.clone(),
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => store.clone(),
        }
    }

    pub(crate) fn config(&self) -> &dyn ConfigStore {
        match self {
            Self::File(store) => &**store,
            #[cfg(feature = "etcd")]
            Self::Etcd(store) => &**store,
        }
    }

    /// Reads again what it was opened with: certificates.
    pub(crate) async fn reload(&self) {
        #[cfg(feature = "etcd")]
        if let Self::Etcd(store) = self {
            let store = store.clone();
            if let Err(error) = off_the_loop(move || store.reload()).await {
                warn!(%error, "keeping the certificates that were read before");
            }
        }
    }
}

/// What tells the network from every other that this host may be in: it names the state directory, and so must stay
/// the same when servers come and go.
pub(crate) fn network(flags: &StoreFlags) -> String {
    match flags {
        StoreFlags::File(directory) => format!("store file://{}", directory.display()),
        StoreFlags::Etcd(flags) => {
            let names = flags.prefix.split('/').filter(|name| !name.is_empty());
            let prefix: String = names.map(|name| format!("/{name}")).collect();
            format!("etcd network {prefix}")
        }
    }
}

/// The same for people to read.
pub(crate) fn place(flags: &StoreFlags) -> StorePlace {
    match flags {
        StoreFlags::File(directory) => StorePlace {
            kind: "file".to_owned(),
            place: directory.display().to_string(),
        },
        StoreFlags::Etcd(flags) => StorePlace {
            kind: "etcd".to_owned(),
            place: format!("{} {}", flags.endpoints, flags.prefix),
        },
    }
}

#[cfg(feature = "etcd")]
fn options(flags: &EtcdFlags) -> EtcdStoreOptions {
    EtcdStoreOptions {
        prefix: flags.prefix.clone(),
        ca_file: flags.ca_file.clone(),
        cert_file: flags.cert_file.clone(),
        key_file: flags.key_file.clone(),
        username: flags.username.clone(),
        password: flags.password.as_ref().map(|password| password.reveal().into()),
        v2_import: if flags.v2_import {
            V2Import::Auto
        } else {
            V2Import::Off
        },
        ..EtcdStoreOptions::endpoints(&flags.endpoints)
    }
}

async fn file(directory: &Path) -> Result<FileStore, StoreError> {
    let mut remind = Instant::now();
    loop {
        let path: PathBuf = directory.to_owned();
        match off_the_loop(move || FileStore::open(path, FileStoreOptions::default())).await {
            Err(error) if !matches!(error, StoreError::Unusable { .. }) => {
                if Instant::now() >= remind {
                    warn!(%error, "waiting for the store");
                    remind = Instant::now() + REMIND_EVERY;
                }
                sleep(RETRY_EVERY).await;
            }
            result => return result,
        }
    }
}
