//! Prints help: `-h` is one screen, `--help` is everything, and `threadgate help` shows a command, a
//! topic or one option. All of it is made from the table of options and the texts of the commands.

pub(crate) mod commands;
#[cfg(test)]
mod reference;

use std::fmt::Write as _;

use argh::{FlagInfo, FlagInfoKind, SubCommandInfo};

use crate::config::options::{self, OptionKind, OptionRow, OptionScope, TOPICS, Topic, Usual};
use commands::{COMMANDS, CommandText, TEXTS};

/// The width of a page in columns.
const WIDTH: usize = 80;
/// The column where explanations of options begin.
const COLUMN: usize = 30;
/// The same on the first screen, where every option has one line.
const FIRST_COLUMN: usize = 34;

/// What `-h` and `--help` do where they differ.
const BOTH_HELPS: &str = "print help and exit; -h: the first screen";

/// What help can show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Page {
    /// The most important options, on one screen.
    First,
    /// Everything.
    Whole,
    /// A command.
    Command(&'static str),
    /// The options of a topic.
    Topic(&'static str),
    /// One option.
    Option(&'static OptionRow),
}

impl Page {
    /// The page for the word after `help`.
    pub(crate) fn find(word: &str) -> Option<Self> {
        if let Some(command) = commands::find(word) {
            return Some(Self::Command(command.name));
        }
        if let Some(name) = topic_names().find(|name| *name == word) {
            return Some(Self::Topic(name));
        }
        let letter = word.strip_prefix('-').and_then(|rest| {
            let mut letters = rest.chars();
            letters.next().filter(|_| letters.next().is_none())
        });
        let is_meant = |row: &&OptionRow| {
            word.trim_start_matches('-') == row.name
                || letter.is_some_and(|l| row.letter == Some(l))
        };
        options::all().find(is_meant).map(Self::Option)
    }

    /// The words that [`find`](Self::find) accepts.
    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        let commands = COMMANDS.iter().map(|command| command.name);
        commands.chain(topic_names()).chain(options::all().map(|row| row.name))
    }

    /// The text of the page. `described` has argh's descriptions of the commands.
    pub(crate) fn text(self, described: &[SubCommandInfo]) -> String {
        match self {
            Self::First => first(),
            Self::Whole => whole(),
            Self::Command("serve") => whole(),
            Self::Command(name) => {
                let flags = described.iter().find(|it| it.name == name);
                let flags = flags.map(|it| it.command.flags).unwrap_or_default();
                commands::find(name).map(|it| command(it, flags)).unwrap_or_default()
            }
            Self::Topic(name) => topic(name),
            Self::Option(row) => option(row),
        }
    }
}

/// The names of all topics.
pub(crate) fn topic_names() -> impl Iterator<Item = &'static str> {
    let texts = TEXTS.iter().map(|(name, ..)| *name);
    TOPICS.iter().map(|topic| topic.name).chain(texts)
}

const TITLE: &str = "threadgate: an HTTP proxy that says what it does, and why";

fn first() -> String {
    let mut page = format!("{TITLE}\n\n");
    let others: Vec<&str> = COMMANDS.iter().skip(1).map(|command| command.name).collect();
    entry(
        &mut page,
        "Usage: threadgate [OPTIONS]",
        "start the proxy on 127.0.0.1:3128",
        FIRST_COLUMN,
    );
    entry(&mut page, "       threadgate COMMAND", &format!("{}.", others.join(", ")), FIRST_COLUMN);
    page.push('\n');
    let rows: Vec<_> = options::all().filter(|row| row.first).collect();
    for row in rows {
        entry(&mut page, &head(row.letter, &row.written()), row.brief, FIRST_COLUMN);
    }
    own_options(&mut page, FIRST_COLUMN, BOTH_HELPS);
    let names: Vec<&str> = topic_names().collect();
    page.push('\n');
    entry(&mut page, "  threadgate --help", "every option", FIRST_COLUMN);
    entry(&mut page, "  threadgate help TOPIC", &format!("{}.", names.join(", ")), FIRST_COLUMN);
    page
}

fn usage(page: &mut String) {
    let mut begin = "Usage:";
    for command in &COMMANDS {
        let name = if command.name == "serve" { "[serve]" } else { command.name };
        let line = format!("{begin:6} threadgate {name} {}", command.usage);
        let _ = match line.len() <= 38 {
            true => writeln!(page, "{line:38}  {}", command.brief),
            false => writeln!(page, "{line}\n{:38}  {}", "", command.brief),
        };
        begin = "";
    }
}

