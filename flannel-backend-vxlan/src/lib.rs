#![doc = include_str!("../README.md")]

mod data;
#[cfg(test)]
mod fixture;
mod mac;
mod offload;
mod options;
mod overlay;
mod tunnel;

use std::sync::Arc;

use flannel_core::{Backend, BackendError, DataPlane, NetworkConfig};

use crate::overlay::Overlay;

/// The name in the network config and in leases.
const KIND: &str = "vxlan";

/// An overlay: packets between pods travel in UDP between their hosts (RFC 7348), whatever networks
/// these are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vxlan;

impl Backend for Vxlan {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn options(&self) -> &'static [&'static str] {
        &options::NAMES
    }

    /// Reads the options. Those of flannel for Windows, `Name` and `MacPrefix`, are ignored as all
    /// unknown ones are.
    fn configure(&self, config: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(Overlay::new(config)?))
    }
}

/// What goes wrong here, with the backend's name.
fn failure(problem: String) -> BackendError {
    BackendError {
        backend: KIND,
        problem,
    }
}
