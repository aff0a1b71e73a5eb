//! The command line: turns the words of a user into a running command and an exit status.
//!
//! In reading order: `argv` rewrites the words for argh, `effective_options` merges them with the
//! environment and the file. Commands: `serve`, `check`, `explain`, `passwd`, `completions`.
//! A running proxy: `run`, `announce`, `reload`, `readiness`, `inherited_fd`, `status_files`, `learn_file`. Around
//! them: `help` makes the texts, `logging` sets up stderr, `stdout` prints, `exit` decides how the
//! process ends.
//!
//! A new option is a row of `config::options` and nothing here. A new command is an arm of `Command` and
//! one in `run_command`, and its text in `help::commands`.
//!
//! stdout carries the output that the user asked for (help, the version, an access log with `-`);
//! everything else goes to stderr.

mod announce;
mod argv;
mod check;
mod completions;
mod effective_options;
mod exit;
mod explain;
mod help;
mod inherited_fd;
mod learn_file;
mod logging;
mod passwd;
mod readiness;
mod reload;
mod run;
mod serve;
mod status_files;
mod stdout;

use std::ffi::OsString;
use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs, SubCommandInfo};

use crate::cli::argv::{Invocation, Words};
use crate::cli::check::CheckArgs;
use crate::cli::completions::CompletionsArgs;
use crate::cli::effective_options::GivenOptions;
use crate::cli::explain::ExplainArgs;
use crate::cli::passwd::PasswdArgs;
use crate::cli::serve::ServeArgs;
use crate::cli::stdout::print;
use crate::config::settings::Settings;

pub use crate::cli::exit::{Exit, Failure, bind_failure};

/// an HTTP proxy
#[derive(ArgsInfo, Debug, FromArgs)]
struct Threadgate {
    #[argh(subcommand)]
    command: Command,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(ServeArgs),
    Check(CheckArgs),
    Explain(ExplainArgs),
    Passwd(PasswdArgs),
    Completions(CompletionsArgs),
}

/// Runs a command line, whose first word is the name of the program. Blocks until the command is done;
/// `serve` runs until a signal comes.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    match answer(args.into_iter().skip(1)) {
        Ok(()) => Exit::Clean,
        Err(failure) => {
            if !failure.message.is_empty() {
                // If stderr is gone, the message has nowhere to go.
                let _ = writeln!(io::stderr(), "{failure}");
            }
            failure.exit
        }
    }
}

fn answer(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let words = args.map(text).collect::<Result<Vec<_>, _>>()?;
    let described = Threadgate::get_args_info().commands;
    // A mistake in the words of a command points to the help of that command.
    let named = words.first().and_then(|word| help::commands::find(word));
    let named = named.filter(|command| command.name != "serve").map(|command| command.name);
    let of_command = |failure: Failure| match named {
        Some(name) => failure.of_command(name),
        None => failure,
    };
    let invocation = argv::normalise(words, &described).map_err(|wrong| {
        let failure = Failure::usage(wrong.message);
        match wrong.help {
            Some(help) => failure.with_help(help),
            None => of_command(failure),
        }
    });
    match invocation? {
        Invocation::Help(page) => print(&page.text(&described)),
        Invocation::Version => print(concat!("threadgate ", env!("CARGO_PKG_VERSION"), "\n")),
        Invocation::Run(words) => run_command(&words, &described).map_err(of_command),
    }
}

fn run_command(words: &Words, described: &[SubCommandInfo]) -> Result<(), Failure> {
    let given = || GivenOptions::read(Settings::of_words(&strs(&words.serve)));
    match parse(&words.own)? {
        Command::Serve(ServeArgs) => serve::serve(given()),
        Command::Check(CheckArgs {}) => check::check(&given()),
        Command::Explain(args) => explain::run(&args, &given()),
        Command::Passwd(args) => passwd::passwd(&args),
        Command::Completions(args) => completions::completions(&args, described),
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A word as text. Words that are not UTF-8 are refused, file names included, because they could be
/// neither logged nor written into a configuration file unchanged.
fn text(word: OsString) -> Result<String, Failure> {
    word.into_string().map_err(|word| Failure::usage(format!("{word:?} is not UTF-8")))
}

fn parse(words: &[String]) -> Result<Command, Failure> {
    match Threadgate::from_args(&["threadgate"], &strs(words)) {
        Ok(program) => Ok(program.command),
        // `argv` has already refused most mistakes in better words; this is for the rest.
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
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.to_string(), format!("threadgate: {says}"));
    }

    #[test]
    fn a_word_that_is_not_utf8_is_a_usage_error() {
        let word = OsString::from_vec(b"--via=\xff".to_vec());
        refused([word], "\"--via=\\xFF\" is not UTF-8\ntry 'threadgate --help'");
    }

    #[test]
    fn a_wrong_command_line_names_the_help_to_read() {
        for (words, says) in [
            (
                "--threds=1",
                "unknown option '--threds'; did you mean --threads?\ntry 'threadgate --help'",
            ),
            (
                "--via=",
                "--via: '' is not a name; give letters, digits and dashes, for example threadgate-1, or \
                 off\ntry 'threadgate help --via'",
            ),
            (
                "passwd --delet",
                "unknown option '--delet'; did you mean --delete?\ntry 'threadgate passwd --help'",
            ),
            (
                "explain GET",
                "explain: needs a URL behind the method; write for example threadgate explain GET \
                 http://example.com/\ntry 'threadgate explain --help'",
            ),
            (
                "completions tcsh",
                "completions: 'tcsh' is not a shell we know; give bash, zsh or fish\n\
                 try 'threadgate completions --help'",
            ),
            ("-t", "--threads: needs a value; write --threads N\ntry 'threadgate help --threads'"),
            ("check --frob", "unknown option '--frob'\ntry 'threadgate --help'"),
            (
                "explain --client",
                "--client: needs a value; write --client IP\ntry 'threadgate explain --help'",
            ),
            (
                "check -t x -p y",
                "--threads: 'x' is not a number; give a whole number from 1 to 1024, for example 8\n\
                 threadgate: --port: 'y' is not a port; give a whole number from 1 to 65535, or 0 to \
                 let the system choose\ntry 'threadgate --help'",
            ),
            (
                "check -t x",
                "--threads: 'x' is not a number; give a whole number from 1 to 1024, for example 8\n\
                 try 'threadgate help --threads'",
            ),
        ] {
            refused(words.split(' ').map(OsString::from), says);
        }
    }

    #[test]
    fn the_name_of_the_program_is_not_read() {
        assert_eq!(run(["--frobnicate", "--version"].map(OsString::from)), Exit::Clean);
        assert_eq!(run(["threadgate", "--frobnicate"].map(OsString::from)), Exit::Usage);
    }
}
