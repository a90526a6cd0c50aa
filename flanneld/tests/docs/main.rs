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

mod embed;
mod fit;
mod flannel;
mod overlay;
mod page;
mod release;
mod service;
mod shell;
mod stage;
mod symptoms;
mod systemd;
mod unit;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::wait_until;

use crate::page::Page;
use crate::stage::{Compare, Stage};

fn page(name: &str) -> Page {
    Page::read(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Two hosts with the tarball of this version.
fn operators_hosts(name: &str) -> Stage {
    let stage = Stage::hosts(name, 2);
    release::pack(&homes(&stage), &release::version(0));
    stage
}

fn homes(stage: &Stage) -> [PathBuf; 2] {
    [0, 1].map(|host| stage.inside(host, "/root"))
}

/// As Debian starts it when it is installed.
fn with_supervisord(mut stage: Stage) -> Stage {
    stage.prepare(
        1,
        "systemctl start supervisor; until supervisorctl pid >/dev/null; do sleep 0.1; done",
    );
    stage
}

#[test]
fn operate() {
    let mut stage = with_supervisord(operators_hosts("operate"));
    release::pack(&homes(&stage), &release::version(1));
    stage.run(&page("docs/operate.md"));
}

#[test]
fn every_mistake_in_operate_has_its_message() {
    let page = page("docs/operate.md");
    let mut stage = operators_hosts("mistakes");
    stage.run_until(&page, "## 5. Start");
    symptoms::make_all(&mut stage, &page, "## 11. It does not work");
}

#[test]
fn firewall() {
    let mut stage = with_supervisord(operators_hosts("firewall"));
    stage.run_until(&page("docs/operate.md"), "## 8. Stop, and what stays");
    stage.run(&page("docs/firewall.md"));
}

/// For operators, for embedders, and beside the code.
#[test]
fn what_is_masqueraded_is_told_alike_everywhere() {
    let source = include_str!("../../../flannel-firewall/src/nat.rs").lines();
    let rustdoc = source.filter_map(|line| line.strip_prefix("/// |"));
    let rustdoc: String = rustdoc.map(|row| format!("|{row}\n")).collect();
    let rustdoc = Page::parse("nat.rs", format!("# decide\n{rustdoc}")).unwrap();
    let text = include_str!("../../../flannel-firewall/README.md").to_owned();
    let text = text.replace("```rust,no_run", "```rust");
    let readme = Page::parse("flannel-firewall/README.md", text).unwrap();
    let tables = [
        (page("docs/firewall.md"), "## What is decided"),
        (readme, "## What is masqueraded"),
        (rustdoc, "# decide"),
    ];
    let [operators, embedders, code] = tables.map(|(page, heading)| {
        let rows = page.rows(heading).into_iter();
        rows.map(|(_, cells)| cells).collect::<Vec<_>>()
    });
    assert!(operators.len() > 5, "{operators:?}");
    assert_eq!(operators, code);
    assert_eq!(embedders, code);
}

#[test]
fn from_flannel() {
    let mut stage = operators_hosts("from_flannel");
    stage.run_until(&page("docs/operate.md"), "## 4. Options and config");
    flannel::run_flannel(&mut stage, "host-gw");
    stage.run_until(&page("docs/from-flannel.md"), "## With vxlan");
}

#[test]
fn from_flannel_with_vxlan() {
    let mut stage = operators_hosts("from_flannel_vxlan");
    stage.run_until(&page("docs/operate.md"), "## 4. Options and config");
    flannel::run_flannel(&mut stage, "vxlan");
    let page = page("docs/from-flannel.md");
    stage.run_until(&page, "## Look before");
    stage.run_from(&page, "## With vxlan");
}

#[test]
fn vxlan() {
    let mut stage = with_supervisord(operators_hosts("vxlan"));
    stage.run_until(&page("docs/operate.md"), "## 8. Stop, and what stays");
    stage.run(&page("docs/vxlan.md"));
}

#[test]
fn every_flag_is_in_from_flannel_with_what_becomes_of_it() {
    flannel::compare_flags(&page("docs/from-flannel.md"), "## Flags");
}

#[test]
fn every_log_line_in_a_table_is_one_of_a_source() {
    flannel::find_log_lines(&page("docs/from-flannel.md"), "## Log lines", 1);
    flannel::find_log_lines(&page("docs/vxlan.md"), "### In the log", 0);
}

#[test]
fn the_tables_on_vxlan_are_those_of_the_code() {
    let page = page("docs/vxlan.md");
    overlay::compare_options(&page, "## Options");
    overlay::compare_highest_vnis(&page, "## Options");
    overlay::compare_mtus(&page, "## MTU");
    overlay::compare_snippets(&page, "## NetworkManager and systemd-networkd");
}

#[test]
fn a_reason_in_a_table_means_what_stands_beside_it() {
    overlay::compare_reasons(&page("docs/vxlan.md"), "## What is put right");
    overlay::compare_reasons(&page("docs/firewall.md"), "## Watched");
}

#[test]
fn every_test_that_compare_names_is_there() {
    let page = page("docs/compare.md");
    let rows = page.rows("## VXLAN: flannel in Go, and this");
    assert!(!rows.is_empty());
    for (line, cells) in rows {
        let path = match &page::code_spans(&cells[3])[..] {
            [test] => format!("flanneld/tests/{}.rs", test.replace(' ', "/")),
            [suite, krate] => format!("{krate}/tests/{suite}/main.rs"),
            other => panic!("{}:{line}: {other:?} is no test", page.name),
        };
        assert!(
            page::root().join(&path).is_file(),
            "{}:{line}: there is no {path}",
            page.name
        );
    }
}

#[test]
fn embed() {
    let page = page("docs/embed.md");
    embed::compare_with_files(&page);
    let directory = tempfile::tempdir().unwrap();
    Stage::repository("embed", directory.path(), Compare::Lines).run(&page);
}

#[test]
fn readme() {
    let directory = tempfile::tempdir().unwrap();
    let target = Path::new(env!("CARGO_BIN_EXE_flanneld")).parent().unwrap();
    let make = directory.path().join("make");
    let script = include_str!("make.sh").replace("@TARGET@", &target.display().to_string());
    fs::write(&make, script).unwrap();
    fs::set_permissions(&make, Permissions::from_mode(0o755)).unwrap();
    Stage::repository("readme", directory.path(), Compare::Excerpt).run(&page("README.md"));
}

/// Its commands after the build, which needs minutes; the last is the daemon itself.
#[test]
fn the_readme_runs_a_daemon_in_two_commands() {
    let page = page("README.md");
    let mut scripts = page.blocks.iter().filter(|block| block.info.language == "sh");
    let script = scripts.next().unwrap();
    assert!(
        scripts.next().is_none(),
        "README.md: another script, which nobody runs"
    );
    let [build, set, run] = &*script.lines else {
        panic!("README.md:{}: build, set and run are expected", script.line)
    };
    assert!(build.starts_with("cargo build --release -p flanneld"), "{build}");
    let mut stage = Stage::hosts("readme_daemon", 1);
    for (line, end) in [(set, ""), (run, " >log 2>&1 &")] {
        let line = line.split(" #").next().unwrap_or_default();
        let line = line.replace("target/release/flanneld", env!("CARGO_BIN_EXE_flanneld"));
        stage.prepare(0, &format!("{line}{end}"));
    }
    let subnet_env = stage.inside(0, "/run/flannel/subnet.env");
    wait_until(Duration::from_secs(10), "subnet.env", || {
        fs::read_to_string(&subnet_env).is_ok_and(|text| text.contains("FLANNEL_NETWORK=10.244.0.0/16"))
    })
    .unwrap();
    stage.prepare(0, "kill %1; wait");
}

#[test]
fn every_page_is_run() {
    let pages = fs::read_dir(page::root().join("docs")).unwrap();
    let names = pages.map(|page| page.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "compare.md",
            "embed.md",
            "firewall.md",
            "from-flannel.md",
            "operate.md",
            "vxlan.md"
        ],
        "each page has a test of its own here"
    );
}

#[test]
fn compare() {
    let mut stage = with_supervisord(operators_hosts("compare"));
    stage.run_until(&page("docs/operate.md"), "## 6. See");
    stage.run(&page("docs/compare.md"));
}
