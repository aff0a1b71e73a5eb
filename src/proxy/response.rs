//! Reads the heads of a response: interim ones, one that changes the protocol, and the final one.

use std::io;
use std::time::{Instant, SystemTime};

use crate::error::{Error, Kind, Phase, Side};
use crate::policy::decide::{Decision, Verdict};
use crate::wire::detect::cannot_be_response;
use crate::wire::head::{HeadScan, find_response_end};
use crate::wire::{
    Framing, HeadError, Leniency, Method, MoreSlots, Recode, Repair, ResponseFraming, ResponseHead,
    ResponseOutgoing, Slots, Tolerance, Version,
};

use super::access::judge_response;
use super::account::Times;
use super::blame::malformed;
use super::common::Common;
use super::content::{Coding, Content};
use super::context::Turn;
use super::half::Half;
use super::upgrade;

/// How many interim responses are passed on for one request if responses are judged strictly.
const MAX_INTERIM: u32 = 16;
/// How much longer interim responses can make the wait for the final one, in lengths of that wait.
const INTERIM_WAITS: u32 = 10;

/// The response so far.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The head, as far as it was looked at.
    scanned: HeadScan,
    /// How many interim responses came before the final one.
    interim: u32,
    /// Bytes of the response received so far.
    bytes: u64,
    /// The final response's head was staged.
    begun: bool,
    /// How many bytes, sent or staged, the client gets before the final response's head. Until that has
    /// begun to go out, a reply of ours can take its place.
    staged_at: Option<u64>,
    /// The upstream keeps the connection.
    persists: bool,
    /// There may be content that must not follow the response. Some servers send it all the same, after
    /// the head, and then it would be taken for the next response on the connection.
    withholds: bool,
}

/// The outcome of looking for a head.
pub(super) enum HeadFound {
    /// No head is complete.
    Nothing,
    /// A head, which is staged, or was skipped.
    Head,
    /// A head that changes the protocol; it is staged.
    Upgrade,
}

impl Response {
    /// Whether the final response's head was staged.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether there were interim responses.
    pub(super) fn has_interim(&self) -> bool {
        self.interim > 0
    }

    /// Where the final response begins among the bytes to the client, once it has begun.
    pub(super) fn staged_at(&self) -> Option<u64> {
        self.staged_at
    }

    /// Counts bytes received.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Whether the upstream's connection can serve another exchange, as far as the head tells. Withheld
    /// content is no danger on a connection reserved for one client: it could only be that client's.
    pub(super) fn persists(&self, is_own: bool) -> bool {
        self.persists && (!self.withholds || is_own)
    }

    /// Whether the request can be sent once more: it was sent on a connection that had been kept, and
    /// the client has received nothing of an answer.
    pub(super) fn may_repeat(&self, common: &Common, turn: &Turn<'_>) -> bool {
        !self.begun && self.interim == 0 && common.retries > 0 && !turn.ctx.is_draining()
    }

    /// The error of an upstream that closed or reset the connection before a response head was complete.
    pub(super) fn unanswered(&self, e: Option<io::Error>) -> Error {
        let reason = if self.bytes == 0 {
            "the upstream closed the connection without an answer"
        } else {
            "the upstream closed the connection in the middle of a response head"
        };
        let error = Error::new(Side::Upstream, Phase::Response, Kind::ConnectionTerminated, reason);
        e.into_iter().fold(error, Error::with_source)
    }

