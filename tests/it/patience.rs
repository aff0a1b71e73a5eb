//! Patience: the pool does not run out because somebody is slow. There is one worker, somebody in each
//! wait that a peer can stretch, and a second client that is served meanwhile.

use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use threadgate::Server;

use crate::hostile::{DripFeed, DropsSyns, HangingResolver, NeverAnswers, NeverReads};
use crate::peers::{Moment, Peer, STEP, eventually};
use crate::proxies::{OK, get, get_request, proxy_with_one_worker};
use crate::servers::Origin;

/// How many clients are in the wait at once: more than any patience, queue or batch may hide.
const SLOW: usize = 20;

fn one_worker() -> Server {
    proxy_with_one_worker(|_| {})
}

/// Checks that a new client is served: an exchange on a connection of its own, and a tunnel.
#[track_caller]
fn others_are_served(proxy: &Server) {
    for _ in 0..3 {
        let origin = Origin::script(2, |peer| {
            peer.read_head();
            peer.send(OK);
        });
        assert_eq!(get(proxy.addr(), origin.addr, "/").text(), "ok");
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n\r\n\r\n", origin.addr));
        assert!(client.read_head().starts_with("HTTP/1.1 200 "));
        assert_eq!(client.read_response().text(), "ok");
        origin.join();
    }
}

#[test]
fn clients_that_send_nothing_hold_no_worker() {
    let proxy = one_worker();
    let _silent: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    others_are_served(&proxy);
}

#[test]
fn idle_clients_hold_no_worker() {
    let proxy = one_worker();
    let idle = || {
        let mut client = Peer::connect(proxy.addr());
        client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        client
    };
    let mut idle: Vec<_> = (0..SLOW).map(|_| idle()).collect();
    others_are_served(&proxy);
    for client in &mut idle {
        client.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn half_a_head_holds_no_worker() {
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send("GET /healthz HTTP/1.1\r\nHo");
    }
    others_are_served(&proxy);
    for client in &mut slow {
        client.send("st: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn dripping_heads_hold_no_worker() {
    let proxy = one_worker();
    let addr = proxy.addr();
    let drips: Vec<_> = (0..SLOW)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Peer::connect(addr);
                let bytes = b"GET /healthz HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
                DripFeed { bytes, pace: Duration::from_millis(10) }.until_answered(&mut client);
                assert_eq!(client.read_response().status, 200);
            })
        })
        .collect();
    others_are_served(&proxy);
    for drip in drips {
        drip.join().unwrap();
    }
}

#[test]
fn hanging_lookups_hold_no_worker_and_do_not_keep_other_names_waiting() {
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with_one_worker(|options| options.resolver = Arc::new(resolver));
    let origin = Origin::script_at_once(SLOW + 1, |peer| {
        peer.read_head();
        peer.send(OK);
    });
    let port = origin.addr.port();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for (i, client) in slow.iter_mut().enumerate() {
        client.send(format!("GET http://hang-{i}.example:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    others_are_served(&proxy);
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://quick.example:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.read_response().text(), "ok");
    drop(gate);
    for client in &mut slow {
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
}

#[test]
fn connects_that_nobody_answers_hold_no_worker() {
    let hole = DropsSyns::new();
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for (i, client) in slow.iter_mut().enumerate() {
        client.send(match i % 2 {
            0 => get_request(hole.addr, "/"),
            _ => format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", hole.addr),
        });
    }
    others_are_served(&proxy);
}

#[test]
fn an_awaited_response_holds_no_worker() {
    let asked = Moment::new();
    let is_asked = asked.clone();
    let origin = Origin::script_at_once(SLOW, move |peer| {
        peer.read_head();
        is_asked.has_come();
        peer.expect_end();
    });
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send(get_request(origin.addr, "/"));
    }
    for _ in 0..SLOW {
        asked.wait();
    }
    others_are_served(&proxy);
    // A client that only closes could still be reading.
    slow.into_iter().for_each(Peer::reset);
    origin.join();
}

#[test]
fn a_server_that_never_answers_is_left_when_its_client_goes() {
    let origin = Origin::hostile(1, NeverAnswers);
    let proxy = one_worker();
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    eventually(|| origin.accepted() == 1);
    others_are_served(&proxy);
    client.reset();
    origin.join();
}

#[test]
fn dripping_responses_hold_no_worker() {
    let bytes =
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789";
    let origin = Origin::script_at_once(SLOW, move |peer| {
        peer.read_head();
        DripFeed { bytes, pace: Duration::from_millis(10) }.until_answered(peer);
    });
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send(get_request(origin.addr, "/"));
    }
    others_are_served(&proxy);
    for client in &mut slow {
        assert_eq!(client.read_response().content.len(), 40);
    }
    origin.join();
}

#[test]
fn dripping_uploads_hold_no_worker() {
    let origin = Origin::script_at_once(SLOW, |peer| {
        peer.read_head();
        peer.read_exact(40);
        peer.send(OK);
    });
    let proxy = one_worker();
    let addr = proxy.addr();
    let drips: Vec<_> = (0..SLOW)
        .map(|_| {
            let head = format!(
                "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 40\r\n\r\n",
                origin.addr
            );
            thread::spawn(move || {
                let mut client = Peer::connect(addr);
                client.send(head);
                let drip = DripFeed { bytes: &[b'x'; 40], pace: Duration::from_millis(10) };
                drip.until_answered(&mut client);
                assert_eq!(client.read_response().text(), "ok");
            })
        })
        .collect();
    others_are_served(&proxy);
    for drip in drips {
        drip.join().unwrap();
    }
    origin.join();
}

/// Sends without end, until the other side is gone.
fn endless(peer: &mut Peer) {
    peer.stream().set_write_timeout(Some(STEP * 4)).unwrap();
    peer.read_head();
    peer.send("HTTP/1.1 200 OK\r\n\r\n");
    let block = vec![b'x'; 64 << 10];
    while peer.try_send(&block).is_ok() {}
}

#[test]
fn clients_that_never_read_hold_no_worker() {
    let origin = Origin::script_at_once(SLOW, endless);
    let proxy = one_worker();
    let request = get_request(origin.addr, "/");
    let slow: Vec<_> = (0..SLOW).map(|_| NeverReads::ask(proxy.addr(), &request)).collect();
    eventually(|| origin.accepted() == SLOW);
    others_are_served(&proxy);
    // The answer they waited for is still there.
    let mut changed = slow.into_iter().map(NeverReads::read_after_all).next().unwrap();
    changed.read_head();
    drop(changed);
    drop(proxy);
    origin.join();
}

#[test]
fn tunnels_to_clients_that_never_read_hold_no_worker() {
    let origin = Origin::script_at_once(SLOW, endless);
    let proxy = one_worker();
    let request =
        format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\n\r\n", origin.addr);
    let slow: Vec<_> = (0..SLOW).map(|_| NeverReads::ask(proxy.addr(), &request)).collect();
    eventually(|| origin.accepted() == SLOW);
    others_are_served(&proxy);
    drop(slow);
    origin.join();
}

#[test]
fn upstreams_that_never_read_hold_no_worker() {
    let done = Moment::new();
    let test_is_done = done.clone();
    let origin = Origin::script(1, move |_| test_is_done.wait());
    let proxy = one_worker();
    let mut client = Peer::connect(proxy.addr());
    client.stream().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    client.send(format!(
        "PUT http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 100000000\r\n\r\n",
        origin.addr
    ));
    client
        .try_send(vec![b'x'; 100_000_000])
        .expect_err("the upload stalls: nothing is kept in memory");
    others_are_served(&proxy);
    done.has_come();
    origin.join();
}

#[test]
fn quiet_tunnels_hold_no_worker() {
    let origin = Origin::script_at_once(SLOW, |peer| {
        assert_eq!(peer.read_text(4), "ping");
        peer.send("pong");
        peer.expect_end();
    });
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
        assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    }
    others_are_served(&proxy);
    for client in &mut slow {
        client.send("ping");
        assert_eq!(client.read_text(4), "pong");
    }
    drop(slow);
    origin.join();
}

#[test]
fn refused_clients_that_do_not_leave_hold_no_worker() {
    let proxy = one_worker();
    let mut slow: Vec<_> = (0..SLOW).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send("nonsense\r\n\r\n");
        assert_eq!(client.read_response().status, 400);
    }
    others_are_served(&proxy);
}

