//! Builds a set of domain names out of parts of lists that arrive in any order.

use std::collections::HashSet;
use std::ops::Range;

use rayon::prelude::*;

#[cfg(feature = "internals")]
use super::Listed;
use super::{Bucket, Domains, HEADER, Labels, NameKey, Rank, Said, TAGS, Value, bucket};

/// The most names of all lists together, doubles included. While lists are read and sorted, a name
/// takes about 70 bytes.
pub const MOST_NAMES: usize = 10_000_000;
/// The mean number of names in a bucket. A bucket has tags for twice as many, which is enough for all
/// but one bucket in a hundred.
const IN_A_BUCKET: usize = 6;
/// An allocation of this size is a mapping of its own: untouched pages take no memory, and all of it
/// is returned to the system at once. (glibc does not raise its threshold for that any higher.)
const LARGE: usize = (32 << 20) + 1;

/// A name on its way into the set. The order is the order of the finished set: by hash, and for one
/// name the entry that decides first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Entry {
    hash: u64,
    value: Value,
    /// The place of its name, a byte with the length before it.
    at: u32,
}

/// The names of a piece of a list.
#[derive(Debug)]
pub struct DraftPart {
    key: NameKey,
    names: Vec<u8>,
    entries: Vec<Entry>,
    off: Vec<(Box<[u8]>, Said)>,
}

impl DraftPart {
    /// An empty piece.
    pub fn new(key: NameKey) -> Self {
        Self { key, names: Vec::new(), entries: Vec::new(), off: Vec::new() }
    }

    /// Adds a name in lower case, of 1 to `MOST_BYTES` bytes, without a trailing dot. Lines are
    /// counted from the beginning of the piece.
    pub fn add(&mut self, name: &[u8], said: Said, line: u32) {
        let (Ok(at), Ok(length)) = (u32::try_from(self.names.len()), u8::try_from(name.len()))
        else {
            return;
        };
        let value = Value::new(said, line);
        self.entries.push(Entry { hash: self.key.hash(name), value, at });
        self.names.push(length);
        self.names.extend_from_slice(name);
    }

    /// Switches off all entries that say exactly this about this name, in all lists.
    pub fn switch_off(&mut self, name: &[u8], said: Said) {
        self.off.push((name.into(), said));
    }

    /// The names in their order.
    #[cfg(feature = "internals")]
    pub fn each(&self) -> impl Iterator<Item = (&[u8], Listed)> {
        self.entries.iter().map(|entry| {
            let name = name_at(&self.names, entry.at);
            (name, entry.value.listed(name.len()))
        })
    }

    /// The number of names.
    #[cfg(feature = "internals")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no names.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A set that is being built.
#[derive(Debug)]
pub struct Draft {
    key: NameKey,
    names: Vec<u8>,
    entries: Vec<Entry>,
    off: Vec<(Box<[u8]>, Said)>,
}

/// The length of a draft at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    names: usize,
    entries: usize,
    off: usize,
}

/// The entries of a list that decide nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// The same name is listed for the same, on another line or in another list.
    pub same_name: usize,
    /// A name above is listed for the same.
    pub wider: usize,
    /// A rule of a higher rank covers the same hosts.
    pub overruled: usize,
    /// A rule with `$badfilter` names it.
    pub switched_off: usize,
}

impl Draft {
    /// An empty draft for lists of about this many bytes.
    pub fn new(key: NameKey, bytes: usize) -> Self {
        let entries = roomy(bytes / size_of::<Entry>());
        Self { key, names: roomy(bytes), entries, off: Vec::new() }
    }

    /// Adds the names of a piece; `lines_before` counts the lines of all lists before it. Returns
    /// `false`, and adds nothing, if there would be more than [`MOST_NAMES`].
    pub fn append(&mut self, part: &DraftPart, lines_before: u32) -> bool {
        if self.entries.len() + part.entries.len() > MOST_NAMES {
            return false;
        }
        let Ok(before) = u32::try_from(self.names.len()) else { return false };
        self.names.extend_from_slice(&part.names);
        self.entries.extend(part.entries.iter().map(|entry| Entry {
            hash: entry.hash,
            value: Value::new(entry.value.said(), entry.value.line() + lines_before),
            at: entry.at + before,
        }));
        self.off.extend_from_slice(&part.off);
        true
    }

    /// The number of names, doubles included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no names.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Marks the current length.
    pub fn mark(&self) -> Mark {
        Mark { names: self.names.len(), entries: self.entries.len(), off: self.off.len() }
    }

    /// Drops everything added since the mark.
    pub fn back_to(&mut self, mark: Mark) {
        self.names.truncate(mark.names);
        self.entries.truncate(mark.entries);
        self.off.truncate(mark.off);
    }

