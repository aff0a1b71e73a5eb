//! A second line beside the ready queue, for sessions that move much data.
//!
//! A stream can always go on, and its turns are the longest. In one line with the others, streams would
//! keep every worker busy. A small message would then wait for a turn of each of them, and after that
//! for the scheduler, which gives a thread that never sleeps a few milliseconds at a time. So messages
//! go first, and while there are any, streams leave one processor to them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::message::Message;

/// How long after the last message streams still leave one processor free, and how long after the last
/// stream threads still wake at once.
const LATELY: Duration = Duration::from_millis(100);

/// The line in which a worker's session stood.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Lane {
    /// The line of messages.
    #[default]
    Message,
    /// The line of streams.
    Stream,
}

/// The line of the streams.
pub struct Streams<J> {
    sender: Sender<Message<J>>,
    receiver: Receiver<Message<J>>,
    /// How many workers serve a stream.
    running: AtomicUsize,
    /// How many workers may do so beside messages.
    places: usize,
    start: Instant,
    /// When a message was last taken beside a stream, in microseconds since `start`.
    message: AtomicU64,
    /// When a stream was last taken.
    stream: AtomicU64,
}

impl<J> Streams<J> {
    /// An empty line, for this many processors.
    pub fn new(processors: usize) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self {
            sender,
            receiver,
            running: AtomicUsize::new(0),
            places: processors.saturating_sub(1).max(1),
            start: Instant::now(),
            message: AtomicU64::new(0),
            stream: AtomicU64::new(0),
        }
    }

    /// The end at which streams are queued.
    pub fn sender(&self) -> &Sender<Message<J>> {
        &self.sender
    }

    /// How many streams are queued.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether no stream is queued.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Whether a stream is queued that a worker may take now.
    pub fn has_work(&self) -> bool {
        !self.is_empty() && self.has_place(self.running.load(Ordering::SeqCst))
    }

    /// Takes a stream, if there is one and a place for it. The worker that got it must call
    /// [`left`](Self::left).
    pub fn take(&self) -> Option<Message<J>> {
        if self.is_empty() {
            return None;
        }
        let before = self.running.fetch_add(1, Ordering::SeqCst);
        let taken = if self.has_place(before) { self.receiver.try_recv().ok() } else { None };
        match taken {
            Some(_) => self.stream.store(self.micros(), Ordering::Relaxed),
            None => self.left(),
        }
        taken
    }

    /// Records that a worker is done with a stream.
    pub fn left(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Records whether a worker's session is a stream now. It may have become one, or ceased to be one,
    /// since it was taken; `lane` follows it.
    pub fn follow(&self, lane: &mut Lane, streams: bool) {
        match (*lane, streams) {
            (Lane::Message, true) => {
                *lane = Lane::Stream;
                self.running.fetch_add(1, Ordering::SeqCst);
                self.stream.store(self.micros(), Ordering::Relaxed);
            }
            (Lane::Stream, false) => {
                *lane = Lane::Message;
                self.stream.store(self.micros(), Ordering::Relaxed);
                self.left();
            }
            _ => {}
        }
    }

    /// Records that a message was taken.
    pub fn passed(&self) {
        if self.running.load(Ordering::Relaxed) > 0 {
            self.message.store(self.micros(), Ordering::Relaxed);
        }
    }

    /// Whether there were messages beside streams lately. Reads the clock.
    pub fn are_beside_messages(&self) -> bool {
        self.is_recent(&self.message)
    }

    /// Whether a stream runs.
    pub fn run(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Whether a stream ran lately. Reads the clock.
    pub fn ran_lately(&self) -> bool {
        self.run() || self.is_recent(&self.stream)
    }

    /// The entries left when the workers have ended.
    pub fn drain(&self) -> impl Iterator<Item = Message<J>> {
        self.receiver.try_iter()
    }

    fn has_place(&self, running: usize) -> bool {
        running < self.places || !self.are_beside_messages()
    }

    fn is_recent(&self, moment: &AtomicU64) -> bool {
        let then = Duration::from_micros(moment.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(then) < LATELY
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(streams: &Streams<()>, count: usize) {
        for _ in 0..count {
            streams.sender().send(Message::Stop).unwrap();
        }
    }

    #[test]
    fn beside_messages_streams_leave_one_processor() {
        let streams = Streams::<()>::new(3);
        some(&streams, 4);
        assert!(streams.take().is_some() && streams.run());
        streams.passed();
        assert!(streams.take().is_some());
        assert!(!streams.has_work() && streams.take().is_none(), "the third place is a message's");
        streams.left();
        assert!(streams.has_work() && streams.take().is_some());
    }

    #[test]
    fn without_messages_streams_have_all_processors() {
        let mut streams = Streams::<()>::new(2);
        some(&streams, 3);
        assert!(streams.take().is_some());
        streams.passed();
        assert!(streams.take().is_none());
        streams.start = streams.start.checked_sub(LATELY).unwrap();
        assert!(streams.take().is_some());
        (0..2).for_each(|_| streams.left());
        assert!(!streams.run() && streams.ran_lately());
        streams.start = streams.start.checked_sub(LATELY).unwrap();
        assert!(!streams.ran_lately());
    }

    #[test]
    fn what_becomes_a_stream_on_its_worker_counts_as_one_for_as_long_as_it_is() {
        let streams = Streams::<()>::new(2);
        some(&streams, 1);
        let mut lane = Lane::Message;
        streams.follow(&mut lane, false);
        assert!(!streams.run());
        (0..2).for_each(|_| streams.follow(&mut lane, true));
        assert!(streams.run() && lane == Lane::Stream);
        streams.passed();
        assert!(streams.take().is_none(), "it has the one place there is beside messages");
        (0..2).for_each(|_| streams.follow(&mut lane, false));
        assert!(!streams.run() && lane == Lane::Message && streams.ran_lately());
        assert!(streams.take().is_some());
    }

    #[test]
    fn one_processor_is_for_both() {
        let streams = Streams::<()>::new(1);
        some(&streams, 2);
        assert!(streams.take().is_some());
        streams.passed();
        assert!(streams.take().is_none());
        streams.left();
        assert!(streams.take().is_some());
    }
}
