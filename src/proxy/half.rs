//! One of the two connections of an exchange, with the bytes read ahead, and how much may be taken from
//! it.

use std::io;

use crate::net::buffer::Buffer;
use crate::net::pipe::Pipe;
use crate::net::poll::Edge;
use crate::net::stream::{Received, Stream};

/// A connection, with the bytes read from it and not yet used.
#[derive(Debug)]
pub struct Half {
    /// The connection.
    pub stream: Stream,
    /// Bytes read ahead.
    pub buffer: Buffer,
    /// The peer has ended its side.
    pub ended: bool,
    /// The connection ended without an end of its layer: content that only the end completes may be cut.
    pub is_cut: bool,
    /// How many bytes flows may take from here; negative if they took more than was allowed.
    allowed: i64,
    /// An error met outside a step. The system reports it once, so it is kept for the next receive.
    failed: Option<io::Error>,
}

/// No limit.
const UNLIMITED: i64 = i64::MAX;
/// Above this, no limit is set, even after all bytes that could ever come were charged.
const LIMITED: i64 = i64::MAX / 2;

impl Half {
    /// A connection from which nothing was read yet.
    pub fn new(stream: Stream) -> Self {
        let buffer = Buffer::default();
        Self { stream, buffer, ended: false, is_cut: false, allowed: UNLIMITED, failed: None }
    }

    /// Limits flows: from now on they may take only as much as is [allowed](Self::allow).
    pub fn limit(&mut self) {
        self.allowed = 0;
    }

    /// Lifts the limit: flows may take all bytes again.
    pub fn lift_limit(&mut self) {
        self.allowed = UNLIMITED;
    }

    /// Allows flows this many bytes more.
    pub fn allow(&mut self, bytes: u64) {
        self.allowed = self.allowed.saturating_add_unsigned(bytes);
    }

    /// Charges bytes of the flow that were taken.
    pub fn charge(&mut self, bytes: usize) {
        self.allowed -= bytes as i64;
    }

    /// Ends the allowance. Returns how much of it was not taken, or a negative number if more was taken.
    pub fn settle(&mut self) -> i64 {
        if self.allowed > LIMITED { 0 } else { std::mem::take(&mut self.allowed) }
    }

    /// Ends the allowance for bytes not yet received. Those received stay allowed until they are
    /// charged.
    pub fn settle_unreceived(&mut self) -> i64 {
        if self.allowed > LIMITED {
            return 0;
        }
        let left = (self.allowed - self.buffer.len() as i64).max(0);
        self.allowed -= left;
        left
    }

    /// Whether nothing may be received before more is allowed.
    pub fn is_dry(&self) -> bool {
        self.allowed <= self.buffer.len() as i64
    }

    /// Receives as much as fits and is allowed, like [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub fn receive_allowed(&mut self) -> io::Result<Received> {
        let left = self.allowed - self.buffer.len() as i64;
        let room = self.buffer.room();
        if left >= room as i64 {
            return self.receive();
        }
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let most = usize::try_from(left).unwrap_or(0);
        let received = self.stream.receive_at_most(&mut self.buffer, most);
        self.received(received)
    }

    /// Whether this many bytes may be received at once.
    pub(super) fn allows(&self, bytes: usize) -> bool {
        self.allowed >= bytes as i64
    }

    /// Receives into a pipe as much as is allowed, like [`Stream::splice_into`].
    pub(super) fn splice_allowed(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<Received> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let most = usize::try_from(self.allowed).map_or(most, |allowed| most.min(allowed));
        self.stream.splice_into(pipe, most)
    }

    /// Receives as much as fits; the buffer must be lent and have room.
    ///
    /// # Errors
    ///
    /// The connection is over.
    pub fn receive(&mut self) -> io::Result<Received> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let received = self.stream.receive(&mut self.buffer);
        self.received(received)
    }

    #[inline]
    fn received(&mut self, outcome: io::Result<Received>) -> io::Result<Received> {
        match outcome {
            Ok(received) => {
                self.ended |= received == Received::End;
                Ok(received)
            }
            Err(e) => self.is_end(e),
        }
    }

    /// Treats an end that was not announced to a layer as an end all the same: messages mark their own
    /// end, and between them nothing is missing. Content that needs the end to be complete checks
    /// [`is_cut`](Self::is_cut).
    #[cold]
    fn is_end(&mut self, e: io::Error) -> io::Result<Received> {
        if e.kind() != io::ErrorKind::UnexpectedEof {
            return Err(e);
        }
        self.ended = true;
        self.is_cut = true;
        Ok(Received::End)
    }

    /// Waits on the worker for a few milliseconds for something to receive. The outcome, also an end or
    /// an error, is there for the next step. Returns how many bytes came, or `None` if nothing came and
    /// nothing may be there.
    pub fn receive_patiently(&mut self) -> Option<usize> {
        match self.stream.receive_patiently(&mut self.buffer) {
            Ok(Received::Bytes(count)) => Some(count),
            // The layer may have received bytes that are no content, and there may be more.
            Ok(Received::Nothing) => self.stream.is_readable().then_some(0),
            Ok(Received::End) => {
                self.ended = true;
                Some(0)
            }
            Err(e) => {
                if let Err(e) = self.is_end(e) {
                    self.failed = Some(e);
                    self.stream.note(Edge { readable: true, ..Edge::default() });
                }
                Some(0)
            }
        }
    }
}
