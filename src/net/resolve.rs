//! Looks names up on threads of their own, because `getaddrinfo` blocks as long as it likes, and
//! caches the answers.
//!
//! A session never moves to a resolver thread. It asks, parks, and is woken when its question is
//! answered; its own deadline answers the client if that takes too long. Lookups of one name are
//! merged into one question, whatever the number of askers. `getaddrinfo` tells no time to live, so
//! answers are kept for a fixed while, failures for a shorter one.

mod shares;
mod threads;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::address_order::{Families, alternate};
use super::given_names::{GivenName, GivenNames};
use super::hosts::{MOST_ADDRESSES, WrongHosts};
use super::poll::Owner;
use super::shared_question::{self, Question};
use super::timers::LONGEST;

use threads::{ThreadLimits, Threads, Ticket};

/// How a name becomes addresses. Called on a resolver thread; may block.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of `host`, best first. Of more than 64 the first count.
    ///
    /// # Errors
    ///
    /// What is to be said to the client when there are none.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver: hosts file, DNS, whatever `nsswitch.conf` says. A resolver of your own may
/// fall back on it:
///
/// ```
/// use std::{io, net::IpAddr};
/// use threadgate::{Resolve, SystemResolver};
///
/// #[derive(Debug)]
/// struct Staging;
///
/// impl Resolve for Staging {
///     fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
///         match host {
///             "shop.example" => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
///             other => SystemResolver.resolve(other),
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Resolve for System {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for found in (host, 0).to_socket_addrs()? {
            if !addresses.contains(&found.ip()) {
                addresses.push(found.ip());
            }
        }
        Ok(addresses)
    }
}

/// What is known about names beforehand, and how long what is learned is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameOptions {
    /// How long the addresses of a name are used; a failure for as long, but 5 s at most. Zero keeps
    /// nothing; lookups of one name that are under way at the same time are still merged.
    pub ttl: Duration,
    /// Names with given addresses, those of one name in the order of trying.
    pub given: Vec<GivenName>,
    /// Files in the format of hosts(5), asked after `given` and before the resolver.
    pub hosts_files: Vec<PathBuf>,
}

impl Default for NameOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), given: Vec::new(), hosts_files: Vec::new() }
    }
}

/// What a lookup found; `None` if the name has no address, or nobody could tell.
pub type LookupAnswer = Option<Arc<[IpAddr]>>;

/// What can be said about a name at once.
#[derive(Debug)]
pub enum Lookup {
    /// Its addresses are given by an option or a file.
    Given(Arc<[IpAddr]>),
    /// The answer is not too old yet.
    Known(LookupAnswer),
    /// It is being looked up: the asker is woken.
    Asked(AwaitedLookup),
    /// Too many lookups are under way.
    Refused,
}

/// How long a failure is believed at most.
const MOST_KEPT_FAILED: Duration = Duration::from_secs(5);
/// Names kept; beyond it the oldest quarter goes.
const MOST_NAMES: usize = 4096;

enum Name {
    Asked(Arc<Question<LookupAnswer>>, Ticket),
    Known { answer: LookupAnswer, until: Instant },
}

/// A place among those who wait for one name. When the last of them drops theirs, a lookup that waits
/// is not begun, and one that is under way does not count any more.
pub struct AwaitedLookup {
    place: Option<shared_question::QuestionPlace<LookupAnswer>>,
    name: Box<str>,
    ticket: Ticket,
    core: Weak<Core>,
}

impl AwaitedLookup {
    /// The answer, once there is one.
    pub fn answer(&self) -> Option<LookupAnswer> {
        self.place.as_ref().and_then(shared_question::QuestionPlace::answer)
    }

    /// The asker may have gone. It is told of the answer all the same, but a lookup under way that
    /// nobody else waits for counts no more.
    pub fn recede(&mut self) {
        if self.place.as_mut().is_some_and(shared_question::QuestionPlace::recede)
            && let Some(core) = self.core.upgrade()
        {
            core.leave(&self.name, self.ticket);
        }
    }
}

