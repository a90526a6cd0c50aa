//! `/healthz`, `/readyz`, `/metrics` and `/status`.
//!
//! **Whoever asks can neither stop nor slow the daemon**: connections are few, short and cut off when they stall, one
//! question at a time reaches the engine, and nothing here decides anything: it says what the engine says.

mod answer;
mod clock;
mod metrics;
mod report;
mod server;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use flannel_core::{EngineHandle, PeerList, Status};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use crate::logging::LogHandle;

/// The engine answers within this, or does not make progress.
const ENGINE_DEADLINE: Duration = Duration::from_secs(1);

/// Peers that `/status` lists; of more there is the count.
pub const LISTED_PEERS: usize = 1000;

/// What this daemon is asked about from outside.
#[derive(Debug)]
pub struct Health {
    store: StorePlace,
    log: Option<LogHandle>,
    started: SystemTime,
    engine: OnceLock<EngineHandle>,
}

/// Where the leases are, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// `etcd` or `file`.
    pub kind: String,
    /// Endpoints and prefix, or the directory. What stands before an `@` in an URL is not shown.
    pub place: String,
}

impl Health {
    /// For a daemon that starts now and has no engine yet: it is alive, and not ready. `log` is asked for the lines
    /// that it lost.
    #[must_use]
    pub fn new(store: StorePlace, log: Option<LogHandle>) -> Self {
        Self {
            store,
            log,
            started: SystemTime::now(),
            engine: OnceLock::new(),
        }
    }

    /// From now on this engine is what is told about. There is one for each daemon: a second is left aside.
    pub fn watch(&self, engine: EngineHandle) {
        let _ = self.engine.set(engine);
    }

    fn status(&self) -> Option<Arc<Status>> {
        self.engine.get().map(EngineHandle::status)
    }

    /// Whether the event loop turns; before there is one and after its end, this very answer shows it.
    async fn is_alive(&self) -> bool {
        match self.engine.get() {
            Some(engine) => timeout(ENGINE_DEADLINE, engine.is_alive()).await.is_ok(),
            None => true,
        }
    }

    async fn peers(&self) -> PeerList {
        let Some(engine) = self.engine.get() else {
            return PeerList::default();
        };
        let peers = timeout(ENGINE_DEADLINE, engine.peers(LISTED_PEERS)).await;
        peers.ok().flatten().unwrap_or_default()
    }
}

/// Answers whoever connects, for ever.
pub async fn serve_tcp(listener: TcpListener, health: Arc<Health>) {
    server::serve(
        |context| listener.poll_accept(context).map_ok(|(stream, _)| stream),
        health,
    )
    .await;
}

/// Likewise on a socket in the file system, for `flanneld status`.
pub async fn serve_unix(listener: UnixListener, health: Arc<Health>) {
    server::serve(
        |context| listener.poll_accept(context).map_ok(|(stream, _)| stream),
        health,
    )
    .await;
}
