//! What is told of a change, and to whom.

use ipnet::IpNet;

use crate::{Changed, DeviceName, Object, Scope};

/// A change, before it is known who listens.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    /// A link came, changed or went, or an address of it did.
    Link {
        device: DeviceName,
        /// Whether it went down or away, or lost an address.
        lost: bool,
    },
    /// Anything else.
    Changed(Changed),
}

impl Notice {
    /// What somebody is told who watches this scope.
    pub(super) fn told(self, scope: &Scope) -> Vec<Changed> {
        let changed = match self {
            Self::Link { device, .. } if scope.has(&device) => return vec![Changed::Device(device)],
            Self::Link { device, lost: true } => return vec![Changed::Down(device)],
            Self::Link { .. } => return vec![Changed::Host],
            Self::Changed(changed) => changed,
        };
        match &changed {
            Changed::Appeared(object) | Changed::Vanished(object) => {
                let facts = matches!(object, Object::Route(route)
                    if is_fact(route.id.destination, scope));
                let heard = scope.includes(&object.id()).then_some(changed);
                heard.into_iter().chain(facts.then_some(Changed::Host)).collect()
            }
            Changed::Gone(id) => scope.includes(id).then_some(changed).into_iter().collect(),
            _ => vec![changed],
        }
    }
}

/// Whether a route is a fact about the host: a default one, or one by which other hosts are reached.
fn is_fact(destination: IpNet, scope: &Scope) -> bool {
    destination.prefix_len() == 0 || scope.underlay && !scope.covers(destination)
}
