//! A worker that moves a stream stays with it for a moment when it stops, with the edges of both sockets
//! off. Only the counters show it: no bytes are late, and none are lost.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rustix::net::{RecvFlags, recv};
use threadgate::Server;
use threadgate::config::access::AccessOptions;
use threadgate::config::limits::LimitOptions;
use threadgate::observe::stats::Wait;
use threadgate::policy::Access;
use threadgate::server::Options;

use crate::hostile::HangingResolver;
use crate::peers::{Moment, Peer, STEP, comes_true, eventually, is_timeout, pattern};
use crate::proxies::{OK, get_request, proxy_with};
use crate::servers::Origin;

/// How much a stream sends before it pauses: far more than a turn moves.
const PART: usize = 1 << 20;
/// How many parts it sends.
const PARTS: usize = 12;

/// The bytes of one part. All parts share them, because making them takes a while.
fn part() -> &'static [u8] {
    static PART_ONCE: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(PART));
    &PART_ONCE
}

/// Runs `test` with one worker, which is never free to stay, and with eight. Its result outlives the
/// proxy: some origins' connections end only with that.
#[track_caller]
fn at_one_and_at_eight<T>(change: impl Fn(&mut Options), test: impl Fn(&Server, usize) -> T) {
    for workers in [1, 8] {
        let proxy = proxy_with(|options| {
            options.threads = NonZeroUsize::new(workers);
            change(options);
        });
        let outlives = test(&proxy, workers);
        drop(proxy);
        drop(outlives);
    }
}

fn tunnel(proxy: &Server, origin: &Origin) -> Peer {
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client
}

fn content(proxy: &Server, origin: &Origin) -> Peer {
    let mut client = Peer::connect(proxy.addr());
    client.send(get_request(origin.addr, "/"));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    client
}

fn begin_content(peer: &mut Peer, bytes: usize) {
    peer.read_head();
    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"));
}

fn is_parked(proxy: &Server, wait: Wait) -> bool {
    proxy.stats().parked()[wait as usize] == 1
}

/// A stream goes on whether a worker is still with it or it was parked. Every other pause lasts until it
/// is parked.
#[test]
fn a_stream_that_pauses_goes_on_whoever_waits_for_it() {
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            for wait in [Wait::Transfer, Wait::Tunnel] {
                let next = Moment::new();
                let come = next.clone();
                let origin = Origin::script(1, move |peer| {
                    if wait == Wait::Transfer {
                        begin_content(peer, PARTS * PART);
                    }
                    for _ in 0..PARTS {
                        come.wait();
                        peer.send(part());
                    }
                });
                let mut client = match wait {
                    Wait::Transfer => content(proxy, &origin),
                    _ => tunnel(proxy, &origin),
                };
                for nth in 0..PARTS {
                    if nth % 2 == 0 {
                        eventually(|| is_parked(proxy, wait));
                    }
                    next.has_come();
                    assert!(client.read_exact(PART) == part(), "bytes differ");
                }
                drop(client);
                origin.join();
            }
        },
    );
}

/// The same for a receiver that pauses: a worker waits for room as it does for bytes.
#[test]
fn a_receiver_that_pauses_gets_the_rest() {
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            let origin = Origin::script(1, |peer| {
                begin_content(peer, PARTS * PART);
                (0..PARTS).for_each(|_| peer.send(part()));
            });
            let mut client = content(proxy, &origin);
            // The buffers on the way hold less than all of it.
            eventually(|| is_parked(proxy, Wait::Transfer));
            for _ in 0..PARTS {
                assert!(client.read_exact(PART) == part(), "bytes differ");
            }
            drop(client);
            origin.join();
        },
    );
}

