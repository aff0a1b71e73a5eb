//! Moves bytes of a connection through a pipe, without copying them.

use std::io;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{SpliceFlags, splice};

use super::{Patient, Received, Stream};
use crate::net::pipe::Pipe;

impl Stream {
    /// Receives bytes into an empty `pipe`, at most `most`, without copying them.
    ///
    /// `Nothing` means that the pipe got no bytes. It does not mean that there are none, nor that the
    /// stream goes on: it is also the answer at the end, and in front of urgent data, which is received but
    /// not spliced. [`receive`](Self::receive) tells which.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the system cannot splice from this socket. Any other error is the
    /// socket's, and the connection is over.
    pub fn splice_into(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<Received> {
        self.make_non_blocking()?;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            return match splice(&self.socket, None, pipe.writer(), None, most, flags) {
                // The end, or urgent data in front of later bytes: a receive finds out.
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

    /// Sends the bytes in `pipe` that the socket takes, 0 when it takes none now.
    ///
    /// # Errors
    ///
    /// The socket's error: the connection is over.
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

    /// `splice(2)` heeds only `O_NONBLOCK` of the socket. A patient receive undoes it.
    fn make_non_blocking(&mut self) -> io::Result<()> {
        if self.patient != Patient::NonBlocking {
            ioctl_fionbio(&self.socket, true)?;
            self.patient = Patient::NonBlocking;
        }
        Ok(())
    }
}
