# `make demo` and `make test` need Rust and a Debian or Ubuntu machine; they install whatever else is missing.

export PATH := $(PATH):/usr/sbin:/sbin
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Namespaces need root. The demo is built by whoever calls it, and only run as root.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# How long each fuzz target runs.
SECONDS ?= 30
# What the tests run beside flanneld.
TESTED_WITH := cc protoc ip ping sysctl ethtool nft iptables curl bash dash openssl etcd etcdctl supervisord

.PHONY: demo test test-long bench fuzz lint package dist

# Without the etcd store, which takes a minute to build and needs protoc.
demo:
	@scripts/preflight demo
	@scripts/install-packages cc ip ping
	cargo build -p flanneld -p lab --bins --no-default-features
	@$(AS_ROOT) $(TARGET_DIR)/debug/demo

test:
	@scripts/preflight test
	@scripts/install-packages $(TESTED_WITH)
	@scripts/test

# What takes too long for every change: outages over a minute, a hundred restarts.
test-long:
	@scripts/preflight test-long
	@scripts/install-packages $(TESTED_WITH)
	@scripts/test --long

bench:
	@scripts/preflight bench
	@scripts/install-packages cc
	cargo bench -p flannel-benches route_reconciliation

fuzz:
	@scripts/preflight fuzz
	@scripts/install-packages cc c++
	@scripts/fuzz $(SECONDS)

lint:
	@scripts/preflight lint
	@scripts/install-packages cc protoc
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

package:
	@scripts/preflight package
	@scripts/install-packages cc protoc
	scripts/package

# The tarball that operators unpack, with a static flanneld; a target triple in TARGET for another architecture.
dist:
	@scripts/preflight dist
	@scripts/install-packages cc protoc
	@scripts/dist $(TARGET)
