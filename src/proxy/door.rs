//! What the acceptor of few places and a session on one of them tell each other: whether the client has
//! said anything, and that it has to leave if it has not.

use std::sync::atomic::{AtomicBool, Ordering};

/// Between one session and its acceptor.
#[derive(Debug, Default)]
pub struct Door {
    spoke: AtomicBool,
    leave: AtomicBool,
}

impl Door {
    /// The client has said something.
    pub fn speak(&self) {
        self.spoke.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn has_spoken(&self) -> bool {
        self.spoke.load(Ordering::Relaxed)
    }

    /// Its place is wanted. The session has to be woken to see that.
    pub fn ask_to_leave(&self) {
        self.leave.store(true, Ordering::SeqCst);
    }

    /// Whether its place is wanted.
    pub fn is_asked_to_leave(&self) -> bool {
        self.leave.load(Ordering::SeqCst)
    }
}
