//! The stages from a destination to a connection: the lookup, the dial, and what their failures
//! mean.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::dial::{Addresses, Dial, DialFailure, Dialed, is_shortage, is_unroutable};
use crate::net::resolve::Lookup;
use crate::policy::decide::Verdict;
use crate::policy::limits::client_key;

use super::Turn;
use super::exchange::{ClientSide, Exchange, SECOND, Stage, UPSTREAM};

/// How often whoever waits for a lookup sees to it that slow ones count less.
const LOOK: Duration = Duration::from_millis(250);

impl Exchange {
    pub(super) fn look_up(
        &mut self,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        let Stage::Lookup(asked) = &mut self.stage else { return Ok(true) };
        let (host, port) = (self.destination.host(), self.destination.port);
        let resolver = &turn.ctx.resolver;
        let answer = match asked {
            Some(asked) => match asked.answer() {
                Some(answer) => answer,
                None => {
                    if client.end.ended || client.end.stream.is_ending() {
                        // It has closed, or only ended its side: the answer is for it all the same.
                        // The end may stand behind more than is read before there is a connection.
                        asked.recede();
                    }
                    if self.wake_at.is_none_or(|at| at <= turn.now) {
                        resolver.pass_slow_ones(turn.now);
                        self.wake_at = Some(turn.now + LOOK);
                    }
                    return Ok(false);
                }
            },
            None => match resolver.lookup(
                host,
                port,
                client_key(client.asker.address.ip()),
                turn.now,
                &client.owner(UPSTREAM),
            ) {
                Lookup::Given(ips) => {
                    turn.counters.count(|c| c.lookups_given += 1);
                    self.dial_to(ips, turn);
                    return Ok(true);
                }
                Lookup::Known(answer) => {
                    turn.counters.count(|c| c.lookup_cache_hits += 1);
                    answer
                }
                Lookup::Asked(question) => {
                    *asked = Some(Box::new(question));
                    turn.counters.count(|c| c.lookups += 1);
                    self.wake_at = Some(turn.now + LOOK);
                    return Ok(false);
                }
                Lookup::Refused => {
                    let reason = "too many name lookups are under way";
                    let kind = Kind::ConnectionLimitReached;
                    return Err(Error::new(Side::Proxy, Phase::Lookup, kind, reason));
                }
            },
        };
        let Some(ips) = answer else {
            let reason = "the name has no address";
            return Err(Error::new(Side::Upstream, Phase::Lookup, Kind::DnsError, reason));
        };
        let ips = resolver.order(host, ips, turn.now);
        self.dial_to(ips, turn);
        Ok(true)
    }

    fn dial_to(&mut self, ips: Arc<[IpAddr]>, turn: &Turn<'_>) {
        self.times.lookup = Some(turn.clock());
        self.wake_at = None;
        self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
        let dial = Dial::new(Addresses::Found(ips), self.destination.port);
        self.stage = Stage::Dial(Box::new(dial));
    }

    pub(super) fn dial(
        &mut self,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        let Stage::Dial(dial) = &mut self.stage else { return Ok(true) };
        let (reach, met) = (&self.reach, Cell::new(None));
        let refuse = |to: SocketAddr| {
            if turn.ctx.own.contain(to) {
                return Some(DialFailure::Own);
            }
            let decision = reach.judge(to.ip(), to.port());
            met.set(Some(decision));
            match decision.verdict {
                Verdict::Allow => None,
                Verdict::Deny(reason) => Some(DialFailure::Forbidden(reason)),
            }
        };
        let owners = [client.owner(UPSTREAM), client.owner(SECOND)];
        let dialed = dial.step(turn.now, &turn.ctx.dialer, &owners, &refuse);
        let met = met.get();
        match dialed {
            Dialed::Connected(mut stream, address) => {
                if turn.ctx.own.have_port(address.port())
                    && let Some(from) = stream.local()
                    && turn.ctx.own.answered(from.ip(), address)
                {
                    return Err(looped());
                }
                if self.destination.ip.is_none() {
                    let (host, port) = (self.destination.host(), self.destination.port);
                    let tried = dial.addresses();
                    turn.ctx.resolver.note(host, port, tried, address.ip(), turn.now);
                }
                stream.hand_to(client.owner(UPSTREAM));
                stream.set_era(self.era);
                turn.counters.count(|c| c.upstream_connects += 1);
                self.connected(stream, Some(address), None, turn);
                Ok(true)
            }
            Dialed::Waiting(at) => {
                self.wake_at = at;
                Ok(false)
            }
            Dialed::Failed(address, why) => {
                self.tried = address;
                if let DialFailure::System(e) = &why
                    && is_shortage(e)
                    && turn.ctx.free_descriptors() > 0
                {
                    // Idle connections held what this one needs.
                    self.find(turn);
                    return Ok(true);
                }
                turn.counters.count(|c| c.upstream_connect_failures += 1);
                if let Some(decision) = met.filter(|met| {
                    met.verdict == Verdict::Allow || matches!(why, DialFailure::Forbidden(_))
                }) {
                    self.note_decision(decision, turn);
                }
                Err(unconnected(why))
            }
        }
    }
}

/// The request would come back to us.
pub(super) fn looped() -> Error {
    let reason = "the request would come back to this proxy";
    Error::new(Side::Proxy, Phase::Connect, Kind::ProxyLoopDetected, reason)
}

/// The name's addresses did not come in time.
pub(super) fn lookup_expired() -> Error {
    let reason = "the name lookup took too long";
    Error::new(Side::Upstream, Phase::Lookup, Kind::DnsTimeout, reason)
}

/// No address took the connection in time.
pub(super) fn dial_expired(dial: &Dial) -> Error {
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
            "connections have a source address, and none of the destination's family",
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
                upstream(Kind::DestinationIpUnroutable, "there is no way to the upstream")
                    .with_source(e)
            }
            _ => upstream(Kind::ConnectionTerminated, "the connection to the upstream failed")
                .with_source(e),
        },
    }
}
