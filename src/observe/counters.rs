//! Lists the counters: a new one is a line here and a line where the event happens.
//!
//! Sums, `/metrics`, `/stats.json` and `docs/metrics.md` follow from the list, or a test names what is
//! missing.

use crate::error::{Error, Kind, Phase, RefusedBy, Side};
use crate::wire::{Method, Repair};

use super::histogram::Histogram;
use super::measure::{Sample, measures};

/// The classes of status codes. An exchange whose client was gone has `none`; `other` is for codes from 600
/// on.
pub const CLASSES: [&str; 7] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// The results of a reload.
pub const RELOADS: [&str; 2] = ["taken", "refused"];

/// The phases of an exchange, in the words of the access log.
pub const PHASES: [&str; 6] = ["request", "lookup", "connect", "send", "wait", "transfer"];

/// The event that a parked session waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Wait {
    /// The next request, on a connection that has had one.
    Idle,
    /// The first bytes of a connection, or the rest of a request head.
    Head,
    /// The addresses of a name.
    Lookup,
    /// A connection to an upstream.
    Connect,
    /// The request's content, or room at the upstream for it.
    Send,
    /// The head of a response.
    Response,
    /// The response's content, or room at the client for it.
    Transfer,
    /// Either side of a tunnel.
    Tunnel,
    /// Room at the client for a reply of the proxy's own.
    Reply,
    /// The end of the connection of a client that has its last reply.
    Linger,
    /// Any event on the admin listener.
    Admin,
    /// An allowance of a rate.
    Tokens,
}

impl Wait {
    /// All variants, in order.
    pub const ALL: [Self; 12] = [
        Self::Idle,
        Self::Head,
        Self::Lookup,
        Self::Connect,
        Self::Send,
        Self::Response,
        Self::Transfer,
        Self::Tunnel,
        Self::Reply,
        Self::Linger,
        Self::Admin,
        Self::Tokens,
    ];

    /// The name in the counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Lookup => "lookup",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Response => "response",
            Self::Transfer => "transfer",
            Self::Tunnel => "tunnel",
            Self::Reply => "reply",
            Self::Linger => "linger",
            Self::Admin => "admin",
            Self::Tokens => "tokens",
        }
    }
}

/// The limit that a request was refused for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Requests of a client.
    Requests,
    /// Connections of a client, or of a user.
    Connections,
    /// Bytes of the run.
    Volume,
}

impl Refused {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Connections, Self::Volume];

    /// The name in the counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Volume => "volume",
        }
    }
}

/// The result of a request that a rule objects to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denial {
    /// It was refused.
    Refused,
    /// It went on, and was logged.
    Reported,
}

impl Denial {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Refused, Self::Reported];

    /// The name in the counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reported => "reported",
        }
    }
}

/// The reason why an idle upstream connection was not kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retired {
    /// The upstream ended it, or sent something unrequested.
    Ended,
    /// It was idle for too long.
    Idle,
    /// It was too old, or was made before names began to lead elsewhere.
    Age,
    /// There was no room for it, descriptors were short, or it was closed for a request that must not be
    /// repeated.
    Full,
}

impl Retired {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Ended, Self::Idle, Self::Age, Self::Full];

    /// The name in the counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Idle => "idle",
            Self::Age => "age",
            Self::Full => "full",
        }
    }
}

