//! Names to addresses, on threads of their own: `getaddrinfo` blocks for as long as it likes.
//!
//! A session never moves to a resolver thread. It asks, parks, and is woken when the answer stands
//! in the cache; its own deadline answers the client if that takes too long. Lookups of one name
//! are merged. `getaddrinfo` tells no time to live, so answers are kept for a fixed while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use parking_lot::Mutex;

use super::poll::{Edge, Owner};

/// How a name becomes addresses. Called on a resolver thread; may block.
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, best first.
    ///
    /// # Errors
    ///
    /// What is to be said to the client when there are none.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver: hosts file, DNS, whatever `nsswitch.conf` says.
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

/// The answer to a lookup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// At least one address.
    Found(Arc<[IpAddr]>),
    /// The name has no address, or nobody could tell.
    Failed,
    /// Being looked up: the asker is woken.
    Pending,
    /// Too many lookups are under way.
    Refused,
}

/// How long an answer is used.
const KEEP_FOUND: Duration = Duration::from_secs(30);
/// How long a failure is believed.
const KEEP_FAILED: Duration = Duration::from_secs(5);
/// Names kept; beyond it old answers go first.
const MAX_NAMES: usize = 4096;
/// Lookups that may wait for a thread.
const MAX_QUEUED: usize = 1024;
/// Threads that stay once started.
const STEADY_THREADS: usize = 4;
/// Threads at most, while all the others hang in `getaddrinfo`.
const MAX_THREADS: usize = 32;
/// How long a thread beyond the steady ones waits for work before it ends.
const LINGER: Duration = Duration::from_secs(10);

enum Name {
    Pending(Vec<Owner>),
    Known { answer: Option<Arc<[IpAddr]>>, until: Instant },
}

struct Threads {
    started: usize,
    alive: usize,
    /// Threads that wait for work, less the work already queued for them.
    free: isize,
}

struct Shared {
    how: Arc<dyn Resolve>,
    names: Mutex<HashMap<Box<str>, Name>>,
    threads: Mutex<Threads>,
    work: Receiver<Box<str>>,
}

/// The cache and its threads. Dropping it lets the threads end; none is waited for, since one may
/// hang in `getaddrinfo`.
pub struct Resolver {
    shared: Arc<Shared>,
    queue: Sender<Box<str>>,
}

impl Resolver {
    /// A resolver without a thread: the first lookup starts one.
    pub fn new(how: Arc<dyn Resolve>) -> Self {
        let (queue, work) = crossbeam_channel::bounded(MAX_QUEUED);
        let threads = Mutex::new(Threads { started: 0, alive: 0, free: 0 });
        Self { shared: Arc::new(Shared { how, names: Mutex::default(), threads, work }), queue }
    }

    /// Looks `host` up. On [`Lookup::Pending`] the owner gets an edge when asking again will give
    /// an answer.
    pub fn lookup(&self, host: &str, now: Instant, asker: &Owner) -> Lookup {
        let mut names = self.shared.names.lock();
        match names.get_mut(host) {
            Some(Name::Known { answer, until }) if *until > now => {
                return answer.clone().map_or(Lookup::Failed, Lookup::Found);
            }
            Some(Name::Pending(askers)) => {
                if !askers.iter().any(|a| same(a, asker)) {
                    askers.push(asker.clone());
                }
                return Lookup::Pending;
            }
            _ => {}
        }
        if names.len() >= MAX_NAMES {
            make_room(&mut names, now);
        }
        match self.queue.try_send(host.into()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Lookup::Refused,
        }
        names.insert(host.into(), Name::Pending(vec![asker.clone()]));
        drop(names);
        self.shared.see_to_a_thread();
        Lookup::Pending
    }

    /// The asker no longer waits for `host`.
    pub fn forget(&self, host: &str, asker: &Owner) {
        if let Some(Name::Pending(askers)) = self.shared.names.lock().get_mut(host) {
            askers.retain(|a| !same(a, asker));
        }
    }
}

fn same(a: &Owner, b: &Owner) -> bool {
    Arc::ptr_eq(&a.who, &b.who)
}

/// Drops what has expired, and if nothing has, every answer: they can be asked for again.
fn make_room(names: &mut HashMap<Box<str>, Name>, now: Instant) {
    names.retain(|_, name| !matches!(name, Name::Known { until, .. } if *until <= now));
    if names.len() >= MAX_NAMES {
        names.retain(|_, name| matches!(name, Name::Pending(_)));
    }
}

impl Shared {
    fn see_to_a_thread(self: &Arc<Self>) {
        let mut threads = self.threads.lock();
        threads.free -= 1;
        if threads.free >= 0 || threads.alive >= MAX_THREADS {
            return;
        }
        let steady = threads.alive < STEADY_THREADS;
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name(format!("resolver-{}", threads.started))
            .stack_size(256 * 1024)
            .spawn(move || shared.work(steady));
        match spawned {
            Ok(_) => {
                threads.started += 1;
                threads.alive += 1;
                threads.free += 1;
            }
            // Those already running get to it, or the asker's deadline does.
            Err(e) => log::warn!("cannot start another resolver thread: {e}"),
        }
    }

