//! Reads one line of a published list of hosts.
//!
//! | format | a line | what it means here |
//! |---|---|---|
//! | hosts file | `0.0.0.0 ads.example tracker.example` | the names, if the address leads nowhere |
//! | domains | `ads.example`, `.ads.example`, `*.ads.example` | the name |
//! | adblock | `\|\|ads.example^`, `\|ads.example^`, `.ads.example^`, `\|\|ads*.example^`, `/ads[0-9]/` | a name, or a pattern |
//! | adblock | `@@` before one of these | an exception |
//! | dnsmasq | `address=/ads.example/0.0.0.0`, `local=/ads.example/` | the name |
//! | unbound | `local-zone: "ads.example" always_nxdomain` | the name |
//! | RPZ | `ads.example CNAME .`, `*.ads.example CNAME .` | the name alone, all names below it |
//! | Pi-hole's regular expressions | `^ads[0-9]+\.` | hosts that match |
//!
//! A name stands for itself and all names below it, unless its format says otherwise. The first line that
//! gives the format away decides it (see [`ListFormat::of`]), but lines of other formats are understood too.
//! A rule about less than a host, such as a path, an element of a page or one kind of content, is skipped
//! and counted by kind, because applying it to the whole host would refuse too much.

mod adblock;
mod hosts;
mod how;
mod item;
mod name;
mod options;
mod resolvers;
mod rpz;
mod skipped;

use memchr::memchr;

use super::domains::{Rank, Reach, Said};
use super::host_patterns::HostPattern;
use adblock::{is_cosmetic, is_selector, is_selector_there};
use hosts::{begins_with_address, first_column, words};
use item::bare;
use name::{ListedName, address};

pub use how::{How, ListFormat, ListOptions, Purpose};
pub use item::{Item, What};
pub use skipped::{Skipped, SkippedLine, SkippedLines};

/// The longest line read, in bytes; lines that can be applied are much shorter.
pub const MOST_LINE: usize = 16 << 10;

impl ListFormat {
    /// The format of a list with this beginning, by the first line that only one format has.
    pub fn of(beginning: &[u8]) -> Self {
        beginning.split(|&o| o == b'\n').find_map(Self::of_line).unwrap_or(Self::Domains)
    }

    fn of_line(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if matches!(line, [b';', ..] | [b'/', b'/', b' ', ..]) {
            return None;
        }
        let adblock: [&[u8]; 5] = [b"!", b"[Adblock", b"|", b"@@", b"##"];
        match line.first()? {
            _ if is_cosmetic(line) && line.first() != Some(&b'#') => Some(Self::Adblock),
            // Hosts files have such lines and headings too.
            b'#' if !is_selector(line) => None,
            _ if adblock.iter().any(|start| line.starts_with(start)) => Some(Self::Adblock),
            _ if is_dnsmasq(line) => Some(Self::Dnsmasq),
            _ if is_unbound(line) => Some(Self::Unbound),
            _ if rpz::tells(line) => Some(Self::Rpz),
            _ => {
                let mut words = words(hosts::without_comment(line));
                match (words.next()?, words.next()) {
                    (first, Some(_)) => address(first).map(|_| Self::Hosts),
                    (first, None) => Self::of_word(first),
                }
            }
        }
    }

    fn of_word(word: &[u8]) -> Option<Self> {
        let is_rule = word.ends_with(b"^") || word.starts_with(b"-") || adblock::is_regex(word);
        match () {
            () if is_rule => Some(Self::Adblock),
            () if is_bare_regex(word) => Some(Self::Regex),
            () => ListedName::read(word).map(|_| Self::Domains),
        }
    }
}

fn is_dnsmasq(line: &[u8]) -> bool {
    let keys: [&[u8]; 3] = [b"address=/", b"local=/", b"server=/"];
    keys.iter().any(|key| line.starts_with(key))
}

fn is_unbound(line: &[u8]) -> bool {
    let keys: [&[u8]; 3] = [b"local-zone:", b"local-data:", b"local-data-ptr:"];
    line == b"server:" || keys.iter().any(|key| line.starts_with(key))
}

/// Reads whole lines, passes what each says to `give` with its number and its text, and returns their number.
/// The last line may lack its line end.
pub fn read(
    bytes: &[u8],
    how: How,
    skipped: &mut SkippedLines,
    mut give: impl FnMut(&Item<'_>, u32, &[u8]),
) -> u32 {
    let (mut rest, mut number) = (bytes, 0_u32);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(1..).unwrap_or_default();
        number = number.saturating_add(1);
        let read = match line.len() > MOST_LINE {
            true => Err(Skipped::Long),
            false => read_line(line, how, &mut |item| {
                let rank = if how.purpose == Purpose::Allow { Rank::Allow } else { item.said.rank };
                if rank == item.said.rank {
                    give(item, number, line);
                } else {
                    give(&Item { said: Said { rank, ..item.said }, ..item.clone() }, number, line);
                }
            }),
        };
        if let Err(kind) = read {
            skipped.add(kind, number, line.trim_ascii());
        }
    }
    number
}

/// Reads a line, and passes each thing that it says to `give`.
fn read_line(line: &[u8], how: How, give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    let (whole, line) = (line, line.trim_ascii());
    if is_comment(line, how.format) {
        return Ok(());
    }
    match how.format {
        ListFormat::Regex => regex_line(line, how, give),
        ListFormat::Rpz if rpz::is_zone(whole) => rpz::read(whole, give),
        // Most lines of most lists.
        _ if line.iter().all(|byte| name::may_contain(*byte)) => word(line, how, give),
        // In a hosts file, a comment may follow address and names without a space.
        ListFormat::Hosts if begins_with_address(line) => {
            let line = hosts::without_comment(line);
            match words(line).nth(1) {
                Some(_) => hosts::hosts_line(line, how.purpose, give),
                None => word(line.trim_ascii_end(), how, give),
            }
        }
        _ if is_cosmetic(line) => Err(Skipped::Cosmetic),
        _ => other_line(line, how, give),
    }
}

