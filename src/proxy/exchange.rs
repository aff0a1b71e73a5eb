//! One exchange, or one tunnel: the list of steps from a decided request to its last octet.
//!
//! ```text
//!           name                        addresses           connection
//! begin ──────────▶ Lookup ───────────▶ Dial ─────────────▶ Relay ──▶ finished
//!   │ pooled connection                   ▲                  │  ▲│
//!   ├─────────────────────────────────────┼──────────────────┼──┘└──▶ (CONNECT: both flows
//!   │ literal address                     │ resend           │        without framing)
//!   ├─────────────────────────────────────┘◀─────────────────┘
//!   │ refused, failed, our own page
//!   └──▶ Reply ──▶ finished
//! ```
//!
//! Request and response flow at the same time, so that an answer that comes while the request is
//! still going out is passed on. Any step may fail with an [`Error`]; `session` makes a reply or a
//! closed connection of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::buffer::Buffer;
use crate::net::dial::{Addresses, Dial, Dialed, Failure};
use crate::net::poll::{Edge, Owner, Wake};
use crate::net::resolve::Lookup;
use crate::net::stream::{Received, Stream};
use crate::observe::access_log::{Phases, Record, RecordKind};
use crate::policy::guard::Scope;
use crate::wire::detect::cannot_be_response;
use crate::wire::head::find_end;
use crate::wire::{
    Framing, Method, Recode, ResponseFraming, ResponseHead, ResponseOutgoing, Slots, Version,
};

use super::Turn;
use super::flow::{Broken, Coding, End, Flow, Step};

/// Tag of the client's socket.
pub const CLIENT: u32 = 0;
/// Tag of the upstream's socket, and of the first of two that are being connected.
pub const UPSTREAM: u32 = 1;
/// Tag of the second socket that is being connected.
pub const SECOND: u32 = 2;
/// How many sockets a session can have.
pub const SOCKETS: usize = 3;

/// Interim responses passed on for one request; more are taken for an attack.
const MAX_INTERIM: u8 = 16;

/// Where the exchange has come to.
#[derive(Debug, Default)]
enum Stage {
    /// The name's addresses are awaited.
    Lookup,
    /// A connection is being made. Boxed: most exchanges never dial.
    Dial(Box<Dial>),
    /// Connected: messages go both ways.
    Relay,
    /// Connected by CONNECT: octets go both ways.
    Tunnel,
    /// Our own reply is on its way; there is no upstream.
    #[default]
    Reply,
}

/// What the request said that matters later.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The method.
    pub method: Method,
    /// The version the client speaks.
    pub version: Version,
    /// The client can send another request on its connection.
    pub persistent: bool,
    /// The request may be sent again: idempotent, and without content.
    pub repeatable: bool,
    /// The client would rather read HTML.
    pub html: bool,
    /// Which destinations the listener allows.
    pub scope: Scope,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            method: Method::Other,
            version: Version::Http11,
            persistent: false,
            repeatable: false,
            html: false,
            scope: Scope::Protected,
        }
    }
}

/// Where a request goes.
#[derive(Debug, Default)]
pub struct Destination {
    /// `host:port`, lower case, IPv6 in brackets: the pool's key.
    pub authority: String,
    /// The host's length in `authority`.
    pub host_length: usize,
    /// The port.
    pub port: u16,
    /// The host, if it is an address.
    pub ip: Option<IpAddr>,
}

impl Destination {
    fn host(&self) -> &str {
        self.authority.get(..self.host_length).unwrap_or_default()
    }
}

/// When each phase ended; a phase that did not happen ends with the one before it.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    started: Option<Instant>,
    head: Option<Instant>,
    lookup: Option<Instant>,
    connect: Option<Instant>,
    sent: Option<Instant>,
    response: Option<Instant>,
}

/// The connection an exchange goes out on.
#[derive(Debug)]
struct Upstream {
    end: End,
    address: Option<SocketAddr>,
    reused: bool,
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
}

