//! The lines themselves, and the queue: against pipes of the test's own.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::OwnedFd;

use tracing::subscriber::with_default;

use super::line::VALUE_BYTES;
use super::queue::{QUEUE_BYTES, QUEUE_LINES};
use super::*;

macro_rules! for_each_level {
    ($target:literal) => {
        tracing::error!(target: $target, $target);
        tracing::warn!(target: $target, $target);
        tracing::info!(target: $target, $target);
        tracing::debug!(target: $target, $target);
        tracing::trace!(target: $target, $target);
    };
}
const ENOUGH: Duration = Duration::from_secs(10);

fn pipe(format: LogFormat) -> (LogHandle, PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    (
        LogHandle::to_file(File::from(OwnedFd::from(writer)), format).unwrap(),
        reader,
    )
}

/// What the events of `log` look like with that verbosity and `RUST_LOG`.
fn logged(options: LogOptions, rust_log: Option<&str>, log: impl FnOnce()) -> Vec<String> {
    let (handle, reader) = pipe(options.format);
    let (filter, _) = filter(options.verbosity, rust_log.map(OsString::from));
    let layer = LineLayer::new(options.format, Arc::clone(&handle.queue));
    with_default(Registry::default().with(filter).with(layer), log);
    assert!(handle.flush(ENOUGH));
    handle.line("END");
    BufReader::new(reader)
        .lines()
        .map(Result::unwrap)
        .take_while(|line| line != "END")
        .collect()
}

