//! Plain requests: what gRPC cannot ask, or hides.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::Error;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;
use crate::tls::Tls;
use crate::verdict::tls_error;

/// How long an answer may take, connection and all.
const DEADLINE: Duration = Duration::from_secs(2);

/// No answer is longer than this.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

type GetError = Box<dyn StdError + Send + Sync>;

/// Asks a server for a path.
pub(crate) async fn get(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    path: &str,
) -> Result<(StatusCode, Bytes), GetError> {
    let answer = async {
        let connection = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        match tls {
            Some(tls) if endpoint.tls => {
                let name = ServerName::try_from(endpoint.host.clone())?;
                let connector = TlsConnector::from(tls.config.clone());
                get_on(connector.connect(name, connection).await?, endpoint, path).await
            }
            _ => get_on(connection, endpoint, path).await,
        }
    };
    match timeout(DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {DEADLINE:?}").into()),
    }
}

/// Why a server ends a TLS connection before it answers anything. gRPC shows that as a connection
/// that is closed: with TLS 1.3 a client certificate is judged after the handshake.
pub(crate) async fn refusal(endpoint: &Endpoint, tls: &Tls) -> Option<Error> {
    let error = get(endpoint, Some(tls), "/version").await.err()?;
    tls_error(&*error).cloned()
}

async fn get_on(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    endpoint: &Endpoint,
    path: &str,
) -> Result<(StatusCode, Bytes), GetError> {
    let (mut requests, driver) = handshake(TokioIo::new(connection)).await?;
    let request = Request::get(path)
        .header(HOST, endpoint.authority())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = requests.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(driver, answer);
    tokio::select! {
        answer = &mut answer => answer,
        driven = &mut driver => {
            driven?;
            answer.await
        }
    }
}
