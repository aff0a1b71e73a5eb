//! Metrics: the numbers are those of the traffic that went through, in every form.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use threadgate::Server;
use threadgate::error::{Kind, Side};
use threadgate::observe::counters::Wait;
use threadgate::observe::rule_hits;

use crate::admin::{admin_of, fetch, proxy_with_admin};
use crate::hostile::{DropsSyns, HangingResolver, NeverReads};
use crate::peers::{Peer, eventually, eventually_eq, pattern};
use crate::proxies::{Names, OK, get, get_request};
use crate::servers::{Origin, RefusedPort, listen};

/// Each sample of `/metrics` under its name with labels.
pub(crate) type Samples = BTreeMap<String, f64>;

#[track_caller]
fn scrape(admin: SocketAddr) -> Samples {
    samples(fetch(admin, "/metrics").text())
}

#[track_caller]
pub(crate) fn samples(text: &str) -> Samples {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

#[track_caller]
fn stats(admin: SocketAddr) -> Value {
    serde_json::from_str(fetch(admin, "/stats.json").text()).expect("JSON")
}

/// Traffic of every kind, and the numbers that must result.
pub(crate) struct Played {
    pub(crate) proxy: Server,
    from_clients: u64,
    to_clients: u64,
}

/// Three GETs on one connection, a POST, a refused port, a name that fails, a tunnel.
pub(crate) fn play() -> Played {
    let proxy = proxy_with_admin(|options| {
        let names = Names::default().with("here.example", &[Ipv4Addr::LOCALHOST.into()]);
        options.resolver = Arc::new(names);
    });
    let (mut from_clients, mut to_clients) = (0, 0);
    let mut sends = |client: &mut Peer, text: &str| {
        from_clients += text.len() as u64;
        client.send(text);
    };
    let mut got = |response: &crate::peers::Response| {
        to_clients += (response.head.len() + response.content.len()) as u64;
    };
    let origin = Origin::script(1, |peer| {
        for _ in 0..3 {
            peer.read_head();
            peer.send(OK);
        }
        peer.read_head();
        peer.read_exact(5);
        peer.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let mut client = Peer::connect(proxy.addr());
    let by_name = format!("here.example:{}", origin.addr.port());
    for _ in 0..3 {
        sends(&mut client, &format!("GET http://{by_name}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.status, 200);
        got(&response);
    }
    sends(
        &mut client,
        &format!("POST http://{by_name}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
    );
    let response = client.read_response();
    assert_eq!(response.status, 404);
    got(&response);

    let refused = RefusedPort::new();
    sends(&mut client, &get_request(refused.addr, "/"));
    let response = client.read_response();
    assert_eq!(response.status, 502);
    got(&response);
    drop(client);

    let mut client = Peer::connect(proxy.addr());
    sends(&mut client, "GET http://nowhere.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 502);
    got(&response);
    drop(client);

    let echo = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong!");
        peer.expect_end();
    });
    let mut client = Peer::connect(proxy.addr());
    sends(&mut client, &format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.addr));
    let head = client.read_head();
    sends(&mut client, "ping");
    assert_eq!(client.read_text(5), "pong!");
    to_clients += head.len() as u64 + 5;
    drop(client);
    echo.join();
    eventually_eq(|| proxy.stats().connections_closed, 3);
    drop(origin);
    Played { proxy, from_clients, to_clients }
}

#[test]
fn the_numbers_are_those_of_what_went_through() {
    let Played { proxy, from_clients, to_clients } = play();
    let admin = admin_of(&proxy);
    let seen = scrape(admin);
    let expected = [
        ("connections_accepted_total", 3),
        ("connections_closed_total", 3),
        ("connections_open", 0),
        ("exchanges_begun_total", 7),
        ("exchanges_finished_total", 7),
        ("exchanges_open", 0),
        ("exchanges_by_status_total{class=\"2xx\"}", 4),
        ("exchanges_by_status_total{class=\"4xx\"}", 1),
        ("exchanges_by_status_total{class=\"5xx\"}", 2),
        ("exchanges_by_status_total{class=\"none\"}", 0),
        ("exchanges_by_method_total{method=\"GET\"}", 5),
        ("exchanges_by_method_total{method=\"POST\"}", 1),
        ("exchanges_by_method_total{method=\"CONNECT\"}", 1),
        ("failures_total{side=\"upstream\"}", 2),
        ("failures_total{side=\"client\"}", 0),
        ("failures_by_kind_total{kind=\"connection_refused\"}", 1),
        ("failures_by_kind_total{kind=\"dns_error\"}", 1),
        ("tunnels_opened_total", 1),
        ("tunnels_closed_total", 1),
        ("tunnel_seconds_count", 1),
        ("upstream_connects_total", 2),
        ("upstream_connect_failures_total", 1),
        ("upstream_reuses_total", 3),
        ("lookups_total", 2),
        ("lookup_failures_total", 1),
        ("client_received_bytes_total", from_clients),
        ("client_sent_bytes_total", to_clients),
        ("exchange_seconds_count", 6),
        // Including the tunnel's.
        ("phase_seconds_count{phase=\"request\"}", 7),
        // One name found, one failed.
        ("phase_seconds_count{phase=\"lookup\"}", 2),
        // Two connections made, one refused.
        ("phase_seconds_count{phase=\"connect\"}", 3),
        ("phase_seconds_count{phase=\"send\"}", 4),
        ("phase_seconds_count{phase=\"wait\"}", 4),
        ("phase_seconds_count{phase=\"transfer\"}", 4),
        ("panics_total", 0),
    ];
    for (name, value) in expected {
        let name = format!("threadgate_{name}");
        assert_eq!(seen.get(&name), Some(&(value as f64)), "{name}");
    }
    let kinds: f64 = seen.iter().filter(|(n, _)| n.contains("failures_by_kind")).map(|s| s.1).sum();
    assert_eq!(kinds, 2.0);
    assert!(seen["threadgate_queue_wait_seconds_count"] >= 3.0, "one a connection at least");
    assert!(seen["process_resident_memory_bytes"] > 1e6);

    // The library, JSON and Prometheus give the same numbers.
    let json = stats(admin);
    let counted = proxy.stats();
    assert_eq!(json["exchanges_by_status"]["2xx"], 4);
    assert_eq!(json["bytes_from_clients"], from_clients);
    assert_eq!(json["phase_seconds"]["connect"]["count"], 3);
    assert_eq!(json["failures_by_kind"]["dns_error"], 1);
    assert_eq!(counted.bytes_to_clients, to_clients);
    assert_eq!(counted.failures_of(Side::Upstream), 2);
    assert_eq!(counted.failures_by_kind[Kind::ConnectionRefused as usize], 1);
}

/// How many sessions are parked in each way.
fn parked(proxy: &Server) -> BTreeMap<&'static str, u64> {
    let parked = proxy.report().gauges.parked;
    Wait::ALL.iter().map(|w| w.word()).zip(parked).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn sessions_are_counted_by_what_they_wait_for() {
    let hole = DropsSyns::on((Ipv4Addr::new(127, 0, 0, 9), 0).into());
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with_admin(|options| {
        options.resolver = Arc::new(resolver);
        options.timeouts.head = Duration::from_secs(30);
    });
    // The server answers at once, never, with half, or with more than fits.
    let origin = Origin::script_at_once(3, |peer| {
        let head = peer.read_head();
        if head.contains("/now") {
            peer.send(OK);
        } else if head.contains("/half") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
        peer.read_to_any_end();
    });
    let echo = listen();
    let ask = |request: String| {
        let mut client = Peer::connect(proxy.addr());
        client.send(request);
        client
    };
    let mut expected = BTreeMap::new();
    let mut clients = Vec::new();
    for (wait, request) in [
        ("idle", get_request(origin.addr, "/now")),
        ("head", "GET http://half".to_owned()),
        ("lookup", "GET http://hang.example/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("connect", get_request(hole.addr, "/")),
        (
            "send",
            format!(
                "POST http://{}/never HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
                origin.addr
            ),
        ),
        ("response", get_request(origin.addr, "/never")),
        ("transfer", get_request(origin.addr, "/half")),
        (
            "tunnel",
            format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.local_addr().unwrap()),
        ),
    ] {
        clients.push(ask(request));
        expected.insert(wait, 1);
        eventually_eq(|| parked(&proxy), expected.clone());
    }
    // A silent connection waits for a head; a connection of the admin listener has its own kind.
    clients.push(Peer::connect(proxy.addr()));
    expected.insert("head", 2);
    clients.push(Peer::connect(admin_of(&proxy)));
    expected.insert("admin", 1);
    eventually_eq(|| parked(&proxy), expected);
    let gauges = proxy.report().gauges;
    assert_eq!((gauges.connections_open, gauges.lookups_pending), (9, 1));
    assert_eq!((gauges.tunnels_open, gauges.resolver_threads), (1, 1));
    eventually_eq(|| proxy.report().gauges.workers, [0, 0, proxy.threads() as u64]);

    // An end alone would be a half-close, which is answered.
    clients.into_iter().for_each(Peer::reset);
    drop(gate);
    eventually_eq(|| parked(&proxy), BTreeMap::new());
    let stats = proxy.stats();
    assert_eq!(stats.parks, stats.resumes, "whoever parked went on");
    drop(echo);
    origin.join();
}

#[test]
fn who_takes_no_reply_waits_with_it() {
    let proxy = proxy_with_admin(|_| {});
    let many = "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n".repeat(10_000);
    let reader = NeverReads::ask(proxy.addr(), &many);
    eventually(|| parked(&proxy).contains_key("reply"));
    drop(reader);
    eventually_eq(|| parked(&proxy), BTreeMap::new());
}

#[test]
fn counters_only_rise_whatever_goes_on() {
    counters_only_rise(|_| {});
}

/// Has clients ask all the time meanwhile, and `looks` at what `/metrics` says each time.
#[track_caller]
pub(crate) fn counters_only_rise(mut looks: impl FnMut(&str)) {
    const CLIENTS: usize = 6;
    let proxy = proxy_with_admin(|_| {});
    let admin = admin_of(&proxy);
    let over = AtomicBool::new(false);
    let content = pattern(3000);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    let response = Arc::new([head.into_bytes(), content].concat());
    let origins: Vec<Origin> = (0..CLIENTS)
        .map(|_| {
            let response = Arc::clone(&response);
            Origin::script(1, move |peer| {
                while peer.try_read_head().is_some() {
                    peer.send(response.as_slice());
                }
            })
        })
        .collect();
    let mut sent = 0;
    thread::scope(|scope| {
        let clients: Vec<_> = origins
            .iter()
            .map(|origin| {
                let (over, proxy) = (&over, &proxy);
                scope.spawn(move || {
                    let mut client = Peer::connect(proxy.addr());
                    let mut count = 0;
                    while !over.load(Ordering::SeqCst) {
                        client.send(get_request(origin.addr, "/"));
                        assert_eq!(client.read_response().status, 200);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let rises = |name: &str| {
            name.contains("_total")
                || ["_bucket", "_sum", "_count"].iter().any(|s| name.contains(s))
        };
        let mut before = scrape(admin);
        for _ in 0..40 {
            let text = fetch(admin, "/metrics");
            let after = samples(text.text());
            assert_eq!(before.len(), after.len());
            for (name, value) in &after {
                assert!(!rises(name) || *value >= before[name], "{name} fell to {value}");
            }
            looks(text.text());
            before = after;
        }
        over.store(true, Ordering::SeqCst);
        sent = clients.into_iter().map(|client| client.join().unwrap()).sum();
    });
    eventually_eq(|| proxy.stats().connections_closed, CLIENTS as u64);
    let seen = scrape(admin);
    for name in [
        "exchanges_finished_total",
        "exchanges_by_status_total{class=\"2xx\"}",
        "exchanges_by_method_total{method=\"GET\"}",
        "exchange_seconds_count",
        "phase_seconds_count{phase=\"transfer\"}",
    ] {
        assert_eq!(seen[&format!("threadgate_{name}")], f64::from(sent), "{name}");
    }
    // Phases follow each other without a gap, so together they are the total.
    let sum = |name: &str| seen[&format!("threadgate_{name}")];
    let phases: f64 = ["request", "lookup", "connect", "send", "wait", "transfer"]
        .iter()
        .map(|phase| sum(&format!("phase_seconds_sum{{phase=\"{phase}\"}}")))
        .sum();
    let whole = sum("exchange_seconds_sum");
    assert!((phases - whole).abs() < 1e-6 * whole.max(1.0), "{phases} of {whole}");
    assert_eq!(sum("parked{wait=\"idle\"}"), 0.0);
}

#[test]
fn a_wait_of_known_length_is_in_its_bucket() {
    let proxy = proxy_with_admin(|_| {});
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        thread::sleep(Duration::from_millis(120));
        peer.send(OK);
    });
    assert_eq!(get(proxy.addr(), origin.addr, "/").status, 200);
    eventually_eq(|| proxy.stats().exchanges_finished, 1);
    let json = stats(admin_of(&proxy));
    for measured in [&json["exchange_seconds"], &json["phase_seconds"]["wait"]] {
        let sum = measured["sum"].as_f64().unwrap();
        assert!((0.12..5.0).contains(&sum), "{sum}");
        assert_eq!(measured["buckets"]["0.1"], 0);
        assert!(measured["p50"].as_f64().unwrap() >= 0.25);
    }
}

/// The labels of the metrics in a part of a rule; `le` is gone with its histogram.
fn labels_of(part: &str, proxy: &Server) -> Option<Vec<&'static str>> {
    let report = proxy.report();
    let measures = report.measures();
    let names = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut found = names.filter_map(|name| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        measures.iter().find(|m| m.metric() == name || Some(m.metric().as_str()) == base)
    });
    let labels = found.next()?.label.as_ref().map(|(label, _)| *label);
    assert!(found.next().is_none(), "two metrics in {part}");
    assert_eq!(part.contains("_bucket"), part.contains("histogram_quantile("), "{part}");
    Some(labels.into_iter().collect())
}

/// Samples with different labels are never compared, so such an alert would never fire.
#[test]
fn the_rules_in_the_manual_compare_samples_with_the_same_labels() {
    let manual = include_str!("../../docs/manual.md");
    let proxy = proxy_with_admin(|_| {});
    let (_, rules) = manual.split_once("```yaml\ngroups:").expect("the rules");
    let rules = rules.split_once("```").unwrap().0;
    let mut checked = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let (_, expr) = rule.split_once("expr:").expect("an expression");
        let end = ["for:", "annotations:"].iter().filter_map(|key| expr.find(key)).min().unwrap();
        let expr = expr[..end].trim().trim_start_matches('>').trim();
        for metric in expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let ours = metric.starts_with("threadgate_") || metric.starts_with("process_");
            assert!(!ours || labels_of(metric_in_its_function(metric).as_str(), &proxy).is_some());
        }
        for comparison in expr.split(" or ") {
            let (left, right) = comparison.split_once(['>', '<']).expect("a comparison");
            let (ignored, right) = match right.trim().strip_prefix("ignoring(") {
                Some(rest) => rest.split_once(')').unwrap(),
                None => ("", right),
            };
            let Some(labels) = labels_of(right, &proxy) else { continue };
            let mut left_labels = labels_of(left, &proxy).expect("a metric");
            // Several samples that differ in the ignored label are compared with one.
            let is_one = left_labels.iter().all(|label| left.contains(&format!("{label}=\"")));
            assert_eq!(!is_one, right.contains("group_left()"), "{rule}");
            left_labels.retain(|label| !ignored.split(',').any(|one| one.trim() == *label));
            assert_eq!(left_labels, labels, "{rule}");
            checked += 1;
        }
    }
    assert_eq!(checked, 4);
}

fn metric_in_its_function(metric: &str) -> String {
    if metric.ends_with("_bucket") {
        format!("histogram_quantile({metric})")
    } else {
        metric.to_owned()
    }
}

/// The rows of the table in `docs/metrics.md`, made from the code.
fn table(proxy: &Server) -> String {
    let mut table = String::new();
    for measure in proxy.report().measures() {
        let label = measure.label.as_ref().map_or(String::new(), |(label, words)| {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            match measure.field {
                "build_info" => format!("`{label}`"),
                _ => format!("`{label}`: {}", words.join(", ")),
            }
        });
        let kind = format!("{:?}", measure.kind).to_lowercase();
        let key = match measure.field {
            "build_info" => "version",
            field => field,
        };
        let (name, help) = (measure.metric(), measure.help);
        table.push_str(&format!("| `{name}` | `{key}` | {kind} | {label} | {help} |\n"));
    }
    let (key, label, help) = (rule_hits::KEY, rule_hits::LABEL, rule_hits::HELP);
    table.push_str(&format!(
        "| `threadgate_{key}_total` | `{key}` | counter | `{label}`: as below | {help} |\n"
    ));
    table
}

#[test]
fn the_document_lists_every_number_as_it_is() {
    let document = include_str!("../../docs/metrics.md");
    let proxy = proxy_with_admin(|_| {});
    let table = table(&proxy);
    let rows: String =
        document.lines().filter(|line| line.starts_with("| `")).map(|l| format!("{l}\n")).collect();
    assert!(rows == table, "docs/metrics.md should have these rows:\n{table}");
}
