//! Reads the configuration file: TOML, with options as keys, `[[rules]]` and `[[listeners]]`.
//!
//! ```toml
//! listen = ["127.0.0.1:3128"]
//! timeout-head = "5s"
//!
//! [[rules]]                       # in order; the first that matches a request decides
//! action = "deny"
//! destinations = [".ads.example"]
//!
//! [[listeners]]                   # options that it does not give are those above
//! address = "0.0.0.0:8080"
//! policy = "enforce"
//! ```
//!
//! The reader finds all mistakes, each with its line. The values of options are checked elsewhere, by the
//! table of options; rules are checked in [`super::rules`].

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::options::{self, FileUse, OptionKind, OptionRow};
use super::rules::{self, WrittenRule};
use super::settings::{Settings, WrittenAt, WrittenValue, WrongSetting};
use super::suggestion::nearest;
use super::toml_brackets::Brackets;
use super::toml_source::{TomlSource, integer, kind, line_of, shown, starts};
use super::values::Config;
use crate::policy::rule_origin::Origins;

/// The largest file in bytes: long lists have their own files.
const MOST_BYTES: usize = 1 << 20;
/// The most mistakes to report at once.
const MOST_WRONG: usize = 20;
/// How often to read a file that changes while it is read.
const TRIES: usize = 5;

/// The content of a configuration file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// The options for all listeners.
    pub settings: Settings,
    /// `[[rules]]`.
    pub rules: Vec<WrittenRule>,
    /// `[[listeners]]`.
    pub listeners: Vec<WrittenListener>,
    /// The file is empty, without even a comment: perhaps it is being written.
    pub is_blank: bool,
}

impl Written {
    /// Forgets what stands at other places.
    fn keep(&mut self, stays: impl Fn(&WrittenAt) -> bool) {
        self.settings.retain(|value| stays(&value.place));
        self.listeners.retain(|listener| stays(&listener.address.place));
        for listener in &mut self.listeners {
            listener.settings.retain(|value| stays(&value.place));
        }
    }
}

/// One of `[[listeners]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrittenListener {
    /// Where it listens.
    pub address: WrittenValue,
    /// Its own options.
    pub settings: Settings,
    /// Its own rules, if it has any. They replace the rules for all listeners.
    pub rules: Option<Vec<WrittenRule>>,
}

/// Reads a file, and again if it changes in the meantime. Blocks as long as the disk does. Returns
/// everything that could be read, and all mistakes.
///
/// # Errors
///
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<(Written, Vec<WrongSetting>)> {
    let bytes = bytes(path)?;
    Ok(match text(path, &bytes) {
        Ok(text) => parse(text, path),
        Err(wrong) => (Written::default(), vec![wrong]),
    })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 0..TRIES {
        let mut file = File::open(path)?;
        let before = file.metadata()?;
        if before.is_dir() {
            return Err(io::Error::other("it is a directory; give a file in it"));
        }
        let mut bytes = Vec::new();
        file.by_ref().take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MOST_BYTES {
            return Err(io::Error::other(
                "it is larger than 1 MiB; put long lists into separate files",
            ));
        }
        let after = file.metadata()?;
        let same = before.modified()? == after.modified()? && before.len() == after.len();
        if same || !after.is_file() {
            return Ok(bytes);
        }
    }
    Err(io::Error::other("it changes while it is read; write it beside and rename it"))
}

fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, WrongSetting> {
    let at = |byte: usize, why: &str| {
        let line = line_of(&starts(bytes), byte);
        let place = WrittenAt::File(path.into(), line);
        WrongSetting { message: format!("{place}: {why}"), option: None, place }
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(at(0, "the file is UTF-16; save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes)
        .map_err(|e| at(e.valid_up_to(), "this line is not UTF-8; save the file as UTF-8"))
}

/// The option with this name, if a file can have it: all but `config`.
fn key_of_a_file(name: &str) -> Option<&'static OptionRow> {
    options::find(name).filter(|row| row.file != FileUse::Configuration)
}

/// Reads the text of a file. Returns everything that could be read, and all mistakes.
pub fn parse(text: &str, path: &Path) -> (Written, Vec<WrongSetting>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut source = TomlSource {
        path: path.into(),
        dir: path.parent().unwrap_or(Path::new("")).to_owned(),
        lines: starts(text.as_bytes()),
        is_option: |name| options::find(name).is_some(),
        unread: Vec::new(),
        headers: Vec::new(),
    };
    let brackets = Brackets::of(text);
    let mut wrong = source.malformed(text, &errors, &brackets);
    let mut written = Written { is_blank: text.trim().is_empty(), ..Written::default() };
    if wrong.len() <= MOST_WRONG {
        let begins = text.lines().zip(1..).filter(|(line, _)| line.trim_start().starts_with('['));
        source.headers = begins.map(|(_, number)| number).collect();
        let unread: Vec<WrittenAt> = wrong.iter().map(|wrong| wrong.place.clone()).collect();
        source.unread = unread.iter().map(WrittenAt::line).collect();
        let mut more = Vec::new();
        source.document(table.get_ref(), &mut written, &mut more);
        // A line that cannot be parsed is reported only once, and what follows a bracket that nothing
        // closes may be inside it.
        let is_unclosed = brackets.unclosed.is_some() && !errors.is_empty();
        let last = unread.iter().map(WrittenAt::line).max().filter(|_| is_unclosed);
        let stays = |place: &WrittenAt| {
            !unread.contains(place) && last.is_none_or(|last| place.line() < last)
        };
        more.retain(|wrong| stays(&wrong.place));
        wrong.extend(more);
        written.keep(stays);
    }
    wrong.sort_by_key(|wrong| wrong.place.line());
    if wrong.len() > MOST_WRONG {
        wrong.truncate(MOST_WRONG);
        let message = format!("{}: there are more mistakes; correct these first", path.display());
        let place = WrittenAt::File(path.into(), 0);
        wrong.push(WrongSetting { place, option: None, message });
    }
    (written, wrong)
}

impl TomlSource {
    /// The mistakes that the TOML parser finds, one a line. A bracket that nothing closes makes nonsense
    /// of everything after it, so it is the last one.
    fn malformed(
        &self,
        text: &str,
        errors: &[toml::de::Error],
        brackets: &Brackets,
    ) -> Vec<WrongSetting> {
        let mut wrong: Vec<WrongSetting> = Vec::new();
        for error in errors {
            let refused = self.refused(text, error, brackets);
            if wrong.len() <= MOST_WRONG && !wrong.iter().any(|other| other.place == refused.place)
            {
                wrong.push(refused);
            }
        }
        if let Some((at, closing)) = brackets.unclosed.filter(|_| !errors.is_empty()) {
            let opening = text.get(at..at + closing.len()).unwrap_or_default();
            let why = format!("this {opening} is never closed; write {closing} where it ends");
            let unclosed = self.wrong(&(at..at), &why);
            wrong.retain(|wrong| wrong.place.line() < unclosed.place.line());
            wrong.push(unclosed);
        }
        wrong
    }

    fn refused(&self, text: &str, error: &toml::de::Error, brackets: &Brackets) -> WrongSetting {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(&self.lines, span.start);
        if let Some(at) = brackets.unopened.iter().find(|at| line_of(&self.lines, **at) == line) {
            let closing = text.get(*at..*at + 1).unwrap_or_default();
            let opening = if closing == "]" { "[" } else { "{" };
            return self
                .wrong(&span, &format!("nothing opens this {closing}; write {opening} before it"));
        }
        // The rest of the line may be a password, so it is not repeated.
        let why = if error.message() == "duplicate key" {
            let key: String = text.get(span.clone()).unwrap_or("").chars().take(40).collect();
            format!(
                "duplicate key at '{key}'; give it once, several values in brackets: [\"a\", \"b\"]"
            )
        } else {
            let advice = "write KEY = VALUE, text in quotes: timeout-head = \"10s\"";
            format!("{}; {advice}", error.message())
        };
        self.wrong(&span, &why)
    }

    fn document(&self, table: &DeTable<'_>, written: &mut Written, wrong: &mut Vec<WrongSetting>) {
        let mut names = Vec::new();
        for (key, value) in table {
            if wrong.len() > MOST_WRONG {
                break;
            }
            match key.get_ref().as_ref() {
                "rules" => {
                    written.rules = self.rules(key, value, &mut names, wrong);
                }
                "listeners" => {
                    for (table, span) in self.tables(key, value, wrong) {
                        let listener = self.listener(table, &span, &mut names, wrong);
                        written.listeners.extend(listener);
                    }
                }
                name => match key_of_a_file(name) {
                    Some(row) => self.option(row, value, &mut written.settings, wrong),
                    None => wrong.push(self.unknown(key)),
                },
            }
        }
    }

    fn unknown(&self, key: &Spanned<std::borrow::Cow<'_, str>>) -> WrongSetting {
        let name = key.get_ref();
        let all = options::all().map(|row| row.name).filter(|name| key_of_a_file(name).is_some());
        let all = all.chain(["rules", "listeners"]);
        let advice = match nearest(name, all) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "'threadgate check' lists all keys".to_owned(),
        };
        self.wrong(&key.span(), &format!("unknown key '{}'; {advice}", shown(name)))
    }

    fn rules(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        names: &mut Vec<String>,
        wrong: &mut Vec<WrongSetting>,
    ) -> Vec<WrittenRule> {
        let tables = self.tables(key, value, wrong);
        let mut read = Vec::new();
        for (table, span) in tables {
            if wrong.len() > MOST_WRONG {
                break;
            }
            read.extend(rules::read(self, table, &span, names, wrong));
        }
        read
    }

    /// The tables of `[[key]]`.
    fn tables<'v, 'i>(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &'v Spanned<DeValue<'i>>,
        wrong: &mut Vec<WrongSetting>,
    ) -> Vec<(&'v DeTable<'i>, Range<usize>)> {
        let name = key.get_ref();
        let mut tables = Vec::new();
        match value.get_ref() {
            DeValue::Array(items) => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Table(table) => tables.push((table, item.span())),
                        other => {
                            let why = format!(
                                "{name}: {} is not a table; write [[{name}]] and its keys below it",
                                kind(other)
                            );
                            wrong.push(self.wrong(&item.span(), &why));
                        }
                    }
                }
            }
            DeValue::Table(_) => {
                let why = format!("[{name}] is one table; write [[{name}]], with two brackets");
                wrong.push(self.wrong(&key.span(), &why));
            }
            other => {
                let why = format!(
                    "{name}: {} is not a table; write [[{name}]] and its keys below it",
                    kind(other)
                );
                wrong.push(self.wrong(&key.span(), &why));
            }
        }
        tables
    }

    fn listener(
        &self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        names: &mut Vec<String>,
        wrong: &mut Vec<WrongSetting>,
    ) -> Option<WrittenListener> {
        let mut address = None;
        let mut has_address = false;
        let mut settings = Settings::default();
        let mut own_rules = None;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let option = key_of_a_file(name);
            match (name, option) {
                ("address", _) => {
                    has_address = true;
                    match value.get_ref() {
                        DeValue::String(text) => {
                            let place = self.place(&value.span());
                            address = Some(WrittenValue { text: text.to_string(), place });
                        }
                        other => {
                            let why = format!(
                                "address: {} is not text; write address = \"0.0.0.0:8080\"",
                                kind(other)
                            );
                            wrong.push(self.wrong(&value.span(), &why));
                        }
                    }
                }
                ("rules", _) => own_rules = Some(self.rules(key, value, names, wrong)),
                (_, Some(row)) if row.is_of_a_listener() => {
                    self.option(row, value, &mut settings, wrong);
                }
                (_, Some(_)) => {
                    let why = format!(
                        "{name}: holds for all listeners, not for one; write it above the first [["
                    );
                    wrong.push(self.wrong(&key.span(), &why));
                }
                (_, None) => {
                    let own = options::all().filter(|row| row.is_of_a_listener());
                    let all = own.map(|row| row.name).chain(["address", "rules"]);
                    wrong.push(self.unknown_in("listeners", key, all));
                }
            }
        }
        if !has_address && self.is_whole(span) {
            let why = "this listener has no address; write address = \"0.0.0.0:8080\"";
            wrong.push(self.wrong(span, why));
        }
        Some(WrittenListener { address: address?, settings, rules: own_rules })
    }

    fn option(
        &self,
        row: &'static OptionRow,
        value: &Spanned<DeValue<'_>>,
        settings: &mut Settings,
        wrong: &mut Vec<WrongSetting>,
    ) {
        let items = match (row.kind, value.get_ref()) {
            (OptionKind::Repeated | OptionKind::List, DeValue::Array(items)) => {
                items.iter().collect()
            }
            _ => vec![value],
        };
        if row.kind == OptionKind::List && items.is_empty() {
            let why = "the list is empty; leave the key out if all are meant";
            wrong.push(WrongSetting::value(&self.place(&value.span()), row.name, why));
        }
        let mut values: Vec<WrittenValue> = Vec::new();
        for item in items {
            let place = self.place(&item.span());
            // Each item of a list is judged here, where its line is known.
            let is_list = row.kind == OptionKind::List;
            let read = self.value_of(row, item.get_ref()).and_then(|text| match is_list {
                true => (row.read)(&mut Config::default(), &text).map(|()| text),
                false => Ok(text),
            });
            match read {
                Ok(text) => values.push(WrittenValue { text, place }),
                Err(why) => wrong.push(WrongSetting::value(&place, row.name, &why)),
            }
        }
        // The values of a list become one text, separated by commas.
        if let (OptionKind::List, Some(first)) = (row.kind, values.first()) {
            let place = first.place.clone();
            let texts: Vec<String> = values.into_iter().map(|value| value.text).collect();
            values = vec![WrittenValue { text: texts.join(","), place }];
        }
        settings.set(row, values);
    }

    /// The text of a single value.
    fn value_of(&self, row: &'static OptionRow, value: &DeValue<'_>) -> Result<String, String> {
        let name = row.name;
        match (row.kind, value) {
            (OptionKind::Switch, DeValue::Boolean(on)) => Ok(on.to_string()),
            (OptionKind::Switch, other) => {
                Err(format!("{} is not a switch; write {name} = true", kind(other)))
            }
            (OptionKind::Counter, DeValue::Boolean(on)) => Ok(u8::from(*on).to_string()),
            (OptionKind::Counter, DeValue::Integer(_)) => match integer(value) {
                Some(count @ 0..=255) => Ok(count.to_string()),
                _ => Err(format!("a number from 0 to 255 is needed; write {name} = 1")),
            },
            (OptionKind::Counter, other) => {
                Err(format!("{} is not a switch; write {name} = true", kind(other)))
            }
            (_, DeValue::String(text)) => Ok(self.resolved(row, text)),
            (_, DeValue::Integer(_)) => match integer(value) {
                Some(number) => Ok(number.to_string()),
                None => Err("the number is too large; give a smaller one".to_owned()),
            },
            (_, DeValue::Boolean(on)) => {
                let word = if *on { "on" } else { "off" };
                let meant = row.words().find(|it| *it == word);
                meant.map(str::to_owned).ok_or_else(|| expected(row, value))
            }
            (_, _) => Err(expected(row, value)),
        }
    }

    /// A value with its file name resolved: the name is relative to the directory of this file.
    fn resolved(&self, row: &OptionRow, text: &str) -> String {
        match row.file_of(text) {
            Some(name) => {
                let before = text.strip_suffix(name).unwrap_or_default();
                format!("{before}{}", self.dir.join(name).display())
            }
            None => text.to_owned(),
        }
    }
}

