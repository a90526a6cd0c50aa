//! Claims, renewals and releases. Each is such that asking twice does no harm: what is written is
//! compared with what stands there, and a write whose answer was lost is recognised as ours.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use flannel_core::{Lease, LeaseAttrs, StoreError, SubnetKey};
use tokio::time::Instant;
use tracing::debug;

use crate::Shared;
use crate::entry::{Entry, entry_in};
use crate::failure::{Failure, Kind};
use crate::random;

/// How often a value that changes while it is being replaced is read again.
const TRIES: usize = 4;

/// An etcd lease, and when it ends unless kept alive.
#[derive(Debug, Clone, Copy)]
struct Grant {
    id: i64,
    expires: Instant,
}

impl Grant {
    /// What stands for an entry that never ends.
    fn none() -> Self {
        Self {
            id: 0,
            expires: Instant::now(),
        }
    }
}

/// How a lease of ours is found.
enum Standing {
    /// It is ours, with this value.
    Ours(LeaseAttrs),
    /// Nobody can read it, which we can mend.
    Garbled,
    Lost,
}

pub(crate) async fn claim(
    shared: &Arc<Shared>,
    subnet: SubnetKey,
    seen: Option<&Lease>,
    attrs: &LeaseAttrs,
) -> Result<Lease, StoreError> {
    let failed = |failure: Failure| failure.during(format!("claim {subnet} in etcd"));
    let grant = match seen {
        Some(seen) if seen.token.grant == 0 => Grant::none(),
        _ => shared.grant().await.map_err(failed)?,
    };
    let key = shared.keys.lease(subnet);
    let as_seen = match seen {
        None => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Some(seen) => is_still(&key, seen),
    };
    match shared.put(&key, as_seen, attrs, grant.id).await {
        Ok(Some(entry)) => Ok(entry.lease_of(subnet, attrs.clone(), grant.expires)),
        Ok(None) => {
            shared.revoke(grant.id);
            Err(StoreError::Taken { subnet })
        }
        Err(failure) => {
            // Where it may have been written after all it is left to be found.
            if !failure.is_ambiguous() {
                shared.revoke(grant.id);
            }
            Err(failed(failure))
        }
    }
}

pub(crate) async fn keep(shared: &Arc<Shared>, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
    let subnet = own.subnet;
    let failed = |failure: Failure| failure.during(format!("renew {subnet} in etcd"));
    let lost = || StoreError::LeaseLost { subnet };
    let key = shared.keys.lease(subnet);
    for _ in 0..TRIES {
        let entry = shared.read(&key).await.map_err(failed)?.ok_or_else(lost)?;
        let standing = standing(&entry, own);
        let id = match standing {
            Standing::Lost => return Err(lost()),
            Standing::Ours(_) => entry.grant,
            Standing::Garbled => own.token.grant,
        };
        let grant = match (shared.keep_alive(id).await, &standing) {
            (Ok(grant), _) => grant,
            // The etcd lease of a value that was written over without one ends by itself.
            (Err(failure), Standing::Garbled) if failure.kind == Kind::NoSuchGrant => {
                shared.grant().await.map_err(failed)?
            }
            (Err(failure), _) if failure.kind == Kind::NoSuchGrant => return Err(lost()),
            (Err(failure), _) => return Err(failed(failure)),
        };
        if let Standing::Ours(stands) = standing
            && stands == *attrs
        {
            return Ok(entry.lease_of(subnet, stands, grant.expires));
        }
        let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, entry.modified);
        if let Some(entry) = shared
            .put(&key, unchanged, attrs, grant.id)
            .await
            .map_err(failed)?
        {
            return Ok(entry.lease_of(subnet, attrs.clone(), grant.expires));
        }
    }
    Err(failed(Failure::new(Kind::Unreachable, "it changes all the time")))
}

pub(crate) async fn release(shared: &Arc<Shared>, own: &Lease) -> Result<(), StoreError> {
    let subnet = own.subnet;
    let key = shared.keys.lease(subnet);
    let delete = Txn::new()
        .when([is_still(&key, own)])
        .and_then([TxnOp::delete(key.as_str(), None)]);
    let deleted = shared
        .servers
        .ask(|client| {
            let delete = delete.clone();
            async move { client.kv_client().txn(delete).await }
        })
        .await
        .map_err(|failure| failure.during(format!("release {subnet} in etcd")))?;
    if deleted.succeeded() {
        shared.revoke(own.token.grant);
    }
    Ok(())
}

/// Whether a lease is ours as we last saw it; or its etcd lease is, which is one holder's for ever; or
/// it was edited since in what does not say whose it is. A twin, with our node id and another address,
/// is not us.
fn standing(entry: &Entry, own: &Lease) -> Standing {
    let Ok(attrs) = entry.attrs() else {
        return Standing::Garbled;
    };
    let same = entry.modified.unsigned_abs() == own.token.revision;
    let kept = entry.grant != 0 && entry.grant == own.token.grant;
    let signed = attrs.node.is_some() && attrs.node == own.attrs.node && attrs.public == own.attrs.public;
    if same || kept || signed {
        Standing::Ours(attrs)
    } else {
        Standing::Lost
    }
}

