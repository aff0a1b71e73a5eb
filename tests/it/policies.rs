//! `--policy`: the fate of requests that no rule names, and of those that rules refuse.

use rustix::process::Signal;
use serde_json::Value;

use crate::admin::{ask, fetch};
use crate::metrics::samples;
use crate::peers::{Peer, eventually, status};
use crate::programs::{free_port, run};
use crate::proxies::{Binary, OK, command};
use crate::servers::{Origin, Recorder, RefusedPort, listen_on_a_port_of_its_own};

/// The lines of an access log in JSON on stdout, once there are `count`.
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

/// `report` lets through what `enforce` refuses, by the same rules.
#[test]
fn report_lets_through_and_names_what_enforce_refuses() {
    let origin = Origin::script_at_once_on(listen_on_a_port_of_its_own(), 4, |peer| {
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
        ("GET", "other.example", Some("--policy enforce")),
        ("DELETE", "good.example", Some("--methods")),
        // Nothing listens there.
        ("GET", "far.example", Some("--policy enforce")),
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
    for (method, host, against) in asked {
        let expected = against.map_or(Value::Null, Value::from);
        // Another worker may have logged a later request first.
        let of = |lines: &[Value]| {
            let target = format!("http://{host}:{to}/");
            let its = |line: &&Value| line["target"] == *target && line["method"] == method;
            lines.iter().find(its).cloned().unwrap_or_else(|| panic!("{method} {host}: no line"))
        };
        let (reported, enforced) = (of(&reported), of(&enforced));
        let would = against.map(|rule| rule.replace("--policy enforce", "--policy report"));
        assert_eq!(reported["would_deny"], would.map_or(Value::Null, Value::from), "{host}");
        assert_eq!(enforced["would_deny"], Value::Null, "{host}");
        if against.is_some() {
            assert_eq!((&reported["rule"], &enforced["rule"]), (&Value::Null, &expected));
        } else {
            assert_eq!(reported["rule"], "--allow:1");
        }
    }
    let stats: Value =
        serde_json::from_str(fetch(admin.parse().unwrap(), "/stats.json").text()).unwrap();
    assert_eq!(stats["denials"], serde_json::json!({"refused": 0, "reported": 4}));
    drop((report, enforce));
    origin.join();
}

/// What refuses a request that nothing allows is the policy, and it is named by its place.
#[test]
fn a_policy_that_refuses_is_named_by_its_option_or_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let (file, own) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    std::fs::write(&file, "allow = 'a.example'\npolicy = 'enforce'\n").unwrap();
    std::fs::write(&own, "[[listeners]]\naddress = '127.0.0.1:0'\npolicy = 'enforce'\n").unwrap();
    let (file, own) = (file.to_str().unwrap(), own.to_str().unwrap());
    for (args, rule) in [
        (&["-p", "0", "--policy", "enforce"][..], "--policy enforce".to_owned()),
        (&["-p", "0", "-c", file], format!("{file}:2")),
        (&["-c", own], format!("{own}:3")),
        (&[], "THREADGATE_POLICY:1".to_owned()),
    ] {
        let admin = free_port().to_string();
        let more = ["--access-log=-", "--log-format=json", "--admin", &admin];
        let set = |command: &mut std::process::Command| {
            let is_set = args.is_empty();
            command.envs(is_set.then_some(("THREADGATE_POLICY", "enforce")));
        };
        let all = [args, &more].concat();
        let proxy = match args.is_empty() {
            true => Binary::start_by(&["env"], set, &all),
            false => Binary::start_as(&all),
        };
        let mut client = Peer::connect(proxy.addr);
        client.send("GET http://b.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n");
        let refused = client.read_response();
        assert_eq!((refused.status, refused.rule()), (403, Some(&*rule)), "{}", refused.head);
        assert!(refused.text().contains(&format!("\nrule: {rule}\n")), "{}", refused.text());
        assert!(refused.text().contains("--allow HOST adds one"), "{}", refused.text());
        assert_eq!(lines(&proxy, 1)[0]["rule"], *rule);
        let stats: Value =
            serde_json::from_str(fetch(admin.parse().unwrap(), "/stats.json").text()).unwrap();
        assert_eq!(stats["busiest_rules"].as_object().unwrap().len(), 1, "{stats:#}");
        let mut explain = command(&["explain", "GET", "http://b.example/"]);
        explain.args(args);
        set(&mut explain);
        let said = run(&mut explain);
        assert_eq!(said.status.code(), Some(3), "{}", said.stderr);
        assert!(said.text().contains(&format!("  [{rule}]\n")), "{}", said.text());
    }
}

#[test]
fn hits_are_told_by_source_in_every_form() {
    hits_are_told_by_source(|_| {});
}

/// Hits are the same in every place that shows them. `reads` gets the text of `/metrics`.
#[track_caller]
pub(crate) fn hits_are_told_by_source(reads: impl FnOnce(&str)) {
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
        ("auth", 0),
        ("--deny", 3),
        ("--allow", 1),
        ("--methods", 1),
        ("--sni", 0),
    ];
    let told = stats["rule_hits"].as_object().unwrap();
    let metrics = fetch(admin, "/metrics");
    let samples = samples(metrics.text());
    for (source, hits) in expected {
        assert_eq!(told[source], hits, "{source}");
        let name = format!("threadgate_rule_hits_total{{source=\"{source}\"}}");
        assert_eq!(samples.get(&name), Some(&f64::from(hits)), "{source}");
    }
    // Single rules by their names in logs; the busiest first.
    let busiest = serde_json::json!({"--deny:1": 2, "--allow:1": 1, "--deny:2": 1, "--methods": 1});
    assert_eq!(stats["busiest_rules"], busiest);
    reads(metrics.text());
    let page = ask(admin, "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n");
    assert!(page.text().contains("<tr><th>--deny<td>3\n"), "{}", page.text());
    assert!(page.text().contains("<th>against a request<td>4 refused, 0 reported\n"));
    let busiest =
        "<tr><th>busiest rules<td>2 --deny:1<br>1 --allow:1<br>1 --deny:2<br>1 --methods\n";
    assert!(page.text().contains(busiest), "{}", page.text());
    eventually(|| {
        let said = proxy.snapshot();
        said.contains("rule hits")
            && said.contains("  3 --deny, 1 --allow, 1 --methods\n")
            && said.contains("  2 --deny:1, 1 --allow:1, 1 --deny:2, 1 --methods\n")
    });
}

