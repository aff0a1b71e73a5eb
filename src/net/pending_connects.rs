//! Limits how many connects to one address are pending, and queues the dials beyond the limit.
//!
//! An address that drops SYNs keeps each connect to it pending for the whole connect timeout, and each
//! holds a socket. Beyond the limit a dial waits in line without a socket, and takes over the place of the
//! first connect that ends. The place goes to the head of the line, which alone is woken; no later dial
//! overtakes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::poll::{Edge, Owner};

/// The pending connects of one proxy, by address. An address without pending connects is not remembered.
pub struct PendingConnects {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Mostly a few: comparing them costs less than hashing.
    addresses: BTreeMap<SocketAddr, Places>,
    /// The total.
    pending: usize,
    /// How many times a dial had to wait in line.
    waits: u64,
    next: u64,
}

/// All places are taken while the line is not empty.
#[derive(Default)]
struct Places {
    /// Places taken, including those handed to a dial that has not looked yet.
    taken: usize,
    line: BTreeMap<u64, Owner>,
    handed: Vec<u64>,
}

/// A place for one pending connect. Dropping it hands the place on.
#[must_use = "the place is given back when this drops"]
pub struct ConnectPlace {
    of: Arc<PendingConnects>,
    to: SocketAddr,
}

/// A turn in the line for a place. Dropping it leaves the line.
pub struct InLine {
    of: Arc<PendingConnects>,
    to: SocketAddr,
    number: u64,
}

impl PendingConnects {
    /// At most `most` connects to each address.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default() })
    }

    /// Takes a place, if one is free.
    pub fn place(self: &Arc<Self>, to: SocketAddr) -> Option<ConnectPlace> {
        self.table.lock().take(to, self.most).then(|| ConnectPlace { of: Arc::clone(self), to })
    }

    /// Takes a place, or a turn in the line for one; `owner` is woken when its turn has come.
    pub fn line_up(self: &Arc<Self>, to: SocketAddr, owner: Owner) -> Result<ConnectPlace, InLine> {
        let mut table = self.table.lock();
        if table.take(to, self.most) {
            return Ok(ConnectPlace { of: Arc::clone(self), to });
        }
        let number = table.next;
        table.next += 1;
        table.waits += 1;
        table.addresses.entry(to).or_default().line.insert(number, owner);
        Err(InLine { of: Arc::clone(self), to, number })
    }

    /// Connects pending now, in all.
    pub fn pending(&self) -> usize {
        self.table.lock().pending
    }

    /// How many times a dial had to wait in line so far.
    pub fn waits(&self) -> u64 {
        self.table.lock().waits
    }

    /// Gives a free place to the head of the line.
    fn hand_on(&self, to: SocketAddr) {
        let owner = self.table.lock().hand_on(to);
        // Without the lock, because waking takes another.
        if let Some(Owner { who, tag }) = owner {
            // A hint, like any edge: a dial that has given up hands the place on when it drops.
            let _ = who.wake(tag, Edge::default());
        }
    }
}

impl Table {
    fn take(&mut self, to: SocketAddr, most: usize) -> bool {
        let places = self.addresses.entry(to).or_default();
        let free = places.taken < most;
        places.taken += usize::from(free);
        self.pending += usize::from(free);
        free
    }

    fn hand_on(&mut self, to: SocketAddr) -> Option<Owner> {
        let places = self.addresses.get_mut(&to)?;
        if let Some((number, owner)) = places.line.pop_first() {
            places.handed.push(number);
            return Some(owner);
        }
        places.taken -= 1;
        self.pending -= 1;
        if places.taken == 0 {
            self.addresses.remove(&to);
        }
        None
    }

    /// Whether `number` was handed a place. The caller then owns the place.
    fn collect(&mut self, to: SocketAddr, number: u64) -> bool {
        let Some(places) = self.addresses.get_mut(&to) else { return false };
        let found = places.handed.iter().position(|&n| n == number);
        found.is_some_and(|i| {
            places.handed.swap_remove(i);
            true
        })
    }
}

impl InLine {
    /// Collects the place, if it was handed over.
    pub fn collect(&self) -> Option<ConnectPlace> {
        let handed = self.of.table.lock().collect(self.to, self.number);
        handed.then(|| ConnectPlace { of: Arc::clone(&self.of), to: self.to })
    }
}

impl Drop for ConnectPlace {
    fn drop(&mut self) {
        self.of.hand_on(self.to);
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let handed = {
            let mut table = self.of.table.lock();
            let places = table.addresses.get_mut(&self.to);
            let stood = places.is_some_and(|p| p.line.remove(&self.number).is_some());
            !stood && table.collect(self.to, self.number)
        };
        if handed {
            self.of.hand_on(self.to);
        }
    }
}

impl std::fmt::Debug for ConnectPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.to)
    }
}

impl std::fmt::Debug for InLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InLine({} {})", self.to, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::poll::Wake;

    #[derive(Default)]
    struct Woken(Mutex<Vec<u32>>);

    impl Wake for Woken {
        fn wake(&self, tag: u32, _: Edge) -> bool {
            self.0.lock().push(tag);
            true
        }
    }

    fn to(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    #[test]
    fn a_place_goes_to_the_head_of_the_line_and_nobody_gets_ahead() {
        let connecting = PendingConnects::new(2);
        let woken = Arc::new(Woken::default());
        let line_up = |tag| connecting.line_up(to(1), Owner { who: woken.clone(), tag });
        let one = connecting.place(to(1)).unwrap();
        let two = line_up(2).unwrap();
        assert!(connecting.place(to(1)).is_none());
        let (three, four, five) =
            (line_up(3).unwrap_err(), line_up(4).unwrap_err(), line_up(5).unwrap_err());
        assert!(connecting.place(to(2)).is_some(), "another address has places of its own");
        assert!(three.collect().is_none());

        drop(one);
        assert_eq!(*woken.0.lock(), [3], "one is woken, not all");
        assert!(connecting.place(to(1)).is_none(), "the place is spoken for");
        assert!(line_up(6).is_err());
        assert!(four.collect().is_none());
        let third = three.collect().unwrap();
        assert!(three.collect().is_none(), "once");

        // One leaves the line, and the next in it gets the place.
        drop(four);
        drop(third);
        assert_eq!(*woken.0.lock(), [3, 5]);
        // One leaves that was handed a place and has not looked. The place goes back.
        drop(five);
        drop((three, two));
        assert_eq!((connecting.pending(), connecting.waits()), (0, 4));
        assert!(connecting.table.lock().addresses.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_line_of_thousands_is_left_in_no_time() {
        let connecting = PendingConnects::new(1);
        let woken = Arc::new(Woken::default());
        let place = connecting.place(to(1)).unwrap();
        let line: Vec<_> = (0..50_000)
            .map(|tag| connecting.line_up(to(1), Owner { who: woken.clone(), tag }).unwrap_err())
            .collect();
        let start = std::time::Instant::now();
        drop(line);
        assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
        drop(place);
        assert!(connecting.table.lock().addresses.is_empty());
        assert!(woken.0.lock().is_empty());
    }
}
