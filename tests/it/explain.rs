//! `threadgate explain`: it says what the proxy does, and why.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::peers::{Peer, eventually, field, status};
use crate::programs::{Ended, run};
use crate::proxies::{Binary, OK, command};
use crate::servers::{Origin, Recorder, RefusedPort};

fn explain(args: &[&str]) -> Ended {
    run(&mut command(&[&["explain"], args].concat()))
}

/// A client at this address of loopback.
fn client_from(ip: &str, proxy: SocketAddr) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let ip: Ipv4Addr = ip.parse().unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&proxy.into()).unwrap();
    Peer::new(TcpStream::from(socket))
}

/// The proxy's answer: the status and the rule.
fn ask(proxy: &Binary, method: &str, url: &str, client: &str, user: &str) -> (u16, Option<String>) {
    let mut client = client_from(client, proxy.addr);
    let auth = match user {
        "" => "",
        "joe" => "Proxy-Authorization: Basic am9lOnB3\r\n",
        // bob:pw
        _ => "Proxy-Authorization: Basic Ym9iOnB3\r\n",
    };
    let upgrade = match url.starts_with("ws:") {
        true => "Connection: upgrade\r\nUpgrade: websocket\r\n",
        false => "",
    };
    client.send(format!("{method} {url} HTTP/1.1\r\nHost: x\r\n{auth}{upgrade}\r\n"));
    let head = client.read_head();
    let rule = field(&head, "x-threadgate-reason").and_then(|said| said.rsplit_once("; "));
    (status(&head), rule.map(|(rule, _)| rule.to_owned()))
}

/// The last line of the access log, which is about `url`.
fn logged(proxy: &Binary, lines: usize) -> Value {
    let mut last = Value::Null;
    eventually(|| {
        let said = proxy.stdout();
        last =
            said.lines().nth(lines).and_then(|l| serde_json::from_str(l).ok()).unwrap_or_default();
        !last.is_null()
    });
    last
}

const NAMES: [&str; 4] = [
    "--resolve=near.example:127.0.0.1",
    "--resolve=www.near.example:127.0.0.1",
    "--resolve=far.example:127.0.0.3",
    "--resolve=both.example:127.0.0.1",
];

/// Each row: a method, a URL in which PORT is a port that refuses, a client, a user.
type Row = (&'static str, &'static str, &'static str, &'static str);

const HOME: &str = "127.0.0.1";

#[test]
fn it_says_of_each_request_what_the_proxy_does_with_it() {
    let lists = tempfile::tempdir().unwrap();
    let (block, allow) = (lists.path().join("block.txt"), lists.path().join("allow.txt"));
    std::fs::write(&block, "# ads\nads.example\nnear.example\n").unwrap();
    std::fs::write(&allow, "www.near.example\n").unwrap();
    let block = format!("--block-list={}", block.display());
    let allow = format!("--allow-list={}", allow.display());
    let get = |url| ("GET", url, HOME, "");
    let usual: [Row; 8] = [
        get("http://near.example:PORT/"),
        get("http://WWW.near.example.:PORT/ads/1"),
        get("http://far.example:PORT/"),
        get("http://127.0.0.1:PORT/"),
        ("POST", "http://near.example:PORT/", HOME, ""),
        ("CONNECT", "near.example:PORT", HOME, ""),
        ("GET", "ws://near.example:PORT/", HOME, ""),
        ("GET", "http://near.example:PORT/", "127.0.0.9", ""),
    ];
    let mut compared = 0;
    for flags in [
        &["--listen=127.0.0.1:0"][..],
        &["--listen=0.0.0.0:0"],
        &["--listen=0.0.0.0:0", "--allow=127.0.0.1", "--deny-client=127.0.0.9"],
        &[
            "--listen=127.0.0.1:0",
            "--policy=enforce",
            "--allow=.near.example",
            "--methods=GET,CONNECT",
        ],
        &["--listen=127.0.0.1:0", "--policy=report", "--allow=.near.example", "--deny=127.0.0.3"],
        &[
            "--listen=127.0.0.1:0",
            "--deny=127.0.0.0/8:1",
            "--deny=127.0.0.3",
            "--schemes=http,connect",
        ],
        &["--listen=127.0.0.1:0", "--allow-client=127.0.0.9", "--connect-ports=443"],
        &["--listen=127.0.0.1:0", &block, &allow, "--deny-url=/ads/"],
        &[
            "--listen=127.0.0.1:0",
            "--policy=enforce",
            "--allow-url=/%61ds/",
            "--allow-url=^http://near",
        ],
        &["--listen=127.0.0.1:0", "--deny=.near.example", "--deny-with=204"],
        &["--listen=127.0.0.1:0", "--deny=127.0.0.0/8", "--deny-with=http://sorry.example/"],
        &["--listen=0.0.0.0:0", "--policy=enforce", &allow],
    ] {
        compared += compare(flags, &usual);
    }
    let with_users =
        ["--listen=127.0.0.1:0", "--auth=joe:pw", "--deny=far.example", "--deny-client=127.0.0.9"];
    let users: [Row; 7] = [
        ("GET", "http://near.example:PORT/", HOME, "bob"),
        ("CONNECT", "far.example:PORT", HOME, "bob"),
        get("http://near.example:PORT/"),
        ("GET", "http://near.example:PORT/", HOME, "joe"),
        get("http://far.example:PORT/"),
        ("GET", "http://far.example:PORT/", HOME, "joe"),
        ("GET", "http://near.example:PORT/", "127.0.0.9", "joe"),
    ];
    compared += compare(&with_users, &users);
    assert!(compared >= 103, "{compared}");
}

