//! What an operator says about the store.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The prefix that flannel uses unless told otherwise.
const DEFAULT_PREFIX: &str = "/coreos.com/network";

/// flannel's leases live for a day.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// How an [`EtcdStore`](crate::EtcdStore) is set up. Messages name the flags of flanneld that set
/// each of these.
#[derive(Debug, Clone)]
pub struct EtcdStoreOptions {
    /// Servers of one cluster (`--etcd-endpoints`): `https://10.0.0.1:2379`, `http://[::1]:2379`.
    /// Without a scheme it is https where a CA file is given, and http otherwise.
    pub endpoints: Vec<String>,
    /// What all keys begin with (`--etcd-prefix`).
    pub prefix: String,
    /// PEM certificates of the CAs that may have signed the servers' ones (`--etcd-cafile`).
    pub ca_file: Option<PathBuf>,
    /// The PEM certificate to show to the servers, and those that lead from it to its CA
    /// (`--etcd-certfile`).
    pub cert_file: Option<PathBuf>,
    /// Its key: PKCS#8, PKCS#1 or SEC1 in PEM, without a passphrase (`--etcd-keyfile`).
    pub key_file: Option<PathBuf>,
    /// Who to log in as (`--etcd-username`).
    pub username: Option<String>,
    /// With which password (`--etcd-password`).
    pub password: Option<Password>,
    /// How long a lease lives after it was claimed or renewed; whole seconds. 24 hours unless said
    /// otherwise.
    pub ttl: Duration,
    /// What is done where a network config stands in API v2 alone (`--etcd-v2-import`).
    pub v2_import: V2Import,
}

impl EtcdStoreOptions {
    /// The servers of a list that is separated by commas, and defaults for everything else.
    ///
    /// ```
    /// let options = flannel_store_etcd::EtcdStoreOptions::endpoints("http://10.0.0.1:2379, http://[::1]:2379,");
    /// assert_eq!(options.endpoints, ["http://10.0.0.1:2379", "http://[::1]:2379"]);
    /// assert_eq!(options.prefix, "/coreos.com/network");
    /// ```
    #[must_use]
    pub fn endpoints(list: &str) -> Self {
        let endpoints = list
            .split(',')
            .map(str::trim)
            .filter(|endpoint| !endpoint.is_empty());
        Self {
            endpoints: endpoints.map(str::to_owned).collect(),
            prefix: DEFAULT_PREFIX.to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            ttl: DEFAULT_TTL,
            v2_import: V2Import::Auto,
        }
    }
}

/// What is done about a network config that was put with `etcdctl set`, which writes to API v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum V2Import {
    /// Where API v3 has none, API v2 is asked, and its config copied unless leases stand there, too.
    #[default]
    Auto,
    /// API v2 is never asked.
    Off,
}

/// A password. It is not shown, whatever is logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl From<&str> for Password {
    fn from(password: &str) -> Self {
        Self(password.to_owned())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_have_spaces_and_empty_places() {
        let options = EtcdStoreOptions::endpoints(" https://a:2379 ,, https://[::1]:2379,\n");
        assert_eq!(options.endpoints, ["https://a:2379", "https://[::1]:2379"]);
        assert!(EtcdStoreOptions::endpoints(" , ").endpoints.is_empty());
    }

    #[test]
    fn no_password_is_ever_shown() {
        let mut options = EtcdStoreOptions::endpoints("http://a:2379");
        options.password = Some("hunter2".into());
        let shown = format!("{options:?} {options:#?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
