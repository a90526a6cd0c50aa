use std::sync::Arc;

use flannel_core::{
    Backend, BackendError, Context, DataPlane, Desired, DeviceName, Hop, Host, Lease, NetworkConfig,
    Published, Route, Skip,
};

/// Sends what is for other hosts into a tunnel that somebody else keeps.
#[derive(Clone, Copy)]
pub struct Tunnel {
    pub device: DeviceName,
}

impl Backend for Tunnel {
    fn kind(&self) -> &'static str {
        "tunnel" // "Backend": {"Type": "tunnel"}, and in each lease
    }

    fn configure(&self, _: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(*self)) // It takes no options of the network's.
    }
}

impl DataPlane for Tunnel {
    fn mtu(&self, host: &Host) -> u32 {
        host.uplink.mtu - 80
    }

    fn publish(&self, _: &Host, _: Option<&Lease>) -> Result<Published, BackendError> {
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        for subnet in peer.subnet.nets() {
            let hop = Hop {
                gateway: None,
                device: self.device,
                onlink: false,
            };
            out.insert(Route::unicast(subnet, hop, context.protocol));
        }
        Ok(())
    }
}
