//! Holds the first octets of a tunnel until it is known which host they name.
//!
//! Only the client's direction waits, and only while what it has sent can still become a ClientHello:
//! the upstream's octets go on as ever, so that a server that speaks first is heard, and a client
//! that says nothing, or no TLS, is not kept. Of a hello that is refused nothing goes to the upstream; the
//! client gets an alert (RFC 8446 §6) and the end. What is said of the name is `policy::sni`'s.
//!
//! ```text
//!            hello goes on               ServerHello, or no TLS
//! First ───────────────────▶ Behind ──────────────────────────────▶ the tunnel's flows
//!   │ no TLS                   │ HelloRetryRequest, a second hello      ▲
//!   └──────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! A server may ask for a second ClientHello, and serve the name in that one. So the client's records are
//! passed on one by one until the server has answered the first, and after a HelloRetryRequest until
//! the second has come. Then both directions are flows, as in every other tunnel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::hosts::without_dot;
use crate::net::stream::Received;
use crate::policy::decide::{Decision, Rules, Verdict};
use crate::policy::rules::{Request, Way};
use crate::wire::client_hello::{Hello, HelloError, MAX_OCTETS, Reader, Reading};
use crate::wire::hello_retry::{NextRecord, Records, RetryAnswer, answer};

use super::Turn;
use super::exchange::{ClientSide, Exchange, Progress, flush, tunnel_reset};
use super::flow::{End, Flow, Step};

/// Octets of early data that go on before the server has answered; more of it waits for the answer.
const EARLY: usize = 64 * 1024;
/// Octets that may stand between a HelloRetryRequest and the second ClientHello: what was under way.
const UNDER_WAY: usize = 16 * 1024 * 1024;
/// Why a tunnel ends whose client does not send the ClientHello that it was asked for.
const NO_SECOND: &str =
    "the client answers a HelloRetryRequest with something else than a ClientHello";
/// Why one ends whose client is not heard as TLS any more before the server has answered it.
const NO_TLS: &str = "something else than TLS follows the client's ClientHello";

/// What is known of a tunnel whose client's first octets wait.
#[derive(Debug)]
pub(super) struct Hold {
    /// Where it came in: its rules are asked when the hello is there. (They are not kept here: a client may
    /// say nothing for hours, and long lists must go when others take their place.)
    listener: u16,
    client: IpAddr,
    reader: Reader,
    /// Until when the ClientHello has to be whole, once it has begun.
    until: Option<Instant>,
    /// What follows the first hello, once that may go on.
    behind: Option<Behind>,
}

/// What is known of a tunnel whose first ClientHello has gone on.
#[derive(Debug)]
struct Behind {
    /// What that one named.
    name: Option<String>,
    /// What the server has said to it.
    answer: RetryAnswer,
    records: Records,
    /// Octets at the front of the client's buffer that may go on.
    clear: usize,
    /// Octets that have passed since the hello, or since the server's answer.
    passed: usize,
}

/// What the octets held turned out to be.
enum Held {
    /// Not enough yet.
    Incomplete,
    /// Some octets may go on, and those behind them are still to be looked at.
    Clear,
    /// Enough went on for now: the server is to answer first.
    Full,
    /// Everything may go on.
    Over,
    /// What may not, with the alert that says so.
    Refused(Alert, Error),
}

/// Alerts (RFC 8446 §6.2).
#[derive(Clone, Copy)]
enum Alert {
    DecodeError = 50,
    /// RFC 6066 §3. Not `access_denied`, which is about certificates, and which Chromium shows as a
    /// broken protocol; this one it names.
    UnrecognizedName = 112,
}

impl Hold {
    pub(super) fn new(listener: u16, client: IpAddr) -> Self {
        Self { listener, client, reader: Reader::default(), until: None, behind: None }
    }
}

