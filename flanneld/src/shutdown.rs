//! The signals that end the daemon.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// The signals that end the daemon: INT, TERM and QUIT.
pub(crate) struct Shutdown {
    signals: [(Signal, &'static str); 3],
}

impl Shutdown {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            signals: [
                (signal(SignalKind::interrupt())?, "INT"),
                (signal(SignalKind::terminate())?, "TERM"),
                (signal(SignalKind::quit())?, "QUIT"),
            ],
        })
    }

    /// Completes at the first of them.
    pub(crate) fn requested(&mut self) -> impl Future<Output = ()> + Send + '_ {
        let [(interrupt, first), (terminate, second), (quit, third)] = &mut self.signals;
        async move {
            let name = tokio::select! {
                _ = interrupt.recv() => first,
                _ = terminate.recv() => second,
                _ = quit.recv() => third,
            };
            info!(signal = %name, "asked to end");
        }
    }
}
