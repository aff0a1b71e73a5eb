//! Rewrites the words of a command line into the forms that argh accepts.
//!
//! argh accepts only `--option value`, long or short. People type more than that, so each word is
//! read here and written back in argh's form:
//!
//! - `--key=value`, `-p8080`, `-p=8080`, `-vv`, `-vp8080`;
//! - no command at all, which means `serve`;
//! - `-h`, `--help`, `help`, `-V` and `--version` anywhere an option may stand.
//!
//! Some commands take the options of `serve` as well as their own. Their words are split into those that
//! argh reads as the command and those that it reads as `serve`.
//!
//! Mistakes that argh would refuse with a bare sentence are refused here, with the name of the option and
//! what to try. The value of an option is the next word, unless that word looks like an option (a dash
//! and a letter, or two dashes): `-t -1` has the value `-1`, and `--port-file=--odd` names a file
//! `--odd`.
//!
//! The list of options comes from argh, so nothing here has to be kept in step with it. Values are not
//! parsed here.

use std::vec::IntoIter;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, SubCommandInfo};

use crate::cli::exit::HelpToRead;
use crate::cli::help::{Page, commands};
use crate::config::suggestion::nearest;
use crate::config::{listen, options};

/// The command that runs when none is named.
const DEFAULT_COMMAND: &str = "serve";

/// The help command and the option of every command, with its letter.
const HELP: (&str, &str, char) = ("help", "--help", 'h');

/// The option of every command that prints the version, with its letter.
const VERSION: (&str, char) = ("--version", 'V');

/// What the words ask for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Invocation {
    /// A page of help.
    Help(Page),
    /// The name and version of the program.
    Version,
    /// A command.
    Run(Words),
}

/// The words of the command line, in argh's form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Words {
    /// The command, its name first.
    pub(crate) own: Vec<String>,
    /// The default command and its options. For that command itself, the same as `own`.
    pub(crate) serve: Vec<String>,
}

/// A mistake in the words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WrongWords {
    /// A sentence that names the word and says what to try.
    pub(crate) message: String,
    /// The help to read, if it is not that of the command.
    pub(crate) help: Option<HelpToRead>,
}

impl From<String> for WrongWords {
    fn from(message: String) -> Self {
        Self { message, help: None }
    }
}

/// Reads the words after the program's name.
///
/// # Errors
///
/// A sentence that names the word and says what to try.
pub(crate) fn normalise(
    args: Vec<String>,
    commands: &[SubCommandInfo],
) -> Result<Invocation, WrongWords> {
    let mut words = args.into_iter();
    let first_is_a_name = words.as_slice().first().is_some_and(|word| !word.starts_with('-'));
    let name = match first_is_a_name {
        true => words.next().unwrap_or_default(),
        false => DEFAULT_COMMAND.to_owned(),
    };
    if name == HELP.0 {
        let Some(word) = words.next() else { return Ok(Invocation::Help(Page::First)) };
        if word == HELP.1 || word == format!("-{}", HELP.2) {
            return Ok(Invocation::Help(Page::Command(HELP.0)));
        }
        if word == VERSION.0 || word == format!("-{}", VERSION.1) {
            return Ok(Invocation::Version);
        }
        if let Some(more) = words.next() {
            let says = format!("unexpected '{more}'; help shows one page: threadgate help {word}");
            return Err(says.into());
        }
        return Page::find(&word).map(Invocation::Help).ok_or_else(|| unknown_page(&word).into());
    }
    let described = |name: &str| commands.iter().find(|c| c.name == name).map(|c| &c.command);
    let Some(command) = described(&name) else {
        return Err(unknown_command(&name, commands).into());
    };
    let beside = commands::find(command.name).is_some_and(|it| it.is_about_a_proxy);
    let shared = described(DEFAULT_COMMAND).filter(|_| beside).map_or(&[][..], |c| c.flags);
    let own = vec![name];
    let serve = vec![DEFAULT_COMMAND.to_owned()];
    let out = Words { own, serve };
    Scan { commands, command, shared, words, out, given: Vec::new() }.run()
}

/// One pass over the words of a command.
struct Scan<'a> {
    commands: &'a [SubCommandInfo],
    command: &'a CommandInfoWithArgs,
    /// Options of the default command that this command also takes.
    shared: &'a [FlagInfo<'a>],
    words: IntoIter<String>,
    /// The words for argh.
    out: Words,
    /// The options with a value so far, for those that take only one.
    given: Vec<(&'a str, String)>,
}

