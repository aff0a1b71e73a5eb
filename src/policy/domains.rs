//! Holds millions of domain names in a compact set, built once and never changed.
//!
//! Each name has a [`Reach`], a [`Rank`] and the number of its line. Most names stand for themselves and
//! all names below them. If several names cover a host, the highest rank decides, and of equal ranks the
//! earliest line. So a name that is covered by others of at least its own rank can decide nothing, and is
//! dropped when the set is built.
//!
//! A million names take about 28 MB: the names themselves, five bytes each for length, rank, reach and
//! line, and a table with one byte of each hash. That byte is enough to see that most hosts are not
//! listed, at the cost of one cache line for each suffix of the host. A hit is then compared byte by
//! byte, because a hash alone decides nothing.

mod draft;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

pub use draft::{Draft, DraftPart, Dropped, MOST_NAMES, Mark};

/// The most bytes of a name (RFC 1035 §2.3.4, as text).
pub const MOST_BYTES: usize = 253;
/// The most lines of all lists together.
pub const MOST_LINES: u32 = (1 << LINE_BITS) - 1;

const LINE_BITS: u32 = 26;
/// The bytes before a name: its length, rank, line and reach.
const HEADER: usize = 5;

/// What a listed name says about a host below it. The higher rank decides.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rank {
    /// Let through, if no name below it is refused: as resolvers do it, where the longest name decides.
    Pass,
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

const RANKS: [Rank; 6] =
    [Rank::Pass, Rank::Block, Rank::Except, Rank::Important, Rank::ImportantExcept, Rank::Allow];

/// The hosts that a listed name stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reach {
    /// The name and all names below it.
    Subtree,
    /// Only the name itself.
    Name,
    /// All names below it, but not the name itself.
    Below,
}

const REACHES: [Reach; 3] = [Reach::Subtree, Reach::Name, Reach::Below];

impl Reach {
    /// Whether it covers a host: the name itself, or one below it.
    pub fn covers(self, is_name_itself: bool) -> bool {
        match self {
            Self::Subtree => true,
            Self::Name => is_name_itself,
            Self::Below => !is_name_itself,
        }
    }
}

/// What a list says about a name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Said {
    /// The verdict.
    pub rank: Rank,
    /// The hosts it is about.
    pub reach: Reach,
    /// Written as a rule, such as `||ads.example^`, and not as a bare name.
    pub is_rule: bool,
}

/// The entry that decides about a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// What the entry says.
    pub said: Said,
    /// The line, counted through all lists.
    pub line: u32,
    /// The length of the listed name, which the host ends with.
    pub length: usize,
}

/// Rank, line, reach and spelling in 32 bits. A higher rank is a smaller number; so is an earlier line of
/// the same rank.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Value(u32);

impl Value {
    const LINE_AT: u32 = 3;
    const RANK_AT: u32 = LINE_BITS + Self::LINE_AT;

    fn new(said: Said, line: u32) -> Self {
        let Said { rank, reach, is_rule } = said;
        let rank = (7 - rank as u32) << Self::RANK_AT;
        let line = line.min(MOST_LINES) << Self::LINE_AT;
        Self(rank | line | (reach as u32) << 1 | u32::from(is_rule))
    }

    fn rank(self) -> Rank {
        let number = 7 - (self.0 >> Self::RANK_AT) as usize;
        RANKS.get(number).copied().unwrap_or(Rank::Block)
    }

    fn reach(self) -> Reach {
        REACHES.get((self.0 >> 1 & 3) as usize).copied().unwrap_or(Reach::Name)
    }

    fn line(self) -> u32 {
        self.0 >> Self::LINE_AT & MOST_LINES
    }

    fn said(self) -> Said {
        Said { rank: self.rank(), reach: self.reach(), is_rule: self.0 & 1 == 1 }
    }

    fn listed(self, length: usize) -> Listed {
        Listed { said: self.said(), line: self.line(), length }
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
    buckets: Vec<Bucket>,
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
        // What decides by its rank, and what does below the longest name that is passed.
        let mut best: Option<(Value, usize)> = None;
        let mut block: Option<(Value, usize)> = None;
        let mut passed = None;
        self.key.each_suffix(name, |length, labels, hash| {
            if self.labels.have(labels)
                && let Some(suffix) = name.get(name.len() - length..)
                && let Some(value) = self.probe(hash, suffix, length == name.len())
            {
                let found = Some((value, length));
                let is_first =
                    |than: Option<(Value, usize)>| than.is_none_or(|(other, _)| value < other);
                match value.rank() {
                    Rank::Pass => (passed, block) = (found, None),
                    Rank::Block if is_first(block) => block = found,
                    Rank::Block => {}
                    _ if is_first(best) => best = found,
                    _ => {}
                }
            }
        });
        best.or(block).or(passed).map(|(value, length)| value.listed(length))
    }

