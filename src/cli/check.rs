//! `threadgate check`: checks the options and files of a proxy, and prints the values in effect. Only a
//! start can show that a port is in use, or that another proxy is running.
//!
//! The output is itself a configuration file with the same meaning. Each line ends with the source of its
//! value, and defaults are comments. Secrets are not shown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use argh::{ArgsInfo, FromArgs};

use crate::cli::effective_options::{Effective, GivenOptions};
use crate::cli::exit::Failure;
use crate::cli::learn_file::LearnFile;
use crate::cli::stdout::print;
use crate::config::options::{self, FileUse, OptionKind, OptionRow};
use crate::config::rules::WrittenRule;
use crate::config::settings::{Settings, WrittenValue};
use crate::policy::Access;
use crate::policy::list_report::ListRemark;

/// validate options and the files they name
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "check")]
pub(crate) struct CheckArgs {}

/// Reads every file that the options name, and prints the values in effect.
pub(crate) fn check(given: &GivenOptions) -> Result<(), Failure> {
    let (effective, access) = given.effective_with_files()?;
    for warning in &effective.warnings {
        // If stderr is gone, the message has nowhere to go.
        let _ = writeln!(io::stderr(), "threadgate: {warning}");
    }
    tell_lists(&effective, &access)?;
    effective.config.learn_file.as_deref().map(LearnFile::read).transpose()?;
    let mut lines = Vec::new();
    show(&effective, &mut lines);
    print(&text(&lines, io::stdout().is_terminal()))
}

/// Says what is in each list; with `--verbose` also which lines are skipped.
fn tell_lists(effective: &Effective, access: &Access) -> Result<(), Failure> {
    let config = &effective.config;
    let mut stderr = io::stderr().lock();
    // If stderr is gone, the message has nowhere to go.
    let mut say = |text: &str| {
        let _ = writeln!(stderr, "threadgate: {text}");
    };
    for report in access.list_reports() {
        for remark in report.remarks() {
            match remark {
                ListRemark::Read(text) | ListRemark::Warning(text) => say(&text),
            }
        }
    }
    if config.verbosity > 0 {
        let all = config.own.iter().map(|own| &own.access).chain([&config.access]);
        let mut told = BTreeSet::new();
        for access in all {
            let lines = access.lines_skipped(|file, kind, line| {
                let why = kind.words();
                let text =
                    format!("{}:{}: {} skipped: {why}", file.display(), line.line, line.shown());
                if told.insert(text.clone()) {
                    say(&text);
                }
            });
            lines.map_err(|e| effective.unusable(&e))?;
        }
    }
    Ok(())
}

/// A line of the output: a setting and its source.
type Line = (String, String);

fn text(lines: &[Line], aligned: bool) -> String {
    const WIDEST: usize = 60;
    let width = |line: &Line| line.0.chars().count();
    let widths = lines.iter().filter(|line| !line.1.is_empty()).map(width);
    let column = widths.filter(|width| *width <= WIDEST).max().filter(|_| aligned).unwrap_or(0);
    let mut text = String::new();
    for (says, from) in lines {
        // Writing to a String does not fail.
        let _ = match from.is_empty() {
            true => writeln!(text, "{says}"),
            false => writeln!(text, "{says:column$}  # {from}"),
        };
    }
    text
}

fn show(effective: &Effective, lines: &mut Vec<Line>) {
    let settings = &effective.settings;
    for row in options::all() {
        match settings.values(row.name) {
            Some(values) if row.file == FileUse::Configuration => {
                let file = values.iter().map(|value| quoted(&value.text)).collect::<String>();
                let from = values.first().map(|value| value.place.to_string());
                lines.push((format!("# config = {file}"), from.unwrap_or_default()));
            }
            Some(values) => setting(row, values, lines),
            None => lines.push(match row.shown_default() {
                Some(default) => (format!("# {} = {default}", row.name), "default".to_owned()),
                None => (format!("# {}", row.name), "not set".to_owned()),
            }),
        }
    }
    rules("rules", &effective.written.rules, lines);
    for listener in &effective.written.listeners {
        let is_used = !effective.config.own.is_empty();
        let from = listener.address.place.to_string();
        lines.push((String::new(), String::new()));
        if !is_used {
            let address = quoted(&listener.address.text);
            let why = "not used: addresses are given on the command line or in the environment";
            lines.push((format!("# [[listeners]] address = {address}"), format!("{from}, {why}")));
            continue;
        }
        lines.push(("[[listeners]]".to_owned(), String::new()));
        lines.push((format!("address = {}", quoted(&listener.address.text)), from));
        for (row, values) in listener.settings.iter() {
            if effective.is_said_above(row.name) {
                let from = "not used: given on the command line or in the environment".to_owned();
                lines.push((format!("# {}", row.name), from));
            } else {
                setting(row, values, lines);
            }
        }
        match &listener.rules {
            Some(own) if own.is_empty() => lines.push(("rules = []".to_owned(), String::new())),
            Some(own) => rules("listeners.rules", own, lines),
            None => {}
        }
    }
}

