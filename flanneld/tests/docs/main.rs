//! Every command of the documentation, run: what a page says is printed is printed. Needs root.

#![cfg(feature = "etcd")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "runs shells and services in real time, and a test's reader is there"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set up its hosts has failed"
)]

mod fit;
mod flannel;
mod page;
mod release;
mod shell;
mod stage;
mod symptoms;
mod systemd;
mod unit;

use crate::page::Page;
use crate::stage::Stage;

fn page(name: &str) -> Page {
    Page::read(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Two hosts with the tarballs of this version and the next.
fn operators_hosts(name: &str) -> Stage {
    let mut stage = Stage::hosts(name, 2);
    let homes = [0, 1].map(|host| stage.inside(host, "/root"));
    for later in [0, 1] {
        release::pack(&homes, &release::version(later));
    }
    // Debian starts it when it is installed.
    stage.prepare(
        1,
        "systemctl start supervisor; until supervisorctl pid >/dev/null; do sleep 0.1; done",
    );
    stage
}

#[test]
fn operate() {
    operators_hosts("operate").run(&page("docs/operate.md"));
}

#[test]
fn every_mistake_in_operate_has_its_message() {
    let page = page("docs/operate.md");
    let mut stage = operators_hosts("mistakes");
    stage.run_until(&page, "## 5. Start");
    symptoms::make_all(&mut stage, &page, "## 11. It does not work");
}

#[test]
fn from_flannel() {
    let mut stage = operators_hosts("from_flannel");
    stage.run_until(&page("docs/operate.md"), "## 4. Options and config");
    flannel::run_flannel(&mut stage);
    stage.run(&page("docs/from-flannel.md"));
}

#[test]
fn every_flag_is_in_from_flannel_with_what_becomes_of_it() {
    flannel::compare_flags(&page("docs/from-flannel.md"), "## Flags");
}

#[test]
fn every_log_line_in_from_flannel_is_one_of_a_source() {
    flannel::find_log_lines(&page("docs/from-flannel.md"), "## Log lines");
}
