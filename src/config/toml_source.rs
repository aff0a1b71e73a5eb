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

/// The first bracket, or triple quotes, that nothing closes: its position, and the text that closes it.
/// Later ones may be inside it, so only the first is returned.
pub(super) fn unclosed(text: &str) -> Option<(usize, &'static str)> {
    let mut open: Vec<(usize, &'static str)> = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let long = ["\"\"\"", "'''"].into_iter().find(|quotes| rest.starts_with(quotes));
        let length = match (rest.as_bytes().first(), long) {
            (_, Some(quotes)) => match end_of_string(rest, quotes) {
                Some(end) => end,
                None => return Some((at, quotes)),
            },
            // A string of one line is reported as the mistake of that line.
            (Some(b'"'), _) => end_of_string(rest, "\"").unwrap_or(1),
            (Some(b'\''), _) => end_of_string(rest, "'").unwrap_or(1),
            (Some(b'#'), _) => rest.find('\n').unwrap_or(rest.len()),
            (Some(b'['), _) => {
                open.push((at, "]"));
                1
            }
            (Some(b'{'), _) => {
                open.push((at, "}"));
                1
            }
            (Some(b']' | b'}'), _) => {
                open.pop();
                1
            }
            _ => rest.find(['"', '\'', '#', '[', ']', '{', '}']).unwrap_or(rest.len()),
        };
        at += length;
    }
    open.first().copied()
}

/// The length of a string that begins here, with both its quotes.
fn end_of_string(text: &str, quotes: &str) -> Option<usize> {
    let is_long = quotes.len() > 1;
    let mut at = quotes.len();
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with(quotes) {
            return Some(at + quotes.len());
        }
        let c = rest.chars().next()?;
        if c == '\n' && !is_long {
            return None;
        }
        at += c.len_utf8();
        if c == '\\' && quotes.starts_with('"') {
            at += text.get(at..)?.chars().next()?.len_utf8();
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bracket_that_nothing_closes_is_found() {
        for (text, found) in [
            ("", None),
            ("a = [1, [2]]\n[[b]]\nc = {d = 1}", None),
            ("a = '['\nb = \"[\\\"[\"\n# [\nc = '''[\n['''", None),
            ("a = [1\nb = [2]\n", Some((4, "]"))),
            ("a = [1, {b = 2]", Some((4, "]"))),
            ("a = 1\n[[b]\nc = 1", Some((6, "]"))),
            ("a = {b = 1\n", Some((4, "}"))),
            ("a = '''b\nc = 1", Some((4, "'''"))),
            ("a = \"\"\"b\\\"\"\"\nc", Some((4, "\"\"\""))),
            // Here the mistake is in the quotes.
            ("a = 'b\nc = [1]", None),
            ("a = ['ö', ", Some((4, "]"))),
        ] {
            assert_eq!(unclosed(text), found, "{text}");
        }
    }
}
