//! Reads lines of a response policy zone (RPZ): `ads.example CNAME .`
//!
//! Such a zone says itself what it means: `ads.example` is that name alone, `*.ads.example` the names
//! below it.

use super::hosts::words;
use super::item::{Item, What};
use super::name::{ListedName, address};
use super::skipped::Skipped;
use crate::policy::domains::{Rank, Reach, Said};

/// Whether a line is one that only such zones have.
pub(super) fn tells(line: &[u8]) -> bool {
    if line.starts_with(b"$TTL") || line.starts_with(b"$ORIGIN") {
        return true;
    }
    let mut words = words(line).skip(1).skip_while(|word| is_before_type(word));
    let is_type =
        |word: &[u8]| [&b"SOA"[..], b"CNAME"].iter().any(|it| word.eq_ignore_ascii_case(it));
    words.next().is_some_and(is_type) && words.next().is_some_and(|target| target.ends_with(b"."))
}

/// Whether a line belongs to a zone, and not to another format.
pub(super) fn is_zone(line: &[u8]) -> bool {
    let rest = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let types: [&[u8]; 6] = [b"SOA", b"CNAME", b"NS", b"TXT", b"A", b"AAAA"];
    let is_type = |word: &[u8]| types.iter().any(|it| word.eq_ignore_ascii_case(it));
    line.starts_with(b"$") || words(rest).all(is_number) || words(rest).any(is_type)
}

fn is_number(word: &[u8]) -> bool {
    word.iter().all(|byte| byte.is_ascii_digit() || b"()".contains(byte))
}

/// Reads a line, which is not trimmed: a space before it stands for the name of the line above.
pub(super) fn read(line: &[u8], give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    let line = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if line.starts_with(b"$TTL") || line.starts_with(b"$ORIGIN") || words(line).all(is_number) {
        return Ok(());
    }
    let has_owner = !line.first().is_some_and(u8::is_ascii_whitespace);
    let mut all = words(line);
    let owner = if has_owner { all.next().unwrap_or_default() } else { b"@" };
    let mut rest = all.skip_while(|word| is_before_type(word));
    let kind = rest.next().ok_or(Skipped::Unknown)?.to_ascii_uppercase();
    if matches!(&*kind, b"SOA" | b"NS" | b"TXT") {
        return Ok(());
    }
    let target = rest.next().ok_or(Skipped::Unknown)?.to_ascii_lowercase();
    let rank = match (&*kind, &*target) {
        (b"CNAME", b"." | b"*." | b"rpz-drop" | b"rpz-drop.") => Rank::Block,
        (b"CNAME", b"rpz-tcp-only" | b"rpz-tcp-only.") => return Err(Skipped::Options),
        (b"A" | b"AAAA", _) if address(&target).is_some_and(|to| to.leads_nowhere) => Rank::Block,
        (b"CNAME", b"rpz-passthru" | b"rpz-passthru.") => Rank::Pass,
        // An older way to let a name through.
        (b"CNAME", _) if target.strip_suffix(b".") == Some(&*owner.to_ascii_lowercase()) => {
            Rank::Pass
        }
        // It may lead to the name itself, or to a page that says that it is refused.
        (b"CNAME" | b"A" | b"AAAA", _) => return Err(Skipped::Address),
        _ => return Err(Skipped::Unknown),
    };
    if has_trigger(owner) {
        return Err(Skipped::Options);
    }
    let reach = if owner.starts_with(b"*.") { Reach::Below } else { Reach::Name };
    let name = ListedName::read_any(owner).ok_or(Skipped::Unknown)?;
    let said = Said { rank, reach, is_rule: false };
    give(&Item { what: What::Name(name.text()), said, is_off: false });
    Ok(())
}

/// Whether the name triggers by something else than the name that is asked for.
fn has_trigger(owner: &[u8]) -> bool {
    owner
        .split(|byte| *byte == b'.')
        .any(|label| matches!(label, b"rpz-ip" | b"rpz-client-ip" | b"rpz-nsip" | b"rpz-nsdname"))
}

/// Whether a word is a lifetime or a class.
fn is_before_type(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"IN") || word.first().is_some_and(u8::is_ascii_digit)
}
