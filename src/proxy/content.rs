//! Content on its way through: what of the bytes in hand belongs to it, and how it is coded as it goes on.
//!
//! Decoded and encoded at once where nothing has to change: the bytes then go on as they stand, and
//! may be spliced. Where the coding changes each piece is taken out of its coding and written in the
//! other one.

use crate::net::buffer::ORDINARY;
use crate::wire::chunked::{LAST_CHUNK, write_chunk_head};
use crate::wire::{ChunkError, ChunkLimits, Chunked, Framing, Irregular, Repairs, Tolerance};

/// How the end of content is found.
#[derive(Debug)]
enum Body {
    /// So many bytes more.
    Length(u64),
    /// Chunked coding says. Boxed: flows are moved, and most have none.
    Chunked(Box<Chunked>),
    /// It ends with the connection; so many bytes more may come.
    UntilClose(u64),
}

/// What is done to the coding on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Coding {
    /// Byte for byte.
    Keep,
    /// Content until close becomes chunked.
    Chunk,
    /// Chunked content becomes plain.
    Dechunk,
    /// Chunked content gets chunks of our own: those that came are not in the strict form.
    Rechunk,
}

/// Why content cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Faulty {
    /// The source closed before the framing said so.
    Cut,
    /// The coding is malformed.
    Framing(ChunkError),
    /// There is more than the limit.
    TooMuch,
}

impl From<ChunkError> for Faulty {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::TooMuchData => Self::TooMuch,
            other => Self::Framing(other),
        }
    }
}

/// What ends a chunk.
pub(super) const CRLF: &[u8] = b"\r\n";
/// The most a chunk's head and end add to it, and a trailer field whose name was held back.
pub(super) const CHUNK_FRAME: usize = 64;

/// The content of one message, or one direction of a tunnel.
#[derive(Debug)]
pub(super) struct Content {
    body: Body,
    coding: Coding,
    /// Everything that belongs here was taken.
    taken: bool,
}

impl Content {
    /// Of a request in this framing, byte for byte.
    pub(super) fn of_request(framing: Framing) -> Self {
        Self::framed(framing, Coding::Keep, Tolerance::Literal)
    }

    /// In this framing, whose chunks are judged so.
    pub(super) fn framed(framing: Framing, coding: Coding, tolerance: Tolerance) -> Self {
        let body = match framing {
            Framing::Empty => return Self::empty(),
            Framing::Length(length) => Body::Length(length.get()),
            Framing::Chunked => {
                Body::Chunked(Box::new(Chunked::new(ChunkLimits::default(), tolerance)))
            }
        };
        Self { body, coding, taken: false }
    }

    /// None.
    pub(super) fn empty() -> Self {
        Self { body: Body::Length(0), coding: Coding::Keep, taken: true }
    }

    /// Everything until the source ends.
    pub(super) fn until_close(coding: Coding) -> Self {
        Self { body: Body::UntilClose(u64::MAX), coding, taken: false }
    }

    /// Breaks with more than `most`, of which none has come yet. One with a length says beforehand how
    /// much it has.
    pub(super) fn limit(&mut self, most: u64) {
        match &mut self.body {
            Body::Length(_) => {}
            Body::Chunked(chunked) => {
                let limits = ChunkLimits { max_data_bytes: most, ..ChunkLimits::default() };
                **chunked = chunked.with_limits(limits);
            }
            Body::UntilClose(left) => *left = most,
        }
    }

