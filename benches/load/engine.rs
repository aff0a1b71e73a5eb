//! Drives many client connections from one thread and counts the results.
//!
//! A connection follows a [`Plan`]: steps of something to send and something to expect, then the [`After`].
//! A mode opens connections in groups, runs until its own condition holds, and reads the group's [`Tally`].
//! `check` decides which bytes are right.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};

use crate::check::{Check, Expect, Fault};
use crate::pattern;

/// A group with this many failures opens no more connections: the proxy is gone.
const MAX_FAULTS: u64 = 1000;

/// The bytes that a step sends.
#[derive(Clone, Debug)]
pub(crate) enum Send {
    /// These bytes.
    Head(Rc<[u8]>),
    /// These bytes one at a time, then nothing more: a head that never ends.
    Drip(Rc<[u8]>, Duration),
    /// A message of the pattern that no other round trip or connection sends at the same time.
    Message(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) send: Send,
    pub(crate) expect: Expect,
}

/// The action of a connection after its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum After {
    /// Starts again. A new connection is opened only if the peer ends this one.
    Repeat,
    /// Waits for the peer to close, then starts again on a new connection.
    AwaitCloseAndReopen,
    /// Closes and starts again on a new connection.
    Reopen,
    /// Stays open and quiet until given another plan.
    Hold,
    /// Closes.
    Close,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) after: After,
    /// Limit on the bytes of content read a second; the rest waits in the kernel.
    pub(crate) pace: Option<u64>,
    /// Whether the kernel throws content away, so that it is counted but not checked.
    pub(crate) discards: bool,
}

impl Plan {
    pub(crate) fn new(steps: Vec<Step>, after: After) -> Rc<Self> {
        Rc::new(Self { steps, after, pace: None, discards: false })
    }
}

/// The results of a group of connections.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many times a plan was completed.
    pub(crate) done: u64,
    /// The duration of each, in nanoseconds.
    pub(crate) nanos: Vec<u64>,
    /// Bytes of content received and found right.
    pub(crate) bytes: u64,
    pub(crate) faults: BTreeMap<Fault, u64>,
    /// Statuses of refusals; 0 is a close without one.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Connections opened.
    pub(crate) opened: u64,
    /// Plans that the group may still begin.
    pub(crate) budget: Option<u64>,
}

