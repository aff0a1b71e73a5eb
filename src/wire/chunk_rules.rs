//! The limits of a chunked body, which deviations are tolerated, and every way to break the rules.
//! [`chunked`](super::chunked) applies them.

/// How much of a chunked body may be something else than data.
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
    /// A size that is no hexadecimal number (RFC 9112 §7.1), or is more than a signed 64-bit number
    /// holds: a recipient could read it as negative.
    BadSize,
    /// A trailer line that is not a field line (RFC 9112 §7.1.2).
    BadTrailer,
    /// Extensions over the limit (RFC 9112 §7.1.1).
    ExtensionTooLong,
    /// A trailer field that frames, routes or authenticates (RFC 9110 §6.5.1).
    ForbiddenTrailer,
    /// White space beside a size that no extension follows; the grammar of RFC 9112 §7.1 has none there.
    PaddedSize,
    /// A size of more than 16 digits: a recipient could read the last of them, or the first.
    SizeTooLong,
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
            Self::PaddedSize => "white space stands beside a chunk size",
            Self::SizeTooLong => "a chunk size has more digits than 16",
            Self::TooMuchData => "the chunks have more data than the limit",
            Self::TrailerTooLarge => "the trailer section is larger than the limit",
        }
    }
}

/// How chunks that are not in the strict form are judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tolerance {
    /// As in a request: the grammar is taken literally. White space before a `;` belongs to it
    /// (RFC 9112 §7.1.1), but not every recipient knows; fields that impersonate a proxy are taken out.
    Literal,
    /// As in a response: what clients take is mended.
    Mend,
    /// As in a response that is not to be mended: as in a request, and a field that would be taken out is a
    /// fault.
    Strict,
    /// As [`Chunked::pass`](super::Chunked::pass) needs it: whatever has to be written anew is a fault.
    Pass,
}
