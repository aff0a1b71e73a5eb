//! The text of a configuration file while it is read: where each value stands, and how messages
//! name it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::settings::{KnownOption, WrittenAt, WrongSetting};
use super::suggestion::nearest;

/// A file that is being read.
pub(super) struct TomlSource<'a> {
    pub(super) path: Arc<Path>,
    /// What file names in it are relative to.
    pub(super) dir: PathBuf,
    pub(super) lines: Vec<usize>,
    pub(super) known: &'a [KnownOption],
}

impl TomlSource<'_> {
    pub(super) fn place(&self, span: &Range<usize>) -> WrittenAt {
        WrittenAt::File(Arc::clone(&self.path), line_of(&self.lines, span.start))
    }

    /// A mistake at a place, in a sentence.
    pub(super) fn wrong(&self, span: &Range<usize>, why: &str) -> WrongSetting {
        let place = self.place(span);
        WrongSetting { message: format!("{place}: {why}"), place }
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
            _ if self.known.iter().any(|known| known.name == name) => {
                "options stand above the first [[".to_owned()
            }
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("it has {}", all.collect::<Vec<_>>().join(", ")),
        };
        let why = format!("unknown key '{}' in [[{table}]]; {advice}", shown(name));
        self.wrong(&key.span(), &why)
    }
}

/// Where lines begin.
pub(super) fn starts(bytes: &[u8]) -> Vec<usize> {
    [0].into_iter().chain(memchr::memchr_iter(b'\n', bytes).map(|at| at + 1)).collect()
}

pub(super) fn line_of(starts: &[usize], byte: usize) -> u32 {
    u32::try_from(starts.partition_point(|start| *start <= byte)).unwrap_or(u32::MAX)
}

/// A number as a file may write it, in whatever base.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// What a value is, as people call it.
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
