//! Reads the ClientHello that opens a TLS connection: which host does the client want to reach?
//! (RFC 8446 §4.1.2)
//!
//! Reads the first bytes of a connection, however records divide the hello (RFC 8446 §5.1) and reads cut
//! the records. Lengths are taken literally: each vector fills exactly its room. Anything that occurs
//! twice is refused, because two servers could each use a different one.
//!
//! Unknown extensions are skipped, GREASE among them (RFC 8701). The name is the one in the clear. With
//! Encrypted ClientHello (RFC 9849) that is the outer name: it names the server that decrypts, not the one
//! that is meant. The presence of that extension proves nothing, because browsers also send it without
//! content.
//!
//! Anything that some server takes for TLS counts as TLS. Servers differ in the version bytes of the first
//! record: OpenSSL wants a 3 in front, Go anything below 16, Java anything from 3. A record of any version
//! is therefore TLS if it holds a ClientHello. A hello in the format of SSL 2 (RFC 5246 §E.2) is recognised
//! and refused, because no client sends one any more.

use std::net::Ipv6Addr;
use std::str;

use super::target::Authority;

/// Limit on the bytes of a ClientHello, its handshake head included.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// Limit on the records it may come in.
const MAX_RECORDS: usize = 64;
/// Bytes of a record before its fragment.
pub(super) const RECORD_HEAD: usize = 5;
/// Bytes of a handshake message before its body.
const MESSAGE_HEAD: usize = 4;
/// Limit on the bytes looked at. With this many there is an answer.
pub const MAX_BYTES: usize = MAX_MESSAGE + MAX_RECORDS * RECORD_HEAD;

/// Limit on the bytes of a record's fragment, encrypted ones included (RFC 5246 §6.2.3).
pub(super) const MAX_FRAGMENT: usize = MAX_MESSAGE + 2048;

/// Content types of records (RFC 8446 §B.1, RFC 6520 §3).
const CHANGE_CIPHER_SPEC: u8 = 0x14;
pub(super) const ALERT: u8 = 0x15;
pub(super) const HANDSHAKE: u8 = 0x16;
pub(super) const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 0x14..=0x18;
/// The bit that the first byte of an SSL 2 record has, and the length of its shortest ClientHello.
const SSL_2: u8 = 0x80;
const SSL_2_LEAST: usize = 9;
/// The highest first version byte that counts as TLS in a hello of SSL 2.
const SSL_2_MAJOR: u8 = 0x0f;
/// The first byte of every version of TLS (RFC 8446 §4.1.2).
const MAJOR: u8 = 3;
/// Handshake type (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Extension types (RFC 6066 §3, RFC 7301 §3.1, RFC 9849 §5).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// Type of a name (RFC 6066 §3).
const HOST_NAME: u8 = 0;

/// The answer about the first bytes of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading<'a> {
    /// More bytes are needed.
    Incomplete,
    /// Not TLS; more bytes do not change that.
    NotTls,
    /// A whole ClientHello.
    Hello(Hello<'a>),
    /// TLS, but malformed or ambiguous.
    Malformed(HelloError),
}

/// The parts of a ClientHello that matter here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hello<'a> {
    /// The version it claims; TLS 1.3 claims TLS 1.2's.
    pub legacy_version: u16,
    /// The host it wants to reach, as sent: a name or an address, in a form a request may have.
    pub sni: Option<&'a str>,
    /// The extension for Encrypted ClientHello is present, perhaps as GREASE.
    pub ech: bool,
    /// Its length in bytes, the heads of its records included.
    pub bytes: usize,
    /// The protocols it offers, each with its length in front.
    alpn: &'a [u8],
}

impl<'a> Hello<'a> {
    /// The protocols it offers, in order (RFC 7301 §3.1).
    #[cfg(feature = "internals")]
    pub fn alpn(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = Bytes(self.alpn);
        // The list was already read once.
        std::iter::from_fn(move || rest.vector8(1).ok())
    }
}