impl Tally {
    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }

    fn may_begin(&mut self) -> bool {
        if self.fault_count() >= MAX_FAULTS {
            return false;
        }
        match &mut self.budget {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// One client connection.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    addr: SocketAddr,
    pub(crate) group: usize,
    plan: Rc<Plan>,
    step: usize,
    /// `sent <= length of the step's bytes`.
    sent: usize,
    check: Check,
    /// The start of the next message in the pattern.
    next_message: u64,
    began: Instant,
    state: State,
    interest: epoll::EventFlags,
    /// When the connection's one live timer is due.
    timer: Option<Instant>,
    /// When the last tick was due: a late tick does not delay the later ones.
    last_tick: Option<Instant>,
    /// How many times this connection completed its plan.
    pub(crate) done: u64,
    /// Bytes of content this connection received.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Connecting,
    Working,
    /// The plan is done; only the peer's close is missing.
    AwaitingClose,
    Held,
}

/// How a connection goes on after an event.
enum Go {
    On,
    Reopen,
    Gone,
}

pub(crate) struct Engine {
    epoll: rustix::fd::OwnedFd,
    pub(crate) conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    pub(crate) tallies: Vec<Tally>,
    buffer: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(groups: usize) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            tallies: (0..groups).map(|_| Tally::default()).collect(),
            buffer: vec![0; pattern::MAX_RUN],
        })
    }

    /// Opens `count` connections that follow `plan`.
    pub(crate) fn open(&mut self, addr: SocketAddr, group: usize, plan: &Rc<Plan>, count: usize) {
        for _ in 0..count {
            if self.tallies[group].may_begin() {
                self.open_one(addr, group, plan);
            }
        }
    }

    fn open_one(&mut self, addr: SocketAddr, group: usize, plan: &Rc<Plan>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        self.tallies[group].opened += 1;
        let interest = epoll::EventFlags::OUT;
        let began = Instant::now();
        let opened = dial(addr, plan.pace.is_some()).and_then(|stream| {
            let data = epoll::EventData::new_u64(slot as u64);
            epoll::add(&self.epoll, &stream, data, interest)?;
            Ok(stream)
        });
        let Ok(stream) = opened else {
            self.fault(group, Fault::Connect);
            self.free.push(slot);
            return;
        };
        let mut conn = Conn {
            stream,
            addr,
            group,
            plan: Rc::clone(plan),
            step: 0,
            sent: 0,
            check: Check::new(Expect::Connected, 0),
            next_message: slot as u64 * 7919,
            began,
            state: State::Connecting,
            interest,
            timer: None,
            last_tick: None,
            done: 0,
            bytes: 0,
        };
        conn.expect();
        self.conns[slot] = Some(conn);
    }

    /// Gives every held connection of a group a new plan.
    pub(crate) fn assign(&mut self, group: usize, plan: &Rc<Plan>) {
        for slot in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[slot] else { continue };
            if conn.group == group && conn.state == State::Held {
                conn.plan = Rc::clone(plan);
                conn.done = 0;
                conn.begin();
                let go = conn.send();
                self.settle(slot, go);
            }
        }
    }

    /// Closes a group's connections.
    pub(crate) fn close(&mut self, group: usize) {
        for slot in 0..self.conns.len() {
            if self.conns[slot].as_ref().is_some_and(|conn| conn.group == group) {
                self.drop_conn(slot);
            }
        }
    }

    pub(crate) fn live(&self, group: usize) -> usize {
        self.conns.iter().flatten().filter(|conn| conn.group == group).count()
    }

    pub(crate) fn reset(&mut self, group: usize) -> Tally {
        std::mem::take(&mut self.tallies[group])
    }

    /// Runs until `over` returns true, called after each batch of events, or until `limit`. Returns whether
    /// `over` did.
    pub(crate) fn run(
        &mut self,
        limit: Duration,
        mut over: impl FnMut(&Self) -> bool,
    ) -> io::Result<bool> {
        let end = Instant::now() + limit;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        loop {
            if over(self) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            let next = self.timers.peek().map_or(end, |Reverse((at, _))| end.min(*at));
            let wait = next.saturating_duration_since(now);
            let wait = wait.try_into().map_err(io::Error::other)?;
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in events.drain(..) {
                self.on_event(event.data.u64() as usize, event.flags);
            }
            self.on_timers();
        }
    }

    fn on_event(&mut self, slot: usize, flags: epoll::EventFlags) {
        let Some(conn) = &mut self.conns[slot] else { return };
        let go = if conn.state == State::Connecting { conn.connected() } else { Ok(Go::On) };
        let writable = flags.contains(epoll::EventFlags::OUT);
        let go = match go {
            Ok(Go::On) if writable => conn.send(),
            other => other,
        };
        let readable = flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let go = match go {
            // A paced reader reads on its timer, but handles a reset at once, because epoll would repeat
            // it.
            Ok(Go::On)
                if readable
                    && (conn.plan.pace.is_none() || flags.contains(epoll::EventFlags::ERR)) =>
            {
                conn.receive(&mut self.buffer, &mut self.tallies[conn.group])
            }
            other => other,
        };
        self.settle(slot, go);
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, slot))) = self.timers.pop() else { return };
            // The slot may have a new connection by now, with its own timer.
            let Some(conn) = self.conns[slot].as_mut().filter(|conn| conn.timer == Some(at)) else {
                continue;
            };
            conn.last_tick = conn.timer.take();
            let go = match conn.plan.pace {
                Some(pace) => {
                    let limit = ((pace / TICKS_PER_SECOND) as usize).clamp(1, self.buffer.len());
                    conn.receive(&mut self.buffer[..limit], &mut self.tallies[conn.group])
                }
                None => conn.send(),
            };
            self.settle(slot, go);
        }
    }

    /// Files the next timer and the interest of a connection, or ends it.
    fn settle(&mut self, slot: usize, go: Result<Go, Fault>) {
        let Some(conn) = &mut self.conns[slot] else { return };
        let (group, addr, plan) = (conn.group, conn.addr, Rc::clone(&conn.plan));
        match go {
            Ok(Go::On) => {
                if let (None, Some(every)) = (conn.timer, conn.wants_timer()) {
                    let at = conn.last_tick.unwrap_or_else(Instant::now) + every;
                    conn.timer = Some(at);
                    self.timers.push(Reverse((at, slot)));
                }
                let wanted = conn.wanted();
                if wanted != conn.interest {
                    conn.interest = wanted;
                    let data = epoll::EventData::new_u64(slot as u64);
                    if epoll::modify(&self.epoll, &conn.stream, data, wanted).is_err() {
                        self.fault(group, Fault::Reset);
                        self.drop_conn(slot);
                    }
                }
            }
            Ok(Go::Reopen) => {
                self.drop_conn(slot);
                self.open(addr, group, &plan, 1);
            }
            Ok(Go::Gone) => self.drop_conn(slot),
            Err(fault) => {
                self.fault(group, fault);
                self.drop_conn(slot);
                if matches!(plan.after, After::Repeat | After::Reopen | After::AwaitCloseAndReopen)
                {
                    self.open(addr, group, &plan, 1);
                }
            }
        }
    }

    fn fault(&mut self, group: usize, fault: Fault) {
        *self.tallies[group].faults.entry(fault).or_default() += 1;
    }

    fn drop_conn(&mut self, slot: usize) {
        self.conns[slot] = None;
        self.free.push(slot);
    }
}

