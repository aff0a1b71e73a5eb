//! Users who wait for their password to be checked, beside others who guess.

use std::num::NonZeroUsize;
use std::time::Duration;

use threadgate::config::access::AccessOptions;
use threadgate::config::limits::LimitOptions;

use crate::auth::{ask_with, hashed, origin, plain, proof, with};
use crate::peers::{Peer, eventually, eventually_eq};
use crate::proxies::proxy_with;

fn send(client: &mut Peer, url: &str, user: &str, password: &str) {
    let line = proof(user, password);
    client.send(format!("GET {url} HTTP/1.1\r\nHost: a.example\r\n{line}\r\n"));
}

/// Each is held while its hash is computed, and begins again on whatever worker comes next.
#[test]
fn a_request_that_waited_for_its_password_leaves_no_connection_counted() {
    let (_origin, url) = origin();
    let names: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
    let users: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 4)).collect();
    let proxy = proxy_with(|options| {
        let limits = LimitOptions { limit_connections: Some("3".into()), ..Default::default() };
        options.threads = NonZeroUsize::new(4);
        options.access = AccessOptions { limits, ..Default::default() }.build(None).unwrap();
        options.access.auth = hashed(&users);
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

/// Eight may wait at a time, each with a descriptor and a connection of those there are.
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
