//! Which answer to which request.

use std::fmt::Display;

use bytes::Bytes;
use flannel_core::Readiness;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::clock::Clock;
use super::{Health, metrics, report};
use crate::status_report::ReasonReport;

/// What flannel says, whatever the method.
const ALIVE: &str = "flanneld is running";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What `/readyz` says when there is more to say than `ready`.
#[derive(Serialize)]
struct Readyz<'a> {
    state: &'a str,
    reasons: &'a [ReasonReport],
}

impl Health {
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" => self.healthz().await,
            "/readyz" | "/metrics" | "/status" if !reads => {
                let mut response = text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "only GET and HEAD are answered here",
                );
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            "/status" => self.status_json().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /metrics and /status",
            ),
        }
    }

    async fn healthz(&self) -> Response<Full<Bytes>> {
        if self.is_alive().await {
            text(StatusCode::OK, ALIVE)
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the event loop of flanneld does not turn",
            )
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let readiness = report::readiness(status.as_deref());
        let code = match readiness {
            Readiness::Ready => return text(StatusCode::OK, readiness.name()),
            Readiness::Degraded => StatusCode::OK,
            Readiness::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        };
        let reasons = report::reasons(status.as_deref(), Clock::now());
        let readyz = Readyz {
            state: readiness.name(),
            reasons: &reasons,
        };
        json(code, &readyz)
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let dropped = self.log.as_ref().map_or(0, |log| log.dropped());
        let status = self.status().unwrap_or_default();
        match metrics::encode(status, dropped, Clock::now()) {
            Ok(metrics) => response(
                StatusCode::OK,
                HeaderValue::from_static(metrics::CONTENT_TYPE),
                metrics,
            ),
            Err(error) => failed(error),
        }
    }

    async fn status_json(&self) -> Response<Full<Bytes>> {
        let peers = self.peers().await;
        let report = self.report(self.status().as_deref(), &peers, Clock::now());
        json(StatusCode::OK, &report)
    }
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(json) => response(code, JSON, json),
        Err(error) => failed(error),
    }
}

fn text(code: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(code, TEXT, text)
}

fn failed(error: impl Display) -> Response<Full<Bytes>> {
    let what = format!("cannot say: {error}");
    response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, what)
}

fn response(code: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
