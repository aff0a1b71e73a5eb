//! Waits for sockets with one epoll instance, and reports each socket's edges to the socket's owner.
//!
//! A socket is registered once, edge-triggered, when its session first has to wait for it. It stays
//! registered until it closes, so waiting again costs no system call. An edge is a hint to try. It goes to
//! the socket's owner, which is a session's slot or the pool of idle connections. When a connection changes
//! hands, only its owner is written, in memory, without a system call.
//!
//! `rustix` is used rather than `polling`: an edge-triggered wait costs one system call, against five with
//! `polling` (timer, timer's interest, wait, notifier, notifier's interest).

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// The facts that an edge reports about a socket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Edge {
    /// Bytes, the end, or an error can be read.
    pub readable: bool,
    /// Bytes can be written, or a connect has ended.
    pub writable: bool,
    /// The peer has ended its side: even after a receive that finds bytes, something is left to receive.
    pub closed: bool,
    /// There is urgent data (RFC 6093): a receive stops in front of it, whatever is behind.
    pub urgent: bool,
    /// The socket has an error to report, a reset. The plain end of both directions is no error.
    pub broken: bool,
}

impl Edge {
    /// The edge for these flags of the kernel.
    pub(super) fn of(flags: EventFlags) -> Self {
        let broken = flags.contains(EventFlags::ERR);
        let over = broken || flags.contains(EventFlags::HUP);
        let closed = over || flags.contains(EventFlags::RDHUP);
        Self {
            readable: closed || flags.contains(EventFlags::IN),
            writable: over || flags.contains(EventFlags::OUT),
            closed,
            urgent: flags.contains(EventFlags::PRI),
            broken,
        }
    }

    /// Adds the facts of another edge.
    pub fn add(&mut self, other: Self) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.closed |= other.closed;
        self.urgent |= other.urgent;
        self.broken |= other.broken;
    }
}

/// An owner of sockets, which waits for their edges.
pub trait Wake: Send + Sync {
    /// Takes an edge on the socket known to this owner as `tag`. Called on the parking thread, on a worker
    /// that looks for edges, or on a resolver thread; must not block. Returns `false` if the socket is
    /// known to have another owner by now; that owner is called next.
    fn wake(&self, tag: u32, edge: Edge) -> bool;

    /// Takes the edges that arrived under one of these tags and were not handled yet, and returns whether
    /// there were any. The caller handles them now.
    fn take_edges(&self, _tags: RangeInclusive<u32>) -> bool {
        false
    }
}

/// The owner to wake for a socket, and its tag.
#[derive(Clone)]
pub struct Owner {
    /// The session's slot, or the pool.
    pub who: Arc<dyn Wake>,
    /// The owner's own name for the socket.
    pub tag: u32,
}

/// The edges that a registration asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interest {
    /// Errors only: a thread reads the socket in blocking mode.
    Nothing,
    /// Readability.
    Read,
    /// Readability and writability.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> EventFlags {
        EventFlags::ET
            | match self {
                Self::Nothing => EventFlags::empty(),
                Self::Read => EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP,
                Self::ReadWrite => {
                    EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::OUT
                }
            }
    }
}

/// The notifier's key. No source has it, because its index is past the last chunk.
const NOTIFIER: u64 = u64::MAX;
/// Sources are allocated a chunk at a time, as connections come; no limit sizes them.
const CHUNK: usize = 512;
const CHUNKS: usize = 4096;

#[derive(Default)]
struct Source {
    state: Mutex<SourceState>,
}

#[derive(Default)]
struct SourceState {
    /// Goes up when the index is given back, so that an event still under way can be recognised.
    generation: u32,
    owner: Option<Owner>,
}

impl Source {
    fn is_of(&self, generation: u32, who: &Arc<dyn Wake>, tag: u32) -> bool {
        let state = self.state.lock();
        state.generation == generation
            && state.owner.as_ref().is_some_and(|o| o.tag == tag && Arc::ptr_eq(&o.who, who))
    }
}

#[derive(Default)]
struct Free {
    indexes: Vec<u32>,
    used: u32,
}

/// The epoll instance and the table of sources.
pub struct Poller {
    epoll: OwnedFd,
    notifier: OwnedFd,
    chunks: Box<[OnceLock<Box<[Source]>>]>,
    free: Mutex<Free>,
}

/// Events of one wait. Each thread that waits keeps one from wait to wait.
pub struct Events(Vec<epoll::Event>);

impl Default for Events {
    fn default() -> Self {
        Self(Vec::with_capacity(256))
    }
}

