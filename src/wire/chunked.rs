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
    /// Octets of the trailer section, its empty line included.
    pub max_trailer_octets: u32,
    /// Field lines of the trailer section.
    pub max_trailer_fields: u32,
    /// Octets of data; not limited by default.
    pub max_data_octets: u64,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            max_extension_octets: 256,
            max_extensions_octets: 16 * 1024,
            max_trailer_octets: 8 * 1024,
            max_trailer_fields: 64,
            max_data_octets: u64::MAX,
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
    /// A size that is not 1 to 16 hexadecimal digits (RFC 9112 §7.1), or is more than a signed
    /// 64-bit number holds: a recipient could read it as negative.
    BadSize,
    /// A trailer line that is not a field line (RFC 9112 §7.1.2).
    BadTrailer,
    /// Extensions over the limit (RFC 9112 §7.1.1).
    ExtensionTooLong,
    /// A trailer field that frames, routes or authenticates (RFC 9110 §6.5.1).
    ForbiddenTrailer,
    /// A chunk with which the data is over the limit.
    TooMuchData,
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
            Self::TooMuchData => "the chunks have more data than the limit",
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
                if self.left > i64::MAX as u64 {
                    return Err(ChunkError::BadSize);
                }
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
            (State::SizeLf, b'\n') => {
                // What is left of it, from here on.
                let limit = self.limits.max_data_octets.checked_sub(self.left);
                self.limits.max_data_octets = limit.ok_or(ChunkError::TooMuchData)?;
                Ok(State::Data)
            }
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

/// The end, the data and the refusal do not depend on how the octets come or which way they are
/// asked for. The first octets choose the cuts.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let (cuts, body) = bytes.split_at_checked(4).unwrap_or((&[], bytes));
    let mut whole = Chunked::new(ChunkLimits::default());
    let expected = whole.pass(body);

    let mut steps = cuts.iter().map(|&cut| usize::from(cut) + 1).cycle();
    let (mut passing, mut advancing) = (whole_body(), whole_body());
    let (mut passed, mut advanced, mut data) = (Ok(0), Ok(0), Vec::new());
    let mut rest = body;
    while !rest.is_empty() {
        let (input, later) = rest.split_at(steps.next().unwrap_or(1).min(rest.len()));
        rest = later;
        passed = passed.and_then(|total: usize| Ok(total + passing.pass(input)?));
        advanced = advanced.and_then(|total: usize| {
            let mut used = 0;
            loop {
                let input = input.get(used..).unwrap_or_default();
                let piece = advancing.advance(input)?;
                assert!(piece.data.end == piece.used && piece.used <= input.len());
                data.extend_from_slice(input.get(piece.data).unwrap_or_default());
                used += piece.used;
                if piece.used == 0 {
                    assert!(input.is_empty() || advancing.is_at_end());
                    return Ok(total + used);
                }
            }
        });
    }
    assert_eq!((&passed, passing.is_at_end()), (&expected, whole.is_at_end()));
    assert_eq!((&advanced, advancing.is_at_end()), (&expected, whole.is_at_end()));
    if whole.is_at_end() {
        check_written_again(&data);
    }
}

fn whole_body() -> Chunked {
    Chunked::new(ChunkLimits::default())
}