impl ClientSide<'_> {
    fn owner(&self, tag: u32) -> Owner {
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
    /// Method and target as received, and the method's length; for the access log.
    pub line: (Vec<u8>, usize),
    /// Octets of the request head as received.
    pub head_octets: u64,
    /// The connection ends after this exchange.
    pub close: bool,
    /// Status of the final response; 0 while there is none.
    pub status: u16,
    stage: Stage,
    upstream: Option<Upstream>,
    request: Flow,
    response: Flow,
    /// The request as sent on a reused connection, in case it has to be sent again.
    resend: Vec<u8>,
    /// The upstream takes no more of the request; what it says is still passed on.
    upload_broken: bool,
    /// The response head as far as it was looked at, and how many interim ones came before it.
    scanned: usize,
    interim: u8,
    /// Octets of the response received so far.
    response_octets: u64,
    /// The upstream's connection can be used again.
    upstream_persists: bool,
    /// The final response's head was staged: a reply of ours can no longer take its place.
    begun: bool,
    times: Times,
    deadline: Option<Instant>,
    wake_at: Option<Instant>,
    failure: Option<Error>,
}

impl Default for Flow {
    fn default() -> Self {
        Self::empty()
    }
}

impl Exchange {
    /// Makes the exchange ready for a new request; the memory stays.
    pub fn reset(&mut self, started: Instant) {
        let Self { destination, to_upstream, to_client, line, resend, .. } = std::mem::take(self);
        *self = Self { destination, to_upstream, to_client, line, resend, ..Self::default() };
        self.line.0.clear();
        self.line.1 = 0;
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
        self.stage = Stage::Reply;
        self.failure = None;
        const KEPT: usize = 4096;
        for kept in [&mut self.resend, &mut self.line.0] {
            if kept.capacity() > KEPT {
                *kept = Vec::new();
            }
        }
    }

    /// Until when the present wait may last.
    pub fn deadline(&self, fallback: Instant) -> Instant {
        self.deadline.unwrap_or(fallback)
    }

