//! Turns a request head into an exchange: checks it, decides on it, routes it, and writes it for
//! the next hop.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use memchr::memmem::Finder;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::poll::Wake;
use crate::policy::protected_mode::Scope;
use crate::policy::rules::Way;
use crate::wire::{
    Authority, Forwarded, Framing, HeadError, Method, Outgoing, Protocols, RequestHead, Scheme,
    Slots, Target, Version,
};

use super::auth::{Caller, Proof};
use super::connect::looped;
use super::exchange::Exchange;
use super::facts::{Destination, Facts};
use super::reply::{Connection, Reply};
use super::{Turn, access, admin, own};

/// What a valid head asks for.
#[derive(Debug)]
pub enum Wanted {
    /// To be forwarded, with content in this framing, or a tunnel; the exchange is prepared.
    Forward(Framing),
    /// A reply of ours, which stands in the exchange's `to_client`, with this status.
    Own(u16),
    /// To be looked at again when the session is woken, or then.
    Later(Instant),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The client's address; unspecified if it has none.
    pub address: SocketAddr,
    /// Which listener it came to, by number.
    pub listener: u16,
    /// Whom the admin listener serves.
    pub scope: Scope,
    /// What its listener is for.
    pub service: Service,
    /// Its requests have to name this machine, as `Host`.
    pub names_us: bool,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Service {
    /// Forwarding.
    #[default]
    Proxy,
    /// Telling how the proxy does.
    Admin,
}

/// As messages name it.
impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.service == Service::Admin {
            f.write_str("admin: ")?;
        }
        match self.address.ip().is_unspecified() {
            true => f.write_str("unix socket"),
            false => self.address.fmt(f),
        }
    }
}

static HTML: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("text/html"));

/// Reads the head that is `octets` and prepares `exchange` for it. `waker` is told when
/// one that is to be looked at [`Later`](Wanted::Later) can be decided, and `proof` has what it waits for.
///
/// # Errors
///
/// The request is refused: reply, and close unless it was understood.
pub fn prepare(
    octets: &[u8],
    asker: Asker,
    waker: &Arc<dyn Wake>,
    proof: &mut Proof,
    exchange: &mut Exchange,
    turn: &mut Turn<'_>,
) -> Result<Wanted, Error> {
    exchange.head_octets = octets.len() as u64;
    exchange.facts.html = HTML.find(octets).is_some();
    let (limits, mut respelt) = (&turn.ctx.limits, Vec::new());
    let mut slots = Slots::new();
    let head = match RequestHead::read(octets, &mut slots, limits) {
        Err(e) => RequestHead::read_respelt(octets, e, &mut slots, limits, &mut respelt),
        read => read,
    };
    let head = head.map_err(refused)?;
    exchange.facts = Facts {
        method: head.method,
        version: head.version,
        persistent: head.persistent(),
        repeatable: head.method.is_idempotent() && head.framing == Framing::Empty,
        expects: head.expect_continue,
        html: exchange.facts.html,
    };
    if let Some(log) = &turn.ctx.access_log {
        exchange.noted.note(&head, log.shows_fields());
    }
    if asker.service == Service::Admin {
        if !asker.scope.serves(asker.address.ip()) {
            return Err(denied("this proxy serves private networks only"));
        }
        let html = exchange.facts.html;
        let answer = match asker.names_us
            && head.target.authority().is_none()
            && !turn.ctx.admin_names.have(head.host)
        {
            true => admin::elsewhere(),
            false => admin::answer(head.method, &head.target, html, turn.overview),
        };
        return Ok(reply(&answer.reply(), &head, exchange, turn));
    }
    let mut caller = Caller { asker, waker, proof };
    match head.target {
        Target::Origin(path) => {
            access::come_in(&head, asker, exchange, turn)?;
            Ok(reply(&own::page(head.method, path, exchange.facts.html), &head, exchange, turn))
        }
        Target::Asterisk => {
            access::come_in(&head, asker, exchange, turn)?;
            Ok(reply(&own::options(), &head, exchange, turn))
        }
        Target::Authority(_) => {
            check_loop(&head, turn)?;
            aim(&head, &mut exchange.destination)?;
            match access::pass(&head, Way::Connect, &mut caller, exchange, turn)? {
                Some(until) => Ok(Wanted::Later(until)),
                None => Ok(Wanted::Forward(Framing::Empty)),
            }
        }
        Target::Absolute { authority, .. } => {
            let (way, offer) = aim(&head, &mut exchange.destination)?;
            check_loop(&head, turn)?;
            exchange.offer = offer;
            exchange.bound = head.logs_connection_in();
            if let Some(until) = access::pass(&head, way, &mut caller, exchange, turn)? {
                return Ok(Wanted::Later(until));
            }
            if head.max_forwards == Some(0) {
                return Ok(last_hop(&head, exchange, turn));
            }
            turn.buffers.lend(&mut exchange.to_upstream);
            head.write_upstream(
                exchange.to_upstream.tail(),
                &Outgoing {
                    target: head.target.origin_form(head.method),
                    host: authority.text,
                    via: turn.ctx.via.as_deref(),
                    forwarded: turn.ctx.forwarded_for.then(|| Forwarded {
                        client: asker.address.ip(),
                        by: turn.ctx.via.as_deref(),
                    }),
                    max_forwards: head.max_forwards.map(|hops| hops.saturating_sub(1)),
                    upgrade: exchange.offer.as_ref(),
                    close: false,
                },
            );
            exchange.onward_octets = exchange.to_upstream.len() as u64;
            Ok(Wanted::Forward(head.framing))
        }
    }
}

