//! The `threadgate` binary: runs the command line and exits with its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    threadgate::run(std::env::args_os())
}
