//! Writes the access log: workers format a line for each exchange or tunnel, and a thread of its own
//! writes them.
//!
//! A worker never waits for the log. [`AccessLog::record`] formats the line in a buffer of its thread
//! and appends it to the pending lines, under a lock held for one copy. The thread `access-log` swaps
//! them out and writes them with one system call. Pending lines are bounded: if the destination is
//! too slow, further lines are dropped and counted. If it fails, lines are dropped until it works
//! again, which the writer finds out by itself.
//!
//! ```text
//! worker ── record ──▶ pending lines ── swap ──▶ access-log ── one write ──▶ file or stdout
//!              │        (≤ 1 MiB)                  │
//!              └─ wakes the writer if it sleeps    └─ gathers 20 ms of lines, then writes
//! ```
//!
//! So a busy proxy makes about 50 writes a second, an idle one has no wake-ups after a second, and a line is on disk
//! within about 20 ms. Lines are in the order in which exchanges *ended*; their time is the
//! beginning.
//!
//! Credentials never reach a line: userinfo in a target or `Referer` is masked, and no fields other
//! than `Referer` and `User-Agent` are logged.

mod apache_formats;
mod format;
mod output;
mod record;
mod target;
mod terminal;
mod values;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use parking_lot::{Condvar, Mutex};

use crate::net::timers::LONGEST;

pub use self::format::LineFormat;
pub use self::record::{LoggedFailure, Phases, Record, RecordKind};

use self::format::Scratch;
use self::output::{Hurry, Output, Sink};

/// The most bytes that may wait for the writer; a line that does not fit is dropped.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

/// The writer stops gathering when this much is pending.
const ENOUGH_BYTES: usize = MAX_PENDING_BYTES / 2;

/// The time for which the writer gathers lines after the first.
const GATHER: Duration = Duration::from_millis(20);

/// The capacity that a buffer keeps while nothing happens.
const IDLE_BYTES: usize = 64 * 1024;

/// How long nothing must happen before buffers shrink to that. Between two batches they stay, because
/// new memory costs a page fault for each 4 KiB of lines.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// The destination of the access log.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LogDestination {
    /// Standard output.
    Stdout,
    /// A file or FIFO, appended to, created if missing.
    File(PathBuf),
}

/// The open access log. Any thread may record. When it is dropped, the writer finishes on its own.
#[derive(Debug)]
pub struct AccessLog {
    format: LineFormat,
    shared: Arc<Shared>,
}

impl AccessLog {
    /// Opens the destination and starts the writer thread. Does not wait: lines for a FIFO without a
    /// reader are dropped until it has one, which the `log` reports once.
    ///
    /// # Errors
    ///
    /// The destination cannot be opened, or no thread can be started. Report it with the path, and do
    /// not start serving.
    pub fn open(destination: LogDestination, format: LineFormat) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let hurry = &shared.hurry;
        let (sink, name, path) = match destination {
            LogDestination::Stdout => (Sink::stdout(hurry)?, "standard output".to_owned(), None),
            LogDestination::File(path) => {
                (Sink::open(&path, hurry)?, path.display().to_string(), Some(path))
            }
        };
        Self::start(sink, name, path, format, shared)
    }

    fn start(
        sink: Sink,
        name: String,
        path: Option<PathBuf>,
        format: LineFormat,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let mut output = Output::new(sink, name);
        if !output.sink().is_open() {
            output.is_in_trouble();
            let name = output.name();
            log::warn!("access log: {name} has no reader; lines are dropped until it has one");
        }
        let mut writer = Writer { output, path, shared: Arc::clone(&shared), batch: Vec::new() };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { format, shared })
    }

    /// Whether lines show [`Record::referer`] and [`Record::user_agent`].
    pub fn shows_fields(&self) -> bool {
        self.format == LineFormat::Combined
    }

    /// Logs one exchange or tunnel. Never blocks on the destination, and allocates nothing when warm;
    /// takes about half a microsecond on the calling thread.
    pub fn record(&self, record: &Record<'_>) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
        }
        SCRATCH.with_borrow_mut(|scratch| self.shared.append(scratch.line(self.format, record)));
    }

    /// Asks the writer to open the file by its path again, for log rotation: rename the file, then
    /// call this. Lines recorded before may still go to the old file. If the path cannot be opened,
    /// the old file stays in use and the `log` reports it. Standard output stays as it is. Does not
    /// wait.
    pub fn reopen(&self) {
        self.shared.pending.lock().reopen = true;
        self.shared.hurry.reopen(true);
        self.shared.wake.notify_one();
    }

    /// Lines dropped since the start, for lack of room or because the destination failed.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Writes the pending lines and ends the writer; waits for that for at most `within`. For
    /// shutdown; lines recorded later are dropped. Returns whether the writer has ended. If not, it
    /// is stuck on its destination, and the process may exit all the same. The `log` reports the
    /// number of lines that were lost.
    pub fn finish(&self, within: Duration) -> bool {
        let within = within.min(LONGEST);
        let now = Instant::now();
        // The rest of the time lets the writer report the result.
        self.shared.hurry.finish_by(now + within * 3 / 4);
        let mut pending = self.shared.pending.lock();
        pending.finish = true;
        self.shared.wake.notify_one();
        while !pending.ended {
            if self.shared.ended.wait_until(&mut pending, now + within).timed_out() {
                break;
            }
        }
        let ended = pending.ended;
        let lost = match ended {
            true => mem::take(&mut pending.lost_at_end),
            false => pending.writing + pending.count,
        };
        drop(pending);
        if lost > 0 {
            let lines = if lost == 1 { "line" } else { "lines" };
            log::warn!("access log: the last {lost} {lines} could not be written");
        }
        ended
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.pending.lock().finish = true;
        self.shared.wake.notify_one();
    }
}

