//! The stage in which the request goes to the upstream and the response to the client.

use std::io;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::stream::Received;
use crate::policy::decide::Verdict;
use crate::policy::limits::Direction;
use crate::wire::detect::cannot_be_response;
use crate::wire::head::{HeadScan, find_response_end};
use crate::wire::{
    Framing, HeadError, Leniency, Method, MoreSlots, Recode, Repair, Repairs, ResponseFraming,
    ResponseHead, ResponseOutgoing, Slots, Tolerance, Version,
};

use super::Turn;
use super::access::judge_response;
use super::exchange::{ClientSide, Exchange, Progress, UPSTREAM, Upstream, client_gone, flush};
use super::facts::Times;
use super::flow::{Broken, Coding, Flow, Step};
use super::limits::{step, used_up};

/// Interim responses passed on for one request where responses are judged strictly.
const MAX_INTERIM: u32 = 16;
/// How often interim responses can make the wait for the final one begin again, in lengths of that wait.
const INTERIM_WAITS: u32 = 10;

/// Judges how many interim responses there are.
fn check_interim(count: u32, repairs: &mut Repairs, turn: &Turn<'_>) -> Result<(), Error> {
    if count > MAX_INTERIM {
        if turn.ctx.leniency == Leniency::Strict {
            return Err(malformed("the upstream sent too many interim responses"));
        }
        repairs.add(Repair::ManyInterim);
    }
    Ok(())
}

/// Until when the wait for the final response lasts behind an interim one that the client gets: it begins
/// again, for the upstream is at work (RFC 9110 §15.2), though not for ever.
fn renewed_wait(times: &Times, turn: &Turn<'_>) -> Option<Instant> {
    let wait = turn.ctx.timeouts.response;
    let since = times.sent.or(times.started)?;
    Some((since + wait * INTERIM_WAITS).min(turn.now + wait))
}

