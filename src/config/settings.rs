//! The values given for each option, where each was given, and which of them counts.
//!
//! An option can be given on the command line, as a variable of the environment, and as a key of the
//! configuration file. Here its values stay text, each with the place it came from, so that a wrong
//! one is refused in the same words wherever it stood. What options there are is told by the command
//! line ([`KnownOption`]): nothing here lists them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::suggestion::nearest;

/// How the variables begin: `THREADGATE_TIMEOUT_HEAD` is `timeout-head`.
pub const PREFIX: &str = "THREADGATE_";

/// Options that say the same thing in two ways: who says one of them, says nothing of the other.
const TOGETHER: [&[&str]; 2] = [&["listen", "port"], &["quiet", "verbose"]];

/// An option there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KnownOption {
    /// Its name, without dashes before it: the key of the file.
    pub name: &'static str,
    /// How often and with what it may be given.
    pub kind: OptionKind,
    /// What its value is, as the help has it: `FILE|-|off`.
    pub value: &'static str,
}

/// How often and with what an option may be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OptionKind {
    /// On or not.
    Switch,
    /// A switch that counts how often it is given.
    Counter,
    /// One value.
    Once,
    /// Any number of values.
    Repeated,
}

impl KnownOption {
    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// What may stand for a value besides a value as such: `-` and `off` of `FILE|-|off`.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        self.value.split('|').filter(|word| !word.contains(|c: char| c.is_ascii_uppercase()))
    }

    /// Whether its value is a file.
    pub fn is_file(&self) -> bool {
        self.value.split('|').any(|word| word == "FILE")
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        self.value.contains("PASS") || self.value.contains("SECRET")
    }
}

/// Where something was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WrittenAt {
    /// On the command line.
    Flag,
    /// In a variable of the environment.
    Variable(String),
    /// In a file, on this line.
    File(Arc<Path>, u32),
}

impl WrittenAt {
    /// How a sentence about option `name` begins that was found here.
    pub fn before(&self, name: &str) -> String {
        match self {
            Self::Flag => format!("--{name}"),
            Self::Variable(variable) => variable.clone(),
            Self::File(..) => format!("{self}: {name}"),
        }
    }
}

impl fmt::Display for WrittenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value as it was written, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrittenValue {
    /// Its text; of a switch `true` or `false`, of a counter a number.
    pub text: String,
    /// Where it stands.
    pub place: WrittenAt,
}

/// What is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrongSetting {
    /// Where.
    pub place: WrittenAt,
    /// A sentence that begins with the place.
    pub message: String,
}

impl WrongSetting {
    /// The value of option `name` that stands at `place` is wrong.
    pub fn value(place: &WrittenAt, name: &str, why: &str) -> Self {
        Self { place: place.clone(), message: format!("{}: {why}", place.before(name)) }
    }
}

/// All that one place, or several together, say of options.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings(Vec<(KnownOption, Vec<WrittenValue>)>);

impl Settings {
    /// Says `values` of an option; what was said of it before is forgotten.
    pub fn set(&mut self, known: KnownOption, values: Vec<WrittenValue>) {
        match self.0.iter_mut().find(|(it, _)| it.name == known.name) {
            Some((_, before)) => *before = values,
            None => self.0.push((known, values)),
        }
    }

    /// Says one value more.
    pub fn add(&mut self, known: KnownOption, value: WrittenValue) {
        match self.0.iter_mut().find(|(it, _)| it.name == known.name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((known, vec![value])),
        }
    }

    /// Forgets what was said of an option.
    pub fn remove(&mut self, name: &str) -> Option<Vec<WrittenValue>> {
        let at = self.0.iter().position(|(known, _)| known.name == name)?;
        Some(self.0.remove(at).1)
    }