    /// When to come back even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether octets go both ways without framing.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.stage, Stage::Tunnel)
    }

    /// Whether a reply of ours can still be sent.
    pub fn can_reply(&self) -> bool {
        !self.begun && !self.is_tunnel()
    }

    /// Whether all of the request was taken from the client's connection.
    pub fn request_is_taken(&self) -> bool {
        self.request.is_taken()
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
    pub fn begin(&mut self, framing: Framing, client: &ClientSide<'_>, turn: &mut Turn<'_>) {
        self.times.head = Some(turn.clock());
        self.request = match self.facts.method {
            Method::Connect => Flow::until_close(Coding::Keep),
            _ => Flow::framed(framing, Coding::Keep),
        };
        self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
        if self.facts.method != Method::Connect {
            let owner = client.owner(UPSTREAM);
            let repeatable = self.facts.repeatable;
            let authority = &self.destination.authority;
            if let Some(stream) = turn.ctx.pool.take(authority, &owner, repeatable, turn.now) {
                if repeatable {
                    self.resend.extend_from_slice(self.to_upstream.unread());
                }
                turn.counters.count(|c| c.upstream_reuses += 1);
                self.connected(stream, None, true, turn);
                return;
            }
        }
        self.find(turn);
    }

    /// A reply of ours, which stands in `to_client`, is all there will be.
    pub fn reply_only(&mut self, status: u16, failure: Option<Error>, turn: &mut Turn<'_>) {
        if let Some(upstream) = &mut self.upstream {
            turn.buffers.discard(&mut upstream.end.buffer);
        }
        self.upstream = None;
        self.upstream_persists = false;
        self.stage = Stage::Reply;
        let sent = self.response.sent();
        self.response = Flow::empty();
        self.response.add_sent(sent);
        self.status = status;
        self.begun = true;
        self.failure = failure;
        self.wake_at = None;
        self.deadline = Some(turn.now + turn.ctx.timeouts.response);
    }

    /// The exchange ends here, without a reply.
    pub fn abort(&mut self, failure: Error) {
        self.failure = Some(failure);
        self.close = true;
        if let Some(upstream) = &self.upstream
            && self.is_tunnel()
        {
            upstream.end.stream.reset_on_close();
        }
    }

    /// Marks a request that never got this far as received.
    pub fn received(&mut self, turn: &Turn<'_>) {
        self.times.head = Some(turn.clock());
    }

    fn find(&mut self, turn: &mut Turn<'_>) {
        self.stage = match self.destination.ip {
            Some(ip) => {
                self.times.lookup = self.times.head;
                Stage::Dial(Box::new(Dial::new(Addresses::One(ip), self.destination.port)))
            }
            None => Stage::Lookup,
        };
        self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
    }

    fn connected(
        &mut self,
        stream: Stream,
        address: Option<SocketAddr>,
        reused: bool,
        turn: &mut Turn<'_>,
    ) {
        self.upstream = Some(Upstream { end: End::new(stream), address, reused });
        self.wake_at = None;
        let now = turn.clock();
        self.times.lookup = self.times.lookup.or(self.times.head);
        self.times.connect = Some(if reused { self.times.lookup.unwrap_or(now) } else { now });
        if self.facts.method == Method::Connect {
            self.stage = Stage::Tunnel;
            self.status = 200;
            self.begun = true;
            self.times.sent = self.times.connect;
            self.times.response = self.times.connect;
            self.response = Flow::until_close(Coding::Keep);
            // No content length, no transfer coding: what follows belongs to the tunnel.
            turn.buffers.lend(&mut self.to_client);
            self.to_client.tail().extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
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
    /// The exchange has failed; reply if [`can_reply`](Self::can_reply), else close.
    pub fn advance(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        loop {
            if self.deadline.is_some_and(|at| at <= turn.now) {
                return Err(self.expired(client));
            }
            self.listen_to_client(client, turn)?;
            match &mut self.stage {
                Stage::Lookup => {
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
                    other => return other,
                },
                Stage::Tunnel => return self.tunnel(client, turn),
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

    /// Which wait was too long.
    fn expired(&self, client: &ClientSide<'_>) -> Error {
        match &self.stage {
            Stage::Lookup => Error::new(
                Side::Upstream,
                Phase::Lookup,
                Kind::DnsTimeout,
                "the name lookup took too long",
            ),
            Stage::Dial(_) => Error::new(
                Side::Upstream,
                Phase::Connect,
                Kind::ConnectionTimeout,
                "the upstream did not accept the connection in time",
            ),
            Stage::Tunnel => Error::new(
                Side::Proxy,
                Phase::Transfer,
                Kind::ConnectionTimeout,
                "the tunnel was quiet for too long",
            ),
            _ if !client.end.stream.is_writable() => Error::new(
                Side::Client,
                Phase::Transfer,
                Kind::ConnectionWriteTimeout,
                "the client took no more of the response for too long",
            ),
            _ if !self.request.is_taken() && !self.upload_broken && self.to_upstream.is_empty() => {
                Error::new(
                    Side::Client,
                    Phase::Send,
                    Kind::HttpRequestTimeout,
                    "the client sent no more of the request's content for too long",
                )
            }
            _ if !self.to_upstream.is_empty() || !self.request.is_taken() => Error::new(
                Side::Upstream,
                Phase::Send,
                Kind::ConnectionWriteTimeout,
                "the upstream took no more of the request for too long",
            ),
            _ => Error::new(
                Side::Upstream,
                if self.begun { Phase::Transfer } else { Phase::Response },
                Kind::HttpResponseTimeout,
                "the upstream did not respond in time",
            ),
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

    fn look_up(&mut self, client: &ClientSide<'_>, turn: &mut Turn<'_>) -> Result<bool, Error> {
        let first = self.wake_at.is_none();
        let host = self.destination.host();
        let answer = turn.ctx.resolver.lookup(host, turn.now, &client.owner(UPSTREAM));
        // Marks that the lookup was counted; the moment itself is past any use.
        self.wake_at = self.deadline;
        let fail = |kind, reason| Err(Error::new(Side::Upstream, Phase::Lookup, kind, reason));
        match answer {
            Lookup::Pending => {
                if first {
                    turn.counters.count(|c| c.lookups += 1);
                }
                Ok(false)
            }
            Lookup::Found(addresses) => {
                if first {
                    turn.counters.count(|c| c.lookup_cache_hits += 1);
                }
                self.wake_at = None;
                self.times.lookup = Some(turn.clock());
                self.deadline = Some(turn.now + turn.ctx.timeouts.connect);
                let dial = Dial::new(Addresses::Found(addresses), self.destination.port);
                self.stage = Stage::Dial(Box::new(dial));
                Ok(true)
            }
            Lookup::Failed => fail(Kind::DnsError, "the name has no address"),
            Lookup::Refused => Err(Error::new(
                Side::Proxy,
                Phase::Lookup,
                Kind::ConnectionLimitReached,
                "too many name lookups are under way",
            )),
        }
    }

    /// Forgets a lookup nobody waits for any more.
    pub fn stop_waiting(&self, waker: &Arc<dyn Wake>, turn: &Turn<'_>) {
        if matches!(self.stage, Stage::Lookup) {
            let owner = Owner { who: Arc::clone(waker), tag: UPSTREAM };
            turn.ctx.resolver.forget(self.destination.host(), &owner);
        }
    }

    fn dial(&mut self, client: &ClientSide<'_>, turn: &mut Turn<'_>) -> Result<bool, Error> {
        let Stage::Dial(dial) = &mut self.stage else { return Ok(true) };
        let scope = self.facts.scope;
        let refuse = |to: SocketAddr| {
            if turn.ctx.own.contain(to) {
                Some(Failure::Own)
            } else {
                scope.forbids(to.ip()).map(Failure::Forbidden)
            }
        };
        let owners = [client.owner(UPSTREAM), client.owner(SECOND)];
        match dial.step(turn.now, &turn.ctx.poller, &owners, &refuse) {
            Dialed::Connected(stream, address) => {
                if turn.ctx.own.have_port(address.port())
                    && let Ok(from) = stream.socket().local_addr()
                    && turn.ctx.own.answered(from.ip(), address)
                {
                    return Err(looped());
                }
                stream.hand_to(client.owner(UPSTREAM));
                turn.counters.count(|c| c.upstream_connects += 1);
                self.connected(stream, Some(address), false, turn);
                Ok(true)
            }
            Dialed::Waiting(at) => {
                self.wake_at = at;
                Ok(false)
            }
            Dialed::Failed(_, why) => {
                turn.counters.count(|c| c.upstream_connect_failures += 1);
                if let Failure::System(e) = &why
                    && is_shortage(e)
                    && turn.ctx.pool.clear() > 0
                {
                    // Idle connections held what this one needs.
                    self.find(turn);
                    return Ok(true);
                }
                Err(unconnected(why))
            }
        }
    }

    fn relay(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        let before = turn.moved;
        let sent = self.push_request(client, turn)?;
        let received = self.pull_response(client, turn)?;
        if turn.moved > before {
            self.deadline = Some(turn.now + turn.ctx.timeouts.response);
        }
        if received == Step::Ended && self.begun {
            return Ok(Progress::Finished);
        }
        if sent == Step::Spent || received == Step::Spent {
            return Ok(Progress::Spent);
        }
        let only_upstream = sent == Step::Ended && client.end.stream.is_writable();
        Ok(Progress::Wait(only_upstream.then_some(UPSTREAM)))
    }

    fn push_request(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Error> {
        let Some(upstream) = &mut self.upstream else { return Ok(Step::Ended) };
        if self.upload_broken || (self.request.is_taken() && self.to_upstream.is_empty()) {
            if self.times.sent.is_none() {
                self.times.sent = Some(turn.clock());
            }
            // Content that is taken but still to be sent is in the client's buffer.
            if self.upload_broken || self.request.is_sent() {
                return Ok(Step::Ended);
            }
        }
        let sink = &mut upstream.end.stream;
        match self.request.step(client.end, &mut self.to_upstream, sink, turn) {
            Ok(Step::Ended) => {
                turn.buffers.reclaim(&mut self.to_upstream);
                self.times.sent = Some(turn.clock());
                Ok(Step::Ended)
            }
            Ok(step) => Ok(step),
            Err(Broken::Sink(_)) => {
                // It may have answered before it closed: what it said is there to be read.
                self.upload_broken = true;
                self.close |= !self.request.is_taken();
                turn.buffers.discard(&mut self.to_upstream);
                upstream.end.stream.note(Edge { readable: true, closed: true, writable: false });
                Ok(Step::Ended)
            }
            Err(Broken::Source(e)) => Err(client_gone(e)),
            Err(Broken::SourceEnded) => Err(Error::new(
                Side::Client,
                Phase::Send,
                Kind::HttpRequestError,
                "the client ended the connection before the request's content was complete",
            )),
            Err(Broken::Framing(e)) => {
                Err(Error::new(Side::Client, Phase::Send, Kind::HttpRequestError, e.reason()))
            }
        }
    }

    fn pull_response(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Error> {
        while !self.begun {
            if self.find_head(client, turn)? {
                continue;
            }
            let Some(Upstream { end, .. }) = &mut self.upstream else { return Ok(Step::Ended) };
            if end.ended {
                return Err(self.unanswered(None));
            }
            if !end.stream.is_readable() {
                // Interim responses must not wait for the final one.
                let sink = &mut client.end.stream;
                flush(&mut self.to_client, &mut self.response, sink).map_err(client_gone)?;
                return Ok(Step::Blocked);
            }
            turn.buffers.lend(&mut end.buffer);
            if end.buffer.room() == 0 {
                // `find_head` has refused a head past the limit.
                end.buffer.grow(turn.ctx.limits.max_head_octets + 1024);
            }
            match end.receive() {
                Ok(Received::Octets(count)) => {
                    turn.moved += count;
                    self.response_octets += count as u64;
                }
                Ok(Received::Nothing | Received::End) => {}
                Err(e) => return Err(self.unanswered(Some(e))),
            }
        }
        let Some(Upstream { end, .. }) = &mut self.upstream else { return Ok(Step::Ended) };
        let sink = &mut client.end.stream;
        self.response.step(end, &mut self.to_client, sink, turn).map_err(|broken| {
            let incomplete = |e: Option<io::Error>| {
                let error = Error::new(
                    Side::Upstream,
                    Phase::Transfer,
                    Kind::HttpResponseIncomplete,
                    "the upstream closed before its response was complete",
                );
                e.into_iter().fold(error, Error::with_source)
            };
            match broken {
                Broken::Sink(e) => client_gone(e),
                Broken::Source(e) => incomplete(Some(e)),
                Broken::SourceEnded => incomplete(None),
                Broken::Framing(e) => {
                    Error::new(Side::Upstream, Phase::Transfer, Kind::HttpProtocolError, e.reason())
                }
            }
        })
    }

    /// The upstream closed or reset the connection before a response head was complete.
    fn unanswered(&self, e: Option<io::Error>) -> Error {
        let reason = if self.response_octets == 0 {
            "the upstream closed the connection without an answer"
        } else {
            "the upstream closed the connection in the middle of a response head"
        };
        let error = Error::new(Side::Upstream, Phase::Response, Kind::ConnectionTerminated, reason);
        e.into_iter().fold(error, Error::with_source)
    }

    /// Looks for a response head in what was read. Answers whether there was one.
    fn find_head(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        let Some(Upstream { end, .. }) = &self.upstream else { return Ok(false) };
        let held = end.buffer.unread();
        if held.is_empty() {
            return Ok(false);
        }
        if cannot_be_response(held) {
            return Err(malformed("the upstream's answer is not HTTP/1"));
        }
        let limits = &turn.ctx.limits;
        let length = match find_end(held, &mut self.scanned, limits) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(false),
            Err(e) => return Err(malformed(e.reason())),
        };
        let mut slots = Slots::new();
        let octets = held.get(..length).unwrap_or_default();
        let head = ResponseHead::read(octets, &mut slots, limits, self.facts.method)
            .map_err(|e| malformed(e.reason()))?;
        turn.buffers.lend(&mut self.to_client);
        if head.status < 200 {
            self.interim += 1;
            if head.status == 101 {
                return Err(malformed("the upstream changed to a protocol nobody asked for"));
            }
            if self.interim > MAX_INTERIM {
                return Err(malformed("the upstream sent too many interim responses"));
            }
            // HTTP/1.0 has no interim responses (RFC 9110 §15.2).
            if self.facts.version >= Version::Http11 {
                let via = turn.ctx.via.as_deref();
                let outgoing = ResponseOutgoing { via, ..ResponseOutgoing::default() };
                head.write_client(self.to_client.tail(), &outgoing);
            }
        } else {
            self.times.response = Some(turn.clock());
            let (flow, outgoing) = self.answer(&head, client, turn)?;
            head.write_client(self.to_client.tail(), &outgoing);
            self.close = outgoing.close;
            self.status = head.status;
            self.upstream_persists = head.persistent();
            let sent = self.response.sent();
            self.response = flow;
            self.response.add_sent(sent);
            self.begun = true;
        }
        if let Some(Upstream { end, .. }) = &mut self.upstream {
            end.buffer.consume(length);
        }
        self.scanned = 0;
        Ok(true)
    }

    /// How the response goes to the client, and whether the connection lives on.
    fn answer<'t>(
        &self,
        head: &ResponseHead<'_, '_>,
        client: &ClientSide<'_>,
        turn: &Turn<'t>,
    ) -> Result<(Flow, ResponseOutgoing<'t>), Error> {
        let old = self.facts.version < Version::Http11;
        let (flow, coding, ends) = match head.framing {
            ResponseFraming::Framed(Framing::Chunked) if old => {
                (Flow::framed(Framing::Chunked, Coding::Dechunk), Recode::Dechunk, true)
            }
            ResponseFraming::Framed(framing) => {
                (Flow::framed(framing, Coding::Keep), Recode::Keep, false)
            }
            ResponseFraming::UntilClose if old => {
                (Flow::until_close(Coding::Keep), Recode::Keep, true)
            }
            ResponseFraming::UntilClose => (Flow::until_close(Coding::Chunk), Recode::Chunk, false),
            ResponseFraming::Tunnel => {
                return Err(malformed("the upstream opened a tunnel nobody asked for"));
            }
        };
        // An error that comes before the whole request: the client need not send the rest.
        let early = !self.request.is_taken() && head.status >= 400;
        let close = self.close
            || ends
            || early
            || (self.upload_broken && !self.request.is_taken())
            || !self.facts.persistent
            || client.end.ended
            || turn.ctx.is_draining();
        let outgoing = ResponseOutgoing {
            via: turn.ctx.via.as_deref(),
            close,
            keep_alive: old && !close,
            coding,
            date: None,
        };
        Ok((flow, outgoing))
    }

    fn may_resend(&self, error: &Error, turn: &Turn<'_>) -> bool {
        error.kind() == Kind::ConnectionTerminated
            && self.facts.repeatable
            && !self.resend.is_empty()
            && self.response_octets == 0
            && self.upstream.as_ref().is_some_and(|u| u.reused)
            && !turn.ctx.is_draining()
    }

    /// The pooled connection was dead: once more, on a fresh one (RFC 9112 §9.3.1).
    fn resend(&mut self, turn: &mut Turn<'_>) {
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
        self.times.sent = None;
        self.find(turn);
    }

    fn tunnel(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        let Some(upstream) = &mut self.upstream else { return Ok(Progress::Finished) };
        let before = turn.moved;
        let (sent, received) = (self.request.sent(), self.response.sent());
        let mut step = |flow: &mut Flow, from: &mut End, out: &mut Buffer, to: &mut End| {
            let was_over = flow.is_over();
            let step = flow.step(from, out, &mut to.stream, turn);
            if matches!(step, Ok(Step::Ended)) && !was_over {
                flow.set_over();
                // The peer that is told may have gone already, which its own flow will find.
                let _ = to.stream.finish();
            }
            step
        };
        let up = step(&mut self.request, client.end, &mut self.to_upstream, &mut upstream.end);
        let down = step(&mut self.response, &mut upstream.end, &mut self.to_client, client.end);
        let reset = |side, e: io::Error| {
            let reason = "a peer reset the tunnel";
            Err(Error::new(side, Phase::Transfer, Kind::ConnectionTerminated, reason)
                .with_source(e))
        };
        let (up, down) = match (up, down) {
            (Err(Broken::Source(e)), _) | (_, Err(Broken::Sink(e))) => {
                return reset(Side::Client, e);
            }
            (Err(Broken::Sink(e)), _) | (_, Err(Broken::Source(e))) => {
                return reset(Side::Upstream, e);
            }
            (Ok(up), Ok(down)) => (up, down),
            _ => return Ok(Progress::Finished),
        };
        turn.buffers.reclaim(&mut self.to_client);
        if turn.moved > before {
            self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
        }
        Ok(match (up, down) {
            (Step::Ended, Step::Ended) => Progress::Finished,
            (Step::Spent, _) | (_, Step::Spent) => Progress::Spent,
            // Whoever was spoken to is likely to answer.
            _ => Progress::Wait(
                match (self.request.sent() > sent, self.response.sent() > received) {
                    (true, false) => Some(UPSTREAM),
                    (false, true) => Some(CLIENT),
                    _ => None,
                },
            ),
        })
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
            turn.buffers.reclaim(&mut upstream.end.buffer);
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

    /// The end: the connection goes back to the pool if it can, counters and log are told. With no
    /// `client` the session ended before anything could be told of it.
    pub fn finish(&mut self, address: SocketAddr, turn: &mut Turn<'_>) {
        let tunnel = self.is_tunnel();
        let (sent, received) = (self.response.sent(), self.head_octets + self.request.sent());
        let (status, side) = (self.status, self.failure.as_ref().map(Error::side));
        turn.counters.count(|c| {
            c.exchanges_finished += 1;
            c.count_status(status);
            c.octets_to_clients += sent;
            c.octets_from_clients += received;
            c.tunnels_closed += u64::from(tunnel);
            side.into_iter().for_each(|side| c.count_failure(side));
        });
        if turn.ctx.access_log.is_some() {
            self.tell(address, turn);
        }
        if let Some(Upstream { mut end, .. }) = self.upstream.take() {
            // Octets past the end of a response would answer the next request.
            let clean = end.buffer.is_empty() && !end.ended && !end.stream.is_readable();
            let whole = self.request.is_taken() && self.request.is_sent() && !self.upload_broken;
            turn.buffers.discard(&mut end.buffer);
            if clean && whole && self.upstream_persists && !tunnel && self.failure.is_none() {
                turn.ctx.pool.put(&self.destination.authority, end.stream, turn.now);
            }
        }
    }

    fn tell(&self, client: SocketAddr, turn: &Turn<'_>) {
        let Some(log) = &turn.ctx.access_log else { return };
        let now = Instant::now();
        let started = self.times.started.unwrap_or(now);
        let mut last = started;
        let mut phase = |end: Option<Instant>| {
            let end = end.unwrap_or(last).max(last);
            let spent = end - last;
            last = end;
            spent
        };
        let mut phases = Phases {
            request: phase(self.times.head),
            lookup: phase(self.times.lookup),
            connect: phase(self.times.connect),
            send: phase(self.times.sent),
            wait: phase(self.times.response),
            ..Phases::default()
        };
        // What is left belongs to the phase it ended in.
        let rest = phase(Some(now));
        match self.failure.as_ref().map(Error::phase) {
            Some(Phase::Request) => phases.request += rest,
            Some(Phase::Lookup) => phases.lookup += rest,
            Some(Phase::Connect) => phases.connect += rest,
            Some(Phase::Send) => phases.send += rest,
            Some(Phase::Response) => phases.wait += rest,
            _ => phases.transfer += rest,
        }
        let (line, method) = (&self.line.0, self.line.1);
        let (method, target) = line.split_at_checked(method).unwrap_or_default();
        let address = self.upstream.as_ref();
        log.record(&Record {
            started: SystemTime::now() - (now - started),
            client,
            kind: if self.is_tunnel() { RecordKind::Tunnel } else { RecordKind::Exchange },
            method: std::str::from_utf8(method).unwrap_or_default(),
            target,
            status: self.status,
            octets_from_client: self.head_octets + self.request.sent(),
            octets_to_client: self.response.sent(),
            upstream: address.and_then(|u| u.address.or_else(|| u.end.stream.peer())),
            reused: address.is_some_and(|u| u.reused),
            phases,
            failure: self.failure.as_ref().map(Into::into),
        });
    }
}

/// Sends staged octets. Answers whether all have gone.
fn flush(out: &mut Buffer, flow: &mut Flow, sink: &mut Stream) -> io::Result<bool> {
    while !out.is_empty() && sink.is_writable() {
        let count = sink.send(out.unread())?;
        out.consume(count);
        flow.add_sent(count as u64);
    }
    Ok(out.is_empty())
}

fn client_gone(e: io::Error) -> Error {
    let reason = "the client closed the connection";
    Error::new(Side::Client, Phase::Transfer, Kind::ClientGone, reason).with_source(e)
}

fn malformed(reason: &'static str) -> Error {
    Error::new(Side::Upstream, Phase::Response, Kind::HttpProtocolError, reason)
}

/// The request would come back to us.
pub fn looped() -> Error {
    let reason = "the request would come back to this proxy";
    Error::new(Side::Proxy, Phase::Connect, Kind::ProxyLoopDetected, reason)
}

/// Whether descriptors, ports or memory are used up.
fn is_shortage(e: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

fn unconnected(why: Failure) -> Error {
    let upstream = |kind, reason| Error::new(Side::Upstream, Phase::Connect, kind, reason);
    match why {
        Failure::Own => looped(),
        Failure::Forbidden(reason) => {
            Error::new(Side::Proxy, Phase::Connect, Kind::DestinationIpProhibited, reason)
        }
        Failure::NoAddress => upstream(Kind::DnsError, "the name has no address"),
        Failure::System(e) if is_shortage(&e) => Error::new(
            Side::Proxy,
            Phase::Connect,
            Kind::ConnectionLimitReached,
            "the proxy has no descriptor or port left for another connection",
        )
        .with_source(e),
        Failure::System(e) => match e.kind() {
            io::ErrorKind::ConnectionRefused => {
                upstream(Kind::ConnectionRefused, "the upstream refused the connection")
            }
            io::ErrorKind::TimedOut => {
                upstream(Kind::ConnectionTimeout, "the upstream cannot be reached")
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                upstream(Kind::DestinationIpUnroutable, "there is no way to the upstream")
                    .with_source(e)
            }
            _ => upstream(Kind::ConnectionTerminated, "the connection to the upstream failed")
                .with_source(e),
        },
    }
}
