//! Gathers what the lines of all lists say, and makes a [`Filter`] of it.

use super::domains::{Draft, DraftPart, Dropped, MOST_NAMES, Mark as NamesMark, NameKey, Rank};
use super::host_patterns::{HostPattern, HostPatterns, ListedPattern, MOST_PATTERNS, Unused};
#[cfg(feature = "internals")]
use super::list_format::{self, How, ListFormat, ListOptions, Purpose, SkippedLines};
use super::list_format::{Item, Skipped, What};
use super::lists::Filter;

/// What the lines of a piece of a list say.
#[derive(Debug)]
pub struct ListPiece {
    names: DraftPart,
    patterns: Vec<ListedPattern>,
    off: Vec<(HostPattern, Rank)>,
}

impl ListPiece {
    /// An empty piece.
    pub fn new(key: NameKey) -> Self {
        Self { names: DraftPart::new(key), patterns: Vec::new(), off: Vec::new() }
    }

    /// Adds what a line says. Lines are counted from the beginning of the piece.
    pub fn add(&mut self, item: &Item<'_>, line: u32) {
        match &item.what {
            What::Name(name) if item.is_off => self.names.switch_off(name, item.said),
            What::Name(name) => self.names.add(name, item.said, line),
            What::Pattern(pattern) if item.is_off => {
                self.off.push((pattern.clone(), item.said.rank));
            }
            What::Pattern(pattern) => {
                let (pattern, rank) = (pattern.clone(), item.said.rank);
                self.patterns.push(ListedPattern { pattern, rank, line });
            }
        }
    }

    /// The names in their order.
    #[cfg(feature = "internals")]
    pub fn names(&self) -> &DraftPart {
        &self.names
    }

    /// The number of patterns.
    #[cfg(feature = "internals")]
    pub fn patterns(&self) -> usize {
        self.patterns.len()
    }
}

/// All lists, as far as they have been read.
#[derive(Debug)]
pub struct FilterDraft {
    names: Draft,
    patterns: Vec<ListedPattern>,
    off: Vec<(HostPattern, Rank)>,
}

/// The length of a draft at some moment.
#[derive(Clone, Copy, Debug)]
pub struct DraftMark {
    names: NamesMark,
    patterns: usize,
    off: usize,
}

/// The bound that the lists are beyond: a number, and what it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooMuch(pub usize, pub &'static str);

impl FilterDraft {
    /// An empty draft for lists of about this many bytes.
    pub fn new(key: NameKey, bytes: usize) -> Self {
        let names = Draft::new(key, bytes);
        Self { names, patterns: Vec::new(), off: Vec::new() }
    }

    /// Adds a piece; `lines_before` counts the lines of all lists before it.
    ///
    /// # Errors
    ///
    /// There would be too many names or patterns. Nothing else may be done with the draft then.
    pub fn append(&mut self, piece: ListPiece, lines_before: u32) -> Result<(), TooMuch> {
        if !self.names.append(&piece.names, lines_before) {
            return Err(TooMuch(MOST_NAMES, "names"));
        }
        self.patterns.extend(
            piece
                .patterns
                .into_iter()
                .map(|it| ListedPattern { line: it.line + lines_before, ..it }),
        );
        self.off.extend(piece.off);
        if self.patterns.len() > MOST_PATTERNS {
            return Err(TooMuch(MOST_PATTERNS, "patterns"));
        }
        Ok(())
    }

    /// The number of names and patterns, doubles included.
    pub fn len(&self) -> usize {
        self.names.len() + self.patterns.len()
    }

    /// Whether there is nothing in it.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Marks the current length.
    pub fn mark(&self) -> DraftMark {
        DraftMark { names: self.names.mark(), patterns: self.patterns.len(), off: self.off.len() }
    }

    /// Drops everything added since the mark.
    pub fn back_to(&mut self, mark: DraftMark) {
        self.names.back_to(mark.names);
        self.patterns.truncate(mark.patterns);
        self.off.truncate(mark.off);
    }

    /// Makes the filter, on the threads of the current pool. Each entry of `lists` is the number of lines
    /// before that list, in rising order, and its source.
    ///
    /// # Errors
    ///
    /// A sentence: there are too many patterns, or they are too large together.
    pub fn finish(self, lists: Vec<(u32, u16)>) -> Result<Finished, String> {
        let starts: Vec<u32> = lists.iter().map(|(before, _)| *before).collect();
        let (names, mut dropped) = self.names.finish(&starts);
        let mut unfit = Vec::new();
        let patterns = HostPatterns::new(self.patterns, &self.off, |it, reason| {
            let after = starts.partition_point(|before| *before < it.line);
            let Some(list) = after.checked_sub(1) else { return };
            let Some(dropped) = dropped.get_mut(list) else { return };
            match reason {
                Unused::SwitchedOff => dropped.switched_off += 1,
                Unused::Same => dropped.same_name += 1,
                Unused::Overruled => dropped.overruled += 1,
                Unused::Unfit(reason) => unfit.push(UnfitPattern {
                    list,
                    line: it.line - starts.get(list).copied().unwrap_or(0),
                    text: it.pattern.text().into(),
                    reason: reason.into(),
                }),
            }
        })?;
        Ok(Finished { filter: Filter::new(names, patterns, lists), dropped, unfit })
    }
}

