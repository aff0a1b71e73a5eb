//! Looks names up on separate threads, because `getaddrinfo` blocks for an unlimited time, and caches the
//! answers.
//!
//! A session never moves to a resolver thread. It asks, parks, and is woken when its question is answered.
//! If that takes too long, the session's own deadline ends the wait. Lookups of one name are merged into
//! one question, whatever the number of askers. `getaddrinfo` reports no time to live, so answers are kept
//! for a fixed time, and failures for a shorter one.

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
    /// The addresses of `host`, best first. Only the first 64 count.
    ///
    /// # Errors
    ///
    /// The message for the client if there are no addresses.
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

/// Names known in advance, and how long answers are kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameOptions {
    /// How long the addresses of a name are used. A failure is kept as long, but at most 5 s. Zero keeps no
    /// answers; simultaneous lookups of one name are still merged.
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

/// The result of a lookup; `None` if the name has no address, or the lookup failed.
pub type LookupAnswer = Option<Arc<[IpAddr]>>;

/// The immediate answer about a name.
#[derive(Debug)]
pub enum Lookup {
    /// Its addresses are given by an option or a file.
    Given(Arc<[IpAddr]>),
    /// The answer is in the cache.
    Known(LookupAnswer),
    /// The name is being looked up; the asker is woken.
    Asked(AwaitedLookup),
    /// Too many lookups are under way.
    Refused,
}

/// Limit on how long a failure is believed.
const MOST_KEPT_FAILED: Duration = Duration::from_secs(5);
/// Limit on the names kept; beyond it the oldest quarter goes.
const MOST_NAMES: usize = 4096;

enum Name {
    Asked(Arc<Question<LookupAnswer>>, Ticket),
    Known { answer: LookupAnswer, until: Instant },
}

/// A place among the askers for one name. When the last place drops, a waiting lookup is not begun, and one
/// under way no longer counts.
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

    /// Notes that the asker may have gone. It still gets the answer, but a lookup under way without any
    /// other asker no longer counts.
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

/// The parts that the threads need, too.
struct Shared {
    how: Arc<dyn Resolve>,
    ttl: Duration,
    names: Mutex<HashMap<Box<str>, Name>>,
}

/// Names given, names known, and the threads that look up all others. Dropping it lets the threads end,
/// without waiting for them, because one may hang in `getaddrinfo`.
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
    /// A resolver without threads: the first lookup starts one. Reads the hosts files.
    ///
    /// # Errors
    ///
    /// A hosts file has a mistake.
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

    /// Looks up `host`, which is in lower case, for `client`. No client and no domain can take all threads.
    /// On [`Lookup::Asked`] the owner gets an edge when there is an answer.
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

    /// Makes slow lookups count less against others. Waiting sessions call it now and then.
    pub fn pass_slow_ones(&self, now: Instant) {
        self.core.threads.pass_slow_ones(now);
    }

    /// A name's addresses in the order of trying: the family that answered last time first.
    pub fn order(&self, host: &str, ips: Arc<[IpAddr]>, now: Instant) -> Arc<[IpAddr]> {
        self.families.order(host, ips, now)
    }

    /// Notes that of `ips`, in the order of trying, `answered` did. Given addresses are not noted, because
    /// they are tried in the order in which they were given.
    pub fn note(&self, host: &str, port: u16, ips: &[IpAddr], answered: IpAddr, now: Instant) {
        if self.given.find(host, port).is_none() {
            self.families.note(host, ips, answered, now);
        }
    }

    /// How many resolver threads there are now.
    pub fn threads(&self) -> usize {
        self.core.threads.alive()
    }

    /// How many names are being looked up now.
    pub fn pending(&self) -> usize {
        let names = self.core.shared.names.lock();
        names.values().filter(|name| matches!(name, Name::Asked(..))).count()
    }
}

/// Drops expired answers, and if they are few, the quarter that would expire first: every answer can be
/// asked for again. Names being looked up stay; the threads limit their number.
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
    /// Handles an asker that has gone and may have been the last.
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
        // Under the lock, so that no session joins a question that would never be answered.
        let removed = if self.threads.leave(ticket, surely) { names.remove(host) } else { None };
        drop(names);
        drop(removed);
        self.threads.see_to_threads();
    }
}

impl Shared {
    /// Answers the question about `host`, on a resolver thread. After a panic the askers get no addresses,
    /// and the next asker starts a new lookup.
    fn answer(&self, host: &str) {
        let trying = AssertUnwindSafe(|| self.try_to_answer(host));
        // The value it panicked with drops last, because that may panic, too.
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
        // Every session that found the question in the table has joined it by now.
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
