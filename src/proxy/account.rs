//! Records an exchange while it runs, and reports it to the counters and the access log when it is over.
//!
//! Each stage records its events as they happen: the rule that decided, the address connected to, the
//! status. Counters and log line are made from that once, at the end.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Phase};
use crate::observe::access_log::{Phases, Record, RecordKind};
use crate::observe::counters::{Counters, Denial, PHASES};
use crate::policy::decide::{Decision, Verdict};
use crate::policy::rule_origin::RuleId;
use crate::wire::{Repair, Repairs};

use super::context::Turn;
use super::intent::Intent;
use super::log_note::LogNote;

/// When each phase ended; a phase that did not take place has no end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) started: Option<Instant>,
    pub(super) head: Option<Instant>,
    pub(super) lookup: Option<Instant>,
    pub(super) connect: Option<Instant>,
    pub(super) sent: Option<Instant>,
    pub(super) response: Option<Instant>,
}

/// What is known of an exchange so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// When each phase ended.
    pub(super) times: Times,
    /// The parts of the request that the access log will show.
    pub(super) note: LogNote,
    /// The rule that decided, if one did.
    pub(super) rule: Option<RuleId>,
    /// The rule would have refused the exchange, had it been enforced.
    pub(super) would_deny: bool,
    /// Status of the final response; 0 while there is none.
    pub(super) status: u16,
    /// The exchange is a tunnel, and counted as one. This stays true whatever becomes of its stage: a
    /// panic in the middle of a step must not lose it.
    pub(super) is_tunnel: bool,
    /// The upstream connection used last had been kept from an earlier exchange.
    pub(super) reused: bool,
    /// The address connected to, or tried last.
    pub(super) upstream: Option<SocketAddr>,
    /// Repairs made to the heads of responses.
    pub(super) repairs: Repairs,
    /// Bytes sent to the client up to the end of the final response's head.
    pub(super) heads: u64,
    /// Why it failed, if it did.
    pub(super) failure: Option<Error>,
    /// The exchange ended without the reply or response that it should have had.
    pub(super) is_aborted: bool,
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    /// The request head, and the part of the content that was passed on.
    pub(super) from_client: u64,
    /// Heads and content.
    pub(super) to_client: u64,
}

/// The nanoseconds that an exchange took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// By phase; zero for a phase that did not take place.
    phases: [u64; PHASES.len()],
    /// The sum of the phases, which follow each other without a gap.
    total: u64,
}

impl Spent {
    #[inline(always)]
    fn add(&mut self, phase: Phase, nanos: u64) {
        self.total += nanos;
        if let Some(spent) = self.phases.get_mut(phase as usize) {
            *spent = nanos;
        }
    }
}

impl Account {
    /// Forgets the exchange; the memory is kept.
    pub(super) fn clear(&mut self, started: Instant) {
        let note = std::mem::take(&mut self.note);
        let times = Times { started: Some(started), ..Times::default() };
        *self = Self { note, times, ..Self::default() };
        self.note.clear();
    }

    /// Records a decision. A rule counts once, even if the request is sent again.
    pub(super) fn decided(&mut self, decision: Decision, turn: &Turn<'_>) {
        let Some(rule) = decision.rule.filter(|rule| self.rule != Some(*rule)) else { return };
        let denial = match (decision.verdict, decision.would_deny) {
            (Verdict::Deny(_), _) => Some(Denial::Refused),
            (Verdict::Allow, would_deny) => would_deny.map(|_| Denial::Reported),
        };
        self.rule = Some(rule);
        self.would_deny = denial == Some(Denial::Reported);
        turn.policy.origins.hit(rule);
        if let Some(denial) = denial {
            turn.counters.count(|c| c.count_denial(denial));
        }
    }

    /// Records that something other than a policy decision ended the exchange: a limit, or wrong
    /// credentials.
    pub(super) fn ended_by(&mut self, rule: RuleId, turn: &Turn<'_>) {
        self.rule = Some(rule);
        turn.policy.origins.hit(rule);
    }

    /// Counts the repairs made to the response, and logs them at debug level.
    #[cold]
    pub(super) fn tell_repairs(intent: &Intent, repairs: Repairs, turn: &mut Turn<'_>) {
        turn.counters.count(|c| repairs.iter().for_each(|repair| c.count_repair(repair)));
        if log::log_enabled!(log::Level::Debug) {
            let kinds: Vec<_> = repairs.iter().map(Repair::word).collect();
            log::debug!(
                "a response from {} had to be mended: {}",
                intent.destination.authority(),
                kinds.join(", ")
            );
        }
    }