/// Each waits for all the others: a client that held the worker would hang them all.
#[test]
fn two_hundred_requests_are_in_flight_at_once() {
    const MANY: usize = 200;
    let all_asked = Barrier::new(MANY);
    let origin = Origin::script_at_once(MANY, move |peer| {
        peer.read_head();
        all_asked.wait();
        peer.send(OK);
    });
    let proxy = one_worker();
    let mut clients: Vec<_> = (0..MANY).map(|_| Peer::connect(proxy.addr())).collect();
    for client in &mut clients {
        client.send(get_request(origin.addr, "/"));
    }
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    origin.join();
}

/// A turn is bounded: bulk flows and small exchanges share one worker.
#[test]
fn bulk_flows_do_not_starve_small_exchanges() {
    const BULK: usize = 4;
    let origin = Origin::script_at_once(BULK, endless);
    let proxy = one_worker();
    let readers: Vec<_> = (0..BULK)
        .map(|_| {
            let mut client = Peer::connect(proxy.addr());
            client.send(get_request(origin.addr, "/"));
            let stop = Moment::new();
            let stopped = stop.clone();
            let reader = thread::spawn(move || {
                let mut bytes = 0;
                while !stopped.has_come_already() {
                    bytes += client.fill().unwrap();
                    client.discard();
                }
                bytes
            });
            (stop, reader)
        })
        .collect();
    eventually(|| origin.accepted() == BULK);
    for _ in 0..5 {
        others_are_served(&proxy);
    }
    assert!(proxy.stats().yields > 0, "no turn ended for the others' sake");
    for (stop, reader) in readers {
        stop.has_come();
        assert!(reader.join().unwrap() > 1 << 20, "the bulk flows went on meanwhile");
    }
    drop(proxy);
    origin.join();
}

/// Here, too, a turn is bounded: there is always another request in hand, and room for its answer.
#[test]
fn a_client_that_pipelines_without_end_does_not_starve_others() {
    let proxy = one_worker();
    let mut client = Peer::connect(proxy.addr());
    let mut writer = Peer::new(client.stream().try_clone().unwrap());
    let writing = thread::spawn(move || {
        let many = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
        while writer.try_send(&many).is_ok() {}
    });
    let reading = thread::spawn(move || {
        while client.fill().is_ok_and(|n| n > 0) {
            client.discard();
        }
    });
    eventually(|| proxy.stats().exchanges_finished > 1000);
    others_are_served(&proxy);
    assert!(proxy.stats().yields > 0, "no turn ended for the others' sake");
    drop(proxy);
    writing.join().unwrap();
    reading.join().unwrap();
}
