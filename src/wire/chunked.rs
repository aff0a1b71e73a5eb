//! The chunked transfer coding: finds where a body ends, which of its bytes are data, and which chunks may
//! be forwarded unchanged (RFC 9112 §7.1).
//!
//! [`Chunked`] is fed bytes as they come and keeps none. [`Chunked::pass`] relays a body byte for byte
//! while it is in the strict form: no white space around a size, no line end but CR LF, limits on
//! everything but data. It lets a line go only when the line is whole, so that a line in another form has
//! not left yet. [`Chunked::advance`] takes such a line, if it is accepted at all, and gives the data for
//! new chunks.
//!
//! ```text
//!  ┌──────────────── LF ◀ DataLf ◀ CR ─ DataCr ◀──┐
//!  ▼                                              │ all data
//! Size ─ ; ▶ Extension ─ CR ▶ SizeLf ─ LF ▶ Data ─┘
//!  └─────── CR ──────────────────┘└─ LF, size 0 ▶ Trailer ─ empty line ▶ End
//! ```

use std::ops::Range;

use super::chunk_rules::{ChunkError, ChunkLimits, Tolerance};
use super::field::is_value_byte;
use super::leniency::{Repair, Repairs};
use super::trailer::Trailer;

/// The position in a chunked body.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    state: State,
    /// The size read so far, then the data bytes still to come.
    left: u64,
    /// Bytes of this chunk's extensions.
    extension_bytes: u32,
    /// Bytes of all extensions before this chunk's.
    extensions_bytes: u32,
    trailer: Trailer,
    limits: ChunkLimits,
    tolerance: Tolerance,
    repairs: Repairs,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// The number of digits; 17 stands for any number over 16.
    Size {
        digits: u8,
    },
    /// White space behind a size.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    End,
    /// A refused body stays refused.
    Refused(ChunkError),
}

/// A size with more digits can be zeros only.
const MAX_DIGITS: u8 = 16;

/// Bytes of a size line in a mended response: zeros, white space and extensions.
const MAX_MENDED_LINE: u32 = 64 * 1024;

/// A longer line is neither waited for nor passed on unchanged.
const MAX_HELD: usize = 512;

/// The result of [`Chunked::advance`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Bytes of input consumed: framing, then data.
    pub used: usize,
    /// The data among them; may be empty.
    pub data: Range<usize>,
}

/// The next line cannot be passed on unchanged. [`Chunked::advance`] accepts or refuses it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Irregular;

