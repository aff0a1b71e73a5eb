//! Builds the errors that more than one step of an exchange can meet, each with the side at fault.

use std::io;

use crate::error::{Error, Kind, Phase, RefusedBy, Side};
use crate::wire::HeadError;

/// A head that is no request, as an error to reply with.
pub(super) fn refused(e: HeadError) -> Error {
    Error::new(Side::Client, Phase::Request, Kind::HttpRequestError, e.reason())
        .with_status(e.status())
}

/// This part of the policy refuses the request.
pub(super) fn denied(reason: &'static str, by: RefusedBy) -> Error {
    Error::new(Side::Proxy, Phase::Request, Kind::HttpRequestDenied, reason).with_refused_by(by)
}

/// The request would come back to us.
pub(super) fn looped() -> Error {
    let reason = "the request would come back to this proxy";
    Error::new(Side::Proxy, Phase::Connect, Kind::ProxyLoopDetected, reason)
}

/// The volume limit is used up.
pub(super) fn used_up(phase: Phase) -> Error {
    let reason = "the traffic this proxy may relay is used up";
    Error::new(Side::Proxy, phase, Kind::HttpRequestDenied, reason)
        .with_status(503)
        .with_refused_by(RefusedBy::Limit)
}

/// The upstream's answer cannot be passed on.
pub(super) fn malformed(reason: &'static str) -> Error {
    Error::new(Side::Upstream, Phase::Response, Kind::HttpProtocolError, reason)
}

/// The client is gone.
pub(super) fn client_gone(e: io::Error) -> Error {
    let reason = "the client closed the connection";
    Error::new(Side::Client, Phase::Transfer, Kind::ClientGone, reason).with_source(e)
}

/// The client takes no more bytes.
pub(super) fn client_is_stuck() -> Error {
    let reason = "the client took no more of the response for too long";
    Error::new(Side::Client, Phase::Transfer, Kind::ConnectionWriteTimeout, reason)
}

/// A peer of a tunnel is gone.
pub(super) fn tunnel_reset(side: Side, e: io::Error) -> Error {
    let reason = match e.kind() {
        // Keepalive probes or retransmissions had no answer, or the socket ended without an end of its
        // layer.
        io::ErrorKind::TimedOut | io::ErrorKind::UnexpectedEof => {
            "a peer of the tunnel has vanished"
        }
        _ => "a peer reset the tunnel",
    };
    Error::new(side, Phase::Transfer, Kind::ConnectionTerminated, reason).with_source(e)
}

/// The name's addresses did not come in time.
pub(super) fn lookup_expired() -> Error {
    let reason = "the name lookup took too long";
    Error::new(Side::Upstream, Phase::Lookup, Kind::DnsTimeout, reason)
}

/// The upstream has not answered in time, or stopped in the middle of its answer.
pub(super) fn response_expired(phase: Phase) -> Error {
    let reason = "the upstream did not respond in time";
    Error::new(Side::Upstream, phase, Kind::HttpResponseTimeout, reason)
}
