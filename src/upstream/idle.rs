//! Lists idle connections by destination, newest first, and by how long they have waited.
//!
//! This is pure bookkeeping: [`pool`](super::pool) has the sockets, the clock and the lock. Each entry has
//! a place, a small number that stays the same while the entry is here. Every operation is a few writes,
//! except finding a destination by its name.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// How many destinations without idle entries are remembered, to keep their memory.
const EMPTY_KEPT: usize = 256;

/// The number that stands for no place.
const NONE: u32 = u32::MAX;

/// Idle entries of one kind.
#[derive(Debug)]
pub(super) struct Idle<T> {
    places: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    /// Index into `lists`, by destination.
    names: HashMap<Box<str>, u32>,
    lists: Vec<List>,
    free_lists: Vec<u32>,
    /// The ends of the list of all entries, in order of arrival.
    oldest: u32,
    latest: u32,
    count: usize,
}

/// The entries of one destination.
#[derive(Debug, Default)]
struct List {
    /// Empty if the list is free.
    name: Box<str>,
    /// The latest is last.
    places: VecDeque<u32>,
}

/// Where the list of a destination was. The list may be gone since.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListHint(u32);

impl Default for ListHint {
    fn default() -> Self {
        Self(NONE)
    }
}

/// One entry at its place.
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// The thing kept.
    pub(super) kept: T,
    /// When it arrived.
    pub(super) since: Instant,
    /// When it has to go.
    pub(super) until: Instant,
    list: u32,
    /// Its neighbours in the list of all entries.
    before: u32,
    after: u32,
}

impl<T> Entry<T> {
    /// Where the list of its destination is.
    pub(super) fn list(&self) -> ListHint {
        ListHint(self.list)
    }
}

/// A place about to be filled.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Free {
    pub(super) place: u32,
    list: u32,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            lists: Vec::new(),
            free_lists: Vec::new(),
            oldest: NONE,
            latest: NONE,
            count: 0,
        }
    }
}

