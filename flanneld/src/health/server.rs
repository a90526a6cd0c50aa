//! Takes connections, and lets none of them last.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::Health;

/// Connections at one time; for one more the oldest is cut off.
pub(super) const CONNECTIONS: usize = 32;

/// The request must be there so soon.
const HEADER_DEADLINE: Duration = Duration::from_secs(2);

/// The whole exchange must be over so soon.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(5);

/// What a request may have.
const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 << 10;

/// After an error, such as too many open files, so long nobody is let in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log says so.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// Serves what `accept` lets in, for ever.
pub(super) async fn serve<S>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    health: Arc<Health>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connections = Connections::default();
    let mut told: Option<Instant> = None;
    loop {
        match poll_fn(&mut accept).await {
            Ok(stream) => connections.add(talk(stream, health.clone())),
            // The client was faster.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
                    told = Some(Instant::now());
                    warn!(%error, "cannot accept a connection to the health endpoints; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request, one answer. What goes wrong is the client's to see.
async fn talk<S>(stream: S, health: Arc<Health>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let health = health.clone();
        async move { Ok::<_, Infallible>(health.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = timeout(CONNECTION_DEADLINE, connection).await;
}

/// Dropped, it ends them all.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    order: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|task| !task.is_finished());
        // Who has come to nothing by now stands in the way of one that may be served in a moment.
        if self.order.len() >= CONNECTIONS
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.tasks.spawn(connection));
    }
}
