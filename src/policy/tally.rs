//! Keeps the counts of single clients, users, destinations and connections in tables of bounded size.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::bucket::{Bucket, CREDIT, Nanos};
use super::limits::Direction;
use super::rule_origin::RuleId;

/// The number of clients, of users and of destinations remembered, about 220 bytes each plus the name.
/// Beyond it, entries not in use are forgotten, the idlest first; if all are in use, newcomers share
/// one count.
pub const MOST_REMEMBERED: usize = 65_536;
/// The shortest time between two sweeps of a table when they free little.
const SWEEP: Nanos = 1_000_000_000;

/// The counts of one client, user, destination or connection, or of all together.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) counts: Mutex<Counts>,
    connections: AtomicU32,
    /// Exchanges waiting for an allowance, up and down.
    waiting: [AtomicU32; 2],
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    buckets: [Bucket; 2],
    pub(super) requests: Bucket,
    /// The last time that the counts were asked for.
    touched: Nanos,
}

impl Tally {
    pub(super) fn with<T>(&self, direction: Direction, f: impl FnOnce(&mut Bucket) -> T) -> T {
        let [up, down] = &mut self.counts.lock().buckets;
        f(match direction {
            Direction::Up => up,
            Direction::Down => down,
        })
    }

    pub(super) fn waiting(&self, direction: Direction) -> &AtomicU32 {
        let [up, down] = &self.waiting;
        match direction {
            Direction::Up => up,
            Direction::Down => down,
        }
    }

    /// The number of connections that hold a place here.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A place among the connections of a client or a user; dropping it frees the place.
#[derive(Debug)]
pub struct ConnectionPlace {
    pub(super) tally: Arc<Tally>,
    /// The limit was already reached when it was taken.
    pub(super) over: bool,
}

impl ConnectionPlace {
    pub(super) fn take(tally: Arc<Tally>, most: u32) -> Self {
        let before = tally.connections.fetch_add(1, Ordering::Relaxed);
        Self { tally, over: before >= most }
    }

    /// Whether the limit is exceeded and this place is one of those beyond it.
    pub(super) fn is_over(&mut self, most: u32) -> bool {
        self.over &= self.tally.connections() > most;
        self.over
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.tally.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counts of one client connection, from its first request to its end.
#[derive(Debug, Default)]
pub struct ConnectionTally {
    pub(super) tally: Arc<Tally>,
    pub(super) client: Mutex<Option<ConnectionPlace>>,
    pub(super) user: Mutex<Option<(Box<str>, ConnectionPlace)>>,
}

/// The counts of one group of listeners.
#[derive(Debug)]
pub(super) struct Tables {
    /// Also keyed by the rule that names the client, if its rate has one: two clients of one network
    /// may have different rates.
    pub(super) clients: Table<(Option<RuleId>, IpAddr)>,
    pub(super) users: Table<Box<str>>,
    pub(super) destinations: Table<Box<str>>,
    pub(super) total: Arc<Tally>,
}

impl Tables {
    pub(super) fn new(most: usize) -> Self {
        Self {
            clients: Table::new(most),
            users: Table::new(most),
            destinations: Table::new(most),
            total: Arc::default(),
        }
    }
}

/// Counts by key.
#[derive(Debug)]
pub(super) struct Table<K> {
    all: Mutex<Remembered<K>>,
    most: usize,
}

#[derive(Debug)]
struct Remembered<K> {
    by_key: HashMap<K, Arc<Tally>>,
    /// Shared by all keys that there is no room for.
    others: Arc<Tally>,
    swept: Option<Nanos>,
}

impl<K: Eq + Hash + Clone> Table<K> {
    pub(super) fn new(most: usize) -> Self {
        let by_key = HashMap::new();
        Self { all: Mutex::new(Remembered { by_key, others: Arc::default(), swept: None }), most }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.lock().by_key.len()
    }

    /// The counts of `key`. After `pause` without use an entry holds nothing worth remembering.
    pub(super) fn get<Q>(&self, key: &Q, pause: Nanos, now: Nanos) -> Arc<Tally>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned: Into<K>> + ?Sized,
    {
        let mut all = self.all.lock();
        if let Some(known) = all.by_key.get(key) {
            known.counts.lock().touched = now;
            return Arc::clone(known);
        }
        if all.by_key.len() >= self.most && !all.make_room(self.most, pause, now) {
            return Arc::clone(&all.others);
        }
        let new = Arc::new(Tally::default());
        new.counts.lock().touched = now;
        all.by_key.insert(key.to_owned().into(), Arc::clone(&new));
        new
    }
}

impl<K: Eq + Hash + Clone> Remembered<K> {
    /// Forgets at least an eighth, if that many entries are not in use: entries as good as new first,
    /// then the idlest. Returns whether there is room.
    fn make_room(&mut self, most: usize, pause: Nanos, now: Nanos) -> bool {
        if self.swept.is_some_and(|at| now - at < SWEEP) {
            return false;
        }
        self.by_key.retain(|_, tally| {
            let counts = tally.counts.lock();
            let full = counts.buckets.iter().all(|b| b.is_full(CREDIT, now));
            Arc::strong_count(tally) > 1 || !full || !counts.requests.is_full(pause, now)
        });
        let room = (most / 8).max(1);
        let over = (self.by_key.len() + room).saturating_sub(most);
        if over > 0 {
            let unused = self.by_key.iter().filter(|(_, tally)| Arc::strong_count(tally) == 1);
            let mut idle: Vec<_> =
                unused.map(|(key, tally)| (tally.counts.lock().touched, key.clone())).collect();
            idle.sort_unstable_by_key(|(touched, _)| *touched);
            idle.iter().take(over).for_each(|(_, key)| {
                self.by_key.remove(key);
            });
        }
        // A sweep that frees little is not repeated for each newcomer.
        self.swept = (self.by_key.len() + room / 2 > most).then_some(now);
        self.by_key.len() < most
    }
}
