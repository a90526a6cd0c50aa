//! The files that say what the engine has come to: `subnet.env`, and where the next run is to look.

use std::path::PathBuf;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::info;

use super::Slot;
use super::pace::Backoff;
use crate::state_dir::remember;
use crate::territory::Territory;
use crate::{Options, StateDirError, SubnetEnv};

/// One file each, written off the loop: a disk that hangs delays nobody.
#[derive(Default)]
pub(super) struct Files {
    env: Kept<SubnetEnv>,
    territory: Kept<Territory, Unremembered>,
}

/// Why the next run, and the host's other daemons, are not told what is ours.
#[derive(Debug, Clone)]
pub(super) enum Unremembered {
    /// A device is another daemon's.
    Taken(String),
    /// It cannot be written.
    Unwritten(String),
}

/// A file that is kept equal to a value.
struct Kept<T, E = String> {
    path: Option<PathBuf>,
    /// What it was last made to say.
    says: Option<T>,
    /// Whether to make sure that it still says so.
    in_doubt: bool,
    problem: Option<E>,
    backoff: Backoff,
    not_before: Option<Instant>,
    pub(super) writing: Slot<Written<T, E>>,
}

/// What was to be written, and whether it had to be.
type Written<T, E> = (T, Result<bool, E>);

impl Files {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            env: Kept::at(options.subnet_env.clone()),
            territory: Kept::at(options.state.clone()),
        }
    }

    /// Starts to write what is not said yet.
    pub(super) fn start(&mut self, env: Option<SubnetEnv>, territory: Option<Territory>, now: Instant) {
        self.env.start(env.as_ref(), now, |env, path| {
            env.write(path).map_err(|error| error.to_string())
        });
        self.territory.start(territory.as_ref(), now, |territory, state| {
            let remembered = remember(state, territory).map(|()| true);
            remembered.map_err(|error| match error {
                StateDirError::DeviceTaken { .. } => Unremembered::Taken(error.to_string()),
                error => Unremembered::Unwritten(error.to_string()),
            })
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
            (territory, result) = super::answer(&mut self.territory.writing) => {
                self.territory.done(territory, result, Instant::now());
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

    /// What the next run will know of; `None` while that cannot be changed.
    pub(super) const fn territory(&self) -> Option<&Territory> {
        self.territory.says.as_ref()
    }

    /// What keeps `subnet.env`, and where we are, from being written.
    pub(super) fn problems(&self) -> (Option<String>, Option<Unremembered>) {
        (self.env.problem.clone(), self.territory.problem.clone())
    }

    /// When [`Files::start`] has something to do though nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.env
            .not_before
            .into_iter()
            .chain(self.territory.not_before)
            .min()
    }
}

impl<T, E> Default for Kept<T, E> {
    fn default() -> Self {
        Self::at(None)
    }
}

impl<T, E> Kept<T, E> {
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

impl<T: Clone + PartialEq + Send + 'static, E: Send + 'static> Kept<T, E> {
    fn start(
        &mut self,
        value: Option<&T>,
        now: Instant,
        write: impl FnOnce(&T, &std::path::Path) -> Result<bool, E> + Send + 'static,
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
    fn done(&mut self, value: T, result: Result<bool, E>, now: Instant) -> bool {
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
