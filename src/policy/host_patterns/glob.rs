//! Compares a host with a pattern of an adblock rule: pieces of text with anything between them.

/// The reason for which a text is no pattern over hosts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoPattern {
    /// No host can match.
    NotAHost,
    /// Almost every host would match.
    General,
    /// It is a regular expression that cannot be compiled, or not within its bounds.
    Regex,
}

/// A pattern as pieces of text in their order, with anything between them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Glob {
    start: Start,
    /// Not empty, unless every host matches.
    pieces: Box<[Box<[u8]>]>,
    /// The last piece ends where the host does.
    is_ended: bool,
}

/// The place where the first piece begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    /// Anywhere in the host.
    Anywhere,
    /// Where a label begins: `||`.
    Label,
    /// Where the host begins: `|` or `://`.
    Host,
}

/// The fewest bytes of a pattern. Shorter ones are about too many hosts.
const FEWEST: usize = 4;

impl Glob {
    /// Reads a pattern in lower case. One that every host matches is accepted only if it `has_exceptions`.
    pub(super) fn read(pattern: &[u8], has_exceptions: bool) -> Result<Self, NoPattern> {
        let starts: [(&[u8], Start); 5] = [
            (b"||", Start::Label),
            (b"://", Start::Host),
            (b"//", Start::Host),
            (b"/", Start::Host),
            (b"|", Start::Host),
        ];
        let found =
            starts.iter().find_map(|(mark, start)| Some((pattern.strip_prefix(*mark)?, *start)));
        let (rest, start) = found.unwrap_or((pattern, Start::Anywhere));
        let (rest, is_ended) = without_end(rest);
        // `/ads/` would be a host without a dot; it is meant for a path.
        if pattern.starts_with(b"/") && !pattern.starts_with(b"//") && is_ended {
            return Err(NoPattern::NotAHost);
        }
        if !rest.iter().all(|byte| may_be_in_a_host(*byte) || *byte == b'*') {
            return Err(NoPattern::NotAHost);
        }
        let pieces = rest.split(|byte| *byte == b'*').filter(|piece| !piece.is_empty());
        let pieces: Box<[Box<[u8]>]> = pieces.map(Into::into).collect();
        let is_general = pieces.iter().all(|piece| **piece == *b".") || pattern.len() < FEWEST;
        if is_general && !has_exceptions {
            return Err(NoPattern::General);
        }
        let start = if rest.starts_with(b"*") { Start::Anywhere } else { start };
        let is_ended = is_ended && !rest.ends_with(b"*");
        Ok(Self { start, pieces, is_ended })
    }

    /// The longest piece, empty if there is none.
    pub(super) fn longest(&self) -> &[u8] {
        self.pieces.iter().max_by_key(|piece| piece.len()).map_or(&[], |piece| &**piece)
    }

    pub(super) fn matches(&self, host: &[u8]) -> bool {
        let Some((first, others)) = self.pieces.split_first() else { return true };
        match self.start {
            Start::Host => self.matches_at(host, 0, first, others),
            Start::Label => label_starts(host).any(|at| self.matches_at(host, at, first, others)),
            // The first place leaves most of the host to the pieces that follow.
            Start::Anywhere if others.is_empty() && self.is_ended => host.ends_with(first),
            Start::Anywhere => memchr::memmem::find(host, first)
                .is_some_and(|at| self.follow(host, at + first.len(), others)),
        }
    }

    fn matches_at(&self, host: &[u8], at: usize, first: &[u8], others: &[Box<[u8]>]) -> bool {
        let rest = host.get(at..).unwrap_or_default();
        rest.starts_with(first) && self.follow(host, at + first.len(), others)
    }

    /// Whether the other pieces follow from here.
    fn follow(&self, host: &[u8], from: usize, pieces: &[Box<[u8]>]) -> bool {
        let mut rest = host.get(from..).unwrap_or_default();
        let Some((last, between)) = pieces.split_last() else {
            return !self.is_ended || rest.is_empty();
        };
        for piece in between {
            let Some(at) = memchr::memmem::find(rest, piece) else { return false };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        if self.is_ended {
            rest.ends_with(last)
        } else {
            memchr::memmem::find(rest, last).is_some()
        }
    }
}

/// A pattern without the marks for the end of the host, and whether it had any.
pub(in crate::policy) fn without_end(pattern: &[u8]) -> (&[u8], bool) {
    const ENDS: [&[u8]; 6] = [b"^*", b"^|", b"/*", b"^", b"/", b"|"];
    let ended = ENDS.iter().find_map(|end| pattern.strip_suffix(*end));
    (ended.unwrap_or(pattern), ended.is_some())
}

/// Whether a host in lower case may contain this byte.
fn may_be_in_a_host(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')
}

/// The places in a host where a label begins.
fn label_starts(host: &[u8]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'.', host).map(|at| at + 1))
}
