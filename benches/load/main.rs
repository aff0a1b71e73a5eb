//! Load client and origin server of the benchmarks, run by `benches/bench.py`.
//!
//! It uses one thread and one epoll set, so that its own cost is the same for every proxy. `engine` drives
//! the connections, `check` judges the bytes, and `modes` has the workloads. The result is one JSON line.

mod check;
mod engine;
mod modes;
mod options;
mod origin;
mod pattern;

use std::io;
use std::process::ExitCode;

use argh::FromArgs;

use options::Options;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // `cargo bench` and `cargo test --benches` start every bench target; this one is a tool.
    if arguments.is_empty() || arguments.iter().any(|a| ["--bench", "--test"].contains(a)) {
        println!("load: a tool of benches/bench.py; `load --help` lists its modes");
        return ExitCode::SUCCESS;
    }
    let options = match Options::from_args(&["load"], &arguments) {
        Ok(options) => options,
        Err(exit) => {
            println!("{}", exit.output);
            return if exit.status.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("load: {}: {e}", options.mode);
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    match options.mode.as_str() {
        "origin" => origin::serve(options.origin, options.echo, |http, echo| {
            if let Some(file) = &options.port_file {
                // Renamed into place, so that a reader never sees half of it.
                let partial = file.with_extension("partial");
                std::fs::write(&partial, format!("{} {}\n", http.port(), echo.port()))?;
                std::fs::rename(&partial, file)?;
            }
            Ok(())
        }),
        "pattern" => {
            for at in (0..options.bytes).step_by(pattern::MAX_RUN) {
                let run = pattern::at(at, (options.bytes - at) as usize);
                print!("{}", String::from_utf8_lossy(run));
            }
            Ok(())
        }
        _ => modes::run(options),
    }
}
