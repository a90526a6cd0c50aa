//! Go's argument grammar and the environment overlay: strings in, checked but still untyped values out.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::Refusal;
use super::table::{self, FlagSpec, Kind, TABLE, VERSION};
use super::usage;
use super::value::{boolean, integer};
use super::verb::Verb;

/// The flags that were given, each value fit for its flag's kind.
#[derive(Debug)]
pub(super) struct Given {
    by_name: BTreeMap<&'static str, (Origin, Vec<String>)>,
}

/// Where a value came from, and so what the user has to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    Environment,
}

/// What was given for one flag; or its default, which counts as from the command line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    spec: &'static FlagSpec,
    origin: Origin,
    text: &'a str,
}

impl Given {
    /// Arguments first, then the variables of flags that did not appear among them. Words among the flags are
    /// returned, where a verb stands before them.
    pub(super) fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
        takes_words: bool,
    ) -> Result<(Self, Vec<String>), Refusal> {
        let mut given = Self {
            by_name: BTreeMap::new(),
        };
        let words = given.read_arguments(args.into_iter(), takes_words)?;
        if given
            .values(VERSION)
            .last()
            .is_some_and(|version| boolean(version.text()) == Some(true))
        {
            return Err(Refusal::Version(usage::version()));
        }
        given.read_environment(env)?;
        Ok((given, words))
    }

    /// All values of a flag in order; none if it was not given.
    pub(super) fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = Value<'_>> {
        let entry = table::find(name).and_then(|spec| Some((spec, self.by_name.get(spec.name)?)));
        entry.into_iter().flat_map(|(spec, (origin, texts))| {
            texts.iter().map(move |text| Value {
                spec,
                origin: *origin,
                text,
            })
        })
    }

    /// The last value given for a flag, else its default.
    pub(super) fn value<'a>(&'a self, spec: &'static FlagSpec) -> Value<'a> {
        let default = Value {
            spec,
            origin: Origin::CommandLine,
            text: spec.default,
        };
        self.values(spec.name).next_back().unwrap_or(default)
    }

    fn read_arguments(
        &mut self,
        mut args: impl Iterator<Item = OsString>,
        takes_words: bool,
    ) -> Result<Vec<String>, Refusal> {
        let mut words = Vec::new();
        let mut bare_bool = None;
        while let Some(arg) = args.next() {
            let arg = utf8(arg)?;
            let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
                if !takes_words {
                    return Err(left_over(&arg, bare_bool));
                }
                words.push(arg);
                continue;
            };
            if body == "-" {
                let rest = args.map(utf8).collect::<Result<Vec<_>, _>>()?;
                return match rest.first() {
                    Some(next) if !takes_words => Err(left_over(next, None)),
                    _ => Ok([words, rest].concat()),
                };
            }
            let body = body.strip_prefix('-').unwrap_or(body);
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            if name.is_empty() || name.starts_with('-') {
                let shown = arg.split('=').next().unwrap_or_default();
                return Err(misuse(format!("bad flag syntax {shown:?}: write --NAME=VALUE")));
            }
            if matches!(name, "help" | "h") {
                return Err(Refusal::Help(usage::help()));
            }
            let spec = table::find(name).ok_or_else(|| unknown(name))?;
            bare_bool = (spec.kind == Kind::Bool && inline.is_none()).then_some(spec);
            let value = match inline {
                Some(value) => value.to_owned(),
                None if spec.kind == Kind::Bool => "true".to_owned(),
                None => following_value(spec, args.next())?,
            };
            self.add(spec, Origin::CommandLine, value)?;
        }
        Ok(words)
    }

    /// `--version` is asked on the command line only, as in flannel.
    fn read_environment(&mut self, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Refusal> {
        for spec in TABLE.iter().filter(|spec| spec.name != VERSION) {
            if self.by_name.contains_key(spec.name) {
                continue;
            }
            let variable = variable(spec);
            if let Some(value) = env(&variable).filter(|value| !value.is_empty()) {
                let value = value.into_string().map_err(|_| {
                    misuse(format!(
                        "the variable {variable} is not UTF-8: correct it or unset it"
                    ))
                })?;
                self.add(spec, Origin::Environment, value)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, spec: &'static FlagSpec, origin: Origin, text: String) -> Result<(), Refusal> {
        let value = Value {
            spec,
            origin,
            text: &text,
        };
        match spec.kind {
            Kind::Bool if boolean(&text).is_none() => {
                return Err(value.misuse("a boolean is true or false (or 1 0 t f T F TRUE FALSE True False)"));
            }
            Kind::Int if integer(&text).is_none() => {
                return Err(value.misuse(format!("not an integer, {} is the default", spec.default)));
            }
            Kind::Decimal if text.parse::<i32>().is_err() => {
                return Err(value.misuse("not a decimal integer"));
            }
            _ => {}
        }
        self.by_name
            .entry(spec.name)
            .or_insert((origin, Vec::new()))
            .1
            .push(text);
        Ok(())
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) const fn default(&self) -> &'static str {
        self.spec.default
    }

    /// The flag or the variable that the user has to mend.
    pub(super) fn written_as(&self) -> String {
        match self.origin {
            Origin::CommandLine => format!("--{}", self.spec.name),
            Origin::Environment => variable(self.spec),
        }
    }

    /// The value cannot be read.
    pub(super) fn misuse(&self, reason: impl std::fmt::Display) -> Refusal {
        let unset = if self.origin == Origin::Environment {
            "; correct the variable or unset it"
        } else {
            ""
        };
        misuse(format!(
            "invalid value {:?} for {}: {reason}{unset}",
            self.text,
            self.written_as()
        ))
    }
}

/// `FLANNELD_ETCD_PREFIX` for `etcd-prefix`.
pub(super) fn variable(spec: &FlagSpec) -> String {
    format!("FLANNELD_{}", spec.name.to_ascii_uppercase().replace('-', "_"))
}

/// Go takes whatever comes next as the value; a known flag there is a forgotten value.
fn following_value(spec: &FlagSpec, next: Option<OsString>) -> Result<String, Refusal> {
    let name = spec.name;
    let next = next.ok_or_else(|| misuse(format!("--{name} needs a value: write --{name}=VALUE")))?;
    let next = utf8(next)?;
    let flag_name = next.trim_start_matches('-').split('=').next().unwrap_or_default();
    if next.starts_with('-') && table::find(flag_name).is_some() {
        return Err(misuse(format!(
            "--{name} needs a value, but the flag --{flag_name} follows: write --{name}=VALUE"
        )));
    }
    Ok(next)
}

fn utf8(arg: OsString) -> Result<String, Refusal> {
    arg.into_string().map_err(|arg| {
        let shown = arg.to_string_lossy();
        misuse(format!(
            "argument {:?} is not UTF-8",
            shown.split('=').next().unwrap_or_default()
        ))
    })
}

/// The value, if any, is not shown: it may be a secret after a misspelt name.
fn unknown(name: &str) -> Refusal {
    let shown = name.escape_debug();
    let near = TABLE
        .iter()
        .map(|spec| (distance(name, spec.name), spec.name))
        .min()
        .filter(|(distance, near)| *distance <= (near.len() + 1) / 3);
    match near {
        Some((_, near)) => misuse(format!("unknown flag --{shown}: did you mean --{near}?")),
        None => misuse(format!("unknown flag --{shown}: flanneld --help lists the flags")),
    }
}

/// `before` is the boolean flag that stood directly before, without a value.
fn left_over(arg: &str, before: Option<&FlagSpec>) -> Refusal {
    let remedy = match before {
        Some(spec) if boolean(arg).is_some() => {
            format!("booleans take '=', write --{}={arg}", spec.name)
        }
        _ if Verb::is_one(arg.as_ref()) => format!("a verb stands first, write flanneld {arg}"),
        _ if arg.trim().is_empty() => {
            "nothing, not even a space, may follow the '\\' that continues a line".to_owned()
        }
        _ if arg.starts_with('#') => "a comment cannot stand among the flags, remove it".to_owned(),
        _ if arg.starts_with(['\u{2013}', '\u{2014}', '\u{2212}']) => {
            "its dash is not the ASCII one, type it anew as --".to_owned()
        }
        _ if table::find(arg.split('=').next().unwrap_or_default()).is_some() => {
            format!("flags begin with dashes, write --{arg}")
        }
        _ => "flanneld takes flags only, remove it or quote it with the value before it".to_owned(),
    };
    misuse(format!("unexpected argument {arg:?}: {remedy}"))
}

fn misuse(message: String) -> Refusal {
    Refusal::Misuse(message)
}

/// Levenshtein's, in characters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}
