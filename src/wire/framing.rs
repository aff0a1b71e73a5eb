//! Message framing: where does the content of this message end? (RFC 9112 §6.3)
//!
//! A wrong answer is a request-smuggling hole, because the proxy counts every byte it relays by it. A
//! request whose fields two recipients could read in two ways is therefore refused here. Two faults of a
//! response are mended: a length beside exactly one `chunked`, and `identity`. `Evidence` collects the
//! fields in the one pass over them; the functions below judge it.
//!
//! This module has no I/O and no limits. [`chunked`](super::chunked) finds the end of a chunked body.

use std::num::NonZeroU64;

use super::field::trim_ows;
use super::leniency::{Leniency, Repair, Repairs};
use super::start_line::{Method, Version};

/// How the end of a message's content is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// No content follows the head.
    Empty,
    /// Exactly this many bytes follow.
    Length(NonZeroU64),
    /// Chunked transfer coding; a trailer section may follow the last chunk.
    Chunked,
}

/// [`Framing`], plus the two endings that only a response can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResponseFraming {
    /// The content ends where its framing says.
    Framed(Framing),
    /// The content ends when the origin server closes; the connection cannot be reused.
    UntilClose,
    /// No message follows: both directions are now a tunnel (2xx to CONNECT, or 101).
    Tunnel,
}

/// Why the fields leave open where content ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FramingError {
    /// `Transfer-Encoding` is empty, or applies chunked twice (RFC 9112 §6.1).
    BadCoding,
    /// `Content-Length` is not a number of bytes (RFC 9110 §8.6).
    BadLength,
    /// A transfer coding in an HTTP/1.0 message (RFC 9112 §6.1).
    CodingInHttp10,
    /// Two different lengths (RFC 9110 §8.6).
    DifferingLengths,
    /// The transfer coding `identity`, which was abolished (RFC 9112 §7).
    IdentityCoding,
    /// A length and a transfer coding (RFC 9112 §6.3).
    LengthAndCoding,
    /// More than one `Transfer-Encoding` line. Stricter than RFC 9112 §6.1, because some recipients look at
    /// the first or the last only.
    RepeatedCoding,
    /// A transfer coding other than chunked (RFC 9112 §6.1).
    UnknownCoding,
}

impl FramingError {
    /// Status code of the reply, if it was a request.
    pub fn status(self) -> u16 {
        if matches!(self, Self::UnknownCoding | Self::IdentityCoding) { 501 } else { 400 }
    }

    /// One plain sentence saying why, without a full stop.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadCoding => "Transfer-Encoding is empty or applies chunked twice",
            Self::BadLength => "Content-Length is not a number of bytes",
            Self::CodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding",
            Self::DifferingLengths => "Content-Length has two different values",
            Self::LengthAndCoding => "the message has both Content-Length and Transfer-Encoding",
            Self::RepeatedCoding => "the message has more than one Transfer-Encoding field",
            Self::IdentityCoding | Self::UnknownCoding => {
                "the only supported transfer coding is chunked"
            }
        }
    }
}

/// The framing fields of one head.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Evidence {
    /// The one value all `Content-Length` fields agree on.
    pub(super) length: Option<u64>,
    /// A list, a repeated line or leading zeros: the length must be forwarded in one plain line.
    pub(super) length_is_odd: bool,
    coding: Coding,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Coding {
    #[default]
    None,
    Chunked,
    Wrong(FramingError),
}

