//! Verifies passwords against hashes on separate threads, because one hash takes a good part of a
//! second.
//!
//! A session never moves to these threads. It asks, parks, and is woken when the hash is computed, as
//! with the addresses of a name. Sessions that ask for the same credentials at the same time share one
//! answer. There are at most two threads, started when they are first needed. Each client has a line of
//! its own in front of them (`fair_queue`), so that a client with many requests does not delay the
//! others. Nothing waits for the threads to end: they end with the process.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::net::poll::Owner;
use crate::net::shared_question::{self, Question};
use crate::policy::auth::Auth;
use crate::policy::auth::guessers::{Failures, Guessing};
use crate::policy::auth::token_tag::Tag;
use crate::policy::limits::client_key;
use crate::wire::credentials::UserPass;

use super::fair_queue::FairQueue;

/// The most threads there may be: they take their time from the workers.
const MOST_THREADS: usize = 2;
/// The niceness of these threads, as in nice(1).
const NICE: i32 = 10;

/// The passwords to verify, and the threads that do it.
pub struct Verifier {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    started: usize,
    most: usize,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// Signals one more job, or the end.
    more: Condvar,
}

#[derive(Default)]
struct Table {
    /// Waiting or running verifications, keyed by the number of the users they are made for.
    questions: HashMap<(u64, Tag), Arc<Verification>>,
    lines: FairQueue<Job>,
    /// Threads that wait for a job.
    idle: usize,
    over: bool,
}

struct Job {
    auth: Arc<Auth>,
    claim: Claim,
    question: Arc<Verification>,
}

/// Credentials as a client sent them.
pub struct Claim {
    /// Stands for the credentials.
    pub tag: Tag,
    /// The user and password in them.
    pub read: UserPass,
    /// The client that sent them.
    pub client: IpAddr,
    /// When their request began.
    pub begun: Instant,
    /// The request has waited for as long as one of a guessing client must, or need not wait.
    pub has_waited: bool,
    /// The record of clients that guess.
    pub failures: Arc<Failures>,
}

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verified {
    /// Not verified: the client has guessed meanwhile, and has to wait first.
    Early,
    /// The credentials are nobody's.
    Nobody,
    /// The credentials are this user's.
    User(u32),
}

type Verification = Question<Verified>;

/// A place among the sessions that wait for the same credentials. A verification for which nobody waits
/// any more is not computed.
#[derive(Debug)]
pub struct AwaitedProof {
    place: shared_question::QuestionPlace<Verified>,
    is_first: bool,
}

impl AwaitedProof {
    /// The answer, once there is one.
    pub fn answer(&self) -> Option<Verified> {
        self.place.answer()
    }

    /// Whether nobody had asked the same before. The thread that computes the answer then counts a wrong
    /// one, so that a client cannot guess for free by leaving early.
    pub fn is_first(&self) -> bool {
        self.is_first
    }
}

/// Counts wrong credentials, and logs a client that guesses.
pub(super) fn note_wrong(
    failures: &Failures,
    client: IpAddr,
    tag: Tag,
    begun: Instant,
    now: Instant,
) {
    if let Some(Guessing(count)) = failures.wrong(client, tag, begun, now) {
        log::warn!(
            "{client} has sent {count} wrong credentials; its next ones are checked after a delay"
        );
    }
}

impl Default for Verifier {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads { started: 0, most: processors.min(MOST_THREADS) };
        Self { shared: Arc::default(), threads: Mutex::new(threads) }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.shared.table.lock().over = true;
        self.shared.more.notify_all();
    }
}

impl Verifier {
    /// Has credentials verified, or joins the sessions that wait for the same. The owner gets an edge
    /// when that is done, and the outcome is remembered. `None` if too many verifications wait, of this
    /// client or of all.
    pub fn ask(&self, auth: &Arc<Auth>, claim: Claim, asker: &Owner) -> Option<AwaitedProof> {
        let asked = self.shared.ask(auth, claim, asker)?;
        if asked.is_first {
            self.shared.more.notify_one();
            self.see_to_one();
        }
        Some(asked)
    }

    /// How many threads there are.
    #[cfg(feature = "internals")]
    pub fn threads(&self) -> usize {
        self.threads.lock().started
    }

    /// Starts a thread for the job just queued, if it is needed and allowed.
    fn see_to_one(&self) {
        let mut threads = self.threads.lock();
        let (idle, waiting) = {
            let table = self.shared.table.lock();
            (table.idle, table.lines.len())
        };
        if threads.started >= threads.most || (threads.started > 0 && idle >= waiting.max(1)) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name(format!("auth-{}", threads.started))
            .spawn(move || shared.work());
        match spawned {
            Ok(_) => threads.started += 1,
            // The running threads get to the job, or the asker's deadline passes.
            Err(e) => log::warn!("cannot start a thread for passwords: {e}"),
        }
    }
}

impl Shared {
    fn ask(&self, auth: &Arc<Auth>, claim: Claim, asker: &Owner) -> Option<AwaitedProof> {
        let key = (auth.number(), claim.tag);
        let mut table = self.table.lock();
        if let Some(question) = table.questions.get(&key) {
            return Some(AwaitedProof { place: question.join(asker.clone()), is_first: false });
        }
        let question = Arc::new(Verification::default());
        let place = question.join(asker.clone());
        let client = client_key(claim.client);
        let job = Job { auth: Arc::clone(auth), claim, question: Arc::clone(&question) };
        let refused = table.lines.push(client, job).err();
        if refused.is_none() {
            table.questions.insert(key, question);
        }
        drop(table);
        refused.is_none().then_some(AwaitedProof { place, is_first: true })
    }