impl Drop for AwaitedLookup {
    fn drop(&mut self) {
        if self.answer().is_some() {
            return;
        }
        self.place = None;
        if let Some(core) = self.core.upgrade() {
            core.leave(&self.name, self.ticket);
        }
    }
}

impl fmt::Debug for AwaitedLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asked({})", self.name)
    }
}

/// What the threads need, too.
struct Shared {
    how: Arc<dyn Resolve>,
    ttl: Duration,
    names: Mutex<HashMap<Box<str>, Name>>,
}

/// Names given, names known, and the threads that look up the others. Dropping it lets the threads
/// end; none is waited for, since one may hang in `getaddrinfo`.
pub struct Resolver {
    given: GivenNames,
    families: Families,
    core: Arc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    threads: Threads,
}

impl Resolver {
    /// A resolver without a thread: the first lookup starts one. Reads the hosts files.
    ///
    /// # Errors
    ///
    /// What is wrong with a hosts file.
    pub fn new(how: Arc<dyn Resolve>, options: NameOptions) -> Result<Self, WrongHosts> {
        Self::with_limits(how, options, ThreadLimits::default())
    }

    fn with_limits(
        how: Arc<dyn Resolve>,
        options: NameOptions,
        limits: ThreadLimits,
    ) -> Result<Self, WrongHosts> {
        let given = GivenNames::new(&options.given, options.hosts_files)?;
        let ttl = options.ttl.min(LONGEST);
        let shared = Arc::new(Shared { how, ttl, names: Mutex::default() });
        let answering = Arc::clone(&shared);
        let threads = Threads::new(limits, Arc::new(move |host: &str| answering.answer(host)));
        let core = Arc::new(Core { shared, threads });
        Ok(Self { given, families: Families::default(), core })
    }

    /// The names with given addresses.
    pub fn given(&self) -> &GivenNames {
        &self.given
    }

    /// Looks up `host`, which is in lower case, for `client`: no client, and no domain, takes all
    /// threads. On [`Lookup::Asked`] the owner gets an edge when there is an answer.
    pub fn lookup(
        &self,
        host: &str,
        port: u16,
        client: IpAddr,
        now: Instant,
        asker: &Owner,
    ) -> Lookup {
        if let Some(ips) = self.given.find(host, port) {
            return Lookup::Given(ips);
        }
        let asked = |question: &Arc<Question<LookupAnswer>>, ticket| AwaitedLookup {
            place: Some(question.join(asker.clone())),
            name: host.into(),
            ticket,
            core: Arc::downgrade(&self.core),
        };
        let mut names = self.core.shared.names.lock();
        match names.get(host) {
            Some(Name::Known { answer, until }) if *until > now => {
                return Lookup::Known(answer.clone());
            }
            Some(Name::Asked(question, ticket)) => return Lookup::Asked(asked(question, *ticket)),
            _ => {}
        }
        if names.len() >= MOST_NAMES {
            make_room(&mut names, now);
        }
        let Some(ticket) = self.core.threads.queue(host, client, now) else {
            return Lookup::Refused;
        };
        let question = Arc::new(Question::default());
        let asked = asked(&question, ticket);
        names.insert(host.into(), Name::Asked(question, ticket));
        drop(names);
        self.core.threads.see_to_threads();
        Lookup::Asked(asked)
    }

    /// Lookups that are slow by now count less against others. For whoever waits, now and then.
    pub fn pass_slow_ones(&self, now: Instant) {
        self.core.threads.pass_slow_ones(now);
    }

    /// A name's addresses in the order of trying: the family that answered last time first.
    pub fn order(&self, host: &str, ips: Arc<[IpAddr]>, now: Instant) -> Arc<[IpAddr]> {
        self.families.order(host, ips, now)
    }

