//! The verbs: what else than to run the program can be asked.

use std::ffi::OsStr;

use super::{ConfigSource, ConfigVerb, Refusal};

pub(super) const CLEANUP: &str = "cleanup";
const CONFIG: &str = "config";
const STATUS: &str = "status";

/// How the verbs are written, for the help and for remedies.
pub(super) const USAGE: &[(&str, &str)] = &[
    ("flanneld [OPTION]...", "be the node agent"),
    (
        "flanneld status [OPTION]...",
        "say how the daemons of this host are doing",
    ),
    ("flanneld config get [OPTION]...", "print the network's config"),
    (
        "flanneld config set JSON|- [OPTION]...",
        "check a config and put it into the store; - reads standard input",
    ),
    (
        "flanneld config check [JSON|-] [OPTION]...",
        "say what a config means; without one, that in the store",
    ),
    (
        "flanneld cleanup [--dry-run] [OPTION]...",
        "remove what a stopped daemon has left on this host",
    ),
];

/// One of them.
#[derive(Debug)]
pub(super) enum Verb {
    Cleanup,
    Config(ConfigVerb),
    Status,
}

impl Verb {
    pub(super) fn is_one(word: &OsStr) -> bool {
        word == CLEANUP || word == CONFIG || word == STATUS
    }

    /// The words that stand among the flags after the verb decide the rest.
    pub(super) fn new(verb: &OsStr, words: Vec<String>) -> Result<Self, Refusal> {
        let misuse = |problem: &str| {
            let lines = USAGE.iter().map(|(line, _)| *line);
            let of_verb: Vec<&str> = lines
                .filter(|line| line.contains(&*verb.to_string_lossy()))
                .collect();
            Refusal::Misuse(format!("{problem}: write {}", of_verb.join(", or ")))
        };
        let mut words = words.into_iter();
        let command = if verb == STATUS {
            Self::Status
        } else if verb == CLEANUP {
            Self::Cleanup
        } else {
            Self::Config(match (words.next().as_deref(), words.next()) {
                (Some("get"), None) => ConfigVerb::Get,
                (Some("set"), Some(source)) => ConfigVerb::Set(source.into()),
                (Some("check"), source) => ConfigVerb::Check(source.map(Into::into)),
                (Some("get"), Some(word)) => return Err(misuse(&format!("unexpected argument {word:?}"))),
                (Some("set"), None) => return Err(misuse("no config given")),
                (Some(word), _) => return Err(misuse(&format!("unknown verb {word:?} of config"))),
                (None, _) => return Err(misuse("config needs a verb")),
            })
        };
        match words.next() {
            Some(word) => Err(misuse(&format!(
                "unexpected argument {word:?}, quote JSON as one word"
            ))),
            None => Ok(command),
        }
    }
}

impl From<String> for ConfigSource {
    fn from(word: String) -> Self {
        if word == "-" {
            Self::Stdin
        } else {
            Self::Text(word)
        }
    }
}
