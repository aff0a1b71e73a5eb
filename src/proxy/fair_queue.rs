//! A fair queue: each client has a line of its own, and no client's work stands before another's.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// What may wait, of all clients together.
pub(super) const MOST_WAITING: usize = 256;

/// The lines. The first of each has its turn in rotation.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    /// None is empty.
    lines: HashMap<IpAddr, VecDeque<J>>,
    /// Whose turn is next: each client with a line is there once.
    turns: VecDeque<IpAddr>,
    waiting: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
    }
}

impl<J> FairQueue<J> {
    /// Puts a job at the end of its client's line. A client may have as many there as places are left:
    /// 128 if it is alone, 85 beside another who has as many, and there is always one for who comes new.
    ///
    /// # Errors
    ///
    /// The line is too long, and the job comes back.
    pub(super) fn push(&mut self, client: IpAddr, job: J) -> Result<(), J> {
        let own = self.lines.get(&client).map_or(0, VecDeque::len);
        if own >= MOST_WAITING.saturating_sub(self.waiting) {
            return Err(job);
        }
        if own == 0 {
            self.turns.push_back(client);
        }
        self.lines.entry(client).or_default().push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// The job whose turn it is.
    pub(super) fn pop(&mut self) -> Option<J> {
        let client = self.turns.pop_front()?;
        let line = self.lines.get_mut(&client)?;
        let job = line.pop_front()?;
        self.waiting -= 1;
        if line.is_empty() {
            self.lines.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        Some(job)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    /// How many of a client's are taken now, one behind the other.
    fn fill(lines: &mut FairQueue<u32>, n: u32) -> usize {
        (0..1000).take_while(|_| lines.push(client(n), n).is_ok()).count()
    }

    #[test]
    fn clients_have_their_turns_whatever_the_length_of_their_lines() {
        let mut lines = FairQueue::default();
        assert_eq!(lines.pop(), None);
        for job in [1, 1, 1, 1, 2, 2, 3] {
            assert_eq!(lines.push(client(job), job), Ok(()));
        }
        assert_eq!([lines.pop(), lines.pop()], [Some(1), Some(2)]);
        // Who comes now is behind one of each.
        assert_eq!(lines.push(client(4), 4), Ok(()));
        let rest: Vec<u32> = std::iter::from_fn(|| lines.pop()).collect();
        assert_eq!(rest, [3, 1, 2, 4, 1, 1]);
        assert_eq!((lines.len(), lines.lines.len(), lines.turns.len()), (0, 0, 0));
    }

    #[test]
    fn nobody_takes_the_last_place_from_who_comes_new() {
        let mut lines = FairQueue::default();
        assert_eq!(fill(&mut lines, 1), 128);
        assert_eq!(fill(&mut lines, 2), 64);
        assert_eq!(fill(&mut lines, 3), 32);
        for n in 4..10 {
            assert!(fill(&mut lines, n) >= 1, "{n}");
        }
        assert_eq!(lines.len(), MOST_WAITING);
        // All are taken. A turn later it is a newcomer who gets the free one, not who has many.
        assert_eq!(lines.push(client(10), 10), Err(10));
        assert_eq!(lines.pop(), Some(1));
        assert_eq!(lines.push(client(1), 1), Err(1));
        assert_eq!(lines.push(client(10), 10), Ok(()));
    }
}