/// One line without its time, which is checked.
fn rendered(format: LogFormat, log: impl FnOnce()) -> String {
    let lines = logged(LogOptions { format, verbosity: 0 }, None, log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (before, time, after) = match format {
        LogFormat::Text => {
            let (time, rest) = lines[0].split_once(' ').unwrap();
            ("", time, rest)
        }
        LogFormat::Json => {
            let rest = lines[0].strip_prefix("{\"time\":\"").unwrap();
            let (time, rest) = rest.split_once("\",").unwrap();
            ("{", time, rest)
        }
    };
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{time}");
    format!("{before}{after}")
}

#[test]
fn a_text_line_quotes_only_what_needs_it() {
    let line = rendered(LogFormat::Text, || {
        tracing::info!(
            subnet = %"10.5.63.0/24", peers = 3, up = true, reason = "with space", none = "", debug = ?"quoted",
            equals = "a=b", path = r"c:\d", "lease acquired"
        );
    });
    assert_eq!(
        line,
        "INFO  lease acquired subnet=10.5.63.0/24 peers=3 up=true reason=\"with space\" none=\"\" \
         debug=\"quoted\" equals=\"a=b\" path=\"c:\\\\d\""
    );
}

#[test]
fn a_json_line_is_one_flat_object() {
    let line = rendered(LogFormat::Json, || {
        tracing::warn!(subnet = %"10.5.63.0/24", peers = 3, ratio = f64::NAN, up = true, time = "x", "say \"hi\"");
    });
    assert_eq!(
        line,
        "{\"level\":\"WARN\",\"message\":\"say \\\"hi\\\"\",\"subnet\":\"10.5.63.0/24\",\"peers\":3,\
         \"ratio\":\"NaN\",\"up\":true,\"field_time\":\"x\"}"
    );
    let _: serde_json::Value = serde_json::from_str(&line).unwrap();
}

#[test]
fn a_value_from_outside_cannot_forge_a_line_a_field_or_drive_a_terminal() {
    let forged = "a\n2026-11-22T10:11:12.123456Z ERROR \u{1b}[31mred";
    for format in [LogFormat::Text, LogFormat::Json] {
        let line = rendered(format, || tracing::info!(name = forged, "named {forged}"));
        assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
    }
    let line = rendered(
        LogFormat::Text,
        || tracing::info!(name = %"\"a\" admin=\"yes\"", "x"),
    );
    assert_eq!(line, r#"INFO  x name="\"a\" admin=\"yes\"""#);
    let line = rendered(LogFormat::Text, || tracing::info!(name = %"\"a\\\"", "x"));
    assert_eq!(line, r#"INFO  x name="\"a\\\"""#);
}

#[test]
fn a_long_value_is_cut_between_characters() {
    let long = "é".repeat(VALUE_BYTES);
    let odd = format!("x{long}");
    for format in [LogFormat::Text, LogFormat::Json] {
        let line = rendered(format, || tracing::info!(a = long, b = ?long, c = %odd, "{odd}"));
        let [a, b, c, message] = [
            VALUE_BYTES / 2,
            VALUE_BYTES / 2 - 1,
            VALUE_BYTES / 2 - 1,
            VALUE_BYTES / 2 - 1,
        ];
        assert_eq!(line.matches('é').count(), a + b + c + message);
        assert_eq!(line.matches('…').count(), 4);
    }
}

#[test]
fn a_long_list_is_cut_where_a_long_text_is() {
    let list = vec!["é"; VALUE_BYTES];
    let whole = format!("{list:?}");
    let kept = (0..=VALUE_BYTES)
        .rev()
        .find(|&end| whole.is_char_boundary(end))
        .unwrap();
    let line = rendered(LogFormat::Text, || tracing::info!("{list:?}"));
    assert_eq!(line, format!("INFO  {}…", &whole[..kept]));
}

#[test]
fn verbosity_is_for_our_crates_and_rust_log_overrides_it() {
    let log = || {
        for_each_level!("flanneld::run");
        for_each_level!("flannel_core::engine");
        for_each_level!("tokio");
    };
    let count = |verbosity, rust_log| {
        let lines = logged(
            LogOptions {
                verbosity,
                format: LogFormat::Text,
            },
            rust_log,
            log,
        );
        ["flanneld::run", "flannel_core::engine", "tokio"]
            .map(|target| lines.iter().filter(|line| line.ends_with(target)).count())
    };
    assert_eq!(count(-1, None), [3, 3, 2]);
    assert_eq!(count(0, None), [3, 3, 2]);
    assert_eq!(count(1, None), [4, 4, 2]);
    assert_eq!(count(2, None), [5, 5, 2]);
    assert_eq!(count(9, Some("")), [5, 5, 2]);
    assert_eq!(count(2, Some("error")), [1, 1, 1]);
    assert_eq!(count(0, Some("flannel_core=trace")), [0, 5, 0]);
    assert_eq!(count(0, Some("flanneld=nonsense")), [3, 3, 2]);
}

#[test]
fn a_bad_rust_log_is_reported() {
    assert!(filter(0, Some("flanneld=nonsense".into())).1.is_some());
    assert_eq!(filter(0, Some("flanneld=debug".into())).1, None);
}

#[test]
fn a_full_queue_drops_lines_and_each_gap_is_told_where_it_is() {
    let (handle, reader) = pipe(LogFormat::Text);
    let filler = "x".repeat(100);
    let pushed = 3 * QUEUE_LINES as u64;
    for number in 0..pushed {
        handle.line(format!("{number} {filler}"));
    }
    let dropped = handle.dropped();
    assert!(dropped > 0 && dropped < pushed, "{dropped} dropped");
    assert!(!handle.flush(Duration::from_millis(10)), "nobody has read yet");

    let read = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        lines.take_while(|line| line != "END").collect::<Vec<_>>()
    });
    assert!(handle.flush(ENOUGH));
    handle.line(format!("{pushed} last"));
    handle.line("END");
    let (mut next, mut told) = (0, 0);
    for line in read.join().unwrap() {
        if let Some((_, lines)) = line.split_once("log lines were lost here") {
            let lines: u64 = lines.split_once("lines=").unwrap().1.parse().unwrap();
            told += lines;
            next += lines;
        } else {
            assert!(
                line.starts_with(&format!("{next} ")),
                "{line} where {next} was due"
            );
            next += 1;
        }
    }
    assert_eq!((next, told), (pushed + 1, dropped));
    assert_eq!(handle.dropped(), dropped, "nothing more is lost once it is read");
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let (handle, _reader) = pipe(LogFormat::Text);
    let quarter = "x".repeat(QUEUE_BYTES / 4);
    for _ in 0..8 {
        handle.line(&quarter);
    }
    assert!(handle.dropped() >= 4, "{} dropped", handle.dropped());
}

#[test]
fn lines_to_a_reader_that_is_gone_are_counted() {
    let (handle, reader) = pipe(LogFormat::Text);
    drop(reader);
    for _ in 0..3 {
        handle.line("unread");
    }
    assert!(handle.flush(ENOUGH));
    assert_eq!(handle.dropped(), 3);
}
