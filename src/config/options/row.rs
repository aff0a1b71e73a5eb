//! What the table says of an option: how it is written, what it means, and where its value goes.

use std::fmt;

use crate::config::values::Config;

/// How the environment variables begin: `THREADGATE_TIMEOUT_HEAD` is `timeout-head`.
pub const PREFIX: &str = "THREADGATE_";

/// An option of a proxy: on the command line, in the environment and in the configuration file.
#[derive(Clone, Copy)]
pub struct OptionRow {
    /// Its name without dashes, which is also its key in a file.
    pub name: &'static str,
    /// Its letter on the command line.
    pub letter: Option<char>,
    /// How often, and with what, it may be given.
    pub kind: OptionKind,
    /// What its value looks like: `FILE|-|off`. Words in small letters stand for themselves.
    pub hint: &'static str,
    /// The words that it takes, if it takes nothing else.
    pub choices: &'static [&'static str],
    /// What it does, in a few words without a full stop.
    pub brief: &'static str,
    /// Whether it stands on the first screen of help.
    pub first: bool,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// What else there is to know, for the man page and `threadgate help`.
    pub more: &'static str,
    /// What holds if nobody says anything.
    pub default: Usual,
    /// A value for the example of a configuration file, as TOML; empty for the default.
    pub example: &'static str,
    /// Whether that example stands apart: a proxy cannot start with it and all others.
    #[cfg_attr(not(test), allow(dead_code, reason = "only the example file has examples"))]
    pub is_apart: bool,
    /// For what it holds, and when another value is taken.
    pub scope: OptionScope,
    /// What becomes of the file that its value names.
    pub file: FileUse,
    /// Whether its value must not be shown.
    pub is_secret: bool,
    /// The option that says the same thing in another way: whoever gives one says nothing with the other.
    pub instead_of: Option<&'static str>,
    /// Reads one value and keeps it. The error is a sentence to print after the name of the option.
    pub read: fn(&mut Config, &str) -> Result<(), String>,
}

/// How often, and with what, an option may be given.
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

/// What holds if nobody says anything of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usual {
    /// Nothing, or that the switch is off.
    Unset,
    /// This value.
    Value(&'static str),
    /// What these words say.
    Words(&'static str),
}

/// For what an option holds, and when another value is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OptionScope {
    /// For the process: another value needs a restart.
    Process,
    /// For the process: a reload takes another value.
    Reload,
    /// For all listeners, or for one that says it of its own; a reload takes another value.
    Listener,
}

/// What becomes of the file that a value names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileUse {
    /// It names none.
    Unused,
    /// It is the configuration file.
    Configuration,
    /// It is read at the start and at every reload.
    Read,
    /// It is written.
    Written,
}

/// Options that belong together, as `threadgate help` shows them.
#[derive(Debug)]
pub struct Topic {
    /// Its name: `threadgate help access`.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What it is about, in a few words.
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

/// Keeps a value that could be read.
pub(super) fn keep<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// Keeps one value more.
pub(super) fn add<T>(place: &mut Vec<T>, value: Result<T, String>) -> Result<(), String> {
    place.push(value?);
    Ok(())
}

impl OptionRow {
    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// What may stand for a value besides a value as such: `-` and `off` of `FILE|-|off`.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        let of_hint = self.hint.split('|');
        let of_hint = of_hint.filter(|word| !word.contains(|c: char| c.is_ascii_uppercase()));
        of_hint.chain(self.choices.iter().copied()).filter(|word| !word.is_empty())
    }

    /// Whether it takes a value.
    pub fn has_value(&self) -> bool {
        !matches!(self.kind, OptionKind::Switch | OptionKind::Counter)
    }

    /// Whether a listener can have it of its own.
    pub fn is_of_a_listener(&self) -> bool {
        self.scope == OptionScope::Listener
    }

    /// The file that a value names, if it names one.
    pub fn file_of<'v>(&self, value: &'v str) -> Option<&'v str> {
        match self.file {
            FileUse::Unused => None,
            _ if self.hint.contains("unix:PATH") => value.strip_prefix("unix:"),
            _ if value.is_empty() || self.words().any(|word| word == value) => None,
            _ => Some(value),
        }
    }

    /// How it is written on a command line: `--port PORT`.
    pub fn written(&self) -> String {
        match self.has_value() {
            true => format!("--{} {}", self.name, self.hint),
            false => format!("--{}", self.name),
        }
    }

    /// What holds if nobody says anything, as a value of the configuration file or in words.
    pub fn shown_default(&self) -> Option<String> {
        match self.default {
            Usual::Unset => None,
            Usual::Value(value) => Some(format!("\"{value}\"")),
            Usual::Words(words) => Some(words.to_owned()),
        }
    }
}

/// A row is its option.
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
