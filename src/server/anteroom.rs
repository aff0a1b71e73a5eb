//! Holds connections to the admin listener while its places are taken.
//!
//! Clients that send nothing, half a request or nothing more must not keep out a client that checks
//! whether the proxy is alive. So a connection is accepted without a place, and one with a complete
//! request gets the next place. To make room, a connection is closed whose request is still incomplete
//! after [`GRACE`], or that was answered [`AFTER`] ago: the oldest of the client with the most places. A
//! client that is slow to take its answer has [`PATIENCE`], but only [`GRACE`] while it has all places
//! and another client waits. When the room itself is full, the oldest connection without a complete
//! request, of the client with the most there, is closed at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::poll::{Edge, Wake};
use crate::net::stream::Stream;
use crate::policy::limits::client_key;
use crate::proxy::seat::{Occupancy, Seat};
use crate::proxy::sides::CLIENT;
use crate::wire::HeadLimits;
use crate::wire::head::{find_end, leading_empty_lines};

/// How long a connection may be without a complete request while others wait for its place.
pub const GRACE: Duration = Duration::from_millis(200);
/// How long a connection may stay after its answer.
pub const AFTER: Duration = Duration::from_millis(20);
/// How long a client may take to receive its answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How many connections may wait.
const ROOM: usize = 32;
/// How much of a request is examined before its connection has a place. A longer request waits for a
/// free place.
const LOOKED_AT: usize = 8 * 1024;

/// A connection without a place.
pub struct Arrived {
    /// The connection.
    pub stream: Stream,
    /// The client's address.
    pub address: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
}

/// A connection in the room.
struct Visitor {
    one: Arrived,
    says: Says,
}

/// What a connection has sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Says {
    /// This many bytes, which are no complete request.
    Part(usize),
    /// Something that can be answered.
    Whole,
    /// The end.
    Gone,
}

/// A connection with a place.
struct Guest {
    seat: Arc<Seat>,
    slot: Arc<dyn Wake>,
    client: IpAddr,
    /// How far it was when last checked, and since when.
    step: Occupancy,
    since: Instant,
}

/// The connections that wait, and those with places.
pub struct Anteroom {
    head_time: Duration,
    limits: HeadLimits,
    waiting: Vec<Visitor>,
    guests: Vec<Guest>,
    /// The bytes examined last.
    looked_at: Vec<u8>,
}

impl Visitor {
    fn client(&self) -> IpAddr {
        client_key(self.one.address.ip())
    }

    fn is_whole(&self) -> bool {
        self.says == Says::Whole
    }

    /// Checks what the connection has sent meanwhile.
    fn look(&mut self, limits: &HeadLimits, buffer: &mut [u8]) {
        let Says::Part(known) = self.says else { return };
        let count = match self.one.stream.peek(buffer) {
            Ok(None) => return,
            Ok(Some(0)) | Err(_) => {
                self.says = Says::Gone;
                return;
            }
            Ok(Some(count)) => count,
        };
        if count == known {
            return;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        let head = bytes.get(leading_empty_lines(bytes)..).unwrap_or_default();
        self.says = match find_end(head, &mut 0, limits) {
            Ok(None) => Says::Part(count),
            // A faulty request is answered at once, too.
            Ok(Some(_)) | Err(_) => Says::Whole,
        };
    }
}

impl Guest {
    /// Whether the session at the other end of the seat is gone.
    fn has_left(&self) -> bool {
        Arc::strong_count(&self.seat) == 1
    }

    fn look(&mut self, now: Instant) {
        let step = self.seat.occupancy();
        if step != self.step {
            (self.step, self.since) = (step, now);
        }
    }

    /// Whether the session may be asked to leave; `patience` is for one that is being answered.
    fn is_due(&self, patience: Duration, now: Instant) -> bool {
        let grace = match self.step {
            Occupancy::Asks => GRACE,
            Occupancy::IsAnswered => patience,
            Occupancy::Lingers => AFTER,
        };
        !self.seat.is_asked_to_leave() && now.saturating_duration_since(self.since) >= grace
    }
}

impl Anteroom {
    /// An empty room. A request must be complete within `head_time`.
    pub fn new(head_time: Duration, limits: HeadLimits) -> Self {
        let (waiting, guests, looked_at) = (Vec::new(), Vec::new(), Vec::new());
        Self { head_time, limits, waiting, guests, looked_at }
    }

