//! Which file systems cannot hold a store.

use std::io;
use std::path::Path;

use nix::sys::statfs::statfs;

/// The name of the network file system that has this magic number (`f_type` of statfs(2)), if it is
/// one. On these, locks or change notices do not reach the other hosts, so that two could take one
/// subnet and neither would see the other's lease. Numbers from the kernel's `linux/magic.h` and
/// from coreutils' `stat -f`.
pub(crate) fn network_file_system(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B => "SMB",
        0xFE53_4D42 => "SMB2",
        0xFF53_4D42 => "CIFS",
        0x564C => "NCP",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x00C3_6400 => "Ceph",
        0x0BD0_0BD0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636F => "OCFS2",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x2003_0528 => "OrangeFS",
        0xAAD7_AAEA => "PanFS",
        0xBEEF_DEAD => "StorNext",
        0x6163_6673 => "ACFS",
        // A virtual machine's share of a directory of its host.
        0x0102_1997 => "9p",
        0x786F_4256 => "vboxsf",
        0xBACB_ACBC => "vmhgfs",
        // sshfs, GlusterFS, virtiofs; it does not say which.
        0x6573_5546 => "FUSE",
        _ => return None,
    })
}

/// The network file system that `path` lies on, or would lie on once it is made.
pub(crate) fn network_file_system_of(path: &Path) -> io::Result<Option<&'static str>> {
    let made = path.ancestors().find(|ancestor| ancestor.exists());
    let here = made.filter(|made| !made.as_os_str().is_empty());
    let magic = statfs(here.unwrap_or(Path::new(".")))?.filesystem_type().0;
    // The kernel's type is 32 bits wide; C libraries make it signed or wider.
    Ok(network_file_system(magic as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_by_name_and_local_ones_are_not() {
        for (magic, name) in [
            (0x6969, Some("NFS")),
            (0x517B, Some("SMB")),
            (0xFF53_4D42, Some("CIFS")),
            (0xFE53_4D42, Some("SMB2")),
            (0x00C3_6400, Some("Ceph")),
            (0x0BD0_0BD0, Some("Lustre")),
            (0x6573_5546, Some("FUSE")),
            (0x0102_1997, Some("9p")),
            (0x5346_414F, Some("AFS")),
            (0xEF53, None),      // ext4
            (0x5846_5342, None), // xfs
            (0x9123_683E, None), // btrfs
            (0x0102_1994, None), // tmpfs
            (0x794C_7630, None), // overlayfs
            (0x2FC1_2FC1, None), // zfs
            (0xF2F5_2010, None), // f2fs
        ] {
            assert_eq!(network_file_system(magic), name, "{magic:#x}");
        }
    }

    #[test]
    fn a_path_that_is_not_there_yet_is_judged_by_what_it_would_lie_on() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("a/b/c");
        assert_eq!(network_file_system_of(&path).unwrap(), None);
        assert!(!here.path().join("a").exists());
        assert_eq!(network_file_system_of(Path::new("relative")).unwrap(), None);
    }
}
