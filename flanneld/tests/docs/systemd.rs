//! Stands in for systemd on one host, for `systemctl` and `journalctl`: so the shipped unit is started as it is.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::{Signal, wait_until};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::unit::{self, Unit};

/// Where units are looked for, in this order.
const UNIT_DIRECTORIES: [&str; 3] = [
    "etc/systemd/system",
    "lib/systemd/system",
    "usr/lib/systemd/system",
];
/// What `enable` links from.
const ENABLED: &str = "etc/systemd/system";
/// systemd's default.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
/// How often running services are looked after.
const TICK: Duration = Duration::from_millis(10);
/// Time to become ready, and to end.
const DEADLINE: Duration = Duration::from_secs(20);
/// `RestartSec=`, unless a unit says so, and here even then.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// Asks the stand-in itself to end.
const QUIT: &str = "quit";

/// Where a host's stand-in listens.
pub(crate) struct Systemd {
    requests: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Systemd {
    /// `directory` is for its pipes and logs, and must be there; services run in the namespaces of `shell`.
    pub(crate) fn start(directory: &Path, host: &str, shell: u32) -> Self {
        let requests = directory.join("requests");
        assert!(Command::new("mkfifo").arg(&requests).status().unwrap().success());
        let (sender, received) = sync_channel(8);
        // For writing too, so that it never ends.
        let pipe = OpenOptions::new().read(true).write(true).open(&requests).unwrap();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let last = line == QUIT;
                if sender.send(line).is_err() || last {
                    break;
                }
            }
        });
        let manager = Manager {
            directory: directory.to_owned(),
            host: host.to_owned(),
            shell,
            services: BTreeMap::new(),
        };
        Self {
            requests,
            thread: Some(thread::spawn(move || manager.serve(&received))),
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let quit = OpenOptions::new().write(true).open(&self.requests);
        if quit.and_then(|mut pipe| writeln!(pipe, "{QUIT}")).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// What was started, and what became of it.
struct Service {
    unit: Unit,
    child: Child,
    socket: UnixDatagram,
    ready: bool,
    status: String,
    ended: Option<Instant>,
}

struct Manager {
    directory: PathBuf,
    host: String,
    shell: u32,
    services: BTreeMap<String, Service>,
}

/// What the caller prints, and how it ends.
type Answer = Result<String, String>;

impl Manager {
    fn serve(mut self, requests: &Receiver<String>) {
        loop {
            match requests.recv_timeout(TICK) {
                Ok(line) if line == QUIT => break,
                Ok(line) => {
                    let mut parts = line.split('\t');
                    let mut part = || parts.next().unwrap_or_default();
                    let (reply, program, arguments) = (part(), part(), part());
                    let words: Vec<&str> = arguments.split_whitespace().collect();
                    let (status, text) = match self.answer(program, &words) {
                        Ok(text) => (0, text),
                        Err(text) => (1, text),
                    };
                    if let Ok(mut pipe) = OpenOptions::new().write(true).open(reply) {
                        let _ = write!(pipe, "{status}\n{text}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look_after();
        }
        for service in self.services.values_mut() {
            let _ = service.child.kill();
            let _ = service.child.wait();
        }
    }

    fn answer(&mut self, program: &str, words: &[&str]) -> Answer {
        if program == "journalctl" {
            return self.journal(words);
        }
        if let ["show", "-P", "MainPID", name] = words {
            let pid = self.services.get(*name).map_or(0, |service| service.child.id());
            return Ok(format!("{pid}\n"));
        }
        let mut now = false;
        let mut names = Vec::new();
        for word in words.iter().skip(1) {
            match *word {
                "--now" => now = true,
                "--no-pager" => {}
                option if option.starts_with('-') => return Err(format!("the stand-in knows no {option}\n")),
                name => names.push(name.trim_end_matches(".service").to_owned()),
            }
        }
        let mut answer = String::new();
        let verb = words.first().copied().unwrap_or_default();
        if verb == "daemon-reload" {
            return Ok(answer);
        }
        for name in names {
            answer += &match verb {
                "start" => self.start(&name)?,
                "stop" => self.stop(&name)?,
                "restart" => self.stop(&name)? + &self.start(&name)?,
                "reload" => self.reload(&name)?,
                "enable" => self.enable(&name)? + &if now { self.start(&name)? } else { String::new() },
                "disable" => self.disable(&name)? + &if now { self.stop(&name)? } else { String::new() },
                "is-active" if self.is_active(&name) => "active\n".to_owned(),
                "is-active" => return Err("inactive\n".to_owned()),
                "status" => self.status(&name)?,
                other => return Err(format!("the stand-in knows no {other}\n")),
            };
        }
        Ok(answer)
    }

    /// A file of the host as the host sees it.
    fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.shell));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn find(&self, name: &str) -> Result<(PathBuf, String), String> {
        UNIT_DIRECTORIES
            .iter()
            .find_map(|directory| {
                let path = Path::new(directory).join(format!("{name}.service"));
                // A link in /etc leads to a path of the host.
                let link = fs::read_link(self.inside(&path)).unwrap_or_else(|_| path.clone());
                Some((
                    Path::new("/").join(path),
                    fs::read_to_string(self.inside(link)).ok()?,
                ))
            })
            .ok_or_else(|| format!("Unit {name}.service not found.\n"))
    }

    fn start(&mut self, name: &str) -> Answer {
        if self.is_active(name) {
            return Ok(String::new());
        }
        let (_, text) = self.find(name)?;
        let unit =
            Unit::parse(&text, name, &self.host).map_err(|error| format!("{name}.service: {error}\n"))?;
        let service = self.run(name, unit)?;
        self.services.insert(name.to_owned(), service);
        let failed = || {
            format!(
                "Job for {name}.service failed because the control process exited with error code.\n\
                 See \"systemctl status {name}.service\" and \"journalctl -xeu {name}.service\" for details.\n"
            )
        };
        let ready = wait_until(DEADLINE, "ready", || {
            self.look_after();
            match &self.services[name] {
                service if service.ready => Some(true),
                service if service.ended.is_some() && !service.unit.restarts => Some(false),
                _ => None,
            }
        });
        match ready {
            Ok(true) => Ok(String::new()),
            Ok(false) | Err(_) => Err(failed()),
        }
    }

    fn run(&self, name: &str, unit: Unit) -> Result<Service, String> {
        let environment = self.environment(&unit)?;
        for directory in &unit.directories {
            fs::create_dir_all(self.inside(directory)).unwrap();
        }
        let notify = self.directory.join(format!("{name}.notify"));
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket.set_nonblocking(true).unwrap();
        fs::set_permissions(&notify, Permissions::from_mode(0o666)).unwrap();
        let mut command = self.inside_command(&unit, &unit.start, &environment);
        if unit.notifies {
            command.env("NOTIFY_SOCKET", &notify);
        }
        let log = self.log(name);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Ok(Service {
            ready: !unit.notifies,
            unit,
            child,
            socket,
            status: String::new(),
            ended: None,
        })
    }

    fn environment(&self, unit: &Unit) -> Result<BTreeMap<String, String>, String> {
        let mut environment: BTreeMap<_, _> = unit.environment.iter().cloned().collect();
        for (path, may_miss) in &unit.environment_files {
            match fs::read_to_string(self.inside(path)) {
                Ok(text) => environment.extend(unit::environment_file(&text)),
                Err(_) if *may_miss => {}
                Err(error) => return Err(format!("{}: {error}\n", path.display())),
            }
        }
        Ok(environment)
    }

    fn inside_command(&self, unit: &Unit, line: &str, environment: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--net",
            "--uts",
            "--wd=/",
            "--target",
            &self.shell.to_string(),
            "--",
        ]);
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

    fn log(&self, name: &str) -> File {
        let path = self.directory.join(format!("{name}.log"));
        OpenOptions::new().create(true).append(true).open(path).unwrap()
    }

    fn is_active(&self, name: &str) -> bool {
        self.services
            .get(name)
            .is_some_and(|service| service.ended.is_none())
    }

    fn stop(&mut self, name: &str) -> Answer {
        let Some(mut service) = self.services.remove(name) else {
            let (_, _) = self.find(name)?;
            return Ok(String::new());
        };
        if let Some(line) = service.unit.stop.clone() {
            let environment = self.environment(&service.unit)?;
            let mut command = self.inside_command(&service.unit, &line, &environment);
            let log = self.log(name);
            command.stdout(log.try_clone().unwrap()).stderr(log);
            command.status().unwrap();
        }
        let pid = Pid::from_raw(i32::try_from(service.child.id()).unwrap());
        if service.child.try_wait().unwrap().is_none() {
            kill(pid, Signal::SIGTERM).unwrap();
        }
        let ended = wait_until(DEADLINE, "the end", || service.child.try_wait().unwrap());
        for directory in &service.unit.fleeting {
            let _ = fs::remove_dir_all(self.inside(directory));
        }
        match ended {
            Ok(_) => Ok(String::new()),
            Err(_) => Err(format!("{name}.service: does not end\n")),
        }
    }

    fn reload(&mut self, name: &str) -> Answer {
        let service = self.services.get(name).filter(|service| service.ended.is_none());
        let service = service.ok_or_else(|| format!("{name}.service is not active, cannot reload.\n"))?;
        let line = service.unit.reload.as_ref();
        let line =
            line.ok_or_else(|| format!("Job type reload is not applicable for unit {name}.service.\n"))?;
        let mut environment = self.environment(&service.unit)?;
        environment.insert("MAINPID".into(), service.child.id().to_string());
        let done = self.inside_command(&service.unit, line, &environment).status();
        if done.is_ok_and(|status| status.success()) {
            Ok(String::new())
        } else {
            Err(format!("{line}: failed\n"))
        }
    }

    fn links(&self, name: &str) -> Result<(PathBuf, Vec<PathBuf>), String> {
        let (path, text) = self.find(name)?;
        let unit =
            Unit::parse(&text, name, &self.host).map_err(|error| format!("{name}.service: {error}\n"))?;
        let link = |target: &String| {
            Path::new("/")
                .join(ENABLED)
                .join(format!("{target}.wants/{name}.service"))
        };
        Ok((path, unit.wanted_by.iter().map(link).collect()))
    }

    fn enable(&self, name: &str) -> Answer {
        let (path, links) = self.links(name)?;
        let mut said = String::new();
        for link in links {
            let inside = self.inside(&link);
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            if fs::symlink_metadata(&inside).is_err() {
                std::os::unix::fs::symlink(&path, &inside).unwrap();
                said += &format!("Created symlink {} → {}.\n", link.display(), path.display());
            }
        }
        Ok(said)
    }

    fn disable(&self, name: &str) -> Answer {
        let (_, links) = self.links(name)?;
        let gone = links
            .iter()
            .filter(|link| fs::remove_file(self.inside(link)).is_ok());
        Ok(gone
            .map(|link| format!("Removed \"{}\".\n", link.display()))
            .collect())
    }

    fn status(&self, name: &str) -> Answer {
        let (path, _) = self.find(name)?;
        let Some(service) = self.services.get(name) else {
            return Err(format!("○ {name}.service\n     Active: inactive (dead)\n"));
        };
        let active = if service.ended.is_none() {
            "active (running)"
        } else {
            "failed"
        };
        Ok(format!(
            "● {name}.service - {}\n     Loaded: loaded ({})\n     Active: {active}\n   Main PID: {}\n     Status: \"{}\"\n",
            service.unit.description,
            path.display(),
            service.child.id(),
            service.status,
        ))
    }

    fn journal(&self, words: &[&str]) -> Answer {
        let (mut name, mut count, mut plain) = (None, usize::MAX, false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match (*word, words.as_slice().first()) {
                ("-u", Some(unit)) => name = words.next().map(|_| unit.trim_end_matches(".service")),
                ("-n", Some(lines)) => {
                    count = lines.parse().map_err(|_| format!("-n {lines}\n"))?;
                    words.next();
                }
                ("-o", Some(&"cat")) => plain = words.next().is_some(),
                ("--no-pager", _) => {}
                (other, _) => return Err(format!("the stand-in knows no {other}\n")),
            }
        }
        let name = name
            .filter(|_| plain)
            .ok_or("the stand-in prints -u UNIT -o cat\n")?;
        let text = fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(count)..];
        Ok(last.iter().map(|line| format!("{line}\n")).collect())
    }

    /// Hears what the services say, and starts those again that ended and ought to run.
    fn look_after(&mut self) {
        let mut again = Vec::new();
        for (name, service) in &mut self.services {
            let mut datagram = [0; 4096];
            while let Ok(length) = service.socket.recv(&mut datagram) {
                for line in String::from_utf8_lossy(&datagram[..length]).lines() {
                    match line.split_once('=') {
                        Some(("READY", "1")) => service.ready = true,
                        Some(("STATUS", text)) => text.clone_into(&mut service.status),
                        _ => {}
                    }
                }
            }
            match service.ended {
                None if service.child.try_wait().unwrap().is_some() => service.ended = Some(Instant::now()),
                Some(ended) if service.unit.restarts && ended.elapsed() >= RESTART_AFTER => {
                    again.push(name.clone())
                }
                _ => {}
            }
        }
        for name in again {
            let unit = self.services[&name].unit.clone();
            if let Ok(service) = self.run(&name, unit) {
                self.services.insert(name, service);
            }
        }
    }
}
