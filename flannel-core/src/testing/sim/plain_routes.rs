//! The simplest backend.

use std::sync::Arc;

use crate::{
    Backend, BackendError, Context, DataPlane, Desired, Hop, Host, Lease, NetworkConfig, Published, Route,
    Skip,
};

/// A backend of plain routes, as flannel's host-gw.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainRoutes;

impl Backend for PlainRoutes {
    fn kind(&self) -> &'static str {
        "host-gw"
    }

    fn configure(&self, _: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(*self))
    }
}

impl DataPlane for PlainRoutes {
    fn mtu(&self, host: &Host) -> u32 {
        host.uplink.mtu
    }

    fn publish(&self, _: &Host, _: Option<&Lease>) -> Result<Published, BackendError> {
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        for family in context.families() {
            if let (Some(net), Some(gateway)) = (peer.subnet.net(family), peer.attrs.public.get(family)) {
                let hop = Hop::via(*gateway, context.host.uplink.device);
                out.insert(Route::unicast(net, hop, context.protocol));
            }
        }
        Ok(())
    }
}
