//! Finds the brackets of a TOML text that nothing closes or opens, because the parser's own messages name
//! other lines.

/// The brackets that stand alone.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Brackets {
    /// The first bracket, or triple quotes, that nothing closes: its position, and the text that closes it.
    /// Later ones may be inside it.
    pub(super) unclosed: Option<(usize, &'static str)>,
    /// Positions of closing brackets that nothing opens, before that one.
    pub(super) unopened: Vec<usize>,
}

impl Brackets {
    /// Reads a text once.
    pub(super) fn of(text: &str) -> Self {
        let mut unopened = Vec::new();
        let mut open: Vec<(usize, &'static str)> = Vec::new();
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            let first = rest.as_bytes().first().copied().unwrap_or_default();
            let long = ["\"\"\"", "'''"].into_iter().find(|quotes| rest.starts_with(quotes));
            let length = match (first, long) {
                (_, Some(quotes)) => match end_of_string(rest, quotes) {
                    Some(end) => end,
                    None => return Self { unclosed: Some((at, quotes)), unopened },
                },
                (b'"' | b'\'', _) => {
                    let quotes = if first == b'"' { "\"" } else { "'" };
                    end_of_string(rest, quotes).unwrap_or_else(|| {
                        // The quote is the mistake of its line; the line's brackets may be in the string.
                        let line =
                            text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |end| end + 1);
                        open.retain(|(at, _)| *at < line);
                        end_of_line(rest)
                    })
                }
                (b'#', _) => end_of_line(rest),
                (b'[' | b'{', _) => {
                    open.push((at, if first == b'[' { "]" } else { "}" }));
                    1
                }
                (b']' | b'}', _) => {
                    match open.pop() {
                        Some((_, closing)) if closing.as_bytes() == [first] => {}
                        // The innermost is still open when another kind is closed.
                        Some(inner) => return Self { unclosed: Some(inner), unopened },
                        None => unopened.push(at),
                    }
                    1
                }
                _ => rest.find(['"', '\'', '#', '[', ']', '{', '}']).unwrap_or(rest.len()),
            };
            at += length;
        }
        Self { unclosed: open.first().copied(), unopened }
    }
}

fn end_of_line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// The length of a string that begins here, with both its quotes.
fn end_of_string(text: &str, quotes: &str) -> Option<usize> {
    let is_long = quotes.len() > 1;
    let mut at = quotes.len();
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with(quotes) {
            return Some(at + quotes.len());
        }
        let c = rest.chars().next()?;
        if c == '\n' && !is_long {
            return None;
        }
        at += c.len_utf8();
        if c == '\\' && quotes.starts_with('"') {
            let escaped = text.get(at..)?.chars().next()?;
            if escaped == '\n' && !is_long {
                return None;
            }
            at += escaped.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bracket_that_nothing_closes_is_found() {
        for (text, unclosed) in [
            ("", None),
            ("a = [1, [2]]\n[[b]]\nc = {d = 1}", None),
            ("a = '['\nb = \"[\\\"[\"\n# [\nc = '''[\n['''", None),
            ("a = [1\nb = [2]\n", Some((4, "]"))),
            ("a = [1, {b = 2]", Some((8, "}"))),
            ("a = {b = [1}", Some((9, "]"))),
            ("a = 1\n[[b]\nc = 1", Some((6, "]"))),
            ("a = {b = 1\n", Some((4, "}"))),
            ("a = '''b\nc = 1", Some((4, "'''"))),
            ("a = \"\"\"b\\\"\"\"\nc", Some((4, "\"\"\""))),
            // The quotes are the mistake here.
            ("a = 'b\nc = [1]", None),
            ("a = \"b [\nc = 1", None),
            ("a = [\"b\n[[c]]", None),
            ("a = \"C:\\\nb = [", Some((13, "]"))),
            ("a = ['ö', ", Some((4, "]"))),
            ("a = [\r\n1\r\n# ]\r\n", Some((4, "]"))),
        ] {
            assert_eq!(Brackets::of(text).unclosed, unclosed, "{text}");
        }
    }

    #[test]
    fn a_bracket_that_nothing_opens_is_found() {
        for (text, unopened) in
            [("[a]\nb = [1]", &[][..]), ("[a]]", &[3]), ("a = 1]\nb = \"]\"\nc = }", &[5, 19])]
        {
            assert_eq!(Brackets::of(text).unopened, unopened, "{text}");
        }
    }

    #[test]
    fn it_takes_time_that_grows_with_the_text() {
        let mib = 1 << 20;
        for text in [
            format!("a = \"{}", "\\\"".repeat(mib / 2)),
            "'\n".repeat(mib / 2),
            "[".repeat(mib),
            "\"\"\"".repeat(mib / 3),
        ] {
            let begin = std::time::Instant::now();
            Brackets::of(&text);
            assert!(begin.elapsed().as_secs() < 20, "{}", &text[..8]);
        }
    }
}
