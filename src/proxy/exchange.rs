//! One exchange or tunnel: its stages, and the loop over them.
//!
//! ```text
//!           name                        addresses           connection
//! begin ──────────▶ Lookup ───────────▶ Dial ───────────┬─▶ Relay ──▶ finished
//!   │ literal address                     ▲             │     │ 101
//!   ├─────────────────────────────────────┤             │     ▼
//!   │                                     │     CONNECT └─▶ Tunnel ──▶ finished
//!   │ pooled connection                   │ resend
//!   ├─────────────────────────────────────┼────────────────▶ Relay
//!   │                                     └──────────────────┘
//!   │ refused, failed, our own page
//!   └──▶ Reply ──▶ finished
//! ```
//!
//! Request and response flow at the same time, so that an answer that comes while the request is
//! still going out is passed on. Any step may fail with an [`Error`]; `session` makes a reply or a
//! closed connection of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::buffer::Buffer;
use crate::net::dial::{Addresses, Dial};
use crate::net::poll::{Edge, Owner, Wake};
use crate::net::resolve::AwaitedLookup;
use crate::net::stream::Stream;
use crate::policy::decide::Reach;
use crate::policy::response_rules::Judge;
use crate::policy::rule_origin::RuleId;
use crate::upstream::pool::Lease;
use crate::wire::head::HeadScan;
use crate::wire::{Framing, Method, Protocols, Repairs};

use super::Turn;
use super::facts::{Destination, Facts, Times};
use super::flow::{Coding, End, Flow};
use super::hold::Hold;
use super::limits::Limited;
use super::noted::{Noted, heads_octets};
use super::pinned::Pinned;
use super::request::{Asker, Service};

/// Tag of the client's socket.
pub const CLIENT: u32 = 0;
/// Tag of the upstream's socket, and of the first of two that are being connected.
pub const UPSTREAM: u32 = 1;
/// Tag of the second socket that is being connected.
pub const SECOND: u32 = 2;
/// How many sockets a session can have.
pub const SOCKETS: usize = 3;

/// Where the exchange has come to.
#[derive(Debug, Default)]
pub(super) enum Stage {
    /// A rate lets the request go on later.
    Held,
    /// The name's addresses are awaited, once they were asked for.
    Lookup(Option<Box<AwaitedLookup>>),
    /// A connection is being made. Boxed: most exchanges never dial.
    Dial(Box<Dial>),
    /// Connected: messages go both ways.
    Relay,
    /// Connected by CONNECT, or changed to another protocol: octets go both ways.
    Tunnel,
    /// Our own reply is on its way; there is no upstream.
    #[default]
    Reply,
}

/// The connection an exchange goes out on.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) end: End,
    pub(super) address: Option<SocketAddr>,
    pub(super) lease: Lease,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Nothing more can be done now. If it is known, this socket (by tag) is next to be ready.
    Wait(Option<u32>),
    /// The turn is spent.
    Spent,
    /// The last octet has gone to the client.
    Finished,
}

/// The client's side of an exchange, as its session has it.
pub struct ClientSide<'s> {
    /// The connection.
    pub end: &'s mut End,
    /// Who is told about sockets and lookups.
    pub waker: &'s Arc<dyn Wake>,
    /// Who it is.
    pub asker: &'s Asker,
    /// The upstream connection that it has logged in on, while no exchange has it.
    pub pinned: &'s mut Option<Box<Pinned>>,
}

impl ClientSide<'_> {
    pub(super) fn owner(&self, tag: u32) -> Owner {
        Owner { who: Arc::clone(self.waker), tag }
    }
}

