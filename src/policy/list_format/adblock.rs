//! Reads adblock rules: those that are about hosts, with the options that a list for a resolver has.
//!
//! | a rule | the hosts |
//! |---|---|
//! | `\|\|ads.example^` | the name and all below it |
//! | `\|ads.example^` | the name alone |
//! | `.ads.example^`, `\|\|*.ads.example^` | all below the name |
//! | `\|\|ads.`, `\|\|ads*.example^`, `-banner.` | a [pattern](crate::policy::host_patterns) |
//! | `/^ads[0-9]+\./` | a regular expression |

use memchr::memchr;

use super::how::{How, ListOptions, Purpose};
use super::item::{Item, What};
use super::name::ListedName;
use super::options::{self, RuleOptions};
use super::skipped::Skipped;
use crate::policy::domains::{Rank, Reach, Said};
use crate::policy::host_patterns::{HostPattern, without_end};

/// Reads a rule, without the `@@` of an exception.
pub(super) fn rule(
    rule: &[u8],
    is_exception: bool,
    how: How,
    give: &mut impl FnMut(&Item<'_>),
) -> Result<(), Skipped> {
    let (pattern, options) = split(rule);
    let regex = within_slashes(pattern);
    let name = match regex {
        // It is meant for URLs.
        Some(regex) if regex.windows(2).any(|two| two == b"\\/" || two == b"//") => {
            return Err(Skipped::Pattern);
        }
        // Pi-hole's options, such as `;querytype=A`.
        Some(regex) if memchr(b';', regex).is_some() => return Err(Skipped::Options),
        Some(_) => None,
        None => one_name(pattern)?,
    };
    // An exception would allow too much, and an allow list has nothing else.
    let may_widen =
        how.options == ListOptions::Wide && how.purpose == Purpose::Block && !is_exception;
    let options = match options {
        Some(options) => options::read(options, is_exception, may_widen)?,
        None => RuleOptions::default(),
    };
    // It would also switch off the rules without that option.
    if options.is_off && options.is_widened {
        return Err(Skipped::Options);
    }
    let rank = match (is_exception, options.is_important) {
        (false, false) => Rank::Block,
        (true, false) => Rank::Except,
        (false, true) => Rank::Important,
        (true, true) => Rank::ImportantExcept,
    };
    let mut give = |what, reach| {
        let said = Said { rank, reach, is_rule: true };
        give(&Item { what, said, is_off: options.is_off });
    };
    match (name, regex) {
        (Some((name, reach)), _) if options.except.is_empty() => {
            give(What::Name(name.text()), reach);
        }
        (_, Some(regex)) => {
            let pattern = HostPattern::regex(regex, options.except)?;
            give(What::Pattern(pattern), Reach::Name);
        }
        (_, None) => {
            let pattern = HostPattern::glob(pattern, options.except)?;
            give(What::Pattern(pattern), Reach::Name);
        }
    }
    Ok(())
}

/// The pattern of a rule, and its options if there are any. In a regular expression, a `$` stands before none of
/// the bytes that the name of an option begins with.
fn split(rule: &[u8]) -> (&[u8], Option<&[u8]>) {
    let begins_options = |at: usize| match rule.get(at + 1) {
        Some(next) => next.is_ascii_alphanumeric() || b"_~ ".contains(next),
        None => true,
    };
    match memchr::memchr_iter(b'$', rule).find(|at| begins_options(*at)) {
        Some(at) => {
            let (pattern, options) = rule.split_at(at);
            (pattern, options.get(1..))
        }
        None => (rule, None),
    }
}

/// The rule up to a comment: a `#` behind a space, or behind a mark that ends a host. Elsewhere it belongs to a
/// URL. `glued` allows it behind a name, too.
pub(super) fn without_comment(rule: &[u8], glued: bool) -> &[u8] {
    let is_regex = rule.strip_prefix(b"@@").unwrap_or(rule).starts_with(b"/");
    let begins_comment = |at: usize| match at.checked_sub(1).and_then(|at| rule.get(at)) {
        Some(before) if before.is_ascii_whitespace() => true,
        Some(b'^' | b'|') => !is_regex,
        Some(before) => glued && !is_regex && before.is_ascii_alphanumeric(),
        None => true,
    };
    match memchr::memchr_iter(b'#', rule).find(|at| begins_comment(*at)) {
        Some(at) => rule.get(..at).unwrap_or(rule).trim_ascii_end(),
        None => rule,
    }
}

/// Whether a rule is a regular expression.
pub(super) fn is_regex(rule: &[u8]) -> bool {
    within_slashes(split(rule).0).is_some()
}

/// The regular expression between two slashes.
pub(super) fn within_slashes(pattern: &[u8]) -> Option<&[u8]> {
    pattern.strip_prefix(b"/")?.strip_suffix(b"/").filter(|regex| !regex.is_empty())
}

/// The one name that a pattern is about, if it is about one, and what it reaches.
fn one_name(pattern: &[u8]) -> Result<Option<(ListedName, Reach)>, Skipped> {
    let (host, is_ended) = without_end(pattern);
    let (name, reach) = if let Some(host) = host.strip_prefix(b"||") {
        match host.strip_prefix(b"*.") {
            Some(below) => (below, Reach::Below),
            None => (host, Reach::Subtree),
        }
    } else if let Some(host) = host.strip_prefix(b"|") {
        (host, Reach::Name)
    } else if let Some(below) = host.strip_prefix(b"*.").or_else(|| host.strip_prefix(b".")) {
        (below, Reach::Below)
    } else {
        return Ok(None);
    };
    // A dot before the end is that of the root.
    let rooted = name.strip_suffix(b".").filter(|name| is_ended && name.contains(&b'.'));
    let name = rooted.unwrap_or(name);
    // Without an end, `||ads` is also about ads.example and adserver.example.
    if !is_ended || name.starts_with(b"*") || name.starts_with(b".") || name.ends_with(b".") {
        return Ok(None);
    }
    match ListedName::read_any(name) {
        Some(name) => Ok(Some((name, reach))),
        None if name.contains(&b'*') => Ok(None),
        None => Err(Skipped::Pattern),
    }
}

/// Whether a line selects elements of pages: `example.com##.ad`, `#@#`, `#?#`, `#$#`, `$$`.
pub(super) fn is_cosmetic(line: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| memchr(b'#', rest)) {
        let at = from + at;
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        if before.is_none_or(|o| !o.is_ascii_whitespace())
            && line.get(at..).is_some_and(is_selector)
        {
            return true;
        }
        from = at + 1;
    }
    let html = |mark: &[u8]| line.windows(mark.len()).any(|window| window == mark);
    memchr(b'$', line).is_some() && (html(b"$$") || html(b"$@$"))
}

/// Whether a line of an adblock list that begins with `#` selects elements of pages.
pub(super) fn is_selector_there(line: &[u8]) -> bool {
    let by_id = line.strip_prefix(b"###").and_then(<[u8]>::first);
    is_selector(line) || by_id.is_some_and(|next| !next.is_ascii_whitespace() && *next != b'#')
}

/// Whether a line that begins with `#` selects elements of pages rather than being a comment.
pub(super) fn is_selector(line: &[u8]) -> bool {
    match line {
        [b'#', b'#', next, ..] => !next.is_ascii_whitespace() && *next != b'#',
        [b'#', b'@' | b'?' | b'$' | b'%', rest @ ..] => rest.contains(&b'#'),
        _ => false,
    }
}