impl<'a> Scan<'a> {
    fn run(mut self) -> Result<Invocation, WrongWords> {
        let takes_words = !self.command.positionals.is_empty();
        while let Some(word) = self.words.next() {
            if word == "--" {
                let rest: Vec<String> = self.words.by_ref().collect();
                if let Some(word) = rest.first().filter(|_| !takes_words) {
                    return Err(self.unexpected(word).into());
                }
                self.out.own.push(word);
                self.out.own.extend(rest);
            } else if word.starts_with("--") {
                if let Some(request) = self.long(&word)? {
                    return Ok(request);
                }
            } else if word.starts_with('-') && word != "-" {
                if let Some(request) = self.short(&word)? {
                    return Ok(request);
                }
            } else if takes_words {
                self.out.own.push(word);
            } else {
                return Err(self.unexpected(&word).into());
            }
        }
        if self.command.name == DEFAULT_COMMAND {
            self.out.serve.clone_from(&self.out.own);
        }
        Ok(Invocation::Run(self.out))
    }

    /// The answer to a request for help: the page of the command, or this page for the default command.
    fn help(&self, of_a_proxy: Page) -> Invocation {
        let text = commands::find(self.command.name).filter(|it| it.name != DEFAULT_COMMAND);
        Invocation::Help(text.map_or(of_a_proxy, |it| Page::Command(it.name)))
    }

    /// All options that this command takes, its own first.
    fn flags(&self) -> impl Iterator<Item = &'a FlagInfo<'a>> + use<'a> {
        let own = self.command.flags;
        let others = self.shared.iter().filter(|f| !own.iter().any(|own| own.long == f.long));
        own.iter().chain(others)
    }

    /// `--option`, `--option value`, `--option=value`.
    fn long(&mut self, word: &str) -> Result<Option<Invocation>, WrongWords> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        let asks = match name {
            name if name == HELP.1 => Some(self.help(Page::Whole)),
            name if name == VERSION.0 => Some(Invocation::Version),
            _ => None,
        };
        if asks.is_some() {
            return match value {
                Some(_) => Err(takes_no_value(name).into()),
                None => Ok(asks),
            };
        }
        match self.flags().find(|f| f.long == name) {
            Some(flag) => self.take(flag, value).map(|()| None),
            None => {
                let meant = nearest(name, self.long_names());
                Err(self.unknown(format!("unknown option '{name}'{}", did_you_mean(meant))))
            }
        }
    }

    /// `-v`, `-vv`, `-p 8080`, `-p8080`, `-p=8080`, `-vp8080`.
    fn short(&mut self, word: &str) -> Result<Option<Invocation>, WrongWords> {
        let long = format!("-{}", word.split('=').next().unwrap_or_default());
        if long.len() > 3 && self.long_names().any(|name| name == long) {
            let says = format!("unknown option '{word}'; write {long}, with two dashes");
            return Err(self.unknown(says));
        }
        let mut letters = word.trim_start_matches('-').chars();
        while let Some(letter) = letters.next() {
            if letter == HELP.2 {
                return Ok(Some(self.help(Page::First)));
            }
            if letter == VERSION.1 {
                return Ok(Some(Invocation::Version));
            }
            let Some(flag) = self.flags().find(|f| f.short == Some(letter)) else {
                let alone = word.chars().count() == 2;
                let place = if alone { String::new() } else { format!(" in '{word}'") };
                return Err(self.unknown(format!("unknown option '-{letter}'{place}")));
            };
            if flag.kind == FlagInfoKind::Switch {
                self.take(flag, None)?;
                continue;
            }
            let attached = letters.as_str();
            let value = attached.strip_prefix('=').unwrap_or(attached);
            self.take(flag, Some(value).filter(|_| !attached.is_empty()).map(str::to_owned))?;
            break;
        }
        Ok(None)
    }

    /// Writes one option, with its value from the same word or the next.
    fn take(&mut self, flag: &'a FlagInfo<'a>, value: Option<String>) -> Result<(), WrongWords> {
        let name = flag.long;
        let FlagInfoKind::Option { arg_name } = flag.kind else {
            if value.is_some() {
                return Err(of_option(name, takes_no_value(name)));
            }
            self.write(flag, None);
            return Ok(());
        };
        let value = match value {
            Some(value) => value,
            None => match self.words.next() {
                Some(next) if !looks_like_an_option(&next) => next,
                Some(next) => {
                    let says =
                        format!("{name}: needs a value before '{next}'; write {name} {arg_name}");
                    return Err(of_option(name, says));
                }
                None => {
                    let says = format!("{name}: needs a value; write {name} {arg_name}");
                    return Err(of_option(name, says));
                }
            },
        };
        if flag.optionality != Optionality::Repeating {
            if let Some((_, before)) = self.given.iter().find(|(given, _)| *given == name) {
                let says =
                    format!("{name}: given twice, '{before}' and then '{value}'; give it once");
                return Err(of_option(name, says));
            }
            self.given.push((name, value.clone()));
        }
        self.write(flag, Some(value));
        Ok(())
    }

    fn write(&mut self, flag: &FlagInfo<'_>, value: Option<String>) {
        let is_own = self.command.flags.iter().any(|own| own.long == flag.long);
        let out = if is_own { &mut self.out.own } else { &mut self.out.serve };
        out.push(flag.long.to_owned());
        out.extend(value);
    }

    /// The long options of the command and of every command.
    fn long_names(&self) -> impl Iterator<Item = &'a str> {
        let built_in = [HELP.1, VERSION.0];
        let own = self.flags().map(|f| f.long);
        own.filter(move |name| !built_in.contains(name)).chain(built_in)
    }

    /// The mistake of an option that nobody knows. A command without options of its own takes those of a
    /// proxy, and their help is the one to read.
    fn unknown(&self, message: String) -> WrongWords {
        let has_own = self.command.flags.iter().any(|flag| flag.long != HELP.1);
        let help = (!has_own && !self.shared.is_empty()).then_some(HelpToRead::Options);
        WrongWords { message, help }
    }

    /// The sentence for a word that is neither an option nor the value of one.
    fn unexpected(&self, word: &str) -> String {
        let name = self.command.name;
        if is_command(word, self.commands) || word == HELP.0 {
            return format!("unexpected '{word}'; a command comes first: threadgate {word}");
        }
        format!("unexpected '{word}'; {name} takes only options{}", meant_address(word))
    }
}

