//! Why an exchange failed: the side, the phase, the kind (RFC 9209 §2.3), the sentence for people, and the
//! status code for the client.
//!
//! The step that failed makes one value. One place turns it into a reply, a `Proxy-Status` field and a log
//! line, so that all three say the same. This module knows no sockets; `proxy::reply` writes the reply.

use std::{fmt, io};

/// The side that caused a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The client sent something wrong, or went away.
    Client,
    /// The proxy itself: a rule, a limit, a resource it ran out of.
    Proxy,
    /// The upstream server, its name or the way to it.
    Upstream,
}

impl Side {
    /// Every side, in order.
    pub const ALL: [Self; 3] = [Self::Client, Self::Proxy, Self::Upstream];

    /// The word used in replies and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
        }
    }
}

/// The part of an exchange that was under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Reading the request head.
    Request,
    /// Finding the upstream's address.
    Lookup,
    /// Connecting to the upstream.
    Connect,
    /// Sending the request to the upstream.
    Send,
    /// Waiting for the response head.
    Response,
    /// Relaying content to the client, or bytes through a tunnel.
    Transfer,
}

impl Phase {
    /// The word used in replies and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Lookup => "lookup",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Response => "response",
            Self::Transfer => "transfer",
        }
    }
}

/// The cause: RFC 9209 §2.3's proxy error types that can happen here, and a few causes that only the log
/// needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// The client closed or reset its connection; nobody is left to reply to.
    ClientGone,
    /// The proxy has no descriptors or memory left for this connection.
    ConnectionLimitReached,
    /// The upstream's port is closed.
    ConnectionRefused,
    /// The upstream closed or reset the connection before a response head was complete.
    ConnectionTerminated,
    /// No connection within the connect timeout.
    ConnectionTimeout,
    /// The upstream took no more bytes of the request for too long.
    ConnectionWriteTimeout,
    /// The rules forbid the destination's address.
    DestinationIpProhibited,
    /// No route to the destination's address.
    DestinationIpUnroutable,
    /// The name has no address, or the lookup failed.
    DnsError,
    /// The lookup took too long.
    DnsTimeout,
    /// A rule refused the request.
    HttpRequestDenied,
    /// The request is malformed, or two recipients could read it differently.
    HttpRequestError,
    /// The request did not come in time (408).
    HttpRequestTimeout,
    /// The response has more content than the limit.
    HttpResponseBodySize,
    /// The response ended before its framing said.
    HttpResponseIncomplete,
    /// No response head within the response timeout.
    HttpResponseTimeout,
    /// The response is malformed, or two recipients could read it differently.
    HttpProtocolError,
    /// The request came back to the proxy that sent it.
    ProxyLoopDetected,
    /// The proxy is shutting down.
    ShuttingDown,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Self; 19] = [
        Self::ClientGone,
        Self::ConnectionLimitReached,
        Self::ConnectionRefused,
        Self::ConnectionTerminated,
        Self::ConnectionTimeout,
        Self::ConnectionWriteTimeout,
        Self::DestinationIpProhibited,
        Self::DestinationIpUnroutable,
        Self::DnsError,
        Self::DnsTimeout,
        Self::HttpRequestDenied,
        Self::HttpRequestError,
        Self::HttpRequestTimeout,
        Self::HttpResponseBodySize,
        Self::HttpResponseIncomplete,
        Self::HttpResponseTimeout,
        Self::HttpProtocolError,
        Self::ProxyLoopDetected,
        Self::ShuttingDown,
    ];

    /// The word in the counters: [`token`](Self::token), except where two kinds share one.
    pub fn word(self) -> &'static str {
        match self {
            Self::HttpRequestTimeout => "http_request_timeout",
            other => other.token(),
        }
    }

    /// The RFC 9209 §2.3 token for `Proxy-Status` and the log.
    pub fn token(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::ConnectionLimitReached => "connection_limit_reached",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionWriteTimeout => "connection_write_timeout",
            Self::DestinationIpProhibited => "destination_ip_prohibited",
            Self::DestinationIpUnroutable => "destination_ip_unroutable",
            Self::DnsError => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpRequestError | Self::HttpRequestTimeout => "http_request_error",
            Self::HttpResponseBodySize => "http_response_body_size",
            Self::HttpResponseIncomplete => "http_response_incomplete",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::HttpProtocolError => "http_protocol_error",
            Self::ProxyLoopDetected => "proxy_loop_detected",
            Self::ShuttingDown => "destination_unavailable",
        }
    }

    /// The status code for this kind, unless the error carries a more exact one.
    fn status(self) -> u16 {
        match self {
            Self::HttpRequestError | Self::ClientGone => 400,
            Self::HttpRequestDenied | Self::DestinationIpProhibited => 403,
            Self::HttpRequestTimeout => 408,
            Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::DestinationIpUnroutable
            | Self::DnsError
            | Self::HttpResponseBodySize
            | Self::HttpResponseIncomplete
            | Self::HttpProtocolError => 502,
            Self::ConnectionLimitReached | Self::ShuttingDown => 503,
            Self::ConnectionTimeout
            | Self::ConnectionWriteTimeout
            | Self::DnsTimeout
            | Self::HttpResponseTimeout => 504,
            Self::ProxyLoopDetected => 508,
        }
    }
}

