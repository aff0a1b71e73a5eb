//! Why a file that an option names cannot be used.

use std::{error, fmt};

/// Why rules, lists, limits or users cannot be used: a value is wrong, or a file that is named.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Unusable {
    /// A sentence that begins with the name of the option, with file and line.
    pub message: String,
    /// Whether the reason is that the system does not let this process read a file.
    pub denied: bool,
}

impl From<String> for Unusable {
    fn from(message: String) -> Self {
        Self { message, denied: false }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for Unusable {}