measures! {
    /// Everything a proxy has counted since its start. Each number is exact as of some moment while the
    /// snapshot was taken; two numbers may be a few events apart.
    ///
    /// An array is a row of numbers that belong together; [`count_in`](Self::count_in) finds one of a row
    /// by its word. `Display` writes a summary for people. [`measures`](Self::measures) lists every number
    /// with its name and its help text.
    #[derive(Clone, Debug, Default, Eq, PartialEq)]
    #[non_exhaustive]
    pub struct Counters {
        /// Client connections accepted.
        Counter connections_accepted: u64;
        /// Client connections closed, by either side.
        Counter connections_closed: u64;
        /// Times a listener of the proxy had to wait because no connection permit was left.
        Counter accepts_refused_no_permit: u64;
        /// Times accept failed on a listener of the proxy (EMFILE, ENOMEM and the like).
        Counter accept_failures: u64;
        /// Connections to the admin listener accepted.
        Counter admin_connections_accepted: u64;
        /// Connections to the admin listener closed, by either side.
        Counter admin_connections_closed: u64;
        /// Requests to the admin listener; they do not count as exchanges.
        Counter admin_requests: u64;
        /// Exchanges begun, with a complete request head or a failed one.
        Counter exchanges_begun: u64;
        /// Exchanges finished, successful or not.
        Counter exchanges_finished: u64;
        /// Exchanges finished, by the class of the status code the client got; none: the client was gone; other: 600 to 999.
        Counter exchanges_by_status: [u64; CLASSES.len()], by "class" in CLASSES;
        /// Exchanges finished, by the method of the request; other: one not listed, or no request.
        Counter exchanges_by_method: [u64; Method::ALL.len()],
            by "method" in Method::ALL.map(Method::word);
        /// Seconds from the first byte of a request to the last of its response; not of tunnels.
        Histogram exchange_seconds: Histogram;
        /// Seconds each phase of an exchange or tunnel took, where it took place; transfer: not of tunnels.
        Histogram phase_seconds: [Histogram; PHASES.len()], by "phase" in PHASES;
        /// Exchanges and tunnels that failed, and connections that were not HTTP, by the side that caused it.
        Counter failures: [u64; Side::ALL.len()], by "side" in Side::ALL.map(Side::word);
        /// The same failures, by kind of error.
        Counter failures_by_kind: [u64; Kind::ALL.len()], by "kind" in Kind::ALL.map(Kind::word);
        /// Requests refused by policy, and connections closed or cut for it, each once, by reason: a rule, a line of a block list, credentials, a limit, or protected mode (guard).
        Counter refused: [u64; RefusedBy::ALL.len()], by "reason" in RefusedBy::ALL.map(RefusedBy::word);
        /// Requests that a rule, a list or protected mode objects to, by effect: refused, or only reported.
        Counter denials: [u64; Denial::ALL.len()], by "effect" in Denial::ALL.map(Denial::word);
        /// Requests answered with 407, because their credentials were missing or wrong.
        Counter auth_challenges: u64;
        /// Requests with wrong credentials; part of auth_challenges.
        Counter auth_failures: u64;
        /// Password verifications given to the auth threads.
        Counter auth_verifications: u64;
        /// Requests whose credentials, right or wrong, had been verified before.
        Counter auth_cache_hits: u64;
        /// Requests that had to wait before their credentials were checked, because the client had sent wrong ones.
        Counter auth_delays: u64;
        /// Tunnels opened, by CONNECT or by an upgrade.
        Counter tunnels_opened: u64;
        /// Tunnels that began with a 101: a WebSocket, for one; part of tunnels_opened.
        Counter upgrades: u64;
        /// Tunnels closed.
        Counter tunnels_closed: u64;
        /// Complete ClientHellos that were judged before a tunnel went on.
        Counter hellos_judged: u64;
        /// Tunnels ended because of their ClientHello; part of tunnels_closed.
        Counter tunnels_refused: u64;
        /// Seconds tunnels lasted, from the request's first byte to the end of both directions.
        Histogram tunnel_seconds: Histogram;
        /// Bytes received from clients, counted at the end of an exchange or tunnel.
        Counter bytes_from_clients: u64 = "client_received_bytes";
        /// Bytes sent to clients, counted at the end of an exchange or tunnel.
        Counter bytes_to_clients: u64 = "client_sent_bytes";
        /// Bytes that went from socket to socket through a pipe, uncopied; part of the two above.
        Counter bytes_spliced: u64 = "spliced_bytes";
        /// Upstream connections made.
        Counter upstream_connects: u64;
        /// Attempts to connect to an upstream that failed.
        Counter upstream_connect_failures: u64;
        /// Exchanges that began on an idle upstream connection.
        Counter upstream_reuses: u64;
        // The pool counts these; they are set when a snapshot is taken.
        /// Idle upstream connections no longer kept, by reason: the upstream ended them, idle or in use for too long, no room (or closed because descriptors were short, or for a request that must not be repeated).
        Counter upstream_retired: [u64; Retired::ALL.len()],
            by "reason" in Retired::ALL.map(Retired::word);
        /// Requests sent again because a reused upstream connection died before it answered.
        Counter resends: u64;
        /// Responses that were not in the strict form and had to be repaired, by kind of repair.
        Counter response_repairs: [u64; Repair::ALL.len()], by "kind" in Repair::ALL.map(Repair::word);
        /// Names given to the resolver threads.
        Counter lookups: u64;
        /// Names answered from the cache, not counted in lookups.
        Counter lookup_cache_hits: u64;
        /// Names answered by an option or a hosts file, not counted in lookups.
        Counter lookups_given: u64;
        /// Lookups that ended without an address, or not in time.
        Counter lookup_failures: u64;
        /// Seconds transfers waited for an allowance of a rate, each time one was used up.
        Histogram token_wait_seconds: Histogram;
        /// Requests refused, transfers cut and connections closed for a limit, by the kind of limit.
        Counter limited: [u64; Refused::ALL.len()], by "limit" in Refused::ALL.map(Refused::word);
        /// Turns of sessions on workers, those of the admin listener included.
        Counter turns: u64;
        /// Turns that ended with the session parked, by what it then waited for.
        Counter parks: [u64; Wait::ALL.len()], by "wait" in Wait::ALL.map(Wait::word);
        /// Parked sessions that had a turn again or were closed, by what they had waited for.
        Counter resumes: [u64; Wait::ALL.len()], by "wait" in Wait::ALL.map(Wait::word);
        /// Seconds sessions stood in the ready queue; one parking in sixteen is measured.
        Histogram queue_wait_seconds: Histogram;
        /// Turns that ended because they were spent while others waited.
        Counter yields: u64;
        /// Reads that waited a little on the worker instead of parking at once.
        Counter patient_reads: u64;
        /// Patient reads that got bytes.
        Counter patient_reads_paid: u64;
        /// Waits of a worker that stayed with a stream instead of parking it at once.
        Counter stream_waits: u64;
        /// Stream waits after which the stream went on.
        Counter stream_waits_paid: u64;
        /// Turns that panicked; each closed its session.
        Counter panics: u64;
        // No thread counts the following; they are set when a snapshot is taken.
        /// Connects to upstreams that are pending.
        Gauge connects_pending: u64;
        /// Times a dial had to wait in line because too many connects to the address were pending.
        Counter connect_waits: u64;
        /// Reloads of the configuration: put in force, or refused because of an error.
        Counter reloads: [u64; RELOADS.len()], by "result" in RELOADS;
        /// Access log lines dropped because nothing could be written.
        Counter log_lines_dropped: u64;
    }
}

