//! The command line: what is typed goes in, an exit status comes out.
//!
//! In reading order: `argv` turns what was typed into what argh takes, `options` makes a
//! `Config` of the options, `effective_options` merges them with the environment and the file.
//! Commands: `serve`, `check`, `explain`, `passwd`. A running proxy: `run`, `reload`,
//! `readiness`, `inherited_fd`, `status_files`, `learn_file`. Around them: `help` is the text,
//! `logging` sets up stderr, `stdout` prints, `exit` decides how the process ends.
//!
//! A new command is an arm of `Command` and one in `answer`, and its text in `help`. One that
//! takes the options of `serve` beside its own stands in `argv::BESIDE_SERVE`; `config` makes a
//! configuration of them.
//!
//! stdout is for what was asked for (help, the version, an access log with `-`), stderr for
//! everything else.

mod argv;
mod check;
mod effective_options;
mod exit;
mod explain;
mod help;
mod inherited_fd;
mod learn_file;
mod logging;
mod options;
mod passwd;
mod readiness;
mod reload;
mod run;
mod serve;
mod status_files;
mod stdout;

use std::ffi::OsString;
use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use crate::cli::argv::{Invocation, Words};
use crate::cli::check::CheckArgs;
use crate::cli::effective_options::GivenOptions;
use crate::cli::explain::ExplainArgs;
use crate::cli::options::ServeArgs;
use crate::cli::passwd::PasswdArgs;
use crate::cli::stdout::print;

pub use crate::cli::exit::{Exit, Failure, bind_failure};

/// an HTTP proxy on a fixed pool of blocking threads
#[derive(ArgsInfo, Debug, FromArgs)]
struct Threadgate {
    #[argh(subcommand)]
    command: Command,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Command {
    Serve(#[expect(dead_code, reason = "its words are read with all others")] ServeArgs),
    Check(CheckArgs),
    Explain(ExplainArgs),
    Passwd(PasswdArgs),
}

/// Does what the words of a command line ask for, the program's name being the first of
/// them. Blocks until it is done, which for `serve` means until a signal comes.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    match answer(args.into_iter().skip(1)) {
        Ok(()) => Exit::Clean,
        Err(failure) => {
            if !failure.message.is_empty() {
                // With stderr gone there is nobody left to tell.
                let _ = writeln!(io::stderr(), "{failure}");
            }
            failure.exit
        }
    }
}

fn answer(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let words = args.map(text).collect::<Result<Vec<_>, _>>()?;
    match argv::normalise(words, &Threadgate::get_args_info().commands).map_err(Failure::usage)? {
        Invocation::Help(command) => print(help::of(command.as_deref())),
        Invocation::Version => print(concat!("threadgate ", env!("CARGO_PKG_VERSION"), "\n")),
        Invocation::Run(words) => run_command(&words),
    }
}

fn run_command(words: &Words) -> Result<(), Failure> {
    match parse(&words.own)? {
        Command::Serve(_) => serve::serve(GivenOptions::read(&words.serve)?),
        Command::Check(_) => check::check(&GivenOptions::read(&words.serve)?),
        Command::Explain(args) => explain::run(&args, &GivenOptions::read(&words.serve)?),
        Command::Passwd(args) => passwd::passwd(&args),
    }
}

/// A word as text. The options have no use for other bytes, file names included: they
/// could be neither logged nor put into a configuration file as they are.
fn text(word: OsString) -> Result<String, Failure> {
    word.into_string().map_err(|word| Failure::usage(format!("{word:?} is not UTF-8")))
}

fn parse(words: &[String]) -> Result<Command, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Threadgate::from_args(&["threadgate"], &words) {
        Ok(program) => Ok(program.command),
        // What argh refuses was refused before it, in better words; this is for the rest.
        Err(early) => Err(Failure::usage(early.output.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[track_caller]
    fn refused(words: impl IntoIterator<Item = OsString>, says: &str) {
        let failure = answer(words.into_iter()).unwrap_err();
        assert_eq!(failure, Failure::usage(says));
    }

    #[test]
    fn a_word_that_is_not_utf8_is_a_usage_error() {
        refused([OsString::from_vec(b"--via=\xff".to_vec())], "\"--via=\\xFF\" is not UTF-8");
    }

    #[test]
    fn a_wrong_word_and_a_wrong_value_are_usage_errors() {
        refused(["--threds=1".into()], "unknown option '--threds'; did you mean --threads?");
        refused(
            ["--via=".into()],
            "--via: '' is not a name; give letters, digits and dashes, \
             for example threadgate-1, or off",
        );
    }

    #[test]
    fn the_name_of_the_program_is_not_read() {
        assert_eq!(run(["--frobnicate", "--version"].map(OsString::from)), Exit::Clean);
        assert_eq!(run(["threadgate", "--frobnicate"].map(OsString::from)), Exit::Usage);
    }
}
