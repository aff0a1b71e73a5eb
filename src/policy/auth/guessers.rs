//! Slows down clients that guess passwords: each wrong answer makes the next wait longer.
//!
//! The first [`FREE`] wrong answers of a client cost nothing. From then on its credentials are checked
//! only after a delay, which doubles up to [`LONGEST_DELAY`]; a wrong answer is forgotten after
//! [`FORGOTTEN`]. At most [`MOST_DELAYED`] requests of a client wait at a time, and further ones are
//! refused without a check. So guessing from one address is limited to two attempts a second, whatever
//! the number of connections. Credentials that were right from this client before
//! ([`proven`](super::proven)) do not wait, so that guesses from the same address do not keep a user
//! out.
//!
//! An IPv6 client is its /64 network, because it can have any address in it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::proven::Proven;
use super::token_tag::Tag;
use crate::policy::limits::client_key;

/// Wrong answers that cost nothing.
pub const FREE: u32 = 5;
/// The first delay.
pub const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(4);
/// The time after which one wrong answer is forgotten, if no other follows. Each further such time
/// forgets one more.
pub const FORGOTTEN: Duration = Duration::from_secs(60);
/// The number of requests of one client that may wait at a time.
pub const MOST_DELAYED: u32 = 8;
/// The number of clients remembered, 130 bytes each. Beyond it, the client whose last wrong answer is
/// oldest is forgotten.
pub const MOST_CLIENTS: usize = 4096;
/// The shortest time between two log lines about guessing.
const QUIET: Duration = Duration::from_secs(10);

/// The clients that gave wrong answers.
#[derive(Debug, Default)]
pub struct Failures {
    table: Mutex<Table>,
    /// The number of clients in the table: most of the time none.
    clients: AtomicUsize,
    proven: Proven,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<IpAddr, Client>,
    reported: Option<Instant>,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Client {
    wrong: u32,
    /// Time and tag of the last wrong answer.
    last: Option<(Instant, u64)>,
    reported: bool,
    delayed: u32,
}

/// Whether the credentials of a request are checked.
#[derive(Debug)]
pub enum Admission {
    /// They are checked at once.
    Open,
    /// They are checked at that time.
    Delayed(DelayedPlace, Instant),
    /// They are not checked: too many requests of this client wait already.
    Full,
}

/// A place among the waiting requests of a client; dropping it frees the place.
#[derive(Debug)]
pub struct DelayedPlace {
    of: Arc<Failures>,
    client: IpAddr,
}

/// A wrong answer worth a line in the log, with the client's count of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Guessing(pub u32);

impl Failures {
    /// Whether credentials with this tag from this client are checked, and when.
    #[inline]
    pub fn gate(self: &Arc<Self>, client: IpAddr, tag: Tag, now: Instant) -> Admission {
        // This is the cost while no client guesses. `delay` below catches those that do.
        match self.clients.load(Ordering::Relaxed) {
            0 => Admission::Open,
            _ => self.delay(client, tag, now),
        }
    }

    #[cold]
    fn delay(self: &Arc<Self>, client: IpAddr, tag: Tag, now: Instant) -> Admission {
        let client = client_key(client);
        let mut table = self.table.lock();
        self.sweep(&mut table, now);
        let Some(known) = table.clients.get_mut(&client) else { return Admission::Open };
        known.forget(now);
        let Some(over) = known.wrong.checked_sub(FREE) else {
            return Admission::Open;
        };
        if self.proven.contains(client, tag) {
            return Admission::Open;
        }
        if known.delayed >= MOST_DELAYED {
            return Admission::Full;
        }
        known.delayed += 1;
        let until = now + (FIRST_DELAY * 2_u32.pow(over.min(8))).min(LONGEST_DELAY);
        Admission::Delayed(DelayedPlace { of: Arc::clone(self), client }, until)
    }

