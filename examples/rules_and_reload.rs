//! Users, rules, and other rules while the proxy runs: no connection ends, and the counts go on.
//!
//! `cargo run --example rules_and_reload`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the proxy's own sockets; these peers may block"
)]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use threadgate::metrics::FailureKind;
use threadgate::{
    AccessOptions, LimitOptions, Options, Password, Server, UserOptions, WrittenRule,
};

/// `Proxy-Authorization` of `alice` with the password `sesame`, in Base64 as clients send it.
const ALICE: &str = "Proxy-Authorization: Basic YWxpY2U6c2VzYW1l\r\n";

fn main() -> Result<(), Box<dyn Error>> {
    let mut rules = AccessOptions {
        // Everybody has to be one of these; with `files` the passwords stand in a file, as hashes.
        users: UserOptions {
            auth: vec![Password::new("alice", "sesame")?, Password::new("bob", "open")?],
            ..UserOptions::default()
        },
        // The first rule that has a request decides. Without one it goes on.
        rules: vec![
            WrittenRule::deny("no-games").destinations(["*.games.example"]),
            WrittenRule::deny("alice-reads").users(["alice"]).methods(["PUT", "POST", "DELETE"]),
        ],
        limits: LimitOptions {
            limit: vec!["user:down=10mbit".to_owned()],
            limit_requests: Some("100/s".to_owned()),
            ..LimitOptions::default()
        },
        ..AccessOptions::default()
    };
    let proxy = Server::start(Options { access: rules.build(None)?, ..Options::default() })?;

    // The proxy refuses each of these by itself: nothing leaves the machine.
    show(&proxy, "GET http://news.example/", "", "407")?;
    show(&proxy, "GET http://chess.games.example/", ALICE, "403")?;
    show(&proxy, "POST http://news.example/", ALICE, "403")?;

    // A control works from any thread. Rules that are still there keep their hits.
    let control = proxy.control();
    rules.deny.push("news.example".to_owned());
    let next = rules.build(Some(&control.policy()))?;
    control.set_access(&next, false);
    show(&proxy, "GET http://news.example/", ALICE, "403")?;

    // What is wrong is said before anything is changed.
    rules.deny.push("http://".to_owned());
    let wrong = rules.build(Some(&control.policy())).expect_err("this is no destination");
    println!("not reloaded: {wrong}");

    for (rule, hits) in proxy.report().rule_hits.iter().filter(|(_, hits)| *hits > 0) {
        println!("{rule}: {hits}");
    }
    assert_eq!(proxy.stats().failures_by(FailureKind::HttpRequestDenied), 4);
    proxy.shutdown(Duration::from_secs(1));
    Ok(())
}

/// Sends a request over HTTP/1.0, and prints the first line of the answer.
fn show(proxy: &Server, request: &str, fields: &str, status: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy.addr())?;
    stream.write_all(format!("{request} HTTP/1.0\r\n{fields}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let first = answer.lines().next().unwrap_or_default();
    println!("{request} -> {first}");
    assert_eq!(first.split(' ').nth(1), Some(status), "{answer}");
    Ok(())
}
