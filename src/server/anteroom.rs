//! Where connections to the admin listener wait when its places are taken.
//!
//! Connections that say nothing must not keep those out that ask whether the proxy is alive. So a
//! connection is accepted without a place, and one that has said something gets the next. For it the oldest
//! silent one has to go that has had its place for [`GRACE`], of the client that has the most places. Here it is the
//! same: when the room is full the oldest silent one of the client with the most goes, at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::poll::{Edge, Wake};
use crate::net::stream::Stream;
use crate::policy::limits::client_key;
use crate::proxy::door::Door;
use crate::proxy::exchange::CLIENT;

/// How long a connection may say nothing while others wait for its place.
pub const GRACE: Duration = Duration::from_millis(200);
/// How many wait at most.
const ROOM: usize = 32;

/// A connection without a place.
pub struct Waiting {
    /// The connection.
    pub stream: Stream,
    /// Whose it is.
    pub address: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
}

/// A connection that has one.
struct Guest {
    door: Arc<Door>,
    slot: Arc<dyn Wake>,
    client: IpAddr,
    since: Instant,
}

/// Those who wait, and those who have places.
#[derive(Default)]
pub struct Anteroom {
    waiting: Vec<Waiting>,
    guests: Vec<Guest>,
}

impl Waiting {
    /// Whether it has said something, or has ended.
    fn has_spoken(&self) -> bool {
        self.stream.is_stale()
    }

    fn client(&self) -> IpAddr {
        client_key(self.address.ip())
    }
}

impl Guest {
    /// The session that had the other end of the door is gone.
    fn has_left(&self) -> bool {
        Arc::strong_count(&self.door) == 1
    }

    fn is_silent(&self) -> bool {
        !self.door.has_spoken() && !self.door.is_asked_to_leave()
    }
}

impl Anteroom {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nobody more may come in, since all have said something.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= ROOM && self.waiting.iter().all(Waiting::has_spoken)
    }

    /// One more waits. Another may have to go for it.
    pub fn enter(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        if self.waiting.len() > ROOM {
            let silent = self.waiting.iter().enumerate().filter(|(_, one)| !one.has_spoken());
            let many = |one: &Waiting| {
                self.waiting.iter().filter(|other| other.client() == one.client()).count()
            };
            // The first of those with as many is the oldest.
            let most = silent.rev().max_by_key(|(_, one)| many(one));
            if let Some((place, _)) = most {
                self.waiting.remove(place);
            }
        }
    }

    /// Who gets a place that is free: whoever has said something, of the client with the fewest places.
    pub fn leave_for_a_place(&mut self) -> Option<Waiting> {
        self.guests.retain(|guest| !guest.has_left());
        let places = |one: &Waiting| self.places_of(one.client());
        let first = self.waiting.iter().enumerate();
        let (place, _) = first.min_by_key(|(_, one)| (!one.has_spoken(), places(one)))?;
        Some(self.waiting.remove(place))
    }

    /// It has a place now.
    pub fn seat(&mut self, door: Arc<Door>, slot: Arc<dyn Wake>, client: IpAddr, since: Instant) {
        self.guests.retain(|guest| !guest.has_left());
        self.guests.push(Guest { door, slot, client: client_key(client), since });
    }

    /// Asks as many silent ones to leave as wait with something to say.
    pub fn make_way(&mut self, now: Instant) {
        self.guests.retain(|guest| !guest.has_left());
        let wanted = self.waiting.iter().filter(|one| one.has_spoken()).count();
        let asked = self.guests.iter().filter(|guest| guest.door.is_asked_to_leave()).count();
        for _ in asked..wanted {
            let silent = self.guests.iter().filter(|guest| guest.is_silent());
            let due = silent.filter(|guest| now.duration_since(guest.since) >= GRACE);
            // The first of those with as many is the oldest.
            let Some(guest) = due.rev().max_by_key(|guest| self.places_of(guest.client)) else {
                return;
            };
            guest.door.ask_to_leave();
            let _ = guest.slot.wake(CLIENT, Edge::default());
        }
    }

    fn places_of(&self, client: IpAddr) -> usize {
        self.guests.iter().filter(|guest| guest.client == client).count()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self, _: u32, _: Edge) -> bool {
            true
        }
    }

    /// A connection of the client with this number, and its other end.
    fn connection(client: u8, since: Instant) -> (Waiting, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = Stream::accepted(listener.accept().unwrap().0);
        (Waiting { stream, address: ([192, 0, 2, client], 1).into(), since }, peer)
    }

    #[test]
    fn in_a_full_room_the_oldest_silent_one_of_the_client_with_the_most_goes() {
        let (mut room, now) = (Anteroom::default(), Instant::now());
        let mut peers = Vec::new();
        let mut enter = |room: &mut Anteroom, client, says: &[u8]| {
            let (waiting, mut peer) = connection(client, now);
            assert_eq!(peer.write(says).unwrap(), says.len());
            // What was sent over loopback is there.
            assert_eq!(waiting.has_spoken(), !says.is_empty());
            peers.push(peer);
            room.enter(waiting);
        };
        enter(&mut room, 1, b"");
        enter(&mut room, 2, b"GET");
        (0..ROOM * 3).for_each(|_| enter(&mut room, 3, b""));
        assert_eq!(room.waiting.len(), ROOM);
        let clients: Vec<IpAddr> = room.waiting.iter().map(Waiting::client).collect();
        assert_eq!(clients[..2], [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
        assert!(!room.is_full(), "silent ones can go");
        assert_eq!(room.leave_for_a_place().unwrap().client(), IpAddr::from([192, 0, 2, 2]));
    }

    #[test]
    fn only_who_is_silent_for_long_has_to_leave_and_only_for_who_has_something_to_say() {
        let (mut room, now) = (Anteroom::default(), Instant::now());
        let doors: Vec<Arc<Door>> = (0..4).map(|_| Arc::default()).collect();
        for (i, (door, client)) in doors.iter().zip([1, 2, 2, 2]).enumerate() {
            let since = now + Duration::from_millis(i as u64);
            room.seat(Arc::clone(door), Arc::new(Nobody), [192, 0, 2, client].into(), since);
        }
        let asked = || doors.iter().map(|door| door.is_asked_to_leave()).collect::<Vec<_>>();
        let later = now + GRACE + Duration::from_millis(2);
        let (silent, _peer) = connection(3, now);
        room.enter(silent);
        room.make_way(later);
        assert_eq!(asked(), [false; 4]);
        let (speaks, mut peer) = connection(3, now);
        assert_eq!(peer.write(b"GET").unwrap(), 3);
        room.enter(speaks);
        room.make_way(now + GRACE - Duration::from_millis(1));
        assert_eq!(asked(), [false; 4], "not yet");
        doors[1].speak();
        room.make_way(later);
        room.make_way(later);
        assert_eq!(asked(), [false, false, true, false], "one for one");
        drop(doors);
        assert!(room.leave_for_a_place().is_some_and(|one| one.has_spoken()));
        assert!(room.guests.is_empty());
    }
}
