use std::num::{NonZeroU32, NonZeroU64};

use super::share::{AGAIN, FIRST};
use super::*;
use crate::policy::bucket::LEAST;
use crate::policy::limits::{Connections, Limit, Requests, Volume, Whose};
use crate::policy::rule_origin::RuleId;
use crate::policy::tally::Table;

const ID: RuleId = RuleId { source: 9, line: 1 };

fn rate(per: Per, down: u64) -> Limit {
    let rates = [None, NonZeroU64::new(down)];
    Limit { id: ID, per, whose: Whose::Each, rates, text: "".into() }
}

fn limits(rates: Vec<Limit>) -> Arc<Limits> {
    Arc::new(Limits { rates, ..Limits::default() })
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn who(client: u8) -> Who<'static> {
    Who { client: ip(client), user: None, host: "a.example", ip: None, port: 80 }
}

/// A download that always wants more.
struct Download {
    share: Box<Share>,
    wakes: Instant,
    got: u64,
}

/// Runs downloads of these clients for ten simulated seconds; returns the bytes of each.
fn downloads(shaper: &Shaper, limits: &Arc<Limits>, clients: &[u8]) -> Vec<u64> {
    let start = shaper.epoch + Duration::from_secs(1);
    let mut all: Vec<_> = clients
        .iter()
        .map(|client| {
            let share = shaper.share(limits, &who(*client), &ConnectionTally::default(), start);
            Download { share, wakes: start, got: 0 }
        })
        .collect();
    loop {
        let next = all.iter_mut().min_by_key(|d| d.wakes).unwrap();
        let now = next.wakes;
        if now >= start + Duration::from_secs(10) {
            return all.into_iter().map(|d| d.got).collect();
        }
        match next.share.ask(Direction::Down, None, now).0 {
            Grant::Now(bytes) => {
                next.got += bytes;
                next.share.settle(Direction::Down, 0, now);
            }
            Grant::At(at) => next.wakes = at,
            Grant::Never => panic!("no volume is configured"),
        }
    }
}

#[track_caller]
fn about(got: u64, wanted: u64) {
    let (got, wanted) = (got as f64, wanted as f64);
    assert!((wanted * 0.9..wanted * 1.1).contains(&got), "{got} is not about {wanted}");
}

#[test]
fn each_connection_client_or_all_of_them_have_the_rate() {
    for (per, clients, each) in [
        (Per::Connection, &[1, 1, 2][..], [10_000_000; 3]),
        (Per::Client, &[1, 1, 2], [5_000_000, 5_000_000, 10_000_000]),
        (Per::Total, &[1, 2, 3], [3_333_333; 3]),
        (Per::Destination, &[1, 2, 3], [3_333_333; 3]),
    ] {
        let got = downloads(&Shaper::default(), &limits(vec![rate(per, 1_000_000)]), clients);
        got.iter().zip(each).for_each(|(got, wanted)| about(*got, wanted));
    }
}

#[test]
fn a_client_does_not_get_more_by_more_connections() {
    let limits = limits(vec![rate(Per::Total, 1_000_000)]);
    let got = downloads(&Shaper::default(), &limits, &[1, 1, 1, 1, 1, 1, 1, 1, 2]);
    about(got[..8].iter().sum(), 5_000_000);
    about(got[8], 5_000_000);
}

#[test]
fn a_client_does_not_get_more_by_ten_connections() {
    for bytes in [100_000, 1_000_000, 10_000_000, 100_000_000] {
        for connections in [2, 5, 10] {
            let mut clients = vec![1; connections];
            clients.push(2);
            let shaper = Shaper::default();
            let got = downloads(&shaper, &limits(vec![rate(Per::Total, bytes)]), &clients);
            let all = got.iter().sum::<u64>() as f64;
            let part = *got.last().unwrap() as f64 / all;
            let row = format!("{bytes} bytes/s, {connections} and 1: {part} of {all}");
            assert!((0.4..0.6).contains(&part), "{row}");
        }
    }
}

