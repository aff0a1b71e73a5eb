//! The access log: one line for each exchange or tunnel, and its fields.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use threadgate::observe::access_log::{LineFormat, LogDestination};

use crate::peers::{Peer, comes_true};
use crate::proxies::{Binary, OK, get, get_request, proxy_with};
use crate::servers::{Origin, RefusedPort};

/// A proxy with an access log in JSON, and the log.
pub(crate) struct Logged {
    pub(crate) proxy: Binary,
    file: tempfile::TempPath,
}

impl Logged {
    pub(crate) fn start() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let proxy =
            Binary::start(&["--access-log", file.to_str().unwrap(), "--log-format", "json"]);
        Self { proxy, file }
    }

    /// The log's lines, once there are `count`; never more.
    #[track_caller]
    fn lines(&self, count: usize) -> Vec<Value> {
        lines(&self.file, count)
    }

    #[track_caller]
    pub(crate) fn line(&self) -> Value {
        self.lines(1).remove(0)
    }
}

/// The lines of a log in JSON, once there are `count`; never more.
#[track_caller]
fn lines(file: &Path, count: usize) -> Vec<Value> {
    let mut text = String::new();
    comes_true(crate::peers::STEP, &mut || {
        text = fs::read_to_string(file).unwrap();
        text.lines().count() >= count && text.ends_with('\n')
    });
    let lines: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines.iter().for_each(assert_phases_sum);
    lines
}

/// The phases sum to the total, apart from rounding to microseconds.
#[track_caller]
fn assert_phases_sum(line: &Value) {
    let phases = ["request_us", "lookup_us", "connect_us", "send_us", "wait_us", "transfer_us"];
    let sum: u64 = phases.iter().filter_map(|phase| line[*phase].as_u64()).sum();
    let total = line["total_us"].as_u64().expect("a total");
    assert!(total.abs_diff(sum) <= 6, "{sum} is not {total}: {line}");
}

#[test]
fn an_exchange_has_a_line_with_bytes_upstream_and_times() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..2 {
            peer.read_head();
            peer.read_exact(1000);
            peer.send("HTTP/1.1 201 Created\r\nContent-Length: 10000\r\n\r\n");
            peer.send(vec![b'x'; 10_000]);
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    // A PUT uses a connection again only for a moment; here that moment is as long as a step.
    let proxy = proxy_with(|options| {
        let log = LogDestination::File(file.to_path_buf());
        options.access_log = Some((log, LineFormat::Json));
    });
    let mut client = Peer::connect(proxy.addr());
    let head = format!(
        "PUT http://{0}/a?b=c HTTP/1.1\r\nHost: {0}\r\nContent-Length: 1000\r\n\r\n",
        origin.addr
    );
    for _ in 0..2 {
        client.send(head.as_str());
        client.send(vec![b'x'; 1000]);
        assert_eq!(client.read_response().content.len(), 10_000);
    }
    for (line, reused) in lines(&file, 2).iter().zip([false, true]) {
        assert_eq!(line["method"], "PUT");
        assert_eq!(line["target"], format!("http://{}/a?b=c", origin.addr));
        assert_eq!(line["status"], 201);
        assert_eq!(line["kind"], "exchange");
        assert_eq!(line["upstream"], origin.addr.to_string());
        assert_eq!(line["reused"], reused);
        assert_eq!(line["client"], client.stream().local_addr().unwrap().to_string());
        assert_eq!(line["error"], Value::Null);
        assert_eq!(line["bytes_from_client"], head.len() + 1000, "{line}");
        let to = line["bytes_to_client"].as_u64();
        assert!((10_000..10_200).contains(&to.unwrap()), "{line}");
        for phase in ["request_us", "send_us", "wait_us", "transfer_us"] {
            assert!(line[phase].is_u64(), "{phase}: {line}");
        }
        assert_eq!(line["connect_us"].is_null(), reused, "{line}");
    }
    origin.join();
}

#[test]
fn a_kept_connection_that_failed_is_logged_as_reused_and_a_second_attempt_as_fresh() {
    // After an interim response no request is repeated.
    for (last_words, status, reused) in
        [("HTTP/1.1 103 Early Hints\r\n\r\n", 502, true), ("HTTP/1.1 2", 200, false)]
    {
        let origin = Origin::script(if reused { 1 } else { 2 }, move |peer| {
            peer.read_head();
            peer.send(OK);
            if peer.try_read_head().is_some() {
                peer.send(last_words);
            }
        });
        let logged = Logged::start();
        let mut client = Peer::connect(logged.proxy.addr);
        client.send(get_request(origin.addr, "/"));
        assert_eq!(client.read_response().status, 200);
        client.send(get_request(origin.addr, "/"));
        if reused {
            assert_eq!(crate::peers::status(&client.read_head()), 103);
        }
        assert_eq!(client.read_response().status, status);
        let line = &logged.lines(2)[1];
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["reused"], reused, "{line}");
        assert_eq!(line["connect_us"].is_null(), reused, "{line}");
        assert_eq!(line["upstream"], origin.addr.to_string(), "{line}");
    }
}

