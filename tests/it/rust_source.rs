//! Rust sources as the tests of the layout read them: words and marks, without comments and tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::layers::rust_files;

/// A word, a number or a mark (`::` is one), with its line. A string is `""`.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// One file of `src`, reduced to what the tests of the layout need.
pub(crate) struct Source {
    /// Such as `src/net/dial.rs`.
    pub(crate) file: String,
    /// Such as `["net", "dial"]`: `mod.rs` stands for its directory.
    pub(crate) module: Vec<String>,
    /// Without comments and code that is compiled for tests only.
    pub(crate) tokens: Vec<Token>,
}

/// All files of `src` except `lib.rs`, `main.rs` and those that contain only tests; read once.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(read_sources);
    &SOURCES
}

fn read_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for path in rust_files(&root.join("src")) {
        let file = path.strip_prefix(root).unwrap().display().to_string();
        let inside = file.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
        if ["lib", "main"].contains(&inside) || is_tests(&file) {
            continue;
        }
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        module.pop_if(|last| last == "mod");
        let tokens = without_tests(&tokens(&fs::read_to_string(&path).unwrap()));
        sources.push(Source { file, module, tokens });
    }
    sources
}

/// Whether a file contains only tests.
pub(crate) fn is_tests(file: &str) -> bool {
    file.ends_with("_tests.rs") || file.ends_with("/tests.rs")
}

/// For each module, the modules it uses: it imports something from them, or names something by a path
/// through them. A name that a module only passes on (`pub use`) is a use of the module that defines it.
pub(crate) fn uses(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|s| &s.module[..]).collect();
    let read: BTreeMap<&[String], Paths> =
        sources.iter().map(|s| (&s.module[..], Paths::read(s, &modules))).collect();
    let mut graph = BTreeMap::new();
    for (module, paths) in &read {
        let used = paths.used.iter().filter_map(|path| {
            let to = home(path, &modules, &read, 0)?;
            (to != *module).then(|| to.join("::"))
        });
        graph.insert(module.join("::"), used.collect());
    }
    graph
}

/// The module that defines the item named by `path`.
fn home<'a>(
    path: &[String],
    modules: &BTreeSet<&'a [String]>,
    read: &BTreeMap<&'a [String], Paths>,
    hops: usize,
) -> Option<&'a [String]> {
    let (length, module) =
        (1..=path.len()).rev().find_map(|n| modules.get(&path[..n]).map(|module| (n, *module)))?;
    let passed_on = path.get(length).and_then(|name| read.get(module)?.names.get(name));
    match passed_on {
        Some(from) if hops < 8 => home(from, modules, read, hops + 1),
        _ => Some(module),
    }
}

/// The crate's items that a module names, as paths from the root.
struct Paths {
    used: BTreeSet<Vec<String>>,
    /// Names brought in by `use`, and the paths they stand for.
    names: BTreeMap<String, Vec<String>>,
}

impl Paths {
    fn read(source: &Source, modules: &BTreeSet<&[String]>) -> Self {
        let tokens = &source.tokens;
        let mut paths = Self { used: BTreeSet::new(), names: BTreeMap::new() };
        let mut passed_on = Vec::new();
        let mut words = BTreeSet::new();
        // Modules written in the file: the depth of braces at which each begins.
        let (mut depth, mut inner) = (0, Vec::new());
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1).map_or("", |t| &t.text);
            let before = at.checked_sub(1).map_or("", |n| &tokens[n].text);
            match &token.text[..] {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inner.pop_if(|d| *d == depth);
                }
                "mod" if tokens.get(at + 2).is_some_and(|t| t.text == "{") => inner.push(depth),
                "use" if next != "<" => {
                    let end = at + tokens[at..].iter().position(|t| t.text == ";").unwrap();
                    let mut tree = Tree { tokens: &tokens[at + 1..end], at: 0, found: Vec::new() };
                    tree.read(&[]);
                    for (path, name) in tree.found {
                        let Some(path) = absolute(&path, &source.module, inner.len(), modules)
                        else {
                            continue;
                        };
                        if before == "pub" || before == ")" {
                            passed_on.push((name.clone(), path.clone()));
                        } else {
                            paths.used.insert(path.clone());
                        }
                        paths.names.insert(name, path);
                    }
                    at = end;
                }
                word if next == "::" && !["::", ".", "in"].contains(&before) => {
                    words.insert(word);
                    let mut path = vec![word.to_owned()];
                    while tokens.get(at + 1).is_some_and(|t| t.text == "::") {
                        match tokens.get(at + 2) {
                            Some(part) if is_word(&part.text) => path.push(part.text.clone()),
                            _ => break,
                        }
                        at += 2;
                    }
                    paths.used.extend(absolute(&path, &source.module, inner.len(), modules));
                }
                word => {
                    words.insert(word);
                }
            }
            at += 1;
        }
        for (name, path) in passed_on {
            if words.contains(&name[..]) {
                paths.used.insert(path);
            }
        }
        paths
    }
}

