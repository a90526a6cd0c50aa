//! `flanneld config get|set|check`: the network's config without any client of the store.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

use flannel_core::{
    Backend, DeviceName, Host, HostSource, Lease, Misspelt, NetworkConfig, NodeId, Protected, Range,
    StoreError, StoreEvent, SubnetKey, choose_uplink,
};
use flannel_netlink::Netlink;
use futures_util::StreamExt;
use ipnet::IpNet;
use thiserror::Error;
use tokio::time::timeout;

use crate::blocking::off_the_loop;
use crate::daemon::{backends, uplink_options};
use crate::flags::{ConfigSource, ConfigVerb, Flags};
use crate::store::Store;

/// No config is as long as this.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// For everything that the store is asked.
const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// Collisions and leases that are listed one by one.
const LISTED: usize = 8;

/// What flannel has and this has not.
const BACKENDS_OF_FLANNEL: [&str; 6] = ["alloc", "extension", "ipip", "ipsec", "udp", "wireguard"];

/// Why a verb came to nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigVerbError {
    /// The store has none.
    #[error("there is no config in the store; put one there with `flanneld config set`")]
    None,
    /// It is not valid, and so it was not written.
    #[error("{0}")]
    Invalid(String),
    /// The asynchronous runtime.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// It could not be read from where it was to come from.
    #[error("cannot read the config from standard input: {0}")]
    Input(#[from] io::Error),
    /// The store did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not answer.
    #[error("no answer from the store within {} s", STORE_DEADLINE.as_secs())]
    Late,
}

/// Does what is asked, and returns what to print.
///
/// # Errors
///
/// [`ConfigVerbError`]; nothing is written then.
pub fn run(verb: &ConfigVerb, flags: &Flags) -> Result<String, ConfigVerbError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ConfigVerbError::Start)?;
    let result = runtime.block_on(act(verb, flags));
    // A read of a terminal that nobody types at would never end.
    runtime.shutdown_background();
    result
}

async fn act(verb: &ConfigVerb, flags: &Flags) -> Result<String, ConfigVerbError> {
    // A look must not import anything.
    let quiet = flags.store.clone().without_import();
    let store = within_deadline(Store::open(&quiet)).await;
    match verb {
        ConfigVerb::Get => stored(&store?).await,
        ConfigVerb::Check(None) => {
            let store = store?;
            check(&stored(&store).await?, Some(&store), flags).await
        }
        ConfigVerb::Check(Some(source)) => check(&read(source).await?, store.ok().as_ref(), flags).await,
        ConfigVerb::Set(source) => {
            let text = read(source).await?;
            let meaning = check(&text, store.as_ref().ok(), flags).await?;
            within_deadline(store?.config().write_config(&text)).await?;
            Ok(format!("{meaning}written"))
        }
    }
}

async fn stored(store: &Store) -> Result<String, ConfigVerbError> {
    let read = within_deadline(store.config().read_config());
    read.await?.ok_or(ConfigVerbError::None)
}

