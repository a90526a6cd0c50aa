//! Why a server did not do what it was asked, in words that lead to the remedy. Pure.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use flannel_core::StoreError;
use thiserror::Error;

use crate::endpoint::Endpoint;
use crate::tls::Tls;
use crate::verdict;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    text: String,
    /// Whether there was a connection, and it broke off without a word.
    pub(crate) is_abrupt: bool,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Another server, or the same one later, may do it. It may have been done.
    Unreachable,
    /// The servers are about to agree on a leader. It may have been done.
    Electing,
    /// The server's certificate, or ours, is not what the other side wants.
    Untrusted,
    /// We may not, whichever server we ask.
    Denied,
    /// The revisions that were asked for are gone.
    Compacted,
    /// There is no such etcd lease.
    NoSuchGrant,
    /// There is an etcd lease of this id already.
    GrantExists,
    /// The server knows no users.
    NoUsers,
    /// It will not be done as it was asked.
    Refused,
}

/// gRPC's codes, as numbers: the type that has their names is none of ours.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

impl Failure {
    /// What it means that the server ended a watch, for which it has words and no code.
    pub(crate) fn canceled(reason: &str) -> Self {
        // A token that has run out is not named: the next connection brings a new one.
        let denied = reason.contains("permission denied");
        Self::answered(
            if denied {
                code::PERMISSION_DENIED
            } else {
                code::UNAVAILABLE
            },
            reason,
        )
    }

    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            is_abrupt: false,
        }
    }

    /// Nothing was heard in time.
    pub(crate) fn late(limit: Duration) -> Self {
        Self::new(Kind::Unreachable, format!("no answer within {limit:?}"))
    }

    /// What `endpoint` answered, or why it did not.
    pub(crate) fn of(error: &etcd_client::Error, endpoint: &Endpoint, tls: Option<&Tls>) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                let source = StdError::source(status);
                if let Some(error) = source.and_then(verdict::tls_error) {
                    return Self::untrusted(error, endpoint, tls);
                }
                match source {
                    Some(source) => Self::unreachable(source, status.message()),
                    None => Self::answered(status.code() as i32, status.message()),
                }
            }
            etcd_client::Error::TransportError(error) => Self::unreachable(error, "no connection"),
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                Self::new(Kind::NoSuchGrant, text.clone())
            }
            etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::InvalidMetadataValue(_) => Self::new(Kind::Refused, error.to_string()),
            other => Self::new(Kind::Unreachable, other.to_string()),
        }
    }

    /// TLS says no.
    pub(crate) fn untrusted(error: &rustls::Error, endpoint: &Endpoint, tls: Option<&Tls>) -> Self {
        let shows_certificate = tls.is_some_and(|tls| tls.shows_certificate);
        Self::new(
            Kind::Untrusted,
            verdict::of_handshake(error, endpoint, shows_certificate),
        )
    }

    /// Something that was never seen to work may be set up wrongly.
    pub(crate) fn or_set_up_wrongly(self, endpoint: &Endpoint) -> Self {
        let other = if endpoint.tls {
            "if it is a server without TLS, write http:// in --etcd-endpoints"
        } else {
            "if it is a server with TLS, write https:// in --etcd-endpoints and give --etcd-cafile"
        };
        Self::new(self.kind, format!("{}; {other}", self.text))
    }

    /// What etcd's own status means.
    fn answered(code: i32, message: &str) -> Self {
        let text = message.strip_prefix("etcdserver: ").unwrap_or(message);
        let with = |remedy: &str| format!("{text}; {remedy}");
        let users = "check --etcd-username and --etcd-password";
        let (kind, text) = match code {
            code::OUT_OF_RANGE if text.contains("has been compacted") => (Kind::Compacted, text.to_owned()),
            code::NOT_FOUND if text.contains("lease not found") => (Kind::NoSuchGrant, text.to_owned()),
            code::FAILED_PRECONDITION if text.contains("lease already exists") => {
                (Kind::GrantExists, text.to_owned())
            }
            code::FAILED_PRECONDITION if text.contains("authentication is not enabled") => {
                (Kind::NoUsers, text.to_owned())
            }
            code::UNAVAILABLE if text.contains("leader") => (Kind::Electing, text.to_owned()),
            // The token is older than the last change of a user: a new one will do.
            code::INVALID_ARGUMENT if text.contains("auth store is old") => {
                (Kind::Unreachable, text.to_owned())
            }
            code::INVALID_ARGUMENT if text.contains("user name is empty") => (
                Kind::Denied,
                with("it wants a user; give --etcd-username and --etcd-password"),
            ),
            code::INVALID_ARGUMENT if text.contains("authentication failed") => (Kind::Denied, with(users)),
            code::UNAUTHENTICATED => (Kind::Denied, with(users)),
            code::PERMISSION_DENIED => (
                Kind::Denied,
                with(
                    "let the user read and write below the prefix, as `etcdctl role grant-permission ROLE readwrite \
                     PREFIX --prefix=true` does",
                ),
            ),
            code::RESOURCE_EXHAUSTED if text.contains("space exceeded") => (
                Kind::Unreachable,
                with("compact and defragment it, then `etcdctl alarm disarm`"),
            ),
            code::INVALID_ARGUMENT | code::NOT_FOUND | code::FAILED_PRECONDITION | code::OUT_OF_RANGE => {
                (Kind::Refused, text.to_owned())
            }
            _ => (Kind::Unreachable, text.to_owned()),
        };
        Self::new(kind, text)
    }

    /// There was no answer. What is said last in the chain is what happened.
    fn unreachable(error: &(dyn StdError + 'static), message: &str) -> Self {
        let mut last = error;
        while let Some(source) = last.source() {
            last = source;
        }
        let text = last.to_string();
        let text = if text.is_empty() { message.to_owned() } else { text };
        let is_abrupt = last.downcast_ref::<io::Error>().is_none_or(|error| {
            use io::ErrorKind as Io;
            matches!(
                error.kind(),
                // What TLS says comes through HTTP/2 as nothing but this.
                Io::InvalidData
                    | Io::UnexpectedEof
                    | Io::ConnectionReset
                    | Io::ConnectionAborted
                    | Io::BrokenPipe
            )
        });
        Self {
            is_abrupt,
            ..Self::new(Kind::Unreachable, text)
        }
    }

    /// Whether another server may do better.
    pub(crate) const fn is_of_one_server(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Electing | Kind::Untrusted)
    }

    /// Whether the connection, or the log-in on it, is not to be used again.
    pub(crate) const fn spoils_connection(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Untrusted | Kind::Denied)
    }

    /// Whether what was asked may have been done.
    pub(crate) const fn is_ambiguous(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Electing)
    }

    /// For whoever asked the store.
    pub(crate) fn during(self, doing: impl Into<String>) -> StoreError {
        let doing = doing.into();
        match self.kind {
            Kind::Denied => StoreError::Denied {
                doing,
                source: self.into(),
            },
            Kind::Untrusted => StoreError::Unusable {
                place: "etcd".to_owned(),
                problem: self.text,
            },
            _ => StoreError::Unavailable {
                doing,
                source: self.into(),
            },
        }
    }
}