    /// Whether credentials with this tag would have to wait now.
    pub fn would_wait(&self, client: IpAddr, tag: Tag, now: Instant) -> bool {
        let client = client_key(client);
        let mut table = self.table.lock();
        let Some(known) = table.clients.get_mut(&client) else { return false };
        known.forget(now);
        known.wrong >= FREE && !self.proven.contains(client, tag)
    }

    /// Records that credentials with this tag were wrong, in a request that began at `begun`. The same
    /// wrong credentials sent several times at once count as one mistake.
    pub fn wrong(
        &self,
        client: IpAddr,
        tag: Tag,
        begun: Instant,
        now: Instant,
    ) -> Option<Guessing> {
        let client = client_key(client);
        self.proven.remove(client, tag);
        let mut table = self.table.lock();
        let reported = table.reported;
        let known = self.client(&mut table, client);
        known.forget(now);
        if known.last.is_some_and(|(last, which)| which == tag.head() && begun <= last) {
            return None;
        }
        known.wrong = known.wrong.saturating_add(1);
        known.last = Some((now, tag.head()));
        let quiet =
            reported.is_some_and(|reported| now.saturating_duration_since(reported) < QUIET);
        if known.wrong < FREE || known.reported || quiet {
            return None;
        }
        known.reported = true;
        let count = known.wrong;
        table.reported = Some(now);
        Some(Guessing(count))
    }

    /// Records that credentials with this tag were right, on a connection that had not sent them
    /// before.
    pub fn right(&self, client: IpAddr, tag: Tag) {
        self.proven.insert(client_key(client), tag);
    }

    fn client<'t>(&self, table: &'t mut Table, client: IpAddr) -> &'t mut Client {
        if table.clients.len() >= MOST_CLIENTS && !table.clients.contains_key(&client) {
            make_room(&mut table.clients);
        }
        if !table.clients.contains_key(&client) {
            self.clients.store(table.clients.len() + 1, Ordering::Relaxed);
        }
        table.clients.entry(client).or_default()
    }

    /// Now and then forgets clients that have not been wrong for a while.
    fn sweep(&self, table: &mut Table, now: Instant) {
        if table.swept.is_some_and(|swept| now.saturating_duration_since(swept) < FORGOTTEN) {
            return;
        }
        table.swept = Some(now);
        table.clients.retain(|_, client| {
            client.forget(now);
            !client.is_forgiven()
        });
        self.clients.store(table.clients.len(), Ordering::Relaxed);
    }
}

/// Drops the quarter of the clients whose last wrong answers are oldest. Clients with waiting requests
/// stay: their number is bounded by the number of connections.
fn make_room(clients: &mut HashMap<IpAddr, Client>) {
    let idle = |client: &Client| client.delayed == 0;
    let mut moments: Vec<Option<Instant>> = clients
        .values()
        .filter(|client| idle(client))
        .map(|client| client.last.map(|(last, _)| last))
        .collect();
    let quarter = (MOST_CLIENTS / 4).min(moments.len().saturating_sub(1));
    if !moments.is_empty() {
        let (_, &mut last, _) = moments.select_nth_unstable(quarter);
        clients.retain(|_, client| !idle(client) || client.last.map(|(at, _)| at) > last);
    }
}

impl Client {
    fn is_forgiven(&self) -> bool {
        self.delayed == 0 && self.wrong == 0
    }

    /// Forgets old wrong answers.
    fn forget(&mut self, now: Instant) {
        let Some((last, which)) = self.last else { return };
        let times = now.saturating_duration_since(last).as_secs() / FORGOTTEN.as_secs();
        if times > 0 {
            self.wrong = self.wrong.saturating_sub(u32::try_from(times).unwrap_or(u32::MAX));
            let forgiven = self.wrong == 0;
            self.last = (!forgiven).then_some((now, which));
            self.reported &= !forgiven;
        }
    }
}

