//! Holds the values given for each option, with the place of each, and decides which of them count.
//!
//! An option can be given on the command line, as an environment variable, and as a key of the
//! configuration file. Its values stay text here, each with its place, so that a wrong value is refused
//! in the same words wherever it was given.

use std::fmt;
use std::path::Path;

use super::options::{self, FileUse, OptionKind, OptionRow, PREFIX};
use super::suggestion::nearest;
use super::unusable::Unusable;
use super::values::Config;
pub use super::written::{WrittenAt, WrittenValue, WrongSetting};

/// The options given in one place, or in several together.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Settings(Vec<(&'static OptionRow, Vec<WrittenValue>)>);

/// Values that must not be shown are not.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(row, values)| {
            let texts = values.iter().map(|v| if row.is_secret { "***" } else { v.text.as_str() });
            (row, texts.collect::<Vec<_>>())
        });
        f.debug_map().entries(shown).finish()
    }
}

impl Settings {
    /// Sets the values of an option, replacing its earlier ones.
    pub fn set(&mut self, row: &'static OptionRow, values: Vec<WrittenValue>) {
        match self.0.iter_mut().find(|(it, _)| *it == row) {
            Some((_, before)) => *before = values,
            None => self.0.push((row, values)),
        }
    }

    /// Adds a value to an option.
    pub fn add(&mut self, row: &'static OptionRow, value: WrittenValue) {
        match self.0.iter_mut().find(|(it, _)| *it == row) {
            Some((_, values)) => values.push(value),
            None => self.0.push((row, vec![value])),
        }
    }

    /// Removes an option and returns its values.
    pub fn remove(&mut self, name: &str) -> Option<Vec<WrittenValue>> {
        let at = self.0.iter().position(|(known, _)| known.name == name)?;
        Some(self.0.remove(at).1)
    }

    /// Reads all values. Also answers each value that is wrong, with its place; the configuration is as
    /// if that value had not been given.
    pub fn meaning(&self) -> (Config, Vec<WrongSetting>) {
        let mut config = Config::default();
        let usual = std::mem::take(&mut config.server.listen);
        let mut wrong = Vec::new();
        for (row, values) in self.iter() {
            for value in values {
                if let Err(why) = (row.read)(&mut config, &value.text) {
                    wrong.push(WrongSetting::value(&value.place, row.name, &why));
                }
            }
        }
        if config.server.listen.is_empty() {
            config.server.listen = usual;
        }
        (config, wrong)
    }

    /// Where the option stands that is wrong. If these settings do not have it, it is as if it stood on
    /// the command line.
    pub fn placed(&self, unusable: &Unusable) -> WrongSetting {
        let Some(option) = unusable.option else {
            return WrongSetting::nowhere(unusable.to_string());
        };
        let values = self.values(option).unwrap_or_default();
        let value = unusable.value.and_then(|at| values.get(at)).or_else(|| values.last());
        let place = value.map_or(&WrittenAt::Flag, |value| &value.place);
        WrongSetting::at(place, option, &unusable.rest())
    }

    /// Keeps only the values that `stays` accepts.
    pub fn retain(&mut self, stays: impl Fn(&WrittenValue) -> bool) {
        self.0.retain_mut(|(_, values)| {
            // An option without values stays: an empty list replaces the values of other places.
            let is_empty = values.is_empty();
            values.retain(&stays);
            is_empty || !values.is_empty()
        });
    }

    /// The values of an option.
    pub fn values(&self, name: &str) -> Option<&[WrittenValue]> {
        self.0.iter().find(|(known, _)| known.name == name).map(|(_, values)| values.as_slice())
    }