/// Compares what is explained with what happens. Returns how many rows were compared.
fn compare(flags: &[&str], rows: &[Row]) -> usize {
    let refused = RefusedPort::new();
    let flags: Vec<&str> = flags.iter().chain(&NAMES).copied().collect();
    let logs = ["--access-log=-", "--log-format=json", "--threads=2"];
    let proxy = Binary::start_as(&[&flags[..], &logs].concat());
    for (i, &(method, url, client, user)) in rows.iter().enumerate() {
        let url = url.replace("PORT", &refused.addr.port().to_string());
        let what = format!("{flags:?} {method} {url} {client} {user}");
        let (status, rule) = ask(&proxy, method, &url, client, user);
        let line = logged(&proxy, i);

        let mut args = flags.clone();
        args.extend(["--json", "--client", client, method, &url]);
        if !user.is_empty() {
            args.extend(["--user", user]);
        }
        let ended = explain(&args);
        let said: Value = serde_json::from_str(&ended.text())
            .unwrap_or_else(|e| panic!("{what}: {e}: {} {}", ended.text(), ended.stderr));
        let denied = [204, 302, 403, 407].contains(&status);
        assert_eq!(
            ended.status.code(),
            Some(if denied { 3 } else { 0 }),
            "{what}: {status} {said:#}"
        );
        let rule = rule.map_or(Value::Null, Value::from);
        match said["verdict"].as_str().unwrap() {
            "denied" => {
                assert_eq!((&said["status"], &said["rule"]), (&status.into(), &rule), "{what}");
                assert_eq!(said["rule"], line["rule"], "{what}");
                assert_eq!(said["reason"], line["reason"], "{what}");
            }
            "would be denied" => assert_eq!(said["rule"], line["would_deny"], "{what}"),
            "allowed" => {
                assert_eq!(said["rule"], line["rule"], "{what}: {line} {said:#}");
                assert_eq!(line["would_deny"], Value::Null, "{what}");
            }
            other => panic!("{other}"),
        }
    }
    rows.len()
}

