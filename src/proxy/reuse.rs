//! Connections used more than once: one taken from the pool, one given back, or kept for a client alone.
//!
//! A server may close a connection it kept at any moment, so also in the moment in which the next
//! request is on its way. Nobody can tell whether that request was seen. One that may be repeated
//! (idempotent, without content: RFC 9110 §9.2.2) therefore goes out once more, on a connection of
//! its own, as long as nothing of an answer has reached the client (RFC 9112 §9.3.1). Every other
//! gets a 502; so it takes a kept connection only if that was in use a moment ago, and no server's
//! timer can have run out meanwhile, and else one of its own from the start.

use std::sync::Arc;

use crate::net::poll::Wake;
use crate::upstream::pool::{Former, Kept};

use super::common::Common;
use super::context::Turn;
use super::pinned::Pinned;
use super::sides::{ClientSide, SECOND, UPSTREAM, Upstream};

/// As the former owner of a connection: the second of two attempts won under its own tag, and an edge
/// of it may still have been on its way then.
fn former(waker: &Arc<dyn Wake>) -> Former<'_> {
    Former { who: &**waker, tags: UPSTREAM..=SECOND }
}

/// An idle connection to the next hop, if there is one that this request may go out on.
pub(super) fn take_kept(
    common: &mut Common,
    client: &ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Option<Kept> {
    let owner = client.owner(UPSTREAM);
    let repeatable = common.intent.repeatable;
    // Who it was made for may be allowed more than this one.
    let fits = |address| common.may_use(address);
    let kept = turn.ctx.pool.take(common.peer.key(), &owner, repeatable, fits, turn.now)?;
    reuses(common, turn);
    Some(kept)
}

/// The connection that the client has logged in on, if it leads there. Else that one is closed.
#[cold]
pub(super) fn take_pinned(
    common: &mut Common,
    client: &mut ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Option<Kept> {
    let pinned = client.pinned.take()?;
    let epoch = turn.ctx.pool.names_epoch();
    let kept = pinned.into_kept(&common.peer, &common.terms.user, epoch)?;
    if !common.may_use(kept.address) {
        return None;
    }
    common.pins = true;
    reuses(common, turn);
    Some(kept)
}

/// The request goes out on a kept connection, which may turn out to be dead.
fn reuses(common: &mut Common, turn: &Turn<'_>) {
    common.retries = u8::from(common.intent.repeatable);
    turn.counters.count(|c| c.upstream_reuses += 1);
}

/// The response is whole, and so is the request: the connection is kept if it can be. Answers one that
/// is its client's alone.
pub(super) fn keep(
    upstream: Upstream,
    common: &Common,
    waker: &Arc<dyn Wake>,
    turn: &mut Turn<'_>,
) -> Option<Box<Pinned>> {
    let Upstream { mut half, address, lease } = upstream;
    // Bytes past the end of a response would answer the next request.
    // After a receive that filled its buffer only the socket knows whether there are more.
    let is_clean = half.buffer.is_empty()
        && !half.ended
        && !(half.stream.is_readable() && half.stream.is_stale());
    turn.buffers.discard(&mut half.buffer);
    if !is_clean {
        half.stream.part();
        return None;
    }
    let kept = Kept { stream: half.stream, address, lease };
    if common.pins {
        return Some(Pinned::new(kept, &common.peer, &common.terms.user));
    }
    turn.ctx.pool.put(common.peer.key(), kept, former(waker), turn.now);
    None
}
