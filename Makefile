# `make demo` and `make test` need Rust and a Debian or Ubuntu machine; they install whatever else is missing.

export PATH := $(PATH):/usr/sbin:/sbin
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Namespaces need root. The demo is built by whoever calls it, and only run as root.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# How long each fuzz target runs.
SECONDS ?= 30

.PHONY: demo test test-long bench fuzz lint package

demo:
	@scripts/preflight demo
	@scripts/install-packages cc ip ping
	cargo build -p flanneld -p lab --bins
	@$(AS_ROOT) $(TARGET_DIR)/debug/demo

test:
	@scripts/preflight test
	@scripts/install-packages cc ip ping
	@scripts/test

# What takes too long for every change: outages over a minute, a hundred restarts.
test-long:
	@scripts/preflight test-long
	@scripts/install-packages cc ip ping
	@scripts/test --long

bench:
	@scripts/preflight bench
	@scripts/install-packages cc
	cargo bench route_reconciliation

fuzz:
	@scripts/preflight fuzz
	@scripts/install-packages cc c++
	@scripts/fuzz $(SECONDS)

lint:
	@scripts/preflight lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# What crates.io would say to the library crates and the daemon.
package:
	@scripts/preflight package
	cargo publish --dry-run --workspace --exclude lab --exclude flannel-benches --allow-dirty
