//! The config that `etcdctl set` wrote, as manuals of older flannels have it: API v2, over HTTP.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use flannel_core::NetworkConfig;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::entry::entry_in;
use crate::follower::ConfigText;
use crate::http;
use crate::keys::Keys;
use crate::options::V2Import;
use crate::servers::Server;

/// API v2 is not asked more often than this.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Looks for a config in API v2, where v3 has none.
pub(crate) struct V2 {
    import: V2Import,
    /// What was found last, and when.
    last: Option<(Instant, Finding)>,
}

/// What API v2 has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// A config and no leases.
    Config(String),
    /// A config, and this many leases, of which this is one.
    InUse {
        leases: usize,
        first: String,
    },
    /// Something in the config's place that is none.
    BadConfig(String),
    Nothing,
    /// There is no API v2.
    Off,
    /// It cannot be told.
    Unknown(String),
}

/// An answer of API v2.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Value(String),
    Directory(Vec<String>),
    Absent,
    Off,
    Unknown(String),
}

impl V2 {
    pub(crate) const fn new(import: V2Import) -> Self {
        Self { import, last: None }
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.last.as_ref().map(|(at, _)| *at + ASK_EVERY)
    }

    /// What stands for the config that v3 lacks: where API v2 has one, it is copied.
    pub(crate) async fn find_config(&mut self, server: &Server, keys: &Keys) -> ConfigText {
        if self.import == V2Import::Off {
            return missing(keys, "");
        }
        if self.due().is_none_or(|due| Instant::now() >= due) {
            let finding = look(server, keys).await;
            debug!(server = %server.endpoint, ?finding, "asked API v2 for a config");
            self.last = Some((Instant::now(), finding));
        }
        let place = format!("{} in etcd's API v2", keys.config);
        match self.last.as_ref().map(|(_, finding)| finding) {
            Some(Finding::Config(text)) => match copy(server, keys, text).await {
                Ok(config) => config,
                Err(reason) => ConfigText::Elsewhere {
                    place,
                    reason: format!("it cannot be copied to API v3: {reason}"),
                },
            },
            Some(Finding::InUse { leases, first }) => ConfigText::Elsewhere {
                place,
                reason: format!(
                    "{leases} leases stand beside it in {}, such as {first}, of a flannel that uses API v2 and would \
                     not see ours; stop it everywhere and remove them with `ETCDCTL_API=2 etcdctl rm --recursive \
                     {}`, or put a config for a network of its own with `flanneld config set`",
                    keys.leases,
                    keys.leases.trim_end_matches('/')
                ),
            },
            Some(Finding::BadConfig(reason)) => ConfigText::Elsewhere {
                place,
                reason: format!("{reason}; put another with `flanneld config set`"),
            },
            Some(Finding::Off) => missing(
                keys,
                "; API v2, where `etcdctl set` writes, is off on this server",
            ),
            Some(Finding::Nothing) => missing(keys, "; API v2, where `etcdctl set` writes, has none either"),
            Some(Finding::Unknown(why)) => missing(
                keys,
                &format!("; API v2, where `etcdctl set` writes, cannot be asked: {why}"),
            ),
            None => missing(keys, ""),
        }
    }
}

/// What stands for the config of a network that is in use and has lost it.
pub(crate) fn gone(keys: &Keys) -> ConfigText {
    missing(
        keys,
        "; leases stand there, or there was another config, so that none is taken over from API v2",
    )
}

fn missing(keys: &Keys, elsewhere: &str) -> ConfigText {
    ConfigText::Missing(format!(
        "{} in etcd's API v3 (`flanneld config set` and `ETCDCTL_API=3 etcdctl put` write there{elsewhere})",
        keys.config
    ))
}

/// Puts the config into v3, unless there is one by now; then that counts.
async fn copy(server: &Server, keys: &Keys, text: &str) -> Result<ConfigText, String> {
    let key = keys.config.as_str();
    let put = Txn::new()
        .when([Compare::create_revision(key, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, text, None), TxnOp::get(key, None)])
        .or_else([TxnOp::get(key, None)]);
    let answer = server
        .ask(|client| async move { client.kv_client().txn(put).await })
        .await;
    let answer = answer.map_err(|failure| failure.to_string())?;
    if answer.succeeded() {
        info!(
            key,
            "copied the network config that stands in etcd's API v2 to API v3"
        );
    }
    let stands = entry_in(&answer).map(|entry| entry.value);
    Ok(stands.map_or_else(|| missing(keys, ""), ConfigText::Text))
}

async fn look(server: &Server, keys: &Keys) -> Finding {
    let config = match ask(server, &keys.config).await {
        Answer::Value(config) => config,
        Answer::Absent => return Finding::Nothing,
        Answer::Off => return Finding::Off,
        Answer::Directory(_) => return Finding::BadConfig("it is a directory".to_owned()),
        Answer::Unknown(why) => return Finding::Unknown(why),
    };
    let leases = ask(server, keys.leases.trim_end_matches('/')).await;
    judge(config, leases)
}