impl Counters {
    /// Counts a finished exchange's status code in its class; codes below 100 count as none.
    pub(crate) fn count_status(&mut self, status: u16) {
        let class = match status / 100 {
            0 => 0,
            class @ 1..=5 => usize::from(class),
            _ => 6,
        };
        if let Some(n) = self.exchanges_by_status.get_mut(class) {
            *n += 1;
        }
    }

    /// Counts a finished exchange's method.
    pub(crate) fn count_method(&mut self, method: Method) {
        if let Some(n) = self.exchanges_by_method.get_mut(method as usize) {
            *n += 1;
        }
    }

    /// Counts the time of a phase.
    #[inline]
    pub(crate) fn record_phase(&mut self, phase: Phase, nanos: u64) {
        if let Some(sum) = self.phase_seconds.get_mut(phase as usize) {
            sum.record_nanos(nanos);
        }
    }

    /// Counts an exchange or a tunnel that vanished without an end.
    #[cold]
    pub(crate) fn count_lost(&mut self, tunnel: bool, method: Method) {
        self.exchanges_finished += 1;
        self.tunnels_closed += u64::from(tunnel);
        self.count_status(0);
        self.count_method(method);
    }

    /// Counts a failure.
    pub(crate) fn count_failure(&mut self, side: Side, kind: Kind) {
        if let Some(n) = self.failures.get_mut(side as usize) {
            *n += 1;
        }
        if let Some(n) = self.failures_by_kind.get_mut(kind as usize) {
            *n += 1;
        }
    }

