//! The table: who sends, to whom, and whose address is seen.

use std::fmt;

/// Who sends, to whom, and whose address is seen.
pub(super) struct Row {
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) mark: Mark,
    /// The hosts on whose way out it is, in order.
    pub(super) by: &'static [usize],
    pub(super) seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod of the first host.
    Pod,
    /// Another pod of that host.
    Beside,
    /// A pod of the second host.
    Remote,
    /// A machine that has nothing to do with the network.
    Outside,
    /// The same, in a range of `NonMasqueradeCIDRs`.
    Exempt,
    /// The first host itself.
    OwnHost,
    /// The second.
    OtherHost,
    /// An address that is behind the second host, and neither its own nor a pod's.
    BehindOther,
    /// A multicast group that the other pod of the first host listens to.
    Group,
}

/// What is on a packet when it comes to the first host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    /// kube-proxy's.
    KubeProxy,
    /// kube-proxy's beside another's.
    Both,
    /// Another's alone.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its own.
    Senders,
    /// The first host's.
    Hosts,
}

/// The table.
pub(super) const ROWS: &[Row] = {
    use Mark::{Both, KubeProxy, None, Other};
    use Place::{BehindOther, Beside, Exempt, Group, OtherHost, Outside, OwnHost, Pod, Remote};
    use Seen::{Hosts, Senders};
    &[
        Row::new(Pod, Beside, None, &[0], Senders),
        Row::new(Pod, Remote, None, &[0, 1], Senders),
        Row::new(Remote, Pod, None, &[1, 0], Senders),
        Row::new(Pod, Outside, None, &[0], Hosts),
        Row::new(Pod, OtherHost, None, &[0], Hosts),
        // It never leaves.
        Row::new(Pod, OwnHost, None, &[], Senders),
        Row::new(Outside, Pod, None, &[0], Senders),
        Row::new(Outside, Remote, None, &[0, 1], Hosts),
        Row::new(Outside, BehindOther, None, &[0], Senders),
        Row::new(Pod, Group, None, &[0], Senders),
        Row::new(Pod, Exempt, None, &[0], Senders),
        Row::new(Exempt, Remote, None, &[0, 1], Hosts),
        Row::new(Pod, Outside, KubeProxy, &[0], Senders),
        Row::new(Pod, Outside, Both, &[0], Senders),
        Row::new(Pod, Outside, Other, &[0], Hosts),
        Row::new(Outside, Remote, KubeProxy, &[0, 1], Senders),
        Row::new(Outside, Remote, Both, &[0, 1], Senders),
        Row::new(Outside, Remote, Other, &[0, 1], Hosts),
    ]
};

impl Row {
    const fn new(from: Place, to: Place, mark: Mark, by: &'static [usize], seen: Seen) -> Self {
        Self {
            from,
            to,
            mark,
            by,
            seen,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, mark, .. } = self;
        write!(f, "{from:?} → {to:?}, mark {:#x}", mark.value())
    }
}

impl Mark {
    pub(super) const fn value(self) -> u32 {
        match self {
            Self::None => 0,
            Self::KubeProxy => 0x4000,
            Self::Both => 0xc000,
            Self::Other => 0x8000,
        }
    }

    /// Packets to this port get it.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::None => 7000,
            Self::KubeProxy => 7004,
            Self::Both => 7012,
            Self::Other => 7008,
        }
    }
}
