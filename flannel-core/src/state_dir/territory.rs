//! Where a daemon puts anything, as its next run and the host's other daemons find it.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use super::{StateDirError, names};
use crate::subnet::parse_net;
use crate::subnet_env::write_where_different;
use crate::territory::Territory;

/// In a state: a network in each line.
const NETWORKS: &str = "networks";

/// In a state: a device in each line. Below the root: locked while devices are claimed.
pub(super) const DEVICES: &str = "devices";

/// What a state remembers.
pub(super) fn read(state: &Path) -> Territory {
    let read = |name| fs::read_to_string(state.join(name)).unwrap_or_default();
    Territory {
        networks: read(NETWORKS).lines().filter_map(parse_net).collect(),
        devices: read(DEVICES)
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect(),
    }
}

/// Remembers it, and claims its devices: no two daemons of a host can have one of the same name. What
/// a daemon has left behind whose successor this one is, in the same `subnet.env`, is free.
pub(crate) fn remember(state: &Path, territory: &Territory) -> Result<(), StateDirError> {
    let failed = |source| StateDirError::Io {
        path: state.to_owned(),
        source,
    };
    let root = state.parent().unwrap_or(state);
    write(&state.join(NETWORKS), territory.networks.iter()).map_err(failed)?;
    if territory.devices.is_empty() && !state.join(DEVICES).exists() {
        return Ok(());
    }
    // Held until this returns.
    let claims = super::open_to_lock(&root.join(DEVICES)).map_err(failed)?;
    claims.lock().map_err(failed)?;
    for other in names::states(root).filter(|other| other != state) {
        let theirs = read(&other).devices;
        let shared = territory.devices.iter().find(|device| theirs.contains(device));
        let Some(device) = shared else { continue };
        if names::is_former(&other, state) && !super::is_held(&other) {
            let rest = theirs.iter().filter(|device| !territory.devices.contains(device));
            write(&other.join(DEVICES), rest).map_err(failed)?;
            continue;
        }
        return Err(StateDirError::DeviceTaken {
            device: *device,
            ours: super::purpose_of(state),
            theirs: super::purpose_of(&other),
        });
    }
    write(&state.join(DEVICES), territory.devices.iter()).map_err(failed)
}

fn write<T: Display>(file: &Path, lines: impl Iterator<Item = T>) -> io::Result<()> {
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    write_where_different(file, text.as_bytes()).map(drop)
}
