//! The stage `Tunnel`: passes bytes both ways, until each direction has ended.

use std::io;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Phase, Side};
use crate::net::buffer::Buffer;
use crate::policy::limits::Direction;

use super::blame::{tunnel_reset, used_up};
use super::common::Common;
use super::context::Turn;
use super::flow::{Broken, Flow, Step};
use super::half::Half;
use super::hello_gate::{HelloGate, judge_both};
use super::sides::{CLIENT, ClientSide, Progress, UPSTREAM, Upstream};

/// A tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The other end; `None` once it was dropped, and only the client is still to be told why.
    pub(super) upstream: Option<Upstream>,
    /// Holds the client's bytes until its ClientHello is judged.
    pub(super) gate: Option<Box<HelloGate>>,
    /// The kernel probes the upstream's connection.
    probed: bool,
}

/// How old a tunnel is when the kernel begins to probe the upstream's connection. Most tunnels are over
/// by then, and never pay for the probes.
fn probe_after(turn: &Turn<'_>) -> Duration {
    (turn.ctx.timeouts.tunnel / 10).min(Duration::from_secs(60))
}

impl Tunnel {
    pub(super) fn new(upstream: Upstream, gate: Option<Box<HelloGate>>) -> Self {
        Self { upstream: Some(upstream), gate, probed: false }
    }

    /// Whether the upstream was dropped, so that only the client is still to be told.
    pub(super) fn has_parted(&self) -> bool {
        self.upstream.is_none()
    }

    /// Goes as far as it can without waiting.
    ///
    /// # Errors
    ///
    /// The tunnel has failed.
    pub(super) fn step(
        &mut self,
        common: &mut Common,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        let before = turn.moved;
        let sent = (common.up.flow.sent(), common.down.flow.sent());
        let (held, unheard) = match self.gate {
            None => (None, false),
            Some(_) => judge_both(&mut self.gate, &mut self.upstream, common, client.half, turn)?,
        };
        let Some(upstream) = &mut self.upstream else { return Ok(part(common, client.half)) };
        let (up, down) =
            match move_both(common, client.half, &mut upstream.half, held, unheard, turn) {
                Ok((Some(up), Some(down))) => (up, down),
                Ok(_) => return Ok(Progress::Finished),
                Err(e) => return Err(e),
            };
        turn.buffers.reclaim(&mut common.down.staged);
        if !self.probed {
            let times = &common.account.times;
            let opened = times.response.or(times.connect).unwrap_or(turn.now);
            let at = opened + probe_after(turn);
            self.probed = at <= turn.now;
            common.wake_at = (!self.probed).then_some(at);
            if self.probed {
                upstream.half.stream.probe_when_quiet();
            }
        }
        if turn.moved > before {
            common.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
        }
        if held.is_some()
            && let Some(until) = self.hello_until()
        {
            common.deadline = common.deadline.map(|at| at.min(until));
        }
        common.wait_on(turn);
        Ok(match (up, down) {
            (Step::Ended, Step::Ended) if common.up.is_broken => {
                return Err(tunnel_reset(Side::Upstream, io::ErrorKind::BrokenPipe.into()));
            }
            (Step::Ended, Step::Ended) => Progress::Finished,
            (Step::Spent, _) | (_, Step::Spent) => Progress::Spent,
            // A patient receive would take everything that comes, allowed or not.
            _ if common.allowance.is_limited() => Progress::Wait(None),
            // A peer that was just sent something is likely to answer.
            _ => Progress::Wait(
                match (common.up.flow.sent() > sent.0, common.down.flow.sent() > sent.1) {
                    (true, false) => Some(UPSTREAM),
                    (false, true) => Some(CLIENT),
                    _ => None,
                },
            ),
        })
    }

    /// Notices that the upstream was reset, even where nothing is received from it now.
    ///
    /// # Errors
    ///
    /// The upstream had ended its side before, so nothing more comes.
    pub(super) fn notice_reset(&mut self, common: &mut Common) -> Result<(), Error> {
        let reset = self.upstream.as_mut().and_then(|upstream| upstream.half.stream.broken());
        let Some(e) = reset else { return Ok(()) };
        if common.down.flow.is_over() {
            return Err(tunnel_reset(Side::Upstream, e));
        }
        common.up.breaks();
        Ok(())
    }

    /// When a ClientHello that has begun must be whole at the latest.
    fn hello_until(&self) -> Option<Instant> {
        self.gate.as_ref().and_then(|gate| gate.until())
    }

    /// The error for the wait that was too long.
    pub(super) fn expired(&self) -> Error {
        if self.hello_until().is_some() {
            return Error::new(
                Side::Client,
                Phase::Transfer,
                Kind::HttpRequestTimeout,
                "the ClientHello did not come in time",
            );
        }
        Error::new(
            Side::Proxy,
            Phase::Transfer,
            Kind::ConnectionTimeout,
            "the tunnel was quiet for too long",
        )
    }
}

/// Moves bytes in both directions as far as possible. Returns the outcome of each: `held` for the
/// client's direction if that is given, and `None` for a direction that broke in a way that is no fault.
/// The server's bytes are held back while they are `unheard`.
fn move_both(
    common: &mut Common,
    client: &mut Half,
    upstream: &mut Half,
    held: Option<Step>,
    unheard: bool,
    turn: &mut Turn<'_>,
) -> Result<(Option<Step>, Option<Step>), Error> {
    let Common { up, down, allowance, .. } = common;
    let mut step = |way, flow: &mut Flow, from: &mut Half, staged: &mut Buffer, to: &mut Half| {
        let was_over = flow.is_over();
        let step = allowance.step(flow, (from, staged, &mut to.stream), way, turn);
        if matches!(step, Ok(Step::Ended)) && !was_over {
            // If the peer has ended its side, too, the connection is about to be closed, which says the
            // same, but not to a layer. A peer that is already gone is found by its own flow.
            let says_end = !to.ended || to.stream.has_layer();
            if says_end && matches!(to.stream.finish(), Ok(false)) {
                return Ok(Step::Blocked);
            }
            flow.set_over();
        }
        step
    };
    let mut sent = match (held, up.is_broken) {
        (Some(held), _) => Ok(held),
        (None, false) => step(Direction::Up, &mut up.flow, client, &mut up.staged, upstream),
        (None, true) => Ok(Step::Ended),
    };
    if !down.flow.is_over()
        && let Err(Broken::Sink(_)) = sent
    {
        // Bytes that the upstream sent before it broke are still to be passed on.
        up.breaks();
        sent = Ok(Step::Ended);
    }
    let received = match unheard {
        false => step(Direction::Down, &mut down.flow, upstream, &mut down.staged, client),
        true => down.flush(&mut client.stream).map(|_| Step::Blocked).map_err(Broken::Sink),
    };
    match (sent, received) {
        (Err(Broken::UsedUp), _) | (_, Err(Broken::UsedUp)) => Err(used_up(Phase::Transfer)),
        (Err(Broken::Source(e)), _) | (_, Err(Broken::Sink(e))) => {
            Err(tunnel_reset(Side::Client, e))
        }
        (Err(Broken::Sink(e)), _) | (_, Err(Broken::Source(e))) => {
            Err(tunnel_reset(Side::Upstream, e))
        }
        (up, down) => Ok((up.ok(), down.ok())),
    }
}

/// Tells the client that the upstream was dropped, as far as that is still to be sent.
fn part(common: &mut Common, client: &mut Half) -> Progress {
    match common.down.flush(&mut client.stream) {
        Ok(false) => Progress::Wait(None),
        // A client that is gone need not be told.
        Ok(true) | Err(_) => Progress::Finished,
    }
}
