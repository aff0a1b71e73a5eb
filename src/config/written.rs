//! Where something was written, and what is wrong there.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

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
    /// The option that is wrong, without dashes, if it is one.
    pub option: Option<&'static str>,
    /// A sentence that begins with the place.
    pub message: String,
}

impl WrongSetting {
    /// The value of option `name` that stands at `place` is wrong.
    pub fn value(place: &WrittenAt, name: &'static str, why: &str) -> Self {
        Self::at(place, name, &format!(": {why}"))
    }

    /// The same, with what follows the name of the option.
    pub(super) fn at(place: &WrittenAt, name: &'static str, rest: &str) -> Self {
        let message = format!("{}{rest}", place.before(name));
        Self { place: place.clone(), option: Some(name), message }
    }

    /// The address of one of `[[listeners]]` is wrong.
    pub fn of_listener(place: &WrittenAt, why: &str) -> Self {
        let message = format!("{place}: address: {why}");
        Self { place: place.clone(), option: None, message }
    }

    /// Something is wrong that is no option and has no place.
    pub(super) fn nowhere(message: String) -> Self {
        Self { place: WrittenAt::Flag, option: None, message }
    }
}
