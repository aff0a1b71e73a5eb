use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::threads::SLOW;
use super::*;
use crate::net::poll::Edge;
use crate::net::poll::Wake;

struct Asker(Sender<u32>);

impl Wake for Asker {
    fn wake(&self, tag: u32, _: Edge) -> bool {
        self.0.send(tag).is_ok()
    }
}

/// Answers from a script, and counts.
#[derive(Debug)]
struct Scripted(AtomicUsize, Receiver<io::Result<Vec<IpAddr>>>);

impl Resolve for Scripted {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.recv_timeout(WAIT).unwrap()
    }
}

/// Hangs for every name except those that begin with "quick".
#[derive(Debug)]
struct Hangs(Receiver<()>, AtomicUsize);

impl Resolve for Hangs {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        if !host.starts_with("quick") {
            let _ = self.0.recv_timeout(WAIT);
        }
        Ok(vec![IpAddr::from([192, 0, 2, 1])])
    }
}

const WAIT: Duration = Duration::from_secs(5);

const LIMITS: ThreadLimits = ThreadLimits {
    steady: 4,
    most: 96,
    each: 8,
    left: 320,
    linger: Duration::from_secs(10),
    queued: 1024,
};

/// A resolver, and the edges of its askers.
struct Play {
    resolver: Resolver,
    wake: Sender<u32>,
    wakes: Receiver<u32>,
}

impl Play {
    fn new(how: Arc<dyn Resolve>, ttl: Duration) -> Self {
        let (wake, wakes) = unbounded();
        let options = NameOptions { ttl, ..NameOptions::default() };
        Self { resolver: Resolver::new(how, options).unwrap(), wake, wakes }
    }

    fn ask(&self, host: &str, now: Instant, tag: u32) -> Lookup {
        self.ask_for(1, host, now, tag)
    }

    /// The same, for the client with this number.
    fn ask_for(&self, client: u32, host: &str, now: Instant, tag: u32) -> Lookup {
        let who = Arc::new(Asker(self.wake.clone()));
        let client = IpAddr::from(client.to_be_bytes());
        self.resolver.lookup(host, 80, client, now, &Owner { who, tag })
    }