    /// Builds the set, on the threads of the current pool. `starts` is the number of lines before each
    /// list, in rising order; what was dropped is counted for each.
    pub fn finish(self, starts: &[u32]) -> (Domains, Vec<Dropped>) {
        let Self { key, names, mut entries, off } = self;
        let mut dropped = vec![Dropped::default(); starts.len()];
        let mut list = |value: Value, count: fn(&mut Dropped) -> &mut usize| {
            let list = starts.partition_point(|before| *before < value.line());
            if let Some(dropped) = list.checked_sub(1).and_then(|at| dropped.get_mut(at)) {
                *count(dropped) += 1;
            }
        };
        if !off.is_empty() {
            let off: HashSet<(&[u8], Said)> =
                off.iter().map(|(name, said)| (&**name, *said)).collect();
            entries.retain(|entry| {
                let said = entry.value.said();
                let is_on = !said.is_rule || !off.contains(&(name_at(&names, entry.at), said));
                if !is_on {
                    list(entry.value, |dropped| &mut dropped.switched_off);
                }
                is_on
            });
        }
        entries.par_sort_unstable();
        let mut same = SameName::default();
        entries.retain(|entry| match same.covered(&names, entry) {
            None => true,
            Some(by) if by == entry.value.rank() => {
                list(entry.value, |dropped| &mut dropped.same_name);
                false
            }
            Some(_) => {
                list(entry.value, |dropped| &mut dropped.overruled);
                false
            }
        });
        let above = covered_from_above(key, &names, &entries);
        let mut above = above.iter();
        entries.retain(|entry| match above.next().copied().flatten() {
            None => true,
            Some(by) if by == entry.value.rank() => {
                list(entry.value, |dropped| &mut dropped.wider);
                false
            }
            Some(_) => {
                list(entry.value, |dropped| &mut dropped.overruled);
                false
            }
        });
        (lay_out(key, &names, &entries), dropped)
    }
}

/// The entries of one name, the ones that decide first coming first.
#[derive(Default)]
struct SameName {
    last: Option<Entry>,
    /// The ranks that cover the name itself, and all names below it.
    itself: Option<Rank>,
    below: Option<Rank>,
}

impl SameName {
    /// The lowest rank needed to cover all that the entry is about, if earlier entries of its name do.
    fn covered(&mut self, names: &[u8], entry: &Entry) -> Option<Rank> {
        let is_same = self.last.is_some_and(|last| {
            last.hash == entry.hash && name_at(names, last.at) == name_at(names, entry.at)
        });
        if !is_same {
            *self = Self { last: Some(*entry), ..Self::default() };
        }
        let (rank, reach) = (entry.value.rank(), entry.value.reach());
        let (itself, below) = (self.itself, self.below);
        let mut by = Some(Rank::Allow);
        if reach.covers(true) {
            by = by.min(itself);
            self.itself = itself.or(Some(rank));
        }
        if reach.covers(false) {
            by = by.min(below);
            self.below = below.or(Some(rank));
        }
        by
    }
}

/// An empty vector with room for `count` items; if that is much, in a mapping of its own.
fn roomy<T>(count: usize) -> Vec<T> {
    let most = LARGE.div_ceil(size_of::<T>());
    Vec::with_capacity(if count > most / 32 { count.max(most) } else { count })
}

fn name_at(names: &[u8], at: u32) -> &[u8] {
    let rest = names.get(at as usize..).unwrap_or_default();
    match rest {
        [length, rest @ ..] => rest.get(..usize::from(*length)).unwrap_or_default(),
        [] => &[],
    }
}

/// The numbers of labels that occur in the names.
fn labels(names: &[u8], entries: &[Entry]) -> Labels {
    let dots = |entry: &Entry| {
        let name = name_at(names, entry.at);
        name.iter().filter(|&&byte| byte == b'.').count() as u32
    };
    let bits = entries.par_iter().map(|entry| Labels::bit(dots(entry) + 1));
    Labels(bits.reduce(|| 0, |a, b| a | b))
}

/// The number of buckets for this many entries.
fn buckets_for(entries: usize) -> usize {
    (entries / IN_A_BUCKET).max(1)
}

