//! Checks that a response is exactly what the origin server sends.
//!
//! Takes the bytes of one connection as they come and answers with the first [`Fault`]: nothing is
//! repaired, skipped or guessed. `engine` reads the sockets.

use crate::pattern;

/// Largest head accepted, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// The bytes that a step must receive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// A response with this status and content `from..from + bytes` of the pattern.
    Content { status: u16, from: u64, bytes: u64 },
    /// Any 2xx to CONNECT, without framing fields (RFC 9110 §9.3.6).
    Connected,
    /// The last message sent, back from an echo server.
    Echo { bytes: u64 },
    /// A refusal or a close; the status is reported, not judged.
    Refusal,
}

/// Why a connection is wrong. The names are the keys of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Connect,
    Head,
    Status(u16),
    Framing,
    Length,
    Content,
    ExtraBytes,
    EarlyClose,
    Reset,
}

impl Fault {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Connect => "connect".into(),
            Self::Head => "head".into(),
            Self::Status(status) => format!("status-{status}"),
            Self::Framing => "framing".into(),
            Self::Length => "length".into(),
            Self::Content => "content".into(),
            Self::ExtraBytes => "extra-bytes".into(),
            Self::EarlyClose => "early-close".into(),
            Self::Reset => "reset".into(),
        }
    }
}

/// The position within one step.
#[derive(Debug)]
enum At {
    Head,
    Content,
    ChunkSize,
    Chunk { left: u64 },
    ChunkEnd,
    LastChunkEnd,
    Done,
}

/// A whole line, and the bytes after it.
type Line<'a> = (Vec<u8>, &'a [u8]);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// The check of one step on one connection.
#[derive(Debug)]
pub(crate) struct Check {
    expect: Expect,
    at: At,
    framing: Framing,
    /// Bytes of a head, a chunk size or a line end that is still incomplete.
    line: Vec<u8>,
    /// Bytes of content seen; `seen <= bytes expected`.
    seen: u64,
    /// The start of the content in the pattern.
    from: u64,
    /// Whether the peer will take another request on this connection.
    pub(crate) persistent: bool,
    /// The status of an [`Expect::Refusal`].
    pub(crate) status: Option<u16>,
}

impl Check {
    /// `from` is the start of an echoed message in the pattern; other content brings its own.
    pub(crate) fn new(expect: Expect, from: u64) -> Self {
        let (at, from) = match expect {
            Expect::Echo { .. } => (At::Content, from),
            Expect::Content { from, .. } => (At::Head, from),
            Expect::Connected | Expect::Refusal => (At::Head, 0),
        };
        let framing = Framing::Length;
        Self {
            expect,
            at,
            framing,
            line: Vec::new(),
            seen: 0,
            from,
            persistent: true,
            status: None,
        }
    }

    pub(crate) fn done(&self) -> bool {
        matches!(self.at, At::Done)
    }

    fn bytes(&self) -> u64 {
        match self.expect {
            Expect::Content { bytes, .. } | Expect::Echo { bytes } => bytes,
            Expect::Connected | Expect::Refusal => 0,
        }
    }

