//! The kinds of faults that the proxy mends in responses, and whether it mends any.
//! [`response_repair`](super::response_repair) mends those of a head.

/// One kind of fault that was mended in a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Repair {
    /// White space, zeros or a bare LF around a chunk's size (RFC 9112 §7.1.1); the chunks are
    /// rewritten.
    ChunkLine,
    /// A control character in a field value or a reason became a space (RFC 9110 §5.5).
    Control,
    /// A folded line became one line (RFC 9112 §5.2).
    Fold,
    /// `ICY 200`, the answer of radio streams, was read as HTTP/1.0.
    Icy,
    /// `Transfer-Encoding: identity`, which has no effect, was taken out (RFC 9112 §7, RFC 2616 §3.6).
    Identity,
    /// A `Content-Length` beside chunked content was taken out (RFC 9112 §6.3).
    LengthBesideChunked,
    /// A line that ended with LF alone (RFC 9112 §2.2).
    LineEnd,
    /// More field lines than a request may have.
    ManyFields,
    /// More interim responses than a strict reader allows.
    ManyInterim,
    /// White space between a field name and its colon was taken out (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A status code from 600 to 999; it is passed on as it is (RFC 9110 §15).
    Status,
    /// A field that is not allowed in a trailer section was taken out (RFC 9110 §6.5.1), or a trailer
    /// section was longer than a request's may be.
    Trailer,
    /// HTTP/1.2 to HTTP/1.9 were read as HTTP/1.1 (RFC 9110 §6.2).
    Version,
}

impl Repair {
    /// Every kind, in order.
    pub const ALL: [Self; 13] = [
        Self::ChunkLine,
        Self::Control,
        Self::Fold,
        Self::Icy,
        Self::Identity,
        Self::LengthBesideChunked,
        Self::LineEnd,
        Self::ManyFields,
        Self::ManyInterim,
        Self::SpaceBeforeColon,
        Self::Status,
        Self::Trailer,
        Self::Version,
    ];

    /// The word in the counters and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::ChunkLine => "chunk-line",
            Self::Control => "control-character",
            Self::Fold => "folded-line",
            Self::Icy => "icy",
            Self::Identity => "identity-coding",
            Self::LengthBesideChunked => "length-beside-chunked",
            Self::LineEnd => "line-end",
            Self::ManyFields => "many-fields",
            Self::ManyInterim => "many-interim",
            Self::SpaceBeforeColon => "space-before-colon",
            Self::Status => "status",
            Self::Trailer => "trailer",
            Self::Version => "version",
        }
    }
}

/// The kinds of faults that were mended in one response.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Repairs(u16);

impl Repairs {
    /// Whether nothing had to be mended.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds a kind.
    pub fn add(&mut self, repair: Repair) {
        self.0 |= 1 << repair as u16;
    }

    /// The kinds of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this kind is among them.
    pub fn has(self, repair: Repair) -> bool {
        self.0 & 1 << repair as u16 != 0
    }

    /// Each kind once.
    pub fn iter(self) -> impl Iterator<Item = Repair> {
        Repair::ALL.into_iter().filter(move |repair| self.has(*repair))
    }
}

/// How strictly the parts of a response are judged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Leniency {
    /// Faults that real clients accept are mended.
    #[default]
    Mend,
    /// Any deviation from the strict form is refused (`--strict-responses`).
    Strict,
}