/// Asserts, for fuzzing, that data in chunks of our own is the same data.
fn check_written_again(data: &[u8]) {
    let mut written = Vec::new();
    for chunk in data.chunks(17) {
        write_chunk_head(&mut written, chunk.len());
        written.extend_from_slice(chunk);
        written.extend_from_slice(CHUNK_END);
    }
    written.extend_from_slice(LAST_CHUNK);
    let mut chunked = whole_body();
    let (mut used, mut again) = (0, Vec::new());
    while let Ok(piece) = chunked.advance(written.get(used..).unwrap_or_default()) {
        if piece.used == 0 {
            break;
        }
        let input = written.get(used..).unwrap_or_default();
        again.extend_from_slice(input.get(piece.data).unwrap_or_default());
        used += piece.used;
    }
    assert_eq!((again.as_slice(), used), (data, written.len()));
    assert!(chunked.is_at_end());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::at_every_split;
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits {
        max_extension_octets: 8,
        max_extensions_octets: 12,
        max_trailer_octets: 25,
        max_trailer_fields: 2,
        max_data_octets: u64::MAX,
    };

    /// Asserts that `body` is one whole body with `data`, wherever it is cut and whatever follows.
    #[track_caller]
    fn whole(body: &str, data: &str) {
        let wire = [body.as_bytes(), b"5\r\nGET / HTTP/1.1\r\n"].concat();
        at_every_split(&wire, |first, rest| {
            let mut chunked = Chunked::new(LIMITS);
            let used = chunked.pass(first).unwrap() + chunked.pass(rest).unwrap();
            assert_eq!((used, chunked.is_at_end()), (body.len(), true), "cut at {}", first.len());

            let mut chunked = Chunked::new(LIMITS);
            let mut found = Vec::new();
            for mut input in [first, rest] {
                loop {
                    let piece = chunked.advance(input).unwrap();
                    found.extend_from_slice(&input[piece.data.clone()]);
                    input = &input[piece.used..];
                    if piece.used == 0 {
                        break;
                    }
                }
            }
            assert_eq!(String::from_utf8_lossy(&found), data, "cut at {}", first.len());
        });
        fuzz(body.as_bytes());
    }

    /// Asserts that `body` is refused at its last octet and not before, wherever it is cut.
    #[track_caller]
    fn refused(body: &str, expected: ChunkError) {
        at_every_split(body.as_bytes(), |first, rest| {
            let mut chunked = Chunked::new(LIMITS);
            let answer = chunked.pass(first).and_then(|_| chunked.pass(rest));
            assert_eq!(answer, Err(expected), "{body:?} cut at {}", first.len());
            assert_eq!(chunked.pass(b"0\r\n\r\n"), Err(expected), "once refused, always refused");
        });
        let before = &body.as_bytes()[..body.len() - 1];
        assert_eq!(Chunked::new(LIMITS).pass(before), Ok(before.len()), "{body:?}");
        fuzz(body.as_bytes());
    }

    #[test]
    fn the_end_and_the_data_are_found_wherever_reads_split_the_body() {
        whole("0\r\n\r\n", "");
        whole("4\r\nWiki\r\nA\r\n0123456789\r\n0\r\n\r\n", "Wiki0123456789");
        whole("0000000000000001\r\na\r\n000\r\n\r\n", "a");
        whole("2\r\n\r\n\r\n0\r\n\r\n", "\r\n");
        whole("1;a=\"b\"\r\nx\r\n0;\r\n\r\n", "x");
        whole("0\r\nA: b\r\nC:d \u{e9}\r\n\r\n", "");
        whole("0\r\nX-Content-Length: 7\r\n\r\n", "");
    }

    #[test]
    fn a_size_is_hexadecimal_digits_and_nothing_else() {
        for body in [
            "\r",
            ";",
            " ",
            "x",
            "0x",
            "+",
            "-",
            "g",
            "5 ",
            "5\t",
            "5\n",
            "1\0",
            "\n",
            "00000000000000001",
            "8000000000000000",
            "ffffffffffffffff",
            "5G",
            "5_",
        ] {
            refused(body, ChunkError::BadSize);
        }
        let mut chunked = Chunked::new(LIMITS);
        assert_eq!(chunked.pass(b"7FFFfffffFFFFFFF\r\nabc"), Ok(21));
        assert_eq!(chunked.left, i64::MAX as u64 - 3);
    }

    #[test]
    fn a_line_ends_with_cr_lf() {
        for body in
            ["1\rx", "1\r\r", "1\r\na\n", "1\r\nab", "1\r\na\r\r", "0\r\n\r\r", "0\r\nA:\rx"]
        {
            refused(body, ChunkError::BadLineEnd);
        }
        refused("1;a\n", ChunkError::BadExtension);
        refused("1;a\u{7f}", ChunkError::BadExtension);
        refused("0\r\nA:\n", ChunkError::BadTrailer);
    }

    #[test]
    fn extensions_are_bounded_by_chunk_and_by_body() {
        whole("1;2345678\r\nx\r\n0;234\r\n\r\n", "x");
        refused("1;23456789", ChunkError::ExtensionTooLong);
        refused("1;2345678\r\nx\r\n1;2345", ChunkError::ExtensionTooLong);
    }

    #[test]
    fn a_trailer_line_is_a_field_line() {
        for body in [
            "0\r\n ",
            "0\r\nA: b\r\n\t",
            "0\r\n:",
            "0\r\nA ",
            "0\r\nA\r",
            "0\r\nA: \u{0}",
            "0\r\n\n",
            "0\r\n(",
        ] {
            refused(body, ChunkError::BadTrailer);
        }
    }

    #[test]
    fn a_trailer_that_frames_routes_or_authenticates_is_refused() {
        for name in [
            "Content-Length",
            "transfer-ENCODING",
            "Host",
            "Connection",
            "Trailer",
            "TE",
            "Set-Cookie",
        ] {
            refused(&format!("0\r\n{name}:"), ChunkError::ForbiddenTrailer);
        }
        refused("0\r\nProxy-Authorization:", ChunkError::ForbiddenTrailer);
        refused("0\r\nA:b\r\nHost:", ChunkError::ForbiddenTrailer);
        whole("0\r\nProxy-Authorizations:\r\n\r\n", "");
        whole("0\r\nTE2:\r\nHos:\r\n\r\n", "");
    }

    #[test]
    fn the_trailer_section_is_bounded() {
        whole("0\r\nA: 456789012345678901\r\n\r\n", "");
        refused("0\r\nA: 45678901234567890123456", ChunkError::TrailerTooLarge);
        refused("0\r\nA:\r\nB:\r\nC", ChunkError::TrailerTooLarge);
    }

    #[test]
    fn a_large_chunk_is_passed_without_looking_at_its_data() {
        let mut chunked = Chunked::new(LIMITS);
        assert_eq!(chunked.pass(b"100000\r\n"), Ok(8));
        let data = vec![b'\n'; 1 << 19];
        assert_eq!(chunked.advance(&data), Ok(Piece { used: 1 << 19, data: 0..1 << 19 }));
        assert_eq!(chunked.pass(&data), Ok(1 << 19));
        assert_eq!(chunked.pass(b"\r\n0\r\n\r\nx"), Ok(7));
        assert!(chunked.is_at_end());
        assert_eq!(chunked.advance(b"x"), Ok(Piece { used: 0, data: 0..0 }));
    }

    #[test]
    fn a_chunk_head_is_the_length_in_hexadecimal() {
        for (len, expected) in
            [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0x1_2abc, "12abc\r\n")]
        {
            let mut out = Vec::new();
            write_chunk_head(&mut out, len);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_octets_keep_the_invariants(body in "[0-9a-b\r\n;:A ]{0,24}") {
            fuzz(body.as_bytes());
        }

        #[test]
        fn data_survives_our_chunks(data: Vec<u8>) {
            check_written_again(&data);
        }
    }
}
