//! Where one daemon puts anything.

use ipnet::IpNet;

use crate::kernel::includes;
use crate::{DeviceName, ObjectId, Scope};

/// Networks in which there are routes of ours, and devices of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Territory {
    pub(crate) networks: Vec<IpNet>,
    pub(crate) devices: Vec<DeviceName>,
}

impl Territory {
    pub(crate) const fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.devices.is_empty()
    }

    /// Takes out what is in another, and what is there twice.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.networks.retain(|network| !other.networks.contains(network));
        self.networks.sort_unstable();
        self.networks.dedup();
        self.devices.retain(|device| !other.devices.contains(device));
        self.devices.sort_unstable();
        self.devices.dedup();
    }

    /// Whether everything in scope is in it.
    pub(crate) fn covers(&self, scope: &Scope) -> bool {
        scope
            .networks
            .iter()
            .all(|network| self.networks.contains(network))
            && scope.devices.iter().all(|device| self.devices.contains(device))
    }

    /// Whether an object is in it.
    pub(crate) fn includes(&self, id: &ObjectId) -> bool {
        includes(&self.networks, &self.devices, id)
    }
}

impl From<&Scope> for Territory {
    fn from(scope: &Scope) -> Self {
        Self {
            networks: scope.networks.clone(),
            devices: scope.devices.clone(),
        }
    }
}
