//! Prints the output of a command on stdout.

use std::io::{self, Write};

use crate::cli::exit::Failure;

/// Writes to stdout. A closed pipe is not a failure, because its reader has seen enough:
/// `threadgate --help | head -1`.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}