/// The two options that every command has.
fn own_options(page: &mut String, column: usize, help: &str) {
    entry(page, &head(Some('h'), "--help"), help, column);
    entry(page, &head(Some('V'), "--version"), "print the version and exit", column);
}

fn whole() -> String {
    let mut page = format!("{TITLE}\n\n");
    usage(&mut page);
    page.push('\n');
    if let Some(serve) = commands::find("serve") {
        examples(&mut page, serve);
    }
    for Topic { title, name, rows, .. } in &TOPICS {
        let _ = writeln!(page, "\n{title} (threadgate help {name}):");
        for row in *rows {
            entry(&mut page, &head(row.letter, &row.written()), &in_short(row), COLUMN);
        }
    }
    page.push_str("\nHelp:\n");
    own_options(&mut page, COLUMN, BOTH_HELPS);
    for (name, title, _, text) in &TEXTS {
        let _ = writeln!(page, "\n{title} (threadgate help {name}):");
        paragraphs(&mut page, text, "  ");
    }
    if let Some(serve) = commands::find("serve") {
        page.push('\n');
        wrapped(&mut page, &format!("Exit status: {}", serve.statuses), "", "  ");
    }
    page.push_str("\nMore: man threadgate, and docs/guide in the source.\n");
    page
}

fn command(it: &CommandText, flags: &[FlagInfo<'_>]) -> String {
    let mut page = format!("threadgate {}: {}\n\n", it.name, it.brief);
    let _ = writeln!(page, "Usage: threadgate {} {}\n", it.name, it.usage);
    examples(&mut page, it);
    if !it.text.is_empty() {
        page.push('\n');
        paragraphs(&mut page, it.text, "");
    }
    page.push('\n');
    for flag in flags.iter().filter(|flag| flag.long != "--help") {
        let written = match flag.kind {
            FlagInfoKind::Switch => flag.long.to_owned(),
            FlagInfoKind::Option { arg_name } => format!("{} {arg_name}", flag.long),
        };
        entry(&mut page, &head(flag.short, &written), flag.description, COLUMN);
    }
    own_options(&mut page, COLUMN, "print this help and exit");
    if it.is_about_a_proxy {
        entry(
            &mut page,
            "  threadgate --help",
            "the options of serve, which it takes as well",
            COLUMN,
        );
    }
    if it.name == "help" {
        page.push('\n');
        for Topic { name, about, .. } in &TOPICS {
            entry(&mut page, &format!("  {name}"), about, COLUMN);
        }
        for (name, _, about, _) in &TEXTS {
            entry(&mut page, &format!("  {name}"), about, COLUMN);
        }
    }
    page.push('\n');
    wrapped(&mut page, &format!("Exit status: {}", it.statuses), "", "  ");
    page
}

fn examples(page: &mut String, command: &CommandText) {
    for (line, does) in command.examples {
        let _ = match line.len() < 30 {
            true => writeln!(page, "  {line:30}  {does}"),
            false => writeln!(page, "  {line}\n{:34}{does}", ""),
        };
    }
}

fn topic(name: &str) -> String {
    let mut page = String::new();
    for Topic { title, about, rows, .. } in TOPICS.iter().filter(|topic| topic.name == name) {
        let _ = writeln!(page, "{title}: {about}");
        for row in *rows {
            let _ = writeln!(page, "\n{}", head(row.letter, &row.written()).trim_start());
            paragraphs(&mut page, &at_length(row), "    ");
        }
    }
    for (_, title, _, text) in TEXTS.iter().filter(|(it, ..)| *it == name) {
        let _ = writeln!(page, "{title}\n");
        paragraphs(&mut page, text, "");
    }
    page
}

fn option(row: &OptionRow) -> String {
    let mut page = format!("{}\n", head(row.letter, &row.written()).trim_start());
    paragraphs(&mut page, &at_length(row), "    ");
    page.push('\n');
    let file = row.file == options::FileUse::Configuration;
    let key = if file { "none".to_owned() } else { key(row) };
    for (what, value) in [
        ("in a file", key),
        ("variable", row.variable()),
        ("another value", changes(row).to_owned()),
    ] {
        entry(&mut page, &format!("    {what}"), &value, 20);
    }
    page
}

/// How an option is written in a configuration file.
fn key(row: &OptionRow) -> String {
    format!("{} = {}", row.name, row.example_value())
}

fn changes(row: &OptionRow) -> &'static str {
    match row.scope {
        OptionScope::Process => "needs a restart",
        OptionScope::Reload => "is taken by a reload",
        OptionScope::Listener => "is taken by a reload; [[listeners]] can have their own",
    }
}

