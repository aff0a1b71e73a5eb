//! Parks sessions that wait, without a thread each; one thread watches for all of them.
//!
//! Each session has one slot for life. An edge, a finished lookup, a deadline and a drain all go through
//! the same `Option::take` under the slot's lock, so exactly one of them gets the session. An edge, or the
//! result of a lookup, that comes while the session runs is kept in the slot and never dropped: the next
//! attempt to park finds it, and the session goes on instead. So no wake-up is lost. Some are spurious, which a turn tolerates.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::poll::{Edge, Events, Poller, Wake};
use crate::net::timers::{Expire, Timers};
use crate::proxy::session::Session;
use crate::proxy::waiting::Edges;

use super::batch::Batch;
use super::message::{Message, Queued};
use super::ready::ReadyQueue;

/// A session on its way to a worker.
pub struct Job {
    /// The session.
    pub session: Box<Session>,
    /// Its slot.
    pub slot: Arc<Slot>,
}

impl Queued for Job {
    fn enqueued(&mut self) {
        self.session.waiting.enqueued();
    }

    fn is_streaming(&self) -> bool {
        self.session.waiting.is_streaming()
    }
}

/// How far the shutdown of the proxy is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Stage {
    /// The proxy is not shutting down.
    Running,
    /// Idle sessions are closed; the others may finish.
    Draining,
    /// All sessions are closed.
    Cutting,
}

/// The place where a session waits.
pub struct Slot {
    state: Mutex<SlotState>,
    ready: Arc<ReadyQueue<Job>>,
}

struct SlotState {
    /// The session, while it waits. It holds the slot: the cycle ends when the session is taken, at its
    /// deadline at the latest.
    parked: Option<Job>,
    /// Edges that came while the session did not wait.
    edges: Edges,
    /// When the wait ends at the latest.
    until: Instant,
    /// The time of the slot's one live timer entry: at or before `until` while the session waits.
    filed: Option<Instant>,
    /// The session is gone.
    over: bool,
}

impl Slot {
    /// An empty slot, for a session that is sent to `ready` when it is woken.
    pub fn new(ready: Arc<ReadyQueue<Job>>) -> Arc<Self> {
        let until = Instant::now();
        let edges = Edges::default();
        let state = SlotState { parked: None, edges, until, filed: None, over: false };
        Arc::new(Self { state: Mutex::new(state), ready })
    }

    fn send(&self, job: Job) {
        self.ready.push(Message::Ready(job));
    }

    /// Records that the session is gone; its timer entry, if any, is for nobody.
    pub fn end(&self, parking: &Parking) {
        let filed = {
            let mut state = self.state.lock();
            state.over = true;
            state.filed.take().is_some()
        };
        if filed {
            parking.timers.one_is_over();
        }
    }

    /// Wakes the session if it waits.
    fn rouse(&self) {
        let job = {
            let mut state = self.state.lock();
            state.parked.take()
        };
        if let Some(job) = job {
            self.send(job);
        }
    }
}

impl Wake for Slot {
    fn wake(&self, tag: u32, edge: Edge) -> bool {
        let job = {
            let mut state = self.state.lock();
            state.edges.add(tag, edge);
            let Some(mut job) = state.parked.take() else { return true };
            let edges = std::mem::take(&mut state.edges);
            let heeds = job.session.heeds(&edges);
            job.session.note(edges);
            if !heeds {
                state.parked = Some(job);
                return true;
            }
            job
        };
        self.send(job);
        true
    }

    fn take_edges(&self, tags: RangeInclusive<u32>) -> bool {
        let edges = &mut self.state.lock().edges;
        tags.fold(false, |any, tag| any | edges.take(tag))
    }
}

impl Expire for Slot {
    fn due(self: Arc<Self>, filed: Instant, now: Instant) -> Option<Instant> {
        let job = {
            let mut state = self.state.lock();
            if state.filed != Some(filed) {
                // An earlier entry has replaced this one.
                return None;
            }
            state.filed = None;
            if state.parked.is_some() && state.until > now {
                state.filed = Some(state.until);
                return state.filed;
            }
            state.parked.take()
        };
        if let Some(job) = job {
            self.send(job);
        }
        None
    }

