#!/bin/sh
# make demo, without building again what is under test.
set -eu
[ "$*" = demo ]
[ -x "@TARGET@/demo" ] || cargo build --quiet --package lab --bin demo --target-dir "@TARGET@/.."
FLANNELD=@TARGET@/flanneld exec "@TARGET@/demo"
