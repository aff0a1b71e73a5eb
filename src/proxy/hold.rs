//! A tunnel's first octets wait until it is known whom they name.
//!
//! Only the client's direction waits, and only while what it has sent can still become a ClientHello:
//! the upstream's octets go on as ever, so that a server that speaks first is heard, and a client
//! that says nothing, or no TLS, is not kept. Of a hello that is refused nothing goes to the upstream; the
//! client gets an alert (RFC 8446 §6) and the end. What is said of the name is `policy::hello`'s.

use std::net::IpAddr;
use std::time::Instant;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::hosts::without_dot;
use crate::net::stream::Received;
use crate::policy::decide::{Decision, Verdict};
use crate::policy::rules::{Request, Way};
use crate::wire::client_hello::{Hello, MAX_OCTETS, Reader, Reading};

use super::Turn;
use super::exchange::{ClientSide, Exchange, Progress, flush, tunnel_reset};
use super::flow::Flow;

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
}

/// What the octets held turned out to be.
enum Held {
    /// Not enough yet.
    Incomplete,
    /// What may go on.
    Passed,
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
        Self { listener, client, reader: Reader::default(), until: None }
    }
}

impl Exchange {
    /// Receives what the client sends first and looks at it. Answers whether it is still to wait.
    ///
    /// # Errors
    ///
    /// It may not go on, or the client is gone.
    pub(super) fn hold_back(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Error> {
        loop {
            match self.look(client, turn) {
                Held::Incomplete => {}
                Held::Passed => {
                    self.hold = None;
                    self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
                    return Ok(false);
                }
                Held::Refused(alert, error) => {
                    self.part_with(alert, turn);
                    return Err(error);
                }
            }
            if !client.end.stream.is_readable() {
                return Ok(true);
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
        }
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
        let Some(hold) = &mut self.hold else { return Held::Passed };
        let rules = turn.policy.of(hold.listener).filter(|rules| rules.read_hellos());
        let Some(rules) = rules else { return Held::Passed };
        let octets = client.end.buffer.unread();
        if octets.is_empty() {
            // An end without a word is passed on.
            return if client.end.ended { Held::Passed } else { Held::Incomplete };
        }
        let hello = match hold.reader.read(octets) {
            Reading::Incomplete if client.end.ended => {
                let reason = "the client ended the tunnel in the middle of its ClientHello";
                let decision = rules.decide_unreadable(reason);
                return self.judged(decision, Alert::DecodeError, turn);
            }
            Reading::Incomplete => {
                let limit = turn.ctx.timeouts.head;
                hold.until.get_or_insert_with(|| turn.now + limit);
                return Held::Incomplete;
            }
            Reading::NotTls => return Held::Passed,
            Reading::Malformed(e) => {
                let decision = rules.decide_unreadable(e.reason());
                return self.judged(decision, Alert::DecodeError, turn);
            }
            Reading::Hello(hello) => hello,
        };
        let name = named(&hello);
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
        turn.counters.count(|c| c.hellos_judged += 1);
        let decision = rules.decide_hello(&connect, name.as_deref(), address);
        if let Some(name) = name.filter(|name| name != connect.host) {
            if decision.verdict == Verdict::Allow {
                self.learn(&name, name.parse().ok(), turn);
            }
            self.noted.note_sni(name);
        }
        self.judged(decision, Alert::UnrecognizedName, turn)
    }

    /// What becomes of a tunnel of whose ClientHello this was decided.
    fn judged(&mut self, decision: Decision, alert: Alert, turn: &Turn<'_>) -> Held {
        // What lets the name through has let the CONNECT through.
        if decision.would_deny.is_some() || decision.verdict != Verdict::Allow {
            self.note_decision(decision, turn);
        }
        let Verdict::Deny(reason) = decision.verdict else { return Held::Passed };
        let (side, kind) = match alert {
            Alert::DecodeError => (Side::Client, Kind::HttpRequestError),
            Alert::UnrecognizedName => (Side::Proxy, Kind::HttpRequestDenied),
        };
        Held::Refused(alert, Error::new(side, Phase::Transfer, kind, reason))
    }

    /// The tunnel is over for its upstream, which has got nothing; its client is told why.
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
