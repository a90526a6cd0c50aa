//! What every [`SubnetStore`] promises, as checks that run against any of them.
//!
//! Whoever writes a store implements [`StoreHarness`] for it and calls [`all`] in a test. Each
//! clause is public, too, and wants a store of its own with nothing in it. All waiting is done
//! with [`tokio::time`], so that stores in memory can run it on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{ConfigError, Gap, Lease, LeaseAttrs, NetworkConfig, NodeId, StoreError, StoreEvent};
use crate::{SubnetKey, SubnetStore};

/// One store, empty at first, with the means to tamper with it.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// A further client of the same store, as another host would have it.
    async fn connect(&self) -> Arc<dyn SubnetStore>;

    /// Writes the network config past every client; `None` removes it.
    async fn put_config(&self, json: Option<&str>);

    /// Writes an entry past every client, without expiry, as an operator would.
    async fn put_raw(&self, key: &str, value: &str);

    /// Removes an entry past every client.
    async fn delete_raw(&self, key: &str);

    /// How long a lease of this store lives unless renewed. Two seconds are a good choice: some
    /// clauses wait until it has passed.
    fn ttl(&self) -> Duration;
}

/// Runs every clause, each against a new store that `fresh` makes.
///
/// # Panics
///
/// When the store breaks the contract.
pub async fn all<H: StoreHarness>(fresh: impl AsyncFn() -> H) {
    the_config_comes_first_and_then_every_lease(&fresh().await).await;
    a_missing_config_is_said_and_the_leases_follow(&fresh().await).await;
    a_config_that_appears_breaks_and_is_mended_is_said_each_time(&fresh().await).await;
    a_config_that_stays_the_same_is_not_said_again(&fresh().await).await;
    a_claim_is_seen_by_every_watch(&fresh().await).await;
    a_lease_is_what_was_claimed_in_every_family(&fresh().await).await;
    a_claimed_subnet_cannot_be_claimed_again(&fresh().await).await;
    of_many_claims_at_once_exactly_one_wins(&fresh().await).await;
    of_many_take_overs_at_once_exactly_one_wins(&fresh().await).await;
    a_claim_on_what_was_seen_fails_once_that_has_changed_or_gone(&fresh().await).await;
    keep_renews_and_nobody_else_sees_it(&fresh().await).await;
    a_kept_lease_outlives_its_time(&fresh().await).await;
    keep_with_other_attrs_is_one_event_and_the_lease_stays_as_old(&fresh().await).await;
    a_lease_can_be_released_and_taken_over_after_renewals(&fresh().await).await;
    keep_of_a_lease_that_is_gone_or_anothers_says_lost(&fresh().await).await;
    a_lease_that_nobody_renews_expires_and_its_subnet_is_free(&fresh().await).await;
    a_lease_without_expiry_never_expires_and_stays_so_when_taken_over(&fresh().await).await;
    members_that_are_nobodys_survive(&fresh().await).await;
    a_released_lease_is_gone_and_releasing_it_twice_is_no_error(&fresh().await).await;
    releasing_another_version_leaves_it(&fresh().await).await;
    garbage_is_said_once_and_the_others_stay(&fresh().await).await;
    a_lease_that_turns_into_garbage_is_not_withdrawn(&fresh().await).await;
    what_others_write_by_hand_is_seen_at_once(&fresh().await).await;
    dropping_a_watch_leaves_the_others_alive(&fresh().await).await;
    older_leases_have_the_lower_created(&fresh().await).await;
}

/// How long an event that must come may take before the check fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a change by hand may take until it is seen, at the median of [`TRIES`].
const AT_ONCE: Duration = Duration::from_millis(100);

/// How often the time of a change is taken: one of them may meet a busy machine.
const TRIES: usize = 5;

/// How many clients compete for one subnet.
const COMPETITORS: u128 = 8;

