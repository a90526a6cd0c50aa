//! The network namespace that a [`Netlink`](crate::Netlink) belongs to.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sched::CloneFlags;

/// A namespace, so that sockets of it can be made later, from any thread.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// None where `/proc` is not there to ask; threads that have moved cannot be told then.
    handle: Option<File>,
}

impl Namespace {
    /// That of the calling thread.
    pub(crate) fn current() -> Self {
        Self {
            handle: File::open("/proc/thread-self/ns/net").ok(),
        }
    }

    /// Makes a socket of the namespace. Another thread enters it for that where the calling one is
    /// elsewhere, which needs `CAP_SYS_ADMIN`.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(handle) = self.handle.as_ref().filter(|handle| !is_current(handle)) else {
            return make();
        };
        let handle = handle.try_clone()?;
        let entered = std::thread::spawn(move || {
            nix::sched::setns(handle, CloneFlags::CLONE_NEWNET)?;
            make()
        });
        entered
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that entered the namespace died")))
    }
}

fn is_current(handle: &File) -> bool {
    let identity = |file: &File| {
        let metadata = file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let current = Namespace::current().handle;
    current.is_some_and(|current| identity(&current) == identity(handle))
}
