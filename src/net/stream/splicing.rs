//! Bytes of a connection that go through a pipe, without being copied.

use std::io;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{SpliceFlags, splice};

use super::{Patient, Received, Stream};
use crate::net::pipe::Pipe;

impl Stream {
    /// Receives what is there into an empty `pipe`, `most` bytes at most, without copying it.
    ///
    /// `Nothing` means that the pipe got none, not that there is none, nor that the stream goes on:
    /// it is also the answer in front of urgent data, which is received but not spliced, and at the
    /// end. [`receive`](Self::receive) tells which.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the system cannot splice from this socket; else what the socket
    /// reports, and the connection is over.
    pub fn splice_into(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<Received> {
        self.make_non_blocking()?;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            return match splice(&self.socket, None, pipe.writer(), None, most, flags) {
                // The end, or urgent data in front of what is still to come: a receive tells.
                Ok(0) | Err(Errno::AGAIN) => Ok(Received::Nothing),
                // The pipe may have been full before the socket was empty: still readable.
                Ok(count) => {
                    pipe.add(count);
                    Ok(Received::Bytes(count))
                }
                Err(Errno::INTR) => continue,
                Err(e) => Err(e.into()),
            };
        }
    }

    /// Sends what the socket takes of the bytes in `pipe`, 0 when it takes none now.
    ///
    /// # Errors
    ///
    /// What the socket reports: the connection is over.
    pub fn splice_from(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        let held = pipe.held();
        if held == 0 {
            return Ok(0);
        }
        self.make_non_blocking()?;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let outcome = splice(pipe.reader(), None, &self.socket, None, held, flags);
        let count = self.sent(outcome, held)?;
        pipe.take(count);
        Ok(count)
    }

    /// `splice(2)` heeds `O_NONBLOCK` of the socket and nothing else. A patient receive undoes it.
    fn make_non_blocking(&mut self) -> io::Result<()> {
        if self.patient != Patient::NonBlocking {
            ioctl_fionbio(&self.socket, true)?;
            self.patient = Patient::NonBlocking;
        }
        Ok(())
    }
}
