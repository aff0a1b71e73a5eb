//! The fixed pool of workers: each takes sessions from the ready queue and gives them turns.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::net::buffer::Buffers;
use crate::net::pipe::PIPE_BYTES;
use crate::net::poll::Events;
use crate::observe::stats::{Counters, Wait};
use crate::policy::Followed;
use crate::proxy::Turn;
use crate::proxy::front::Front;
use crate::proxy::recycle::Spares;

use super::batch::Batch;
use super::message::Message;
use super::parking::Job;
use super::streams::Lane;
use super::turns::{Came, Turns, Uncounted};
use super::worker_pool::WorkerPool;

/// Starts `count` workers named `worker-0`, `worker-1`, … They end on [`Message::Stop`].
///
/// # Errors
///
/// When the system refuses a thread.
pub(super) fn spawn(count: usize, pool: &Arc<WorkerPool>) -> io::Result<Vec<JoinHandle<()>>> {
    let spawned: io::Result<Vec<_>> = (0..count)
        .map(|index| {
            let pool = Arc::clone(pool);
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let buffers = Buffers::default();
                let events = Events::default();
                let mut worker = Worker {
                    pool: &pool,
                    index,
                    buffers,
                    events,
                    was: None,
                    front: Front::Forward,
                    parked: 0,
                    spares: Spares::new(&pool.spares),
                    lane: Lane::default(),
                    batch: Batch::enter(),
                    policy: pool.ctx.policy.follow(),
                };
                // A panic outside a turn, even one while logging another, does not end the worker.
                while catch_unwind(AssertUnwindSafe(|| worker.work())).is_err() {
                    worker.pool.stats.shard(index).count(|c| c.panics += 1);
                }
            })
        })
        .collect();
    if spawned.is_err() {
        // The workers that did start end.
        (0..count).for_each(|_| pool.ready.push(Message::Stop));
    }
    spawned
}

struct Worker<'p> {
    pool: &'p WorkerPool,
    index: usize,
    buffers: Buffers,
    events: Events,
    /// What the session of this turn was counted as waiting for.
    was: Option<Wait>,
    /// The front of that session.
    front: Front,
    /// How many sessions were parked.
    parked: u8,
    /// Finished exchanges, to be used again.
    spares: Spares,
    /// The line in which its session stood.
    lane: Lane,
    batch: Batch,
    policy: Followed,
}

/// One parking in this many is measured on its way through the queue. Reading the clock for each would
/// be one part in a hundred of a request's cost.
const MEASURED: u8 = 16;

/// How much to move at a time beside messages, and before a session is a stream. Messages wait the
/// longer, the more is moved.
const PORTION: usize = PIPE_BYTES / 2;

/// What to do with a session after a turn.
enum After {
    /// The session is still here.
    Again,
    Gone,
}

impl Worker<'_> {
    fn work(&mut self) {
        loop {
            let Self { pool, index, lane, policy, .. } = self;
            // A worker that stays asleep must not keep a policy that was replaced.
            match pool.ready.take(*index, lane, || policy.refresh(&pool.ctx.policy)) {
                Message::Ready(mut job) => {
                    self.batch.follow(self.pool.ready.streams());
                    let now = Instant::now();
                    if let Some(queued) = job.session.waiting.dequeued() {
                        let waited = now.saturating_duration_since(queued);
                        self.count(|c| c.queue_wait_seconds.record(waited));
                    }
                    if !self.pool.ready.is_empty() {
                        self.pool.parking.glance(&mut self.events, now);
                    }
                    self.serve(job, now);
                }
                Message::Stop => return self.pool.ready.leave(),
            }
        }
    }

    /// Gives the session turns for as long as it can go on and no other waits.
    fn serve(&mut self, job: Job, mut now: Instant) {
        let mut held = Some(job);
        loop {
            // A panic costs one session, not a worker: the pool is fixed and must not shrink. A panic
            // leaves only buffers behind, each empty or whole.
            let after = match catch_unwind(AssertUnwindSafe(|| self.take_turn(&mut held, now))) {
                Ok(after) => after,
                Err(_) => {
                    log::error!("a session was closed by a bug; the message is above");
                    if let Some(Job { session, .. }) = held {
                        session.abandon(self.pool.stats.shard(self.index));
                    }
                    self.count_closed(true);
                    return;
                }
            };
            match after {
                After::Gone => return,
                After::Again => {
                    now = Instant::now();
                    if self.others_wait(now) {
                        self.pool.stats.shard(self.index).count(|c| c.yields += 1);
                        if let Some(job) = held {
                            self.pool.ready.push(Message::Ready(job));
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Gives a turn to the session in `held`, which stays there unless it is gone.
    fn take_turn(&mut self, held: &mut Option<Job>, now: Instant) -> After {
        let Some(job) = held else { return After::Gone };
        self.was = job.session.waiting.resumed();
        self.front = job.session.asker().front;
        let is_stream = job.session.waiting.is_streaming();
        if job.session.waiting.is_to_look(now) {
            job.session.look();
        }
        self.policy.refresh(&self.pool.ctx.policy);
        let Self { pool, index, buffers, spares, was, parked, lane, policy, .. } = self;
        let stage = pool.parking.stage();
        let mut turn = Turn {
            ctx: &pool.ctx,
            buffers,
            policy: policy.policy(),
            counters: pool.stats.shard(*index),
            overview: *pool,
            now,
            moved: 0,
            portion: match is_stream && !pool.ready.streams().are_beside_messages() {
                true => PIPE_BYTES,
                false => PORTION,
            },
        };
        let measure = parked.wrapping_add(1) % MEASURED == 0;
        let uncounted = Uncounted::default();
        let turns = Turns { pool, policy, stage, lane, was, measure, uncounted };
        let until = match turns.take(&mut job.session, &mut turn, spares) {
            Came::Close => {
                self.close(held);
                return After::Gone;
            }
            Came::Again => {
                job.session.waiting.goes_on();
                return After::Again;
            }
            Came::Park(until) => until,
        };
        *parked = parked.wrapping_add(1);
        *held = held.take().and_then(|job| pool.parking.park(job, until, stage));
        match held {
            Some(job) => {
                job.session.did_not_wait();
                After::Again
            }
            None => After::Gone,
        }
    }

    /// Whether other sessions wait for a worker, even those that nobody has looked for yet.
    fn others_wait(&mut self, now: Instant) -> bool {
        self.pool.parking.glance(&mut self.events, now);
        !self.pool.ready.is_empty()
    }

    fn close(&mut self, held: &mut Option<Job>) {
        let Some(Job { mut session, slot }) = held.take() else { return };
        self.was = self.was.or(session.waiting.resumed());
        drop(session);
        slot.end(&self.pool.parking);
        self.count_closed(false);
    }

    fn count_closed(&mut self, panicked: bool) {
        let (was, front) = (self.was.take(), self.front);
        self.count(|c| {
            c.count_resume(was);
            match front.is_admin() {
                false => c.connections_closed += 1,
                true => c.admin_connections_closed += 1,
            }
            c.panics += u64::from(panicked);
        });
    }

    fn count(&self, f: impl FnOnce(&mut Counters)) {
        self.pool.stats.shard(self.index).count(f);
    }
}
