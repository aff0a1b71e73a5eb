//! Limits how many client connections may be open at once.
//!
//! The limit is a count; it sizes no table. With no permit left the acceptor waits and connections queue in
//! the kernel's backlog.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The permits of one proxy.
#[derive(Debug)]
pub struct Permits {
    left: Mutex<Left>,
    returned: Condvar,
}

#[derive(Debug)]
struct Left {
    count: usize,
    waiting: bool,
    closed: bool,
}

/// A place for one connection; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "the place is given back when this drops"]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// Permits for `count` connections.
    pub fn new(count: usize) -> Arc<Self> {
        let left = Left { count, waiting: false, closed: false };
        Arc::new(Self { left: Mutex::new(left), returned: Condvar::new() })
    }

    /// Takes a place, if one is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let mut left = self.left.lock();
        if left.count == 0 || left.closed {
            return None;
        }
        left.count -= 1;
        Some(Permit(Arc::clone(self)))
    }

    /// Waits for a place. `None` when the permits are closed.
    pub fn take(self: &Arc<Self>) -> Option<Permit> {
        let mut left = self.left.lock();
        while left.count == 0 && !left.closed {
            left.waiting = true;
            self.returned.wait(&mut left);
        }
        left.waiting = false;
        if left.closed {
            return None;
        }
        left.count -= 1;
        Some(Permit(Arc::clone(self)))
    }

    /// Waits until a place is given back, at most `limit`: closing a connection frees descriptors, too.
    pub fn wait_for_return(&self, limit: Duration) {
        let mut left = self.left.lock();
        left.waiting = true;
        let _ = self.returned.wait_for(&mut left, limit);
    }

    /// Ends all waiting; no more places are given.
    pub fn close(&self) {
        self.left.lock().closed = true;
        self.returned.notify_all();
    }

    /// Places free now.
    pub fn left(&self) -> usize {
        self.left.lock().count
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut left = self.0.left.lock();
        left.count += 1;
        if left.waiting {
            self.0.returned.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_last_place_is_waited_for_and_given_back() {
        let permits = Permits::new(1);
        let first = permits.take().unwrap();
        assert!(permits.try_take().is_none());
        let waiter = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.take().is_some())
        };
        while !permits.left.lock().waiting {
            thread::yield_now();
        }
        drop(first);
        assert!(waiter.join().unwrap());
        assert_eq!(permits.left(), 1);
    }

    #[test]
    fn closing_ends_the_wait() {
        let permits = Permits::new(0);
        let waiter = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.take().is_none())
        };
        while !permits.left.lock().waiting {
            thread::yield_now();
        }
        permits.close();
        assert!(waiter.join().unwrap());
    }
}