    /// Looks for a response head in the bytes received.
    ///
    /// # Errors
    ///
    /// The bytes are no response head, or the response is refused.
    pub(super) fn find_head(
        &mut self,
        upstream: &mut Half,
        common: &mut Common,
        client: &Half,
        turn: &mut Turn<'_>,
    ) -> Result<HeadFound, Error> {
        let held = upstream.buffer.unread();
        if held.is_empty() {
            return Ok(HeadFound::Nothing);
        }
        if cannot_be_response(held) {
            return Err(malformed("the upstream's answer is not HTTP/1"));
        }
        let limits = &turn.ctx.limits;
        let length = match find_response_end(held, &mut self.scanned, limits, turn.ctx.leniency) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(HeadFound::Nothing),
            Err(e) => return Err(malformed(e.reason())),
        };
        let (mut slots, mut more, mut mended) = (Slots::new(), MoreSlots::default(), Vec::new());
        let bytes = held.get(..length).unwrap_or_default();
        let room = (&mut slots, &mut more, &mut mended);
        let head = read_head(bytes, self.scanned.has_bare_lf, room, common.intent.method, turn)?;
        common.account.repairs = common.account.repairs.union(head.repairs);
        turn.buffers.lend(&mut common.down.staged);
        let (mut found, mut judged) = (HeadFound::Head, None);
        match head.status {
            101 => {
                upgrade::stage(&head, upstream.stream.is_flushed(), common, turn)?;
                found = HeadFound::Upgrade;
            }
            ..200 => self.pass_interim(&head, common, turn)?,
            _ => judged = self.stage_final(&head, common, client, turn)?,
        }
        upstream.buffer.consume(length);
        upstream.charge(length);
        self.scanned = HeadScan::default();
        if let Some(judged) = judged {
            common.follow_response(judged, Phase::Response, turn)?;
        }
        Ok(found)
    }

    /// Passes an interim response on, to a client that knows interim responses.
    fn pass_interim(
        &mut self,
        head: &ResponseHead<'_, '_>,
        common: &mut Common,
        turn: &Turn<'_>,
    ) -> Result<(), Error> {
        self.interim = self.interim.saturating_add(1);
        if self.interim > MAX_INTERIM {
            if turn.ctx.leniency == Leniency::Strict {
                return Err(malformed("the upstream sent too many interim responses"));
            }
            common.account.repairs.add(Repair::ManyInterim);
        }
        // HTTP/1.0 has no interim responses (RFC 9110 §15.2).
        if common.intent.version >= Version::Http11 {
            common.deadline = common.deadline.max(renewed_wait(&common.account.times, turn));
            let via = turn.ctx.via.as_deref();
            let outgoing = ResponseOutgoing { via, ..ResponseOutgoing::default() };
            head.write_client(common.down.staged.tail(), &outgoing);
        }
        Ok(())
    }

    /// Stages the final response's head. Returns the decision on the response, if that is judged.
    fn stage_final(
        &mut self,
        head: &ResponseHead<'_, '_>,
        common: &mut Common,
        client: &Half,
        turn: &mut Turn<'_>,
    ) -> Result<Option<(Decision, Kind)>, Error> {
        // A 408 that crossed a request is no answer: the server may only have given up waiting on an
        // idle connection. Such a request is repeated if possible (RFC 9110 §15.5.9).
        if head.status == 408 && !head.persistent() && self.may_repeat(common, turn) {
            return Err(self.unanswered(None));
        }
        let judged = match common.terms.judge.is_some() {
            true => judge_response(&common.terms, common.intent.method, head),
            false => None,
        };
        if let Some(found) = judged
            && let Verdict::Deny(_) = found.0.verdict
        {
            return common.follow_response(found, Phase::Response, turn).map(|()| None);
        }
        common.account.times.response = Some(turn.clock());
        // A response without a date gets the time it was received (RFC 9110 §6.6.1).
        let date = (turn.ctx.via.is_some() && !head.has_date)
            .then(|| httpdate::fmt_http_date(SystemTime::now()));
        let (mut content, mut outgoing) = self.go_on_as(head, common, client, turn)?;
        outgoing.date = date.as_deref();
        let upgrade = upgrade::wanted_instead(head, common.intent.version);
        outgoing.upgrade = upgrade.as_ref();
        self.staged_at = Some(common.down.sent_and_staged());
        head.write_client(common.down.staged.tail(), &outgoing);
        common.close = outgoing.close || !common.up.flow.is_clear();
        common.account.status = head.status;
        common.account.heads = common.down.sent_and_staged();
        self.persists = head.persistent()
            && common.account.repairs.is_empty()
            && !head.is_silent_on_content(common.intent.method);
        self.withholds = head.withholds_content(common.intent.method);
        common.pins |= head.binds_connection();
        let most = common.terms.judge.as_ref().and_then(|judge| judge.most_content());
        if let Some((most, _)) = most {
            content.limit(most.get());
        }
        common.down.goes_on_with(content);
        self.begun = true;
        Ok(judged)
    }

    /// How the response is passed to the client, and whether the connection stays open.
    fn go_on_as<'t>(
        &self,
        head: &ResponseHead<'_, '_>,
        common: &Common,
        client: &Half,
        turn: &Turn<'t>,
    ) -> Result<(Content, ResponseOutgoing<'t>), Error> {
        let old = common.intent.version < Version::Http11;
        let tolerance = match turn.ctx.leniency {
            Leniency::Mend => Tolerance::Mend,
            Leniency::Strict => Tolerance::Strict,
        };
        let (content, coding, ends) = match head.framing {
            ResponseFraming::Framed(Framing::Chunked) if old => {
                let content = Content::framed(Framing::Chunked, Coding::Dechunk, tolerance);
                (content, Recode::Dechunk, true)
            }
            ResponseFraming::Framed(framing) => {
                (Content::framed(framing, Coding::Keep, tolerance), Recode::Keep, false)
            }
            ResponseFraming::UntilClose if old => {
                (Content::until_close(Coding::Keep), Recode::Keep, true)
            }
            ResponseFraming::UntilClose => {
                let ends = is_asked_again(head.status);
                (Content::until_close(Coding::Chunk), Recode::Chunk, ends)
            }
            ResponseFraming::Tunnel => {
                return Err(malformed("the upstream opened a tunnel nobody asked for"));
            }
        };
        // The answer is early: the request is not complete yet. The rest of the request must never be
        // read as the next one, so there is no next one on this connection.
        let early = !common.up.flow.is_clear();
        let close = common.close
            || ends
            || (early && self.must_know(head.status, common, client))
            || !common.intent.persistent
            || (client.ended && client.buffer.is_empty())
            || turn.ctx.is_draining();
        let outgoing = ResponseOutgoing {
            via: turn.ctx.via.as_deref(),
            close,
            keep_alive: old && !close,
            coding,
            ..ResponseOutgoing::default()
        };
        Ok((content, outgoing))
    }

    /// Whether a client has to be told that an early answer is the last on its connection. Otherwise it
    /// would finish its content and ask again there. A client that still waits for a 100 sends no
    /// content, and one that gets a 417 asks again without `Expect`. If it is told of a close, curl 7.88
    /// does not ask again: it ends as if all were well, with nothing sent. If it is not told, it finds
    /// the connection ended and makes a new one.
    fn must_know(&self, status: u16, common: &Common, client: &Half) -> bool {
        let waits = self.interim == 0 && common.up.sent_and_staged() <= common.intent.onward_bytes;
        let asks_again = (waits && client.buffer.is_empty()) || status == 417;
        !(common.intent.expects && asks_again)
    }
}

