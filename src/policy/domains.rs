//! Holds millions of domain names in a compact set, built once and never changed.
//!
//! A name stands for itself and all names below it. Each has a [`Rank`] and the number of its line. If
//! a host is below several names, the higher rank decides. So a name below one of at least its own rank
//! can decide nothing, and is dropped when the set is built. In what remains, the longest name found
//! decides.
//!
//! A million names take about 28 MB: the names themselves, five bytes each for length, rank and
//! line, and a table with one byte of each hash. That byte is enough to see that most hosts are not
//! listed, at the cost of one cache line for each suffix of the host. A hit is then compared byte by
//! byte, because a hash alone decides nothing.

mod draft;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

pub use draft::{Draft, DraftPart, MOST_NAMES, Mark};

/// The most bytes of a name (RFC 1035 §2.3.4, as text).
pub const MOST_BYTES: usize = 253;
/// The most lines of all lists together.
pub const MOST_LINES: u32 = (1 << LINE_BITS) - 1;

const LINE_BITS: u32 = 29;
/// The bytes before a name: its length, rank and line.
const HEADER: usize = 5;

/// What a listed name says about a host below it. The higher rank decides.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Rank {
    /// Refused by a line of a block list.
    Block,
    /// Allowed by an exception in a block list.
    Except,
    /// Refused in spite of exceptions.
    Important,
    /// Allowed in spite of important lines.
    ImportantExcept,
    /// Allowed by a line of an allow list.
    Allow,
}

const RANKS: [Rank; 5] =
    [Rank::Block, Rank::Except, Rank::Important, Rank::ImportantExcept, Rank::Allow];

/// The entry that decides about a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// The verdict.
    pub rank: Rank,
    /// The line, counted through all lists.
    pub line: u32,
}

/// Rank and line in 32 bits. A higher rank is a smaller number; so is an earlier line of the same rank.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Value(u32);

impl Value {
    fn new(rank: Rank, line: u32) -> Self {
        Self((7 - rank as u32) << LINE_BITS | line.min(MOST_LINES))
    }

    fn rank(self) -> Rank {
        let number = 7 - (self.0 >> LINE_BITS) as usize;
        RANKS.get(number).copied().unwrap_or(Rank::Block)
    }

    fn listed(self) -> Listed {
        Listed { rank: self.rank(), line: self.0 & MOST_LINES }
    }
}

/// The key for hashing names. Names are hashed from their end, so that all suffixes of a host are
/// hashed on the way. The key is drawn when the program starts, so that a list cannot be made whose
/// names all share a bucket.
#[derive(Clone, Copy, Debug)]
pub struct NameKey(u64);

impl NameKey {
    /// Draws a random key.
    pub fn drawn() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// Calls `f` with each suffix that begins a label, the shortest first: its length, its number of
    /// labels, and its hash.
    fn each_suffix(self, name: &[u8], mut f: impl FnMut(usize, u32, u64)) {
        let (mut hash, mut labels) = (self.0, 1);
        for (length, &byte) in name.iter().rev().enumerate() {
            if byte == b'.' {
                f(length, labels, mixed(hash));
                labels += 1;
            }
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
        }
        f(name.len(), labels, mixed(hash));
    }

    fn hash(self, name: &[u8]) -> u64 {
        let mut last = 0;
        self.each_suffix(name, |_, _, hash| last = hash);
        last
    }
}