    /// Counts a refusal by this part of the policy.
    pub(crate) fn count_refused(&mut self, by: RefusedBy) {
        if let Some(n) = self.refused.get_mut(by as usize) {
            *n += 1;
        }
    }

    /// Counts a request that a rule objects to.
    pub(crate) fn count_denial(&mut self, denial: Denial) {
        if let Some(n) = self.denials.get_mut(denial as usize) {
            *n += 1;
        }
    }

    /// Counts a failure by the error's side and kind.
    pub(crate) fn count_error(&mut self, error: &Error) {
        self.count_failure(error.side(), error.kind());
    }

    /// Counts a response in which something of this kind was repaired.
    pub(crate) fn count_repair(&mut self, repair: Repair) {
        if let Some(n) = self.response_repairs.get_mut(repair as usize) {
            *n += 1;
        }
    }

    /// Counts a refusal for a limit.
    pub(crate) fn count_limited(&mut self, refused: Refused) {
        if let Some(n) = self.limited.get_mut(refused as usize) {
            *n += 1;
        }
    }

    /// Counts a session that parks.
    pub(crate) fn count_park(&mut self, wait: Wait) {
        if let Some(n) = self.parks.get_mut(wait as usize) {
            *n += 1;
        }
    }

    /// Counts a session that is no longer parked, if it was.
    pub(crate) fn count_resume(&mut self, was: Option<Wait>) {
        if let Some(n) = was.and_then(|wait| self.resumes.get_mut(wait as usize)) {
            *n += 1;
        }
    }

    /// Client connections open now.
    pub fn active_connections(&self) -> u64 {
        self.connections_accepted.saturating_sub(self.connections_closed)
    }

    /// Exchanges under way now.
    pub fn active_exchanges(&self) -> u64 {
        self.exchanges_begun.saturating_sub(self.exchanges_finished)
    }

    /// Tunnels open now.
    pub fn active_tunnels(&self) -> u64 {
        self.tunnels_opened.saturating_sub(self.tunnels_closed)
    }

    /// Sessions parked now, by the event they wait for: `parked()[Wait::Tunnel as usize]`.
    pub fn parked(&self) -> [u64; Wait::ALL.len()] {
        let mut parked = self.parks;
        parked.iter_mut().zip(self.resumes).for_each(|(n, gone)| *n = n.saturating_sub(gone));
        parked
    }

    /// Failures on this side.
    pub fn failures_of(&self, side: Side) -> u64 {
        self.failures.get(side as usize).copied().unwrap_or(0)
    }

    /// Failures of this kind.
    pub fn failures_by(&self, kind: Kind) -> u64 {
        self.failures_by_kind.get(kind as usize).copied().unwrap_or(0)
    }

    /// The number for this word in a row, such as `"2xx"` in `"exchanges_by_status"`; rows and words are
    /// those of `/stats.json`. `None` if there is no such row of counts, or no such word.
    pub fn count_in(&self, row: &str, word: &str) -> Option<u64> {
        let measure = self.measures().into_iter().find(|measure| measure.field == row)?;
        let found = measure.samples().into_iter().find(|(known, _)| *known == Some(word))?;
        match found.1 {
            Sample::Count(n) => Some(n),
            Sample::Fraction(_) | Sample::Histogram(_) => None,
        }
    }

