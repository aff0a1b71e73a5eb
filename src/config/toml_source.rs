//! Finds the line of each value in the text of a configuration file, and words the messages about it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::suggestion::nearest;
use super::written::{WrittenAt, WrongSetting};

/// A file that is being read.
pub(super) struct TomlSource {
    pub(super) path: Arc<Path>,
    /// The directory that file names in it are relative to.
    pub(super) dir: PathBuf,
    pub(super) lines: Vec<usize>,
    /// Whether this is the name of an option.
    pub(super) is_option: fn(&str) -> bool,
    /// The lines that cannot be parsed, and the lines that begin a table.
    pub(super) unread: Vec<u32>,
    pub(super) headers: Vec<u32>,
}

impl TomlSource {
    pub(super) fn place(&self, span: &Range<usize>) -> WrittenAt {
        WrittenAt::File(Arc::clone(&self.path), line_of(&self.lines, span.start))
    }

    /// A mistake at a place.
    pub(super) fn wrong(&self, span: &Range<usize>, why: &str) -> WrongSetting {
        let place = self.place(span);
        WrongSetting { message: format!("{place}: {why}"), option: None, place }
    }

    /// Whether every line of the table that begins here could be parsed. If not, a key that seems to be
    /// missing may be on such a line.
    pub(super) fn is_whole(&self, table: &Range<usize>) -> bool {
        let first = line_of(&self.lines, table.start);
        let next = self.headers.iter().copied().find(|line| *line > first).unwrap_or(u32::MAX);
        !self.unread.iter().any(|line| (first..next).contains(line))
    }

    /// The sentence for a key that a table does not have.
    pub(super) fn unknown_in<'n>(
        &self,
        table: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        all: impl Iterator<Item = &'n str> + Clone,
    ) -> WrongSetting {
        let name = key.get_ref().as_ref();
        let advice = match nearest(name, all.clone()) {
            Some(meant) => format!("did you mean {meant}?"),
            None if (self.is_option)(name) => "options belong above the first [[".to_owned(),
            None => format!("it has {}", all.collect::<Vec<_>>().join(", ")),
        };
        let why = format!("unknown key '{}' in [[{table}]]; {advice}", shown(name));
        self.wrong(&key.span(), &why)
    }
}

/// The positions where lines begin.
pub(super) fn starts(bytes: &[u8]) -> Vec<usize> {
    [0].into_iter().chain(memchr::memchr_iter(b'\n', bytes).map(|at| at + 1)).collect()
}

pub(super) fn line_of(starts: &[usize], byte: usize) -> u32 {
    u32::try_from(starts.partition_point(|start| *start <= byte)).unwrap_or(u32::MAX)
}

/// The value of a number, in any base that TOML has.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The kind of a value, in plain words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A key as it may be printed.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_debug).collect()
}
