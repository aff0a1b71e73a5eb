//! Connects to the addresses of a name one after the other, with at most two attempts at once (RFC 8305
//! §5).
//!
//! The next address is tried when one fails, or when the last attempt is still pending after [`STAGGER`].
//! An address that drops SYNs therefore costs a quarter of a second and not the whole connect timeout. With
//! two attempts pending and more addresses left, the older attempt makes room for the next, so two such
//! addresses cost no more than twice that. An address that had to make room is tried again when all have
//! had their chance. Each round is twice as patient as the one before, so that an answer that takes seconds
//! is waited for, too. The last two attempts keep the rest of the time.
//!
//! An address with too many pending connects is passed over. If no other address is left, the dial waits
//! its turn without a socket (see [`pending_connects`](super::pending_connects)).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::hosts::MOST_ADDRESSES;
use super::pending_connects::{ConnectPlace, InLine, PendingConnects};
use super::poll::{Edge, Owner, Poller};
use super::source_address::{self, SourceAddress, Sources};
use super::stream::Stream;

/// How long an attempt is alone (RFC 8305 §8: 250 ms).
pub const STAGGER: Duration = Duration::from_millis(250);
/// A dial in line for one address looks for a place at another at least this often. Looks are not more
/// frequent because each is a turn on a worker, and thousands of dials may be in line.
const CROWD_PATIENCE: Duration = Duration::from_secs(2);
/// Number of the round after which patience grows no more.
const MOST_PATIENT: usize = 6;

/// The parts that all dials of one proxy share.
pub struct Dialer {
    /// Readiness.
    pub poller: Arc<Poller>,
    /// The pending connects, by address.
    pub connecting: Arc<PendingConnects>,
    /// The source addresses of connections.
    pub sources: Sources,
}

/// The addresses to connect to, in the order of trying. Only the first 64 of a list count.
#[derive(Clone, Debug)]
pub enum Addresses {
    /// A literal.
    One(IpAddr),
    /// The result of a lookup.
    Found(Arc<[IpAddr]>),
}

impl Addresses {
    fn as_slice(&self) -> &[IpAddr] {
        match self {
            Self::One(ip) => std::slice::from_ref(ip),
            Self::Found(ips) => ips.get(..MOST_ADDRESSES).unwrap_or(ips),
        }
    }
}

/// The result of a step.
#[derive(Debug)]
pub enum Dialed {
    /// A connection; both directions are open.
    Connected(Stream, SocketAddr),
    /// Pending: come back on an edge, or at this moment if there is one.
    Waiting(Option<Instant>),
    /// Every address failed, the last one for this reason.
    Failed(Option<SocketAddr>, DialFailure),
}

/// Why an address could not be connected to.
#[derive(Debug)]
pub enum DialFailure {
    /// A rule forbids the address; the sentence says which.
    Forbidden(&'static str),
    /// The address is the proxy's own: the request would come back.
    Own,
    /// There was no address to try.
    NoAddress,
    /// All ports for connections to this address are taken.
    NoPort(io::Error),
    /// There are source addresses, but none of this address's family.
    NoSource,
    /// The system's error.
    System(io::Error),
}

impl DialFailure {
    /// The failure for error `e` of a connect to `to`. Over IPv4 a missing address means a missing port,
    /// because a missing route has a separate error there.
    fn of(to: SocketAddr, e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::AddrNotAvailable if to.is_ipv4() => Self::NoPort(e),
            _ => Self::System(e),
        }
    }

    /// Whether this error is less informative than another address's: no route to an address.
    fn says_little(&self) -> bool {
        match self {
            Self::NoSource => true,
            Self::System(e) => is_unroutable(e),
            _ => false,
        }
    }
}

/// A connection being made.
#[derive(Debug)]
pub struct Dial {
    addresses: Addresses,
    port: u16,
    /// Where the search for the next address begins, in an endless repetition of the list.
    next: usize,
    /// Attempts so far.
    begun: usize,
    /// Addresses that have failed, a bit each: they are not tried again.
    failed: u64,
    pending: [Option<Attempt>; 2],
    /// The address waited for without a socket, and the turn in its line.
    line: Option<(usize, InLine)>,
    /// How many times in a row only crowded addresses were found.
    crowded: u32,
    stagger: Option<Instant>,
    last: Option<(SocketAddr, DialFailure)>,
}

#[derive(Debug)]
struct Attempt {
    index: usize,
    /// How many attempts came before this one.
    before: usize,
    to: SocketAddr,
    // Before the place, so that the socket is closed when another may be opened.
    stream: Stream,
    _place: ConnectPlace,
}

/// The next thing to try.
enum Next {
    /// This address, by its number in the endless list, with a place.
    Try(usize, ConnectPlace),
    /// Only addresses with too many pending connects; this is the first.
    Crowded(usize),
    /// No address.
    Nothing,
}

