//! The ready queue, and the choice of the worker to wake for it.
//!
//! The queue is a crossbeam channel. This module adds the waking: a new entry wakes one worker, the one
//! that went to sleep last. That worker is *searching* until it has found a session. Only then, and only
//! if more are queued, is the next one woken. So a burst of ten sessions on a busy machine costs one or
//! two wake-ups instead of ten, because workers that are awake serve the others, and the worker with the
//! warmest caches and buffers works most.
//!
//! No more workers are awake than there are processors. A turn never blocks, so one more would only have
//! to share a processor. A worker that does block, out of patience, does not count as awake.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::message::{Message, Queued};
use super::streams::{Lane, Streams};

/// The queue. It is unbounded only in name: a session is in it at most once, and permits bound the
/// sessions. No table is sized by that bound.
pub struct ReadyQueue<J> {
    sender: Sender<Message<J>>,
    receiver: Receiver<Message<J>>,
    streams: Streams<J>,
    /// Sleeping workers by index; the last one fell asleep last.
    asleep: Mutex<Vec<usize>>,
    /// How many workers sleep; decremented before a woken one looks for work.
    free: AtomicUsize,
    /// A woken worker is still looking for a session.
    searching: AtomicBool,
    /// Workers neither asleep nor patient.
    awake: AtomicUsize,
    processors: usize,
    /// Workers that wait with their sessions.
    patient: AtomicUsize,
    beds: Box<[Bed]>,
}

/// A worker's permission to wait with its session; dropping it ends the wait.
#[must_use]
pub struct Patience<'q> {
    awake: &'q AtomicUsize,
    patient: &'q AtomicUsize,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.awake.fetch_add(1, Ordering::SeqCst);
        self.patient.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Bed {
    thread: Mutex<Option<Thread>>,
    woken: AtomicBool,
}

