//! One key of etcd's as this crate sees it.

use std::time::Duration;

use etcd_client::{KeyValue, ResponseHeader, TxnOpResponse, TxnResponse};
use flannel_core::{Lease, LeaseAttrs, SubnetKey, Token};
use tokio::time::Instant;

use crate::keys::Keys;

/// Only its holder knows when a lease ends: to ask for everybody's would cost a request for each.
/// Whoever finds a lease that is his renews it at once; until then he is told this much at most, and
/// this part of the time that leases live.
const UNKNOWN_LIFE: Duration = Duration::from_secs(10);
const UNKNOWN_PART: u32 = 4;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// The revision at which the key came to be.
    pub(crate) created: i64,
    /// The revision at which the value came to be.
    pub(crate) modified: i64,
    /// The etcd lease with which the key ends; 0 for none.
    pub(crate) grant: i64,
}

/// The point in a cluster's history from which an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) cluster: u64,
    pub(crate) term: u64,
    pub(crate) revision: i64,
}

impl From<&KeyValue> for Entry {
    fn from(pair: &KeyValue) -> Self {
        Self {
            key: pair.key().to_vec(),
            value: pair.value().to_vec(),
            created: pair.create_revision(),
            modified: pair.mod_revision(),
            grant: pair.lease(),
        }
    }
}

impl Entry {
    /// The value as a lease's.
    pub(crate) fn attrs(&self) -> Result<LeaseAttrs, String> {
        let text = std::str::from_utf8(&self.value).map_err(|error| format!("not JSON: {error}"))?;
        LeaseAttrs::from_json(text).map_err(|error| error.to_string())
    }

    /// The lease that it is, or why it is none. `ttl` is how long leases live.
    pub(crate) fn lease(&self, keys: &Keys, ttl: Duration) -> Result<Lease, String> {
        let subnet = SubnetKey::from_key(&keys.name(&self.key)).map_err(|error| error.to_string())?;
        let life = UNKNOWN_LIFE.min(ttl / UNKNOWN_PART);
        Ok(self.lease_of(subnet, self.attrs()?, Instant::now() + life))
    }

    /// The lease of a subnet. `expires` counts where there is an etcd lease behind it.
    pub(crate) fn lease_of(&self, subnet: SubnetKey, attrs: LeaseAttrs, expires: Instant) -> Lease {
        Lease {
            subnet,
            attrs,
            expires: (self.grant != 0).then_some(expires),
            created: self.created.unsigned_abs(),
            token: Token {
                revision: self.modified.unsigned_abs(),
                grant: self.grant,
            },
        }
    }
}

/// What a transaction read last.
pub(crate) fn entry_in(answer: &TxnResponse) -> Option<Entry> {
    match answer.op_responses().pop()? {
        TxnOpResponse::Get(read) => read.kvs().first().map(Entry::from),
        _ => None,
    }
}

impl From<&ResponseHeader> for Moment {
    fn from(header: &ResponseHeader) -> Self {
        Self {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        }
    }
}

impl Moment {
    /// Whether it can lie behind `earlier` in one history. A server that lags says no, too.
    pub(crate) const fn follows(&self, earlier: &Self) -> bool {
        self.cluster == earlier.cluster && self.term >= earlier.term && self.revision >= earlier.revision
    }

    /// The later one of two.
    pub(crate) fn advance(&mut self, to: Self) {
        self.term = self.term.max(to.term);
        self.revision = self.revision.max(to.revision);
    }
}
