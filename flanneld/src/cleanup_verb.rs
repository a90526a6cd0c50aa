//! `flanneld cleanup`: takes away what a daemon that will not come back has left on this host.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf, absolute};

use flannel_core::{
    DeviceName, FirewallError, KernelError, Leftovers, Object, ObjectId, Op, OpErrorKind, Ownership, Plan,
    RouteProgrammer, Scope, State, StateDir, StateDirError, diff,
};
use flannel_netlink::Netlink;
use thiserror::Error;

use crate::daemon::{firewall, purpose};
use crate::flags::Flags;

/// Why nothing was removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// The daemon runs, or its state cannot be read.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// Nothing is known of it.
    #[error(
        "nothing is known of {purpose} in {states}, and nothing was removed; give the flags of the daemon that is \
         meant: known there are {others}",
        states = states.display()
    )]
    Unknown {
        /// Store and subnet file.
        purpose: String,
        /// Where the states of all daemons are.
        states: PathBuf,
        /// Those of which something is known.
        others: String,
    },
    /// The same, and there is something that looks like it.
    #[error(
        "nothing is known of {purpose} in {states}, and nothing was removed; but rules with flannel's names are there, \
         such as `{rule}`: if its state was lost, start the daemon once with its flags, stop it, and clean up then",
        states = states.display()
    )]
    Lost {
        /// Store and subnet file.
        purpose: String,
        /// Where the states of all daemons are.
        states: PathBuf,
        /// The first of them.
        rule: String,
    },
    /// The asynchronous runtime, or the current directory.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The routes cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The rules cannot be read.
    #[error("cannot read the rules of the packet filter: {0}")]
    Rules(#[from] FirewallError),
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// One line for each thing.
    pub text: String,
    /// What could not be removed, and why. The files that say where to look stay then.
    pub failures: Vec<String>,
}

/// Removes the rules, the devices, the routes and the files of the daemon that has these flags; with `dry_run` only
/// says which there are. The lease is left to end by itself: the store may be out of reach for good.
///
/// # Errors
///
/// [`CleanupError`]; nothing is removed then.
pub fn run(flags: &Flags, dry_run: bool) -> Result<Cleaned, CleanupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(clean(flags, dry_run))
}

async fn clean(flags: &Flags, dry_run: bool) -> Result<Cleaned, CleanupError> {
    let purpose = purpose(flags);
    let subnet_file = absolute(&flags.subnet_file)?;
    let Some(files) = Leftovers::find(&flags.state_dir, &purpose, &subnet_file)? else {
        return nothing_of(&purpose, flags).await;
    };
    let networks = files.networks();
    let suffix = files.names_suffix();
    let firewall = suffix.map(|suffix| firewall(&flags.rules, suffix.as_deref(), &files.tables_file()));
    let rules = match &firewall {
        Some(firewall) => firewall.leftovers(&networks).await,
        None => Ok(Vec::new()),
    };
    let netlink = Netlink::open()?;
    let scope = Scope {
        networks: networks.clone(),
        devices: files.devices(),
        underlay: false,
    };
    let objects = objects(&netlink, flags.route_protocol, scope).await?;
    let paths = files.paths();
    let mut cleaned = Cleaned::default();
    if dry_run {
        rules?.iter().for_each(|rule| cleaned.would_remove(rule));
        objects
            .iter()
            .for_each(|op| cleaned.would_remove(named(op.object())));
        paths.iter().for_each(|path| cleaned.would_remove(path.display()));
        return Ok(cleaned);
    }
    if let Some(firewall) = firewall {
        if let Err(error) = firewall.remove(&networks).await {
            cleaned.failures.push(error.to_string());
        }
        // Why they cannot be read, if so, is why they cannot be removed.
        let left = firewall.leftovers(&networks).await.unwrap_or_default();
        let before = rules.unwrap_or_default();
        let gone = before.iter().filter(|rule| !left.contains(rule));
        gone.for_each(|rule| cleaned.removed(rule));
    }
    cleaned.apply(&netlink, &objects).await;
    if cleaned.failures.is_empty() {
        match files.remove() {
            Ok(()) => paths.iter().for_each(|path| cleaned.removed(path.display())),
            Err(error) => cleaned.failures.push(error.to_string()),
        }
    }
    Ok(cleaned)
}

/// Says so where a daemon has never run here, or has been cleaned up. Where others have, its flags may be mistaken; and
/// where there are rules all the same, its state was lost.
async fn nothing_of(purpose: &str, flags: &Flags) -> Result<Cleaned, CleanupError> {
    let others = StateDir::purposes(&flags.state_dir);
    if !others.is_empty() {
        return Err(CleanupError::Unknown {
            purpose: purpose.to_owned(),
            states: flags.state_dir.clone(),
            others: others.join(", "),
        });
    }
    let rules = firewall(&flags.rules, None, Path::new("")).leftovers(&[]).await?;
    if let Some(rule) = rules.first() {
        return Err(CleanupError::Lost {
            purpose: purpose.to_owned(),
            states: flags.state_dir.clone(),
            rule: rule.to_string(),
        });
    }
    let mut cleaned = Cleaned::default();
    cleaned.say(format_args!(
        "nothing to remove: nothing is known of {purpose} in {}",
        flags.state_dir.display()
    ));
    Ok(cleaned)
}

/// The removal of every device and every route of ours. What is on a device goes with it.
async fn objects(netlink: &Netlink, protocol: u8, scope: Scope) -> Result<Plan, KernelError> {
    if scope.networks.is_empty() && scope.devices.is_empty() {
        return Ok(Plan::new());
    }
    let dump = netlink.dump(&scope).await?;
    let (ours, _) = Ownership { scope, protocol }.split(dump, |_| false);
    let removals = diff(&ours, &State::new());
    let devices: Vec<DeviceName> = ours.keys().filter_map(ObjectId::as_device).collect();
    let goes_along = |op: &Op| devices.iter().any(|device| op.object().rests_on(device));
    Ok(removals.into_iter().filter(|op| !goes_along(op)).collect())
}

/// The object that an operation removes, and of which kind it is.
fn named(object: &Object) -> String {
    match object {
        Object::Route(route) => format!("route {route}"),
        Object::Device(device) => format!("device {} with all that is on it", device.name),
        other => other.to_string(),
    }
}

impl Cleaned {
    async fn apply(&mut self, netlink: &Netlink, objects: &Plan) {
        let failed = match netlink.apply(objects).await {
            Ok(applied) => applied.failed,
            Err(error) => return self.failures.push(error.to_string()),
        };
        for (index, op) in objects.iter().enumerate() {
            let named = named(op.object());
            match failed.iter().find(|(failed, _)| *failed == index) {
                // Gone with its device, or by somebody else.
                Some((_, error)) if error.kind == OpErrorKind::Gone => {}
                Some((_, error)) => self.failures.push(format!("{named}: {error}")),
                None => self.removed(named),
            }
        }
    }

    fn removed(&mut self, what: impl fmt::Display) {
        self.say(format_args!("removed {what}"));
    }

    fn would_remove(&mut self, what: impl fmt::Display) {
        self.say(format_args!("would remove {what}"));
    }

    fn say(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}
