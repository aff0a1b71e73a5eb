//! Loads block and allow lists: reads them in pieces, compiles them on all processors, and reports
//! what was skipped.
//!
//! The calling thread reads a file in pieces of 64 KiB. A pool of threads, which ends with the reading,
//! parses the pieces. So the memory of a list depends on the number of its names, not on its size or the
//! length of its lines.

mod pieces;
mod progress;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::net::hosts::shown;
use crate::policy::domains::{Draft, DraftPart, MOST_LINES, MOST_NAMES, NameKey};
use crate::policy::list_format::{self, ListFormat, Purpose, SkippedLines};
use crate::policy::lists::Filter;
use crate::policy::rule_origin::{Origins, RuleSource};

use super::unusable::Unusable;
use pieces::Pieces;
use progress::ProgressBar;

/// The size of a piece in bytes.
const PIECE: usize = 64 << 10;
/// The most memory to reserve for names before reading.
const MOST_RESERVED: u64 = 64 << 20;
/// How often to read a file that changes while it is read.
const ATTEMPTS: usize = 3;
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

/// Reads all lists and makes one filter of them; `None` if there are none.
///
/// # Errors
///
/// The first file that cannot be used, and why.
pub(super) fn read(
    block: &[String],
    allow: &[String],
    origins: &mut Origins,
) -> Result<Option<Arc<Filter>>, Unusable> {
    let block = block
        .iter()
        .enumerate()
        .map(|(at, file)| List::new(("block-list", at), file, Purpose::Block));
    let allow = allow
        .iter()
        .enumerate()
        .map(|(at, file)| List::new(("allow-list", at), file, Purpose::Allow));
    let lists: Vec<List<'_>> = block.chain(allow).collect();
    if lists.is_empty() {
        return Ok(None);
    }
    let since = Instant::now();
    let mut reading = Reading::begin(&lists, since)?;
    let mut places = Vec::with_capacity(lists.len());
    for list in &lists {
        places.push((reading.lines, origins.add(RuleSource::File(list.file.into()))));
        reading.read(list)?;
    }
    let Reading { draft, pool, progress, .. } = reading;
    let filter = Filter::new(pool.install(|| draft.finish()), places);
    drop(progress);
    log::info!(
        "lists: {} in {} kB, read in {} ms",
        counted(filter.len(), "name"),
        filter.bytes().div_ceil(1000),
        since.elapsed().as_millis()
    );
    Ok(Some(Arc::new(filter)))
}

/// A list file that an option names.
struct List<'a> {
    option: &'static str,
    /// Which of the option's files it is.
    at: usize,
    file: &'a Path,
    purpose: Purpose,
}

/// The result of reading a file.
struct Contents {
    format: ListFormat,
    names: usize,
    lines: u32,
    skipped: SkippedLines,
}

/// The lists, as far as they have been read.
struct Reading {
    key: NameKey,
    draft: Draft,
    pool: ThreadPool,
    progress: ProgressBar,
    /// Lines of all lists so far.
    lines: u32,
    /// Bytes of all lists so far.
    bytes: u64,
}

impl Reading {
    fn begin(lists: &[List<'_>], now: Instant) -> Result<Self, Unusable> {
        let sizes = lists.iter().filter_map(|list| Some(list.file.metadata().ok()?.len()));
        let bytes: u64 = sizes.sum();
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|number| format!("lists-{number}")).build();
        let pool = pool.map_err(|e| format!("cannot start threads to read lists: {e}"))?;
        let key = NameKey::drawn();
        // For a larger list, the draft grows as its names are read.
        let draft = Draft::new(key, bytes.min(MOST_RESERVED) as usize);
        let progress = ProgressBar::new(bytes, now);
        Ok(Self { key, draft, pool, progress, lines: 0, bytes: 0 })
    }

    /// Reads a list, and again if it changes in the meantime.
    fn read(&mut self, list: &List<'_>) -> Result<(), Unusable> {
        let (mark, bytes) = (self.draft.mark(), self.bytes);
        for _ in 0..ATTEMPTS {
            self.draft.back_to(mark);
            self.bytes = bytes;
            let (file, before) = list.open()?;
            // Read no more than the current size, because the file might grow faster than it is read.
            let contents = self.read_file(list, (&file).take(before.len()))?;
            let after = file.metadata().map_err(|e| list.unread(&e))?;
            let there = list.file.metadata().map_err(|e| list.unread(&e))?;
            if same(&before, &after) && same(&after, &there) {
                self.progress.clear();
                list.tell(&contents)?;
                self.lines += contents.lines;
                return Ok(());
            }
        }
        Err(list.wrong(
            None,
            "it changes while it is read; write the new one beside it, and rename it when it is whole",
        ))
    }