impl Poller {
    /// A poller with no source.
    ///
    /// # Errors
    ///
    /// The system is out of descriptors. No connection can be served then.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let notifier = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Level-triggered, so that a glance from another thread does not use the notification up.
        epoll::add(&epoll, &notifier, EventData::new_u64(NOTIFIER), EventFlags::IN)?;
        let chunks = (0..CHUNKS).map(|_| OnceLock::new()).collect();
        Ok(Self { epoll, notifier, chunks, free: Mutex::default() })
    }

    /// Waits for events, at most `timeout` (rounded up to a millisecond).
    ///
    /// # Errors
    ///
    /// Only by a bug; an interrupted wait counts as a wait without events.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        let timeout = timeout.map(|t| {
            let t = t.min(Duration::from_secs(3600));
            let millis = i64::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(1);
            Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Uses up a notification, if `events` has one. Only for the thread that is notified.
    pub fn acknowledge(&self, events: &Events) {
        if events.0.iter().any(|event| event.data.u64() == NOTIFIER) {
            // Fails only if another call has already read it.
            let _ = rustix::io::read(&self.notifier, &mut [0_u8; 8]);
        }
    }

    /// Reports the edges in `events` to the owners of the sockets. An owner that panics loses its own edge
    /// only: the others get theirs, and the parking thread goes on.
    pub fn deliver(&self, events: &Events) {
        for event in &events.0 {
            let key = event.data.u64();
            if key == NOTIFIER {
                continue;
            }
            let edge = Edge::of(event.flags);
            if catch_unwind(AssertUnwindSafe(|| self.deliver_one(key, edge))).is_err() {
                log::error!("an edge was lost by a bug; the message is above");
            }
        }
    }

    fn deliver_one(&self, key: u64, edge: Edge) {
        let (index, generation) = ((key >> 32) as u32, key as u32);
        let Some(source) = self.source(index) else { return };
        // The second round is for a new owner; the third and fourth are for a socket that changes hands
        // that fast.
        for _ in 0..4 {
            let owner = {
                let state = source.state.lock();
                if state.generation != generation {
                    return;
                }
                state.owner.clone()
            };
            let Some(Owner { who, tag }) = owner else { return };
            // The socket may have changed hands while its former owner handled the edge. The new owner then
            // needs the edge, too. A superfluous edge does no harm.
            if who.wake(tag, edge) && source.is_of(generation, &who, tag) {
                return;
            }
        }
    }

    /// Ends the current or next [`wait`](Self::wait), until it is [acknowledged](Self::acknowledge).
    pub fn notify(&self) {
        // Fails only when 2⁶⁴ − 1 notifications are unread, so one is pending anyway.
        let _ = rustix::io::write(&self.notifier, &1_u64.to_ne_bytes());
    }

    fn source(&self, index: u32) -> Option<&Source> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// Registers `socket`. The registration must not outlive the socket by much, because it occupies a
    /// place.
    ///
    /// # Errors
    ///
    /// The kernel has no memory or watches left, or the table is full (two million sockets).
    pub fn register(
        self: &Arc<Self>,
        socket: impl AsFd,
        owner: Owner,
        interest: Interest,
    ) -> io::Result<Registration> {
        let index = {
            let mut free = self.free.lock();
            match free.indexes.pop() {
                Some(index) => index,
                None => {
                    let index = free.used;
                    let chunk = self
                        .chunks
                        .get(index as usize / CHUNK)
                        .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
                    chunk.get_or_init(|| (0..CHUNK).map(|_| Source::default()).collect());
                    free.used += 1;
                    index
                }
            }
        };
        let generation = self.source(index).map_or(0, |source| {
            let mut state = source.state.lock();
            state.owner = Some(owner);
            state.generation
        });
        let registration = Registration { poller: Arc::clone(self), index, generation, interest };
        epoll::add(&self.epoll, socket, EventData::new_u64(registration.key()), interest.flags())?;
        Ok(registration)
    }
}

/// A socket's place in the poller, which travels with the socket.
pub struct Registration {
    poller: Arc<Poller>,
    index: u32,
    generation: u32,
    interest: Interest,
}