#[test]
fn a_client_does_not_get_more_by_any_number_of_connections() {
    for (bytes, connections) in [
        (100_000, 50),
        (1_000_000, 10),
        (1_000_000, 100),
        (1_000_000, 400),
        (10_000_000, 100),
        (10_000_000, 400),
        (10_000_000, 2_000),
    ] {
        let mut clients = vec![1; connections];
        clients.push(2);
        let got = downloads(&Shaper::default(), &limits(vec![rate(Per::Total, bytes)]), &clients);
        let all = got.iter().sum::<u64>() as f64;
        let part = *got.last().unwrap() as f64 / all;
        let row = format!("{bytes} bytes/s, {connections} and 1: {part} of {all}");
        assert!((0.4..0.65).contains(&part), "{row}");
        assert!((9.0..10.5).contains(&(all / bytes as f64)), "{row}");
        let least = *got[..connections].iter().min().unwrap() as f64;
        assert!(least * connections as f64 > all * 0.05, "each gets some: {least}, {row}");
    }
}

#[test]
fn the_lowest_of_several_rates_holds() {
    let rates = vec![rate(Per::Client, 1_000_000), rate(Per::Total, 3_000_000)];
    let got = downloads(&Shaper::default(), &limits(rates), &[1, 2]);
    got.into_iter().for_each(|got| about(got, 10_000_000));
}

#[test]
fn short_exchanges_do_not_wait_for_what_the_others_do_not_use() {
    let (shaper, limits) = (Shaper::default(), limits(vec![rate(Per::Total, 1_250_000)]));
    let now = shaper.epoch + Duration::from_secs(1);
    for _ in 0..100 {
        let mut share = shaper.share(&limits, &who(1), &ConnectionTally::default(), now);
        let (grant, _) = share.ask(Direction::Down, None, now);
        let Grant::Now(bytes) = grant else { panic!("{grant:?}") };
        share.settle(Direction::Down, i64::try_from(bytes).unwrap() - 1_000, now);
    }
}

#[test]
fn who_leaves_gives_back_what_it_waited_for() {
    let (shaper, limits) = (Shaper::default(), limits(vec![rate(Per::Total, 1_000)]));
    let now = shaper.epoch + Duration::from_secs(1);
    let mut first = shaper.share(&limits, &who(1), &ConnectionTally::default(), now);
    let wait = |share: &mut Share| loop {
        match share.ask(Direction::Down, None, now).0 {
            Grant::Now(_) => {}
            Grant::At(at) => return at,
            Grant::Never => unreachable!(),
        }
    };
    let at = wait(&mut first);
    for _ in 0..100 {
        let mut other = shaper.share(&limits, &who(2), &ConnectionTally::default(), now);
        assert!(wait(&mut other) > at);
        assert_eq!(
            other.client.as_ref().unwrap().waiting(Direction::Down).load(Ordering::Relaxed),
            1
        );
    }
    let mut last = shaper.share(&limits, &who(2), &ConnectionTally::default(), now);
    assert!(
        wait(&mut last) < at + Duration::from_secs(1),
        "the places of a hundred are free again"
    );
    assert_eq!(first.ask(Direction::Down, None, at).0, Grant::Now(LEAST));
    assert_eq!(first.ask(Direction::Up, None, now).0, Grant::Now(FIRST), "only one way is limited");
}

/// The time until which a request for this many bytes has to wait.
fn waits_until(share: &mut Share, bytes: u64, now: Instant) -> Duration {
    match share.grant(Direction::Down, Some(bytes), now).0 {
        Grant::At(at) => at - now,
        Grant::Now(_) => Duration::ZERO,
        Grant::Never => unreachable!(),
    }
}

#[test]
fn who_is_in_line_comes_sooner_when_others_leave() {
    let ms = Duration::from_millis;
    // A number of shares that reserve one second each, behind one that has its bytes; those that
    // leave; and the times of the others, from the last to the first.
    for (all, leave, expected) in [
        (29, 0..28, vec![900]),
        (5, 0..3, vec![1_900, 900]),
        (5, 1..4, vec![1_900, 900]),
        (5, 3..5, vec![2_900, 1_900, 900]),
        (3, 0..0, vec![2_900, 1_900, 900]),
    ] {
        let (shaper, limits) = (Shaper::default(), limits(vec![rate(Per::Total, 1_000)]));
        let now = shaper.epoch + Duration::from_secs(1);
        let share = || shaper.share(&limits, &who(1), &ConnectionTally::default(), now);
        assert_eq!(waits_until(&mut share(), 1_000, now), Duration::ZERO);
        let mut line: Vec<_> = (0..all)
            .map(|n| {
                let mut share = share();
                assert_eq!(waits_until(&mut share, 1_000, now), ms(1_000 * n + 900));
                share
            })
            .collect();
        let row = format!("{leave:?} of {all}");
        line.drain(leave);
        // Twice, because a share that moved up stays there.
        for _ in 0..2 {
            let found: Vec<_> =
                line.iter_mut().rev().map(|share| waits_until(share, 1_000, now)).collect();
            assert_eq!(found, expected.iter().copied().map(ms).collect::<Vec<_>>(), "{row}");
        }
    }
}

