//! The stream of events: list, watch from there, and begin again on another server when it ends.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::{Gap, StoreEvent};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use crate::Shared;
use crate::failure::{Failure, Kind};
use crate::follower::{ConfigText, Follower, Next, Which};
use crate::outage::Outage;
use crate::reading::{Watching, list};
use crate::servers::{REQUEST_DEADLINE, Server};
use crate::v2::{self, V2};

/// A listing may be out of date before the watch begins, if the history is compacted in between.
const LISTINGS_IN_A_ROW: usize = 3;

/// After this time a server has begun to tell what was missed, or that it does not know any more.
const CAUGHT_UP_WITHIN: Duration = Duration::from_millis(300);

/// Config, snapshot, and whatever changes. It does something only while it is polled; what happens in
/// between waits with the server.
pub(crate) fn events(shared: Arc<Shared>) -> BoxStream<'static, StoreEvent> {
    let watch = Watch {
        follower: Follower::new(shared.keys.clone(), shared.ttl),
        v2: V2::new(shared.v2_import),
        outage: Outage::new(shared.servers.len()),
        shared,
        ready: VecDeque::new(),
        watching: None,
        silent: false,
        silence_ends: None,
    };
    unfold(watch, |mut watch| async move {
        loop {
            if let Some(event) = watch.ready.pop_front() {
                watch.silent = matches!(event, StoreEvent::Silent { .. });
                return Some((event, watch));
            }
            watch.advance().await;
        }
    })
    .boxed()
}

struct Watch {
    shared: Arc<Shared>,
    follower: Follower,
    v2: V2,
    outage: Outage,
    /// What is to be said next: no more than what one answer led to.
    ready: VecDeque<StoreEvent>,
    watching: Option<Watching>,
    /// Whether silence is what was said last.
    silent: bool,
    /// When it is to be said that a silence is over, if nothing else is said before.
    silence_ends: Option<Instant>,
}

impl Watch {
    async fn advance(&mut self) {
        let Some(mut watching) = self.watching.take() else {
            sleep(self.outage.pause()).await;
            return self.reconnect().await;
        };
        let look_at = self.v2.due().filter(|_| self.follower.may_import());
        tokio::select! {
            message = watching.next() => match message {
                Ok(message) => {
                    self.outage.heard();
                    let next = self.follower.take(message);
                    self.go_on(watching, next).await;
                }
                Err(failure) => self.lose(&watching.server, failure),
            },
            () = at(self.silence_ends) => {
                self.silence_ends = None;
                self.ready.push_back(self.follower.snapshot(Gap::Missed));
                self.watching = Some(watching);
            }
            () = at(look_at) => {
                self.config_is_missing(&watching.server).await;
                self.watching = Some(watching);
            }
        }
    }

    async fn go_on(&mut self, watching: Watching, next: Next) {
        match next {
            Next::Say(events) => self.ready.extend(events),
            Next::ConfigGone => self.config_is_missing(&watching.server).await,
            Next::List => return self.silence_ends = None,
            Next::Over(reason) => return self.lose(&watching.server, Failure::canceled(&reason)),
        }
        if !self.ready.is_empty() {
            self.silence_ends = None;
        }
        self.watching = Some(watching);
    }

    /// The watch ended. Whether that is worth mentioning the next attempts show.
    fn lose(&mut self, server: &Server, failure: Failure) {
        debug!(server = %server.endpoint, error = %failure, "the watch ended");
        self.shared.servers.give_up(server, &failure);
        self.outage.lost(&server.endpoint, failure);
    }

    async fn reconnect(&mut self) {
        let attempt = match self.shared.servers.connect().await {
            Err(failed) => Err(failed),
            Ok(server) => match self.attach(&server).await {
                Ok(watching) => Ok(watching),
                Err(failure) => {
                    self.shared.servers.give_up(&server, &failure);
                    Err((server.endpoint, failure))
                }
            },
        };
        match attempt {
            Ok(watching) => {
                // Where nothing was missed, nobody would know that the silence is over.
                self.outage.over();
                let silent = self.silent && self.ready.is_empty();
                self.silence_ends = silent.then(|| Instant::now() + CAUGHT_UP_WITHIN);
                self.watching = Some(watching);
            }
            Err((endpoint, failure)) => {
                debug!(server = %endpoint, error = %failure, "the watch cannot begin yet");
                self.ready.extend(self.outage.failed(&endpoint, failure));
            }
        }
    }

    /// Lists, if need be, and begins the watch.
    async fn attach(&mut self, server: &Server) -> Result<Watching, Failure> {
        for _ in 0..LISTINGS_IN_A_ROW {
            if self.follower.must_list() {
                self.list(server).await?;
            }
            let from = [
                self.follower.next(Which::Config),
                self.follower.next(Which::Leases),
            ];
            let mut watching = Watching::begin(server.clone(), self.follower.keys(), from).await?;
            while !watching.has_begun() {
                let message = match timeout(REQUEST_DEADLINE, watching.next()).await {
                    Ok(message) => message?,
                    Err(_) => return Err(Failure::late(REQUEST_DEADLINE)),
                };
                match self.follower.take(message) {
                    Next::Say(events) => self.ready.extend(events),
                    Next::ConfigGone => self.config_is_missing(server).await,
                    Next::List => break,
                    Next::Over(reason) => return Err(Failure::canceled(&reason)),
                }
            }
            if !self.follower.must_list() {
                return Ok(watching);
            }
        }
        Err(Failure::new(
            Kind::Unreachable,
            "the history is compacted faster than it can be read",
        ))
    }

    async fn list(&mut self, server: &Server) -> Result<(), Failure> {
        let (config, listing) = list(server, self.follower.keys()).await?;
        self.follower.note_use(&listing);
        match config {
            Some(entry) => self
                .ready
                .extend(self.follower.note_config(ConfigText::Text(entry.value))),
            None => self.config_is_missing(server).await,
        }
        let events = self.follower.list(&listing);
        if events.iter().any(|event| {
            matches!(
                event,
                StoreEvent::Snapshot {
                    gap: Gap::HistoryLost,
                    ..
                }
            )
        }) {
            warn!(server = %server.endpoint, "etcd has another history than before: it was restored or made anew");
        }
        self.ready.extend(events);
        Ok(())
    }

    /// Looks where else there may be a config, if that may be taken over, and says what was found.
    async fn config_is_missing(&mut self, server: &Server) {
        let config = if self.follower.may_import() {
            self.v2.find_config(server, self.follower.keys()).await
        } else {
            v2::gone(self.follower.keys())
        };
        self.ready.extend(self.follower.note_config(config));
    }
}

/// At that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
