//! A service's process on a host, started as its unit says.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lab::{Signal, wait_until};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::unit::{self, Unit};

/// systemd's default.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
/// `RestartSec=`, unless a unit says so, and here even then.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// Time to end.
const DEADLINE: Duration = Duration::from_secs(20);

/// A host from outside: the process whose namespaces are the host's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside(pub(crate) u32);

impl Inside {
    /// A file of the host.
    pub(crate) fn path(self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.0));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A command line of a unit, to be run on the host.
    fn command(self, unit: &Unit, line: &str, environment: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.0.to_string();
        command.args(["--mount", "--net", "--uts", "--wd=/", "--target", &target, "--"]);
        if let Some(user) = &unit.user {
            command.args(["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]);
        }
        command.args(unit::command_line(line, environment));
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .envs(environment);
        command
    }

    fn environment(self, unit: &Unit) -> Result<BTreeMap<String, String>, String> {
        let mut environment: BTreeMap<_, _> = unit.environment.iter().cloned().collect();
        for (path, may_miss) in &unit.environment_files {
            match fs::read_to_string(self.path(path)) {
                Ok(text) => environment.extend(unit::environment_file(&text)),
                Err(_) if *may_miss => {}
                Err(error) => return Err(format!("{}: {error}\n", path.display())),
            }
        }
        Ok(environment)
    }
}

/// What was started, and what became of it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) unit: Unit,
    /// What it said of itself last.
    pub(crate) status: String,
    pub(crate) is_ready: bool,
    host: Inside,
    log: PathBuf,
    child: Child,
    notices: UnixDatagram,
    ended: Option<Instant>,
}

impl Service {
    /// Starts it; what it writes is added to `<name>.log` in `directory`, where its socket is, too.
    ///
    /// # Errors
    /// What systemd would refuse.
    pub(crate) fn start(host: Inside, directory: &Path, name: &str, unit: Unit) -> Result<Self, String> {
        let environment = host.environment(&unit)?;
        for directory in &unit.directories {
            fs::create_dir_all(host.path(directory)).unwrap();
        }
        let socket = directory.join(format!("{name}.notify"));
        let _ = fs::remove_file(&socket);
        let notices = UnixDatagram::bind(&socket).unwrap();
        notices.set_nonblocking(true).unwrap();
        // Services have users of their own.
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        let mut command = host.command(&unit, &unit.start, &environment);
        if unit.notifies {
            command.env("NOTIFY_SOCKET", &socket);
        }
        if let Some(watchdog) = unit.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let path = directory.join(format!("{name}.log"));
        let log = append_to(&path);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Ok(Self {
            status: String::new(),
            is_ready: !unit.notifies,
            host,
            log: path,
            child: command.spawn().unwrap(),
            notices,
            ended: None,
            unit,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    /// Hears what it says, and sees whether it has ended.
    pub(crate) fn look(&mut self) {
        let mut datagram = [0; 4096];
        while let Ok(length) = self.notices.recv(&mut datagram) {
            for line in String::from_utf8_lossy(&datagram[..length]).lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => self.is_ready = true,
                    Some(("STATUS", text)) => text.clone_into(&mut self.status),
                    _ => {}
                }
            }
        }
        if self.ended.is_none() && self.child.try_wait().unwrap().is_some() {
            self.ended = Some(Instant::now());
        }
    }

    /// Whether systemd would start it again now.
    pub(crate) fn is_to_start_again(&self) -> bool {
        self.unit.restarts && self.ended.is_some_and(|at| at.elapsed() >= RESTART_AFTER)
    }

    /// Runs `ExecReload=`.
    ///
    /// # Errors
    /// What systemctl would print.
    pub(crate) fn reload(&self, name: &str) -> Result<(), String> {
        let line = self.unit.reload.as_ref();
        let line =
            line.ok_or_else(|| format!("Job type reload is not applicable for unit {name}.service.\n"))?;
        let mut environment = self.host.environment(&self.unit)?;
        environment.insert("MAINPID".into(), self.pid().to_string());
        let done = self.host.command(&self.unit, line, &environment).status();
        if done.is_ok_and(|status| status.success()) {
            Ok(())
        } else {
            Err(format!("{line}: failed\n"))
        }
    }

    /// Runs `ExecStop=`, sends a signal, and waits for the end.
    ///
    /// # Errors
    /// That it does not end.
    pub(crate) fn stop(mut self, name: &str) -> Result<(), String> {
        if let Some(line) = &self.unit.stop {
            let environment = self.host.environment(&self.unit)?;
            let log = append_to(&self.log);
            let mut command = self.host.command(&self.unit, line, &environment);
            command.stdout(log.try_clone().unwrap()).stderr(log);
            command.status().unwrap();
        }
        if self.child.try_wait().unwrap().is_none() {
            let pid = Pid::from_raw(self.pid().cast_signed());
            kill(pid, Signal::SIGTERM).unwrap();
        }
        let ended = wait_until(DEADLINE, "the end", || self.child.try_wait().unwrap());
        for directory in &self.unit.fleeting {
            let _ = fs::remove_dir_all(self.host.path(directory));
        }
        ended
            .map(drop)
            .map_err(|error| format!("{name}.service: {error}\n"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append_to(log: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}