impl<J: Queued> ReadyQueue<J> {
    /// An empty queue for this many workers.
    pub fn new(workers: usize) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            sender,
            receiver,
            streams: Streams::new(processors),
            asleep: Mutex::new(Vec::with_capacity(workers)),
            free: AtomicUsize::new(0),
            searching: AtomicBool::new(false),
            patient: AtomicUsize::new(0),
            // Workers start awake, and find nothing.
            awake: AtomicUsize::new(workers),
            processors,
            beds: (0..workers).map(|_| Bed::default()).collect(),
        }
    }

    /// Queues a message, and makes sure that a worker takes it.
    pub fn push(&self, mut message: Message<J>) {
        let mut sender = &self.sender;
        if let Message::Ready(job) = &mut message {
            job.enqueued();
            if job.is_streaming() {
                sender = self.streams.sender();
            }
        }
        // Both ends live as long as the queue.
        let _ = sender.send(message);
        self.nudge();
    }

    /// How many messages are queued.
    pub fn len(&self) -> usize {
        self.receiver.len() + self.streams.len()
    }

    /// How many workers are busy, patient, and asleep.
    pub fn workers(&self) -> [u64; 3] {
        let patient = self.patient.load(Ordering::SeqCst);
        let asleep = self.free.load(Ordering::SeqCst);
        let busy = self.beds.len().saturating_sub(patient + asleep);
        [busy as u64, patient as u64, asleep as u64]
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty() && self.streams.is_empty()
    }

    /// The line of streams.
    pub fn streams(&self) -> &Streams<J> {
        &self.streams
    }

    /// Whether a worker would find something to take.
    fn has_work(&self) -> bool {
        !self.receiver.is_empty() || self.streams.has_work()
    }

    /// Whether a worker sleeps.
    pub fn has_free_worker(&self) -> bool {
        self.free.load(Ordering::SeqCst) > 0
    }

    /// Permits a worker to wait with its session, if another worker is free to take new work. No more
    /// workers may wait than there are processors: each such wait that ends is a thread to switch to,
    /// while one thread serves a whole burst of events.
    pub fn be_patient(&self) -> Option<Patience<'_>> {
        if self.free.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let before = self.patient.fetch_add(1, Ordering::SeqCst);
        self.awake.fetch_sub(1, Ordering::SeqCst);
        let patience = Patience { awake: &self.awake, patient: &self.patient };
        // A message queued before this worker ceased to count as awake may have been left to this
        // worker.
        (before < self.processors && self.is_empty()).then_some(patience)
    }

    /// Wakes a worker, unless one is searching already or enough are awake.
    fn nudge(&self) {
        loop {
            if self.awake.load(Ordering::SeqCst) >= self.processors
                || self.free.load(Ordering::SeqCst) == 0
                || self.searching.swap(true, Ordering::SeqCst)
            {
                return;
            }
            let worker = self.asleep.lock().pop();
            if let Some(bed) = worker.and_then(|worker| self.beds.get(worker)) {
                self.free.fetch_sub(1, Ordering::SeqCst);
                self.awake.fetch_add(1, Ordering::SeqCst);
                bed.woken.store(true, Ordering::SeqCst);
                if let Some(thread) = &*bed.thread.lock() {
                    thread.unpark();
                }
                return;
            }
            // Another nudge took the last sleeper and has not counted it yet. A worker that fell asleep
            // since then may have taken this one for the searching worker.
            self.searching.store(false, Ordering::SeqCst);
            if !self.has_work() {
                return;
            }
        }
    }

    /// Takes the next message, sleeping until there is one. Only worker `worker` may call it, when it is
    /// done with the last message. `lane` is the line of the last message, and becomes that of the next.
    /// `look` is called before the worker sleeps and when it was woken, to see the change that
    /// [`rouse`](Self::rouse) announces.
    pub fn take(&self, worker: usize, lane: &mut Lane, mut look: impl FnMut()) -> Message<J> {
        self.done(lane);
        let mut searching = false;
        loop {
            if let Some(message) = self.try_take(lane) {
                if searching {
                    self.searching.store(false, Ordering::SeqCst);
                }
                // A message still in the queue may have been left to this worker while it was searching.
                if self.has_work() {
                    self.nudge();
                }
                return message;
            }
            self.sleep(worker, std::mem::take(&mut searching), &mut look);
            searching = true;
            look();
        }
    }

    /// Wakes all sleeping workers, so that they notice a change outside the queue.
    pub fn rouse(&self) {
        let sleepers = std::mem::take(&mut *self.asleep.lock());
        for bed in sleepers.into_iter().filter_map(|worker| self.beds.get(worker)) {
            // As in `nudge`: each worker looks for work before it sleeps again.
            self.free.fetch_sub(1, Ordering::SeqCst);
            self.awake.fetch_add(1, Ordering::SeqCst);
            bed.woken.store(true, Ordering::SeqCst);
            if let Some(thread) = &*bed.thread.lock() {
                thread.unpark();
            }
        }
    }

    fn try_take(&self, lane: &mut Lane) -> Option<Message<J>> {
        if let Ok(message) = self.receiver.try_recv() {
            self.streams.passed();
            return Some(message);
        }
        let stream = self.streams.take()?;
        *lane = Lane::Stream;
        Some(stream)
    }

    fn done(&self, lane: &mut Lane) {
        if std::mem::take(lane) == Lane::Stream {
            self.streams.left();
        }
    }

    /// The messages left when the workers have ended.
    pub fn drain(&self) -> impl Iterator<Item = Message<J>> {
        self.receiver.try_iter().chain(self.streams.drain())
    }

    /// Records that a worker ends, and is no longer awake.
    pub fn leave(&self) {
        self.awake.fetch_sub(1, Ordering::SeqCst);
        if self.has_work() {
            self.nudge();
        }
    }

    /// Sleeps until woken as the searching worker.
    fn sleep(&self, worker: usize, searching: bool, look: &mut impl FnMut()) {
        let Some(bed) = self.beds.get(worker) else { return };
        {
            let mut thread = bed.thread.lock();
            if thread.is_none() {
                *thread = Some(thread::current());
            }
        }
        self.asleep.lock().push(worker);
        self.free.fetch_add(1, Ordering::SeqCst);
        self.awake.fetch_sub(1, Ordering::SeqCst);
        if searching {
            self.searching.store(false, Ordering::SeqCst);
        }
        // A message queued before this worker was listed as asleep woke nobody.
        if self.has_work() {
            self.nudge();
        }
        // A change before this worker was listed as asleep roused only the others.
        look();
        while !bed.woken.swap(false, Ordering::SeqCst) {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;

    /// An entry for these tests, which queue only stops.
    struct Nothing;

    impl Queued for Nothing {
        fn enqueued(&mut self) {}

        fn is_streaming(&self) -> bool {
            false
        }
    }

    /// Every message is taken, however pushes and sleeps interleave.
    #[test]
    fn no_message_is_left_lying() {
        const WORKERS: usize = 4;
        const EACH: usize = 20_000;
        let queue = Arc::new(ReadyQueue::<Nothing>::new(WORKERS));
        let taken = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                thread::spawn(move || {
                    loop {
                        let Message::Stop = queue.take(worker, &mut Lane::default(), || {}) else {
                            unreachable!()
                        };
                        if taken.fetch_add(1, Ordering::SeqCst) >= EACH {
                            return queue.leave();
                        }
                    }
                })
            })
            .collect();
        for sent in 1..=EACH {
            queue.push(Message::Stop);
            if sent % 7 == 0 {
                queue.rouse();
            }
            // Lets the workers fall asleep and keeps them busy by turns.
            if sent % 3 == 0 {
                let limit = Instant::now() + Duration::from_secs(5);
                while taken.load(Ordering::SeqCst) < sent {
                    assert!(Instant::now() < limit, "message {sent} was left lying");
                    thread::yield_now();
                }
            }
        }
        (0..WORKERS).for_each(|_| queue.push(Message::Stop));
        workers.into_iter().for_each(|w| w.join().unwrap());
    }
}
