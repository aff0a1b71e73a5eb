//! Servers on the far side of the proxy.
//!
//! [`Origin`] plays a script on each connection it accepts, [`Recorder`] records the bytes it is sent,
//! [`Untouched`] must never receive anything, and at a [`RefusedPort`] nobody listens.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;

use crate::peers::{End, Peer, STEP, eventually};
use crate::programs::free_port;

/// A listening socket on loopback, port chosen by the system.
pub(crate) fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// A listening socket on loopback whose port is free on every other IPv4 address.
///
/// The system gives out the same port on 127.0.0.1 and on 127.0.0.2: a test that needs both would now
/// and then find the second taken by another test.
pub(crate) fn listen_on_a_port_of_its_own() -> TcpListener {
    TcpListener::bind(free_port()).unwrap()
}

/// A listening socket on IPv6 loopback, if this machine has one.
pub(crate) fn listen_v6() -> Option<TcpListener> {
    let listener = TcpListener::bind("[::1]:0");
    listener.inspect_err(|e| eprintln!("no IPv6 loopback here ({e}): not tested")).ok()
}

/// A port on loopback at which nobody listens, held so that nobody takes it meanwhile.
pub(crate) struct RefusedPort {
    pub(crate) addr: SocketAddr,
    _bound: socket2::Socket,
}

impl RefusedPort {
    pub(crate) fn new() -> Self {
        let bound =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let addr = bound.local_addr().unwrap().as_socket().unwrap();
        Self { addr, _bound: bound }
    }
}

/// An origin server that plays a script on each connection it accepts.
///
/// [`Origin::join`] re-raises a script's panic, so that an assertion that failed there fails the test
/// here. It also checks that nobody connected more often than the script says. Dropping joins, too.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Open until the end, so that a connection too many is noticed, not refused.
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Accepts `connections`, one after the other.
    pub(crate) fn script(connections: usize, script: impl Fn(&mut Peer) + Send + 'static) -> Self {
        Self::script_on(listen(), connections, script)
    }

    pub(crate) fn script_on(
        listener: TcpListener,
        connections: usize,
        script: impl Fn(&mut Peer) + Send + 'static,
    ) -> Self {
        Self::start(listener, move |listener, accepted| {
            for _ in 0..connections {
                let mut peer = Peer::new(accept_within(listener, STEP));
                accepted.fetch_add(1, Ordering::SeqCst);
                script(&mut peer);
            }
        })
    }

    /// Accepts `connections` and plays the script on all of them at once, a thread each.
    pub(crate) fn script_at_once(
        connections: usize,
        script: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::script_at_once_on(listen(), connections, script)
    }

    pub(crate) fn script_at_once_on(
        listener: TcpListener,
        connections: usize,
        script: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::start(listener, move |listener, accepted| {
            let script = &script;
            thread::scope(|scope| {
                for _ in 0..connections {
                    let mut peer = Peer::new(accept_within(listener, STEP));
                    accepted.fetch_add(1, Ordering::SeqCst);
                    scope.spawn(move || script(&mut peer));
                }
            });
        })
    }

    /// Answers one request on one connection and keeps that open until the proxy ends it.
    pub(crate) fn answer(response: &'static str) -> Self {
        Self::script(1, move |peer| {
            peer.read_head();
            peer.send(response);
            peer.read_to_any_end();
        })
    }

    fn start(
        listener: TcpListener,
        run: impl FnOnce(&TcpListener, &AtomicUsize) + Send + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let listener = Arc::new(listener);
        let (theirs, count) = (Arc::clone(&listener), Arc::clone(&accepted));
        let thread = thread::spawn(move || run(&theirs, &count));
        Self { addr, accepted, listener, thread: Some(thread) }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits for the script's end.
    #[track_caller]
    pub(crate) fn join(mut self) {
        self.finish();
        assert!(!somebody_waits(&self.listener), "a connection more than the script has");
    }

    fn finish(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.finish();
        }
    }
}

/// A server that must never be reached.
pub(crate) struct Untouched {
    pub(crate) addr: SocketAddr,
    listener: TcpListener,
}

impl Untouched {
    pub(crate) fn new() -> Self {
        let listener = listen();
        Self { addr: listener.local_addr().unwrap(), listener }
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        if !thread::panicking() {
            assert!(!somebody_waits(&self.listener), "nobody may connect to {}", self.addr);
        }
    }
}