impl Chunked {
    /// At the start of a body.
    pub fn new(limits: ChunkLimits, tolerance: Tolerance) -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension_bytes: 0,
            extensions_bytes: 0,
            trailer: Trailer::default(),
            limits,
            tolerance,
            repairs: Repairs::default(),
        }
    }

    /// The same body with other limits, at its start.
    pub fn with_limits(&self, limits: ChunkLimits) -> Self {
        Self::new(limits, self.tolerance)
    }

    /// Consumes framing up to and including at most one run of data. Consumes nothing only if the input is
    /// empty or the body has ended. `rest`, if given, gets the last chunk and the trailer section, ready to
    /// forward.
    ///
    /// # Errors
    ///
    /// The body is malformed: nothing more may be relayed, and the connection cannot be reused.
    pub fn advance(
        &mut self,
        input: &[u8],
        mut rest: Option<&mut Vec<u8>>,
    ) -> Result<Piece, ChunkError> {
        let mut used = 0;
        while let Some(&byte) = input.get(used)
            && !matches!(self.state, State::Data | State::End)
        {
            let next = match self.state {
                State::Refused(error) => Err(error),
                _ => self.step(byte, self.tolerance, &mut rest),
            };
            self.state = next.inspect_err(|error| self.state = State::Refused(*error))?;
            used += 1;
        }
        let data = self.data(input.len() - used);
        Ok(Piece { used: used + data, data: used..used + data })
    }

    /// Consumes the bytes that may be forwarded unchanged: data, and whole lines in the strict form. Leaves a
    /// line that is not whole yet, and a trailer line until it is clear that no line continues it.
    ///
    /// # Errors
    ///
    /// The next line is not in the strict form; nothing was consumed.
    pub fn pass(&mut self, input: &[u8]) -> Result<usize, Irregular> {
        let mut passed = self.data(input.len());
        let mut ahead = *self;
        let mut used = passed;
        while let Some(&byte) = input.get(used)
            && ahead.state != State::End
        {
            if ahead.is_behind_trailer() && !matches!(byte, b' ' | b'\t') {
                *self = ahead;
                passed = used;
            }
            ahead.state = match ahead.step(byte, Tolerance::Pass, &mut None) {
                Ok(state) => state,
                Err(_) if passed == 0 => return Err(Irregular),
                Err(_) => return Ok(passed),
            };
            used += 1;
            if ahead.is_between_lines() {
                used += ahead.data(input.len() - used);
                *self = ahead;
                passed = used;
            }
        }
        if passed == 0 && used > MAX_HELD { Err(Irregular) } else { Ok(passed) }
    }

    /// Whether a line has just ended.
    fn is_between_lines(&self) -> bool {
        match self.state {
            State::Data | State::End | State::Size { digits: 0 } => true,
            State::Trailer => self.trailer.is_at_start(),
            _ => false,
        }
    }

    /// Whether a trailer line has just ended, which the next line may continue.
    fn is_behind_trailer(&self) -> bool {
        self.state == State::Trailer && self.trailer.is_between_lines()
    }

    /// Whether the whole body has been consumed, trailer section included.
    pub fn is_at_end(&self) -> bool {
        self.state == State::End
    }

    /// Whether the data of a chunk is consumed, but not the line end behind it.
    pub fn owes_line_end(&self) -> bool {
        self.state == State::DataCr
    }

    /// The faults mended so far.
    pub fn repairs(&self) -> Repairs {
        self.repairs.union(self.trailer.repairs())
    }

    /// Consumes data, of which `available` bytes are in the input.
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

    /// The state after one byte that is not data.
    #[inline]
    fn step(
        &mut self,
        byte: u8,
        tolerance: Tolerance,
        rest: &mut Option<&mut Vec<u8>>,
    ) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(digits, byte, tolerance)
            }
            (State::Size { digits: 1.. }, b'\r') => Ok(State::SizeLf),
            (State::Size { digits: 1.. } | State::Padding, b';') => self.extension(tolerance),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_value_byte(byte) => self.extension(tolerance),
            (State::SizeLf, b'\n') => self.size_is_known(rest),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0 }),
            (State::Trailer, _) => {
                let ended = self.trailer.step(byte, &self.limits, tolerance, rest)?;
                Ok(if ended { State::End } else { State::Trailer })
            }
            (state @ (State::Data | State::End | State::Refused(_)), _) => Ok(state),
            _ if tolerance != Tolerance::Pass => self.irregular(byte, tolerance, rest),
            (State::Padding, _) => Err(ChunkError::PaddedSize),
            (State::Size { .. }, _) => Err(ChunkError::BadSize),
            (State::Extension, _) => Err(ChunkError::BadExtension),
            (State::SizeLf | State::DataCr | State::DataLf, _) => Err(ChunkError::BadLineEnd),
        }
    }

    /// The state after a byte that is not in the strict form.
    #[cold]
    fn irregular(
        &mut self,
        byte: u8,
        tolerance: Tolerance,
        rest: &mut Option<&mut Vec<u8>>,
    ) -> Result<State, ChunkError> {
        let mends = tolerance == Tolerance::Mend;
        let state = match (self.state, byte) {
            // White space before a `;` is in the grammar. Whether one follows shows later.
            (State::Size { digits: 1.. } | State::Padding, b' ' | b'\t') => {
                // Counted as an extension, because it takes the place of one.
                self.extension(tolerance)?;
                return Ok(State::Padding);
            }
            (State::Size { digits: 0 }, b' ' | b'\t') if mends => {
                self.extension(tolerance)?;
                State::Size { digits: 0 }
            }
            (State::Size { digits: 0 }, b' ' | b'\t') | (State::Padding, _) if !mends => {
                return Err(ChunkError::PaddedSize);
            }
            (State::Padding, b'\r') if mends => State::SizeLf,
            (State::Size { digits: 1.. } | State::Padding | State::Extension, b'\n') if mends => {
                self.size_is_known(rest)?
            }
            (State::DataCr, b'\n') if mends => State::Size { digits: 0 },
            (State::Extension, _) => return Err(ChunkError::BadExtension),
            (State::SizeLf | State::DataCr | State::DataLf, _) => {
                return Err(ChunkError::BadLineEnd);
            }
            _ => return Err(ChunkError::BadSize),
        };
        self.repairs.add(Repair::ChunkLine);
        Ok(state)
    }

    /// One more digit of a size.
    #[inline]
    fn digit(&mut self, digits: u8, byte: u8, tolerance: Tolerance) -> Result<State, ChunkError> {
        if digits >= MAX_DIGITS {
            if tolerance != Tolerance::Mend {
                return Err(ChunkError::SizeTooLong);
            }
            self.extension(tolerance)?;
            self.repairs.add(Repair::ChunkLine);
        }
        let digit = if byte <= b'9' { byte - b'0' } else { (byte | 0x20) - b'a' + 10 };
        // A recipient may count in signed 64 bits.
        if self.left > i64::MAX as u64 >> 4 {
            return Err(ChunkError::BadSize);
        }
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Size { digits: digits.min(MAX_DIGITS) + 1 })
    }

    /// Handles the end of a size line.
    fn size_is_known(&mut self, rest: &mut Option<&mut Vec<u8>>) -> Result<State, ChunkError> {
        let bytes = std::mem::take(&mut self.extension_bytes);
        self.extensions_bytes = self.extensions_bytes.saturating_add(bytes);
        if self.left == 0 {
            if let Some(rest) = rest {
                rest.extend_from_slice(b"0\r\n");
            }
            return Ok(State::Trailer);
        }
        // The data still allowed.
        let limit = self.limits.max_data_bytes.checked_sub(self.left);
        self.limits.max_data_bytes = limit.ok_or(ChunkError::TooMuchData)?;
        Ok(State::Data)
    }

    /// Counts one byte of an extension, or of white space in its place.
    fn extension(&mut self, tolerance: Tolerance) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        let is_within = if tolerance == Tolerance::Mend {
            // The bytes go no further, so only each line has a limit: some servers pad every size.
            self.extension_bytes <= MAX_MENDED_LINE
        } else {
            self.extension_bytes <= self.limits.max_extension_bytes
                && self.extensions_bytes.saturating_add(self.extension_bytes)
                    <= self.limits.max_extensions_bytes
        };
        if is_within { Ok(State::Extension) } else { Err(ChunkError::ExtensionTooLong) }
    }
}

