//! Stands in for systemd on one host, for `systemctl` and `journalctl`: so the shipped unit is started as it is.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lab::wait_until;

use crate::service::{Inside, Service};
use crate::unit::Unit;

/// Where units are looked for, in this order.
const UNIT_DIRECTORIES: [&str; 3] = [
    "/etc/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
];
/// What `enable` links from.
const ENABLED: &str = "/etc/systemd/system";
/// How often running services are looked after.
const TICK: Duration = Duration::from_millis(10);
/// Time to become ready.
const DEADLINE: Duration = Duration::from_secs(20);
/// Asks the stand-in itself to end.
const QUIT: &str = "quit";

/// A host's stand-in. Dropping it ends the services.
#[derive(Debug)]
pub(crate) struct Systemd {
    requests: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Systemd {
    /// `directory` is for its pipes and logs, and must be there; `host` is the name of the host.
    pub(crate) fn start(directory: &Path, host: &str, inside: Inside) -> Self {
        let requests = directory.join("requests");
        assert!(Command::new("mkfifo").arg(&requests).status().unwrap().success());
        let (sender, received) = sync_channel(8);
        // For writing too, so that it never ends.
        let pipe = OpenOptions::new().read(true).write(true).open(&requests).unwrap();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let is_last = line == QUIT;
                if sender.send(line).is_err() || is_last {
                    break;
                }
            }
        });
        let manager = Manager {
            directory: directory.to_owned(),
            host: host.to_owned(),
            inside,
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

struct Manager {
    directory: PathBuf,
    host: String,
    inside: Inside,
    services: BTreeMap<String, Service>,
}

/// What the caller prints, and whether it ends with 0.
type Answer = Result<String, String>;

impl Manager {
    /// Each request is a line of `ask.sh`: where to answer, the program's name, its arguments.
    fn serve(mut self, requests: &Receiver<String>) {
        loop {
            match requests.recv_timeout(TICK) {
                Ok(line) if line == QUIT => break,
                Ok(line) => {
                    let mut parts = line.split('\t');
                    let mut part = || parts.next().unwrap_or_default();
                    let (reply, program, arguments) = (part(), part(), part());
                    let words: Vec<&str> = arguments.split_whitespace().collect();
                    let answer = match program {
                        "journalctl" => self.journalctl(&words),
                        _ => self.systemctl(&words),
                    };
                    let (status, text) = match answer {
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
    }

    fn systemctl(&mut self, words: &[&str]) -> Answer {
        let (verb, rest) = words.split_first().ok_or("the stand-in wants a verb\n")?;
        let mut now = false;
        let mut names = Vec::new();
        for word in rest {
            match *word {
                "--now" => now = true,
                "--no-pager" | "-P" | "MainPID" => {}
                option if option.starts_with('-') => return Err(format!("the stand-in knows no {option}\n")),
                name => names.push(name.trim_end_matches(".service")),
            }
        }
        let mut answer = String::new();
        for name in names {
            answer += &match *verb {
                "start" => self.start(name)?,
                "stop" => self.stop(name)?,
                "restart" => self.stop(name)? + &self.start(name)?,
                "reload" => self.reload(name)?,
                "enable" if now => self.enable(name)? + &self.start(name)?,
                "enable" => self.enable(name)?,
                "disable" if now => self.disable(name)? + &self.stop(name)?,
                "disable" => self.disable(name)?,
                "show" => format!("{}\n", self.services.get(name).map_or(0, Service::pid)),
                "status" => self.status(name)?,
                other => return Err(format!("the stand-in knows no {other}\n")),
            };
        }
        Ok(answer)
    }

    fn unit(&self, name: &str) -> Result<(PathBuf, Unit), String> {
        let found = UNIT_DIRECTORIES.iter().find_map(|directory| {
            let path = Path::new(directory).join(format!("{name}.service"));
            let text = fs::read_to_string(self.inside.path(&path)).ok()?;
            Some((path, text))
        });
        let (path, text) = found.ok_or_else(|| format!("Unit {name}.service not found.\n"))?;
        match Unit::parse(&text, name, &self.host) {
            Ok(unit) => Ok((path, unit)),
            Err(error) => Err(format!("{}: {error}\n", path.display())),
        }
    }

    fn start(&mut self, name: &str) -> Answer {
        if self.services.get(name).is_some_and(Service::is_running) {
            return Ok(String::new());
        }
        let (_, unit) = self.unit(name)?;
        let service = Service::start(self.inside, &self.directory, name, unit)?;
        self.services.insert(name.to_owned(), service);
        let outcome = wait_until(DEADLINE, "ready", || {
            self.look_after();
            let service = &self.services[name];
            let is_over = !service.is_running() && !service.unit.restarts;
            (service.is_ready || is_over).then_some(service.is_ready)
        });
        if outcome.unwrap_or(false) {
            return Ok(String::new());
        }
        Err(format!(
            "Job for {name}.service failed because the control process exited with error code.\n"
        ))
    }

    fn stop(&mut self, name: &str) -> Answer {
        match self.services.remove(name) {
            Some(service) => service.stop(name)?,
            None => drop(self.unit(name)?),
        }
        Ok(String::new())
    }

    fn reload(&self, name: &str) -> Answer {
        let service = self.services.get(name).filter(|service| service.is_running());
        let service = service.ok_or_else(|| format!("{name}.service is not active, cannot reload.\n"))?;
        service.reload(name)?;
        Ok(String::new())
    }

    fn enable(&self, name: &str) -> Answer {
        let (path, unit) = self.unit(name)?;
        let mut said = String::new();
        for link in links(name, &unit) {
            let inside = self.inside.path(&link);
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            if symlink(&path, &inside).is_ok() {
                said += &format!("Created symlink {} → {}.\n", link.display(), path.display());
            }
        }
        Ok(said)
    }

    fn disable(&self, name: &str) -> Answer {
        let (_, unit) = self.unit(name)?;
        let links = links(name, &unit).into_iter();
        let gone = links.filter(|link| fs::remove_file(self.inside.path(link)).is_ok());
        Ok(gone
            .map(|link| format!("Removed \"{}\".\n", link.display()))
            .collect())
    }

    fn status(&self, name: &str) -> Answer {
        let (path, unit) = self.unit(name)?;
        let head = format!(
            "{name}.service - {}\n     Loaded: loaded ({})\n",
            unit.description,
            path.display()
        );
        match self.services.get(name) {
            Some(service) if service.is_running() => Ok(format!(
                "● {head}     Active: active (running)\n   Main PID: {}\n     Status: \"{}\"\n",
                service.pid(),
                service.status,
            )),
            Some(_) => Err(format!("× {head}     Active: failed\n")),
            None => Err(format!("○ {head}     Active: inactive (dead)\n")),
        }
    }

    fn journalctl(&self, words: &[&str]) -> Answer {
        let (name, count) = match words {
            ["-u", name, "-o", "cat"] => (name, usize::MAX),
            ["-u", name, "-o", "cat", "-n", count] => (
                name,
                count.parse().map_err(|error| format!("{count}: {error}\n"))?,
            ),
            _ => return Err("the stand-in knows journalctl -u UNIT -o cat [-n LINES]\n".into()),
        };
        let text = fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(count)..];
        Ok(last.iter().map(|line| format!("{line}\n")).collect())
    }

    /// Starts those again that ended and ought to run.
    fn look_after(&mut self) {
        for (name, service) in &mut self.services {
            service.look();
            if service.is_to_start_again()
                && let Ok(next) = Service::start(self.inside, &self.directory, name, service.unit.clone())
            {
                *service = next;
            }
        }
    }
}

fn links(name: &str, unit: &Unit) -> Vec<PathBuf> {
    let link = |target: &String| Path::new(ENABLED).join(format!("{target}.wants/{name}.service"));
    unit.wanted_by.iter().map(link).collect()
}
