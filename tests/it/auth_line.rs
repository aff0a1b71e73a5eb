//! Users who wait for their password to be checked, beside others who guess.

use std::num::NonZeroUsize;

use threadgate::config::access::AccessOptions;
use threadgate::config::limits::LimitOptions;

use crate::auth::{hashed, origin, proof};
use crate::peers::{Peer, eventually_eq};
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