    fn work(&self, steady: bool) {
        loop {
            let host = if steady {
                self.work.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.work.recv_timeout(LINGER)
            };
            match host {
                Ok(host) => self.answer(&host),
                Err(e) => {
                    let mut threads = self.threads.lock();
                    // Work queued since is for this thread: it was counted as free.
                    if e == RecvTimeoutError::Timeout && !self.work.is_empty() {
                        continue;
                    }
                    threads.alive -= 1;
                    threads.free -= 1;
                    return;
                }
            }
            self.threads.lock().free += 1;
        }
    }

    fn answer(&self, host: &str) {
        let how = Arc::clone(&self.how);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| how.resolve(host)));
        let answer = match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => Some(Arc::from(addresses)),
            Ok(Ok(_)) => None,
            Ok(Err(e)) => {
                log::debug!("lookup of {host}: {e}");
                None
            }
            Err(_) => {
                log::error!("the resolver panicked on {host}");
                None
            }
        };
        let keep = if answer.is_some() { KEEP_FOUND } else { KEEP_FAILED };
        let known = Name::Known { answer, until: Instant::now() + keep };
        let before = self.names.lock().insert(host.into(), known);
        if let Some(Name::Pending(askers)) = before {
            for Owner { who, tag } in askers {
                // A hint like any edge: the asker may have given up and gone.
                let _ = who.wake(tag, Edge::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::net::poll::Wake;

    struct Asker(Sender<u32>);

    impl Wake for Asker {
        fn wake(&self, tag: u32, _: Edge) -> bool {
            self.0.send(tag).is_ok()
        }
    }

    struct Scripted(AtomicUsize, Receiver<io::Result<Vec<IpAddr>>>);

    impl Resolve for Scripted {
        fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.recv_timeout(Duration::from_secs(5)).unwrap()
        }
    }

    const WAIT: Duration = Duration::from_secs(5);

    #[test]
    fn lookups_of_one_name_are_merged_and_kept_for_a_while() {
        let (answers, script) = unbounded();
        let how = Arc::new(Scripted(AtomicUsize::new(0), script));
        let resolver = Resolver::new(how.clone());
        let (told, tells) = unbounded();
        let asker = |tag| Owner { who: Arc::new(Asker(told.clone())), tag };
        let now = Instant::now();

        assert_eq!(resolver.lookup("a.example", now, &asker(1)), Lookup::Pending);
        assert_eq!(resolver.lookup("a.example", now, &asker(2)), Lookup::Pending);
        let gone = asker(3);
        assert_eq!(resolver.lookup("a.example", now, &gone), Lookup::Pending);
        resolver.forget("a.example", &gone);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        answers.send(Ok(vec![address])).unwrap();
        let mut woken = [tells.recv_timeout(WAIT).unwrap(), tells.recv_timeout(WAIT).unwrap()];
        woken.sort_unstable();
        assert_eq!(woken, [1, 2]);
        assert!(tells.is_empty());
        let found = Lookup::Found(Arc::from([address]));
        assert_eq!(resolver.lookup("a.example", now, &asker(4)), found);
        assert_eq!(how.0.load(Ordering::SeqCst), 1);

        let later = now + KEEP_FOUND + WAIT;
        assert_eq!(resolver.lookup("a.example", later, &asker(5)), Lookup::Pending);
        answers.send(Err(io::ErrorKind::NotFound.into())).unwrap();
        assert_eq!(tells.recv_timeout(WAIT).unwrap(), 5);
        assert_eq!(resolver.lookup("a.example", now, &asker(6)), Lookup::Failed);
    }

    #[test]
    fn hanging_lookups_do_not_hold_up_another_name() {
        struct Hangs(Receiver<()>);
        impl Resolve for Hangs {
            fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
                if host != "quick.example" {
                    let _ = self.0.recv_timeout(WAIT);
                }
                Ok(vec![IpAddr::from([192, 0, 2, 1])])
            }
        }
        let (release, hang) = unbounded();
        let resolver = Resolver::new(Arc::new(Hangs(hang)));
        let (told, tells) = unbounded();
        let asker = |tag| Owner { who: Arc::new(Asker(told.clone())), tag };
        let now = Instant::now();
        for i in 0..MAX_THREADS as u32 - 1 {
            let name = format!("slow-{i}.example");
            assert_eq!(resolver.lookup(&name, now, &asker(i)), Lookup::Pending);
        }
        assert_eq!(resolver.lookup("quick.example", now, &asker(99)), Lookup::Pending);
        assert_eq!(tells.recv_timeout(WAIT).unwrap(), 99);
        drop(release);
    }
}
