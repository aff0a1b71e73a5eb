//! What the acceptor of few places and a session on one of them tell each other: how far the
//! session is, and that it has to leave.

use std::sync::atomic::{AtomicU8, Ordering};

/// How far a session on a place that others want has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occupancy {
    /// Its request is not whole yet.
    Asks,
    /// It is being answered.
    IsAnswered,
    /// It was answered, and what the client still sends is thrown away.
    Lingers,
}

/// Set beside the step when the place is wanted.
const LEAVE: u8 = 0x80;

/// Between one session and its acceptor.
#[derive(Debug, Default)]
pub struct Seat(AtomicU8);

impl Seat {
    /// The session has come to this step. Whoever was asked to leave at another one may stay.
    pub fn comes_to(&self, step: Occupancy) {
        self.0.store(step as u8, Ordering::SeqCst);
    }

    /// How far it is.
    pub fn occupancy(&self) -> Occupancy {
        match self.0.load(Ordering::SeqCst) & !LEAVE {
            0 => Occupancy::Asks,
            1 => Occupancy::IsAnswered,
            _ => Occupancy::Lingers,
        }
    }

    /// Its place is wanted, if it is still at this step. The session has to be woken to see that.
    pub fn ask_to_leave(&self, seen: Occupancy) {
        let seen = seen as u8;
        // If it has gone on it stays: another is asked.
        let _ = self.0.compare_exchange(seen, seen | LEAVE, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether its place is wanted.
    pub fn is_asked_to_leave(&self) -> bool {
        self.0.load(Ordering::SeqCst) & LEAVE != 0
    }
}