impl Registration {
    fn key(&self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// The edges asked for now.
    pub fn interest(&self) -> Interest {
        self.interest
    }

    /// Asks for other edges. A condition that already holds makes an edge at once.
    ///
    /// # Errors
    ///
    /// The socket is not the registered one.
    pub fn ask(&mut self, socket: impl AsFd, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(self.key());
        epoll::modify(&self.poller.epoll, socket, data, interest.flags())?;
        self.interest = interest;
        Ok(())
    }

    /// Gives later edges to `owner`.
    pub fn hand_to(&self, owner: Owner) {
        if let Some(source) = self.poller.source(self.index) {
            let former = source.state.lock().owner.replace(owner);
            // Outside the lock, because it may be the last reference to a slot.
            drop(former);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(source) = self.poller.source(self.index) {
            let owner = {
                let mut state = source.state.lock();
                state.generation = state.generation.wrapping_add(1);
                state.owner.take()
            };
            // Outside the lock, because it may be the last reference to a slot.
            drop(owner);
            self.poller.free.lock().indexes.push(self.index);
        }
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registration({} {:?})", self.index, self.interest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[derive(Default)]
    struct EdgeLog(Mutex<Vec<(u32, Edge)>>, bool);

    impl Wake for EdgeLog {
        fn wake(&self, tag: u32, edge: Edge) -> bool {
            self.0.lock().push((tag, edge));
            !self.1
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn poll(poller: &Poller) {
        let mut events = Events::default();
        poller.wait(&mut events, Some(Duration::from_secs(5))).unwrap();
        poller.deliver(&events);
    }

    const READABLE: Edge =
        Edge { readable: true, writable: false, closed: false, urgent: false, broken: false };

    #[test]
    fn the_owner_at_the_time_of_the_edge_is_told() {
        let poller = Arc::new(Poller::new().unwrap());
        let (socket, mut peer) = pair();
        let (first, second) = (Arc::new(EdgeLog::default()), Arc::new(EdgeLog::default()));
        let owner = Owner { who: first.clone(), tag: 7 };
        let registration = poller.register(&socket, owner, Interest::Read).unwrap();

        assert_eq!(peer.write(b"x").unwrap(), 1);
        poll(&poller);
        assert_eq!(*first.0.lock(), [(7, READABLE)]);

        registration.hand_to(Owner { who: second.clone(), tag: 8 });
        assert_eq!(peer.write(b"y").unwrap(), 1);
        poll(&poller);
        assert_eq!(first.0.lock().len(), 1);
        assert_eq!(*second.0.lock(), [(8, READABLE)]);
    }

    #[test]
    fn a_registration_that_is_gone_tells_nobody_even_if_its_place_is_taken() {
        let poller = Arc::new(Poller::new().unwrap());
        let log = Arc::new(EdgeLog::default());
        let owner = Owner { who: log.clone(), tag: 1 };
        let (socket, mut peer) = pair();
        let registration = poller.register(&socket, owner.clone(), Interest::Read).unwrap();
        assert_eq!(peer.write(b"x").unwrap(), 1);
        // The event is waiting in the kernel when the place changes hands.
        drop(registration);
        let (other, _peer) = pair();
        let _registration = poller.register(&other, owner, Interest::Read).unwrap();
        poll(&poller);
        assert!(log.0.lock().is_empty());
    }

    #[test]
    fn a_notification_stays_until_it_is_acknowledged() {
        let poller = Poller::new().unwrap();
        poller.notify();
        let mut events = Events::default();
        for _ in 0..3 {
            poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
            poller.deliver(&events);
            assert_eq!(events.0.len(), 1, "a look does not use it up");
        }
        poller.acknowledge(&events);
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.0.is_empty());
    }

    #[test]
    fn an_owner_that_panics_costs_no_other_its_edge() {
        struct Panics;
        impl Wake for Panics {
            fn wake(&self, _: u32, _: Edge) -> bool {
                panic!("expected in the output of a passing run");
            }
        }
        let poller = Arc::new(Poller::new().unwrap());
        let log = Arc::new(EdgeLog::default());
        let pairs: Vec<_> = (0..5).map(|_| pair()).collect();
        let registrations: Vec<_> = (0..)
            .zip(&pairs)
            .map(|(tag, (socket, _))| {
                let who: Arc<dyn Wake> = if tag == 4 { log.clone() } else { Arc::new(Panics) };
                poller.register(socket, Owner { who, tag }, Interest::Read).unwrap()
            })
            .collect();
        for (_, peer) in &pairs {
            let mut peer = peer;
            assert_eq!(peer.write(b"x").unwrap(), 1);
        }
        poll(&poller);
        assert_eq!(*log.0.lock(), [(4, READABLE)]);
        drop(registrations);
    }

    #[test]
    fn an_owner_that_refuses_is_asked_a_bounded_number_of_times() {
        let poller = Arc::new(Poller::new().unwrap());
        let log = Arc::new(EdgeLog(Mutex::default(), true));
        let (socket, mut peer) = pair();
        let owner = Owner { who: log.clone(), tag: 1 };
        let _registration = poller.register(&socket, owner, Interest::Read).unwrap();
        assert_eq!(peer.write(b"x").unwrap(), 1);
        poll(&poller);
        assert_eq!(log.0.lock().len(), 4);
    }
}