/// Whether a word is taken for an option where a value should stand.
fn looks_like_an_option(word: &str) -> bool {
    let after = word.strip_prefix('-').and_then(|rest| rest.chars().next());
    after.is_some_and(|c| c == '-' || c.is_ascii_alphabetic())
}

/// A mistake in the use of a known option.
fn of_option(name: &str, message: String) -> WrongWords {
    let row = options::find(name.trim_start_matches('-'));
    WrongWords { message, help: row.map(|row| HelpToRead::Option(row.name)) }
}

fn takes_no_value(name: &str) -> String {
    format!("{name}: takes no value; write {name} alone")
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|word| format!("; did you mean {word}?")).unwrap_or_default()
}

fn is_command(word: &str, commands: &[SubCommandInfo]) -> bool {
    commands.iter().any(|c| c.name == word)
}

fn unknown_page(word: &str) -> String {
    let is_option = word.starts_with('-');
    let bare = word.trim_start_matches('-');
    let meant = nearest(bare, Page::words()).map(|meant| match is_option {
        true => format!("--{meant}"),
        false => meant.to_owned(),
    });
    let what = if is_option { "option" } else { "command, topic or option" };
    format!("help: there is no {what} '{word}'{}", did_you_mean(meant.as_deref()))
}

fn unknown_command(word: &str, commands: &[SubCommandInfo]) -> String {
    let meant = nearest(word, commands.iter().map(|c| c.name).chain([HELP.0]));
    let advice = if meant.is_some() { did_you_mean(meant) } else { meant_address(word) };
    format!("unknown command '{word}'{advice}")
}

/// A suggestion for a bare port or address.
fn meant_address(word: &str) -> String {
    let option = if listen::parse_port(word).is_ok() {
        "--port"
    } else if listen::parse(word).is_ok() {
        "--listen"
    } else {
        return String::new();
    };
    did_you_mean(Some(&format!("{option} {word}")))
}

#[cfg(test)]
mod tests {
    use argh::{ArgsInfo, FromArgs};

    use super::*;