    /// What was said of an option.
    pub fn values(&self, name: &str) -> Option<&[WrittenValue]> {
        self.0.iter().find(|(known, _)| known.name == name).map(|(_, values)| values.as_slice())
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (&KnownOption, &[WrittenValue])> {
        self.0.iter().map(|(known, values)| (known, values.as_slice()))
    }

    /// This, and of `below` what this says nothing of.
    #[must_use]
    pub fn over(mut self, below: &Self) -> Self {
        let said: Vec<&str> = self.0.iter().map(|(known, _)| known.name).collect();
        for (known, values) in &below.0 {
            let together = TOGETHER.iter().find(|group| group.contains(&known.name));
            let is_said = match together {
                Some(group) => group.iter().any(|name| said.contains(name)),
                None => said.contains(&known.name),
            };
            if !is_said {
                self.set(*known, values.clone());
            }
        }
        self
    }

    /// The words that say the same on a command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (known, values) in &self.0 {
            for value in values {
                let name = format!("--{}", known.name);
                match known.kind {
                    OptionKind::Switch if value.text == "true" => words.push(name),
                    OptionKind::Switch => {}
                    OptionKind::Counter => {
                        let times = value.text.parse::<u8>().unwrap_or(0);
                        words.extend((0..times).map(|_| name.clone()));
                    }
                    OptionKind::Once | OptionKind::Repeated => {
                        words.extend([name, value.text.clone()])
                    }
                }
            }
        }
        words
    }

    /// What the words of a command line say; they are in argh's way.
    pub fn of_words(words: &[String], known: &[KnownOption]) -> Self {
        let mut settings = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.trim_start_matches("--");
            let Some(known) = known.iter().find(|known| known.name == name) else { continue };
            let value = |text: String| WrittenValue { text, place: WrittenAt::Flag };
            match known.kind {
                OptionKind::Switch => settings.set(*known, vec![value("true".to_owned())]),
                OptionKind::Counter => {
                    let before = settings.values(name).and_then(<[WrittenValue]>::first);
                    let count = before.and_then(|v| v.text.parse::<u8>().ok()).unwrap_or(0);
                    settings.set(*known, vec![value(count.saturating_add(1).to_string())]);
                }
                OptionKind::Once | OptionKind::Repeated => {
                    settings.add(*known, value(words.next().cloned().unwrap_or_default()));
                }
            }
        }
        settings
    }

    /// What the environment says. An empty variable says nothing. Also answers what is wrong, and the
    /// variables that seem to be meant for us and are not known, with what was probably meant.
    pub fn of_environment(
        variables: impl Iterator<Item = (String, Result<String, String>)>,
        known: &[KnownOption],
        others: &[&str],
    ) -> (Self, Vec<WrongSetting>, Vec<(String, String)>) {
        let (mut settings, mut wrong, mut unknown) = (Self::default(), Vec::new(), Vec::new());
        for (variable, text) in variables.filter(|(variable, _)| variable.starts_with(PREFIX)) {
            let place = WrittenAt::Variable(variable.clone());
            let Some(known) = known.iter().find(|known| known.variable() == variable) else {
                if !others.contains(&variable.as_str()) {
                    let sentence = unknown_variable(&variable, known);
                    unknown.push((variable, sentence));
                }
                continue;
            };
            let read = match text {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => known.of_variable(&text),
                Err(_) => Err("is not UTF-8".to_owned()),
            };
            match read {
                Ok(texts) => {
                    let value = |text| WrittenValue { text, place: place.clone() };
                    settings.set(*known, texts.into_iter().map(value).collect());
                }
                Err(why) => wrong.push(WrongSetting::value(&place, known.name, &why)),
            }
        }
        (settings, wrong, unknown)
    }
}

impl KnownOption {
    fn of_variable(&self, text: &str) -> Result<Vec<String>, String> {
        match self.kind {
            OptionKind::Once => Ok(vec![text.to_owned()]),
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

fn unknown_variable(variable: &str, known: &[KnownOption]) -> String {
    let names: Vec<String> = known.iter().map(KnownOption::variable).collect();
    match nearest(variable, names.iter().map(String::as_str)) {
        Some(meant) => format!("{variable} is no option; did you mean {meant}?"),
        None => format!("{variable} is no option, and is not looked at; unset it, or correct it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KnownOption; 6] = [
        KnownOption { name: "listen", kind: OptionKind::Repeated, value: "ADDR" },
        KnownOption { name: "port", kind: OptionKind::Once, value: "PORT" },
        KnownOption { name: "access-log", kind: OptionKind::Once, value: "FILE|-|off" },
        KnownOption { name: "open", kind: OptionKind::Switch, value: "" },
        KnownOption { name: "verbose", kind: OptionKind::Counter, value: "" },
        KnownOption { name: "quiet", kind: OptionKind::Counter, value: "" },
    ];

    fn flags(words: &str) -> Settings {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        Settings::of_words(&words, &ALL)
    }

    fn environment(set: &[(&str, &str)]) -> (Settings, Vec<WrongSetting>, Vec<(String, String)>) {
        let set = set.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned())));
        Settings::of_environment(set, &ALL, &["THREADGATE_LOG"])
    }

    #[test]
    fn words_become_settings_and_settings_words() {
        for words in ["", "--listen a --listen b", "--port 1 --open", "--verbose --verbose"] {
            assert_eq!(flags(words).words().join(" "), words);
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
            assert_eq!(merged.words().join(" "), both, "{above:?} over {below:?}");
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
        let words = "--listen|a|--listen|b|--access-log|my log|--open|--verbose|--verbose";
        assert_eq!(settings.words().join("|"), words);
        let (off, ..) = environment(&[("THREADGATE_OPEN", "0")]);
        assert!(off.words().is_empty() && off.values("open").is_some());
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

    #[test]
    fn an_option_knows_what_it_takes() {
        let log = ALL[2];
        assert!(log.is_file() && !ALL[0].is_file());
        assert_eq!(log.words().collect::<Vec<_>>(), ["-", "off"]);
        assert!(
            KnownOption { name: "auth", kind: OptionKind::Repeated, value: "USER:PASS" }
                .is_secret()
        );
    }
}