/// The part of the policy that refuses something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusedBy {
    /// A rule, or the lack of a rule that allows.
    Rule,
    /// A line of a block list.
    List,
    /// Credentials that are missing, wrong, or could not be checked.
    Auth,
    /// A limit on requests, connections or bytes.
    Limit,
    /// Protected mode: the client or the destination.
    Guard,
}

impl RefusedBy {
    /// Every part, in order.
    pub const ALL: [Self; 5] = [Self::Rule, Self::List, Self::Auth, Self::Limit, Self::Guard];

    /// The word in the counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::List => "list",
            Self::Auth => "auth",
            Self::Limit => "limit",
            Self::Guard => "guard",
        }
    }
}

/// A failed exchange or connection.
#[derive(Debug)]
pub struct Error {
    side: Side,
    phase: Phase,
    kind: Kind,
    status: u16,
    retry_after: u32,
    reason: &'static str,
    refused_by: Option<RefusedBy>,
    source: Option<io::Error>,
}

impl Error {
    /// A failure whose status code follows from its kind. `reason` is one plain sentence without a full
    /// stop, written for the person who sees the reply.
    pub fn new(side: Side, phase: Phase, kind: Kind, reason: &'static str) -> Self {
        let (status, retry_after) = (kind.status(), 0);
        Self { side, phase, kind, status, retry_after, reason, refused_by: None, source: None }
    }

    /// The same failure with a more exact status code.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same failure, with the seconds after which the client may try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = seconds;
        self
    }

    /// The same failure as a refusal by this part of the policy.
    #[must_use]
    pub fn with_refused_by(mut self, by: RefusedBy) -> Self {
        self.refused_by = Some(by);
        self
    }

    /// The same failure, with the system's own message.
    #[must_use]
    pub fn with_source(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// The side that caused it.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The part of the exchange that was under way.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The cause.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Status code of the reply, which the client gets if no response head was sent yet.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Seconds after which another attempt may succeed, if known (RFC 9110 §10.2.3).
    pub fn retry_after(&self) -> Option<u32> {
        Some(self.retry_after).filter(|seconds| *seconds > 0)
    }

    /// The part of the policy that refuses this; `None` if it is no refusal.
    pub fn refused_by(&self) -> Option<RefusedBy> {
        self.refused_by
    }

    /// The system's own message, if there is one.
    pub fn said(&self) -> Option<String> {
        self.source.as_ref().map(ToString::to_string)
    }

    /// The reason, as one plain sentence.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.phase.word(), self.side.word(), self.reason)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are indexed by the number of the kind.
    #[test]
    fn all_kinds_are_listed_in_order_and_none_is_left_out() {
        let source = include_str!("error.rs");
        let body = source.split_once("pub enum Kind {").unwrap().1.split_once("\n}").unwrap().0;
        let variants = body.lines().filter(|line| line.ends_with(',')).map(str::trim);
        let listed: Vec<String> = Kind::ALL.iter().map(|kind| format!("{kind:?},")).collect();
        assert_eq!(listed, variants.collect::<Vec<_>>());
        assert!(Kind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
        assert!(Side::ALL.iter().enumerate().all(|(i, side)| *side as usize == i));
        assert!(RefusedBy::ALL.iter().enumerate().all(|(i, by)| *by as usize == i));
        let mut words = Kind::ALL.map(Kind::word);
        words.sort_unstable();
        assert!(words.windows(2).all(|w| w[0] != w[1]), "{words:?}");
    }
}
