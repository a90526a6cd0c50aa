use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::ruleset::tests::{ALL, pods};

/// A host with programs that say nothing but their version.
async fn places(programs: &[(&str, &str)]) -> Places {
    let directory = TempDir::new().unwrap();
    for (name, version) in programs {
        for name in [(*name).to_owned(), format!("{name}-restore")] {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let directories = Directories::only(vec![directory.path().to_owned()]);
    Places::find(Family::V4, &directories, &mut Known::default()).await
}

const LEGACY: &str = "iptables v1.8.9 (legacy)";
const NFT: &str = "iptables v1.8.9 (nf_tables)";

#[tokio::test]
async fn commands_name_the_program_that_sees_the_place() {
    let rules = Ruleset::for_pods(Family::V4, &pods(), ALL);
    let found = Found::Chains(Seen {
        postrouting: "-P POSTROUTING ACCEPT
-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.7.0/24 -j RETURN
-A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE
"
        .to_owned(),
        forward: "-P FORWARD ACCEPT
-A FORWARD -s 10.244.0.0/16 -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -j ACCEPT
"
        .to_owned(),
        ..Seen::default()
    });
    let places = places(&[("iptables", LEGACY), ("iptables-nft", NFT)]).await;
    let names = Names::flannels();
    let programs: Vec<_> = places.all().map(|place| place.program().to_owned()).collect();
    assert_eq!(programs, ["iptables", "iptables-nft"]);
    for (place, program) in places.all().zip(programs) {
        let outdated = place.outdated(&found, &rules, &names, &[]);
        assert_eq!(outdated.len(), 6, "{outdated:?}");
        let wanted = [
            format!("{program} -t nat -A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN"),
            format!("{program} -A FORWARD -d 10.244.0.0/16 -j ACCEPT"),
        ];
        assert_eq!([&outdated[0], &outdated[5]], [&wanted[0], &wanted[1]]);
        let networks = [rules.network.unwrap()];
        let leftovers = place.leftovers(&found, &names, &networks);
        assert!(!leftovers.is_empty());
        let start = format!("{program} -t ");
        assert!(
            leftovers.iter().all(|line| line.starts_with(&start)),
            "{leftovers:?}"
        );
    }
}

#[tokio::test]
async fn a_place_is_lost_where_no_program_sees_it() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    // Where `iptables` is of that variant, nobody needs the other name.
    let places = places(&[("iptables", LEGACY)]).await;
    assert_eq!(places.lost(&words(&["iptables-legacy", "of another kind"])), []);
    let lost = places.lost(&words(&["iptables-nft", "nft"]));
    let texts: Vec<String> = lost.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "iptables-nft is not installed: install it, as rules of ours may be left where iptables-nft had put them",
            "nft is not installed: install it, as rules of ours may be left where nft had put them",
        ]
    );
}

#[tokio::test]
async fn a_program_that_is_there_and_broken_is_not_called_missing() {
    let words = std::collections::BTreeSet::from(["iptables-nft".to_owned()]);
    for programs in [
        [("iptables", "?")].as_slice(),
        &[("iptables", LEGACY), ("iptables-nft", "?")],
    ] {
        let lost = places(programs).await.lost(&words);
        assert!(
            matches!(lost.as_slice(), [FirewallError::Failed { .. }]),
            "{lost:?}"
        );
    }
}
