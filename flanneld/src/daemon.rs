//! The wiring: flags to store, kernel, backends and engine; signals to its shutdown.

use std::future::Future;
use std::io;
use std::path::{Path, absolute};
use std::sync::Arc;
use std::time::Duration;

use flannel_backend_hostgw::HostGw;
use flannel_core::{
    Engine, EngineHandle, KernelError, Options, Pattern, PerFamily, StateDir, StateDirError, StoreError,
    UplinkOptions, UplinkRule,
};
use flannel_netlink::Netlink;
use flannel_store_file::{FileStore, FileStoreOptions};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::flags::{Flags, StoreUrl, UplinkFlags};

/// What still runs when the engine has ended gets so long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// A predecessor that is about to end gets so long to let the state directory go.
const HANDOVER: Duration = Duration::from_secs(3);

/// How often what is waited for at the start is tried.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// How often the log says that it is still being waited for.
const REMIND_EVERY: Duration = Duration::from_secs(30);

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
    /// The kernel offers no route netlink.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Runs until a signal ends it.
///
/// # Errors
///
/// [`DaemonError`], for what no waiting can mend.
pub fn run(flags: &Flags) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(flags));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    result
}

async fn serve(flags: &Flags) -> Result<(), DaemonError> {
    let mut shutdown = Shutdown::new()?;
    // From here on a hang-up ends nobody; before the engine runs there is nothing to look at.
    let hangup = signal(SignalKind::hangup())?;
    info!(version = env!("CARGO_PKG_VERSION"), "flanneld starts");
    let StoreUrl::File(directory) = &flags.store;
    let subnet_file = absolute(&flags.subnet_file)?;
    let purpose = format!(
        "store file://{} with subnet file {}",
        directory.display(),
        subnet_file.display()
    );
    let opened = async {
        let state = state_dir(&flags.state_dir, &purpose).await?;
        let (state, remembered) = off_the_loop(move || {
            let remembered = Options::of(&state).with_subnet_env(subnet_file);
            (state, remembered)
        })
        .await;
        Ok::<_, DaemonError>((state, remembered, store(directory).await?))
    };
    let (_state, remembered, store) = tokio::select! {
        biased;
        () = shutdown.requested() => return Ok(()),
        opened = opened => opened?,
    };
    let options = Options {
        uplink: uplink(&flags.uplink),
        pinned: flags.pinned_subnet,
        protocol: flags.route_protocol,
        renew_margin: flags.renew_margin,
        ..remembered
    };
    let netlink = Arc::new(Netlink::open()?);
    let engine = Engine::new(Arc::new(store), netlink, vec![Box::new(HostGw)], options);
    let audits = tokio::spawn(audit_on_hangup(hangup, engine.handle()));
    let result = engine.run(shutdown.requested()).await;
    audits.abort();
    info!("flanneld ends; routes and subnet file stay");
    Ok(result?)
}

/// Does what may hang with its disk where signals are heard all the same.
async fn off_the_loop<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that is shutting down cancels it.
        Err(_) => std::future::pending().await,
    }
}

/// Takes the state directory, from a predecessor that is just ending if need be.
async fn state_dir(root: &Path, purpose: &str) -> Result<StateDir, StateDirError> {
    let deadline = Instant::now() + HANDOVER;
    let mut told = false;
    loop {
        let (path, what) = (root.to_owned(), purpose.to_owned());
        match off_the_loop(move || StateDir::open(&path, &what)).await {
            Err(error @ StateDirError::Locked { .. }) if Instant::now() < deadline => {
                if !told {
                    warn!(%error, "waiting for it to end");
                    told = true;
                }
                sleep(RETRY_EVERY).await;
            }
            result => return result,
        }
    }
}

/// Opens the store, and waits for one that may come yet.
async fn store(directory: &Path) -> Result<FileStore, StoreError> {
    let mut remind = Instant::now();
    loop {
        let path = directory.to_owned();
        match off_the_loop(move || FileStore::open(path, FileStoreOptions::default())).await {
            Err(error) if !matches!(error, StoreError::Unusable { .. }) => {
                if Instant::now() >= remind {
                    warn!(%error, "waiting for the store");
                    remind = Instant::now() + REMIND_EVERY;
                }
                sleep(RETRY_EVERY).await;
            }
            result => return result,
        }
    }
}

/// flannel's order: every `--iface`, every `--iface-regex`, then `--iface-can-reach`.
fn uplink(flags: &UplinkFlags) -> UplinkOptions {
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

/// The signals that end the daemon: INT, TERM and QUIT.
struct Shutdown {
    signals: [(Signal, &'static str); 3],
}

impl Shutdown {
    fn new() -> io::Result<Self> {
        Ok(Self {
            signals: [
                (signal(SignalKind::interrupt())?, "INT"),
                (signal(SignalKind::terminate())?, "TERM"),
                (signal(SignalKind::quit())?, "QUIT"),
            ],
        })
    }

    /// Completes at the first of them.
    fn requested(&mut self) -> impl Future<Output = ()> + Send + '_ {
        let [(interrupt, first), (terminate, second), (quit, third)] = &mut self.signals;
        async move {
            let name = tokio::select! {
                _ = interrupt.recv() => first,
                _ = terminate.recv() => second,
                _ = quit.recv() => third,
            };
            info!(signal = %name, "asked to end");
        }
    }
}

/// HUP: look at everything now.
async fn audit_on_hangup(mut hangup: Signal, engine: EngineHandle) {
    while hangup.recv().await.is_some() {
        info!("asked to look at host and kernel");
        engine.audit();
    }
}
