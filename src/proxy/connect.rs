//! The stage `Connecting`: makes a connection to the destination by a name lookup and a dial, and
//! explains their failures.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::dial::{Addresses, Dial, DialFailure, Dialed, is_shortage, is_unroutable};
use crate::net::poll::Edge;
use crate::net::resolve::{AwaitedLookup, Lookup};
use crate::net::stream::Stream;
use crate::observe::stats::Wait;
use crate::policy::decide::Verdict;
use crate::policy::limits::client_key;

use super::blame::{lookup_expired, looped};
use super::common::Common;
use super::context::Turn;
use super::sides::{ClientSide, SECOND, UPSTREAM};

/// How often a waiting exchange checks for slow lookups, so that these count less.
const SLOW_CHECK: Duration = Duration::from_millis(250);

/// A connection being made.
#[derive(Debug)]
pub(super) struct Connecting {
    /// The epoch of names in which it began.
    epoch: u32,
    by: By,
}

#[derive(Debug)]
enum By {
    /// Waits for the name's addresses, once they were asked for.
    Lookup(Option<Box<AwaitedLookup>>),
    /// Connects sockets. Boxed: most exchanges never dial.
    Dial(Box<Dial>),
}

impl Connecting {
    /// Begins to connect to the destination.
    pub(super) fn new(common: &mut Common, turn: &Turn<'_>) -> Self {
        let endpoint = common.endpoint();
        let by = match endpoint.ip() {
            Some(ip) => By::Dial(Box::new(Dial::new(Addresses::One(ip), endpoint.port()))),
            None => By::Lookup(None),
        };
        common.account.reused = false;
        common.wake_at = None;
        common.deadline = Some(turn.now + turn.ctx.timeouts.connect);
        Self { epoch: turn.ctx.pool.names_epoch(), by }
    }

