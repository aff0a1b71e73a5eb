//! Passwords against hashes, on threads of their own: computing one takes a good part of a second.
//!
//! A session never moves there. It asks, parks, and is woken when the hash is computed, as with a
//! name's addresses. Who asks for the same credentials at the same time waits for the same answer.
//! There are at most two threads, begun when they are first needed, and a bounded line before
//! them. They are never waited for: at the end of the process they end with it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::net::poll::Owner;
use crate::net::question::{self, Question};
use crate::policy::auth::Auth;
use crate::policy::auth::failures::Place;
use crate::policy::auth::tag::Tag;
use crate::wire::credentials::UserPass;

/// Threads at most: what they take is taken from the workers.
const MOST_THREADS: usize = 2;
/// Credentials that may wait for a thread.
const QUEUED: usize = 256;
/// How much other threads come first, as nice(1) has it.
const NICE: i32 = 10;

/// What there is to verify, and who does.
pub struct Verifier {
    shared: Arc<Shared>,
    queue: Sender<Job>,
    line: Receiver<Job>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    started: usize,
    most: usize,
}

#[derive(Default)]
struct Shared {
    /// Under the number of the users they are verified against.
    questions: Mutex<HashMap<(u64, Tag), Arc<Verification>>>,
    /// Threads that wait for a job.
    idle: std::sync::atomic::AtomicUsize,
}

struct Job {
    auth: Arc<Auth>,
    tag: Tag,
    read: UserPass,
    question: Arc<Verification>,
    _place: Place,
}

/// Whose the credentials are, if anybody's.
type Answer = Option<u32>;
type Verification = Question<Answer>;

/// A place among those who wait for the same credentials; what nobody waits for any more is not computed.
pub type Asked = question::Asked<Answer>;

impl Default for Verifier {
    fn default() -> Self {
        let (queue, line) = bounded(QUEUED);
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads { started: 0, most: processors.min(MOST_THREADS) };
        Self { shared: Arc::default(), queue, line, threads: Mutex::new(threads) }
    }
}

impl Verifier {
    /// Joins those who wait for the same, if there are any.
    pub fn join(&self, auth: &Auth, tag: Tag, asker: &Owner) -> Option<Asked> {
        let questions = self.shared.questions.lock();
        questions.get(&(auth.number(), tag)).map(|question| question.join(asker.clone()))
    }

    /// Has credentials verified; the owner gets an edge when that is done, and what came of it
    /// is remembered. `None` if too many wait.
    pub fn ask(
        &self,
        auth: &Arc<Auth>,
        tag: Tag,
        read: UserPass,
        place: Place,
        asker: &Owner,
    ) -> Option<Asked> {
        let mut questions = self.shared.questions.lock();
        let question = Arc::new(Verification::default());
        let asked = question.join(asker.clone());
        let job = Job {
            auth: Arc::clone(auth),
            tag,
            read,
            question: Arc::clone(&question),
            _place: place,
        };
        // One that is refused is dropped without the lock: its place has one of its own.
        let refused = match self.queue.try_send(job) {
            Ok(()) => {
                questions.insert((auth.number(), tag), question);
                None
            }
            Err(refused) => Some(refused),
        };
        drop(questions);
        if refused.is_some() {
            return None;
        }
        self.see_to_one();
        Some(asked)
    }

    /// Threads there are.
    pub fn threads(&self) -> usize {
        self.threads.lock().started
    }

    /// Sees to it that there is a thread for the job just queued, if there may be one more.
    fn see_to_one(&self) {
        let mut threads = self.threads.lock();
        let idle = self.shared.idle.load(std::sync::atomic::Ordering::SeqCst);
        if threads.started >= threads.most
            || (threads.started > 0 && idle >= self.line.len().max(1))
        {
            return;
        }
        let (shared, line) = (Arc::clone(&self.shared), self.line.clone());
        let spawned = thread::Builder::new()
            .name(format!("auth-{}", threads.started))
            .spawn(move || shared.work(&line));
        match spawned {
            Ok(_) => threads.started += 1,
            // Those already running get to it, or the asker's deadline does.
            Err(e) => log::warn!("cannot start a thread for passwords: {e}"),
        }
    }
}

impl Shared {
    /// Until the verifier is dropped.
    fn work(&self, line: &Receiver<Job>) {
        use std::sync::atomic::Ordering::SeqCst;
        // Linux has it for each thread. Not to be allowed it changes nothing but who comes first.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            self.idle.fetch_add(1, SeqCst);
            let job = line.recv();
            self.idle.fetch_sub(1, SeqCst);
            let Ok(job) = job else { return };
            // A panic is no proof, and no end of the thread.
            let found = catch_unwind(AssertUnwindSafe(|| self.verify(&job))).unwrap_or_else(|_| {
                log::error!("verifying a password panicked");
                None
            });
            let mut questions = self.questions.lock();
            let question = (job.auth.number(), job.tag);
            // It may be somebody else's by now, of the same credentials.
            if questions.get(&question).is_some_and(|asked| Arc::ptr_eq(asked, &job.question)) {
                questions.remove(&question);
            }
            drop(questions);
            // Whoever still found the question in the table has joined it by now.
            job.question.answer(found);
        }
    }

    fn verify(&self, job: &Job) -> Option<u32> {
        {
            let mut questions = self.questions.lock();
            if !job.question.is_awaited() {
                // Now, while nobody can join it: who did would be told that the credentials are wrong.
                questions.remove(&(job.auth.number(), job.tag));
                return None;
            }
        }
        let found = job.auth.verify(&job.read);
        job.auth.learn(job.tag, found, Instant::now());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poll::{Edge, Wake};
    use crate::policy::auth::Secret;
    use crate::policy::auth::failures::Failures;
    use crate::policy::auth::hash::Hash;
    use crate::wire::credentials;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self, _: u32, _: Edge) -> bool {
            true
        }
    }

    fn owner() -> Owner {
        Owner { who: Arc::new(Nobody), tag: 0 }
    }

    /// One user, whose password is `secret`.
    fn users() -> Arc<Auth> {
        let hash = bcrypt::hash_with_salt("secret", 4, [9; 16]).unwrap().to_string();
        let secret = Secret::Hashed(Hash::parse(&hash).unwrap());
        Arc::new(Auth::new([("alice".into(), secret)], "test"))
    }

    /// A job for this password, and the place of the one who asks.
    fn job(shared: &Shared, auth: &Arc<Auth>, password: &str) -> (Job, Asked) {
        let token = credentials::encode("alice", password);
        let tag = auth.tag(token.as_bytes());
        let read = credentials::decode(token.as_bytes()).unwrap();
        let question = Arc::new(Verification::default());
        let asked = question.join(owner());
        shared.questions.lock().insert((auth.number(), tag), Arc::clone(&question));
        let place = Arc::new(Failures::default()).ask([127, 0, 0, 1].into()).unwrap();
        (Job { auth: Arc::clone(auth), tag, read, question, _place: place }, asked)
    }

    #[test]
    fn nobody_can_join_what_is_not_computed() {
        let (shared, auth) = (Shared::default(), users());
        let (job, asked) = job(&shared, &auth, "secret");
        drop(asked);
        assert_eq!(shared.verify(&job), None);
        let joined = shared.questions.lock().get(&(auth.number(), job.tag)).cloned();
        assert!(joined.is_none(), "who comes now asks anew");
    }
}