fn is_comment(line: &[u8], format: ListFormat) -> bool {
    match line {
        [] | [b'!' | b';', ..] | [b'/', b'/', b' ', ..] => true,
        [b'#', ..] => format != ListFormat::Adblock || !is_selector_there(line),
        // The heading of an adblock list.
        [b'[', .., b']'] => format != ListFormat::Regex && address(line).is_none(),
        _ => false,
    }
}

/// Reads a line that may be of any format and is more than a word.
fn other_line(line: &[u8], how: How, give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    if let Some(rule) = line.strip_prefix(b"@@") {
        return adblock::rule(adblock::without_comment(rule, false), true, how, give);
    }
    if line.starts_with(b"|") {
        return adblock::rule(adblock::without_comment(line, false), false, how, give);
    }
    if rpz::tells(line) {
        return rpz::read(line, give);
    }
    if let Some(read) = resolvers::dnsmasq(line, give).or_else(|| resolvers::unbound(line, give)) {
        return read;
    }
    let column = first_column(line).filter(|word| address(word).is_none());
    if let Some(word) = column.and_then(ListedName::read) {
        give(&bare(word.text()));
        return Ok(());
    }
    let rule = adblock::without_comment(line, how.format != ListFormat::Adblock);
    let is_rule =
        !rule.iter().any(u8::is_ascii_whitespace) && rule.iter().any(|o| b"*^|/$".contains(o));
    if is_rule && ListedName::read(rule).is_none() {
        // In a list of names, a slash behind one is all that is left of a URL.
        let name = rule.strip_suffix(b"/").filter(|_| how.format != ListFormat::Adblock);
        return match name {
            Some(name) if ListedName::read(name).is_some() => word(name, how, give),
            _ if is_bare_regex(rule) && how.format != ListFormat::Adblock => {
                regex_line(rule, how, give)
            }
            _ => adblock::rule(rule, false, how, give)
                .map_err(|kind| what_is(rule, how.format, kind)),
        };
    }
    let line = hosts::without_comment(line);
    let mut words = words(line);
    let Some(first) = words.next() else { return Ok(()) };
    match words.next() {
        Some(_) if address(first).is_some() => hosts::hosts_line(line, how.purpose, give),
        Some(_) => Err(Skipped::Unknown),
        None => word(first, how, give),
    }
}

/// Whether a word is a regular expression without slashes, as Pi-hole has them.
fn is_bare_regex(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_graphic)
        && (word.starts_with(b"^") || word.starts_with(b"(^") || word.contains(&b'\\'))
}

/// Reads a word that stands alone.
fn word(word: &[u8], how: How, give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    match ListedName::read(word).filter(|_| may_be_a_name(word, how.format)) {
        Some(name) => {
            give(&bare(name.text()));
            Ok(())
        }
        None if how.format == ListFormat::Adblock => adblock::rule(word, false, how, give),
        None if is_bare_regex(word) => regex_line(word, how, give),
        None => Err(what_is(word, how.format, Skipped::Unknown)),
    }
}

/// Whether a word is a name, and not a piece of text to be found in hosts. Only adblock lists have such pieces:
/// they end with a dot, or their first or last byte is none that names of hosts have there.
fn may_be_a_name(word: &[u8], format: ListFormat) -> bool {
    let is_outside = |byte: Option<&u8>| byte.is_some_and(|byte| b"-_.".contains(byte));
    format != ListFormat::Adblock || !(is_outside(word.first()) || is_outside(word.last()))
}

/// Reads a line of a list of regular expressions. Options stand behind a `;`.
fn regex_line(line: &[u8], how: How, give: &mut impl FnMut(&Item<'_>)) -> Result<(), Skipped> {
    let (rule, is_exception) = line.strip_prefix(b"@@").map_or((line, false), |rule| (rule, true));
    let rule = adblock::without_comment(rule, false);
    if is_exception || rule.starts_with(b"|") || adblock::is_regex(rule) {
        return adblock::rule(rule, is_exception, how, give);
    }
    let line = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    if !line.iter().all(u8::is_ascii_graphic) {
        return Err(Skipped::Unknown);
    }
    if memchr(b';', line).is_some() {
        return Err(Skipped::Options);
    }
    let pattern = HostPattern::regex(line, Vec::new())?;
    let said = Said { rank: Rank::Block, reach: Reach::Name, is_rule: true };
    give(&Item { what: What::Pattern(pattern), said, is_off: false });
    Ok(())
}

/// The reason for skipping a word that is not a name.
fn what_is(word: &[u8], format: ListFormat, reason: Skipped) -> Skipped {
    let is_pattern = !matches!(format, ListFormat::Dnsmasq | ListFormat::Unbound)
        && word.iter().any(|o| b"/*^|$=?&:".contains(o));
    match reason {
        Skipped::Unknown | Skipped::Pattern if is_pattern && word.is_ascii() => Skipped::Pattern,
        Skipped::Pattern if format != ListFormat::Adblock => Skipped::Unknown,
        reason => reason,
    }
}

#[cfg(test)]
#[path = "list_format_tests.rs"]
mod tests;