fn setting(row: &OptionRow, values: &[WrittenValue], lines: &mut Vec<Line>) {
    let name = row.name;
    let written = |value: &WrittenValue| match row.kind {
        OptionKind::Switch | OptionKind::Counter => value.text.clone(),
        _ if row.is_secret => quoted(&masked(&value.text)),
        _ => quoted(&value.text),
    };
    let places: BTreeSet<String> = values.iter().map(|value| value.place.to_string()).collect();
    let place = places.first().cloned().unwrap_or_default();
    match (row.kind, values) {
        (OptionKind::Repeated, _) if places.len() > 1 => {
            lines.push((format!("{name} = ["), String::new()));
            let each = |value| (format!("  {},", written(value)), value.place.to_string());
            lines.extend(values.iter().map(each));
            lines.push(("]".to_owned(), String::new()));
        }
        (OptionKind::Repeated, _) => {
            let all: Vec<String> = values.iter().map(written).collect();
            lines.push((format!("{name} = [{}]", all.join(", ")), place));
        }
        (_, [value, ..]) => lines.push((format!("{name} = {}", written(value)), place)),
        (_, []) => {}
    }
}

fn rules(key: &str, rules: &[WrittenRule], lines: &mut Vec<Line>) {
    let none = String::new;
    for rule in rules {
        lines.push((none(), none()));
        lines.push((format!("[[{key}]]"), rule.place.to_string()));
        if let Some(name) = &rule.name {
            lines.push((format!("name = {}", quoted(name)), none()));
        }
        let action = if rule.allows { "allow" } else { "deny" };
        lines.push((format!("action = \"{action}\""), none()));
        for (key, texts) in &rule.lists {
            let all: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            lines.push((format!("{key} = [{}]", all.join(", ")), none()));
        }
    }
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The part of a secret that may be shown: the name of the user.
fn masked(text: &str) -> String {
    match text.split_once(':') {
        Some((user, _)) => format!("{user}:***"),
        None => "***".to_owned(),
    }
}

impl Effective {
    /// Whether the command line or the environment gives an option.
    fn is_said_above(&self, name: &str) -> bool {
        let own = Settings::default().over(&self.written.settings);
        self.settings.values(name).is_some() && self.settings.values(name) != own.values(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_toml_reads_them() {
        for text in ["", "a b", "\"", "\\", "a\tb\u{1b}[1m\u{9b}", "größe", "'''"] {
            let line = format!("a = {}", quoted(text));
            let table = toml::de::DeTable::parse(&line).unwrap();
            let (_, value) = table.get_ref().iter().next().unwrap();
            assert_eq!(value.get_ref().as_str(), Some(text), "{line}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let row = options::find("auth").unwrap();
        let settings = Settings::of_words(&["--auth", "alice:se:cret", "--auth", "token"]);
        let mut lines = Vec::new();
        setting(row, settings.values("auth").unwrap(), &mut lines);
        assert_eq!(text(&lines, false), "auth = [\"alice:***\", \"***\"]  # command line\n");
    }

    #[test]
    fn a_terminal_gets_columns() {
        let line = |says: &str, from: &str| (says.to_owned(), from.to_owned());
        let lines = [line("a = 1", "x"), line("", ""), line("bcd = 1", "y")];
        assert_eq!(text(&lines, false), "a = 1  # x\n\nbcd = 1  # y\n");
        assert_eq!(text(&lines, true), "a = 1    # x\n\nbcd = 1  # y\n");
    }
}
