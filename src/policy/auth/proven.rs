//! Remembers which credentials were right from which client, so that they do not count as guesses.
//!
//! The set is bounded and has no lock. Each pair of client and credentials is a number under a key of
//! the set's own, and has four possible places. Two pairs share a number as rarely as a key is guessed;
//! the gain from finding two would be to skip a wait.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::token_tag::{Tag, TagKey};

/// The number of pairs remembered, 8 bytes each, allocated with the first. A new pair replaces another
/// if its four places are taken.
pub const MOST_PROVEN: usize = 65_536;
/// The number of places that a pair may take.
const WAYS: usize = 4;

/// The set of pairs.
#[derive(Default)]
pub struct Proven(OnceLock<Places>);

struct Places {
    key: TagKey,
    /// Zero marks a free place.
    numbers: Box<[AtomicU64]>,
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proven(***)")
    }
}

impl Proven {
    /// Whether these credentials were right from this client.
    pub fn contains(&self, client: IpAddr, tag: Tag) -> bool {
        let Some(places) = self.0.get() else { return false };
        let (number, own) = places.of(client, tag);
        own.iter().any(|place| place.load(Ordering::Relaxed) == number)
    }

    /// Adds these credentials of this client.
    pub fn insert(&self, client: IpAddr, tag: Tag) {
        let places = self.0.get_or_init(Places::new);
        let (number, own) = places.of(client, tag);
        if own.iter().any(|place| place.load(Ordering::Relaxed) == number) {
            return;
        }
        let free = own.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        // Two pairs inserted at the same time may take the same place. One is lost, and waits once more.
        if let Some(place) = free.or_else(|| own.get((number >> 1) as usize % WAYS)) {
            place.store(number, Ordering::Relaxed);
        }
    }

    /// Removes credentials that are no longer right.
    pub fn remove(&self, client: IpAddr, tag: Tag) {
        let Some(places) = self.0.get() else { return };
        let (number, own) = places.of(client, tag);
        for place in own {
            let _ = place.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Places {
    fn new() -> Self {
        Self { key: TagKey::draw(), numbers: (0..MOST_PROVEN).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The number of a pair, and its possible places.
    fn of(&self, client: IpAddr, tag: Tag) -> (u64, &[AtomicU64]) {
        let client = match client {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut pair = [0; 24];
        let (front, back) = pair.split_at_mut(16);
        front.copy_from_slice(&client.octets());
        back.copy_from_slice(&tag.head().to_le_bytes());
        let number = self.key.tag(&pair).head() | 1;
        let from = (number >> 32) as usize % (MOST_PROVEN / WAYS) * WAYS;
        (number, self.numbers.get(from..from + WAYS).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_there_until_it_is_taken_out() {
        let (key, proven) = (TagKey::draw(), Proven::default());
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let (a, b) = (key.tag(b"a"), key.tag(b"b"));
        assert!(!proven.contains(one, a));
        proven.insert(one, a);
        proven.insert(one, a);
        assert!(proven.contains(one, a) && !proven.contains(one, b) && !proven.contains(two, a));
        proven.remove(one, b);
        assert!(proven.contains(one, a));
        proven.remove(one, a);
        assert!(!proven.contains(one, a));
    }

    #[test]
    fn thousands_are_kept_and_no_more_than_there_are_places() {
        let (key, proven) = (TagKey::draw(), Proven::default());
        let client = IpAddr::from([192, 0, 2, 1]);
        let tags: Vec<Tag> = (0..200_000_u32).map(|n| key.tag(&n.to_le_bytes())).collect();
        let kept = |tags: &[Tag]| tags.iter().filter(|tag| proven.contains(client, **tag)).count();
        tags[..10_000].iter().for_each(|tag| proven.insert(client, *tag));
        assert!(kept(&tags) > 9_900, "{}", kept(&tags));
        tags.iter().for_each(|tag| proven.insert(client, *tag));
        assert!((MOST_PROVEN / 2..=MOST_PROVEN).contains(&kept(&tags)), "{}", kept(&tags));
    }
}
