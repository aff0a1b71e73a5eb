//! The stage in which octets go both ways until each direction has ended.

use std::io;
use std::time::Duration;

use crate::error::{Error, Phase, Side};
use crate::net::buffer::Buffer;
use crate::policy::limits::Direction;

use super::Turn;
use super::exchange::{CLIENT, ClientSide, Exchange, Progress, UPSTREAM, flush, tunnel_reset};
use super::flow::{Broken, End, Flow, Step};
use super::limits::{step, used_up};

/// How old a tunnel is when the kernel begins to look after the upstream's connection. Most tunnels
/// are over by then, and never pay for it.
fn probe_after(turn: &Turn<'_>) -> Duration {
    (turn.ctx.timeouts.tunnel / 10).min(Duration::from_secs(60))
}

impl Exchange {
    /// Whether a tunnel's client has been sent all there was, and the end.
    pub fn is_one_way(&self) -> bool {
        self.is_tunnel() && self.response.is_over()
    }

    pub(super) fn tunnel(
        &mut self,
        client: &mut ClientSide<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Error> {
        let before = turn.moved;
        let (sent, received) = (self.request.sent(), self.response.sent());
        let (held, unheard) = self.hold_both(client, turn)?;
        let Some(upstream) = &mut self.upstream else { return Ok(self.part(client)) };
        let limited = &mut self.limited;
        let mut step = |way, flow: &mut Flow, from: &mut End, out: &mut Buffer, to: &mut End| {
            let was_over = flow.is_over();
            let step = step(flow, (from, out, &mut to.stream), (limited, way), turn);
            if matches!(step, Ok(Step::Ended)) && !was_over {
                flow.set_over();
                // Closing is to come and says the same, once the peer has ended its side too.
                if !to.ended {
                    // The peer may have gone already, which its own flow will find.
                    let _ = to.stream.finish();
                }
            }
            step
        };
        let mut up = match (held, self.upload_broken) {
            (Some(held), _) => Ok(held),
            (None, false) => {
                let out = &mut self.to_upstream;
                step(Direction::Up, &mut self.request, client.end, out, &mut upstream.end)
            }
            (None, true) => Ok(Step::Ended),
        };
        if !self.response.is_over()
            && let Err(Broken::Sink(_)) = up
        {
            // What it said before it broke is still to be passed on.
            self.upload_broken = true;
            self.request.drop_pipe();
            up = Ok(Step::Ended);
        }
        let (out, way) = (&mut self.to_client, Direction::Down);
        let down = match unheard {
            false => step(way, &mut self.response, &mut upstream.end, out, client.end),
            true => flush(out, &mut self.response, &mut client.end.stream)
                .map(|_| Step::Blocked)
                .map_err(Broken::Sink),
        };
        let (up, down) = match (up, down) {
            (Err(Broken::UsedUp), _) | (_, Err(Broken::UsedUp)) => {
                return Err(used_up(Phase::Transfer));
            }
            (Err(Broken::Source(e)), _) | (_, Err(Broken::Sink(e))) => {
                return Err(tunnel_reset(Side::Client, e));
            }
            (Err(Broken::Sink(e)), _) | (_, Err(Broken::Source(e))) => {
                return Err(tunnel_reset(Side::Upstream, e));
            }
            (Ok(up), Ok(down)) => (up, down),
            _ => return Ok(Progress::Finished),
        };
        turn.buffers.reclaim(&mut self.to_client);
        if !self.probed {
            let opened = self.times.response.or(self.times.connect).unwrap_or(turn.now);
            let at = opened + probe_after(turn);
            self.probed = at <= turn.now;
            self.wake_at = (!self.probed).then_some(at);
            if self.probed {
                upstream.end.stream.probe_when_quiet();
            }
        }
        if turn.moved > before {
            self.deadline = Some(turn.now + turn.ctx.timeouts.tunnel);
        }
        if held.is_some() {
            self.keep_hello_in_time();
        }
        self.wait_on(turn);
        Ok(match (up, down) {
            (Step::Ended, Step::Ended) if self.upload_broken => {
                return Err(tunnel_reset(Side::Upstream, io::ErrorKind::BrokenPipe.into()));
            }
            (Step::Ended, Step::Ended) => Progress::Finished,
            (Step::Spent, _) | (_, Step::Spent) => Progress::Spent,
            // A patient receive would take what comes, allowed or not.
            _ if self.limited.is_some() => Progress::Wait(None),
            // Whoever was spoken to is likely to answer.
            _ => Progress::Wait(
                match (self.request.sent() > sent, self.response.sent() > received) {
                    (true, false) => Some(UPSTREAM),
                    (false, true) => Some(CLIENT),
                    _ => None,
                },
            ),
        })
    }
}
