//! Ten thousand requests to a server that closes its connections at any moment.

use std::thread;

use crate::hostile::ClosesAtRandom;
use crate::peers::{Peer, eventually_eq};
use crate::proxies::{get_request, proxy};

/// Servers close kept connections at each of these moments.
#[test]
fn a_connection_that_dies_at_any_moment_never_costs_a_repeatable_request() {
    const CLIENTS: usize = 8;
    const EACH: usize = 1250;
    let origin = ClosesAtRandom::start();
    let proxy = proxy();
    let ask = |client: usize| {
        let mut peer = Peer::connect(proxy.addr());
        for i in 0..EACH {
            let path = format!("/{client}/{i}");
            peer.send(get_request(origin.addr, &path));
            let response = peer.read_response();
            assert_eq!((response.status, response.text()), (200, &*path), "{}", response.head);
        }
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || ask(client));
        }
    });
    eventually_eq(|| proxy.stats().exchanges_by_status[2], (CLIENTS * EACH) as u64);
    let stats = proxy.stats();
    // Otherwise the test has shown nothing.
    assert!(stats.resends > 100, "{stats}");
    assert!(stats.upstream_reuses > 1000, "{stats}");
}