#[test]
fn a_worker_stays_with_a_stream_while_another_is_free_and_the_last_one_never_does() {
    at_one_and_at_eight(
        |_| {},
        |proxy, workers| {
            const ROUNDS: usize = 400;
            let origin = Origin::script(1, sends_parts);
            let mut client = tunnel(proxy, &origin);
            let mut stayed = || {
                client.send("more");
                assert!(client.read_exact(PART / 4) == pattern(PART / 4), "bytes differ");
                proxy.stats().stream_waits_paid > 0
            };
            let stayed = (0..ROUNDS).any(|_| stayed());
            // A busy machine makes one wait too long, but not all of them.
            assert_eq!(stayed, workers > 1, "{}", proxy.stats());
            if workers == 1 {
                assert_eq!(proxy.stats().stream_waits, 0);
            }
            drop(client);
            origin.join();
        },
    );
}

/// Moves a part at a time until `enough`, because a busy machine makes some waits too long.
fn move_parts(client: &mut Peer, mut enough: impl FnMut() -> bool) {
    let moved = |_: usize| {
        client.send("more");
        assert!(client.read_exact(PART / 4) == part()[..PART / 4], "bytes differ");
        enough()
    };
    assert!((0..4000).any(moved), "not so for a thousand megabytes");
}

/// Answers each request with a part of a part.
fn sends_parts(peer: &mut Peer) {
    while peer.fill().is_ok_and(|count| count > 0) {
        peer.discard();
        if peer.try_send(&part()[..PART / 4]).is_err() {
            return;
        }
    }
}

