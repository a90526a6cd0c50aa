//! What is read from `subnet.env` is written as one text, which says the same.
#![no_main]

use flannel_core::{Family, SubnetEnv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let env = SubnetEnv::parse(text);
    for (family, net) in env.networks.iter().chain(env.subnets.iter()) {
        assert_eq!((Family::of_net(*net), net.trunc()), (family, *net));
    }
    if let Some(subnet) = env.subnet() {
        assert!(subnet.nets().eq(env.subnets.iter().map(|(_, net)| *net)));
    }
    // A family is written only as a whole: network and subnet.
    let mut whole = env;
    for family in Family::ALL {
        if env.networks.get(family).is_none() || env.subnets.get(family).is_none() {
            whole.networks.set(family, None);
            whole.subnets.set(family, None);
        }
    }
    let written = env.render();
    assert_eq!(
        SubnetEnv::parse(&written),
        whole,
        "{text:?} is written as {written:?}"
    );
    assert_eq!(whole.render(), written);
});
