//! Reads and edits a file of users: `NAME:HASH`, one a line, as htpasswd writes it.
//!
//! Empty lines and lines that begin with `#` are skipped. Lines may end in CR LF, and the file may begin
//! with a byte order mark. Any other line that is not a user with a [hash](super::password_hash) is an
//! error with its line number: a user who is silently left out cannot come in, or worse, still can.

use std::collections::HashMap;

use super::password_hash::Hash;

/// The most bytes of a file.
pub const MOST_BYTES: usize = 16 << 20;
/// The most bytes of a line.
pub const MOST_LINE: usize = 4096;
/// The most bytes of a user's name.
pub const MOST_NAME: usize = 255;

/// A user as read from a file.
#[derive(Clone, Debug)]
pub struct UserLine {
    /// The name.
    pub name: Box<str>,
    /// The hash of its password.
    pub hash: Hash,
    /// The line, from 1.
    pub line: u32,
}

/// An error in a file of users, with its line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrongUserFile {
    /// The line, from 1; 0 for the file as a whole.
    pub line: u32,
    /// A sentence without any of the file's secrets.
    pub message: String,
}

/// Reads a file's bytes.
///
/// # Errors
///
/// The first line that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Vec<UserLine>, WrongUserFile> {
    if bytes.len() > MOST_BYTES {
        let message = "the file is larger than 16 MiB; this is not a file of users".to_owned();
        return Err(WrongUserFile { line: 0, message });
    }
    let mut users = Vec::new();
    let mut seen: HashMap<Box<str>, u32> = HashMap::new();
    for (line, bytes) in lines(bytes) {
        let user = read(bytes).map_err(|message| WrongUserFile { line, message })?;
        let Some((name, hash)) = user else { continue };
        if let Some(before) = seen.insert(name.into(), line) {
            let message = format!("the user '{name}' is already in line {before}; keep one");
            return Err(WrongUserFile { line, message });
        }
        let hash = Hash::parse(hash)
            .map_err(|e| WrongUserFile { line, message: format!("the user '{name}': {e}") })?;
        users.push(UserLine { name: name.into(), hash, line });
    }
    Ok(users)
}

/// The lines with their numbers, without their line ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = bytes.split(|byte| *byte == b'\n');
    (1..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}

