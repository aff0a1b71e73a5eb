//! Content on its way through: finds its end, and changes its transfer coding where the two sides
//! differ.
//!
//! If the coding stays, the bytes are passed on as they are, and may be spliced. If the coding changes,
//! each piece is decoded and written again in the other coding.

use crate::net::buffer::ORDINARY;
use crate::wire::chunked::{LAST_CHUNK, write_chunk_head};
use crate::wire::{ChunkError, ChunkLimits, Chunked, Framing, Irregular, Repairs, Tolerance};

/// How the end of content is found.
#[derive(Debug)]
enum Body {
    /// This many more bytes.
    Length(u64),
    /// The chunked coding marks the end. Boxed: flows are moved, and most have none.
    Chunked(Box<Chunked>),
    /// The connection's end is the content's; at most this many more bytes may come.
    UntilClose(u64),
}

/// How the coding changes on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Coding {
    /// Byte for byte.
    Keep,
    /// Content until close becomes chunked.
    Chunk,
    /// Chunked content becomes plain.
    Dechunk,
    /// Chunked content gets chunks of the proxy's own, because those received are not in the strict
    /// form.
    Rechunk,
}

/// Why content cannot go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Faulty {
    /// The source closed before the framing said so.
    Cut,
    /// The coding is malformed.
    Framing(ChunkError),
    /// The content exceeds its limit.
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

/// The end of a chunk.
pub(super) const CRLF: &[u8] = b"\r\n";
/// The most that a chunk adds with its head and end, and a trailer field whose name was held back.
pub(super) const CHUNK_FRAME: usize = 64;

/// The content of one message, or one direction of a tunnel.
#[derive(Debug)]
pub(super) struct Content {
    body: Body,
    coding: Coding,
    /// All bytes of this content were taken.
    taken: bool,
}

impl Content {
    /// Content of a request in this framing, passed on byte for byte.
    pub(super) fn of_request(framing: Framing) -> Self {
        Self::framed(framing, Coding::Keep, Tolerance::Literal)
    }

    /// Content in this framing; its chunks are judged with this tolerance.
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

    /// No content.
    pub(super) fn empty() -> Self {
        Self { body: Body::Length(0), coding: Coding::Keep, taken: true }
    }

    /// All bytes until the source ends.
    pub(super) fn until_close(coding: Coding) -> Self {
        Self { body: Body::UntilClose(u64::MAX), coding, taken: false }
    }

    /// Makes the content fail if it exceeds `most`. None of it may have been taken yet. Content with a
    /// length announces how much it has, so it is not counted here.
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

    /// How many bytes of an announced length are still to be taken.
    pub(super) fn length_left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) if !self.taken => Some(left),
            _ => None,
        }
    }

    /// Repairs made to the coding so far.
    pub(super) fn repairs(&self) -> Repairs {
        match &self.body {
            Body::Chunked(chunked) => chunked.repairs(),
            Body::Length(_) | Body::UntilClose(_) => Repairs::default(),
        }
    }

    /// Whether the sink can tell the end only by the end of the connection.
    pub(super) fn ends_by_closing(&self) -> bool {
        match self.body {
            Body::UntilClose(_) => self.coding == Coding::Keep,
            Body::Chunked(_) => self.coding == Coding::Dechunk,
            Body::Length(_) => false,
        }
    }

    /// Whether the content is complete only when the source has ended.
    pub(super) fn ends_with_source(&self) -> bool {
        matches!(self.body, Body::UntilClose(_))
    }

    /// Whether each byte has to be examined to find the end.
    pub(super) fn is_looked_at(&self) -> bool {
        matches!(self.body, Body::Chunked(_))
    }

    /// Whether bytes in hand may be the beginning of a line that is passed on only when it is whole.
    pub(super) fn waits_for_line(&self) -> bool {
        self.coding == Coding::Keep && matches!(self.body, Body::Chunked(_))
    }

    /// Whether spliced bytes become a chunk.
    pub(super) fn makes_chunks(&self) -> bool {
        self.coding == Coding::Chunk
    }

    /// Whether the coding changes, so that bytes cannot be passed on as they are.
    pub(super) fn is_recoded(&self) -> bool {
        self.coding != Coding::Keep
    }

    /// How many bytes may go on unexamined and without being copied; `None` if these are few.
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

    /// Records that this many bytes went on unexamined.
    pub(super) fn spliced(&mut self, bytes: usize) {
        if let Body::Length(left) | Body::UntilClose(left) = &mut self.body {
            *left = left.saturating_sub(bytes as u64);
        }
        self.taken = matches!(self.body, Body::Length(0));
    }

    /// How many bytes at the front of `held` belong to the content and may be passed on as they are.
    /// `None` if the bytes from here on have to be rewritten. `is_behind` means that others are still to
    /// go out before these; `line_end` is called if the last of those owes a line end.
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
                // Bytes passed on earlier go out first.
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

    /// Takes bytes at the front of `held` and writes their content in the other coding. Returns how many
    /// it took.
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

    /// Handles the end of the source, of which nothing is left. Returns the bytes to write then.
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

/// The rest of a limit after this many bytes.
fn room_for(left: u64, bytes: usize) -> Result<u64, Faulty> {
    left.checked_sub(bytes as u64).ok_or(Faulty::TooMuch)
}