/// The last chunk, with an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The bytes that follow a chunk's data.
#[cfg(feature = "internals")]
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends the line before `len` bytes of data. `len` is not 0: an empty chunk ends the body, and
/// [`LAST_CHUNK`] is for that.
pub fn write_chunk_head(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (len >> (place * 4) & 0xf) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.extend_from_slice(b"\r\n");
}

/// The result of relaying a whole body.
#[derive(Debug, Eq, PartialEq)]
#[cfg(feature = "internals")]
struct Relayed {
    /// Bytes consumed up to the end of the body.
    used: Result<usize, ChunkError>,
    ended: bool,
    /// The body as forwarded.
    sent: Vec<u8>,
    repairs: Repairs,
}

/// Relays a body that comes in these pieces, as a flow does: passes it on while it is in the strict form.
#[cfg(feature = "internals")]
fn relay<'b>(
    pieces: impl Iterator<Item = &'b [u8]>,
    limits: ChunkLimits,
    as_is: Tolerance,
) -> Relayed {
    let mut chunked = Chunked::new(limits, as_is);
    let (mut sent, mut held, mut passing) = (Vec::new(), Vec::new(), true);
    let mut used = 0;
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() && !chunked.is_at_end() {
            let taken = if passing {
                match chunked.pass(&held) {
                    Ok(0) => break,
                    Ok(count) => {
                        sent.extend_from_slice(held.get(..count).unwrap_or_default());
                        count
                    }
                    Err(Irregular) => {
                        passing = false;
                        if chunked.owes_line_end() {
                            sent.extend_from_slice(CHUNK_END);
                        }
                        continue;
                    }
                }
            } else {
                match chunked.advance(&held, Some(&mut sent)) {
                    Ok(piece) => {
                        let data = held.get(piece.data).unwrap_or_default();
                        if !data.is_empty() {
                            write_chunk_head(&mut sent, data.len());
                            sent.extend_from_slice(data);
                            sent.extend_from_slice(CHUNK_END);
                        }
                        piece.used
                    }
                    Err(e) => {
                        let repairs = chunked.repairs();
                        return Relayed { used: Err(e), ended: false, sent, repairs };
                    }
                }
            };
            used += taken;
            held.drain(..taken);
        }
    }
    let (ended, repairs) = (chunked.is_at_end(), chunked.repairs());
    Relayed { used: Ok(used), ended, sent, repairs }
}

