//! Peers that misbehave on purpose, one type for each misbehaviour.
//!
//! Those that answer implement [`Misbehaves`] and run behind [`Origin::hostile`]. Those that ask have a
//! constructor that connects.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use socket2::{Domain, Protocol, Socket, Type};

use crate::peers::{Peer, STEP, is_timeout};
use crate::servers::{Origin, listen};

/// The behaviour of an origin server instead of its work, once per connection.
pub(crate) trait Misbehaves: Send + 'static {
    fn play(&self, peer: &mut Peer);
}

impl Origin {
    pub(crate) fn hostile(connections: usize, how: impl Misbehaves) -> Self {
        Self::script(connections, move |peer| how.play(peer))
    }
}

/// Sends one byte at a time, with a pause before each.
pub(crate) struct DripFeed {
    pub(crate) bytes: &'static [u8],
    pub(crate) pace: Duration,
}

impl DripFeed {
    /// Drips until the other end sends something (or the bytes run out). Returns how long that took.
    pub(crate) fn until_answered(&self, peer: &mut Peer) -> Duration {
        let start = Instant::now();
        for byte in self.bytes {
            if peer.has_something_within(self.pace) || peer.try_send([*byte]).is_err() {
                break;
            }
            assert!(start.elapsed() < STEP, "dripped for {STEP:?} without an answer");
        }
        start.elapsed()
    }
}

impl Misbehaves for DripFeed {
    fn play(&self, peer: &mut Peer) {
        peer.read_head();
        self.until_answered(peer);
        peer.read_to_any_end();
    }
}

/// A client that asks and never reads what it gets.
pub(crate) struct NeverReads(Peer);

