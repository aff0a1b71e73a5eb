//! Turns an exchange into a tunnel when the upstream answers 101 (RFC 9110 §7.8).
//!
//! `request` offers the upstream the protocols that the client offered, reduced by
//! [`wire::upgrade`](crate::wire::upgrade) to those that work through a proxy. Only a 101 that chooses
//! from that offer, and comes after the whole request was sent, changes the protocol. Every other answer
//! is ordinary HTTP. Bytes that the client sends behind its request wait in its buffer for the decision:
//! they belong to the new protocol, or are the next request.

use crate::error::Error;
use crate::wire::{Protocols, Repair, ResponseHead, ResponseOutgoing, Version};

use super::blame::malformed;
use super::common::Common;
use super::content::{Coding, Content};
use super::context::Turn;

/// Stages a 101 for the client. The bytes behind it, on both sides, have no framing. `is_out` says
/// whether all bytes for the upstream have left the proxy.
///
/// # Errors
///
/// The protocol was not offered, or the 101 came too early. The next bytes of the upstream are in a
/// protocol that nobody here speaks, so its connection is over.
pub(super) fn stage(
    head: &ResponseHead<'_, '_>,
    is_out: bool,
    common: &mut Common,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    // Many interim responses are a repair, but each of them was well-formed.
    if common.account.repairs.iter().any(|repair| repair != Repair::ManyInterim) {
        return Err(malformed("the upstream changed the protocol behind a malformed response"));
    }
    let protocols = agreed(head, is_out, common)?;
    let via = turn.ctx.via.as_deref();
    let upgrade = Some(&protocols);
    let outgoing = ResponseOutgoing { via, upgrade, ..ResponseOutgoing::default() };
    head.write_client(common.down.staged.tail(), &outgoing);
    Ok(())
}

/// The protocols that a 101 changes to.
fn agreed(head: &ResponseHead<'_, '_>, is_out: bool, common: &Common) -> Result<Protocols, Error> {
    let offer = common.intent.offer.as_ref();
    let chosen = head.protocols().filter(|_| head.version >= Version::Http11);
    let agreed = chosen.zip(offer).filter(|(chosen, offer)| chosen.are_among(offer));
    let Some((chosen, _)) = agreed else {
        return Err(malformed("the upstream changed to a protocol nobody asked for"));
    };
    // The proxy is stricter than RFC 9110 §7.8, which lets a client finish its message first: a server
    // that changes before it has the whole message would get content framed as HTTP in between.
    let up = &common.up;
    if !up.flow.is_clear() || !up.staged.is_empty() || !is_out || up.is_broken {
        return Err(malformed("the upstream changed the protocol before the request was whole"));
    }
    Ok(chosen)
}

/// Makes the exchange a tunnel; its 101 is staged.
pub(super) fn become_tunnel(common: &mut Common, turn: &mut Turn<'_>) {
    // Nothing is sent again or chosen after this, and a tunnel may last for days.
    common.head.trim(0);
    common.intent.offer = None;
    let account = &mut common.account;
    account.is_tunnel = true;
    account.status = 101;
    account.heads = common.down.sent_and_staged();
    account.times.response = Some(turn.clock());
    for leg in [&mut common.up, &mut common.down] {
        leg.goes_on_with(Content::until_close(Coding::Keep));
    }
    turn.counters.count(|c| {
        c.tunnels_opened += 1;
        c.upgrades += 1;
    });
    common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
}

/// The protocols that a 426 must name to the client (RFC 9110 §15.5.22). In other responses `Upgrade`
/// only advertises, and is not passed on.
pub(super) fn wanted_instead(head: &ResponseHead<'_, '_>, version: Version) -> Option<Protocols> {
    if head.status != 426 || version < Version::Http11 {
        return None;
    }
    head.protocols()?.forwardable()
}
