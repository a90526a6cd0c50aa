//! What `--help` and `--version` print.

use std::fmt::Write;

use super::command_line::variable;
use super::table::{Kind, Support, TABLE, VERSION};
use super::verb::USAGE;

/// Every flag by name, with its variable, default and whether it is there.
pub(super) fn help() -> String {
    let mut text = String::new();
    for (line, what) in USAGE {
        let before = if text.is_empty() { "Usage:" } else { "      " };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{before} {line:44} {what}");
    }
    text.push_str(
        "\nOne dash or two; --name=value or --name value, but booleans only --name or --name=false.\n\
        A flag that is not given is taken from the variable beside it, if that is not empty.\n",
    );
    for spec in TABLE {
        let kind = match spec.kind {
            Kind::Bool => "",
            Kind::Int | Kind::Decimal => " INT",
            Kind::Text => " TEXT",
            Kind::List => " TEXT, repeatable",
        };
        let variable = if spec.name == VERSION {
            String::new()
        } else {
            format!("  [{}]", variable(spec))
        };
        let default = if spec.default.is_empty() {
            String::new()
        } else {
            format!(" (default {})", spec.default)
        };
        let missing = match spec.support {
            Support::Missing(_) => " (not there yet)",
            Support::Ready | Support::Ignored => "",
        };
        let _ = write!(
            text,
            "\n  --{}{kind}{variable}\n        {}{default}{missing}",
            spec.name, spec.help
        );
    }
    text
}

/// In the form of flannel's release tags.
pub(super) fn version() -> String {
    concat!("v", env!("CARGO_PKG_VERSION")).to_owned()
}
