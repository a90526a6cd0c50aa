//! What keeps packets from pods though every route is right: looked for whenever something changes that
//! it hangs on. No I/O.

use std::sync::Arc;

use super::reasons::Reasons;
use crate::preflight::{Misplaced, filtering, forwarding, misplaced, told};
use crate::{Filter, Host, HostFacts, Leases, NetworkConfig, Reason, SubnetKey};

/// The outcome for a config, a host and a lease of ours.
#[derive(Debug, Default)]
pub(super) struct Checks {
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
            self.misplaced = own.map_or_else(Vec::new, |own| misplaced(config, host, &own));
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