    /// Runs until the verifier is dropped.
    fn work(&self) {
        // On Linux this applies to the thread alone. If it is not permitted, only the priority is lost.
        let _ = rustix::process::setpriority_process(None, NICE);
        while let Some(job) = self.next() {
            // A panic proves nothing, and does not end the thread.
            let found = catch_unwind(AssertUnwindSafe(|| verify(&job))).unwrap_or_else(|_| {
                log::error!("verifying a password panicked");
                Verified::Nobody
            });
            self.table.lock().questions.remove(&job.key());
            // No session can join the question any more, as it is out of the table.
            job.question.answer(found);
        }
    }

    /// The next job, once there is one; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut table = self.table.lock();
        loop {
            if table.over {
                return None;
            }
            while let Some(job) = table.lines.pop() {
                if job.question.is_awaited() {
                    return Some(job);
                }
                // Removed while the table is locked: a session that joined it would never be told.
                table.questions.remove(&job.key());
            }
            table.idle += 1;
            self.more.wait(&mut table);
            table.idle -= 1;
        }
    }
}

impl Job {
    fn key(&self) -> (u64, Tag) {
        (self.auth.number(), self.claim.tag)
    }
}

/// Computes the hash, unless the client has shown meanwhile that it guesses.
fn verify(job: &Job) -> Verified {
    let Job { auth, claim, .. } = job;
    let Claim { tag, client, begun, ref failures, .. } = *claim;
    if !claim.has_waited && failures.would_wait(client, tag, Instant::now()) {
        return Verified::Early;
    }
    let found = auth.verify(&claim.read);
    let now = Instant::now();
    auth.learn(tag, found, now);
    match found {
        Some(user) => Verified::User(user),
        None => {
            note_wrong(failures, client, tag, begun, now);
            Verified::Nobody
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poll::{Edge, Wake};
    use crate::policy::auth::Secret;
    use crate::policy::auth::password_hash::Hash;
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

    /// A claim of this client, with this password.
    fn claim(auth: &Auth, failures: &Arc<Failures>, client: [u8; 4], password: &str) -> Claim {
        let token = credentials::encode("alice", password);
        Claim {
            tag: auth.tag(token.as_bytes()),
            read: credentials::decode(token.as_bytes()).unwrap(),
            client: client.into(),
            begun: Instant::now(),
            has_waited: false,
            failures: Arc::clone(failures),
        }
    }

    const HERE: [u8; 4] = [192, 0, 2, 1];
    const THERE: [u8; 4] = [192, 0, 2, 2];

    /// Does a thread's work for the next job, and returns the outcome.
    fn work_once(shared: &Shared) -> Verified {
        let job = shared.next().unwrap();
        let found = verify(&job);
        shared.table.lock().questions.remove(&job.key());
        job.question.answer(found);
        found
    }

    #[test]
    fn nobody_can_join_what_is_not_computed() {
        let (shared, auth, failures) = (Shared::default(), users(), Arc::default());
        let ask = |password| shared.ask(&auth, claim(&auth, &failures, HERE, password), &owner());
        drop(ask("left").unwrap());
        let stays = ask("secret").unwrap();
        let joined = ask("secret").unwrap();
        assert!(stays.is_first() && !joined.is_first());
        assert_eq!(work_once(&shared), Verified::User(0));
        assert_eq!([stays.answer(), joined.answer()], [Some(Verified::User(0)); 2]);
        assert_eq!(shared.table.lock().questions.len(), 0);
        assert!(ask("left").unwrap().is_first(), "who comes now asks anew");
    }

    #[test]
    fn guesses_count_also_when_nobody_waits_for_the_answer() {
        let (shared, auth, failures) = (Shared::default(), users(), Arc::<Failures>::default());
        for n in 0..5 {
            let guess = claim(&auth, &failures, HERE, &n.to_string());
            let asked = shared.ask(&auth, guess, &owner()).unwrap();
            let job = shared.next().unwrap();
            drop(asked);
            assert_eq!(verify(&job), Verified::Nobody);
        }
        let right = claim(&auth, &failures, HERE, "secret");
        assert!(failures.would_wait(right.client, right.tag, Instant::now()));
    }

    #[test]
    fn what_a_client_has_in_line_when_it_is_seen_to_guess_is_not_computed_yet() {
        let (shared, auth, failures) = (Shared::default(), users(), Arc::<Failures>::default());
        let ask = |client, password: &str, has_waited| {
            let claim = Claim { has_waited, ..claim(&auth, &failures, client, password) };
            shared.ask(&auth, claim, &owner()).unwrap()
        };
        let guesses: Vec<AwaitedProof> =
            (0..64).map(|n| ask(HERE, &n.to_string(), false)).collect();
        let waited = ask(HERE, "waited", true);
        let other = ask(THERE, "secret", false);
        // The second turn is the other client's, however many jobs of the first wait.
        assert_eq!([work_once(&shared), work_once(&shared)], [Verified::Nobody, Verified::User(0)]);
        assert_eq!(other.answer(), Some(Verified::User(0)));
        let rest: Vec<Verified> = (0..64).map(|_| work_once(&shared)).collect();
        assert_eq!(rest[..4], [Verified::Nobody; 4]);
        assert_eq!(rest[4..63], [Verified::Early; 59]);
        assert_eq!((rest[63], waited.answer()), (Verified::Nobody, Some(Verified::Nobody)));
        assert_eq!(guesses.last().unwrap().answer(), Some(Verified::Early));
    }
}
