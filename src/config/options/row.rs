//! A row of the table of options: how an option is written, what it means, and where its value goes.

use std::fmt;

use crate::config::values::Config;

/// The prefix of the environment variables: `THREADGATE_TIMEOUT_HEAD` is `timeout-head`.
pub const PREFIX: &str = "THREADGATE_";

/// An option of a proxy: on the command line, in the environment and in the configuration file.
#[derive(Clone, Copy)]
pub struct OptionRow {
    /// Its name without dashes, which is also its key in a file.
    pub name: &'static str,
    /// Its letter on the command line.
    pub letter: Option<char>,
    /// Whether it takes a value, and how often it may be given.
    pub kind: OptionKind,
    /// The form of its value: `FILE|-|off`. Words in lower case are literal.
    pub hint: &'static str,
    /// The words that it accepts, if it accepts only these.
    pub choices: &'static [&'static str],
    /// What it does, in a few words without a full stop.
    pub brief: &'static str,
    /// Whether it is on the first screen of help.
    pub first: bool,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// Further details, for the man page and `threadgate help`.
    pub more: &'static str,
    /// Its default.
    pub default: Usual,
    /// A value for the example of a configuration file, as TOML; empty for the default.
    pub example: &'static str,
    /// Whether to leave that example out when all are tried together: a proxy cannot start with it and the
    /// others.
    #[cfg_attr(not(test), allow(dead_code, reason = "only the example file has examples"))]
    pub is_apart: bool,
    /// What it applies to, and when a new value takes effect.
    pub scope: OptionScope,
    /// How the file that its value names is used.
    pub file: FileUse,
    /// Whether its value must not be shown.
    pub is_secret: bool,
    /// The option that sets the same thing in another way; giving one of them replaces the other.
    pub instead_of: Option<&'static str>,
    /// Reads one value and stores it. The error is a sentence to print after the name of the option.
    pub read: fn(&mut Config, &str) -> Result<(), String>,
}

/// Whether an option takes a value, and how often it may be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OptionKind {
    /// On or off.
    Switch,
    /// A switch that counts how often it is given.
    Counter,
    /// One value.
    Once,
    /// One value with commas in it; an array in a file.
    List,
    /// Any number of values.
    Repeated,
}

/// The default of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usual {
    /// No value; a switch is off.
    Unset,
    /// This value.
    Value(&'static str),
    /// A default that these words describe.
    Words(&'static str),
}

/// What an option applies to, and when a new value takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OptionScope {
    /// The process; a new value needs a restart.
    Process,
    /// The process; a reload applies a new value.
    Reload,
    /// All listeners, or one that gives it itself; a reload applies a new value.
    Listener,
}

/// How the file that a value names is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileUse {
    /// It names no file.
    Unused,
    /// It is the configuration file.
    Configuration,
    /// It is read at the start and at every reload.
    Read,
    /// It is written.
    Written,
    /// It names no file but an environment variable, which is read at the start and at every reload.
    Variable,
}

/// Options that belong together, as `threadgate help` shows them.
#[derive(Debug)]
pub struct Topic {
    /// Its name: `threadgate help access`.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Its subject, in a few words.
    pub about: &'static str,
    /// Its options.
    pub rows: &'static [OptionRow],
}

/// An option with one value.
pub(super) const ONCE: OptionRow = OptionRow {
    name: "",
    letter: None,
    kind: OptionKind::Once,
    hint: "",
    choices: &[],
    brief: "",
    first: false,
    help: "",
    more: "",
    default: Usual::Unset,
    example: "",
    is_apart: false,
    scope: OptionScope::Process,
    file: FileUse::Unused,
    is_secret: false,
    instead_of: None,
    read: |_, _| Ok(()),
};

/// An option with any number of values.
pub(super) const REPEATED: OptionRow = OptionRow { kind: OptionKind::Repeated, ..ONCE };

/// An option without a value.
pub(super) const SWITCH: OptionRow = OptionRow { kind: OptionKind::Switch, ..ONCE };

/// Stores a value that could be read.
pub(super) fn keep<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// Adds a value that could be read.
pub(super) fn add<T>(place: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    place.push(value?);
    Ok(())
}

impl OptionRow {
    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The literal words that it accepts: `-` and `off` of `FILE|-|off`.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        let of_hint = self.hint.split('|');
        let of_hint = of_hint.filter(|word| !word.contains(|c: char| c.is_ascii_uppercase()));
        of_hint.chain(self.choices.iter().copied()).filter(|word| !word.is_empty())
    }

    /// Whether it takes a value.
    pub fn has_value(&self) -> bool {
        !matches!(self.kind, OptionKind::Switch | OptionKind::Counter)
    }

    /// Whether a listener can have its own value.
    pub fn is_of_a_listener(&self) -> bool {
        self.scope == OptionScope::Listener
    }

    /// The file that a value names, if it names one.
    pub fn file_of<'v>(&self, value: &'v str) -> Option<&'v str> {
        match self.file {
            FileUse::Unused | FileUse::Variable => None,
            _ if self.hint.contains("unix:PATH") => value.strip_prefix("unix:"),
            _ if value.is_empty() || self.words().any(|word| word == value) => None,
            _ => Some(value),
        }
    }

    /// Its form on a command line: `--port PORT`.
    pub fn written(&self) -> String {
        match self.has_value() {
            true => format!("--{} {}", self.name, self.hint),
            false => format!("--{}", self.name),
        }
    }

    /// An example of a value, as the configuration file has it.
    pub fn example_value(&self) -> String {
        match (self.example, self.default) {
            ("", Usual::Value(value)) => format!("\"{value}\""),
            ("", _) => "true".to_owned(),
            (example, _) => example.to_owned(),
        }
    }

    /// Its default, as a value of the configuration file or in words.
    pub fn shown_default(&self) -> Option<String> {
        match self.default {
            Usual::Unset => None,
            Usual::Value(value) => Some(format!("\"{value}\"")),
            Usual::Words(words) => Some(words.to_owned()),
        }
    }
}

/// Rows are equal if they are about the same option.
impl PartialEq for OptionRow {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for OptionRow {}

impl fmt::Debug for OptionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.name)
    }
}