    /// Turns that ended with the session parked.
    pub fn all_parks(&self) -> u64 {
        self.parks.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::access_log::Phases;

    #[test]
    fn statuses_are_counted_by_class() {
        let mut c = Counters::default();
        for status in [0, 101, 200, 206, 304, 404, 502, 600, 99] {
            c.count_status(status);
        }
        assert_eq!(c.exchanges_by_status, [2, 1, 2, 1, 1, 1, 1]);
    }

    #[test]
    fn each_word_of_a_row_has_its_own_place() {
        let mut c = Counters::default();
        Method::ALL.into_iter().for_each(|method| c.count_method(method));
        Wait::ALL.into_iter().for_each(|wait| c.count_park(wait));
        Refused::ALL.into_iter().for_each(|refused| c.count_limited(refused));
        assert_eq!(c.limited, [1; 3]);
        RefusedBy::ALL.into_iter().for_each(|by| c.count_refused(by));
        assert_eq!(c.refused, [1; 5]);
        for kind in Kind::ALL {
            Side::ALL.into_iter().for_each(|side| c.count_failure(side, kind));
        }
        assert_eq!(c.exchanges_by_method, [1; 9]);
        assert_eq!(c.parks, [1; 12]);
        assert_eq!(c.failures, [Kind::ALL.len() as u64; 3]);
        assert_eq!(c.failures_by_kind, [3; Kind::ALL.len()]);
        for method in Method::ALL {
            assert_eq!(Method::of(method.word()), method);
        }
        for measure in c.measures() {
            if let Some((_, words)) = &measure.label {
                let mut numbers = 0;
                measure.value.each(&mut |_| numbers += 1);
                assert_eq!(words.len(), numbers, "{}", measure.field);
            }
        }
        assert_eq!(PHASES, Phases::default().named().map(|(word, _)| word));
    }

    #[test]
    fn one_number_of_a_row_is_found_by_its_word() {
        let mut c = Counters::default();
        c.count_status(204);
        c.count_failure(Side::Upstream, Kind::DnsError);
        c.count_park(Wait::Tunnel);
        for (row, word, expected) in [
            ("exchanges_by_status", "2xx", Some(1)),
            ("exchanges_by_status", "4xx", Some(0)),
            ("failures_by_kind", "dns_error", Some(1)),
            ("parks", "tunnel", Some(1)),
            ("parks", "tunnels", None),
            ("turns", "tunnel", None),
            ("phase_seconds", "wait", None),
            ("nothing", "2xx", None),
        ] {
            assert_eq!(c.count_in(row, word), expected, "{row} {word}");
        }
        assert_eq!((c.failures_by(Kind::DnsError), c.failures_by(Kind::DnsTimeout)), (1, 0));
    }

    #[test]
    fn what_is_parked_is_what_parked_and_did_not_go_on() {
        let mut c = Counters::default();
        c.count_park(Wait::Idle);
        c.count_park(Wait::Tunnel);
        c.count_resume(Some(Wait::Idle));
        c.count_resume(None);
        let mut expected = [0; 12];
        expected[Wait::Tunnel as usize] = 1;
        assert_eq!(c.parked(), expected);
    }

    #[test]
    fn every_number_is_summed_and_explained() {
        let one = {
            let mut c = Counters::default();
            c.exchange_seconds.record(std::time::Duration::from_secs(1));
            c.turns = 3;
            c
        };
        let mut sum = one.clone();
        sum.add(&one);
        for measure in sum.measures() {
            assert!(measure.help.ends_with('.'), "{}", measure.help);
            assert!(!measure.help.contains(['`', '[', '\n', '\\']), "{}", measure.help);
            for (_, sample) in measure.samples() {
                match (measure.field, sample) {
                    ("turns", Sample::Count(n)) => assert_eq!(n, 6),
                    ("exchange_seconds", Sample::Histogram(h)) => assert_eq!(h.count(), 2),
                    (_, Sample::Histogram(h)) => assert_eq!(h.count(), 0),
                    (_, Sample::Count(n)) => assert_eq!(n, 0),
                    (_, Sample::Fraction(_)) => unreachable!(),
                }
            }
        }
    }
}