#[test]
fn it_says_each_step_with_its_rule_for_people_and_for_programs() {
    let args = [
        "--deny=.tracker.example",
        "--limit=client:10mbit",
        "--resolve=www.example:192.0.2.7",
        "--color=never",
    ];
    let of = |more: &[&str]| explain(&[&args[..], more].concat());
    let denied = of(&["GET", "https://a.tracker.example/x"]);
    assert_eq!(denied.status.code(), Some(3));
    assert_eq!(
        (denied.text().as_str(), denied.stderr.as_str()),
        (
            "\
request                  GET https://a.tracker.example/x
                         by CONNECT a.tracker.example:443, which is all that the proxy sees
from                     127.0.0.1
acl      goes on         client 127.0.0.1 is served
acl      denied          deny .tracker.example  [--deny:1]
shape                    10mbit up, and the same down, for client 127.0.0.1  [--limit:1]
verdict  denied          a rule refuses this request (403)  [--deny:1]
",
            ""
        )
    );
    let allowed = of(&["GET", "http://www.example/", "--client", "10.1.1.1"]);
    assert_eq!(allowed.status.code(), Some(0));
    assert_eq!(
        allowed.text(),
        "\
request                  GET http://www.example/
from                     10.1.1.1
acl      goes on         client 10.1.1.1 is served
acl      goes on         the only rule does not name it
acl      goes on         --policy open
shape                    10mbit up, and the same down, for client 10.1.1.1  [--limit:1]
name                     www.example leads to 192.0.2.7: given by --resolve or a hosts file
address  allowed         192.0.2.7: nothing is against it
verdict  allowed
"
    );
    // Of several addresses one is enough. If none is known, the output says so.
    let guarded = ["--listen=0.0.0.0:3128", "GET", "http://x.example/", "--address=10.0.0.1"];
    assert_eq!(explain(&guarded).status.code(), Some(3));
    assert_eq!(explain(&[&guarded[..], &["--address=8.8.8.8"]].concat()).status.code(), Some(0));
    let unknown = explain(&["GET", "http://nowhere.invalid/"]);
    let says = "verdict  allowed         as far as is known without an address\n";
    assert!(unknown.text().ends_with(says), "{}", unknown.text());
    assert_eq!(unknown.status.code(), Some(0));
    for own in ["http://127.0.0.1:3128/", "http://127.0.0.1:9127/"] {
        let looped = explain(&["--admin=:9127", "GET", own]);
        let says = "would come back to this proxy (508)\n";
        assert!(looped.text().contains(says), "{}", looped.text());
        assert_eq!(looped.status.code(), Some(3));
    }
    for (instead, says) in [
        ("204", "a rule refuses this request (204)  [--deny:1]\n"),
        ("http://b/", "a rule refuses this request (302 to http://b/)  [--deny:1]\n"),
        ("http://a.example/x", "a rule refuses this request (403)  [--deny:1]\n"),
    ] {
        let with = format!("--deny-with={instead}");
        let denied = explain(&["--deny=a.example", &with, "GET", "http://a.example/"]);
        assert!(denied.text().ends_with(says), "{}", denied.text());
    }
    let coloured = explain(&["--color=always", "--deny=a.example", "GET", "http://a.example/"]);
    assert!(coloured.text().contains("\x1b[31mdenied         \x1b[0m"), "{}", coloured.text());
}

/// A ClientHello that names `www.example.com`.
const HELLO: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");

/// Each verdict on a ClientHello is what happens to the tunnel.
#[test]
fn it_says_of_a_client_hello_what_the_proxy_does_with_it() {
    for (flags, host, verdict) in [
        (&["--deny=www.example.com"][..], "127.0.0.1", "denied"),
        (&["--deny=www.example.com"], "near.example", "denied"),
        (&["--deny=other.example"], "127.0.0.1", "allowed"),
        (&["--policy=enforce", "--allow=near.example"], "near.example", "denied"),
        (&["--policy=enforce", "--allow=127.0.0.1"], "near.example", "allowed"),
        (&["--policy=report", "--allow=near.example"], "near.example", "would be denied"),
        (&["--deny=www.example.com", "--sni=off"], "127.0.0.1", "allowed"),
        (&["--sni=match"], "near.example", "denied"),
        (&["--sni=match"], "127.0.0.1", "allowed"),
    ] {
        let what = format!("{flags:?} {host}");
        let server = Recorder::answering("");
        let port = server.addr.port();
        let flags = [flags, &NAMES].concat();
        let logs = ["--access-log=-", "--log-format=json", "--threads=2"];
        let proxy = Binary::start_as(&[&flags[..], &logs, &["--listen=127.0.0.1:0"]].concat());
        let mut client = Peer::connect(proxy.addr);
        let target = format!("{host}:{port}");
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(status(&client.read_head()), 200, "{what}");
        client.send(HELLO);
        client.half_close();
        client.read_to_any_end();
        let line = logged(&proxy, 0);

        let args = [&flags[..], &["--json", "--hello=www.example.com", "CONNECT", &target]];
        let ended = explain(&args.concat());
        let said: Value = serde_json::from_str(&ended.text()).expect(&ended.stderr);
        assert_eq!(said["verdict"], verdict, "{what}: {said:#}");
        let denied = verdict == "denied";
        assert_eq!(ended.status.code(), Some(if denied { 3 } else { 0 }), "{what}");
        let rule = if verdict == "would be denied" { "would_deny" } else { "rule" };
        assert_eq!(said["rule"], line[rule], "{what}: {line}");
        let reached = !server.seen_at_end().iter().all(|seen| seen.bytes.is_empty());
        assert_eq!(reached, !denied, "{what}");
        if denied {
            assert_eq!((&said["reason"], &said["status"]), (&line["reason"], &line["status"]));
        }
    }
}

