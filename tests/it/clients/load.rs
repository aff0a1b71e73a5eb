//! Load and patience: `ab` with many requests, slowhttptest with slow clients.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::peers::{comes_true, eventually};
use crate::programs::{Running, in_background, logged, logging_proxy, text};
use crate::proxies::{Binary, get};

use super::installed::{Nginx, tool};

/// Runs ab through `proxy`: 2,000 requests for a small file of nginx's, 20 at a time. Returns its
/// report, by kind of request.
fn ab(proxy: &Binary, nginx: &Nginx, keep: bool) -> Option<impl Fn(&str) -> Option<u32>> {
    let mut ab = tool("ab")?;
    fs::write(nginx.root.join("small"), "a little\n").unwrap();
    ab.args(["-q", "-n", "2000", "-c", "20", "-X", &proxy.addr.to_string()]);
    if keep {
        ab.arg("-k");
    }
    let said = text(ab.arg(format!("http://{}/small", nginx.clear)));
    Some(move |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what))?;
        Some(line.trim().parse().unwrap_or_else(|_| panic!("{what}: {line}")))
    })
}

#[test]
fn ab_has_no_failed_request() {
    let proxy = Binary::start(&[]);
    let Some(nginx) = Nginx::start() else { return };
    for keep in [false, true] {
        let Some(number) = ab(&proxy, &nginx, keep) else { return };
        assert_eq!(number("Complete requests:"), Some(2000));
        assert_eq!(number("Failed requests:"), Some(0));
        assert_eq!(number("Non-2xx responses:"), None);
        // ab speaks HTTP/1.0, in which a client has to ask for this.
        assert_eq!(number("Keep-Alive requests:"), keep.then_some(2000));
    }
}

const SLOW: usize = 200;

/// slowhttptest in the background: 200 connections at once through `proxy`, for at most 20 s.
fn slow(proxy: &Binary, args: &[&str]) -> Option<Running> {
    let mut slow: Command = tool("slowhttptest")?;
    let dir = tempfile::tempdir().unwrap();
    slow.current_dir(dir.path())
        .args(["-c", "200", "-r", "200", "-l", "20", "-p", "3", "-x", "10"]);
    slow.args(["-g", "-o", "report", "-d", &proxy.addr.to_string()]).args(args);
    Some(in_background(&mut slow, dir))
}

/// While the slow clients are there, another one is served at once.
#[track_caller]
fn assert_prompt(proxy: &Binary, origin: SocketAddr, slow: &Running) {
    // On a busy machine the first are gone before the last come.
    eventually(|| proxy.descriptors() > SLOW / 4);
    assert!(!slow.is_over(), "{}", slow.said());
    for _ in 0..20 {
        let since = Instant::now();
        let response = get(proxy.addr, origin, "/gone");
        assert_eq!((response.status, response.text()), (410, "gone"));
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
}

/// The run ends early because none of its connections is open any more, and it never found the proxy
/// busy.
#[track_caller]
fn assert_all_closed(slow: &Running) {
    assert!(comes_true(Duration::from_secs(25), &mut || slow.is_over()), "{}", slow.said());
    assert!(slow.said().contains("No open connections left"), "{}", slow.said());
    let report = fs::read_to_string(slow.dir.path().join("report.csv")).unwrap();
    // The columns: seconds, closed, pending, connected, service available.
    for line in report.lines().skip(1) {
        assert!(!line.ends_with(",0"), "not available at a time:\n{report}");
    }
}

#[test]
fn slow_heads_get_a_408_at_the_head_timeout() {
    let proxy = logging_proxy(&["--timeout-head", "2s"]);
    let Some(nginx) = Nginx::start() else { return };
    // A field a second, without end.
    let Some(slow) = slow(&proxy, &["-H", "-i", "1", "-u", &nginx.url()]) else { return };
    assert_prompt(&proxy, nginx.clear, &slow);
    assert_all_closed(&slow);
    let refused = |lines: &[serde_json::Value]| {
        let of_heads = |line: &&serde_json::Value| {
            line["status"] == 408 && line["phase"] == "request" && line["side"] == "client"
        };
        lines.iter().filter(of_heads).count()
    };
    let lines = logged(&proxy, |lines| refused(lines) >= SLOW);
    assert_eq!(refused(&lines), SLOW);
}

#[test]
fn slow_content_gets_a_408_at_the_response_timeout() {
    let proxy = logging_proxy(&["--timeout-response", "2s"]);
    let Some(nginx) = Nginx::start() else { return };
    let url = format!("http://{}/up/slow", nginx.clear);
    // A head with a length, and then little of the content, too late.
    let kind = ["-B", "-t", "PUT", "-s", "8192", "-i", "8", "-u", &url];
    let Some(slow) = slow(&proxy, &kind) else { return };
    assert_prompt(&proxy, nginx.clear, &slow);
    assert_all_closed(&slow);
    let refused = |lines: &[serde_json::Value]| {
        let of_content = |line: &&serde_json::Value| {
            line["status"] == 408 && line["method"] == "PUT" && line["side"] == "client"
        };
        lines.iter().filter(of_content).count()
    };
    let lines = logged(&proxy, |lines| refused(lines) >= SLOW);
    assert_eq!(refused(&lines), SLOW);
}
