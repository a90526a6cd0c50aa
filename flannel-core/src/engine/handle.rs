//! An engine as others see it while it runs.

use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{PeerList, Status};

/// What is asked of a running engine; whoever asks may have gone by the time of the answer.
#[derive(Debug)]
pub(super) enum Question {
    Peers(usize, oneshot::Sender<PeerList>),
    Alive(oneshot::Sender<()>),
}

/// Looks at an [`Engine`](crate::Engine) while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) audit: Arc<Notify>,
    pub(super) ask: mpsc::Sender<Question>,
}

impl EngineHandle {
    /// How the engine is doing.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// How it is doing now, and from now on. The stream ends with the engine; whoever reads slowly
    /// gets the latest status, not every one.
    pub fn statuses(&self) -> impl Stream<Item = Arc<Status>> + Send + use<> {
        let mut status = self.status.clone();
        status.mark_changed();
        futures_util::stream::unfold(status, |mut status| async move {
            status.changed().await.ok()?;
            let latest = status.borrow_and_update().clone();
            Some((latest, status))
        })
    }

    /// Waits until a status is as asked; `None` when the engine has ended before.
    pub async fn wait_for(&self, mut asked: impl FnMut(&Status) -> bool + Send) -> Option<Arc<Status>> {
        let mut status = self.status.clone();
        status
            .wait_for(|status| asked(status))
            .await
            .ok()
            .map(|status| status.clone())
    }

    /// Has the engine look at host and kernel now.
    pub fn audit(&self) {
        self.audit.notify_one();
    }

    /// The other hosts' leases and what became of each, at most `limit` of them. Costs the engine
    /// a walk over all of them. Waits for the engine to run; `None` when it has ended.
    pub async fn peers(&self, limit: usize) -> Option<PeerList> {
        let (answer, answered) = oneshot::channel();
        self.ask.send(Question::Peers(limit, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Waits until the engine has gone through its loop once more: it is alive. False when it has
    /// ended.
    pub async fn is_alive(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.ask.send(Question::Alive(answer)).await.is_ok() && answered.await.is_ok()
    }
}
