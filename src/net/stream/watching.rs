//! Registers a connection with the poller, and chooses its edges and their owner.

use std::io;
use std::sync::Arc;

use rustix::event::PollFlags;

use super::Stream;
use crate::net::poll::{Interest, Owner, Poller};

impl Stream {
    /// The facts to ask `poll` for: those not already known. `reads` says whether bytes are wanted.
    pub(in crate::net) fn wants(&self, reads: bool) -> PollFlags {
        let mut wanted = PollFlags::empty();
        if reads && !self.readable {
            wanted |= PollFlags::IN | PollFlags::RDHUP;
            // Reported once, so a known fact is not asked for again.
            wanted.set(PollFlags::PRI, !self.urgent);
        }
        wanted.set(PollFlags::OUT, !self.writable);
        wanted
    }

    /// Makes edges reach `owner`: those of reading, and those of writing if `write`.
    ///
    /// # Errors
    ///
    /// The kernel cannot watch another socket.
    pub fn watch(&mut self, poller: &Arc<Poller>, owner: &Owner, write: bool) -> io::Result<()> {
        let wanted = if write { Interest::ReadWrite } else { Interest::Read };
        match &mut self.registration {
            None => {
                let registration = poller.register(&self.socket, owner.clone(), wanted)?;
                self.registration = Some(registration);
                Ok(())
            }
            // Writability stays asked for: an extra edge is cheaper than a call.
            Some(r) if r.interest() == wanted || r.interest() == Interest::ReadWrite => Ok(()),
            Some(r) => r.ask(&self.socket, wanted),
        }
    }

    /// Stops edges while a worker reads the socket patiently, because each would wake the parking thread
    /// for nothing. [`watch`](Self::watch) starts them again.
    pub fn unwatch(&mut self) {
        if let Some(r) = &mut self.registration
            && r.interest() != Interest::Nothing
        {
            // Cannot fail for the registered socket. If it did, edges would merely go on.
            let _ = r.ask(&self.socket, Interest::Nothing);
        }
    }

    /// Whether edges of reading reach the owner.
    pub fn is_watched(&self) -> bool {
        self.registration.as_ref().is_some_and(|r| r.interest() != Interest::Nothing)
    }

    /// Gives later edges to `owner`.
    pub fn hand_to(&self, owner: Owner) {
        if let Some(r) = &self.registration {
            r.hand_to(owner);
        }
    }
}
