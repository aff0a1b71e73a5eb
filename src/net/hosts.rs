//! Reads hosts files, hosts(5): names with given addresses.
//!
//! A line is an address and one or more names; `#` begins a comment. Lines may end in CR LF, and the file
//! may begin with a byte order mark. A name on several lines, of one file or of several, has all their
//! addresses, in the order of the lines. A malformed line is an error: a name lost by mistake would go to
//! an unintended address.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_error;
use crate::wire::Authority;

/// Limit on the bytes of a file: a list of half a million names fits.
const MOST_BYTES: u64 = 16 << 20;
/// Limit on the addresses of a name; no client waits for more to be tried.
pub const MOST_ADDRESSES: usize = 64;

/// A mistake in a file, and its line. As text: `FILE:LINE: why; what to do`.
#[derive(Debug)]
pub struct WrongHosts {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; `None` if the file cannot be read.
    pub line: Option<usize>,
    why: String,
    denied: bool,
}

impl WrongHosts {
    /// Whether the system denies access to the file.
    pub fn is_denied(&self) -> bool {
        self.denied
    }

    fn unread(file: &Path, e: &io::Error) -> Self {
        let why = file_error::unreadable(file, e);
        let denied = e.kind() == io::ErrorKind::PermissionDenied;
        Self { file: file.to_owned(), line: None, why, denied }
    }
}

impl fmt::Display for WrongHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.why)
    }
}

impl WrongHosts {
    /// The file, and the line if it is one: `hosts:3`.
    pub(crate) fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }

    /// What is wrong, and what to try.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }
}

impl std::error::Error for WrongHosts {}

/// Names and their addresses.
#[derive(Debug, Default)]
pub struct Hosts {
    names: HashMap<Box<str>, Arc<[IpAddr]>>,
    /// Most names of a long list have the same address, so one list serves them all.
    alone: HashMap<IpAddr, Arc<[IpAddr]>>,
}

impl Hosts {
    /// Reads the files in order. Blocks as long as the disk does.
    ///
    /// # Errors
    ///
    /// The mistake in the first file that has one. Nothing of any file is used.
    pub fn read(files: &[PathBuf]) -> Result<Self, WrongHosts> {
        let mut hosts = Self::default();
        for file in files {
            let bytes = read(file).map_err(|e| WrongHosts::unread(file, &e))?;
            hosts.add(&bytes).map_err(|(line, why)| WrongHosts {
                file: file.clone(),
                line: Some(line),
                why,
                denied: false,
            })?;
        }
        hosts.alone = HashMap::new();
        Ok(hosts)
    }

    /// The addresses of `name`, which is in lower case and without a dot at the end.
    pub fn find(&self, name: &str) -> Option<&Arc<[IpAddr]>> {
        self.names.get(name)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds the lines of a file. An error has the line and its mistake.
    fn add(&mut self, bytes: &[u8]) -> Result<(), (usize, String)> {
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err((1, "the file is UTF-16; save it as UTF-8".to_owned()));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (number, line) in (1..).zip(bytes.split(|&o| o == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            // A comment may be in any encoding.
            let line = line.split(|&o| o == b'#').next().unwrap_or_default();
            self.add_line(line).map_err(|why| (number, why))?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &[u8]) -> Result<(), String> {
        let mut words = line.split(|o| b" \t".contains(o)).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { return Ok(()) };
        let address = std::str::from_utf8(first).ok().and_then(|text| text.parse().ok());
        let Some(ip) = address else {
            let zone = if first.contains(&b'%') { " (one with a zone cannot be used)" } else { "" };
            return Err(format!(
                "{} is not an IP address{zone}; write the address first, then its names",
                shown(first)
            ));
        };
        let mut named = false;
        for word in words {
            named = true;
            match std::str::from_utf8(word).map(name) {
                Ok(Name::Host(name)) => self.add_name(name, ip)?,
                // Some lists name the address itself. Addresses are never looked up.
                Ok(Name::Address) => {}
                _ => {
                    return Err(format!(
                        "{} is not a host name; write letters, digits, '-', '_' and '.', and no number behind the last dot",
                        shown(word)
                    ));
                }
            }
        }
        if named { Ok(()) } else { Err(format!("{ip} has no name; write one after it")) }
    }

    fn add_name(&mut self, name: Box<str>, ip: IpAddr) -> Result<(), String> {
        let Some(known) = self.names.get_mut(&name) else {
            let alone = self.alone.entry(ip).or_insert_with(|| Arc::from([ip]));
            self.names.insert(name, Arc::clone(alone));
            return Ok(());
        };
        if known.contains(&ip) {
            return Ok(());
        }
        if known.len() >= MOST_ADDRESSES {
            return Err(format!(
                "'{name}' has more than {MOST_ADDRESSES} addresses; leave some of them out"
            ));
        }
        *known = known.iter().copied().chain([ip]).collect();
        Ok(())
    }
}

/// The kind of a word in the place of a host name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Name {
    /// A name, in lower case and without a dot at the end.
    Host(Box<str>),
    /// An address, which is never looked up.
    Address,
    /// Neither.
    Wrong,
}

/// Reads a host name by the rule for those in requests.
pub fn name(word: &str) -> Name {
    match Authority::parse(word) {
        _ if word.parse::<IpAddr>().is_ok() => Name::Address,
        Ok(authority) if authority.ip.is_some() => Name::Address,
        Ok(authority) if authority.host == word => {
            Name::Host(without_dot(word).to_ascii_lowercase().into())
        }
        _ => Name::Wrong,
    }
}

/// A name without the dot that marks it as complete.
pub fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    // Opening a FIFO would wait for its writer.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(
            "it is not a regular file; give one, because it is read again",
        ));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {} MiB; give a smaller one",
            MOST_BYTES >> 20
        )));
    }
    Ok(bytes)
}

