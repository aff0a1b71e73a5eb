//! The resolver's threads: a few stay, more are started while those hang, and they end when there
//! is no work. `shares` decides who gets one.
//!
//! A lookup cannot be stopped. When everybody who asked for it has gone, or it has taken longer than
//! [`SLOW`], it does not count any more against others: another thread takes the place of the one that hangs.
//! There is a bound on those as well, shared out in the same way.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::shares::{ClientLookups, LookupLine, Shares};

/// How long a lookup counts in full: few servers that answer at all take longer.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// How many threads there are when.
pub(super) struct ThreadLimits {
    /// Threads that stay once started.
    pub(super) steady: usize,
    /// Lookups under way at most, each on a thread, while all the others hang.
    pub(super) most: usize,
    /// How many of them may be one client's in one domain.
    pub(super) each: usize,
    /// Lookups beside them that are slow, or that nobody waits for any more.
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

/// Stands for a lookup, and never for another.
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
    /// There is a name for a thread, or it is all over.
    more: Condvar,
}

struct State {
    line: LookupLine<Ticket>,
    /// Those for which there is a thread, or will be in a moment.
    ready: VecDeque<Ticket>,
    lookups: HashMap<Ticket, Lookup>,
    next: Ticket,
    /// What of the threads those take that count in full.
    wanted: Shares,
    /// The same of those that are slow, or whose askers have gone.
    left: Shares,
    /// Those that count in full and since when, in that order, and others that have ended.
    begun: VecDeque<(Instant, Ticket)>,
    started: usize,
    alive: usize,
    over: bool,
}

/// A name that was queued, until its lookup has ended.
struct Lookup {
    name: Box<str>,
    account: ClientLookups,
    at: Stage,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    InLine,
    UnderWay,
    /// Under way for long, or nobody waits for it.
    Left,
}

impl Threads {
    /// None yet. Each will call `work` with one name after the other.
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

    /// Has a name looked up for `client`, at once or when its turn comes. `None` if too many wait.
    /// Then [`see_to_threads`](Self::see_to_threads).
    pub(super) fn queue(&self, name: &str, client: IpAddr, now: Instant) -> Option<Ticket> {
        let account = ClientLookups::new(client, name);
        let mut state = self.crew.state.lock();
        let ticket = state.next;
        // Nobody overtakes those who wait on the same account.
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

    /// Has lookups that are slow by now count less, so that others begin.
    pub(super) fn pass_slow_ones(&self, now: Instant) {
        let mut state = self.crew.state.lock();
        state.pass_slow_ones(now);
        state.next_ones(now);
        self.crew.see_to_threads(&mut state);
    }

    /// Everybody who asked has gone, `surely` or perhaps. `true` if the lookup had not begun, and never
    /// will. Then [`see_to_threads`](Self::see_to_threads).
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
                // When many go at once, each would else begin another that its asker is about to leave.
                // What may wait for that begins when slow lookups are passed next.
                state.next_ones_beside(Instant::now());
            }
            Stage::InLine | Stage::UnderWay | Stage::Left => {}
        }
        false
    }

    /// Sees to it that there is a thread for each name that may be looked up now.
    pub(super) fn see_to_threads(&self) {
        self.crew.see_to_threads(&mut self.crew.state.lock());
    }

    /// Threads there are now.
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
    /// There will be a thread for it.
    fn begin(&mut self, account: &ClientLookups, ticket: Ticket, now: Instant) {
        self.wanted.take(account);
        self.ready.push_back(ticket);
        self.begun.push_back((now, ticket));
    }

    /// Those in line for which there is room now.
    fn next_ones(&mut self, now: Instant) {
        while let Some((account, ticket)) = self.line.pop(&self.wanted, None) {
            self.goes_on(&account, ticket, now);
        }
    }

    /// The same, if threads that hang in lookups that are left counted in full.
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

    /// A lookup has ended.
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
    /// Sees to it that there is a thread for each name that is ready.
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
                // Those already running get to it, or the asker's deadline does.
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
            // A thread that ended by a panic would be counted as one there is, for good.
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