/// `path` from the root of the crate, if it leads into the crate by itself. A path through a name
/// brought in by `use` does not, and the `use` counts.
fn absolute(
    path: &[String],
    module: &[String],
    inner: usize,
    modules: &BTreeSet<&[String]>,
) -> Option<Vec<String>> {
    let first = &path[0][..];
    if first == "crate" {
        return Some(path[1..].to_vec());
    }
    let supers = path.iter().take_while(|part| *part == "super").count();
    if supers > 0 || first == "self" {
        let skipped = supers.max(1);
        let up = supers.saturating_sub(inner).min(module.len());
        return Some([&module[..module.len() - up], &path[skipped..]].concat());
    }
    let child = [module, &path[..1]].concat();
    modules.contains(&child[..]).then(|| [module, path].concat())
}

/// A `use` with its groups.
struct Tree<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<(Vec<String>, String)>,
}

impl Tree<'_> {
    fn read(&mut self, before: &[String]) {
        let mut path = before.to_vec();
        let mut name = None;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match &token.text[..] {
                "{" => {
                    while self.tokens.get(self.at).is_some_and(|t| t.text != "}") {
                        self.read(&path);
                    }
                    self.at += 1;
                    self.skip_comma();
                    return;
                }
                "}" => {
                    self.at -= 1;
                    break;
                }
                "," => break,
                "::" => {}
                "as" => {
                    name = self.tokens.get(self.at).map(|t| t.text.clone());
                    self.at += 1;
                }
                "self" if !path.is_empty() => {}
                part => path.push(part.to_owned()),
            }
        }
        path.pop_if(|last| last == "*");
        if path.len() > 1 {
            let name = name.unwrap_or_else(|| path.last().unwrap().clone());
            self.found.push((path, name));
        }
    }

    fn skip_comma(&mut self) {
        if self.tokens.get(self.at).is_some_and(|t| t.text == ",") {
            self.at += 1;
        }
    }
}

/// Cycles of a graph as `a -> b -> a`: for each edge in a cycle, the shortest.
pub(crate) fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut circles = BTreeSet::new();
    for (from, all) in graph {
        for to in all {
            let Some(mut back) = way(graph, to, from) else { continue };
            back.pop();
            let least = (0..back.len()).min_by_key(|n| back[*n]).unwrap();
            back.rotate_left(least);
            circles.insert(format!("{} -> {}", back.join(" -> "), back[0]));
        }
    }
    circles
}

/// The shortest way from one module to another, ending with `from` once more: the way back is an edge.
fn way<'a>(
    graph: &'a BTreeMap<String, BTreeSet<String>>,
    from: &'a str,
    to: &'a str,
) -> Option<Vec<&'a str>> {
    let mut came = BTreeMap::from([(from, "")]);
    let mut line = std::collections::VecDeque::from([from]);
    while let Some(here) = line.pop_front() {
        if here == to {
            let mut way = vec![from];
            let mut at = to;
            while !at.is_empty() {
                way.push(at);
                at = came[at];
            }
            way.reverse();
            return Some(way);
        }
        for next in graph.get(here).into_iter().flatten() {
            if !came.contains_key(&next[..]) {
                came.insert(next, here);
                line.push_back(next);
            }
        }
    }
    None
}