/// An origin server that serves this many connections for as long as they ask.
fn origin(connections: usize) -> Origin {
    Origin::script_at_once(connections, |peer| {
        while peer.try_read_head().is_some() {
            peer.send(OK);
        }
    })
}

fn ask_for(proxy: &Binary, host: &str) -> u16 {
    let mut client = Peer::connect(proxy.addr);
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.read_response().status
}

#[test]
fn what_was_reached_is_learnt_and_goes_on_from_run_to_run() {
    let (origin, refused, dir) = (origin(5), RefusedPort::new(), tempfile::tempdir().unwrap());
    let (to, file) = (origin.addr.port(), dir.path().join("learnt.txt"));
    let learn_file = format!("--learn-file={}", file.display());
    let start = || {
        let near = ["www.good.example", "cdn.good.example", "bad.example", "later.example"];
        let mut args = vec!["--policy=learn".to_owned(), learn_file.clone()];
        args.extend(near.map(|name| format!("--resolve={name}:127.0.0.1")));
        args.push("--deny=bad.example".to_owned());
        Binary::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let learnt = || {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(", last ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let line = |domain: &str, requests| format!("{domain:<32} # {requests} requests");

    let mut proxy = start();
    assert_eq!(learnt(), [""; 0], "written at the start already");
    assert_eq!(ask_for(&proxy, &format!("www.good.example:{to}")), 200);
    assert_eq!(ask_for(&proxy, &format!("cdn.good.example:{to}")), 200);
    // A destination that was not reached is not learnt.
    assert_eq!(ask_for(&proxy, &format!("later.example:{}", refused.addr.port())), 502);
    assert_eq!(ask_for(&proxy, &format!("bad.example:{to}")), 403);
    assert_eq!(ask_for(&proxy, "nowhere.invalid"), 502);
    proxy.signal(Signal::USR2);
    eventually(|| learnt() == [line("good.example", 2)]);
    let mut tunnel = Peer::connect(proxy.addr);
    tunnel.send(format!("CONNECT 127.0.0.1:{to} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(status(&tunnel.read_head()), 200);
    drop(tunnel);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0), "{}", proxy.stderr());
    assert_eq!(learnt(), [line("127.0.0.1", 1), line("good.example", 2)]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(&format!("Z: cdn.good.example:{to} www.good.example:{to}\n")), "{text}");

    let mut proxy = start();
    assert_eq!(ask_for(&proxy, &format!("www.good.example:{to}")), 200);
    assert_eq!(ask_for(&proxy, &format!("later.example:{to}")), 200);
    proxy.signal(Signal::TERM);
    proxy.wait();
    let expected = [line("127.0.0.1", 1), line("good.example", 3), line("later.example", 1)];
    assert_eq!(learnt(), expected);
    origin.join();
}

/// A ClientHello that names `www.example.com`.
const HELLO: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");

/// A tunnel by address, in which the ClientHello has a name: the learnt list must let the same tunnel
/// through.
#[test]
fn the_name_in_a_client_hello_is_learnt_for_it_will_be_judged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("learnt.txt").display().to_string();
    let server = Recorder::answering("");
    let target = server.addr.to_string();
    // How many times the server has been sent something.
    let reached = || server.seen_at_end().iter().filter(|seen| !seen.bytes.is_empty()).count();
    let tunnel = |proxy: &Binary, bytes: &[u8]| {
        let mut tunnel = Peer::connect(proxy.addr);
        tunnel.send(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(status(&tunnel.read_head()), 200);
        tunnel.send(bytes);
        tunnel.half_close();
        tunnel.read_to_any_end();
    };
    let mut learning = Binary::start(&["--policy=learn", "--learn-file", &file]);
    tunnel(&learning, HELLO);
    // Nothing was refused, not even unreadable bytes.
    let odd = [&[0x16, 3, 1, 0, 5][..], b"oddly"].concat();
    tunnel(&learning, &odd);
    assert_eq!(reached(), 2);
    learning.signal(Signal::TERM);
    assert_eq!(learning.wait().code(), Some(0), "{}", learning.stderr());
    let learnt = std::fs::read_to_string(&file).unwrap();
    let entry = |domain: &str| learnt.lines().find(|line| line.starts_with(domain)).unwrap();
    assert!(
        entry("example.com  ").ends_with(&format!("Z: www.example.com:{}", server.addr.port()))
    );
    assert!(entry("127.0.0.1  ").contains("# 2 requests"), "{learnt}");

    let enforcing = Binary::start(&["--policy=enforce", "--allow-list", &file]);
    tunnel(&enforcing, HELLO);
    assert_eq!(reached(), 3, "what was learnt is let through");
    std::fs::write(&file, "127.0.0.1\n").unwrap();
    let stricter = Binary::start(&["--policy=enforce", "--allow-list", &file]);
    tunnel(&stricter, HELLO);
    assert_eq!(reached(), 3, "by the name as well");
}

#[test]
fn a_learn_file_that_is_something_else_ends_the_start_and_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.txt");
    std::fs::write(&file, "example.com\n").unwrap();
    for (path, says) in [
        (file.display().to_string(), "it contains something that --policy learn does not write"),
        (dir.path().display().to_string(), "cannot read it: it is not a regular file"),
        ("/nonexistent/file".to_owned(), "cannot write it: "),
    ] {
        let args = ["--policy=learn", "--listen=127.0.0.1:0", "--learn-file", &path];
        let ended = run(&mut command(&args));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("--learn-file {path}: {says}")), "{}", ended.stderr);
        let checked = crate::lifecycle::run(&["check", "--policy=learn", "--learn-file", &path]);
        // Only a start tells whether the file can be written.
        let code = if says.starts_with("cannot write") { 0 } else { 1 };
        assert_eq!(checked.status.code(), Some(code), "{path}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "example.com\n");
    for args in
        [&["--policy=learn"][..], &["--learn-file=x"], &["--policy=report", "--learn-file=x"]]
    {
        let ended = run(&mut command(args));
        assert_eq!(ended.status.code(), Some(2), "{args:?}");
        assert!(ended.stderr.contains("give "), "{}", ended.stderr);
    }
}

#[test]
fn a_denial_is_a_failure_if_that_is_asked_for() {
    let refused = RefusedPort::new();
    for (policy, fail, host, code) in [
        ("--policy=enforce", true, "a.example", 3),
        ("--policy=report", true, "127.0.0.1", 3),
        ("--policy=enforce", false, "a.example", 0),
        ("--policy=open", true, "127.0.0.1", 0),
    ] {
        let args: &[&str] = if fail { &[policy, "--fail-on-deny"] } else { &[policy] };
        let mut proxy = Binary::start(args);
        ask_for(&proxy, &format!("{host}:{}", refused.addr.port()));
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait().code(), Some(code), "{policy} {fail}: {}", proxy.stderr());
        let said = proxy.stderr().contains("threadgate: --fail-on-deny: ");
        assert_eq!(said, code == 3, "{}", proxy.stderr());
    }
}