/// For each entry the highest rank of a name above that covers it, if that is at least its own. Such an
/// entry can decide nothing.
fn covered_from_above(key: NameKey, names: &[u8], entries: &[Entry]) -> Vec<Option<Rank>> {
    let buckets = buckets_for(entries.len());
    let mut starts = Vec::with_capacity(buckets + 1);
    for (number, entry) in (0_u32..).zip(entries) {
        starts.resize(starts.len().max(bucket(entry.hash, buckets) + 1), number);
    }
    starts.resize(buckets + 1, entries.len() as u32);
    let labels = labels(names, entries);
    let find = |hash: u64, name: &[u8]| {
        let at = bucket(hash, buckets);
        let (from, to) = (*starts.get(at)?, *starts.get(at + 1)?);
        let all = entries.get(from as usize..to as usize)?;
        // The first decides first.
        let found = all.iter().find(|e| {
            e.hash == hash && e.value.reach().covers(false) && name_at(names, e.at) == name
        });
        found.map(|entry| entry.value.rank())
    };
    // A passed name interrupts what is refused above it, and needs it.
    let covers = |above: Rank, own: Rank| match (above, own) {
        (Rank::Pass | Rank::Block, Rank::Pass) => false,
        _ => above >= own,
    };
    let covered = |entry: &Entry| {
        let name = name_at(names, entry.at);
        let mut by = None;
        key.each_suffix(name, |length, count, hash| {
            if length < name.len()
                && labels.have(count)
                && let Some(suffix) = name.get(name.len() - length..)
                && let Some(above) = find(hash, suffix)
            {
                if above == Rank::Pass && by == Some(Rank::Block) {
                    by = None;
                }
                if covers(above, entry.value.rank()) {
                    by = by.max(Some(above));
                }
            }
        });
        by
    };
    entries.par_iter().map(covered).collect()
}

/// Entries of consecutive buckets, and their place in the set.
struct Shard<'a> {
    from: &'a [Entry],
    numbers: Range<usize>,
    /// The place of its first byte among all bytes.
    before: u32,
    bytes: &'a mut [u8],
    buckets: &'a mut [Bucket],
}

fn lay_out(key: NameKey, names: &[u8], entries: &[Entry]) -> Domains {
    const SHARDS: usize = 64;
    let count = buckets_for(entries.len());
    let limit = |shard: usize| count * shard / SHARDS;
    let edge = |at: usize| entries.partition_point(|e| bucket(e.hash, count) < limit(at));
    let of = |shard: usize| entries.get(edge(shard)..edge(shard + 1)).unwrap_or_default();
    let size = |entry: &Entry| HEADER + name_at(names, entry.at).len();
    let sizes = (0..SHARDS).into_par_iter().map(|shard| of(shard).iter().map(size).sum());
    let sizes: Vec<usize> = sizes.collect();
    let total: usize = sizes.iter().sum();
    let mut bytes = roomy(total);
    bytes.resize(total, 0);
    let end = Bucket { start: total as u32, tags: [0; TAGS] };
    let mut buckets = roomy(count + 1);
    buckets.resize(count + 1, end);

    let (mut bytes_left, mut buckets_left) = (&mut *bytes, &mut *buckets);
    let (mut shards, mut before) = (Vec::with_capacity(SHARDS), 0);
    for (number, size) in sizes.into_iter().enumerate() {
        let numbers = limit(number)..limit(number + 1);
        let (bytes, rest) = bytes_left.split_at_mut(size);
        bytes_left = rest;
        let (buckets, rest) = buckets_left.split_at_mut(numbers.len());
        buckets_left = rest;
        shards.push(Shard { from: of(number), numbers, before, bytes, buckets });
        before += size as u32;
    }
    shards.into_par_iter().for_each(|shard| shard.fill(names, count));
    let labels = labels(names, entries);
    Domains { key, buckets, entries: bytes, labels, count: entries.len() }
}

impl Shard<'_> {
    fn fill(self, names: &[u8], count: usize) {
        let (mut left, mut before) = (self.bytes, self.before);
        let mut entries = self.from.iter().peekable();
        for (number, own) in self.numbers.zip(self.buckets) {
            own.start = before;
            let mut tags = own.tags.iter_mut();
            let mut is_full = false;
            while let Some(entry) = entries.next_if(|e| bucket(e.hash, count) == number) {
                match tags.next() {
                    Some(tag) => *tag = Bucket::tag(entry.hash),
                    None => is_full = true,
                }
                let name = name_at(names, entry.at);
                let (bytes, rest) = left.split_at_mut(HEADER + name.len());
                if let [length, v0, v1, v2, v3, text @ ..] = bytes {
                    *length = name.len() as u8;
                    [*v0, *v1, *v2, *v3] = entry.value.0.to_le_bytes();
                    text.copy_from_slice(name);
                }
                before += (HEADER + name.len()) as u32;
                left = rest;
            }
            if is_full && let [first, ..] = &mut own.tags {
                *first = Bucket::FULL;
            }
        }
    }
}
