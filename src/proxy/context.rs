//! What all sessions of one proxy share, how long each wait may last, and what a worker brings to a turn.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::net::buffer::Buffers;
use crate::net::dial::Dialer;
use crate::net::pipe::Pipes;
use crate::net::poll::Poller;
use crate::net::resolve::Resolver;
use crate::net::timers::LONGEST;
use crate::observe::access_log::AccessLog;
use crate::observe::counters::Retired;
use crate::observe::stats::Shard;
use crate::policy::auth::guessers::Failures;
use crate::policy::learn::Learnt;
use crate::policy::shape::Shaper;
use crate::policy::{self, Policy};
use crate::upstream::pool::Pool;
use crate::wire;

use super::admin::{self, Overview};
use super::own_addresses::OwnAddresses;
use super::verify::Verifier;

/// How long each wait may last. None of them holds a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From a request's first byte (on a new connection: from accept) to the end of its head.
    pub head: Duration,
    /// How long a client connection may be idle between exchanges.
    pub idle: Duration,
    /// For a name lookup, and then for connecting, all addresses together.
    pub connect: Duration,
    /// How long an exchange may stand still: no response head, and no byte moved either way.
    pub response: Duration,
    /// How long a tunnel may be quiet.
    pub tunnel: Duration,
}

impl Timeouts {
    /// The same, none longer than a year.
    pub fn clamped(self) -> Self {
        Self {
            head: self.head.min(LONGEST),
            idle: self.idle.min(LONGEST),
            connect: self.connect.min(LONGEST),
            response: self.response.min(LONGEST),
            tunnel: self.tunnel.min(LONGEST),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            response: Duration::from_secs(60),
            tunnel: Duration::from_secs(600),
        }
    }
}

/// What all sessions of one proxy share.
pub struct Context {
    /// The waits.
    pub timeouts: Timeouts,
    /// Bounds of a head.
    pub limits: wire::HeadLimits,
    /// How responses are judged.
    pub leniency: wire::Leniency,
    /// What is allowed.
    pub policy: policy::Current,
    /// What limits are held against.
    pub shaper: Shaper,
    /// Clients that sent wrong credentials.
    pub failures: Arc<Failures>,
    /// Passwords that are being verified.
    pub verifier: Verifier,
    /// What was reached, if that is to be known.
    pub learnt: Arc<Learnt>,
    /// Our pseudonym in `Via`, unless nothing is to be added.
    pub via: Option<String>,
    /// Whether origin servers are told who asks.
    pub forwarded_for: bool,
    /// The addresses we listen on: requests to them would come back.
    pub own: OwnAddresses,
    /// The names that the admin listener goes by.
    pub admin_names: admin::Names,
    /// Readiness.
    pub poller: Arc<Poller>,
    /// Idle upstream connections.
    pub pool: Arc<Pool>,
    /// Pipes for streams.
    pub pipes: Pipes,
    /// Names.
    pub resolver: Resolver,
    /// New upstream connections.
    pub dialer: Dialer,
    /// Where finished exchanges are told, if anywhere.
    pub access_log: Option<AccessLog>,
    /// How many exchanges are wanted, if that is bounded.
    pub quota: Option<Quota>,
    /// When the proxy began to shut down, if it has: connections are then not kept.
    pub draining: OnceLock<Instant>,
}

impl Context {
    /// Whether the proxy is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Closes what is only kept to be used again, since descriptors are short: idle upstream
    /// connections and empty pipes. Answers how many there were.
    pub fn free_descriptors(&self) -> usize {
        self.pool.clear(Retired::Full) + self.pipes.clear()
    }

    /// The name in `Proxy-Status`: the pseudonym, or just what we are.
    pub fn name(&self) -> &str {
        self.via.as_deref().unwrap_or("threadgate")
    }
}

/// Calls somebody once, when so many exchanges are over.
pub struct Quota {
    left: AtomicU64,
    then: Arc<dyn Fn() + Send + Sync>,
}

impl Quota {
    /// Calls `then` after `count` exchanges, on the worker that ends the last of them.
    pub fn new(count: NonZeroU64, then: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { left: AtomicU64::new(count.get()), then }
    }

    /// One is over.
    pub fn spend(&self) {
        // Past zero it wraps: that many more exchanges do not happen in the life of a machine.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            (self.then)();
        }
    }
}

/// Bytes a session may receive and send in one turn. With nobody else waiting the next turn follows at once.
pub(super) const TURN_BYTES: usize = 128 * 1024;
/// How long a turn may last.
const TURN_TIME: Duration = Duration::from_millis(1);

/// What a worker brings to a session's turn.
pub struct Turn<'w> {
    /// What all sessions share.
    pub ctx: &'w Context,
    /// The worker's buffers.
    pub buffers: &'w mut Buffers,
    /// What is allowed.
    pub policy: &'w Arc<Policy>,
    /// The worker's counters.
    pub counters: &'w Shard,
    /// What the admin listener tells.
    pub overview: &'w dyn Overview,
    /// When the turn began.
    pub now: Instant,
    /// Bytes received and bytes sent so far.
    pub moved: usize,
    /// Bytes that go into a pipe at a time, at most.
    pub portion: usize,
}

impl Turn<'_> {
    /// The time, exactly if it is going to be told, else as the turn began.
    pub fn clock(&self) -> Instant {
        if self.ctx.access_log.is_some() { Instant::now() } else { self.now }
    }

    /// Whether the turn should end although the session could go on.
    pub fn is_spent(&self) -> bool {
        self.moved >= TURN_BYTES || self.now.elapsed() >= TURN_TIME
    }
}
