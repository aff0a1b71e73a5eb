//! The state that outlives the stages of an exchange: intent, decisions, account, and the two
//! directions. Everything else belongs to the stage that uses it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::policy::decide::{AddressRules, Decision, Verdict};
use crate::policy::deny_with::DenyWith;
use crate::policy::response_rules::Judge;
use crate::upstream::peer::{Endpoint, Peer};
use crate::wire::{Framing, Method};

use super::account::{Account, Totals};
use super::content::Content;
use super::context::Turn;
use super::intent::{Intent, rule_host};
use super::limits::Allowance;
use super::onward_head::OnwardHead;
use super::sides::Leg;

/// This many bytes of text are kept for the next request.
pub(super) const KEPT: usize = 4096;

/// The decisions on a request, kept for as long as it lasts.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// The user who asks; empty if the rules require none.
    pub(super) user: String,
    /// Which addresses it may be connected to.
    pub(super) addresses: AddressRules,
    /// The judge of the response, if the response is judged.
    pub(super) judge: Option<Arc<Judge>>,
    /// The first bytes that the client sends into its tunnel are judged.
    pub(super) reads_hello: bool,
}

impl Terms {
    fn clear(&mut self) {
        self.user.clear();
        self.addresses.clear();
        self.judge = None;
        self.reads_hello = false;
    }
}

/// The state that every stage of an exchange shares. The memory is used again for the next exchange.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// What the client wants.
    pub(super) intent: Intent,
    /// The decisions on that.
    pub(super) terms: Terms,
    /// The next hop.
    pub(super) peer: Peer,
    /// The record of the exchange, reported at the end.
    pub(super) account: Account,
    /// To the upstream: the head, once the next hop is known, and the request's content.
    pub(super) up: Leg,
    /// To the client: heads and replies, and the response's content.
    pub(super) down: Leg,
    /// The head to pass on. It is kept until the next hop is known, and in case it has to be sent again.
    pub(super) head: OnwardHead,
    /// How many times the request may still be sent again.
    pub(super) retries: u8,
    /// How much may be received, if there are limits.
    pub(super) allowance: Allowance,
    /// When the present wait ends at the latest.
    pub(super) deadline: Option<Instant>,
    /// When to come back even if nothing happens.
    pub(super) wake_at: Option<Instant>,
    /// The client's connection ends after this exchange.
    pub(super) close: bool,
    /// The upstream's connection is reserved for this client, because the client logs in on it.
    pub(super) pins: bool,
}

impl Common {
    /// Makes it ready for a new request; the memory is kept.
    pub(super) fn reset(&mut self, started: Instant) {
        self.intent.clear();
        self.terms.clear();
        self.account.clear(started);
        self.up.reset();
        self.down.reset();
        self.head.fields.clear();
        self.retries = 0;
        self.allowance = Allowance::default();
        self.deadline = None;
        self.wake_at = None;
        self.close = false;
        self.pins = false;
    }

    /// Gives back the memory that should not be kept for the next request.
    pub(super) fn trim(&mut self, turn: &mut Turn<'_>) {
        for leg in [&mut self.up, &mut self.down] {
            turn.buffers.discard(&mut leg.staged);
            leg.flow.drop_pipe();
        }
        self.terms.judge = None;
        self.account.failure = None;
        self.allowance = Allowance::default();
        self.head.trim(KEPT);
        self.account.note.trim();
    }

    /// The endpoint to connect to.
    pub(super) fn endpoint(&self) -> &Endpoint {
        self.peer.endpoint(&self.intent.destination)
    }

    /// Puts the head for the next hop, which is now known, in front of what goes out.
    pub(super) fn stage_head(&mut self, turn: &mut Turn<'_>) {
        let staged = &mut self.up.staged;
        turn.buffers.discard(staged);
        turn.buffers.lend(staged);
        self.head.write(&self.peer, staged.tail());
        self.intent.onward_bytes = staged.len() as u64;
    }

    /// Records that content in this framing belongs to the request, although nobody will take it.
    pub(super) fn leave_content(&mut self, framing: Framing) {
        self.up.goes_on_with(Content::of_request(framing));
    }

    /// How many bytes went each way.
    pub(super) fn totals(&self) -> Totals {
        let Intent { head_bytes, onward_bytes, .. } = self.intent;
        let content = self.up.flow.sent().saturating_sub(onward_bytes);
        Totals { from_client: head_bytes + content, to_client: self.down.flow.sent() }
    }

    /// Extends the deadline past a wait for an allowance, which is nobody's fault.
    pub(super) fn wait_on(&mut self, turn: &Turn<'_>) {
        let Some(at) = self.allowance.wake_at() else { return };
        let times = &turn.ctx.timeouts;
        let then = at + if self.account.is_tunnel { times.tunnel } else { times.response };
        self.deadline = self.deadline.map(|deadline| deadline.max(then));
    }

    /// Whether the request may use an upstream connection to this address.
    pub(super) fn may_use(&self, address: SocketAddr) -> bool {
        self.terms.addresses.judge(address.ip(), address.port()).verdict == Verdict::Allow
    }

    /// Records the decision on this address, to which the request has been connected.
    #[cold]
    pub(super) fn settle(&mut self, address: SocketAddr, turn: &Turn<'_>) {
        let decision = self.terms.addresses.judge(address.ip(), address.port());
        self.account.decided(decision, turn);
        let destination = &self.intent.destination;
        self.learn(rule_host(destination), destination.ip(), turn);
    }

    /// Learns that this host was reached, if the policy learns.
    pub(super) fn learn(&self, host: &str, ip: Option<IpAddr>, turn: &Turn<'_>) {
        if self.terms.addresses.learns() {
            let port = self.intent.destination.port();
            turn.ctx.learnt.reach(host, port, ip, SystemTime::now());
        }
    }

    /// Applies the decision on a response.
    ///
    /// # Errors
    ///
    /// The response is refused.
    pub(super) fn follow_response(
        &mut self,
        (decision, kind): (Decision, Kind),
        phase: Phase,
        turn: &Turn<'_>,
    ) -> Result<(), Error> {
        self.account.decided(decision, turn);
        match decision.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Deny(reason) => {
                let error = Error::new(Side::Proxy, phase, kind, reason);
                Err(error.with_refused_by(turn.part(decision)))
            }
        }
    }

    /// The replacement for a refusal by rule: a status, and a location to send the client to.
    pub(super) fn instead<'d>(
        &self,
        error: &Error,
        deny_with: &'d DenyWith,
    ) -> Option<(u16, Option<&'d str>)> {
        let by_rule =
            matches!(error.kind(), Kind::HttpRequestDenied | Kind::DestinationIpProhibited);
        if !by_rule || error.status() != 403 {
            return None;
        }
        let is_connect = self.intent.method == Method::Connect;
        deny_with.instead(is_connect, self.intent.destination.authority())
    }
}