impl Dial {
    /// Connects to one of `addresses`, on the first [`step`](Self::step).
    pub fn new(addresses: Addresses, port: u16) -> Self {
        let (pending, line, stagger, last) = ([None, None], None, None, None);
        let (next, begun, failed, crowded) = (0, 0, 0, 0);
        Self { addresses, port, next, begun, failed, pending, line, crowded, stagger, last }
    }

    /// The addresses, in the order of trying.
    pub fn addresses(&self) -> &[IpAddr] {
        self.addresses.as_slice()
    }

    /// Whether it waits its turn with no connect pending.
    pub fn is_in_line(&self) -> bool {
        self.line.is_some() && self.pending.iter().all(Option::is_none)
    }

    /// Notes an edge on the attempt in `place`, 0 or 1.
    pub fn note(&mut self, place: usize, edge: Edge) {
        if let Some(Some(attempt)) = self.pending.get_mut(place) {
            attempt.stream.note(edge);
        }
    }

    /// Goes on as far as it can without waiting. `owners` get the edges of the two attempts. `refuse` is
    /// asked about each address before the connect.
    pub fn step(
        &mut self,
        now: Instant,
        dialer: &Dialer,
        owners: &[Owner; 2],
        refuse: &dyn Fn(SocketAddr) -> Option<DialFailure>,
    ) -> Dialed {
        if let Some(connected) = self.look_at_pending() {
            return connected;
        }
        if let Some((number, turn)) = &self.line
            && let Some(place) = turn.collect()
        {
            let number = *number;
            self.line = None;
            if let Some(connected) = self.begin(number, place, now, dialer, owners) {
                return connected;
            }
        }
        loop {
            let pending = self.pending.iter().flatten().count();
            let waits = pending > 0 || self.line.is_some();
            if waits && self.stagger.is_some_and(|at| at > now) {
                return Dialed::Waiting(self.stagger.filter(|_| self.has_more()));
            }
            match self.choose(dialer, refuse) {
                Next::Try(number, place) => {
                    self.next = number + 1;
                    if let Some(connected) = self.begin(number, place, now, dialer, owners) {
                        return connected;
                    }
                }
                Next::Crowded(number) => {
                    let patience = (STAGGER * (1 << self.crowded)).min(CROWD_PATIENCE);
                    self.stagger = Some(now + self.patience().max(patience));
                    self.crowded = (self.crowded + 1).min(4);
                    if self.line.is_some() || pending == 2 {
                        return Dialed::Waiting(self.stagger);
                    }
                    let [owner, _] = owners;
                    match dialer.connecting.line_up(self.to(number), owner.clone()) {
                        Err(turn) => self.line = Some((number, turn)),
                        // A place came free at this very moment.
                        Ok(place) => {
                            if let Some(connected) = self.begin(number, place, now, dialer, owners)
                            {
                                return connected;
                            }
                        }
                    }
                }
                Next::Nothing if waits => return Dialed::Waiting(None),
                Next::Nothing => {
                    return match self.last.take() {
                        Some((to, why)) => Dialed::Failed(Some(to), why),
                        None => Dialed::Failed(None, DialFailure::NoAddress),
                    };
                }
            }
        }
    }

    /// Checks the pending connects that had an edge.
    fn look_at_pending(&mut self) -> Option<Dialed> {
        for place in 0..self.pending.len() {
            let Some(attempt) = self.pending.get_mut(place)?.as_mut() else { continue };
            if !attempt.stream.is_writable() {
                continue;
            }
            let outcome = attempt.stream.is_connected();
            if matches!(outcome, Ok(false)) {
                continue;
            }
            let Attempt { index, to, stream, .. } = self.pending.get_mut(place)?.take()?;
            match outcome {
                Ok(_) => return Some(self.connected(stream, to)),
                Err(e) => self.fail(index, to, DialFailure::System(e)),
            }
        }
        None
    }

    fn connected(&mut self, stream: Stream, to: SocketAddr) -> Dialed {
        self.pending = [None, None];
        self.line = None;
        Dialed::Connected(stream, to)
    }

    /// Records a failure; the next address is tried at once.
    fn fail(&mut self, index: usize, to: SocketAddr, why: DialFailure) {
        self.failed |= 1 << index;
        self.stagger = None;
        if !(why.says_little() && self.last.is_some()) {
            self.last = Some((to, why));
        }
    }

    /// Whether any address could still be tried.
    fn has_more(&self) -> bool {
        let used = self.failed.count_ones() as usize
            + self.pending.iter().flatten().count()
            + usize::from(self.line.is_some());
        used < self.addresses().len()
    }

