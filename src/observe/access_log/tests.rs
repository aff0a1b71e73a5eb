//! Tests the writer with real files and pipes.

use std::fs::{self, File};
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn record(target: &[u8]) -> Record<'_> {
    Record {
        started: SystemTime::now(),
        target,
        bytes_from_client: 120,
        bytes_to_client: 1270,
        content_to_client: 1024,
        upstream: Some(([93, 184, 216, 34], 80).into()),
        reused: true,
        phases: Phases { wait: Duration::from_micros(345), ..Phases::default() },
        ..Record::bare()
    }
}

fn open(path: &Path) -> AccessLog {
    AccessLog::open(LogDestination::File(path.to_owned()), LineFormat::Text).expect("opened")
}

fn over_a_pipe() -> (AccessLog, PipeReader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let sink = Sink::from(File::from(OwnedFd::from(writer)));
    let shared = Arc::default();
    (
        AccessLog::start(sink, "a pipe".into(), None, LineFormat::Text, shared).expect("started"),
        reader,
    )
}

/// The targets of a log's lines.
fn targets(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| line.split(' ').nth(3).expect("a target").to_owned()).collect()
}

#[track_caller]
fn eventually(mut what: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !what() {
        assert!(Instant::now() < until, "it did not come about in {SOON:?}");
        thread::yield_now();
    }
}

#[test]
fn a_line_appears_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let log = open(&path);
    for target in ["/1", "/2", "/3"] {
        log.record(&record(target.as_bytes()));
        // Each time the writer has gone back to sleep, or is about to.
        eventually(|| targets(&path).last().is_some_and(|last| last == target));
    }
    assert_eq!(log.dropped(), 0);
}

#[test]
fn finish_flushes_the_lines_of_all_threads() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let log = open(&path);
    thread::scope(|scope| {
        for worker in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for i in 0..500 {
                    log.record(&record(format!("/{worker}/{i}").as_bytes()));
                }
            });
        }
    });
    assert!(log.finish(SOON));
    let seen = targets(&path);
    assert_eq!(seen.len(), 2000);
    for worker in 0..4 {
        let prefix = format!("/{worker}/");
        let of_worker: Vec<_> = seen.iter().filter_map(|t| t.strip_prefix(&prefix)).collect();
        assert_eq!(of_worker, (0..500).map(|i| i.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(log.dropped(), 0);

    log.record(&record(b"/late"));
    assert_eq!(log.dropped(), 1);
    assert!(log.finish(SOON), "a second finish answers at once");
}

#[test]
fn a_dropped_log_still_writes_its_lines() {
    let (log, mut reader) = over_a_pipe();
    log.record(&record(b"/last"));
    drop(log);
    let mut text = String::new();
    // Reading ends only when the writer has gone and closed its end.
    reader.read_to_string(&mut text).expect("read");
    assert!(text.contains(" /last "));
}

#[test]
fn a_destination_that_never_takes_a_line_costs_lines_and_nothing_else() {
    let (log, mut reader) = over_a_pipe();
    let target = vec![b'x'; 1000];
    // More than the pipe, the batch being written and the pending buffer hold together.
    let sent = 4 * MAX_PENDING_BYTES / target.len();
    for _ in 0..sent {
        log.record(&record(&target));
    }
    let dropped = log.dropped();
    assert!(dropped > 0 && dropped < sent as u64, "{dropped} of {sent}");
    assert!(log.shared.pending.lock().lines.len() <= MAX_PENDING_BYTES);
    // The writer is stuck, so shutdown goes on without it.
    assert!(!log.finish(Duration::from_millis(1)));

    // When the reader resumes, every line not counted as dropped is there, whole.
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        text
    });
    assert!(log.finish(SOON));
    drop(log);
    let text = reading.join().expect("joined");
    assert!(text.ends_with('\n'));
    assert_eq!(text.lines().count() as u64 + dropped, sent as u64);
}

/// A FIFO whose reader does not read, and a log that has more to write than it takes.
fn stuck_fifo(dir: &Path) -> (AccessLog, File) {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("log");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let log = open(&path);
    let target = vec![b'x'; 8000];
    (0..20).for_each(|_| log.record(&record(&target)));
    eventually(|| log.shared.pending.lock().writing > 0);
    (log, reader)
}

#[test]
fn a_reader_that_stands_still_can_be_rotated_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (log, reader) = stuck_fifo(dir.path());
    fs::rename(&path, dir.path().join("log.1")).unwrap();
    log.reopen();
    eventually(|| path.exists());
    log.record(&record(b"/after"));
    eventually(|| targets(&path) == ["/after"]);
    assert!(log.dropped() > 0);
    drop(reader);
}

