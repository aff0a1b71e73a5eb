//! One of the two connections of an exchange, with the bytes that were read ahead, and how much
//! may be taken from it.

use std::io;

use crate::net::buffer::Buffer;
use crate::net::pipe::Pipe;
use crate::net::poll::Edge;
use crate::net::stream::{Received, Stream};

/// A connection with what was read from it and not yet used.
#[derive(Debug)]
pub struct Half {
    /// The connection.
    pub stream: Stream,
    /// Bytes read ahead.
    pub buffer: Buffer,
    /// The peer has ended its side.
    pub ended: bool,
    /// Its connection ended, and the layer on it was not told so: what only the end completes may be cut.
    pub is_cut: bool,
    /// Bytes that flows may take from here; less than nothing is what they took beyond.
    allowed: i64,
    /// An error met outside a step. The system tells it once, so it is kept for the next receive.
    failed: Option<io::Error>,
}

/// As many bytes as come.
const UNLIMITED: i64 = i64::MAX;
/// What is left of it when all that could ever come has.
const LIMITED: i64 = i64::MAX / 2;

impl Half {
    /// A connection nothing was read from yet.
    pub fn new(stream: Stream) -> Self {
        let buffer = Buffer::default();
        Self { stream, buffer, ended: false, is_cut: false, allowed: UNLIMITED, failed: None }
    }

    /// From now on flows may take from here what is [allowed](Self::allow) only.
    pub fn limit(&mut self) {
        self.allowed = 0;
    }

    /// Flows may take what they find, again.
    pub fn lift_limit(&mut self) {
        self.allowed = UNLIMITED;
    }

    /// Flows may take so many bytes more.
    pub fn allow(&mut self, bytes: u64) {
        self.allowed = self.allowed.saturating_add_unsigned(bytes);
    }

    /// Bytes that belong to the flow were taken.
    pub fn charge(&mut self, bytes: usize) {
        self.allowed -= bytes as i64;
    }

    /// What was allowed and not taken, less than nothing for what was taken beyond; nothing is
    /// allowed any more.
    pub fn settle(&mut self) -> i64 {
        if self.allowed > LIMITED { 0 } else { std::mem::take(&mut self.allowed) }
    }

    /// The same for what has not been received yet: what has stays allowed until it is charged.
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

    /// Receives what fits and is allowed, as [`receive`](Self::receive).
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

    /// Whether so many bytes may be received at once.
    pub(super) fn allows(&self, bytes: usize) -> bool {
        self.allowed >= bytes as i64
    }

    /// Receives what is allowed into a pipe, as [`Stream::splice_into`] does.
    pub(super) fn splice_allowed(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<Received> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let most = usize::try_from(self.allowed).map_or(most, |allowed| most.min(allowed));
        self.stream.splice_into(pipe, most)
    }

    /// Receives what fits; the buffer must be lent and have room.
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

    /// An end that a layer was not told of is an end all the same: messages have their own, and between
    /// them nothing is missing. Who needs it to know that all has come looks at [`is_cut`](Self::is_cut).
    #[cold]
    fn is_end(&mut self, e: io::Error) -> io::Result<Received> {
        if e.kind() != io::ErrorKind::UnexpectedEof {
            return Err(e);
        }
        self.ended = true;
        self.is_cut = true;
        Ok(Received::End)
    }

    /// Waits a few milliseconds, on the worker, for something to receive. What comes of it, an end
    /// or an error included, is there for the next step. Answers how many bytes came, or `None`
    /// if nothing did and nothing may be there.
    pub fn receive_patiently(&mut self) -> Option<usize> {
        match self.stream.receive_patiently(&mut self.buffer) {
            Ok(Received::Bytes(count)) => Some(count),
            // A layer may have received what is no content, and not all there is.
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
