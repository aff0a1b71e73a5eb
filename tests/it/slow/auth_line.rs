//! Dozens of users of one address, whose hashes are dear, before one of another.

use std::time::Duration;

use crate::auth::{ask_with, connect_from, origin, proof};
use crate::auth_line::{office, send};
use crate::peers::{Peer, eventually_eq};

#[test]
fn a_line_of_one_address_is_not_in_front_of_another() {
    let (_origin, url) = origin();
    let (proxy, names) = office(8);
    let (here, there) = names.split_at(30);
    let mut clients: Vec<Peer> = here.iter().map(|_| Peer::connect(proxy.addr())).collect();
    for (client, user) in clients.iter_mut().zip(here) {
        send(client, &url, user, "secret");
    }
    eventually_eq(|| proxy.stats().auth_verifications, 30);
    let mut other = connect_from([127, 0, 0, 2], proxy.addr());
    assert_eq!(ask_with(&mut other, &url, &proof(&there[0], "secret")).status, 200);
    let waits = |client: &mut Peer| !client.has_something_within(Duration::from_millis(1));
    let waiting = clients.iter_mut().map(waits).filter(|waits| *waits).count();
    assert!(waiting > 0, "who came last was served last");
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}
