//! Turns a request head into an exchange: checks it, routes it, and prepares the head to pass on.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use memchr::memmem::Finder;

use crate::error::{Error, Kind, Phase, RefusedBy, Side};
use crate::net::poll::Wake;
use crate::policy::rules::Way;
use crate::upstream::peer::Endpoint;
use crate::wire::{
    Authority, Forwarded, Framing, Method, Outgoing, Protocols, RequestHead, Scheme, Slots, Target,
    Version,
};

use super::access::{self, Ruling};
use super::asker::Asker;
use super::auth::{Caller, Proof};
use super::blame::{denied, looped, refused};
use super::common::Common;
use super::context::Turn;
use super::front::answer_last_hop;
use super::intent::Asked;
use super::reply::{Connection, Reply};

/// The outcome for a valid head.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Forward it, with content in this framing, or open a tunnel; the exchange is prepared.
    Forward(Framing),
    /// Send a reply of ours, which is staged, with this status.
    Own(u16),
    /// Look at it again when the session is woken, or at this time.
    Later(Instant),
}

static HTML: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("text/html"));

/// Reads the head `bytes` and prepares an exchange for it. `waker` is told when a request put off until
/// [`Later`](Wanted::Later) can be decided; `proof` keeps what it waits for.
///
/// # Errors
///
/// The request is refused. Reply, and close the connection unless the request was understood.
pub(super) fn prepare(
    bytes: &[u8],
    asker: Asker,
    waker: &Arc<dyn Wake>,
    proof: &mut Proof,
    common: &mut Common,
    turn: &mut Turn<'_>,
) -> Result<Wanted, Error> {
    let intent = &mut common.intent;
    intent.head_bytes = bytes.len() as u64;
    intent.html = HTML.find(bytes).is_some();
    let (limits, mut respelt) = (&turn.ctx.limits, Vec::new());
    let mut slots = Slots::new();
    let head = match RequestHead::read(bytes, &mut slots, limits) {
        Err(e) => RequestHead::read_respelt(bytes, e, &mut slots, limits, &mut respelt),
        read => read,
    };
    let head = head.map_err(refused)?;
    intent.method = head.method;
    intent.version = head.version;
    intent.persistent = head.persistent();
    intent.repeatable = head.method.is_idempotent() && head.framing == Framing::Empty;
    intent.expects = head.expect_continue;
    if let Some(log) = &turn.ctx.access_log {
        common.account.note.note(&head, log.shows_fields());
    }
    if asker.front.is_admin() {
        if !asker.scope.serves(asker.address.ip()) {
            return Err(denied(
                "the admin listener serves private networks only",
                RefusedBy::Guard,
            ));
        }
        return Ok(answer_itself(&head, None, asker, common, turn));
    }
    let mut caller = Caller { asker, waker, proof };
    match head.target {
        Target::Origin(path) => {
            come_in(&head, asker, common, turn)?;
            Ok(answer_itself(&head, Some(path), asker, common, turn))
        }
        Target::Asterisk => {
            come_in(&head, asker, common, turn)?;
            Ok(answer_itself(&head, None, asker, common, turn))
        }
        Target::Authority(_) => {
            check_loop(&head, turn)?;
            aim(&head, &mut common.intent.destination)?;
            match pass(&head, Way::Connect, &mut caller, common, turn)? {
                Some(until) => Ok(Wanted::Later(until)),
                None => Ok(Wanted::Forward(Framing::Empty)),
            }
        }
        Target::Absolute { authority, .. } => {
            let (way, offer) = aim(&head, &mut common.intent.destination)?;
            check_loop(&head, turn)?;
            common.intent.offer = offer;
            common.intent.logs_in = head.logs_connection_in();
            if let Some(until) = pass(&head, way, &mut caller, common, turn)? {
                return Ok(Wanted::Later(until));
            }
            if head.max_forwards == Some(0) {
                let mut status = 0;
                answer_last_hop(&head, |answer| status = stage(answer, &head, common, turn));
                return Ok(Wanted::Own(status));
            }
            let outgoing = outgoing(&head, authority.text, asker, &common.intent.offer, turn);
            common.head.line.keep(head.method_name, head.target.origin_form(head.method));
            head.write_fields(&mut common.head.fields, &outgoing);
            Ok(Wanted::Forward(head.framing))
        }
    }
}

/// The changes to the head that is passed on.
#[inline(always)]
fn outgoing<'o>(
    head: &RequestHead<'_, 'o>,
    host: &'o str,
    asker: Asker,
    offer: &'o Option<Protocols>,
    turn: &Turn<'o>,
) -> Outgoing<'o> {
    let via = turn.ctx.via.as_deref();
    let client = asker.address.ip();
    Outgoing {
        host,
        via,
        forwarded: turn.ctx.forwarded_for.then_some(Forwarded { client, by: via }),
        max_forwards: head.max_forwards.map(|hops| hops.saturating_sub(1)),
        upgrade: offer.as_ref(),
        close: false,
    }
}

