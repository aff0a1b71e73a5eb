//! The order of layers: a module imports only from the layers listed before its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::rust_source::{circles, functions, sources, types, uses};

/// The layers, in the order in which they build on each other.
pub(crate) const LAYERS: &[&str] =
    &["wire", "error", "net", "policy", "observe", "upstream", "proxy", "server", "config", "cli"];

#[test]
fn no_module_imports_from_a_layer_above_its_own() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let layer = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&layer) {
            continue;
        }
        let rank = LAYERS.iter().position(|&l| l == layer);
        let rank = rank.unwrap_or_else(|| panic!("give src/{layer} a place in LAYERS"));
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("crate::{") {
            wrong.push(format!("{}: one `use` a parent module", inside.display()));
        }
        for above in &LAYERS[rank + 1..] {
            if text.contains(&format!("crate::{above}::"))
                || text.contains(&format!("crate::{above};"))
            {
                wrong.push(format!("{} uses {above}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A test's features are on when an example is built, so an example would find the layers, too.
#[test]
fn what_users_are_shown_needs_no_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shown = rust_files(&root.join("examples"));
    shown.extend(["README.md", "src/lib.rs", "src/main.rs"].map(|name| root.join(name)));
    let mut wrong = Vec::new();
    for file in shown {
        let text = fs::read_to_string(&file).unwrap();
        for layer in LAYERS {
            if text.contains(&format!("threadgate::{layer}::")) {
                wrong.push(format!("{} uses {layer}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Users only read these numbers: the methods that write them are private to the crate.
#[test]
fn users_read_numbers_and_do_not_write_them() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe");
    let files = ["counters", "gauges", "histogram", "measure", "report", "rule_hits"];
    let (mut seen, mut wrong) = (0, Vec::new());
    for name in files {
        let text = fs::read_to_string(dir.join(name).with_extension("rs")).unwrap();
        let functions: Vec<&str> = text.split("pub fn ").skip(1).collect();
        seen += functions.len();
        wrong.extend(
            functions
                .into_iter()
                .filter(|rest| {
                    rest.split(')').next().is_some_and(|head| head.contains("&mut self"))
                })
                .map(|rest| format!("{name}: {}", rest.lines().next().unwrap_or_default())),
        );
    }
    assert!(seen > 15, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Within a layer, too, imports go one way. A module is a file, and `x/mod.rs` counts as one beside the
/// files of `x/`. A module uses another one if it imports an item defined there, or names it by a path.
/// An item that the other only passes on (`mod`, `pub use`) counts as a use of the module that defines
/// it, and passing on counts as no use. So a directory's front page may collect names, and its children
/// may share its items only if these need nothing of theirs.
#[test]
fn no_modules_of_a_layer_import_each_other_in_a_circle() {
    let graph = uses(sources());
    assert!(graph.len() > 100, "{}", graph.len());
    let mut found = Vec::new();
    for layer in LAYERS {
        let of_layer = |module: &&String| module.split("::").next() == Some(layer);
        let within: BTreeMap<_, BTreeSet<_>> = graph
            .iter()
            .filter(|(module, _)| of_layer(module))
            .map(|(module, used)| (module.clone(), used.iter().filter(of_layer).cloned().collect()))
            .collect();
        found.extend(circles(&within));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Two types that other files can name must have two names, so that a reader need not look up which one
/// was imported.
#[test]
fn no_two_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for (name, line) in types(&source.tokens) {
            places.entry(name).or_default().push(format!("{}:{line}", source.file));
        }
    }
    assert!(places.len() > 200, "{}", places.len());
    places.retain(|_, at| at.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

/// A struct that everything writes into should be split into stages: no struct in `proxy` has more than
/// 25 fields.
#[test]
fn no_struct_of_the_proxy_is_a_bag() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proxy");
    let (mut found, mut large) = (0, Vec::new());
    for file in rust_files(&dir) {
        let text = fs::read_to_string(&file).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let words: Vec<_> = line.split([' ', '<', '{']).collect();
            let Some(at) = words.iter().position(|word| *word == "struct") else { continue };
            if !line.ends_with('{') || line.trim_start().starts_with("//") {
                continue;
            }
            let body = lines.by_ref().take_while(|line| line.trim() != "}");
            let fields = body
                .map(|line| line.trim_start().trim_start_matches("pub(super) "))
                .map(|line| line.trim_start_matches("pub "))
                .filter(|line| {
                    line.split(':')
                        .next()
                        .is_some_and(|name| name.chars().all(|c| c.is_lowercase() || c == '_'))
                })
                .count();
            found += fields;
            if fields > 25 {
                large.push(format!("{}: {fields} fields", words[at + 1]));
            }
        }
    }
    assert!(found > 150, "{found}");
    assert!(large.is_empty(), "{large:#?}");
}

/// From `fn` to the closing brace, a function fits on a screen or little more.
#[test]
fn no_function_is_longer_than_two_screens() {
    let mut long = BTreeMap::new();
    let mut count = 0;
    for source in sources() {
        for (name, line, lines) in functions(&source.tokens) {
            count += 1;
            if lines > 80 {
                long.insert(name, format!("{lines} lines at {}:{line}", source.file));
            }
        }
    }
    assert!(count > 1000, "{count}");
    assert!(long.is_empty(), "{long:#?}");
}

/// `docs/architecture.md` describes each crate; `file_list` covers the files.
#[test]
fn the_architecture_names_each_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let crates = page.split_once("## Dependencies").unwrap().1;
    let mut missing = Vec::new();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let mut table = "";
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(title) = line.strip_prefix('[') {
            table = title.trim_end_matches(']');
        } else if ["dependencies", "dev-dependencies"].contains(&table) {
            names.extend(
                line.split_once(" = ")
                    .map(|(name, _)| name)
                    .filter(|n| !n.starts_with('#') && *n != "threadgate"),
            );
        }
    }
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let has = |line: &str| {
            let cell = line.split('|').nth(1).unwrap_or_default();
            cell.split(|c: char| !c.is_alphanumeric() && !"-_".contains(c)).any(|w| w == name)
        };
        if !crates.lines().any(has) {
            missing.push(format!("the crate {name}"));
        }
    }
    assert!(missing.is_empty(), "docs/architecture.md does not name {missing:?}");
}

#[test]
fn no_file_is_longer_than_a_reader_keeps_in_mind() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for dir in ["src", "tests"] {
        for file in rust_files(&root.join(dir)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > 600 {
                long.push(format!("{}: {lines} lines", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_source_file_is_asynchronous() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["async fn", "async move", ".await"] {
            assert!(!text.contains(word), "{} has {word:?}", file.display());
        }
    }
}

/// There is no async runtime, not even in a dependency that ships.
#[test]
fn no_dependency_brings_an_async_runtime() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for name in ["tokio", "async-std", "smol", "futures-core", "futures-util", "hyper", "h2", "mio"]
    {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "Cargo.lock has {name}");
    }
}

pub(crate) fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.append(&mut rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
