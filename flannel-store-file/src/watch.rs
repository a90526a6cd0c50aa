//! The stream of events: watch first, then list, then follow what changes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use flannel_core::{ConfigError, Gap, NetworkConfig, StoreError, StoreEvent};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use crate::directory::{ConfigText, Directory, FileError, Inodes, Reading};
use crate::disk::{Disk, Work};
use crate::entry::Clock;
use crate::notices::{Changes, Marks, Notices, Writing};
use crate::view::View;

/// How long after a failure the directory is looked at again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Config, snapshot, and whatever changes. It does something only while it is polled; what happens
/// in between waits in the kernel's queue, and where that overflows there is a new snapshot.
pub(crate) fn events(disk: Arc<Disk>) -> BoxStream<'static, StoreEvent> {
    let watch = Watch {
        disk,
        view: View::default(),
        config: None,
        ready: VecDeque::new(),
        state: State::Blind(Blind {
            gap: Gap::Start,
            silent: false,
            pause: None,
        }),
        removal: Arc::new(Semaphore::new(1)),
    };
    unfold(watch, |mut watch| async move {
        loop {
            if let Some(event) = watch.ready.pop_front() {
                return Some((event, watch));
            }
            watch.advance().await;
        }
    })
    .boxed()
}

struct Watch {
    disk: Arc<Disk>,
    view: View,
    config: Option<ConfigText>,
    /// What is to be said next: no more than what one look at the directory led to.
    ready: VecDeque<StoreEvent>,
    state: State,
    /// Held by whoever removes expired leases for this watch.
    removal: Arc<Semaphore>,
}

enum State {
    /// The directory is to be listed.
    Blind(Blind),
    /// The kernel tells what changes.
    Following(Notices, Inodes),
}

#[derive(Clone, Copy)]
struct Blind {
    gap: Gap,
    /// Whether it was said that there is silence.
    silent: bool,
    /// How long to wait before the next attempt.
    pause: Option<Duration>,
}

/// A listing, with the watch that began before it.
struct Listed {
    marks: Marks,
    inodes: Inodes,
    config: ConfigText,
    entries: Vec<(OsString, Reading)>,
}

/// The entries that were looked at again.
struct Looked {
    inodes: Inodes,
    config: Option<(ConfigText, Writing)>,
    entries: Vec<(OsString, Reading, Writing)>,
}

impl Watch {
    async fn advance(&mut self) {
        match &self.state {
            State::Blind(blind) => {
                let blind = *blind;
                if let Some(pause) = blind.pause {
                    sleep(pause).await;
                }
                if let Err(error) = self.list(blind.gap).await {
                    self.retry(blind, &error);
                }
            }
            State::Following(notices, inodes) => {
                let inodes = *inodes;
                let changes = tokio::select! {
                    changes = notices.next() => changes,
                    () = expiry(self.view.next_expiry()) => Ok(self.due()),
                };
                match changes {
                    Ok(changes) => self.follow(changes, inodes).await,
                    Err(error) => self.lose(Gap::Missed, &error),
                }
            }
        }
    }

    /// Looks at everything, and says it.
    async fn list(&mut self, gap: Gap) -> Result<(), StoreError> {
        let doing = format!("watch {}", self.disk.directory.root.display());
        let listed = self.disk.run(Work::Listing, &doing, list).await?;
        let notices = Notices::new(listed.marks).map_err(|error| StoreError::Unavailable {
            doing,
            source: error.into(),
        })?;
        self.note_config(listed.config);
        if gap != Gap::Missed {
            self.view = View::default();
        }
        let names: Vec<OsString> = listed.entries.iter().map(|(name, _)| name.clone()).collect();
        self.view.retain(&names);
        let said = self.note(listed.entries);
        self.ready.push_back(StoreEvent::Snapshot {
            leases: self.view.leases(),
            gap,
        });
        // The snapshot has said everything else.
        let complaint = |event: &StoreEvent| matches!(event, StoreEvent::Unreadable { .. });
        self.ready.extend(said.into_iter().filter(complaint));
        self.state = State::Following(notices, listed.inodes);
        Ok(())
    }

    /// Looks at what may have changed, and says what has.
    async fn follow(&mut self, changes: Changes, inodes: Inodes) {
        if changes.gone {
            return self.lose(Gap::HistoryLost, &"it was deleted, moved or unmounted");
        }
        if changes.overrun {
            return self.state = State::Blind(Blind {
                gap: Gap::Missed,
                silent: false,
                pause: None,
            });
        }
        let doing = format!("read {}", self.disk.directory.root.display());
        let looked = match self
            .disk
            .run(Work::Request, &doing, move |directory| look(directory, changes))
            .await
        {
            Ok(looked) if looked.inodes == inodes => looked,
            // Its files vanish before a directory does: nobody has given those leases up.
            Ok(_) => return self.lose(Gap::HistoryLost, &"it is another directory now"),
            Err(error) => return self.lose(gap_after(&error), &error),
        };
        if let Some((config, writing)) = looked.config
            && (writing == Writing::Done || !is_unfinished(&config))
        {
            self.note_config(config);
        }
        let unfinished = |(_, reading, writing): &(OsString, Reading, Writing)| {
            *writing == Writing::Maybe && matches!(reading, Reading::Garbled { .. })
        };
        let entries = looked.entries.into_iter().filter(|entry| !unfinished(entry));
        let said = self.note(entries.map(|(name, reading, _)| (name, reading)).collect());
        self.ready.extend(said);
    }

