//! The messages for failures: `docs/guide/errors.md` has all of them, and no others. The tests read the
//! sources, so a new sentence without a row there fails here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use threadgate::error::{Error, Kind, Phase, Side};

use crate::layers::rust_files;
use crate::rust_source::is_tests;

/// Files without messages about a failure at run time: help and usage errors, which say what to write;
/// counters; what `explain` says of limits; the advice in replies, which the page replaces.
const OTHERS: &[&str] = &[
    "cli/argv.rs",
    "cli/completions.rs",
    "cli/explain.rs",
    "cli/help/",
    "cli/passwd.rs",
    "config",
    "observe/access_log/format.rs",
    "observe/counters.rs",
    "observe/measure.rs",
    "observe/rule_hits.rs",
    "observe/summary.rs",
    "policy/auth/user_file.rs",
    "policy/auth/password_hash.rs",
    "policy/destination.rs",
    "policy/limits.rs",
    "policy/learn.rs",
    "policy/network.rs",
    "policy/trace.rs",
    "policy/url_rules.rs",
    "proxy/explain.rs",
    "proxy/reply.rs",
];

/// Sentences that nobody reads on a failure, and those of `threadgate::server::StartError`, for which
/// the command line has its own words.
const NOT_SAID: &[&str] = &[
    "\ntry 'threadgate --help'",
    "{word:?} is not UTF-8",
    // A usage error, and a bar.
    "'' is not a file; give a file name",
    // What an access log goes into, in another sentence.
    "this FIFO has no reader",
    "it takes no lines",
    "reading lists [",
    "cannot connect from {ip}: {e}",
    "cannot open the access log: {e}",
    "This is threadgate, an HTTP proxy.",
    "cannot listen on {place} (admin): {e}",
    "a file that is not a socket",
    "'{one}'{which} is not a media type",
    // From the output of `check`.
    "not used: addresses are given",
    "not used: given on the",
    // From the output of `explain`.
    "CONNECT to port {}",
    "no bound applies",
    // From the admin listener's page.
    ":root{",
    "200 for as long as the process serves",
    "200 while new work is taken",
    "all numbers, for Prometheus",
    "the same as JSON",
    "{} connects, {} reuses",
    "{} from clients, {} to clients",
    "{} looked up, {} from the cache",
    "{} open of {}",
    "{} under way, {} finished",
    "these are not the options of a proxy",
    "would be denied by ",
    // From assertions of fuzz targets.
    "Upgrade, and Connection that names it",
    "fields were lost, added or changed",
    "two lines of one name",
    "written in another way than ours",
];

/// A text in the sources.
#[derive(Debug)]
struct Text {
    file: String,
    /// The code before it: the macro or function it is given to.
    given_to: String,
    text: String,
}

impl Text {
    /// Whether it is a sentence for people.
    fn is_sentence(&self) -> bool {
        let words = self.text.split([' ', '\n']).filter(|word| {
            word.len() > 1
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-',;:.".contains(c))
        });
        let for_developers = ["assert", "debug!(", "expect(", "panic!(", "trace!("];
        words.count() >= 3
            && !self.text.starts_with('<')
            && !self.text.contains('\r')
            && !for_developers.iter().any(|f| self.given_to.contains(f))
            && !NOT_SAID.iter().any(|not| self.text.starts_with(not))
    }

    /// The parts between its placeholders.
    fn parts(&self) -> Vec<&str> {
        let mut parts = Vec::new();
        let mut rest = self.text.as_str();
        while let Some((part, after)) = rest.split_once('{') {
            parts.push(part);
            rest = after.split_once('}').map_or("", |(_, after)| after);
        }
        parts.push(rest);
        parts.into_iter().map(str::trim).filter(|part| part.len() > 2).collect()
    }
}