/// Why a ClientHello is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HelloError {
    /// A name that is empty, too long, or no host name (RFC 6066 §3).
    BadName,
    /// A record that is empty, too long, of another type or version than the first (RFC 8446 §5.1).
    BadRecord,
    /// Lengths that do not fit each other (RFC 8446 §3.4).
    BadLength,
    /// Another message or record comes first.
    NotFirst,
    /// The format of SSL 2, which can name no host (RFC 5246 §E.2).
    OldFormat,
    /// More bytes, or more records, than the limit.
    TooLong,
    /// An extension, or a name, that occurs twice (RFC 8446 §4.2, RFC 6066 §3).
    Twice,
}

impl HelloError {
    /// Every error.
    #[cfg(feature = "internals")]
    pub const ALL: [Self; 7] = [
        Self::BadName,
        Self::BadRecord,
        Self::BadLength,
        Self::NotFirst,
        Self::OldFormat,
        Self::TooLong,
        Self::Twice,
    ];

    /// One plain sentence saying why, without a full stop.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadName => "the ClientHello names an invalid host",
            Self::BadRecord => "the ClientHello comes in a malformed record",
            Self::BadLength => "the ClientHello has inconsistent lengths",
            Self::NotFirst => "the TLS connection does not begin with a ClientHello",
            Self::OldFormat => "the ClientHello has the format of SSL 2, which names no host",
            Self::TooLong => "the ClientHello is longer than the limit",
            Self::Twice => "the ClientHello names two hosts, or has an extension twice",
        }
    }
}

/// Reads a ClientHello as it comes, looking at each byte of its records once.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The bytes of whole records gathered so far.
    walked: usize,
    /// The number of those records, at most [`MAX_RECORDS`].
    records: usize,
    /// Their fragments. Usually empty, because the first record is all of the message.
    message: Vec<u8>,
}

impl Reader {
    /// Reads on. `bytes` is everything received on the connection, including the bytes of earlier calls.
    pub fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Reading<'a> {
        loop {
            if let Some(length) = message_bytes(&self.message) {
                if length > MAX_MESSAGE {
                    return Reading::Malformed(HelloError::TooLong);
                }
                if self.message.len() >= length {
                    return whole(&self.message, length, self.walked);
                }
            }
            let rest = bytes.get(self.walked..).unwrap_or_default();
            let fragment = match self.record(rest) {
                Ok(Some(fragment)) => fragment,
                Ok(None) => return Reading::Incomplete,
                Err(reading) => return reading,
            };
            if let Some(length) = message_bytes(fragment)
                && self.message.is_empty()
                && fragment.len() >= length
            {
                return whole(fragment, length, RECORD_HEAD + fragment.len());
            }
            self.message.extend_from_slice(fragment);
            self.walked += RECORD_HEAD + fragment.len();
            self.records += 1;
        }
    }

    /// The fragment of the record at the front, once it is whole.
    fn record<'o>(&self, rest: &'o [u8]) -> Result<Option<&'o [u8]>, Reading<'static>> {
        let malformed = |error| Err(Reading::Malformed(error));
        if self.records == MAX_RECORDS {
            return malformed(HelloError::TooLong);
        }
        let is_first = self.records == 0;
        let [kind, rest @ ..] = rest else { return Ok(None) };
        if *kind != HANDSHAKE && !is_first {
            return malformed(HelloError::BadRecord);
        }
        if *kind & SSL_2 != 0 {
            return ssl_2(*kind, rest);
        }
        if !CONTENT_TYPES.contains(kind) {
            return Err(Reading::NotTls);
        }
        let [major, rest @ ..] = rest else { return Ok(None) };
        if *major != MAJOR && !is_first {
            return malformed(HelloError::BadRecord);
        }
        if *major == MAJOR && *kind != HANDSHAKE {
            // Some servers skip a warning before the ClientHello; it must not hide the hello.
            return malformed(HelloError::NotFirst);
        }
        if *kind > HANDSHAKE {
            return Err(Reading::NotTls);
        }
        let [_, a, b, rest @ ..] = rest else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        if *major != MAJOR {
            match (*kind, length) {
                (HANDSHAKE, 0) => return malformed(HelloError::BadRecord),
                (ALERT, 0..=2) | (CHANGE_CIPHER_SPEC, 0..=1) => {
                    return malformed(HelloError::NotFirst);
                }
                // Records over the limit count, too: Java takes some of 33,088 bytes.
                (HANDSHAKE, _) => match rest.first() {
                    Some(&CLIENT_HELLO) => {}
                    Some(_) => return Err(Reading::NotTls),
                    None => return Ok(None),
                },
                _ => return Err(Reading::NotTls),
            }
        }
        if !(1..=MAX_MESSAGE).contains(&length) {
            return malformed(HelloError::BadRecord);
        }
        if self.message.len() + length > MAX_MESSAGE {
            return malformed(HelloError::TooLong);
        }
        if is_first && rest.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return malformed(HelloError::NotFirst);
        }
        Ok(rest.get(..length))
    }
}

