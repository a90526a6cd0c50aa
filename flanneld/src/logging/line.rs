//! One line of the log.
//!
//! **Whatever is logged, it stays one line of bounded length**: control characters are escaped, long values cut.
//! Values come from outside (other hosts' leases, file names) and must not forge lines or drive a terminal.

use std::fmt::{self, Debug, Display, Write};

use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::LogFormat;

/// Bytes of one value, or of the message; what is beyond them is cut.
pub(super) const VALUE_BYTES: usize = 4096;

/// Bytes, in UTF-8.
const LONGEST_CHARACTER: usize = 4;

/// A line in the making. Message and fields may come in any order.
pub(super) struct Line {
    format: LogFormat,
    level: Level,
    message: String,
    /// Rendered, each with what separates it from the one before.
    fields: String,
}

impl Line {
    pub(super) fn new(format: LogFormat, level: Level) -> Self {
        Self {
            format,
            level,
            message: String::new(),
            fields: String::new(),
        }
    }

    pub(super) fn message(&mut self, message: &str) {
        message.clone_into(&mut self.message);
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        let value = cut(value);
        match self.format {
            LogFormat::Text if is_plain(&value) || is_quoted(&value) => self.field(name, &value),
            LogFormat::Text => self.field(name, &quoted(&value)),
            LogFormat::Json => self.field(name, &json(&value)),
        }
    }

    /// A number or a boolean: the same in both formats.
    pub(super) fn number(&mut self, name: &str, value: impl Display) {
        self.field(name, &value.to_string());
    }

    /// The whole line with its newline.
    pub(super) fn finish(self) -> String {
        let mut time = String::new();
        // The only error is that the clock cannot be told; the line matters more.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let message = cut(&self.message);
        let Self {
            format,
            level,
            fields,
            ..
        } = self;
        match format {
            LogFormat::Text => format!("{time} {level:<5} {}{fields}\n", escaped(&message)),
            LogFormat::Json => {
                format!(
                    "{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{}{fields}}}\n",
                    json(&message)
                )
            }
        }
    }

    fn field(&mut self, name: &str, rendered: &str) {
        // Writing to a String cannot fail.
        let _ = match (self.format, name) {
            (LogFormat::Text, _) => write!(self.fields, " {name}={rendered}"),
            // An object has each key once.
            (LogFormat::Json, "time" | "level") => write!(self.fields, ",\"field_{name}\":{rendered}"),
            (LogFormat::Json, _) => write!(self.fields, ",{}:{rendered}", json(name)),
        };
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message(value),
            name => self.text(name, value),
        }
    }

    /// Also what was given as `%value` and as the message's format.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut bounded = Bounded(String::new());
        // Formatting of a value may fail; what it wrote until then is what there is.
        let _ = write!(bounded, "{value:?}");
        self.record_str(field, &bounded.0);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field.name(), value);
        } else {
            self.text(field.name(), &value.to_string());
        }
    }
}

/// Keeps a little more than `VALUE_BYTES`, so that `cut` sees that it must, and lets the rest go.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() <= VALUE_BYTES {
            self.0.push_str(prefix(text, VALUE_BYTES + LONGEST_CHARACTER));
        }
        Ok(())
    }
}

fn cut(value: &str) -> String {
    if value.len() <= VALUE_BYTES {
        return value.to_owned();
    }
    format!("{}…", prefix(value, VALUE_BYTES))
}

/// At most so many bytes of it, whole characters.
fn prefix(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || "\"=\\".contains(c))
}

/// Whether `Debug` of a string has quoted it already.
fn is_quoted(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut after_backslash = false;
    let clean = inner.chars().all(|c| {
        let fine = after_backslash || c != '"';
        after_backslash = c == '\\' && !after_backslash;
        fine && !c.is_control()
    });
    clean && !after_backslash
}

fn quoted(value: &str) -> String {
    format!(
        "\"{}\"",
        escaped(&value.replace('\\', "\\\\").replace('"', "\\\""))
    )
}

fn escaped(value: &str) -> String {
    value
        .chars()
        .fold(String::with_capacity(value.len()), |mut text, c| {
            if c.is_control() {
                text.extend(c.escape_default())
            } else {
                text.push(c)
            }
            text
        })
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