    /// Whether everything was taken.
    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }

    /// How many bytes of a length that was given are still to be taken.
    pub(super) fn length_left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) if !self.taken => Some(left),
            _ => None,
        }
    }

    /// What was mended of the coding so far.
    pub(super) fn repairs(&self) -> Repairs {
        match &self.body {
            Body::Chunked(chunked) => chunked.repairs(),
            Body::Length(_) | Body::UntilClose(_) => Repairs::default(),
        }
    }

    /// Whether the sink can tell the end only by the connection's.
    pub(super) fn ends_by_closing(&self) -> bool {
        match self.body {
            Body::UntilClose(_) => self.coding == Coding::Keep,
            Body::Chunked(_) => self.coding == Coding::Dechunk,
            Body::Length(_) => false,
        }
    }

    /// Whether all is here only when the source has ended.
    pub(super) fn ends_with_source(&self) -> bool {
        matches!(self.body, Body::UntilClose(_))
    }

    /// Whether each byte has to be looked at, in order to find the end.
    pub(super) fn is_looked_at(&self) -> bool {
        matches!(self.body, Body::Chunked(_))
    }

    /// Whether bytes in hand may be the beginning of a line that is not passed on before it is whole.
    pub(super) fn waits_for_line(&self) -> bool {
        self.coding == Coding::Keep && matches!(self.body, Body::Chunked(_))
    }

    /// Whether what is spliced becomes a chunk.
    pub(super) fn makes_chunks(&self) -> bool {
        self.coding == Coding::Chunk
    }

    /// Whether the coding changes: then bytes cannot go on as they stand.
    pub(super) fn is_recoded(&self) -> bool {
        self.coding != Coding::Keep
    }

    /// How many bytes may go on unseen, and without being copied; nothing if it is few.
    pub(super) fn spliceable(&self) -> Option<u64> {
        match self.body {
            _ if self.taken => None,
            Body::Length(left) => {
                (self.coding == Coding::Keep && left >= ORDINARY as u64).then_some(left)
            }
            Body::UntilClose(left) => (left >= ORDINARY as u64).then_some(left),
            Body::Chunked(_) => None,
        }
    }

    /// So many bytes went on unseen.
    pub(super) fn spliced(&mut self, bytes: usize) {
        if let Body::Length(left) | Body::UntilClose(left) = &mut self.body {
            *left = left.saturating_sub(bytes as u64);
        }
        self.taken = matches!(self.body, Body::Length(0));
    }

    /// How many bytes at the front of `held` belong here and may go on as they stand. Nothing if they
    /// have to be written anew from here on; `is_behind` others that are still to go out before that.
    /// `line_end` is called if the last of those owes a line end.
    pub(super) fn pass(
        &mut self,
        held: &[u8],
        is_behind: bool,
        line_end: impl FnOnce(),
    ) -> Result<Option<usize>, Faulty> {
        Ok(Some(match &mut self.body {
            Body::Length(left) => {
                let count = usize::try_from(*left).map_or(held.len(), |left| left.min(held.len()));
                *left -= count as u64;
                self.taken = *left == 0;
                count
            }
            Body::Chunked(chunked) => match chunked.pass(held) {
                Ok(count) => {
                    self.taken = chunked.is_at_end();
                    count
                }
                // What was passed on before goes out first.
                Err(Irregular) if is_behind => 0,
                Err(Irregular) => {
                    if chunked.owes_line_end() {
                        line_end();
                    }
                    self.coding = Coding::Rechunk;
                    return Ok(None);
                }
            },
            Body::UntilClose(left) => {
                *left = room_for(*left, held.len())?;
                held.len()
            }
        }))
    }

    /// Takes bytes at the front of `held` and writes what they stand for in the other coding. Answers how
    /// many it took.
    pub(super) fn recode(&mut self, held: &[u8], out: &mut Vec<u8>) -> Result<usize, Faulty> {
        match &mut self.body {
            Body::Chunked(chunked) => {
                let rechunk = self.coding == Coding::Rechunk;
                let piece = chunked.advance(held, rechunk.then_some(&mut *out))?;
                self.taken = chunked.is_at_end();
                let data = held.get(piece.data).unwrap_or_default();
                match rechunk && !data.is_empty() {
                    true => write_chunk(out, data),
                    false => out.extend_from_slice(data),
                }
                Ok(piece.used)
            }
            Body::UntilClose(left) | Body::Length(left) => {
                *left = room_for(*left, held.len())?;
                write_chunk(out, held);
                Ok(held.len())
            }
        }
    }

    /// The source has ended and nothing of it is left. Answers what is to be written then.
    pub(super) fn end(&mut self) -> Result<&'static [u8], Faulty> {
        if !matches!(self.body, Body::UntilClose(_)) {
            return Err(Faulty::Cut);
        }
        self.taken = true;
        Ok(if self.coding == Coding::Chunk { LAST_CHUNK } else { b"" })
    }
}

/// Writes bytes as one chunk.
fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    write_chunk_head(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(CRLF);
}

/// What is left of a limit behind so many bytes.
fn room_for(left: u64, bytes: usize) -> Result<u64, Faulty> {
    left.checked_sub(bytes as u64).ok_or(Faulty::TooMuch)
}