/// All texts of the program, except those for tests.
fn texts() -> Vec<Text> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = Vec::new();
    for path in rust_files(&src) {
        let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        // A mistake in a list is found when the list is read, so it is no usage error.
        let is_looked_at = ["config/lists", "config/together", "config/no_effect"]
            .iter()
            .any(|it| file.starts_with(it));
        let is_other = |other: &&str| file.starts_with(*other) && !is_looked_at;
        if file.ends_with("tests.rs") || OTHERS.iter().any(is_other) {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        // Texts of fuzz targets and tests stand last.
        let ends = ["\npub fn fuzz", "\nmod tests"].map(|end| source.find(end));
        let source = &source[..ends.into_iter().flatten().min().unwrap_or(source.len())];
        for (given_to, text) in literals(source) {
            texts.push(Text { file: file.clone(), given_to, text });
        }
    }
    texts
}

/// The string literals of a source, each with some of the code before it. Knows comments, attributes and
/// characters; shipped code has no raw strings.
fn literals(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut code = String::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("#[") || rest.starts_with("#![") {
            rest = after_attribute(rest);
        } else if let Some(after) = after_character(rest) {
            rest = after;
        } else if c == '"' {
            let (text, after) = string(after);
            let start = code.trim_end().char_indices().rev().nth(24).map_or(0, |(at, _)| at);
            found.push((code[start..].trim_end().to_owned(), text));
            code.clear();
            rest = after;
        } else {
            code.push(c);
            rest = after;
        }
    }
    found
}

/// The source behind an attribute, which may contain strings and brackets.
fn after_attribute(source: &str) -> &str {
    let mut depth = 0;
    let mut rest = source;
    loop {
        let at = rest.find(['[', ']', '"']).expect("an attribute ends");
        let (found, after) = (&rest[at..=at], &rest[at + 1..]);
        rest = after;
        match found {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => rest = string(after).1,
        }
        if depth == 0 {
            return rest;
        }
    }
}

/// The source behind a character; `None` if it is a lifetime, or something else altogether.
fn after_character(source: &str) -> Option<&str> {
    let inside = source.strip_prefix('\'')?;
    if let Some(escaped) = inside.strip_prefix('\\') {
        return escaped[1..].split_once('\'').map(|(_, after)| after);
    }
    let c = inside.chars().next()?;
    inside[c.len_utf8()..].strip_prefix('\'')
}

/// A string, from behind its opening quote: its text, and the source behind it.
fn string(source: &str) -> (String, &str) {
    let mut text = String::new();
    let mut rest = source;
    loop {
        let end = rest.find(['"', '\\']).expect("a string ends");
        text.push_str(&rest[..end]);
        let escaped = rest[end..].strip_prefix('\\');
        rest = &rest[end + 1..];
        let Some(escaped) = escaped else { return (text, rest) };
        let c = escaped.chars().next().expect("something is escaped");
        rest = &escaped[1..];
        match c {
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            '\n' => rest = rest.trim_start(),
            c => text.push(c),
        }
    }
}

/// A row of a table of the page.
#[derive(Debug)]
struct Row {
    status: Option<String>,
    error: Option<String>,
    level: Option<String>,
    said: String,
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/errors.md");
    fs::read_to_string(page).unwrap()
}

/// The rows with a sentence or a message.
fn rows(page: &str) -> Vec<Row> {
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        let Some(line) = line.strip_prefix("| ") else {
            if !line.starts_with("|-") {
                columns.clear();
            }
            continue;
        };
        let cells: Vec<String> =
            line.split(" | ").map(|c| c.trim_end_matches(" |").into()).collect();
        if columns.is_empty() {
            columns = cells;
            continue;
        }
        let cell = |name: &str| {
            columns.iter().position(|c| c == name).map(|at| cells[at].replace('`', ""))
        };
        let Some(said) = cell("sentence").or_else(|| cell("message")) else { continue };
        rows.push(Row { status: cell("status"), error: cell("error"), level: cell("level"), said });
    }
    rows
}