impl Hold {
    /// Looks for the next hello behind the first. Answers `None` if one begins where the client's buffer
    /// does; `until` is when it has to be whole.
    ///
    /// # Errors
    ///
    /// Why there is none that could be judged: a server that skips what comes here could still take one
    /// behind it.
    fn find_hello(&mut self, client: &End, until: Instant) -> Result<Option<Held>, &'static str> {
        let octets = client.buffer.unread();
        let Some(behind) = &mut self.behind else {
            // An end without a word is passed on.
            let silent = if client.ended { Held::Over } else { Held::Incomplete };
            return Ok(octets.is_empty().then_some(silent));
        };
        if behind.answer == RetryAnswer::Settled {
            return Ok(Some(Held::Over));
        }
        let is_retry = behind.answer == RetryAnswer::Retry;
        let room = behind.room();
        let (clear, next) = behind.records.pass(octets.get(..room).unwrap_or(octets));
        behind.clear = clear;
        behind.passed += clear;
        Ok(Some(match next {
            _ if clear > 0 => {
                self.until = None;
                Held::Clear
            }
            NextRecord::Handshake => return Ok(None),
            NextRecord::NotTls => return Err(if is_retry { NO_SECOND } else { NO_TLS }),
            NextRecord::More if octets.len() > room && is_retry => return Err(NO_SECOND),
            NextRecord::More if octets.len() > room => Held::Full,
            NextRecord::More if client.ended => Held::Over,
            NextRecord::More => {
                if !octets.is_empty() {
                    self.until.get_or_insert(until);
                }
                Held::Incomplete
            }
        }))
    }
}

impl Behind {
    /// How many octets may pass before the client has to wait, or is refused.
    fn room(&self) -> usize {
        let most = if self.answer == RetryAnswer::Retry { UNDER_WAY } else { EARLY };
        most.saturating_sub(self.passed)
    }
}