#[test]
fn what_follows_a_stream_on_its_connection_and_is_none_is_not_counted_as_a_wait_with_one() {
    const CLIENTS: usize = 10;
    /// One turn moves this much, which makes a stream.
    const SOME: usize = 48 << 10;
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let proxy = proxy_with(|options| {
        options.threads = NonZeroUsize::new(8);
        options.resolver = Arc::new(resolver);
    });
    let origin = Origin::script(1, |peer| {
        while let Some(head) = peer.try_read_head() {
            let length = match head.starts_with("GET /little ") {
                true => 1,
                false if head.starts_with("GET /some ") => SOME,
                false => PART / 4,
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            peer.send([head.as_bytes(), &part()[..length]].concat());
        }
    });
    let is_uncounted = |nth: usize| {
        let mut client = Peer::connect(proxy.addr());
        let before = proxy.stats().stream_waits;
        let mut much = || {
            client.send(get_request(origin.addr, "/much"));
            assert_eq!(client.read_response().content.len(), PART / 4);
            proxy.stats().stream_waits > before
        };
        // Workers stay with streams, if there are several.
        assert!((0..4000).any(|_| much()), "{}", proxy.stats());
        client.send(get_request(origin.addr, "/little"));
        assert_eq!(client.read_response().content.len(), 1);
        eventually(|| is_parked(&proxy, Wait::Idle));
        let before = proxy.stats().stream_waits;
        let hang = format!("GET http://hang-{nth}.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(get_request(origin.addr, "/some") + &hang);
        assert_eq!(client.read_response().content.len(), SOME);
        eventually(|| is_parked(&proxy, Wait::Lookup));
        let is_uncounted = proxy.stats().stream_waits == before;
        client.reset();
        eventually(|| proxy.stats().connections_closed == nth as u64 + 1);
        is_uncounted
    };
    // A worker waits for a response that comes in several parts.
    assert!((0..CLIENTS).any(is_uncounted), "each wait for a name was counted");
    drop((proxy, gate));
}

/// The limits in force when the stream goes on apply to it, not those from when the wait began.
#[test]
fn a_limit_that_comes_while_a_worker_waits_holds_for_what_comes_next() {
    const ROUNDS: usize = 3;
    let origin = Origin::script(ROUNDS, sends_parts);
    let proxy = proxy_with(|options| options.threads = NonZeroUsize::new(8));
    for _ in 0..ROUNDS {
        let mut client = tunnel(&proxy, &origin);
        // A worker has just begun to wait, or is about to.
        let before = proxy.stats().stream_waits;
        move_parts(&mut client, || proxy.stats().stream_waits > before);
        proxy.set_access(&limited(), false);
        // The wait under way is over with the next part, and is counted.
        move_parts(&mut client, || true);
        eventually(|| is_parked(&proxy, Wait::Tunnel));
        let limited_from = proxy.stats().stream_waits;
        let mut parts = 0..20;
        move_parts(&mut client, || parts.next().is_none());
        assert_eq!(proxy.stats().stream_waits, limited_from, "a limited stream is not stayed with");
        proxy.set_access(&AccessOptions::default().build(None).unwrap(), false);
    }
    origin.join();
}

/// The deadline comes in the middle of the wait, which then ends, and no new wait begins.
#[test]
fn a_deadline_that_comes_while_a_worker_waits_with_a_stream_is_met() {
    const ROUNDS: usize = 50;
    const SHORT: Duration = Duration::from_millis(2);
    at_one_and_at_eight(
        |options| options.timeouts.tunnel = SHORT,
        |proxy, _| {
            let origin = Origin::script(ROUNDS, sends_parts);
            let mut soonest = STEP;
            for _ in 0..ROUNDS {
                let mut client = tunnel(proxy, &origin);
                // On a busy machine the time is up before the client asks.
                let _ = client.try_send("more");
                let mut last = Instant::now();
                while client.fill().is_ok_and(|count| count > 0) {
                    last = Instant::now();
                }
                soonest = soonest.min(last.elapsed());
            }
            assert!(soonest < SHORT + Duration::from_millis(20), "{soonest:?} after the last byte");
            eventually(|| proxy.stats().connections_closed == ROUNDS as u64);
            assert!(proxy.stats().stream_waits < 20 * ROUNDS as u64, "{}", proxy.stats());
            origin.join();
        },
    );
}

/// Two tunnels: a stream that a worker waits with, and one whose messages are small.
#[test]
fn small_messages_are_answered_while_a_worker_waits_with_a_stream() {
    at_one_and_at_eight(
        |_| {},
        |proxy, workers| {
            let long = Origin::script(1, sends_parts);
            let short = Origin::script(1, |peer| {
                while peer.fill().is_ok_and(|count| count > 0) {
                    let said = peer.take();
                    peer.send(said);
                }
            });
            let mut stream = tunnel(proxy, &long);
            let mut pings = tunnel(proxy, &short);
            for round in 0..5 {
                let before = proxy.stats().stream_waits;
                let mut parts = 0..20;
                move_parts(&mut stream, || match workers {
                    1 => parts.next().is_none(),
                    _ => proxy.stats().stream_waits > before,
                });
                for ping in 0..20 {
                    let said = format!("{round}-{ping:02}");
                    pings.send(&said);
                    assert!(pings.has_something_within(SOON), "{}", proxy.stats());
                    assert_eq!(pings.read_text(said.len()), said);
                }
            }
            drop((stream, pings));
            long.join();
            short.join();
        },
    );
}

/// A side that has ended is always readable, so it must not be looked at again and again.
#[test]
fn a_half_close_in_the_middle_of_a_stream_ends_that_half_and_costs_nothing_more() {
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            let (ended, next) = (Moment::new(), Moment::new());
            let (tell, come) = (ended.clone(), next.clone());
            let origin = Origin::script(1, move |peer| {
                peer.send(part());
                assert_eq!(peer.read_to_end(), b"last words", "what came before the end");
                tell.has_come();
                for _ in 1..PARTS {
                    come.wait();
                    peer.send(part());
                }
            });
            let mut client = tunnel(proxy, &origin);
            assert!(client.read_exact(PART / 2) == part()[..PART / 2], "bytes differ");
            client.send("last words");
            client.half_close();
            ended.wait();
            assert!(client.read_exact(PART / 2) == part()[PART / 2..], "bytes differ");
            for _ in 1..PARTS {
                eventually(|| is_parked(proxy, Wait::Tunnel));
                let before = proxy.stats().stream_waits;
                next.has_come();
                assert!(client.read_exact(PART) == part(), "bytes differ");
                let waits = proxy.stats().stream_waits - before;
                // One for each time the origin's bytes ran out, at a packet or more a time.
                assert!(waits <= (PART / 1024) as u64, "{waits} waits for one part");
            }
            assert!(client.read_to_end().is_empty());
            origin.join();
            eventually(|| proxy.stats().active_tunnels() == 0);
        },
    );
}