/// Judges a record in the format of SSL 2: a ClientHello, which is refused, or no TLS. `rest` follows its
/// first byte. The length comes first, so that few other protocols have to wait: telnet begins with 0xff.
fn ssl_2<'o>(first: u8, rest: &[u8]) -> Result<Option<&'o [u8]>, Reading<'static>> {
    let [low, rest @ ..] = rest else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([first & !SSL_2, *low]));
    if !(SSL_2_LEAST..=MAX_MESSAGE).contains(&length) {
        return Err(Reading::NotTls);
    }
    match rest {
        [] | [CLIENT_HELLO] => Ok(None),
        [CLIENT_HELLO, 0..=SSL_2_MAJOR, ..] => Err(Reading::Malformed(HelloError::OldFormat)),
        _ => Err(Reading::NotTls),
    }
}

/// The length of a message, its head included, once the head has come.
fn message_bytes(message: &[u8]) -> Option<usize> {
    let [_, a, b, c, ..] = *message else { return None };
    Some(u32::from_be_bytes([0, a, b, c]) as usize + MESSAGE_HEAD)
}

/// Reads a whole message, which should end with its last record. Its records take `bytes` bytes.
fn whole(message: &[u8], length: usize, bytes: usize) -> Reading<'_> {
    let body = match message.get(MESSAGE_HEAD..) {
        Some(body) if message.len() == length => body,
        _ => return Reading::Malformed(HelloError::BadLength),
    };
    match hello(Bytes(body)) {
        Ok(hello) => Reading::Hello(Hello { bytes, ..hello }),
        Err(error) => Reading::Malformed(error),
    }
}

fn hello(mut body: Bytes<'_>) -> Result<Hello<'_>, HelloError> {
    let legacy_version = body.u16()?;
    if legacy_version >> 8 != u16::from(MAJOR) {
        return Err(HelloError::BadLength);
    }
    body.take(32)?; // random
    let session_id = body.vector8(0)?; // legacy_session_id
    let cipher_suites = body.vector16(2)?;
    if session_id.len() > 32 || cipher_suites.len() % 2 != 0 {
        return Err(HelloError::BadLength);
    }
    body.vector8(1)?; // legacy_compression_methods
    let mut hello = Hello { legacy_version, sni: None, ech: false, bytes: 0, alpn: &[] };
    // Before TLS 1.3 extensions may be absent (RFC 5246 §7.4.1.2).
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Bytes(body.vector16(0)?);
    body.end()?;
    let mut has_alpn = false;
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.vector16(0)?);
        match kind {
            SERVER_NAME if hello.sni.is_some() => return Err(HelloError::Twice),
            SERVER_NAME => hello.sni = Some(server_name(Bytes(data))?),
            ALPN if has_alpn => return Err(HelloError::Twice),
            ALPN => {
                has_alpn = true;
                hello.alpn = protocols(Bytes(data))?;
            }
            ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// Stricter than RFC 6066 §3, which leaves room for other types of names. None has been defined, and
/// servers differ in how they treat one. The name has to be a host as in a request, without a port: nginx
/// cuts `:443` off, and then serves the host before it.
fn server_name(mut data: Bytes<'_>) -> Result<&str, HelloError> {
    let mut list = Bytes(data.vector16(1)?);
    data.end()?;
    if list.u8()? != HOST_NAME {
        return Err(HelloError::BadName);
    }
    let name = list.vector16(1)?;
    if !list.0.is_empty() {
        return Err(HelloError::Twice);
    }
    let text = str::from_utf8(name).map_err(|_| HelloError::BadName)?;
    // An address is not allowed here, but some clients send that of their CONNECT; `policy::sni` judges it.
    let is_host = Authority::parse(text).is_ok_and(|host| host.host.len() == text.len())
        || text.parse::<Ipv6Addr>().is_ok();
    if is_host { Ok(text) } else { Err(HelloError::BadName) }
}

fn protocols(mut data: Bytes<'_>) -> Result<&[u8], HelloError> {
    let list = data.vector16(2)?;
    data.end()?;
    let mut rest = Bytes(list);
    while !rest.0.is_empty() {
        rest.vector8(1)?;
    }
    Ok(list)
}

/// Bytes that are read from the front (RFC 8446 §3).
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::BadLength)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, HelloError> {
        self.take(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        Ok(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    /// A vector of at least `least` bytes, with a length of one byte.
    fn vector8(&mut self, least: usize) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u8()?);
        self.vector(length, least)
    }

    /// The same, with a length of two bytes.
    fn vector16(&mut self, least: usize) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u16()?);
        self.vector(length, least)
    }

    fn vector(&mut self, length: usize, least: usize) -> Result<&'a [u8], HelloError> {
        if length < least {
            return Err(HelloError::BadLength);
        }
        self.take(length)
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::BadLength) }
    }
}

