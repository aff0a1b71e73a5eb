//! Gives a session turns on a worker, and waits for it there if that is likely to pay.
//!
//! A worker with nothing else to do may be *patient*: it stays with its session for a few milliseconds.
//! That is allowed only while another worker is free to take new work, so the last free worker never
//! waits like this. (A build with `--cfg threadgate_impatient` leaves it out, for benchmarks to
//! compare.) There are two kinds:
//!
//! - a blocking read of the one socket that can make the session go on;
//! - for a stream, a look at both sockets, whose edges are off for as long as the worker stays.

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

/// Counts are added after this many patient reads that paid, because a session may stay with its worker
/// for hours.
const COUNT_AFTER: u64 = 64;

/// The outcome of a session's turns.
pub(super) enum Came {
    /// The session is over.
    Close,
    /// The session can go on.
    Again,
    /// The session has to wait, until this time at most, and is ready to be parked.
    Park(Instant),
}

/// Turns of one session in a row.
pub(super) struct Turns<'w> {
    pub(super) pool: &'w WorkerPool,
    pub(super) policy: &'w Followed,
    pub(super) stage: Stage,
    /// The line in which the session stands.
    pub(super) lane: &'w mut Lane,
    /// What the session was counted as waiting for.
    pub(super) was: &'w mut Option<Wait>,
    /// The session's next passage through the queue is measured.
    pub(super) measure: bool,
    pub(super) uncounted: Uncounted,
}

/// Counts that are still to be added.
#[derive(Default)]
pub(super) struct Uncounted {
    turns: u64,
    reads: u64,
    reads_paid: u64,
    waits: u64,
    waits_paid: u64,
}

/// The outcome of patience.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    /// The worker has none, or nothing came.
    Ended,
    /// The session can go on at once.
    Paid,
    /// The session can go on, but changes elsewhere must be looked at first.
    PaidAgain,
}

impl Turns<'_> {
    /// Gives the session turns until it is over, has to wait, or others must be looked for.
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
            self.uncounted.turns += 1;
            session.waiting.moved(turn.moved);
            self.pool.ready.streams().follow(self.lane, session.waiting.is_streaming());
            let (until, tag) = match next {
                Next::Close => {
                    self.count(turn, |_| {});
                    return Came::Close;
                }
                Next::Yield => {
                    // Otherwise no worker could stay with it, and edges would have to be switched on
                    // again.
                    if self.is_worth_staying(session) && self.may_stay() {
                        session.hush();
                    }
                    self.count(turn, |_| {});
                    return Came::Again;
                }
                Next::Park(until, tag) => (until, tag),
            };
            match self.be_patient(session, (until, tag), turn) {
                Patience::Paid => turn.moved = 0,
                Patience::PaidAgain => {
                    self.count(turn, |_| {});
                    return Came::Again;
                }
                Patience::Ended => return self.get_ready(session, (until, tag), turn),
            }
        }
    }

    /// Whether a worker had better stay with the session. Messages come first: beside them, streams are
    /// woken as usual, and leave them a processor.
    fn is_worth_staying(&self, session: &mut Session) -> bool {
        !cfg!(threadgate_impatient)
            && session.is_worth_staying()
            && !self.pool.ready.streams().are_beside_messages()
    }

    /// Whether patience is allowed now, as far as that can be told in advance.
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
            self.uncounted.waits += 1;
            session.hush();
            if !session.stay_with_stream(until, turn) {
                return Patience::Ended;
            }
            self.uncounted.waits_paid += 1;
            return Patience::PaidAgain;
        }
        let Some(expected) = expected else { return Patience::Ended };
        self.uncounted.reads += 1;
        if !session.be_patient(expected, turn) {
            return Patience::Ended;
        }
        self.uncounted.reads_paid += 1;
        // The bytes that have come are subject to the policy in force now.
        if self.policy.is_stale(&self.pool.ctx.policy) {
            return Patience::PaidAgain;
        }
        if self.uncounted.reads_paid == COUNT_AFTER {
            self.count(turn, |_| {});
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
        self.count(turn, |c| c.count_park(wait));
        if let Err(e) = session.prepare_to_park(tag, turn) {
            log::warn!("{}: closed, because its socket cannot be watched: {e}", session.asker());
            let reason = "the proxy cannot watch another socket";
            session.cut(Kind::ConnectionLimitReached, reason, turn);
            return Came::Close;
        }
        Came::Park(until)
    }

    fn count(&mut self, turn: &Turn<'_>, more: impl FnOnce(&mut Counters)) {
        let uncounted = std::mem::take(&mut self.uncounted);
        let was = self.was.take();
        turn.counters.count(|c| {
            c.count_resume(was);
            c.turns += uncounted.turns;
            c.patient_reads += uncounted.reads;
            c.patient_reads_paid += uncounted.reads_paid;
            c.stream_waits += uncounted.waits;
            c.stream_waits_paid += uncounted.waits_paid;
            more(c);
        });
    }
}
