//! Loads block and allow lists: reads them in pieces, compiles them on all processors, and reports
//! what was skipped.
//!
//! The calling thread reads a file in pieces of 64 KiB. A pool of threads, which ends with the reading,
//! parses the pieces. So the memory of a list depends on the number of its names, not on its size or the
//! length of its lines.

mod lines;
mod pieces;
mod progress;
mod source;

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::policy::domains::{Dropped, MOST_LINES, NameKey};
use crate::policy::list_draft::{FilterDraft, Finished, ListPiece, TooMuch, UnfitPattern};
use crate::policy::list_format::{self, How, ListFormat, SkippedLines, What};
use crate::policy::list_report::{ListRemark, ListReport, PublicSuffixes, counted};
use crate::policy::lists::Filter;
use crate::policy::rule_origin::{Origins, RuleSource};

use super::unusable::Unusable;
use pieces::{PIECE, Pieces};
use progress::ProgressBar;
use source::List;

pub(crate) use lines::{ListedEffect, ListedLine, about, skipped};
pub(crate) use source::Lists;

/// The most memory to reserve for names before reading.
const MOST_RESERVED: u64 = 64 << 20;
/// How often to read a file that changes while it is read.
const ATTEMPTS: usize = 3;
/// The niceness of the threads beside workers, as in nice(1).
const NICE: i32 = 10;
/// The most threads: the reading thread does not keep up with more.
const MOST_THREADS: usize = 8;

/// Checks that none of the file names is empty.
///
/// # Errors
///
/// A sentence that begins with the name of the option.
pub(super) fn check(option: &'static str, files: &[String]) -> Result<(), Unusable> {
    match files.iter().position(String::is_empty) {
        Some(at) => Err(Unusable::of(option, "'' is not a file; give a file name").value(at)),
        None => Ok(()),
    }
}

/// How much the reading may take from the rest of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Priority {
    /// Nobody is served before it is done.
    First,
    /// Clients are served meanwhile.
    BesideWorkers,
}

/// Reads all lists and makes one filter of them; `None` if there are none.
///
/// # Errors
///
/// The first file that cannot be used, and why.
pub(super) fn read(
    lists: Lists<'_>,
    priority: Priority,
    origins: &mut Origins,
) -> Result<Option<Arc<Filter>>, Unusable> {
    let lists: Vec<List<'_>> = lists.all().collect();
    if lists.is_empty() {
        return Ok(None);
    }
    let since = Instant::now();
    let mut reading = Reading::begin(&lists, priority, since)?;
    let (mut places, mut all) = (Vec::with_capacity(lists.len()), Vec::with_capacity(lists.len()));
    for list in &lists {
        places.push((reading.lines, origins.add(RuleSource::List(list.file.into()))));
        all.push(reading.read(list)?);
    }
    let Reading { draft, pool, progress, .. } = reading;
    let Finished { filter, dropped, unfit } = pool.install(|| draft.finish(places))?;
    for UnfitPattern { list, line, text, reason } in unfit {
        if let Some(contents) = all.get_mut(list) {
            contents.skipped.add(reason, line, &text);
            contents.entries -= 1;
        }
    }
    drop((pool, progress));
    give_memory_back();
    let reports = reports(&lists, all, &dropped);
    for report in &reports {
        for remark in report.remarks() {
            match remark {
                ListRemark::Read(text) => log::info!("{text}"),
                ListRemark::Warning(text) => log::warn!("{text}"),
            }
        }
    }
    log::info!(
        "lists: {} in {} kB, read in {} ms",
        counted(filter.len(), "rule"),
        filter.bytes().div_ceil(1000),
        since.elapsed().as_millis()
    );
    Ok(Some(Arc::new(filter.with_reports(reports))))
}

/// Returns the memory of what was read to the system. The allocator would keep it, in pieces between others, and more
/// of it with each reload.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0)
    };
}

