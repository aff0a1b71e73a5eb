//! Turns an exchange into a tunnel when the upstream answers 101 (RFC 9110 §7.8).
//!
//! `request` offers the upstream what the client offered us, of which [`wire::upgrade`](crate::wire::upgrade)
//! leaves what may be changed to through a proxy. Only a 101 that chooses from that offer, and comes
//! when all of the request has been sent, changes anything; every other answer is HTTP as ever.
//! Bytes the client sent behind its request wait for the decision in its buffer: they are the new
//! protocol's, or the next request, and go nowhere before.

use crate::error::Error;
use crate::wire::{Protocols, Repair, ResponseHead, ResponseOutgoing, Version};

use super::blame::malformed;
use super::common::Common;
use super::content::{Coding, Content};
use super::context::Turn;

/// Stages a 101 for the client: what follows it, on both sides, is bytes. `is_out` says whether all
/// that was sent to the upstream has left us.
///
/// # Errors
///
/// Nobody offered that, or it came too early. What the upstream says next is in a protocol that
/// nobody here speaks, so its connection is over.
pub(super) fn stage(
    head: &ResponseHead<'_, '_>,
    is_out: bool,
    common: &mut Common,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    // Many interim responses are whole ones: nothing of them was mended.
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

/// What a 101 changes to.
fn agreed(head: &ResponseHead<'_, '_>, is_out: bool, common: &Common) -> Result<Protocols, Error> {
    let offer = common.intent.offer.as_ref();
    let chosen = head.protocols().filter(|_| head.version >= Version::Http11);
    let agreed = chosen.zip(offer).filter(|(chosen, offer)| chosen.are_among(offer));
    let Some((chosen, _)) = agreed else {
        return Err(malformed("the upstream changed to a protocol nobody asked for"));
    };
    // A client goes on with its message first (RFC 9110 §7.8). Stricter than that: a server that
    // changes before it has the whole message would get content framed as HTTP in between.
    let up = &common.up;
    if !up.flow.is_clear() || !up.staged.is_empty() || !is_out || up.is_broken {
        return Err(malformed("the upstream changed the protocol before the request was whole"));
    }
    Ok(chosen)
}

/// The exchange becomes a tunnel, whose 101 is staged.
pub(super) fn become_tunnel(common: &mut Common, turn: &mut Turn<'_>) {
    // Nothing is sent again or chosen any more, and a tunnel may last for days.
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

/// What a 426 must tell the client to use (RFC 9110 §15.5.22). In other responses `Upgrade` only
/// advertises, and ends here.
pub(super) fn wanted_instead(head: &ResponseHead<'_, '_>, version: Version) -> Option<Protocols> {
    if head.status != 426 || version < Version::Http11 {
        return None;
    }
    head.protocols()?.forwardable()
}
