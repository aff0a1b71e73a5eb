//! The stage `Relay`: passes messages both ways, the request as far as the upstream takes it, the
//! response as it comes.

use std::io;

use crate::error::{Error, Kind, Phase, Side};
use crate::net::stream::Received;
use crate::observe::stats::Wait;
use crate::policy::limits::Direction;

use super::blame::{client_gone, client_is_stuck, response_expired, used_up};
use super::common::Common;
use super::context::Turn;
use super::flow::{Broken, Step};
use super::half::Half;
use super::response::{HeadFound, Response};
use super::sides::{ClientSide, Progress, UPSTREAM, Upstream};

/// An exchange with a connected upstream.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) upstream: Upstream,
    /// The response so far.
    pub(super) response: Response,
}

/// The outcome of a step.
pub(super) enum RelayStep {
    /// The exchange goes on, or is over.
    Progress(Progress),
    /// The upstream has changed the protocol: the exchange is a tunnel from now on.
    Upgraded,
}

/// The outcome of receiving the response.
enum Pulled {
    Flow(Step),
    Upgraded,
}

impl Relay {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self { upstream, response: Response::default() }
    }

    /// Goes as far as it can without waiting.
    ///
    /// # Errors
    ///
    /// The exchange has failed.
    pub(super) fn step(
        &mut self,
        common: &mut Common,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<RelayStep, Error> {
        let before = turn.moved;
        let sent = self.push_request(common, client.half, turn)?;
        let between = turn.moved;
        let received = match self.pull_response(common, client.half, turn)? {
            Pulled::Upgraded => return Ok(RelayStep::Upgraded),
            Pulled::Flow(step) => step,
        };
        let begun = self.response.has_begun();
        // A response head that comes byte by byte does not buy the upstream time. For interim responses
        // see `renewed_wait` in `response`.
        if between > before || (begun && turn.moved > between) {
            common.deadline = Some(turn.now + turn.ctx.timeouts.response);
        }
        if received == Step::Ended && begun {
            return Ok(RelayStep::Progress(Progress::Finished));
        }
        common.wait_on(turn);
        if sent == Step::Spent || received == Step::Spent {
            return Ok(RelayStep::Progress(Progress::Spent));
        }
        // A patient receive would take everything that comes, allowed or not.
        let only_upstream = sent == Step::Ended
            && client.half.stream.is_writable()
            && !common.allowance.is_limited();
        Ok(RelayStep::Progress(Progress::Wait(only_upstream.then_some(UPSTREAM))))
    }

    fn push_request(
        &mut self,
        common: &mut Common,
        client: &mut Half,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Error> {
        let up = &mut common.up;
        let times = &mut common.account.times;
        // Content that is taken but not yet sent is in the client's buffer, or held by a layer.
        let is_clear = up.flow.is_clear() && up.staged.is_empty();
        if up.is_broken || (is_clear && self.upstream.half.stream.is_flushed()) {
            times.sent.get_or_insert_with(|| turn.clock());
            return Ok(Step::Ended);
        }
        let ends = (client, &mut up.staged, &mut self.upstream.half.stream);
        match common.allowance.step(&mut up.flow, ends, Direction::Up, turn) {
            Ok(Step::Ended) => {
                turn.buffers.reclaim(&mut up.staged);
                times.sent.get_or_insert_with(|| turn.clock());
                Ok(Step::Ended)
            }
            Ok(step) => Ok(step),
            Err(broken) => self.request_broke(broken, common, turn),
        }
    }

    fn request_broke(
        &self,
        broken: Broken,
        common: &mut Common,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Error> {
        let request_error =
            |reason| Error::new(Side::Client, Phase::Send, Kind::HttpRequestError, reason);
        match broken {
            Broken::Sink(_) => {
                // The upstream may have answered before it closed, and its answer can still be read.
                common.close |= !common.up.flow.is_clear();
                common.up.breaks();
                turn.buffers.discard(&mut common.up.staged);
                Ok(Step::Ended)
            }
            Broken::Source(e) => Err(client_gone(e)),
            Broken::UsedUp => Err(used_up(Phase::Transfer)),
            // A response that is on its way already is passed on, and is the last.
            Broken::SourceEnded | Broken::Framing(_) | Broken::TooMuch
                if self.response.has_begun() =>
            {
                common.up.is_broken = true;
                common.close = true;
                Ok(Step::Ended)
            }
            Broken::SourceEnded => Err(request_error(
                "the client ended the connection before the request's content was complete",
            )),
            Broken::Framing(e) => Err(request_error(e.reason())),
            // Request content has no limit.
            Broken::TooMuch => Ok(Step::Ended),
        }
    }

    fn pull_response(
        &mut self,
        common: &mut Common,
        client: &mut Half,
        turn: &mut Turn<'_>,
    ) -> Result<Pulled, Error> {
        let half = &mut self.upstream.half;
        let mut received = false;
        while !self.response.has_begun() {
            if self.response.has_interim() {
                // A client that does not read its interim responses gets no more of them.
                if !common.down.flush(&mut client.stream).map_err(client_gone)? {
                    return Ok(Pulled::Flow(Step::Blocked));
                }
                if received && turn.is_spent() {
                    return Ok(Pulled::Flow(Step::Spent));
                }
            }
            match self.response.find_head(half, common, client, turn)? {
                HeadFound::Head => continue,
                HeadFound::Upgrade => return Ok(Pulled::Upgraded),
                HeadFound::Nothing => {}
            }
            if half.ended {
                return Err(self.response.unanswered(None));
            }
            let readable = half.stream.is_readable();
            if !readable || !common.allowance.may_receive(half, turn)? {
                common.allowance.settle_response(half, turn);
                let step = if readable { Step::Dry } else { Step::Blocked };
                return Ok(Pulled::Flow(step));
            }
            turn.buffers.lend(&mut half.buffer);
            if half.buffer.room() == 0 {
                // `find_head` has refused a head past the limit.
                half.buffer.grow(turn.ctx.limits.max_head_bytes + 1024);
            }
            received = true;
            match half.receive_allowed() {
                Ok(Received::Bytes(count)) => {
                    turn.moved += count;
                    self.response.received(count);
                }
                Ok(Received::Nothing | Received::End) => {}
                Err(e) => return Err(self.response.unanswered(Some(e))),
            }
        }
        let down = &mut common.down;
        let ends = (half, &mut down.staged, &mut client.stream);
        let step = common.allowance.step(&mut down.flow, ends, Direction::Down, turn);
        step.map(Pulled::Flow).map_err(|broken| response_broke(broken, common, turn))
    }

    /// Whether request and response are complete, so that the connection may serve another exchange.
    pub(super) fn is_reusable(&self, common: &Common) -> bool {
        let up = &common.up;
        let is_out = up.staged.is_empty() && self.upstream.half.stream.is_flushed();
        let is_whole = up.flow.is_clear() && is_out && !up.is_broken;
        is_whole
            && self.response.persists(common.pins)
            && common.down.flow.repairs().is_empty()
            && common.account.failure.is_none()
    }

    /// Whether a failed request is sent once more.
    pub(super) fn may_resend(&self, error: &Error, common: &Common, turn: &Turn<'_>) -> bool {
        error.kind() == Kind::ConnectionTerminated && self.response.may_repeat(common, turn)
    }

    /// What the stage waits for.
    pub(super) fn wait(&self, common: &Common) -> Wait {
        if self.response.has_begun() {
            Wait::Transfer
        } else if common.account.times.sent.is_none() {
            Wait::Send
        } else {
            Wait::Response
        }
    }

    /// The error for the wait that was too long.
    pub(super) fn expired(&self, common: &Common, client: &Half) -> Error {
        let (begun, up) = (self.response.has_begun(), &common.up);
        if !self.upstream.half.stream.is_writable() {
            Error::new(
                Side::Upstream,
                Phase::Send,
                Kind::ConnectionWriteTimeout,
                "the upstream took no more of the request for too long",
            )
        } else if !client.stream.is_writable() {
            client_is_stuck()
        } else if !up.flow.is_taken() && !up.is_broken {
            Error::new(
                Side::Client,
                Phase::Send,
                Kind::HttpRequestTimeout,
                "the client sent no more of the request's content for too long",
            )
        } else {
            response_expired(if begun { Phase::Transfer } else { Phase::Response })
        }
    }
}

fn response_broke(broken: Broken, common: &mut Common, turn: &Turn<'_>) -> Error {
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
            let most = common.terms.judge.as_ref().and_then(|judge| judge.most_content());
            let judged = most.map(|(_, decision)| (decision, Kind::HttpResponseBodySize));
            let followed = judged.map(|j| common.follow_response(j, Phase::Transfer, turn));
            // Without a limit this does not happen.
            followed.and_then(Result::err).unwrap_or_else(|| incomplete(None))
        }
    }
}