/// What follows from a config and the answer about leases.
fn judge(config: String, leases: Answer) -> Finding {
    match leases {
        Answer::Directory(leases) => {
            if let Some(first) = leases.iter().min() {
                return Finding::InUse {
                    leases: leases.len(),
                    first: first.rsplit('/').next().unwrap_or_default().to_owned(),
                };
            }
        }
        Answer::Absent => {}
        Answer::Value(_) => return Finding::BadConfig("its subnets are no directory".to_owned()),
        Answer::Off => return Finding::Off,
        Answer::Unknown(why) => return Finding::Unknown(why),
    }
    match NetworkConfig::from_json(&config) {
        Ok(_) => Finding::Config(config),
        Err(error) => Finding::BadConfig(error.to_string()),
    }
}

/// What API v2 says of a key.
async fn ask(server: &Server, key: &str) -> Answer {
    let path = format!("/v2/keys/{}?quorum=true", key.trim_start_matches('/'));
    match http::get(&server.endpoint, server.tls.as_deref(), &path).await {
        Ok((status, body)) => read(status, &body),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

/// The members of an answer that count.
#[derive(Deserialize)]
struct Body {
    node: Option<Node>,
    #[serde(rename = "errorCode")]
    error: Option<u32>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    key: String,
    value: Option<String>,
    #[serde(default)]
    nodes: Vec<Node>,
}

/// "Key not found" in API v2.
const KEY_NOT_FOUND: u32 = 100;

fn read(status: StatusCode, body: &[u8]) -> Answer {
    let json: Option<Body> = serde_json::from_slice(body).ok();
    match (status, json) {
        (StatusCode::OK, Some(Body { node: Some(node), .. })) => match node.value {
            Some(value) => Answer::Value(value),
            None => Answer::Directory(node.nodes.into_iter().map(|node| node.key).collect()),
        },
        (
            StatusCode::NOT_FOUND,
            Some(Body {
                error: Some(KEY_NOT_FOUND),
                ..
            }),
        ) => Answer::Absent,
        // A server without API v2 knows the path as little as any other.
        (StatusCode::NOT_FOUND, _) => Answer::Off,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Answer::Unknown("it wants a user of its own".to_owned())
        }
        (status, _) => Answer::Unknown(format!("it answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

    fn directory(keys: &[&str]) -> Answer {
        Answer::Directory(keys.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn answers_of_api_v2_are_read() {
        for (status, body, answer) in [
            (
                StatusCode::OK,
                r#"{"action":"get","node":{"key":"/net/config","value":"{}","modifiedIndex":4,"createdIndex":4}}"#,
                Answer::Value("{}".to_owned()),
            ),
            (
                StatusCode::OK,
                r#"{"action":"get","node":{"key":"/net/subnets","dir":true,"nodes":[{"key":"/net/subnets/10.5.1.0-24","value":"x","ttl":5}]}}"#,
                directory(&["/net/subnets/10.5.1.0-24"]),
            ),
            (
                StatusCode::OK,
                r#"{"node":{"key":"/net/subnets","dir":true}}"#,
                directory(&[]),
            ),
            (
                StatusCode::NOT_FOUND,
                r#"{"errorCode":100,"message":"Key not found","cause":"/net","index":3}"#,
                Answer::Absent,
            ),
            (StatusCode::NOT_FOUND, "404 page not found\n", Answer::Off),
            (
                StatusCode::UNAUTHORIZED,
                r#"{"message":"Insufficient credentials"}"#,
                Answer::Unknown("it wants a user of its own".to_owned()),
            ),
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "",
                Answer::Unknown("it answers 500 Internal Server Error".to_owned()),
            ),
            (
                StatusCode::OK,
                "[]",
                Answer::Unknown("it answers 200 OK".to_owned()),
            ),
        ] {
            assert_eq!(read(status, body.as_bytes()), answer, "{body}");
        }
    }

    #[test]
    fn a_config_is_taken_over_only_where_nobody_uses_it_and_it_is_one() {
        let config = || CONFIG.to_owned();
        for nobody in [Answer::Absent, directory(&[])] {
            assert_eq!(judge(config(), nobody), Finding::Config(config()));
        }
        let leases = directory(&["/net/subnets/10.5.2.0-24", "/net/subnets/10.5.1.0-24"]);
        let in_use = Finding::InUse {
            leases: 2,
            first: "10.5.1.0-24".to_owned(),
        };
        assert_eq!(judge(config(), leases.clone()), in_use);
        assert_eq!(judge("garbage".to_owned(), leases), in_use);
        assert!(matches!(
            judge("garbage".to_owned(), Answer::Absent),
            Finding::BadConfig(_)
        ));
        let unknown = Answer::Unknown("late".to_owned());
        assert_eq!(judge(config(), unknown), Finding::Unknown("late".to_owned()));
    }
}
