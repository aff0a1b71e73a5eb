//! One exchange, or one tunnel: its stages, from a decided request to its last byte.
//!
//! ```text
//!           held by a rate      name, addresses          connection
//! begin ──┬───▶ Gate ───┬──▶ Connecting ──────────────┬─▶ Relay ──▶ finished
//!         │             │        ▲                    │     │ 101
//!         ├─────────────┘        │ resend             │     ▼
//!         │ pooled connection    │            CONNECT └─▶ Tunnel ──▶ finished
//!         ├──────────────────────┼────────────────────▶ Relay
//!         │                      └──────────────────────┘
//!         │ refused, failed, our own page
//!         └──▶ Reply ──▶ finished
//! ```
//!
//! Each stage owns its own state; the state that outlives a stage is in `common`. Request and response
//! flow at the same time, so that an answer that comes while the request is still going out is passed
//! on. Any step may fail with an [`Error`], which `session` turns into a reply or a closed connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Side};
use crate::net::poll::{Edge, Wake};
use crate::net::stream::Stream;
use crate::observe::stats::Wait;
use crate::upstream::pool::Lease;
use crate::wire::{Framing, Method};

use super::account::{Account, Spent};
use super::blame::{client_gone, client_is_stuck, lookup_expired, tunnel_reset};
use super::common::{Common, KEPT};
use super::connect::Connecting;
use super::content::{Coding, Content};
use super::context::Turn;
use super::half::Half;
use super::hello_gate::HelloGate;
use super::log_note::heads_bytes;
use super::pinned::Pinned;
use super::relay::{Relay, RelayStep};
use super::reuse;
use super::sides::{ClientSide, Progress, UPSTREAM, Upstream};
use super::tunnel::Tunnel;
use super::upgrade;
use super::waiting::Edges;

/// The stage that the exchange is in.
#[derive(Debug, Default)]
enum Stage {
    /// A rate holds the request back.
    Gate,
    /// A connection is being made.
    Connecting(Connecting),
    /// Connected: messages go both ways.
    Relay(Relay),
    /// Connected by CONNECT, or changed to another protocol: bytes go both ways.
    Tunnel(Tunnel),
    /// Our own reply is on its way; there is no upstream.
    #[default]
    Reply,
}

impl Stage {
    fn upstream(&mut self) -> Option<&mut Upstream> {
        match self {
            Self::Relay(relay) => Some(&mut relay.upstream),
            Self::Tunnel(tunnel) => tunnel.upstream.as_mut(),
            Self::Gate | Self::Connecting(_) | Self::Reply => None,
        }
    }

    fn upstream_half(&mut self) -> Option<&mut Half> {
        self.upstream().map(|upstream| &mut upstream.half)
    }
}

/// One exchange. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub struct Exchange {
    pub(super) common: Common,
    stage: Stage,
}

impl Exchange {
    /// Makes the exchange ready for a new request; the memory is kept.
    pub fn reset(&mut self, started: Instant) {
        self.common.reset(started);
        self.stage = Stage::Reply;
    }

    /// Gives back the memory that should not be kept for the next request.
    pub fn trim(&mut self, turn: &mut Turn<'_>) {
        if let Some(half) = self.stage.upstream_half() {
            if half.stream.has_layer() && !self.common.account.is_aborted {
                // As much as goes out now: nobody waits for the rest.
                let _ = half.stream.finish();
            }
            turn.buffers.discard(&mut half.buffer);
        }
        self.stage = Stage::Reply;
        self.common.trim(turn);
    }

    /// When the present wait ends at the latest.
    pub fn deadline(&self, fallback: Instant) -> Instant {
        self.common.deadline.unwrap_or(fallback)
    }

