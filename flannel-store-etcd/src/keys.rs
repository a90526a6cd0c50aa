//! Where things stand in etcd: flannel's keys.

use flannel_core::SubnetKey;

/// The keys below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// `<prefix>/config`.
    pub(crate) config: String,
    /// `<prefix>/subnets/`, slash and all: flannel leaves it out, and so takes the keys below
    /// `<prefix>/subnets-backup` for leases.
    pub(crate) leases: String,
}

impl Keys {
    /// Joins as flannel does, with Go's `path.Join`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            config: join(prefix, "config"),
            leases: join(prefix, "subnets") + "/",
        }
    }

    pub(crate) fn lease(&self, subnet: SubnetKey) -> String {
        self.leases.clone() + &subnet.to_key()
    }

    /// The first key behind those of the leases: `/` is followed by `0`.
    pub(crate) fn leases_end(&self) -> String {
        self.leases.trim_end_matches('/').to_owned() + "0"
    }

    /// What a lease's key is called below the prefix; as much of it as is text.
    pub(crate) fn name(&self, key: &[u8]) -> String {
        let name = key.strip_prefix(self.leases.as_bytes()).unwrap_or(key);
        String::from_utf8_lossy(name).into_owned()
    }
}

/// Go's `path.Join(prefix, name)`: the shortest name of the same place.
fn join(prefix: &str, name: &str) -> String {
    let rooted = prefix.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/').chain([name]) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let root = if rooted { "/" } else { "" };
    root.to_owned() + &parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_joined_and_cleaned_as_go_does() {
        for (prefix, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//coreos.com//network//", "/coreos.com/network/config"),
            ("/coreos.com/./network/x/..", "/coreos.com/network/config"),
            ("coreos.com/network", "coreos.com/network/config"),
            ("/", "/config"),
            ("", "config"),
            ("/..", "/config"),
            ("..", "../config"),
            ("a/../../b", "../b/config"),
        ] {
            assert_eq!(Keys::new(prefix).config, config, "{prefix:?}");
        }
    }

    #[test]
    fn the_range_of_leases_holds_every_lease_and_nothing_beside_the_directory() {
        let keys = Keys::new("/net");
        let in_range = |key: &str| (keys.leases.as_str()..keys.leases_end().as_str()).contains(&key);
        let subnet = "10.5.1.0/24,fd00::/64".parse().unwrap();
        assert_eq!(keys.lease(subnet), "/net/subnets/10.5.1.0-24&fd00::-64");
        assert!(in_range(&keys.lease(subnet)));
        assert!(in_range("/net/subnets/garbage"));
        for other in [
            "/net/subnets",
            "/net/subnets-backup/10.5.9.0-24",
            "/net/subnets0",
            "/net/config",
        ] {
            assert!(!in_range(other), "{other}");
        }
    }

    #[test]
    fn a_name_is_what_stands_below_the_directory_and_need_not_be_text() {
        let keys = Keys::new("/net");
        assert_eq!(keys.name(b"/net/subnets/10.5.1.0-24"), "10.5.1.0-24");
        assert_eq!(keys.name(b"/net/subnets/\xff"), "\u{fffd}");
    }
}