    /// All options with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static OptionRow, &[WrittenValue])> {
        self.0.iter().map(|(row, values)| (*row, values.as_slice()))
    }

    /// These options, and those of `below` that are not given here.
    #[must_use]
    pub fn over(mut self, below: &Self) -> Self {
        let group = |row: &OptionRow| row.instead_of.unwrap_or(row.name);
        let said: Vec<&str> = self.0.iter().map(|(row, _)| group(row)).collect();
        for (row, values) in &below.0 {
            if !said.contains(&group(row)) {
                self.set(row, values.clone());
            }
        }
        self
    }

    /// The options of a command line, whose words are in argh's form, as `cli::argv` writes them.
    pub fn of_words(words: &[&str]) -> Self {
        let mut settings = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(row) = word.strip_prefix("--").and_then(options::find) else { continue };
            let value = |text: &str| WrittenValue { text: text.to_owned(), place: WrittenAt::Flag };
            match row.kind {
                OptionKind::Switch => settings.set(row, vec![value("true")]),
                OptionKind::Counter => {
                    let before = settings.values(row.name).and_then(<[WrittenValue]>::first);
                    let count = before.and_then(|v| v.text.parse::<u8>().ok()).unwrap_or(0);
                    settings.set(row, vec![value(&count.saturating_add(1).to_string())]);
                }
                OptionKind::Once | OptionKind::List | OptionKind::Repeated => {
                    settings.add(row, value(words.next().copied().unwrap_or_default()));
                }
            }
        }
        settings
    }

    /// The files that options name for this use.
    pub fn files(
        &self,
        uses: FileUse,
    ) -> impl Iterator<Item = (&'static OptionRow, &WrittenValue, &Path)> {
        let rows = self.iter().filter(move |(row, _)| row.file == uses);
        rows.flat_map(|(row, values)| {
            values.iter().filter_map(move |v| Some((row, v, Path::new(row.file_of(&v.text)?))))
        })
    }

    /// The options of the environment; an empty variable is ignored. Also returns all mistakes, and the
    /// unknown variables that begin like ours, with a sentence about each.
    pub fn of_environment(
        variables: impl Iterator<Item = (String, Result<String, String>)>,
        others: &[&str],
    ) -> (Self, Vec<WrongSetting>, Vec<(String, String)>) {
        let (mut settings, mut wrong, mut unknown) = (Self::default(), Vec::new(), Vec::new());
        for (variable, text) in variables.filter(|(variable, _)| variable.starts_with(PREFIX)) {
            let place = WrittenAt::Variable(variable.clone());
            let Some(row) = options::all().find(|row| row.variable() == variable) else {
                if !others.contains(&variable.as_str()) {
                    let sentence = unknown_variable(&variable);
                    unknown.push((variable, sentence));
                }
                continue;
            };
            let read = match text {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => row.of_variable(&text),
                Err(_) => Err("is not UTF-8".to_owned()),
            };
            match read {
                Ok(texts) => {
                    let value = |text| WrittenValue { text, place: place.clone() };
                    settings.set(row, texts.into_iter().map(value).collect());
                }
                Err(why) => wrong.push(WrongSetting::value(&place, row.name, &why)),
            }
        }
        (settings, wrong, unknown)
    }
}

impl OptionRow {
    fn of_variable(&self, text: &str) -> Result<Vec<String>, String> {
        match self.kind {
            OptionKind::Once | OptionKind::List => Ok(vec![text.to_owned()]),
            OptionKind::Repeated => Ok(text.split_whitespace().map(str::to_owned).collect()),
            OptionKind::Switch => match text {
                "true" | "on" | "1" => Ok(vec!["true".to_owned()]),
                "false" | "off" | "0" => Ok(vec!["false".to_owned()]),
                _ => Err(format!("'{text}' is neither true nor false; give one of them")),
            },
            OptionKind::Counter => match text.parse::<u8>() {
                Ok(count) => Ok(vec![count.to_string()]),
                Err(_) => Err(format!("'{text}' is not a number from 0 to 255; give one")),
            },
        }
    }
}