/// An entry that no clause uses for itself.
const MARKER: &str = "10.5.250.0-24";

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const OTHER_CONFIG: &str = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// `watch` says the config first, then every lease, as the first thing it knows.
pub async fn the_config_comes_first_and_then_every_lease(harness: &dyn StoreHarness) {
    harness.put_config(Some(CONFIG)).await;
    harness
        .put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#)
        .await;
    let store = harness.connect().await;
    let claimed = claim(&*store, "10.5.2.0/24", 2).await;

    let mut watch = Watch::begin(&*harness.connect().await).await;
    let config = watch.config().await.expect("the config is readable");
    assert_eq!(config.backend.kind, "host-gw");
    let leases = watch.snapshot(Gap::Start).await;
    let subnets: Vec<SubnetKey> = leases.iter().map(|lease| lease.subnet).collect();
    assert_eq!(subnets, [subnet("10.5.1.0/24"), subnet("10.5.2.0/24")]);
    assert_eq!(leases[0].expires, None, "put there by hand");
    assert!(leases[1].expires.is_some());
    assert_eq!(
        (&leases[1].attrs, leases[1].created),
        (&attrs(2), claimed.created)
    );
    assert_eq!(leases[1].token, claimed.token);
}

/// Without a config there is an error in its place, and the leases all the same.
pub async fn a_missing_config_is_said_and_the_leases_follow(harness: &dyn StoreHarness) {
    harness
        .put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#)
        .await;
    let mut watch = Watch::begin(&*harness.connect().await).await;
    let error = watch.config().await.expect_err("there is no config");
    assert!(matches!(*error, ConfigError::Missing { .. }), "{error}");
    assert_eq!(watch.snapshot(Gap::Start).await.len(), 1);
}

/// The config is followed: missing, there, broken, another one, gone.
pub async fn a_config_that_appears_breaks_and_is_mended_is_said_each_time(harness: &dyn StoreHarness) {
    let mut watch = Watch::begin(&*harness.connect().await).await;
    assert!(watch.config().await.is_err());
    watch.snapshot(Gap::Start).await;

    harness.put_config(Some(CONFIG)).await;
    assert!(watch.config().await.is_ok());
    harness.put_config(Some("garbage")).await;
    let error = watch.config().await.expect_err("garbage is no config");
    assert!(matches!(*error, ConfigError::NotJson(_)), "{error}");
    harness.put_config(Some(OTHER_CONFIG)).await;
    let config = watch.config().await.expect("it was mended");
    assert_eq!(
        config.networks().next().map(|net| net.to_string()).as_deref(),
        Some("10.6.0.0/16")
    );
    harness.put_config(None).await;
    let error = watch.config().await.expect_err("it was removed");
    assert!(matches!(*error, ConfigError::Missing { .. }), "{error}");
}

/// Only a change of the config is an event.
pub async fn a_config_that_stays_the_same_is_not_said_again(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    harness.put_config(Some(CONFIG)).await;
    watch.nothing_happened(harness).await;
}

/// What one host claims, every host sees, itself included.
pub async fn a_claim_is_seen_by_every_watch(harness: &dyn StoreHarness) {
    let mut near = Watch::ready(harness).await;
    let mut far = Watch::ready(harness).await;
    let claimed = claim(&*harness.connect().await, "10.5.1.0/24", 1).await;
    for watch in [&mut near, &mut far] {
        let seen = watch.put().await;
        assert_eq!((seen.subnet, &seen.attrs), (claimed.subnet, &attrs(1)));
        assert_eq!((seen.token, seen.created), (claimed.token, claimed.created));
        watch.nothing_happened(harness).await;
    }
}

/// The lease that `claim` returns and the one that others see are what was asked for.
pub async fn a_lease_is_what_was_claimed_in_every_family(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let store = harness.connect().await;
    for text in ["10.5.1.0/24", "10.5.2.0/24,fd00:0:0:2::/64", "fd00:0:0:3::/64"] {
        let before = Instant::now();
        let claimed = claim(&*store, text, 1).await;
        assert_eq!((claimed.subnet, &claimed.attrs), (subnet(text), &attrs(1)));
        let expires = claimed.expires.expect("a claimed lease expires");
        assert!(
            expires > before,
            "{text} expires {:?} before it was claimed",
            before - expires
        );
        let seen = watch.put().await;
        assert_eq!((seen.subnet, seen.attrs), (subnet(text), attrs(1)));
    }
}