/// A server that records the bytes of each connection, answers nothing, and closes when the other end
/// does.
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    log: Arc<Mutex<Vec<Recorded>>>,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

/// One connection's bytes so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: Option<End>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self::answering("")
    }

    /// Like `new`, but sends `greeting` as soon as something has come.
    pub(crate) fn answering(greeting: &'static str) -> Self {
        let listener = Arc::new(listen());
        let addr = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (theirs, lines) = (Arc::clone(&listener), Arc::clone(&log));
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = theirs.accept() {
                let lines = Arc::clone(&lines);
                let mut lock = lines.lock();
                let at = lock.len();
                lock.push(Recorded::default());
                drop(lock);
                thread::spawn(move || {
                    record(stream, greeting, |change| change(&mut lines.lock()[at]))
                });
            }
        });
        Self { addr, log, listener, thread: Some(thread) }
    }

    /// The bytes received so far, for each connection.
    pub(crate) fn seen(&self) -> Vec<Recorded> {
        self.log.lock().clone()
    }

    /// The bytes received, once every connection has ended.
    #[track_caller]
    pub(crate) fn seen_at_end(&self) -> Vec<Recorded> {
        eventually(|| !somebody_waits_untaken(&self.listener) && self.all_ended());
        self.seen()
    }

    fn all_ended(&self) -> bool {
        self.log.lock().iter().all(|c| c.end.is_some())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn record(mut stream: TcpStream, greeting: &str, change: impl Fn(&dyn Fn(&mut Recorded))) {
    let mut buf = [0; 16 << 10];
    let mut greeted = greeting.is_empty();
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break change(&|c| c.end = Some(End::Closed)),
            Ok(n) => change(&|c| c.bytes.extend_from_slice(&buf[..n])),
            Err(_) => break change(&|c| c.end = Some(End::Reset)),
        }
        if !greeted {
            greeted = true;
            // The other end may be gone already; only its bytes count.
            let _ = stream.write_all(greeting.as_bytes());
        }
    }
}

/// Accepts one connection, or fails after `limit`.
#[track_caller]
pub(crate) fn accept_within(listener: &TcpListener, limit: Duration) -> TcpStream {
    SockRef::from(listener).set_read_timeout(Some(limit)).unwrap();
    match listener.accept() {
        Ok((stream, _)) => stream,
        Err(e) => {
            panic!("{e}: nobody connected to {} within {limit:?}", listener.local_addr().unwrap())
        }
    }
}

/// Whether a connection waits to be accepted.
pub(crate) fn somebody_waits(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    let waits = listener.accept().is_ok();
    listener.set_nonblocking(false).unwrap();
    waits
}

/// The same, without accepting the connection.
pub(crate) fn somebody_waits_untaken(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

#[test]
fn peers_talk_to_each_other_and_tell_an_end_from_a_reset() {
    let origin = Origin::script(2, |peer| {
        assert!(peer.read_head().starts_with("GET / HTTP/1.1\r\n"));
        peer.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
        );
        peer.expect_reset();
    });
    for _ in 0..2 {
        let mut client = Peer::connect(origin.addr);
        client.send("GET / HTTP/1.1\r\n\r\n");
        let response = client.read_response();
        assert_eq!((response.status, response.text()), (200, "ok"));
        assert_eq!(response.trailers, ["A: b"]);
        client.reset();
    }
    assert_eq!(origin.accepted(), 2);
    origin.join();
}

#[test]
fn a_failed_assertion_in_a_script_fails_the_test() {
    let origin = Origin::script(1, |_| panic!("expected in the output of a passing run"));
    let _client = Peer::connect(origin.addr);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| origin.join())).is_err());
}

#[test]
fn a_recorder_takes_down_each_connection_apart() {
    let recorder = Recorder::answering("hello");
    for text in ["one", "two"] {
        let mut client = Peer::connect(recorder.addr);
        client.send(text);
        assert_eq!(client.read_text(5), "hello");
        eventually(|| recorder.seen().last().is_some_and(|c| c.bytes == text.as_bytes()));
    }
    let ends: Vec<_> = recorder.seen_at_end().iter().map(|c| c.end).collect();
    assert_eq!(ends, [Some(End::Closed); 2]);
}
