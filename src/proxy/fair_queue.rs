//! A fair queue: each client waits in a line of its own, so that no client's work holds up another's.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// How many jobs may wait, of all clients together.
pub(super) const MOST_WAITING: usize = 256;

/// The lines. The first jobs of all lines take turns.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    /// No line is empty.
    lines: HashMap<IpAddr, VecDeque<J>>,
    /// The order of turns: each client with a line is in it once.
    turns: VecDeque<IpAddr>,
    waiting: usize,
}

impl<J> Default for FairQueue<J> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), waiting: 0 }
    }
}

impl<J> FairQueue<J> {
    /// Puts a job at the end of its client's line. A line may be as long as there are places left: 128
    /// if the client is alone, 85 beside another with as many. There is always a place for a new client.
    ///
    /// # Errors
    ///
    /// The line is too long; the job comes back.
    pub(super) fn push(&mut self, client: IpAddr, job: J) -> Result<(), J> {
        let length = self.lines.get(&client).map_or(0, VecDeque::len);
        if length >= MOST_WAITING.saturating_sub(self.waiting) {
            return Err(job);
        }
        if length == 0 {
            self.turns.push_back(client);
        }
        self.lines.entry(client).or_default().push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// The next job.
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

    /// How many jobs wait.
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

    /// How many jobs in a row of this client are taken now.
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
        // The new client comes after one job of each of the others.
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
        // All places are taken. The next free one goes to a newcomer, not to the client that has many.
        assert_eq!(lines.push(client(10), 10), Err(10));
        assert_eq!(lines.pop(), Some(1));
        assert_eq!(lines.push(client(1), 1), Err(1));
        assert_eq!(lines.push(client(10), 10), Ok(()));
    }
}