/// Name and hash of a line; `None` if the line has no user.
fn read(line: &[u8]) -> Result<Option<(&str, &str)>, String> {
    if line.len() > MOST_LINE {
        return Err(format!("the line is longer than {MOST_LINE} bytes"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let Some((name, hash)) = line.split_once(':') else {
        return Err("the line has no ':'; write NAME:HASH, as 'threadgate passwd' does".to_owned());
    };
    check_name(name)?;
    if hash.contains(':') {
        return Err(format!(
            "the user '{name}' has a second ':' after the name; htdigest files are not read, \
             write NAME:HASH"
        ));
    }
    Ok(Some((name, hash.trim_end())))
}

/// Checks a user's name.
///
/// # Errors
///
/// The sentence says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    let wrong = match name {
        "" => "is empty",
        _ if name.len() > MOST_NAME => "is longer than 255 bytes",
        _ if name.starts_with('#') => "begins with '#'",
        _ if name.contains(':') => "has a ':' in it",
        _ if name.chars().any(char::is_control) => "has a control character in it",
        // A mark in the middle comes from a file that was appended to another. At the start of the file it
        // would be dropped from the name.
        _ if name.contains('\u{feff}') => "has a byte order mark (U+FEFF) in it",
        _ => return Ok(()),
    };
    Err(format!(
        "the user's name {wrong}; give one of 1 to 255 printable characters without ':', not beginning with '#'"
    ))
}

/// The file with this user's line replaced, or added at the end. Without `hash` the user is removed.
/// Everything else stays as it is. `None` if there was no user to remove.
pub fn edit(bytes: &[u8], name: &str, hash: Option<&str>) -> Option<Vec<u8>> {
    let is_the_users = |line: &[u8]| {
        line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'))
    };
    let mut edited = Vec::with_capacity(bytes.len() + 128);
    let mut found = false;
    for (n, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let mark: &[u8] =
            if n == 0 && line.starts_with(b"\xef\xbb\xbf") { b"\xef\xbb\xbf" } else { b"" };
        let text = line.strip_prefix(mark).unwrap_or(line);
        if !is_the_users(text) {
            edited.extend_from_slice(line);
            continue;
        }
        edited.extend_from_slice(mark);
        // A duplicate line is dropped.
        if let Some(hash) = hash.filter(|_| !found) {
            edited.extend_from_slice(format!("{name}:{hash}").as_bytes());
            edited.extend_from_slice(if text.ends_with(b"\r\n") { b"\r\n" } else { b"\n" });
        }
        found = true;
    }
    match hash {
        Some(hash) if !found => {
            if !edited.is_empty() && !edited.ends_with(b"\n") {
                edited.push(b'\n');
            }
            edited.extend_from_slice(format!("{name}:{hash}\n").as_bytes());
        }
        None if !found => return None,
        _ => {}
    }
    Some(edited)
}

/// A file that can be read can be edited, and then read again.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    const HASH: &str = "$5$abcdefgh$PMzeX.3Tb43iNPh8ENNzPM9M7q/BLyRKM1Djd5s4Nu8";
    let users = match parse(bytes) {
        Ok(users) => users,
        Err(wrong) => {
            let text = String::from_utf8_lossy(bytes);
            assert!(wrong.line as usize <= text.lines().count() + 1);
            return;
        }
    };
    for name in ["new", "a"].into_iter().chain(users.first().map(|user| &*user.name)) {
        if name.starts_with('#') {
            continue;
        }
        let Some(edited) = edit(bytes, name, Some(HASH)) else { panic!("adds one") };
        let there = users.iter().any(|user| &*user.name == name);
        let Ok(again) = parse(&edited) else { panic!("{}", edited.escape_ascii()) };
        assert_eq!(again.len(), users.len() + usize::from(!there));
        let Some(less) = edit(&edited, name, None) else { panic!("takes it out") };
        assert_eq!(parse(&less).map(|left| left.len()).ok(), Some(again.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$5$abcdefgh$PMzeX.3Tb43iNPh8ENNzPM9M7q/BLyRKM1Djd5s4Nu8";
    const OTHER: &str = "$2y$04$V9QQyxCWOTjxVrQJRjCLEeBHOl/34Oh9MAnNAWEhC4/yVRXabhhwq";

    fn fill(text: &str) -> Vec<u8> {
        text.replace('@', HASH).replace('%', OTHER).into_bytes()
    }

    #[test]
    fn users_are_read_whatever_the_editor() {
        for (file, expected) in [
            ("", &[][..]),
            ("a:@", &[("a", 1)]),
            ("a:@\nb:%\n", &[("a", 1), ("b", 2)]),
            ("\u{feff}a:@\r\n\r\n# b:@\r\nc d:%  \r\n", &[("a", 1), ("c d", 4)]),
            ("jürgen:@\n  \n", &[("jürgen", 1)]),
        ] {
            let users = parse(&fill(file)).unwrap();
            let read: Vec<_> = users.iter().map(|user| (&*user.name, user.line)).collect();
            assert_eq!(read, expected, "{file}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line_and_not_shown() {
        let long = format!("a:{}", "secret".repeat(1000));
        for (file, line, says) in [
            ("a:@\nsecret", 2, "has no ':'"),
            ("a:secret", 1, "'a': this is not a hash"),
            ("a:$apr1$secret$x\n", 1, "'a': the hash is Apache's MD5"),
            ("a:@\n\na:%", 3, "'a' is already in line 1"),
            (":@", 1, "name is empty"),
            ("a\u{7}:@", 1, "control character"),
            ("a:@\n\u{feff}b:%\n", 2, "byte order mark"),
            ("\u{feff}\u{feff}a:@\n", 1, "byte order mark"),
            (" \u{feff}a:@\n\u{feff}# :%\n", 1, "byte order mark"),
            ("a:threadgate:secret", 1, "htdigest"),
            (&long, 1, "longer than 4096"),
        ] {
            let wrong = parse(&fill(file)).unwrap_err();
            assert_eq!(wrong.line, line, "{file}: {}", wrong.message);
            assert!(wrong.message.contains(says), "{file}: {}", wrong.message);
            assert!(!wrong.message.contains("secret"), "{}", wrong.message);
        }
        assert!(parse(b"\x00\xff\xfe:\n").unwrap_err().message.contains("UTF-8"));
        assert_eq!(parse(&vec![b'\n'; MOST_BYTES + 1]).unwrap_err().line, 0);
    }

    #[test]
    fn one_line_is_edited_and_the_others_stay() {
        for (file, name, hash, expected) in [
            ("", "a", Some("@"), Some("a:@\n")),
            ("# x\r\nb:1\r\na:1:\r\n", "b", Some("@"), Some("# x\r\nb:@\r\na:1:\r\n")),
            ("ab:1\na:1", "a", Some("@"), Some("ab:1\na:@\n")),
            ("b:1", "a", Some("@"), Some("b:1\na:@\n")),
            ("a:1\nb:\u{feff}\na:2\n", "a", Some("@"), Some("a:@\nb:\u{feff}\n")),
            ("\u{feff}a:1\nb:2\n", "a", Some("@"), Some("\u{feff}a:@\nb:2\n")),
            ("\u{feff}a:1\nb:2\n", "a", None, Some("\u{feff}b:2\n")),
            ("a:1\nb:2\n", "b", None, Some("a:1\n")),
            ("a:1\n", "b", None, None),
            ("", "b", None, None),
        ] {
            let hash = hash.map(|hash| hash.replace('@', HASH));
            let edited = edit(file.as_bytes(), name, hash.as_deref());
            let expected = expected.map(|text| text.replace('@', HASH));
            assert_eq!(edited.map(|bytes| String::from_utf8(bytes).unwrap()), expected, "{file}");
        }
    }

    /// The seeds keep what the fuzz target asserts, in every plain `cargo test`.
    #[test]
    fn every_seed_keeps_the_invariants() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/users_file");
        let seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
        assert!(seeds.len() > 3);
        for seed in seeds {
            fuzz(&std::fs::read(seed.unwrap().path()).unwrap());
        }
    }
}