/// Whether the client may come in at all.
fn come_in(
    head: &RequestHead<'_, '_>,
    asker: Asker,
    common: &mut Common,
    turn: &Turn<'_>,
) -> Result<(), Error> {
    let Common { terms, allowance, account, .. } = common;
    let came = access::come_in(asker, &mut Ruling { terms, allowance, account }, turn);
    if came.is_err() {
        // The connection can be kept if no content has to be read first.
        common.leave_content(head.framing);
    }
    came
}

/// Whether the request may go to its destination; see [`access::pass`].
#[inline]
fn pass(
    head: &RequestHead<'_, '_>,
    way: Way,
    caller: &mut Caller<'_>,
    common: &mut Common,
    turn: &Turn<'_>,
) -> Result<Option<Instant>, Error> {
    let Common { intent, terms, allowance, account, .. } = common;
    let asked = Asked::by_http(head, way, caller.asker.address.ip(), &intent.destination);
    let passed = access::pass(&asked, caller, &mut Ruling { terms, allowance, account }, turn);
    if passed.is_err() {
        // The connection can be kept if no content has to be read first.
        common.leave_content(head.framing);
    }
    passed
}

fn not_implemented(reason: &'static str) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestError, reason).with_status(501)
}

fn check_loop(head: &RequestHead<'_, '_>, turn: &Turn<'_>) -> Result<(), Error> {
    match &turn.ctx.via {
        Some(name) if head.via_names(name) => Err(looped()),
        _ => Ok(()),
    }
}

/// The destination of a request, the way it is made, and the protocols it offers to change to.
pub(super) fn aim(
    head: &RequestHead<'_, '_>,
    destination: &mut Endpoint,
) -> Result<(Way, Option<Protocols>), Error> {
    match head.target {
        Target::Absolute { scheme, authority, .. } => {
            let offer = head.offer();
            // A request for `ws:` is forwarded only if it can become a WebSocket.
            if scheme != Scheme::Http && !(scheme == Scheme::Ws && offer.is_some()) {
                return Err(not_implemented("only http URLs are forwarded; https goes by CONNECT"));
            }
            route(&authority, authority.port.or(scheme.default_port()), destination)?;
            Ok((if offer.is_some() { Way::Ws } else { Way::Http }, offer))
        }
        Target::Authority(authority) => {
            route(&authority, authority.port, destination)?;
            Ok((Way::Connect, None))
        }
        // Not reached: these are requests to the proxy itself.
        Target::Origin(_) | Target::Asterisk => {
            Err(not_implemented("the URL's scheme has no port"))
        }
    }
}

fn route(
    authority: &Authority<'_>,
    port: Option<u16>,
    destination: &mut Endpoint,
) -> Result<(), Error> {
    let Some(port) = port else { return Err(not_implemented("the URL's scheme has no port")) };
    destination.set(authority.host, authority.ip, port);
    Ok(())
}

/// Answers a request for the listener itself.
fn answer_itself(
    head: &RequestHead<'_, '_>,
    path: Option<&str>,
    asker: Asker,
    common: &mut Common,
    turn: &mut Turn<'_>,
) -> Wanted {
    let is_known = !asker.names_us
        || head.target.authority().is_some()
        || turn.ctx.admin_names.have(head.host);
    let (html, overview) = (common.intent.html, turn.overview);
    let mut status = 0;
    asker.front.answer_itself(head, path, (html, is_known), overview, |answer| {
        status = stage(answer, head, common, turn);
    });
    Wanted::Own(status)
}

/// Stages a reply of ours. Returns its status.
fn stage(
    reply: &Reply<'_>,
    head: &RequestHead<'_, '_>,
    common: &mut Common,
    turn: &mut Turn<'_>,
) -> u16 {
    // Content would have to be read to find the next request, and it is of no use here.
    common.leave_content(head.framing);
    common.close = !head.persistent()
        || head.framing != Framing::Empty
        || turn.ctx.is_draining()
        || common.intent.front.is_admin();
    turn.buffers.lend(&mut common.down.staged);
    let connection = connection(common.close, head.version);
    reply.write(common.down.staged.tail(), connection, head.method == Method::Head);
    reply.status
}

/// How a reply of ours announces the fate of the connection.
pub(super) fn connection(close: bool, version: Version) -> Connection {
    match (close, version) {
        (true, _) => Connection::Close,
        (false, Version::Http10) => Connection::KeepOld,
        (false, _) => Connection::Keep,
    }
}