/// Nobody gets a subnet that is leased, or that was put there by hand: not even its holder.
pub async fn a_claimed_subnet_cannot_be_claimed_again(harness: &dyn StoreHarness) {
    let (first, second) = (harness.connect().await, harness.connect().await);
    claim(&*first, "10.5.1.0/24", 1).await;
    harness
        .put_raw("10.5.2.0-24", r#"{"PublicIP":"192.0.2.9"}"#)
        .await;
    for (store, text) in [
        (&second, "10.5.1.0/24"),
        (&first, "10.5.1.0/24"),
        (&second, "10.5.2.0/24"),
    ] {
        assert_taken(store.claim(subnet(text), None, &attrs(2)).await, text);
    }
}

/// However many ask at once, one gets the subnet, and the store holds what that one wrote.
pub async fn of_many_claims_at_once_exactly_one_wins(harness: &dyn StoreHarness) {
    compete(harness, None).await;
}

/// However many saw the same lease and take it over at once, one succeeds.
pub async fn of_many_take_overs_at_once_exactly_one_wins(harness: &dyn StoreHarness) {
    let seen = claim(&*harness.connect().await, "10.5.1.0/24", 99).await;
    compete(harness, Some(seen)).await;
}

/// Compare and swap: what was seen must stand there still.
pub async fn a_claim_on_what_was_seen_fails_once_that_has_changed_or_gone(harness: &dyn StoreHarness) {
    let (first, second) = (harness.connect().await, harness.connect().await);
    let seen = claim(&*first, "10.5.1.0/24", 1).await;
    let taken = second
        .claim(seen.subnet, Some(&seen), &attrs(2))
        .await
        .expect("it is what was seen");
    assert_eq!(
        (taken.created, &taken.attrs),
        (seen.created, &attrs(2)),
        "it is as old as it was"
    );
    assert_ne!(taken.token, seen.token);
    assert_taken(
        first.claim(seen.subnet, Some(&seen), &attrs(3)).await,
        "changed by a take-over",
    );

    let kept = second.keep(&taken, &attrs(4)).await.expect("it is its own");
    assert_taken(
        first.claim(seen.subnet, Some(&taken), &attrs(3)).await,
        "changed by its holder",
    );
    second.release(&kept).await.expect("it is its own");
    assert_taken(first.claim(seen.subnet, Some(&kept), &attrs(3)).await, "gone");
}

/// A renewal moves the expiry and is nobody else's business.
pub async fn keep_renews_and_nobody_else_sees_it(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let store = harness.connect().await;
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    watch.put().await;
    sleep(harness.ttl() / 4).await;
    let kept = store.keep(&own, &attrs(1)).await.expect("it is its own");
    assert_eq!(
        (kept.subnet, &kept.attrs, kept.created),
        (own.subnet, &attrs(1), own.created)
    );
    assert!(
        kept.expires > own.expires,
        "{:?} is not after {:?}",
        kept.expires,
        own.expires
    );
    watch.nothing_happened(harness).await;
}

/// A lease lives as long as it is renewed.
pub async fn a_kept_lease_outlives_its_time(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let store = harness.connect().await;
    let mut own = claim(&*store, "10.5.1.0/24", 1).await;
    watch.put().await;
    let start = Instant::now();
    while start.elapsed() < harness.ttl() * 2 {
        sleep(harness.ttl() / 4).await;
        own = store.keep(&own, &attrs(1)).await.expect("it was renewed in time");
    }
    watch.nothing_happened(harness).await;
    assert_taken(
        harness.connect().await.claim(own.subnet, None, &attrs(2)).await,
        "renewed",
    );
}

/// Changed attrs are published once, and make a lease no younger.
pub async fn keep_with_other_attrs_is_one_event_and_the_lease_stays_as_old(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let store = harness.connect().await;
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    let first = watch.put().await;
    let kept = store.keep(&own, &attrs(7)).await.expect("it is its own");
    let seen = watch.put().await;
    assert_eq!(
        (&seen.attrs, seen.created, seen.token),
        (&attrs(7), first.created, kept.token)
    );
    assert_ne!(kept.token, own.token);
    watch.nothing_happened(harness).await;
}

/// Whoever has only watched may act on a lease, though it has been renewed since without an event.
pub async fn a_lease_can_be_released_and_taken_over_after_renewals(harness: &dyn StoreHarness) {
    let store = harness.connect().await;
    for text in ["10.5.1.0/24", "10.5.2.0/24"] {
        claim(&*store, text, 1).await;
    }
    let mut watch = Watch::begin(&*store).await;
    let _ = watch.config().await;
    let seen = watch.snapshot(Gap::Start).await;
    for lease in &seen {
        sleep(harness.ttl() / 8).await;
        store.keep(lease, &attrs(1)).await.expect("it is its own");
    }
    let taken = store.claim(seen[0].subnet, Some(&seen[0]), &attrs(2)).await;
    assert!(taken.is_ok(), "{taken:?}");
    assert_eq!(watch.put().await.subnet, seen[0].subnet);
    store.release(&seen[1]).await.expect("it is its own");
    assert_eq!(watch.delete().await, seen[1].subnet);
}

/// A holder learns that its lease was deleted, or taken over by another host, be it a twin that has
/// its node id; and what the other wrote stays.
pub async fn keep_of_a_lease_that_is_gone_or_anothers_says_lost(harness: &dyn StoreHarness) {
    let (store, other) = (harness.connect().await, harness.connect().await);
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    harness.delete_raw("10.5.1.0-24").await;
    assert_lost(store.keep(&own, &attrs(1)).await, "deleted");
    assert_lost(store.keep(&own, &attrs(2)).await, "deleted, with other attrs");

    let twin = LeaseAttrs {
        node: attrs(1).node,
        ..attrs(3)
    };
    for (text, theirs) in [("10.5.2.0/24", attrs(3)), ("10.5.3.0/24", twin)] {
        let own = claim(&*store, text, 1).await;
        let taken = other
            .claim(own.subnet, Some(&own), &theirs)
            .await
            .expect("nothing has changed");
        assert_lost(store.keep(&own, &attrs(1)).await, text);
        assert_lost(store.keep(&own, &attrs(4)).await, text);
        other
            .keep(&taken, &theirs)
            .await
            .expect("the other's lease is untouched");
    }
}

/// What nobody renews ends by itself, and is free again.
pub async fn a_lease_that_nobody_renews_expires_and_its_subnet_is_free(harness: &dyn StoreHarness) {
    let (store, other) = (harness.connect().await, harness.connect().await);
    let mut watch = Watch::ready(harness).await;
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    let claimed = Instant::now();
    watch.put().await;
    let gone = timeout(harness.ttl() * 2 + PATIENCE, watch.any()).await;
    assert!(
        matches!(gone, Ok(StoreEvent::Delete(subnet)) if subnet == own.subnet),
        "{gone:?}"
    );
    assert!(
        claimed.elapsed() > harness.ttl() / 2,
        "it expired after {:?}",
        claimed.elapsed()
    );

    assert_lost(store.keep(&own, &attrs(1)).await, "expired");
    assert_taken(
        store.claim(own.subnet, Some(&own), &attrs(1)).await,
        "nothing stands there",
    );
    store
        .release(&own)
        .await
        .expect("a lease that is gone is no error");
    let anew = claim(&*other, "10.5.1.0/24", 2).await;
    assert_eq!(watch.put().await.attrs, attrs(2));
    assert_lost(store.keep(&own, &attrs(1)).await, "claimed by another");
    other
        .keep(&anew, &attrs(2))
        .await
        .expect("the other's lease is untouched");
}

/// A reservation stays one, whoever takes it over or renews it.
pub async fn a_lease_without_expiry_never_expires_and_stays_so_when_taken_over(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    for key in ["10.5.1.0-24", "10.5.2.0-24"] {
        harness.put_raw(key, r#"{"PublicIP":"192.0.2.1"}"#).await;
    }
    let (first, second) = (watch.put().await, watch.put().await);
    assert_eq!((first.expires, second.expires), (None, None));
    let store = harness.connect().await;
    let own = store
        .claim(first.subnet, Some(&first), &attrs(1))
        .await
        .expect("it is what was seen");
    assert_eq!((own.expires, own.created), (None, first.created));
    let own = store.keep(&own, &attrs(1)).await.expect("it is its own");
    let own = store.keep(&own, &attrs(2)).await.expect("it is its own");
    assert_eq!(own.expires, None);

    sleep_until(Instant::now() + harness.ttl() * 2).await;
    let mut later = Watch::begin(&*store).await;
    let _ = later.config().await;
    let leases = later.snapshot(Gap::Start).await;
    assert_eq!(leases.len(), 2);
    assert!(leases.iter().all(|lease| lease.expires.is_none()), "{leases:?}");
    assert_eq!(leases[0].attrs, attrs(2));
}

/// Members that nobody here knows are handed out, and are written back with the attrs.
pub async fn members_that_are_nobodys_survive(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw","Rack":{"row":[1,2.50]},"Zone":"b"}"#;
    harness.put_raw("10.5.1.0-24", value).await;
    let seen = watch.put().await;
    assert_eq!(seen.attrs.to_json(), value);

    let store = harness.connect().await;
    let named = LeaseAttrs {
        node: Some(NodeId(1)),
        ..seen.attrs.clone()
    };
    let own = store
        .claim(seen.subnet, Some(&seen), &named)
        .await
        .expect("it is what was seen");
    assert_eq!(watch.put().await.attrs, named);
    let changed = LeaseAttrs {
        backend: "vxlan".to_owned(),
        ..own.attrs.clone()
    };
    store.keep(&own, &changed).await.expect("it is its own");
    let kept = watch.put().await;
    assert_eq!(
        kept.attrs.unknown.len(),
        2,
        "nothing of the store's own shows: {kept:?}"
    );
    assert_eq!(kept.attrs, changed);
}

/// Giving a lease back is seen as its deletion; there is nothing to give back twice.
pub async fn a_released_lease_is_gone_and_releasing_it_twice_is_no_error(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let store = harness.connect().await;
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    watch.put().await;
    store.release(&own).await.expect("it is its own");
    assert_eq!(watch.delete().await, own.subnet);
    store
        .release(&own)
        .await
        .expect("a lease that is gone is no error");
    assert_lost(store.keep(&own, &attrs(1)).await, "released");
    watch.nothing_happened(harness).await;
}

/// Nobody gives back what has become another's.
pub async fn releasing_another_version_leaves_it(harness: &dyn StoreHarness) {
    let (store, other) = (harness.connect().await, harness.connect().await);
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    let taken = other
        .claim(own.subnet, Some(&own), &attrs(2))
        .await
        .expect("it is what was seen");
    let mut watch = Watch::ready(harness).await;
    store
        .release(&own)
        .await
        .expect("there is nothing of ours to release");
    watch.nothing_happened(harness).await;
    other
        .keep(&taken, &attrs(2))
        .await
        .expect("the other's lease is untouched");
}

/// An entry that cannot be read is named once, with the reason, and disturbs no other.
pub async fn garbage_is_said_once_and_the_others_stay(harness: &dyn StoreHarness) {
    harness.put_raw("10.5.2.0-24", "garbage").await;
    harness
        .put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#)
        .await;
    harness
        .put_raw("not-a-subnet", r#"{"PublicIP":"192.0.2.2"}"#)
        .await;
    let mut watch = Watch::begin(&*harness.connect().await).await;
    let _ = watch.config().await;
    let leases = watch.snapshot(Gap::Start).await;
    assert_eq!(leases.len(), 1, "{leases:?}");
    let mut names = [watch.unreadable().await, watch.unreadable().await];
    names.sort();
    assert_eq!(names, ["10.5.2.0-24", "not-a-subnet"]);

    harness
        .put_raw("10.5.3.0-24", r#"{"PublicIP":"not an address"}"#)
        .await;
    assert_eq!(watch.unreadable().await, "10.5.3.0-24");
    harness.put_raw("10.5.3.0-24", r#"["another version"]"#).await;
    assert_eq!(watch.unreadable().await, "10.5.3.0-24");
    watch.nothing_happened(harness).await;
    harness
        .put_raw("10.5.3.0-24", r#"{"PublicIP":"192.0.2.3"}"#)
        .await;
    assert_eq!(watch.put().await.subnet, subnet("10.5.3.0/24"));
}

/// A peer is not withdrawn because its entry cannot be read any more; only its deletion does that.
pub async fn a_lease_that_turns_into_garbage_is_not_withdrawn(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    harness
        .put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#)
        .await;
    watch.put().await;
    harness.put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0"#).await;
    assert_eq!(watch.unreadable().await, "10.5.1.0-24");
    watch.nothing_happened(harness).await;
    harness.delete_raw("10.5.1.0-24").await;
    assert_eq!(watch.delete().await, subnet("10.5.1.0/24"));
}

/// What an operator or another program writes is seen within 100 ms.
pub async fn what_others_write_by_hand_is_seen_at_once(harness: &dyn StoreHarness) {
    let mut watch = Watch::ready(harness).await;
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    for _ in 0..TRIES {
        let start = Instant::now();
        harness
            .put_raw("10.5.1.0-24", r#"{"PublicIP":"192.0.2.1"}"#)
            .await;
        watch.put().await;
        puts.push(start.elapsed());
        let start = Instant::now();
        harness.delete_raw("10.5.1.0-24").await;
        watch.delete().await;
        deletes.push(start.elapsed());
    }
    for (what, mut times) in [("put", puts), ("delete", deletes)] {
        times.sort();
        assert!(times[TRIES / 2] <= AT_ONCE, "a {what} took {times:?}");
    }
}

/// One watch ends when it is dropped, and no other.
pub async fn dropping_a_watch_leaves_the_others_alive(harness: &dyn StoreHarness) {
    harness.put_config(Some(CONFIG)).await;
    let store = harness.connect().await;
    let mut stays = Watch::begin(&*store).await;
    let mut dropped = Watch::begin(&*store).await;
    for watch in [&mut stays, &mut dropped] {
        let _ = watch.config().await;
        watch.snapshot(Gap::Start).await;
    }
    drop(dropped);
    let own = claim(&*store, "10.5.1.0/24", 1).await;
    assert_eq!(stays.put().await.subnet, own.subnet);
    drop(store);
    harness.delete_raw("10.5.1.0-24").await;
    assert_eq!(
        stays.delete().await,
        own.subnet,
        "a watch outlives the client's handle"
    );
}

/// Of two leases the one that was claimed first has the lower `created`, whatever happened since.
pub async fn older_leases_have_the_lower_created(harness: &dyn StoreHarness) {
    let (store, other) = (harness.connect().await, harness.connect().await);
    let first = claim(&*store, "10.5.2.0/24", 1).await;
    let second = claim(&*other, "10.5.1.0/24", 2).await;
    assert!(
        first.created < second.created,
        "{} {}",
        first.created,
        second.created
    );
    let kept = store.keep(&first, &attrs(3)).await.expect("it is its own");
    assert_eq!(kept.created, first.created);
}

async fn compete(harness: &dyn StoreHarness, seen: Option<Lease>) {
    let mut claims = Vec::new();
    for host in 0..COMPETITORS {
        let (store, seen) = (harness.connect().await, seen.clone());
        claims.push(tokio::spawn(async move {
            store
                .claim(subnet("10.5.1.0/24"), seen.as_ref(), &attrs(host))
                .await
        }));
    }
    let mut won = Vec::new();
    for claim in claims {
        match timeout(PATIENCE, claim)
            .await
            .expect("a claim is answered")
            .expect("no panic")
        {
            Ok(lease) => won.push(lease),
            Err(StoreError::Taken { subnet: taken }) => assert_eq!(taken, subnet("10.5.1.0/24")),
            Err(other) => panic!("a claim may be refused as taken only: {other}"),
        }
    }
    assert_eq!(won.len(), 1, "{won:?}");
    let mut watch = Watch::begin(&*harness.connect().await).await;
    let _ = watch.config().await;
    let leases = watch.snapshot(Gap::Start).await;
    assert_eq!(leases.len(), 1);
    assert_eq!((&leases[0].attrs, leases[0].token), (&won[0].attrs, won[0].token));
}

fn subnet(text: &str) -> SubnetKey {
    text.parse().expect("a subnet")
}

/// What the host of this number publishes.
fn attrs(host: u128) -> LeaseAttrs {
    let json = format!(r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
    LeaseAttrs {
        node: Some(NodeId(host)),
        ..LeaseAttrs::from_json(&json).expect("a lease value")
    }
}

async fn claim(store: &dyn SubnetStore, text: &str, host: u128) -> Lease {
    let claimed = timeout(PATIENCE, store.claim(subnet(text), None, &attrs(host))).await;
    claimed.expect("a claim is answered").expect("the subnet is free")
}

fn assert_taken(outcome: Result<Lease, StoreError>, why: &str) {
    assert!(
        matches!(outcome, Err(StoreError::Taken { .. })),
        "{why}: {outcome:?}"
    );
}

fn assert_lost(outcome: Result<Lease, StoreError>, why: &str) {
    assert!(
        matches!(outcome, Err(StoreError::LeaseLost { .. })),
        "{why}: {outcome:?}"
    );
}

/// A watch that knows what it expects.
struct Watch(BoxStream<'static, StoreEvent>);

impl Watch {
    async fn begin(store: &dyn SubnetStore) -> Self {
        Self(store.watch().await.expect("the store can be watched"))
    }

    /// A watch by a client of its own, past its config and first snapshot.
    async fn ready(harness: &dyn StoreHarness) -> Self {
        harness.put_config(Some(CONFIG)).await;
        let mut watch = Self::begin(&*harness.connect().await).await;
        assert!(watch.config().await.is_ok());
        watch.snapshot(Gap::Start).await;
        watch
    }

    async fn any(&mut self) -> StoreEvent {
        self.0.next().await.expect("a watch does not end")
    }

    async fn next(&mut self, expected: &str) -> StoreEvent {
        match timeout(PATIENCE, self.any()).await {
            Ok(event) => event,
            Err(_) => panic!("no event within {PATIENCE:?}, though {expected} was to come"),
        }
    }

    async fn config(&mut self) -> Result<Arc<NetworkConfig>, Arc<ConfigError>> {
        match self.next("a config").await {
            StoreEvent::Config(config) => config,
            other => panic!("not a config: {other:?}"),
        }
    }

    /// Every lease, ordered by subnet.
    async fn snapshot(&mut self, expected: Gap) -> Vec<Lease> {
        match self.next("a snapshot").await {
            StoreEvent::Snapshot { mut leases, gap } => {
                assert_eq!(gap, expected);
                leases.sort_by_key(|lease| lease.subnet);
                leases
            }
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    async fn put(&mut self) -> Lease {
        match self.next("a put").await {
            StoreEvent::Put(lease) => lease,
            other => panic!("not a put: {other:?}"),
        }
    }

    async fn delete(&mut self) -> SubnetKey {
        match self.next("a deletion").await {
            StoreEvent::Delete(subnet) => subnet,
            other => panic!("not a deletion: {other:?}"),
        }
    }

    async fn unreadable(&mut self) -> String {
        match self.next("an unreadable entry").await {
            StoreEvent::Unreadable { name, reason } => {
                assert!(!reason.is_empty());
                name
            }
            other => panic!("not an unreadable entry: {other:?}"),
        }
    }

    /// Whatever was done before is over, and there is no event of it left: the next ones are those
    /// of a marker that comes and goes.
    async fn nothing_happened(&mut self, harness: &dyn StoreHarness) {
        let marker = SubnetKey::from_key(MARKER).expect("a key");
        harness.put_raw(MARKER, r#"{"PublicIP":"192.0.2.250"}"#).await;
        assert_eq!(self.put().await.subnet, marker);
        harness.delete_raw(MARKER).await;
        assert_eq!(self.delete().await, marker);
    }
}