impl NeverReads {
    /// Connects with the smallest possible receive buffer, and sends `request`.
    pub(crate) fn ask(proxy: SocketAddr, request: &str) -> Self {
        let socket =
            Socket::new(Domain::for_address(proxy), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect_timeout(&proxy.into(), STEP).unwrap();
        let mut peer = Peer::new(TcpStream::from(socket));
        peer.send(request);
        Self(peer)
    }

    /// Begins to read.
    pub(crate) fn read_after_all(self) -> Peer {
        self.0
    }
}

/// An origin server that resets the connection in the middle of its response.
pub(crate) struct ResetMidBody {
    /// All bytes sent before the reset.
    pub(crate) sent: &'static str,
}

impl Misbehaves for ResetMidBody {
    fn play(&self, peer: &mut Peer) {
        peer.read_head();
        peer.send(self.sent);
        // A reset discards bytes that the other side has not read yet, so it gets time to read.
        wait_until_taken(peer);
        socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// An origin server whose content is shorter or longer than its length says, and which then closes.
pub(crate) struct LiesAboutLength {
    pub(crate) says: usize,
    pub(crate) sends: &'static str,
}

impl Misbehaves for LiesAboutLength {
    fn play(&self, peer: &mut Peer) {
        peer.read_head();
        let (says, sends) = (self.says, self.sends);
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {says}\r\n\r\n{sends}"));
    }
}

/// A client that closes its sending side right after its request.
pub(crate) struct HalfCloses;

impl HalfCloses {
    pub(crate) fn ask(proxy: SocketAddr, request: &str) -> Peer {
        let mut peer = Peer::connect(proxy);
        peer.send(request);
        peer.half_close();
        peer
    }
}

/// An origin server that takes the request and sends nothing until the other end gives up.
pub(crate) struct NeverAnswers;

impl Misbehaves for NeverAnswers {
    fn play(&self, peer: &mut Peer) {
        peer.read_head();
        peer.read_to_any_end();
    }
}

/// A server of another protocol on the port where HTTP was expected.
pub(crate) struct SpeaksRedis;

impl SpeaksRedis {
    pub(crate) const ANSWER: &'static str =
        "-ERR unknown command `GET`, with args beginning with: `/`\r\n";
}

impl Misbehaves for SpeaksRedis {
    fn play(&self, peer: &mut Peer) {
        peer.read_until(b"\r\n");
        peer.send(Self::ANSWER);
        peer.read_to_any_end();
    }
}

/// A listening socket whose queue is full: the kernel drops every SYN that comes, so a connect hangs.
pub(crate) struct DropsSyns {
    pub(crate) addr: SocketAddr,
    listener: Socket,
    queue: Vec<Socket>,
}

impl DropsSyns {
    pub(crate) fn new() -> Self {
        Self::on((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn on(addr: SocketAddr) -> Self {
        let domain = Domain::for_address(addr);
        let listener = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&addr.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let queue = (0..4).map(|_| started_connect(addr)).collect();
        Self { addr, listener, queue }
    }

    /// Accepts connections from now on. A waiting client gets through when it sends its SYN again, a
    /// second or more after the one before.
    pub(crate) fn relent(self) -> TcpListener {
        drop(self.queue);
        self.listener.listen(64).unwrap();
        let listener = TcpListener::from(self.listener);
        // The connections that filled the queue.
        listener.set_nonblocking(true).unwrap();
        while listener.accept().is_ok() {}
        listener.set_nonblocking(false).unwrap();
        listener
    }
}

fn started_connect(addr: SocketAddr) -> Socket {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Pending or done, it takes a place in the queue.
    let _ = socket.connect(&addr.into());
    socket
}

/// Lookups that do not return while [`Gate`] is held.
#[derive(Debug)]
pub(crate) struct HangingResolver {
    gate: Receiver<()>,
    answer: Vec<IpAddr>,
}

/// Dropping it lets every hanging lookup return.
pub(crate) struct Gate(#[expect(dead_code, reason = "dropping it is all it is for")] Sender<()>);

impl HangingResolver {
    /// A lookup hangs for every name that begins with `hang`. Every other name, and a released lookup,
    /// gets `answer`.
    pub(crate) fn new(answer: Vec<IpAddr>) -> (Self, Gate) {
        let (sender, gate) = bounded(0);
        (Self { gate, answer }, Gate(sender))
    }

    pub(crate) fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host.starts_with("hang") {
            // The wait ends with the sender, or when patience does.
            let _ = self.gate.recv_timeout(STEP * 2);
        }
        Ok(self.answer.clone())
    }
}

/// Waits until the other end's kernel has taken everything sent, and its reader had a moment.
fn wait_until_taken(peer: &mut Peer) {
    // Nothing is expected: this is the shortest pause that lets the reader go first.
    peer.has_something_within(Duration::from_millis(50));
}

#[test]
fn a_drip_feed_stops_when_it_is_answered() {
    let origin = Origin::script(1, |peer| {
        assert_eq!(peer.read_text(3), "abc");
        peer.send("enough");
        peer.read_to_any_end();
    });
    let mut client = Peer::connect(origin.addr);
    let drip = DripFeed { bytes: b"abcdefghijklmnopqrstuvwxyz", pace: Duration::from_millis(5) };
    drip.until_answered(&mut client);
    assert_eq!(client.read_text(6), "enough");
}

#[test]
fn a_connect_to_a_server_that_drops_syns_hangs() {
    let server = DropsSyns::new();
    for _ in 0..2 {
        let e = TcpStream::connect_timeout(&server.addr, Duration::from_millis(200)).unwrap_err();
        assert!(is_timeout(&e), "{e}");
    }
}

#[test]
fn a_reset_in_the_middle_of_a_body_is_seen_as_one() {
    let origin = Origin::hostile(1, ResetMidBody { sent: "HTTP/1.1 200 OK\r\n\r\nhalf" });
    let mut client = Peer::connect(origin.addr);
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.read_head();
    assert_eq!(client.read_text(4), "half");
    client.expect_reset();
}

#[test]
fn a_client_that_never_reads_stalls_its_sender() {
    let origin = Origin::script(1, |peer| {
        peer.read_head();
        peer.stream().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let e = peer.try_send(vec![b'x'; 16 << 20]).unwrap_err();
        assert!(is_timeout(&e), "{e}");
    });
    let client = NeverReads::ask(origin.addr, "GET / HTTP/1.1\r\n\r\n");
    origin.join();
    drop(client.read_after_all());
}

#[test]
fn a_hanging_lookup_ends_with_its_gate() {
    let (resolver, gate) = HangingResolver::new(vec![Ipv4Addr::LOCALHOST.into()]);
    let lookup = std::thread::spawn(move || resolver.lookup("hang.example").unwrap());
    assert!(!lookup.is_finished());
    drop(gate);
    assert_eq!(lookup.join().unwrap(), [Ipv4Addr::LOCALHOST]);
}

/// An origin server that answers a connection's first request with its target, and closes at a random
/// time later: before or in the middle of an answer, right behind it, or while idle.
pub(crate) struct ClosesAtRandom {
    pub(crate) addr: SocketAddr,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl ClosesAtRandom {
    pub(crate) fn start() -> Self {
        let listener = Arc::new(listen());
        let addr = listener.local_addr().unwrap();
        let theirs = Arc::clone(&listener);
        let thread = thread::spawn(move || {
            thread::scope(|scope| {
                for seed in 1.. {
                    let Ok((stream, _)) = theirs.accept() else { break };
                    scope.spawn(move || play_at_random(&mut Peer::new(stream), seed));
                }
            });
        });
        Self { addr, listener, thread: Some(thread) }
    }
}

impl Drop for ClosesAtRandom {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails; the connections end with the proxy.
        let _ = socket2::SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn play_at_random(peer: &mut Peer, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut dice = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % 40
    };
    for answered in 0.. {
        let Some(head) = peer.try_read_head() else { return };
        let target = head.split(' ').nth(1).unwrap();
        if answered > 0 {
            match dice() {
                0 | 1 => return,
                2 | 3 => return set_to_reset(peer),
                // The proxy may be quicker than this, and hang up.
                4 => return drop(peer.try_send("HTTP/1.1 200 OK\r\nContent-Le")),
                5 => {
                    let _ = peer.try_send("H");
                    return set_to_reset(peer);
                }
                6 => {
                    let late =
                        "HTTP/1.1 408 Late\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                    return drop(peer.try_send(late));
                }
                _ => {}
            }
        }
        let length = target.len();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"));
        match dice() {
            0 | 1 => return,
            // The proxy may be quicker than this, too.
            2 | 3 => {
                peer.has_something_within(Duration::from_millis(1));
                return;
            }
            4 => {
                peer.half_close_if_open();
                peer.read_to_any_end();
                return;
            }
            _ => {}
        }
    }
}

/// Turns the next close into a reset.
fn set_to_reset(peer: &Peer) {
    socket2::SockRef::from(peer.stream()).set_linger(Some(Duration::ZERO)).unwrap();
}
