//! `docs/files.md`: the list of source files, made of the first sentence of each file.
//!
//! `make docs` runs the test with `THREADGATE_WRITE_DOCS` set, and it then writes the page. Otherwise
//! the test checks that the page is up to date.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::layers::{LAYERS, rust_files};
use crate::rust_source::is_tests;

const HEAD: &str = "\
# Source files

`make docs` writes this page from the first sentence of each file. To change a row, change that sentence.
The layers stand in the order in which they build on each other; [architecture](architecture.md) explains
how they work together. Within a layer the files stand in the order in which its `mod.rs` names them, which is
for reading; those it does not name come last. Unit tests stand in the file they test, or beside it in
`*_tests.rs` or `tests.rs`.
";

#[test]
fn the_list_of_files_is_what_make_docs_writes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/files.md");
    let page = page();
    if std::env::var_os("THREADGATE_WRITE_DOCS").is_some() {
        fs::write(path, page).unwrap();
        return;
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        page == written,
        "docs/files.md is old; run `make docs`. First difference: {differs:#?}"
    );
}

#[test]
fn a_first_sentence_ends_where_it_ends() {
    let of = |text: &str| first_sentence(text);
    assert_eq!(of("//! One thing.\n//!\n//! More.\nuse a;"), Some("One thing.".to_owned()));
    assert_eq!(of("//! Two\n//! lines. And more.\n"), Some("Two lines.".to_owned()));
    assert_eq!(of("//! Where is it? There.\n"), Some("Where is it?".to_owned()));
    assert_eq!(
        of("//! In RFC 9112 §7.1, by `a.rs`: [`B`](super::B) [`C`]"),
        Some("In RFC 9112 §7.1, by `a.rs`: `B` `C`".to_owned())
    );
    assert_eq!(of("use a;\n//! late"), None);
}

fn page() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut layers: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
    for path in rust_files(&root.join("src")) {
        let file = path.strip_prefix(root).unwrap().display().to_string();
        if is_tests(&file) {
            continue;
        }
        let sentence = first_sentence(&fs::read_to_string(&path).unwrap());
        let sentence = sentence.unwrap_or_else(|| panic!("{file} does not begin with `//!`"));
        assert!(!sentence.contains('|'), "{file}: a table has no room for {sentence:?}");
        let layer = file["src/".len()..].split(['/', '.']).next().unwrap();
        let rank = LAYERS.iter().position(|l| *l == layer).map_or(0, |rank| rank + 1);
        layers.entry(rank).or_default().push((file, sentence));
    }
    let mut page = HEAD.to_owned();
    for (rank, mut files) in layers {
        files.sort_by_cached_key(|(file, _)| reading_order(root, file));
        let title = rank.checked_sub(1).map_or("the crate", |layer| LAYERS[layer]);
        writeln!(page, "\n## {title}\n").unwrap();
        if let [(first, about), ..] = &files[..]
            && first.ends_with("/mod.rs")
        {
            writeln!(page, "{about}\n").unwrap();
        }
        page += "| file | what it answers |\n|---|---|\n";
        for (file, about) in files
            .iter()
            .filter(|(file, _)| file.matches('/').count() != 2 || !file.ends_with("/mod.rs"))
        {
            writeln!(page, "| `{file}` | {about} |").unwrap();
        }
    }
    page
}

/// For each part of a file's path, its place in the front page of its directory. Files that are not
/// named there come last, in alphabetical order; a directory's own file comes before those in it.
fn reading_order(root: &Path, file: &str) -> Vec<(usize, String)> {
    let path = file.strip_suffix("/mod.rs").or(file.strip_suffix(".rs")).unwrap();
    let mut order = Vec::new();
    let mut dir = String::new();
    for part in path.split('/') {
        let front = ["/mod.rs", ".rs"].map(|end| fs::read_to_string(root.join(dir.clone() + end)));
        let front = front.into_iter().find_map(Result::ok).unwrap_or_default();
        let docs = front.lines().filter(|line| line.starts_with("//!"));
        let named = docs.collect::<Vec<_>>().join("\n").find(&format!("`{part}`"));
        order.push((named.unwrap_or(usize::MAX), part.to_owned()));
        dir = if dir.is_empty() { part.to_owned() } else { format!("{dir}/{part}") };
    }
    order
}

/// The first sentence of a file's documentation, without links.
fn first_sentence(text: &str) -> Option<String> {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let ends = paragraph.match_indices(['.', '?']).map(|(at, end)| at + end.len());
    let end = ends.filter(|end| paragraph[*end..].starts_with(' ')).min();
    let sentence = &paragraph[..end.unwrap_or(paragraph.len())];
    (!sentence.is_empty()).then(|| without_links(sentence))
}

/// `[text](target)` and `[text]` become the text.
fn without_links(sentence: &str) -> String {
    let mut plain = String::new();
    let mut rest = sentence;
    while let Some((before, after)) = rest.split_once("[`") {
        let (name, after) = after.split_once("`]").unwrap();
        let target = after.starts_with('(').then(|| after.split_once(')').unwrap().1);
        write!(plain, "{before}`{name}`").unwrap();
        rest = target.unwrap_or(after);
    }
    plain + rest
}