    fn is_over(&self, filed: Instant) -> bool {
        let state = self.state.lock();
        state.over || state.filed != Some(filed)
    }

    fn hurry(self: Arc<Self>) {
        self.rouse();
    }
}

/// The parking of one proxy.
pub struct Parking {
    poller: Arc<Poller>,
    timers: Arc<Timers>,
    stage: AtomicU8,
    start: Instant,
    /// When edges were last looked for, in microseconds since `start`.
    looked: AtomicU64,
}

/// How long edges may go unseen because the parking thread waits for a processor.
const LOOK: Duration = Duration::from_micros(250);

impl Parking {
    /// An empty parking.
    pub fn new(poller: Arc<Poller>, timers: Arc<Timers>) -> Self {
        let stage = AtomicU8::new(Stage::Running as u8);
        Self { poller, timers, stage, start: Instant::now(), looked: AtomicU64::new(0) }
    }

    /// How far the shutdown of the proxy is.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Cutting,
        }
    }

    /// Lets the session wait until something happens or `until` comes. Returns it if something has
    /// happened already, or if the stage is no longer the one `seen` by its last turn.
    pub fn park(&self, job: Job, until: Instant, seen: Stage) -> Option<Job> {
        let slot = Arc::clone(&job.slot);
        let mut job = job;
        loop {
            let superseded;
            {
                let mut state = slot.state.lock();
                if state.filed.is_some_and(|at| at <= until) {
                    if !state.edges.is_empty() {
                        let edges = std::mem::take(&mut state.edges);
                        let heeds = job.session.heeds(&edges);
                        job.session.note(edges);
                        if heeds {
                            return Some(job);
                        }
                    }
                    if self.stage() != seen {
                        return Some(job);
                    }
                    state.until = until;
                    state.parked = Some(job);
                    return None;
                }
                superseded = state.filed.replace(until).is_some();
            }
            // Done without the slot's lock, because timers take the two locks in the other order. The
            // entry may come due before the session is stored; then the loop files another.
            self.timers.file(until, Arc::clone(&slot) as Arc<dyn Expire>);
            if superseded {
                self.timers.one_is_over();
            }
        }
    }

    /// Enters `stage`, and wakes every waiting session so that it notices.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
        // No session is missed: one that waits has an entry, one about to wait files its entry first and
        // then checks the stage, and no entry is out while all are hurried.
        self.timers.hurry_all();
    }

    /// Watches until [`stop`](Self::stop) ends the parking thread.
    pub fn watch(&self, ready: &ReadyQueue<Job>) {
        let mut batch = Batch::enter();
        let mut events = Events::default();
        while self.stage.load(Ordering::SeqCst) != STOPPED {
            if let Err(e) = self.poller.wait(&mut events, self.timers.sleep()) {
                log::error!("waiting for sockets failed: {e}");
                return;
            }
            self.poller.acknowledge(&events);
            self.poller.deliver(&events);
            batch.follow(ready.streams());
            let now = Instant::now();
            self.note_look(now);
            self.timers.wake(now);
        }
    }

    /// Looks for edges on a worker's thread, if nobody has for a while. Under load the parking thread
    /// may have to wait for a processor longer than a session may be kept waiting.
    pub fn glance(&self, events: &mut Events, now: Instant) {
        let looked = self.start + Duration::from_micros(self.looked.load(Ordering::Relaxed));
        if now.saturating_duration_since(looked) < LOOK {
            return;
        }
        self.note_look(now);
        if self.poller.wait(events, Some(Duration::ZERO)).is_ok() {
            self.poller.deliver(events);
        }
    }

    fn note_look(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_micros();
        self.looked.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Ends [`watch`](Self::watch).
    pub fn stop(&self) {
        self.stage.store(STOPPED, Ordering::SeqCst);
        self.poller.notify();
    }
}

const STOPPED: u8 = 3;
