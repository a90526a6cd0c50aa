//! The kernel as a trait: dump, change, watch.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use ipnet::IpNet;
use thiserror::Error;

use crate::{DeviceName, Object, ObjectId, Op};

/// Reads and changes the kernel objects of a network. `flannel-netlink` has the one for Linux;
/// [`testing::FakeKernel`](crate::testing) stands in for it. Whoever writes another runs the
/// contract suite of the `testing` feature against it.
#[async_trait]
pub trait RouteProgrammer: Send + Sync {
    /// Every object in scope, whoever made it: which are ours is decided by [`Ownership`](crate::Ownership).
    /// Either all of them or an error: never a part.
    ///
    /// # Errors
    ///
    /// [`KernelError`], when the kernel did not answer, or not completely.
    async fn dump(&self, scope: &Scope) -> Result<Vec<Object>, KernelError>;

    /// Makes the changes in their order, and goes on after one that fails.
    ///
    /// # Errors
    ///
    /// [`KernelError`], when it is not known which of them were made.
    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError>;

    /// What changes from now on: the subscription is in place when this returns. Ends only with the
    /// programmer. A slow reader is told of an [`Changed::Overrun`], and is never waited for.
    ///
    /// # Errors
    ///
    /// [`KernelError`], when there is no subscription to be had.
    fn watch(&self, scope: &Scope) -> Result<BoxStream<'static, Changed>, KernelError>;
}

/// Which objects an engine looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Routes in table main whose destination lies in one of these.
    pub networks: Vec<IpNet>,
    /// Devices of these names, with their addresses, their permanent neighbours and the permanent
    /// entries of their forwarding databases.
    pub devices: Vec<DeviceName>,
    /// Whether routes by which other hosts are reached ([`HostFacts::underlay`](crate::HostFacts))
    /// matter: a watch tells of [`Changed::Host`] when one outside the networks changes.
    pub underlay: bool,
}

impl Scope {
    /// Whether a route to `destination` is in scope.
    #[must_use]
    pub fn covers(&self, destination: IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(&destination))
    }

    /// Whether an object is in scope.
    #[must_use]
    pub fn includes(&self, id: &ObjectId) -> bool {
        includes(&self.networks, &self.devices, id)
    }

    /// Whether a device is in scope.
    #[must_use]
    pub fn has(&self, device: &DeviceName) -> bool {
        self.devices.contains(device)
    }
}

/// Whether an object leads into one of these networks, or is on one of these devices, or one of them.
pub(crate) fn includes(networks: &[IpNet], devices: &[DeviceName], id: &ObjectId) -> bool {
    match id {
        ObjectId::Route(route) => networks
            .iter()
            .any(|network| network.contains(&route.destination)),
        _ => id.device().is_some_and(|device| devices.contains(&device)),
    }
}

/// Something in scope is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// An object was made, or made different. Our own changes may show up, too.
    Appeared(Object),
    /// An object was removed.
    Vanished(Object),
    /// A device in scope was made, changed or removed, or an address of it was: somebody is to look.
    Device(DeviceName),
    /// What is in this place on a device in scope is nothing that an [`Object`] says any more, such as a
    /// neighbour that ages where a permanent one was.
    Gone(ObjectId),
    /// Links, addresses, default routes or chains that forwarded packets pass changed: facts about the
    /// host.
    Host,
    /// Likewise, and more: this device went down or away, or lost an address. The kernel drops IPv4
    /// routes over it without a word.
    Down(DeviceName),
    /// A table of the packet filter changed, this one (`ip nat`); `None`: notifications were lost, and
    /// any may have. [`Changed::Host`] follows where that may be a fact about the host.
    Table(Option<String>),
    /// Notifications were lost; said once those that were not lost have been read.
    Overrun,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The operations that failed: their place in the plan, and why.
    pub failed: Vec<(usize, OpError)>,
}

/// Why one operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct OpError {
    /// What it means to the caller.
    pub kind: OpErrorKind,
    /// The kernel's words, and the errno's.
    pub text: String,
}

/// What a failed operation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpErrorKind {
    /// There is an object in the place already (`EEXIST`).
    Exists,
    /// There is no such object (`ESRCH`, `ENOENT`).
    Gone,
    /// The gateway is on no link of this host (`ENETUNREACH`, `EHOSTUNREACH`).
    Unreachable,
    /// The device is not there, or is down (`ENODEV`, `ENETDOWN`).
    NoDevice,
    /// This process may not (`EPERM`, `EACCES`).
    Denied,
    /// Anything else.
    Other,
}

/// Why the kernel could not be asked, or gave no whole answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel refused a whole request.
    #[error("the kernel refused to {doing}: {text}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// The kernel's words.
        text: String,
    },
    /// No answer, or only a part of one, within the deadline.
    #[error("no whole answer within {deadline:?} when trying to {doing}; trying again")]
    Deadline {
        /// What was tried.
        doing: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// Tables changed faster than they could be read.
    #[error("{doing}: the tables changed while they were read, {times} times in a row; trying again")]
    Unstable {
        /// What was tried.
        doing: &'static str,
        /// How often.
        times: u32,
    },
    /// The answer made no sense.
    #[error("cannot read the kernel's answer to {doing}: {text}")]
    Malformed {
        /// What was tried.
        doing: &'static str,
        /// What was wrong with it.
        text: String,
    },
}

impl KernelError {
    /// Whether trying again may help without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Unstable { .. } => true,
            Self::System { source, .. } => source.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Refused { .. } | Self::Malformed { .. } => false,
        }
    }
}

impl fmt::Display for OpErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "something else is in the place",
            Self::Gone => "it is gone",
            Self::Unreachable => "the gateway is on no link of this host",
            Self::NoDevice => "the device is not there or is down",
            Self::Denied => "not permitted; run with CAP_NET_ADMIN",
            Self::Other => "failed",
        })
    }
}