impl<T> Idle<T> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many places there are, filled or not.
    pub(super) fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The entry at a place.
    pub(super) fn at(&mut self, place: u32) -> Option<&mut Entry<T>> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// Takes the latest entry of a destination.
    pub(super) fn take(&mut self, destination: &str) -> Option<Entry<T>> {
        let list = *self.names.get(destination)?;
        let place = self.lists.get_mut(list as usize)?.places.pop_back()?;
        self.vacate(place)
    }

    /// Takes the entry of a destination that has waited longest.
    pub(super) fn take_longest(&mut self, destination: &str) -> Option<Entry<T>> {
        let list = *self.names.get(destination)?;
        let place = self.lists.get_mut(list as usize)?.places.pop_front()?;
        self.vacate(place)
    }

    /// When the latest entry of a destination arrived.
    pub(super) fn latest(&mut self, destination: &str) -> Option<Instant> {
        let list = *self.names.get(destination)?;
        let place = *self.lists.get(list as usize)?.places.back()?;
        self.at(place).map(|entry| entry.since)
    }

    /// Finds a free place for one more entry of a destination, and returns the entry evicted for it. With
    /// `per_destination` entries of this destination, or `total` in all, the one that has waited longest is
    /// evicted.
    // Inlined into the code that keeps a connection, which runs once an exchange.
    #[inline(always)]
    pub(super) fn make_room(
        &mut self,
        destination: &str,
        hint: ListHint,
        per_destination: usize,
        total: usize,
    ) -> (Free, Option<Entry<T>>) {
        let hinted = self.lists.get(hint.0 as usize).filter(|list| *list.name == *destination);
        let list = match hinted {
            Some(_) => hint.0,
            None => self.list(destination),
        };
        let same = self.lists.get(list as usize).map(|list| &list.places);
        let first = same.filter(|places| places.len() >= per_destination);
        let goes = match first.and_then(|places| places.front()) {
            Some(&place) => self.remove(place),
            None if self.count >= total => self.remove(self.oldest),
            None => None,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        (Free { place, list }, goes)
    }

    /// Puts a thing at a free place, as the latest of all entries and of its destination.
    #[inline(always)]
    pub(super) fn fill(&mut self, free: Free, kept: T, since: Instant, until: Instant) {
        let Free { place, list } = free;
        if let Some(list) = self.lists.get_mut(list as usize) {
            list.places.push_back(place);
        }
        let before = self.latest;
        if let Some(free) = self.places.get_mut(place as usize) {
            *free = Some(Entry { kept, since, until, list, before, after: NONE });
        }
        self.count += 1;
        self.join(before, place);
        self.join(place, NONE);
    }

    /// Puts a thing back where it was in the order of arrival, given the time it arrived. The search for
    /// its neighbours starts at the latest entry, because an entry that was just taken was near it.
    pub(super) fn put_back(&mut self, free: Free, kept: T, since: Instant, until: Instant) {
        let Free { place, list } = free;
        let places = &self.places;
        let is_later = |place: u32| {
            let entry = places.get(place as usize).and_then(Option::as_ref);
            entry.is_some_and(|entry| entry.since > since)
        };
        if let Some(list) = self.lists.get_mut(list as usize) {
            let later = list.places.iter().rev().take_while(|place| is_later(**place)).count();
            list.places.insert(list.places.len() - later, place);
        }
        let (mut before, mut after) = (self.latest, NONE);
        while is_later(before) {
            after = before;
            let entry = self.places.get(before as usize).and_then(Option::as_ref);
            before = entry.map_or(NONE, |entry| entry.before);
        }
        if let Some(free) = self.places.get_mut(place as usize) {
            *free = Some(Entry { kept, since, until, list, before, after });
        }
        self.count += 1;
        self.join(before, place);
        self.join(place, after);
    }

    /// Frees a place that is not filled after all.
    pub(super) fn leave(&mut self, free: Free) {
        self.free.push(free.place);
    }

    /// The destination of the entry at a place.
    pub(super) fn destination(&self, place: u32) -> Option<&str> {
        let entry = self.places.get(place as usize)?.as_ref()?;
        self.lists.get(entry.list as usize).map(|list| &*list.name)
    }

    /// Removes the entry at a place.
    pub(super) fn remove(&mut self, place: u32) -> Option<Entry<T>> {
        let entry = self.vacate(place)?;
        if let Some(List { places, .. }) = self.lists.get_mut(entry.list as usize) {
            if places.front() == Some(&place) {
                places.pop_front();
            } else {
                places.retain(|&other| other != place);
            }
        }
        Some(entry)
    }

    /// Removes every entry.
    pub(super) fn clear(&mut self) -> Vec<Entry<T>> {
        std::mem::take(self).places.into_iter().flatten().collect()
    }

    /// Empties a place that its destination no longer lists.
    fn vacate(&mut self, place: u32) -> Option<Entry<T>> {
        let entry = self.places.get_mut(place as usize)?.take()?;
        self.join(entry.before, entry.after);
        self.free.push(place);
        self.count -= 1;
        Some(entry)
    }

    /// Makes two places neighbours in the list of all entries; [`NONE`] marks either end.
    fn join(&mut self, before: u32, after: u32) {
        match self.at(before) {
            Some(entry) => entry.after = after,
            None => self.oldest = after,
        }
        match self.at(after) {
            Some(entry) => entry.before = before,
            None => self.latest = before,
        }
    }

    /// The list of a destination, by its name.
    fn list(&mut self, destination: &str) -> u32 {
        if let Some(&list) = self.names.get(destination) {
            return list;
        }
        if self.names.len() >= self.count + EMPTY_KEPT {
            self.forget_empty();
        }
        let list = self.free_lists.pop().unwrap_or_else(|| {
            self.lists.push(List::default());
            self.lists.len() as u32 - 1
        });
        if let Some(free) = self.lists.get_mut(list as usize) {
            free.name = destination.into();
        }
        self.names.insert(destination.into(), list);
        list
    }

    fn forget_empty(&mut self) {
        let (lists, free_lists) = (&mut self.lists, &mut self.free_lists);
        self.names.retain(|_, &mut place| {
            let Some(list) = lists.get_mut(place as usize) else { return false };
            if list.places.is_empty() {
                list.name = Box::default();
                free_lists.push(place);
            }
            !list.places.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(idle: &mut Idle<u32>, destination: &str, n: u32, limits: (usize, usize)) -> Option<u32> {
        // A hint changes nothing, right or wrong.
        let hint = if n.is_multiple_of(3) { ListHint::default() } else { ListHint(n % 5) };
        let (free, goes) = idle.make_room(destination, hint, limits.0, limits.1);
        let now = Instant::now();
        idle.fill(free, n, now, now);
        goes.map(|entry| entry.kept)
    }

    fn take(idle: &mut Idle<u32>, destination: &str) -> Option<u32> {
        idle.take(destination).map(|entry| entry.kept)
    }

    #[test]
    fn the_latest_of_a_destination_is_taken_first() {
        let mut idle = Idle::default();
        for (n, destination) in ["a", "b", "a", "b"].into_iter().enumerate() {
            assert_eq!(put(&mut idle, destination, n as u32, (9, 9)), None);
        }
        assert_eq!(take(&mut idle, "c"), None);
        assert_eq!([take(&mut idle, "a"), take(&mut idle, "a")], [Some(2), Some(0)]);
        assert_eq!((take(&mut idle, "a"), idle.len()), (None, 2));
    }

    #[test]
    fn the_one_of_a_destination_that_waited_longest_is_taken_when_asked_for() {
        let mut idle = Idle::default();
        for (n, destination) in ["a", "b", "a", "a"].into_iter().enumerate() {
            assert_eq!(put(&mut idle, destination, n as u32, (9, 9)), None);
        }
        let mut longest = |name| idle.take_longest(name).map(|entry| entry.kept);
        assert_eq!([longest("a"), longest("a"), longest("c")], [Some(0), Some(2), None]);
        assert!(idle.latest("a").is_some() && idle.latest("c").is_none());
        assert_eq!([take(&mut idle, "a"), take(&mut idle, "b")], [Some(3), Some(1)]);
        assert_eq!((idle.latest("a"), idle.len()), (None, 0));
    }

    #[test]
    fn what_waited_longest_goes_where_there_is_no_room() {
        let mut idle = Idle::default();
        let rows = [("a", 0), ("b", 1), ("a", 2)];
        for (destination, n) in rows {
            assert_eq!(put(&mut idle, destination, n, (2, 4)), None);
        }
        // The limit of two a destination, then that of four in all.
        assert_eq!(put(&mut idle, "a", 3, (2, 4)), Some(0));
        assert_eq!(put(&mut idle, "c", 4, (2, 4)), None);
        assert_eq!(put(&mut idle, "d", 5, (2, 4)), Some(1));
        assert_eq!(put(&mut idle, "d", 6, (2, 4)), Some(2));
        assert_eq!(idle.len(), 4);
    }

    #[test]
    fn names_without_anything_idle_are_forgotten_in_time() {
        let mut idle = Idle::default();
        for n in 0..10_000 {
            put(&mut idle, &format!("{n}.test"), n, (9, 9));
            assert_eq!(take(&mut idle, &format!("{n}.test")), Some(n));
        }
        assert!(idle.names.len() <= EMPTY_KEPT + 1, "{} names", idle.names.len());
        assert!(idle.lists.len() <= EMPTY_KEPT + 1, "{} lists", idle.lists.len());
        assert_eq!(idle.places.len(), 1);
    }

    proptest! {
        /// Compares with the plainest model that does the same.
        #[test]
        fn it_is_a_list_in_the_order_of_coming(
            steps in prop::collection::vec((0_u8..3, 0_usize..4), 1..300),
        ) {
            const LIMITS: (usize, usize) = (3, 7);
            let names = ["a", "b", "c", "d"];
            let mut idle = Idle::default();
            let mut model: Vec<(usize, u32)> = Vec::new();
            for (n, (what, which)) in steps.into_iter().enumerate() {
                let n = n as u32;
                match what {
                    0 => {
                        let at = model.iter().rposition(|(name, _)| *name == which);
                        let expected = at.map(|at| model.remove(at).1);
                        prop_assert_eq!(take(&mut idle, names[which]), expected);
                    }
                    1 => {
                        let place = (0..idle.places()).find(|&p| {
                            idle.at(p).is_some_and(|e| model.get(which).is_some_and(|m| m.1 == e.kept))
                        });
                        let removed = place.and_then(|p| idle.remove(p)).map(|e| e.kept);
                        let expected = (which < model.len()).then(|| model.remove(which).1);
                        prop_assert_eq!(removed, expected);
                    }
                    _ => {
                        let same = model.iter().filter(|(name, _)| *name == which).count();
                        let goes = if same >= LIMITS.0 {
                            model.iter().position(|(name, _)| *name == which)
                        } else {
                            (model.len() >= LIMITS.1).then_some(0)
                        };
                        let expected = goes.map(|at| model.remove(at).1);
                        model.push((which, n));
                        prop_assert_eq!(put(&mut idle, names[which], n, LIMITS), expected);
                    }
                }
                prop_assert_eq!(idle.len(), model.len());
            }
            let mut left: Vec<u32> = idle.clear().into_iter().map(|e| e.kept).collect();
            left.sort_unstable();
            let expected: Vec<u32> = model.into_iter().map(|(_, n)| n).collect();
            prop_assert_eq!(left, expected);
            prop_assert_eq!((idle.len(), idle.oldest, idle.latest), (0, NONE, NONE));
        }
    }
}
