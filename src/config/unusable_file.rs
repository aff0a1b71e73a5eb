//! Why a file that an option names cannot be used.

/// Why no policy can be made of a file that is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unusable {
    /// A sentence that begins with the name of the option, with file and line.
    pub message: String,
    /// The system does not let us read it.
    pub denied: bool,
}

impl From<String> for Unusable {
    fn from(message: String) -> Self {
        Self { message, denied: false }
    }
}
