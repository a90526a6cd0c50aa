//! Flags of flannel whose feature is not there yet.

use std::collections::BTreeMap;

use super::command_line::{Given, Value};
use super::table::{Feature, FlagSpec, Kind, Support, TABLE};
use super::value::{boolean, integer};
use super::{Note, Refusal};

/// Refuses, in one line, every flag that asks for a feature that is not there. Values are not shown: some are
/// secrets.
pub(super) fn refuse_what_is_not_there(given: &Given) -> Result<(), Refusal> {
    let mut asked: BTreeMap<Feature, Vec<String>> = BTreeMap::new();
    for spec in TABLE {
        let Support::Missing(feature) = spec.support else {
            continue;
        };
        if let Some(value) = given
            .values(spec.name)
            .next_back()
            .filter(|value| !turns_off(spec, value))
        {
            asked.entry(feature).or_default().push(value.written_as());
        }
    }
    if !asked.is_empty() {
        let each: Vec<String> = asked
            .into_iter()
            .map(|(feature, flags)| {
                format!(
                    "{} (needs {}; {})",
                    flags.join(", "),
                    feature.name(),
                    feature.remedy()
                )
            })
            .collect();
        return Err(Refusal::Unacceptable(format!(
            "not there yet: {}",
            each.join("; ")
        )));
    }
    Ok(())
}

/// What was given and has no effect.
pub(super) fn notes(given: &Given) -> Vec<Note> {
    let ignored = TABLE.iter().filter(|spec| spec.support == Support::Ignored);
    ignored
        .filter(|spec| given.values(spec.name).next().is_some())
        .map(|spec| Note::Ignored { flag: spec.name })
        .collect()
}

/// Whether nothing is asked for: the feature is off, or the value is what holds without the flag, as in options that
/// spell out every default.
fn turns_off(spec: &FlagSpec, value: &Value<'_>) -> bool {
    match spec.kind {
        _ if value.text() == spec.default => true,
        Kind::Bool => boolean(value.text()) == Some(false),
        Kind::Int | Kind::Decimal => integer(value.text()).is_some_and(|number| number <= 0),
        Kind::Text | Kind::List => value.text().is_empty(),
    }
}
