//! The error for an option that cannot be used: which one, which of its values, and the reason.

use std::{error, fmt};

/// Why rules, lists, limits or users cannot be used: a value or a named file is wrong.
///
/// It is displayed as a sentence that begins with the option, as on the command line:
/// `--deny: 'a b' is not a destination`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Unusable {
    /// Whether the reason is that the system does not let this process read a file.
    pub denied: bool,
    /// The option, without dashes.
    pub(crate) option: Option<&'static str>,
    /// Which of its values is meant, from 0.
    pub(crate) value: Option<usize>,
    /// The number of the listener whose own option it is.
    pub(crate) listener: Option<u16>,
    /// The part of that value: a file and its line.
    pub(crate) subject: Option<String>,
    /// Other options whose values the reason depends on.
    pub(crate) beside: &'static [&'static str],
    /// Whether the reason is that none of those is given.
    pub(crate) is_missing: bool,
    /// The reason, and what to try.
    pub(crate) why: String,
}

impl Unusable {
    /// This option, for this reason.
    pub(crate) fn of(option: &'static str, why: impl Into<String>) -> Self {
        Self { option: Some(option), ..Self::from(why.into()) }
    }

    /// Names the wrong one of the option's values, from 0.
    pub(crate) fn value(self, value: usize) -> Self {
        Self { value: Some(value), ..self }
    }

    /// Says that it is the own option of this listener.
    pub(crate) fn of_listener(self, number: u16) -> Self {
        Self { listener: Some(number), ..self }
    }

    /// Names the wrong file, line or name.
    pub(crate) fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    /// It depends on the values of these options as well.
    pub(crate) fn beside(self, others: &'static [&'static str]) -> Self {
        Self { beside: others, ..self }
    }

    /// It is wrong because none of these options is given.
    pub(crate) fn without(self, others: &'static [&'static str]) -> Self {
        Self { beside: others, is_missing: true, ..self }
    }

    /// The same as part of something else, which `about` names.
    pub(crate) fn inside(self, about: &str) -> Self {
        let Self { denied, subject, why, .. } = self;
        let place = subject.map(|subject| format!("{subject}: ")).unwrap_or_default();
        Self { denied, ..Self::from(format!("{about}{place}{why}")) }
    }

    /// The option that is wrong, without dashes, if it is one: `deny-url`.
    pub fn option(&self) -> Option<&str> {
        self.option
    }

    /// The sentence after the name of the option.
    pub(crate) fn rest(&self) -> String {
        match &self.subject {
            Some(subject) => format!(" {subject}: {}", self.why),
            None => format!(": {}", self.why),
        }
    }
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self {
            denied: false,
            option: None,
            value: None,
            listener: None,
            subject: None,
            beside: &[],
            is_missing: false,
            why,
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.option {
            Some(option) => write!(f, "--{option}{}", self.rest()),
            None => f.write_str(&self.why),
        }
    }
}

impl error::Error for Unusable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_sentence_that_begins_with_the_option() {
        let plain = Unusable::of("deny", "'a b' is not a destination").value(1).beside(&["allow"]);
        assert_eq!(plain.to_string(), "--deny: 'a b' is not a destination");
        let file = Unusable::of("auth-file", "cannot read it").about("users:3");
        assert_eq!(file.to_string(), "--auth-file users:3: cannot read it");
        assert_eq!(Unusable::from("rule: no".to_owned()).to_string(), "rule: no");
    }
}
