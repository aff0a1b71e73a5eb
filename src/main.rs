//! The `threadgate` binary calls [`cli::run`](threadgate::cli::run) and exits with its answer.

use std::process::ExitCode;

fn main() -> ExitCode {
    threadgate::cli::run(std::env::args_os()).into()
}