fn reports(lists: &[List<'_>], all: Vec<Contents>, dropped: &[Dropped]) -> Vec<ListReport> {
    let files: Vec<_> = all.iter().map(|contents| contents.file).collect();
    let each = lists.iter().zip(all).zip(dropped).enumerate();
    let report = |(at, ((list, contents), dropped)): (usize, ((&List<'_>, Contents), &Dropped))| {
        let earlier = files.iter().take(at).position(|file| *file == contents.file);
        ListReport {
            file: list.file.into(),
            purpose: list.how.purpose,
            format: contents.format,
            entries: contents.entries,
            dropped: *dropped,
            skipped: contents.skipped,
            suffixes: contents.suffixes,
            same_as: earlier.and_then(|at| lists.get(at)).map(|list| list.file.into()),
        }
    };
    each.map(report).collect()
}

/// The result of reading a file.
struct Contents {
    format: ListFormat,
    entries: usize,
    lines: u32,
    skipped: SkippedLines,
    suffixes: PublicSuffixes,
    /// The device and the number of the file.
    file: (u64, u64),
}

/// The lists, as far as they have been read.
struct Reading {
    key: NameKey,
    draft: FilterDraft,
    pool: ThreadPool,
    progress: ProgressBar,
    /// Lines of all lists so far.
    lines: u32,
    /// Bytes of all lists so far.
    bytes: u64,
}

impl Reading {
    fn begin(lists: &[List<'_>], priority: Priority, now: Instant) -> Result<Self, Unusable> {
        let sizes = lists.iter().filter_map(|list| Some(list.file.metadata().ok()?.len()));
        let bytes: u64 = sizes.sum();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|number| format!("lists-{number}")).start_handler(move |_| {
            if priority == Priority::BesideWorkers {
                // On Linux this applies to the thread alone. If it is not permitted, only that is lost.
                let _ = rustix::process::setpriority_process(None, NICE);
            }
        });
        let pool = pool.build();
        let pool = pool.map_err(|e| format!("cannot start threads to read lists: {e}"))?;
        let key = NameKey::drawn();
        // For a larger list, the draft grows as its names are read.
        let draft = FilterDraft::new(key, bytes.min(MOST_RESERVED) as usize);
        let progress = ProgressBar::new(bytes, now);
        Ok(Self { key, draft, pool, progress, lines: 0, bytes: 0 })
    }

    /// Reads a list, and again if it changes in the meantime.
    fn read(&mut self, list: &List<'_>) -> Result<Contents, Unusable> {
        let (mark, bytes) = (self.draft.mark(), self.bytes);
        for _ in 0..ATTEMPTS {
            self.draft.back_to(mark);
            self.bytes = bytes;
            let (file, before) = list.open()?;
            // Read no more than the current size, because the file might grow faster than it is read.
            let contents = self.read_file(list, (&file).take(before.len()), &before)?;
            let after = file.metadata().map_err(|e| list.unread(&e))?;
            let there = list.file.metadata().map_err(|e| list.unread(&e))?;
            if same(&before, &after) && same(&after, &there) {
                self.progress.clear();
                list.check(&contents)?;
                self.lines += contents.lines;
                return Ok(contents);
            }
        }
        Err(list.wrong(
            None,
            "it changes while it is read; write the new one beside it, and rename it when it is whole",
        ))
    }

    fn read_file(
        &mut self,
        list: &List<'_>,
        file: impl Read,
        metadata: &Metadata,
    ) -> Result<Contents, Unusable> {
        let mut pieces = Pieces::new(file, PIECE);
        let before = self.draft.len();
        let mut contents = Contents {
            format: ListFormat::Domains,
            entries: 0,
            lines: 0,
            skipped: SkippedLines::default(),
            suffixes: PublicSuffixes::default(),
            file: (metadata.dev(), metadata.ino()),
        };
        let mut how = None;
        loop {
            let mut batch = Vec::new();
            while batch.len() < 8 * self.pool.current_num_threads()
                && let Some(piece) = pieces.next().map_err(|e| list.unread(&e))?
            {
                self.bytes += piece.len() as u64;
                batch.push(piece);
            }
            let Some(first) = batch.first_mut() else { break };
            let how = match how {
                Some(how) => how,
                None => *how.insert(list.beginning(first)?),
            };
            contents.format = how.format;
            let key = self.key;
            let parse = |bytes: Vec<u8>| ParsedPiece::of(&bytes, how, key);
            let parsed: Vec<_> = self.pool.install(|| batch.into_par_iter().map(parse).collect());
            for parsed in parsed {
                let before = self.lines + contents.lines;
                if before > MOST_LINES - parsed.lines.min(MOST_LINES) {
                    return Err(list.too_much(TooMuch(MOST_LINES as usize, "lines")));
                }
                self.draft.append(parsed.piece, before).map_err(|e| list.too_much(e))?;
                contents.skipped.append(parsed.skipped, contents.lines);
                contents.suffixes.append(parsed.suffixes, contents.lines);
                contents.lines += parsed.lines;
            }
            self.progress.at(self.bytes, Instant::now());
        }
        contents.entries = self.draft.len() - before;
        Ok(contents)
    }
}

/// What a piece of a list says.
struct ParsedPiece {
    piece: ListPiece,
    skipped: SkippedLines,
    suffixes: PublicSuffixes,
    lines: u32,
}

impl ParsedPiece {
    fn of(bytes: &[u8], how: How, key: NameKey) -> Self {
        let mut piece = ListPiece::new(key);
        let (mut skipped, mut suffixes) = Default::default();
        let lines = list_format::read(bytes, how, &mut skipped, |item, line, _| {
            match &item.what {
                What::Name(name) if item.said.reach.covers(false) && !item.is_off => {
                    PublicSuffixes::look_at(&mut suffixes, name, line);
                }
                // `||com` is about more than its author may have meant.
                What::Pattern(pattern) if !item.is_off => {
                    let name = pattern.begins_with().unwrap_or_default();
                    PublicSuffixes::look_at(&mut suffixes, name, line);
                }
                What::Name(_) | What::Pattern(_) => {}
            }
            piece.add(item, line);
        });
        Self { piece, skipped, suffixes, lines }
    }
}

/// Whether both describe the same file in the same state.
fn same(one: &Metadata, other: &Metadata) -> bool {
    let state = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    state(one) == state(other)
}

impl List<'_> {
    /// Refuses a list of which no line can be used: it is something else.
    fn check(&self, contents: &Contents) -> Result<(), Unusable> {
        let skipped = &contents.skipped;
        let first = skipped.kinds().map(|(_, _, first)| first).min_by_key(|first| first.line);
        let is_list = contents.entries > 0 || skipped.are_rules(contents.format);
        let Some(first) = first.filter(|_| !is_list) else { return Ok(()) };
        let why = format!(
            "{} cannot be used, and neither can any other line ({}); give a hosts file, \
             a domain a line, or adblock rules such as ||ads.example^",
            first.shown(),
            kinds(skipped)
        );
        Err(self.wrong(Some(first.line), &why))
    }
}

/// `7 cosmetic, 5 with options that cannot be kept`.
fn kinds(skipped: &SkippedLines) -> String {
    let words = skipped.kinds().map(|(kind, count, _)| format!("{count} {}", kind.words()));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