async fn within_deadline<T>(
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ConfigVerbError> {
    let answer = timeout(STORE_DEADLINE, asked)
        .await
        .map_err(|_| ConfigVerbError::Late)?;
    Ok(answer?)
}

async fn read(source: &ConfigSource) -> Result<String, ConfigVerbError> {
    let text = match source {
        ConfigSource::Text(text) => text.clone(),
        ConfigSource::Stdin => {
            let read = || {
                let mut text = String::new();
                io::stdin()
                    .lock()
                    .take(MAX_CONFIG_BYTES)
                    .read_to_string(&mut text)?;
                Ok::<_, io::Error>(text)
            };
            off_the_loop(read).await?
        }
    };
    Ok(text.trim().to_owned())
}

/// What a config means: for the network, for the leases that are there, and for this host.
async fn check(text: &str, store: Option<&Store>, flags: &Flags) -> Result<String, ConfigVerbError> {
    let config =
        NetworkConfig::from_json(text).map_err(|error| ConfigVerbError::Invalid(error.to_string()))?;
    let backend = backend(&config)?;
    let mut meaning = String::new();
    for (_, range) in config.ranges.iter() {
        let _ = writeln!(meaning, "network   {}", range.network);
        let _ = writeln!(meaning, "subnets   {}", subnets(range));
    }
    let _ = writeln!(meaning, "backend   {backend}");
    meaning.push_str(&rules(&config));
    for misspelt in config.misspelt.iter().chain(&misspelt_options(&config)) {
        let _ = writeln!(meaning, "warning   {misspelt}");
    }
    let leases = match store {
        Some(store) => listed(store).await,
        None => None,
    };
    let endpoints = store.map_or_else(Vec::new, |store| store.subnets().endpoints());
    meaning.push_str(&outside(&config, leases.as_deref()));
    meaning.push_str(&this_host(&config, leases.as_deref().unwrap_or_default(), &endpoints, flags).await);
    Ok(meaning)
}

/// Where rules go, unless that is iptables, and to what pods keep their addresses.
fn rules(config: &NetworkConfig) -> String {
    let mut text = String::new();
    if config.nftables {
        text.push_str("rules     in nftables\n");
    }
    if !config.unmasqueraded.is_empty() {
        let ranges: Vec<String> = config.unmasqueraded.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "rules     masquerade nothing on its way to {}",
            ranges.join(", ")
        );
    }
    text
}

fn subnets(range: &Range) -> String {
    format!(
        "{} of /{}, from {} to {}",
        range.count(),
        range.subnet_len,
        range.first,
        range.last
    )
}

/// Options that the backend does not know, and whose names are nearly known ones.
fn misspelt_options(config: &NetworkConfig) -> Vec<Misspelt> {
    backend_of(config).map_or_else(Vec::new, |backend| config.backend.misspelt(backend.options()))
}

fn backend(config: &NetworkConfig) -> Result<String, ConfigVerbError> {
    let kind = config.backend.kind.as_str();
    if let Some(backend) = backend_of(config) {
        let configured = backend.configure(config);
        configured.map_err(|error| ConfigVerbError::Invalid(error.to_string()))?;
        return Ok(kind.to_owned());
    }
    let there: Vec<&str> = backends().iter().map(|backend| backend.kind()).collect();
    if BACKENDS_OF_FLANNEL.contains(&kind) {
        return Ok(format!(
            "{kind}\nwarning   this flanneld has no backend {kind}: only hosts that run flannel will join"
        ));
    }
    Err(ConfigVerbError::Invalid(format!(
        "there is no backend {kind:?}; \"Backend\": {{\"Type\": …}} takes {}",
        there.join(", ")
    )))
}

/// The leases that are there; `None` where the store does not answer.
async fn listed(store: &Store) -> Option<Vec<Lease>> {
    let snapshot = async {
        let mut events = store.subnets().watch().await.ok()?;
        while let Some(event) = events.next().await {
            match event {
                StoreEvent::Snapshot { leases, .. } => return Some(leases),
                StoreEvent::Silent { .. } => return None,
                _ => {}
            }
        }
        None
    };
    timeout(STORE_DEADLINE, snapshot).await.ok().flatten()
}

/// Those leases that would be left outside.
fn outside(config: &NetworkConfig, leases: Option<&[Lease]>) -> String {
    let Some(leases) = leases else {
        return "leases    unknown, the store does not answer\n".to_owned();
    };
    let outside: Vec<SubnetKey> = leases
        .iter()
        .map(|lease| lease.subnet)
        .filter(|subnet| !config.gives_out(subnet))
        .collect();
    let mut text = format!("leases    {}\n", leases.len());
    if !outside.is_empty() {
        let _ = writeln!(
            text,
            "warning   {} of them would lie outside: {}; their hosts keep them until they are restarted",
            outside.len(),
            list(outside.iter())
        );
    }
    text
}