fn expected(row: &'static OptionRow, value: &DeValue<'_>) -> String {
    let (name, what) = (row.name, row.hint);
    match row.kind {
        OptionKind::Repeated => {
            format!("{} is not text; write {name} = [\"{what}\", ..]", kind(value))
        }
        _ => format!("{} is not text; write {name} = \"{what}\"", kind(value)),
    }
}

/// Run by the fuzz target: any text is read without a panic, and mistakes name existing lines.
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let path = Path::new("dir/file.toml");
    let Ok(text) = text(path, bytes) else { return };
    let (written, wrong) = parse(text, path);
    let lines = text.split('\n').count();
    for wrong in &wrong {
        let WrittenAt::File(_, line) = wrong.place else { panic!("another place") };
        assert!(usize::try_from(line).is_ok_and(|line| line <= lines), "{wrong:?} of {lines}");
    }
    let own = written.listeners.iter().flat_map(|listener| listener.rules.iter().flatten());
    let mut origins = Origins::default();
    for rule in written.rules.iter().chain(own) {
        // Wrong values are left out of a rule, and a list that becomes empty is refused.
        assert!(
            rule.rule(&mut origins, &mut |_| Ok(None)).is_ok() || !wrong.is_empty(),
            "{rule:?}"
        );
    }
    for value in written.settings.iter().flat_map(|(_, values)| values) {
        assert!(matches!(value.place, WrittenAt::File(_, line) if line > 0));
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
