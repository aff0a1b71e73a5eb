//! The limits of a chunked body, the deviations that are tolerated, and every way to break the rules.
//! [`chunked`](super::chunked) applies them.

/// How much of a chunked body may be other than data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkLimits {
    /// Bytes of one chunk's extensions, from the `;` on.
    pub max_extension_bytes: u32,
    /// Bytes of all extensions of a body.
    pub max_extensions_bytes: u32,
    /// Bytes of the trailer section, its empty line included.
    pub max_trailer_bytes: u32,
    /// Field lines of the trailer section.
    pub max_trailer_fields: u32,
    /// Bytes of data; not limited by default.
    pub max_data_bytes: u64,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            max_extension_bytes: 256,
            max_extensions_bytes: 16 * 1024,
            max_trailer_bytes: 8 * 1024,
            max_trailer_fields: 64,
            max_data_bytes: u64::MAX,
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
    /// A size that is no hexadecimal number (RFC 9112 §7.1), or is too large for a signed 64-bit number: a
    /// recipient could read it as negative.
    BadSize,
    /// A trailer line that is not a field line (RFC 9112 §7.1.2).
    BadTrailer,
    /// Extensions over the limit (RFC 9112 §7.1.1).
    ExtensionTooLong,
    /// A trailer field that frames, routes or authenticates (RFC 9110 §6.5.1).
    ForbiddenTrailer,
    /// White space beside a size without an extension; the grammar of RFC 9112 §7.1 has none there.
    PaddedSize,
    /// A size of more than 16 digits: a recipient could read only the last of them, or the first.
    SizeTooLong,
    /// A chunk that takes the data over the limit.
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
            Self::PaddedSize => "there is white space beside a chunk size",
            Self::SizeTooLong => "a chunk size has more than 16 digits",
            Self::TooMuchData => "the chunks have more data than the limit",
            Self::TrailerTooLarge => "the trailer section is larger than the limit",
        }
    }
}

/// How strictly chunks are judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tolerance {
    /// For a request: the grammar is taken literally. White space before a `;` belongs to it (RFC 9112
    /// §7.1.1), but not every recipient knows that. Fields that impersonate a proxy are taken out.
    Literal,
    /// For a response: faults that clients accept are mended.
    Mend,
    /// For a response that is not to be mended: as for a request, and a field to take out is a fault.
    Strict,
    /// For [`Chunked::pass`](super::Chunked::pass): anything that would be rewritten is a fault.
    Pass,
}
