//! Reads one line of a published domain list: hosts file, plain domains or adblock rules.
//!
//! | format | a line | what it means here |
//! |---|---|---|
//! | hosts file | `0.0.0.0 ads.example tracker.example` | the names, if the address leads nowhere |
//! | domains | `ads.example`, `.ads.example`, `*.ads.example` | the name |
//! | adblock | `\|\|ads.example^`, with options that still mean the whole domain | the name |
//! | adblock | `@@\|\|good.example^` | an exception |
//!
//! Each name stands for itself and all names below it. The first line that gives the format away decides
//! it (see [`ListFormat::of`]), but lines of other formats are understood too. A rule about less than a
//! domain, such as a path, an element of a page or one kind of content, is skipped and counted by kind,
//! because applying it to the whole domain would refuse too much.

use std::net::IpAddr;

use memchr::memchr;

use super::domains::{DraftPart, Listed, MOST_BYTES, Rank};

/// The longest line read, in bytes; lines that can be applied are much shorter.
pub const MOST_LINE: usize = 16 << 10;

/// The format of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListFormat {
    /// Network rules, with `||` before a domain.
    Adblock,
    /// One domain a line.
    Domains,
    /// An address followed by names.
    Hosts,
}

impl ListFormat {
    /// The format's name in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Adblock => "adblock rules",
            Self::Domains => "domains",
            Self::Hosts => "a hosts file",
        }
    }

    /// The format of a list with this beginning, by the first line that only one format has.
    pub fn of(beginning: &[u8]) -> Self {
        beginning.split(|&o| o == b'\n').find_map(Self::of_line).unwrap_or(Self::Domains)
    }

    fn of_line(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let adblock: [&[u8]; 5] = [b"!", b"[Adblock", b"||", b"@@", b"##"];
        match line.first()? {
            _ if is_cosmetic(line) && line.first() != Some(&b'#') => Some(Self::Adblock),
            // Hosts files have such lines and headings too.
            b'#' if !is_selector(line) => None,
            _ if adblock.iter().any(|start| line.starts_with(start)) => Some(Self::Adblock),
            _ => {
                let mut words = words(line).take_while(|word| !word.starts_with(b"#"));
                match (words.next()?, words.next()) {
                    (first, Some(_)) => address(first).map(|_| Self::Hosts),
                    (first, None) => Domain::read(first).is_some().then_some(Self::Domains),
                }
            }
        }
    }
}

/// The purpose of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Listed names are allowed.
    Allow,
    /// Listed names are refused.
    Block,
}

/// The reason for skipping a line.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Skipped {
    /// It hides elements of pages, or makes an exception to that.
    Cosmetic,
    /// It has options that depend on things a proxy cannot see, or that narrow it to some requests.
    Options,
    /// It matches parts of a URL.
    Pattern,
    /// It is a line of a hosts file whose address leads somewhere.
    Address,
    /// It is longer than [`MOST_LINE`].
    Long,
    /// It has none of the known forms.
    Unknown,
}

impl Skipped {
    /// All of them, in the order of messages.
    pub const ALL: [Self; 6] =
        [Self::Cosmetic, Self::Options, Self::Pattern, Self::Address, Self::Long, Self::Unknown];

    /// The words for skipped lines of this kind in messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cosmetic => "cosmetic",
            Self::Options => "with options that cannot be kept",
            Self::Pattern => "about more than a domain",
            Self::Address => "with an address that leads somewhere",
            Self::Long => "longer than 16 KiB",
            Self::Unknown => "that are no rule",
        }
    }
}

/// The skipped lines of a list: the number of each kind, and the first line of each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SkippedLines {
    kinds: [(u32, Option<First>); Skipped::ALL.len()],
}

/// The first skipped line of a kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct First {
    /// The line number.
    pub line: u32,
    /// The beginning of the line.
    pub text: Box<[u8]>,
}

impl SkippedLines {
    const SHOWN: usize = 60;

    /// Counts a skipped line.
    pub fn add(&mut self, kind: Skipped, line: u32, text: &[u8]) {
        let Some((count, first)) = self.kinds.get_mut(kind as usize) else { return };
        *count = count.saturating_add(1);
        first.get_or_insert_with(|| First {
            line,
            text: text.get(..Self::SHOWN + 1).unwrap_or(text).into(),
        });
    }