/// The state shared by the recording threads and the writer.
#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// Tells the writer that there is something to do.
    wake: Condvar,
    /// Signals that the writer has ended.
    ended: Condvar,
    dropped: AtomicU64,
    /// Interrupts the writer while it waits for its destination.
    hurry: Arc<Hurry>,
}

/// Lines and orders for the writer.
#[derive(Debug, Default)]
struct Pending {
    /// Whole lines; at most [`MAX_PENDING_BYTES`].
    lines: Vec<u8>,
    /// The number of those lines.
    count: u64,
    /// Lines dropped for lack of room since the writer last looked.
    overflowed: u64,
    /// The writer sleeps until it is woken. It sets this; the thread that wakes it clears it.
    asleep: bool,
    reopen: bool,
    finish: bool,
    ended: bool,
    /// Lines that the writer is writing.
    writing: u64,
    /// Lines lost after the writer was asked to finish.
    lost_at_end: u64,
}

impl Pending {
    /// Whether the writer should stop gathering lines.
    fn urgent(&self) -> bool {
        self.finish || self.reopen || self.lines.len() >= ENOUGH_BYTES
    }
}

impl Shared {
    fn append(&self, line: &[u8]) {
        let mut pending = self.pending.lock();
        let before = pending.lines.len();
        let after = before + line.len();
        if after > MAX_PENDING_BYTES || pending.finish {
            pending.overflowed += 1;
            drop(pending);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.lines.extend_from_slice(line);
        pending.count += 1;
        let wake =
            mem::take(&mut pending.asleep) || (before < ENOUGH_BYTES && after >= ENOUGH_BYTES);
        drop(pending);
        if wake {
            self.wake.notify_one();
        }
    }
}

/// The writer's orders apart from the batch.
#[derive(Clone, Copy, Debug)]
struct Orders {
    overflowed: u64,
    reopen: bool,
    finish: bool,
}

/// The thread `access-log`.
#[derive(Debug)]
struct Writer {
    output: Output<Sink>,
    /// The path to reopen; standard output has none.
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    /// The lines being written; swapped with the pending lines.
    batch: Vec<u8>,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let orders = self.next_batch();
            if !self.batch.is_empty() {
                self.look_again();
                let outcome = self.output.write(&self.batch, orders.overflowed);
                self.count_dropped(outcome.lost);
                let mut pending = self.shared.pending.lock();
                pending.writing = 0;
                if pending.finish {
                    pending.lost_at_end += outcome.lost;
                }
                drop(pending);
                if let Some(notice) = outcome.notice {
                    log::warn!("{notice}");
                }
            }
            if orders.reopen {
                self.reopen();
            }
            if orders.finish {
                self.shared.pending.lock().ended = true;
                self.shared.ended.notify_all();
                return;
            }
        }
    }

    /// Sleeps until there is something to do, gathers lines for a moment, and takes them.
    fn next_batch(&mut self) -> Orders {
        let Self { shared, batch, .. } = self;
        batch.clear();
        let mut pending = shared.pending.lock();
        while pending.lines.is_empty() && !pending.urgent() {
            pending.asleep = true;
            if pending.lines.capacity().max(batch.capacity()) <= IDLE_BYTES {
                shared.wake.wait(&mut pending);
            } else if shared.wake.wait_for(&mut pending, IDLE_AFTER).timed_out()
                && pending.lines.is_empty()
            {
                pending.lines.shrink_to(IDLE_BYTES);
                batch.shrink_to(IDLE_BYTES);
            }
        }
        pending.asleep = false;
        let until = Instant::now() + GATHER;
        while !pending.urgent() {
            if shared.wake.wait_until(&mut pending, until).timed_out() {
                break;
            }
        }
        mem::swap(&mut pending.lines, batch);
        pending.writing = mem::take(&mut pending.count);
        Orders {
            overflowed: mem::take(&mut pending.overflowed),
            reopen: mem::take(&mut pending.reopen),
            finish: pending.finish,
        }
    }

    /// Reopens a destination that went away by itself.
    fn look_again(&mut self) {
        let (Some(path), sink) = (&self.path, self.output.sink()) else { return };
        let was_open = sink.is_open();
        if was_open && !sink.is_deleted() {
            return;
        }
        let sink = sink.again(path);
        if was_open && sink.is_open() {
            log::warn!("access log: {} was deleted; creating it again", path.display());
        }
        let lost = self.output.replace(sink);
        self.count_dropped(lost);
    }

    fn reopen(&mut self) {
        self.shared.hurry.reopen(false);
        let Some(path) = &self.path else { return };
        match Sink::open(path, &self.shared.hurry) {
            Ok(sink) => {
                let lost = self.output.replace(sink);
                self.count_dropped(lost);
            }
            Err(e) => log::warn!(
                "access log: cannot reopen {}: {e}; the file opened before is kept",
                path.display()
            ),
        }
    }

    fn count_dropped(&self, lines: u64) {
        self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "access_log/tests.rs"]
mod tests;
