//! Asks a daemon on this host.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::StatusReport;

/// The name of the socket in a daemon's state directory.
pub const SOCKET: &str = "status.sock";

/// The whole exchange.
const DEADLINE: Duration = Duration::from_secs(5);

/// More than a thousand peers with long reasons need.
const LONGEST_ANSWER: usize = 8 << 20;

/// Why a daemon does not say how it is doing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody is there to be asked.
    #[error("no flanneld answers at {socket}: {source}; it was stopped, or has ended: its log says why", socket = socket.display())]
    NotRunning {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This process may not ask.
    #[error("not permitted to ask the flanneld at {socket}; run as root", socket = socket.display())]
    Denied {
        /// Where it was looked for.
        socket: PathBuf,
    },
    /// It is there, and does not answer.
    #[error(
        "the flanneld at {socket} does not answer within {} s; its log says more",
        DEADLINE.as_secs(),
        socket = socket.display()
    )]
    Silent {
        /// Where it was asked.
        socket: PathBuf,
    },
    /// It gave no answer that makes sense.
    #[error("no status from the flanneld at {socket}: {problem}", socket = socket.display())]
    Malformed {
        /// Where it was asked.
        socket: PathBuf,
        /// What was wrong.
        problem: String,
    },
}

impl FetchError {
    /// Whether trying again may help without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}

/// Asks the daemon whose socket this is.
///
/// # Errors
///
/// [`FetchError`].
pub async fn fetch(socket: &Path) -> Result<StatusReport, FetchError> {
    let asked = timeout(DEADLINE, ask(socket)).await;
    asked.unwrap_or_else(|_| {
        Err(FetchError::Silent {
            socket: socket.to_owned(),
        })
    })
}

async fn ask(socket: &Path) -> Result<StatusReport, FetchError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            FetchError::Denied { socket }
        } else {
            FetchError::NotRunning { socket, source }
        }
    })?;
    exchange(stream).await.map_err(|problem| FetchError::Malformed {
        socket: socket.to_owned(),
        problem: problem.to_string(),
    })
}

async fn exchange(stream: UnixStream) -> Result<StatusReport, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/status")
        .header(header::HOST, "flanneld")
        .body(Empty::<Bytes>::new())?;
    let talk = async {
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        Ok((code, body.collect().await?.to_bytes()))
    };
    let mut talk = std::pin::pin!(talk);
    let mut connection = std::pin::pin!(connection);
    // The connection moves the bytes; it may end before the last of them has been taken.
    let answer: Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> = tokio::select! {
        biased;
        answer = &mut talk => answer,
        _ = &mut connection => talk.await,
    };
    let (code, body) = answer?;
    if code != StatusCode::OK {
        return Err(format!("it answers {code}").into());
    }
    Ok(serde_json::from_slice(&body)?)
}
