//! Whether checksums of packets in the tunnel are left to the hardware below it.

use flannel_core::KernelRelease;

/// Offload is left alone from this kernel on.
///
/// Where this host rewrites the address or port of the tunnel's own packets, its NAT spoils their UDP
/// checksum if that of the packet inside is still to be made. The receiver drops them: connections take 1 to
/// 63 s, or never come about. There are two defects. A checksum of 0, which means "none", is "updated" before
/// Linux 5.7 (ea64d8d6c675, "netfilter: nat: never update the UDP checksum when it's 0"; also in 5.6.13,
/// 5.4.41, 4.19.123 and 4.14.181, which two numbers do not tell from those without it). A full checksum,
/// which VXLAN devices write since 4.6, is taken for that of the pseudo header alone, still by 6.18 (measured).
///
/// Kernels before 5.7 are those of the time when Kubernetes rewrote such packets by mistake (kube-proxy
/// before 1.16.13, 1.17.9 and 1.18.6). Since then it takes rules of somebody's own, and without offload the
/// tunnel carries half as much (measured on 6.18, between two network namespaces).
const TRUSTED: KernelRelease = KernelRelease { major: 5, minor: 7 };

/// Who makes the checksums of what goes into the tunnel: the option `TxChecksumOffload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Offload {
    /// The kernel does where leaving it to the hardware is known to go wrong.
    #[default]
    Auto,
    /// The hardware, whatever the kernel.
    On,
    /// The kernel.
    Off,
}

impl Offload {
    /// The one of this name, in any case.
    pub(crate) fn named(text: &str) -> Option<Self> {
        let named = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
        let found = named
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, offload)| offload)
    }

    /// What is asked of the device (`tx-checksum-ip-generic`); `None`: it stays as it is, which for one
    /// that was made here is on. An unknown kernel is taken to be right.
    pub(crate) fn wanted(self, kernel: Option<KernelRelease>) -> Option<bool> {
        match self {
            Self::Auto => kernel.filter(|kernel| *kernel < TRUSTED).map(|_| false),
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_switches_offload_off_before_linux_5_7_and_leaves_it_alone_otherwise() {
        for (major, minor, expected) in [
            (3, 10, Some(false)),
            (4, 19, Some(false)),
            (5, 4, Some(false)),
            (5, 6, Some(false)),
            (5, 7, None),
            (5, 15, None),
            (6, 1, None),
        ] {
            let kernel = Some(KernelRelease { major, minor });
            assert_eq!(Offload::Auto.wanted(kernel), expected, "{major}.{minor}");
        }
        assert_eq!(Offload::Auto.wanted(None), None);
    }

    #[test]
    fn on_and_off_hold_whatever_the_kernel() {
        for kernel in [None, Some(KernelRelease { major: 4, minor: 9 }), Some(TRUSTED)] {
            assert_eq!(Offload::On.wanted(kernel), Some(true));
            assert_eq!(Offload::Off.wanted(kernel), Some(false));
        }
    }
}
