//! Moves bytes in one direction, and reports why it stopped.
//!
//! A flow reads from a source under a framing and writes to a sink. Both directions of an exchange, both
//! of a tunnel, and the proxy's own replies are flows. A step goes as far as it can without waiting. It
//! may report that it is blocked only after everything already held was offered to the framing and the
//! sink, so that a flow never waits at a socket for a byte that it holds. The framing leaves only the
//! beginning of a chunk line, which is passed on when it is whole.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use crate::net::buffer::{Buffer, LARGE, ORDINARY};
use crate::net::pipe::Pipe;
use crate::net::stream::{Received, Stream};
use crate::wire::chunked::write_chunk_head;
use crate::wire::{ChunkError, Repairs};

use super::content::{CHUNK_FRAME, CRLF, Content, Faulty};
use super::context::Turn;
use super::half::Half;

/// How bytes are moved, depending on how many come at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    /// Through an ordinary buffer.
    Message,
    /// Through a large buffer, because ordinary ones were filled.
    Stream,
    /// Through a pipe, without being copied, because large ones were filled.
    Splice,
}

/// The flow of bytes in one direction.
#[derive(Debug)]
pub struct Flow {
    content: Content,
    /// Bytes at the front of the source's buffer that belong here and are still to be sent.
    cleared: usize,
    /// How bytes are moved.
    pace: Pace,
    /// Splices in a row that moved few bytes.
    small: u8,
    /// The sink was told that nothing more comes.
    over: bool,
    /// Bytes sent to the sink.
    sent: u64,
    /// Bytes of this flow in a pipe, to be sent after `out` and before all others.
    pipe: Option<Box<Pipe>>,
    /// Since when the sink has taken nothing more from the pipe.
    stalled: Option<Instant>,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Everything was sent.
    Ended,
    /// The source has nothing now, or the sink takes nothing now.
    Blocked,
    /// The turn is spent, but the flow could go on.
    Spent,
    /// The source may have bytes, but its allowance is used up.
    Dry,
}

/// Why a flow broke.
#[derive(Debug)]
pub enum Broken {
    /// The source closed before the framing said so.
    SourceEnded,
    /// Reading failed.
    Source(io::Error),
    /// Writing failed.
    Sink(io::Error),
    /// The coding is malformed.
    Framing(ChunkError),
    /// The content exceeds its limit.
    TooMuch,
    /// The total that may be relayed is used up.
    UsedUp,
}

/// Up to this size content is copied behind a head, to go out in one plain send. Beyond it, head and
/// content are gathered from where they are.
const COPY: usize = 4096;
/// Splices that move less than an ordinary buffer holds cost more calls than copying. After this many in
/// a row the bytes are copied again.
const SMALL_SPLICES: u8 = 8;
/// A sink that has stood still for this long does not need a pipe full of bytes at a time.
const STALL: Duration = Duration::from_millis(50);

impl Default for Flow {
    fn default() -> Self {
        Self::new(Content::empty())
    }
}

impl Flow {
    /// A flow of this content, none of which has come yet.
    pub(super) fn new(content: Content) -> Self {
        Self {
            content,
            cleared: 0,
            pace: Pace::Message,
            small: 0,
            over: false,
            sent: 0,
            pipe: None,
            stalled: None,
        }
    }

    /// Bytes sent to the sink so far, staged ones included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts bytes as sent that went out before this flow began.
    pub fn add_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// Whether nothing of this flow is to be received from the source any more. Received bytes of it may
    /// still be in the source's buffer: see [`is_clear`](Self::is_clear).
    pub fn is_taken(&self) -> bool {
        self.content.is_taken()
    }

    /// Whether everything was taken, and is out of the source's buffer and the pipe. The bytes that
    /// stand there, or come next, are then something else.
    pub fn is_clear(&self) -> bool {
        self.is_taken() && self.cleared == 0 && self.pipe.is_none()
    }

    /// How many bytes of an announced length are still to be taken.
    pub fn length_left(&self) -> Option<u64> {
        self.content.length_left()
    }

    /// Repairs made to the coding so far.
    pub fn repairs(&self) -> Repairs {
        self.content.repairs()
    }

    /// Closes the pipe, if there still is one: nobody will send its bytes.
    pub fn drop_pipe(&mut self) {
        self.pipe = None;
    }

    /// Whether the sink can tell the end only by the end of the connection.
    pub fn ends_by_closing(&self) -> bool {
        self.content.ends_by_closing()
    }

    /// Whether the sink was told that nothing more comes.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Records that the sink was told that nothing more comes.
    pub fn set_over(&mut self) {
        self.over = true;
    }

