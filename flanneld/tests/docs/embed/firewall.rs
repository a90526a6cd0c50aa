use std::{path::Path, sync::Arc, time::Duration};

use flannel_core::{Engine, Leftovers, StateDir, StateDirError};
use flannel_firewall::{HostFirewall, Names, RuleOptions};

/// Has the engine keep the rules that pods need.
pub fn guard(engine: Engine, state: &StateDir, subnet_env: &Path) -> Result<Engine, StateDirError> {
    // flannel's own chains; a further daemon of the host has others.
    let names = match state.names_suffix(subnet_env)? {
        None => Names::flannels(),
        Some(suffix) => Names::with_suffix(&suffix),
    };
    let firewall = HostFirewall::new(rules(), names, RESYNC);
    Ok(engine.with_firewall(Arc::new(firewall.remembering(state.tables_file()))))
}

/// Removes what a program that has ended has left: its rules, then its files.
pub async fn remove(root: &Path, purpose: &str, subnet_env: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let Some(left) = Leftovers::find(root, purpose, subnet_env)? else {
        return Ok(()); // It never ran here, or was cleaned up.
    };
    if let Some(suffix) = left.names_suffix() {
        let names = suffix.map_or_else(Names::flannels, |suffix| Names::with_suffix(&suffix));
        let firewall = HostFirewall::new(rules(), names, RESYNC).remembering(left.tables_file());
        firewall.remove(&left.networks()).await?;
    }
    Ok(left.remove()?)
}

const RESYNC: Duration = Duration::from_secs(5);

const fn rules() -> RuleOptions {
    RuleOptions {
        masquerade: true,
        forward: true,
        random_fully: true,
    }
}
