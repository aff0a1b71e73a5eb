//! From a destination to a connection: the name lookup, the dial, and what their failures mean.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::dial::{Addresses, Dial, Dialed, Failure, is_shortage, is_unroutable};
use crate::net::poll::{Owner, Wake};
use crate::net::resolve::Lookup;

use super::Turn;
use super::exchange::{ClientSide, Exchange, SECOND, Stage, UPSTREAM};

impl Exchange {
    pub(super) fn look_up(
        &mut self,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        let first = self.wake_at.is_none();
        let host = self.destination.host();
        let answer = turn.ctx.resolver.lookup(host, turn.now, &client.owner(UPSTREAM));
        // Marks that the lookup was counted; the moment itself is past any use.
        self.wake_at = self.deadline;
        let fail = |kind, reason| Err(Error::new(Side::Upstream, Phase::Lookup, kind, reason));
        match answer {
            Lookup::Pending => {
                if first {
                    turn.counters.count(|c| c.lookups += 1);
                }
                Ok(false)
            }
            Lookup::Found(addresses) => {
                if first {
                    turn.counters.count(|c| c.lookup_cache_hits += 1);
                }
                self.wake_at = None;
                self.times.lookup = Some(turn.clock());
                self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
                let dial = Dial::new(Addresses::Found(addresses), self.destination.port);
                self.stage = Stage::Dial(Box::new(dial));
                Ok(true)
            }
            Lookup::Failed => fail(Kind::DnsError, "the name has no address"),
            Lookup::Refused => Err(Error::new(
                Side::Proxy,
                Phase::Lookup,
                Kind::ConnectionLimitReached,
                "too many name lookups are under way",
            )),
        }
    }

    /// Forgets a lookup nobody waits for any more.
    pub fn stop_waiting(&self, waker: &Arc<dyn Wake>, turn: &Turn<'_>) {
        if matches!(self.stage, Stage::Lookup) {
            let owner = Owner { who: Arc::clone(waker), tag: UPSTREAM };
            turn.ctx.resolver.forget(self.destination.host(), &owner);
        }
    }

    pub(super) fn dial(
        &mut self,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        let Stage::Dial(dial) = &mut self.stage else { return Ok(true) };
        let scope = self.facts.scope;
        let refuse = |to: SocketAddr| {
            if turn.ctx.own.contain(to) {
                Some(Failure::Own)
            } else {
                scope.forbids(to.ip()).map(Failure::Forbidden)
            }
        };
        let owners = [client.owner(UPSTREAM), client.owner(SECOND)];
        match dial.step(turn.now, &turn.ctx.poller, &owners, &refuse) {
            Dialed::Connected(stream, address) => {
                if turn.ctx.own.have_port(address.port())
                    && let Ok(from) = stream.socket().local_addr()
                    && turn.ctx.own.answered(from.ip(), address)
                {
                    return Err(looped());
                }
                stream.hand_to(client.owner(UPSTREAM));
                turn.counters.count(|c| c.upstream_connects += 1);
                self.connected(stream, Some(address), false, turn);
                Ok(true)
            }
            Dialed::Waiting(at) => {
                self.wake_at = at;
                Ok(false)
            }
            Dialed::Failed(address, why) => {
                self.tried = address;
                turn.counters.count(|c| c.upstream_connect_failures += 1);
                if let Failure::System(e) = &why
                    && is_shortage(e)
                    && turn.ctx.free_descriptors() > 0
                {
                    // Idle connections held what this one needs.
                    self.find(turn);
                    return Ok(true);
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

fn unconnected(why: Failure) -> Error {
    let upstream = |kind, reason| Error::new(Side::Upstream, Phase::Connect, kind, reason);
    match why {
        Failure::Own => looped(),
        Failure::Forbidden(reason) => {
            Error::new(Side::Proxy, Phase::Connect, Kind::DestinationIpProhibited, reason)
        }
        Failure::NoAddress => upstream(Kind::DnsError, "the name has no address"),
        Failure::System(e) if is_shortage(&e) => Error::new(
            Side::Proxy,
            Phase::Connect,
            Kind::ConnectionLimitReached,
            "the proxy has no descriptor left for another connection",
        )
        .with_source(e),
        Failure::System(e) => match e.kind() {
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
