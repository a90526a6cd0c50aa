//! A firewall that keeps its rules in memory.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::{Filter, Firewall, FirewallError, Kept, PodNetwork};

/// Stands in for a host's firewall. Clones are the same one.
///
/// ```
/// use flannel_core::testing::FakeFirewall;
///
/// let firewall = FakeFirewall::masquerading();
/// assert_eq!((firewall.rules(), firewall.looks()), (None, 0));
/// ```
#[derive(Debug, Clone)]
pub struct FakeFirewall {
    masquerades: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Option<PodNetwork>,
    looks: usize,
    writes: usize,
    failure: Option<FirewallError>,
    filters: Vec<Filter>,
}

/// How often a [`FakeFirewall`] is looked at though nothing happens.
const RESYNC: Duration = Duration::from_secs(5);

/// The one table in which a [`FakeFirewall`] has its rules.
const TABLE: &str = "ip fake";

impl FakeFirewall {
    /// One whose rules pods need to reach the outside.
    #[must_use]
    pub fn masquerading() -> Self {
        Self {
            masquerades: true,
            state: Arc::default(),
        }
    }

    /// One that only accepts forwarded packets.
    #[must_use]
    pub fn forwarding() -> Self {
        Self {
            masquerades: false,
            state: Arc::default(),
        }
    }

    /// What the rules are made for, if there are any.
    #[must_use]
    pub fn rules(&self) -> Option<PodNetwork> {
        self.state().rules.clone()
    }

    /// Takes all rules away. Nothing announces it.
    pub fn flush(&self) {
        self.state().rules = None;
    }

    /// How often it was asked to keep its rules.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.state().looks
    }

    /// How often there was something to write.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// From now on it fails, or works again.
    pub fn fail(&self, failure: Option<FirewallError>) {
        self.state().failure = failure;
    }

    /// The chains that it tells of.
    pub fn set_filters(&self, filters: Vec<Filter>) {
        self.state().filters = filters;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

#[async_trait]
impl Firewall for FakeFirewall {
    async fn keep(&self, pods: &PodNetwork) -> Result<Kept, FirewallError> {
        let mut state = self.state();
        state.looks += 1;
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let mut kept = Kept {
            filters: state.filters.clone(),
            ..Kept::default()
        };
        if state.rules.as_ref() != Some(pods) {
            state.rules = Some(pods.clone());
            state.writes += 1;
            kept.written = vec!["rules written".to_owned()];
        }
        Ok(kept)
    }

    fn masquerades(&self) -> bool {
        self.masquerades
    }

    fn is_concerned(&self, table: &str) -> bool {
        table == TABLE
    }

    fn resync(&self) -> Duration {
        RESYNC
    }
}