/// What holds while a lease is the version that was seen. One that no store has seen is none.
fn is_still(key: &str, lease: &Lease) -> Compare {
    let revision = i64::try_from(lease.token.revision).unwrap_or(i64::MAX);
    let revision = if revision == 0 { i64::MAX } else { revision };
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

impl Shared {
    /// What stands under a key.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<Entry>, Failure> {
        let read = self
            .servers
            .ask(|client| async move { client.kv_client().get(key, None).await });
        Ok(read.await?.kvs().first().map(Entry::from))
    }

    /// Writes a lease's value under a condition. `None`: it does not hold.
    async fn put(
        &self,
        key: &str,
        condition: Compare,
        attrs: &LeaseAttrs,
        grant: i64,
    ) -> Result<Option<Entry>, Failure> {
        self.put_text(key, condition, &attrs.to_json(), grant).await
    }

    /// Writes under a condition. `None`: it does not hold, and what stands there is not what would
    /// have been written.
    pub(crate) async fn put_text(
        &self,
        key: &str,
        condition: Compare,
        value: &str,
        grant: i64,
    ) -> Result<Option<Entry>, Failure> {
        let put = Txn::new()
            .when([condition])
            .and_then([
                TxnOp::put(key, value, Some(PutOptions::new().with_lease(grant))),
                TxnOp::get(key, None),
            ])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.servers.ask(|client| {
            let put = put.clone();
            async move { client.kv_client().txn(put).await }
        });
        let entry = entry_in(&answer.await?);
        Ok(entry.filter(|entry| entry.value == value.as_bytes() && entry.grant == grant))
    }

    /// A new etcd lease. Its id is ours to choose, so that asking twice makes one.
    async fn grant(&self) -> Result<Grant, Failure> {
        let id = i64::try_from(random::number() >> 1).unwrap_or(i64::MAX).max(1);
        let ttl = self.ttl_seconds();
        let before = Instant::now();
        let granted = self.servers.ask(|client| async move {
            let options = LeaseGrantOptions::new().with_id(id);
            client.lease_client().grant(ttl, Some(options)).await
        });
        match granted.await {
            // The server may give more than was asked for.
            Ok(granted) => Ok(Grant {
                id,
                expires: after(before, granted.ttl()),
            }),
            Err(failure) if failure.kind == Kind::GrantExists => self.keep_alive(id).await,
            Err(failure) => Err(failure),
        }
    }

    /// Renews an etcd lease; one that is none needs no renewal.
    async fn keep_alive(&self, id: i64) -> Result<Grant, Failure> {
        if id == 0 {
            return Ok(Grant::none());
        }
        let before = Instant::now();
        let kept = self.servers.ask(|client| async move {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
            // The first answer, with its time to live, is not handed out.
            keeper.keep_alive().await?;
            answers.message().await
        });
        match kept.await?.map(|answer| answer.ttl()) {
            Some(ttl) if ttl > 0 => Ok(Grant {
                id,
                expires: after(before, ttl),
            }),
            _ => Err(Failure::new(Kind::NoSuchGrant, "the etcd lease has ended")),
        }
    }

    /// Ends an etcd lease that nothing hangs on. It would end by itself, so nobody waits for it.
    fn revoke(self: &Arc<Self>, id: i64) {
        if id == 0 {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let revoked = shared
                .servers
                .ask(|client| async move { client.lease_client().revoke(id).await })
                .await;
            if let Err(failure) = revoked.map(drop) {
                debug!(error = %failure, "an etcd lease that nobody uses stays until it ends by itself");
            }
        });
    }

    fn ttl_seconds(&self) -> i64 {
        let whole = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        i64::try_from(whole).unwrap_or(i64::MAX)
    }
}

fn after(start: Instant, seconds: i64) -> Instant {
    start
        .checked_add(Duration::from_secs(seconds.unsigned_abs()))
        .unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use flannel_core::{NodeId, Token};

    use super::*;

    fn attrs(host: u8, node: Option<u128>) -> LeaseAttrs {
        let json = format!(r#"{{"PublicIP":"192.0.2.{host}"}}"#);
        LeaseAttrs {
            node: node.map(NodeId),
            ..LeaseAttrs::from_json(&json).unwrap()
        }
    }

    fn stands(attrs: &LeaseAttrs, modified: i64, grant: i64) -> Entry {
        Entry {
            key: b"/net/subnets/10.5.1.0-24".to_vec(),
            value: attrs.to_json().into_bytes(),
            created: 1,
            modified,
            grant,
        }
    }

    fn own(attrs: LeaseAttrs, revision: u64, grant: i64) -> Lease {
        Lease {
            token: Token { revision, grant },
            ..Lease::new("10.5.1.0/24".parse().unwrap(), attrs)
        }
    }

    #[test]
    fn a_lease_is_ours_by_its_version_its_etcd_lease_or_its_signature() {
        let ours = attrs(1, Some(7));
        let held = own(ours.clone(), 5, 9);
        for (entry, is_ours) in [
            (stands(&ours, 5, 9), true),
            // Written by a request whose answer was lost.
            (stands(&attrs(2, Some(7)), 6, 9), true),
            // Edited by hand: the node id and the address are still there.
            (stands(&ours, 6, 0), true),
            (stands(&attrs(2, Some(8)), 6, 10), false),
            // A twin has our node id and another address.
            (stands(&attrs(2, Some(7)), 6, 10), false),
            // flannel took it over for our address.
            (stands(&attrs(1, None), 6, 10), false),
        ] {
            let is = matches!(standing(&entry, &held), Standing::Ours(_));
            assert_eq!(is, is_ours, "{entry:?}");
        }
    }

    #[test]
    fn entries_without_an_etcd_lease_have_none_in_common() {
        let held = own(attrs(1, None), 5, 0);
        assert!(matches!(
            standing(&stands(&attrs(2, None), 6, 0), &held),
            Standing::Lost
        ));
        assert!(matches!(
            standing(&stands(&attrs(1, None), 5, 0), &held),
            Standing::Ours(_)
        ));
    }

    #[test]
    fn what_nobody_can_read_is_nobodys() {
        let mut entry = stands(&attrs(1, None), 6, 0);
        entry.value = b"{".to_vec();
        assert!(matches!(
            standing(&entry, &own(attrs(1, None), 5, 9)),
            Standing::Garbled
        ));
    }
}