/// The data of a body under this tolerance.
#[cfg(feature = "internals")]
fn data_of(
    body: &[u8],
    limits: ChunkLimits,
    tolerance: Tolerance,
) -> Result<(Vec<u8>, usize), ChunkError> {
    let mut chunked = Chunked::new(limits, tolerance);
    let (mut used, mut data) = (0, Vec::new());
    loop {
        let input = body.get(used..).unwrap_or_default();
        let piece = chunked.advance(input, None)?;
        data.extend_from_slice(input.get(piece.data).unwrap_or_default());
        used += piece.used;
        if piece.used == 0 {
            return Ok((data, used));
        }
    }
}

/// End, data and refusal do not depend on how the bytes come. The relayed body is in the strict form, with
/// the same data. The first bytes choose the cuts.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let (cuts, body) = bytes.split_at_checked(4).unwrap_or((&[], bytes));
    let limits = ChunkLimits::default();
    for tolerance in [Tolerance::Literal, Tolerance::Mend] {
        let whole = relay(std::iter::once(body), limits, tolerance);
        let mut steps = cuts.iter().map(|&cut| usize::from(cut) + 1).cycle();
        let mut rest = body;
        let pieces = std::iter::from_fn(|| {
            let (piece, later) = rest.split_at(steps.next().unwrap_or(1).min(rest.len()));
            rest = later;
            (!piece.is_empty()).then_some(piece)
        });
        let cut = relay(pieces, limits, tolerance);
        check_relayed(body, &cut, limits, tolerance);
        check_relayed(body, &whole, limits, tolerance);
        assert_eq!((cut.ended, cut.used.is_ok()), (whole.ended, whole.used.is_ok()));
        if whole.ended {
            assert_eq!((cut.used, cut.repairs), (whole.used, whole.repairs));
        }
    }
}

/// Asserts that the relayed `body` is in the strict form and has the same data.
#[cfg(feature = "internals")]
fn check_relayed(body: &[u8], relayed: &Relayed, limits: ChunkLimits, tolerance: Tolerance) {
    let roomy = ChunkLimits { max_trailer_bytes: u32::MAX, max_trailer_fields: u32::MAX, ..limits };
    let mut strict = Chunked::new(roomy, Tolerance::Pass);
    let mut read = 0;
    while let Some(rest) = relayed.sent.get(read..)
        && let Ok(count) = strict.pass(rest)
        && count > 0
    {
        read += count;
    }
    assert_eq!(strict.is_at_end(), relayed.ended, "the sent body ends elsewhere");
    let Ok(used) = relayed.used else { return };
    if !relayed.ended {
        return;
    }
    assert_eq!(read, relayed.sent.len(), "{}", relayed.sent.escape_ascii());
    let data = data_of(body, limits, tolerance).map(|(data, _)| data);
    let sent = data_of(&relayed.sent, roomy, Tolerance::Pass).map(|(data, _)| data);
    assert_eq!(sent, data, "{}", relayed.sent.escape_ascii());
    assert_eq!(data_of(body, limits, tolerance).map(|(_, used)| used), Ok(used));
    check_written_again(&data.unwrap_or_default());
}

/// Asserts, for fuzzing, that data written in chunks here reads back the same.
#[cfg(feature = "internals")]
fn check_written_again(data: &[u8]) {
    let mut written = Vec::new();
    for chunk in data.chunks(17) {
        write_chunk_head(&mut written, chunk.len());
        written.extend_from_slice(chunk);
        written.extend_from_slice(CHUNK_END);
    }
    written.extend_from_slice(LAST_CHUNK);
    let again = data_of(&written, ChunkLimits::default(), Tolerance::Pass);
    assert_eq!(again, Ok((data.to_vec(), written.len())));
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
