//! Failing destinations of the access log: full, moved, deleted, not read. The proxy serves on, reports
//! it once, and writes again by itself.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::peers::{Moment, Peer, eventually, eventually_eq};
use crate::programs::system;
use crate::proxies::{Binary, OK, get_request};
use crate::servers::Origin;

/// Asks for `/healthz?text` `count` times; each request has a line.
pub(crate) fn ask(proxy: &Binary, text: &str, count: usize) {
    let mut client = Peer::connect(proxy.addr);
    for _ in 0..count {
        client.send(format!("GET /healthz?{text} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.read_response().status, 200);
    }
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// How many of its messages contain `part`.
pub(crate) fn said(proxy: &Binary, part: &str) -> usize {
    proxy.stderr().lines().filter(|line| line.contains(part)).count()
}

/// How many lines of its log it has lost, by its own count.
pub(crate) fn dropped(proxy: &Binary) -> usize {
    let snapshot = proxy.snapshot();
    let count = snapshot.lines().find_map(|line| line.split_once("access log lines dropped "));
    count.map_or(0, |(_, count)| count.trim().parse().unwrap())
}

/// A file system of 64 KiB; unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` if mounting is not permitted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = system("mount")?;
        mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(dir.path());
        let done = mount.output().unwrap();
        if !done.status.success() {
            eprintln!("cannot mount, so not tested on a full file system: {done:?}");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the proxy may still have its file open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_costs_lines_is_said_once_and_recovers() {
    let Some(small) = Small::mount() else { return };
    let (log, ballast) = (small.0.path().join("log"), small.0.path().join("ballast"));
    fs::write(&ballast, vec![0; 48 << 10]).unwrap();
    let mut proxy = Binary::start(&["--access-log", log.to_str().unwrap()]);
    // Far more than the 16 KiB that are left, in separate batches.
    for _ in 0..4 {
        ask(&proxy, &"x".repeat(1000), 20);
    }
    eventually(|| said(&proxy, "cannot write to") == 1);
    ask(&proxy, "lost", 1);
    // The proxy has tried all of them: a line that still waits would fill the room that is made now.
    eventually_eq(|| read(&log).lines().count() + dropped(&proxy), 81);
    let full = read(&log);
    fs::remove_file(&ballast).unwrap();
    ask(&proxy, "kept", 1);
    eventually(|| said(&proxy, "works again") == 1);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(said(&proxy, "cannot write to"), 1, "{}", proxy.stderr());
    let text = read(&log);
    assert!(full.len() <= 16 << 10 && text.len() > full.len());
    assert!(text.contains("?kept") && text.ends_with('\n'), "{text}");
    // The lines that were written are complete, and the others were counted.
    assert!(text.lines().all(|line| line.contains(" transfer=")), "{text}");
    let stderr = proxy.stderr();
    let lost = stderr.split_once("works again; ").unwrap().1.split(' ').next().unwrap();
    assert_eq!(text.lines().count() + lost.parse::<usize>().unwrap(), 82, "{stderr}");
}

#[test]
fn a_fifo_that_nobody_reads_does_not_hold_up_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut proxy = Binary::start(&["--access-log", path.to_str().unwrap()]);
    eventually(|| said(&proxy, "has no reader") == 1);
    ask(&proxy, "nobody", 3);
    eventually(|| {
        proxy.signal(Signal::USR2);
        said(&proxy, "access log lines dropped  3") > 0
    });
    let reader = Command::new("cat").arg(&path).stdout(std::process::Stdio::piped()).spawn();
    // Opening it ends when the proxy has opened the other end, for the first line.
    eventually(|| {
        ask(&proxy, "read", 1);
        said(&proxy, "works again") == 1
    });
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let text = String::from_utf8(reader.unwrap().wait_with_output().unwrap().stdout).unwrap();
    assert!(text.contains("?read") && !text.contains("?nobody"), "{text}");
    assert_eq!(said(&proxy, "WARN access log:"), 2, "{}", proxy.stderr());
}

#[test]
fn a_reader_that_goes_away_is_said_once() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut proxy = Binary::start_by(
        &["env"],
        |command| {
            command.stdout(OwnedFd::from(writer));
        },
        &["--access-log", "-"],
    );
    drop(reader);
    for _ in 0..3 {
        ask(&proxy, "x", 1);
    }
    eventually(|| said(&proxy, "cannot write to standard output: Broken pipe") == 1);
    ask(&proxy, "x", 1);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(said(&proxy, "cannot write to"), 1, "{}", proxy.stderr());
}

#[test]
fn a_deleted_file_is_made_anew_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let proxy = Binary::start(&["--access-log", path.to_str().unwrap()]);
    ask(&proxy, "before", 1);
    eventually(|| read(&path).contains("?before"));
    fs::remove_file(&path).unwrap();
    ask(&proxy, "after", 1);
    eventually(|| read(&path).contains("?after"));
    eventually(|| said(&proxy, "was deleted; creating it again") == 1);
}

#[test]
fn lines_that_a_stuck_reader_never_took_are_said_at_the_end() {
    use std::os::unix::fs::OpenOptionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let mut proxy = Binary::start(&["--access-log", path.to_str().unwrap()]);
    // More than a pipe holds.
    ask(&proxy, &"x".repeat(7000), 20);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    let stderr = proxy.stderr();
    assert!(stderr.contains("WARN access log: the last "), "{stderr}");
    drop(reader);
}

#[test]
fn a_second_signal_loses_no_line_of_what_had_ended() {
    let (asked, answer) = (Moment::new(), Moment::new());
    let (is_asked, may_answer) = (asked.clone(), answer.clone());
    let ends = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        may_answer.wait();
        peer.send(OK);
    });
    let is_asked = asked.clone();
    let hangs = Origin::script(1, move |peer| {
        peer.read_head();
        is_asked.has_come();
        peer.read_to_any_end();
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut proxy = Binary::start(&["--drain", "1h", "--access-log", path.to_str().unwrap()]);
    let [mut ending, hanging] = [&ends, &hangs].map(|origin| {
        let mut client = Peer::connect(proxy.addr);
        client.send(get_request(origin.addr, "/"));
        asked.wait();
        client
    });
    let of_ended = format!(" http://{}/ 200 ", ends.addr);
    proxy.signal(Signal::TERM);
    eventually(|| said(&proxy, "stopping") == 1);
    answer.has_come();
    // The client's end comes after its line was recorded, which the writer would keep for 20 ms.
    ending.read_to_end();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(1));
    drop(hanging);
    ends.join();
    hangs.join();
    let text = read(&path);
    assert!(text.contains(&of_ended) && text.ends_with('\n'), "{text:?}");
}
