//! Waits for either of two connections on the calling thread, by `poll(2)`.
//!
//! Edges pass through another thread, which is woken for each. A worker that moves a stream instead looks
//! for itself for a moment, and notes what it finds as if an edge had come.
//!
//! `poll` reports the present state, not changes. A fact that is already known is therefore not asked for,
//! and a connection of which nothing is wanted is left out, because `poll` would report its end again and
//! again.

use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::poll::Edge;
use super::stream::Stream;

/// Waits for at most `most`, which is less than a second, and notes what has come. `reads` says for each
/// connection whether bytes, or the end, are wanted; room for bytes is wanted if there is none. Returns
/// whether anything came. Returns `false` at once if nothing is wanted.
pub fn wait_for_either(ends: [(&mut Stream, bool); 2], most: Duration) -> bool {
    let [(one, one_reads), (other, other_reads)] = ends;
    let (of_one, of_other) = (one.wants(one_reads), other.wants(other_reads));
    let edges = {
        let mut polled = [PollFd::new(one.socket(), of_one), PollFd::new(other.socket(), of_other)];
        let asked = match (of_one.is_empty(), of_other.is_empty()) {
            (true, true) => return false,
            (false, true) => polled.get_mut(..1),
            (true, false) => polled.get_mut(1..),
            (false, false) => polled.get_mut(..),
        };
        let timeout = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        // An interrupted wait counts as one for which nothing came.
        if !poll(asked.unwrap_or_default(), Some(&timeout)).is_ok_and(|count| count > 0) {
            return false;
        }
        polled.map(|polled| Edge::of(as_event(polled.revents())))
    };
    let [of_one, of_other] = edges;
    one.note(of_one);
    other.note(of_other);
    true
}

