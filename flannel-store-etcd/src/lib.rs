#![doc = include_str!("../README.md")]

mod endpoint;
mod entry;
mod failure;
mod follower;
mod http;
mod keys;
mod options;
mod outage;
mod random;
mod reading;
mod requests;
mod servers;
mod tls;
mod v2;
mod verdict;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp};
use flannel_core::{ConfigStore, Lease, LeaseAttrs, StoreError, StoreEvent, SubnetKey, SubnetStore};
use futures_util::stream::BoxStream;

pub use options::{EtcdStoreOptions, Password, V2Import};

use crate::endpoint::Endpoint;
use crate::failure::{Failure, Kind};
use crate::keys::Keys;
use crate::servers::Servers;
use crate::tls::TlsFiles;

/// A store in an etcd cluster, API v3, with flannel's own keys and values.
///
/// It connects when it is first asked something, and belongs to the tokio runtime in which that is.
#[derive(Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

/// What requests and watches have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) servers: Servers,
    pub(crate) keys: Keys,
    pub(crate) ttl: Duration,
    pub(crate) v2_import: V2Import,
}

impl EtcdStore {
    /// Checks the options and reads the certificates; asks no server anything. Blocks while it reads
    /// files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`], which names the flag of flanneld that is to be changed.
    pub fn open(options: EtcdStoreOptions) -> Result<Self, StoreError> {
        let place = format!("etcd at {}", options.endpoints.join(","));
        let servers = servers(&options).map_err(|problem| {
            // An endpoint may hold a password.
            let place = if place.contains('@') {
                "etcd".to_owned()
            } else {
                place
            };
            StoreError::Unusable { place, problem }
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                servers,
                keys: Keys::new(&options.prefix),
                ttl: options.ttl,
                v2_import: options.v2_import,
            }),
        })
    }

    /// Reads the certificates again, as after their rotation. New connections use them; those that
    /// stand go on. Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`]; the certificates are then what they were.
    pub fn reload(&self) -> Result<(), StoreError> {
        self.shared
            .servers
            .reload()
            .map_err(|problem| StoreError::Unusable {
                place: self.shared.servers.to_string(),
                problem,
            })
    }
}

/// The servers as the options describe them, or what is wrong with the options.
fn servers(options: &EtcdStoreOptions) -> Result<Servers, String> {
    let identity = match (&options.cert_file, &options.key_file) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return Err("--etcd-certfile is given without --etcd-keyfile; give both".to_owned());
        }
        (None, Some(_)) => {
            return Err("--etcd-keyfile is given without --etcd-certfile; give both".to_owned());
        }
    };
    let wants_tls = options.ca_file.is_some() || identity.is_some();
    let endpoints = options
        .endpoints
        .iter()
        .map(|endpoint| Endpoint::parse(endpoint.trim(), wants_tls));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
    if let Some(plain) = endpoints.iter().find(|endpoint| wants_tls && !endpoint.tls) {
        let flag = if options.ca_file.is_some() {
            "--etcd-cafile"
        } else {
            "--etcd-certfile"
        };
        return Err(format!(
            "{flag} is given, and {plain} of --etcd-endpoints is without TLS; write it as https://, or \
             leave the certificates out"
        ));
    }
    let files = match (&options.ca_file, endpoints.iter().find(|endpoint| endpoint.tls)) {
        (Some(ca), _) => Some(TlsFiles {
            ca: ca.clone(),
            identity,
        }),
        (None, Some(secure)) => {
            return Err(format!(
                "{secure} needs a CA to be trusted; name the file with its certificate in --etcd-cafile, \
                 such as /etc/ssl/certs/ca-certificates.crt for those that the system trusts"
            ));
        }
        (None, None) => None,
    };
    let login = match (&options.username, &options.password) {
        (Some(name), password) if !name.is_empty() => Some((
            name.clone(),
            password.clone().unwrap_or_else(|| Password::from("")),
        )),
        (_, Some(_)) => return Err("--etcd-password is given without --etcd-username; give both".to_owned()),
        _ => None,
    };
    if options.ttl.is_zero() {
        return Err("its leases would end at once; give them a time to live".to_owned());
    }
    Servers::new(endpoints, login, files)?
        .ok_or_else(|| "there is no server; name one in --etcd-endpoints, as http://10.0.0.1:2379".to_owned())
}

#[async_trait]
impl SubnetStore for EtcdStore {
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError> {
        Ok(watch::events(Arc::clone(&self.shared)))
    }

    async fn claim(
        &self,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        requests::claim(&self.shared, subnet, seen, attrs).await
    }

    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        requests::keep(&self.shared, own, attrs).await
    }

    async fn release(&self, own: &Lease) -> Result<(), StoreError> {
        requests::release(&self.shared, own).await
    }

    /// To ask for the end of every lease would cost a request for each.
    fn shows_expiry(&self) -> bool {
        false
    }

    /// The servers that are named by their addresses.
    fn endpoints(&self) -> Vec<IpAddr> {
        self.shared.servers.addresses()
    }
}

#[async_trait]
impl ConfigStore for EtcdStore {
    async fn read_config(&self) -> Result<Option<String>, StoreError> {
        let key = &self.shared.keys.config;
        let read = self.shared.read(key).await;
        let entry = read.map_err(|failure| failure.during(format!("read {key} in etcd")))?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    async fn write_config(&self, json: &str) -> Result<(), StoreError> {
        let key = &self.shared.keys.config;
        let failed = |failure: Failure| failure.during(format!("write {key} in etcd"));
        let stands = self.shared.read(key).await.map_err(failed)?;
        // What stands there is replaced; what somebody else puts there meanwhile is not.
        let revision = stands.map_or(0, |entry| entry.modified);
        let as_read = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
        match self
            .shared
            .put_text(key, as_read, json, 0)
            .await
            .map_err(failed)?
        {
            Some(_) => Ok(()),
            None => Err(failed(Failure::new(
                Kind::Refused,
                "somebody else has just written there; read it again",
            ))),
        }
    }
}