    /// How long a request may take to become complete.
    pub fn head_time(&self) -> Duration {
        self.head_time
    }

    /// Whether no connection waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether no further connection may come in, because all those here have complete requests.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= ROOM && self.waiting.iter().all(Visitor::is_whole)
    }

    /// Takes one more connection in. Another may have to go for it.
    pub fn enter(&mut self, one: Arrived) {
        self.waiting.push(Visitor { one, says: Says::Part(0) });
        self.look();
        if self.waiting.len() > ROOM {
            let parts = self.waiting.iter().enumerate().filter(|(_, one)| !one.is_whole());
            let many = |one: &Visitor| {
                self.waiting.iter().filter(|other| other.client() == one.client()).count()
            };
            // The first of those with equally many is the oldest.
            let most = parts.rev().max_by_key(|(_, one)| many(one));
            let place = most.map_or(self.waiting.len() - 1, |(place, _)| place);
            self.waiting.remove(place);
        }
    }

    /// Checks what the waiting connections have sent, and drops those that are gone.
    fn look(&mut self) {
        self.looked_at.resize(LOOKED_AT, 0);
        self.waiting.iter_mut().for_each(|one| one.look(&self.limits, &mut self.looked_at));
        self.waiting.retain(|one| one.says != Says::Gone);
    }

    /// Takes out the connection for a free place: one with a complete request, of the client with the
    /// fewest places.
    pub fn leave_for_a_place(&mut self) -> Option<Arrived> {
        self.guests.retain(|guest| !guest.has_left());
        self.look();
        let places = |one: &Visitor| self.places_of(one.client());
        let first = self.waiting.iter().enumerate();
        let (place, _) = first.min_by_key(|(_, one)| (!one.is_whole(), places(one)))?;
        Some(self.waiting.remove(place).one)
    }

    /// Records a session that now has a place.
    pub fn seat(&mut self, seat: Arc<Seat>, slot: Arc<dyn Wake>, client: IpAddr, since: Instant) {
        self.guests.retain(|guest| !guest.has_left());
        let step = seat.occupancy();
        self.guests.push(Guest { seat, slot, client: client_key(client), step, since });
    }

    /// Asks one session to leave for each complete request that waits. A connection that waits too long
    /// without one is dropped.
    pub fn make_way(&mut self, now: Instant) {
        self.guests.retain(|guest| !guest.has_left());
        self.guests.iter_mut().for_each(|guest| guest.look(now));
        self.look();
        let head_time = self.head_time;
        let in_time = |one: &Visitor| now.saturating_duration_since(one.one.since) < head_time;
        self.waiting.retain(|one| one.is_whole() || in_time(one));
        let wanted = self.waiting.iter().filter(|one| one.is_whole()).count();
        let asked = self.guests.iter().filter(|guest| guest.seat.is_asked_to_leave()).count();
        for _ in asked..wanted {
            let due = self.guests.iter().filter(|guest| guest.is_due(self.patience(guest), now));
            let rank =
                |guest: &Guest| (guest.step != Occupancy::IsAnswered, self.places_of(guest.client));
            // The first of those with equal rank is the oldest.
            let Some(guest) = due.rev().max_by_key(|guest| rank(guest)) else { return };
            guest.seat.ask_to_leave(guest.step);
            let _ = guest.slot.wake(CLIENT, Edge::default());
        }
    }

    /// How long this session's client may take to receive its answer.
    fn patience(&self, guest: &Guest) -> Duration {
        let mut others = self.waiting.iter().filter(|one| one.is_whole());
        let has_all = self.guests.iter().all(|other| other.client == guest.client);
        if has_all && others.any(|one| one.client() != guest.client) { GRACE } else { PATIENCE }
    }