/// What an option does, whether it may be repeated, and its default.
pub(crate) fn in_short(row: &OptionRow) -> String {
    with_default(row, row.help.to_owned())
}

/// Everything about one option.
pub(crate) fn at_length(row: &OptionRow) -> String {
    match row.more {
        "" => in_short(row),
        more => with_default(row, format!("{} {more}", row.help)),
    }
}

fn with_default(row: &OptionRow, mut text: String) -> String {
    if row.kind == OptionKind::Repeated {
        text.push_str(" May be repeated.");
    }
    match row.default {
        Usual::Unset => {}
        Usual::Value(value) => text.push_str(&format!(" (default {value})")),
        Usual::Words(words) => text.push_str(&format!(" (default: {words})")),
    }
    text
}

/// The beginning of an option's line: its letter, or spaces in its place, and its name.
fn head(letter: Option<char>, written: &str) -> String {
    match letter {
        Some(letter) => format!("  -{letter}, {written}"),
        None => format!("      {written}"),
    }
}

/// A line that begins with `head`, and a text from `column` on.
fn entry(page: &mut String, head: &str, text: &str, column: usize) {
    let indent = " ".repeat(column);
    let begin = match head.chars().count() + 2 <= column {
        true => format!("{head:column$}"),
        false => {
            let _ = writeln!(page, "{head}");
            indent.clone()
        }
    };
    wrapped(page, text, &begin, &indent);
}

/// Paragraphs, with an empty line between them.
fn paragraphs(page: &mut String, text: &str, indent: &str) {
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            page.push('\n');
        }
        wrapped(page, paragraph, indent, indent);
    }
}

/// A text in lines of at most [`WIDTH`] columns; the first begins with `begin`, the others with `indent`.
fn wrapped(page: &mut String, text: &str, begin: &str, indent: &str) {
    let mut line = begin.to_owned();
    let mut is_begun = false;
    for word in text.split_whitespace() {
        if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            page.push_str(line.trim_end());
            page.push('\n');
            line = indent.to_owned();
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    page.push_str(line.trim_end());
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo;

    use super::*;
    use crate::cli::Threadgate;

    fn text(page: Page) -> String {
        page.text(&Threadgate::get_args_info().commands)
    }

    #[test]
    fn every_page_fits_a_terminal_and_the_first_one_a_screen() {
        let all = Page::words().filter_map(Page::find).chain([Page::First, Page::Whole]);
        for page in all {
            for line in text(page).lines() {
                // Command lines are not wrapped.
                let fits = line.chars().count() <= WIDTH || line.starts_with("  threadgate");
                assert!(fits, "{page:?}: {line}");
            }
        }
        assert!(text(Page::First).lines().count() <= 24, "{}", text(Page::First));
    }

    #[test]
    fn every_option_is_shown_where_it_belongs() {
        for row in options::all() {
            let written = row.written();
            for page in [Page::Whole, Page::Option(row)] {
                assert!(text(page).contains(&written), "{page:?}: {written}");
            }
            let topic = TOPICS.iter().find(|topic| topic.rows.contains(row)).unwrap();
            assert!(text(Page::Topic(topic.name)).contains(&written), "{written}");
            assert_eq!(text(Page::First).contains(&written), row.first, "{written}");
        }
    }

    #[test]
    fn a_word_finds_its_page() {
        let row = |name| Page::Option(options::find(name).unwrap());
        for (word, page) in [
            ("explain", Some(Page::Command("explain"))),
            ("access", Some(Page::Topic("access"))),
            ("units", Some(Page::Topic("units"))),
            ("--deny", Some(row("deny"))),
            ("max-pipes", Some(row("max-pipes"))),
            ("-l", Some(row("listen"))),
            ("-z", None),
            ("l", None),
            ("", None),
            ("nothing", None),
        ] {
            assert_eq!(Page::find(word), page, "{word}");
        }
    }

    #[test]
    fn commands_are_those_that_argh_knows() {
        let described = Threadgate::get_args_info().commands;
        let described: Vec<&str> = described.iter().map(|command| command.name).collect();
        let texts: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
        assert_eq!([described, vec!["help"]].concat(), texts);
    }

    #[test]
    fn the_page_of_an_option_names_its_key_and_its_variable() {
        let page = text(Page::find("--timeout-head").unwrap());
        for says in [
            "--timeout-head DURATION\n    How long",
            "accepted. (default 10s)",
            "timeout-head = \"10s\"",
            "THREADGATE_TIMEOUT_HEAD",
            "needs a restart",
        ] {
            assert!(page.contains(says), "{says}:\n{page}");
        }
    }
}
