//! The `threadgate` binary calls `cli::run` and exits with its answer.

use std::process::ExitCode;

fn main() -> ExitCode {
    threadgate::run(std::env::args_os())
}
