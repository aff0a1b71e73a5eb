//! Regressions: one test for each defect that was found by reading, fuzzing or use, and that no other
//! file covers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use threadgate::error::Side;

use crate::faults::stop;
use crate::hostile::NeverReads;
use crate::peers::{Peer, STEP, comes_true, eventually, pattern};
use crate::proxies::{Binary, get_request, proxy, proxy_with};
use crate::servers::{Origin, listen};
use rustix::process::Signal;
use socket2::SockRef;

/// A connection is judged by the listener that uses it, not by the one it was made for.
#[test]
fn an_idle_connection_made_for_one_listener_is_no_way_around_the_rules_of_another() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..2 {
            peer.read_head();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        peer.read_to_any_end();
    });
    let proxy = proxy_with(|options| {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        options.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), any];
    });
    let mut allowed = Peer::connect(proxy.addr());
    allowed.send(get_request(origin.addr, "/"));
    assert_eq!(allowed.read_response().text(), "ok");

    let beyond = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addrs()[1].port()));
    let mut denied = Peer::connect(beyond);
    denied.send(get_request(origin.addr, "/"));
    assert_eq!(denied.read_response().status, 403);
    eventually(|| proxy.stats().failures_of(Side::Proxy) == 1);
    // The connection is still there for those who may use it.
    allowed.send(get_request(origin.addr, "/"));
    assert_eq!(allowed.read_response().text(), "ok");
    assert_eq!(proxy.stats().upstream_connects, 1);
}

/// An HTTP/1.0 client knows the end of such content only by the connection's, so a cut must be visible.
#[test]
fn content_until_close_that_a_shutdown_cuts_ends_in_a_reset() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\n\r\nthe beginning");
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("GET http://{}/ HTTP/1.0\r\n\r\n", origin.addr));
    client.read_until(b"the beginning");
    assert_eq!(proxy.shutdown(Duration::ZERO), 1);
    client.expect_reset();
    origin.join();
}

/// A worker may stay with a lively session for as long as it is lively, but not past the shutdown.
#[test]
fn a_shutdown_reaches_a_tunnel_that_never_pauses() {
    const TUNNELS: usize = 40;
    let echo = listen();
    let to = echo.local_addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let server = thread::spawn(move || {
        let mut message = [0; 64];
        while !is_over.load(Ordering::SeqCst) {
            let (mut stream, _) = echo.accept().unwrap();
            while stream.read(&mut message).is_ok_and(|n| n > 0)
                && stream.write_all(&message).is_ok()
            {}
        }
    });
    let proxy = proxy_with(|options| options.threads = std::num::NonZeroUsize::new(4));
    let paid = || proxy.stats().patient_reads_paid;
    // One wait may be too long because the machine has other things to do, and then the session gets no
    // more patience. In that case another tunnel tries.
    let tunnel = (0..TUNNELS).find_map(|_| {
        let mut client = Peer::connect(proxy.addr());
        client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
        assert!(client.read_head().starts_with("HTTP/1.1 200 "));
        let mut stream = client.stream().try_clone().unwrap();
        let rounds = thread::spawn(move || {
            let mut rounds = 0;
            let mut message = [0; 64];
            while stream.write_all(&message).is_ok() && stream.read_exact(&mut message).is_ok() {
                rounds += 1;
            }
            rounds
        });
        let before = paid();
        if comes_true(Duration::from_millis(500), &mut || paid() - before > 100) {
            return Some((client, rounds));
        }
        client.stream().shutdown(std::net::Shutdown::Both).unwrap();
        rounds.join().unwrap();
        eventually(|| proxy.stats().active_tunnels() == 0);
        None
    });
    let (client, rounds) = tunnel.expect("no tunnel got patience");
    over.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    assert_eq!(proxy.shutdown(Duration::ZERO), 1);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(rounds.join().unwrap() > 0);
    drop(client);
    server.join().unwrap();
}

/// Both directions of a tunnel make progress, however busy the other one is. The rule behind this has a
/// test of its own, beside `src/proxy/flow.rs`; the flood here pauses.
#[test]
fn a_flood_one_way_does_not_stop_the_other_way() {
    const BYTES: usize = 2 * 1024 * 1024;
    let origin = Origin::script(1, |peer| {
        let stream = peer.stream().try_clone().unwrap();
        // Takes all bytes, for as long as they come.
        let drain = thread::spawn(move || std::io::copy(&mut &stream, &mut std::io::sink()));
        peer.send(pattern(BYTES));
        drain.join().unwrap().unwrap();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    let mut flood = client.stream().try_clone().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let flooding = thread::spawn(move || {
        let bytes = vec![b'x'; 256 * 1024];
        while let Ok(n) = flood.write(&bytes) {
            counted.fetch_add(n, Ordering::Relaxed);
        }
    });
    // The flood goes on by then, however late its thread got a processor.
    eventually(|| sent.load(Ordering::Relaxed) > 4 * BYTES);
    assert_eq!(client.read_exact(BYTES), pattern(BYTES));
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    flooding.join().unwrap();
    drop(client);
    origin.join();
}

/// The client was told to stop, stops, and reads on.
#[test]
fn an_early_answer_goes_on_when_the_client_ends_its_upload() {
    const BYTES: usize = 300_000;
    let (go, went) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        peer.send(format!("HTTP/1.1 413 No\r\nContent-Length: {BYTES}\r\n\r\n"));
        peer.send(&pattern(BYTES)[..1000]);
        went.recv_timeout(Duration::from_secs(5)).unwrap();
        peer.send(&pattern(BYTES)[1000..]);
        peer.read_to_any_end();
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 1000000\r\n\r\nsome",
        origin.addr
    ));
    assert!(client.read_head().starts_with("HTTP/1.1 413 "));
    let beginning = client.read_exact(1000);
    client.half_close();
    go.send(()).unwrap();
    let rest = client.read_to_end();
    assert_eq!([beginning, rest].concat(), pattern(BYTES));
    origin.join();
}

