//! Reuses finished exchanges for new ones, so that a request on a warm connection allocates nothing.
//!
//! Each worker keeps some exchanges for itself. An exchange may begin on one worker and end on another,
//! so one worker would run short while another has too many. The surplus lies in a store that all
//! workers share. Exchanges are taken from it and left in it in batches, so that at most one exchange in
//! `BATCH` takes the lock.

use std::sync::Arc;

use parking_lot::Mutex;

use super::exchange::Exchange;

/// How many finished exchanges a worker keeps for itself.
const OWN_KEPT: usize = 64;
/// How many go to or from the store at once.
const BATCH: usize = 32;
/// How many the store holds.
const SHARED_KEPT: usize = 512;

/// The surplus exchanges of all workers.
// Boxed in sessions too, so that they move between the two without being copied.
#[allow(clippy::vec_box)]
#[derive(Debug, Default)]
pub struct SharedSpares(Mutex<Vec<Box<Exchange>>>);

/// The finished exchanges of one worker.
#[derive(Debug)]
pub struct Spares {
    #[allow(clippy::vec_box)]
    kept: Vec<Box<Exchange>>,
    shared: Arc<SharedSpares>,
}

impl Spares {
    /// An empty set, for a worker that shares with others.
    pub fn new(shared: &Arc<SharedSpares>) -> Self {
        Self { kept: Vec::new(), shared: Arc::clone(shared) }
    }

    /// An exchange to begin with: one of the worker's own, otherwise one from the store, otherwise a new
    /// one.
    pub(super) fn take(&mut self) -> Box<Exchange> {
        if self.kept.is_empty() {
            let mut shared = self.shared.0.lock();
            let from = shared.len().saturating_sub(BATCH);
            self.kept.extend(shared.drain(from..));
        }
        self.kept.pop().unwrap_or_default()
    }

    /// Keeps a finished exchange, if there is room.
    pub(super) fn give(&mut self, exchange: Box<Exchange>) {
        if self.kept.len() >= OWN_KEPT {
            let mut shared = self.shared.0.lock();
            if shared.len() + BATCH > SHARED_KEPT {
                return;
            }
            shared.extend(self.kept.drain(OWN_KEPT - BATCH..));
        }
        self.kept.push(exchange);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If exchanges begin on one worker and end on another for ever, the surplus of the second comes
    /// back to the first.
    #[test]
    fn what_one_worker_ends_another_begins_with() {
        let shared = Arc::default();
        let (mut begins, mut ends) = (Spares::new(&shared), Spares::new(&shared));
        let mut fresh = 0;
        for _ in 0..10_000 {
            let mut exchange = begins.take();
            // A used exchange is marked.
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
        assert!(spares.kept.len() <= OWN_KEPT && shared.0.lock().len() <= SHARED_KEPT);
        let mut other = Spares::new(&shared);
        other.take();
        assert_eq!(other.kept.len(), BATCH - 1);
    }
}
