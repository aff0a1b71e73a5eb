//! Says what was read from each list: how much of it counts, what was skipped, and what looks like a mistake.

use std::path::{Path, PathBuf};

use super::domains::Dropped;
use super::list_format::{ListFormat, Purpose, SkippedLine, SkippedLines};

/// What was read from one list.
#[derive(Clone, Debug)]
pub struct ListReport {
    /// The file.
    pub file: PathBuf,
    /// What it is for.
    pub purpose: Purpose,
    /// Its format.
    pub format: ListFormat,
    /// The number of names and patterns in it, doubles included.
    pub entries: usize,
    /// Those that decide nothing.
    pub dropped: Dropped,
    /// The lines that could not be used.
    pub skipped: SkippedLines,
    /// Names that are public suffixes.
    pub suffixes: PublicSuffixes,
    /// An earlier list that is the same file.
    pub same_as: Option<PathBuf>,
}

/// The names of a list that are public suffixes, such as `co.uk`: to list one is to list everything below it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublicSuffixes {
    count: u32,
    first: Option<SkippedLine>,
}

impl PublicSuffixes {
    /// Counts a name if it is one.
    pub fn look_at(&mut self, name: &[u8], line: u32) {
        // A suffix has few labels, and looking it up takes longer than counting them.
        if memchr::memchr_iter(b'.', name).count() > 2 || !is_public_suffix(name) {
            return;
        }
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| SkippedLine::new(line, name));
    }

    /// Adds those of a later piece, with this many lines before it.
    pub fn append(&mut self, later: Self, lines_before: u32) {
        self.count = self.count.saturating_add(later.count);
        if self.first.is_none() {
            self.first = later.first.map(|first| first.after(lines_before));
        }
    }
}

/// Whether registries hand out names below it. Domains whose owners do so, such as github.io, are not
/// counted: lists name them on purpose.
fn is_public_suffix(name: &[u8]) -> bool {
    psl::suffix(name)
        .is_some_and(|suffix| suffix.as_bytes() == name && suffix.typ() == Some(psl::Type::Icann))
}

/// A sentence about a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListRemark {
    /// What was read.
    Read(String),
    /// Something that may be a mistake.
    Warning(String),
}

impl ListReport {
    /// The number of entries that can decide something.
    pub fn used(&self) -> usize {
        let Dropped { same_name, wider, overruled, switched_off } = self.dropped;
        self.entries.saturating_sub(same_name + wider + overruled + switched_off)
    }

    /// What there is to say, each a sentence that begins with the file.
    pub fn remarks(&self) -> Vec<ListRemark> {
        let mut remarks = Vec::new();
        if self.entries > 0 {
            remarks.push(ListRemark::Read(self.read()));
        }
        let warnings = [
            self.without_effect(),
            self.skipped_lines(),
            self.mostly_skipped(),
            self.lost_exceptions(),
            self.public_suffixes(),
            self.twice(),
        ];
        remarks.extend(warnings.into_iter().flatten().map(ListRemark::Warning));
        remarks
    }

    fn without_effect(&self) -> Option<String> {
        let file = self.file.display();
        match (self.entries, self.skipped.sum()) {
            (0, 0) => Some(format!("{file}: it contains no rule, so it has no effect")),
            (0, _) => Some(format!("{file}: no rule in it can be kept, so it has no effect")),
            _ => None,
        }
    }

    fn read(&self) -> String {
        let Dropped { same_name, wider, overruled, switched_off } = self.dropped;
        let mut text = format!(
            "{}: {}, {} used",
            self.file.display(),
            self.format.word(),
            counted(self.used(), "rule")
        );
        let duplicates = same_name + wider;
        if duplicates > 0 {
            let kinds = match (same_name, wider) {
                (_, 0) => "by name".to_owned(),
                (0, _) => "by a wider rule".to_owned(),
                _ => format!("{same_name} by name, {wider} by a wider rule"),
            };
            text.push_str(&format!(", {} ({kinds})", counted(duplicates, "duplicate")));
        }
        for (count, words) in [(overruled, "overruled by others"), (switched_off, "switched off")] {
            if count > 0 {
                text.push_str(&format!(", {count} {words}"));
            }
        }
        text
    }

    fn skipped_lines(&self) -> Option<String> {
        let file = self.file.display();
        let kinds = self.skipped.kinds().map(|(kind, count, first)| {
            format!(
                "{count} {}, the first at {file}:{}: {}",
                kind.words(),
                first.line,
                first.shown()
            )
        });
        let kinds = kinds.collect::<Vec<_>>().join("; ");
        let sum = self.skipped.sum() as usize;
        (sum > 0).then(|| format!("{file}: {} skipped: {kinds}", counted(sum, "line")))
    }

    fn mostly_skipped(&self) -> Option<String> {
        (self.skipped.sum() as usize > self.entries && self.entries > 0).then(|| {
            format!(
                "{}: most of it is skipped; if it is made for browsers, look for its edition for \
                 DNS or hosts",
                self.file.display()
            )
        })
    }

    fn lost_exceptions(&self) -> Option<String> {
        let lost = self.skipped.exceptions() as usize;
        (lost > 0).then(|| {
            format!(
                "{}: {} among the skipped lines: what such a line names stays refused if a rule refuses it",
                self.file.display(),
                counted(lost, "exception")
            )
        })
    }

    fn public_suffixes(&self) -> Option<String> {
        let PublicSuffixes { count, first } = &self.suffixes;
        let first = first.as_ref()?;
        let does = match self.purpose {
            Purpose::Block => "refuses",
            Purpose::Allow => "allows",
        };
        let more = match count - 1 {
            0 => String::new(),
            more => format!(" ({more} more such)"),
        };
        Some(format!(
            "{0}: {1} in line {2} is a public suffix, so it {does} everything below it{more}",
            self.file.display(),
            first.shown(),
            first.line,
        ))
    }

    fn twice(&self) -> Option<String> {
        let file = self.file.display();
        if let Some(other) = &self.same_as {
            return Some(format!(
                "{file} is the same file as {}; leave one out",
                shown_path(other)
            ));
        }
        let all_known =
            self.entries > 0 && self.dropped.same_name + self.dropped.wider == self.entries;
        all_known.then(|| format!("{file}: other rules say all that it says; leave it out"))
    }
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

/// `1 rule`, `2 rules`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
