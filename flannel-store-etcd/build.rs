//! Says what to install before etcd-client's own build fails without protoc.
#![allow(clippy::disallowed_macros, reason = "this is how cargo is spoken to")]

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=PROTOC");
    println!("cargo::rerun-if-env-changed=PATH");
    let named = env::var_os("PROTOC");
    let there = match &named {
        Some(protoc) => Path::new(protoc).is_file(),
        None => env::var_os("PATH").is_some_and(|path| {
            let name = format!("protoc{}", env::consts::EXE_SUFFIX);
            env::split_paths(&path).any(|directory| directory.join(&name).is_file())
        }),
    };
    if !there {
        let missing = match named {
            Some(protoc) => format!("PROTOC names {}, which is no file", Path::new(&protoc).display()),
            None => "protoc, the protobuf compiler, is not installed".to_owned(),
        };
        println!(
            "cargo::error={missing}; the etcd store needs it to be built. Install it, as with `apt-get install \
             protobuf-compiler`, or set PROTOC to its path. flannel-core and the file store need none: \
             `cargo build -p flanneld --no-default-features`"
        );
    }
}