/// Receive buffer of a paced reader: two segments of the loopback device, so that it never stalls.
const SLOW_WINDOW: usize = 128 * 1024;

/// How often a paced reader reads.
const TICKS_PER_SECOND: u64 = 10;

impl Conn {
    fn begin(&mut self) {
        self.step = 0;
        self.began = Instant::now();
        self.state = State::Working;
        self.expect();
    }

    fn expect(&mut self) {
        self.sent = 0;
        if let Some(step) = self.plan.steps.get(self.step) {
            self.check = Check::new(step.expect, self.next_message);
        }
    }

    fn connected(&mut self) -> Result<Go, Fault> {
        if !matches!(self.stream.take_error(), Ok(None)) {
            return Err(Fault::Connect);
        }
        self.state = State::Working;
        Ok(Go::On)
    }

    fn unsent(&self) -> &[u8] {
        let Some(step) = self.plan.steps.get(self.step) else { return &[] };
        match &step.send {
            Send::Head(head) => &head[self.sent..],
            Send::Drip(head, _) => &head[self.sent..(self.sent + 1).min(head.len())],
            Send::Message(bytes) => &pattern::at(self.next_message, *bytes)[self.sent..],
        }
    }

    fn dripping(&self) -> Option<Duration> {
        match self.plan.steps.get(self.step)?.send {
            Send::Drip(_, every) => Some(every),
            Send::Head(_) | Send::Message(_) => None,
        }
    }

    fn wants_timer(&self) -> Option<Duration> {
        if self.state != State::Working {
            return None;
        }
        match self.plan.pace {
            Some(_) => Some(Duration::from_millis(1000 / TICKS_PER_SECOND)),
            None => self.dripping(),
        }
    }

    fn wanted(&self) -> epoll::EventFlags {
        if self.state == State::Connecting {
            return epoll::EventFlags::OUT;
        }
        let mut wanted = epoll::EventFlags::empty();
        wanted.set(epoll::EventFlags::IN, self.plan.pace.is_none());
        let sending = self.state == State::Working && self.dripping().is_none();
        wanted.set(epoll::EventFlags::OUT, sending && !self.unsent().is_empty());
        wanted
    }

