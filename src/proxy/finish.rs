//! Ends an exchange: the fate of its connections, the counters, the log line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::Phase;
use crate::net::poll::Wake;
use crate::observe::access_log::{Phases, Record, RecordKind};
use crate::observe::counters::{Counters, PHASES};
use crate::wire::{Repair, Repairs};

use super::Turn;
use super::exchange::Exchange;
use super::pinned::Pinned;
use super::request::Service;

impl Exchange {
    /// The end: counters and log are told, and the connection goes back to the pool if it can. Answers
    /// one that is its client's alone instead.
    pub fn finish(
        &mut self,
        address: SocketAddr,
        waker: &Arc<dyn Wake>,
        turn: &mut Turn<'_>,
    ) -> Option<Box<Pinned>> {
        let now = turn.clock();
        let repairs = self.repairs.union(self.response.repairs());
        if !repairs.is_empty() {
            self.tell_repairs(repairs, turn);
        }
        if self.service == Service::Proxy {
            turn.counters.count(|c| self.count(now, c));
            if turn.ctx.access_log.is_some() {
                self.tell(address, now, turn);
            }
        }
        let pinned = self.keep(waker, turn);
        if self.service == Service::Proxy
            && let Some(quota) = &turn.ctx.quota
        {
            quota.spend();
        }
        pinned
    }

    /// Counts what was mended in the response, and says it to whoever looks for it.
    #[cold]
    fn tell_repairs(&self, repairs: Repairs, turn: &mut Turn<'_>) {
        turn.counters.count(|c| repairs.iter().for_each(|repair| c.count_repair(repair)));
        if log::log_enabled!(log::Level::Debug) {
            let kinds: Vec<_> = repairs.iter().map(Repair::word).collect();
            log::debug!(
                "a response from {} had to be mended: {}",
                self.destination.authority,
                kinds.join(", ")
            );
        }
    }

    /// The request head, and what went on of what followed it.
    fn octets_from_client(&self) -> u64 {
        self.head_octets + self.request.sent().saturating_sub(self.onward_octets)
    }

    fn count(&self, now: Instant, c: &mut Counters) {
        c.exchanges_finished += 1;
        c.count_status(self.status);
        c.count_method(self.facts.method);
        c.octets_to_clients += self.response.sent();
        c.octets_from_clients += self.octets_from_client();
        if self.failure.is_some() || self.is_tunnel() || self.times.response.is_none() {
            return self.count_otherwise(now, c);
        }
        let mut total = 0;
        self.each_phase(now, Phase::Transfer, |phase, nanos| {
            total += nanos;
            c.record_phase(phase, nanos);
        });
        c.exchange_seconds.record_nanos(total);
    }

    /// Not a response that was relayed whole.
    #[cold]
    fn count_otherwise(&self, now: Instant, c: &mut Counters) {
        let tunnel = self.is_tunnel();
        let mut total = 0;
        self.each_phase(now, self.final_phase(), |phase, nanos| {
            total += nanos;
            if !tunnel || phase != Phase::Transfer {
                c.record_phase(phase, nanos);
            }
        });
        if tunnel {
            c.tunnels_closed += 1;
            c.tunnel_seconds.record_nanos(total);
        } else {
            c.exchange_seconds.record_nanos(total);
        }
        if let Some(error) = &self.failure {
            c.count_error(error);
            c.lookup_failures += u64::from(error.phase() == Phase::Lookup);
        }
    }

    /// The phase it ended in.
    fn final_phase(&self) -> Phase {
        match &self.failure {
            Some(failure) => failure.phase(),
            None if self.times.response.is_some() || self.is_tunnel() => Phase::Transfer,
            // A reply of ours: its way to the client is no phase of an upstream's.
            None => Phase::Request,
        }
    }

    /// Gives the nanoseconds of each phase that took place, once each. What is left at the end
    /// belongs to the final one.
    #[inline(always)]
    fn each_phase(&self, now: Instant, final_phase: Phase, mut f: impl FnMut(Phase, u64)) {
        let times = &self.times;
        let mut last = times.started.unwrap_or(now);
        let mut held = 0;
        let mut step = |phase: Phase, end: Option<Instant>| {
            let Some(end) = end else { return };
            let nanos = nanos_between(last, end);
            last = end;
            if phase == final_phase {
                held = nanos;
            } else {
                f(phase, nanos);
            }
        };
        // Written out: this is done for every exchange.
        step(Phase::Request, times.head);
        step(Phase::Lookup, times.lookup);
        step(Phase::Connect, times.connect);
        step(Phase::Send, times.sent);
        step(Phase::Response, times.response);
        f(final_phase, held + nanos_between(last, now));
    }

    fn tell(&self, client: SocketAddr, now: Instant, turn: &Turn<'_>) {
        let Some(log) = &turn.ctx.access_log else { return };
        let mut spent = [Duration::ZERO; PHASES.len()];
        self.each_phase(now, self.final_phase(), |phase, nanos| {
            if let Some(spent) = spent.get_mut(phase as usize) {
                *spent = Duration::from_nanos(nanos);
            }
        });
        let [request, lookup, connect, send, wait, transfer] = spent;
        let started = self.times.started.unwrap_or(now);
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
            octets_from_client: self.octets_from_client(),
            octets_to_client: self.response.sent(),
            content_to_client: self.response.sent().saturating_sub(self.heads),
            upstream: address.map_or(self.tried, |u| u.address.or_else(|| u.end.stream.peer())),
            reused: self.reused,
            referer: noted.referer(),
            user_agent: noted.user_agent(),
            user: &self.user,
            phases: Phases { request, lookup, connect, send, wait, transfer },
            sni: noted.sni(),
            rule: self.rule.map(|rule| turn.policy.origins.name(rule)),
            would_deny: self.would_deny,
            failure: self.failure.as_ref().map(Into::into),
        });
    }
}

/// Most moments of a turn are the same: that is seen before anything is calculated.
#[inline(always)]
fn nanos_between(from: Instant, to: Instant) -> u64 {
    if from == to {
        return 0;
    }
    let spent = to.saturating_duration_since(from);
    // 584 years fit.
    spent.as_secs() * 1_000_000_000 + u64::from(spent.subsec_nanos())
}
