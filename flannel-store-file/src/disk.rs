//! From async code to the blocking files: off the runtime's threads, one writer at a time, each
//! within a deadline.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::StoreError;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::directory::{Directory, FileError, Lock};

/// How long a request may take, the wait for the lock included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long reading the whole directory may take.
const LISTING_DEADLINE: Duration = Duration::from_secs(60);
/// Between two attempts to get the lock. It is held for a write and two flushes: some milliseconds.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// How many threads this store may have in the kernel at once: a disk that hangs holds no more.
const MAX_THREADS: usize = 4;

/// A directory, and the right to block on it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) directory: Arc<Directory>,
    threads: Arc<Semaphore>,
}

/// What is blocked, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Request,
    Listing,
}

impl Disk {
    pub(crate) fn new(directory: Directory) -> Self {
        Self {
            directory: Arc::new(directory),
            threads: Arc::new(Semaphore::new(MAX_THREADS)),
        }
    }

    /// Does something that needs no lock. `doing` is what the error says.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        kind: Work,
        doing: &str,
        work: impl FnOnce(&Directory) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = match kind {
            Work::Request => REQUEST_DEADLINE,
            Work::Listing => LISTING_DEADLINE,
        };
        match timeout(deadline, self.blocking(work)).await {
            Ok(outcome) => outcome.map_err(|failure| failure.during(doing)),
            Err(_) => Err(Failure::Other(self.no_answer(deadline).into()).during(doing)),
        }
    }

    /// Does something while nobody else writes. What was begun when the deadline passes is not
    /// undone: the outcome is unknown then.
    pub(crate) async fn locked<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&Directory) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut waiting = true;
        let locked = async {
            let lock = self.lock().await?;
            waiting = false;
            self.blocking(move |directory| {
                let outcome = work(directory);
                drop(lock);
                outcome
            })
            .await
        };
        match timeout(REQUEST_DEADLINE, locked).await {
            Ok(outcome) => outcome.map_err(|failure| failure.during(doing)),
            Err(_) if waiting => {
                let lock = self.directory.lock.display();
                let error = format!(
                    "no lock on {lock} within {REQUEST_DEADLINE:?}; `fuser -v {lock}` shows who holds it"
                );
                Err(Failure::Other(error.into()).during(doing))
            }
            Err(_) => Err(Failure::Other(self.no_answer(REQUEST_DEADLINE).into()).during(doing)),
        }
    }

    async fn lock(&self) -> Result<Lock, Failure> {
        loop {
            if let Some(lock) = self.blocking(Directory::try_lock).await? {
                return Ok(lock);
            }
            sleep(LOCK_RETRY).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, Failure> {
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        let directory = Arc::clone(&self.directory);
        let done = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, though nobody may be waiting for it any more.
            let _thread = thread;
            work(&directory)
        });
        match done.await {
            Ok(outcome) => outcome.map_err(Failure::File),
            Err(stopped) => Err(Failure::Other(stopped.into())),
        }
    }

    fn no_answer(&self, deadline: Duration) -> String {
        let root = self.directory.root.display();
        format!("no answer from {root} within {deadline:?}; see whether its disk is healthy")
    }
}

enum Failure {
    File(FileError),
    Other(Box<dyn Error + Send + Sync>),
}

impl Failure {
    fn during(self, doing: &str) -> StoreError {
        match self {
            Self::File(error) => error.during(doing),
            Self::Other(source) => StoreError::Unavailable {
                doing: doing.to_owned(),
                source,
            },
        }
    }
}

impl FileError {
    /// What failed, because a file did.
    pub(crate) fn during(self, doing: &str) -> StoreError {
        let doing = doing.to_owned();
        match self.source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Denied {
                doing,
                source: self.into(),
            },
            _ => StoreError::Unavailable {
                doing,
                source: self.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_makes_every_request_fail_in_time() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::new(Directory::new(root.path())));
        let mut hung = Vec::new();
        let requests = (0..MAX_THREADS + 2).map(|_| {
            let disk = Arc::clone(&disk);
            let (release, released) = mpsc::channel::<()>();
            hung.push(release);
            async move {
                let work = move |_: &Directory| Ok(released.recv().is_ok());
                disk.run(Work::Request, "read", work).await
            }
        });
        let requests = tokio::spawn(join_all(requests.collect::<Vec<_>>()));
        tokio::task::yield_now().await;
        advance(REQUEST_DEADLINE + Duration::from_millis(1)).await;
        for outcome in requests.await.unwrap() {
            let error = outcome.unwrap_err().to_string();
            assert!(
                error.contains("no answer from") && error.contains("within 5s"),
                "{error}"
            );
        }
        drop(hung);
    }

    #[test]
    fn what_the_system_does_not_permit_is_denied_with_the_remedy_and_the_rest_may_pass() {
        let failure = |kind: ErrorKind| {
            let error = FileError {
                doing: "write",
                path: "/var/lib/flannel/net/lock".to_owned(),
                source: io::Error::from(kind),
            };
            error.during("claim 10.5.1.0/24")
        };
        for (kind, remedy) in [
            (
                ErrorKind::PermissionDenied,
                "let the user of this process read and write there",
            ),
            (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        ] {
            let denied = failure(kind);
            assert!(matches!(denied, StoreError::Denied { .. }), "{denied}");
            assert!(denied.to_string().contains(remedy), "{denied}");
        }
        let full = failure(ErrorKind::StorageFull);
        assert!(full.is_transient(), "{full}");
        assert!(
            full.to_string().contains("/var/lib/flannel/net/lock")
                && full.to_string().contains("free some space")
        );
    }
}
