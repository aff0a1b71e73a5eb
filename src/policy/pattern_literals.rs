//! Finds the literal text that a pattern must contain, so that most patterns are ruled out in one
//! cheap pass.
//!
//! Most patterns for URLs are plain text, or contain a piece of it (`/banner7[0-9]*\.gif`). One
//! automaton (Aho and Corasick's) finds all of these texts in one pass, at a few nanoseconds a byte. It
//! is built in advance, so that no text is expensive. A pattern that is more than text is searched for
//! only where its piece occurs. Texts are ASCII, so a letter has two cases and no third.

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::search_effort::{Effort, Unfinished};

/// The number of bytes, and of matches, between two readings of the clock.
const STRIDE: usize = 256;
const MANY: usize = 32;
/// The beginning of every URL, which tells no URL from another.
const EVERYWHERE: &[u8] = b"http://";

/// Consecutive bytes, each with whether its other case matches too.
type Bytes = Vec<(u8, bool)>;

/// The text in a pattern.
#[derive(Debug)]
pub(super) enum Literal {
    /// The whole pattern is this text.
    Whole(Bytes),
    /// The pattern contains this piece of text.
    Piece(Bytes),
    /// The pattern has no text that helps.
    None,
}

impl Literal {
    pub(super) fn of(hir: &Hir) -> Self {
        let mut pieces = Pieces::default();
        pieces.walk(hir);
        pieces.end();
        match pieces.ended.pop() {
            Some(bytes) if pieces.ended.is_empty() && !pieces.has_more => Self::Whole(bytes),
            last => {
                let all = pieces.ended.into_iter().chain(last);
                let telling = all.filter(|piece| piece.len() > 1 && !is_everywhere(piece));
                telling.max_by_key(Vec::len).map_or(Self::None, Self::Piece)
            }
        }
    }
}

fn is_everywhere(piece: &[(u8, bool)]) -> bool {
    EVERYWHERE
        .windows(piece.len())
        .any(|part| part.iter().zip(piece).all(|(byte, (other, _))| byte == other))
}

/// The pieces of text that a pattern always contains.
#[derive(Default)]
struct Pieces {
    ended: Vec<Bytes>,
    last: Bytes,
    /// The pattern has more than text.
    has_more: bool,
}

impl Pieces {
    fn walk(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty => {}
            HirKind::Literal(literal) => self.last.extend(literal.0.iter().map(|o| (*o, false))),
            HirKind::Class(class) => match letter(class) {
                Some(letter) => self.last.push(letter),
                None => self.interrupt(),
            },
            HirKind::Capture(capture) => self.walk(&capture.sub),
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.walk(part)),
            HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => self.interrupt(),
        }
    }

    fn interrupt(&mut self) {
        self.has_more = true;
        self.end();
    }

    fn end(&mut self) {
        if !self.last.is_empty() {
            self.ended.push(std::mem::take(&mut self.last));
        }
    }
}

/// Reads a class that is one byte, or both cases of a letter.
fn letter(class: &Class) -> Option<(u8, bool)> {
    let ascii = |(from, to): (u32, u32)| (from..=to.min(0x7f)).filter_map(|c| u8::try_from(c).ok());
    let some: Vec<u8> = match class {
        Class::Unicode(class) => {
            let ranges = class.iter().map(|range| (range.start().into(), range.end().into()));
            ranges.flat_map(ascii).take(3).collect()
        }
        Class::Bytes(class) => {
            let ranges = class.iter().map(|range| (range.start().into(), range.end().into()));
            ranges.flat_map(ascii).take(3).collect()
        }
    };
    match *some {
        [byte] => Some((byte, false)),
        [one, other] if one.eq_ignore_ascii_case(&other) => Some((one.to_ascii_lowercase(), true)),
        _ => None,
    }
}

/// The literals of many patterns.
#[derive(Debug)]
pub(super) struct Literals {
    automaton: AhoCorasick,
    /// For each literal, the patterns and parts it belongs to.
    uses: Vec<Use>,
}

/// The meaning of a literal that was found, in any case.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// The patterns that are this text, by number, and their spelling.
    patterns: Vec<(usize, Bytes)>,
    /// The parts that may have a match then.
    parts: Vec<usize>,
}

/// The progress of the search in one text.
#[derive(Debug)]
pub(super) struct Scan {
    state: OverlappingState,
    end: usize,
    /// The first pattern that was found.
    pub(super) first: Option<usize>,
    /// For each part, by number, whether it may have a match. Missing parts cannot.
    pub(super) parts: Vec<bool>,
}

impl Default for Scan {
    fn default() -> Self {
        Self { state: OverlappingState::start(), end: 0, first: None, parts: Vec::new() }
    }
}

/// Literals that are being collected.
#[derive(Debug, Default)]
pub(super) struct Gathered(std::collections::HashMap<Vec<u8>, Use>);

impl Gathered {
    pub(super) fn add_pattern(&mut self, bytes: Bytes, number: usize) {
        self.of(&bytes).patterns.push((number, bytes));
    }

    /// Patterns of this part may occur where this text occurs.
    pub(super) fn add_piece(&mut self, bytes: &Bytes, part: usize) {
        let parts = &mut self.of(bytes).parts;
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }

    fn of(&mut self, bytes: &Bytes) -> &mut Use {
        let text = bytes.iter().map(|(byte, _)| byte.to_ascii_lowercase()).collect();
        self.0.entry(text).or_default()
    }

    /// Builds the automaton.
    pub(super) fn build(self) -> Result<Literals, String> {
        let (texts, uses): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .prefilter(false)
            .build(texts)
            .map_err(|e| e.to_string())?;
        Ok(Literals { automaton, uses })
    }
}

impl Literals {
    pub(super) fn bytes(&self) -> usize {
        self.automaton.memory_usage()
    }

    /// Searches the text for all literals, from where the last call ended.
    pub(super) fn scan(
        &self,
        text: &str,
        scan: &mut Scan,
        effort: &Effort,
    ) -> Result<(), Unfinished> {
        while scan.end < text.len() {
            let end = text.len().min(scan.end + STRIDE);
            let mut found = 0;
            loop {
                let input = Input::new(text).span(0..end);
                let searched = self.automaton.try_find_overlapping(input, &mut scan.state);
                searched.map_err(|_| Unfinished)?;
                let Some(place) = scan.state.get_match() else { break };
                let at = text.as_bytes().get(place.range()).unwrap_or_default();
                if let Some(found) = self.uses.get(place.pattern().as_usize()) {
                    found.note(at, scan);
                }
                found += 1;
                if found % MANY == 0 && effort.is_used_up() {
                    return Err(Unfinished);
                }
            }
            scan.end = end;
            if end < text.len() && effort.is_used_up() {
                return Err(Unfinished);
            }
        }
        Ok(())
    }
}

impl Use {
    fn note(&self, text: &[u8], scan: &mut Scan) {
        for (number, bytes) in &self.patterns {
            let is_it = |(byte, (wanted, folds)): (&u8, &(u8, bool))| {
                byte == wanted || *folds && byte.to_ascii_lowercase() == *wanted
            };
            if scan.first.is_none_or(|first| *number < first) && text.iter().zip(bytes).all(is_it) {
                scan.first = Some(*number);
            }
        }
        // Parts are in order, so an occurrence costs no more than the number of parts.
        if let Some(last) = self.parts.last()
            && scan.parts.len() <= *last
        {
            scan.parts.resize(last + 1, false);
        }
        for part in &self.parts {
            if let Some(may_be_found) = scan.parts.get_mut(*part) {
                *may_be_found = true;
            }
        }
    }
}