    fn read_file(&mut self, list: &List<'_>, file: impl Read) -> Result<Contents, Unusable> {
        let mut pieces = Pieces::new(file, PIECE);
        let names_before = self.draft.len();
        let (mut format, mut lines, mut skipped) = (None, 0_u32, SkippedLines::default());
        loop {
            let mut batch = Vec::new();
            while batch.len() < 8 * self.pool.current_num_threads()
                && let Some(piece) = pieces.next().map_err(|e| list.unread(&e))?
            {
                self.bytes += piece.len() as u64;
                batch.push(piece);
            }
            let Some(first) = batch.first_mut() else { break };
            let format = match format {
                Some(format) => format,
                None => *format.insert(list.beginning(first)?),
            };
            let key = self.key;
            let parse = |piece: Vec<u8>| {
                let (mut part, mut skipped) = (DraftPart::new(key), SkippedLines::default());
                let lines =
                    list_format::read(&piece, format, list.purpose, &mut part, &mut skipped);
                (part, skipped, lines)
            };
            let parsed: Vec<_> = self.pool.install(|| batch.into_par_iter().map(parse).collect());
            for (part, more, count) in parsed {
                let before = self.lines + lines;
                if before > MOST_LINES - count.min(MOST_LINES) {
                    return Err(list.too_much(MOST_LINES as usize, "lines"));
                }
                if !self.draft.append(&part, before) {
                    return Err(list.too_much(MOST_NAMES, "names"));
                }
                skipped.append(more, lines);
                lines += count;
            }
            self.progress.at(self.bytes, Instant::now());
        }
        let names = self.draft.len() - names_before;
        Ok(Contents { format: format.unwrap_or(ListFormat::Domains), names, lines, skipped })
    }
}

/// Whether both describe the same file in the same state.
fn same(one: &Metadata, other: &Metadata) -> bool {
    let state = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    state(one) == state(other)
}

