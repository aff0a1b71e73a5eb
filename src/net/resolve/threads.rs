//! The resolver's threads: a few stay, more are started while those hang, and they end without work.
//! `shares` decides whose lookup gets one.
//!
//! A lookup cannot be stopped. When all its askers have gone, or it has taken longer than [`SLOW`], it no
//! longer counts against others: another thread takes the place of the hanging one. Such lookups have a
//! limit as well, shared in the same way.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::shares::{ClientLookups, LookupLine, Shares};

/// How long a lookup counts in full. Few working servers take longer.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// The numbers of threads and names.
pub(super) struct ThreadLimits {
    /// Threads that stay once started.
    pub(super) steady: usize,
    /// Limit on the lookups under way that count in full, each on a thread.
    pub(super) most: usize,
    /// How many of them may be one client's in one domain.
    pub(super) each: usize,
    /// Limit on further lookups that are slow or have no askers any more.
    pub(super) left: usize,
    /// How long a thread beyond the steady ones waits for work before it ends.
    pub(super) linger: Duration,
    /// Names that may wait for a thread.
    pub(super) queued: usize,
}

impl Default for ThreadLimits {
    fn default() -> Self {
        let linger = Duration::from_secs(10);
        Self { steady: 4, most: 96, each: 8, left: 320, linger, queued: 1024 }
    }
}

/// Stands for one lookup, and never for another.
pub(super) type Ticket = u64;

type Work = Arc<dyn Fn(&str) + Send + Sync>;

/// The threads, and the names that wait for one. Dropping it lets the threads end.
pub(super) struct Threads {
    crew: Arc<Crew>,
}

struct Crew {
    limits: ThreadLimits,
    work: Work,
    state: Mutex<State>,
    /// Notified when there is a name for a thread, or the end.
    more: Condvar,
}

struct State {
    line: LookupLine<Ticket>,
    /// Lookups that have a thread, or will have one in a moment.
    ready: VecDeque<Ticket>,
    lookups: HashMap<Ticket, Lookup>,
    next: Ticket,
    /// The places of lookups that count in full.
    wanted: Shares,
    /// The places of lookups that are slow, or whose askers have gone.
    left: Shares,
    /// Lookups that count in full and since when, in that order; also some that have ended.
    begun: VecDeque<(Instant, Ticket)>,
    started: usize,
    alive: usize,
    over: bool,
}

/// A queued name, until its lookup has ended.
struct Lookup {
    name: Box<str>,
    account: ClientLookups,
    at: Stage,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    InLine,
    UnderWay,
    /// Under way for long, or without askers.
    Left,
}

impl Threads {
    /// No threads yet. Each calls `work` with one name after the other.
    pub(super) fn new(limits: ThreadLimits, work: Work) -> Self {
        let state = State {
            line: LookupLine::new(limits.queued),
            ready: VecDeque::new(),
            lookups: HashMap::new(),
            next: 0,
            wanted: Shares::new(limits.most, limits.each),
            left: Shares::new(limits.left, limits.each),
            begun: VecDeque::new(),
            started: 0,
            alive: 0,
            over: false,
        };
        let (state, more) = (Mutex::new(state), Condvar::new());
        Self { crew: Arc::new(Crew { limits, work, state, more }) }
    }

    /// Queues a lookup of a name for `client`, to begin at once or when its turn comes. `None` if too many
    /// wait. Call [`see_to_threads`](Self::see_to_threads) next.
    pub(super) fn queue(&self, name: &str, client: IpAddr, now: Instant) -> Option<Ticket> {
        let account = ClientLookups::new(client, name);
        let mut state = self.crew.state.lock();
        let ticket = state.next;
        // No name overtakes those that wait on the same account.
        let at = if !state.line.has(&account) && state.wanted.admit(&account) {
            state.begin(&account, ticket, now);
            Stage::UnderWay
        } else if state.line.push(&account, ticket) {
            Stage::InLine
        } else {
            return None;
        };
        state.next += 1;
        state.lookups.insert(ticket, Lookup { name: name.into(), account, at });
        state.pass_slow_ones(now);
        state.next_ones(now);
        Some(ticket)
    }

    /// Makes slow lookups count less, so that others begin.
    pub(super) fn pass_slow_ones(&self, now: Instant) {
        let mut state = self.crew.state.lock();
        state.pass_slow_ones(now);
        state.next_ones(now);
        self.crew.see_to_threads(&mut state);
    }

    /// Handles a lookup whose askers have all gone, `surely` or perhaps. `true` if the lookup had not begun
    /// and never will. Call [`see_to_threads`](Self::see_to_threads) next.
    pub(super) fn leave(&self, ticket: Ticket, surely: bool) -> bool {
        let mut state = self.crew.state.lock();
        let state = &mut *state;
        let Some(lookup) = state.lookups.get_mut(&ticket) else { return false };
        match lookup.at {
            Stage::InLine if surely => {
                state.line.remove(&lookup.account, &ticket);
                state.lookups.remove(&ticket);
                return true;
            }
            Stage::UnderWay if state.left.admit(&lookup.account) => {
                lookup.at = Stage::Left;
                state.wanted.give_back(&lookup.account);
                state.left.take(&lookup.account);
                // When many askers go at once, each would otherwise begin a lookup whose asker is about to
                // leave. Lookups held back by this begin when slow lookups are passed next.
                state.next_ones_beside(Instant::now());
            }
            Stage::InLine | Stage::UnderWay | Stage::Left => {}
        }
        false
    }

