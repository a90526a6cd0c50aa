use flannel_core::{
    Backend, BackendError, Context, Desired, DeviceName, Hop, Host, Lease, Published, Route, Skip,
};

/// Sends what is for other hosts into a tunnel that somebody else keeps.
pub struct Tunnel {
    pub device: DeviceName,
}

impl Backend for Tunnel {
    fn kind(&self) -> &'static str {
        "tunnel" // "Backend": {"Type": "tunnel"}, and in each lease
    }

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
