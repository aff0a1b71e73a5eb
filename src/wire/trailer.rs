//! Checks the trailer section of a chunked body, the field lines after the last chunk (RFC 9112 §7.1.2).
//!
//! The lines are checked byte by byte and none is kept. A recipient may merge them into the head's fields.
//! Names that frame, route or authenticate are therefore refused in a request and taken out of a response.
//! Names by which a proxy identifies the client are taken out of both, because a client could repeat them
//! behind the content. In a response a line that is no field is taken out, too, and a folded line becomes
//! one line.

use super::chunk_rules::{ChunkError, ChunkLimits, Tolerance};
use super::field::{is_token_byte, is_value_byte};
use super::leniency::{Repair, Repairs};

/// Names that are not allowed in a trailer section (RFC 9110 §6.5.1), in lower case.
const FORBIDDEN: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Names to take out; one that ends with `*` is a prefix. They say who a message came from, or are for this
/// hop or this exchange. Only the head may have them, where the proxy judges them.
const DROPPED: &[&str] = &[
    "cf-connecting-ip",
    "client-ip",
    "forwarded",
    "location",
    "persistent-auth",
    "proxy-authentication-info",
    "proxy-support",
    "true-client-ip",
    "via",
    "www-authenticate",
    "x-client-ip*",
    "x-cluster-client-ip",
    "x-forwarded*",
    "x-original-*",
    "x-real-ip*",
];

/// One more than the longest of them. A name that fills it is none of them, but may begin as one.
const NAME_ROOM: usize = 26;

/// How many times as many bytes of trailers a response may have as a request.
const MORE_BYTES: u32 = 8;

/// The position in the trailer section.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Trailer {
    state: State,
    bytes: u32,
    lines: u32,
    /// The first bytes of the current name.
    name: [u8; NAME_ROOM],
    name_bytes: u8,
    /// The line is forwarded, rather than taken out.
    kept: bool,
    /// The end of the previous line is still to be written, because the next line may continue it.
    owed: bool,
    repairs: Repairs,
}

/// ```text
///  ┌───────────────── LF ◀──────────────┐
///  ▼                                    │
/// LineStart ─ token ▶ Name ─ : ▶ Value ─ CR ▶ LineEnd
///  └─ CR ▶ LastLineEnd ─ LF ▶ the end
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    LineStart,
    Name,
    /// The rest of a name that is none of the listed ones.
    LongName,
    /// White space between a name and its colon.
    NameEnd,
    LongNameEnd,
    Value,
    LineEnd,
    /// A line that is no field, or that continues a line taken out.
    Skipped,
    LastLineEnd,
}

/// The consequence of a name for its line.
enum Fate {
    Kept,
    /// Taken out of a response, refused in a request.
    Forbidden,
    /// Taken out.
    Dropped,
}

impl Trailer {
    /// Takes one byte. Returns whether it was the last of the section. The parts of the section to forward
    /// are appended to `rest`.
    pub(super) fn step(
        &mut self,
        byte: u8,
        limits: &ChunkLimits,
        tolerance: Tolerance,
        rest: &mut Option<&mut Vec<u8>>,
    ) -> Result<bool, ChunkError> {
        let mends = tolerance == Tolerance::Mend;
        self.count(limits, mends)?;
        if self.owed && self.state == State::LineStart && !(mends && matches!(byte, b' ' | b'\t')) {
            self.owed = false;
            self.write(b"\r\n", rest);
        }
        self.state = match (self.state, byte) {
            (State::LineStart, b'\r') => State::LastLineEnd,
            (State::LineStart, _) if is_token_byte(byte) => {
                self.count_line(limits, mends)?;
                self.name_bytes = 0;
                self.kept = true;
                self.push_name(byte, tolerance, rest)?
            }
            (State::Name, b':') => {
                self.judge(tolerance)?;
                self.write_name(rest);
                self.write(b":", rest);
                State::Value
            }
            (State::Name, _) if is_token_byte(byte) => self.push_name(byte, tolerance, rest)?,
            (State::LongName, _) if is_token_byte(byte) => {
                self.write(&[byte], rest);
                State::LongName
            }
            (State::LongName | State::LongNameEnd, b':') => {
                self.write(b":", rest);
                State::Value
            }
            (State::Value, b'\r') => State::LineEnd,
            (State::Value, _) if is_value_byte(byte) => {
                self.write(&[byte], rest);
                State::Value
            }
            (State::LineEnd, b'\n') => {
                self.owed = self.kept && rest.is_some();
                State::LineStart
            }
            (State::LastLineEnd, b'\n') => return Ok(self.end(rest)),
            (State::LineEnd | State::LastLineEnd, _) => return Err(ChunkError::BadLineEnd),
            _ if mends => return self.mend(byte, tolerance, rest),
            _ => return Err(ChunkError::BadTrailer),
        };
        Ok(false)
    }

