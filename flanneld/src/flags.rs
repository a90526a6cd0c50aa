//! The command line: flannel's flags and `FLANNELD_*` variables in, domain values out.
//!
//! **Pure**: arguments and environment come in as parameters, and a refusal is a value that says how the
//! process should end. The grammar is that of Go's `flag` package, which flannel uses; where Go shrugs
//! (arguments left over, bad values in the environment) this refuses.

mod command_line;
mod missing;
#[cfg(test)]
mod store_tests;
mod table;
#[cfg(test)]
mod tests;
mod usage;
mod value;
mod verb;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flannel_core::SubnetKey;
use regex::Regex;

use crate::logging::LogOptions;
use command_line::Given;
use verb::Verb;

/// What the daemon was told to do.
#[derive(Debug, Clone)]
pub struct Flags {
    /// Where the network's config and leases are.
    pub store: StoreFlags,
    /// `--state-dir`: holds what must outlive a restart.
    pub state_dir: PathBuf,
    /// `--subnet-file`: the `subnet.env` that other programs read.
    pub subnet_file: PathBuf,
    /// `--subnet`: take this subnet or none.
    pub pinned_subnet: Option<SubnetKey>,
    /// `--route-protocol`: the protocol number that marks our routes, 5 to 255 (`RTPROT_*` in
    /// `linux/rtnetlink.h`).
    pub route_protocol: u8,
    /// `--subnet-lease-renew-margin`: renew the lease when no more than this is left of it; 1 to 1439 minutes.
    pub renew_margin: Duration,
    /// Which rules pods have in the packet filter.
    pub rules: RuleFlags,
    /// `--ip-blackhole-route`.
    pub blackhole: bool,
    /// How the uplink is found, and the addresses under which other hosts reach it.
    pub uplink: UplinkFlags,
    /// `--healthz-ip` and `--healthz-port`: where the health endpoints listen, if at all.
    pub health: Option<SocketAddr>,
}

/// Rules in the packet filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFlags {
    /// `--ip-masq`.
    pub masquerade: bool,
    /// Unless `--ip-masq-fully-random-disable`.
    pub random_fully: bool,
    /// `--iptables-forward-rules`.
    pub forward: bool,
    /// `--iptables-resync`: rules are looked at so often though nobody says that they have changed;
    /// 1 to 86400 seconds.
    pub resync: Duration,
}

/// How the interface towards the other hosts is chosen, tried in the order of the fields; with none of the
/// first three given it follows from the public address or the default route.
#[derive(Debug, Clone)]
pub struct UplinkFlags {
    /// `--iface`, repeatable: a name or an address, in order; never empty strings.
    pub iface: Vec<String>,
    /// `--iface-regex`, repeatable: matched unanchored against addresses, then names.
    pub iface_regex: Vec<Regex>,
    /// `--iface-can-reach`: the interface that the kernel routes this address through.
    pub can_reach: Option<IpAddr>,
    /// `--public-ip`: the IPv4 address to publish instead of the interface's.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`: the IPv6 address to publish instead of the interface's.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFlags {
    /// `--store=file:///DIRECTORY`: one file per lease; an absolute path without `.`, `..` or doubled slashes.
    File(PathBuf),
    /// Unless `--store` says otherwise.
    Etcd(EtcdFlags),
}

impl StoreFlags {
    /// For a look at the store that leaves it as it is.
    #[must_use]
    pub fn without_import(mut self) -> Self {
        if let Self::Etcd(etcd) = &mut self {
            etcd.v2_import = false;
        }
        self
    }
}

