//! Recycles finished exchanges, so that a request on a warm connection allocates nothing.
//!
//! A worker keeps some for itself. Since an exchange may begin on one worker and end on another, one
//! would run short while another has too many; what is too many lies here, for all, and is taken and
//! left in batches, so that the lock is a matter of one exchange in `BATCH` at most.

use parking_lot::Mutex;

use super::exchange::Exchange;

/// How many finished exchanges a worker keeps for itself.
const OWN_KEPT: usize = 64;
/// How many change hands at once.
const BATCH: usize = 32;
/// How many lie here for all workers.
const SHARED_KEPT: usize = 512;

/// What workers have too many of.
// Boxed in sessions too: they move between the two without being copied.
#[allow(clippy::vec_box)]
#[derive(Debug, Default)]
pub struct Spares(Mutex<Vec<Box<Exchange>>>);

#[allow(clippy::vec_box)]
impl Spares {
    /// An exchange to begin with: one of the worker's own, else of all workers', else a new one.
    pub(super) fn take(&self, own: &mut Vec<Box<Exchange>>) -> Box<Exchange> {
        if own.is_empty() {
            let mut shared = self.0.lock();
            let from = shared.len().saturating_sub(BATCH);
            own.extend(shared.drain(from..));
        }
        own.pop().unwrap_or_default()
    }

    /// Keeps an exchange that is over, if there is room.
    pub(super) fn give(&self, own: &mut Vec<Box<Exchange>>, exchange: Box<Exchange>) {
        if own.len() >= OWN_KEPT {
            let mut shared = self.0.lock();
            if shared.len() + BATCH > SHARED_KEPT {
                return;
            }
            shared.extend(own.drain(OWN_KEPT - BATCH..));
        }
        own.push(exchange);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begun on one worker and ended on another for ever: what the second has too many of comes back
    /// to the first.
    #[test]
    fn what_one_worker_ends_another_begins_with() {
        let spares = Spares::default();
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        let mut fresh = 0;
        for _ in 0..10_000 {
            let mut exchange = spares.take(&mut begins);
            // A used one remembers.
            fresh += usize::from(exchange.head_octets == 0);
            exchange.head_octets = 1;
            spares.give(&mut ends, exchange);
        }
        assert!(fresh <= OWN_KEPT + BATCH, "{fresh} were allocated");
    }

    #[test]
    fn no_more_are_kept_than_have_room() {
        let spares = Spares::default();
        let mut own = Vec::new();
        (0..10_000).for_each(|_| spares.give(&mut own, Box::default()));
        assert!(own.len() <= OWN_KEPT && spares.0.lock().len() <= SHARED_KEPT);
        let mut other = Vec::new();
        spares.take(&mut other);
        assert_eq!(other.len(), BATCH - 1);
    }
}
