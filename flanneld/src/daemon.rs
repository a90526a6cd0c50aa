//! The wiring: flags to store, kernel, backends and engine; signals to its shutdown.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use flannel_backend_hostgw::HostGw;
use flannel_backend_vxlan::Vxlan;
use flannel_core::{
    Backend, Engine, EngineHandle, KernelError, Options, Pattern, PerFamily, StateDirError, StoreError,
    UplinkOptions, UplinkRule,
};
use flannel_firewall::{HostFirewall, Names, RuleOptions};
use flannel_netlink::Netlink;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::blocking::off_the_loop;
use crate::flags::{Flags, RuleFlags, UplinkFlags};
use crate::health::{Health, serve_tcp, serve_unix};
use crate::instance::{self, HANDOVER};
use crate::logging::LogHandle;
use crate::notify::{self, Notify};
use crate::shutdown::Shutdown;
use crate::status_report::SOCKET;
use crate::store::{self, Store};

/// What still runs when the engine has ended gets so long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// Why the daemon could not begin, or could not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The asynchronous runtime, or the handling of signals.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The state directory is another's, or cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The store can never work as it is set up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The health endpoints have no place.
    #[error(
        "cannot listen on {address} for the health endpoints: {source}; `ss -ltnp sport = :{port}` shows who does, \
         --healthz-port and --healthz-ip choose another place",
        port = address.port()
    )]
    Health {
        /// Where they were to be.
        address: SocketAddr,
        /// Why they cannot.
        source: io::Error,
    },
    /// The kernel offers no route netlink.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Runs until a signal ends it, and tells `notify` how it is doing.
///
/// # Errors
///
/// [`DaemonError`], for what no waiting can mend.
pub fn run(flags: &Flags, notify: &Notify, log: LogHandle) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(flags, notify, log));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    result
}

async fn serve(flags: &Flags, notify: &Notify, log: LogHandle) -> Result<(), DaemonError> {
    let mut shutdown = Shutdown::new()?;
    // From here on a hang-up ends nobody; before the engine runs there is nothing to look at.
    let hangup = signal(SignalKind::hangup())?;
    info!(version = env!("CARGO_PKG_VERSION"), "flanneld starts");
    let subnet_file = absolute(&flags.subnet_file)?;
    let purpose = purpose(flags);
    let health = Arc::new(Health::new(store::place(&flags.store), Some(log)));
    let mut tasks = JoinSet::new();
    let deadline = Instant::now() + HANDOVER;
    let opened = async {
        let state = instance::take(&flags.state_dir, &purpose, deadline).await?;
        let (state, remembered, names) = off_the_loop(move || {
            state.make_way_for(&subnet_file)?;
            let names = state.names_suffix(&subnet_file)?;
            let remembered = Options::of(&state).with_subnet_env(subnet_file);
            Ok::<_, StateDirError>((state, remembered, names))
        })
        .await?;
        if let Some(address) = flags.health {
            tasks.spawn(serve_tcp(listen(address, deadline).await?, health.clone()));
        }
        if let Some(socket) = status_socket(state.path()) {
            tasks.spawn(serve_unix(socket, health.clone()));
        }
        Ok::<_, DaemonError>((state, remembered, names, Store::open(&flags.store).await?))
    };
    let (state, remembered, names, store) = tokio::select! {
        biased;
        () = shutdown.requested() => return Ok(()),
        opened = opened => opened?,
    };
    let options = Options {
        uplink: uplink_options(&flags.uplink),
        pinned: flags.pinned_subnet,
        protocol: flags.route_protocol,
        renew_margin: flags.renew_margin,
        ip_masq: flags.rules.masquerade,
        blackhole: flags.blackhole,
        ..remembered
    };
    let netlink = Arc::new(Netlink::open()?);
    let firewall = firewall(&flags.rules, names.as_deref(), &state.tables_file());
    let engine = Engine::new(store.subnets(), netlink, backends(), options).with_firewall(Arc::new(firewall));
    health.watch(engine.handle());
    tasks.spawn(notify::follow(engine.handle(), notify.clone()));
    tasks.spawn(look_on_hangup(hangup, engine.handle(), store));
    let result = engine.run(shutdown.requested()).await;
    notify.stopping();
    info!("flanneld ends; routes, rules and subnet file stay");
    Ok(result?)
}

/// The firewall that the flags ask for. Asked for nothing, it removes what an earlier run was asked for.
pub(crate) fn firewall(flags: &RuleFlags, suffix: Option<&str>, tables_file: &Path) -> HostFirewall {
    let options = RuleOptions {
        masquerade: flags.masquerade,
        forward: flags.forward,
        random_fully: flags.random_fully,
    };
    let names = suffix.map_or_else(Names::flannels, Names::with_suffix);
    HostFirewall::new(options, names, flags.resync).remembering(tables_file)
}

/// What tells this daemon from every other of the host: it names the state directory. A relative path counts as it is
/// written: where an upgrade swaps a link to the directory, the successor's absolute path is another.
pub(crate) fn purpose(flags: &Flags) -> String {
    let written: PathBuf = flags
        .subnet_file
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    format!(
        "{} with subnet file {}",
        store::network(&flags.store),
        written.display()
    )
}

/// Where `flanneld status` asks. Without it the daemon does its work all the same.
fn status_socket(directory: &Path) -> Option<UnixListener> {
    let path = directory.join(SOCKET);
    // Left by a predecessor: the directory is ours, and so nobody listens there.
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path)
        .inspect_err(
            |error| warn!(socket = %path.display(), %error, "`flanneld status` cannot ask this daemon"),
        )
        .ok()
}

/// The backends that a network config can name.
pub(crate) fn backends() -> Vec<Box<dyn Backend>> {
    vec![Box::new(HostGw), Box::new(Vxlan)]
}

/// A predecessor may need a moment to let the port go.
async fn listen(address: SocketAddr, deadline: Instant) -> Result<TcpListener, DaemonError> {
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(instance::RETRY_EVERY).await;
            }
            Err(source) => return Err(DaemonError::Health { address, source }),
            Ok(listener) => {
                info!(%address, "health endpoints listen");
                return Ok(listener);
            }
        }
    }
}

/// flannel's order: every `--iface`, every `--iface-regex`, then `--iface-can-reach`.
pub(crate) fn uplink_options(flags: &UplinkFlags) -> UplinkOptions {
    let named = flags.iface.iter().map(|name| UplinkRule::Named(name.clone()));
    let matching = flags.iface_regex.iter().map(|regex| {
        let pattern = regex.clone();
        UplinkRule::Matching(Pattern::new(regex.as_str(), move |text| pattern.is_match(text)))
    });
    let reaching = flags.can_reach.map(UplinkRule::CanReach);
    UplinkOptions {
        rules: named.chain(matching).chain(reaching).collect(),
        public: PerFamily {
            v4: flags.public_ip.map(Into::into),
            v6: flags.public_ipv6.map(Into::into),
        },
    }
}

/// HUP: look at everything now, and read certificates again.
async fn look_on_hangup(mut hangup: Signal, engine: EngineHandle, store: Store) {
    while hangup.recv().await.is_some() {
        info!("asked to look at host and kernel");
        engine.audit();
        store.reload().await;
    }
}
