//! The ready queue, and which of the workers that wait for it is woken.
//!
//! The queue is a crossbeam channel. What is added is who wakes when something comes: one worker at
//! a time, the one that went to sleep last. It is *searching* until it has found a session; only
//! then, and only if more are queued, is the next one woken. So a burst of ten sessions on a busy
//! machine costs one or two wake-ups instead of ten, the others being served by whoever is awake,
//! and the worker with the warmest caches and buffers works most.
//!
//! No more workers are awake than there are processors: a turn never blocks, so one more would only
//! make them take turns on a processor. Whoever does block, out of patience, does not count as awake.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::message::{Message, Queued};
use super::streams::{Lane, Streams};

/// The queue. Unbounded only in name: a session is in it at most once, and permits bound the
/// sessions; no table is sized by that bound.
pub struct ReadyQueue<J> {
    sender: Sender<Message<J>>,
    receiver: Receiver<Message<J>>,
    streams: Streams<J>,
    /// Sleeping workers by index, the latest last.
    asleep: Mutex<Vec<usize>>,
    /// How many sleep; decremented before a woken one looks for work.
    free: AtomicUsize,
    /// A woken worker has not found a session yet.
    searching: AtomicBool,
    /// Workers neither asleep nor patient.
    awake: AtomicUsize,
    processors: usize,
    /// Workers that wait with their session.
    patient: AtomicUsize,
    beds: Box<[Bed]>,
}

/// A worker's leave to wait with its session; it ends when this drops.
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
    /// An empty queue for so many workers.
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
            // They start awake, and find nothing.
            awake: AtomicUsize::new(workers),
            processors,
            beds: (0..workers).map(|_| Bed::default()).collect(),
        }
    }

    /// Queues a message and sees to it that somebody takes it.
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

    /// How many are queued.
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

    /// The streams among them.
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

    /// Leave for a worker to wait with its session: another one must be free to take what comes.
    /// Only as many as there are processors may, since each such wait that ends is a thread to
    /// switch to, while a burst of events is served by one.
    pub fn be_patient(&self) -> Option<Patience<'_>> {
        if self.free.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let before = self.patient.fetch_add(1, Ordering::SeqCst);
        self.awake.fetch_sub(1, Ordering::SeqCst);
        let patience = Patience { awake: &self.awake, patient: &self.patient };
        // Whoever queued something before this worker ceased to count as awake may have left it to
        // this worker.
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
            // Another nudge took the last sleeper and has not said so yet. Who fell asleep since
            // may have taken this one for the searching worker.
            self.searching.store(false, Ordering::SeqCst);
            if !self.has_work() {
                return;
            }
        }
    }

    /// Takes the next message, sleeping until there is one. Called by worker `worker` only, which
    /// is done with what it took before; `lane` is where that stood, and will be where this did. `look` is
    /// called before it sleeps and when it was woken: it sees what [`rouse`](Self::rouse) is called for.
    pub fn take(&self, worker: usize, lane: &mut Lane, mut look: impl FnMut()) -> Message<J> {
        self.done(lane);
        let mut searching = false;
        loop {
            if let Some(message) = self.try_take(lane) {
                if searching {
                    self.searching.store(false, Ordering::SeqCst);
                }
                // Whoever queued what is left may have seen this worker searching.
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

    /// Wakes all that sleep, for them to see what has changed beside the queue.
    pub fn rouse(&self) {
        let sleepers = std::mem::take(&mut *self.asleep.lock());
        for bed in sleepers.into_iter().filter_map(|worker| self.beds.get(worker)) {
            // As `nudge` does it: each looks whether there is work before it sleeps again.
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

    /// What is left when the workers have ended.
    pub fn drain(&self) -> impl Iterator<Item = Message<J>> {
        self.receiver.try_iter().chain(self.streams.drain())
    }

    /// A worker ends: it is not awake any more.
    pub fn leave(&self) {
        self.awake.fetch_sub(1, Ordering::SeqCst);
        if self.has_work() {
            self.nudge();
        }
    }

    /// Sleeps until woken, as the searching worker.
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
        // What was queued before this worker could be seen asleep woke nobody.
        if self.has_work() {
            self.nudge();
        }
        // What has changed before this worker could be seen asleep roused everybody else.
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

    /// What these tests queue: only stops.
    struct Nothing;

    impl Queued for Nothing {
        fn enqueued(&mut self) {}

        fn is_streaming(&self) -> bool {
            false
        }
    }

    /// Every message is taken, however pushes and sleeps fall together.
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
            // Alternately let them fall asleep and keep them busy.
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