#[test]
fn what_a_reader_that_stands_still_did_not_take_is_counted_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut reader) = stuck_fifo(dir.path());
    log.record(&record(b"/last"));
    assert!(log.finish(Duration::from_millis(200)), "the writer gives up by itself");
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    let whole = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    // One line may have been cut in the middle.
    let missing = 21 - whole - log.dropped();
    assert!(missing <= 1 && log.dropped() > 0, "{whole} whole, {} lost", log.dropped());
}

#[test]
fn a_full_disk_costs_lines_until_it_has_room() {
    // A link that leads first to the full device, then to a file.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &path).expect("linked");
    let log = open(&path);
    for lost in 1..=3 {
        log.record(&record(b"/lost"));
        eventually(|| log.dropped() == lost);
    }
    fs::remove_file(&path).expect("removed");
    log.reopen();
    eventually(|| path.exists());
    log.record(&record(b"/kept"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&path), ["/kept"]);
    assert_eq!(log.dropped(), 3);
}

#[test]
fn after_a_rename_reopen_goes_on_in_a_new_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
    let log = open(&path);
    log.record(&record(b"/before"));
    eventually(|| targets(&path) == ["/before"]);
    fs::rename(&path, &rotated).expect("renamed");
    log.record(&record(b"/between"));
    eventually(|| targets(&rotated).len() == 2);
    log.reopen();
    eventually(|| path.exists());
    log.record(&record(b"/after"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&rotated), ["/before", "/between"]);
    assert_eq!(targets(&path), ["/after"]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_failed_reopen_keeps_the_old_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let inner = dir.path().join("logs");
    fs::create_dir(&inner).expect("created");
    let log = open(&inner.join("log"));
    let moved = dir.path().join("moved");
    fs::rename(&inner, &moved).expect("renamed");
    log.reopen();
    eventually(|| !log.shared.pending.lock().reopen);
    log.record(&record(b"/kept"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&moved.join("log")), ["/kept"]);
}

#[test]
fn a_destination_that_cannot_be_opened_is_an_error_at_once() {
    let path = PathBuf::from("/nonexistent/log");
    assert!(AccessLog::open(LogDestination::File(path), LineFormat::Text).is_err());
}

#[test]
fn an_idle_log_sleeps_until_a_line_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open(&dir.path().join("log"));
    log.record(&record(b"/one"));
    // Asleep: in a wait without a timeout, until a line is recorded.
    eventually(|| log.shared.pending.lock().asleep);
}

/// Makes a FIFO, which has no reader yet.
fn fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
}

#[test]
fn a_fifo_without_a_reader_costs_lines_until_somebody_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    fifo(&path);
    // On a thread of its own, in case it waits.
    let (sender, opened) = crossbeam_channel::bounded(1);
    let of_log = path.clone();
    thread::spawn(move || sender.send(open(&of_log)));
    let log = opened.recv_timeout(SOON).expect("opened without waiting");
    log.record(&record(b"/nobody"));
    eventually(|| log.dropped() == 1);
    for round in 1..=2 {
        // Opening must not wait either, so the reader is non-blocking.
        let mut reader = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut reader, libc::O_NONBLOCK);
        let mut reader = reader.read(true).open(&path).expect("opened");
        log.record(&record(b"/read"));
        let mut text = String::new();
        eventually(|| {
            let mut bytes = [0; 1024];
            let n = reader.read(&mut bytes).unwrap_or(0);
            text.push_str(std::str::from_utf8(&bytes[..n]).expect("ASCII"));
            text.ends_with('\n')
        });
        assert!(text.contains(" /read ") && text.lines().count() == 1, "{text}");
        drop(reader);
        log.record(&record(b"/gone"));
        eventually(|| log.dropped() == 1 + round);
    }
}

#[test]
fn a_deleted_file_is_made_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let log = open(&path);
    log.record(&record(b"/before"));
    eventually(|| targets(&path) == ["/before"]);
    fs::remove_file(&path).expect("removed");
    log.record(&record(b"/after"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&path), ["/after"]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_removed_directory_costs_lines_until_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let inner = dir.path().join("logs");
    fs::create_dir(&inner).expect("created");
    let path = inner.join("log");
    let log = open(&path);
    fs::remove_dir_all(&inner).expect("removed");
    for lost in 1..=2 {
        log.record(&record(b"/lost"));
        eventually(|| log.dropped() == lost);
    }
    fs::create_dir(&inner).expect("created");
    log.record(&record(b"/kept"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&path), ["/kept"]);
    assert_eq!(log.dropped(), 2);
}

#[test]
fn a_file_that_never_had_a_name_is_not_taken_for_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = tempfile::tempfile_in(&dir).expect("a file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    let log = open(&path);
    log.record(&record(b"/1"));
    assert!(log.finish(SOON));
    assert_eq!(targets(&path), ["/1"]);
    assert!(!Sink::open(&path, &Arc::default()).expect("opened").is_deleted());
}