/// A peer that takes nothing of a request is to blame, not the client that sends it.
#[test]
fn an_upstream_that_takes_no_more_of_a_request_costs_a_504() {
    let (go, went) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::script(1, move |peer| {
        peer.read_head();
        // The server reads no more until the proxy has given up.
        went.recv_timeout(Duration::from_secs(5)).unwrap();
    });
    let proxy = proxy_with(|options| options.timeouts.response = Duration::from_millis(300));
    let mut client = Peer::connect(proxy.addr());
    let bytes = 64 * 1024 * 1024;
    client.send(format!(
        "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: {bytes}\r\n\r\n",
        origin.addr
    ));
    let mut upload = client.stream().try_clone().unwrap();
    let uploading = thread::spawn(move || {
        let content = vec![b'x'; 256 * 1024];
        while upload.write(&content).is_ok() {}
    });
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert!(head.contains("error=connection_write_timeout"), "{head}");
    go.send(()).unwrap();
    drop(client);
    drop(proxy);
    uploading.join().unwrap();
    origin.join();
}

/// A server that closes while its client still sends resets the connection. The bytes it sent before are
/// still valid: on a direct connection the client reads them.
#[test]
fn what_an_upstream_said_before_it_reset_a_tunnel_still_arrives() {
    let origin = listen();
    let to = origin.local_addr().unwrap();
    let proxy = Binary::start(&[]);
    let mut client = Peer::connect(proxy.addr);
    client.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"));
    client.read_head();
    let mut upstream = Peer::new(origin.accept().unwrap().0);
    client.send("an upload");
    assert_eq!(upstream.read_text(9), "an upload");
    // Both come while the proxy is stopped.
    stop(proxy.pid());
    upstream.send("the last words");
    upstream.reset();
    proxy.signal(Signal::CONT);
    assert_eq!(client.read_text(14), "the last words");
    client.expect_reset();
}

/// Whether the system still knows this end of a connection.
fn kernel_has(end: SocketAddr, other: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let [end, other] = [end, other].map(|address| {
        let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    });
    table.contains(&format!("{end} {other}"))
}

/// All its bytes are under way when the upstream closes. It does not matter then that it takes no more.
#[test]
fn a_client_that_sends_to_an_upstream_that_has_closed_loses_nothing_of_what_that_said() {
    // This many fit into the buffers on the proxy's side.
    const BYTES: usize = 100_000;
    let origin = listen();
    let to = origin.local_addr().unwrap();
    let proxy = proxy();
    let connect = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let client = NeverReads::ask(proxy.addr(), &connect);
    let mut upstream = Peer::new(origin.accept().unwrap().0);
    upstream.send(pattern(BYTES));
    let from = upstream.stream().peer_addr().unwrap();
    // Closing waits until the bytes have arrived.
    SockRef::from(upstream.stream()).set_linger(Some(STEP)).unwrap();
    drop(upstream);
    assert!(kernel_has(to, from), "it has ended one side only");
    let mut client = client.read_after_all();
    client.read_head();
    // The upstream's kernel answers this with a reset. Until that has come and gone the client reads
    // nothing.
    client.send("and another thing");
    eventually(|| !kernel_has(to, from));
    assert!(client.read_to_end() == pattern(BYTES), "not all, or not the same");
    eventually(|| proxy.stats().failures_of(Side::Upstream) == 1);
}

/// A receive stops at the urgent mark, even if there is more behind it (RFC 6093 §3): short does not
/// mean all.
#[test]
fn urgent_data_in_a_quiet_tunnel_holds_up_nothing_behind_it() {
    let origin = Origin::script(1, |peer| {
        for _ in 0..50 {
            let (mut before, mut behind) = (peer.read_text(1), peer.read_text(1));
            // The system decides what becomes of the urgent byte itself.
            if behind == "!" {
                behind = peer.read_text(1);
            }
            before.push_str(&behind);
            peer.send(before);
        }
    });
    let proxy = proxy();
    let mut client = Peer::connect(proxy.addr());
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr));
    assert!(client.read_head().starts_with("HTTP/1.1 200 "));
    for _ in 0..50 {
        client.send("a");
        SockRef::from(client.stream()).send_out_of_band(b"!").unwrap();
        client.send("b");
        assert_eq!(client.read_text(2), "ab");
    }
    origin.join();
}