impl Evidence {
    /// Notes the value of a `Content-Length` line.
    ///
    /// # Errors
    ///
    /// The value does not consist of digits only, is over 2^63 - 1, or differs from an earlier value. A
    /// list of equal values counts as one of them (RFC 9110 §8.6).
    #[inline]
    pub(super) fn note_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        if let (Some(length), None) = (plain_length(value), self.length) {
            self.length = Some(length);
            self.length_is_odd = value.len() > 1 && value.first() == Some(&b'0');
            return Ok(());
        }
        self.note_odd_length(value)
    }

    #[cold]
    fn note_odd_length(&mut self, value: &[u8]) -> Result<(), FramingError> {
        self.length_is_odd = true;
        for element in value.split(|&byte| byte == b',') {
            let length = plain_length(trim_ows(element)).ok_or(FramingError::BadLength)?;
            if *self.length.get_or_insert(length) != length {
                return Err(FramingError::DifferingLengths);
            }
        }
        Ok(())
    }

    /// Notes the value of a `Transfer-Encoding` line.
    #[inline]
    pub(super) fn note_coding(&mut self, value: &[u8]) {
        self.coding = match self.coding {
            Coding::None if value.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
            Coding::None => Coding::Wrong(wrong_coding(value)),
            Coding::Chunked | Coding::Wrong(_) => Coding::Wrong(FramingError::RepeatedCoding),
        };
    }

    /// The framing the fields announce.
    fn judge(&self, version: Version) -> Result<Option<Framing>, FramingError> {
        match (self.coding, self.length) {
            (Coding::None, length) => Ok(by_length(length)),
            (_, Some(_)) => Err(FramingError::LengthAndCoding),
            (_, None) if version < Version::Http11 => Err(FramingError::CodingInHttp10),
            (Coding::Wrong(error), None) => Err(error),
            (Coding::Chunked, None) => Ok(Some(Framing::Chunked)),
        }
    }

    /// The framing that clients see although the fields announce it wrongly (RFC 9112 §6.3).
    #[cold]
    fn mend(
        &self,
        version: Version,
        repairs: &mut Repairs,
    ) -> Result<Option<Framing>, FramingError> {
        match (self.coding, self.length) {
            (Coding::Wrong(FramingError::IdentityCoding), length) => {
                repairs.add(Repair::Identity);
                Ok(by_length(length))
            }
            (Coding::Chunked, Some(_)) if version >= Version::Http11 => {
                repairs.add(Repair::LengthBesideChunked);
                Ok(Some(Framing::Chunked))
            }
            _ => self.judge(version),
        }
    }
}

#[inline]
fn by_length(length: Option<u64>) -> Option<Framing> {
    length.map(|length| NonZeroU64::new(length).map_or(Framing::Empty, Framing::Length))
}

/// A length of digits only: `str::parse` would accept a sign.
#[inline]
fn plain_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut length = 0_u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(digit.into())?;
    }
    // Many recipients count in signed 64 bits.
    (length <= i64::MAX as u64).then_some(length)
}

fn wrong_coding(value: &[u8]) -> FramingError {
    let elements = || value.split(|&byte| byte == b',').map(trim_ows);
    let chunked = elements().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
    if chunked > 1 || elements().all(<[u8]>::is_empty) {
        FramingError::BadCoding
    } else if value.eq_ignore_ascii_case(b"identity") {
        FramingError::IdentityCoding
    } else {
        FramingError::UnknownCoding
    }
}

/// Framing of a request: RFC 9112 §6.3, with the strict choice wherever it leaves one.
pub(super) fn request_framing(
    version: Version,
    evidence: &Evidence,
) -> Result<Framing, FramingError> {
    Ok(evidence.judge(version)?.unwrap_or(Framing::Empty))
}

/// Framing of a response with this status code to a request with this method (RFC 9112 §6.3).
///
/// The fields are judged even where they do not count, so that nothing ambiguous is passed on.
pub(super) fn response_framing(
    version: Version,
    status: u16,
    method: Method,
    evidence: &Evidence,
    leniency: Leniency,
    repairs: &mut Repairs,
) -> Result<ResponseFraming, FramingError> {
    let announced = match leniency {
        Leniency::Strict => evidence.judge(version)?,
        Leniency::Mend => evidence.mend(version, repairs)?,
    };
    Ok(match (status, method) {
        (101, _) | (200..=299, Method::Connect) => ResponseFraming::Tunnel,
        (..200 | 204 | 304, _) | (_, Method::Head) => ResponseFraming::Framed(Framing::Empty),
        _ => announced.map_or(ResponseFraming::UntilClose, ResponseFraming::Framed),
    })
}

#[cfg(test)]
mod tests {
    use super::FramingError::*;
    use super::*;

    fn evidence(lines: &[(&str, &str)]) -> Result<Evidence, FramingError> {
        let mut evidence = Evidence::default();
        for (name, value) in lines {
            match *name {
                "CL" => evidence.note_length(value.as_bytes())?,
                "TE" => evidence.note_coding(value.as_bytes()),
                _ => unreachable!(),
            }
        }
        Ok(evidence)
    }

    #[track_caller]
    fn check(lines: &[(&str, &str)], expected: Result<Framing, FramingError>) {
        let framing = evidence(lines).and_then(|e| request_framing(Version::Http11, &e));
        assert_eq!(framing, expected, "{lines:?}");
    }