fn unknown_variable(variable: &str) -> String {
    let names: Vec<String> = options::all().map(OptionRow::variable).collect();
    match nearest(variable, names.iter().map(String::as_str)) {
        Some(meant) => format!("{variable} is not an option; did you mean {meant}?"),
        None => format!("{variable} is not an option, and is ignored; unset it, or correct it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &str) -> Settings {
        Settings::of_words(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// The words that give the same options on a command line.
    fn words(settings: &Settings) -> Vec<String> {
        let mut words = Vec::new();
        for (row, value) in settings.iter().flat_map(|(row, v)| v.iter().map(move |v| (row, v))) {
            match row.kind {
                OptionKind::Switch if value.text == "false" => {}
                OptionKind::Switch => words.push(format!("--{}", row.name)),
                OptionKind::Counter => {
                    let times = value.text.parse().unwrap();
                    words.extend((0..times).map(|_| format!("--{}", row.name)));
                }
                _ => words.extend([format!("--{}", row.name), value.text.clone()]),
            }
        }
        words
    }

    fn environment(set: &[(&str, &str)]) -> (Settings, Vec<WrongSetting>, Vec<(String, String)>) {
        let set = set.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned())));
        Settings::of_environment(set, &["THREADGATE_LOG"])
    }

    #[test]
    fn words_become_settings() {
        for text in ["", "--listen a --listen b", "--port 1 --open", "--verbose --verbose"] {
            assert_eq!(words(&flags(text)).join(" "), text);
        }
    }

    #[test]
    fn what_is_above_counts_whole_and_of_two_ways_to_say_one_thing_only_one() {
        for (above, below, both) in [
            ("", "", ""),
            ("--port 1", "--open", "--port 1 --open"),
            ("--access-log a", "--access-log b", "--access-log a"),
            ("--access-log a", "--access-log a", "--access-log a"),
            ("--listen a", "--listen b --listen c", "--listen a"),
            ("--port 1", "--listen b", "--port 1"),
            ("--listen a", "--port 1", "--listen a"),
            ("", "--listen a --port 1", "--listen a --port 1"),
            ("--verbose", "--quiet", "--verbose"),
            ("--open", "--open", "--open"),
        ] {
            let merged = flags(above).over(&flags(below));
            assert_eq!(words(&merged).join(" "), both, "{above:?} over {below:?}");
        }
    }

    #[test]
    fn the_environment_says_options_in_capitals() {
        let (settings, wrong, unknown) = environment(&[
            ("THREADGATE_LISTEN", " a  b "),
            ("THREADGATE_ACCESS_LOG", "my log"),
            ("THREADGATE_OPEN", "on"),
            ("THREADGATE_VERBOSE", "2"),
            ("THREADGATE_PORT", ""),
            ("THREADGATE_LOG", "debug"),
            ("PATH", "/bin"),
        ]);
        assert_eq!((wrong, unknown), (vec![], vec![]));
        let expected = "--listen|a|--listen|b|--access-log|my log|--open|--verbose|--verbose";
        assert_eq!(words(&settings).join("|"), expected);
        let (off, ..) = environment(&[("THREADGATE_OPEN", "0")]);
        assert!(words(&off).is_empty() && off.values("open").is_some());
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_said_with_what_to_try() {
        for (name, text, says) in [
            ("THREADGATE_OPEN", "perhaps", "THREADGATE_OPEN: 'perhaps' is neither true nor false"),
            ("THREADGATE_VERBOSE", "-1", "THREADGATE_VERBOSE: '-1' is not a number from 0 to 255"),
        ] {
            let (_, wrong, _) = environment(&[(name, text)]);
            assert!(wrong[0].message.starts_with(says), "{wrong:?}");
        }
        for (name, says) in [
            ("THREADGATE_LISTENS", "did you mean THREADGATE_LISTEN?"),
            ("THREADGATE_ACCESLOG", "did you mean THREADGATE_ACCESS_LOG?"),
            ("THREADGATE_SOMETHING_ELSE", "unset it"),
        ] {
            let (_, _, unknown) = environment(&[(name, "x")]);
            assert!(unknown[0].1.contains(says), "{unknown:?}");
        }
    }
}