    /// Of `ips`, in the order of trying, `answered` did. Of given addresses nothing is noted: they are
    /// tried in the order in which they were given.
    pub fn note(&self, host: &str, port: u16, ips: &[IpAddr], answered: IpAddr, now: Instant) {
        if self.given.find(host, port).is_none() {
            self.families.note(host, ips, answered, now);
        }
    }

    /// Resolver threads there are now.
    pub fn threads(&self) -> usize {
        self.core.threads.alive()
    }

    /// Names being looked up now.
    pub fn pending(&self) -> usize {
        let names = self.core.shared.names.lock();
        names.values().filter(|name| matches!(name, Name::Asked(..))).count()
    }
}

/// Drops what has expired, and if that is not much, the quarter that would expire first: each answer
/// can be asked for again. Names being looked up stay; their number is bounded elsewhere.
fn make_room(names: &mut HashMap<Box<str>, Name>, now: Instant) {
    names.retain(|_, name| !matches!(name, Name::Known { until, .. } if *until <= now));
    if names.len() <= MOST_NAMES / 4 * 3 {
        return;
    }
    let mut moments: Vec<Instant> = names
        .values()
        .filter_map(|name| match name {
            Name::Known { until, .. } => Some(*until),
            Name::Asked(..) => None,
        })
        .collect();
    let quarter = (MOST_NAMES / 4).min(moments.len().saturating_sub(1));
    if !moments.is_empty() {
        let (_, &mut last, _) = moments.select_nth_unstable(quarter);
        names.retain(|_, name| !matches!(name, Name::Known { until, .. } if *until <= last));
    }
}

impl Core {
    /// An asker has gone: perhaps it was the last.
    fn leave(&self, host: &str, ticket: Ticket) {
        let mut names = self.shared.names.lock();
        let surely = match names.get(host) {
            Some(Name::Asked(question, asked))
                if *asked == ticket && !question.is_surely_awaited() =>
            {
                !question.is_awaited()
            }
            _ => return,
        };
        // While nobody can join it: who did would never be told.
        let removed = if self.threads.leave(ticket, surely) { names.remove(host) } else { None };
        drop(names);
        drop(removed);
        self.threads.see_to_threads();
    }
}

impl Shared {
    /// Answers the question about `host`, on a resolver thread. A panic is no answer: whoever waits
    /// is told that, and the next to ask asks anew.
    fn answer(&self, host: &str) {
        let trying = AssertUnwindSafe(|| self.try_to_answer(host));
        // What it panicked with drops last: that may panic, too.
        if let Err(_panic) = catch_unwind(trying) {
            log::error!("the resolver panicked on {host}");
            let left = {
                let mut names = self.names.lock();
                match names.get(host) {
                    Some(Name::Asked(..)) => names.remove(host),
                    _ => None,
                }
            };
            if let Some(Name::Asked(question, _)) = left {
                question.answer(None);
            }
        }
    }

    fn try_to_answer(&self, host: &str) {
        {
            let mut names = self.names.lock();
            let Some(Name::Asked(question, _)) = names.get(host) else { return };
            if !question.is_awaited() {
                names.remove(host);
                return;
            }
        }
        let answer = self.find(host);
        let keep = if answer.is_some() { self.ttl } else { self.ttl.min(MOST_KEPT_FAILED) };
        let before = {
            let mut names = self.names.lock();
            if keep.is_zero() {
                names.remove(host)
            } else {
                let known = Name::Known { answer: answer.clone(), until: Instant::now() + keep };
                names.insert(host.into(), known)
            }
        };
        // Whoever still finds the question in the table has joined it by now.
        if let Some(Name::Asked(question, _)) = before {
            question.answer(answer);
        }
    }

    fn find(&self, host: &str) -> LookupAnswer {
        match self.how.resolve(host) {
            Ok(mut ips) if !ips.is_empty() => {
                ips = alternate(&ips);
                ips.truncate(MOST_ADDRESSES);
                Some(ips.into())
            }
            Ok(_) => None,
            Err(e) => {
                log::debug!("lookup of {host}: {e}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
