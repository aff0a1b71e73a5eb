//! Uses connections more than once: takes one from the pool, gives one back, or reserves one for a
//! client.
//!
//! A server may close a kept connection at any moment, even while the next request is on its way. Then
//! nobody can tell whether the server has seen the request. A request that may be repeated (idempotent,
//! without content: RFC 9110 §9.2.2) therefore goes out once more, on a new connection, if no part of an
//! answer has reached the client (RFC 9112 §9.3.1). Every other request gets a 502. It therefore takes a
//! kept connection only if that was in use a moment ago, so that no server's timer can have run out.
//! Otherwise it gets a new connection from the start.

use std::sync::Arc;

use crate::net::poll::Wake;
use crate::upstream::pool::{Former, Kept};

use super::common::Common;
use super::context::Turn;
use super::pinned::Pinned;
use super::sides::{ClientSide, SECOND, UPSTREAM, Upstream};

/// The former owner of a connection. It includes the tag of the second of two attempts, which may have
/// won: an edge of it may still have been on its way then.
fn former(waker: &Arc<dyn Wake>) -> Former<'_> {
    Former { who: &**waker, tags: UPSTREAM..=SECOND }
}

/// An idle connection to the next hop, if this request may use one.
pub(super) fn take_kept(
    common: &mut Common,
    client: &ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Option<Kept> {
    let owner = client.owner(UPSTREAM);
    let repeatable = common.intent.repeatable;
    // The client it was made for may be allowed more than this one.
    let fits = |address| common.may_use(address);
    let kept = turn.ctx.pool.take(common.peer.key(), &owner, repeatable, fits, turn.now)?;
    reuses(common, turn);
    Some(kept)
}

/// The connection that the client has logged in on, if it leads to the destination. Otherwise that one
/// is closed.
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

/// Records that the request goes out on a kept connection, which may turn out to be dead.
fn reuses(common: &mut Common, turn: &Turn<'_>) {
    common.retries = u8::from(common.intent.repeatable);
    turn.counters.count(|c| c.upstream_reuses += 1);
}

/// Keeps the connection if possible, after a complete request and response. Returns it if it is reserved
/// for this client.
pub(super) fn keep(
    upstream: Upstream,
    common: &Common,
    waker: &Arc<dyn Wake>,
    turn: &mut Turn<'_>,
) -> Option<Box<Pinned>> {
    let Upstream { mut half, address, lease } = upstream;
    // Bytes past the end of a response would be taken for the answer to the next request. After a
    // receive that filled its buffer only the socket knows whether there are more.
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
