//! Streams of many megabytes whose readers stop for a while.

use crate::peers::{Peer, pattern};
use crate::proxies::{OK, get, get_request};
use crate::servers::Origin;
use crate::splice::{LONG, assert_spliced, with_and_without_pipes};

#[test]
fn who_takes_nothing_keeps_a_pipe_but_holds_up_nobody_and_gets_everything_later() {
    with_and_without_pipes(|proxy, pipes| {
        let origin = Origin::script_at_once(3, move |peer| {
            let head = peer.read_head();
            if head.contains("/short") {
                peer.send(OK);
                return;
            }
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 * LONG));
            for _ in 0..8 {
                peer.send(pattern(LONG));
            }
        });
        // Two clients that read a little, so that the stream gets going, and then nothing more.
        let mut sleepers: Vec<_> = (0..2)
            .map(|_| {
                let mut client = Peer::connect(proxy.addr());
                client.send(get_request(origin.addr, "/long"));
                client.read_head();
                assert!(client.read_exact(LONG) == pattern(LONG), "bytes differ");
                client
            })
            .collect();
        // Another client is served on the only worker meanwhile.
        assert_eq!(get(proxy.addr(), origin.addr, "/short").status, 200);
        for client in &mut sleepers {
            for _ in 1..8 {
                assert!(client.read_exact(LONG) == pattern(LONG), "bytes differ");
            }
        }
        assert_spliced(proxy, pipes, LONG);
        drop(sleepers);
        origin.join();
    });
}
