//! What keeps packets from pods though every route is right: looked for whenever something changes that
//! it hangs on. No I/O.

use std::sync::Arc;

use super::reasons::Reasons;
use crate::preflight::{Misplaced, filtering, forwarding, misplaced, reverse_path, told};
use crate::{DataPlane, DeviceName, Filter, Host, HostFacts, Leases, NetworkConfig, Reason, SubnetKey};

/// The outcome for a config, a host and a lease of ours.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The backend's own devices.
    devices: Vec<DeviceName>,
    follows_underlay: bool,
    checked: Option<Checked>,
    misplaced: Vec<Misplaced>,
}

#[derive(Debug)]
struct Checked {
    config: Arc<NetworkConfig>,
    facts: Arc<HostFacts>,
    own: Option<SubnetKey>,
    filters: Option<Vec<Filter>>,
}

impl Checks {
    /// Goes by another backend, or its other options.
    pub(super) fn of(data_plane: Option<&dyn DataPlane>) -> Self {
        Self {
            devices: data_plane.map(DataPlane::devices).unwrap_or_default(),
            follows_underlay: data_plane.is_some_and(DataPlane::follows_underlay),
            ..Self::default()
        }
    }

    /// Checks again where anything is different, and says so. `filters` are chains that drop forwarded
    /// packets beside those that `host` shows; `None` while our own rules are still to be made, so that
    /// nobody can tell what those packets meet.
    pub(super) fn judge(
        &mut self,
        config: &Arc<NetworkConfig>,
        host: &Host,
        own: Option<SubnetKey>,
        leases: &Leases,
        filters: Option<&[Filter]>,
        reasons: &mut Reasons,
    ) {
        let same = self.checked.as_ref().is_some_and(|checked| {
            Arc::ptr_eq(&checked.config, config)
                && Arc::ptr_eq(&checked.facts, &host.facts)
                && checked.own == own
                && checked.filters.as_deref() == filters
        });
        if !same {
            let text = forwarding(config, host, own.as_ref());
            reasons.hold(text.map(Reason::Forwarding), |reason| {
                matches!(reason, Reason::Forwarding(_))
            });
            let text = filters.and_then(|others| filtering(config, &host.facts, others.iter(), own.as_ref()));
            reasons.hold(text.map(Reason::Filter), |reason| {
                matches!(reason, Reason::Filter(_))
            });
            let text = reverse_path(&host.facts, &self.devices).filter(|_| self.follows_underlay);
            reasons.hold(text.map(Reason::ReversePath), |reason| {
                matches!(reason, Reason::ReversePath(_))
            });
            let misplaced = own.map_or_else(Vec::new, |own| misplaced(config, host, &own));
            let others = misplaced
                .into_iter()
                .filter(|found| !self.devices.contains(&found.device));
            self.misplaced = others.collect();
            self.checked = Some(Checked {
                config: Arc::clone(config),
                facts: Arc::clone(&host.facts),
                own,
                filters: filters.map(<[Filter]>::to_vec),
            });
        }
        // Who holds the other subnet may change with any lease.
        if !same || !self.misplaced.is_empty() {
            let text = told(&self.misplaced, leases);
            reasons.hold(text.map(Reason::Bridge), |reason| {
                matches!(reason, Reason::Bridge(_))
            });
        }
    }
}
