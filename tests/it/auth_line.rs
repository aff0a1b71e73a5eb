//! Users who wait for their password to be checked, beside others who guess.

use std::fs;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;
use threadgate::Server;
use threadgate::config::access::AccessOptions;
use threadgate::config::limits::LimitOptions;

use crate::admin::fetch;
use crate::auth::{ask_with, hash, hashed, once, origin, plain, proof, reloaded, with};
use crate::peers::{Peer, eventually, eventually_eq};
use crate::programs::free_port;
use crate::proxies::{Binary, proxy_with};

pub(crate) fn send(client: &mut Peer, url: &str, user: &str, password: &str) {
    let line = proof(user, password);
    client.send(format!("GET {url} HTTP/1.1\r\nHost: a.example\r\n{line}\r\n"));
}

/// Each request is held while its hash is computed, and goes on with any worker.
#[test]
fn a_request_that_waited_for_its_password_leaves_no_connection_counted() {
    let (_origin, url) = origin();
    let names: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
    let users: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 4)).collect();
    let proxy = proxy_with(|options| {
        let limits = LimitOptions { limit_connections: Some("3".into()), ..Default::default() };
        options.threads = NonZeroUsize::new(4);
        options.access = AccessOptions { limits, ..Default::default() }.build(None).unwrap();
        options.access.set_auth(hashed(&users));
    });
    for three in names.chunks(3) {
        let mut clients: Vec<Peer> = three.iter().map(|_| Peer::connect(proxy.addr())).collect();
        for (client, user) in clients.iter_mut().zip(three) {
            send(client, &url, user, "secret");
        }
        for client in &mut clients {
            assert_eq!(client.read_response().status, 200);
        }
        drop(clients);
        eventually_eq(|| proxy.stats().active_connections(), 0);
    }
}

/// Eight may wait at a time. Each takes a descriptor, and one of the connections allowed.
#[test]
fn a_client_that_resets_while_it_is_delayed_is_let_go_at_once() {
    let (_origin, url) = origin();
    let proxy = with(plain(&[("alice", "secret")]));
    let mut first = Peer::connect(proxy.addr());
    for n in 0..5 {
        ask_with(&mut first, &url, &proof("alice", &format!("{n}")));
    }
    let mut guesses = 0;
    let mut guess = || {
        let mut client = Peer::connect(proxy.addr());
        guesses += 1;
        send(&mut client, &url, "alice", &format!("guess{guesses}"));
        eventually_eq(|| proxy.stats().auth_delays, guesses);
        client
    };
    let mut wrong = [guess(), guess(), guess()];
    for client in &mut wrong {
        assert_eq!(client.read_response().status, 407);
    }
    // Each of these waits for four seconds, the one that stays since before the others.
    let mut stays = guess();
    let gone = [guess(), guess(), guess(), guess()];
    gone.into_iter().for_each(Peer::reset);
    eventually(|| proxy.stats().active_connections() == 5);
    assert!(!stays.has_something_within(Duration::from_millis(1)), "it waits still");
}

/// Everybody behind one address counts as one client, whose guesses then wait. A user who has already
/// logged in there does not wait.
#[test]
fn one_guesser_keeps_no_known_user_of_the_same_address_out() {
    let (_origin, url) = origin();
    let names: Vec<String> = (0..8).map(|n| format!("user{n}")).collect();
    let users: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "secret")).collect();
    let proxy = with(plain(&users));
    let mut kept = Peer::connect(proxy.addr());
    for (user, _) in &users[1..] {
        assert_eq!(once(proxy.addr(), &url, &proof(user, "secret")).status, 200);
    }
    assert_eq!(ask_with(&mut kept, &url, &proof("user0", "secret")).status, 200);
    for n in 0..8 {
        let line = proof("user1", &format!("{n}"));
        let refused = once(proxy.addr(), &url, &line).status;
        assert_eq!(refused, 407);
    }
    // As many as may wait, for four seconds each.
    let before = proxy.stats().auth_delays;
    let mut guessers: Vec<Peer> = (0..8).map(|_| Peer::connect(proxy.addr())).collect();
    for (n, client) in guessers.iter_mut().enumerate() {
        send(client, &url, "user1", &format!("guess{n}"));
    }
    eventually_eq(|| proxy.stats().auth_delays, before + 8);
    for _ in 0..2 {
        assert_eq!(ask_with(&mut kept, &url, &proof("user0", "secret")).status, 200);
        for (user, _) in &users {
            assert_eq!(once(proxy.addr(), &url, &proof(user, "secret")).status, 200, "{user}");
        }
    }
    // A user who has not logged in counts as guessing, and so does the same connection with another
    // password.
    let other = once(proxy.addr(), &url, &proof("user1", "other"));
    assert_eq!((other.status, other.field("retry-after")), (429, Some("5")));
    assert_eq!(ask_with(&mut kept, &url, &proof("user0", "other")).status, 429);
    assert_eq!(proxy.stats().auth_delays, before + 8, "nobody who is known has waited");
    for client in &mut guessers {
        assert!(!client.has_something_within(Duration::from_millis(1)), "they wait still");
    }
}

/// A hundred users with hashes that take this long.
pub(crate) fn office(cost: u32) -> (Server, Vec<String>) {
    let names: Vec<String> = (0..100).map(|n| format!("user{n}")).collect();
    let users: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), cost)).collect();
    (with(hashed(&users)), names)
}

#[test]
fn a_hundred_users_of_one_address_may_come_at_once() {
    let (_origin, url) = origin();
    let (proxy, names) = office(6);
    let mut clients: Vec<Peer> = names.iter().map(|_| Peer::connect(proxy.addr())).collect();
    for (client, user) in clients.iter_mut().zip(&names) {
        send(client, &url, user, "secret");
    }
    for (client, user) in clients.iter_mut().zip(&names) {
        assert_eq!(client.read_response().status, 200, "{user}");
    }
    assert_eq!(proxy.stats().auth_verifications, 100);
}

/// Verified passwords are forgotten when any user changes, and only then.
#[test]
fn a_reload_that_changes_no_user_computes_no_hash_again() {
    let (_origin, url) = origin();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let write = |cost: u32| fs::write(&file, format!("alice:{}\n", hash(cost))).unwrap();
    write(4);
    let admin = free_port();
    let flags = ["--auth-file", file.to_str().unwrap(), "--admin", &admin.to_string()];
    let proxy = Binary::start(&flags);
    let verified = || {
        let stats: Value = serde_json::from_str(fetch(admin, "/stats.json").text()).unwrap();
        stats["auth_verifications"].as_u64()
    };
    for (cost, hashes) in [(4, 1), (4, 1), (5, 2), (5, 2)] {
        write(cost);
        reloaded(&proxy);
        assert_eq!(once(proxy.addr, &url, &proof("alice", "secret")).status, 200);
        assert_eq!(verified(), Some(hashes), "at cost {cost}");
    }
}