/// Types that other files can name: name and line.
pub(crate) fn types(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut types = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if token.text != "pub" {
            continue;
        }
        let mut rest = &tokens[at + 1..];
        if rest.first().is_some_and(|t| t.text == "(") {
            let end = rest.iter().position(|t| t.text == ")").unwrap();
            rest = &rest[end + 1..];
        }
        if let [kind, name, ..] = rest
            && ["struct", "enum", "trait", "type", "union"].contains(&&kind.text[..])
            && is_word(&name.text)
        {
            types.push((name.text.clone(), name.line));
        }
    }
    types
}

/// Functions with a body: name, first line, number of lines.
pub(crate) fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Some(name) = tokens.get(at + 1).filter(|t| token.text == "fn" && is_word(&t.text))
        else {
            continue;
        };
        let end = item_end(tokens, at);
        if tokens[end].text == "}" {
            functions.push((name.text.clone(), token.line, tokens[end].line - token.line + 1));
        }
    }
    functions
}

/// The last token of the item that begins at `at`: its closing brace, or its semicolon.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let (mut depth, mut groups) = (0, 0);
    let braces = tokens.iter().skip(at).find(|t| t.text != "pub").is_none_or(|t| t.text != "use");
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match &token.text[..] {
            "(" | "[" => groups += 1,
            ")" | "]" => groups -= 1,
            "{" if braces => depth += 1,
            "}" if braces => {
                depth -= 1;
                if depth == 0 && groups == 0 {
                    return n;
                }
            }
            ";" if depth == 0 && groups == 0 => return n,
            _ => {}
        }
    }
    tokens.len() - 1
}

/// The last token of the variant or arm that begins at `at`: its comma, or its closing brace.
fn part_end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match &token.text[..] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return n - 1,
            ")" | "]" | "}" => depth -= 1,
            "," if depth == 0 => return n,
            _ => {}
        }
    }
    tokens.len() - 1
}

/// The tokens without the items behind `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const FOR_TESTS: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut left = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = tokens[at..].iter().map(|t| &t.text[..]).take(FOR_TESTS.len());
        if here.eq(FOR_TESTS) {
            let mut item = at + FOR_TESTS.len();
            while tokens[item].text == "#" {
                item += tokens[item..].iter().position(|t| t.text == "]").unwrap() + 1;
            }
            // A variant or a match arm begins with a name; every item and statement begins with a
            // keyword.
            let is_part = tokens[item].text.starts_with(|c: char| c.is_uppercase());
            at = if is_part { part_end(tokens, item) } else { item_end(tokens, item) } + 1;
        } else {
            left.push(tokens[at].clone());
            at += 1;
        }
    }
    left
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(c) = rest.chars().next() {
        let length = skipped(rest).or_else(|| string(rest)).unwrap_or_else(|| {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if word > 0 {
                word
            } else if rest.starts_with("::") {
                2
            } else {
                c.len_utf8()
            }
        });
        let (token, after) = rest.split_at(length);
        if skipped(rest).is_none() {
            let text = if string(rest).is_some() { "\"\"" } else { token };
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// How much of the beginning of `rest` is white space or a comment.
fn skipped(rest: &str) -> Option<usize> {
    let white = rest.len() - rest.trim_start().len();
    if white > 0 {
        return Some(white);
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*").then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

/// The length of the string or character at the beginning of `rest`.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix);
        after.is_some_and(|after| {
            after.starts_with('"')
                || (after.starts_with('\'') && ["", "b"].contains(prefix))
                || (prefix.contains('r') && after.trim_start_matches('#').starts_with('"'))
        })
    })?;
    let body = &rest[prefix.len()..];
    if prefix.contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let open = prefix.len() + hashes + 1;
        return Some(open + rest[open..].find(&end).unwrap() + end.len());
    }
    let quote = body.chars().next().unwrap();
    let mut chars = body.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Some(prefix.len() + at + 1);
        } else if quote == '\'' && at > 1 && !body.starts_with("'\\") {
            // A lifetime: no quote behind its first letter.
            return None;
        }
    }
    None
}