#[test]
fn streams_and_clients_that_ask_little_get_all_of_theirs_side_by_side() {
    const STREAMS: usize = 4;
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 150;
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            let long = Origin::script_at_once(STREAMS, |peer| {
                begin_content(peer, PARTS * PART);
                (0..PARTS).for_each(|_| peer.send(part()));
            });
            // The first answers wait for each other, so that each client has its own connection. A
            // client that was done before another began would leave it its kept one.
            let all_asked = Barrier::new(CLIENTS);
            let short = Origin::script_at_once(CLIENTS, move |peer| {
                if peer.try_read_head().is_some() {
                    all_asked.wait();
                    while peer.try_send(OK).is_ok() && peer.try_read_head().is_some() {}
                }
            });
            thread::scope(|scope| {
                for _ in 0..STREAMS {
                    scope.spawn(|| {
                        let mut client = content(proxy, &long);
                        for _ in 0..PARTS {
                            assert!(client.read_exact(PART) == part(), "bytes differ");
                        }
                    });
                }
                for _ in 0..CLIENTS {
                    scope.spawn(|| {
                        let mut client = Peer::connect(proxy.addr());
                        for _ in 0..REQUESTS {
                            client.send(get_request(short.addr, "/"));
                            assert_eq!(client.read_response().text(), "ok");
                        }
                    });
                }
            });
            assert_eq!(proxy.stats().panics, 0);
            short
        },
    );
}

/// A rate too high to slow anything down.
fn limited() -> Access {
    let limit = vec!["down=1GB/s".to_owned()];
    let limits = LimitOptions { limit, ..LimitOptions::default() };
    AccessOptions { limits, ..AccessOptions::default() }.build(None).unwrap()
}

/// The stream waits for its allowance, and not for its sockets.
#[test]
fn a_stream_that_is_slowed_down_is_never_stayed_with() {
    let access = limited();
    at_one_and_at_eight(
        |options| options.access = access.clone(),
        |proxy, _| {
            let origin = Origin::script(1, |peer| {
                begin_content(peer, PARTS * PART);
                (0..PARTS).for_each(|_| peer.send(part()));
            });
            let mut client = content(proxy, &origin);
            for _ in 0..PARTS {
                assert!(client.read_exact(PART) == part(), "bytes differ");
            }
            assert_eq!(proxy.stats().stream_waits, 0);
            drop(client);
            origin.join();
        },
    );
}

/// Enough to keep the workers busy for good: by its next turn each has been sent more than a turn moves.
const FLOODS: usize = 12;

/// Sends without end.
fn flood(mut stream: &TcpStream) {
    while stream.write_all(part()).is_ok() {}
}

/// Receives all bytes and throws them away unseen, which costs next to nothing.
fn drain(stream: &TcpStream) {
    let mut room = vec![0; PART];
    while recv(stream, room.as_mut_slice(), RecvFlags::TRUNC).is_ok_and(|(_, count)| count > 0) {}
}

/// Reports the size of each receive, until it has reported the end: 0.
fn hear(peer: &mut Peer, tell: impl Fn(usize)) {
    loop {
        match peer.fill() {
            Ok(0) => return tell(0),
            Ok(count) => tell(count),
            // Most of them are never sent anything.
            Err(e) if is_timeout(&e) => {}
            Err(_) => return,
        }
        peer.discard();
    }
}

