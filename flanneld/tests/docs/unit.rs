//! A unit file as systemd reads it, as far as the files that pages use need it. What is not known here fails, so that
//! nothing in a shipped unit goes by unseen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A service, from its file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unit {
    pub(crate) description: String,
    /// Ready when it says so, and not at once.
    pub(crate) notifies: bool,
    pub(crate) start: String,
    pub(crate) stop: Option<String>,
    pub(crate) reload: Option<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// With whether it may be missing.
    pub(crate) environment_files: Vec<(PathBuf, bool)>,
    pub(crate) user: Option<String>,
    /// Below `/run`, `/var/lib`.
    pub(crate) directories: Vec<PathBuf>,
    /// Of these, those that go when it stops.
    pub(crate) fleeting: Vec<PathBuf>,
    pub(crate) restarts: bool,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) wanted_by: Vec<String>,
}

/// What changes nothing that a test of one host can see.
const WITHOUT_EFFECT: [&str; 13] = [
    "DynamicUser",
    "KillMode",
    "LimitNOFILE",
    "NotifyAccess",
    "OOMScoreAdjust",
    "PermissionsStartOnly",
    "RestartSec",
    "RestartSteps",
    "StartLimitBurst",
    "StartLimitIntervalSec",
    "SyslogIdentifier",
    "TimeoutStartSec",
    "TimeoutStopSec",
];

impl Unit {
    /// `name` is the unit's, `host` the name of the host.
    pub(crate) fn parse(text: &str, name: &str, host: &str) -> Result<Self, String> {
        let mut unit = Self::default();
        let (mut runtime, mut preserved) = (Vec::new(), false);
        for (section, key, value) in entries(text)? {
            let value = value.replace("%p", name).replace("%N", name).replace("%H", host);
            let value = value.as_str();
            match (section.as_str(), key.as_str()) {
                ("Unit", "Description") => value.clone_into(&mut unit.description),
                ("Install", "WantedBy") => unit.wanted_by.extend(value.split_whitespace().map(Into::into)),
                ("Unit" | "Install", _) => {}
                ("Service", "Type") => {
                    unit.notifies = match value {
                        "notify" | "notify-reload" => true,
                        "simple" | "exec" => false,
                        other => return Err(format!("Type={other}")),
                    };
                }
                ("Service", "ExecStart") => value.clone_into(&mut unit.start),
                ("Service", "ExecStop") => unit.stop = Some(value.to_owned()),
                ("Service", "ExecReload") => unit.reload = Some(value.to_owned()),
                ("Service", "Environment") => {
                    for word in words(value) {
                        let (name, value) = word.split_once('=').ok_or(format!("Environment={word}"))?;
                        unit.environment.push((name.to_owned(), value.to_owned()));
                    }
                }
                ("Service", "EnvironmentFile") => {
                    let path = value.strip_prefix('-');
                    unit.environment_files
                        .push((path.unwrap_or(value).into(), path.is_some()));
                }
                ("Service", "User") => unit.user = Some(value.to_owned()),
                ("Service", "RuntimeDirectory") => {
                    runtime.extend(
                        value
                            .split_whitespace()
                            .map(|name| PathBuf::from("/run").join(name)),
                    );
                }
                ("Service", "RuntimeDirectoryPreserve") => preserved = value != "no",
                ("Service", "StateDirectory") => {
                    let below = value
                        .split_whitespace()
                        .map(|name| PathBuf::from("/var/lib").join(name));
                    unit.directories.extend(below);
                }
                ("Service", "WatchdogSec") => {
                    let seconds = value.trim_end_matches('s').parse();
                    unit.watchdog = Some(Duration::from_secs(
                        seconds.map_err(|_| format!("{key}={value}"))?,
                    ));
                }
                ("Service", "Restart") => unit.restarts = value != "no",
                ("Service", key) if WITHOUT_EFFECT.contains(&key) => {}
                (section, key) => {
                    return Err(format!("the stand-in for systemd knows no {key}= in [{section}]"));
                }
            }
        }
        unit.directories.extend(runtime.iter().cloned());
        if !preserved {
            unit.fleeting = runtime;
        }
        Ok(unit)
    }
}

fn entries(text: &str) -> Result<Vec<(String, String, String)>, String> {
    let mut section = String::new();
    let mut entries = Vec::new();
    let joined = text.replace("\\\n", " ");
    for line in joined.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else {
            let (key, value) = line.split_once('=').ok_or(format!("not a setting: {line}"))?;
            entries.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(entries)
}

/// systemd.exec(5), `EnvironmentFile=`.
pub(crate) fn environment_file(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", "");
    let settings = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']));
    let pairs = settings.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), words(value).join(" ")))
        .collect()
}

/// The words of a command line, with `${NAME}` put in, and `$NAME` put in as words of its own (systemd.service(5)).
pub(crate) fn command_line(line: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| environment.get(name).cloned().unwrap_or_default();
    let mut command = Vec::new();
    for word in words(line.trim_start_matches(['-', '+', '@', ':'])) {
        if let Some(name) = word.strip_prefix('$').filter(|rest| !rest.starts_with('{')) {
            command.extend(value(name).split_whitespace().map(Into::into));
            continue;
        }
        let mut parts = word.split("${");
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap_or((part, ""));
            whole += &value(name);
            whole += rest;
        }
        command.push(whole);
    }
    command
}

/// Words, with quotes taken off.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for sign in text.chars() {
        match quote {
            Some(open) if sign == open => quote = None,
            None if sign == '"' || sign == '\'' => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            None if sign.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_file_is_read_with_its_specifiers_and_directories() {
        let text = "# x\n[Unit]\nDescription=a b\n[Service]\nType=notify\nEnvironment=A=1 \"B=2 3\"\n\
                    EnvironmentFile=-/etc/default/%p\nExecStart=/bin/x --a=${A} \\\n $B\nRuntimeDirectory=x y\n\
                    RuntimeDirectoryPreserve=yes\nStateDirectory=x\n[Install]\nWantedBy=multi-user.target\n";
        let unit = Unit::parse(text, "x", "host1").unwrap();
        assert!(unit.notifies);
        assert_eq!(unit.environment_files, [(PathBuf::from("/etc/default/x"), true)]);
        assert_eq!(unit.directories.len(), 3);
        assert!(unit.fleeting.is_empty());
        let environment: BTreeMap<_, _> = unit.environment.clone().into_iter().collect();
        assert_eq!(
            command_line(&unit.start, &environment),
            ["/bin/x", "--a=1", "2", "3"]
        );
    }

    #[test]
    fn a_setting_that_is_not_known_is_no_unit() {
        let error = Unit::parse("[Service]\nType=notify\nMagic=1\n", "x", "host1").unwrap_err();
        assert!(error.contains("Magic="), "{error}");
    }

    #[test]
    fn an_environment_file_has_comments_and_quotes() {
        let read = environment_file("# no\nA=1\nB=\"--x --y\"\n; C=3\n");
        assert_eq!(read, [("A".into(), "1".into()), ("B".into(), "--x --y".into())]);
    }
}