/// One exchange. Its memory is used again for the next one.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What the request said.
    pub facts: Facts,
    /// Where it goes.
    pub destination: Destination,
    /// Octets on their way to the upstream: the head, as `request` writes it.
    pub to_upstream: Buffer,
    /// Octets on their way to the client: heads and replies.
    pub to_client: Buffer,
    /// What of the request the access log will say.
    pub noted: Noted,
    /// Which addresses it may be connected to.
    pub reach: Reach,
    /// Who asks; empty if nobody has to say.
    pub user: String,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// That rule would have refused it, if it were enforced.
    pub would_deny: bool,
    /// What the upstream was offered to change to.
    pub offer: Option<Protocols>,
    /// Octets of the request head as received.
    pub head_octets: u64,
    /// Octets of the request head as it goes on.
    pub onward_octets: u64,
    /// The connection ends after this exchange.
    pub close: bool,
    /// What the listener that it came to is for.
    pub service: Service,
    /// Status of the final response; 0 while there is none.
    pub status: u16,
    pub(super) stage: Stage,
    pub(super) upstream: Option<Upstream>,
    /// The connection it went out on last had been kept.
    pub(super) reused: bool,
    /// The last address that could not be connected to, or whose answer was not passed on.
    pub(super) tried: Option<SocketAddr>,
    pub(super) request: Flow,
    pub(super) response: Flow,
    /// The request as sent on a reused connection, in case it has to be sent again.
    pub(super) resend: Vec<u8>,
    /// The upstream takes no more of the request; what it says is still passed on.
    pub(super) upload_broken: bool,
    /// The response head as far as it was looked at, and how many interim ones came before it.
    pub(super) scanned: HeadScan,
    pub(super) interim: u32,
    /// What was mended in the heads of responses.
    pub(super) repairs: Repairs,
    /// Octets of the response received so far.
    pub(super) response_octets: u64,
    /// The upstream's connection can be used again.
    pub(super) upstream_persists: bool,
    /// There may be content that must not follow the response. Some servers send it all the same, and
    /// behind the head: the next response on the connection might be that.
    pub(super) withholds: bool,
    /// The upstream's connection is this client's alone, because it logs in on it.
    pub(super) bound: bool,
    /// The final response's head was staged: a reply of ours can no longer take its place.
    pub(super) begun: bool,
    /// How many octets to the client there were, sent or staged, before the final response's head,
    /// and how many with it.
    pub(super) staged_at: Option<u64>,
    pub(super) heads: u64,
    pub(super) times: Times,
    pub(super) deadline: Option<Instant>,
    pub(super) wake_at: Option<Instant>,
    /// The era of the pool in which the upstream was looked for.
    pub(super) era: u32,
    /// What the client sends into a tunnel is not to go on yet.
    pub(super) hold: Option<Box<Hold>>,
    /// Whoever judges the response, if it is judged.
    pub(super) judge: Option<Arc<Judge>>,
    /// The kernel looks after the upstream's connection of a tunnel.
    pub(super) probed: bool,
    pub(super) failure: Option<Error>,
    /// What limits have to do with it, if there are any.
    pub(super) limited: Option<Box<Limited>>,
    aborted: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self::empty()
    }
}

impl Exchange {
    /// Makes the exchange ready for a new request; the memory stays.
    pub fn reset(&mut self, started: Instant) {
        // Field by field: to take the whole and put a part of it back would copy it twice more.
        *self = Self {
            destination: std::mem::take(&mut self.destination),
            to_upstream: std::mem::take(&mut self.to_upstream),
            to_client: std::mem::take(&mut self.to_client),
            noted: std::mem::take(&mut self.noted),
            resend: std::mem::take(&mut self.resend),
            reach: std::mem::take(&mut self.reach),
            user: std::mem::take(&mut self.user),
            ..Self::default()
        };
        self.noted.clear();
        self.reach.clear();
        self.user.clear();
        self.destination.authority.clear();
        self.resend.clear();
        self.times.started = Some(started);
    }

    /// Gives back what should not be kept for the next request.
    pub fn trim(&mut self, turn: &mut Turn<'_>) {
        turn.buffers.discard(&mut self.to_upstream);
        turn.buffers.discard(&mut self.to_client);
        if let Some(upstream) = &mut self.upstream {
            turn.buffers.discard(&mut upstream.end.buffer);
        }
        self.upstream = None;
        self.hold = None;
        self.judge = None;
        self.request.drop_pipe();
        self.response.drop_pipe();
        self.stage = Stage::Reply;
        self.failure = None;
        self.limited = None;
        const KEPT: usize = 4096;
        if self.resend.capacity() > KEPT {
            self.resend = Vec::new();
        }
        self.noted.trim();
    }

    /// Until when the present wait may last.
    pub fn deadline(&self, fallback: Instant) -> Instant {
        self.deadline.unwrap_or(fallback)
    }

