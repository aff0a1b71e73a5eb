//! Finished exchanges are used again for the next ones: a request on a warm connection allocates nothing.
//!
//! Each worker keeps some exchanges for itself. An exchange may begin on one worker and end on another,
//! so one worker would run short while another has too many. The surplus lies in a store that all
//! workers share. It is taken and left in batches, so that at most one exchange in `BATCH` takes the lock.

use std::sync::Arc;

use parking_lot::Mutex;

use super::exchange::Exchange;

/// How many finished exchanges a worker keeps for itself.
const OWN_KEPT: usize = 64;
/// How many change hands at once.
const BATCH: usize = 32;
/// How many lie in the store.
const SHARED_KEPT: usize = 512;

/// The exchanges that workers have too many of.
// Boxed in sessions too: they move between the two without being copied.
#[allow(clippy::vec_box)]
#[derive(Debug, Default)]
pub struct SharedSpares(Mutex<Vec<Box<Exchange>>>);

/// The finished exchanges of one worker.
#[derive(Debug)]
pub struct Spares {
    #[allow(clippy::vec_box)]
    own: Vec<Box<Exchange>>,
    shared: Arc<SharedSpares>,
}

impl Spares {
    /// None yet, of a worker that shares with others.
    pub fn new(shared: &Arc<SharedSpares>) -> Self {
        Self { own: Vec::new(), shared: Arc::clone(shared) }
    }

    /// An exchange to begin with: one of the worker's own, else one of the store, else a new one.
    pub(super) fn take(&mut self) -> Box<Exchange> {
        if self.own.is_empty() {
            let mut shared = self.shared.0.lock();
            let from = shared.len().saturating_sub(BATCH);
            self.own.extend(shared.drain(from..));
        }
        self.own.pop().unwrap_or_default()
    }

    /// Keeps a finished exchange, if there is room.
    pub(super) fn give(&mut self, exchange: Box<Exchange>) {
        if self.own.len() >= OWN_KEPT {
            let mut shared = self.shared.0.lock();
            if shared.len() + BATCH > SHARED_KEPT {
                return;
            }
            shared.extend(self.own.drain(OWN_KEPT - BATCH..));
        }
        self.own.push(exchange);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begun on one worker and ended on another for ever: what the second has too many of comes back
    /// to the first.
    #[test]
    fn what_one_worker_ends_another_begins_with() {
        let shared = Arc::default();
        let (mut begins, mut ends) = (Spares::new(&shared), Spares::new(&shared));
        let mut fresh = 0;
        for _ in 0..10_000 {
            let mut exchange = begins.take();
            // A used one remembers.
            fresh += usize::from(exchange.common.intent.head_bytes == 0);
            exchange.common.intent.head_bytes = 1;
            ends.give(exchange);
        }
        assert!(fresh <= OWN_KEPT + BATCH, "{fresh} were allocated");
    }

    #[test]
    fn no_more_are_kept_than_have_room() {
        let shared = Arc::default();
        let mut spares = Spares::new(&shared);
        (0..10_000).for_each(|_| spares.give(Box::default()));
        assert!(spares.own.len() <= OWN_KEPT && shared.0.lock().len() <= SHARED_KEPT);
        let mut other = Spares::new(&shared);
        other.take();
        assert_eq!(other.own.len(), BATCH - 1);
    }
}