    /// Adds the counts of a later piece, with this many lines before it.
    pub fn append(&mut self, later: Self, lines_before: u32) {
        for ((count, first), (more, other)) in self.kinds.iter_mut().zip(later.kinds) {
            *count = count.saturating_add(more);
            if first.is_none() {
                *first = other.map(|f| First { line: f.line.saturating_add(lines_before), ..f });
            }
        }
    }

    /// The kinds that occur, each with its count and its first line.
    pub fn each(&self) -> impl Iterator<Item = (Skipped, u32, &First)> {
        let kinds = Skipped::ALL.into_iter().zip(&self.kinds);
        kinds.filter_map(|(kind, (count, first))| Some((kind, *count, first.as_ref()?)))
    }

    /// The number of all skipped lines.
    pub fn sum(&self) -> u32 {
        self.kinds.iter().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }
}

/// Reads whole lines and returns their number. The last may lack its line end.
pub fn read(
    bytes: &[u8],
    format: ListFormat,
    purpose: Purpose,
    part: &mut DraftPart,
    skipped: &mut SkippedLines,
) -> u32 {
    let (mut rest, mut number) = (bytes, 0_u32);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(1..).unwrap_or_default();
        number = number.saturating_add(1);
        let read = match line.len() > MOST_LINE {
            true => Err(Skipped::Long),
            false => read_line(line, format, purpose, &mut |name, rank| {
                let rank = if purpose == Purpose::Allow { Rank::Allow } else { rank };
                part.add(name, rank, number);
            }),
        };
        if let Err(kind) = read {
            skipped.add(kind, number, line.trim_ascii());
        }
    }
    number
}

/// Reads a line, and passes each name in it to `give`.
fn read_line(
    line: &[u8],
    format: ListFormat,
    purpose: Purpose,
    give: &mut impl FnMut(&[u8], Rank),
) -> Result<(), Skipped> {
    let line = line.trim_ascii();
    match line {
        [] | [b'!', ..] => return Ok(()),
        [b'#', ..] if format != ListFormat::Adblock || !is_selector(line) => return Ok(()),
        // The heading of an adblock list.
        [b'[', .., b']'] if address(line).is_none() => return Ok(()),
        _ => {}
    }
    // In a hosts file, a comment may follow address and names without a space.
    let is_hosts_line =
        format == ListFormat::Hosts && words(line).next().and_then(address).is_some();
    if !is_hosts_line && is_cosmetic(line) {
        return Err(Skipped::Cosmetic);
    }
    if let Some(rule) = line.strip_prefix(b"@@") {
        let rule = rule.strip_prefix(b"||").ok_or(Skipped::Pattern)?;
        return network_rule(rule, true, give);
    }
    if let Some(rule) = line.strip_prefix(b"||") {
        return network_rule(rule, false, give);
    }
    let line = without_comment(line, format);
    let mut words = words(line);
    let Some(first) = words.next() else { return Ok(()) };
    match (address(first), words.next()) {
        (Some(ip), Some(name)) => hosts_line(ip, name, words, purpose, give),
        (_, Some(_)) => Err(Skipped::Unknown),
        (_, None) => {
            let domain = Domain::read(first).ok_or_else(|| what_is(first, format))?;
            give(domain.text(), Rank::Block);
            Ok(())
        }
    }
}