    /// How many places a client has, without those of sessions asked to leave.
    fn places_of(&self, client: IpAddr) -> usize {
        let stay = self.guests.iter().filter(|guest| !guest.seat.is_asked_to_leave());
        stay.filter(|guest| guest.client == client).count()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::buffer::{Buffer, Buffers};
    use crate::net::stream::double::{CODED_END, CODED_TICKET, coded};

    const HEAD_TIME: Duration = Duration::from_secs(3);
    const WHOLE: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self, _: u32, _: Edge) -> bool {
            true
        }
    }

    fn room() -> (Anteroom, Instant) {
        (Anteroom::new(HEAD_TIME, HeadLimits::default()), Instant::now())
    }

    /// A connection of the client with this number, and its other end, which sends `says`.
    fn connection(client: u8, since: Instant, says: &[u8]) -> (Arrived, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = Stream::accepted(listener.accept().unwrap().0);
        assert_eq!(peer.write(says).unwrap(), says.len());
        // Bytes sent over loopback have arrived.
        assert_eq!(stream.is_stale(), !says.is_empty());
        (Arrived { stream, address: address(client), since }, peer)
    }

    fn address(client: u8) -> SocketAddr {
        ([192, 0, 2, client], 1).into()
    }

    /// Gives each client of `clients` a place, one a millisecond.
    fn seated(room: &mut Anteroom, now: Instant, clients: &[u8]) -> Vec<Arc<Seat>> {
        let seat = |(i, client): (usize, &u8)| {
            let (seat, since) = (Arc::<Seat>::default(), now + Duration::from_millis(i as u64));
            room.seat(Arc::clone(&seat), Arc::new(Nobody), address(*client).ip(), since);
            seat
        };
        clients.iter().enumerate().map(seat).collect()
    }

    fn asked(seats: &[Arc<Seat>]) -> Vec<bool> {
        seats.iter().map(|seat| seat.is_asked_to_leave()).collect()
    }

    #[test]
    fn in_a_full_room_the_oldest_without_a_request_of_the_client_with_the_most_goes() {
        for says in [&b""[..], b"G", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"] {
            let (mut room, now) = room();
            let mut peers = Vec::new();
            let mut enter = |room: &mut Anteroom, client, says: &[u8]| {
                let (waiting, peer) = connection(client, now, says);
                peers.push(peer);
                room.enter(waiting);
            };
            enter(&mut room, 1, b"");
            enter(&mut room, 2, b"GET");
            enter(&mut room, 3, WHOLE);
            (0..ROOM * 3).for_each(|_| enter(&mut room, 3, says));
            assert_eq!(room.waiting.len(), ROOM);
            let clients: Vec<IpAddr> = room.waiting.iter().map(Visitor::client).collect();
            assert_eq!(clients[..3], [1, 2, 3].map(|client| address(client).ip()));
            assert!(!room.is_full(), "others can go");
            assert_eq!(room.leave_for_a_place().unwrap().address, address(3), "{says:?}");
            assert_eq!(room.leave_for_a_place().unwrap().address, address(1));
            (0..ROOM * 2).for_each(|_| enter(&mut room, 4, WHOLE));
            assert!(room.is_full() && room.waiting.len() == ROOM);
        }
    }

    #[test]
    fn who_has_gone_or_is_without_a_request_for_too_long_waits_no_more() {
        let (mut room, now) = room();
        let mut seats = seated(&mut room, now, &[1]);
        let (gone, peer) = connection(2, now, b"");
        let (late, _late) = connection(2, now, b"GET ");
        let (whole, _whole) = connection(2, now, WHOLE);
        let (fault, _fault) = connection(2, now, b"GET / HTTP/1.1\n\n");
        [gone, late, whole, fault].into_iter().for_each(|one| room.enter(one));
        drop(peer);
        room.make_way(now);
        let says = |room: &Anteroom| room.waiting.iter().map(|one| one.says).collect::<Vec<_>>();
        assert_eq!(says(&room), [Says::Part(4), Says::Whole, Says::Whole]);
        room.make_way(now + HEAD_TIME);
        assert_eq!(says(&room), [Says::Whole; 2]);
        seats.clear();
    }

    /// A layer's messages on the wire are no request, and a request in plain text means nothing to a
    /// layer.
    #[test]
    fn who_has_a_layer_is_heard_through_it() {
        let (mut room, now) = room();
        let wire = [&[CODED_TICKET; 100][..], &coded(WHOLE)].concat();
        let rows = [
            (wire, Some(Says::Whole)),
            (coded(b"GET /"), Some(Says::Part(5))),
            (vec![CODED_TICKET], Some(Says::Part(0))),
            (WHOLE.to_vec(), Some(Says::Part(WHOLE.len()))),
            (vec![CODED_END], None),
        ];
        for (wire, says) in rows {
            let (mut one, _peer) = connection(1, now, &wire);
            one.stream = one.stream.doubled_willingly(3);
            room.enter(one);
            assert_eq!(room.waiting.last().map(|one| one.says), says, "{wire:x?}");
            // The bytes were left to be received.
            let Some(mut one) = room.leave_for_a_place().filter(|_| says == Some(Says::Whole))
            else {
                room.waiting.clear();
                continue;
            };
            let mut buffer = Buffer::default();
            Buffers::default().lend(&mut buffer);
            while one.stream.is_readable() {
                one.stream.receive(&mut buffer).unwrap();
            }
            assert_eq!(buffer.unread(), WHOLE);
        }
    }

    #[test]
    fn who_has_no_request_for_long_has_to_leave_and_only_for_who_has_one() {
        let (mut room, now) = room();
        let seats = seated(&mut room, now, &[1, 2, 2, 2]);
        let later = now + GRACE + Duration::from_millis(3);
        let (silent, _silent) = connection(3, now, b"");
        let (part, _part) = connection(3, now, b"GET");
        [silent, part].into_iter().for_each(|one| room.enter(one));
        room.make_way(later);
        assert_eq!(asked(&seats), [false; 4]);
        let (whole, _peer) = connection(3, now, WHOLE);
        room.enter(whole);
        room.make_way(now + GRACE - Duration::from_millis(1));
        assert_eq!(asked(&seats), [false; 4], "not yet");
        seats[1].comes_to(Occupancy::IsAnswered);
        room.make_way(later);
        room.make_way(later);
        assert_eq!(asked(&seats), [false, false, true, false], "one for one");
        drop(seats);
        assert_eq!(room.leave_for_a_place().unwrap().address, address(3));
        assert!(room.guests.is_empty());
    }

    #[test]
    fn who_was_asked_and_has_a_request_now_stays_and_another_is_asked() {
        let (mut room, now) = room();
        let seats = seated(&mut room, now, &[1, 1]);
        let (whole, _peer) = connection(2, now, WHOLE);
        room.enter(whole);
        let later = now + GRACE + Duration::from_millis(3);
        room.make_way(later);
        assert_eq!(asked(&seats), [true, false]);
        seats[0].comes_to(Occupancy::IsAnswered);
        room.make_way(later);
        assert_eq!(asked(&seats), [false, true]);
        // The session has gone on before it could be asked.
        let seat = Seat::default();
        seat.comes_to(Occupancy::IsAnswered);
        seat.ask_to_leave(Occupancy::Asks);
        assert!(!seat.is_asked_to_leave());
    }

    #[test]
    fn who_lingers_has_to_leave_soon_and_who_is_answered_later() {
        for (client, grace) in [(1, PATIENCE), (2, GRACE)] {
            let (mut room, now) = room();
            let seats = seated(&mut room, now, &[1, 1, 1]);
            let (whole, _peer) = connection(client, now, WHOLE);
            let (also_whole, _peer) = connection(client, now, WHOLE);
            [whole, also_whole].into_iter().for_each(|one| room.enter(one));
            seats.iter().for_each(|seat| seat.comes_to(Occupancy::IsAnswered));
            room.make_way(now + Duration::from_millis(3));
            let then = now + GRACE;
            seats[2].comes_to(Occupancy::Lingers);
            room.make_way(then + Duration::from_millis(1));
            assert_eq!(asked(&seats), [false; 3], "none for long");
            room.make_way(then + AFTER + Duration::from_millis(1));
            assert_eq!(asked(&seats), [client == 2, false, true]);
            room.make_way(now + grace * 2);
            assert_eq!(asked(&seats), [true, false, true]);
        }
    }
}