#[test]
fn a_target_with_bytes_above_ascii_is_logged_as_it_went_on() {
    let origin = Origin::answer(OK);
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(get_request(origin.addr, "/é?ü"));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(logged.line()["target"], format!("http://{}/%C3%A9?%C3%BC", origin.addr));
}

#[test]
fn a_failure_has_its_reason_side_and_phase() {
    let refused = RefusedPort::new();
    let logged = Logged::start();
    assert_eq!(get(logged.proxy.addr, refused.addr, "/").status, 502);
    let line = logged.line();
    assert_eq!(line["status"], 502);
    assert_eq!(line["error"], "connection_refused");
    assert_eq!(line["side"], "upstream");
    assert_eq!(line["phase"], "connect");
    assert!(!line["reason"].as_str().unwrap().is_empty());
}

#[test]
fn a_refused_request_has_a_line_too() {
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    let line = logged.line();
    assert_eq!((&line["status"], &line["side"]), (&400.into(), &"client".into()));
    assert_eq!(line["error"], "http_request_error");
}

#[test]
fn a_request_to_the_proxy_itself_has_a_line_without_upstream() {
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_response();
    let line = logged.line();
    assert_eq!((&line["target"], &line["upstream"]), (&"/healthz".into(), &Value::Null));
}

#[test]
fn a_tunnel_has_its_line_when_it_ends() {
    let origin = Origin::script(1, |peer| {
        peer.read_exact(1000);
        peer.send(vec![b'x'; 5000]);
    });
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    client.read_head();
    client.send(vec![b'x'; 1000]);
    client.read_exact(5000);
    assert_eq!(fs::read_to_string(&logged.file).unwrap(), "", "not before its end");
    drop(client);
    origin.join();
    let line = logged.line();
    assert_eq!((&line["kind"], &line["method"]), (&"tunnel".into(), &"CONNECT".into()));
    assert_eq!(line["target"], line["upstream"]);
    assert_eq!(line["status"], 200);
    let (from, to) = (line["bytes_from_client"].as_u64(), line["bytes_to_client"].as_u64());
    assert!((1000..1200).contains(&from.unwrap()), "{line}");
    assert!((5000..5200).contains(&to.unwrap()), "{line}");
}

#[test]
fn a_client_that_went_away_and_a_server_that_cut_its_response_are_told_apart() {
    let origin = Origin::script(2, |peer| {
        if peer.read_head().contains("/cut ") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        } else {
            peer.expect_end();
        }
    });
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(get_request(origin.addr, "/cut"));
    client.read_to_any_end();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(get_request(origin.addr, "/gone"));
    crate::peers::eventually(|| origin.accepted() == 2);
    client.reset();
    origin.join();
    let lines = logged.lines(2);
    assert_eq!((&lines[0]["side"], &lines[0]["status"]), (&"upstream".into(), &200.into()));
    assert_eq!(lines[0]["error"], "http_response_incomplete");
    assert_eq!(lines[1]["side"], "client");
}

#[test]
fn nothing_a_client_sends_can_forge_a_line_or_show_a_secret() {
    let origin = Origin::answer(OK);
    let logged = Logged::start();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(
        get_request(origin.addr, "/%0a{\"status\":0}\"\\").replace(
            "\r\n\r\n",
            "\r\nProxy-Authorization: Basic c2VjcmV0\r\nAuthorization: Basic c2VjcmV0\r\nCookie: c2VjcmV0\r\n\r\n",
        ),
    );
    client.read_response();
    let mut client = Peer::connect(logged.proxy.addr);
    client.send(format!("GET http://me:c2VjcmV0@{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert_eq!(client.read_response().status, 400);
    logged.lines(2);
    assert!(!fs::read_to_string(&logged.file).unwrap().contains("c2VjcmV0"));
    assert!(!logged.proxy.stderr().contains("c2VjcmV0"));
}

#[test]
fn a_text_line_is_made_of_columns() {
    let origin = Origin::answer(OK);
    let mut proxy = Binary::start(&["--access-log", "-"]);
    assert_eq!(get(proxy.addr, origin.addr, "/x").text(), "ok");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
    comes_true(crate::peers::STEP, &mut || proxy.stdout().ends_with('\n'));
    let text = proxy.stdout();
    assert_eq!(text.lines().count(), 1, "{text}");
    let columns: Vec<_> = text.split_whitespace().collect();
    assert!(columns[0].ends_with('Z') && columns[0].contains('T'), "{text}");
    assert!(columns[1].starts_with("127.0.0.1:"), "{text}");
    assert_eq!(columns[2..5], ["GET", &format!("http://{}/x", origin.addr), "200"], "{text}");
    for name in ["out=", "in=", "upstream=", "reused=no", "total=", "wait="] {
        assert!(columns[5..].iter().any(|c| c.starts_with(name)), "no {name} in {text}");
    }
}

#[test]
fn all_lines_are_written_before_the_end() {
    let mut logged = Logged::start();
    for _ in 0..100 {
        let mut client = Peer::connect(logged.proxy.addr);
        client.send("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
    logged.proxy.signal(Signal::TERM);
    assert_eq!(logged.proxy.wait().code(), Some(0));
    assert_eq!(fs::read_to_string(&logged.file).unwrap().lines().count(), 100);
}
