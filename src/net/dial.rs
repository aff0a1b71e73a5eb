//! Connecting: one address after the other, a second attempt beside a slow first one.
//!
//! At most two connects are pending. The next address is tried when one fails, or when the last
//! attempt has had [`STAGGER`] and is still pending, so that an address that drops SYNs costs a
//! quarter of a second and not the whole connect timeout (RFC 8305 §5).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::poll::{Edge, Owner, Poller};
use super::stream::Stream;

/// How long an attempt is alone (RFC 8305 §8: 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Where a connection may go to, in the order of trying.
#[derive(Clone, Debug)]
pub enum Addresses {
    /// A literal.
    One(IpAddr),
    /// What a lookup found.
    Found(Arc<[IpAddr]>),
}

impl Addresses {
    fn nth(&self, n: usize) -> Option<IpAddr> {
        match self {
            Self::One(ip) => (n == 0).then_some(*ip),
            Self::Found(ips) => ips.get(n).copied(),
        }
    }
}

/// What came of a step.
#[derive(Debug)]
pub enum Dialed {
    /// A connection; both directions are open.
    Connected(Stream, SocketAddr),
    /// Pending: come back on an edge, or at this moment if there is one.
    Waiting(Option<Instant>),
    /// Every address failed; this is why the last one did.
    Failed(Option<SocketAddr>, Failure),
}

/// Why an address could not be connected to.
#[derive(Debug)]
pub enum Failure {
    /// A rule forbids the address; the sentence says which.
    Forbidden(&'static str),
    /// The address is our own: the request would come back.
    Own,
    /// There was no address to try.
    NoAddress,
    /// What the system said.
    System(io::Error),
}

/// A connection being made.
#[derive(Debug)]
pub struct Dial {
    addresses: Addresses,
    port: u16,
    next: usize,
    pending: [Option<Attempt>; 2],
    stagger: Option<Instant>,
    last: Option<(SocketAddr, Failure)>,
}

#[derive(Debug)]
struct Attempt {
    to: SocketAddr,
    stream: Stream,
}

impl Dial {
    /// Connects to one of `addresses`, on the first [`step`](Self::step).
    pub fn new(addresses: Addresses, port: u16) -> Self {
        Self { addresses, port, next: 0, pending: [None, None], stagger: None, last: None }
    }

    /// Notes an edge on the attempt in `place`, 0 or 1.
    pub fn note(&mut self, place: usize, edge: Edge) {
        if let Some(Some(attempt)) = self.pending.get_mut(place) {
            attempt.stream.note(edge);
        }
    }

    /// Remembers why an address failed. That there is no way to one says less than what another did.
    fn fail(&mut self, to: SocketAddr, why: Failure) {
        let no_way = matches!(&why, Failure::System(e) if is_unroutable(e));
        if !(no_way && self.last.is_some()) {
            self.last = Some((to, why));
        }
    }

    /// Gets as far as it can without waiting. `owners` are told about the two attempts; `refuse`
    /// is asked about each address before it is connected to.
    pub fn step(
        &mut self,
        now: Instant,
        poller: &Arc<Poller>,
        owners: &[Owner; 2],
        refuse: &dyn Fn(SocketAddr) -> Option<Failure>,
    ) -> Dialed {
        let mut failed = None;
        for attempt in &mut self.pending {
            let Some(Attempt { to, stream }) = attempt else { continue };
            if !stream.is_writable() {
                continue;
            }
            match stream.is_connected() {
                Ok(false) => {}
                Ok(true) => {
                    let to = *to;
                    let Some(Attempt { stream, .. }) = attempt.take() else { continue };
                    self.pending = [None, None];
                    return Dialed::Connected(stream, to);
                }
                Err(e) => {
                    failed = Some((*to, Failure::System(e)));
                    *attempt = None;
                    self.stagger = None;
                }
            }
        }
        if let Some((to, why)) = failed {
            self.fail(to, why);
        }
        loop {
            let pending = self.pending.iter().flatten().count();
            let due = self.stagger.is_none_or(|at| at <= now);
            let address = self.addresses.nth(self.next);
            let Some(place) = self.pending.iter().position(Option::is_none) else {
                return Dialed::Waiting(None);
            };
            match address {
                Some(ip) if pending == 0 || due => {
                    self.next += 1;
                    let to = SocketAddr::new(ip, self.port);
                    let owner = owners.get(place).cloned();
                    let begun = match refuse(to) {
                        Some(refusal) => Err(refusal),
                        None => begin(to, poller, owner).map_err(Failure::System),
                    };
                    match begun {
                        Ok((stream, true)) => {
                            self.pending = [None, None];
                            return Dialed::Connected(stream, to);
                        }
                        Ok((stream, false)) => {
                            if let Some(free) = self.pending.get_mut(place) {
                                *free = Some(Attempt { to, stream });
                            }
                            self.stagger = Some(now + STAGGER);
                        }
                        Err(e) => {
                            self.fail(to, e);
                            self.stagger = None;
                        }
                    }
                }
                Some(_) => return Dialed::Waiting(self.stagger),
                None if pending > 0 => return Dialed::Waiting(None),
                None => {
                    return match self.last.take() {
                        Some((to, why)) => Dialed::Failed(Some(to), why),
                        None => Dialed::Failed(None, Failure::NoAddress),
                    };
                }
            }
        }
    }
}

/// Whether an error says that descriptors or memory are used up: waiting helps, and so does
/// closing what is idle.
pub fn is_shortage(e: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether an error says that this machine has no way to the address, or no address for that way:
/// so it is with IPv6 where there is none.
pub fn is_unroutable(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Starts a connect. It may succeed at once.
fn begin(to: SocketAddr, poller: &Arc<Poller>, owner: Option<Owner>) -> io::Result<(Stream, bool)> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // Octets go out as they come; waiting for more to send with them would stall a tunnel.
    socket.set_tcp_nodelay(true)?;
    let connected = match socket.connect(&to.into()) {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => false,
        Err(e) => return Err(e),
    };
    let mut stream = Stream::dialing(TcpStream::from(socket));
    // Over loopback the handshake is over before `connect` returns, in spite of what it says.
    if connected || stream.is_connected()? {
        stream.note(Edge { writable: true, ..Edge::default() });
        return Ok((stream, true));
    }
    if let Some(owner) = owner {
        stream.watch(poller, &owner, true)?;
    }
    Ok((stream, false))
}
