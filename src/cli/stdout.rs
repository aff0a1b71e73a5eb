//! Prints what a command answers on stdout.

use std::io::{self, Write};

use crate::cli::exit::Failure;

/// Writes to stdout. A reader that went away has seen enough: `threadgate --help | head -1`
/// is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}
