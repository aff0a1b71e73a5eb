//! Holds the first bytes of a tunnel until it is known which host they name.
//!
//! Only the client's direction waits, and only while its bytes can still become a ClientHello. The
//! upstream's bytes are passed on as ever, so that a server that speaks first is heard. A client that
//! says nothing, or no TLS, is not held. The upstream gets no byte of a hello that is refused; the
//! client gets an alert (RFC 8446 §6) and the end. The verdict on the name is made in `policy::sni`.
//!
//! ```text
//!            hello goes on               ServerHello, or no TLS
//! First ───────────────────▶ Behind ──────────────────────────────▶ the tunnel's flows
//!   │ no TLS                   │ HelloRetryRequest, a second hello      ▲
//!   └──────────────────────────┴────────────────────────────────────────┘
//! ```
//!
//! A server may ask for a second ClientHello, and serve the name in that one. So the client's records
//! are passed on one by one until the server has answered the first hello, and after a HelloRetryRequest
//! until the second has come. Then both directions are flows, as in every other tunnel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::hosts::without_dot;
use crate::net::stream::Received;
use crate::policy::decide::{Decision, Rules, Verdict};
use crate::wire::client_hello::{Hello, HelloError, MAX_BYTES, Reader, Reading};
use crate::wire::hello_retry::{NextRecord, Records, RetryAnswer, answer};

use super::blame::tunnel_reset;
use super::common::Common;
use super::content::Content;
use super::context::Turn;
use super::flow::Step;
use super::half::Half;
use super::sides::Upstream;

/// Bytes of early data that are passed on before the server has answered; more of it waits for the
/// answer.
const EARLY: usize = 64 * 1024;
/// Bytes that may stand between a HelloRetryRequest and the second ClientHello, because they were under
/// way.
const UNDER_WAY: usize = 16 * 1024 * 1024;
/// The reason to end a tunnel whose client does not send the ClientHello that it was asked for.
const NO_SECOND: &str =
    "the client answers a HelloRetryRequest with something other than a ClientHello";
/// The reason to end one whose client stops speaking TLS before the server has answered its ClientHello.
const NO_TLS: &str = "something other than TLS follows the client's ClientHello";

/// The state of a tunnel whose client's first bytes wait.
#[derive(Debug)]
pub(super) struct HelloGate {
    /// The listener, whose rules are asked when the hello is there. The rules are not kept here: a
    /// client may say nothing for hours, and long lists must be freed when others take their place.
    listener: u16,
    client: IpAddr,
    reader: Reader,
    /// When the ClientHello must be whole at the latest, once it has begun.
    until: Option<Instant>,
    /// The state behind the first hello, once that was let through.
    behind: Option<Behind>,
}

/// The state of a tunnel whose first ClientHello was passed on.
#[derive(Debug)]
struct Behind {
    /// The name in the first hello.
    name: Option<String>,
    /// The server's answer to it.
    answer: RetryAnswer,
    records: Records,
    /// Bytes at the front of the client's buffer that may be passed on.
    clear: usize,
    /// Bytes that have passed since the hello, or since the server's answer.
    passed: usize,
}

/// What the held bytes turned out to be.
enum Held {
    /// Not enough yet.
    Incomplete,
    /// Some bytes may be passed on; those behind them are still to be examined.
    Clear,
    /// Enough was passed on for now: the server must answer first.
    Full,
    /// Everything may be passed on.
    Over,
    /// These bytes are refused, with the alert that tells the client.
    Refused(Alert, Error),
}

/// Alerts (RFC 8446 §6.2).
#[derive(Clone, Copy)]
enum Alert {
    DecodeError = 50,
    /// RFC 6066 §3. Chromium names this alert. It shows `access_denied`, which is about certificates, as
    /// a broken protocol.
    UnrecognizedName = 112,
}

impl HelloGate {
    pub(super) fn new(listener: u16, client: IpAddr) -> Self {
        Self { listener, client, reader: Reader::default(), until: None, behind: None }
    }

