//! Where pages are run: hosts whose files, services and routes are their own.

use std::fmt::Write as _;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use lab::{Families, Lab, Options, wait_until};

use crate::fit::{fits, is_excerpt};
use crate::page::{self, Page, Place};
use crate::service::Inside;
use crate::shell::{Outcome, Shell};
use crate::systemd::Systemd;

/// A reader who looks again sees the expected within this time.
const SOON: Duration = Duration::from_secs(10);

/// What only looks, and so may be run again until it shows what it should. Everything else has one try.
const LOOKS: [&str; 18] = [
    "bridge fdb show",
    "cat /",
    "curl",
    "etcdctl endpoint health",
    "etcdctl get",
    "flanneld status",
    "ip -4 addr show",
    "ip -d link show",
    "ip link show",
    "ip neigh show",
    "ip netns exec pod ping -c 1",
    "ip route show",
    "iptables -S",
    "iptables -t nat -S",
    "journalctl",
    "nft list",
    "supervisorctl status",
    "systemctl status",
];

/// How output is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// Line by line, with `…` for what differs.
    Lines,
    /// Some lines of it, in this order, with the numbers of one run.
    Excerpt,
}

/// Hosts for one page.
pub(crate) struct Stage {
    // In the order in which they have to go.
    systemds: Vec<Systemd>,
    shells: Vec<Shell>,
    anywhere: Option<Shell>,
    lab: Option<Lab>,
    compare: Compare,
}

impl Stage {
    /// Bare hosts, as after an installation of Debian with the packages that the page asks for.
    pub(crate) fn hosts(name: &str, hosts: usize) -> Self {
        let options = Options::hosts(hosts)
            .families(Families::V4)
            .flanneld(env!("CARGO_BIN_EXE_flanneld"));
        let lab = Lab::new(name, options).unwrap();
        let mut stage = Self {
            systemds: Vec::new(),
            shells: Vec::new(),
            anywhere: None,
            lab: None,
            compare: Compare::Lines,
        };
        for host in lab.hosts() {
            let directory = lab.directory().join(host.label());
            let stand_in = directory.join("systemd");
            fs::create_dir_all(&stand_in).unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs");
            let mut command = Command::new("ip");
            command.args([
                "netns",
                "exec",
                host.name(),
                "unshare",
                "--uts",
                "bash",
                "--norc",
                "--noprofile",
            ]);
            in_plain_environment(&mut command);
            command
                .env("LABEL", host.label())
                .env("SOURCE", &source)
                .env("HOSTS", lab.directory())
                .env("STAND_IN", &stand_in);
            let mut shell = Shell::start(command, &directory.join("shell"));
            let private = shell
                .run(&format!(". {}", source.join("private.sh").display()))
                .unwrap();
            assert_eq!((private.status, private.output.as_str()), (0, ""), "private.sh");
            // Where scp finds the host's files, by either name.
            for name in [host.label().to_owned(), host.ipv4().unwrap().to_string()] {
                let root = lab.directory().join(format!("{name}.root"));
                fs::write(root, Inside(shell.pid()).path("/").display().to_string()).unwrap();
            }
            let inside = Inside(shell.pid());
            stage
                .systemds
                .push(Systemd::start(&stand_in, host.label(), inside));
            stage.shells.push(shell);
        }
        stage.lab = Some(lab);
        stage
    }

    /// The root of the repository, as its author has it; programs in `front` are found before all others.
    pub(crate) fn repository(name: &str, front: &Path, compare: Compare) -> Self {
        let mut path = vec![front.to_owned()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("bash");
        command
            .args(["--norc", "--noprofile"])
            .current_dir(page::root())
            .env("PATH", env::join_paths(path).unwrap())
            // What it needs is there, as this was built.
            .env("CARGO_NET_OFFLINE", "true");
        Self {
            systemds: Vec::new(),
            shells: Vec::new(),
            anywhere: Some(Shell::start(command, &front.join(name))),
            lab: None,
            compare,
        }
    }

    /// A file of the host, from outside.
    pub(crate) fn inside(&self, host: usize, path: &str) -> PathBuf {
        Inside(self.shells[host].pid()).path(path)
    }

    /// Runs what the page does not show: what was there before.
    pub(crate) fn prepare(&mut self, host: usize, script: &str) {
        let outcome = self.shells[host].run(script).unwrap();
        assert_eq!(outcome.status, 0, "{script}\n{}", outcome.output);
    }

    /// Runs every command of a page, in order.
    ///
    /// # Panics
    /// At the first that does not do what the page says, with where it stands.
    pub(crate) fn run(&mut self, page: &Page) {
        self.run_lines(page, ..);
    }

    /// Runs those that stand before a heading.
    pub(crate) fn run_until(&mut self, page: &Page, heading: &str) {
        self.run_lines(page, ..page.line_of(heading));
    }

    /// Runs those that stand behind a heading, to the end of the page.
    pub(crate) fn run_from(&mut self, page: &Page, heading: &str) {
        self.run_lines(page, page.line_of(heading)..);
    }

    fn run_lines(&mut self, page: &Page, lines: impl RangeBounds<usize>) {
        let commands = page.commands().unwrap_or_else(|error| panic!("{error}"));
        for command in commands
            .into_iter()
            .filter(|command| lines.contains(&command.line))
        {
            if let Err(problem) = self.try_command(&command) {
                let mut report = format!("{}:{}: {}\n", page.name, command.line, command.text);
                let _ = writeln!(
                    report,
                    "--- expected, exit {}:\n{}",
                    command.exit,
                    command.expected.join("\n")
                );
                let _ = writeln!(report, "{problem}");
                panic!("{report}");
            }
        }
    }

    fn try_command(&mut self, command: &page::Command) -> Result<(), String> {
        let compare = self.compare;
        let shell = match command.place {
            Place::Host(host) => self.shells.get_mut(host),
            Place::Anywhere => self.anywhere.as_mut().or(self.shells.first_mut()),
        };
        let shell = shell.ok_or("--- there is no such host here")?;
        let as_promised = |outcome: &Outcome| {
            outcome.status == command.exit
                && match compare {
                    Compare::Lines => fits(&command.expected, &outcome.output),
                    Compare::Excerpt => is_excerpt(&command.expected, &outcome.output),
                }
        };
        let first = shell.run(&command.text)?;
        println!("{:?} {}\n{}", command.place, command.text, first.output);
        if as_promised(&first) {
            return Ok(());
        }
        let mut last = None;
        if only_looks(&command.text) {
            let again = wait_until(SOON, "", || match shell.run(&command.text) {
                Ok(outcome) if as_promised(&outcome) => true,
                outcome => {
                    last = Some(outcome);
                    false
                }
            });
            if again.is_ok() {
                return Ok(());
            }
        }
        let last = last.transpose()?.unwrap_or(first);
        Err(format!("--- got, exit {}:\n{}", last.status, last.output))
    }
}

fn only_looks(text: &str) -> bool {
    LOOKS.iter().any(|look| text.starts_with(look))
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// That of a root shell after a login.
fn in_plain_environment(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LANG", "C.UTF-8")
        .env("TERM", "dumb");
}
