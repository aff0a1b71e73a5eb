//! Writes lines to a destination that may be full, slow or gone, and recovers with it.
//!
//! A batch is written whole, or the rest of it is lost: lines are not tried again, because lines kept for
//! later would fill memory. A line that was cut by a failure is the exception. Its rest is kept and goes
//! first next time, so that no line is ever torn. A sentence for the diagnostics log is returned when
//! trouble begins, and another when it ends.
//!
//! A deleted file and a FIFO without a reader count as trouble. [`Sink`] detects both, and can be opened
//! again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::{memchr, memchr_iter};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A destination and its current state.
#[derive(Debug)]
pub(super) struct Output<W> {
    sink: W,
    /// The destination's name in messages.
    name: String,
    /// The rest of a line that a failure cut; empty if the destination is at the start of a line.
    torn: Vec<u8>,
    /// Lines lost since trouble began, while it lasts.
    trouble: Option<u64>,
}

/// The result of writing a batch.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct BatchOutcome {
    /// Lines that did not reach the destination and will not.
    pub(super) lost: u64,
    /// A message for the diagnostics log: trouble began, or ended.
    pub(super) notice: Option<String>,
}

impl<W: Write> Output<W> {
    pub(super) fn new(sink: W, name: String) -> Self {
        Self { sink, name, torn: Vec::new(), trouble: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn sink(&self) -> &W {
        &self.sink
    }

    /// Marks trouble that was already reported.
    pub(super) fn is_in_trouble(&mut self) {
        self.trouble = Some(0);
    }

    /// Writes `lines`, each ending in a newline. `overflowed` lines were lost before, because the
    /// destination took them too slowly.
    pub(super) fn write(&mut self, lines: &[u8], overflowed: u64) -> BatchOutcome {
        let (lost, error) = match self.write_lines(lines) {
            Ok(()) => (0, None),
            Err((lost, error)) => (lost, Some(error)),
        };
        let name = &self.name;
        let notice = match (self.trouble, &error) {
            (None, Some(error)) => Some(format!(
                "access log: cannot write to {name}: {error}; lines are dropped until it works"
            )),
            (None, None) if overflowed > 0 => {
                Some(format!("access log: {name} is too slow; some lines are dropped"))
            }
            (Some(before), None) if overflowed == 0 => {
                let were = if before == 1 { "line was" } else { "lines were" };
                Some(format!("access log: {name} works again; {before} {were} lost"))
            }
            _ => None,
        };
        let well = error.is_none() && overflowed == 0;
        self.trouble = (!well).then(|| self.trouble.unwrap_or(0) + lost + overflowed);
        BatchOutcome { lost, notice }
    }

    /// Continues with another sink, at the start of a line. Returns the number of lines lost by that.
    pub(super) fn replace(&mut self, sink: W) -> u64 {
        self.sink = sink;
        let lost = u64::from(!self.torn.is_empty());
        self.torn.clear();
        lost
    }

    fn write_lines(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        if !self.torn.is_empty() {
            let (done, result) = write_as_far_as_possible(&mut self.sink, &self.torn);
            self.torn.drain(..done);
            result.map_err(|e| (count_lines(lines), e))?;
        }
        let (done, result) = write_as_far_as_possible(&mut self.sink, lines);
        result.map_err(|error| {
            let (written, mut rest) = lines.split_at_checked(done).unwrap_or((lines, b""));
            if written.last().is_some_and(|byte| *byte != b'\n')
                && let Some(end) = memchr(b'\n', rest)
                && let Some((torn, after)) = rest.split_at_checked(end + 1)
            {
                self.torn.extend_from_slice(torn);
                rest = after;
            }
            (count_lines(rest), error)
        })
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

/// The number of bytes written, and the error that stopped it, if any.
fn write_as_far_as_possible(sink: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (done, Err(e)),
        }
    }
    (done, Ok(()))
}

/// The reasons why a writer that waits for room should not wait much longer.
#[derive(Debug, Default)]
pub(super) struct Hurry(Mutex<Reasons>);

#[derive(Debug, Default)]
struct Reasons {
    reopen: bool,
    finish_by: Option<Instant>,
}

impl Hurry {
    /// Sets whether the destination is to be reopened.
    pub(super) fn reopen(&self, wanted: bool) {
        self.0.lock().reopen = wanted;
    }

    /// Sets the time by which the last line must be written or lost.
    pub(super) fn finish_by(&self, at: Instant) {
        self.0.lock().finish_by = Some(at);
    }

    /// Whether a writer that has waited since then gives up.
    fn ends_wait(&self, since: Instant) -> bool {
        let reasons = self.0.lock();
        let now = Instant::now();
        (reasons.reopen && now.saturating_duration_since(since) >= STUCK)
            || reasons.finish_by.is_some_and(|at| now >= at)
    }
}

/// A destination that has taken nothing for this long is given up when it is to be reopened.
const STUCK: Duration = Duration::from_millis(500);

/// The interval at which a waiting writer checks for a reason to give up.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A file, pipe or terminal, or the reason why there is none. Waits where a non-blocking descriptor would
/// refuse, unless there is a [`Hurry`].
#[derive(Debug)]
pub(super) struct Sink {
    file: Result<File, Absence>,
    /// It has a name in a directory, so it can be deleted.
    has_name: bool,
    /// It was a FIFO, which the proxy does not create.
    is_fifo: bool,
    hurry: Arc<Hurry>,
}

/// The reason why there is nothing to write to.
#[derive(Debug)]
enum Absence {
    /// A FIFO that no process has open for reading.
    Unread,
    /// It was deleted; this is the error from opening it again.
    Gone(io::Error),
}

impl Sink {
    /// Opens `path` for appending, created if missing. A regular file that ends in the middle of a line
    /// (its writer was killed) gets a newline first. Never waits: a FIFO without a reader is not an
    /// error, but [not open](Self::is_open).
    pub(super) fn open(path: &Path, hurry: &Arc<Hurry>) -> io::Result<Self> {
        Self::open_or_create(path, true, hurry)
    }

    fn open_or_create(path: &Path, create: bool, hurry: &Arc<Hurry>) -> io::Result<Self> {
        let hurry = Arc::clone(hurry);
        let mut options = fs::OpenOptions::new();
        options.append(true).create(create);
        // Without this, a FIFO would wait for its reader, and a serial line for a carrier.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let opened = options.open(path);
        let no_reader = |e: &io::Error| e.raw_os_error() == Some(libc::ENXIO);
        let file = match opened {
            Err(e) if no_reader(&e) && fs::metadata(path)?.file_type().is_fifo() => {
                let file = Err(Absence::Unread);
                return Ok(Self { file, has_name: false, is_fifo: true, hurry });
            }
            opened => opened?,
        };
        let (has_name, is_fifo) = file.metadata().map_or((false, false), |m| {
            // A file opened by way of /proc may never have had a name, and a FIFO with both ends open
            // needs none.
            let is_fifo = m.file_type().is_fifo();
            (m.nlink() > 0 && !is_fifo, is_fifo)
        });
        let cut = ends_within_a_line(path, &file);
        let mut sink = Self { file: Ok(file), has_name, is_fifo, hurry };
        if cut {
            // A failure here occurs again with the first batch, and is reported then.
            let _ = sink.write(b"\n");
        }
        Ok(sink)
    }

    /// Opens `path` again in place of this sink, which is gone or not open.
    pub(super) fn again(&self, path: &Path) -> Self {
        Self::open_or_create(path, !self.is_fifo, &self.hurry).unwrap_or_else(|e| Self {
            file: Err(Absence::Gone(e)),
            has_name: false,
            is_fifo: self.is_fifo,
            hurry: Arc::clone(&self.hurry),
        })
    }

    /// Whether there is a destination to write to.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_ok()
    }

    /// Whether it has lost its name: lines written now are lost when it is closed.
    pub(super) fn is_deleted(&self) -> bool {
        let file = self.file.as_ref().ok().filter(|_| self.has_name);
        file.and_then(|file| file.metadata().ok()).is_some_and(|m| m.nlink() == 0)
    }

    /// The process's standard output, under a descriptor of its own, so without the buffer of `std` and
    /// its lock and line-wise writes.
    pub(super) fn stdout(hurry: &Arc<Hurry>) -> io::Result<Self> {
        Ok(Self::nameless(File::from(io::stdout().as_fd().try_clone_to_owned()?), hurry))
    }

    fn nameless(file: File, hurry: &Arc<Hurry>) -> Self {
        Self { file: Ok(file), has_name: false, is_fifo: false, hurry: Arc::clone(hurry) }
    }
}

#[cfg(test)]
impl From<File> for Sink {
    fn from(file: File) -> Self {
        Self::nameless(file, &Arc::default())
    }
}

impl From<&Absence> for io::Error {
    fn from(absence: &Absence) -> Self {
        match absence {
            Absence::Unread => Self::other("this FIFO has no reader"),
            Absence::Gone(e) => {
                Self::other(format!("it was deleted, and cannot be opened again: {e}"))
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().map_err(|absence| io::Error::from(&*absence))?;
        let mut since = None;
        loop {
            match file.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.hurry.ends_wait(*since.get_or_insert_with(Instant::now)) {
                        return Err(io::Error::other("it takes no lines"));
                    }
                    // Interrupted or not, the next write decides.
                    let _ = poll(&mut [PollFd::new(&*file, PollFlags::OUT)], Some(&LOOK));
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Best effort: a log that may be written but not read is used as it is.
fn ends_within_a_line(path: &Path, file: &File) -> bool {
    let Some(end) = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len()) else {
        return false;
    };
    let mut last = [b'\n'];
    let read = end.checked_sub(1).map(|at| File::open(path)?.read_at(&mut last, at));
    matches!(read, Some(Ok(1))) && last != [b'\n']
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Follows the script: takes at most this many bytes, or fails.
    #[derive(Debug, Default)]
    struct Scripted {
        script: VecDeque<Result<usize, io::ErrorKind>>,
        written: Vec<u8>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = match self.script.pop_front() {
                None => bytes.len(),
                Some(Ok(n)) => n.min(bytes.len()),
                Some(Err(kind)) => return Err(kind.into()),
            };
            self.written.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(script: impl IntoIterator<Item = Result<usize, io::ErrorKind>>) -> Output<Scripted> {
        let sink = Scripted { script: script.into_iter().collect(), written: Vec::new() };
        Output::new(sink, "log".into())
    }

    const FULL: Result<usize, io::ErrorKind> = Err(io::ErrorKind::StorageFull);

    #[test]
    fn short_and_interrupted_writes_are_continued() {
        let mut out = output([Ok(1), Err(io::ErrorKind::Interrupted), Ok(2)]);
        assert_eq!(out.write(b"one\ntwo\n", 0), BatchOutcome::default());
        assert_eq!(out.sink.written, b"one\ntwo\n");
    }

    #[test]
    fn trouble_is_told_once_and_so_is_its_end() {
        let mut out = output([FULL, FULL]);
        let first = out.write(b"a\nb\n", 0);
        assert_eq!(first.lost, 2);
        assert!(first.notice.expect("told").contains("cannot write to log"));
        assert_eq!(out.write(b"c\n", 3), BatchOutcome { lost: 1, notice: None });
        let end = out.write(b"d\n", 0);
        assert_eq!(end.lost, 0);
        assert_eq!(end.notice.as_deref(), Some("access log: log works again; 6 lines were lost"));
        assert_eq!(out.write(b"e\n", 0), BatchOutcome::default());
        assert_eq!(out.sink.written, b"d\ne\n");
    }

    #[test]
    fn a_slow_destination_is_told_once_and_so_is_its_end() {
        let mut out = output([]);
        let first = out.write(b"a\n", 2);
        assert!(first.notice.expect("told").contains("too slow"));
        assert_eq!(out.write(b"b\n", 1), BatchOutcome::default());
        let end = out.write(b"c\n", 0);
        assert_eq!(end.notice.as_deref(), Some("access log: log works again; 3 lines were lost"));
    }

    #[test]
    fn a_cut_line_is_finished_before_the_next() {
        // At every cut of the batch, then with the cut line's rest cut again.
        let batch = b"first\nsecond\nthird\n";
        for cut in 0..batch.len() {
            let mut out = output([Ok(cut), FULL, Ok(1), FULL]);
            if cut == 0 {
                out.sink.script.pop_front();
            }
            let mut lost = out.write(batch, 0).lost;
            lost += out.write(b"fourth\n", 0).lost;
            lost += out.write(b"fifth\n", 0).lost;
            let text = String::from_utf8(out.sink.written).expect("ASCII");
            for line in text.lines() {
                assert!(
                    ["first", "second", "third", "fourth", "fifth"].contains(&line),
                    "cut at {cut}: {text:?}"
                );
            }
            assert!(text.ends_with("fifth\n"), "cut at {cut}: {text:?}");
            assert_eq!(text.lines().count() as u64 + lost, 5, "cut at {cut}: {text:?}");
        }
    }

    #[test]
    fn another_sink_starts_with_a_whole_line() {
        let mut out = output([Ok(2), FULL]);
        assert_eq!(out.write(b"torn\n", 0).lost, 0);
        assert_eq!(out.replace(Scripted::default()), 1);
        out.write(b"whole\n", 0);
        assert_eq!(out.sink.written, b"whole\n");
    }

    #[test]
    fn a_file_cut_within_a_line_gets_its_newline() {
        let dir = tempfile::tempdir().expect("a directory");
        for (before, after) in [("", "new\n"), ("old\n", "old\nnew\n"), ("cut", "cut\nnew\n")] {
            let path = dir.path().join("log");
            fs::write(&path, before).expect("written");
            let mut sink = Sink::open(&path, &Arc::default()).expect("opened");
            assert_eq!(sink.write(b"new\n").expect("written"), 4);
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
    }
}
