//! Reads lines of hosts files (`0.0.0.0 ads.example`) and of lists of domains.

use super::how::Purpose;
use super::item::{Item, bare};
use super::name::{ListedName, address};
use super::skipped::Skipped;

/// Names that hosts files give to the machine itself.
const OWN_NAMES: [&[u8]; 11] = [
    b"localhost",
    b"localhost.localdomain",
    b"localhost6.localdomain6",
    b"local",
    b"broadcasthost",
    b"ip6-localhost",
    b"ip6-loopback",
    b"ip6-localnet",
    b"ip6-mcastprefix",
    b"ip6-allnodes",
    b"ip6-allrouters",
];

/// Reads the words of a line whose first word is an address and that has more than one.
pub(super) fn hosts_line(
    line: &[u8],
    purpose: Purpose,
    give: &mut impl FnMut(&Item<'_>),
) -> Result<(), Skipped> {
    let mut words = words(line);
    let leads_nowhere = words.next().and_then(address).is_some_and(|it| it.leads_nowhere);
    let mut outcome = Ok(());
    for word in words {
        let own = OWN_NAMES.iter().any(|own| word.eq_ignore_ascii_case(own))
            || word.starts_with(b"ip6-all");
        // Some lists name the address itself.
        if own || address(word).is_some() {
            continue;
        }
        if !leads_nowhere && purpose == Purpose::Block {
            return Err(Skipped::Address);
        }
        match ListedName::read_any(word) {
            Some(name) => give(&bare(name.text())),
            None => outcome = Err(Skipped::Unknown),
        }
    }
    outcome
}

/// Whether a line begins with an address, as in a hosts file.
pub(super) fn begins_with_address(line: &[u8]) -> bool {
    words(line).next().and_then(address).is_some()
}

pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// The line up to a comment: `#` and `;` anywhere, and `//` after a space. Only lines that are neither
/// adblock rules nor about elements of pages come here, so a `#` begins nothing else.
pub(super) fn without_comment(line: &[u8]) -> &[u8] {
    let hash = memchr::memchr(b'#', line).unwrap_or(line.len());
    let line = line.get(..hash).unwrap_or(line);
    let is_mark = |at: usize| {
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        let rest = line.get(at..).unwrap_or_default();
        before.is_some_and(u8::is_ascii_whitespace) && rest.starts_with(b"//")
    };
    let is_mark = |at: &usize| line.get(*at) == Some(&b';') || is_mark(*at);
    let other = memchr::memchr2_iter(b';', b'/', line).find(is_mark);
    line.get(..other.unwrap_or(line.len())).unwrap_or(line)
}

/// The first column of a table whose columns are separated by tabs.
pub(super) fn first_column(line: &[u8]) -> Option<&[u8]> {
    let column = line.split(|byte| *byte == b'\t').next()?;
    (column.len() < line.len() && !column.iter().any(u8::is_ascii_whitespace)).then_some(column)
}
