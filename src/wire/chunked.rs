//! The chunked transfer coding: where its body ends, and which of its octets are data
//! (RFC 9112 §7.1).
//!
//! [`Chunked`] is fed octets as they come and keeps none. [`Chunked::pass`] is for relaying a body
//! octet for octet, [`Chunked::advance`] for taking the data out. The grammar is taken literally:
//! no white space round a size, no line end but CR LF, bounds on everything that is not data.
//!
//! ```text
//!  ┌──────────────── LF ◀ DataLf ◀ CR ─ DataCr ◀──┐
//!  ▼                                              │ all data
//! Size ─ ; ▶ Extension ─ CR ▶ SizeLf ─ LF ▶ Data ─┘
//!  └─────── CR ──────────────────┘└─ LF, size 0 ▶ Trailer ─ empty line ▶ End
//! ```

use std::ops::Range;

use super::field::is_value_octet;
use super::trailer::Trailer;

/// How much of a chunked body may be something else than data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkLimits {
    /// Octets of one chunk's extensions, from the `;` on.
    pub max_extension_octets: u32,
    /// Octets of all extensions of a body.
    pub max_extensions_octets: u32,
    /// Octets of the trailer section.
    pub max_trailer_octets: u32,
    /// Field lines of the trailer section.
    pub max_trailer_fields: u32,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            max_extension_octets: 256,
            max_extensions_octets: 16 * 1024,
            max_trailer_octets: 8 * 1024,
            max_trailer_fields: 64,
        }
    }
}

/// Why a chunked body is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ChunkError {
    /// A control character in a chunk extension (RFC 9112 §7.1.1).
    BadExtension,
    /// Not CR LF where a line or a chunk's data must end (RFC 9112 §7.1).
    BadLineEnd,
    /// A size that is not 1 to 16 hexadecimal digits (RFC 9112 §7.1).
    BadSize,
    /// A trailer line that is not a field line (RFC 9112 §7.1.2).
    BadTrailer,
    /// Extensions over the limit (RFC 9112 §7.1.1).
    ExtensionTooLong,
    /// A trailer field that frames, routes or authenticates (RFC 9110 §6.5.1).
    ForbiddenTrailer,
    /// A trailer section over the limit (RFC 9112 §7.1.2).
    TrailerTooLarge,
}

impl ChunkError {
    /// One plain sentence saying why, without a full stop.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadExtension => "a chunk extension has a control character",
            Self::BadLineEnd => "a chunk or one of its lines does not end with CR LF",
            Self::BadSize => "a chunk size is not a hexadecimal number",
            Self::BadTrailer => "the trailer section has a line that is not a field",
            Self::ExtensionTooLong => "the chunk extensions are longer than the limit",
            Self::ForbiddenTrailer => "the trailer section has a field that is not allowed there",
            Self::TrailerTooLarge => "the trailer section is larger than the limit",
        }
    }
}

/// Where in a chunked body the octets have come to.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    state: State,
    /// The size read so far, then the data octets to come.
    left: u64,
    /// Octets of this chunk's extensions.
    extension_octets: u32,
    /// Octets of all extensions before this chunk's.
    extensions_octets: u32,
    trailer: Trailer,
    limits: ChunkLimits,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Size {
        digits: u8,
    },
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    End,
    /// Once refused, always refused.
    Refused(ChunkError),
}

/// What [`Chunked::advance`] made of its input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Octets of input consumed: framing, then data.
    pub used: usize,
    /// The data among them; may be empty.
    pub data: Range<usize>,
}

impl Chunked {
    /// At the start of a body.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension_octets: 0,
            extensions_octets: 0,
            trailer: Trailer::default(),
            limits,
        }
    }

    /// Consumes framing up to and including at most one run of data. Nothing is consumed only of
    /// empty input or at the end.
    ///
    /// # Errors
    ///
    /// The body is malformed: nothing more may be relayed, and the connection cannot be reused.
    pub fn advance(&mut self, input: &[u8]) -> Result<Piece, ChunkError> {
        let used = self.framing(input)?;
        let data = self.data(input.len() - used);
        Ok(Piece { used: used + data, data: used..used + data })
    }

    /// Consumes as many octets of this body as there are.
    ///
    /// # Errors
    ///
    /// As [`advance`](Self::advance).
    pub fn pass(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            if rest.is_empty() || self.is_at_end() {
                return Ok(used);
            }
            used += self.advance(rest)?.used;
        }
    }

    /// Whether the whole body has been consumed, trailer section included.
    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    /// Consumes octets that are not data.
    fn framing(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        for (used, &octet) in input.iter().enumerate() {
            self.state = match self.state {
                State::Data | State::End => return Ok(used),
                State::Refused(error) => return Err(error),
                _ => match self.step(octet) {
                    Ok(state) => state,
                    Err(error) => {
                        self.state = State::Refused(error);
                        return Err(error);
                    }
                },
            };
        }
        Ok(input.len())
    }

    /// Consumes data, of which `available` octets are there.
    fn data(&mut self, available: usize) -> usize {
        if self.state != State::Data {
            return 0;
        }
        let taken = usize::try_from(self.left).map_or(available, |left| left.min(available));
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    /// The state after one octet that is not data.
    #[inline]
    fn step(&mut self, octet: u8) -> Result<State, ChunkError> {
        match (self.state, octet) {
            (State::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 16 {
                    return Err(ChunkError::BadSize);
                }
                let digit = if octet <= b'9' { octet - b'0' } else { (octet | 0x20) - b'a' + 10 };
                // Sixteen digits fill 64 bits and no more.
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size { digits: digits + 1 })
            }
            (State::Size { digits: 1.. }, b'\r') => Ok(State::SizeLf),
            (State::Size { digits: 1.. }, b';') => {
                self.extension_octets = 0;
                self.extension()
            }
            (State::Size { .. }, _) => Err(ChunkError::BadSize),
            (State::Extension, b'\r') => {
                self.extensions_octets += self.extension_octets;
                Ok(State::SizeLf)
            }
            (State::Extension, _) if is_value_octet(octet) => self.extension(),
            (State::Extension, _) => Err(ChunkError::BadExtension),
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::Trailer),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0 }),
            (State::SizeLf | State::DataCr | State::DataLf, _) => Err(ChunkError::BadLineEnd),
            (State::Trailer, _) => {
                let ended = self.trailer.step(octet, &self.limits)?;
                Ok(if ended { State::End } else { State::Trailer })
            }
            (state @ (State::Data | State::End | State::Refused(_)), _) => Ok(state),
        }
    }

    /// Counts one octet of an extension.
    fn extension(&mut self) -> Result<State, ChunkError> {
        self.extension_octets += 1;
        let all = self.extensions_octets.saturating_add(self.extension_octets);
        if self.extension_octets > self.limits.max_extension_octets
            || all > self.limits.max_extensions_octets
        {
            return Err(ChunkError::ExtensionTooLong);
        }
        Ok(State::Extension)
    }
}

/// The last chunk, with an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What follows a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends the line that stands before `len` octets of data. `len` is not 0: that would end the
/// body, which is what [`LAST_CHUNK`] does.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (len >> (place * 4) & 0xf) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.extend_from_slice(b"\r\n");
}