/// Mixes `hash` so that every bit of the result depends on every bit of it.
fn mixed(hash: u64) -> u64 {
    let product = u128::from(hash ^ 0x2d35_8dcc_aa6c_78a5) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// The bucket for a hash, out of `buckets`; buckets are in the order of hashes.
fn bucket(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

/// The place where the entries of a bucket begin, and a byte of the hash of each.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Bucket {
    start: u32,
    tags: [u8; TAGS],
}

const TAGS: usize = 12;

impl Bucket {
    /// As the first tag, it means that there are more entries than tags.
    const FULL: u8 = 255;

    /// One byte of the hash; 0 is no entry.
    fn tag(hash: u64) -> u8 {
        (hash as u8).clamp(1, Self::FULL - 1)
    }

    /// Whether one of the entries may have this hash.
    fn may_have(&self, hash: u64) -> bool {
        let tag = Self::tag(hash);
        // All tags are compared at once, without a branch for each.
        let same = self.tags.iter().fold(false, |any, own| any | (*own == tag));
        same | matches!(self.tags, [Self::FULL, ..])
    }
}

/// The set of names.
pub struct Domains {
    key: NameKey,
    /// In the order of hashes. A last one marks the end of the one before it.
    buckets: Box<[Bucket]>,
    /// In the order of hashes.
    entries: Vec<u8>,
    labels: Labels,
    count: usize,
}

/// The numbers of labels that names have, a bit each; the last bit stands for all larger numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Labels(u64);

impl Labels {
    fn bit(labels: u32) -> u64 {
        1 << labels.min(63)
    }

    fn have(self, labels: u32) -> bool {
        self.0 & Self::bit(labels) != 0
    }
}

impl Domains {
    /// The entry that decides about a host, a name in lower case without a trailing dot.
    pub fn find(&self, host: &str) -> Option<Listed> {
        let name = host.as_bytes();
        let mut found = None;
        self.key.each_suffix(name, |length, labels, hash| {
            if self.labels.have(labels)
                && let Some(suffix) = name.get(name.len() - length..)
                && let Some(value) = self.probe(hash, suffix)
            {
                found = Some(value);
            }
        });
        found.map(Value::listed)
    }

    /// The entry with exactly this text. Used for addresses, which nothing is below.
    pub fn find_whole(&self, text: &str) -> Option<Listed> {
        self.probe(self.key.hash(text.as_bytes()), text.as_bytes()).map(Value::listed)
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no names.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.entries.len() + size_of_val(&*self.buckets)
    }

    fn probe(&self, hash: u64, name: &[u8]) -> Option<Value> {
        let at = bucket(hash, self.buckets.len() - 1);
        let bucket = self.buckets.get(at)?;
        if bucket.may_have(hash) { self.search(at, name) } else { None }
    }

    fn search(&self, at: usize, name: &[u8]) -> Option<Value> {
        let (from, to) = (self.buckets.get(at)?.start, self.buckets.get(at + 1)?.start);
        let mut rest = self.entries.get(from as usize..to as usize)?;
        while let [length, v0, v1, v2, v3, after @ ..] = rest {
            let (entry, next) = after.split_at_checked(usize::from(*length))?;
            if entry == name {
                return Some(Value(u32::from_le_bytes([*v0, *v1, *v2, *v3])));
            }
            rest = next;
        }
        None
    }
}

impl fmt::Debug for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domains({} names)", self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn set(names: &[(&str, Rank)]) -> Domains {
        let key = NameKey::drawn();
        let mut draft = Draft::new(key, 0);
        for (before, (name, rank)) in (0..).zip(names) {
            let mut part = DraftPart::new(key);
            part.add(name.as_bytes(), *rank, 1);
            assert!(draft.append(&part, before));
        }
        draft.finish()
    }

    fn blocked(names: &[&str]) -> Domains {
        set(&names.iter().map(|name| (*name, Rank::Block)).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_stands_for_itself_and_all_below() {
        let set = blocked(&["ads.example", "tracker.example.com", "zip"]);
        let line = |host: &str| set.find(host).map(|found| found.line);
        for (host, found) in [
            ("ads.example", Some(1)),
            ("a.b.ads.example", Some(1)),
            ("badads.example", None),
            ("example", None),
            ("ads.example.com", None),
            ("x.tracker.example.com", Some(2)),
            ("example.com", None),
            ("a.zip", Some(3)),
            ("", None),
            (".", None),
            ("..", None),
        ] {
            assert_eq!(line(host), found, "{host}");
        }
        assert_eq!(set.find_whole("ads.example").map(|found| found.line), Some(1));
        assert_eq!(set.find_whole("a.ads.example"), None);
        assert_eq!(blocked(&[]).find("a.example"), None);
    }

    #[test]
    fn the_first_line_of_a_name_counts_and_names_below_it_are_left_out() {
        let set = blocked(&["x.a.example", "a.example", "b.example", "a.example", "y.x.a.example"]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.find("y.x.a.example").map(|found| found.line), Some(2));
    }

    #[test]
    fn the_higher_rank_decides_wherever_it_stands() {
        use Rank::{Allow, Block, Except, Important, ImportantExcept};
        let all = [
            ("example", Block),
            ("good.example", Except),
            ("good.example", Block),
            ("bad.good.example", Block),
            ("worse.good.example", Important),
            ("known.worse.good.example", ImportantExcept),
            ("ours.example", Allow),
            ("x.ours.example", Important),
        ];
        let turned: Vec<_> = all.iter().rev().copied().collect();
        for names in [&all[..], &turned] {
            let set = set(names);
            let rank = |host: &str| set.find(host).map(|found| found.rank);
            for (host, expected) in [
                ("a.example", Block),
                ("good.example", Except),
                ("bad.good.example", Except),
                ("worse.good.example", Important),
                ("a.known.worse.good.example", ImportantExcept),
                ("x.ours.example", Allow),
            ] {
                assert_eq!(rank(host), Some(expected), "{host}");
            }
            assert_eq!(set.len(), 5);
        }
    }

    #[test]
    fn what_was_added_since_a_mark_can_be_forgotten() {
        let key = NameKey::drawn();
        let mut draft = Draft::new(key, 0);
        let (mut one, mut two) = (DraftPart::new(key), DraftPart::new(key));
        one.add(b"a.example", Rank::Block, 1);
        two.add(b"b.example", Rank::Block, 1);
        assert!(draft.append(&one, 0));
        let mark = draft.mark();
        assert!(draft.append(&two, 1));
        draft.back_to(mark);
        assert!(draft.append(&two, 7));
        let set = draft.finish();
        assert_eq!(set.find("b.example").map(|found| found.line), Some(8));
        assert_eq!((set.len(), set.find("a.example").is_some()), (2, true));
    }

    proptest! {
        /// The set answers as a plain search through all names would.
        #[test]
        fn it_answers_as_a_search_through_all_names(
            names in prop::collection::vec(("([ab]{1,2}\\.){0,3}[ab]{1,2}", 0..5_usize), 0..40),
            hosts in prop::collection::vec("([ab]{1,2}\\.){0,5}[ab]{1,2}", 1..20),
        ) {
            let names: Vec<(&str, Rank)> =
                names.iter().map(|(name, rank)| (&**name, RANKS[*rank])).collect();
            let set = set(&names);
            let mut first: BTreeMap<&str, Rank> = BTreeMap::new();
            for (name, rank) in &names {
                let known = first.entry(name).or_insert(*rank);
                *known = (*known).max(*rank);
            }
            for host in &hosts {
                let above = names.iter().filter(|(name, _)| {
                    host.strip_suffix(name).is_some_and(|r| r.is_empty() || r.ends_with('.'))
                });
                let rank = above.map(|(_, rank)| *rank).max();
                let found = set.find(host);
                prop_assert_eq!(found.map(|found| found.rank), rank);
                if let Some(found) = found {
                    let (name, rank) = names[found.line as usize - 1];
                    prop_assert_eq!(rank, found.rank);
                    prop_assert!(host.ends_with(name));
                }
            }
            prop_assert!(set.len() <= first.len());
        }
    }
}