/// More bytes never change an answer. The answer does not depend on how bytes and records are cut, and it
/// comes within the limits.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let answer = Reader::default().read(bytes).to_owned();
    assert!(answer != Said::Incomplete || bytes.len() < MAX_BYTES, "no answer");
    let mut reader = Reader::default();
    let mut before = Said::Incomplete;
    // Every byte of a usual hello, and some of a long one.
    let step = 1 + bytes.len() / 512;
    for came in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        let now = reader.read(bytes.get(..came).unwrap_or_default()).to_owned();
        assert!(before == Said::Incomplete || before == now, "{before:?} became {now:?}");
        before = now;
        assert!(reader.message.capacity() <= 2 * MAX_MESSAGE, "held too much");
    }
    assert_eq!(before, answer);
    if let Reading::Hello(hello) = Reader::default().read(bytes) {
        let own = bytes.get(..hello.bytes).unwrap_or_default();
        assert_eq!(Reader::default().read(own).to_owned(), answer, "not its own bytes");
        let less = own.split_last().map_or(own, |(_, less)| less);
        assert_eq!(Reader::default().read(less).to_owned(), Said::Incomplete);
        let cut = usize::from(bytes.get(40).copied().unwrap_or(1));
        let halved = in_records(bytes, cut.max(1));
        assert_eq!(Reader::default().read(&halved).to_owned(), answer, "cut at {cut}");
    }
}

/// An answer without borrowed bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg(feature = "internals")]
enum Said {
    Incomplete,
    NotTls,
    Hello(u16, Option<String>, bool, Vec<Vec<u8>>),
    Malformed(HelloError),
}

impl Reading<'_> {
    #[cfg(feature = "internals")]
    fn to_owned(self) -> Said {
        match self {
            Self::Incomplete => Said::Incomplete,
            Self::NotTls => Said::NotTls,
            Self::Malformed(error) => Said::Malformed(error),
            Self::Hello(hello) => Said::Hello(
                hello.legacy_version,
                hello.sni.map(str::to_owned),
                hello.ech,
                hello.alpn().map(<[u8]>::to_vec).collect(),
            ),
        }
    }
}

/// The hello in the records of `bytes`, its first `cut` bytes in a separate record.
#[cfg(feature = "internals")]
fn in_records(bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = bytes;
    while let [_, _, _, a, b, after @ ..] = rest
        && message_bytes(&message).is_none_or(|length| message.len() < length)
    {
        let (fragment, after) = after.split_at(usize::from(u16::from_be_bytes([*a, *b])));
        message.extend_from_slice(fragment);
        rest = after;
    }
    let (first, second) = message.split_at(cut.min(message.len()));
    let mut records = Vec::new();
    for fragment in [first, second].into_iter().filter(|f| !f.is_empty()) {
        let length = u16::try_from(fragment.len()).unwrap_or_default();
        records.extend_from_slice(&[HANDSHAKE, MAJOR, 1]);
        records.extend_from_slice(&length.to_be_bytes());
        records.extend_from_slice(fragment);
    }
    records
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
