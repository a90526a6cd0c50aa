//! Which programs a daemon finds: hosts with one iptables or the other, or with none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lab::{DaemonOptions, Lab};

/// Whose tables the program `iptables` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Those of nftables (`iptables-nft`).
    Nft,
    /// The kernel's own of old (`iptables-legacy`).
    Legacy,
}

impl Variant {
    /// The program that is all of its programs, by the name that it is called by.
    fn multi(self) -> &'static str {
        match self {
            Self::Nft => "xtables-nft-multi",
            Self::Legacy => "xtables-legacy-multi",
        }
    }

    /// One of its programs under a name that leaves no doubt, for a test's own use: `iptables-legacy-save`.
    pub(crate) fn program(self, name: &str) -> String {
        let variant = match self {
            Self::Nft => "tables-nft",
            Self::Legacy => "tables-legacy",
        };
        name.replacen("tables", variant, 1)
    }

    /// For a daemon that finds this one.
    pub(crate) fn found(self, lab: &Lab, mut options: DaemonOptions) -> DaemonOptions {
        let directory = lab.directory().join("programs").join(self.multi());
        if !directory.exists() {
            fs::create_dir_all(&directory).unwrap();
            for family in ["iptables", "ip6tables"] {
                for part in ["", "-restore", "-save"] {
                    let link = directory.join(format!("{family}{part}"));
                    symlink(installed(self.multi()), link).unwrap();
                }
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", directory.display());
        options.environment.push(("PATH".into(), path));
        options
    }
}

/// Programs of a lab's hosts that a daemon finds nothing beside, whatever this machine has.
pub(crate) struct Only(PathBuf);

impl Only {
    pub(crate) fn new(lab: &Lab, names: &[&str]) -> Self {
        let only = Self(lab.directory().join("programs").join("only"));
        fs::create_dir_all(&only.0).unwrap();
        names.iter().for_each(|name| only.install(name));
        only
    }

    /// One more.
    pub(crate) fn install(&self, name: &str) {
        let file = installed(name).canonicalize().unwrap();
        let own = self.0.join(file.file_name().unwrap());
        if !own.exists() {
            fs::copy(&file, &own).unwrap();
        }
        if !own.ends_with(name) {
            symlink(file.file_name().unwrap(), self.0.join(name)).unwrap();
        }
    }

    /// For a daemon of [`crate::network::network_behind_prologue`].
    pub(crate) fn found(&self, mut options: DaemonOptions) -> DaemonOptions {
        let directory = self.0.display().to_string();
        options.environment.extend([
            ("FLANNELD".into(), env!("CARGO_BIN_EXE_flanneld").into()),
            ("PROGRAMS".into(), directory),
            ("PROLOGUE".into(), HIDING.into()),
        ]);
        options
    }
}

/// The directory takes the place of the system's, in mounts that are the daemon's alone.
const HIDING: &str = r#"exec unshare --mount --propagation private sh -euc '
    for system in /usr/sbin /sbin; do
        [ -L $system ] || mount --bind "$PROGRAMS" $system
    done
    export PATH="$PROGRAMS"
    exec "$FLANNELD" "$@"' - "$@""#;

fn installed(program: &str) -> PathBuf {
    let directories = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Path::new);
    let mut found = directories.iter().map(|directory| directory.join(program));
    found
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not installed: run `apt-get install iptables nftables`"))
}
