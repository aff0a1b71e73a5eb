//! The state that all sessions of one proxy share, the timeouts, and what a worker brings to a turn.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::RefusedBy;
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
use crate::policy::decide::Decision;
use crate::policy::learn::Learnt;
use crate::policy::shape::Shaper;
use crate::policy::{self, Policy};
use crate::upstream::pool::Pool;
use crate::wire;

use super::admin::{self, Overview};
use super::own_addresses::OwnAddresses;
use super::verify::Verifier;

/// How long each wait may last. No wait holds a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From a request's first byte (on a new connection: from accept) to the end of its head.
    pub head: Duration,
    /// How long a client connection may be idle between exchanges.
    pub idle: Duration,
    /// For a name lookup, and then again for connecting to all its addresses.
    pub connect: Duration,
    /// How long an exchange may stand still: no response head, and no byte moved either way.
    pub response: Duration,
    /// How long a tunnel may be quiet.
    pub tunnel: Duration,
}

impl Timeouts {
    /// The same timeouts, none longer than a year.
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

/// The state that all sessions of one proxy share.
pub struct Context {
    /// How long each wait may last.
    pub timeouts: Timeouts,
    /// Limits on a head.
    pub limits: wire::HeadLimits,
    /// How strictly responses are judged.
    pub leniency: wire::Leniency,
    /// The rules in force.
    pub policy: policy::Current,
    /// Enforces the limits.
    pub shaper: Shaper,
    /// Clients that sent wrong credentials.
    pub failures: Arc<Failures>,
    /// Passwords that are being verified.
    pub verifier: Verifier,
    /// The destinations reached, if these are to be learnt.
    pub learnt: Arc<Learnt>,
    /// Our pseudonym in `Via`; `None` adds no `Via`.
    pub via: Option<String>,
    /// Whether origin servers are told the client's address.
    pub forwarded_for: bool,
    /// The addresses we listen on: a request to one of them would come back.
    pub own: OwnAddresses,
    /// The names that the admin listener answers to.
    pub admin_names: admin::Names,
    /// Readiness.
    pub poller: Arc<Poller>,
    /// Idle upstream connections.
    pub pool: Arc<Pool>,
    /// Pipes for streams.
    pub pipes: Pipes,
    /// Name lookups.
    pub resolver: Resolver,
    /// New upstream connections.
    pub dialer: Dialer,
    /// Where finished exchanges are logged, if anywhere.
    pub access_log: Option<AccessLog>,
    /// How many exchanges to serve, if that is limited.
    pub quota: Option<Quota>,
    /// When the proxy began to shut down, if it has. Connections are not kept after that.
    pub draining: OnceLock<Instant>,
}

impl Context {
    /// Whether the proxy is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Closes idle upstream connections and empty pipes, which are only kept to be used again, because
    /// descriptors are short. Returns how many were closed.
    pub fn free_descriptors(&self) -> usize {
        self.pool.clear(Retired::Full) + self.pipes.clear()
    }

    /// The name in `Proxy-Status`: the pseudonym, or `threadgate`.
    pub fn name(&self) -> &str {
        self.via.as_deref().unwrap_or("threadgate")
    }
}

/// Calls a function once, when a given number of exchanges are over.
pub struct Quota {
    left: AtomicU64,
    then: Arc<dyn Fn() + Send + Sync>,
}

impl Quota {
    /// Calls `then` after `count` exchanges, on the worker that ends the last of them.
    pub fn new(count: NonZeroU64, then: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { left: AtomicU64::new(count.get()), then }
    }

    /// Counts an exchange that is over.
    pub fn spend(&self) {
        // Past zero it wraps. A machine does not live long enough to come round to one again.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            (self.then)();
        }
    }
}

/// Bytes a session may receive and send in one turn. If nobody else waits, the next turn follows at
/// once.
pub(super) const TURN_BYTES: usize = 128 * 1024;
/// How long a turn may last.
const TURN_TIME: Duration = Duration::from_millis(1);

/// What a worker brings to a session's turn.
pub struct Turn<'w> {
    /// What all sessions share.
    pub ctx: &'w Context,
    /// The worker's buffers.
    pub buffers: &'w mut Buffers,
    /// The rules in force.
    pub policy: &'w Arc<Policy>,
    /// The worker's counters.
    pub counters: &'w Shard,
    /// The source of the admin listener's numbers.
    pub overview: &'w dyn Overview,
    /// When the turn began.
    pub now: Instant,
    /// Bytes received and bytes sent so far.
    pub moved: usize,
    /// The most bytes to put into a pipe at a time.
    pub portion: usize,
}

impl Turn<'_> {
    /// The time: exact if the access log will show it, otherwise the start of the turn.
    pub fn clock(&self) -> Instant {
        if self.ctx.access_log.is_some() { Instant::now() } else { self.now }
    }

    /// The part of the policy that this decision comes from.
    pub(super) fn part(&self, decision: Decision) -> RefusedBy {
        decision.rule.map_or(RefusedBy::Rule, |rule| self.policy.origins.part(rule))
    }

    /// Whether the turn should end although the session could go on.
    pub fn is_spent(&self) -> bool {
        self.moved >= TURN_BYTES || self.now.elapsed() >= TURN_TIME
    }
}
