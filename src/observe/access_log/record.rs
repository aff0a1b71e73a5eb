//! Defines the data of one access log line.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::policy::rule_origin::RuleName;
use crate::wire::Version;

/// One finished exchange or tunnel, borrowed from the session for the call that logs it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The time of the request's first byte.
    pub started: SystemTime,
    /// The client's address and port.
    pub client: SocketAddr,
    /// Whether messages or plain bytes were relayed.
    pub kind: RecordKind,
    /// The request's method; empty if it is not known.
    pub method: &'a str,
    /// The request-target as the client sent it, any bytes; empty if it is not known. The log masks
    /// credentials in it and escapes bytes that could forge a line.
    pub target: &'a [u8],
    /// The HTTP version of the request, if it is known.
    pub version: Option<Version>,
    /// The request's `Referer`, any bytes, empty if there is none; masked and escaped like the target.
    /// Shown in [`LineFormat::Combined`](super::LineFormat::Combined) only.
    pub referer: &'a [u8],
    /// The request's `User-Agent`, any bytes; escaped, and shown in the same format only.
    pub user_agent: &'a [u8],
    /// The user, if one was proven; empty otherwise.
    pub user: &'a str,
    /// Status code of the final response that the client got; 0 if none was sent.
    pub status: u16,
    /// Bytes received from the client for this exchange, heads included.
    pub bytes_from_client: u64,
    /// Bytes sent to the client for this exchange, heads included.
    pub bytes_to_client: u64,
    /// The part of those bytes that is content (RFC 9110 §6.4) with its chunked coding, or a tunnel's.
    pub content_to_client: u64,
    /// The upstream that was connected, or that was tried last, if it came that far.
    pub upstream: Option<SocketAddr>,
    /// Whether that connection had served an exchange before.
    pub reused: bool,
    /// The time spent in each phase.
    pub phases: Phases,
    /// The host that a tunnel's ClientHello names, if it was read and differs from the CONNECT's.
    pub sni: Option<&'a str>,
    /// The rule that decided, if one did.
    pub rule: Option<RuleName<'a>>,
    /// The entry of a list that decided, as the list may spell it.
    pub entry: Option<&'a str>,
    /// The rule would have refused the exchange if it were enforced.
    pub would_deny: bool,
    /// The failure, if it failed.
    pub failure: Option<LoggedFailure<'a>>,
}

#[cfg(test)]
impl Record<'static> {
    /// A request with no particulars; tests set those that matter.
    pub(super) fn bare() -> Self {
        Self {
            started: SystemTime::UNIX_EPOCH,
            client: ([127, 0, 0, 1], 50112).into(),
            kind: RecordKind::Exchange,
            method: "GET",
            target: b"",
            version: Some(Version::Http11),
            referer: b"",
            user_agent: b"",
            user: "",
            status: 200,
            bytes_from_client: 0,
            bytes_to_client: 0,
            content_to_client: 0,
            upstream: None,
            reused: false,
            phases: Phases::default(),
            sni: None,
            rule: None,
            entry: None,
            would_deny: false,
            failure: None,
        }
    }
}

/// Whether messages or plain bytes were relayed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordKind {
    /// One request and its response.
    Exchange,
    /// A tunnel (CONNECT, SOCKS, an upgraded connection), logged when it closes.
    Tunnel,
}

impl RecordKind {
    /// The name in the log formats.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
        }
    }
}

/// The time of an exchange by phase. The phases follow each other without gap or overlap; a phase that
/// did not take place is zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Phases {
    /// Reading the request head, from its first byte.
    pub request: Duration,
    /// Finding the upstream's address.
    pub lookup: Duration,
    /// Connecting to the upstream.
    pub connect: Duration,
    /// Sending the request.
    pub send: Duration,
    /// Waiting for the response head.
    pub wait: Duration,
    /// Relaying the response's content, or a tunnel's bytes.
    pub transfer: Duration,
}

impl Phases {
    /// The sum of all phases.
    pub fn total(&self) -> Duration {
        self.named().iter().fold(Duration::ZERO, |sum, (_, d)| sum.saturating_add(*d))
    }

    /// Each phase with its name, in order.
    pub(in crate::observe) fn named(&self) -> [(&'static str, Duration); 6] {
        let Self { request, lookup, connect, send, wait, transfer } = *self;
        [
            ("request", request),
            ("lookup", lookup),
            ("connect", connect),
            ("send", send),
            ("wait", wait),
            ("transfer", transfer),
        ]
    }
}

/// The failure of an exchange or tunnel, in the words of [`Error`].
#[derive(Clone, Copy, Debug)]
pub struct LoggedFailure<'a> {
    /// The side that caused it.
    pub side: Side,
    /// The phase that was under way.
    pub phase: Phase,
    /// The kind of failure.
    pub kind: Kind,
    /// The reason in one plain sentence.
    pub reason: &'a str,
}

impl From<&Error> for LoggedFailure<'static> {
    fn from(error: &Error) -> Self {
        Self {
            side: error.side(),
            phase: error.phase(),
            kind: error.kind(),
            reason: error.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_all_phases() {
        let ms = Duration::from_millis;
        let phases = Phases {
            request: ms(1),
            lookup: ms(2),
            connect: ms(4),
            send: ms(8),
            wait: ms(16),
            transfer: ms(32),
        };
        assert_eq!(phases.total(), ms(63));
        assert_eq!(Phases { wait: Duration::MAX, ..phases }.total(), Duration::MAX);
    }

    #[test]
    fn a_failure_says_what_its_error_says() {
        let error = Error::new(Side::Upstream, Phase::Connect, Kind::ConnectionRefused, "refused");
        let failure = LoggedFailure::from(&error);
        assert_eq!(failure.side, Side::Upstream);
        assert_eq!(failure.phase, Phase::Connect);
        assert_eq!(failure.kind, Kind::ConnectionRefused);
        assert_eq!(failure.reason, "refused");
    }
}