    fn send(&mut self) -> Result<Go, Fault> {
        if self.state != State::Working || self.unsent().is_empty() {
            return Ok(Go::On);
        }
        match (&self.stream).write(self.unsent()) {
            Ok(sent) => self.sent += sent,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // A refusal may wait to be read behind the reset.
            Err(_) if self.dripping().is_some() => {}
            Err(_) => return Err(Fault::Reset),
        }
        Ok(Go::On)
    }

    fn receive(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<Go, Fault> {
        let unwanted = if self.plan.discards { self.check.unseen() } else { 0 };
        let outcome = match unwanted {
            0 => (&self.stream).read(buffer),
            unwanted => discard(&self.stream, buffer, unwanted),
        };
        let received = match outcome {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Go::On);
            }
            Err(_) if self.dripping().is_some() => 0,
            Err(_) => return Err(Fault::Reset),
        };
        match (self.state, received) {
            (State::AwaitingClose, 0) => {
                self.count(tally);
                return Ok(Go::Reopen);
            }
            (State::Held, 0) => return Err(Fault::EarlyClose),
            (State::AwaitingClose | State::Held, _) => return Err(Fault::ExtraBytes),
            (_, 0) => self.check.end()?,
            (_, _) if unwanted > 0 => {
                let content = self.check.pass_over(received as u64);
                self.bytes += content;
                tally.bytes += content;
            }
            (_, _) => {
                let content = self.check.feed(&buffer[..received])?;
                self.bytes += content;
                tally.bytes += content;
            }
        }
        if self.check.done() { self.step_done(tally) } else { Ok(Go::On) }
    }

    fn step_done(&mut self, tally: &mut Tally) -> Result<Go, Fault> {
        let step = self.plan.steps.get(self.step);
        if let Some(Step { send: Send::Message(bytes), .. }) = step {
            self.next_message += *bytes as u64;
        }
        if let Some(Step { expect: Expect::Refusal, .. }) = step {
            *tally.statuses.entry(self.check.status.unwrap_or(0)).or_default() += 1;
        }
        self.step += 1;
        if self.step < self.plan.steps.len() {
            self.expect();
            return self.send();
        }
        // Only the close counts: tinyproxy closes without announcing it.
        if self.plan.after == After::AwaitCloseAndReopen {
            self.state = State::AwaitingClose;
            return Ok(Go::On);
        }
        self.count(tally);
        match self.plan.after {
            After::Repeat if self.check.persistent && tally.may_begin() => {
                self.begin();
                self.send()
            }
            After::Repeat if self.check.persistent => Ok(Go::Gone),
            After::Repeat | After::Reopen | After::AwaitCloseAndReopen => Ok(Go::Reopen),
            After::Hold if self.check.persistent => {
                self.state = State::Held;
                Ok(Go::On)
            }
            After::Hold => Err(Fault::EarlyClose),
            After::Close => Ok(Go::Gone),
        }
    }

    fn count(&mut self, tally: &mut Tally) {
        self.done += 1;
        tally.done += 1;
        tally.nanos.push(self.began.elapsed().as_nanos() as u64);
    }
}

/// Receives at most `most` bytes without copying: on TCP `MSG_TRUNC` throws them away, and the buffer only
/// gives the number.
fn discard(stream: &TcpStream, buffer: &mut [u8], most: u64) -> io::Result<usize> {
    let most = usize::try_from(most).map_or(buffer.len(), |most| most.min(buffer.len()));
    let (_, received) = rustix::net::recv(stream, &mut buffer[..most], RecvFlags::TRUNC)?;
    Ok(received)
}

fn dial(addr: SocketAddr, slow: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if slow {
        // Otherwise the kernel reads megabytes ahead of each reader, which would cost the measured
        // programs.
        socket.set_recv_buffer_size(SLOW_WINDOW)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}
