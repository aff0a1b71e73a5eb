//! What a user of the library can do, with nothing but exported names.
//!
//! `make examples` compiles it without the feature `internals`, in a package of its own.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the proxy's own sockets; these peers may block"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use threadgate::metrics::{FailureKind, Life, NumberKind, Sample, Side, Snapshot, Wait};
use threadgate::{
    AccessOptions, DenyWith, GivenName, Learnt, Mode, NameOptions, NotLearnt, OptionPlace, Options,
    OwnListener, Password, Resolve, Server, StartError, SystemResolver, UserOptions, WrittenRule,
};

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// `alice:sesame`, as clients send it.
const ALICE: &str = "Proxy-Authorization: Basic YWxpY2U6c2VzYW1l\r\n";

/// A site that answers every request with 200. Its thread ends with the process.
fn site() -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

/// The head and content of what the proxy answers to a request over HTTP/1.0.
fn get(proxy: SocketAddr, url: &str, lines: &str) -> String {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.write_all(format!("GET {url} HTTP/1.0\r\n{lines}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn start(access: AccessOptions) -> Server {
    let access = access.build(None).unwrap();
    Server::start(Options { access, ..Options::default() }).unwrap()
}

fn alice() -> UserOptions {
    let auth = vec![Password::new("alice", "sesame").unwrap()];
    UserOptions { auth, ..UserOptions::default() }
}

#[test]
fn a_rule_combines_client_user_and_destination() {
    let (good, bad) = (site(), site());
    let ports = |address: SocketAddr| [address.port().to_string()];
    let proxy = start(AccessOptions {
        users: alice(),
        rules: vec![
            WrittenRule::allow("alice-there")
                .clients(["127.0.0.0/8"])
                .users(["alice"])
                .destinations(["127.0.0.1"])
                .ports(ports(good))
                .methods(["GET"])
                .schemes(["http"]),
            WrittenRule::deny("nobody-else"),
        ],
        ..AccessOptions::default()
    });
    assert_eq!(status(&get(proxy.addr(), &format!("http://{good}/"), "")), "407");
    assert_eq!(status(&get(proxy.addr(), &format!("http://{good}/"), ALICE)), "200");
    let refused = get(proxy.addr(), &format!("http://{bad}/"), ALICE);
    assert_eq!(status(&refused), "403");
    assert!(refused.contains("nobody-else"), "{refused}");
    let report = proxy.report();
    let hits: Vec<_> = report.rule_hits.iter().filter(|(name, _)| name.contains("else")).collect();
    assert_eq!(hits, [("nobody-else", 1)]);
}

#[test]
fn a_rule_that_says_less_than_was_meant_is_refused() {
    let none: [String; 0] = [];
    for (rules, says) in [
        (vec![WrittenRule::allow("all").users(none)], "rule 'all': users: is empty; leave it out"),
        (vec![WrittenRule::deny("a").clients(["ten"])], "rule 'a': clients: 'ten'"),
        (vec![WrittenRule::deny("a").ports(["0-x"])], "rule 'a': ports: "),
        (vec![WrittenRule::deny("a\r\nB: c")], "is not a name"),
        (vec![WrittenRule::deny("")], "'' is not a name"),
        (vec![WrittenRule::deny("auth")], "always there"),
        (vec![WrittenRule::deny("a"), WrittenRule::allow("a")], "another rule"),
    ] {
        let options = AccessOptions { rules, ..AccessOptions::default() };
        let wrong = options.check().unwrap_err().to_string();
        assert!(wrong.contains(says), "{says}: {wrong}");
        assert_eq!(options.build(None).unwrap_err().to_string(), wrong);
    }
}

#[test]
fn a_password_is_checked_at_once_and_never_shown() {
    for (name, password, says) in [
        ("a:b", "sesame", "cannot contain ':'"),
        ("", "sesame", "user"),
        ("alice", "", "no password"),
        ("alice", "ses\name", "control character"),
    ] {
        let wrong = Password::new(name, password).unwrap_err();
        assert!(wrong.contains(says) && !wrong.contains("sesame"), "{name}: {wrong}");
    }
    let users = UserOptions { auth: vec![Password::new("a", "b:sesame").unwrap()], ..alice() };
    assert!(!format!("{users:?}").contains("sesame"));
}

#[test]
fn a_realm_that_would_be_a_field_of_its_own_is_refused() {
    for realm in
        ["lab\r\nX-Own: 1".to_owned(), "l\u{e4}b".to_owned(), String::new(), "r".repeat(129)]
    {
        let users = UserOptions { realm: Some(realm), ..alice() };
        let wrong = AccessOptions { users, ..AccessOptions::default() }.build(None).unwrap_err();
        assert!(wrong.to_string().contains("--auth-realm: "), "{wrong}");
    }
}

#[test]
fn a_listener_has_one_set_of_rules() {
    let own = |open| OwnListener { number: 1, open, access: AccessOptions::default() };
    let wrong = AccessOptions::default().build_with(&[own(true), own(false)], None).unwrap_err();
    assert!(wrong.to_string().contains("listener 1"), "{wrong}");
}

#[test]
fn a_refused_request_is_sent_elsewhere() {
    let proxy = start(AccessOptions {
        deny: vec!["ads.example".to_owned(), "help.example".to_owned()],
        deny_with: DenyWith::redirect("http://help.example/why").unwrap(),
        ..AccessOptions::default()
    });
    let sent = get(proxy.addr(), "http://ads.example/", "");
    assert_eq!(status(&sent), "302");
    assert!(sent.contains("\r\nLocation: http://help.example/why\r\n"), "{sent}");
    assert_eq!(status(&get(proxy.addr(), "http://help.example/", "")), "403", "no circle");
    for url in ["", "ftp://a.example/", "http://", "http://a b/", "http://a/\r\nSet-Cookie: b"] {
        assert!(DenyWith::redirect(url).is_err(), "{url:?}");
    }
}

#[test]
fn a_listener_has_rules_of_its_own() {
    let url = format!("http://{}/", site());
    let strict = AccessOptions { policy: Mode::Enforce, ..AccessOptions::default() };
    let own = OwnListener { number: 1, open: false, access: strict };
    let access = AccessOptions::default().build_with(&[own], None).unwrap();
    let listen = vec![LOOPBACK, LOOPBACK];
    let proxy = Server::start(Options { listen, access, ..Options::default() }).unwrap();
    let statuses = [0, 1].map(|n| status(&get(proxy.addrs()[n], &url, "")).to_owned());
    assert_eq!(statuses, ["200", "403"]);
}

#[test]
fn a_reload_keeps_the_hits_of_rules() {
    let deny = |deny: &[&str]| AccessOptions {
        deny: deny.iter().map(|&text| text.to_owned()).collect(),
        users: alice(),
        said: vec![OptionPlace {
            option: "deny".to_owned(),
            at: "rules.conf".to_owned(),
            lines: [4, 7].into(),
        }],
        ..AccessOptions::default()
    };
    let proxy = start(deny(&["ads.example"]));
    let refused = get(proxy.addr(), "http://ads.example/", ALICE);
    assert!(refused.contains("rules.conf:4"), "{refused}");
    let control = proxy.control();
    let next = deny(&["ads.example", "more.example"]).build(Some(&control.policy())).unwrap();
    control.set_access(&next, false);
    control.count_reload(true);
    assert_eq!(status(&get(proxy.addr(), "http://more.example/", ALICE)), "403");
    assert_eq!(proxy.report().rule_hits.ranked(), [("rules.conf", 2)]);
    assert_eq!(proxy.stats().count_in("reloads", "taken"), Some(1));
}

#[test]
fn a_resolver_falls_back_on_that_of_the_system() {
    #[derive(Debug)]
    struct Mine;
    impl Resolve for Mine {
        fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            match host {
                "mine.example" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
                other => SystemResolver.resolve(other),
            }
        }
    }
    let port = site().port();
    let given = GivenName::new("Given.Example.", None, Ipv4Addr::LOCALHOST.into());
    let names = NameOptions { given: vec![given], ..NameOptions::default() };
    let options = Options { resolver: Arc::new(Mine), names, ..Options::default() };
    let proxy = Server::start(options).unwrap();
    // The system needs no network to know an address.
    assert_eq!(Mine.resolve("127.0.0.9").unwrap(), [IpAddr::from([127, 0, 0, 9])]);
    for host in ["mine.example", "given.example"] {
        let answer = get(proxy.addr(), &format!("http://{host}:{port}/"), "");
        assert_eq!(status(&answer), "200", "{host}: {answer}");
    }
}

#[test]
fn numbers_are_found_by_name() {
    let proxy = start(AccessOptions { deny: vec!["a.example".to_owned()], ..Default::default() });
    get(proxy.addr(), "http://a.example/", "");
    let stats: Snapshot = proxy.stats();
    assert_eq!(stats.failures_by(FailureKind::HttpRequestDenied), 1);
    assert_eq!((stats.failures_of(Side::Proxy), stats.failures_of(Side::Upstream)), (1, 0));
    assert_eq!(stats.count_in("exchanges_by_status", "4xx"), Some(1));
    assert_eq!(stats.parked()[Wait::Tunnel as usize], 0);
    let report = proxy.report();
    assert_eq!((report.life, report.gauges.ready), (Life::Serving, 1));
    let measures = report.measures();
    let took = measures.iter().find(|measure| measure.field == "exchange_seconds").unwrap();
    assert_eq!(took.kind, NumberKind::Histogram);
    let [(None, Sample::Histogram(took))] = took.samples()[..] else { panic!("one histogram") };
    assert_eq!(took.count(), 1);
}

#[test]
fn what_was_learnt_is_read_back() {
    let site = site();
    let learnt = Arc::new(Learnt::default());
    let access = AccessOptions { policy: Mode::Learn, ..AccessOptions::default() };
    let access = access.build(None).unwrap();
    let options = Options { access, learnt: Arc::clone(&learnt), ..Options::default() };
    let proxy = Server::start(options).unwrap();
    assert_eq!(status(&get(proxy.addr(), &format!("http://{site}/"), "")), "200");
    let again = Learnt::default();
    again.read(&learnt.to_string()).unwrap();
    assert_eq!((again.len(), again.to_string()), (1, learnt.to_string()));
    let wrong: NotLearnt = again.read("something else").unwrap_err();
    assert!(wrong.to_string().contains("not a learnt list"));
}

#[test]
fn the_limit_of_open_files_can_be_raised() {
    assert!(threadgate::raise_open_files() > 2);
}

#[test]
fn a_proxy_that_cannot_listen_says_where() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let listen = vec![taken.local_addr().unwrap()];
    match Server::start(Options { listen: listen.clone(), ..Options::default() }) {
        Err(StartError::Bind(address, e)) => {
            assert_eq!((address, e.kind()), (listen[0], io::ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
}
