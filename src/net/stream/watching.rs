//! Who is told of a connection's edges, and of which.

use std::io;
use std::sync::Arc;

use rustix::event::PollFlags;

use super::Stream;
use crate::net::poll::{Interest, Owner, Poller};

impl Stream {
    /// What `poll` is to be asked for: what is not known to hold already. `reads` says whether anything is
    /// to be received.
    pub(in crate::net) fn wants(&self, reads: bool) -> PollFlags {
        let mut wanted = PollFlags::empty();
        if reads && !self.readable {
            wanted |= PollFlags::IN | PollFlags::RDHUP;
            // Told once: what was noted of it stays.
            wanted.set(PollFlags::PRI, !self.urgent);
        }
        wanted.set(PollFlags::OUT, !self.writable);
        wanted
    }

    /// Sees to it that edges reach `owner`: reading ones, and writing ones if `write`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot watch another socket.
    pub fn watch(&mut self, poller: &Arc<Poller>, owner: &Owner, write: bool) -> io::Result<()> {
        let wanted = if write { Interest::ReadWrite } else { Interest::Read };
        match &mut self.registration {
            None => {
                let registration = poller.register(&self.socket, owner.clone(), wanted)?;
                self.registration = Some(registration);
                Ok(())
            }
            // Once writability was asked for it stays so: an edge more is cheaper than a call.
            Some(r) if r.interest() == wanted || r.interest() == Interest::ReadWrite => Ok(()),
            Some(r) => r.ask(&self.socket, wanted),
        }
    }

    /// Stops edges while a worker reads the socket patiently: each would wake the parking thread
    /// for nothing. [`watch`](Self::watch) starts them again.
    pub fn unwatch(&mut self) {
        if let Some(r) = &mut self.registration
            && r.interest() != Interest::Nothing
        {
            // It cannot fail for the registered socket; if it did, edges would only go on.
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
