//! Goes through the lines of lists once more, for a person who asks about some of them.

use std::path::{Path, PathBuf};

use super::pieces::{PIECE, Pieces};
use super::source::{List, Lists};
use crate::config::unusable::Unusable;
use crate::policy::domains::Rank;
use crate::policy::list_format::{self, Item, Skipped, SkippedLine, SkippedLines, What};

/// A line of a list that is about a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedLine {
    pub(crate) file: PathBuf,
    pub(crate) line: u32,
    /// As it stands there.
    pub(crate) text: String,
    pub(crate) says: ListedEffect,
    /// The rule that names the list, if one does.
    pub(crate) rule: Option<String>,
}

/// The effect of a line on a host that it is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ListedEffect {
    Refuses,
    Allows,
    /// It switches off the lines that are spelled like it.
    SwitchesOff,
}

impl ListedEffect {
    /// The word for it in the output.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::Allows => "allows",
            Self::SwitchesOff => "switches off",
        }
    }

    fn of(item: &Item<'_>) -> Self {
        match item.said.rank {
            _ if item.is_off => Self::SwitchesOff,
            Rank::Block | Rank::Important => Self::Refuses,
            Rank::Pass | Rank::Except | Rank::ImportantExcept | Rank::Allow => Self::Allows,
        }
    }
}

/// All lines about a host, a name in lower case or an address in its usual text, in the order of the lists.
pub(crate) fn about(lists: Lists<'_>, host: &str) -> Result<Vec<ListedLine>, Unusable> {
    let mut found: Vec<ListedLine> = Vec::new();
    for list in lists.all() {
        let mut last = 0;
        walk(&list, &mut SkippedLines::default(), |item, line, text| {
            // A line may name a host twice.
            if item.is_about(host) && line != last {
                last = line;
                let text = String::from_utf8_lossy(text.trim_ascii()).into_owned();
                let (file, says) = (list.file.to_owned(), ListedEffect::of(item));
                found.push(ListedLine { file, line, text, says, rule: None });
            }
        })?;
    }
    Ok(found)
}

/// Passes every line that is skipped to `f`, list by list.
pub(crate) fn skipped(
    lists: Lists<'_>,
    mut f: impl FnMut(&Path, Skipped, &SkippedLine),
) -> Result<(), Unusable> {
    for list in lists.all() {
        let mut skipped = SkippedLines::keeping_all();
        walk(&list, &mut skipped, |_, _, _| {})?;
        skipped.each().for_each(|(kind, line)| f(list.file, kind, line));
    }
    Ok(())
}

/// Reads a whole list.
fn walk(
    list: &List<'_>,
    skipped: &mut SkippedLines,
    mut f: impl FnMut(&Item<'_>, u32, &[u8]),
) -> Result<(), Unusable> {
    let (file, metadata) = list.open()?;
    let mut pieces = Pieces::new(std::io::Read::take(&file, metadata.len()), PIECE);
    let (mut how, mut before) = (None, 0);
    while let Some(mut piece) = pieces.next().map_err(|e| list.unread(&e))? {
        let how = match how {
            Some(how) => how,
            None => *how.insert(list.beginning(&mut piece)?),
        };
        let mut more = skipped.like();
        let mut unfit = skipped.like();
        let lines = list_format::read(&piece, how, &mut more, |item, line, text| {
            match &item.what {
                What::Pattern(pattern) if skipped.keeps_all() => {
                    if let Err(reason) = pattern.check() {
                        unfit.add(reason.into(), line, text.trim_ascii());
                    }
                }
                What::Name(_) | What::Pattern(_) => {}
            }
            f(item, before + line, text);
        });
        skipped.append(more, before);
        skipped.append(unfit, before);
        before += lines;
    }
    Ok(())
}