    /// Looks for the next hello behind the first. Returns `None` if one begins where the client's buffer
    /// does; `until` is when it must be whole.
    ///
    /// # Errors
    ///
    /// There is none that could be judged, for this reason. A server that skips these bytes could still
    /// accept a hello behind them.
    fn find_hello(&mut self, client: &Half, until: Instant) -> Result<Option<Held>, &'static str> {
        let bytes = client.buffer.unread();
        let Some(behind) = &mut self.behind else {
            // The end of a client that has sent nothing is passed on.
            let silent = if client.ended { Held::Over } else { Held::Incomplete };
            return Ok(bytes.is_empty().then_some(silent));
        };
        if behind.answer == RetryAnswer::Settled {
            return Ok(Some(Held::Over));
        }
        let is_retry = behind.answer == RetryAnswer::Retry;
        let room = behind.room();
        let (clear, next) = behind.records.pass(bytes.get(..room).unwrap_or(bytes));
        behind.clear = clear;
        behind.passed += clear;
        Ok(Some(match next {
            _ if clear > 0 => {
                self.until = None;
                Held::Clear
            }
            NextRecord::Handshake => return Ok(None),
            NextRecord::NotTls => return Err(if is_retry { NO_SECOND } else { NO_TLS }),
            NextRecord::More if bytes.len() > room && is_retry => return Err(NO_SECOND),
            NextRecord::More if bytes.len() > room => Held::Full,
            NextRecord::More if client.ended => Held::Over,
            NextRecord::More => {
                if !bytes.is_empty() {
                    self.until.get_or_insert(until);
                }
                Held::Incomplete
            }
        }))
    }
}

impl Behind {
    /// How many bytes may pass before the client has to wait, or is refused.
    fn room(&self) -> usize {
        let most = if self.answer == RetryAnswer::Retry { UNDER_WAY } else { EARLY };
        most.saturating_sub(self.passed)
    }
}

/// The outcome for the client's bytes while they are judged.
enum Gated {
    /// They still have to wait.
    Waits(Step),
    /// Everything may be passed on.
    Over,
    /// They are refused, with the alert that tells the client.
    Refused(Alert, Error),
}

/// Looks at both directions of a tunnel whose hellos are judged. Returns the outcome for the client's
/// direction, if it still has to wait, and whether the server's direction has to wait as well.
///
/// # Errors
///
/// The hello is refused and the upstream dropped, or a peer is gone.
pub(super) fn judge_both(
    gate: &mut Option<Box<HelloGate>>,
    upstream: &mut Option<Upstream>,
    common: &mut Common,
    client: &mut Half,
    turn: &mut Turn<'_>,
) -> Result<(Option<Step>, bool), Error> {
    let (Some(open), Some(to)) = (gate.as_deref_mut(), upstream.as_mut()) else {
        return Ok((None, false));
    };
    if common.up.is_broken {
        return Ok((None, false));
    }
    let partly_heard = open.hear(&mut to.half, turn)?;
    match open.hold_back(to, common, client, turn)? {
        Gated::Waits(step) => {
            // The server's answer to a hello that was just passed on is examined in the next turn.
            let unheard = step == Step::Spent && open.expects_answer();
            Ok((Some(step), partly_heard || unheard))
        }
        Gated::Over => {
            *gate = None;
            Ok((None, partly_heard))
        }
        Gated::Refused(alert, error) => {
            *gate = None;
            part_with(upstream.take(), alert, common, turn);
            Err(error)
        }
    }
}

