//! A set of millions of domain names in compact form, built once and never changed.
//!
//! A name stands for itself and all below it. Each has a [`Rank`] and the number of the line it comes
//! from. Of two that a host is below, the higher rank decides; so a name that is below one of at least
//! its own rank can decide nothing, and is left out when the set is made. What remains has a simple
//! order: the longest one found decides.
//!
//! A million names take about 28 MB: the names themselves, five bytes each for what belongs to them,
//! and a table with a byte of each hash, which is enough to see that most hosts are not there: that
//! costs one cache line for each suffix of the host. What is found is compared byte by byte: a hash
//! alone decides nothing.

mod draft;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

pub use draft::{Draft, DraftPart, MOST_NAMES, Mark};

/// Bytes of a name at most (RFC 1035 §2.3.4, as text).
pub const MOST_BYTES: usize = 253;
/// Lines of all lists together at most.
pub const MOST_LINES: u32 = (1 << LINE_BITS) - 1;

const LINE_BITS: u32 = 29;
/// Before a name: its length, rank and line.
const HEADER: usize = 5;

/// What is to be done with a host below a name. The higher decides.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Rank {
    /// Refuse it: a line of a block list.
    Block,
    /// Let it through: an exception in a block list.
    Except,
    /// Refuse it in spite of exceptions.
    Important,
    /// Let it through in spite of that.
    ImportantExcept,
    /// Let it through: a line of an allow list.
    Allow,
}

const RANKS: [Rank; 5] =
    [Rank::Block, Rank::Except, Rank::Important, Rank::ImportantExcept, Rank::Allow];

/// A name that was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// What is to be done.
    pub rank: Rank,
    /// The line, counted through all lists.
    pub line: u32,
}

/// Rank and line in 32 bits, the higher rank and the earlier line being the smaller number.
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

/// How names are hashed: from their end, so that all suffixes of a host are hashed on the way. The key
/// is drawn when the program starts: a list cannot be made so that all its names share a bucket.
#[derive(Clone, Copy, Debug)]
pub struct NameKey(u64);

impl NameKey {
    /// A key nobody knows.
    pub fn drawn() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    /// Calls `f` with each suffix that begins a label, the shortest first: its length, how many labels
    /// it has, and its hash.
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

/// Every bit of the result hangs on every bit of `hash`.
fn mixed(hash: u64) -> u64 {
    let product = u128::from(hash ^ 0x2d35_8dcc_aa6c_78a5) * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// Which of so many buckets: the higher the hash, the later the bucket.
fn bucket(hash: u64, buckets: usize) -> usize {
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

/// Where the entries of a bucket begin, and a byte of the hash of each.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Bucket {
    start: u32,
    tags: [u8; TAGS],
}

const TAGS: usize = 12;

impl Bucket {
    /// As the first tag: there are more entries than tags.
    const FULL: u8 = 255;

    /// 0 stands for no entry.
    fn tag(hash: u64) -> u8 {
        (hash as u8).clamp(1, Self::FULL - 1)
    }

    /// Whether one of the entries may have this hash.
    fn may_have(&self, hash: u64) -> bool {
        let tag = Self::tag(hash);
        // Without a branch for each: they are compared all at once.
        let same = self.tags.iter().fold(false, |any, own| any | (*own == tag));
        same | matches!(self.tags, [Self::FULL, ..])
    }
}

/// The set.
pub struct Domains {
    key: NameKey,
    /// In the order of the hashes in them; behind the last stands one more, which says where that ends.
    buckets: Box<[Bucket]>,
    /// In the order of their hashes.
    entries: Vec<u8>,
    labels: Labels,
    count: usize,
}

/// Which numbers of labels names have, a bit each; the last stands for all above.
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
    /// What decides about a host, which is a name in lower case without a dot at its end.
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

    /// What is listed as exactly this: an address, which nothing is below.
    pub fn find_whole(&self, text: &str) -> Option<Listed> {
        self.probe(self.key.hash(text.as_bytes()), text.as_bytes()).map(Value::listed)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of memory.
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
