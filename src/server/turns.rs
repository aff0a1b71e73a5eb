//! A session's turn on a worker, and the waits on the worker that may follow it.
//!
//! With nothing else to do a worker may be *patient*: it stays with its session for a few
//! milliseconds. That is allowed only while another worker is free to take what comes, so the last free
//! worker never sits still. (A build with `--cfg threadgate_impatient` leaves it out, for the benchmarks to
//! compare with.) There are two kinds:
//!
//! - a blocking read of the one socket that can make the session go on;
//! - for a stream, a look at both sockets. The edges of both are off meanwhile, and as long as it stays.

use std::time::Instant;

use crate::error::Kind;
use crate::observe::counters::Counters;
use crate::observe::stats::Wait;
use crate::policy::Followed;
use crate::proxy::context::Turn;
use crate::proxy::recycle::Spares;
use crate::proxy::session::{Next, Session};

use super::parking::Stage;
use super::streams::Lane;
use super::worker_pool::WorkerPool;

/// A session may stay with its patient worker for hours: after so many turns they are counted.
const TELL: u64 = 64;

/// What a session came to.
pub(super) enum Came {
    /// It is over.
    Close,
    /// It can go on.
    Again,
    /// It has to wait, until then at most, and is ready to be parked.
    Park(Instant),
}

/// Turns of one session in a row.
pub(super) struct Turns<'w> {
    pub(super) pool: &'w WorkerPool,
    pub(super) policy: &'w Followed,
    pub(super) stage: Stage,
    /// In which line the session stands.
    pub(super) lane: &'w mut Lane,
    /// What it was counted as waiting for.
    pub(super) was: &'w mut Option<Wait>,
    /// The next parking is measured.
    pub(super) measure: bool,
    pub(super) untold: Untold,
}

/// What is still to be counted.
#[derive(Default)]
pub(super) struct Untold {
    turns: u64,
    reads: u64,
    reads_paid: u64,
    waits: u64,
    waits_paid: u64,
}

/// What came of patience.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    /// There is none, or nothing came.
    Ended,
    /// The session can go on at once.
    Paid,
    /// It can go on, after a look at what has changed.
    PaidAgain,
}

impl Turns<'_> {
    /// Gives the session turns until it is over, has to wait, or others are to be looked for.
    pub(super) fn take(
        mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        spares: &mut Spares,
    ) -> Came {
        if self.stage == Stage::Cutting {
            session.cut(Kind::ShuttingDown, "the proxy is shutting down", turn);
            return Came::Close;
        }
        loop {
            let next = session.turn(turn, spares);
            self.untold.turns += 1;
            session.waiting.moved(turn.moved);
            self.pool.ready.streams().follow(self.lane, session.waiting.is_streaming());
            let (until, tag) = match next {
                Next::Close => {
                    self.tell(turn, |_| {});
                    return Came::Close;
                }
                Next::Yield => {
                    // Else nobody could stay with it, and edges would have to be switched on again.
                    if self.is_worth_staying(session) && self.may_stay() {
                        session.hush();
                    }
                    self.tell(turn, |_| {});
                    return Came::Again;
                }
                Next::Park(until, tag) => (until, tag),
            };
            match self.be_patient(session, (until, tag), turn) {
                Patience::Paid => turn.moved = 0,
                Patience::PaidAgain => {
                    self.tell(turn, |_| {});
                    return Came::Again;
                }
                Patience::Ended => return self.get_ready(session, (until, tag), turn),
            }
        }
    }

    /// Whether a worker does well to stay with the session. Messages come first: beside them streams are woken
    /// for as ever, and leave them a processor.
    fn is_worth_staying(&self, session: &mut Session) -> bool {
        !cfg!(threadgate_impatient)
            && session.is_worth_staying()
            && !self.pool.ready.streams().are_beside_messages()
    }

    /// Whether patience is allowed at all now, as far as that can be told beforehand.
    fn may_stay(&self) -> bool {
        self.pool.ready.has_free_worker() && self.pool.parking.stage() == Stage::Running
    }

    /// Waits on the worker, if that is allowed and likely to be worth it.
    fn be_patient(
        &mut self,
        session: &mut Session,
        (until, tag): (Instant, Option<u32>),
        turn: &mut Turn<'_>,
    ) -> Patience {
        let ready = &self.pool.ready;
        let stays = self.is_worth_staying(session);
        let expected = tag.filter(|tag| !stays && session.would_be_patient(*tag));
        if cfg!(threadgate_impatient)
            || !(stays || expected.is_some())
            || self.pool.parking.stage() != Stage::Running
            || !ready.is_empty()
        {
            return Patience::Ended;
        }
        let Some(_place) = ready.be_patient() else { return Patience::Ended };
        if stays {
            self.untold.waits += 1;
            session.hush();
            if !session.stay_with_stream(until, turn) {
                return Patience::Ended;
            }
            self.untold.waits_paid += 1;
            return Patience::PaidAgain;
        }
        let Some(expected) = expected else { return Patience::Ended };
        self.untold.reads += 1;
        if !session.be_patient(expected, turn) {
            return Patience::Ended;
        }
        self.untold.reads_paid += 1;
        // What has come is for the policy that is in force by now.
        if self.policy.is_stale(&self.pool.ctx.policy) {
            return Patience::PaidAgain;
        }
        if self.untold.reads_paid == TELL {
            self.tell(turn, |_| {});
        }
        Patience::Paid
    }

    fn get_ready(
        &mut self,
        session: &mut Session,
        (until, tag): (Instant, Option<u32>),
        turn: &mut Turn<'_>,
    ) -> Came {
        let wait = session.wait();
        session.waiting.parks(wait, self.measure);
        self.tell(turn, |c| c.count_park(wait));
        if let Err(e) = session.prepare_to_park(tag, turn) {
            log::warn!("{}: closed, since it cannot be watched: {e}", session.asker());
            let reason = "the proxy cannot watch another socket";
            session.cut(Kind::ConnectionLimitReached, reason, turn);
            return Came::Close;
        }
        Came::Park(until)
    }

    fn tell(&mut self, turn: &Turn<'_>, more: impl FnOnce(&mut Counters)) {
        let untold = std::mem::take(&mut self.untold);
        let was = self.was.take();
        turn.counters.count(|c| {
            c.count_resume(was);
            c.turns += untold.turns;
            c.patient_reads += untold.reads;
            c.patient_reads_paid += untold.reads_paid;
            c.stream_waits += untold.waits;
            c.stream_waits_paid += untold.waits_paid;
            more(c);
        });
    }
}