    #[track_caller]
    fn asked_for(&self, client: u32, host: &str, now: Instant, tag: u32) -> AwaitedLookup {
        match self.ask_for(client, host, now, tag) {
            Lookup::Asked(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn asked(&self, host: &str, now: Instant, tag: u32) -> AwaitedLookup {
        match self.ask(host, now, tag) {
            Lookup::Asked(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn known(&self, host: &str, now: Instant) -> LookupAnswer {
        match self.ask(host, now, 0) {
            Lookup::Known(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn next_woken(&self) -> u32 {
        self.wakes.recv_timeout(WAIT).unwrap()
    }
}

#[track_caller]
fn eventually(mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < WAIT, "not so within {WAIT:?}");
        std::thread::yield_now();
    }
}

#[test]
fn lookups_of_one_name_are_merged_and_kept_for_a_while() {
    let (answers, script) = unbounded();
    let how = Arc::new(Scripted(AtomicUsize::new(0), script));
    let ttl = Duration::from_secs(40);
    let play = Play::new(how.clone(), ttl);
    let now = Instant::now();

    let one = play.asked("a.example", now, 1);
    let two = play.asked("a.example", now, 2);
    drop(play.asked("a.example", now, 3));
    assert_eq!(one.answer(), None);
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    answers.send(Ok(vec![address])).unwrap();
    let mut woken = [play.next_woken(), play.next_woken()];
    woken.sort_unstable();
    assert_eq!(woken, [1, 2]);
    assert!(play.wakes.is_empty(), "an asker that has left is not woken");
    let found = Some(Arc::from([address]));
    assert_eq!((one.answer(), two.answer()), (Some(found.clone()), Some(found.clone())));
    assert_eq!(play.known("a.example", now + ttl - Duration::from_secs(1)), found);
    assert_eq!(how.0.load(Ordering::SeqCst), 1);

    let later = now + ttl + WAIT;
    let again = play.asked("a.example", later, 5);
    answers.send(Err(io::ErrorKind::NotFound.into())).unwrap();
    assert_eq!(play.next_woken(), 5);
    assert_eq!(again.answer(), Some(None));
    assert_eq!(play.known("a.example", now), None);
    // A failure is forgotten sooner.
    let _asked = play.asked("a.example", now + MOST_KEPT_FAILED + WAIT, 6);
    answers.send(Ok(vec![])).unwrap();
}

#[test]
fn without_a_time_to_live_nothing_is_kept_but_merged_all_the_same() {
    let (answers, script) = unbounded();
    let how = Arc::new(Scripted(AtomicUsize::new(0), script));
    let play = Play::new(how.clone(), Duration::ZERO);
    let now = Instant::now();
    for round in 1..=3 {
        let asked: Vec<_> = (0..10).map(|tag| play.asked("a.example", now, tag)).collect();
        answers.send(Ok(vec![[192, 0, 2, round].into()])).unwrap();
        for _ in &asked {
            play.next_woken();
        }
        let found = Some(Some(Arc::from([IpAddr::from([192, 0, 2, round])])));
        assert!(asked.iter().all(|a| a.answer() == found), "each has the answer to its question");
        assert_eq!(how.0.load(Ordering::SeqCst), usize::from(round));
    }
    assert!(play.resolver.core.shared.names.lock().is_empty());
}

#[test]
fn threads_grow_while_others_hang_and_shrink_when_there_is_no_work() {
    let (release, hang) = unbounded();
    let how = Arc::new(Hangs(hang, AtomicUsize::new(0)));
    let mut play = Play::new(how.clone(), Duration::ZERO);
    let limits =
        ThreadLimits { steady: 2, most: 5, linger: Duration::from_millis(20), queued: 3, ..LIMITS };
    play.resolver = Resolver::with_limits(how, NameOptions::default(), limits).unwrap();
    let now = Instant::now();
    assert_eq!(play.resolver.threads(), 0);
    // Each lookup has a different client.
    let slow = |i| {
        let asked = play.asked_for(i, &format!("slow-{i}.example"), now, i);
        eventually(|| play.resolver.core.threads.crew_is_busy());
        asked
    };
    let hung: Vec<_> = (0..4).map(slow).collect();
    let quick = play.asked_for(99, "quick.example", now, 99);
    assert_eq!(play.next_woken(), 99, "there was a thread for it");
    assert!(quick.answer().is_some());
    assert_eq!(play.resolver.threads(), 5);
    // All lookups hang from here on, and three more may wait.
    let last = slow(4);
    let queued: Vec<_> =
        (5..8).map(|i| play.asked_for(i, &format!("slow-{i}.example"), now, i)).collect();
    assert!(matches!(play.ask_for(8, "one-more.example", now, 8), Lookup::Refused));
    assert_eq!(play.resolver.threads(), 5, "no more than that");
    drop(release);
    for _ in 0..8 {
        play.next_woken();
    }
    drop((hung, last, queued));
    eventually(|| play.resolver.threads() == 2);
    let _asked = play.asked("quick-again.example", now, 100);
    assert_eq!(play.next_woken(), 100);
    assert_eq!(play.resolver.threads(), 2, "those that stay are enough");
}

#[test]
fn a_lookup_nobody_waits_for_any_more_is_not_begun() {
    let (release, hang) = unbounded();
    let how = Arc::new(Hangs(hang, AtomicUsize::new(0)));
    let mut play = Play::new(how.clone(), Duration::ZERO);
    let limits = ThreadLimits { steady: 1, most: 1, ..LIMITS };
    play.resolver = Resolver::with_limits(how.clone(), NameOptions::default(), limits).unwrap();
    let now = Instant::now();
    let _slow = play.asked("slow.example", now, 1);
    drop(play.asked("slow-too.example", now, 2));
    let _last = play.asked("quick.example", now, 3);
    drop(release);
    assert_eq!((play.next_woken(), play.next_woken()), (1, 3));
    assert_eq!(how.1.load(Ordering::SeqCst), 2);
    assert_eq!(play.resolver.core.shared.names.lock().len(), 2);
}

#[test]
fn thousands_who_wait_for_one_name_join_and_leave_in_no_time() {
    let (_release, hang) = unbounded();
    let play = Play::new(Arc::new(Hangs(hang, AtomicUsize::new(0))), Duration::ZERO);
    let now = Instant::now();
    let asked: Vec<_> = (0..50_000).map(|tag| play.asked("slow.example", now, tag)).collect();
    drop(asked);
    // Scanning a list for each of them would take 2.5 billion looks.
    assert!(now.elapsed() < Duration::from_secs(3), "{:?}", now.elapsed());
}

#[test]
fn names_are_kept_up_to_a_bound_the_oldest_going_first() {
    let now = Instant::now();
    let mut names = HashMap::new();
    let asked = |names: &mut HashMap<Box<str>, Name>| {
        names.insert("asked".into(), Name::Asked(Arc::default(), 0));
    };
    let known = |names: &mut HashMap<Box<str>, Name>, i: u64| {
        let until = now + Duration::from_secs(10 + i);
        names.insert(format!("{i}").into(), Name::Known { answer: None, until });
    };
    asked(&mut names);
    (1..MOST_NAMES as u64).for_each(|i| known(&mut names, i));
    make_room(&mut names, now);
    assert!(names.len() <= MOST_NAMES / 4 * 3 + 1, "{}", names.len());
    assert!(names.contains_key("asked") && names.contains_key("4095") && !names.contains_key("1"));
    make_room(&mut names, now + Duration::from_secs(10 + MOST_NAMES as u64));
    assert_eq!(names.len(), 1, "what has expired goes first");
}

#[test]
fn the_families_of_an_answer_alternate_and_it_is_not_endless() {
    let (answers, script) = unbounded();
    let play = Play::new(Arc::new(Scripted(AtomicUsize::new(0), script)), WAIT);
    let now = Instant::now();
    let asked = play.asked("a.example", now, 1);
    let ips: Vec<IpAddr> = ["::1", "::2", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
    answers.send(Ok(ips.clone())).unwrap();
    play.next_woken();
    assert_eq!(*asked.answer().unwrap().unwrap(), [ips[0], ips[2], ips[1]]);
    let many = play.asked("many.example", now, 2);
    answers.send(Ok((0..200).map(|i| [192, 0, 2, i].into()).collect())).unwrap();
    play.next_woken();
    assert_eq!(many.answer().unwrap().unwrap().len(), MOST_ADDRESSES);
}

#[test]
fn a_given_name_is_never_asked_for() {
    let (_release, hang) = unbounded();
    let how = Arc::new(Hangs(hang, AtomicUsize::new(0)));
    let ip = IpAddr::from([127, 0, 0, 1]);
    let given = vec![GivenName { host: "a.example".into(), port: Some(80), ip }];
    let mut play = Play::new(how.clone(), WAIT);
    let options = NameOptions { given, ..NameOptions::default() };
    play.resolver = Resolver::new(how.clone(), options).unwrap();
    let answer = play.ask("a.example", Instant::now(), 1);
    assert!(matches!(answer, Lookup::Given(ips) if *ips == [ip]));
    assert_eq!(how.1.load(Ordering::SeqCst), 0);
}

/// A panic payload that panics again when it drops.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            panic!("expected in the output of a passing run");
        }
    }
}

#[derive(Debug)]
struct Explodes(Arc<AtomicUsize>);

impl Resolve for Explodes {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if host.starts_with("bad") {
            std::panic::panic_any(Bomb(Arc::clone(&self.0)));
        }
        Ok(vec![IpAddr::from([192, 0, 2, 1])])
    }
}

#[test]
fn a_panic_answers_the_question_and_costs_no_thread() {
    let explosions = Arc::new(AtomicUsize::new(0));
    let mut play = Play::new(Arc::new(Explodes(Arc::clone(&explosions))), Duration::MAX);
    let limits = ThreadLimits { steady: 1, most: 1, linger: WAIT, queued: 3, ..LIMITS };
    let (how, options) = (Arc::clone(&play.resolver.core.shared.how), NameOptions::default());
    play.resolver = Resolver::with_limits(how, options, limits).unwrap();
    let now = Instant::now();
    for tag in 1..=3 {
        let bad = play.asked("bad.example", now, tag);
        assert_eq!(play.next_woken(), tag);
        assert_eq!(bad.answer(), Some(None));
        eventually(|| play.resolver.pending() == 0);
    }
    let good = play.asked("good.example", now, 4);
    assert_eq!(play.next_woken(), 4);
    assert!(good.answer().flatten().is_some());
    assert_eq!(play.resolver.threads(), 1);
}

/// `Duration::MAX` is past every representable moment.
#[test]
fn an_answer_may_be_kept_for_as_long_as_there_is() {
    let play = Play::new(Arc::new(Explodes(Arc::default())), Duration::MAX);
    let now = Instant::now();
    let asked = play.asked("good.example", now, 1);
    assert_eq!(play.next_woken(), 1);
    assert!(asked.answer().flatten().is_some());
    assert!(play.known("good.example", now + Duration::from_secs(86_400)).is_some());
}

/// A resolver that hangs for all names but the quick ones, and the sender that releases them.
fn hanging() -> (Play, Arc<Hangs>, Sender<()>) {
    let (release, hang) = unbounded();
    let how = Arc::new(Hangs(hang, AtomicUsize::new(0)));
    (Play::new(Arc::clone(&how) as Arc<dyn Resolve>, WAIT), how, release)
}

/// Starts that many lookups of `client`, for names in domains that `name` makes, all different.
fn hang(play: &Play, client: u32, count: u32, name: impl Fn(u32) -> String) -> Vec<AwaitedLookup> {
    let now = Instant::now();
    (0..count).map(|i| play.asked_for(client, &name(i), now, 7)).collect()
}

#[test]
fn names_of_one_domain_that_never_answer_keep_nobody_from_others() {
    let (play, how, _release) = hanging();
    let asked = hang(&play, 1, 200, |i| format!("slow-{i}.dead.test"));
    let now = Instant::now();
    for (client, host) in [(1, "quick.alive.test"), (2, "quick.other.test"), (2, "quick.dead.test")]
    {
        let quick = play.asked_for(client, host, now, client);
        assert_eq!(play.next_woken(), client, "{host}");
        assert!(quick.answer().flatten().is_some(), "{host}");
    }
    eventually(|| how.1.load(Ordering::SeqCst) >= LIMITS.each + 3);
    assert_eq!(how.1.load(Ordering::SeqCst), LIMITS.each + 3, "the others wait");
    assert!(asked.iter().all(|asked| asked.answer().is_none()));
}

#[test]
fn one_client_with_many_domains_that_never_answer_keeps_no_other_from_its_names() {
    let (play, _how, _release) = hanging();
    let _asked = hang(&play, 1, 400, |i| format!("slow.dead-{i}.test"));
    let _more = hang(&play, 2, 100, |i| format!("slow.gone-{i}.test"));
    let now = Instant::now();
    for client in 3..40 {
        let quick = play.asked_for(client, &format!("quick-{client}.test"), now, client);
        assert_eq!(play.next_woken(), client);
        assert!(quick.answer().flatten().is_some());
    }
    assert!(play.resolver.threads() <= LIMITS.most);
}

#[test]
fn a_lookup_counts_no_more_when_its_askers_have_gone_and_one_in_line_is_forgotten() {
    let (play, how, _release) = hanging();
    let now = Instant::now();
    for round in 0..2 {
        let asked = hang(&play, 1, 100, |i| format!("slow.dead-{round}-{i}.test"));
        // Half of the threads, or of those left, are the client's, so it has to wait.
        let waits = play.asked_for(1, "quick.alive.test", now, 1);
        assert_eq!(waits.answer(), None);
        drop((waits, asked));
        eventually(|| play.resolver.pending() <= LIMITS.left);
        let quick = play.asked_for(1, &format!("quick.alive-{round}.test"), now, 2);
        assert_eq!(play.next_woken(), 2, "round {round}");
        assert!(quick.answer().flatten().is_some());
    }
    // Lookups without askers have a limit, too, and one client cannot use all of it.
    for round in 2..10 {
        drop(hang(&play, 1, 100, |i| format!("slow.dead-{round}-{i}.test")));
    }
    assert!(play.resolver.threads() <= LIMITS.most + LIMITS.left);
    let quick = play.asked_for(2, "quick.other.test", now, 3);
    assert_eq!(play.next_woken(), 3);
    assert!(quick.answer().flatten().is_some());
    assert!(how.1.load(Ordering::SeqCst) <= LIMITS.most + LIMITS.left);
}

#[test]
fn a_name_whose_asker_has_gone_is_joined_by_the_next_and_answered() {
    let (play, how, release) = hanging();
    let now = Instant::now();
    drop(play.asked_for(1, "slow.test", now, 1));
    let again = play.asked_for(2, "slow.test", now, 2);
    eventually(|| how.1.load(Ordering::SeqCst) == 1);
    drop(release);
    assert_eq!(play.next_woken(), 2);
    assert!(again.answer().flatten().is_some());
    assert_eq!(play.resolver.pending(), 0);
}

#[test]
fn an_asker_that_may_have_gone_is_answered_but_its_lookup_counts_no_more() {
    let (play, _how, release) = hanging();
    let now = Instant::now();
    let mut asked = hang(&play, 1, 200, |i| format!("slow.dead-{i}.test"));
    let waits = play.asked_for(1, "quick.alive.test", now, 1);
    assert_eq!(waits.answer(), None);
    asked.iter_mut().for_each(AwaitedLookup::recede);
    let quick = play.asked_for(1, "quick.other.test", now, 2);
    // The asker from before goes on as well.
    let mut woken = [play.next_woken(), play.next_woken()];
    woken.sort_unstable();
    assert_eq!(woken, [1, 2]);
    assert!(quick.answer().flatten().is_some() && waits.answer().flatten().is_some());
    drop(release);
    for _ in 0..asked.len() {
        play.next_woken();
    }
    assert!(asked.iter().all(|asked| asked.answer().is_some()));
    assert_eq!(play.resolver.pending(), 0);
}

#[test]
fn who_waits_on_an_account_is_not_overtaken_when_lookups_there_are_left() {
    let (play, how, _release) = hanging();
    let now = Instant::now();
    let asked = hang(&play, 1, LIMITS.each as u32, |i| format!("slow-{i}.example.com"));
    // A lookup without askers is not begun.
    eventually(|| how.1.load(Ordering::SeqCst) == LIMITS.each);
    let _ninth = play.asked_for(1, "quick-9.example.com", now, 9);
    drop(asked);
    assert!(play.wakes.is_empty(), "others were about to leave as well");
    let _tenth = play.asked_for(1, "quick-10.example.com", now, 10);
    // They come before the hanging lookups end.
    let mut woken = [9, 10].map(|_| play.wakes.recv_timeout(WAIT / 2).unwrap());
    woken.sort_unstable();
    assert_eq!(woken, [9, 10]);
}

/// Answers names that begin with "good" when told to, and others never.
#[derive(Debug)]
struct Good(Receiver<()>, Receiver<()>, AtomicUsize);

impl Resolve for Good {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.2.fetch_add(1, Ordering::SeqCst);
        let gate = if host.starts_with("good") { &self.0 } else { &self.1 };
        let _ = gate.recv_timeout(WAIT * 2);
        Ok(vec![IpAddr::from([192, 0, 2, 1])])
    }
}

#[test]
fn lookups_that_nobody_waits_for_keep_no_name_of_their_account_in_line() {
    let ((good, may_go_on), (_release, hang_on)) = (unbounded(), unbounded());
    let how = Arc::new(Good(may_go_on, hang_on, AtomicUsize::new(0)));
    let play = Play::new(how.clone(), WAIT);
    let each = LIMITS.each as u32;
    let now = Instant::now();
    let hanging = hang(&play, 1, each, |i| format!("slow-{i}.example.com"));
    eventually(|| how.2.load(Ordering::SeqCst) == LIMITS.each);
    drop(hanging);
    let ask = |i| play.asked_for(1, &format!("good-{i}.example.com"), now, i);
    let _asked: Vec<_> = (0..=each).map(ask).collect();
    (0..each).for_each(|_| good.send(()).unwrap());
    let mut woken: Vec<u32> = (0..each).map(|_| play.next_woken()).collect();
    good.send(()).unwrap();
    woken.push(play.next_woken());
    woken.sort_unstable();
    assert_eq!(woken, (0..=each).collect::<Vec<_>>());
}

#[test]
fn slow_names_of_many_domains_do_not_keep_their_own_client_from_new_ones_for_long() {
    for count in [48, 100, 200] {
        let (play, _how, _release) = hanging();
        let mut now = Instant::now();
        let _asked = hang(&play, 1, count, |i| format!("slow.dead-{i}.test"));
        for round in 0..10 {
            let quick = play.asked_for(1, &format!("quick.alive-{round}.test"), now, round);
            now += SLOW * 3 / 2;
            play.resolver.pass_slow_ones(now);
            assert_eq!(play.next_woken(), round, "{count}");
            assert!(quick.answer().flatten().is_some());
        }
        assert!(play.resolver.threads() <= LIMITS.most + LIMITS.left);
        let quick = play.asked_for(2, "quick.other.test", now, 99);
        assert_eq!(play.next_woken(), 99, "another client, {count}");
        drop(quick);
    }
}