    /// When to come back even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let Common { wake_at, allowance, .. } = &self.common;
        if !allowance.is_limited() {
            return *wake_at;
        }
        wake_at.iter().copied().chain(allowance.wake_at()).min()
    }

    /// Whether limits apply to the exchange.
    pub fn is_limited(&self) -> bool {
        self.common.allowance.is_limited()
    }

    /// Whether bytes go both ways without framing.
    pub fn is_tunnel(&self) -> bool {
        self.common.account.is_tunnel
    }

    /// Whether a tunnel's client has been sent all the bytes there were, and the end.
    pub fn is_one_way(&self) -> bool {
        self.is_tunnel() && self.common.down.flow.is_over()
    }

    /// Whether a tunnel has lost its upstream, so that only its client is still to be told.
    pub fn has_parted(&self) -> bool {
        let has_parted = matches!(&self.stage, Stage::Tunnel(tunnel) if tunnel.has_parted());
        has_parted && !self.common.account.is_aborted
    }

    /// Keeps the reason of the parting; only the client is still to be told.
    pub fn note_parting(&mut self, error: Error, turn: &Turn<'_>) {
        self.common.account.failure = Some(error);
        self.common.close = true;
        self.common.wake_at = None;
        self.common.deadline = Some(turn.now + turn.ctx.timeouts.head);
    }

    /// Whether a reply of ours can still be sent, because none of the final response has gone out. The
    /// staged part of the final response is dropped; interim responses stay.
    pub fn make_way_for_reply(&mut self) -> bool {
        let staged = match &self.stage {
            Stage::Gate | Stage::Connecting(_) => return true,
            Stage::Reply => return self.common.account.status == 0,
            Stage::Tunnel(_) => return false,
            Stage::Relay(relay) => match relay.response.staged_at() {
                None => return !relay.response.has_begun(),
                Some(staged) => staged,
            },
        };
        let down = &mut self.common.down;
        if down.flow.sent() > staged {
            return false;
        }
        let interim = usize::try_from(staged - down.flow.sent()).unwrap_or(0);
        down.staged.truncate(interim);
        true
    }

    /// Whether the exchange ended without the reply or response that it should have had.
    pub fn is_aborted(&self) -> bool {
        self.common.account.is_aborted
    }

    /// Whether the whole request is out of the client's connection: the next bytes there are another
    /// one.
    pub fn request_is_clear(&self) -> bool {
        self.common.up.flow.is_clear()
    }

    /// Whether only the connection's end marks the end of what the client gets. A plain close would then
    /// look like the regular end, and only a reset tells the client that something is missing.
    pub fn looks_whole_by_its_end(&self) -> bool {
        self.is_tunnel() || self.common.down.flow.ends_by_closing()
    }

    /// The reason of the failure, if the exchange failed.
    pub fn failure(&self) -> Option<&Error> {
        self.common.account.failure.as_ref()
    }

    /// Begins an allowed request, whose head to pass on is kept: finds a connection for it.
    pub fn begin(&mut self, framing: Framing, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) {
        let common = &mut self.common;
        common.account.times.head = Some(turn.clock());
        common.up.goes_on_with(match common.intent.method {
            Method::Connect => Content::until_close(Coding::Keep),
            _ => Content::of_request(framing),
        });
        common.deadline = Some(turn.now + turn.ctx.timeouts.connect);
        if common.allowance.counts_bytes() {
            client.half.limit();
            client.half.charge(usize::try_from(common.intent.head_bytes).unwrap_or(0));
            self.stage = Stage::Gate;
            return;
        }
        self.go(client, turn);
    }

    /// Finds a connection for the request: a kept one, or a new one.
    fn go(&mut self, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) {
        let common = &mut self.common;
        common.peer.direct(&common.intent.destination);
        common.pins = common.intent.logs_in;
        let is_connect = common.intent.method == Method::Connect;
        if !is_connect {
            common.stage_head(turn);
        }
        if client.pinned.is_some() {
            // Bytes in a tunnel must not be taken for those of the user who logged in.
            if is_connect {
                *client.pinned = None;
            } else if let Some(kept) = reuse::take_pinned(common, client, turn) {
                return self.connected(kept.stream, kept.address, Some(kept.lease), client, turn);
            }
        }
        // A login begins on a connection that nobody has used.
        if !is_connect
            && !common.pins
            && let Some(kept) = reuse::take_kept(common, client, turn)
        {
            return self.connected(kept.stream, kept.address, Some(kept.lease), client, turn);
        }
        self.stage = Stage::Connecting(Connecting::new(common, turn));
    }

    fn connected(
        &mut self,
        stream: Stream,
        address: SocketAddr,
        kept: Option<Lease>,
        client: &ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) {
        let common = &mut self.common;
        let account = &mut common.account;
        account.reused = kept.is_some();
        account.upstream = Some(address);
        if !account.reused {
            account.times.connect = Some(turn.clock());
        }
        if common.terms.addresses.settles() {
            common.settle(address, turn);
        }
        if common.retries == 0 {
            // The head will not be needed again, and an upload may last.
            common.head.trim(KEPT);
        }
        let lease = kept.unwrap_or_else(|| turn.ctx.pool.lease(turn.now));
        let mut half = Half::new(stream);
        if common.allowance.counts_bytes() {
            half.limit();
        }
        let upstream = Upstream { half, address, lease };
        common.wake_at = None;
        if common.intent.method == Method::Connect {
            self.stage = Stage::Tunnel(open_tunnel(upstream, common, client, turn));
        } else {
            common.deadline = Some(turn.now + turn.ctx.timeouts.response);
            self.stage = Stage::Relay(Relay::new(upstream));
        }
    }

    /// Makes a reply of ours, which is staged, the whole response.
    pub fn reply_only(&mut self, status: u16, failure: Option<Error>, turn: &mut Turn<'_>) {
        if let Some(half) = self.stage.upstream_half() {
            turn.buffers.discard(&mut half.buffer);
        }
        self.stage = Stage::Reply;
        let common = &mut self.common;
        common.down.goes_on_with(Content::empty());
        let heads = heads_bytes(common.down.staged.unread()) as u64;
        common.account.heads = common.down.flow.sent() + heads;
        common.account.status = status;
        common.account.failure = failure;
        common.wake_at = None;
        common.deadline = Some(turn.now + turn.ctx.timeouts.response);
    }

    /// Ends the exchange here, without a reply.
    pub fn abort(&mut self, failure: Error) {
        self.common.account.failure = Some(failure);
        self.common.account.is_aborted = true;
        self.common.close = true;
        if self.is_tunnel()
            && let Some(half) = self.stage.upstream_half()
        {
            half.stream.reset_on_close();
        }
    }

    /// Goes as far as it can without waiting.
    ///
    /// # Errors
    ///
    /// The exchange has failed. Reply if [that is still possible](Self::make_way_for_reply), otherwise
    /// close.
    pub fn advance(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        loop {
            if self.common.deadline.is_some_and(|at| at <= turn.now) {
                return Err(self.expired(client));
            }
            self.notice_resets(client)?;
            self.follow_limits(client, turn);
            self.listen_to_client(client, turn)?;
            let common = &mut self.common;
            match &mut self.stage {
                Stage::Gate => {
                    let bytes = common.intent.head_bytes;
                    match common.allowance.lets_go(bytes, client.half, turn) {
                        Ok(go) => {
                            common.wait_on(turn);
                            if !go {
                                return Ok(Progress::Wait(None));
                            }
                            self.go(client, turn);
                        }
                        Err(e) => return self.ended_by(e, turn),
                    }
                }
                Stage::Connecting(connecting) => match connecting.step(common, client, turn)? {
                    None => return Ok(Progress::Wait(None)),
                    Some((stream, address)) => {
                        self.connected(stream, address, None, client, turn);
                    }
                },
                Stage::Relay(relay) => match relay.step(common, client, turn) {
                    Ok(RelayStep::Progress(progress)) => return Ok(progress),
                    Ok(RelayStep::Upgraded) => self.change_protocol(turn),
                    Err(e) if relay.may_resend(&e, common, turn) => self.resend(turn),
                    Err(e) => return self.ended_by(e, turn),
                },
                Stage::Tunnel(tunnel) => {
                    let progress = tunnel.step(common, client, turn);
                    return progress.or_else(|e| self.ended_by(e, turn));
                }
                Stage::Reply => {
                    return match common.down.flush(&mut client.half.stream) {
                        Ok(true) => Ok(Progress::Finished),
                        Ok(false) => Ok(Progress::Wait(None)),
                        Err(e) => Err(client_gone(e)),
                    };
                }
            }
        }
    }

    /// Makes the exchange a tunnel. The 101 is staged; the bytes behind it, on both sides, have no
    /// framing.
    fn change_protocol(&mut self, turn: &mut Turn<'_>) {
        // Counted as a tunnel before the stage is one, so that the count survives a panic.
        upgrade::become_tunnel(&mut self.common, turn);
        if let Stage::Relay(relay) = std::mem::take(&mut self.stage) {
            self.stage = Stage::Tunnel(Tunnel::new(relay.upstream, None));
        }
    }

    /// Sends the request again on a fresh connection, because the pooled one was dead.
    fn resend(&mut self, turn: &mut Turn<'_>) {
        turn.counters.count(|c| c.resends += 1);
        if let Some(half) = self.stage.upstream_half() {
            turn.buffers.discard(&mut half.buffer);
        }
        let common = &mut self.common;
        common.retries -= 1;
        common.stage_head(turn);
        common.up.reset();
        let Account { repairs, times, upstream, .. } = &mut common.account;
        (*repairs, times.sent, *upstream) = (Default::default(), None, None);
        // Not from the pool again: other idle connections to the same server may be dead, too.
        self.stage = Stage::Connecting(Connecting::new(common, turn));
    }

    /// The error for the wait that was too long.
    fn expired(&self, client: &ClientSide<'_>) -> Error {
        match &self.stage {
            // A wait at the gate ends only by time.
            Stage::Gate => lookup_expired(),
            Stage::Connecting(connecting) => connecting.expired(),
            Stage::Relay(relay) => relay.expired(&self.common, client.half),
            Stage::Tunnel(tunnel) => tunnel.expired(),
            Stage::Reply => client_is_stuck(),
        }
    }

    /// Notices a reset even where nothing is received from the peer now.
    fn notice_resets(&mut self, client: &mut ClientSide<'_>) -> Result<(), Error> {
        if let Some(e) = client.half.stream.broken() {
            return Err(match self.is_tunnel() {
                true => tunnel_reset(Side::Client, e),
                false => client_gone(e),
            });
        }
        match &mut self.stage {
            Stage::Tunnel(tunnel) => tunnel.notice_reset(&mut self.common),
            _ => Ok(()),
        }
    }

    /// Applies the limits that are in force now.
    #[inline]
    fn follow_limits(&mut self, client: &mut ClientSide<'_>, turn: &Turn<'_>) {
        if matches!(self.stage, Stage::Reply) {
            return;
        }
        let Common { allowance, terms, intent, .. } = &mut self.common;
        let wanted = (terms.user.as_str(), &intent.destination);
        let halves = (&mut *client.half, self.stage.upstream_half());
        allowance.follow(client.asker, wanted, halves, turn);
    }

    /// Notices a client that has gone while only the upstream is awaited. Other bytes of the client are
    /// its next request. An end is a half-close, and such a client still gets its answer.
    fn listen_to_client(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Error> {
        let flows = match self.stage {
            Stage::Tunnel(_) => true,
            Stage::Relay(_) => !self.common.up.flow.is_taken(),
            Stage::Gate | Stage::Connecting(_) | Stage::Reply => false,
        };
        let half = &mut *client.half;
        while !flows && half.stream.is_readable() && !half.ended {
            turn.buffers.lend(&mut half.buffer);
            if half.buffer.room() == 0 {
                break;
            }
            if let Err(e) = half.receive() {
                return Err(client_gone(e));
            }
        }
        Ok(())
    }

    /// Records the limit that ended the exchange, if one did.
    #[cold]
    fn ended_by<T>(&mut self, e: Error, turn: &Turn<'_>) -> Result<T, Error> {
        if let Some(rule) = self.common.allowance.take_met(turn) {
            self.common.account.ended_by(rule, turn);
        }
        Err(e)
    }

    /// Ends the exchange: reports to counters and log, and gives the connection back to the pool if
    /// possible. Returns the connection instead if it is reserved for this client.
    pub fn conclude(
        &mut self,
        address: SocketAddr,
        waker: &Arc<dyn Wake>,
        turn: &mut Turn<'_>,
    ) -> Option<Box<Pinned>> {
        let now = turn.clock();
        let common = &self.common;
        let Common { account, intent, .. } = common;
        let repairs = account.repairs.union(common.down.flow.repairs());
        if !repairs.is_empty() {
            Account::tell_repairs(intent, repairs, turn);
        }
        let totals = common.totals();
        if !intent.front.is_admin() {
            let mut spent = Spent::default();
            turn.counters.count(|c| spent = account.count(intent, totals, now, c));
            if turn.ctx.access_log.is_some() {
                account.tell(&common.terms.user, totals, spent, address, turn);
            }
        }
        let pinned = match &self.stage {
            Stage::Relay(relay) if relay.is_reusable(common) => {
                match std::mem::take(&mut self.stage) {
                    Stage::Relay(relay) => reuse::keep(relay.upstream, common, waker, turn),
                    _ => None,
                }
            }
            _ => None,
        };
        if !self.common.intent.front.is_admin()
            && let Some(quota) = &turn.ctx.quota
        {
            quota.spend();
        }
        pinned
    }

    /// What the exchange waits for, while it waits.
    pub fn wait(&self) -> Wait {
        match &self.stage {
            _ if self.common.allowance.is_dry() => Wait::Tokens,
            Stage::Gate => Wait::Tokens,
            Stage::Connecting(connecting) => connecting.wait(),
            Stage::Relay(relay) => relay.wait(&self.common),
            Stage::Tunnel(_) => Wait::Tunnel,
            Stage::Reply => Wait::Reply,
        }
    }

    /// Whether these edges are worth a turn.
    pub(super) fn heeds(&self, edges: &Edges, client: &Half) -> bool {
        let upstream = match &self.stage {
            Stage::Relay(relay) => Some(&relay.upstream.half),
            Stage::Tunnel(tunnel) => tunnel.upstream.as_ref().map(|upstream| &upstream.half),
            _ => None,
        };
        self.common.allowance.heeds(edges, client, upstream)
    }

    /// Records an edge on one of the exchange's sockets.
    pub fn note(&mut self, tag: u32, edge: Edge) {
        match &mut self.stage {
            Stage::Connecting(connecting) => connecting.note(tag, edge),
            stage => {
                if let Some(half) = stage.upstream_half() {
                    half.stream.note(edge);
                }
            }
        }
    }

    /// Makes edges of the upstream's socket reach the session.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub fn watch(&mut self, client: &ClientSide<'_>, turn: &Turn<'_>) -> io::Result<()> {
        let Some(half) = self.stage.upstream_half() else { return Ok(()) };
        let write = !half.stream.is_writable();
        half.stream.watch(&turn.ctx.poller, &client.owner(UPSTREAM), write)
    }

    /// Gives back empty buffers, because the session is about to wait.
    pub fn reclaim(&mut self, turn: &mut Turn<'_>) {
        turn.buffers.reclaim(&mut self.common.up.staged);
        turn.buffers.reclaim(&mut self.common.down.staged);
        if let Some(half) = self.stage.upstream_half() {
            turn.buffers.settle(&mut half.buffer);
        }
    }

    /// The upstream's connection, so that the worker can wait for it.
    pub fn upstream_half(&mut self) -> Option<&mut Half> {
        self.stage.upstream_half()
    }

    /// Counts bytes of the response that were received outside a step.
    pub fn add_received(&mut self, bytes: usize) {
        if let Stage::Relay(relay) = &mut self.stage {
            relay.response.received(bytes);
        }
    }
}

/// Turns a connected CONNECT into a tunnel; from now on bytes flow without framing.
fn open_tunnel(
    upstream: Upstream,
    common: &mut Common,
    client: &ClientSide<'_>,
    turn: &mut Turn<'_>,
) -> Tunnel {
    common.account.is_tunnel = true;
    common.account.status = 200;
    common.down.goes_on_with(Content::until_close(Coding::Keep));
    let staged = &mut common.down.staged;
    turn.buffers.lend(staged);
    staged.tail().extend_from_slice(client.asker.front.established());
    common.account.heads = staged.len() as u64;
    turn.counters.count(|c| c.tunnels_opened += 1);
    common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
    let asker = client.asker;
    let gate = common.terms.reads_hello;
    let gate = gate.then(|| Box::new(HelloGate::new(asker.listener, asker.address.ip())));
    Tunnel::new(upstream, gate)
}