/// The limits listed are those that refuse, under the same names.
#[test]
fn it_names_limits_as_their_refusals_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gate.toml");
    for (key, value, status_code) in [
        ("limit-requests", "'1/m'", 429),
        ("limit-connections", "1", 429),
        ("max-bytes", "'1kB'", 503),
    ] {
        std::fs::write(&file, format!("# Line 1\n{key} = {value}\n")).unwrap();
        let flag = format!("--{key}={}", value.trim_matches('\''));
        for flags in [vec!["-c", file.to_str().unwrap()], vec![&flag]] {
            let origin = Origin::answer(OK);
            let url = format!("http://{}/", origin.addr);
            let listen = ["--listen=127.0.0.1:0"];
            let proxy = Binary::start_as(&[&flags[..], &listen].concat());
            let mut first = Peer::connect(proxy.addr);
            let much = "x".repeat(2000);
            first.send(format!("GET {url} HTTP/1.1\r\nHost: x\r\nCookie: {much}\r\n\r\n"));
            first.read_response();
            let (status, rule) = ask(&proxy, "GET", &url, HOME, "");
            assert_eq!(status, status_code, "{flags:?}");
            let ended = explain(&[&flags[..], &["--json", "GET", &url]].concat());
            let said: Value = serde_json::from_str(&ended.text()).expect(&ended.stderr);
            assert_eq!(said["limits"][0]["rule"], rule.unwrap(), "{flags:?}: {said:#}");
        }
    }
}