    /// Makes sure that there is a thread for each name that may be looked up now.
    pub(super) fn see_to_threads(&self) {
        self.crew.see_to_threads(&mut self.crew.state.lock());
    }

    /// How many threads there are now.
    pub(super) fn alive(&self) -> usize {
        self.crew.state.lock().alive
    }

    /// Whether every thread has work and no name waits.
    #[cfg(test)]
    pub(super) fn crew_is_busy(&self) -> bool {
        let state = self.crew.state.lock();
        state.ready.is_empty() && state.line.len() == 0 && state.threads_needed() == state.alive
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.crew.state.lock().over = true;
        self.crew.more.notify_all();
    }
}

impl State {
    /// Counts a lookup and makes it ready for a thread.
    fn begin(&mut self, account: &ClientLookups, ticket: Ticket, now: Instant) {
        self.wanted.take(account);
        self.ready.push_back(ticket);
        self.begun.push_back((now, ticket));
    }

    /// Begins the lookups in line for which there is room now.
    fn next_ones(&mut self, now: Instant) {
        while let Some((account, ticket)) = self.line.pop(&self.wanted, None) {
            self.goes_on(&account, ticket, now);
        }
    }

    /// The same, if lookups without askers and slow ones counted in full.
    fn next_ones_beside(&mut self, now: Instant) {
        while let Some((account, ticket)) = self.line.pop(&self.wanted, Some(&self.left)) {
            self.goes_on(&account, ticket, now);
        }
    }

    fn goes_on(&mut self, account: &ClientLookups, ticket: Ticket, now: Instant) {
        if let Some(lookup) = self.lookups.get_mut(&ticket) {
            lookup.at = Stage::UnderWay;
        }
        self.begin(account, ticket, now);
    }

    fn pass_slow_ones(&mut self, now: Instant) {
        for _ in 0..self.begun.len() {
            let Some(&(since, ticket)) = self.begun.front() else { return };
            let in_full = self.lookups.get_mut(&ticket).filter(|one| one.at == Stage::UnderWay);
            if in_full.is_some() && now.saturating_duration_since(since) < SLOW {
                return;
            }
            self.begun.pop_front();
            match in_full {
                Some(lookup) if self.left.admit(&lookup.account) => {
                    lookup.at = Stage::Left;
                    self.wanted.give_back(&lookup.account);
                    self.left.take(&lookup.account);
                }
                // Its turn comes again.
                Some(_) => self.begun.push_back((now, ticket)),
                None => {}
            }
        }
    }

    /// Ends a lookup.
    fn end(&mut self, ticket: Ticket) {
        let Some(Lookup { account, at, .. }) = self.lookups.remove(&ticket) else { return };
        match at {
            Stage::Left => self.left.give_back(&account),
            Stage::UnderWay | Stage::InLine => self.wanted.give_back(&account),
        }
        self.next_ones(Instant::now());
    }

    fn threads_needed(&self) -> usize {
        self.wanted.total() + self.left.total()
    }
}

impl Crew {
    /// Makes sure that there is a thread for each ready name.
    fn see_to_threads(self: &Arc<Self>, state: &mut State) {
        while state.alive < state.threads_needed() {
            let steady = state.alive < self.limits.steady;
            let working = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name(format!("resolver-{}", state.started))
                .stack_size(256 * 1024)
                .spawn(move || working.work(steady));
            match spawned {
                Ok(_) => {
                    state.started += 1;
                    state.alive += 1;
                }
                // The running threads get to it, or the asker's deadline ends the wait.
                Err(e) => {
                    log::warn!("cannot start another resolver thread: {e}");
                    break;
                }
            }
        }
        for _ in 0..state.ready.len() {
            self.more.notify_one();
        }
    }

    fn work(self: &Arc<Self>, steady: bool) {
        while let Some((ticket, name)) = self.next(steady) {
            // Without this, a thread that ended by a panic would be counted as alive for good.
            if catch_unwind(AssertUnwindSafe(|| (self.work)(&name))).is_err() {
                log::error!("answering a lookup of {name} panicked");
            }
            let mut state = self.state.lock();
            state.end(ticket);
            self.see_to_threads(&mut state);
        }
    }

    /// A name to look up, once there is one; `None` when there is no more work for this thread.
    fn next(&self, steady: bool) -> Option<(Ticket, Box<str>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(ticket) = state.ready.pop_front()
                && let Some(lookup) = state.lookups.get(&ticket)
            {
                return Some((ticket, lookup.name.clone()));
            }
            let mut timed_out = false;
            if !state.over && steady {
                self.more.wait(&mut state);
            } else if !state.over {
                timed_out = self.more.wait_for(&mut state, self.limits.linger).timed_out();
            }
            if state.over || (timed_out && state.ready.is_empty()) {
                state.alive -= 1;
                return None;
            }
        }
    }
}
