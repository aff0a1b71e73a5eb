//! What is done with what no rule names, and with what rules are against: `--policy`.

use serde_json::Value;

use crate::admin::{ask, fetch};
use crate::metrics::{read_by_another, samples};
use crate::peers::{Peer, eventually};
use crate::programs::free_port;
use crate::proxies::{Binary, OK};
use crate::servers::{Origin, RefusedPort};

/// The lines of an access log in JSON on stdout, once there are so many.
#[track_caller]
fn lines(proxy: &Binary, count: usize) -> Vec<Value> {
    let mut lines: Vec<Value> = Vec::new();
    eventually(|| {
        let said = proxy.stdout();
        lines = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines.len() >= count
    });
    lines
}

/// What `report` lets through is what `enforce` refuses, by the same rules.
#[test]
fn report_lets_through_and_names_what_enforce_refuses() {
    let origin = Origin::script_at_once(4, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    });
    let (to, admin) = (origin.addr.port(), free_port().to_string());
    let rules = [
        "--allow=good.example",
        "--deny=.bad.example",
        "--deny=127.0.0.3",
        "--methods=GET,POST",
        "--resolve=good.example:127.0.0.1",
        "--resolve=a.bad.example:127.0.0.1",
        "--resolve=far.example:127.0.0.3",
        "--resolve=other.example:127.0.0.1",
        "--access-log=-",
        "--log-format=json",
    ];
    let report = Binary::start(&[&rules[..], &["--policy=report", "--admin", &admin]].concat());
    let enforce = Binary::start(&[&rules[..], &["--policy=enforce"]].concat());
    let asked = [
        ("GET", "good.example", None),
        ("GET", "a.bad.example", Some("--deny:1")),
        ("GET", "other.example", Some("default")),
        ("DELETE", "good.example", Some("--methods")),
        // Nothing listens there.
        ("GET", "far.example", Some("default")),
    ];
    for (method, host, against) in asked {
        let ask = |proxy: &Binary| {
            let mut client = Peer::connect(proxy.addr);
            client.send(format!("{method} http://{host}:{to}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            client.read_response()
        };
        let expected = if host == "far.example" { 502 } else { 200 };
        assert_eq!(ask(&report).status, expected, "{method} {host}");
        let enforced = ask(&enforce);
        assert_eq!(enforced.rule(), against, "{method} {host}");
        assert_eq!(enforced.status, if against.is_some() { 403 } else { 200 }, "{method} {host}");
    }
    let (reported, enforced) = (lines(&report, asked.len()), lines(&enforce, asked.len()));
    for (i, (_, host, against)) in asked.into_iter().enumerate() {
        let expected = against.map_or(Value::Null, Value::from);
        assert_eq!(reported[i]["would_deny"], expected, "{host}");
        assert_eq!(enforced[i]["would_deny"], Value::Null, "{host}");
        if against.is_some() {
            assert_eq!((&reported[i]["rule"], &enforced[i]["rule"]), (&Value::Null, &expected));
        } else {
            assert_eq!(reported[i]["rule"], "--allow:1");
        }
    }
    let stats: Value =
        serde_json::from_str(fetch(admin.parse().unwrap(), "/stats.json").text()).unwrap();
    assert_eq!(stats["denials"], serde_json::json!({"refused": 0, "reported": 4}));
    drop((report, enforce));
    origin.join();
}

/// Hits are the same in every place that tells them, and another parser reads them.
#[test]
fn hits_are_told_by_source_in_every_form() {
    let admin = free_port().to_string();
    let proxy = Binary::start(&[
        "--deny=.ads.example",
        "--deny=.tracker.example",
        "--allow=good.example",
        "--methods=GET",
        "--resolve=good.example:127.0.0.1",
        "--admin",
        &admin,
    ]);
    let refused = RefusedPort::new();
    let near = format!("good.example:{}", refused.addr.port());
    let mut client = Peer::connect(proxy.addr);
    for (method, host) in [
        ("GET", "x.ads.example"),
        ("GET", "x.tracker.example"),
        ("GET", near.as_str()),
        ("POST", near.as_str()),
        ("GET", "x.ads.example"),
    ] {
        client.send(format!("{method} http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.read_response();
    }
    let admin = admin.parse().unwrap();
    let stats: Value = serde_json::from_str(fetch(admin, "/stats.json").text()).unwrap();
    let expected = [
        ("protected-mode", 0),
        ("default", 0),
        ("auth", 0),
        ("--deny", 3),
        ("--allow", 1),
        ("--methods", 1),
        ("--sni", 0),
    ];
    let told = stats["rule_hits"].as_object().unwrap();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    let metrics = fetch(admin, "/metrics");
    let samples = samples(metrics.text());
    for (source, hits) in expected {
        assert_eq!(told[source], hits, "{source}");
        let name = format!("threadgate_rule_hits_total{{source=\"{source}\"}}");
        assert_eq!(samples.get(&name), Some(&f64::from(hits)), "{source}");
    }
    if let Some(theirs) = read_by_another(metrics.text()) {
        assert_eq!(theirs["threadgate_rule_hits_total{source=\"--deny\"}"], 3.0);
    }
    let page = ask(admin, "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n");
    assert!(page.text().contains("<tr><th>--deny<td>3\n"), "{}", page.text());
    assert!(page.text().contains("<th>against a request<td>4 refused, 0 reported\n"));
    eventually(|| {
        let said = proxy.snapshot();
        said.contains("rule hits") && said.contains("  3 --deny, 1 --allow, 1 --methods\n")
    });
}
