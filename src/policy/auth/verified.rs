//! Remembers which user a token belongs to, so that its password hash is computed once and not
//! for each request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use super::token_tag::Tag;

/// The time for which a right token is accepted without computing its hash again.
pub const KEPT_RIGHT: Duration = Duration::from_secs(15 * 60);
/// The time for which a wrong token is refused without computing its hash again.
pub const KEPT_WRONG: Duration = Duration::from_secs(60);
/// The number of tokens remembered of each sort, 48 bytes each. The sorts are apart so that
/// guesses cannot push out right tokens.
pub const MOST_RESULTS: usize = 4096;

/// Right and wrong tokens.
#[derive(Debug, Default)]
pub struct Results {
    right: Table<u32>,
    wrong: Table<()>,
}

type Table<V> = HashMap<Tag, (V, Instant), BuildHasherDefault<RecentHalf>>;

impl Results {
    /// The result remembered for a token: its user, or that it has none.
    #[inline]
    pub fn find(&self, tag: Tag, now: Instant) -> Option<Option<u32>> {
        if let Some((user, until)) = self.right.get(&tag)
            && *until > now
        {
            return Some(Some(*user));
        }
        self.wrong.get(&tag).filter(|(_, until)| *until > now).map(|_| None)
    }

    /// Remembers the result for a token.
    pub fn insert(&mut self, tag: Tag, user: Option<u32>, now: Instant) {
        match user {
            Some(user) => {
                self.wrong.remove(&tag);
                insert(&mut self.right, tag, user, now + KEPT_RIGHT, now);
            }
            None => {
                self.right.remove(&tag);
                insert(&mut self.wrong, tag, (), now + KEPT_WRONG, now);
            }
        }
    }
}

fn insert<V>(table: &mut Table<V>, tag: Tag, value: V, until: Instant, now: Instant) {
    if table.len() >= MOST_RESULTS && !table.contains_key(&tag) {
        table.retain(|_, (_, until)| *until > now);
        // Drops the oldest quarter, which happens rarely.
        if table.len() >= MOST_RESULTS {
            let mut moments: Vec<Instant> = table.values().map(|(_, until)| *until).collect();
            let (_, &mut last, _) = moments.select_nth_unstable(MOST_RESULTS / 4);
            table.retain(|_, (_, until)| *until > last);
        }
    }
    table.insert(tag, (value, until));
}

/// Takes a tag as its hash, because a tag is a hash already.
#[derive(Debug, Default)]
pub struct RecentHalf(u64);

impl Hasher for RecentHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_u128(&mut self, tag: u128) {
        self.0 = tag as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::token_tag::TagKey;
    use super::*;

    #[test]
    fn results_are_remembered_for_a_while() {
        let (key, now) = (TagKey::draw(), Instant::now());
        let (right, wrong) = (key.tag(b"right"), key.tag(b"wrong"));
        let mut results = Results::default();
        results.insert(right, Some(3), now);
        results.insert(wrong, None, now);
        let second = Duration::from_secs(1);
        for (tag, after, expected) in [
            (right, Duration::ZERO, Some(Some(3))),
            (right, KEPT_RIGHT - second, Some(Some(3))),
            (right, KEPT_RIGHT, None),
            (wrong, KEPT_WRONG - second, Some(None)),
            (wrong, KEPT_WRONG, None),
            (key.tag(b"other"), Duration::ZERO, None),
        ] {
            assert_eq!(results.find(tag, now + after), expected);
        }
        results.insert(right, None, now);
        assert_eq!(results.find(right, now), Some(None));
        results.insert(right, Some(4), now);
        assert_eq!(results.find(right, now), Some(Some(4)));
    }

    #[test]
    fn the_table_is_bounded_and_guesses_push_out_nobody() {
        let (key, now) = (TagKey::draw(), Instant::now());
        let mut results = Results::default();
        let right = key.tag(b"right");
        results.insert(right, Some(0), now);
        for n in 0..3 * MOST_RESULTS {
            let later = now + Duration::from_millis(n as u64 / 1000);
            results.insert(key.tag(&n.to_le_bytes()), None, later);
            assert!(results.wrong.len() <= MOST_RESULTS);
        }
        assert_eq!(results.find(right, now), Some(Some(0)));
        let last = key.tag(&(3 * MOST_RESULTS - 1).to_le_bytes());
        assert_eq!(results.find(last, now), Some(None));
        for n in 0..3 * MOST_RESULTS {
            let later = now + Duration::from_millis(n as u64 / 1000);
            results.insert(key.tag(&n.to_le_bytes()), Some(1), later);
            assert!(results.right.len() <= MOST_RESULTS);
        }
    }
}
