//! The state shared by a listener with few places and a session on one of them: how far the session is,
//! and whether it has to leave.

use std::sync::atomic::{AtomicU8, Ordering};

/// How far a session has come on a place that others want.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occupancy {
    /// Its request is not complete yet.
    Asks,
    /// Its request is being answered.
    IsAnswered,
    /// Its request was answered, and further bytes of the client are thrown away.
    Lingers,
}

/// Set in addition to the step when the place is wanted.
const LEAVE: u8 = 0x80;

/// The state shared by one session and its acceptor.
#[derive(Debug, Default)]
pub struct Seat(AtomicU8);

impl Seat {
    /// Records that the session has come to this step. A request to leave, made at another step, is
    /// dropped.
    pub fn comes_to(&self, step: Occupancy) {
        self.0.store(step as u8, Ordering::SeqCst);
    }

    /// How far the session is.
    pub fn occupancy(&self) -> Occupancy {
        match self.0.load(Ordering::SeqCst) & !LEAVE {
            0 => Occupancy::Asks,
            1 => Occupancy::IsAnswered,
            _ => Occupancy::Lingers,
        }
    }

    /// Asks the session to leave, if it is still at this step. The session has to be woken to see that.
    pub fn ask_to_leave(&self, seen: Occupancy) {
        let seen = seen as u8;
        // A session that has gone on stays, and another one is asked.
        let _ = self.0.compare_exchange(seen, seen | LEAVE, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the session's place is wanted.
    pub fn is_asked_to_leave(&self) -> bool {
        self.0.load(Ordering::SeqCst) & LEAVE != 0
    }
}