#[test]
fn who_waits_looks_again_once_a_second() {
    let (shaper, limits) = (Shaper::default(), limits(vec![rate(Per::Total, 1_000)]));
    let now = shaper.epoch + Duration::from_secs(1);
    let share = || shaper.share(&limits, &who(1), &ConnectionTally::default(), now);
    let (mut first, mut other) = (share(), share());
    assert_eq!(first.ask(Direction::Down, Some(30_000), now).0, Grant::Now(30_000));
    let second = Duration::from_secs(1);
    for n in 0..3 {
        let now = now + second * n;
        let (grant, _) = other.ask(Direction::Down, Some(10), now);
        assert!(matches!(grant, Grant::At(_)), "{grant:?}");
        assert_eq!(other.wake_at(), Some(now + second));
    }
    first.settle(Direction::Down, 29_000, now + second * 3);
    let (grant, waited) = other.ask(Direction::Down, Some(10), now + second * 3);
    assert_eq!((grant, waited), (Grant::Now(10), second * 3));
}

#[test]
fn a_place_in_line_is_kept_by_another_policy_that_is_no_slower() {
    let ms = Duration::from_millis;
    let per = |per, down| limits(vec![rate(per, down)]);
    for (then, expected) in [
        (per(Per::Total, 1_000), [900, 1_900, 2_900]),
        (per(Per::Total, 10_000), [90, 190, 290]),
        // One behind the other, in the order in which they look.
        (per(Per::Client, 10_000), [0, 0, 100]),
        (limits(Vec::new()), [0, 0, 0]),
    ] {
        let (shaper, limits) = (Shaper::default(), per(Per::Total, 1_000));
        let (line, now) = (ConnectionTally::default(), shaper.epoch + Duration::from_secs(1));
        let share = || shaper.share(&limits, &who(1), &line, now);
        let mut line_of: Vec<_> = (0..4).map(|_| share()).collect();
        for share in &mut line_of {
            waits_until(share, 1_000, now);
        }
        let mut found: Vec<_> = line_of[1..]
            .iter_mut()
            .rev()
            .map(|share| {
                shaper.follow(share, &then, &who(1), &line, now);
                waits_until(share, 1_000, now)
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected.map(ms), "{then:?}");
        drop(line_of);
        let mut next = shaper.share(&then, &who(1), &line, now);
        assert!(waits_until(&mut next, 10, now) <= ms(900), "all was given back");
    }
}

#[test]
fn rates_that_are_named_have_counts_of_their_own() {
    use crate::policy::{destination::DestinationPattern, network::Network};
    let to = |text| Whose::Destination(Box::new(DestinationPattern::parse(text).unwrap()));
    let network = |text| Whose::Network(Network::parse(text).unwrap());
    let limit = |line, per, whose, down| {
        let id = RuleId { line, ..ID };
        Limit { id, whose, ..rate(per, down) }
    };
    let limits = limits(vec![
        limit(1, Per::Destination, to("a.example:80"), 1_000),
        limit(2, Per::Destination, to("a.example:443"), 100_000),
        limit(3, Per::Destination, to("192.0.2.1"), 1_000),
        limit(4, Per::Client, network("2001:db8::1"), 1_000),
        limit(5, Per::Client, network("2001:db8::2"), 100_000),
        limit(6, Per::Destination, Whose::Each, 1_000),
    ]);
    let who = |client: &str, host, port| {
        let ip = str::parse::<IpAddr>(host).ok();
        Who { client: client.parse().unwrap(), user: None, host, ip, port }
    };
    for (one, other, same) in [
        (who("192.0.2.9", "a.example", 80), who("192.0.2.9", "a.example", 443), false),
        (who("192.0.2.9", "a.example", 80), who("192.0.2.8", "a.example", 80), true),
        (who("192.0.2.9", "192.0.2.1", 80), who("192.0.2.9", "::ffff:192.0.2.1", 81), true),
        (who("192.0.2.9", "192.0.2.7", 80), who("192.0.2.9", "::ffff:192.0.2.7", 81), true),
        (who("192.0.2.9", "b.example", 80), who("192.0.2.8", "b.example", 81), true),
        (who("2001:db8::1", "b.example", 80), who("2001:db8::2", "c.example", 80), false),
        (who("2001:db8::1", "b.example", 80), who("2001:db8::1", "c.example", 80), true),
    ] {
        let shaper = Shaper::default();
        let now = shaper.epoch + Duration::from_secs(1);
        let ask = |who: &Who<'_>, bytes| {
            let mut share = shaper.share(&limits, who, &ConnectionTally::default(), now);
            let wait = waits_until(&mut share, bytes, now);
            share.ways = Default::default();
            wait
        };
        assert_eq!(ask(&one, 5_000), Duration::ZERO);
        assert_eq!(ask(&other, 10) > Duration::ZERO, same, "{one:?} {other:?}");
    }
}