/// Runs `use_it` on each of these connections in a thread of its own while `test` runs, and ends the
/// threads however that ends.
fn beside(streams: &[TcpStream], use_it: impl Fn(&TcpStream) + Sync, test: impl FnOnce()) {
    thread::scope(|scope| {
        for stream in streams {
            scope.spawn(|| use_it(stream));
        }
        let passed = catch_unwind(AssertUnwindSafe(test));
        streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        passed.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

fn clones(peers: &[Peer]) -> Vec<TcpStream> {
    peers.iter().map(|peer| peer.stream().try_clone().unwrap()).collect()
}

/// How long a few bytes may take beside a direction that never pauses.
const SOON: Duration = Duration::from_secs(2);

/// One direction can always go on, and the worker never has to wait. The other direction is still
/// served.
#[test]
fn a_few_bytes_and_the_end_arrive_against_a_stream_that_never_pauses() {
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            let (heard, heard_one) = unbounded();
            let origin = Origin::script_at_once(FLOODS, move |peer| {
                let stream = peer.stream().try_clone().unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| flood(&{ stream }));
                    hear(peer, |count| _ = heard.send(count));
                });
            });
            let mut clients: Vec<_> = (0..FLOODS).map(|_| tunnel(proxy, &origin)).collect();
            beside(&clones(&clients), drain, || {
                eventually(|| proxy.stats().bytes_spliced > (FLOODS * PART) as u64);
                let speaker = &mut clients[0];
                for _ in 0..20 {
                    speaker.send("ping");
                    assert_eq!(heard_one.recv_timeout(SOON), Ok(4), "{}", proxy.stats());
                }
                speaker.half_close();
                assert_eq!(heard_one.recv_timeout(SOON), Ok(0), "{}", proxy.stats());
            });
            origin
        },
    );
}

#[test]
fn an_answer_that_comes_early_arrives_against_content_that_never_pauses() {
    at_one_and_at_eight(
        |_| {},
        |proxy, _| {
            let answer = Moment::new();
            let comes = answer.clone();
            let origin = Origin::script_at_once(FLOODS, move |peer| {
                peer.read_head();
                let stream = peer.stream().try_clone().unwrap();
                thread::scope(|scope| {
                    scope.spawn(|| drain(&stream));
                    comes.wait();
                    // The rest of the response does not come.
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nearly");
                });
            });
            let head = format!(
                "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: {1}\r\n\r\n",
                origin.addr,
                u64::MAX / 2
            );
            let mut clients: Vec<_> = (0..FLOODS).map(|_| Peer::connect(proxy.addr())).collect();
            clients.iter_mut().for_each(|client| client.send(&head));
            beside(&clones(&clients), flood, || {
                eventually(|| proxy.stats().bytes_spliced > (FLOODS * PART) as u64);
                (0..FLOODS).for_each(|_| answer.has_come());
                let late = Instant::now() + SOON;
                for client in &mut clients {
                    let left = late.saturating_duration_since(Instant::now());
                    let left = left.max(Duration::from_millis(1));
                    assert!(client.has_something_within(left), "{}", proxy.stats());
                    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
                    assert_eq!(client.read_text(5), "early");
                }
            });
            origin
        },
    );
}

#[test]
fn a_shutdown_reaches_a_stream_that_never_pauses() {
    for workers in [1, 8] {
        let proxy = proxy_with(|options| options.threads = NonZeroUsize::new(workers));
        let origin = Origin::script(1, |peer| while peer.try_send(part()).is_ok() {});
        let mut client = tunnel(&proxy, &origin);
        let reads = thread::spawn(move || {
            while client.fill().is_ok_and(|count| count > 0) {
                client.discard();
            }
        });
        eventually(|| proxy.stats().bytes_spliced > 4 * PART as u64);
        assert_eq!(proxy.shutdown(Duration::ZERO), 1);
        reads.join().unwrap();
        origin.join();
    }
}

#[test]
fn a_stream_that_stops_for_good_ends_when_its_time_is_up() {
    at_one_and_at_eight(
        |options| options.timeouts.response = Duration::from_millis(300),
        |proxy, _| {
            let origin = Origin::script(1, |peer| {
                begin_content(peer, PARTS * PART);
                peer.send(part());
                peer.read_to_any_end();
            });
            let mut client = content(proxy, &origin);
            assert!(client.read_exact(PART) == part(), "bytes differ");
            client.read_to_any_end();
            assert!(
                comes_true(Duration::from_secs(5), &mut || proxy.stats().connections_closed == 1)
            );
            origin.join();
        },
    );
}
