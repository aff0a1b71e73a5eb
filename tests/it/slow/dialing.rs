//! Two hundred requests past an address that drops SYNs, and how long they take.

use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::dialing::{answers, ask, holes, loopback};
use crate::programs::free_port;
use crate::proxies::Binary;

/// 200 requests to a name whose first address is black-holed are each done in half a second.
#[test]
fn two_hundred_requests_past_a_black_hole_are_answered_in_half_a_second_each() {
    const REQUESTS: usize = 200;
    let listener = TcpListener::from({
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&free_port().into()).unwrap();
        socket.listen(1024).unwrap();
        socket
    });
    let port = listener.local_addr().unwrap().port();
    let hole = holes(&listener, 1).pop().unwrap();
    let resolve = |ip: IpAddr| format!("--resolve=two.example:{ip}");
    let origin = answers(listener, REQUESTS);
    let proxy = Binary::start_as(&[
        "--listen=127.0.0.1:0",
        "--threads=1",
        &resolve(hole.addr.ip()),
        &resolve(loopback(1)),
    ]);
    let asked: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let start = Instant::now();
            (start, ask(proxy.addr, "two.example", port))
        })
        .collect();
    let mut took: Vec<Duration> = asked
        .into_iter()
        .map(|(start, mut client)| {
            assert_eq!(client.read_response().text(), "ok");
            start.elapsed()
        })
        .collect();
    took.sort();
    assert!(took[0] < Duration::from_millis(400), "{:?}", took[0]);
    let last = took[REQUESTS - 1];
    assert!(last < Duration::from_millis(500), "{last:?}, the median {:?}", took[REQUESTS / 2]);
    origin.join().unwrap();
}