    fn length(bytes: u64) -> Framing {
        Framing::Length(NonZeroU64::new(bytes).unwrap())
    }

    #[test]
    fn a_request_has_content_only_if_it_says_so() {
        check(&[], Ok(Framing::Empty));
        check(&[("CL", "0")], Ok(Framing::Empty));
        check(&[("CL", "5")], Ok(length(5)));
        check(&[("TE", "Chunked")], Ok(Framing::Chunked));
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        check(&[("CL", "9223372036854775807")], Ok(length(i64::MAX as u64)));
        check(&[("CL", "005")], Ok(length(5)));
        for value in [
            "",
            " ",
            "+5",
            "-5",
            "5 5",
            "5;",
            "0x5",
            "5.0",
            "5a",
            "\u{661}",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999999",
            "5,",
            ",5",
            ",",
            "5, +5",
            "5\t6",
        ] {
            check(&[("CL", value)], Err(BadLength));
        }
    }

    #[test]
    fn equal_lengths_are_one_length() {
        check(&[("CL", "5, 5")], Ok(length(5)));
        check(&[("CL", "5,\t5 ,05")], Ok(length(5)));
        check(&[("CL", "5"), ("CL", "5")], Ok(length(5)));
        check(&[("CL", "0"), ("CL", "0")], Ok(Framing::Empty));
        check(&[("CL", "5"), ("CL", "6")], Err(DifferingLengths));
        check(&[("CL", "5, 6")], Err(DifferingLengths));
        check(&[("CL", "0, 6")], Err(DifferingLengths));
        check(&[("CL", "5"), ("CL", "5, 6")], Err(DifferingLengths));
        check(&[("CL", "5"), ("CL", "x")], Err(BadLength));
    }

    #[test]
    fn a_length_that_is_not_plain_is_marked() {
        for (lines, odd) in [
            (&[("CL", "5")][..], false),
            (&[("CL", "0")], false),
            (&[("CL", "05")], true),
            (&[("CL", "5,5")], true),
            (&[("CL", "5"), ("CL", "5")], true),
        ] {
            assert_eq!(evidence(lines).unwrap().length_is_odd, odd, "{lines:?}");
        }
    }

    #[test]
    fn the_only_coding_is_chunked_once() {
        check(&[("TE", "Identity")], Err(IdentityCoding));
        check(&[("TE", "identity"), ("TE", "identity")], Err(RepeatedCoding));
        for value in [
            "gzip",
            "identity, identity",
            "xchunked",
            "gzip, chunked",
            "chunked, identity",
            "chunked;a=b",
            "\"chunked\"",
            "chunked\u{a0}",
            "chunk ed",
        ] {
            check(&[("TE", value)], Err(UnknownCoding));
        }
        for value in ["", ",", "chunked, chunked", "chunked,chunked, gzip"] {
            check(&[("TE", value)], Err(BadCoding));
        }
        check(&[("TE", "chunked"), ("TE", "chunked")], Err(RepeatedCoding));
        check(&[("TE", "identity"), ("TE", "chunked")], Err(RepeatedCoding));
    }

    #[test]
    fn a_head_that_can_be_read_two_ways_is_refused() {
        check(&[("TE", "chunked"), ("CL", "5")], Err(LengthAndCoding));
        check(&[("CL", "0"), ("TE", "chunked")], Err(LengthAndCoding));
        check(&[("CL", "0"), ("TE", "x")], Err(LengthAndCoding));
        let chunked = evidence(&[("TE", "chunked")]).unwrap();
        assert_eq!(request_framing(Version::Http10, &chunked), Err(CodingInHttp10));
        for leniency in [Leniency::Strict, Leniency::Mend] {
            assert_eq!(
                response(Version::Http10, 200, Method::Get, &chunked, leniency).0,
                Err(CodingInHttp10)
            );
        }
    }

    fn response(
        version: Version,
        status: u16,
        method: Method,
        evidence: &Evidence,
        leniency: Leniency,
    ) -> (Result<ResponseFraming, FramingError>, Vec<Repair>) {
        let mut repairs = Repairs::default();
        let framing = response_framing(version, status, method, evidence, leniency, &mut repairs);
        (framing, repairs.iter().collect())
    }