#[test]
fn another_policy_goes_on_with_the_same_counts() {
    let shaper = Shaper::default();
    let now = shaper.epoch + Duration::from_secs(1);
    let (slow, fast) =
        (limits(vec![rate(Per::Client, 1_000)]), limits(vec![rate(Per::Client, 100_000)]));
    let line = ConnectionTally::default();
    let mut share = shaper.share(&slow, &who(1), &line, now);
    share.settle(Direction::Down, -10_000, now);
    let owed = |share: &mut Share| match share.grant(Direction::Down, Some(0), now).0 {
        Grant::At(at) => {
            share.ways = Default::default();
            at - now
        }
        grant => panic!("{grant:?}"),
    };
    assert_eq!(owed(&mut share), Duration::from_millis(9_900));
    shaper.follow(&mut share, &fast, &who(1), &line, now);
    assert_eq!(owed(&mut share), Duration::from_millis(99));
    shaper.follow(&mut share, &limits(Vec::new()), &who(1), &line, now);
    assert_eq!(share.ask(Direction::Down, None, now).0, Grant::Now(FIRST));
}

#[test]
fn the_volume_of_the_run_is_never_exceeded() {
    let volume = Some(Volume { id: ID, bytes: 10_000, text: "10kB".into() });
    let limits = Arc::new(Limits { volume, ..Limits::default() });
    let shaper = Shaper::default();
    let now = shaper.epoch;
    let share = || shaper.share(&limits, &who(1), &ConnectionTally::default(), now);
    let (mut one, mut other) = (share(), share());
    assert_eq!(one.ask(Direction::Down, None, now).0, Grant::Now(4096));
    assert_eq!(other.ask(Direction::Up, None, now).0, Grant::Now(4096));
    assert_eq!(one.ask(Direction::Up, None, now).0, Grant::Now(1808));
    let wait = Grant::At(now + AGAIN);
    assert_eq!(other.ask(Direction::Down, None, now).0, wait, "others may not need theirs");
    assert!(!shaper.is_used_up(&limits));
    other.settle(Direction::Up, 1_000, now);
    assert_eq!(other.ask(Direction::Down, None, now).0, Grant::Now(1000));
    other.settle(Direction::Down, 0, now);
    one.settle(Direction::Down, 0, now);
    assert_eq!(other.ask(Direction::Down, None, now).0, wait);
    // Dropping a share returns the bytes lent to it.
    drop(one);
    assert_eq!(other.ask(Direction::Down, None, now).0, Grant::Now(1808));
    other.settle(Direction::Down, 0, now);
    assert_eq!(other.ask(Direction::Down, None, now).0, Grant::Never);
    assert!(shaper.is_used_up(&limits) && shaper.relayed() == 10_000);
    assert!(shaper.says_so() && !shaper.says_so());
}

