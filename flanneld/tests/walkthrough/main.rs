//! A cluster as set-up guides build it, from the first minute on: etcd with three members behind TLS and client
//! certificates, two of them on the nodes; the tarball unpacked beside its `certs/` and a `subnet.env` written
//! beforehand; a start script without `exec`, under bash on one host and under dash on the other; supervisord.
//!
//! Needs root, and Debian's etcd, openssl, supervisor, bash and dash. All of it lives in the lab's namespaces and
//! directory.

#![allow(clippy::disallowed_methods, reason = "programs are watched in real time")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set up its cluster has failed"
)]

mod any_order;
mod cluster;
mod first_day;
mod log_reader;
mod members;
mod node;
mod tarball;
mod upgrade;
