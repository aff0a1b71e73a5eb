//! The documents are true: their examples start, their links lead somewhere, and the table of odd
//! messages has them all.
//!
//! `clients/guide.rs` runs the scripts, commands and configurations of `docs/guide`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::programs::text;
use crate::proxies::Binary;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The examples of the help and of the man page, with paths of our own.
#[test]
fn the_examples_of_the_help_and_the_man_page_start() {
    let help = text(Command::new(env!("CARGO_BIN_EXE_threadgate")).arg("--help"));
    let man = fs::read_to_string(root().join("docs/threadgate.1")).unwrap().replace("\\-", "-");
    let of_man = man.split_once(".SH EXAMPLES\n").unwrap().1;
    let of_help = help.lines().filter_map(|line| line.strip_prefix("  "));
    let examples: Vec<&str> = of_help.chain(of_man.lines()).collect();
    let mut started = 0;
    for example in examples.iter().filter(|line| line.starts_with("threadgate")) {
        let example = example.split("  ").next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let mut words: Vec<String> = example.split(' ').skip(1).map(str::to_owned).collect();
        for word in &mut words {
            *word = match word.as_str() {
                "8080" => "0".to_owned(),
                "0.0.0.0:3128" => "0.0.0.0:0".to_owned(),
                "access.log" | "/var/log/threadgate.log" => place("log"),
                "hosts.txt" => {
                    fs::write(place("hosts.txt"), "0.0.0.0 ads.example\n").unwrap();
                    place("hosts.txt")
                }
                other => other.to_owned(),
            };
        }
        if !words.iter().any(|word| ["-p", "-l"].contains(&word.as_str())) {
            words.extend(["-p".to_owned(), "0".to_owned()]);
        }
        // The port file tells this test, too, where the proxy listens.
        if let Some(at) = words.iter().position(|word| word == "--port-file") {
            words.drain(at..at + 2);
        }
        let mut proxy = Binary::start_as(&words.iter().map(String::as_str).collect::<Vec<_>>());
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(0), "{example}: {}", proxy.stderr());
        started += 1;
    }
    assert!(started >= 12, "{started}");
}

/// The documents people read, and the README.
fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("README.md")];
    for dir in ["docs", "docs/guide"] {
        let files = fs::read_dir(root().join(dir)).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(files.filter(|file| file.extension().is_some_and(|e| e == "md")));
    }
    documents
}

/// The anchors of a text's headings, in GitHub's form.
fn anchors(text: &str) -> Vec<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let link = link.0;
            if link.starts_with("http") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).unwrap());
                assert!(there.iter().any(|a| a == anchor), "{}: {link}", document.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

/// The table of `docs/responses.md` has a row for each message of `tests/messages`, and a message for
/// each row.
#[test]
fn each_odd_message_has_its_line_in_the_index_and_its_row_in_the_table() {
    let messages = root().join("tests/messages");
    let index = fs::read_to_string(messages.join("INDEX")).unwrap();
    let table = fs::read_to_string(root().join("docs/responses.md")).unwrap();
    let mut names = Vec::new();
    for line in index.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split(" | ").collect();
        let [name, verdict, status, _, what] = fields[..] else { panic!("{line}") };
        assert!(["delivered", "refused", "any"].contains(&verdict), "{line}");
        assert!(status.parse::<u16>().is_ok(), "{line}");
        assert!(table.contains(&format!("\n| {what} | ")), "no row: {line}; run `make responses`");
        names.push(format!("{name}.resp"));
    }
    let files = fs::read_dir(&messages).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    files.retain(|name| name.ends_with(".resp"));
    names.sort();
    files.sort();
    assert_eq!(names, files);
}