/// A source as [`sources`] reads it.
fn source(file: &str, text: &str) -> Source {
    let module = file.split('/').map(str::to_owned).collect();
    Source { file: format!("src/{file}.rs"), module, tokens: without_tests(&tokens(text)) }
}

/// Checks the modules that `a/b` uses, beside `a` with `front` and `a/c`, `a/d`, `a/d/e`.
#[track_caller]
fn check_uses(front: &str, text: &str, expected: &[&str]) {
    let mut all = vec![source("a", front), source("a/b", text)];
    all.extend(["a/c", "a/d", "a/d/e", "z"].map(|file| source(file, "pub struct X;")));
    let used = &uses(&all)["a::b"];
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{text}");
}

#[test]
fn every_way_to_name_another_module_is_seen() {
    check_uses("", "use super::c::X;", &["a::c"]);
    check_uses("", "use crate::a::{self, c::{X as Y, self}, d::e::X};", &["a", "a::c", "a::d::e"]);
    check_uses("", "use super::super::z::*;", &["z"]);
    check_uses("", "use super::{c, d::e};", &["a::c", "a::d::e"]);
    check_uses("", "fn f(x: crate::a::c::X) { super::d::e::g::<u8>() }", &["a::c", "a::d::e"]);
    check_uses("", "mod inner { use super::super::c::X; use super::Y; }", &["a::c"]);
    check_uses("pub struct P;", "use super::P;", &["a"]);
}

#[test]
fn what_is_passed_on_is_used_where_it_is_written() {
    check_uses("mod c; pub use c::X;", "use super::X;", &["a::c"]);
    check_uses("use d::{e::X as Y};", "fn f() { super::Y }", &["a::d::e"]);
    check_uses("", "pub use super::c::X;", &[]);
    check_uses("", "pub(crate) use super::c::X; fn f(x: X) {}", &["a::c"]);
}

#[test]
fn comments_texts_and_tests_use_nothing() {
    check_uses("", "// super::c::X\n/// [`X`](super::c::X)\n/* super::c::X */", &[]);
    check_uses("", r##"const A: &str = "super::c::X"; const B: &str = r#"" super::c::X"#;"##, &[]);
    check_uses("", "fn f<'a>(c: &'a char) { c == '\"' || c == '\\'' } use super::d::X;", &["a::d"]);
    check_uses("", "#[cfg(test)]\nmod tests { use super::super::c::X; }", &[]);
    check_uses("", "#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests; use super::d::X;", &["a::d"]);
    check_uses("", "#[cfg(test)]\npub(super) fn f() -> [u8; 2] { super::c::f() }", &[]);
    let arm =
        "fn f() { match x { A => 1, #[cfg(test)] B::C(d) => super::c::f(d), } super::d::f() }";
    check_uses("", arm, &["a::d"]);
    let last = "enum A { B, #[cfg(test)] C(super::c::X) } use super::d::X;";
    check_uses("", last, &["a::d"]);
    check_uses("", "use std::fmt; fn f(self) { self.c::<X>() } pub(super) struct S;", &[]);
}

#[test]
fn a_circle_is_told_as_a_path() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e")];
    let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
    for (from, to) in edges {
        graph.entry(from.to_owned()).or_default().insert(to.to_owned());
    }
    assert_eq!(circles(&graph), BTreeSet::from(["a -> b -> c -> a".to_owned()]));
    graph.remove("c");
    assert!(circles(&graph).is_empty());
}

#[test]
fn types_and_the_lengths_of_functions_are_found() {
    let text = "pub struct A;\npub(in crate::a) enum B {}\nstruct C;\n#[cfg(test)]\npub struct D;\n\
        impl A {\n    pub fn f(\n    ) -> [u8; 2] {\n        { }\n    }\n}\ntrait T { fn g(); }\n";
    let source = source("a", text);
    assert_eq!(types(&source.tokens), [("A".to_owned(), 1), ("B".to_owned(), 2)]);
    assert_eq!(functions(&source.tokens), [("f".to_owned(), 7, 4)]);
}