/// The reason for skipping a word that is not a domain.
fn what_is(word: &[u8], format: ListFormat) -> Skipped {
    let is_pattern = word.iter().any(|o| b"/*^|$=?&:".contains(o));
    if format == ListFormat::Adblock || (is_pattern && word.is_ascii()) {
        Skipped::Pattern
    } else {
        Skipped::Unknown
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn without_comment(line: &[u8], format: ListFormat) -> &[u8] {
    let mut from = 0;
    while let Some(at) = line.get(from..).and_then(|rest| memchr(b'#', rest)) {
        let at = from + at;
        let before = at.checked_sub(1).and_then(|at| line.get(at));
        if format == ListFormat::Hosts || before.is_none_or(u8::is_ascii_whitespace) {
            return line.get(..at).unwrap_or_default();
        }
        from = at + 1;
    }
    line
}

/// Reads an address, with or without brackets.
fn address(word: &[u8]) -> Option<IpAddr> {
    // Most words are names, which this test rules out quickly.
    let may_be = matches!(word.last(), Some(b'0'..=b'9' | b']' | b':')) || word.contains(&b':');
    if !may_be {
        return None;
    }
    let text = std::str::from_utf8(word).ok()?;
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inside.parse().ok()
}

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

fn hosts_line<'l>(
    ip: IpAddr,
    first: &'l [u8],
    others: impl Iterator<Item = &'l [u8]>,
    purpose: Purpose,
    give: &mut impl FnMut(&[u8], Rank),
) -> Result<(), Skipped> {
    let leads_nowhere = ip.is_unspecified() || ip.to_canonical().is_loopback();
    let mut outcome = Ok(());
    for word in std::iter::once(first).chain(others) {
        let own = OWN_NAMES.iter().any(|own| word.eq_ignore_ascii_case(own))
            || word.starts_with(b"ip6-all");
        // Some lists name the address itself.
        if own || address(word).is_some() {
            continue;
        }
        if !leads_nowhere && purpose == Purpose::Block {
            return Err(Skipped::Address);
        }
        match Domain::read_any(word) {
            Some(domain) => give(domain.text(), Rank::Block),
            None => outcome = Err(Skipped::Unknown),
        }
    }
    outcome
}

/// Whether a line that begins with `#` selects elements of pages rather than being a comment.
fn is_selector(line: &[u8]) -> bool {
    match line {
        [b'#', b'#', next, ..] => !next.is_ascii_whitespace() && *next != b'#',
        [b'#', b'@' | b'?' | b'$' | b'%', rest @ ..] => rest.contains(&b'#'),
        _ => false,
    }
}

/// Whether a line selects elements of pages: `example.com##.ad`, `#@#`, `#?#`, `#$#`, `$$`.
fn is_cosmetic(line: &[u8]) -> bool {
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

/// Reads the rest of a line after `||`: a domain, the end of the pattern, and options.
fn network_rule(
    rule: &[u8],
    exception: bool,
    give: &mut impl FnMut(&[u8], Rank),
) -> Result<(), Skipped> {
    let (pattern, options) = match memchr(b'$', rule) {
        Some(at) => (rule.get(..at).unwrap_or_default(), rule.get(at + 1..)),
        None => (rule, None),
    };
    let end = pattern.iter().position(|o| b"^/|".contains(o));
    let (host, tail) = pattern.split_at(end.unwrap_or(pattern.len()));
    let all: [&[u8]; 7] = [b"", b"^", b"^*", b"^|", b"/", b"/*", b"|"];
    // `||ads.` matches ads.example, ads.example.com and so on.
    if !all.contains(&tail) || (tail.is_empty() && host.ends_with(b".")) {
        return Err(Skipped::Pattern);
    }
    let domain = Domain::read_any(host).ok_or(Skipped::Pattern)?;
    let important = options.map_or(Ok(false), read_options)?;
    let rank = match (exception, important) {
        (false, false) => Rank::Block,
        (true, false) => Rank::Except,
        (false, true) => Rank::Important,
        (true, true) => Rank::ImportantExcept,
    };
    give(domain.text(), rank);
    Ok(())
}

/// Whether the rule is important. An error if it does not apply to the whole domain.
fn read_options(options: &[u8]) -> Result<bool, Skipped> {
    let mut important = false;
    for option in options.split(|&o| o == b',').map(<[u8]>::trim_ascii) {
        match option {
            b"important" => important = true,
            // The domain is a third party on most pages, so the rule is applied everywhere.
            b"third-party" | b"3p" => {}
            b"all" | b"doc" | b"document" | b"popup" | b"network" | b"match-case" => {}
            b"elemhide" | b"ehide" | b"generichide" | b"ghide" | b"specifichide" | b"shide" => {
                return Err(Skipped::Cosmetic);
            }
            _ => return Err(Skipped::Options),
        }
    }
    Ok(important)
}

/// A domain as the set keeps it: in lower case and ASCII, without a dot at either end. An address is kept
/// as its usual text.
struct Domain {
    text: [u8; MOST_BYTES],
    length: usize,
}

impl Domain {
    /// Reads a word that stands alone. A name of one label needs a dot or `*.` to be read as a name.
    fn read(word: &[u8]) -> Option<Self> {
        let domain = Self::read_any(word)?;
        let says = |text: &[u8]| text.iter().any(|o| b".:".contains(o));
        (says(word) || says(domain.text())).then_some(domain)
    }

    fn read_any(word: &[u8]) -> Option<Self> {
        if let Some(ip) = address(word) {
            return Self::copied(ip.to_canonical().to_string().as_bytes());
        }
        let name = word.strip_prefix(b"*").filter(|rest| rest.starts_with(b".")).unwrap_or(word);
        let name = name.strip_prefix(b".").unwrap_or(name);
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_ascii() {
            return Self::copied(name)?.checked();
        }
        let name = idna::domain_to_ascii(std::str::from_utf8(name).ok()?).ok()?;
        Self::copied(name.as_bytes())?.checked()
    }

    fn copied(text: &[u8]) -> Option<Self> {
        let mut domain = Self { text: [0; MOST_BYTES], length: text.len() };
        domain.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(domain)
    }

    fn text(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }

    /// The name in lower case, if it is valid: labels of 1 to 63 letters, digits, `-` and `_`, the last
    /// label not a number.
    fn checked(mut self) -> Option<Self> {
        const MOST_OF_A_LABEL: usize = 63;
        let (mut label, mut number) = (0, true);
        for byte in self.text.get_mut(..self.length)? {
            match byte {
                b'.' if (1..=MOST_OF_A_LABEL).contains(&label) => {
                    (label, number) = (0, true);
                    continue;
                }
                b'0'..=b'9' => {}
                b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => number = false,
                _ => return None,
            }
            byte.make_ascii_lowercase();
            label += 1;
        }
        ((1..=MOST_OF_A_LABEL).contains(&label) && !number).then_some(self)
    }
}

/// For fuzz targets: every list yields only valid names, and pieces of it yield the same as the whole.
#[cfg(feature = "internals")]
pub fn fuzz(format: ListFormat, bytes: &[u8]) {
    use super::domains::{Draft, NameKey};

    let key = NameKey::drawn();
    for purpose in [Purpose::Block, Purpose::Allow] {
        let (mut whole, mut skipped) = (DraftPart::new(key), SkippedLines::default());
        let lines = read(bytes, format, purpose, &mut whole, &mut skipped);
        assert_eq!(lines as usize, bytes.split_inclusive(|&o| o == b'\n').count());
        let names: Vec<_> = whole.each().map(|(name, value)| (name.to_vec(), value)).collect();
        for (name, listed) in &names {
            let text = std::str::from_utf8(name).unwrap_or("no ASCII");
            assert!((1..=MOST_BYTES).contains(&text.len()), "{text:?}");
            assert!(!text.contains(|c: char| c.is_ascii_uppercase() || !c.is_ascii_graphic()));
            let is_name = !text.split('.').any(str::is_empty);
            assert!(is_name || text.parse::<IpAddr>().is_ok(), "{text:?}");
            assert!((1..=lines).contains(&listed.line));
            assert!(purpose == Purpose::Block || listed.rank == Rank::Allow);
        }
        let mut draft = Draft::new(key, 0);
        assert!(draft.append(&whole, 0));
        let set = draft.finish();
        for (name, listed) in &names {
            let found = set.find(std::str::from_utf8(name).unwrap_or("no ASCII"));
            assert!(found.is_some_and(|found| found.rank >= listed.rank));
        }
        let cut = bytes.split_inclusive(|&o| o == b'\n').next().map_or(0, <[u8]>::len);
        let (first, rest) = bytes.split_at(cut);
        let (mut one, mut other) = (DraftPart::new(key), DraftPart::new(key));
        let (mut said, mut more) = (SkippedLines::default(), SkippedLines::default());
        let before = read(first, format, purpose, &mut one, &mut said);
        read(rest, format, purpose, &mut other, &mut more);
        said.append(more, before);
        assert_eq!(said, skipped);
        let later = other
            .each()
            .map(|(name, listed)| (name.to_vec(), Listed { line: listed.line + before, ..listed }));
        let pieces: Vec<_> =
            one.each().map(|(name, listed)| (name.to_vec(), listed)).chain(later).collect();
        assert_eq!(pieces, names);
    }
}

#[cfg(test)]
#[path = "list_format_tests.rs"]
mod tests;
