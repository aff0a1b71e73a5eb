//! The trailer section of a chunked body: field lines after the last chunk (RFC 9112 §7.1.2).
//!
//! The lines are checked octet by octet and relayed as they are; none is kept. A recipient may
//! merge them into the head's fields, so names that frame, route or authenticate are refused.

use super::chunked::{ChunkError, ChunkLimits};
use super::field::{is_token_octet, is_value_octet};

/// Names that must not stand in a trailer section (RFC 9110 §6.5.1), in lower case.
const FORBIDDEN: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// One more than the longest of [`FORBIDDEN`]: a name that fills it is none of them.
const NAME_ROOM: usize = 20;

/// Where in the trailer section the octets have come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Trailer {
    state: State,
    octets: u32,
    lines: u32,
    /// The first octets of the current name, in lower case.
    name: [u8; NAME_ROOM],
    name_octets: u8,
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
    Value,
    LineEnd,
    LastLineEnd,
}

impl Trailer {
    /// Takes one octet; answers whether it was the last of the section.
    pub(super) fn step(&mut self, octet: u8, limits: &ChunkLimits) -> Result<bool, ChunkError> {
        self.octets += 1;
        if self.octets > limits.max_trailer_octets {
            return Err(ChunkError::TrailerTooLarge);
        }
        self.state = match (self.state, octet) {
            (State::LineStart, b'\r') => State::LastLineEnd,
            (State::LineStart, _) if is_token_octet(octet) => {
                self.lines += 1;
                if self.lines > limits.max_trailer_fields {
                    return Err(ChunkError::TrailerTooLarge);
                }
                self.name_octets = 0;
                self.push_name(octet);
                State::Name
            }
            (State::Name, b':') if self.name_is_forbidden() => {
                return Err(ChunkError::ForbiddenTrailer);
            }
            (State::Name, b':') => State::Value,
            (State::Name, _) if is_token_octet(octet) => {
                self.push_name(octet);
                State::Name
            }
            (State::Value, b'\r') => State::LineEnd,
            (State::Value, _) if is_value_octet(octet) => State::Value,
            (State::LineEnd, b'\n') => State::LineStart,
            (State::LastLineEnd, b'\n') => return Ok(true),
            (State::LineEnd | State::LastLineEnd, _) => return Err(ChunkError::BadLineEnd),
            (State::LineStart | State::Name | State::Value, _) => {
                return Err(ChunkError::BadTrailer);
            }
        };
        Ok(false)
    }

    fn push_name(&mut self, octet: u8) {
        if let Some(slot) = self.name.get_mut(usize::from(self.name_octets)) {
            *slot = octet.to_ascii_lowercase();
            self.name_octets += 1;
        }
    }

    fn name_is_forbidden(&self) -> bool {
        let name = self.name.get(..self.name_octets.into()).unwrap_or_default();
        FORBIDDEN.contains(&name)
    }
}