    /// When to come back even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let Some(limited) = &self.limited else { return self.wake_at };
        self.wake_at.into_iter().chain(limited.wake_at()).min()
    }

    /// Whether octets go both ways without framing.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.stage, Stage::Tunnel)
    }

    /// Whether a reply of ours can still be sent: none of the final response has gone out. What is
    /// staged of it is dropped, interim responses stay.
    pub fn make_way_for_reply(&mut self) -> bool {
        let Some(staged) = self.staged_at else { return !self.begun };
        if self.is_tunnel() || self.response.sent() > staged {
            return false;
        }
        let interim = usize::try_from(staged - self.response.sent()).unwrap_or(0);
        self.to_client.truncate(interim);
        true
    }

    /// Whether it ended without the reply, or the response, it should have had.
    pub fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Whether all of the request is out of the client's connection: what comes there next is
    /// another one.
    pub fn request_is_clear(&self) -> bool {
        self.request.is_clear()
    }

    /// Whether the response's content ends by closing, so that a plain close would look like its
    /// end.
    pub fn ends_by_closing(&self) -> bool {
        self.begun && self.response.ends_by_closing()
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The request is decided and stands in `to_upstream` (but for a CONNECT): finds a connection.
    pub fn begin(&mut self, framing: Framing, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) {
        self.times.head = Some(turn.clock());
        self.request = match self.facts.method {
            Method::Connect => Flow::until_close(Coding::Keep),
            _ => Flow::framed(framing, Coding::Keep),
        };
        self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
        if self.begins_limited(client) {
            self.stage = Stage::Held;
            return;
        }
        self.go(client, turn);
    }

    /// Finds a connection for the request.
    fn go(&mut self, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) {
        let is_tunnel = self.facts.method == Method::Connect;
        if client.pinned.is_some() {
            // What goes through a tunnel is not to be taken for the user who logged in.
            if is_tunnel {
                *client.pinned = None;
            } else if self.take_pinned(client, turn) {
                return;
            }
        }
        // A login begins on a connection that nobody has used.
        if is_tunnel || self.bound || !self.take_kept(client, turn) {
            self.find(turn);
        }
    }

    /// A reply of ours, which stands in `to_client`, is all there will be.
    pub fn reply_only(&mut self, status: u16, failure: Option<Error>, turn: &mut Turn<'_>) {
        if let Some(upstream) = &mut self.upstream {
            turn.buffers.discard(&mut upstream.end.buffer);
            self.tried = upstream.address;
        }
        self.upstream = None;
        self.upstream_persists = false;
        self.stage = Stage::Reply;
        let sent = self.response.sent();
        self.response = Flow::empty();
        self.response.add_sent(sent);
        self.heads = sent + heads_octets(self.to_client.unread()) as u64;
        self.status = status;
        self.begun = true;
        // No other reply takes its place.
        self.staged_at = None;
        self.failure = failure;
        self.wake_at = None;
        self.deadline = Some(turn.now + turn.ctx.timeouts.response);
    }

    /// The exchange ends here, without a reply.
    pub fn abort(&mut self, failure: Error) {
        self.failure = Some(failure);
        self.aborted = true;
        self.close = true;
        if let Some(upstream) = &self.upstream
            && self.is_tunnel()
        {
            upstream.end.stream.reset_on_close();
        }
    }

    /// Content in this framing belongs to the request, and nobody will take it.
    pub fn leave_content(&mut self, framing: Framing) {
        self.request = Flow::framed(framing, Coding::Keep);
    }

    /// How many octets of content that nobody will take follow, if the head said.
    pub fn content_left(&self) -> Option<u64> {
        self.request.length_left()
    }

    /// Marks a request that never got this far as received.
    pub fn received(&mut self, turn: &Turn<'_>) {
        self.times.head = Some(turn.clock());
    }

    pub(super) fn find(&mut self, turn: &mut Turn<'_>) {
        self.stage = match self.destination.ip {
            Some(ip) => Stage::Dial(Box::new(Dial::new(Addresses::One(ip), self.destination.port))),
            None => Stage::Lookup(None),
        };
        self.era = turn.ctx.pool.era();
        self.reused = false;
        self.wake_at = None;
        self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
    }

    pub(super) fn connected(
        &mut self,
        stream: Stream,
        address: Option<SocketAddr>,
        kept: Option<Lease>,
        turn: &mut Turn<'_>,
    ) {
        self.reused = kept.is_some();
        if self.reach.settles()
            && let Some(address) = address
        {
            self.settle(address, turn);
        }
        let lease = kept.unwrap_or_else(|| turn.ctx.pool.lease(turn.now));
        let mut end = End::new(stream);
        self.limit_end(&mut end);
        self.upstream = Some(Upstream { end, address, lease });
        self.wake_at = None;
        if !self.reused {
            self.times.connect = Some(turn.clock());
        }
        if self.facts.method == Method::Connect {
            self.stage = Stage::Tunnel;
            self.status = 200;
            self.begun = true;
            self.response = Flow::until_close(Coding::Keep);
            // No content length, no transfer coding: what follows belongs to the tunnel.
            turn.buffers.lend(&mut self.to_client);
            self.to_client.tail().extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
            self.heads = self.to_client.len() as u64;
            turn.counters.count(|c| c.tunnels_opened += 1);
            self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
        } else {
            self.stage = Stage::Relay;
            self.deadline = Some(turn.now + turn.ctx.timeouts.response);
        }
    }

    /// Goes as far as it can without waiting.
    ///
    /// # Errors
    ///
    /// The exchange has failed; reply if [there is a way](Self::make_way_for_reply), else close.
    pub fn advance(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        loop {
            if self.deadline.is_some_and(|at| at <= turn.now) {
                return Err(self.expired(client));
            }
            self.notice_breaks(client)?;
            self.follow_limits(client, turn);
            self.listen_to_client(client, turn)?;
            match &mut self.stage {
                Stage::Held => match self.is_let_go(client, turn) {
                    Ok(true) => self.go(client, turn),
                    Ok(false) => return Ok(Progress::Wait(None)),
                    Err(e) => return self.ended_by(e, turn),
                },
                Stage::Lookup(_) => {
                    if !self.look_up(client, turn)? {
                        return Ok(Progress::Wait(None));
                    }
                }
                Stage::Dial(_) => {
                    if !self.dial(client, turn)? {
                        return Ok(Progress::Wait(None));
                    }
                }
                Stage::Relay => match self.relay(client, turn) {
                    Err(e) if self.may_resend(&e, turn) => self.resend(turn),
                    Err(e) => return self.ended_by(e, turn),
                    progress => return progress,
                },
                Stage::Tunnel => {
                    return self.tunnel(client, turn).or_else(|e| self.ended_by(e, turn));
                }
                Stage::Reply => {
                    let sink = &mut client.end.stream;
                    return match flush(&mut self.to_client, &mut self.response, sink) {
                        Ok(true) => Ok(Progress::Finished),
                        Ok(false) => Ok(Progress::Wait(None)),
                        Err(e) => Err(client_gone(e)),
                    };
                }
            }
        }
    }

    /// Notices a client that has gone while only the upstream is awaited. What else it says is the
    /// next request, or its end, which is a half-close and gets its answer.
    fn listen_to_client(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Error> {
        let flows = matches!(self.stage, Stage::Tunnel)
            || (matches!(self.stage, Stage::Relay) && !self.request.is_taken());
        while !flows && client.end.stream.is_readable() && !client.end.ended {
            turn.buffers.lend(&mut client.end.buffer);
            if client.end.buffer.room() == 0 {
                break;
            }
            if let Err(e) = client.end.receive() {
                return Err(client_gone(e));
            }
        }
        Ok(())
    }

    /// Notes an edge on one of the exchange's sockets.
    pub fn note(&mut self, tag: u32, edge: Edge) {
        match (&mut self.stage, &mut self.upstream) {
            (Stage::Dial(dial), _) => dial.note((tag - UPSTREAM) as usize, edge),
            (_, Some(upstream)) => upstream.end.stream.note(edge),
            _ => {}
        }
    }

    /// Sees to it that edges of the upstream's socket reach the session.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub fn watch(&mut self, client: &ClientSide<'_>, turn: &Turn<'_>) -> io::Result<()> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let stream = &mut upstream.end.stream;
        let write = !stream.is_writable();
        stream.watch(&turn.ctx.poller, &client.owner(UPSTREAM), write)
    }

    /// Gives buffers that hold nothing back, since the session is about to wait.
    pub fn reclaim(&mut self, turn: &mut Turn<'_>) {
        turn.buffers.reclaim(&mut self.to_upstream);
        turn.buffers.reclaim(&mut self.to_client);
        if let Some(upstream) = &mut self.upstream {
            turn.buffers.settle(&mut upstream.end.buffer);
        }
    }

    /// The upstream's connection, to be waited for on the worker.
    pub fn upstream_end(&mut self) -> Option<&mut End> {
        self.upstream.as_mut().map(|upstream| &mut upstream.end)
    }

    /// Octets of the response were received outside a step.
    pub fn add_received(&mut self, octets: usize) {
        self.response_octets += octets as u64;
    }
}

/// Sends staged octets. Answers whether all have gone.
pub(super) fn flush(out: &mut Buffer, flow: &mut Flow, sink: &mut Stream) -> io::Result<bool> {
    while !out.is_empty() && sink.is_writable() {
        let count = sink.send(out.unread())?;
        out.consume(count);
        flow.add_sent(count as u64);
    }
    Ok(out.is_empty())
}

pub(super) fn tunnel_reset(side: Side, e: io::Error) -> Error {
    let reason = match e.kind() {
        // Keepalive probes, or octets sent again and again, had no answer.
        io::ErrorKind::TimedOut => "a peer of the tunnel has vanished",
        _ => "a peer reset the tunnel",
    };
    Error::new(side, Phase::Transfer, Kind::ConnectionTerminated, reason).with_source(e)
}

pub(super) fn client_gone(e: io::Error) -> Error {
    let reason = "the client closed the connection";
    Error::new(Side::Client, Phase::Transfer, Kind::ClientGone, reason).with_source(e)
}