    /// Takes a byte that is not in the strict form.
    #[cold]
    fn mend(
        &mut self,
        byte: u8,
        tolerance: Tolerance,
        rest: &mut Option<&mut Vec<u8>>,
    ) -> Result<bool, ChunkError> {
        let (state, repair) = match (self.state, byte) {
            (State::LineStart, b'\n') => {
                self.repairs.add(Repair::ChunkLine);
                return Ok(self.end(rest));
            }
            (State::Name | State::NameEnd, b' ' | b'\t') => {
                self.state = State::NameEnd;
                return Ok(false);
            }
            (State::NameEnd, b':') => {
                self.judge(tolerance)?;
                self.write_name(rest);
                self.write(b":", rest);
                (State::Value, Repair::SpaceBeforeColon)
            }
            (State::LongName | State::LongNameEnd, b' ' | b'\t') => {
                (State::LongNameEnd, Repair::SpaceBeforeColon)
            }
            (State::Value, b'\n') => {
                self.owed = self.kept && rest.is_some();
                (State::LineStart, Repair::ChunkLine)
            }
            (State::LineStart, b' ' | b'\t') if self.owed => {
                self.write(b" ", rest);
                (State::Value, Repair::Fold)
            }
            (State::Skipped, b'\n') => {
                (self.kept, self.owed) = (false, false);
                (State::LineStart, Repair::Trailer)
            }
            // A line that is no field is dropped; the content stays.
            (State::LineStart | State::Skipped, 1..) => (State::Skipped, Repair::Trailer),
            (State::Name | State::NameEnd, 1..) => {
                self.kept = false;
                let state = if byte == b'\n' { State::LineStart } else { State::Skipped };
                (state, Repair::Trailer)
            }
            (State::Value, 1..) => {
                self.write(b" ", rest);
                (State::Value, Repair::Control)
            }
            _ => return Err(ChunkError::BadTrailer),
        };
        self.state = state;
        self.repairs.add(repair);
        Ok(false)
    }