impl Drop for DelayedPlace {
    fn drop(&mut self) {
        let mut table = self.of.table.lock();
        let Some(client) = table.clients.get_mut(&self.client) else { return };
        client.delayed = client.delayed.saturating_sub(1);
        if client.is_forgiven() {
            table.clients.remove(&self.client);
            self.of.clients.store(table.clients.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::token_tag::TagKey;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The delay of a request of this client; `None` if its credentials would not be checked.
    fn delay(failures: &Arc<Failures>, client: &str, tag: Tag, now: Instant) -> Option<Duration> {
        match failures.gate(ip(client), tag, now) {
            Admission::Open => Some(Duration::ZERO),
            Admission::Delayed(_, until) => Some(until - now),
            Admission::Full => None,
        }
    }

    fn tags(count: u32) -> Vec<Tag> {
        let key = TagKey::draw();
        (0..count).map(|n| key.tag(&n.to_le_bytes())).collect()
    }

    #[test]
    fn delays_grow_with_wrong_answers_and_shrink_with_time() {
        let failures = Arc::new(Failures::default());
        let (tags, start) = (tags(20), Instant::now());
        let ms = Duration::from_millis;
        let expected = [0, 0, 0, 0, 0, 500, 1000, 2000, 4000, 4000, 4000];
        for (tag, expected) in tags.iter().zip(expected) {
            assert_eq!(delay(&failures, "192.0.2.1", *tag, start), Some(ms(expected)));
            failures.wrong(ip("192.0.2.1"), *tag, start, start);
        }
        // Other clients are served as before.
        assert_eq!(delay(&failures, "192.0.2.2", tags[0], start), Some(ms(0)));
        // Eleven wrong answers, of which one a minute is forgotten.
        for (minutes, expected) in [(1, 4000), (3, 4000), (4, 2000), (6, 500), (7, 0), (20, 0)] {
            let later = start + FORGOTTEN * minutes;
            assert_eq!(delay(&failures, "192.0.2.1", tags[0], later), Some(ms(expected)));
        }
        assert_eq!(failures.clients.load(Ordering::Relaxed), 0, "forgotten");
    }

    #[test]
    fn the_same_mistake_at_the_same_time_is_one() {
        let failures = Arc::new(Failures::default());
        let (tags, start) = (tags(2), Instant::now());
        let later = start + Duration::from_secs(1);
        for _ in 0..20 {
            failures.wrong(ip("::1"), tags[0], start, later);
        }
        assert_eq!(delay(&failures, "::1", tags[0], later), Some(Duration::ZERO));
        for second in 2..7 {
            let again = start + Duration::from_secs(second);
            failures.wrong(ip("::1"), tags[0], again, again);
        }
        let now = start + Duration::from_secs(7);
        assert!(delay(&failures, "::1", tags[0], now) > Some(Duration::ZERO));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_mapped_ipv4_is_ipv4() {
        let failures = Arc::new(Failures::default());
        let (tags, now) = (tags(20), Instant::now());
        for (n, tag) in tags.iter().enumerate() {
            failures.wrong(ip(&format!("2001:db8::{n}")), *tag, now, now);
            failures.wrong(ip("::ffff:192.0.2.1"), *tag, now, now);
        }
        let waits = |client: &str| delay(&failures, client, tags[0], now) > Some(Duration::ZERO);
        assert!(waits("2001:db8::ffff:1:2:3"));
        assert!(!waits("2001:db8:0:1::1"));
        assert!(waits("192.0.2.1"));
        assert!(!waits("192.0.2.2"));
    }

    #[test]
    fn so_many_wait_and_no_more_and_places_come_back() {
        let failures = Arc::new(Failures::default());
        let (tags, now, client) = (tags(20), Instant::now(), ip("192.0.2.1"));
        for tag in &tags {
            failures.wrong(client, *tag, now, now);
        }
        let mut waiting: Vec<Admission> =
            (0..MOST_DELAYED).map(|_| failures.gate(client, tags[0], now)).collect();
        assert!(waiting.iter().all(|gate| matches!(gate, Admission::Delayed(..))));
        assert!(matches!(failures.gate(client, tags[0], now), Admission::Full));
        waiting.pop();
        assert!(matches!(failures.gate(client, tags[0], now), Admission::Delayed(..)));
    }

    #[test]
    fn who_has_proven_to_be_somebody_does_not_wait_beside_one_who_guesses() {
        let failures = Arc::new(Failures::default());
        let (tags, now, client) = (tags(20), Instant::now(), ip("192.0.2.1"));
        for tag in &tags[1..] {
            failures.wrong(client, *tag, now, now);
        }
        assert!(matches!(failures.gate(client, tags[0], now), Admission::Delayed(..)));
        failures.right(client, tags[0]);
        assert!(matches!(failures.gate(client, tags[0], now), Admission::Open));
        assert!(matches!(failures.gate(client, tags[1], now), Admission::Delayed(..)));
        assert!(matches!(failures.gate(ip("192.0.2.9"), tags[1], now), Admission::Open));
    }

    #[test]
    fn many_users_of_one_address_are_known_before_anybody_guesses() {
        let failures = Arc::new(Failures::default());
        let (tags, now, client) = (tags(100), Instant::now(), ip("192.0.2.1"));
        let (users, guesses) = tags.split_at(50);
        users.iter().for_each(|tag| failures.right(client, *tag));
        assert_eq!(failures.clients.load(Ordering::Relaxed), 0, "nobody was wrong");
        for tag in guesses {
            failures.wrong(client, *tag, now, now);
        }
        let waiting: Vec<Admission> =
            guesses.iter().map(|tag| failures.gate(client, *tag, now)).collect();
        assert!(matches!(waiting.last(), Some(Admission::Full)));
        for (n, tag) in users.iter().enumerate() {
            assert!(matches!(failures.gate(client, *tag, now), Admission::Open), "user {n}");
        }
        // The credentials were known for that client only.
        failures.wrong(ip("192.0.2.2"), users[0], now, now);
        for tag in guesses {
            failures.wrong(ip("192.0.2.2"), *tag, now, now);
        }
        assert!(matches!(failures.gate(ip("192.0.2.2"), users[1], now), Admission::Delayed(..)));
        // A password that is no longer right counts as a guess.
        failures.wrong(client, users[0], now, now);
        assert!(matches!(failures.gate(client, users[0], now), Admission::Full));
    }

    #[test]
    fn who_guesses_is_told_of_once() {
        let failures = Arc::new(Failures::default());
        let (tags, start) = (tags(40), Instant::now());
        let mut reported = Vec::new();
        for (second, tag) in (0..).zip(&tags) {
            let now = start + Duration::from_secs(second);
            reported.extend(failures.wrong(ip("192.0.2.1"), *tag, now, now));
        }
        assert_eq!(reported, [Guessing(FREE)]);
        // Many guessing clients do not make many lines.
        let now = start + Duration::from_secs(100);
        let mut lines = 0;
        for n in 0..200_u32 {
            for tag in &tags[..10] {
                let client = IpAddr::from(n.to_be_bytes());
                lines += u32::from(failures.wrong(client, *tag, now, now).is_some());
            }
        }
        assert_eq!(lines, 1);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_was_wrong_longest_ago() {
        let failures = Arc::new(Failures::default());
        let (tags, start) = (tags(1), Instant::now());
        for n in 0..3 * MOST_CLIENTS as u32 {
            let now = start + Duration::from_millis(u64::from(n) / 1000);
            failures.wrong(IpAddr::from(n.to_be_bytes()), tags[0], now, now);
            assert!(failures.table.lock().clients.len() <= MOST_CLIENTS);
        }
        let last = IpAddr::from((3 * MOST_CLIENTS as u32 - 1).to_be_bytes());
        assert!(failures.table.lock().clients.contains_key(&last));
    }
}
