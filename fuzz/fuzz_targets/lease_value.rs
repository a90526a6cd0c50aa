//! A lease value says the same once it is written and read again, and is written in one way only.
#![no_main]

use flannel_core::LeaseAttrs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    let Ok(attrs) = LeaseAttrs::from_json(json) else {
        return;
    };
    let written = attrs.to_json();
    let read = LeaseAttrs::from_json(&written)
        .unwrap_or_else(|error| panic!("{json:?} is written as {written:?}, which is refused: {error}"));
    assert_eq!(read, attrs, "{json:?} is written as {written:?}");
    assert_eq!(read.to_json(), written, "{json:?} is written in two ways");
});
