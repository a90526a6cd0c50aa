//! Which tables of the packet filter change, as nf_tables announces it to `NFNLGRP_NFTABLES`.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use flannel_core::Changed;
use futures_util::stream::{Stream, unfold};
use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::time::{Instant, timeout_at};

use crate::Netlink;
use crate::announcements::Announcements;
use crate::attribute::text;
use crate::nf_tables::{self, SUBSYSTEM, TABLE};
use crate::reply::{Message, messages};
use crate::watch::PAUSE;

/// `NFNLGRP_NFTABLES` in `linux/netfilter/nfnetlink.h`.
const GROUP: u32 = 7;

/// `NFT_MSG_NEWCHAIN`, and `NFT_MSG_NEWGEN`, which ends a transaction.
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;

/// The most tables that are told one by one.
const TABLES: usize = 64;

/// How long the end of a transaction is waited for. The kernel announces all of one at once, and a reader
/// may be slow; a quota that is used up is announced outside of any.
const TRANSACTION: Duration = Duration::from_secs(1);

/// Subscribes, and makes a stream of what comes: each table once for every transaction at most, and
/// [`Changed::Host`] once the chains that drop forwarded packets may be read anew, where they may have
/// changed.
pub(crate) fn watch(netlink: Netlink) -> io::Result<impl Stream<Item = Changed> + Send + 'static> {
    let tables = Tables {
        announcements: Announcements::subscribe(netlink.namespace(), NETLINK_NETFILTER, &[GROUP])?,
        netlink,
        batch: Batch::default(),
        told_by: None,
        look_at: None,
        ready: VecDeque::new(),
    };
    Ok(unfold(tables, async |mut tables| {
        Some((tables.next().await, tables))
    }))
}

struct Tables {
    announcements: Announcements,
    netlink: Netlink,
    batch: Batch,
    /// When the batch is handed on though its transaction has not ended.
    told_by: Option<Instant>,
    /// When the chains may be read anew.
    look_at: Option<Instant>,
    /// Read and not yet handed on: one batch.
    ready: VecDeque<Changed>,
}

impl Tables {
    async fn next(&mut self) -> Changed {
        loop {
            if let Some(changed) = self.ready.pop_front() {
                return changed;
            }
            if let Err(error) = self.read().await {
                tracing::warn!(%error, "cannot read the packet filter's announcements; trying again");
                self.batch.lose();
                tokio::time::sleep(PAUSE).await;
            }
            self.hand_on(Instant::now());
            if self.ready.is_empty() {
                // In a long transaction there is always more to be read.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits for announcements, or until there is something to be handed on without.
    async fn read(&mut self) -> io::Result<()> {
        let batch = &mut self.batch;
        let read = self.announcements.read(|datagram| batch.read(datagram));
        let lost = match self.told_by.into_iter().chain(self.look_at).min() {
            Some(at) => timeout_at(at, read).await.unwrap_or(Ok(false)),
            None => read.await,
        };
        if lost? {
            self.batch.lose();
        }
        Ok(())
    }

    fn hand_on(&mut self, now: Instant) {
        if self.batch.is_empty() {
            self.told_by = None;
        } else if self.batch.ended || self.told_by.is_some_and(|at| now >= at) {
            self.told_by = None;
            let batch = std::mem::take(&mut self.batch);
            let concerned = self
                .netlink
                .filters()
                .changed(&batch.tables, batch.any || batch.forward);
            self.look_at = self.look_at.into_iter().chain(concerned).min();
            self.ready.extend(batch.told());
        } else if self.told_by.is_none() {
            self.told_by = Some(now + TRANSACTION);
        }
        if self.look_at.is_some_and(|at| now >= at) {
            self.look_at = None;
            self.ready.push_back(Changed::Host);
        }
    }
}

/// The tables that changed since the last were handed on. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    tables: BTreeSet<String>,
    /// Any may have.
    any: bool,
    /// Some may have got a chain that forwarded packets pass.
    forward: bool,
    /// Whether the last transaction has ended.
    ended: bool,
}

impl Batch {
    fn read(&mut self, datagram: &[u8]) {
        for message in messages(datagram) {
            let read = message.and_then(|message| self.read_one(&message));
            if let Err(error) = read {
                tracing::debug!(%error, "an announcement of the packet filter that makes no sense");
                self.lose();
            }
        }
    }

    fn read_one(&mut self, message: &Message<'_>) -> Result<(), DecodeError> {
        if message.kind & 0xff00 != SUBSYSTEM {
            return Ok(());
        }
        if message.kind == NEW_GENERATION {
            self.ended = true;
            return Ok(());
        }
        self.ended = false;
        let (family, attributes) = nf_tables::split(message.payload)?;
        let table = text(attributes, TABLE)?.and_then(|name| nf_tables::table(family, &name));
        match table {
            Some(_) if self.any => {}
            Some(table) => drop(self.tables.insert(table)),
            None => self.lose(),
        }
        if self.tables.len() > TABLES {
            self.lose();
        }
        self.forward |= message.kind == NEW_CHAIN && nf_tables::is_forward(attributes)?;
        Ok(())
    }

    /// Nobody knows which.
    fn lose(&mut self) {
        self.any = true;
        self.ended = true;
        self.tables.clear();
    }

    fn is_empty(&self) -> bool {
        !self.any && self.tables.is_empty()
    }

    fn told(self) -> impl Iterator<Item = Changed> {
        let any = self.any.then_some(None);
        any.into_iter()
            .chain(self.tables.into_iter().map(Some))
            .map(Changed::Table)
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