/// Checks that come later: those of the response, and the bounds that a request keeps within.
#[test]
fn it_says_what_will_be_looked_at_later() {
    let flags = [
        "--methods=GET,CONNECT",
        "--connect-ports=443",
        "--deny-url=/ads",
        "--deny-type=video/*,audio/mpeg",
        "--deny-type=image/*",
        "--max-response-size=1MB",
        "--address=192.0.2.7",
        "--color=never",
    ];
    let ended = explain(&[&flags[..], &["GET", "http://a.example/x/%61"]].concat());
    assert_eq!(
        ended.text(),
        "\
request                  GET http://a.example/x/%61
from                     127.0.0.1
acl      goes on         client 127.0.0.1 is served
acl      goes on         allowed: method GET
filter   goes on         the only pattern is not found in http://a.example/x/a
acl      goes on         there are no rules
acl      goes on         --policy open
name                     a.example leads to 192.0.2.7: given by --address
address  allowed         192.0.2.7: nothing is against it
response goes on         a response of type video/* or audio/mpeg will be refused  [--deny-type:1]
response goes on         a response of type image/* will be refused  [--deny-type:2]
response goes on         a response with more than 1000000 bytes of content will be refused  [--max-response-size]
verdict  allowed
"
    );
    let hello = ["--sni=match", "CONNECT", "a.example:443", "--hello=b.example"];
    let ended = explain(&[&flags[..], &hello].concat());
    assert_eq!(ended.status.code(), Some(3));
    let says = "\
hello    denied          the ClientHello names b.example  [--sni]
verdict  denied          the ClientHello does not name the host of the CONNECT (200, then a TLS alert)  [--sni]
";
    assert!(ended.text().ends_with(says), "{}", ended.text());
    assert!(ended.text().contains("allowed: method CONNECT, CONNECT to port 443\n"));
    assert!(ended.text().contains("URLs inside a tunnel are not visible\n"));
}

#[test]
fn it_asks_the_listener_that_is_named_with_the_rules_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gate.toml");
    let text = "deny = ['a.example']\n\
        [[listeners]]\naddress = '127.0.0.1:1'\n\
        [[listeners]]\naddress = '127.0.0.1:2'\nallow = ['a.example']\ndeny = []\n\
        [[listeners.rules]]\nname = 'nobody'\naction = 'deny'\ndestinations = ['b.example']\n";
    std::fs::write(&file, text).unwrap();
    let of = |listener: &str, host: &str| {
        let url = format!("http://{host}/");
        let config = file.to_str().unwrap();
        let listener = format!("--listener={listener}");
        let ended =
            explain(&["-c", config, &listener, "--json", "--address=192.0.2.1", "GET", &url]);
        let said: Value = serde_json::from_str(&ended.text()).expect(&ended.stderr);
        (said["verdict"].as_str().unwrap().to_owned(), said["rule"].clone())
    };
    let denied = |rule: &str| ("denied".to_owned(), Value::from(rule));
    let (verdict, rule) = of(":1", "a.example");
    assert_eq!(verdict, "denied", "{rule}");
    assert_eq!(of(":2", "a.example").0, "allowed");
    assert_eq!(of("2", "a.example").0, "allowed");
    assert_eq!(of(":1", "b.example"), ("allowed".to_owned(), Value::Null));
    assert_eq!(of(":2", "b.example"), denied("nobody"));
}

#[test]
fn what_cannot_be_asked_is_a_usage_error() {
    for (args, says) in [
        (
            &["GET"][..],
            "explain: needs a URL behind the method; write for example threadgate explain GET http://example.com/",
        ),
        (&[], "explain: needs a method and a URL; write for example threadgate explain GET http"),
        (
            &["http://a/"],
            "explain: needs a method before the URL; write threadgate explain GET http://a/",
        ),
        (
            &["http://a/", "GET"],
            "explain: the method comes first; write threadgate explain GET http://a/",
        ),
        (&["GET", "http://a/", "x"], "explain: 'x' is one word too many; one request at a time"),
        (&["CONNECT", "https://a/"], "; CONNECT takes HOST:PORT, and GET an https URL"),
        (&["GET", "http://müller.example/"], "; write the host in its xn-- form and other"),
        (&["GET", "http://a/#b"], "; leave out # and what follows, as a browser does"),
        (&["GET", "a.example"], "; give a whole URL, such as http://example.com/"),
        (&["GET", "http://a/", "--user="], "--user: '' is not a name"),
        (&["CONNECT", "a:443", "--hello=192.0.2.1"], "--hello: '192.0.2.1' is not a host name"),
        (&["GET", "example.com"], "explain: the request-target is not in a form"),
        (&["GET", "/x"], "explain: '/x' is asked of the proxy itself; give a whole URL"),
        (&["GET", "ftp://a.example/"], "explain: only http URLs are forwarded"),
        (&["GET", "http://a.example/ x"], "explain: ' ' is not allowed in a URL; encode it"),
        (&["GE\nT", "http://a.example/"], "explain: '\\n' is not allowed in a method"),
        (
            &["CONNECT", "a.example"],
            "explain: a CONNECT request must name a port; give HOST:PORT, such as",
        ),
        (
            &["GET", "http://a/", "--client=x"],
            "--client: 'x' is not an IP address; give one such as",
        ),
        (&["GET", "http://a/", "--address=::g"], "--address: '::g' is not an IP address"),
        (
            &["GET", "http://a/", "--listener=:1"],
            "--listener: 127.0.0.1:1 is not a listener; give one of 127.0.0.1:3128",
        ),
        (&["GET", "http://a/", "--listener=1"], "--listener: 1 is not a listener; give one of 127"),
        (&["GET", "http://a/", "--deny=..a"], "--deny: '..a' is not a destination"),
    ] {
        let ended = explain(args);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.text());
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
        assert!(ended.text().is_empty());
    }
}