/// A head that is no request, as an error to reply with.
pub fn refused(e: HeadError) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestError, e.reason())
        .with_status(e.status())
}

pub(super) fn denied(reason: &'static str) -> Error {
    Error::new(Side::Proxy, Phase::Request, Kind::HttpRequestDenied, reason)
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

/// Where a request goes, how, and what it offers to change to.
pub(super) fn aim(
    head: &RequestHead<'_, '_>,
    destination: &mut Destination,
) -> Result<(Way, Option<Protocols>), Error> {
    match head.target {
        Target::Absolute { scheme, authority, .. } => {
            let offer = head.offer();
            // A request for `ws:` is forwarded only if it can become one.
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
        // Asked of the proxy itself: nobody aims with it.
        Target::Origin(_) | Target::Asterisk => {
            Err(not_implemented("the URL's scheme has no port"))
        }
    }
}

fn route(
    authority: &Authority<'_>,
    port: Option<u16>,
    destination: &mut Destination,
) -> Result<(), Error> {
    let Some(port) = port else { return Err(not_implemented("the URL's scheme has no port")) };
    let text = &mut destination.authority;
    text.clear();
    // Writing to a String cannot fail.
    let _ = match authority.ip {
        Some(ip) if ip.is_ipv6() => write!(text, "[{ip}]"),
        _ => {
            text.push_str(authority.host);
            text.make_ascii_lowercase();
            Ok(())
        }
    };
    destination.host_length = text.len();
    let _ = write!(text, ":{port}");
    destination.port = port;
    destination.ip = authority.ip;
    Ok(())
}

/// A TRACE or OPTIONS that may go no further is answered here (RFC 9110 §7.6.2).
fn last_hop(head: &RequestHead<'_, '_>, exchange: &mut Exchange, turn: &mut Turn<'_>) -> Wanted {
    if head.method == Method::Trace {
        let content = own::trace(head);
        let content = Some(("message/http", content.as_slice()));
        reply(&Reply { status: 200, content, fields: "" }, head, exchange, turn)
    } else {
        reply(&own::options(), head, exchange, turn)
    }
}

fn reply(
    reply: &Reply<'_>,
    head: &RequestHead<'_, '_>,
    exchange: &mut Exchange,
    turn: &mut Turn<'_>,
) -> Wanted {
    // Content would have to be read to find the next request: nobody wants it here.
    exchange.leave_content(head.framing);
    exchange.close = !head.persistent()
        || head.framing != Framing::Empty
        || turn.ctx.is_draining()
        || exchange.service == Service::Admin;
    turn.buffers.lend(&mut exchange.to_client);
    let connection = connection(exchange.close, head.version);
    reply.write(exchange.to_client.tail(), connection, head.method == Method::Head);
    Wanted::Own(reply.status)
}

/// How a reply of ours says what becomes of the connection.
pub fn connection(close: bool, version: Version) -> Connection {
    match (close, version) {
        (true, _) => Connection::Close,
        (false, Version::Http10) => Connection::KeepOld,
        (false, _) => Connection::Keep,
    }
}