/// The filter, and what is not in it.
#[derive(Debug)]
pub struct Finished {
    /// The filter.
    pub filter: Filter,
    /// What decides nothing, for each list.
    pub dropped: Vec<Dropped>,
    /// The patterns that turned out to be too large or too general.
    pub unfit: Vec<UnfitPattern>,
}

/// A pattern that cannot be used.
#[derive(Debug)]
pub struct UnfitPattern {
    /// The number of its list.
    pub list: usize,
    /// Its line there.
    pub line: u32,
    /// The pattern.
    pub text: Box<[u8]>,
    /// Why.
    pub reason: Skipped,
}

/// A filter of these lists. The first is an allow list; sources are numbered from 5.
#[cfg(test)]
pub(super) fn filter_of(lists: &[&str]) -> Filter {
    let key = NameKey::drawn();
    let mut draft = FilterDraft::new(key, 0);
    let (mut places, mut before, mut purpose) = (Vec::new(), 0, Purpose::Allow);
    for (text, source) in lists.iter().zip(5..) {
        let mut piece = ListPiece::new(key);
        let format = ListFormat::of(text.as_bytes());
        let how = How { format, purpose, options: ListOptions::Strict };
        let mut skipped = SkippedLines::default();
        let add = |item: &Item<'_>, line, _: &[u8]| piece.add(item, line);
        let lines = list_format::read(text.as_bytes(), how, &mut skipped, add);
        places.push((before, source));
        draft.append(piece, before).unwrap();
        before += lines;
        purpose = Purpose::Block;
    }
    draft.finish(places).unwrap().filter
}

/// For fuzz targets: every list yields only valid names, each of them is found in the set, and pieces of a
/// list yield the same as the whole.
#[cfg(feature = "internals")]
pub fn fuzz(format: ListFormat, bytes: &[u8]) {
    for purpose in [Purpose::Block, Purpose::Allow] {
        for options in ListOptions::ALL {
            fuzz_as(How { format, purpose, options }, bytes);
        }
    }
}

#[cfg(feature = "internals")]
fn fuzz_as(how: How, bytes: &[u8]) {
    use super::domains::MOST_BYTES;

    let key = NameKey::drawn();
    let read_piece = |bytes: &[u8]| {
        let (mut piece, mut skipped) = (ListPiece::new(key), SkippedLines::keeping_all());
        let mut said = Vec::new();
        let lines = list_format::read(bytes, how, &mut skipped, |item, line, _| {
            piece.add(item, line);
            let name = match &item.what {
                What::Name(name) => name.to_vec(),
                What::Pattern(pattern) => pattern.text().to_vec(),
            };
            said.push((name, item.said, item.is_off, line));
        });
        (piece, skipped, said, lines)
    };
    let (whole, skipped, said, lines) = read_piece(bytes);
    assert_eq!(lines as usize, bytes.split_inclusive(|&o| o == b'\n').count());
    let mut names = Vec::new();
    for (name, listed) in whole.names().each() {
        let text = std::str::from_utf8(name).unwrap_or("no ASCII");
        assert!((1..=MOST_BYTES).contains(&text.len()), "{text:?}");
        assert!(!text.contains(|c: char| c.is_ascii_uppercase() || !c.is_ascii_graphic()));
        let is_name = !text.split('.').any(str::is_empty);
        assert!(is_name || text.parse::<std::net::IpAddr>().is_ok(), "{text:?}");
        assert!((1..=lines).contains(&listed.line));
        assert!(how.purpose == Purpose::Block || listed.said.rank == Rank::Allow);
        names.push((text.to_owned(), listed));
    }
    let has_off = said.iter().any(|(_, _, is_off, _)| *is_off);
    let mut draft = FilterDraft::new(key, 0);
    assert_eq!(draft.append(whole, 0), Ok(()));
    if let Ok(Finished { filter, dropped, .. }) = draft.finish(vec![(0, 7)]) {
        assert_eq!(dropped.len(), 1);
        for (name, listed) in names.iter().filter(|(_, listed)| listed.said.reach.covers(true)) {
            let found = filter.look_up(name, name.parse().ok());
            assert!(has_off || found.is_some(), "{name:?} {listed:?}");
            assert!(has_off || filter.spelled(name, name.parse().ok()).is_some());
        }
    }
    let cut = bytes.split_inclusive(|&o| o == b'\n').next().map_or(0, <[u8]>::len);
    let (first, rest) = bytes.split_at(cut);
    let (_, mut one_skipped, mut one_said, before) = read_piece(first);
    let (_, more_skipped, more_said, _) = read_piece(rest);
    one_skipped.append(more_skipped, before);
    assert_eq!(one_skipped, skipped);
    one_said.extend(
        more_said.into_iter().map(|(name, said, off, line)| (name, said, off, line + before)),
    );
    assert_eq!(one_said, said);
}