    /// The entry with exactly this text. Used for addresses, which nothing is below.
    pub fn find_whole(&self, text: &str) -> Option<Listed> {
        let value = self.probe(self.key.hash(text.as_bytes()), text.as_bytes(), true);
        value.map(|value| value.listed(text.len()))
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
        self.entries.len() + size_of_val(self.buckets.as_slice())
    }

    fn probe(&self, hash: u64, name: &[u8], is_name_itself: bool) -> Option<Value> {
        let at = bucket(hash, self.buckets.len() - 1);
        let bucket = self.buckets.get(at)?;
        if bucket.may_have(hash) { self.search(at, name, is_name_itself) } else { None }
    }

    /// The best entry of this name that covers the host. A name has up to three: itself, all below it, and
    /// both.
    fn search(&self, at: usize, name: &[u8], is_name_itself: bool) -> Option<Value> {
        let (from, to) = (self.buckets.get(at)?.start, self.buckets.get(at + 1)?.start);
        let mut rest = self.entries.get(from as usize..to as usize)?;
        let mut best: Option<Value> = None;
        while let [length, v0, v1, v2, v3, after @ ..] = rest {
            let (entry, next) = after.split_at_checked(usize::from(*length))?;
            if entry == name {
                let value = Value(u32::from_le_bytes([*v0, *v1, *v2, *v3]));
                if value.reach().covers(is_name_itself) {
                    best = Some(best.map_or(value, |best| best.min(value)));
                }
            }
            rest = next;
        }
        best
    }
}