#[test]
fn requests_of_a_client_come_back_with_time() {
    let (count, period) = (NonZeroU32::new(2).unwrap(), Duration::from_secs(60));
    let requests = Some(Requests { id: ID, count, period });
    let limits = Limits { requests, ..Limits::default() };
    let shaper = Shaper::default();
    let at = |seconds| shaper.epoch + Duration::from_secs(seconds);
    let ask = |client, seconds| shaper.request(ip(client), &limits, at(seconds));
    assert_eq!([ask(1, 0), ask(1, 0)], [Ok(()), Ok(())]);
    assert_eq!(ask(1, 10), Err(TooSoon(Duration::from_secs(20))));
    assert_eq!([ask(2, 10), ask(1, 30)], [Ok(()), Ok(())]);
    assert_eq!(ask(1, 31), Err(TooSoon(Duration::from_secs(29))));
}

#[test]
fn a_client_has_so_many_connections_and_as_many_again_are_told() {
    let connections = Some(Connections { id: ID, count: NonZeroU32::new(2).unwrap() });
    let limits = Limits { connections, ..Limits::default() };
    let shaper = Shaper::default();
    let enter = |client| shaper.enter(ip(client), &limits, shaper.epoch);
    let mut held: Vec<_> = (0..4).map(|_| enter(1).unwrap()).collect();
    assert!(enter(1).is_none() && enter(1).is_none(), "those who are not let in do not count");
    let is_over =
        |client, line: &ConnectionTally| shaper.is_over(ip(client), line, &limits, shaper.epoch);
    let over: Vec<_> = held.iter().map(|line| is_over(1, line)).collect();
    assert_eq!(over, [false, false, true, true]);
    assert!(!is_over(2, &enter(2).unwrap()), "another client has its own");
    held.drain(..2);
    assert!(!is_over(1, &held[0]), "it is one of two now");
    let user = |line: &ConnectionTally| shaper.is_over_for("ann", line, &limits, shaper.epoch);
    let lines: Vec<_> = (2..5).map(|client| enter(client).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| user(line)).collect::<Vec<_>>(), [false, false, true]);
    assert!(!user(&lines[0]), "a connection counts once");
}

#[test]
fn those_nobody_uses_are_forgotten_the_idlest_first_and_the_rest_share() {
    let table = Table::<Box<str>>::new(8);
    let used = |tally: &Tally, now| {
        tally.with(Direction::Up, |bucket| bucket.reserve(1_000_000_000, 1_000, now));
    };
    let second = 1_000_000_000;
    for n in 0..1_000 {
        table.get(&*format!("idle-{n}"), 0, n * second);
        assert!(table.len() <= 8);
    }
    let names: Vec<_> = (0..8).map(|n| format!("owes-{n}")).collect();
    for (name, at) in names.iter().zip(2_000..) {
        used(&table.get(&**name, 0, at * second), at * second);
    }
    // No entry is as good as new, so the idlest makes room.
    let held = table.get("owes-1", 0, 2_100 * second);
    assert!(!Arc::ptr_eq(&table.get("new", 0, 2_101 * second), &held));
    assert!(table.len() <= 8);
    assert!(Arc::ptr_eq(&table.get("owes-1", 0, 2_102 * second), &held), "it was asked for since");
    let all: Vec<_> =
        (0..20).map(|n| table.get(&*format!("held-{n}"), 0, 3_000 * second)).collect();
    assert!(table.len() <= 8);
    assert!(Arc::ptr_eq(&all[18], &all[19]), "those without room share one count");
}

#[test]
fn who_moves_up_in_one_count_takes_nothing_from_the_others_of_another() {
    let rates = vec![rate(Per::Client, 1_000), rate(Per::Total, 10_000_000)];
    let (shaper, limits) = (Shaper::default(), limits(rates));
    let now = shaper.epoch + Duration::from_secs(1);
    let share = |client| shaper.share(&limits, &who(client), &ConnectionTally::default(), now);
    let mut line: Vec<_> = (0..20).map(|_| share(1)).collect();
    let longest = |line: &mut Vec<Box<Share>>| {
        line.iter_mut().rev().map(|share| waits_until(share, 1_000, now)).max().unwrap()
    };
    let before = longest(&mut line);
    line.drain(2..12);
    assert!(longest(&mut line) < before);
    let waits = waits_until(&mut share(2), 1_000, now);
    assert!(waits < Duration::from_millis(1), "{waits:?}");
}
