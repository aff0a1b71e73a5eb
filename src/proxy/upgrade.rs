//! Turns an exchange into a tunnel when the upstream answers 101 (RFC 9110 §7.8).
//!
//! `request` offers the upstream what the client offered us, of which [`wire::upgrade`](crate::wire::upgrade)
//! leaves what may be changed to through a proxy. Only a 101 that chooses from that offer, and comes
//! when all of the request has been sent, changes anything; every other answer is HTTP as ever.
//! Octets the client sent behind its request wait for the decision in its buffer: they are the new
//! protocol's, or the next request, and go nowhere before.

use crate::error::Error;
use crate::wire::{Protocols, ResponseHead, Version};

use super::Turn;
use super::exchange::{Exchange, Stage};
use super::flow::{Coding, Flow};
use super::relay::malformed;

impl Exchange {
    /// What a 101 changes to.
    ///
    /// # Errors
    ///
    /// Nobody offered that, or it came too early. What the upstream says next is in a protocol that
    /// nobody here speaks, so its connection is over.
    pub(super) fn agreed(&self, head: &ResponseHead<'_, '_>) -> Result<Protocols, Error> {
        let chosen = head.protocols().filter(|_| head.version >= Version::Http11);
        let agreed = chosen.zip(self.offer.as_ref()).filter(|(chosen, o)| chosen.are_among(o));
        let Some((chosen, _)) = agreed else {
            return Err(malformed("the upstream changed to a protocol nobody asked for"));
        };
        // A client goes on with its message first (RFC 9110 §7.8). Stricter than that: a server that
        // changes before it has the whole message would get content framed as HTTP in between.
        if !self.request.is_clear() || !self.to_upstream.is_empty() || self.upload_broken {
            return Err(malformed(
                "the upstream changed the protocol before the request was whole",
            ));
        }
        Ok(chosen)
    }

    /// The 101 is staged: what follows it, on both sides, is octets.
    pub(super) fn change_protocol(&mut self, turn: &mut Turn<'_>) {
        self.stage = Stage::Tunnel;
        self.status = 101;
        self.begun = true;
        // Nothing is sent again or chosen any more, and a tunnel may last for days.
        self.resend = Vec::new();
        self.offer = None;
        self.heads = self.response.sent() + self.to_client.len() as u64;
        self.times.response = Some(turn.clock());
        for flow in [&mut self.request, &mut self.response] {
            let sent = flow.sent();
            *flow = Flow::until_close(Coding::Keep);
            flow.add_sent(sent);
        }
        turn.counters.count(|c| {
            c.tunnels_opened += 1;
            c.upgrades += 1;
        });
        self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
    }

    /// What a 426 must tell the client to use (RFC 9110 §15.5.22). In other responses `Upgrade` only
    /// advertises, and ends here.
    pub(super) fn wanted_instead(&self, head: &ResponseHead<'_, '_>) -> Option<Protocols> {
        if head.status != 426 || self.facts.version < Version::Http11 {
            return None;
        }
        head.protocols()?.forwardable()
    }
}