    /// The leases that end now, as if their files had changed.
    fn due(&self) -> Changes {
        let due = self.view.due(Instant::now());
        Changes {
            names: due.into_iter().map(|name| (name, Writing::Done)).collect(),
            ..Changes::default()
        }
    }

    fn note(&mut self, entries: Vec<(OsString, Reading)>) -> Vec<StoreEvent> {
        let clock = Clock::now();
        let (mut said, mut expired) = (Vec::new(), Vec::new());
        for (name, reading) in entries {
            let outcome = self.view.note(&name, reading, &clock);
            said.extend(outcome.events);
            expired.extend(outcome.expired.then_some(name));
        }
        self.remove(expired);
        said
    }

    fn note_config(&mut self, config: ConfigText) {
        if self.config.as_ref() != Some(&config) {
            let place = &self.disk.directory.config;
            let parsed = match &config {
                ConfigText::Text(text) => NetworkConfig::from_json(text),
                ConfigText::Missing => Err(ConfigError::Missing {
                    place: place.display().to_string(),
                }),
                ConfigText::Unreadable(reason) => Err(ConfigError::Unreadable {
                    place: place.display().to_string(),
                    reason: reason.clone(),
                }),
            };
            self.config = Some(config);
            self.ready
                .push_back(StoreEvent::Config(parsed.map(Arc::new).map_err(Arc::new)));
        }
    }

    /// Removes expired leases on the side: events do not wait for the lock. If a removal is under
    /// way already these stay, and count as nothing.
    fn remove(&self, expired: Vec<OsString>) {
        if expired.is_empty() {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.removal).try_acquire_owned() {
            let disk = Arc::clone(&self.disk);
            tokio::spawn(async move {
                let _permit = permit;
                let remove =
                    move |directory: &Directory| crate::requests::remove_expired(directory, &expired);
                if let Err(error) = disk.locked("remove expired leases", remove).await {
                    tracing::debug!(%error, "expired leases stay where they are");
                }
            });
        }
    }

    /// What was followed is followed no more.
    fn lose(&mut self, gap: Gap, reason: &dyn Display) {
        self.silence(reason);
        self.state = State::Blind(Blind {
            gap,
            silent: true,
            pause: None,
        });
    }

    fn retry(&mut self, before: Blind, error: &StoreError) {
        if !before.silent {
            self.silence(error);
        }
        let there = self.disk.directory.root.as_path();
        tracing::debug!(store = %there.display(), %error, "the store cannot be watched yet");
        let gap = match before.gap {
            Gap::Missed => gap_after(error),
            gap => gap,
        };
        self.state = State::Blind(Blind {
            gap,
            silent: true,
            pause: Some(
                before
                    .pause
                    .map_or(FIRST_RETRY, |pause| (pause * 2).min(LAST_RETRY)),
            ),
        });
    }

    fn silence(&mut self, reason: &dyn Display) {
        self.ready.push_back(StoreEvent::Silent {
            since: Instant::now(),
            reason: format!("{}: {reason}", self.disk.directory.root.display()),
        });
    }
}

async fn expiry(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

fn is_unfinished(config: &ConfigText) -> bool {
    match config {
        ConfigText::Text(text) => NetworkConfig::from_json(text).is_err(),
        ConfigText::Missing | ConfigText::Unreadable(_) => false,
    }
}

/// Once a directory is not there at all, what comes back may be another.
fn gap_after(error: &StoreError) -> Gap {
    let file = match error {
        StoreError::Unavailable { source, .. } => source.downcast_ref::<FileError>(),
        _ => None,
    };
    match file.map(|error| error.source.kind()) {
        Some(ErrorKind::NotFound | ErrorKind::NotADirectory) => Gap::HistoryLost,
        _ => Gap::Missed,
    }
}

fn list(directory: &Directory) -> Result<Listed, FileError> {
    let inodes = directory.inodes()?;
    let marks = Marks::place(directory).map_err(|source| FileError {
        doing: "watch",
        path: directory.root.display().to_string(),
        source: explain(source),
    })?;
    let read = |name: OsString| {
        let reading = directory.read(&name);
        (name, reading)
    };
    Ok(Listed {
        marks,
        inodes,
        config: directory.read_config(),
        entries: directory.names()?.into_iter().map(read).collect(),
    })
}

fn look(directory: &Directory, changes: Changes) -> Result<Looked, FileError> {
    let config = changes.config.map(|writing| (directory.read_config(), writing));
    let read = |(name, writing): (OsString, Writing)| {
        let reading = directory.read(&name);
        (name, reading, writing)
    };
    let entries = changes.names.into_iter().map(read).collect();
    Ok(Looked {
        config,
        entries,
        inodes: directory.inodes()?,
    })
}

/// The kernel's own words for its limits mislead.
fn explain(error: io::Error) -> io::Error {
    let remedy = match error.kind() {
        ErrorKind::StorageFull => "no inotify watch is left; raise the sysctl fs.inotify.max_user_watches",
        _ if error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32) => {
            "no inotify instance or file descriptor is left; raise the sysctl fs.inotify.max_user_instances"
        }
        _ => return error,
    };
    io::Error::other(remedy)
}
