//! Makes the parts of the documents that come from the table of options: the options in the man page, and
//! the example configuration file. `make docs` writes them.

use std::fmt::Write as _;
use std::path::Path;

use super::{at_length, head};
use crate::config::options::{self, FileUse, OptionRow, OptionScope, TOPICS, Topic};

/// The options in the format of the man page.
fn man() -> String {
    let mut page = String::new();
    for Topic { title, rows, .. } in &TOPICS {
        let _ = writeln!(page, ".SS {title}");
        for row in *rows {
            let letter =
                row.letter.map(|letter| format!("\\fB\\-{letter}\\fR, ")).unwrap_or_default();
            let hint = if row.has_value() {
                format!(" \\fI{}\\fR", roff(row.hint))
            } else {
                String::new()
            };
            let _ = writeln!(page, ".TP\n{letter}\\fB\\-\\-{}\\fR{hint}", roff(row.name));
            for sentence in sentences(&at_length(row)) {
                let _ = writeln!(page, "{}", marked(&sentence, row));
            }
        }
    }
    page
}

/// One sentence a line, as roff expects.
fn sentences(text: &str) -> Vec<String> {
    let text = text.replace("\n\n", " ");
    text.split_inclusive(". ").map(|sentence| sentence.trim().to_owned()).collect()
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// Options in bold, and the value of this one in italics.
fn marked(sentence: &str, row: &OptionRow) -> String {
    let mut line = String::new();
    for (number, word) in sentence.split(' ').enumerate() {
        if number > 0 {
            line.push(' ');
        }
        let bare = word.trim_end_matches(['.', ',', ';', ':', ')', '\'']);
        let rest = word.get(bare.len()..).unwrap_or_default();
        let is_option = bare.strip_prefix("--").is_some_and(|name| options::find(name).is_some());
        let is_value = !bare.is_empty() && row.hint.split(['|', ':']).any(|hint| hint == bare);
        match (is_option, is_value && bare.chars().all(|c| c.is_ascii_uppercase())) {
            (true, _) => line.push_str(&format!("\\fB{}\\fR{rest}", roff(bare))),
            (_, true) => line.push_str(&format!("\\fI{bare}\\fR{rest}")),
            _ => line.push_str(&roff(word)),
        }
    }
    // roff reads a line that begins with a dot or a quote as a request.
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

/// Every option as a line of a configuration file.
fn example() -> String {
    let mut text = String::new();
    for Topic { title, about, rows, .. } in &TOPICS {
        let keys = rows.iter().filter(|row| row.file != FileUse::Configuration);
        let _ = writeln!(text, "# {title}: {about}.");
        for row in keys {
            let value = row.example_value();
            let apart = if row.is_apart { "# " } else { "#" };
            let line = format!("{apart}{} = {value}", row.name);
            let restart = if row.scope == OptionScope::Process { " (restart)" } else { "" };
            let _ = writeln!(text, "{line:42} # {}{restart}", row.brief);
        }
        text.push('\n');
    }
    text
}

/// A document with `text` between its two marks.
fn with(document: &str, [begin, end]: [&str; 2], text: &str) -> String {
    let (before, rest) = document.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{begin}\n{text}{end}{after}")
}

/// Each document, its marks, and what belongs between them.
fn documents() -> [(&'static str, [&'static str; 2], String); 2] {
    [
        ("docs/threadgate.1", [".\\\" options: made by make docs", ".\\\" end of options"], man()),
        (
            "docs/threadgate.toml",
            ["# Options, made by make docs.\n", "# Rules, in order:"],
            example(),
        ),
    ]
}

#[test]
fn the_man_page_and_the_example_have_what_the_table_says() {
    for (name, marks, text) in documents() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let document = std::fs::read_to_string(&path).unwrap();
        let new = with(&document, marks, &text);
        if std::env::var_os("THREADGATE_WRITE_DOCS").is_some() {
            std::fs::write(&path, new).unwrap();
            continue;
        }
        assert!(document == new, "{name} differs from the table of options: run make docs");
    }
}

#[test]
fn an_option_looks_the_same_in_the_man_page_as_in_help() {
    let page = man().replace("\\-", "-");
    let page = ["\\fB", "\\fI", "\\fR"].iter().fold(page, |text, mark| text.replace(mark, ""));
    for row in options::all() {
        let head = head(row.letter, &row.written());
        assert!(page.contains(&format!(".TP\n{}\n", head.trim_start())), "{head}");
    }
}