    /// Counts the exchange as finished. Returns the time of each phase, for the log.
    pub(super) fn count(
        &self,
        intent: &Intent,
        totals: Totals,
        now: Instant,
        c: &mut Counters,
    ) -> Spent {
        c.exchanges_finished += 1;
        c.count_status(self.status);
        c.count_method(intent.method);
        c.bytes_to_clients += totals.to_client;
        c.bytes_from_clients += totals.from_client;
        if self.failure.is_some() || self.is_tunnel || self.times.response.is_none() {
            return self.count_otherwise(now, c);
        }
        let mut spent = Spent::default();
        self.each_phase(now, Phase::Transfer, |phase, nanos| {
            spent.add(phase, nanos);
            c.record_phase(phase, nanos);
        });
        c.exchange_seconds.record_nanos(spent.total);
        spent
    }

    /// Counts an exchange that was not a response relayed in full.
    #[cold]
    fn count_otherwise(&self, now: Instant, c: &mut Counters) -> Spent {
        let mut spent = Spent::default();
        self.each_phase(now, self.final_phase(), |phase, nanos| {
            spent.add(phase, nanos);
            if !self.is_tunnel || phase != Phase::Transfer {
                c.record_phase(phase, nanos);
            }
        });
        if self.is_tunnel {
            c.tunnels_closed += 1;
            c.tunnel_seconds.record_nanos(spent.total);
        } else {
            c.exchange_seconds.record_nanos(spent.total);
        }
        if let Some(error) = &self.failure {
            c.count_error(error);
            c.lookup_failures += u64::from(error.phase() == Phase::Lookup);
        }
        spent
    }

    /// The phase the exchange ended in.
    fn final_phase(&self) -> Phase {
        match &self.failure {
            Some(failure) => failure.phase(),
            None if self.times.response.is_some() || self.is_tunnel => Phase::Transfer,
            // A reply of the proxy's own: sending it is no phase of an upstream's.
            None => Phase::Request,
        }
    }

    /// Gives the nanoseconds of each phase that took place, once each. The time left at the end belongs
    /// to the final phase.
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
        // Unrolled, because this runs for every exchange.
        step(Phase::Request, times.head);
        step(Phase::Lookup, times.lookup);
        step(Phase::Connect, times.connect);
        step(Phase::Send, times.sent);
        step(Phase::Response, times.response);
        f(final_phase, held + nanos_between(last, now));
    }

    /// Writes the exchange to the access log, if there is one.
    pub(super) fn tell(
        &self,
        user: &str,
        totals: Totals,
        spent: Spent,
        client: SocketAddr,
        turn: &Turn<'_>,
    ) {
        let Some(log) = &turn.ctx.access_log else { return };
        let [request, lookup, connect, send, wait, transfer] =
            spent.phases.map(Duration::from_nanos);
        let note = &self.note;
        log.record(&Record {
            started: SystemTime::now() - Duration::from_nanos(spent.total),
            client,
            kind: if self.is_tunnel { RecordKind::Tunnel } else { RecordKind::Exchange },
            method: note.method(),
            target: note.target(),
            version: note.version(),
            status: self.status,
            bytes_from_client: totals.from_client,
            bytes_to_client: totals.to_client,
            content_to_client: totals.to_client.saturating_sub(self.heads),
            upstream: self.upstream,
            reused: self.reused,
            referer: note.referer(),
            user_agent: note.user_agent(),
            user,
            phases: Phases { request, lookup, connect, send, wait, transfer },
            sni: note.sni(),
            rule: self.rule.map(|rule| turn.policy.origins.name(rule)),
            entry: note.entry(),
            would_deny: self.would_deny,
            failure: self.failure.as_ref().map(Into::into),
        });
    }
}

/// The nanoseconds between two times. Most times within a turn are equal, so that is checked first.
#[inline(always)]
fn nanos_between(from: Instant, to: Instant) -> u64 {
    if from == to {
        return 0;
    }
    let spent = to.saturating_duration_since(from);
    // 584 years fit.
    spent.as_secs() * 1_000_000_000 + u64::from(spent.subsec_nanos())
}
