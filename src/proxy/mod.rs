//! A client connection from its first octet to its last: sessions, exchanges, tunnels, replies.
//!
//! In reading order: [`session`] (the states and what a turn may answer), [`request`] (a head
//! becomes an exchange), [`exchange`] (the list of steps: `connect`, `relay`, `upgrade`, `tunnel`, `finish`, and `reuse` of connections),
//! [`flow`] (the engine that moves octets), [`reply`] and [`own`] (what we say ourselves). Threads and queues are [`server`](crate::server)'s.

mod access;
pub mod admin;
pub mod auth;
mod breaks;
mod connect;
pub mod door;
pub mod end;
pub mod exchange;
pub mod explain;
pub mod facts;
mod finish;
pub mod flow;
mod foreign;
mod hold;
mod limits;
mod lines;
pub mod noted;
pub mod own;
pub mod pinned;
mod relay;
pub mod reply;
pub mod request;
mod reuse;
pub mod session;
pub mod spare;
mod tunnel;
mod upgrade;
pub mod verify;
pub mod waiting;

use std::net::{IpAddr, SocketAddr};
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
use crate::observe::stats::Shard;
use crate::policy::auth::failures::Failures;
use crate::policy::learn::Learnt;
use crate::policy::shape::Shaper;
use crate::policy::{self, Policy};
use crate::upstream::pool::Pool;
use crate::wire;

use admin::Overview;
use exchange::Exchange;
use spare::Spares;
use verify::Verifier;

/// How long each wait may last. None of them holds a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From a request's first octet (on a new connection: from accept) to the end of its head.
    pub head: Duration,
    /// How long a client connection may be idle between exchanges.
    pub idle: Duration,
    /// For a name lookup, and then for connecting, all addresses together.
    pub connect: Duration,
    /// How long an exchange may stand still: no response head, and no octet moved either way.
    pub response: Duration,
    /// How long a tunnel may be quiet.
    pub tunnel: Duration,
}

impl Timeouts {
    /// The same, none longer than [`LONGEST`].
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
    pub limits: wire::Limits,
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
    /// Finished exchanges that some worker has too many of.
    pub spares: Spares,
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
        self.pool.clear() + self.pipes.clear()
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

/// The addresses of our own listeners.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Vec<SocketAddr>);

impl OwnAddresses {
    /// Of these listeners.
    pub fn new(listeners: Vec<SocketAddr>) -> Self {
        Self(listeners)
    }

    /// Whether a connection to `to` would reach one of our listeners, as far as the address tells.
    /// An unspecified address connects to this machine.
    pub fn contain(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        self.with_port(to.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == ip
                || (own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
                || (ip.is_unspecified() && own.is_loopback())
        })
    }

    /// Whether a connection between `from` and `to` reached one of our listeners after all: one on
    /// every address answers to addresses we do not know beforehand.
    pub fn answered(&self, from: IpAddr, to: SocketAddr) -> bool {
        from.to_canonical() == to.ip().to_canonical()
            && self.with_port(to.port()).any(|own| own.ip().is_unspecified())
    }

    /// Whether any listener has this port.
    pub fn have_port(&self, port: u16) -> bool {
        self.with_port(port).next().is_some()
    }

    fn with_port(&self, port: u16) -> impl Iterator<Item = &SocketAddr> {
        self.0.iter().filter(move |own| own.port() == port)
    }
}

/// Octets a session may receive and send in one turn. With nobody else waiting the next turn follows at once.
const TURN_OCTETS: usize = 128 * 1024;
/// How long a turn may last.
const TURN_TIME: Duration = Duration::from_millis(1);

/// What a worker brings to a session's turn.
pub struct Turn<'w> {
    /// What all sessions share.
    pub ctx: &'w Context,
    /// The worker's buffers.
    pub buffers: &'w mut Buffers,
    /// Exchanges that are over, to be used again.
    pub spare: &'w mut Vec<Box<Exchange>>,
    /// What is allowed.
    pub policy: &'w Arc<Policy>,
    /// The worker's counters.
    pub counters: &'w Shard,
    /// What the admin listener tells.
    pub overview: &'w dyn Overview,
    /// When the turn began.
    pub now: Instant,
    /// Octets received and octets sent so far.
    pub moved: usize,
    /// Octets that go into a pipe at a time, at most.
    pub portion: usize,
}

impl Turn<'_> {
    /// The time, exactly if it is going to be told, else as the turn began.
    pub fn clock(&self) -> Instant {
        if self.ctx.access_log.is_some() { Instant::now() } else { self.now }
    }

    /// Whether the turn should end although the session could go on.
    pub fn is_spent(&self) -> bool {
        self.moved >= TURN_OCTETS || self.now.elapsed() >= TURN_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_every_spelling() {
        let own = |listeners: &[&str]| {
            OwnAddresses::new(listeners.iter().map(|l| l.parse().unwrap()).collect())
        };
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        let one = own(&["127.0.0.1:3128"]);
        for same in ["127.0.0.1:3128", "0.0.0.0:3128", "[::]:3128", "[::ffff:127.0.0.1]:3128"] {
            assert!(one.contain(to(same)), "{same}");
        }
        for other in ["127.0.0.1:3129", "127.0.0.2:3128", "[::1]:3128", "192.0.2.1:3128"] {
            assert!(!one.contain(to(other)), "{other}");
        }
        let any = own(&["0.0.0.0:3128"]);
        assert!(any.contain(to("127.0.0.2:3128")));
        assert!(!any.contain(to("192.0.2.1:3128")));
        assert!(any.answered("192.0.2.1".parse().unwrap(), to("192.0.2.1:3128")));
        assert!(!any.answered("192.0.2.7".parse().unwrap(), to("192.0.2.1:3128")));
        assert!(!one.answered("192.0.2.1".parse().unwrap(), to("192.0.2.1:3128")));
    }
}
