//! Access rules: rules on requests, the addresses they lead to, and the answer to a refused client.

use std::net::SocketAddr;

use serde_json::Value;

use crate::peers::{Peer, Response, eventually};
use crate::programs::run;
use crate::proxies::{Binary, OK, command};
use crate::servers::{Origin, Untouched};

fn ask(client: &mut Peer, target: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    client.read_response()
}

fn once(proxy: SocketAddr, target: &str) -> Response {
    ask(&mut Peer::connect(proxy), target)
}

/// The last line of an access log in JSON.
fn logged(proxy: &Binary) -> Value {
    let mut last = None;
    eventually(|| {
        last = proxy.stdout().lines().last().and_then(|line| serde_json::from_str(line).ok());
        last.is_some()
    });
    last.unwrap()
}

#[test]
fn a_refusal_names_its_rule_everywhere_and_keeps_the_connection() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let proxy = Binary::start(&[
        "--deny=ads.example",
        "--deny=.tracker.example",
        "--access-log=-",
        "--log-format=json",
    ]);
    let mut client = Peer::connect(proxy.addr);
    let refused = ask(&mut client, "http://a.b.Tracker.Example./x");
    assert_eq!(refused.status, 403, "{}", refused.head);
    let said = refused.field("x-threadgate-reason");
    assert_eq!(said, Some("--deny:2; a rule refuses this request"));
    assert!(refused.text().contains("rule: --deny:2\n"), "{}", refused.text());
    let line = logged(&proxy);
    assert_eq!((&line["rule"], &line["status"]), (&"--deny:2".into(), &403.into()), "{line}");
    let allowed = ask(&mut client, &format!("http://{}/", origin.addr));
    assert_eq!(allowed.status, 200, "on the same connection");
    assert_eq!(allowed.field("x-threadgate-reason"), None);
    origin.join();
}

#[test]
fn a_refused_request_with_content_ends_its_connection() {
    let proxy = Binary::start(&["--deny=.example"]);
    let mut client = Peer::connect(proxy.addr);
    client.send("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 40\r\n\r\n");
    let refused = client.read_response();
    assert_eq!((refused.status, refused.field("connection")), (403, Some("close")));
}

#[test]
fn a_tunnel_is_refused_by_the_same_rules() {
    let untouched = Untouched::new();
    let to = untouched.addr;
    let proxy = Binary::start(&["--deny=127.0.0.0/8", "--resolve=inside.example:127.0.0.1"]);
    for (host, rule) in
        [(to.to_string(), "--deny:1"), (format!("inside.example:{}", to.port()), "--deny:1")]
    {
        let mut client = Peer::connect(proxy.addr);
        client.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let refused = client.read_response();
        assert_eq!(refused.status, 403, "{host}: {}", refused.head);
        assert_eq!(refused.rule(), Some(rule), "{host}");
    }
}

#[test]
fn what_no_rule_allows_is_refused_when_that_is_enforced() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let proxy = Binary::start(&[
        "--policy=enforce",
        "--allow=127.0.0.1",
        "--resolve=good.example:127.0.0.1",
        "--resolve=bad.example:127.0.0.2",
    ]);
    assert_eq!(once(proxy.addr, &format!("http://good.example:{port}/")).status, 200);
    let refused = once(proxy.addr, &format!("http://bad.example:{port}/"));
    assert_eq!(refused.status, 403, "{}", refused.head);
    assert_eq!(refused.rule(), Some("--policy enforce"));
    origin.join();
}

#[test]
fn a_client_that_is_not_allowed_gets_nothing_at_all() {
    let proxy = Binary::start(&["--allow-client=192.0.2.0/24"]);
    for target in ["/", "*", "http://a.example/"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let mut client = Peer::connect(proxy.addr);
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let refused = client.read_response();
        assert_eq!(refused.status, 403, "{target}");
        assert_eq!(refused.rule(), Some("--allow-client"), "{target}");
    }
}

#[test]
fn what_is_beyond_a_bound_is_refused_whatever_allows_it() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let to = origin.addr;
    let proxy = Binary::start(&[
        "--allow=127.0.0.1",
        "--connect-ports=443, 8000-8999",
        "--methods=GET,CONNECT",
        "--schemes=http,connect",
    ]);
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    for (line, fields, rule) in [
        (format!("CONNECT 127.0.0.1:{}", to.port()), "", "--connect-ports"),
        (format!("POST http://{to}/"), "", "--methods"),
        (format!("get http://{to}/"), "", "--methods"),
        (format!("GET http://{to}/"), upgrade, "--schemes"),
        (format!("GET ws://{to}/"), upgrade, "--schemes"),
    ] {
        let mut client = Peer::connect(proxy.addr);
        client.send(format!("{line} HTTP/1.1\r\nHost: {to}\r\n{fields}\r\n"));
        let refused = client.read_response();
        assert_eq!((refused.status, refused.rule()), (403, Some(rule)), "{line}");
    }
    // An offer that the proxy does not pass on counts as none.
    let mut client = Peer::connect(proxy.addr);
    let offer = "Connection: upgrade\r\nUpgrade: h2c\r\n";
    client.send(format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n{offer}\r\n"));
    assert_eq!(client.read_response().status, 200);
    origin.join();
}

