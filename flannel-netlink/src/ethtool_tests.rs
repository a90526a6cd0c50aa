use proptest::prelude::*;

use super::*;

/// An answer with these features: a name, and whether its value is there.
fn answer(only_set: bool, features: &[(&str, bool)]) -> Vec<u8> {
    let bits: Vec<u8> = features
        .iter()
        .flat_map(|(name, value)| {
            let mut bit = encoded(1, &5_u32.to_ne_bytes());
            bit.extend(encoded_text(BIT_NAME, name));
            if *value {
                bit.extend(encoded(BIT_VALUE, &[]));
            }
            encoded(BIT | NESTED, &bit)
        })
        .collect();
    let mut active = Vec::new();
    if only_set {
        active.extend(encoded(NO_MASK, &[]));
    }
    active.extend(encoded(2, &64_u32.to_ne_bytes()));
    active.extend(encoded(BITS | NESTED, &bits));
    let features = [header(7, 0), encoded(ACTIVE | NESTED, &active)].concat();
    [&[11, 1, 0, 0], &features[..]].concat()
}

#[test]
fn a_feature_is_on_if_it_is_listed_or_has_a_value_where_all_are_listed() {
    for (only_set, features, expected) in [
        (true, &[("rx-gro", false), (FEATURE, false)][..], true),
        (true, &[("rx-gro", false), ("tx-checksum-ipv4", false)], false),
        (true, &[], false),
        (false, &[(FEATURE, true)], true),
        (false, &[(FEATURE, false), ("rx-gro", true)], false),
    ] {
        let read = decode_features(&answer(only_set, features));
        assert_eq!(read.unwrap(), Some(expected), "{only_set} {features:?}");
    }
}

#[test]
fn an_answer_that_does_not_tell_which_features_are_active_tells_nothing() {
    let without = [&[11, 1, 0, 0], &header(7, 0)[..]].concat();
    assert_eq!(decode_features(&without).unwrap(), None);
    assert_eq!(decode_features(&[]).unwrap(), None);
}

#[test]
fn a_request_names_one_feature_and_leaves_the_others() {
    let wanted = |on| {
        let all = wanted(on);
        let inner = attribute(&all, WANTED).unwrap().unwrap().to_vec();
        assert_eq!(attribute(&inner, NO_MASK).unwrap(), None);
        let bits = attribute(&inner, BITS).unwrap().unwrap().to_vec();
        let [bit] = &attributes(&bits)
            .map(|bit| bit.unwrap().1.to_vec())
            .collect::<Vec<_>>()[..]
        else {
            panic!("not one feature");
        };
        assert_eq!(text(bit, BIT_NAME).unwrap().as_deref(), Some(FEATURE));
        attribute(bit, BIT_VALUE).unwrap().is_some()
    };
    assert!(wanted(true));
    assert!(!wanted(false));
}

#[test]
fn a_refusal_names_the_program_that_can_do_it_on_old_kernels() {
    let refused = refused(
        "flannel.1".parse().unwrap(),
        false,
        "ENOENT: No such file or directory",
    );
    assert_eq!(
        refused,
        "its checksum offload cannot be changed: ENOENT: No such file or directory; change it with `ethtool -K \
         flannel.1 tx-checksum-ip-generic off`"
    );
}

#[test]
fn a_family_without_a_number_is_refused() {
    let family = |attributes: &[u8]| decode_family(&[&[1, 2, 0, 0], attributes].concat());
    assert_eq!(family(&encoded(FAMILY_ID, &21_u16.to_ne_bytes())).unwrap(), 21);
    assert!(family(&encoded_text(FAMILY_NAME, NAME)).is_err());
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode_features(&payload);
        let _ = decode_family(&payload);
    }
}