    #[test]
    fn a_response_is_mended_where_clients_agree() {
        use ResponseFraming::{Framed, UntilClose};
        let chunked = Ok(Framed(Framing::Chunked));
        let five = Ok(Framed(length(5)));
        for (lines, strict, mended, repair) in [
            (
                &[("TE", "chunked"), ("CL", "5")][..],
                LengthAndCoding,
                chunked,
                Repair::LengthBesideChunked,
            ),
            (
                &[("CL", "0"), ("TE", "chunked")],
                LengthAndCoding,
                chunked,
                Repair::LengthBesideChunked,
            ),
            (&[("TE", "identity")], IdentityCoding, Ok(UntilClose), Repair::Identity),
            (&[("TE", "identity"), ("CL", "5")], LengthAndCoding, five, Repair::Identity),
        ] {
            let evidence = evidence(lines).unwrap();
            let read = |leniency| response(Version::Http11, 200, Method::Get, &evidence, leniency);
            assert_eq!(read(Leniency::Strict), (Err(strict), vec![]), "{lines:?}");
            assert_eq!(read(Leniency::Mend), (mended, vec![repair]), "{lines:?}");
        }
    }

    #[test]
    fn a_response_with_two_readings_is_refused_all_the_same() {
        for (lines, expected) in [
            (&[("TE", "chunked"), ("TE", "chunked"), ("CL", "5")][..], LengthAndCoding),
            (&[("TE", "gzip, chunked"), ("CL", "5")], LengthAndCoding),
            (&[("TE", "chunked, identity")], UnknownCoding),
            (&[("TE", "identity, chunked")], UnknownCoding),
            (&[("TE", "identity"), ("TE", "identity")], RepeatedCoding),
            (&[("TE", "identity"), ("TE", "chunked")], RepeatedCoding),
            (&[("TE", "chunked"), ("TE", "identity")], RepeatedCoding),
            (&[("TE", "gzip")], UnknownCoding),
            (&[("TE", "chunked, chunked")], BadCoding),
        ] {
            let evidence = evidence(lines).unwrap();
            let read = response(Version::Http11, 200, Method::Get, &evidence, Leniency::Mend);
            assert_eq!(read, (Err(expected), vec![]), "{lines:?}");
        }
        let both = evidence(&[("TE", "chunked"), ("CL", "5")]).unwrap();
        let read = response(Version::Http10, 200, Method::Get, &both, Leniency::Mend);
        assert_eq!(read, (Err(LengthAndCoding), vec![]));
    }

    #[test]
    fn a_response_is_framed_by_status_and_method_first() {
        use Framing::{Chunked, Empty};
        use ResponseFraming::{Framed, Tunnel, UntilClose};
        const NONE: &[(&str, &str)] = &[];
        const FIVE: &[(&str, &str)] = &[("CL", "5")];
        const CHUNKED: &[(&str, &str)] = &[("TE", "chunked")];
        for (lines, status, method, expected) in [
            (NONE, 200, Method::Get, UntilClose),
            (FIVE, 200, Method::Get, Framed(length(5))),
            (CHUNKED, 200, Method::Post, Framed(Chunked)),
            (&[("CL", "0")], 200, Method::Get, Framed(Empty)),
            (NONE, 200, Method::Head, Framed(Empty)),
            (FIVE, 404, Method::Head, Framed(Empty)),
            (CHUNKED, 200, Method::Head, Framed(Empty)),
            (FIVE, 100, Method::Get, Framed(Empty)),
            (CHUNKED, 103, Method::Connect, Framed(Empty)),
            (FIVE, 204, Method::Get, Framed(Empty)),
            (NONE, 205, Method::Get, UntilClose),
            (FIVE, 304, Method::Get, Framed(Empty)),
            (NONE, 101, Method::Get, Tunnel),
            (NONE, 200, Method::Connect, Tunnel),
            (FIVE, 299, Method::Connect, Tunnel),
            (FIVE, 407, Method::Connect, Framed(length(5))),
            (NONE, 300, Method::Connect, UntilClose),
        ] {
            let evidence = evidence(lines).unwrap();
            for leniency in [Leniency::Strict, Leniency::Mend] {
                let framing = response(Version::Http11, status, method, &evidence, leniency);
                assert_eq!(framing, (Ok(expected), vec![]), "{lines:?} {status} {method:?}");
            }
        }
    }
}