    /// Goes as far as it can. Bytes staged in `out` go first.
    ///
    /// # Errors
    ///
    /// The flow has failed.
    pub fn step(
        &mut self,
        source: &mut Half,
        out: &mut Buffer,
        sink: &mut Stream,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Broken> {
        let (mut received, mut copy) = (false, false);
        loop {
            if self.pipe.is_some() && !self.send_pipe(out, sink, turn)? {
                return Ok(Step::Blocked);
            }
            let held = source.buffer.len();
            self.take(source, out, turn)?;
            if !copy && self.can_splice(source, out, sink) && !(received && turn.is_spent()) {
                copy = !self.splice(source, out, turn)?;
                // A splice that moved no bytes does not count as a receive, so the plain receive still
                // runs, even if the turn is spent.
                received |= !copy;
                continue;
            }
            if !out.is_empty() || self.cleared > 0 {
                if !sink.makes_room().map_err(Broken::Sink)? {
                    // A sink that cannot keep up is not worth a large buffer.
                    self.pace = Pace::Message;
                    return Ok(Step::Blocked);
                }
                self.send(source, out, sink, turn)?;
                if !out.is_empty() || self.cleared > 0 {
                    continue;
                }
            }
            // Nothing more is in hand, so a layer that holds bytes has to send them now.
            let is_out = sink.flush().map_err(Broken::Sink)?;
            if self.is_taken() {
                return Ok(if is_out { Step::Ended } else { Step::Blocked });
            }
            if !source.buffer.is_empty()
                && (source.buffer.len() != held || !self.content.waits_for_line())
            {
                // Bytes were held back because `out` was full; it is empty now.
                continue;
            }
            if source.ended {
                if source.is_cut && self.content.ends_with_source() {
                    // Bytes that came before the cut go out first.
                    return if is_out { Err(cut()) } else { Ok(Step::Blocked) };
                }
                self.end(out, turn)?;
                continue;
            }
            if !source.stream.is_readable() {
                return Ok(Step::Blocked);
            }
            // Receive at least once: the other direction may have used up the turn.
            if received && turn.is_spent() {
                return Ok(Step::Spent);
            }
            if source.is_dry() {
                return Ok(Step::Dry);
            }
            received = true;
            copy = false;
            self.receive(source, sink, turn)?;
        }
    }

    fn receive(
        &mut self,
        source: &mut Half,
        sink: &Stream,
        turn: &mut Turn<'_>,
    ) -> Result<(), Broken> {
        let is_large = match self.pace {
            Pace::Message => false,
            Pace::Stream => true,
            Pace::Splice => !self.may_splice(source, sink),
        };
        // A small allowance needs no more than an ordinary buffer.
        if is_large && source.allows(LARGE / 2) {
            turn.buffers.lend_large(&mut source.buffer);
        } else {
            turn.buffers.lend(&mut source.buffer);
        }
        let room = source.buffer.room();
        if let Received::Bytes(count) = source.receive_allowed().map_err(Broken::Source)? {
            turn.moved += count;
            // Only a stream fills the buffer to the brim.
            if self.pace == Pace::Message && source.stream.is_readable() && count == room {
                self.pace = Pace::Stream;
            }
            if self.pace == Pace::Stream && count >= LARGE / 2 {
                self.pace = Pace::Splice;
                self.small = 0;
            }
        }
        Ok(())
    }

    /// Whether source, sink and content allow a pipe at all.
    fn may_splice(&self, source: &Half, sink: &Stream) -> bool {
        !self.content.is_looked_at() && source.stream.is_spliceable() && sink.is_spliceable()
    }

    /// Whether the next bytes can go through a pipe: they need not be examined or changed, and nothing
    /// received before them is still here.
    fn can_splice(&self, source: &Half, out: &Buffer, sink: &Stream) -> bool {
        self.pace == Pace::Splice
            && self.pipe.is_none()
            && self.content.spliceable().is_some()
            && source.buffer.is_empty()
            && source.allows(ORDINARY)
            && !source.ended
            && source.stream.is_readable()
            && sink.is_writable()
            && self.may_splice(source, sink)
            // The end of the last chunk goes out with the head of the next.
            && out.len() <= CRLF.len()
    }

    /// Receives into a pipe. Returns whether any bytes came. If none did, a plain receive has to find
    /// out whether there is nothing, the end, or something that cannot be spliced.
    fn splice(
        &mut self,
        source: &mut Half,
        out: &mut Buffer,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Broken> {
        let Some(mut pipe) = turn.ctx.pipes.lend() else {
            // The next large receive tries again.
            self.pace = Pace::Stream;
            return Ok(false);
        };
        let most = self.content.spliceable().unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(turn.portion);
        let count = match source.splice_allowed(&mut pipe, most) {
            Ok(Received::Bytes(count)) => count,
            Ok(Received::Nothing | Received::End) => {
                turn.ctx.pipes.put(pipe);
                return Ok(false);
            }
            Err(e) => {
                turn.ctx.pipes.put(pipe);
                if e.kind() == io::ErrorKind::InvalidInput {
                    self.pace = Pace::Message;
                    return Ok(false);
                }
                return Err(Broken::Source(e));
            }
        };
        self.pipe = Some(pipe);
        source.charge(count);
        turn.moved += count;
        turn.counters.count(|c| c.bytes_spliced += count as u64);
        self.content.spliced(count);
        if self.content.makes_chunks() {
            turn.buffers.lend(out);
            write_chunk_head(out.tail(), count);
        }
        self.small = if count < ORDINARY { self.small + 1 } else { 0 };
        if self.small == SMALL_SPLICES {
            self.pace = Pace::Message;
        }
        Ok(true)
    }

    /// Sends the staged bytes, then those in the pipe. Returns whether all of them have gone.
    fn send_pipe(
        &mut self,
        out: &mut Buffer,
        sink: &mut Stream,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Broken> {
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        while pipe.held() > 0 {
            if !sink.is_writable() {
                self.stalled = self.stalled.or(Some(turn.now));
                return Ok(false);
            }
            let count = if out.is_empty() {
                sink.splice_from(pipe)
            } else {
                sink.send(out.unread()).inspect(|count| out.consume(*count))
            }
            .map_err(Broken::Sink)?;
            self.sent += count as u64;
            turn.moved += count;
        }
        self.pipe.take().into_iter().for_each(|pipe| turn.ctx.pipes.put(pipe));
        if self.content.makes_chunks() {
            turn.buffers.lend(out);
            out.tail().extend_from_slice(CRLF);
        }
        if let Some(since) = self.stalled.take()
            && turn.now.saturating_duration_since(since) >= STALL
        {
            self.pace = Pace::Message;
        }
        Ok(true)
    }

    /// Takes the bytes that belong to this flow from the source's buffer.
    fn take(
        &mut self,
        source: &mut Half,
        out: &mut Buffer,
        turn: &mut Turn<'_>,
    ) -> Result<(), Broken> {
        if self.is_taken() {
            return Ok(());
        }
        if self.content.is_recoded() {
            return self.recode(source, out, turn);
        }
        let held = source.buffer.unread().get(self.cleared..).unwrap_or_default();
        if held.is_empty() {
            return Ok(());
        }
        let passed = self.content.pass(held, self.cleared > 0, || {
            turn.buffers.lend(out);
            out.tail().extend_from_slice(CRLF);
        })?;
        let Some(count) = passed else { return self.recode(source, out, turn) };
        self.cleared += count;
        source.charge(count);
        Ok(())
    }

    fn recode(
        &mut self,
        source: &mut Half,
        out: &mut Buffer,
        turn: &mut Turn<'_>,
    ) -> Result<(), Broken> {
        while !self.is_taken() && !source.buffer.is_empty() {
            turn.buffers.lend(out);
            let room = out.room().saturating_sub(CHUNK_FRAME);
            let held = source.buffer.unread();
            let held = held.get(..room).unwrap_or(held);
            if held.is_empty() {
                return Ok(());
            }
            let used = self.content.recode(held, out.tail())?;
            source.buffer.consume(used);
            source.charge(used);
        }
        Ok(())
    }

    /// Handles the end of the source, of which nothing is left.
    fn end(&mut self, out: &mut Buffer, turn: &mut Turn<'_>) -> Result<(), Broken> {
        let last = self.content.end()?;
        if !last.is_empty() {
            turn.buffers.lend(out);
            out.tail().extend_from_slice(last);
        }
        Ok(())
    }

    fn send(
        &mut self,
        source: &mut Half,
        out: &mut Buffer,
        sink: &mut Stream,
        turn: &mut Turn<'_>,
    ) -> Result<(), Broken> {
        if !out.is_empty() && (1..=COPY.min(out.room())).contains(&self.cleared) {
            let content = source.buffer.unread().get(..self.cleared).unwrap_or_default();
            out.tail().extend_from_slice(content);
            source.buffer.consume(self.cleared);
            self.cleared = 0;
        }
        let content = source.buffer.unread().get(..self.cleared).unwrap_or_default();
        let count = if content.is_empty() {
            sink.send(out.unread())
        } else if out.is_empty() {
            sink.send(content)
        } else {
            sink.send_all_of(&[IoSlice::new(out.unread()), IoSlice::new(content)])
        }
        .map_err(Broken::Sink)?;
        self.sent += count as u64;
        turn.moved += count;
        let staged = count.min(out.len());
        out.consume(staged);
        source.buffer.consume(count - staged);
        self.cleared -= count - staged;
        Ok(())
    }
}

/// The error of a source whose connection ended before it announced that this was all.
#[cold]
fn cut() -> Broken {
    Broken::Source(io::ErrorKind::UnexpectedEof.into())
}

impl From<Faulty> for Broken {
    fn from(fault: Faulty) -> Self {
        match fault {
            Faulty::Cut => Self::SourceEnded,
            Faulty::Framing(e) => Self::Framing(e),
            Faulty::TooMuch => Self::TooMuch,
        }
    }
}

#[cfg(test)]
#[path = "flow_layer_tests.rs"]
mod layer_tests;
#[cfg(test)]
#[path = "flow_tests.rs"]
pub(super) mod tests;