    /// Takes received bytes. Returns how many of them were content.
    pub(crate) fn feed(&mut self, mut input: &[u8]) -> Result<u64, Fault> {
        let before = self.seen;
        while !input.is_empty() {
            match self.at {
                At::Head => input = self.feed_head(input)?,
                At::Content => input = self.feed_content(input, u64::MAX)?.0,
                At::ChunkSize => input = self.feed_chunk_size(input)?,
                At::Chunk { left } => {
                    let (rest, taken) = self.feed_content(input, left)?;
                    let left = left - taken;
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk { left } };
                    input = rest;
                }
                At::ChunkEnd => input = self.feed_line_end(input, false)?,
                At::LastChunkEnd => input = self.feed_line_end(input, true)?,
                // The content of a refusal is the proxy's own.
                At::Done if matches!(self.expect, Expect::Refusal) => return Ok(0),
                At::Done => return Err(Fault::ExtraBytes),
            }
        }
        Ok(self.seen - before)
    }

    /// How many bytes of content come next, if a length says so.
    pub(crate) fn unseen(&self) -> u64 {
        match (&self.at, self.framing) {
            (At::Content, Framing::Length) => self.bytes() - self.seen,
            _ => 0,
        }
    }

    /// Counts `bytes` of content that came unchecked, at most `unseen`.
    pub(crate) fn pass_over(&mut self, bytes: u64) -> u64 {
        self.seen += bytes;
        if self.seen == self.bytes() {
            self.at = At::Done;
        }
        bytes
    }

    /// Handles the peer's close: whether it is the right end.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match (self.expect, &self.at) {
            (_, At::Done) => {}
            (Expect::Refusal, At::Head) if self.line.is_empty() => {}
            (Expect::Content { bytes, .. }, At::Content)
                if self.framing == Framing::UntilClose && self.seen == bytes => {}
            _ => return Err(Fault::EarlyClose),
        }
        self.at = At::Done;
        self.persistent = false;
        Ok(())
    }

    fn feed_head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Fault> {
        let held = self.line.len();
        self.line.extend_from_slice(input);
        // All held bytes are parsed again; except for the drippers, heads come in one piece.
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let used = match head.parse(&self.line) {
            Ok(httparse::Status::Complete(used)) => used,
            Ok(httparse::Status::Partial) if self.line.len() <= MAX_HEAD => return Ok(&[]),
            _ => return Err(Fault::Head),
        };
        let status = head.code.ok_or(Fault::Head)?;
        let minor = head.version.ok_or(Fault::Head)?;
        let fields = Fields::read(head.headers, minor)?;
        self.line.clear();
        self.judge(status, fields)?;
        Ok(&input[used - held..])
    }

    fn judge(&mut self, status: u16, fields: Fields) -> Result<(), Fault> {
        self.persistent = fields.persistent;
        match self.expect {
            Expect::Refusal => {
                self.status = Some(status);
                self.persistent = false;
                self.at = At::Done;
            }
            Expect::Connected => {
                if !(200..300).contains(&status) {
                    return Err(Fault::Status(status));
                }
                if fields.length.is_some() || fields.chunked {
                    return Err(Fault::Framing);
                }
                self.persistent = true;
                self.at = At::Done;
            }
            Expect::Content { status: expected, bytes, .. } => {
                if status != expected {
                    return Err(Fault::Status(status));
                }
                (self.framing, self.at) = match (fields.length, fields.chunked) {
                    (Some(length), false) if length != bytes => return Err(Fault::Length),
                    (Some(0), false) => (Framing::Length, At::Done),
                    (Some(_), false) => (Framing::Length, At::Content),
                    (None, true) => (Framing::Chunked, At::ChunkSize),
                    (None, false) if !fields.persistent => (Framing::UntilClose, At::Content),
                    _ => return Err(Fault::Framing),
                };
            }
            Expect::Echo { .. } => return Err(Fault::Head),
        }
        Ok(())
    }

    /// Compares at most `limit` bytes. Returns the rest, and how many were taken.
    fn feed_content<'a>(&mut self, input: &'a [u8], limit: u64) -> Result<(&'a [u8], u64), Fault> {
        let missing = self.bytes() - self.seen;
        let take = limit.min(missing).min(input.len() as u64);
        if take == 0 {
            return Err(Fault::Length);
        }
        let (content, rest) = input.split_at(take as usize);
        if !pattern::matches(self.from + self.seen, content) {
            return Err(Fault::Content);
        }
        self.seen += take;
        if self.seen == self.bytes() && self.framing == Framing::Length {
            self.at = At::Done;
        }
        Ok((rest, take))
    }

    fn feed_chunk_size<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Fault> {
        let Some((line, rest)) = self.take_line(input)? else { return Ok(&[]) };
        let digits = line.strip_suffix(b"\r\n").ok_or(Fault::Framing)?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Fault::Framing);
        }
        let digits = str::from_utf8(digits).map_err(|_| Fault::Framing)?;
        let left = u64::from_str_radix(digits, 16).map_err(|_| Fault::Framing)?;
        self.at = match left {
            0 if self.seen != self.bytes() => return Err(Fault::Length),
            0 => At::LastChunkEnd,
            left => At::Chunk { left },
        };
        Ok(rest)
    }

    fn feed_line_end<'a>(&mut self, input: &'a [u8], last: bool) -> Result<&'a [u8], Fault> {
        let Some((line, rest)) = self.take_line(input)? else { return Ok(&[]) };
        // No trailer section, because the origin servers here send none.
        if line != b"\r\n" {
            return Err(Fault::Framing);
        }
        self.at = if last { At::Done } else { At::ChunkSize };
        Ok(rest)
    }

    /// A whole line with its end, or `None` if more has to come.
    fn take_line<'a>(&mut self, input: &'a [u8]) -> Result<Option<Line<'a>>, Fault> {
        let end = memchr::memchr(b'\n', input).map_or(input.len(), |i| i + 1);
        let (part, rest) = input.split_at(end);
        self.line.extend_from_slice(part);
        if self.line.ends_with(b"\n") {
            return Ok(Some((std::mem::take(&mut self.line), rest)));
        }
        if self.line.len() > 32 { Err(Fault::Framing) } else { Ok(None) }
    }
}

/// What the fields say about the end of the content and of the connection.
#[derive(Clone, Copy)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    persistent: bool,
}

impl Fields {
    fn read(fields: &[httparse::Header<'_>], minor: u8) -> Result<Self, Fault> {
        let mut read = Self { length: None, chunked: false, persistent: minor == 1 };
        for field in fields {
            let value = str::from_utf8(field.value).map_err(|_| Fault::Head)?;
            if field.name.eq_ignore_ascii_case("content-length") {
                let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                let length = value.parse().map_err(|_| Fault::Framing)?;
                if !digits || read.length.replace(length).is_some() {
                    return Err(Fault::Framing);
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if read.chunked || !value.eq_ignore_ascii_case("chunked") {
                    return Err(Fault::Framing);
                }
                read.chunked = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                for option in value.split(',').map(str::trim) {
                    if option.eq_ignore_ascii_case("close") {
                        read.persistent = false;
                    } else if option.eq_ignore_ascii_case("keep-alive") && minor == 0 {
                        read.persistent = true;
                    }
                }
            }
        }
        Ok(read)
    }
}