impl Exchange {
    /// Looks at both directions of a tunnel whose hellos are judged. Answers what became of the client's,
    /// if it still has to wait, and whether the server's has to wait as well.
    ///
    /// # Errors
    ///
    /// It may not go on, or a peer is gone.
    pub(super) fn hold_both(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(Option<Step>, bool), Error> {
        if self.hold.is_none() || self.upload_broken {
            return Ok((None, false));
        }
        let partly_heard = self.hear(turn)?;
        let held = self.hold_back(client, turn)?;
        // What the server says to a hello that has just gone on is looked at in the next turn.
        let expects_answer = |hold: &Hold| {
            hold.behind.as_ref().is_some_and(|behind| behind.answer == RetryAnswer::Incomplete)
        };
        let unheard = held == Some(Step::Spent) && self.hold.as_deref().is_some_and(expects_answer);
        Ok((held, partly_heard || unheard))
    }

    /// Receives what the client sends first and looks at it. Answers how that went while octets have to
    /// wait, and `None` when all may go on.
    ///
    /// # Errors
    ///
    /// It may not go on, or the client is gone.
    fn hold_back(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Step>, Error> {
        let was_first = self.hold.as_ref().is_some_and(|hold| hold.behind.is_none());
        let mut received = false;
        loop {
            if !self.send_cleared(client, turn) {
                return Ok(Some(Step::Blocked));
            }
            match self.look(client, turn) {
                Held::Incomplete => {}
                Held::Full => return Ok(Some(Step::Blocked)),
                Held::Clear if was_first => {
                    self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                    self.send_cleared(client, turn);
                    // The server is not to answer before somebody listens.
                    return Ok(Some(Step::Spent));
                }
                Held::Clear => continue,
                Held::Over => {
                    self.hold = None;
                    self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                    return Ok(None);
                }
                Held::Refused(alert, error) => {
                    self.part_with(alert, turn);
                    return Err(error);
                }
            }
            if !client.end.stream.is_readable() {
                return Ok(Some(Step::Blocked));
            }
            if received && turn.is_spent() {
                return Ok(Some(Step::Spent));
            }
            let buffer = &mut client.end.buffer;
            turn.buffers.lend(buffer);
            if buffer.room() == 0 {
                // With so many there is an answer.
                buffer.grow(MAX_OCTETS);
            }
            match client.end.receive() {
                Ok(Received::Octets(count)) => turn.moved += count,
                Ok(Received::Nothing | Received::End) => {}
                Err(e) => return Err(tunnel_reset(Side::Client, e)),
            }
            received = true;
        }
    }

    /// Sends what may go on. Answers whether all of it has gone.
    fn send_cleared(&mut self, client: &mut ClientSide<'_>, turn: &mut Turn<'_>) -> bool {
        let behind = self.hold.as_mut().and_then(|hold| hold.behind.as_mut());
        let (Some(behind), Some(upstream)) = (behind, &mut self.upstream) else { return true };
        loop {
            let sink = &mut upstream.end.stream;
            match flush(&mut self.to_upstream, &mut self.request, sink) {
                Ok(true) if behind.clear == 0 => {
                    turn.buffers.reclaim(&mut self.to_upstream);
                    return true;
                }
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => {
                    // What the upstream said before it broke is still to be passed on.
                    self.upload_broken = true;
                    self.hold = None;
                    return true;
                }
            }
            turn.buffers.lend(&mut self.to_upstream);
            let count = behind.clear.min(self.to_upstream.room());
            let octets = client.end.buffer.unread().get(..count).unwrap_or_default();
            self.to_upstream.tail().extend_from_slice(octets);
            client.end.buffer.consume(count);
            client.end.charge(count);
            behind.clear -= count;
        }
    }

    /// Looks at what the server says to the first ClientHello. Answers whether that has to wait for the
    /// rest of it, which takes no more than what fits into one record.
    ///
    /// # Errors
    ///
    /// The upstream is gone.
    fn hear(&mut self, turn: &mut Turn<'_>) -> Result<bool, Error> {
        let behind = self.hold.as_mut().and_then(|hold| hold.behind.as_mut());
        let (Some(behind), Some(upstream)) = (behind, &mut self.upstream) else { return Ok(false) };
        while behind.answer == RetryAnswer::Incomplete {
            let End { buffer, stream, ended, .. } = &mut upstream.end;
            behind.answer = match answer(buffer.unread()) {
                RetryAnswer::Incomplete if *ended => RetryAnswer::Settled,
                RetryAnswer::Incomplete if !stream.is_readable() => return Ok(!buffer.is_empty()),
                RetryAnswer::Incomplete => {
                    turn.buffers.lend(buffer);
                    match upstream.end.receive() {
                        Ok(Received::Octets(count)) => turn.moved += count,
                        Ok(Received::Nothing | Received::End) => {}
                        Err(e) => return Err(tunnel_reset(Side::Upstream, e)),
                    }
                    continue;
                }
                known => known,
            };
            behind.passed = 0;
        }
        Ok(false)
    }

    /// Until when the present wait may last, no later than the ClientHello has to be whole.
    pub(super) fn keep_hello_in_time(&mut self) {
        let until = self.hold.as_ref().and_then(|hold| hold.until);
        self.deadline = self.deadline.map(|at| until.map_or(at, |until| until.min(at)));
    }

    /// Whether a ClientHello has begun and is not whole.
    pub(super) fn expects_hello(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.until.is_some())
    }

    /// What the octets that have come turned out to be.
    fn look(&mut self, client: &ClientSide<'_>, turn: &Turn<'_>) -> Held {
        let Some(hold) = &mut self.hold else { return Held::Over };
        let rules = turn.policy.of(hold.listener).filter(|rules| rules.read_hellos());
        let Some(rules) = rules else { return Held::Over };
        let until = turn.now + turn.ctx.timeouts.head;
        let is_second = hold.behind.is_some();
        let unreadable = |reason| (rules.decide_unreadable(reason), Alert::DecodeError);
        match hold.find_hello(client.end, until) {
            Ok(None) => {}
            Ok(Some(held)) => return held,
            Err(reason) => {
                let (decision, alert) = unreadable(reason);
                return self.judged(decision, alert, turn).unwrap_or(Held::Over);
            }
        }
        let (decision, alert) = match hold.reader.read(client.end.buffer.unread()) {
            Reading::Incomplete if client.end.ended => {
                unreadable("the client ended the tunnel in the middle of its ClientHello")
            }
            Reading::Incomplete => {
                hold.until.get_or_insert(until);
                return Held::Incomplete;
            }
            Reading::NotTls | Reading::Malformed(HelloError::NotFirst) if is_second => {
                unreadable(NO_SECOND)
            }
            Reading::NotTls => return Held::Over,
            Reading::Malformed(e) => unreadable(e.reason()),
            Reading::Hello(hello) => {
                let (name, octets) = (named(&hello), hello.octets);
                turn.counters.count(|c| c.hellos_judged += 1);
                let decision = self.decide_hello(name.as_deref(), rules, turn);
                return match self.judged(decision, Alert::UnrecognizedName, turn) {
                    Some(refused) => refused,
                    None => self.go_on_behind(name, octets),
                };
            }
        };
        // Where nothing is enforced, what cannot be read goes on, and is not looked at any further.
        self.judged(decision, alert, turn).unwrap_or(Held::Over)
    }

    /// What is said of a hello that names this.
    fn decide_hello(
        &mut self,
        name: Option<&str>,
        rules: &Arc<Rules>,
        turn: &Turn<'_>,
    ) -> Decision {
        let Some(hold) = &self.hold else { return rules.decide_unreadable(NO_SECOND) };
        if let Some(behind) = &hold.behind {
            let decision = rules.decide_again(behind.name.as_deref(), name);
            if let (Verdict::Deny(_), Some(name)) = (decision.verdict, name) {
                self.noted.note_sni(name.to_owned());
            }
            return decision;
        }
        let authority = &self.destination;
        let connect = Request {
            client: hold.client,
            user: Some(&*self.user).filter(|user| !user.is_empty()),
            method: "CONNECT",
            way: Way::Connect,
            host: without_dot(authority.host().trim_matches(['[', ']'])),
            ip: authority.ip,
            port: authority.port,
            target: &authority.authority,
        };
        let address = self.upstream.as_ref().and_then(|upstream| upstream.address);
        let decision = rules.decide_hello(&connect, name, address);
        if let Some(name) = name.filter(|name| *name != connect.host) {
            if decision.verdict == Verdict::Allow {
                self.learn(name, name.parse().ok(), turn);
            }
            self.noted.note_sni(name.to_owned());
        }
        decision
    }

    /// A hello of so many octets may go on. What is behind it?
    fn go_on_behind(&mut self, name: Option<String>, octets: usize) -> Held {
        let heard = self.response.sent() + self.to_client.len() as u64 > self.heads
            || self.upstream.as_ref().is_some_and(|upstream| !upstream.end.buffer.is_empty());
        let Some(hold) = &mut self.hold else { return Held::Over };
        hold.reader = Reader::default();
        hold.until = None;
        match &mut hold.behind {
            // There is only one (RFC 8446 §4.1.4).
            Some(Behind { answer: RetryAnswer::Retry, .. }) => return Held::Over,
            Some(behind) => {
                behind.clear = octets;
                behind.passed += octets;
            }
            // A server that has spoken already has not begun with TLS.
            None if heard => return Held::Over,
            behind => {
                *behind = Some(Behind {
                    name,
                    answer: RetryAnswer::Incomplete,
                    records: Records::default(),
                    clear: octets,
                    passed: 0,
                });
            }
        }
        Held::Clear
    }

    /// What becomes of a tunnel of whose ClientHello this was decided, if it does not go on.
    fn judged(&mut self, decision: Decision, alert: Alert, turn: &Turn<'_>) -> Option<Held> {
        // What lets the name through has let the CONNECT through.
        if decision.would_deny.is_some() || decision.verdict != Verdict::Allow {
            self.note_decision(decision, turn);
        }
        let Verdict::Deny(reason) = decision.verdict else { return None };
        let (side, kind) = match alert {
            Alert::DecodeError => (Side::Client, Kind::HttpRequestError),
            Alert::UnrecognizedName => (Side::Proxy, Kind::HttpRequestDenied),
        };
        Some(Held::Refused(alert, Error::new(side, Phase::Transfer, kind, reason)))
    }

    /// The tunnel is over for its upstream, which has got nothing of the hello; its client is told why.
    fn part_with(&mut self, alert: Alert, turn: &mut Turn<'_>) {
        self.hold = None;
        turn.counters.count(|c| c.tunnels_refused += 1);
        if let Some(mut upstream) = self.upstream.take() {
            self.tried = upstream.address;
            turn.buffers.discard(&mut upstream.end.buffer);
        }
        let sent = self.response.sent();
        self.response = Flow::empty();
        self.response.add_sent(sent);
        turn.buffers.lend(&mut self.to_client);
        // A fatal one, in a record that every version understands.
        let alert = [0x15, 3, 3, 0, 2, 2, alert as u8];
        self.to_client.tail().extend_from_slice(&alert);
    }

    /// Whether a tunnel has no upstream any more, and only its client is to be told so.
    pub fn has_parted(&self) -> bool {
        self.is_tunnel() && self.upstream.is_none() && !self.is_aborted()
    }

    /// Keeps why; what is left is to tell the client.
    pub fn note_parting(&mut self, error: Error, turn: &Turn<'_>) {
        self.failure = Some(error);
        self.close = true;
        self.wake_at = None;
        self.deadline = Some(turn.now + turn.ctx.timeouts.head);
    }

    /// Tells the client.
    pub(super) fn part(&mut self, client: &mut ClientSide<'_>) -> Progress {
        match flush(&mut self.to_client, &mut self.response, &mut client.end.stream) {
            Ok(false) => Progress::Wait(None),
            // One that is gone needs not be told.
            Ok(true) | Err(_) => Progress::Finished,
        }
    }
}

/// The name, as rules have it.
fn named(hello: &Hello<'_>) -> Option<String> {
    hello.sni.map(|name| without_dot(name).to_ascii_lowercase())
}