/// When the wait for the final response ends, after an interim one that the client gets. The wait begins
/// again, because the upstream is at work (RFC 9110 §15.2), but not for ever.
fn renewed_wait(times: &Times, turn: &Turn<'_>) -> Option<Instant> {
    let wait = turn.ctx.timeouts.response;
    let since = times.sent.or(times.started)?;
    Some((since + wait * INTERIM_WAITS).min(turn.now + wait))
}

/// Reads a whole response head, and repairs it if necessary and allowed. Inline, because a head is a
/// large value to return.
#[inline(always)]
fn read_head<'h, 'b>(
    bytes: &'b [u8],
    has_bare_lf: bool,
    (slots, more, mended): (&'h mut Slots<'b>, &'h mut MoreSlots<'b>, &'b mut Vec<u8>),
    method: Method,
    turn: &Turn<'_>,
) -> Result<ResponseHead<'h, 'b>, Error> {
    let limits = &turn.ctx.limits;
    let mut error = HeadError::BareLf;
    if !has_bare_lf {
        match ResponseHead::read(bytes, slots, limits, method) {
            Ok(head) => return Ok(head),
            Err(fault) => error = fault,
        }
    }
    if turn.ctx.leniency == Leniency::Strict {
        return Err(malformed(error.reason()));
    }
    ResponseHead::read_mended(bytes, error, mended, more, limits, method)
        .map_err(|e| malformed(e.reason()))
}

/// Whether a client asks again after such a response, and does not want its content. curl 7.88 asks at
/// once if the connection ends with the response, as it does for a response without a length that came
/// directly. Otherwise it waits for the end of the content, which may never come.
fn is_asked_again(status: u16) -> bool {
    matches!(status, 300..=399 | 401)
}