/// The same flags in `epoll`'s form. The bits are equal on most architectures, but not on all.
fn as_event(flags: PollFlags) -> EventFlags {
    const BOTH: [(PollFlags, EventFlags); 6] = [
        (PollFlags::IN, EventFlags::IN),
        (PollFlags::OUT, EventFlags::OUT),
        (PollFlags::PRI, EventFlags::PRI),
        (PollFlags::RDHUP, EventFlags::RDHUP),
        (PollFlags::HUP, EventFlags::HUP),
        (PollFlags::ERR, EventFlags::ERR),
    ];
    let events = BOTH.into_iter().filter(|(polled, _)| flags.contains(*polled));
    events.fold(EventFlags::empty(), |all, (_, event)| all | event)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's peer may block, up to its time limit")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::*;
    use crate::net::buffer::{Buffer, Buffers};
    use crate::net::poll::{Events, Owner, Poller, Wake};
    use crate::net::stream::Received;

    /// Long enough to tell a wait from none on a busy machine.
    const LONG: Duration = Duration::from_millis(300);

    /// A connection as the proxy has it, with everything received so far known, and its peer.
    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut stream = Stream::accepted(listener.accept().unwrap().0);
        assert_eq!(receive(&mut stream).0, Received::Nothing);
        (stream, peer)
    }

    fn receive(stream: &mut Stream) -> (Received, usize) {
        let mut buffer = Buffer::default();
        Buffers::default().lend(&mut buffer);
        let received = stream.receive(&mut buffer).unwrap();
        (received, buffer.len())
    }

    /// Sends until the kernel takes no more.
    fn fill(stream: &mut Stream) -> usize {
        let mut sent = 0;
        while stream.is_writable() {
            sent += stream.send(&[b'x'; 65536]).unwrap();
        }
        sent
    }

    /// Waits. Returns whether anything came and whether it took the whole time.
    fn wait(one: (&mut Stream, bool), other: (&mut Stream, bool), most: Duration) -> (bool, bool) {
        let began = Instant::now();
        let came = wait_for_either([one, other], most);
        (came, began.elapsed() >= most)
    }

    #[test]
    fn what_comes_on_either_is_noted_on_that_one() {
        let ((mut a, mut of_a), (mut b, mut of_b)) = (pair(), pair());
        assert_eq!(of_b.write(b"x").unwrap(), 1);
        assert!(wait_for_either([(&mut a, true), (&mut b, true)], LONG));
        assert!(!a.is_readable() && b.is_readable());
        assert_eq!(receive(&mut b), (Received::Bytes(1), 1));
        let speaks = thread::spawn(move || of_a.write(b"yz").map(|count| (count, of_a)));
        while !wait_for_either([(&mut a, true), (&mut b, true)], LONG) {}
        assert!(a.is_readable() && !b.is_readable());
        assert_eq!(speaks.join().unwrap().unwrap().0, 2);
    }

    #[test]
    fn a_wait_for_nothing_that_comes_has_an_end() {
        let ((mut a, _of_a), (mut b, _of_b)) = (pair(), pair());
        let most = Duration::from_millis(4);
        assert_eq!(wait((&mut a, true), (&mut b, true), most), (false, true));
    }

    #[test]
    fn room_is_noted_where_there_was_none() {
        let ((mut a, mut of_a), (mut b, _of_b)) = (pair(), pair());
        let sent = fill(&mut a);
        let most = Duration::from_millis(4);
        assert_eq!(wait((&mut a, true), (&mut b, true), most), (false, true), "there is none yet");
        let reads = thread::spawn(move || of_a.read_exact(&mut vec![0; sent]).map(|()| of_a));
        let limit = Instant::now() + Duration::from_secs(5);
        while !a.is_writable() {
            assert!(Instant::now() < limit, "room was never reported");
            wait_for_either([(&mut a, true), (&mut b, true)], LONG);
        }
        reads.join().unwrap().unwrap();
    }

    #[test]
    fn a_side_that_is_over_and_of_which_nothing_is_wanted_does_not_spin() {
        let ((mut a, of_a), (mut b, _of_b)) = (pair(), pair());
        // Both its directions have ended: `poll` reports that whatever it is asked for.
        of_a.shutdown(Shutdown::Write).unwrap();
        a.finish().unwrap();
        assert!(
            wait_for_either([(&mut a, true), (&mut b, true)], LONG),
            "the end is reported once"
        );
        assert_eq!(receive(&mut a).0, Received::End);
        assert_eq!(wait((&mut a, false), (&mut b, true), LONG), (false, true));
        assert_eq!(wait((&mut b, true), (&mut a, false), LONG), (false, true));
        // Nothing is wanted of either, so there is nothing to wait for.
        let began = Instant::now();
        assert!(!wait_for_either([(&mut a, false), (&mut b, false)], Duration::from_millis(900)));
        assert!(began.elapsed() < Duration::from_millis(900));
    }

    #[test]
    fn what_is_known_is_not_told_again() {
        let ((mut a, mut of_a), (mut b, _of_b)) = (pair(), pair());
        assert_eq!(of_a.write(b"x").unwrap(), 1);
        assert!(wait_for_either([(&mut a, true), (&mut b, true)], LONG));
        assert_eq!(wait((&mut a, true), (&mut b, true), LONG), (false, true));
        assert_eq!(receive(&mut a).0, Received::Bytes(1));
    }

    #[test]
    fn a_reset_is_told_and_met() {
        let ((mut a, of_a), (mut b, _of_b)) = (pair(), pair());
        let linger = socket2::SockRef::from(&of_a).set_linger(Some(Duration::ZERO));
        linger.unwrap();
        drop(of_a);
        assert!(wait_for_either([(&mut a, true), (&mut b, true)], LONG));
        assert!(a.is_ending() && a.broken().is_some());
    }

    #[test]
    fn urgent_data_is_told_once_and_hides_nothing() {
        let ((mut a, mut of_a), (mut b, _of_b)) = (pair(), pair());
        let urgent = socket2::SockRef::from(&of_a).send_out_of_band(b"!");
        assert_eq!(urgent.unwrap(), 1);
        assert!(wait_for_either([(&mut a, true), (&mut b, true)], LONG));
        let _ = receive_if_readable(&mut a);
        assert_eq!(wait((&mut a, true), (&mut b, true), LONG), (false, true));
        assert_eq!(of_a.write(b"behind").unwrap(), 6);
        assert!(wait_for_either([(&mut a, true), (&mut b, true)], LONG));
        assert_eq!(receive(&mut a), (Received::Bytes(6), 6));
    }

    fn receive_if_readable(stream: &mut Stream) -> Option<Received> {
        stream.is_readable().then(|| receive(stream).0)
    }

    #[derive(Default)]
    struct EdgeLog(Mutex<Vec<Edge>>);

    impl Wake for EdgeLog {
        fn wake(&self, _: u32, edge: Edge) -> bool {
            self.0.lock().push(edge);
            true
        }
    }

    #[test]
    fn what_came_while_edges_were_off_makes_one_when_they_are_on_again() {
        let poller = Arc::new(Poller::new().unwrap());
        let log = Arc::new(EdgeLog::default());
        let owner = Owner { who: log.clone(), tag: 1 };
        let mut events = Events::default();
        let mut look = |within| {
            poller.wait(&mut events, Some(within)).unwrap();
            poller.deliver(&events);
        };
        let (mut a, mut of_a) = pair();
        a.watch(&poller, &owner, false).unwrap();
        a.unwatch();
        assert_eq!(of_a.write(b"x").unwrap(), 1);
        // The byte has arrived before edges are on again, and this thread has waited for it.
        while !wait_for_either([(&mut a, true), (&mut pair().0, false)], LONG) {}
        look(Duration::ZERO);
        assert!(log.0.lock().is_empty(), "edges are off");
        a.watch(&poller, &owner, false).unwrap();
        look(Duration::from_secs(5));
        assert!(log.0.lock().iter().any(|edge| edge.readable));
        // The same for room.
        a.unwatch();
        let sent = fill(&mut a);
        of_a.read_exact(&mut vec![0; sent]).unwrap();
        log.0.lock().clear();
        a.watch(&poller, &owner, true).unwrap();
        look(Duration::from_secs(5));
        assert!(log.0.lock().iter().any(|edge| edge.writable));
        // And for the end.
        a.unwatch();
        drop(of_a);
        assert_eq!(receive(&mut a).0, Received::Bytes(1));
        while !wait_for_either([(&mut a, true), (&mut pair().0, false)], LONG) {}
        log.0.lock().clear();
        a.watch(&poller, &owner, false).unwrap();
        look(Duration::from_secs(5));
        assert!(log.0.lock().iter().any(|edge| edge.closed));
    }
}
