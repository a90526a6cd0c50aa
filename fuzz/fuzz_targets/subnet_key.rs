//! A subnet has one key, and survives the way through each of its written forms.
#![no_main]

use flannel_core::{Family, SubnetKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(subnet) = SubnetKey::from_key(text) {
        assert_eq!(subnet.to_key(), text);
        reads_back(subnet);
    }
    if let Ok(subnet) = text.parse::<SubnetKey>() {
        reads_back(subnet);
        // Not every subnet has a key; but a key never stands for another subnet.
        let read = SubnetKey::from_key(&subnet.to_key());
        assert!(
            read.is_err() || read == Ok(subnet),
            "{subnet} has the key of {read:?}"
        );
    }
});

fn reads_back(subnet: SubnetKey) {
    assert_eq!(subnet.to_string().parse(), Ok(subnet));
    let parts = Family::ALL.into_iter().filter_map(|family| subnet.net(family));
    assert!(parts.clone().eq(subnet.nets()) && parts.count() > 0);
    for net in subnet.nets() {
        assert_eq!(net, net.trunc());
        assert!(subnet.overlaps_net(net) && subnet.overlaps(&subnet));
    }
}
