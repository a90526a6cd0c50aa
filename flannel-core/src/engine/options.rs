//! What an engine is told when it is made.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::{DEFAULT_PROTOCOL, DeviceName, NodeId, StateDir, SubnetEnv, SubnetKey, UplinkOptions};

/// flannel's `--subnet-lease-renew-margin`: an hour.
const DEFAULT_RENEW_MARGIN: Duration = Duration::from_secs(60 * 60);

/// How an [`Engine`](crate::Engine) is set up. Everything but the node id has a default.
///
/// ```
/// use flannel_core::{NodeId, Options};
///
/// let options = Options { protocol: 71, ..Options::new(NodeId(7)) };
/// assert_eq!(options.pinned, None);
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// Who this host is: [`StateDir::node`].
    pub node: NodeId,
    /// Which device leads to the other hosts.
    pub uplink: UplinkOptions,
    /// This subnet and no other; it is waited for.
    pub pinned: Option<SubnetKey>,
    /// The subnet of an earlier run, taken if it is free.
    pub previous: Option<SubnetKey>,
    /// The protocol that marks our routes.
    pub protocol: u8,
    /// Whether packets for addresses of our subnet that no pod has are dropped here, instead of going
    /// back where they came from by the default route.
    pub blackhole: bool,
    /// A lease is renewed when this much of its life is left, or a third if that is less.
    pub renew_margin: Duration,
    /// Where `subnet.env` goes. `None`: nowhere.
    pub subnet_env: Option<PathBuf>,
    /// Whether somebody masquerades for this network: told to the runtime in `subnet.env`.
    pub ip_masq: bool,
    /// Networks in which routes of earlier runs may be left.
    pub former_networks: Vec<IpNet>,
    /// Devices that earlier runs may have left.
    pub former_devices: Vec<DeviceName>,
    /// The state in which networks and devices are remembered for the next run, and claimed against
    /// other daemons of the host: [`StateDir::path`]. `None`: nowhere.
    pub state: Option<PathBuf>,
    /// What picks among free subnets, so that hosts that start together pick different ones.
    pub seed: u64,
}

impl Options {
    /// The defaults, for this node.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            uplink: UplinkOptions::default(),
            pinned: None,
            previous: None,
            protocol: DEFAULT_PROTOCOL,
            blackhole: false,
            renew_margin: DEFAULT_RENEW_MARGIN,
            subnet_env: None,
            ip_masq: false,
            former_networks: Vec::new(),
            former_devices: Vec::new(),
            state: None,
            #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
            seed: node.0 as u64,
        }
    }

    /// The defaults, with what a state directory remembers.
    #[must_use]
    pub fn of(state: &StateDir) -> Self {
        Self {
            former_networks: state.networks(),
            former_devices: state.devices(),
            state: Some(state.path().to_owned()),
            ..Self::new(state.node())
        }
    }

    /// Writes `subnet.env` there, and prefers the subnet that it names now. Its networks count among
    /// the former ones: flannel may have written it.
    #[must_use]
    pub fn with_subnet_env(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        if let Some(env) = SubnetEnv::read(&path) {
            self.previous = env.subnet();
            let networks = env.networks.iter().map(|(_, network)| *network);
            let new = networks.filter(|network| !self.former_networks.contains(network));
            let new: Vec<IpNet> = new.collect();
            self.former_networks.extend(new);
        }
        self.subnet_env = Some(path);
        self
    }
}