    /// A program with one option of each kind.
    #[derive(FromArgs, ArgsInfo)]
    struct Program {
        #[argh(subcommand)]
        _command: Command,
    }

    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand)]
    #[expect(dead_code, reason = "only what argh makes of the type is looked at")]
    enum Command {
        Serve(Serve),
        Run(Run),
        Check(Check),
    }

    /// options only
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "serve")]
    struct Serve {
        /// repeatable
        #[argh(option, short = 'l', long = "listen", arg_name = "ADDR")]
        _listen: Vec<String>,
        /// once
        #[argh(option, short = 'p', long = "port", arg_name = "PORT")]
        _port: Option<String>,
        /// once, without a letter
        #[argh(option, long = "port-file", arg_name = "FILE")]
        _port_file: Option<String>,
        /// switch
        #[argh(switch, long = "open")]
        _open: bool,
        /// counted switch
        #[argh(switch, short = 'v', long = "verbose")]
        _verbose: u8,
    }

    /// options and words
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "run")]
    struct Run {
        /// once
        #[argh(option, short = 'p', long = "port", arg_name = "PORT")]
        _port: Option<String>,
        /// the words
        #[argh(positional, greedy)]
        _words: Vec<String>,
    }

    /// beside the options of serve, with one that has the letter of theirs
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "check")]
    struct Check {
        /// once
        #[argh(option, short = 'p', long = "path", arg_name = "PATH")]
        _path: Option<String>,
        /// the word
        #[argh(positional)]
        _word: Option<String>,
    }

    fn request(typed: &str) -> Result<Invocation, String> {
        let words = typed.split_whitespace().map(|w| w.replace('_', " ")).collect();
        normalise(words, &Program::get_args_info().commands).map_err(|wrong| wrong.message)
    }

    #[track_caller]
    fn check(shows: &str, typed: &str, words: &str) {
        let expected: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let Ok(Invocation::Run(words)) = request(typed) else { panic!("{shows}: {typed}") };
        assert_eq!(words.own, expected, "{shows}: {typed}");
        if words.own.first().is_some_and(|name| name == "serve") {
            assert_eq!(words.serve, words.own, "{shows}: {typed}");
        }
        let strs: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert!(Program::from_args(&["threadgate"], &strs).is_ok(), "{shows}: argh takes it");
    }

    #[test]
    fn what_people_type_becomes_what_argh_takes() {
        check("no words at all mean serve", "", "serve");
        check("options alone mean serve", "-p 8080", "serve --port 8080");
        check("a named command stays", "serve -p 8080", "serve --port 8080");
        check("long, value in the next word", "--port 8080", "serve --port 8080");
        check("long, value after =", "--port=8080", "serve --port 8080");
        check("only the first = divides", "--port-file=a=b", "serve --port-file a=b");
        check("short, value attached", "-p8080", "serve --port 8080");
        check("short, value after =", "-p=8080", "serve --port 8080");
        check("short, value with = inside", "-lx=y", "serve --listen x=y");
        check("a letter twice in a word", "-vv", "serve --verbose --verbose");
        check("letters and then a value", "-vp8080", "serve --verbose --port 8080");
        check("letters and then a value's word", "-vp 80", "serve --verbose --port 80");
        check(
            "repeatable options",
            "-l a -lb --listen=c",
            "serve --listen a --listen b --listen c",
        );
        check("a switch twice", "--open --open", "serve --open --open");
        check("a negative number is a value", "-p -1", "serve --port -1");
        check("- is a value", "--port-file -", "serve --port-file -");
        check("= takes what looks like an option", "--port-file=--v", "serve --port-file --v");
        check("attached, too", "-p-v", "serve --port -v");
        check("help as a value", "--port-file help", "serve --port-file help");
        check("-- and nothing after it", "--open --", "serve --open --");
        check("-- ends the options", "run -p1 -- env -p2 --help", "run --port 1 -- env -p2 --help");
    }

    #[test]
    fn an_empty_value_is_a_value() {
        let words = vec!["--port=".to_owned()];
        let expected = ["serve", "--port", ""].map(str::to_owned).to_vec();
        let commands = Program::get_args_info().commands;
        let expected = Words { own: expected.clone(), serve: expected };
        assert_eq!(normalise(words, &commands), Ok(Invocation::Run(expected)));
    }

    #[test]
    fn a_command_may_take_the_options_of_serve_beside_its_own() {
        for (typed, own, serve) in [
            ("check", "check", "serve"),
            ("check --port 80 -v", "check", "serve --port 80 --verbose"),
            ("check --port=80 --path=a", "check --path a", "serve --port 80"),
            ("check -pa -la -l b", "check --path a", "serve --listen a --listen b"),
            ("check word --open -- --open", "check word -- --open", "serve --open"),
            ("run -p 80", "run --port 80", "serve"),
        ] {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect();
            let expected = Words { own: words(own), serve: words(serve) };
            assert_eq!(request(typed), Ok(Invocation::Run(expected)), "{typed}");
        }
        for (typed, says) in [
            ("check --lisen x", "unknown option '--lisen'; did you mean --listen?"),
            ("check --port 1 --port 2", "--port: given twice, '1' and then '2'; give it once"),
            ("run --listen x", "unknown option '--listen'"),
        ] {
            assert_eq!(request(typed), Err(says.to_owned()), "{typed}");
        }
    }

    #[test]
    fn help_and_version_are_answered_wherever_an_option_may_stand() {
        for (typed, page) in [
            ("help", Page::First),
            ("-h", Page::First),
            ("--help", Page::Whole),
            ("-p 1 -vh", Page::First),
            ("help help", Page::Command("help")),
            ("help --help", Page::Command("help")),
            ("help -h", Page::Command("help")),
            ("serve --help", Page::Whole),
            ("serve -h", Page::First),
            ("help serve", Page::Command("serve")),
            ("check -v --help", Page::Command("check")),
            ("check -h", Page::Command("check")),
            ("help check", Page::Command("check")),
            ("help access", Page::Topic("access")),
        ] {
            assert_eq!(request(typed), Ok(Invocation::Help(page)), "{typed}");
        }
        for typed in ["-V", "--version", "serve -V", "-p1 --version", "-vV", "help -V"] {
            assert_eq!(request(typed), Ok(Invocation::Version), "{typed}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_to_try() {
        for (typed, says) in [
            ("--lisen x", "unknown option '--lisen'; did you mean --listen?"),
            ("--lisen=x", "unknown option '--lisen'; did you mean --listen?"),
            ("--hlep", "unknown option '--hlep'; did you mean --help?"),
            ("--frobnicate", "unknown option '--frobnicate'"),
            ("-x", "unknown option '-x'"),
            ("-vx", "unknown option '-x' in '-vx'"),
            ("-port 80", "unknown option '-port'; write --port, with two dashes"),
            ("-listen=x", "unknown option '-listen=x'; write --listen, with two dashes"),
            ("--port", "--port: needs a value; write --port PORT"),
            ("-p", "--port: needs a value; write --port PORT"),
            ("-p --open", "--port: needs a value before '--open'; write --port PORT"),
            ("-vp -v", "--port: needs a value before '-v'; write --port PORT"),
            ("-p --", "--port: needs a value before '--'; write --port PORT"),
            ("-p 1 --port=2", "--port: given twice, '1' and then '2'; give it once"),
            ("--open=yes", "--open: takes no value; write --open alone"),
            ("--help=x", "--help: takes no value; write --help alone"),
            ("srve", "unknown command 'srve'; did you mean serve?"),
            ("frobnicate", "unknown command 'frobnicate'"),
            ("help frobnicate", "help: there is no command, topic or option 'frobnicate'"),
            (
                "help acess",
                "help: there is no command, topic or option 'acess'; did you mean access?",
            ),
            ("help --dny", "help: there is no option '--dny'; did you mean --deny?"),
            (
                "help check --deny",
                "unexpected '--deny'; help shows one page: threadgate help check",
            ),
            ("8080", "unknown command '8080'; did you mean --port 8080?"),
            (":8080", "unknown command ':8080'; did you mean --listen :8080?"),
            (
                "serve 8080",
                "unexpected '8080'; serve takes only options; did you mean --port 8080?",
            ),
            ("serve -- x", "unexpected 'x'; serve takes only options"),
            ("serve -", "unexpected '-'; serve takes only options"),
            ("-v serve", "unexpected 'serve'; a command comes first: threadgate serve"),
            ("serve help", "unexpected 'help'; a command comes first: threadgate help"),
        ] {
            assert_eq!(request(typed), Err(says.to_owned()), "{typed}");
        }
    }
}