#[test]
fn a_refused_network_is_refused_inside_ipv6_and_an_allowed_one_is_not_allowed_there() {
    let proxy = Binary::start(&["--deny=10.0.0.0/8", "--allow=192.0.2.0/24", "--policy=enforce"]);
    for (host, rule) in [
        ("10.0.0.1", "--deny:1"),
        ("[::ffff:10.0.0.1]", "--deny:1"),
        ("[64:ff9b::10.0.0.1]", "--deny:1"),
        ("[64:ff9b:1:a00:0:100::]", "--deny:1"),
        ("[64:ff9b:1::10.0.0.1]", "--deny:1"),
        ("[2002:a00:1::]", "--deny:1"),
        ("[::10.0.0.1]", "--deny:1"),
        ("[64:ff9b::192.0.2.1]", "--policy enforce"),
        ("[2002:c000:201::]", "--policy enforce"),
    ] {
        let refused = once(proxy.addr, &format!("http://{host}/"));
        assert_eq!((refused.status, refused.rule()), (403, Some(rule)), "{host}");
    }
    // By the address that the name leads to.
    let rules = ["--deny=10.0.0.0/8", "--resolve=nat64.example:[64:ff9b::a00:1]"];
    let proxy = Binary::start(&[&rules[..], &["--resolve=6to4.example:[2002:a00:1::1]"]].concat());
    for name in ["nat64.example", "6to4.example"] {
        let refused = once(proxy.addr, &format!("http://{name}/"));
        assert_eq!((refused.status, refused.rule()), (403, Some("--deny:1")), "{name}");
    }
}

#[test]
fn without_connect_an_upgrade_is_refused_unless_the_schemes_name_it() {
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let untouched = Untouched::new();
    let ask = |proxy: &Binary, to: SocketAddr| {
        let mut client = Peer::connect(proxy.addr);
        client.send(format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n{upgrade}\r\n"));
        client.read_response()
    };
    let refused = ask(&Binary::start(&["--methods=GET,POST"]), untouched.addr);
    assert_eq!((refused.status, refused.rule()), (403, Some("--methods")));
    for rules in [&["--methods=GET,CONNECT"][..], &["--methods=GET", "--schemes=http,ws"]] {
        let origin = Origin::script(1, |peer| {
            peer.read_head();
            peer.send(OK);
        });
        assert_eq!(ask(&Binary::start(rules), origin.addr).status, 200, "{rules:?}");
        origin.join();
    }
}

#[test]
fn a_wrong_bound_is_a_usage_error_that_says_what_to_give() {
    for (option, says) in [
        ("--connect-ports=https", "'https' is neither a port nor a range of them; give 443"),
        ("--connect-ports=443,", "'' is neither a port"),
        ("--connect-ports=9-1", "'9-1' is neither a port"),
        ("--methods=get", "'get' is not GET: the case of a method counts"),
        ("--methods=GET POST", "'GET POST' is not a method; give methods such as GET,HEAD"),
        ("--schemes=ftp", "'ftp' is not one of http, ws and connect; give those"),
        ("--schemes=https", "clients send it inside a CONNECT; give connect"),
        ("--deny-with=404", "'404' is not an answer; give 403, 204, or a URL"),
        ("--deny-with=http:///x", "is not an answer"),
        ("--deny-with=http://a b/", "is not an answer"),
        ("--policy=deny", "'deny' is not a policy; give open, "),
    ] {
        let ended = run(&mut command(&[option]));
        assert_eq!(ended.status.code(), Some(2), "{option}");
        let start = format!("threadgate: {}: ", option.split('=').next().unwrap());
        assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn a_refused_request_gets_what_is_asked_for_and_keeps_its_connection() {
    let blocked = "http://blocked.example:8080/why?x=y";
    let redirect = format!("--deny-with={blocked}");
    for (option, status) in [("--deny-with=403", 403), ("--deny-with=204", 204), (&*redirect, 302)]
    {
        let proxy = Binary::start(&["--deny=.example", "--deny=10.0.0.0/8", option]);
        let mut client = Peer::connect(proxy.addr);
        for (target, rule) in [("http://a.example/", "--deny:1"), ("http://10.0.0.1/", "--deny:2")]
        {
            let refused = ask(&mut client, target);
            assert_eq!((refused.status, refused.rule()), (status, Some(rule)), "{option} {target}");
            let location = (status == 302).then_some(blocked);
            assert_eq!(refused.field("location"), location, "{option}");
            assert_eq!(refused.field("content-length").is_some(), status != 204, "{option}");
            assert_eq!(refused.content.is_empty(), status == 204, "{option}");
            assert_eq!(refused.field("cache-control"), Some("no-store"), "{option}");
            assert!(refused.field("proxy-status").is_some_and(|s| s.contains("error=")));
        }
        // Nobody is sent round in circles, a tunnel is never sent elsewhere, and a failure that is not
        // due to a rule keeps its status.
        if status == 302 {
            assert_eq!(ask(&mut client, "http://Blocked.example:8080/").status, 403);
        }
        let mut tunnel = Peer::connect(proxy.addr);
        tunnel.send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(tunnel.read_response().status, 403, "{option}");
        client.send("GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.read_response().status, 501, "{option}");
    }
}
