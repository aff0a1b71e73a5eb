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
    let about = match regex {
        // It is meant for URLs.
        Some(regex) if regex.windows(2).any(|two| two == b"\\/" || two == b"//") => {
            return Err(Skipped::Pattern);
        }
        // Pi-hole's options, such as `;querytype=A`.
        Some(regex) if memchr(b';', regex).is_some() => return Err(Skipped::Options),
        Some(_) => None,
        None => Some(About::read(pattern)?),
    };
    // An exception would allow too much, and an allow list has nothing else.
    let may_widen =
        how.options == ListOptions::Wide && how.purpose == Purpose::Block && !is_exception;
    let options = match options {
        Some(options) => options::read(options, is_exception, may_widen)?,
        None => RuleOptions::default(),
    };
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
    match (about, regex) {
        (Some(About::Name(name, reach)), _) if options.except.is_empty() => {
            give(What::Name(name.text()), reach);
        }
        (None, Some(regex)) => {
            let pattern = HostPattern::regex(regex, options.except)?;
            give(What::Pattern(pattern), Reach::Name);
        }
        _ => {
            let pattern = HostPattern::glob(pattern, options.except)?;
            give(What::Pattern(pattern), Reach::Name);
        }
    }
    Ok(())
}

/// The pattern of a rule, and its options if there are any.
fn split(rule: &[u8]) -> (&[u8], Option<&[u8]>) {
    // A regular expression may contain a `$`.
    let from = match rule.first() {
        Some(b'/') => {
            let ends = memchr::memrchr_iter(b'/', rule).filter(|at| *at > 0);
            let mut ends = ends.filter(|at| matches!(rule.get(at + 1), None | Some(b'$')));
            ends.next().unwrap_or(0)
        }
        _ => 0,
    };
    match rule.get(from..).and_then(|rest| memchr(b'$', rest)) {
        Some(at) => {
            let (pattern, options) = rule.split_at(from + at);
            (pattern, options.get(1..))
        }
        None => (rule, None),
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

/// What a pattern that is no regular expression is about.
enum About {
    Name(ListedName, Reach),
    Hosts,
}

impl About {
    fn read(pattern: &[u8]) -> Result<Self, Skipped> {
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
            return Ok(Self::Hosts);
        };
        // Without an end, `||ads` is also about ads.example and adserver.example.
        if !is_ended || name.starts_with(b"*") || name.starts_with(b".") || name.ends_with(b".") {
            return Ok(Self::Hosts);
        }
        match ListedName::read_any(name) {
            Some(name) => Ok(Self::Name(name, reach)),
            None if name.contains(&b'*') => Ok(Self::Hosts),
            None => Err(Skipped::Pattern),
        }
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

/// Whether a line that begins with `#` selects elements of pages rather than being a comment.
pub(super) fn is_selector(line: &[u8]) -> bool {
    match line {
        [b'#', b'#', next, ..] => !next.is_ascii_whitespace() && *next != b'#',
        [b'#', b'@' | b'?' | b'$' | b'%', rest @ ..] => rest.contains(&b'#'),
        _ => false,
    }
}