impl fmt::Debug for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domains({} names)", self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(rank: Rank, reach: Reach) -> Said {
        Said { rank, reach, is_rule: false }
    }

    fn set(names: &[(&str, Rank)]) -> Domains {
        let names: Vec<_> =
            names.iter().map(|(name, rank)| (*name, said(*rank, Reach::Subtree))).collect();
        set_of(&names)
    }

    fn set_of(names: &[(&str, Said)]) -> Domains {
        let key = NameKey::drawn();
        let mut draft = Draft::new(key, 0);
        for (before, (name, said)) in (0..).zip(names) {
            let mut part = DraftPart::new(key);
            part.add(name.as_bytes(), *said, 1);
            assert!(draft.append(&part, before));
        }
        draft.finish(&[0]).0
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
            let rank = |host: &str| set.find(host).map(|found| found.said.rank);
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
        let block = said(Rank::Block, Reach::Subtree);
        one.add(b"a.example", block, 1);
        two.add(b"b.example", block, 1);
        assert!(draft.append(&one, 0));
        let mark = draft.mark();
        assert!(draft.append(&two, 1));
        draft.back_to(mark);
        assert!(draft.append(&two, 7));
        let set = draft.finish(&[0]).0;
        assert_eq!(set.find("b.example").map(|found| found.line), Some(8));
        assert_eq!((set.len(), set.find("a.example").is_some()), (2, true));
    }

    #[test]
    fn a_name_may_stand_for_itself_alone_or_for_all_below_it() {
        use Rank::{Block, Except};
        let names = [
            ("one.example", said(Block, Reach::Name)),
            ("below.example", said(Block, Reach::Below)),
            ("a.test", said(Block, Reach::Subtree)),
            ("a.test", said(Except, Reach::Name)),
            ("b.test", said(Except, Reach::Below)),
            ("b.test", said(Block, Reach::Subtree)),
            ("c.test", said(Block, Reach::Below)),
            ("c.test", said(Block, Reach::Name)),
        ];
        let set = set_of(&names);
        for (host, expected) in [
            ("one.example", Some(Block)),
            ("x.one.example", None),
            ("below.example", None),
            ("x.y.below.example", Some(Block)),
            ("a.test", Some(Except)),
            ("x.a.test", Some(Block)),
            ("b.test", Some(Block)),
            ("x.b.test", Some(Except)),
            ("c.test", Some(Block)),
            ("x.c.test", Some(Block)),
        ] {
            assert_eq!(set.find(host).map(|found| found.said.rank), expected, "{host}");
        }
        assert_eq!(set.len(), names.len());
        let address = set_of(&[("192.0.2.1", said(Block, Reach::Below))]);
        assert_eq!(address.find_whole("192.0.2.1"), None);
    }

    #[test]
    fn a_passed_name_interrupts_what_is_refused_above_it() {
        use Rank::{Block, Except, Pass};
        let names = [
            ("bad.example", Block),
            ("ok.bad.example", Pass),
            ("deep.ok.bad.example", Block),
            ("x.deep.ok.bad.example", Block),
            ("free.example", Except),
            ("y.free.example", Block),
        ];
        let set = set(&names);
        for (host, line) in [
            ("bad.example", Some(1)),
            ("ok.bad.example", Some(2)),
            ("z.ok.bad.example", Some(2)),
            ("deep.ok.bad.example", Some(3)),
            ("x.deep.ok.bad.example", Some(3)),
            ("y.free.example", Some(5)),
        ] {
            assert_eq!(set.find(host).map(|found| found.line), line, "{host}");
        }
    }

    #[test]
    fn names_that_decide_nothing_are_dropped_and_counted_by_list() {
        use Rank::{Block, Except, Important};
        let rule = Said { is_rule: true, ..said(Block, Reach::Subtree) };
        let lines = [
            // The first list.
            ("a.example", said(Block, Reach::Subtree)),
            ("a.example", said(Block, Reach::Name)),
            ("x.a.example", said(Block, Reach::Below)),
            ("off.example", rule),
            ("off.example", said(Block, Reach::Subtree)),
            // The second.
            ("a.example", rule),
            ("ok.a.example", said(Except, Reach::Subtree)),
            ("y.ok.a.example", said(Block, Reach::Subtree)),
            ("z.ok.a.example", said(Important, Reach::Subtree)),
        ];
        let key = NameKey::drawn();
        let mut draft = Draft::new(key, 0);
        for (before, (name, said)) in (0..).zip(lines) {
            let mut part = DraftPart::new(key);
            part.add(name.as_bytes(), said, 1);
            if before == 8 {
                part.switch_off(b"off.example", rule);
                part.switch_off(b"a.example", said);
            }
            assert!(draft.append(&part, before));
        }
        let (set, dropped) = draft.finish(&[0, 5]);
        let first = Dropped { same_name: 1, wider: 1, overruled: 0, switched_off: 1 };
        let second = Dropped { same_name: 1, wider: 0, overruled: 1, switched_off: 0 };
        assert_eq!(dropped, [first, second]);
        assert_eq!(set.len(), 4);
        assert_eq!(set.find("off.example").map(|found| found.line), Some(5));
    }

    proptest! {
        /// The set answers as a plain search through all names would.
        #[test]
        fn it_answers_as_a_search_through_all_names(
            names in prop::collection::vec(
                ("([ab]{1,2}\\.){0,3}[ab]{1,2}", 0..6_usize, 0..3_usize), 0..40,
            ),
            hosts in prop::collection::vec("([ab]{1,2}\\.){0,5}[ab]{1,2}", 1..20),
        ) {
            let names: Vec<(&str, Said)> = names
                .iter()
                .map(|(name, rank, reach)| (&**name, said(RANKS[*rank], REACHES[*reach])))
                .collect();
            let set = set_of(&names);
            for host in &hosts {
                let covers = |(name, said): &(&str, Said)| {
                    host.strip_suffix(name).is_some_and(|rest| {
                        (rest.is_empty() || rest.ends_with('.'))
                            && said.reach.covers(rest.is_empty())
                    })
                };
                let rank = names.iter().filter(|it| covers(it)).map(|(_, said)| said.rank).max();
                let longest = |rank: Rank| {
                    let of_rank = names.iter().filter(|it| it.1.rank == rank && covers(it));
                    of_rank.map(|(name, _)| name.len()).max()
                };
                let is_passed = longest(Rank::Pass) > longest(Rank::Block);
                let rank = rank.map(|rank| match rank {
                    Rank::Block if is_passed => Rank::Pass,
                    rank => rank,
                });
                let found = set.find(host);
                prop_assert_eq!(found.map(|found| found.said.rank), rank);
                if let Some(found) = found {
                    let (name, said) = names[found.line as usize - 1];
                    let passed = longest(Rank::Pass).filter(|_| said.rank == Rank::Block);
                    prop_assert!(passed.is_none_or(|passed| name.len() >= passed));
                    prop_assert_eq!(found.said, said);
                    prop_assert!(covers(&(name, said)));
                    prop_assert_eq!(found.length, name.len());
                }
            }
            prop_assert!(set.len() <= names.len());
        }
    }
}