    /// The next address that has not failed and is neither pending nor waited for.
    fn choose(
        &mut self,
        dialer: &Dialer,
        refuse: &dyn Fn(SocketAddr) -> Option<DialFailure>,
    ) -> Next {
        let count = self.addresses().len();
        let mut crowded = None;
        for number in self.next..self.next + count {
            let index = number % count;
            let is_pending = self.pending.iter().flatten().any(|a| a.index == index);
            let is_in_line = self.line.as_ref().is_some_and(|(n, _)| n % count == index);
            if self.failed & (1 << index) != 0 || is_pending || is_in_line {
                continue;
            }
            let to = self.to(number);
            let refusal = refuse(to).or_else(|| match dialer.sources.of(to.ip()) {
                SourceAddress::None => Some(DialFailure::NoSource),
                _ => None,
            });
            if let Some(refusal) = refusal {
                self.fail(index, to, refusal);
                continue;
            }
            match dialer.connecting.place(to) {
                Some(place) => return Next::Try(number, place),
                None => crowded = crowded.or(Some(number)),
            }
        }
        crowded.map_or(Next::Nothing, Next::Crowded)
    }

    /// Begins an attempt. Returns the connection if the attempt has already succeeded.
    fn begin(
        &mut self,
        number: usize,
        place: ConnectPlace,
        now: Instant,
        dialer: &Dialer,
        owners: &[Owner; 2],
    ) -> Option<Dialed> {
        let (index, to) = (number % self.addresses().len(), self.to(number));
        self.crowded = 0;
        if self.pending.iter().all(Option::is_some) {
            self.give_up_older();
        }
        let free = self.pending.iter().position(Option::is_none);
        let owner = free.and_then(|free| owners.get(free));
        match connect(to, dialer, owner) {
            Ok((stream, true)) => return Some(self.connected(stream, to)),
            Ok((stream, false)) => {
                if let Some(free) = free.and_then(|free| self.pending.get_mut(free)) {
                    let before = self.begun;
                    *free = Some(Attempt { index, before, to, stream, _place: place });
                    self.begun += 1;
                }
                self.stagger = Some(now + self.patience());
            }
            Err(why) => self.fail(index, to, why),
        }
        None
    }

    /// How long an attempt may delay the next one.
    fn patience(&self) -> Duration {
        let round = self.next / self.addresses().len().max(1);
        STAGGER * (1 << round.min(MOST_PATIENT))
    }

    fn give_up_older(&mut self) {
        let before = |attempt: &Option<Attempt>| attempt.as_ref().map(|a| a.before);
        if let Some(older) = self.pending.iter_mut().min_by_key(|a| before(a)) {
            *older = None;
        }
    }

    /// The address with this number; an IPv4-mapped address is connected to as IPv4.
    fn to(&self, number: usize) -> SocketAddr {
        let ips = self.addresses();
        let unspecified = IpAddr::from([0, 0, 0, 0]);
        let ip = ips.get(number % ips.len().max(1)).copied().unwrap_or(unspecified);
        SocketAddr::new(ip.to_canonical(), self.port)
    }
}

/// Whether an error means that descriptors or memory are used up. Waiting helps then, and so does closing
/// idle connections.
pub fn is_shortage(e: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether an error means that this machine has no route to the address, or no source address for it. A
/// machine without IPv6 gives such errors.
pub fn is_unroutable(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    ) || e.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Starts a connect. It may succeed at once.
fn connect(
    to: SocketAddr,
    dialer: &Dialer,
    owner: Option<&Owner>,
) -> Result<(Stream, bool), DialFailure> {
    let source = dialer.sources.of(to.ip());
    let socket = open(to, source).map_err(DialFailure::System)?;
    let connected = match socket.connect(&to.into()) {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => false,
        // A loopback source, and a destination beyond loopback.
        Err(e)
            if matches!(source, SourceAddress::Bound(_))
                && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) =>
        {
            return Err(DialFailure::System(Errno::NETUNREACH.into()));
        }
        Err(e) => return Err(DialFailure::of(to, e)),
    };
    let mut stream = Stream::dialing(TcpStream::from(socket));
    // Over loopback the handshake is over before `connect` returns, although it reports a pending connect.
    if connected || stream.is_connected().map_err(DialFailure::System)? {
        stream.note(Edge { writable: true, ..Edge::default() });
        return Ok((stream, true));
    }
    if let Some(owner) = owner {
        stream.watch(&dialer.poller, owner, true).map_err(DialFailure::System)?;
    }
    Ok((stream, false))
}

/// A socket for a connect to `to`.
fn open(to: SocketAddr, source: SourceAddress) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if let SourceAddress::Bound(ip) = source {
        source_address::bind(&socket, ip)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
