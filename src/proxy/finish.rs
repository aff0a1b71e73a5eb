//! The end of an exchange: the connection's fate, the counters, the log line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Phase};
use crate::net::poll::{Owner, Wake};
use crate::observe::access_log::{Phases, Record, RecordKind};

use super::Turn;
use super::exchange::{Exchange, UPSTREAM, Upstream};

impl Exchange {
    /// The end: counters and log are told, and the connection goes back to the pool if it can.
    pub fn finish(&mut self, address: SocketAddr, waker: &Arc<dyn Wake>, turn: &mut Turn<'_>) {
        let tunnel = self.is_tunnel();
        let (sent, received) = (self.response.sent(), self.head_octets + self.request.sent());
        let (status, side) = (self.status, self.failure.as_ref().map(Error::side));
        turn.counters.count(|c| {
            c.exchanges_finished += 1;
            c.count_status(status);
            c.octets_to_clients += sent;
            c.octets_from_clients += received;
            c.tunnels_closed += u64::from(tunnel);
            side.into_iter().for_each(|side| c.count_failure(side));
        });
        if turn.ctx.access_log.is_some() {
            self.tell(address, turn);
        }
        if let Some(Upstream { mut end, address, .. }) = self.upstream.take() {
            // Octets past the end of a response would answer the next request.
            // After a receive that filled its buffer only the socket knows whether there are more.
            let clean = end.buffer.is_empty()
                && !end.ended
                && !(end.stream.is_readable() && end.stream.is_stale());
            let whole =
                self.request.is_clear() && self.to_upstream.is_empty() && !self.upload_broken;
            turn.buffers.discard(&mut end.buffer);
            if clean && whole && self.upstream_persists && !tunnel && self.failure.is_none() {
                let former = Owner { who: Arc::clone(waker), tag: UPSTREAM };
                turn.ctx.pool.put(
                    &self.destination.authority,
                    (end.stream, address),
                    &former,
                    turn.now,
                );
            }
        }
    }

    fn tell(&self, client: SocketAddr, turn: &Turn<'_>) {
        let Some(log) = &turn.ctx.access_log else { return };
        let now = Instant::now();
        let started = self.times.started.unwrap_or(now);
        let mut last = started;
        let mut phase = |end: Option<Instant>| {
            let end = end.unwrap_or(last).max(last);
            let spent = end - last;
            last = end;
            spent
        };
        let mut phases = Phases {
            request: phase(self.times.head),
            lookup: phase(self.times.lookup),
            connect: phase(self.times.connect),
            send: phase(self.times.sent),
            wait: phase(self.times.response),
            ..Phases::default()
        };
        // What is left belongs to the phase it ended in.
        let rest = phase(Some(now));
        match self.failure.as_ref().map(Error::phase) {
            Some(Phase::Request) => phases.request += rest,
            Some(Phase::Lookup) => phases.lookup += rest,
            Some(Phase::Connect) => phases.connect += rest,
            Some(Phase::Send) => phases.send += rest,
            Some(Phase::Response) => phases.wait += rest,
            _ => phases.transfer += rest,
        }
        let noted = &self.noted;
        let address = self.upstream.as_ref();
        log.record(&Record {
            started: SystemTime::now() - (now - started),
            client,
            kind: if self.is_tunnel() { RecordKind::Tunnel } else { RecordKind::Exchange },
            method: noted.method(),
            target: noted.target(),
            version: noted.version(),
            status: self.status,
            octets_from_client: self.head_octets + self.request.sent(),
            octets_to_client: self.response.sent(),
            content_to_client: self.response.sent().saturating_sub(self.heads),
            upstream: address.map_or(self.tried, |u| u.address.or_else(|| u.end.stream.peer())),
            reused: address.is_some_and(|u| u.reused),
            referer: noted.referer(),
            user_agent: noted.user_agent(),
            phases,
            failure: self.failure.as_ref().map(Into::into),
        });
    }
}
