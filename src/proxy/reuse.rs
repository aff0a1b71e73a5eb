//! Takes upstream connections from the pool, returns them, and sends a request once more if the
//! connection was dead.
//!
//! A server may close a connection it kept at any moment, so also in the moment in which the next
//! request is on its way. Nobody can tell whether that request was seen. One that may be repeated
//! (idempotent, without content: RFC 9110 §9.2.2) therefore goes out once more, on a connection of
//! its own, as long as nothing of an answer has reached the client (RFC 9112 §9.3.1). Every other
//! gets a 502; so it takes a kept connection only if that was in use a moment ago, and no server's
//! timer can have run out meanwhile, and else one of its own from the start.

use std::sync::Arc;

use crate::error::{Error, Kind};
use crate::net::poll::Wake;
use crate::upstream::pool::{Former, Kept};
use crate::wire::head::HeadScan;
use crate::wire::{Repairs, ResponseHead};

use super::Turn;
use super::exchange::{ClientSide, Exchange, SECOND, UPSTREAM, Upstream};
use super::flow::Flow;
use super::pinned::Pinned;

/// As the former owner of a connection: the second of two attempts won under its own tag, and an edge
/// of it may still have been on its way then.
fn former(waker: &Arc<dyn Wake>) -> Former<'_> {
    Former { who: &**waker, tags: UPSTREAM..=SECOND }
}

impl Exchange {
    /// Goes out on an idle connection to the destination, if there is one.
    pub(super) fn take_kept(&mut self, client: &ClientSide<'_>, turn: &mut Turn<'_>) -> bool {
        let owner = client.owner(UPSTREAM);
        let repeatable = self.facts.repeatable;
        let taken = turn.ctx.pool.take(&self.destination.authority, &owner, repeatable, turn.now);
        // Who it was made for may be allowed more than this one.
        let Some(kept) = taken else { return false };
        if !kept.address.is_some_and(|address| self.may_use(address)) {
            // For those who may use it it is as good as before.
            let former = former(client.waker);
            turn.ctx.pool.put(&self.destination.authority, kept, former, turn.now);
            return false;
        }
        if repeatable {
            self.resend.extend_from_slice(self.to_upstream.unread());
        }
        turn.counters.count(|c| c.upstream_reuses += 1);
        self.connected(kept.stream, kept.address, Some(kept.lease), turn);
        true
    }

    /// The exchange is over: its connection is kept if it can be. Answers the one that is the client's
    /// alone.
    pub(super) fn keep(
        &mut self,
        waker: &Arc<dyn Wake>,
        turn: &mut Turn<'_>,
    ) -> Option<Box<Pinned>> {
        let Upstream { mut end, address, lease, .. } = self.upstream.take()?;
        // Octets past the end of a response would answer the next request.
        // After a receive that filled its buffer only the socket knows whether there are more.
        let clean = end.buffer.is_empty()
            && !end.ended
            && !(end.stream.is_readable() && end.stream.is_stale());
        let whole = self.request.is_clear() && self.to_upstream.is_empty() && !self.upload_broken;
        turn.buffers.discard(&mut end.buffer);
        let mended = !self.response.repairs().is_empty();
        // What follows on the client's own connection could only be its own.
        let persists = self.upstream_persists && (!self.withholds || self.bound) && !mended;
        let usable = clean && whole && persists && !self.is_tunnel();
        if !usable || self.failure.is_some() {
            return None;
        }
        let kept = Kept { stream: end.stream, address, lease };
        let to = &self.destination.authority;
        if self.bound {
            return Some(Pinned::new(kept, to, &self.user));
        }
        turn.ctx.pool.put(to, kept, former(waker), turn.now);
        None
    }

    /// Whether a request that failed goes out once more.
    pub(super) fn may_resend(&self, error: &Error, turn: &Turn<'_>) -> bool {
        error.kind() == Kind::ConnectionTerminated && self.is_unanswered() && self.has_spare(turn)
    }

    /// Whether a final response only says that the server had given up waiting on the connection: not
    /// an answer, if it crossed a request that can be repeated (RFC 9110 §15.5.9).
    pub(super) fn has_crossed(&self, head: &ResponseHead<'_, '_>, turn: &Turn<'_>) -> bool {
        head.status == 408 && !head.persistent() && self.is_unanswered() && self.has_spare(turn)
    }

    /// Nothing of an answer has reached the client.
    fn is_unanswered(&self) -> bool {
        !self.begun && self.interim == 0
    }

    /// The request went out on a connection that had been kept, and can be sent once more.
    fn has_spare(&self, turn: &Turn<'_>) -> bool {
        !self.resend.is_empty() && !turn.ctx.is_draining()
    }

    /// The pooled connection was dead: once more, on a fresh one.
    pub(super) fn resend(&mut self, turn: &mut Turn<'_>) {
        turn.counters.count(|c| c.resends += 1);
        if let Some(upstream) = &mut self.upstream {
            turn.buffers.discard(&mut upstream.end.buffer);
        }
        self.upstream = None;
        self.upload_broken = false;
        turn.buffers.discard(&mut self.to_upstream);
        turn.buffers.lend(&mut self.to_upstream);
        self.to_upstream.tail().extend_from_slice(&self.resend);
        self.resend.clear();
        self.request = Flow::empty();
        self.scanned = HeadScan::default();
        self.repairs = Repairs::default();
        self.response_octets = 0;
        self.times.sent = None;
        // Never from the pool again: what is idle there to the same server may be as dead.
        self.find(turn);
    }
}
