//! Counts the lines of a list that are skipped, by the reason, with the first line of each.

use super::how::ListFormat;
use crate::net::hosts::shown;
use crate::policy::host_patterns::NoPattern;

/// The reason for skipping a line.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Skipped {
    /// It hides elements of pages, or makes an exception to that.
    Cosmetic,
    /// It has options that depend on things a proxy cannot see, or that narrow it to some requests.
    Options,
    /// It matches parts of a URL.
    Pattern,
    /// It would match almost every host.
    General,
    /// It is a regular expression that cannot be compiled, or not within its bounds.
    Regex,
    /// Its address or its target leads somewhere.
    Address,
    /// It is longer than [`MOST_LINE`](super::MOST_LINE).
    Long,
    /// It has none of the known forms.
    Unknown,
}

impl Skipped {
    /// All of them, in the order of messages.
    pub const ALL: [Self; 8] = [
        Self::Cosmetic,
        Self::Options,
        Self::Pattern,
        Self::General,
        Self::Regex,
        Self::Address,
        Self::Long,
        Self::Unknown,
    ];

    /// The words for skipped lines of this kind in messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Cosmetic => "cosmetic",
            Self::Options => "with options that cannot be kept",
            Self::Pattern => "about more than a host",
            Self::General => "about almost every host",
            Self::Regex => "with regular expressions that cannot be kept",
            Self::Address => "with an address that leads somewhere",
            Self::Long => "longer than 16 KiB",
            Self::Unknown => "that are no rule",
        }
    }
}

impl Skipped {
    /// Whether the line is a rule, although one that a proxy cannot keep.
    fn is_rule(self, format: ListFormat) -> bool {
        match self {
            Self::Cosmetic | Self::Options | Self::General | Self::Regex => true,
            Self::Pattern => format == ListFormat::Adblock,
            Self::Address | Self::Long | Self::Unknown => false,
        }
    }
}

impl From<NoPattern> for Skipped {
    fn from(reason: NoPattern) -> Self {
        match reason {
            NoPattern::NotAHost => Self::Pattern,
            NoPattern::General => Self::General,
            NoPattern::Regex => Self::Regex,
        }
    }
}

/// The skipped lines of a list: the number of each kind, and the first line of each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SkippedLines {
    kinds: [(u32, Option<SkippedLine>); Skipped::ALL.len()],
    exceptions: u32,
    /// All of them, if they are kept.
    each: Option<Vec<(Skipped, SkippedLine)>>,
}

/// A skipped line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SkippedLine {
    /// The line number.
    pub line: u32,
    /// The beginning of the line.
    pub text: Box<[u8]>,
}

impl SkippedLine {
    const SHOWN: usize = 60;

    pub(in crate::policy) fn new(line: u32, text: &[u8]) -> Self {
        Self { line, text: text.get(..Self::SHOWN + 1).unwrap_or(text).into() }
    }

    /// The text in quotes, for a message.
    pub fn shown(&self) -> String {
        shown(&self.text)
    }

    pub(in crate::policy) fn after(self, lines_before: u32) -> Self {
        Self { line: self.line.saturating_add(lines_before), ..self }
    }
}

impl SkippedLines {
    /// Keeps the beginning of every line, and not only of the first of each kind.
    pub fn keeping_all() -> Self {
        Self { each: Some(Vec::new()), ..Self::default() }
    }

    /// Empty, and keeping as much.
    pub fn like(&self) -> Self {
        if self.keeps_all() { Self::keeping_all() } else { Self::default() }
    }

    /// Whether every line is kept.
    pub fn keeps_all(&self) -> bool {
        self.each.is_some()
    }

    /// Counts a skipped line.
    pub fn add(&mut self, kind: Skipped, line: u32, text: &[u8]) {
        let Some((count, first)) = self.kinds.get_mut(kind as usize) else { return };
        *count = count.saturating_add(1);
        first.get_or_insert_with(|| SkippedLine::new(line, text));
        if kind != Skipped::Cosmetic && text.starts_with(b"@@") {
            self.exceptions = self.exceptions.saturating_add(1);
        }
        if let Some(each) = &mut self.each {
            each.push((kind, SkippedLine::new(line, text)));
        }
    }

    /// Adds the counts of a later piece, with this many lines before it.
    pub fn append(&mut self, later: Self, lines_before: u32) {
        for ((count, first), (more, other)) in self.kinds.iter_mut().zip(later.kinds) {
            *count = count.saturating_add(more);
            if first.is_none() {
                *first = other.map(|first| first.after(lines_before));
            }
        }
        self.exceptions = self.exceptions.saturating_add(later.exceptions);
        if let (Some(each), Some(more)) = (&mut self.each, later.each) {
            each.extend(more.into_iter().map(|(kind, line)| (kind, line.after(lines_before))));
        }
    }

    /// The kinds that occur, each with its count and its first line.
    pub fn kinds(&self) -> impl Iterator<Item = (Skipped, u32, &SkippedLine)> {
        let kinds = Skipped::ALL.into_iter().zip(&self.kinds);
        kinds.filter_map(|(kind, (count, first))| Some((kind, *count, first.as_ref()?)))
    }

    /// All lines in order, if they were kept.
    pub fn each(&self) -> impl Iterator<Item = (Skipped, &SkippedLine)> {
        self.each.iter().flatten().map(|(kind, line)| (*kind, line))
    }

    /// The number of all skipped lines.
    pub fn sum(&self) -> u32 {
        self.kinds.iter().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }

    /// Whether most of them are rules, so that the file is a list.
    pub fn are_rules(&self, format: ListFormat) -> bool {
        let rules = self.kinds().filter(|(kind, ..)| kind.is_rule(format));
        let rules: u32 = rules.map(|(_, count, _)| count).fold(0, u32::saturating_add);
        rules > self.sum() / 2
    }

    /// The number of skipped exceptions, without those about elements of pages.
    pub fn exceptions(&self) -> u32 {
        self.exceptions
    }
}