    /// Whether no byte of the section has come yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.bytes == 0
    }

    /// Whether a line has just ended.
    pub(super) fn is_between_lines(&self) -> bool {
        self.state == State::LineStart && self.bytes > 0
    }

    /// The faults mended so far.
    pub(super) fn repairs(&self) -> Repairs {
        self.repairs
    }

    fn count(&mut self, limits: &ChunkLimits, mends: bool) -> Result<(), ChunkError> {
        self.bytes += 1;
        if self.bytes <= limits.max_trailer_bytes {
            return Ok(());
        }
        if !mends || self.bytes > limits.max_trailer_bytes.saturating_mul(MORE_BYTES) {
            return Err(ChunkError::TrailerTooLarge);
        }
        self.repairs.add(Repair::Trailer);
        Ok(())
    }

    fn count_line(&mut self, limits: &ChunkLimits, mends: bool) -> Result<(), ChunkError> {
        self.lines += 1;
        if self.lines > limits.max_trailer_fields {
            if !mends {
                return Err(ChunkError::TrailerTooLarge);
            }
            self.repairs.add(Repair::Trailer);
        }
        Ok(())
    }

    /// Keeps a byte of a name until the name can be judged.
    fn push_name(
        &mut self,
        byte: u8,
        tolerance: Tolerance,
        rest: &mut Option<&mut Vec<u8>>,
    ) -> Result<State, ChunkError> {
        if let Some(slot) = self.name.get_mut(usize::from(self.name_bytes)) {
            *slot = byte;
            self.name_bytes += 1;
            return Ok(State::Name);
        }
        self.judge(tolerance)?;
        self.write_name(rest);
        self.write(&[byte], rest);
        Ok(State::LongName)
    }

    /// Decides whether the line is forwarded.
    fn judge(&mut self, tolerance: Tolerance) -> Result<(), ChunkError> {
        match fate(self.name.get(..self.name_bytes.into()).unwrap_or_default()) {
            Fate::Kept => return Ok(()),
            // A caller that passes a body on unchanged, or takes nothing out, has to know of both.
            Fate::Dropped if matches!(tolerance, Tolerance::Pass | Tolerance::Strict) => {
                return Err(ChunkError::ForbiddenTrailer);
            }
            Fate::Forbidden if tolerance != Tolerance::Mend => {
                return Err(ChunkError::ForbiddenTrailer);
            }
            Fate::Forbidden | Fate::Dropped => {}
        }
        self.kept = false;
        if tolerance == Tolerance::Mend {
            self.repairs.add(Repair::Trailer);
        }
        Ok(())
    }

    fn write_name(&self, rest: &mut Option<&mut Vec<u8>>) {
        self.write(self.name.get(..self.name_bytes.into()).unwrap_or_default(), rest);
    }

    fn write(&self, bytes: &[u8], rest: &mut Option<&mut Vec<u8>>) {
        if self.kept
            && let Some(rest) = rest
        {
            rest.extend_from_slice(bytes);
        }
    }

    /// Handles the end of the empty line.
    fn end(&mut self, rest: &mut Option<&mut Vec<u8>>) -> bool {
        self.kept = true;
        self.write(b"\r\n", rest);
        true
    }
}

/// The fate of `name`, or of a longer name that begins with it. Programs that get fields as variables (CGI)
/// cannot tell `-` from `_`.
fn fate(name: &[u8]) -> Fate {
    let alike = |bytes: &[u8], known: &str| {
        bytes.len() == known.len()
            && bytes
                .iter()
                .zip(known.bytes())
                .all(|(&o, k)| o.eq_ignore_ascii_case(&k) || (o == b'_' && k == b'-'))
    };
    let begins = |known: &str| alike(name.get(..known.len()).unwrap_or_default(), known);
    if FORBIDDEN.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
        Fate::Forbidden
    } else if FORBIDDEN.iter().any(|known| alike(name, known))
        || DROPPED.iter().any(|known| match known.strip_suffix('*') {
            Some(prefix) => begins(prefix),
            None => alike(name, known),
        })
    {
        Fate::Dropped
    } else {
        Fate::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_every_spelling() {
        for (name, dropped) in [
            ("X-Forwarded-For", true),
            ("x_forwarded_for", true),
            ("X-Forwarded_Host", true),
            ("X-Forwarded-Client-", true),
            ("Forwarded", true),
            ("X_REAL_IP", true),
            ("X-Original-URL", true),
            ("Via", true),
            ("Content_Length", true),
            ("transfer_encoding", true),
            ("X-Forward", false),
            ("Forwarded-Message", false),
            ("Viable", false),
            ("True-Client-IP", true),
            ("cf_connecting_ip", true),
            ("Proxy-Authentication-Info", true),
            ("Client-IPs", false),
            ("X-Checksum", false),
            ("Server-Timing", false),
        ] {
            assert_eq!(matches!(fate(name.as_bytes()), Fate::Dropped), dropped, "{name}");
        }
        for name in FORBIDDEN {
            assert!(name.len() < NAME_ROOM);
            assert!(matches!(fate(name.to_uppercase().as_bytes()), Fate::Forbidden), "{name}");
        }
    }
}
