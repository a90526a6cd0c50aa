//! The kernel's notices about the store's directories, inotify(7), condensed into what to look at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use crate::directory::{Directory, is_hidden};

/// How often the queue is read (4 KiB each time) before what it held is worked on.
const MAX_READS: usize = 64;

/// The directories' watch as the kernel has it. It ends with this value.
#[derive(Debug)]
pub(crate) struct Marks {
    queue: Inotify,
    root: WatchDescriptor,
    subnets: WatchDescriptor,
}

/// The same, ready to be awaited.
#[derive(Debug)]
pub(crate) struct Notices(AsyncFd<Marks>);

/// What happened, in no order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The config may be different.
    pub(crate) config: Option<Writing>,
    /// These entries may be different.
    pub(crate) names: BTreeMap<OsString, Writing>,
    /// The kernel dropped notices.
    pub(crate) overrun: bool,
    /// A directory was deleted, moved or unmounted.
    pub(crate) gone: bool,
}

/// Whether somebody may still be writing the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Writing {
    /// It was made or touched just now: another notice comes when it is closed.
    Maybe,
    /// It was closed, moved or deleted.
    Done,
}

impl AsRawFd for Marks {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_fd().as_raw_fd()
    }
}

impl Marks {
    pub(crate) fn place(directory: &Directory) -> io::Result<Self> {
        // Links and FIFOs are only ever created, not closed; a mended mode is an attribute.
        let what = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let root = queue.add_watch(&directory.root, what)?;
        let subnets = queue.add_watch(&directory.subnets, what)?;
        Ok(Self { queue, root, subnets })
    }
}

impl Notices {
    /// Must be called in a runtime.
    #[allow(
        deprecated,
        reason = "its successor is unsafe code; `Marks` owns one descriptor and never changes it"
    )]
    pub(crate) fn new(marks: Marks) -> io::Result<Self> {
        AsyncFd::new(marks).map(Self)
    }

    /// Waits for notices, and takes all that there are.
    pub(crate) async fn next(&self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut ready = self.0.readable().await?;
        for _ in 0..MAX_READS {
            match ready.try_io(|marks| Ok(marks.get_ref().queue.read_events()?)) {
                Ok(Ok(events)) => {
                    for event in events {
                        changes.add(event, self.0.get_ref());
                    }
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_empty) => break,
            }
        }
        Ok(changes)
    }
}

impl Changes {
    fn add(&mut self, event: InotifyEvent, marks: &Marks) {
        let is = |flags| event.mask.intersects(flags);
        let gone = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_IGNORED;
        self.overrun |= is(AddWatchFlags::IN_Q_OVERFLOW);
        self.gone |= is(gone);
        let Some(name) = event.name else {
            return;
        };
        let writing = if is(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ATTRIB) {
            Writing::Maybe
        } else {
            Writing::Done
        };
        if event.wd == marks.subnets {
            if !is_hidden(&name) {
                let before = self.names.entry(name).or_insert(writing);
                *before = writing.max(*before);
            }
        } else if event.wd == marks.root && name != "lock" && name != "subnets" {
            // Whatever it is: the config may be a link that leads through it.
            self.config = self.config.max(Some(writing));
        }
    }
}