/// A word of a file for a message: its beginning, without characters that move a terminal.
pub fn shown(word: &[u8]) -> String {
    const MOST: usize = 60;
    let text = String::from_utf8_lossy(word.get(..MOST).unwrap_or(word));
    let more = if word.len() > MOST { "…" } else { "" };
    format!("'{}{more}'", text.escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Hosts, (usize, String)> {
        let mut hosts = Hosts::default();
        hosts.add(bytes).map(|()| hosts)
    }

    #[track_caller]
    fn check(text: &str, name: &str, ips: &[&str]) {
        let hosts = parsed(text.as_bytes()).unwrap();
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let found = hosts.find(name).map_or(&[][..], |ips| ips);
        assert_eq!(found, ips, "{text:?}");
    }

    #[test]
    fn a_line_is_an_address_and_its_names() {
        check("192.0.2.1 a.example", "a.example", &["192.0.2.1"]);
        check("192.0.2.1\ta.example  b.example\t", "b.example", &["192.0.2.1"]);
        check("  2001:db8::1 a.example", "a.example", &["2001:db8::1"]);
        check("192.0.2.1 A.Example.", "a.example", &["192.0.2.1"]);
        check("192.0.2.1 a # b\n", "b", &[]);
        check("# all\n\n \t\r\n192.0.2.1 a#b", "a", &["192.0.2.1"]);
        check("192.0.2.1 a\r\n192.0.2.2 b\r\n", "b", &["192.0.2.2"]);
        check("\u{feff}192.0.2.1 a", "a", &["192.0.2.1"]);
        check("0.0.0.0 0.0.0.0 ::1 [::1] ads.example", "ads.example", &["0.0.0.0"]);
        check("192.0.2.1 a\n192.0.2.2 a b\n192.0.2.1 a", "a", &["192.0.2.1", "192.0.2.2"]);
        check("", "a", &[]);
    }

    #[test]
    fn a_comment_may_be_in_any_encoding() {
        assert_eq!(parsed(b"# gr\xfc\xdfe\n192.0.2.1 a # \xff\xfe\n").unwrap().len(), 1);
    }

    #[test]
    fn a_wrong_line_is_named_and_says_what_to_write() {
        for (text, line, says) in [
            (&b"a.example 192.0.2.1"[..], 1, "'a.example' is not an IP address; write the address"),
            (b"\n\n127.1 a", 3, "'127.1' is not an IP address"),
            (b"fe80::1%lo0 a", 1, "(one with a zone cannot be used)"),
            (b"192.0.2.1 a\n192.0.2.1 # a\n", 2, "192.0.2.1 has no name"),
            (b"192.0.2.1", 1, "has no name"),
            (b"192.0.2.1 a b/c", 1, "'b/c' is not a host name"),
            (b"192.0.2.1 a:80", 1, "'a:80' is not a host name"),
            (b"192.0.2.1 a:", 1, "'a:' is not a host name"),
            (b"192.0.2.1 *.example", 1, "'*.example' is not a host name"),
            ("192.0.2.1 größe".as_bytes(), 1, "'größe' is not a host name"),
            (b"192.0.2.1 a\rb", 1, "'a\\rb' is not a host name"),
            (b"192.0.2.1 \xff", 1, "is not a host name"),
            (b"\xff\xfe1\0", 1, "UTF-16"),
        ] {
            let (found, why) = parsed(text).unwrap_err();
            assert_eq!(found, line, "{why}");
            assert!(why.contains(says), "{why}");
        }
        let long = format!("192.0.2.1 {}", "a".repeat(256));
        let (_, why) = parsed(long.as_bytes()).unwrap_err();
        assert!(why.len() < 200 && why.contains("…'"), "{why}");
        let many: String = (0..=64).map(|i| format!("192.0.2.{i} a\n")).collect();
        assert_eq!(parsed(many.as_bytes()).unwrap_err().0, 65);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_so_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let wrong = Hosts::read(std::slice::from_ref(&path)).unwrap_err();
        let text = format!("{}: cannot read it: it is not a regular file; ", path.display());
        assert!(wrong.to_string().starts_with(&text), "{wrong}");
        let missing = path.join("none");
        let wrong = Hosts::read(std::slice::from_ref(&missing)).unwrap_err();
        assert!(wrong.to_string().contains("No such file"), "{wrong}");
        let large = path.join("large");
        File::create(&large).unwrap().set_len(MOST_BYTES + 1).unwrap();
        let wrong = Hosts::read(&[large]).unwrap_err();
        assert!(wrong.to_string().contains("more than 16 MiB"), "{wrong}");
    }

    #[test]
    fn several_files_are_read_like_one_and_the_wrong_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (one, two) = (file("one", "192.0.2.1 a b"), file("two", "192.0.2.2 a\n"));
        let hosts = Hosts::read(&[one.clone(), two]).unwrap();
        assert_eq!(hosts.find("a").unwrap().len(), 2);
        assert_eq!(hosts.len(), 2);
        let bad = file("bad", "\noops\n");
        let wrong = Hosts::read(&[one, bad.clone()]).unwrap_err();
        assert!(wrong.to_string().starts_with(&format!("{}:2: 'oops' is", bad.display())));
    }

    proptest! {
        /// Any file is accepted or refused, and an accepted name can be found.
        #[test]
        fn any_file_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            match parsed(&bytes) {
                Ok(hosts) => {
                    for (name, ips) in &hosts.names {
                        prop_assert!(!ips.is_empty() && ips.len() <= MOST_ADDRESSES);
                        prop_assert_eq!(super::name(name), Name::Host(name.clone()));
                    }
                }
                Err((line, why)) => {
                    prop_assert!(line <= bytes.split(|&o| o == b'\n').count());
                    prop_assert!(!why.contains(char::is_control));
                }
            }
        }

        /// A file written in the format is read as it was meant, whatever surrounds the names.
        #[test]
        fn what_is_written_is_read(
            lines in prop::collection::vec(
                (any::<IpAddr>(), prop::collection::vec("[a-z][a-z0-9-]{0,9}", 1..4)), 0..9),
            end in prop::sample::select(vec!["\n", "\r\n", " \n", " # x\n", "#\n\n"]),
            gap in prop::sample::select(vec![" ", "\t", " \t "]),
        ) {
            let mut text = String::new();
            let mut meant: HashMap<&str, Vec<IpAddr>> = HashMap::new();
            for (ip, names) in &lines {
                text += &format!("{ip}{gap}{}{end}", names.join(gap));
                for name in names {
                    let ips = meant.entry(name).or_default();
                    if !ips.contains(ip) {
                        ips.push(*ip);
                    }
                }
            }
            let hosts = parsed(text.as_bytes()).unwrap();
            prop_assert_eq!(hosts.len(), meant.len());
            for (name, ips) in meant {
                prop_assert_eq!(&**hosts.find(name).unwrap(), &ips[..]);
            }
        }
    }
}