/// The `--etcd-…` flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFlags {
    /// `--etcd-endpoints`, as it was written.
    pub endpoints: String,
    /// `--etcd-prefix`, as it was written.
    pub prefix: String,
    /// `--etcd-cafile`.
    pub ca_file: Option<PathBuf>,
    /// `--etcd-certfile`.
    pub cert_file: Option<PathBuf>,
    /// `--etcd-keyfile`.
    pub key_file: Option<PathBuf>,
    /// `--etcd-username`.
    pub username: Option<String>,
    /// `--etcd-password`.
    pub password: Option<Secret>,
    /// `--etcd-v2-import` is `auto`.
    pub v2_import: bool,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the process is asked to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Be the node agent, until a signal ends it.
    Run(Box<Flags>),
    /// `flanneld config …`, with the store and the uplink that the daemon has.
    Config(ConfigVerb, Box<Flags>),
    /// `flanneld cleanup`, with the flags that the daemon had.
    Cleanup {
        /// Those.
        flags: Box<Flags>,
        /// `--dry-run`: only say what there is to remove.
        dry_run: bool,
    },
    /// `flanneld status`.
    Status {
        /// Below it the daemons have their state.
        state_dir: PathBuf,
    },
}

/// What to do with the network's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigVerb {
    /// Print the one in the store.
    Get,
    /// Put this one there, if it is valid.
    Set(ConfigSource),
    /// Say what it means; without a source, the one in the store.
    Check(Option<ConfigSource>),
}

/// Where a config is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// `-`.
    Stdin,
    /// The word itself.
    Text(String),
}

/// A command line that was understood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What is asked for.
    pub command: Command,
    /// `-v` and `--log-format`.
    pub log: LogOptions,
    /// What its author should know, to be logged once.
    pub notes: Vec<Note>,
}

/// Something accepted that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The flag was given, and means nothing here.
    Ignored {
        /// The flag's name, without dashes.
        flag: &'static str,
    },
}

/// Why the process ends before it began. Displays as what to print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `--help`: the usage text, for standard output.
    #[error("{0}")]
    Help(String),
    /// `--version`: the version, for standard output.
    #[error("{0}")]
    Version(String),
    /// Not understood: an unknown flag, an unparsable value, an argument left over. One line.
    #[error("{0}")]
    Misuse(String),
    /// Understood, and cannot be: out of range, or its feature is not there yet. One line.
    #[error("{0}")]
    Unacceptable(String),
}

impl Parsed {
    /// Reads the arguments (without the program's own name), then the variables of the flags that were not
    /// given (`FLANNELD_IFACE` for `--iface`; an empty one counts as unset).
    pub fn new(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Refusal> {
        let mut args = args.into_iter().peekable();
        let verb = args.next_if(|first| Verb::is_one(first));
        let (given, words) = Given::read(args, env, verb.is_some())?;
        let flags = || {
            missing::refuse_what_is_not_there(&given)?;
            value::flags(&given).map(Box::new)
        };
        let dry_run = value::dry_run(&given)?;
        if dry_run && !matches!(verb.as_deref(), Some(verb) if verb == verb::CLEANUP) {
            return Err(Refusal::Misuse(format!(
                "--{} is for flanneld {}",
                table::DRY_RUN,
                verb::CLEANUP
            )));
        }
        let mut notes = Vec::new();
        let command = match verb.map(|verb| Verb::new(&verb, words)).transpose()? {
            None => {
                notes = missing::notes(&given);
                Command::Run(flags()?)
            }
            Some(Verb::Config(verb)) => Command::Config(verb, flags()?),
            Some(Verb::Cleanup) => Command::Cleanup {
                flags: flags()?,
                dry_run,
            },
            Some(Verb::Status) => Command::Status {
                state_dir: value::state_dir(&given)?,
            },
        };
        Ok(Self {
            command,
            log: value::log(&given)?,
            notes,
        })
    }
}

impl Note {
    /// Writes the note to the log.
    pub fn log(&self) {
        match self {
            Self::Ignored { flag } => {
                tracing::warn!(
                    flag = format!("--{flag}"),
                    "flag has no effect, use -v or the variable RUST_LOG"
                );
            }
        }
    }
}

impl Refusal {
    /// 0 for what was asked for, 1 for what cannot be, 2 for misuse. (flannel exits 0 on misuse, so that a
    /// supervisor takes it for success.)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) | Self::Version(_) => 0,
            Self::Unacceptable(_) => 1,
            Self::Misuse(_) => 2,
        }
    }

    /// Whether it is an answer rather than a complaint.
    pub fn to_stdout(&self) -> bool {
        matches!(self, Self::Help(_) | Self::Version(_))
    }
}