    /// Goes as far as it can without waiting. Returns the connection, once there is one.
    ///
    /// # Errors
    ///
    /// The name has no address, or no address takes the connection.
    pub(super) fn step(
        &mut self,
        common: &mut Common,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<(Stream, SocketAddr)>, Error> {
        loop {
            match &mut self.by {
                By::Lookup(asked) => match look_up(asked, common, client, turn)? {
                    None => return Ok(None),
                    Some(ips) => {
                        common.account.times.lookup = Some(turn.clock());
                        common.wake_at = None;
                        common.deadline = Some(turn.now + turn.ctx.timeouts.connect);
                        let port = common.endpoint().port();
                        self.by = By::Dial(Box::new(Dial::new(Addresses::Found(ips), port)));
                    }
                },
                By::Dial(dial) => match try_dial(dial, common, client, turn)? {
                    Tried::Waits => return Ok(None),
                    // Idle connections held what this one needs.
                    Tried::Again => *self = Self::new(common, turn),
                    Tried::Connected(mut stream, address) => {
                        stream.set_names_epoch(self.epoch);
                        return Ok(Some((stream, address)));
                    }
                },
            }
        }
    }

    /// What the stage waits for.
    pub(super) fn wait(&self) -> Wait {
        match &self.by {
            By::Lookup(_) => Wait::Lookup,
            By::Dial(_) => Wait::Connect,
        }
    }

    /// Records an edge on a socket that is being connected.
    pub(super) fn note(&mut self, tag: u32, edge: Edge) {
        if let By::Dial(dial) = &mut self.by {
            dial.note((tag - UPSTREAM) as usize, edge);
        }
    }

    /// The error for a wait that was too long.
    pub(super) fn expired(&self) -> Error {
        match &self.by {
            By::Lookup(_) => lookup_expired(),
            By::Dial(dial) => dial_expired(dial),
        }
    }
}

/// Looks up the destination's name. Returns its addresses, once they are known.
fn look_up(
    asked: &mut Option<Box<AwaitedLookup>>,
    common: &mut Common,
    client: &ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Result<Option<Arc<[IpAddr]>>, Error> {
    let endpoint = common.peer.endpoint(&common.intent.destination);
    let (host, port) = (endpoint.host(), endpoint.port());
    let resolver = &turn.ctx.resolver;
    let answer = match asked {
        Some(asked) => match asked.answer() {
            Some(answer) => answer,
            None => {
                if client.half.ended || client.half.stream.is_ending() {
                    // The client has closed, or only ended its side and still gets the answer. If nobody
                    // else waits for this lookup, it counts no more. The client's end may stand behind
                    // more bytes than are read before there is a connection.
                    asked.recede();
                }
                if common.wake_at.is_none_or(|at| at <= turn.now) {
                    resolver.pass_slow_ones(turn.now);
                    common.wake_at = Some(turn.now + SLOW_CHECK);
                }
                return Ok(None);
            }
        },
        None => {
            let who = client_key(client.asker.address.ip());
            match resolver.lookup(host, port, who, turn.now, &client.owner(UPSTREAM)) {
                Lookup::Given(ips) => {
                    turn.counters.count(|c| c.lookups_given += 1);
                    return Ok(Some(ips));
                }
                Lookup::Known(answer) => {
                    turn.counters.count(|c| c.lookup_cache_hits += 1);
                    answer
                }
                Lookup::Asked(question) => {
                    *asked = Some(Box::new(question));
                    turn.counters.count(|c| c.lookups += 1);
                    common.wake_at = Some(turn.now + SLOW_CHECK);
                    return Ok(None);
                }
                Lookup::Refused => {
                    let reason = "too many name lookups are under way";
                    let kind = Kind::ConnectionLimitReached;
                    return Err(Error::new(Side::Proxy, Phase::Lookup, kind, reason));
                }
            }
        }
    };
    let Some(ips) = answer else {
        let reason = "the name has no address";
        return Err(Error::new(Side::Upstream, Phase::Lookup, Kind::DnsError, reason));
    };
    Ok(Some(resolver.order(host, ips, turn.now)))
}

/// The outcome of a step of a dial.
enum Tried {
    /// No socket is connected yet.
    Waits,
    /// Descriptors were short, and no longer are.
    Again,
    /// This socket is connected.
    Connected(Stream, SocketAddr),
}

fn try_dial(
    dial: &mut Dial,
    common: &mut Common,
    client: &ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Result<Tried, Error> {
    let addresses = &common.terms.addresses;
    let refuse = |to: SocketAddr| {
        if turn.ctx.own.contain(to) {
            return Some(DialFailure::Own);
        }
        match addresses.judge(to.ip(), to.port()).verdict {
            Verdict::Allow => None,
            Verdict::Deny(reason) => Some(DialFailure::Forbidden(reason)),
        }
    };
    let owners = [client.owner(UPSTREAM), client.owner(SECOND)];
    match dial.step(turn.now, &turn.ctx.dialer, &owners, &refuse) {
        Dialed::Connected(stream, address) => {
            if turn.ctx.own.have_port(address.port())
                && let Some(from) = stream.local()
                && turn.ctx.own.answered(from.ip(), address)
            {
                return Err(looped());
            }
            let endpoint = common.endpoint();
            if endpoint.ip().is_none() {
                let (host, port) = (endpoint.host(), endpoint.port());
                turn.ctx.resolver.note(host, port, dial.addresses(), address.ip(), turn.now);
            }
            stream.hand_to(client.owner(UPSTREAM));
            turn.counters.count(|c| c.upstream_connects += 1);
            Ok(Tried::Connected(stream, address))
        }
        Dialed::Waiting(at) => {
            common.wake_at = at;
            Ok(Tried::Waits)
        }
        Dialed::Failed(address, why) => {
            common.account.upstream = address;
            failed(why, address, common, turn)
        }
    }
}

/// Handles a dial in which no address took the connection. `address` is the one that failed for this
/// reason, which need not be the one tried last.
fn failed(
    why: DialFailure,
    address: Option<SocketAddr>,
    common: &mut Common,
    turn: &mut Turn<'_>,
) -> Result<Tried, Error> {
    if let DialFailure::System(e) = &why
        && is_shortage(e)
        && turn.ctx.free_descriptors() > 0
    {
        return Ok(Tried::Again);
    }
    turn.counters.count(|c| c.upstream_connect_failures += 1);
    let is_forbidden = matches!(why, DialFailure::Forbidden(_));
    let is_judged = !matches!(why, DialFailure::Own);
    let error = unconnected(why);
    let Some(to) = address.filter(|_| is_judged) else { return Err(error) };
    let decision = common.terms.addresses.judge(to.ip(), to.port());
    common.account.decided(decision, turn);
    Err(if is_forbidden { error.with_refused_by(turn.part(decision)) } else { error })
}

/// The error for a dial in which no address took the connection in time.
fn dial_expired(dial: &Dial) -> Error {
    if dial.is_in_line() {
        let reason = "too many connections to the upstream are being made already";
        let kind = Kind::ConnectionLimitReached;
        return Error::new(Side::Upstream, Phase::Connect, kind, reason);
    }
    let reason = "the upstream did not accept the connection in time";
    Error::new(Side::Upstream, Phase::Connect, Kind::ConnectionTimeout, reason)
}

fn unconnected(why: DialFailure) -> Error {
    let upstream = |kind, reason| Error::new(Side::Upstream, Phase::Connect, kind, reason);
    match why {
        DialFailure::Own => looped(),
        DialFailure::Forbidden(reason) => {
            Error::new(Side::Proxy, Phase::Connect, Kind::DestinationIpProhibited, reason)
        }
        DialFailure::NoPort(e) => Error::new(
            Side::Proxy,
            Phase::Connect,
            Kind::ConnectionLimitReached,
            "the proxy has no port left for another connection to this address",
        )
        .with_source(e),
        DialFailure::NoSource => upstream(
            Kind::DestinationIpUnroutable,
            "none of the proxy's source addresses is of the destination's family",
        ),
        DialFailure::NoAddress => upstream(Kind::DnsError, "the name has no address"),
        DialFailure::System(e) if is_shortage(&e) => Error::new(
            Side::Proxy,
            Phase::Connect,
            Kind::ConnectionLimitReached,
            "the proxy has no descriptor left for another connection",
        )
        .with_source(e),
        DialFailure::System(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => {
                upstream(Kind::ConnectionRefused, "the upstream refused the connection")
            }
            io::ErrorKind::TimedOut => {
                upstream(Kind::ConnectionTimeout, "the upstream cannot be reached")
            }
            _ if is_unroutable(&e) => {
                upstream(Kind::DestinationIpUnroutable, "there is no route to the upstream")
                    .with_source(e)
            }
            _ => upstream(Kind::ConnectionTerminated, "the connection to the upstream failed")
                .with_source(e),
        },
    }
}