/// Which subnets this host could not take, nor route to.
async fn this_host(config: &NetworkConfig, leases: &[Lease], endpoints: &[IpAddr], flags: &Flags) -> String {
    let options = uplink_options(&flags.uplink);
    let families: Vec<_> = config.ranges.iter().map(|(family, _)| family).collect();
    let reach: Vec<_> = flags.uplink.can_reach.into_iter().collect();
    let facts = match Netlink::open() {
        Ok(netlink) => netlink.facts(&reach).await,
        Err(error) => Err(error),
    };
    let host = facts.map_err(|error| error.to_string()).and_then(|facts| {
        let uplink = choose_uplink(&options, &facts, &families, None).map_err(|error| error.to_string())?;
        // Who this host is, nobody asks here.
        Ok(Host {
            node: NodeId(0),
            uplink,
            facts: facts.into(),
        })
    });
    let host = match host {
        Ok(host) => host,
        Err(error) => return format!("this host cannot be looked at: {error}\n"),
    };
    let addresses: Vec<String> = host
        .uplink
        .public
        .iter()
        .map(|(_, address)| address.to_string())
        .collect();
    let mut text = format!("this host {} {}\n", host.uplink.device, addresses.join(" "));
    let data_plane = backend_of(config).and_then(|backend| backend.configure(config).ok());
    if let Some(Err(error)) = data_plane
        .as_ref()
        .map(|data_plane| data_plane.publish(&host, None))
    {
        let _ = writeln!(text, "warning   this host cannot join: {error}");
    }
    let protected = Protected::of(&host, endpoints);
    let collisions = protected
        .iter()
        .filter_map(|(net, what)| Some((collision(config, net)?, what)));
    for (subnets, what) in collisions.take(LISTED) {
        let _ = writeln!(text, "warning   {subnets} cannot be used here: {what} is there");
    }
    let devices = data_plane.map_or_else(Vec::new, |data_plane| data_plane.devices());
    for line in bridges(config, &host, &devices, leases).take(LISTED) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The backend that the config names, where there is one here.
fn backend_of(config: &NetworkConfig) -> Option<Box<dyn Backend>> {
    let mut backends = backends().into_iter();
    backends.find(|backend| backend.kind() == config.backend.kind)
}

/// Devices beside the uplink, and those of the backend, with addresses in the network: right where the prefix is one
/// subnet, which this host ought to hold then.
fn bridges(
    config: &NetworkConfig,
    host: &Host,
    devices: &[DeviceName],
    leases: &[Lease],
) -> impl Iterator<Item = String> {
    let others = host.facts.links.iter();
    let others = others
        .filter(|link| link.name != host.uplink.device && !link.loopback && !devices.contains(&link.name));
    let addresses =
        others.flat_map(|link| link.addresses.iter().map(move |address| (link.name, address.net)));
    let ours = leases.iter().filter(|lease| {
        let mut public = lease.attrs.public.iter();
        public.any(|(family, address)| host.uplink.public.get(family) == Some(address))
    });
    let held: Vec<IpNet> = ours.flat_map(|lease| lease.subnet.nets()).collect();
    addresses.filter_map(move |(device, net)| {
        if held.contains(&net.trunc()) {
            return None;
        }
        let subnets = collision(config, net.trunc())?;
        let whole = config.ranges.iter().any(|(_, range)| range.gives_out(net.trunc()));
        Some(if whole {
            format!("note      {device} has {net}: this host ought to hold {subnets}, pin it with --subnet={subnets}")
        } else {
            format!("warning   {subnets} cannot be reached from here: {device} has {net}")
        })
    })
}

/// The subnets that share addresses with `net`: a subnet around it, or all that lie in it.
fn collision(config: &NetworkConfig, net: IpNet) -> Option<String> {
    let (_, range) = config
        .ranges
        .iter()
        .find(|(_, range)| range.network.contains(&net) || net.contains(&range.network))?;
    if net.contains(&range.network) {
        return Some(format!("the whole network {}", range.network));
    }
    if net.prefix_len() < range.subnet_len {
        return Some(format!("every subnet in {net}"));
    }
    IpNet::new(net.addr(), range.subnet_len)
        .ok()
        .map(|subnet| subnet.trunc().to_string())
}

fn list<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(LISTED);
    let shown: Vec<String> = items.take(LISTED).map(|item| item.to_string()).collect();
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}