/// Whether `line` has the parts, in this order.
fn has_in_order(line: &str, parts: &[&str]) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn the_guide_has_every_sentence_the_program_can_say() {
    let page = page();
    // In a table or in the text, but on a line of its own.
    let lines: Vec<String> = page.lines().map(|line| line.replace('`', "")).collect();
    let texts = texts();
    let sentences: Vec<&Text> = texts.iter().filter(|text| text.is_sentence()).collect();
    assert!(sentences.len() > 120, "{}", sentences.len());
    let missing: Vec<_> = sentences
        .iter()
        .filter(|text| !lines.iter().any(|line| has_in_order(line, &text.parts())))
        .map(|text| format!("src/{}: {:?}", text.file, text.text))
        .collect();
    assert!(missing.is_empty(), "docs/guide/errors.md does not explain {missing:#?}");
}

#[test]
fn the_guide_has_no_sentence_that_nothing_says() {
    let texts = texts();
    let page = page();
    let rows = rows(&page);
    assert!(rows.len() > 120, "{}", rows.len());
    for row in &rows {
        // Words in capitals are placeholders, and options are put before what is wrong with them.
        let is_filled_in = |word: &&str| {
            if word.starts_with("--") {
                return true;
            }
            let word = word.trim_start_matches("http://").trim_start_matches("unix:");
            let word = word.trim_matches(|c: char| !c.is_ascii_alphabetic());
            let own =
                ["CR", "LF", "CONNECT", "GET", "HEAD", "HTTP", "NUL", "OPTIONS", "SOCKS", "TLS"];
            word.is_empty()
                || (word.chars().all(|c| c.is_ascii_uppercase() || ":/>".contains(c))
                    && !own.contains(&word))
        };
        let words: Vec<&str> = row.said.split_whitespace().collect();
        for part in words.split(is_filled_in).filter(|part| part.len() > 2) {
            let known = |part: &[&str]| texts.iter().any(|t| t.text.contains(&part.join(" ")));
            // Two texts, one after the other, may make a sentence.
            let in_two = (1..part.len()).any(|at| known(&part[..at]) && known(&part[at..]));
            assert!(
                known(part) || in_two || row.said.starts_with("a sentence about"),
                "{row:?}: {part:?}"
            );
        }
    }
}

#[test]
fn the_guide_has_the_errors_there_are_with_their_status() {
    let page = page();
    let rows = rows(&page);
    let mut words: BTreeSet<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
    let mut tokens: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.token()).collect();
    // Named once for a whole table.
    assert!(page.contains("The error is `http_request_error`"));
    assert!(tokens.remove("http_request_error"));
    // Named also for tunnels, where it has no status.
    assert!(words.remove("http_request_error"));
    assert_eq!(words, tokens);
    for row in rows.iter().filter(|row| row.status.is_some()) {
        let Some(error) = &row.error else { continue };
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.token() == error);
        let mut statuses = kinds
            .map(|kind| Error::new(Side::Proxy, Phase::Request, kind, "").status().to_string());
        assert!(statuses.any(|status| row.status.as_deref() == Some(&status)), "{row:?}");
    }
}

#[test]
fn the_guide_has_the_level_of_each_message() {
    let page = page();
    let rows: Vec<Row> = rows(&page).into_iter().filter(|row| row.level.is_some()).collect();
    let mut seen = 0;
    for text in texts() {
        let levels = [("info!(", "INFO"), ("warn!(", "WARN"), ("error!(", "ERROR")];
        let Some((_, level)) = levels.iter().find(|(m, _)| text.given_to.ends_with(m)) else {
            continue;
        };
        let parts = text.parts();
        if parts.is_empty() {
            continue;
        }
        let row = rows.iter().find(|row| has_in_order(&row.said, &parts));
        let row = row.unwrap_or_else(|| panic!("no row for {text:?}"));
        assert_eq!(row.level.as_deref(), Some(*level), "{text:?}");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn messages_say_a_bug_and_is_not_a() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in rust_files(&src).into_iter().filter(|path| !is_tests(&path.display().to_string())) {
        let source = fs::read_to_string(&path).unwrap();
        let shipped = source.split("mod tests {").next().unwrap_or_default();
        for (_, text) in literals(shipped) {
            let text = text.to_lowercase();
            assert!(!text.contains("defect"), "{}: {text:?}: say a bug", path.display());
            let is_no = text.replace("there is no ", "").contains(" is no ");
            assert!(!is_no, "{}: {text:?}: say is not a", path.display());
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen}");
}
