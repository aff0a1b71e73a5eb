//! One heap of deadlines, which wakes the parking thread when the next one is due.
//!
//! Filing is lazy: a waiter files an entry only if it has none at or before the moment it wants. When an
//! entry comes due early, the waiter returns the later moment and the entry is filed again. A session that
//! waits a thousand times in a minute therefore touches the heap about once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::poll::Poller;

/// The longest wait or storage time, a year. Moments further away may not be representable.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Something with a deadline.
pub trait Expire: Send + Sync {
    /// Called on the parking thread when the entry filed for `filed` comes due. Returns when to come back,
    /// if at all.
    fn due(self: Arc<Self>, filed: Instant, now: Instant) -> Option<Instant>;

    /// Whether its entry filed for `filed` is obsolete.
    fn is_over(&self, _filed: Instant) -> bool {
        false
    }

    /// Called when everything that waits has to wake at once, because the proxy shuts down.
    fn hurry(self: Arc<Self>) {}
}

struct Entry {
    at: Instant,
    who: Arc<dyn Expire>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Default)]
struct Heap {
    entries: BinaryHeap<Reverse<Entry>>,
    /// The end of the parking thread's sleep, while it sleeps: an earlier entry must wake it.
    sleeps_until: Option<Option<Instant>>,
    /// Every entry is to be hurried.
    hurry: bool,
    /// About how many entries are obsolete.
    over: usize,
}

/// Up to this many obsolete entries stay until they come due.
const OVER_KEPT: usize = 1024;

/// The heap, and the poller whose sleep it limits.
pub struct Timers {
    heap: Mutex<Heap>,
    poller: Arc<Poller>,
}

impl Timers {
    /// An empty heap that wakes `poller`.
    pub fn new(poller: Arc<Poller>) -> Self {
        Self { heap: Mutex::default(), poller }
    }

    /// Files an entry. Wakes the parking thread if it would sleep past the entry.
    pub fn file(&self, at: Instant, who: Arc<dyn Expire>) {
        let mut heap = self.heap.lock();
        heap.entries.push(Reverse(Entry { at, who }));
        let oversleeps = match heap.sleeps_until {
            None => false,
            Some(None) => true,
            Some(Some(until)) => at < until,
        };
        if oversleeps {
            heap.sleeps_until = None;
            drop(heap);
            self.poller.notify();
        }
    }

    /// How long the parking thread may sleep from now; `None` if only an event ends the sleep. The thread
    /// must call [`wake`](Self::wake) afterwards.
    pub fn sleep(&self) -> Option<Duration> {
        let mut heap = self.heap.lock();
        let until = heap.entries.peek().map(|Reverse(e)| e.at);
        heap.sleeps_until = Some(until);
        until.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Runs the entries due by `now`.
    pub fn wake(&self, now: Instant) {
        let mut heap = self.heap.lock();
        heap.sleeps_until = None;
        while heap.entries.peek().is_some_and(|Reverse(e)| e.at <= now) {
            let Some(Reverse(Entry { at, who })) = heap.entries.pop() else { break };
            drop(heap);
            // A panic costs this entry only; the others keep their deadlines.
            let due = catch_unwind(AssertUnwindSafe(|| Arc::clone(&who).due(at, now)));
            let again = due.unwrap_or_else(|_| {
                log::error!("a deadline was lost by a bug; the message is above");
                None
            });
            heap = self.heap.lock();
            if let Some(at) = again {
                heap.entries.push(Reverse(Entry { at, who }));
            }
        }
        if std::mem::take(&mut heap.hurry) {
            let all: Vec<_> = heap.entries.iter().map(|Reverse(e)| Arc::clone(&e.who)).collect();
            drop(heap);
            all.into_iter().for_each(Expire::hurry);
        }
    }

    /// Counts one more obsolete entry. When most entries are obsolete they are removed, so that a proxy
    /// with many short connections does not keep each entry until its deadline.
    pub fn one_is_over(&self) {
        let mut heap = self.heap.lock();
        heap.over += 1;
        if heap.over > OVER_KEPT && heap.over > heap.entries.len() / 2 {
            heap.over = 0;
            heap.entries.retain(|Reverse(e)| !e.who.is_over(e.at));
        }
    }

    /// Makes the parking thread hurry everything that has an entry. Only that thread takes entries out, so
    /// it finds them all.
    pub fn hurry_all(&self) {
        self.heap.lock().hurry = true;
        self.poller.notify();
    }

    /// Entries filed; for tests and stats.
    #[cfg(feature = "internals")]
    pub fn len(&self) -> usize {
        self.heap.lock().entries.len()
    }

    /// Whether nothing is filed.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Later(Mutex<Vec<Instant>>, Option<Instant>);

    impl Expire for Later {
        fn due(self: Arc<Self>, filed: Instant, _: Instant) -> Option<Instant> {
            self.0.lock().push(filed);
            self.1.filter(|&at| at > filed)
        }
    }

    #[test]
    fn an_entry_that_is_early_is_filed_again() {
        let timers = Timers::new(Arc::new(Poller::new().unwrap()));
        let past = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let future = Instant::now() + Duration::from_secs(60);
        let early = Arc::new(Later(Mutex::default(), Some(future)));
        timers.file(past, early.clone());
        timers.file(past, Arc::new(Later(Mutex::default(), None)));
        timers.wake(Instant::now());
        assert_eq!(*early.0.lock(), [past]);
        assert_eq!(timers.len(), 1);
        assert!(timers.sleep().unwrap() > Duration::from_secs(50));
    }

    #[test]
    fn an_entry_that_panics_costs_no_other_its_moment() {
        struct Panics;
        impl Expire for Panics {
            fn due(self: Arc<Self>, _: Instant, _: Instant) -> Option<Instant> {
                panic!("expected in the output of a passing run");
            }
        }
        let timers = Timers::new(Arc::new(Poller::new().unwrap()));
        let now = Instant::now();
        let late = Arc::new(Later(Mutex::default(), None));
        timers.file(now, Arc::new(Panics));
        timers.file(now + Duration::from_nanos(1), late.clone());
        timers.wake(now + Duration::from_secs(1));
        assert_eq!(late.0.lock().len(), 1);
        assert!(timers.is_empty());
    }

    #[test]
    fn entries_that_mean_nothing_are_swept_out() {
        struct Over;
        impl Expire for Over {
            fn due(self: Arc<Self>, _: Instant, _: Instant) -> Option<Instant> {
                None
            }
            fn is_over(&self, _: Instant) -> bool {
                true
            }
        }
        let timers = Timers::new(Arc::new(Poller::new().unwrap()));
        let future = Instant::now() + Duration::from_secs(60);
        timers.file(future, Arc::new(Later(Mutex::default(), None)));
        for _ in 0..5 * OVER_KEPT {
            timers.file(future, Arc::new(Over));
            timers.one_is_over();
        }
        assert!(timers.len() <= 2 * OVER_KEPT, "{} are left", timers.len());
    }

    #[test]
    fn a_moment_before_the_end_of_sleep_wakes_the_sleeper() {
        let poller = Arc::new(Poller::new().unwrap());
        let timers = Timers::new(Arc::clone(&poller));
        assert_eq!(timers.sleep(), None);
        timers.file(Instant::now(), Arc::new(Later(Mutex::default(), None)));
        // Hangs here if the notification is missing: the wait has no limit.
        poller.wait(&mut crate::net::poll::Events::default(), None).unwrap();
        timers.wake(Instant::now());
        assert!(timers.is_empty());
    }
}
