//! The files that say what the engine has come to: `subnet.env`, and the networks for the next run.

use std::path::PathBuf;

use futures_util::FutureExt;
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::info;

use super::Slot;
use super::pace::Backoff;
use crate::state_dir::remember_networks;
use crate::{Options, SubnetEnv};

/// One file each, written off the loop: a disk that hangs delays nobody.
#[derive(Default)]
pub(super) struct Files {
    env: Kept<SubnetEnv>,
    networks: Kept<Vec<IpNet>>,
}

/// A file that is kept equal to a value.
struct Kept<T> {
    path: Option<PathBuf>,
    /// What it was last made to say.
    says: Option<T>,
    /// Whether to make sure that it still says so.
    in_doubt: bool,
    problem: Option<String>,
    backoff: Backoff,
    not_before: Option<Instant>,
    pub(super) writing: Slot<Written<T>>,
}

/// What was to be written, and whether it had to be.
type Written<T> = (T, Result<bool, String>);

impl Files {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            env: Kept::at(options.subnet_env.clone()),
            networks: Kept::at(options.networks_file.clone()),
        }
    }

    /// Starts to write what is not said yet.
    pub(super) fn start(&mut self, env: Option<SubnetEnv>, networks: Option<&[IpNet]>, now: Instant) {
        self.env.start(env.as_ref(), now, |env, path| {
            env.write(path).map_err(|error| error.to_string())
        });
        self.networks
            .start(networks.map(<[IpNet]>::to_vec).as_ref(), now, |networks, path| {
                remember_networks(path, networks)
                    .map(|()| true)
                    .map_err(|error| error.to_string())
            });
    }

    /// Completes when a file was written, or could not be.
    pub(super) async fn written(&mut self) {
        tokio::select! {
            (env, result) = super::answer(&mut self.env.writing) => {
                let subnet = env.subnet().map(|subnet| subnet.to_string());
                let mtu = env.mtu;
                if self.env.done(env, result, Instant::now()) {
                    let file = self.env.path.as_ref().map(|path| path.display().to_string());
                    info!(file, subnet, mtu, "subnet file written");
                }
            }
            (networks, result) = super::answer(&mut self.networks.writing) => {
                self.networks.done(networks, result, Instant::now());
            }
        }
    }

    /// Somebody may have changed or removed what others read: makes sure that it is right.
    pub(super) const fn doubt(&mut self) {
        self.env.in_doubt = true;
    }

    /// Whether `subnet.env`, if there is to be one, says this.
    pub(super) fn env_says(&self, env: Option<&SubnetEnv>) -> bool {
        self.env.path.is_none() || self.env.says.is_some() && self.env.says.as_ref() == env
    }

    /// The networks that the next run will know of.
    pub(super) fn networks(&self) -> &[IpNet] {
        self.networks.says.as_deref().unwrap_or_default()
    }

    /// What keeps `subnet.env`, and the networks, from being written.
    pub(super) fn problems(&self) -> (Option<String>, Option<String>) {
        (self.env.problem.clone(), self.networks.problem.clone())
    }

    /// When [`Files::start`] has something to do though nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.env
            .not_before
            .into_iter()
            .chain(self.networks.not_before)
            .min()
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self::at(None)
    }
}

impl<T> Kept<T> {
    fn at(path: Option<PathBuf>) -> Self {
        Self {
            path,
            says: None,
            in_doubt: false,
            problem: None,
            backoff: Backoff::default(),
            not_before: None,
            writing: None,
        }
    }
}

impl<T: Clone + PartialEq + Send + 'static> Kept<T> {
    fn start(
        &mut self,
        value: Option<&T>,
        now: Instant,
        write: impl FnOnce(&T, &std::path::Path) -> Result<bool, String> + Send + 'static,
    ) {
        let (Some(path), Some(value)) = (&self.path, value) else {
            return;
        };
        let said = self.says.as_ref() == Some(value) && !self.in_doubt;
        if said || self.writing.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.not_before = None;
        self.in_doubt = false;
        let (path, value) = (path.clone(), value.clone());
        let task = tokio::task::spawn_blocking(move || {
            let result = write(&value, &path);
            (value, result)
        });
        let written = async {
            match task.await {
                Ok(written) => written,
                // Only a runtime that is shutting down cancels it.
                Err(_) => std::future::pending().await,
            }
        };
        self.writing = Some(written.boxed());
    }

    /// Takes note of what came of it: whether the file was changed.
    fn done(&mut self, value: T, result: Result<bool, String>, now: Instant) -> bool {
        match result {
            Ok(changed) => {
                self.says = Some(value);
                self.problem = None;
                self.backoff = Backoff::default();
                changed
            }
            Err(problem) => {
                self.says = None;
                self.problem = Some(problem);
                self.not_before = Some(now + self.backoff.next_delay());
                false
            }
        }
    }
}