/// What each of several servers said last, in the order in which they were first asked.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<(String, Failure)>);

impl Failures {
    /// Notes what a server said last.
    pub(crate) fn note(&mut self, endpoint: &Endpoint, failure: Failure) {
        match self.0.iter_mut().find(|(known, _)| *known == endpoint.url) {
            Some((_, said)) => *said = failure,
            None => self.0.push((endpoint.url.clone(), failure)),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them waits for a leader.
    pub(crate) fn are_of_an_election(&self) -> bool {
        self.0.iter().any(|(_, failure)| failure.kind == Kind::Electing)
    }

    /// Whether only somebody who does something can end it.
    pub(crate) fn are_for_people(&self) -> bool {
        let for_people = |failure: &Failure| matches!(failure.kind, Kind::Untrusted | Kind::Denied);
        !self.is_empty() && self.0.iter().all(|(_, failure)| for_people(failure))
    }

    /// All of it as one: servers that say the same are named together.
    pub(crate) fn summary(&self) -> Failure {
        let mut said: Vec<(Vec<&str>, &Failure)> = Vec::new();
        for (endpoint, failure) in &self.0 {
            match said.iter_mut().find(|(_, other)| *other == failure) {
                Some((endpoints, _)) => endpoints.push(endpoint),
                None => said.push((vec![endpoint], failure)),
            }
        }
        let all_untrusted =
            !said.is_empty() && said.iter().all(|(_, failure)| failure.kind == Kind::Untrusted);
        let texts: Vec<String> = said
            .iter()
            .map(|(endpoints, failure)| format!("{}: {failure}", endpoints.join(", ")))
            .collect();
        let kind = if all_untrusted {
            Kind::Untrusted
        } else {
            Kind::Unreachable
        };
        Failure::new(kind, texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::parse(&format!("http://10.0.0.1:{port}"), false).unwrap()
    }

    #[test]
    fn a_watch_that_is_not_permitted_is_told_from_one_that_will_do_again() {
        for (reason, kind) in [
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                Kind::Denied,
            ),
            ("etcdserver: invalid auth token", Kind::Unreachable),
            ("etcdserver: no leader", Kind::Electing),
            ("", Kind::Unreachable),
        ] {
            assert_eq!(Failure::canceled(reason).kind, kind, "{reason}");
        }
    }

    #[test]
    fn what_etcd_answers_is_told_apart() {
        for (code, message, kind) in [
            (
                11,
                "etcdserver: mvcc: required revision has been compacted",
                Kind::Compacted,
            ),
            (
                11,
                "etcdserver: mvcc: required revision is a future revision",
                Kind::Refused,
            ),
            (5, "etcdserver: requested lease not found", Kind::NoSuchGrant),
            (9, "etcdserver: lease already exists", Kind::GrantExists),
            (9, "etcdserver: authentication is not enabled", Kind::NoUsers),
            (3, "etcdserver: user name is empty", Kind::Denied),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                Kind::Denied,
            ),
            (3, "etcdserver: revision of auth store is old", Kind::Unreachable),
            (3, "etcdserver: duplicate key given in txn request", Kind::Refused),
            (16, "etcdserver: invalid auth token", Kind::Denied),
            (7, "etcdserver: permission denied", Kind::Denied),
            (8, "etcdserver: mvcc: database space exceeded", Kind::Unreachable),
            (14, "etcdserver: no leader", Kind::Electing),
            (14, "etcdserver: leader changed", Kind::Electing),
            (
                14,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Kind::Electing,
            ),
            (14, "etcdserver: request timed out", Kind::Unreachable),
            (
                2,
                "h2 protocol error: error reading a body from connection",
                Kind::Unreachable,
            ),
        ] {
            let failure = Failure::answered(code, message);
            assert_eq!(failure.kind, kind, "{message}");
            assert!(!failure.to_string().contains("etcdserver"), "{failure}");
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_what_to_do() {
        for (code, message, remedy) in [
            (3, "etcdserver: user name is empty", "--etcd-username"),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                "--etcd-password",
            ),
            (16, "etcdserver: invalid auth token", "--etcd-password"),
            (7, "etcdserver: permission denied", "grant-permission"),
            (8, "etcdserver: mvcc: database space exceeded", "alarm disarm"),
        ] {
            let text = Failure::answered(code, message).to_string();
            assert!(text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn a_failure_becomes_the_error_that_callers_act_on() {
        let error = |kind| Failure::new(kind, "so").during("claim it");
        assert!(error(Kind::Unreachable).is_transient());
        assert_eq!(error(Kind::Unreachable).to_string(), "cannot claim it: so");
        assert_eq!(error(Kind::Denied).to_string(), "not permitted to claim it: so");
        assert_eq!(error(Kind::Untrusted).to_string(), "etcd cannot be a store: so");
        assert!(!error(Kind::Untrusted).is_transient() && !error(Kind::Denied).is_transient());
    }

    #[test]
    fn servers_that_say_the_same_are_named_together_and_the_last_word_counts() {
        let mut failures = Failures::default();
        let say = |text| Failure::new(Kind::Unreachable, text);
        failures.note(&endpoint(1), say("refused"));
        failures.note(&endpoint(2), say("late"));
        failures.note(&endpoint(3), say("late"));
        failures.note(&endpoint(1), say("gone"));
        let summary = failures.summary();
        assert_eq!(
            summary.to_string(),
            "http://10.0.0.1:1: gone; http://10.0.0.1:2, http://10.0.0.1:3: late"
        );
        assert_eq!(summary.kind, Kind::Unreachable);
    }

    #[test]
    fn servers_are_not_to_be_trusted_as_a_whole_only_if_none_is() {
        let mut failures = Failures::default();
        failures.note(&endpoint(1), Failure::new(Kind::Untrusted, "version 1"));
        assert_eq!(failures.summary().kind, Kind::Untrusted);
        failures.note(&endpoint(2), Failure::late(Duration::from_secs(4)));
        assert_eq!(failures.summary().kind, Kind::Unreachable);
    }
}
