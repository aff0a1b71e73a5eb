//! The `threadgate` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    threadgate::cli::run(std::env::args_os()).into()
}