impl<'a> List<'a> {
    fn new((option, at): (&'static str, usize), file: &'a str, purpose: Purpose) -> Self {
        Self { option, at, file: Path::new(file), purpose }
    }

    /// Opens it if it is a regular file. A FIFO is refused, because reading it would wait for a writer.
    fn open(&self) -> Result<(File, Metadata), Unusable> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.file);
        let file = file.map_err(|e| self.unread(&e))?;
        let metadata = file.metadata().map_err(|e| self.unread(&e))?;
        match metadata.is_file() {
            true => Ok((file, metadata)),
            false if metadata.is_dir() => {
                Err(self
                    .wrong(None, "it is a directory; give a file, and the option once for each"))
            }
            false => {
                Err(self
                    .wrong(None, "it is not a regular file; give one, because it is read again"))
            }
        }
    }

    /// The format of the file that begins with these bytes. Removes a UTF-8 byte order mark.
    fn beginning(&self, bytes: &mut Vec<u8>) -> Result<ListFormat, Unusable> {
        let packed: [(&[u8], &str); 4] = [
            (b"\x1f\x8b", "it is compressed; unpack it with gunzip"),
            (b"\x28\xb5\x2f\xfd", "it is compressed; unpack it with unzstd"),
            (b"\xfd7zXZ\0", "it is compressed; unpack it with unxz"),
            (b"PK\x03\x04", "it is an archive; unpack it with unzip"),
        ];
        if let Some((_, why)) = packed.iter().find(|(mark, _)| bytes.starts_with(mark)) {
            return Err(self.wrong(Some(1), why));
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(self.wrong(Some(1), "the file is UTF-16; save it as UTF-8"));
        }
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if let Some(at) = memchr::memchr(0, bytes) {
            let before = bytes.get(..at).unwrap_or_default();
            let line = 1 + memchr::memchr_iter(b'\n', before).count();
            let why = "it contains a NUL, so it is not text; give a text file";
            return Err(self.wrong(u32::try_from(line).ok(), why));
        }
        Ok(ListFormat::of(bytes))
    }

    /// Logs what the list contains.
    fn tell(&self, contents: &Contents) -> Result<(), Unusable> {
        let file = self.file.display();
        let Contents { names, skipped, .. } = contents;
        let first = skipped.each().map(|(_, _, first)| first).min_by_key(|first| first.line);
        match first {
            None if *names == 0 => {
                log::warn!("--{} {file}: it contains no rule, so it has no effect", self.option);
            }
            None => {}
            Some(first) if *names == 0 => {
                let text = shown(&first.text);
                let why = format!(
                    "{text} cannot be used, and neither can any other line ({}); give a hosts file, \
                     a domain a line, or adblock rules such as ||ads.example^",
                    kinds(skipped)
                );
                return Err(self.wrong(Some(first.line), &why));
            }
            Some(first) => log::warn!(
                "{file}: {} skipped: {}; the first at {file}:{}: {}",
                counted(skipped.sum() as usize, "rule"),
                kinds(skipped),
                first.line,
                shown(&first.text)
            ),
        }
        if *names > 0 {
            log::info!("{file}: {} ({})", counted(*names, "name"), contents.format.word());
        }
        Ok(())
    }

    fn unread(&self, e: &io::Error) -> Unusable {
        let denied = e.kind() == io::ErrorKind::PermissionDenied;
        let why = format!("cannot read it: {e}; give a file this user can read");
        Unusable { denied, ..self.wrong(None, &why) }
    }

    fn too_much(&self, most: usize, of: &str) -> Unusable {
        let why =
            format!("with this file, the lists have more than {most} {of}; leave some lists out");
        self.wrong(None, &why)
    }

    fn wrong(&self, line: Option<u32>, why: &str) -> Unusable {
        let file = self.file.display();
        let place = line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
        Unusable::of(self.option, why).value(self.at).about(place)
    }
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `7 cosmetic, 5 with options that cannot be kept`.
fn kinds(skipped: &SkippedLines) -> String {
    let words = skipped.each().map(|(kind, count, _)| format!("{count} {}", kind.words()));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn block(files: &[&Path]) -> Result<Option<Arc<Filter>>, Unusable> {
        let files: Vec<String> = files.iter().map(|f| f.to_str().unwrap().to_owned()).collect();
        read(&files, &[], &mut Origins::default())
    }

    /// A list of more than a few pieces.
    fn long(from: usize, count: usize) -> String {
        (from..from + count).map(|n| format!("name-{n}.example\n")).collect()
    }

    #[test]
    fn several_files_are_one_filter_and_their_lines_are_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, format!("\u{feff}# 1\r\n{}", long(0, 20_000))).unwrap();
        fs::write(&two, format!("||b.test^\n{}", long(20_000, 20_000))).unwrap();
        let mut origins = Origins::default();
        let names = [&one, &two].map(|f| f.to_str().unwrap().to_owned());
        let filter = read(&names, &[], &mut origins).unwrap().unwrap();
        assert_eq!(filter.len(), 40_001);
        for (host, file, line) in [
            ("name-0.example", &one, 2),
            ("a.name-19999.example", &one, 20_001),
            ("b.test", &two, 1),
            ("name-20000.example", &two, 2),
            ("name-39999.example", &two, 20_001),
        ] {
            let (_, rule) = filter.find(host).unwrap_or_else(|| panic!("{host}"));
            let expected = format!("{}:{line}", file.display());
            assert_eq!(origins.name(rule).to_string(), expected, "{host}");
        }
        assert!(filter.find("name-40000.example").is_none());
    }

    #[test]
    fn a_file_that_is_replaced_meanwhile_is_read_whole_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let (list, other) = (dir.path().join("list"), dir.path().join("other"));
        fs::write(&list, long(0, 20_000)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let from = 100_000 * (round % 2);
                    fs::write(&other, long(from, 20_000)).unwrap();
                    fs::rename(&other, &list).unwrap();
                }
            });
            for _ in 0..20 {
                match block(&[&list]) {
                    Err(wrong) => {
                        assert!(wrong.to_string().contains("it changes while it is read"))
                    }
                    Ok(filter) => {
                        let filter = filter.unwrap();
                        let one = filter.find("name-19999.example").is_some();
                        let other = filter.find("name-119999.example").is_some();
                        assert_eq!((filter.len(), one != other), (20_000, true));
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_file_that_grows_and_grows_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        fs::write(&list, long(0, 100_000)).unwrap();
        let stop = AtomicBool::new(false);
        let wrong = thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = OpenOptions::new().append(true).open(&list).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::io::Write::write(&mut file, b"a.example\n").unwrap();
                }
            });
            let read = block(&[&list]);
            stop.store(true, Ordering::Relaxed);
            read.unwrap_err()
        });
        assert!(wrong.to_string().ends_with(
            "it changes while it is read; write the new one beside it, and rename it when it is whole"
        ));
        assert!(!wrong.denied);
    }

    #[test]
    fn the_threads_end_with_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        fs::write(&list, long(0, 1000)).unwrap();
        let running = || {
            let threads = fs::read_dir("/proc/self/task").unwrap();
            let names =
                threads.filter_map(|t| fs::read_to_string(t.ok()?.path().join("comm")).ok());
            names.filter(|name| name.starts_with("lists-")).count()
        };
        let filter = block(&[&list]).unwrap();
        assert!(filter.is_some());
        // Threads of other tests may be running, and end meanwhile.
        let until = Instant::now() + std::time::Duration::from_secs(20);
        while running() > 0 {
            assert!(Instant::now() < until);
            thread::yield_now();
        }
    }
}