/// Reads a whole response head: as it stands, or mended where that is wanted. Inline, for a head is a large
/// value to hand back.
#[inline(always)]
fn read_head<'h, 'b>(
    octets: &'b [u8],
    has_bare_lf: bool,
    (slots, more, mended): (&'h mut Slots<'b>, &'h mut MoreSlots<'b>, &'b mut Vec<u8>),
    method: Method,
    turn: &Turn<'_>,
) -> Result<ResponseHead<'h, 'b>, Error> {
    let limits = &turn.ctx.limits;
    let mut error = HeadError::BareLf;
    if !has_bare_lf {
        match ResponseHead::read(octets, slots, limits, method) {
            Ok(head) => return Ok(head),
            Err(fault) => error = fault,
        }
    }
    if turn.ctx.leniency == Leniency::Strict {
        return Err(malformed(error.reason()));
    }
    ResponseHead::read_mended(octets, error, mended, more, limits, method)
        .map_err(|e| malformed(e.reason()))
}

impl Exchange {
    pub(super) fn relay(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        let before = turn.moved;
        let sent = self.push_request(client, turn)?;
        let between = turn.moved;
        let received = self.pull_response(client, turn)?;
        if self.is_tunnel() {
            return self.tunnel(client, turn);
        }
        // Until the response begins, a head that comes octet by octet does not buy the upstream time;
        // for interim responses see `renewed_wait`.
        if between > before || (self.begun && turn.moved > between) {
            self.deadline = Some(turn.now + turn.ctx.timeouts.response);
        }
        if received == Step::Ended && self.begun {
            return Ok(Progress::Finished);
        }
        self.wait_on(turn);
        if sent == Step::Spent || received == Step::Spent {
            return Ok(Progress::Spent);
        }
        // A patient receive would take what comes, allowed or not.
        let only_upstream =
            sent == Step::Ended && client.end.stream.is_writable() && self.limited.is_none();
        Ok(Progress::Wait(only_upstream.then_some(UPSTREAM)))
    }

    pub(super) fn push_request(
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
            if self.upload_broken || self.request.is_clear() {
                return Ok(Step::Ended);
            }
        }
        let sink = &mut upstream.end.stream;
        let ends = (&mut *client.end, &mut self.to_upstream, sink);
        match step(&mut self.request, ends, (&mut self.limited, Direction::Up), turn) {
            Ok(Step::Ended) => {
                turn.buffers.reclaim(&mut self.to_upstream);
                self.times.sent = Some(turn.clock());
                Ok(Step::Ended)
            }
            Ok(step) => Ok(step),
            Err(Broken::Sink(_)) => {
                // It may have answered before it closed: what it said is there to be read.
                self.upload_broken = true;
                self.close |= !self.request.is_clear();
                self.request.drop_pipe();
                turn.buffers.discard(&mut self.to_upstream);
                Ok(Step::Ended)
            }
            Err(Broken::Source(e)) => Err(client_gone(e)),
            Err(Broken::UsedUp) => Err(used_up(Phase::Transfer)),
            // The answer is on its way already: it goes on, and is the last.
            Err(Broken::SourceEnded | Broken::Framing(_) | Broken::TooMuch) if self.begun => {
                self.upload_broken = true;
                self.close = true;
                Ok(Step::Ended)
            }
            Err(Broken::SourceEnded) => Err(Error::new(
                Side::Client,
                Phase::Send,
                Kind::HttpRequestError,
                "the client ended the connection before the request's content was complete",
            )),
            Err(Broken::Framing(e)) => {
                Err(Error::new(Side::Client, Phase::Send, Kind::HttpRequestError, e.reason()))
            }
            // Requests have no limit.
            Err(Broken::TooMuch) => Ok(Step::Ended),
        }
    }

    pub(super) fn pull_response(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Error> {
        let mut received = false;
        while !self.begun {
            if self.interim > 0 {
                // A client that does not read its interim responses gets no more of them.
                if !self.flush_interim(client)? {
                    return Ok(Step::Blocked);
                }
                if received && turn.is_spent() {
                    return Ok(Step::Spent);
                }
            }
            if self.find_head(client, turn)? {
                continue;
            }
            let Some(Upstream { end, .. }) = &self.upstream else { return Ok(Step::Ended) };
            if end.ended {
                return Err(self.unanswered(None));
            }
            let readable = end.stream.is_readable();
            if !readable || !self.may_receive(turn)? {
                self.settle_response(turn);
                return Ok(if readable { Step::Dry } else { Step::Blocked });
            }
            let Some(Upstream { end, .. }) = &mut self.upstream else { return Ok(Step::Ended) };
            turn.buffers.lend(&mut end.buffer);
            if end.buffer.room() == 0 {
                // `find_head` has refused a head past the limit.
                end.buffer.grow(turn.ctx.limits.max_head_octets + 1024);
            }
            received = true;
            match end.receive_allowed() {
                Ok(Received::Octets(count)) => {
                    turn.moved += count;
                    self.response_octets += count as u64;
                }
                Ok(Received::Nothing | Received::End) => {}
                Err(e) => return Err(self.unanswered(Some(e))),
            }
        }
        if self.is_tunnel() {
            return Ok(Step::Ended);
        }
        let Some(Upstream { end, .. }) = &mut self.upstream else { return Ok(Step::Ended) };
        let sink = &mut client.end.stream;
        let ends = (end, &mut self.to_client, sink);
        let step = step(&mut self.response, ends, (&mut self.limited, Direction::Down), turn);
        step.map_err(|broken| self.response_broke(broken, turn))
    }

    /// Sends interim responses, which must not wait for the final one. Answers whether all have gone.
    fn flush_interim(&mut self, client: &mut ClientSide<'_>) -> Result<bool, Error> {
        let sink = &mut client.end.stream;
        flush(&mut self.to_client, &mut self.response, sink).map_err(client_gone)
    }

    fn response_broke(&mut self, broken: Broken, turn: &Turn<'_>) -> Error {
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
            Broken::UsedUp => used_up(Phase::Transfer),
            Broken::SourceEnded => incomplete(None),
            Broken::Framing(e) => {
                Error::new(Side::Upstream, Phase::Transfer, Kind::HttpProtocolError, e.reason())
            }
            Broken::TooMuch => {
                let most = self.judge.as_ref().and_then(|judge| judge.most_content());
                let judged = most.map(|(_, decision)| (decision, Kind::HttpResponseBodySize));
                let followed = judged.map(|j| self.follow_response(j, Phase::Transfer, turn));
                // There is no such break without a limit.
                followed.and_then(Result::err).unwrap_or_else(|| incomplete(None))
            }
        }
    }

    /// The upstream closed or reset the connection before a response head was complete.
    pub(super) fn unanswered(&self, e: Option<io::Error>) -> Error {
        let reason = if self.response_octets == 0 {
            "the upstream closed the connection without an answer"
        } else {
            "the upstream closed the connection in the middle of a response head"
        };
        let error = Error::new(Side::Upstream, Phase::Response, Kind::ConnectionTerminated, reason);
        e.into_iter().fold(error, Error::with_source)
    }

    /// Looks for a response head in what was read. Answers whether there was one.
    pub(super) fn find_head(
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
        let length = match find_response_end(held, &mut self.scanned, limits, turn.ctx.leniency) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(false),
            Err(e) => return Err(malformed(e.reason())),
        };
        let mut judged = None;
        let (mut slots, mut more, mut mended) = (Slots::new(), MoreSlots::default(), Vec::new());
        let octets = held.get(..length).unwrap_or_default();
        let room = (&mut slots, &mut more, &mut mended);
        let head = read_head(octets, self.scanned.has_bare_lf, room, self.facts.method, turn)?;
        self.repairs = self.repairs.union(head.repairs);
        turn.buffers.lend(&mut self.to_client);
        if head.status == 101 {
            if !self.repairs.is_empty() {
                return Err(malformed(
                    "the upstream changed the protocol behind a malformed response",
                ));
            }
            let protocols = self.agreed(&head)?;
            let via = turn.ctx.via.as_deref();
            let upgrade = Some(&protocols);
            let outgoing = ResponseOutgoing { via, upgrade, ..ResponseOutgoing::default() };
            head.write_client(self.to_client.tail(), &outgoing);
            self.change_protocol(turn);
        } else if head.status < 200 {
            self.interim = self.interim.saturating_add(1);
            check_interim(self.interim, &mut self.repairs, turn)?;
            // HTTP/1.0 has no interim responses (RFC 9110 §15.2).
            if self.facts.version >= Version::Http11 {
                self.deadline = self.deadline.max(renewed_wait(&self.times, turn));
                let via = turn.ctx.via.as_deref();
                let outgoing = ResponseOutgoing { via, ..ResponseOutgoing::default() };
                head.write_client(self.to_client.tail(), &outgoing);
            }
        } else {
            if self.has_crossed(&head, turn) {
                return Err(self.unanswered(None));
            }
            if self.judge.is_some()
                && let Some(found) = judge_response(self, &head)
            {
                if let Verdict::Deny(_) = found.0.verdict {
                    return self.follow_response(found, Phase::Response, turn).map(|()| false);
                }
                judged = Some(found);
            }
            self.times.response = Some(turn.clock());
            // A response that has no date gets the time it came (RFC 9110 §6.6.1).
            let date = (turn.ctx.via.is_some() && !head.has_date)
                .then(|| httpdate::fmt_http_date(SystemTime::now()));
            let (flow, mut outgoing) = self.answer(&head, client, turn)?;
            outgoing.date = date.as_deref();
            let upgrade = self.wanted_instead(&head);
            outgoing.upgrade = upgrade.as_ref();
            self.staged_at = Some(self.response.sent() + self.to_client.len() as u64);
            head.write_client(self.to_client.tail(), &outgoing);
            self.close = outgoing.close || !self.request.is_clear();
            self.status = head.status;
            self.upstream_persists = head.persistent()
                && self.repairs.is_empty()
                && !head.is_silent_on_content(self.facts.method);
            self.withholds = head.withholds_content(self.facts.method);
            self.bound |= head.binds_connection();
            let sent = self.response.sent();
            self.heads = sent + self.to_client.len() as u64;
            self.response = flow;
            self.response.add_sent(sent);
            if let Some((most, _)) = self.judge.as_ref().and_then(|judge| judge.most_content()) {
                self.response.limit(most.get());
            }
            self.begun = true;
        }
        if let Some(Upstream { end, .. }) = &mut self.upstream {
            end.buffer.consume(length);
            end.charge(length);
        }
        self.scanned = HeadScan::default();
        if let Some(judged) = judged {
            self.follow_response(judged, Phase::Response, turn)?;
        }
        Ok(true)
    }

    /// How the response goes to the client, and whether the connection lives on.
    pub(super) fn answer<'t>(
        &self,
        head: &ResponseHead<'_, '_>,
        client: &ClientSide<'_>,
        turn: &Turn<'t>,
    ) -> Result<(Flow, ResponseOutgoing<'t>), Error> {
        let old = self.facts.version < Version::Http11;
        let tolerance = match turn.ctx.leniency {
            Leniency::Mend => Tolerance::Mend,
            Leniency::Strict => Tolerance::Strict,
        };
        let (flow, coding, ends) = match head.framing {
            ResponseFraming::Framed(Framing::Chunked) if old => {
                let flow = Flow::framed_as(Framing::Chunked, Coding::Dechunk, tolerance);
                (flow, Recode::Dechunk, true)
            }
            ResponseFraming::Framed(framing) => {
                (Flow::framed_as(framing, Coding::Keep, tolerance), Recode::Keep, false)
            }
            ResponseFraming::UntilClose if old => {
                (Flow::until_close(Coding::Keep), Recode::Keep, true)
            }
            ResponseFraming::UntilClose => {
                let ends = is_asked_again(head.status);
                (Flow::until_close(Coding::Chunk), Recode::Chunk, ends)
            }
            ResponseFraming::Tunnel => {
                return Err(malformed("the upstream opened a tunnel nobody asked for"));
            }
        };
        // An answer to a request that is not whole yet: what is still to come of it must never be
        // read as the next request, so there is none on this connection.
        let early = !self.request.is_clear();
        let close = self.close
            || ends
            || (early && self.must_know(head.status, client))
            || !self.facts.persistent
            || (client.end.ended && client.end.buffer.is_empty())
            || turn.ctx.is_draining();
        let outgoing = ResponseOutgoing {
            via: turn.ctx.via.as_deref(),
            close,
            keep_alive: old && !close,
            coding,
            ..ResponseOutgoing::default()
        };
        Ok((flow, outgoing))
    }
}

impl Exchange {
    /// Whether a client has to be told that an early answer is the last on its connection: it would
    /// finish its content and ask again there. One that still waits for a 100 sends none of it, and
    /// one that gets a 417 asks again without `Expect`. Told of a close, curl 7.88 does not: it ends
    /// as if all were well, with nothing sent. Untold, it finds the connection ended and makes one.
    fn must_know(&self, status: u16, client: &ClientSide<'_>) -> bool {
        let staged = self.request.sent() + self.to_upstream.len() as u64;
        let waits = self.interim == 0 && staged <= self.onward_octets;
        let asks_again = (waits && client.end.buffer.is_empty()) || status == 417;
        !(self.facts.expects && asks_again)
    }
}

/// Whether a client asks again for such a response, and does not want its content. curl 7.88 goes on
/// at once if the connection ends with the response, as one without a length says directly, and else
/// waits for the end of the content, which may never come.
fn is_asked_again(status: u16) -> bool {
    matches!(status, 300..=399 | 401)
}

pub(super) fn malformed(reason: &'static str) -> Error {
    Error::new(Side::Upstream, Phase::Response, Kind::HttpProtocolError, reason)
}
