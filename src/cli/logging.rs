//! Sets up the log on stderr: its format, its levels and its colours.
//!
//! Each message is one line, for people and for service managers:
//!
//! ```text
//! 2026-11-21T20:00:00Z WARN no connection left of 5456; waiting
//! ```
//!
//! The default level is info: starting, stopping, and events that need attention. `-q` lowers it to
//! warnings, errors or nothing; `-v` raises it to debug (one line a session) or trace. The variables
//! `THREADGATE_LOG` and `RUST_LOG`, the first before the second, override both with env_logger's
//! directives (`debug`, `threadgate::server=trace,warn`). Messages are in colour only on a terminal and
//! as `--color` says. The access log is written elsewhere, in the same style.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::time::UNIX_EPOCH;

use env_logger::{Builder, WriteStyle};
use jiff::Timestamp;
use log::{Level, LevelFilter};

use crate::config::{Color, LogFormat};
use crate::observe::access_log::LineFormat;

/// The variables with directives. The first that is set and not empty counts.
pub(crate) const VARIABLES: [&str; 2] = ["THREADGATE_LOG", "RUST_LOG"];

/// Sends messages of the `log` crate to stderr, for the rest of the process. A second call
/// changes nothing.
pub(crate) fn init(verbosity: i8, color: Color) {
    let mut builder = Builder::new();
    let set = VARIABLES.iter().find_map(|v| std::env::var(v).ok().filter(|d| !d.is_empty()));
    match set {
        Some(directives) => builder.parse_filters(&directives),
        None => {
            let (ours, others) = levels(verbosity);
            builder.filter_level(others).filter_module("threadgate", ours)
        }
    };
    let stderr = io::stderr().is_terminal();
    builder.write_style(if is_colored(color, stderr, &of_environment) {
        WriteStyle::Always
    } else {
        WriteStyle::Never
    });
    let width = if stderr { 5 } else { 0 };
    builder.format(move |out, record| {
        let style = out.default_level_style(record.level());
        // `Timestamp::now` panics if the clock is past the year 9999, and this message may report a panic.
        let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok());
        let time = now.unwrap_or_default();
        write!(out, "{time} {style}{:width$}{style:#} ", record.level())?;
        if record.level() >= Level::Debug {
            write!(out, "{}: ", record.target())?;
        }
        writeln!(out, "{}", OneLine(record.args()))
    });
    // The only possible error is that a logger is already set, which is fine.
    let _ = builder.try_init();
}

/// How the access log is written to stdout: for a person if stdout is a terminal, or if `--color` asks
/// for colour.
pub(crate) fn on_stdout(format: LogFormat, color: Color) -> Option<LineFormat> {
    let terminal = io::stdout().is_terminal();
    let watched = format == LogFormat::Text && (terminal || color == Color::Always);
    watched.then(|| LineFormat::Terminal { colour: is_colored(color, terminal, &of_environment) })
}

/// Whether output on stdout is in colour.
pub(crate) fn is_stdout_colored(color: Color) -> bool {
    is_colored(color, io::stdout().is_terminal(), &of_environment)
}

/// Whether to use colour. The command line comes before the environment (no-color.org). A terminal
/// gets no colour if `TERM` is empty or `dumb`.
fn is_colored(color: Color, terminal: bool, variable: &dyn Fn(&str) -> String) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            terminal
                && variable("NO_COLOR").is_empty()
                && !matches!(variable("TERM").as_str(), "" | "dumb")
        }
    }
}

fn of_environment(variable: &str) -> String {
    std::env::var_os(variable).unwrap_or_default().to_string_lossy().into_owned()
}

/// The level of our own messages and that of the libraries we use.
fn levels(verbosity: i8) -> (LevelFilter, LevelFilter) {
    match verbosity {
        ..=-3 => (LevelFilter::Off, LevelFilter::Off),
        -2 => (LevelFilter::Error, LevelFilter::Error),
        -1 => (LevelFilter::Warn, LevelFilter::Warn),
        0 => (LevelFilter::Info, LevelFilter::Warn),
        1 => (LevelFilter::Debug, LevelFilter::Warn),
        2 => (LevelFilter::Trace, LevelFilter::Info),
        3.. => (LevelFilter::Trace, LevelFilter::Trace),
    }
}

/// A message with its control characters escaped. Text from a peer may be part of the message, and must
/// neither begin a new line nor control the terminal.
struct OneLine<'a>(&'a fmt::Arguments<'a>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((at, last)) if last.is_control() => {
                    self.0.write_str(part.get(..at).unwrap_or_default())?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_on_one_line_and_cannot_speak_to_the_terminal() {
        for (text, shown) in [
            ("plain", "plain"),
            ("größe ✓", "größe ✓"),
            ("a\r\nb", "a\\r\\nb"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("end\n", "end\\n"),
            ("\u{9b}1m", "\\u{9b}1m"),
            ("", ""),
        ] {
            assert_eq!(OneLine(&format_args!("{text}")).to_string(), shown);
        }
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let is = |color, terminal, set: &[(&str, &str)]| {
            is_colored(color, terminal, &|name| {
                let found = set.iter().find(|(n, _)| *n == name);
                found.map_or_else(String::new, |(_, value)| (*value).to_owned())
            })
        };
        let xterm = ("TERM", "xterm-256color");
        assert!(is(Color::Auto, true, &[xterm]));
        assert!(is(Color::Auto, true, &[xterm, ("NO_COLOR", "")]), "empty is as if not set");
        assert!(!is(Color::Auto, true, &[xterm, ("NO_COLOR", "0")]), "any other value counts");
        assert!(!is(Color::Auto, true, &[("TERM", "dumb")]));
        assert!(!is(Color::Auto, true, &[]));
        assert!(!is(Color::Auto, false, &[xterm]));
        assert!(is(Color::Always, false, &[("NO_COLOR", "1")]));
        assert!(!is(Color::Never, true, &[xterm]));
    }

    #[test]
    fn verbosity_moves_the_level_of_our_messages_by_one() {
        let ours = |v| levels(v).0;
        let all = [-128, -3, -2, -1, 0, 1, 2, 3, 127].map(ours);
        assert!(all.is_sorted());
        assert_eq!(ours(0), LevelFilter::Info);
        assert_eq!((ours(-1), ours(-2), ours(-3)), {
            (LevelFilter::Warn, LevelFilter::Error, LevelFilter::Off)
        });
        assert_eq!((ours(1), ours(2)), (LevelFilter::Debug, LevelFilter::Trace));
        assert!((-128..=127).all(|v| levels(v).1 <= levels(v).0), "libraries say no more than we");
    }
}
