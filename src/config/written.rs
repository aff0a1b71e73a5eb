//! Values as they were written, with the place of each, and the mistakes in them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value was given.
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
    /// The line of a file; 0 elsewhere.
    pub fn line(&self) -> u32 {
        match self {
            Self::File(_, line) => *line,
            Self::Flag | Self::Variable(_) => 0,
        }
    }

    /// The beginning of a sentence about option `name` at this place.
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
    /// Where it was given.
    pub place: WrittenAt,
}

/// A mistake and its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrongSetting {
    /// Its place.
    pub place: WrittenAt,
    /// The option that is wrong, without dashes, if it is one.
    pub option: Option<&'static str>,
    /// A sentence that begins with the place.
    pub message: String,
}

impl WrongSetting {
    /// A wrong value of option `name` at `place`.
    pub fn value(place: &WrittenAt, name: &'static str, why: &str) -> Self {
        Self::at(place, name, &format!(": {why}"))
    }

    /// The same, with the text after the name of the option.
    pub(super) fn at(place: &WrittenAt, name: &'static str, rest: &str) -> Self {
        let message = format!("{}{rest}", place.before(name));
        Self { place: place.clone(), option: Some(name), message }
    }

    /// A wrong address of one of `[[listeners]]`.
    pub fn of_listener(place: &WrittenAt, why: &str) -> Self {
        let message = format!("{place}: address: {why}");
        Self { place: place.clone(), option: None, message }
    }

    /// A mistake that concerns no option and has no place.
    pub(super) fn nowhere(message: String) -> Self {
        Self { place: WrittenAt::Flag, option: None, message }
    }
}
