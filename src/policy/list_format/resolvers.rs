//! Reads lines that configure a resolver: dnsmasq (`address=/ads.example/0.0.0.0`) and unbound
//! (`local-zone: "ads.example" always_nxdomain`).

use super::hosts::words;
use super::item::{Item, bare, passing};
use super::name::{ListedName, address};
use super::skipped::Skipped;

/// Reads a line of dnsmasq; `None` if it is none.
///
/// A name that is answered from elsewhere (`server=/ok.example/#`) is let through, because that is how such a
/// file frees a name below one that it refuses.
pub(super) fn dnsmasq(
    line: &[u8],
    give: &mut impl FnMut(&Item<'_>),
) -> Option<Result<(), Skipped>> {
    let (key, value) = [&b"address"[..], b"local", b"server"].into_iter().find_map(|key| {
        Some((key, line.strip_prefix(key)?.strip_prefix(b"=")?.strip_prefix(b"/")?))
    })?;
    Some(dnsmasq_names(key == b"address", value, give))
}

fn dnsmasq_names(
    is_address: bool,
    value: &[u8],
    give: &mut impl FnMut(&Item<'_>),
) -> Result<(), Skipped> {
    let value = words(value).next().unwrap_or_default();
    let end = memchr::memrchr(b'/', value).ok_or(Skipped::Unknown)?;
    let (names, target) = value.split_at(end);
    let target = target.get(1..).unwrap_or_default();
    // `#` is the null address for `address`, and the usual servers for the others, which also give a server as
    // ADDRESS#PORT.
    let leads_nowhere = || {
        let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
        target.is_empty() || address(target).is_some_and(|to| to.leads_nowhere)
    };
    let refuses = target.is_empty() || (is_address && leads_nowhere());
    if is_address && !refuses {
        return Err(Skipped::Address);
    }
    let mut outcome = Ok(());
    for name in names.split(|byte| *byte == b'/') {
        match ListedName::read_any(name) {
            Some(name) if refuses => give(&bare(name.text())),
            Some(name) => give(&passing(name.text())),
            None => outcome = Err(Skipped::Unknown),
        }
    }
    outcome
}

/// Types of unbound's local zones that answer nothing, and those that let names through.
const REFUSING: [&[u8]; 9] = [
    b"static",
    b"deny",
    b"refuse",
    b"inform_deny",
    b"always_refuse",
    b"always_nxdomain",
    b"always_nodata",
    b"always_deny",
    b"always_null",
];
const TRANSPARENT: [&[u8]; 5] =
    [b"transparent", b"typetransparent", b"always_transparent", b"inform", b"nodefault"];

/// Reads a line of unbound; `None` if it is none.
pub(super) fn unbound(
    line: &[u8],
    give: &mut impl FnMut(&Item<'_>),
) -> Option<Result<(), Skipped>> {
    if let Some(zone) = line.strip_prefix(b"local-zone:") {
        return Some(local_zone(zone, give));
    }
    if let Some(data) = line.strip_prefix(b"local-data:") {
        return Some(local_data(data, give));
    }
    let is_other = line == b"server:" || line.starts_with(b"local-data-ptr:");
    is_other.then_some(Ok(()))
}

fn unquoted(word: &[u8]) -> &[u8] {
    let is_quote = |byte: &&u8| matches!(byte, b'"' | b'\'');
    match word {
        [first, inner @ .., last] if is_quote(&first) && first == last => inner,
        word => word,
    }
}

fn local_zone(zone: &[u8], give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    let zone = zone.split(|byte| *byte == b'#').next().unwrap_or_default();
    let mut words = words(zone).map(unquoted);
    let (Some(name), Some(kind)) = (words.next(), words.next()) else {
        return Err(Skipped::Unknown);
    };
    let name = ListedName::read_any(name).ok_or(Skipped::Unknown)?;
    match kind {
        _ if REFUSING.contains(&kind) => give(&bare(name.text())),
        _ if TRANSPARENT.contains(&kind) => give(&passing(name.text())),
        // The line with its data says where it leads.
        b"redirect" | b"inform_redirect" => {}
        _ => return Err(Skipped::Unknown),
    }
    Ok(())
}

/// Reads `"ads.example 3600 IN A 0.0.0.0"`.
fn local_data(data: &[u8], give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    let data = data.trim_ascii();
    let data = match data {
        [quote @ (b'"' | b'\''), rest @ ..] => rest.split(|byte| byte == quote).next(),
        data => Some(data),
    };
    let data = data.unwrap_or_default();
    let mut words = words(data);
    let name = words.next().and_then(ListedName::read_any).ok_or(Skipped::Unknown)?;
    let mut words = words.skip_while(|word| !is_type(word));
    match (words.next(), words.next()) {
        (Some(kind), Some(target)) if is_address_type(kind) => match address(target) {
            Some(to) if to.leads_nowhere => {
                give(&bare(name.text()));
                Ok(())
            }
            _ => Err(Skipped::Address),
        },
        (Some(_), Some(_)) => Err(Skipped::Address),
        _ => Err(Skipped::Unknown),
    }
}

fn is_address_type(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"A") || word.eq_ignore_ascii_case(b"AAAA")
}

/// Whether a word is the type of a record, and not its lifetime or its class.
fn is_type(word: &[u8]) -> bool {
    !word.eq_ignore_ascii_case(b"IN") && !word.first().is_some_and(u8::is_ascii_digit)
}