impl HelloGate {
    /// When a ClientHello that has begun must be whole at the latest.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    fn expects_answer(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.answer == RetryAnswer::Incomplete)
    }

    /// Receives the client's first bytes and examines them.
    ///
    /// # Errors
    ///
    /// The client is gone.
    fn hold_back(
        &mut self,
        upstream: &mut Upstream,
        common: &mut Common,
        client: &mut Half,
        turn: &mut Turn<'_>,
    ) -> Result<Gated, Error> {
        let was_first = self.behind.is_none();
        let mut received = false;
        loop {
            if !self.send_cleared(upstream, common, client, turn) {
                return Ok(Gated::Waits(Step::Blocked));
            }
            if common.up.is_broken {
                common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                return Ok(Gated::Over);
            }
            match self.look(upstream, common, client, turn) {
                Held::Incomplete => {}
                Held::Full => return Ok(Gated::Waits(Step::Blocked)),
                Held::Clear if was_first => {
                    common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                    self.send_cleared(upstream, common, client, turn);
                    if common.up.is_broken {
                        return Ok(Gated::Over);
                    }
                    // The server must not answer before somebody listens.
                    return Ok(Gated::Waits(Step::Spent));
                }
                Held::Clear => continue,
                Held::Over => {
                    common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                    return Ok(Gated::Over);
                }
                Held::Refused(alert, error) => return Ok(Gated::Refused(alert, error)),
            }
            if !client.stream.is_readable() {
                return Ok(Gated::Waits(Step::Blocked));
            }
            if received && turn.is_spent() {
                return Ok(Gated::Waits(Step::Spent));
            }
            turn.buffers.lend(&mut client.buffer);
            if client.buffer.room() == 0 {
                // At this size the hello can be judged.
                client.buffer.grow(MAX_BYTES);
            }
            match client.receive() {
                Ok(Received::Bytes(count)) => turn.moved += count,
                Ok(Received::Nothing | Received::End) => {}
                Err(e) => return Err(tunnel_reset(Side::Client, e)),
            }
            received = true;
        }
    }

    /// Sends the bytes that may be passed on. Returns whether all of them have gone, or nothing can be
    /// sent any more.
    fn send_cleared(
        &mut self,
        upstream: &mut Upstream,
        common: &mut Common,
        client: &mut Half,
        turn: &mut Turn<'_>,
    ) -> bool {
        let Some(behind) = &mut self.behind else { return true };
        let up = &mut common.up;
        loop {
            match up.flush(&mut upstream.half.stream) {
                Ok(true) if behind.clear == 0 => {
                    turn.buffers.reclaim(&mut up.staged);
                    return true;
                }
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => {
                    // Bytes that the upstream sent before it broke are still to be passed on.
                    up.is_broken = true;
                    return true;
                }
            }
            turn.buffers.lend(&mut up.staged);
            let count = behind.clear.min(up.staged.room());
            let bytes = client.buffer.unread().get(..count).unwrap_or_default();
            up.staged.tail().extend_from_slice(bytes);
            client.buffer.consume(count);
            client.charge(count);
            behind.clear -= count;
        }
    }

    /// Examines the server's answer to the first ClientHello. Returns whether that has to wait for the
    /// rest of the answer, which takes no more than fits into one record.
    ///
    /// # Errors
    ///
    /// The upstream is gone.
    fn hear(&mut self, upstream: &mut Half, turn: &mut Turn<'_>) -> Result<bool, Error> {
        let Some(behind) = &mut self.behind else { return Ok(false) };
        while behind.answer == RetryAnswer::Incomplete {
            let Half { buffer, stream, ended, .. } = &mut *upstream;
            behind.answer = match answer(buffer.unread()) {
                RetryAnswer::Incomplete if *ended => RetryAnswer::Settled,
                RetryAnswer::Incomplete if !stream.is_readable() => return Ok(!buffer.is_empty()),
                RetryAnswer::Incomplete => {
                    turn.buffers.lend(buffer);
                    match upstream.receive() {
                        Ok(Received::Bytes(count)) => turn.moved += count,
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

    /// Finds out what the bytes received so far are.
    fn look(
        &mut self,
        upstream: &Upstream,
        common: &mut Common,
        client: &Half,
        turn: &Turn<'_>,
    ) -> Held {
        let rules = turn.policy.of(self.listener).filter(|rules| rules.read_hellos());
        let Some(rules) = rules else { return Held::Over };
        let until = turn.now + turn.ctx.timeouts.head;
        let is_second = self.behind.is_some();
        let unreadable = |reason| (rules.decide_unreadable(reason), Alert::DecodeError);
        match self.find_hello(client, until) {
            Ok(None) => {}
            Ok(Some(held)) => return held,
            Err(reason) => {
                let (decision, alert) = unreadable(reason);
                return judged(decision, alert, common, turn).unwrap_or(Held::Over);
            }
        }
        let (decision, alert) = match self.reader.read(client.buffer.unread()) {
            Reading::Incomplete if client.ended => {
                unreadable("the client ended the tunnel in the middle of its ClientHello")
            }
            Reading::Incomplete => {
                self.until.get_or_insert(until);
                return Held::Incomplete;
            }
            Reading::NotTls | Reading::Malformed(HelloError::NotFirst) if is_second => {
                unreadable(NO_SECOND)
            }
            Reading::NotTls => return Held::Over,
            Reading::Malformed(e) => unreadable(e.reason()),
            Reading::Hello(hello) => {
                let (name, bytes) = (named(&hello), hello.bytes);
                turn.counters.count(|c| c.hellos_judged += 1);
                let decision = self.decide(name.as_deref(), upstream, common, rules, turn);
                return match judged(decision, Alert::UnrecognizedName, common, turn) {
                    Some(refused) => refused,
                    None => self.go_on_behind(name, bytes, upstream, common),
                };
            }
        };
        // If nothing is enforced, unreadable bytes are passed on and not examined any further.
        judged(decision, alert, common, turn).unwrap_or(Held::Over)
    }

    /// Decides on a hello with this name.
    fn decide(
        &self,
        name: Option<&str>,
        upstream: &Upstream,
        common: &mut Common,
        rules: &Arc<Rules>,
        turn: &Turn<'_>,
    ) -> Decision {
        if let Some(behind) = &self.behind {
            let decision = rules.decide_again(behind.name.as_deref(), name);
            if let (Verdict::Deny(_), Some(name)) = (decision.verdict, name) {
                common.account.note.note_sni(name.to_owned());
            }
            return decision;
        }
        let connect = common.intent.as_connect(self.client, &common.terms.user);
        let decision = rules.decide_hello(&connect, name, Some(upstream.address));
        if let Some(entry) = name.and_then(|name| rules.entry(decision, name, name.parse().ok())) {
            common.account.note.note_entry(entry);
        }
        if let Some(name) = name.filter(|name| *name != connect.host) {
            if decision.verdict == Verdict::Allow {
                common.learn(name, name.parse().ok(), turn);
            }
            common.account.note.note_sni(name.to_owned());
        }
        decision
    }

    /// Lets a hello of this many bytes pass, and prepares for the bytes behind it.
    fn go_on_behind(
        &mut self,
        name: Option<String>,
        bytes: usize,
        upstream: &Upstream,
        common: &Common,
    ) -> Held {
        let heard = common.down.sent_and_staged() > common.account.heads
            || !upstream.half.buffer.is_empty();
        self.reader = Reader::default();
        self.until = None;
        match &mut self.behind {
            // There is only one retry (RFC 8446 §4.1.4).
            Some(Behind { answer: RetryAnswer::Retry, .. }) => return Held::Over,
            Some(behind) => {
                behind.clear = bytes;
                behind.passed += bytes;
            }
            // A server that has spoken already does not speak TLS.
            None if heard => return Held::Over,
            behind => {
                *behind = Some(Behind {
                    name,
                    answer: RetryAnswer::Incomplete,
                    records: Records::default(),
                    clear: bytes,
                    passed: 0,
                });
            }
        }
        Held::Clear
    }
}

/// Applies the decision on a tunnel's ClientHello. Returns the refusal, if it is refused.
fn judged(decision: Decision, alert: Alert, common: &mut Common, turn: &Turn<'_>) -> Option<Held> {
    // A rule that allows the name has allowed the CONNECT, too.
    if decision.would_deny.is_some() || decision.verdict != Verdict::Allow {
        common.account.decided(decision, turn);
    }
    let Verdict::Deny(reason) = decision.verdict else { return None };
    let (side, kind) = match alert {
        Alert::DecodeError => (Side::Client, Kind::HttpRequestError),
        Alert::UnrecognizedName => (Side::Proxy, Kind::HttpRequestDenied),
    };
    let error = Error::new(side, Phase::Transfer, kind, reason);
    Some(Held::Refused(alert, error.with_refused_by(turn.part(decision))))
}

/// Drops the upstream, which has got nothing of the hello, and tells the client why.
fn part_with(upstream: Option<Upstream>, alert: Alert, common: &mut Common, turn: &mut Turn<'_>) {
    turn.counters.count(|c| c.tunnels_refused += 1);
    if let Some(mut upstream) = upstream {
        turn.buffers.discard(&mut upstream.half.buffer);
    }
    let down = &mut common.down;
    down.goes_on_with(Content::empty());
    turn.buffers.lend(&mut down.staged);
    // A fatal alert, in a record that every version understands.
    let alert = [0x15, 3, 3, 0, 2, 2, alert as u8];
    down.staged.tail().extend_from_slice(&alert);
}

/// The name in the form that rules use.
fn named(hello: &Hello<'_>) -> Option<String> {
    hello.sni.map(|name| without_dot(name).to_ascii_lowercase())
}
