//! A machine whose clock jumps, made by libfaketime.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::faults::{HEALTHZ, idle_client, said};
use crate::peers::{Peer, eventually_eq};
use crate::programs::missing;
use crate::proxies::{Binary, get_request};
use crate::servers::Origin;

/// A clock that shows the time in a file, for one process: libfaketime. Monotonic times
/// (`CLOCK_MONOTONIC`) stay as they are, as when somebody sets a machine's clock.
struct Clock {
    library: PathBuf,
    file: tempfile::NamedTempFile,
}

impl Clock {
    fn new() -> Option<Self> {
        let libraries = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
        let mut paths = libraries
            .map(|dir| dir.path().join("faketime/libfaketime.so.1"))
            .filter(|p| p.exists());
        let Some(library) = paths.next() else { return missing("libfaketime") };
        let clock = Self { library, file: tempfile::NamedTempFile::new().unwrap() };
        clock.show("+0");
        Some(clock)
    }

    /// Sets the clock off by this much from now on.
    fn show(&self, offset: &str) {
        // In one write, because the file may be read at any moment.
        fs::write(self.file.path(), format!("{offset}\n")).unwrap();
    }

    fn start_proxy(&self, args: &[&str]) -> Binary {
        let set = |command: &mut std::process::Command| {
            command.env("LD_PRELOAD", &self.library).env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            command.env("FAKETIME_TIMESTAMP_FILE", self.file.path());
        };
        Binary::start_by(&["env"], set, args)
    }
}

#[test]
fn a_clock_that_jumps_moves_dates_and_no_deadline() {
    let Some(clock) = Clock::new() else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    let log_path = log.path().to_str().unwrap();
    let proxy = clock.start_proxy(&[
        "--timeout-response",
        "1s",
        "--access-log",
        log_path,
        "--log-format",
        "json",
    ]);
    let origin = Origin::script_at_once(2, |peer| {
        if peer.try_read_head().is_some_and(|head| head.starts_with("GET ")) {
            // The request is never answered.
            peer.read_to_any_end();
            return;
        }
        peer.send("pong");
        peer.read_to_any_end();
    });
    let mut tunnel = Peer::connect(proxy.addr);
    tunnel.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert!(tunnel.read_head().starts_with("HTTP/1.1 200 "));
    let mut idle = idle_client(&proxy);
    let mut waiting = Peer::connect(proxy.addr);
    let begun = Instant::now();
    waiting.send(get_request(origin.addr, "/"));

    let year = |response: &crate::peers::Response| {
        let date = response.field("date").expect("Date");
        date.split(' ').nth(3).unwrap().parse::<u32>().unwrap()
    };
    idle.send(HEALTHZ);
    let now = year(&idle.read_response());
    for (offset, expected) in [("+1100d", now + 3), ("-3700d", now - 10), ("+0", now)] {
        clock.show(offset);
        idle.send(HEALTHZ);
        let shown = year(&idle.read_response());
        assert!(shown.abs_diff(expected) <= 1, "{offset}: {shown}, and it was {now} before");
        assert!(!waiting.has_something_within(Duration::from_millis(50)), "{offset}");
        assert!(!tunnel.has_something_within(Duration::from_millis(1)), "{offset}");
    }
    clock.show("-3700d");
    // The deadline counts the time that passed.
    assert_eq!(waiting.read_response().status, 504);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
    tunnel.send("CONNECT\r\n\r\n");
    assert_eq!(tunnel.read_text(4), "pong");
    let lines = || fs::read_to_string(log_path).unwrap();
    eventually_eq(|| lines().lines().count(), 6);
    for line in lines().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["total_us"].as_u64().unwrap() < 5_000_000, "{line}");
    }
    drop(proxy);
    origin.join();
}

/// The only bug known from outside: no date can be written for the year 10000. No kernel lets
/// a clock get there, so the bug is left in, for this test.
#[test]
fn a_panic_costs_one_session_and_no_worker() {
    const PANICS: usize = 20;
    let Some(clock) = Clock::new() else { return };
    let proxy = clock.start_proxy(&[]);
    let mut bystander = idle_client(&proxy);
    let (threads, descriptors) = (proxy.started_threads(), proxy.descriptors());
    clock.show("+8000y");
    for _ in 0..PANICS {
        let mut client = Peer::connect(proxy.addr);
        client.send(HEALTHZ);
        client.expect_end();
    }
    clock.show("+0");
    eventually_eq(|| said(&proxy, "closed by a bug"), PANICS);
    bystander.send(HEALTHZ);
    assert_eq!(bystander.read_response().status, 200);
    assert_eq!(proxy.thread_names(), threads);
    eventually_eq(|| proxy.descriptors(), descriptors);
    let panics = |snapshot: String| {
        let line = snapshot.lines().find(|line| line.contains("stats: panics "))?.to_owned();
        line.rsplit(' ').next()?.parse().ok()
    };
    eventually_eq(|| panics(proxy.snapshot()), Some(PANICS));
    let snapshot = proxy.snapshot();
    let line = |word: &str| snapshot.lines().rfind(|l| l.contains(word)).unwrap_or_default();
    assert!(line("connections ").contains("1 active"), "each was counted as closed: {snapshot}");
    assert!(line("exchanges ").contains(" 0 active"), "each was counted as finished: {snapshot}");
}
