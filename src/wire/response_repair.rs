//! Mends a response head that clients accept and the grammar does not: rewrites it in the strict form.
//!
//! A page that works without the proxy has to work with it, whatever the server did. RFC 9112 §2.2, §5.1
//! and §5.2 tell a proxy to mend a response where it refuses a request. `mend` writes a head in the strict
//! form. The strict parser then reads that head, and nothing else goes to the client. No recipient behind
//! the proxy therefore meets a form that two of them could read in two ways. The upstream connection is not
//! used again, because the server may have meant another end of the message than the one found.
//!
//! A fault that would leave two readings is refused: a NUL, a lone CR, a line that is no field, a fold
//! before the first field, and every repair of a framing field beyond the few named in
//! [`framing`](super::framing).

use super::detect::cannot_be_response;
use super::field::{is_token_byte, is_value_byte, trim_ows};
use super::head::HeadError;
use super::leniency::{Repair, Repairs};

/// Fields whose faults are mended only if no other line contradicts them: a second reading of one of them
/// is another end of the message, or another fate of the connection.
const FRAMING: [&[u8]; 3] = [b"connection", b"content-length", b"transfer-encoding"];

/// How many such lines are mended: each is compared with all others.
const MAX_FRAMING: usize = 8;

/// Writes the response head `head` to `out` in the strict form. Returns the kinds of faults mended.
///
/// # Errors
///
/// The head has a fault that is not mended; `out` is then of no use.
#[cold]
pub(super) fn mend(head: &[u8], out: &mut Vec<u8>) -> Result<Repairs, HeadError> {
    out.clear();
    out.reserve(head.len() + 64);
    let mut repairs = Repairs::default();
    let mut lines = Lines { rest: head, repairs: &mut repairs };
    status_line(lines.next().unwrap_or_default(), out, lines.repairs)?;
    let mut last = None;
    // Mended lines that frame the message, with the error for each if another line contradicts it.
    let mut framing: Vec<(usize, HeadError)> = Vec::new();
    while let Some(line) = lines.next() {
        let (written, fault) = match line {
            [] => break,
            [b' ' | b'\t', ..] => {
                let field = last.ok_or(HeadError::ObsFold)?;
                unfold(line, field, out, lines.repairs)?;
                (field, Some(HeadError::ObsFold))
            }
            _ => {
                let (field, was_mended) = field_line(line, out, lines.repairs)?;
                (field, was_mended.then_some(HeadError::SpaceBeforeColon))
            }
        };
        last = Some(written);
        if let Some(fault) = fault.filter(|_| written.frames)
            && framing.last().is_none_or(|(start, _)| *start != written.start)
        {
            framing.push((written.start, fault));
            if framing.len() > MAX_FRAMING {
                return Err(fault);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    framing.into_iter().try_for_each(|(at, error)| says_the_same(out, at, error))?;
    Ok(repairs)
}

/// A field line in `out`.
#[derive(Clone, Copy)]
struct Written {
    /// Where the line begins.
    start: usize,
    /// Whether its name is one of [`FRAMING`].
    frames: bool,
}

/// The lines of a head without their ends.
struct Lines<'b, 'r> {
    rest: &'b [u8],
    repairs: &'r mut Repairs,
}

impl<'b> Lines<'b, '_> {
    fn next(&mut self) -> Option<&'b [u8]> {
        let at = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(at)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line.strip_suffix(b"\r").unwrap_or_else(|| {
            self.repairs.add(Repair::LineEnd);
            line
        }))
    }
}

fn status_line(line: &[u8], out: &mut Vec<u8>, repairs: &mut Repairs) -> Result<(), HeadError> {
    if cannot_be_response(line) {
        return Err(HeadError::BadStatusLine);
    }
    let (version, rest): (&[u8], _) = match line {
        [b'I', b'C', b'Y', rest @ ..] => {
            repairs.add(Repair::Icy);
            (b"HTTP/1.0", rest)
        }
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9', rest @ ..] => {
            debug_assert!(minor.is_ascii_digit());
            repairs.add(Repair::Version);
            (b"HTTP/1.1", rest)
        }
        _ => line.split_at_checked(8).ok_or(HeadError::BadStatusLine)?,
    };
    out.extend_from_slice(version);
    push_value(rest, out, repairs)?;
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a field line. Returns the line, and whether its name was mended.
fn field_line(
    line: &[u8],
    out: &mut Vec<u8>,
    repairs: &mut Repairs,
) -> Result<(Written, bool), HeadError> {
    let colon = memchr::memchr(b':', line).ok_or(HeadError::BadFieldName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(HeadError::BadFieldName)?;
    let token = trim_ows(name);
    if token.is_empty() || !token.iter().copied().all(is_token_byte) {
        return Err(HeadError::BadFieldName);
    }
    let was_mended = token.len() < name.len();
    if was_mended {
        repairs.add(Repair::SpaceBeforeColon);
    }
    let written = Written { start: out.len(), frames: is_framing(token) };
    out.extend_from_slice(token);
    if written.frames && !value.iter().copied().all(is_value_byte) {
        return Err(HeadError::ControlInValue);
    }
    push_value(value, out, repairs)?;
    out.extend_from_slice(b"\r\n");
    Ok((written, was_mended))
}

/// Writes a folded line behind `field`, the last one written, with one space between.
fn unfold(
    line: &[u8],
    field: Written,
    out: &mut Vec<u8>,
    repairs: &mut Repairs,
) -> Result<(), HeadError> {
    repairs.add(Repair::Fold);
    let kept = trim_end(out.get(..out.len().saturating_sub(2)).unwrap_or_default()).len();
    out.truncate(kept);
    let line = trim_ows(line);
    if field.frames && !line.iter().copied().all(is_value_byte) {
        return Err(HeadError::ControlInValue);
    }
    if !line.is_empty() {
        out.push(b' ');
        push_value(line, out, repairs)?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a value, with a space for each control character.
fn push_value(value: &[u8], out: &mut Vec<u8>, repairs: &mut Repairs) -> Result<(), HeadError> {
    for &byte in value {
        match byte {
            0 => return Err(HeadError::Nul),
            b'\r' => return Err(HeadError::BareCr),
            _ if is_value_byte(byte) => out.push(byte),
            _ => {
                repairs.add(Repair::Control);
                out.push(b' ');
            }
        }
    }
    Ok(())
}

/// Refuses a mended framing field that another line contradicts: a recipient that overlooks the mended line
/// would read another message.
fn says_the_same(out: &[u8], at: usize, error: HeadError) -> Result<(), HeadError> {
    let (name, value) = field_at(out, at);
    let frames = |name: &[u8]| !name.eq_ignore_ascii_case(b"connection") && is_framing(name);
    let mut start = memchr::memchr(b'\n', out).map_or(out.len(), |end| end + 1);
    while let Some(length) = out.get(start..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let (other, other_value) = field_at(out, start);
        let differs = if other.eq_ignore_ascii_case(name) {
            !other_value.eq_ignore_ascii_case(value)
        } else {
            frames(name) && frames(other)
        };
        if differs {
            return Err(error);
        }
        start += length + 1;
    }
    Ok(())
}

fn is_framing(name: &[u8]) -> bool {
    FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing))
}

/// Name and value of a line in `out`.
fn field_at(out: &[u8], start: usize) -> (&[u8], &[u8]) {
    let line = out.get(start..).unwrap_or_default();
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, value) = line.split_at_checked(colon).unwrap_or_default();
    let value = value.strip_prefix(b":").unwrap_or_default();
    (name, trim_ows(value.strip_suffix(b"\r").unwrap_or(value)))
}

fn trim_end(mut value: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::Repair::*;
    use super::*;

    /// Asserts that `head` is written as `expected`, with these repairs.
    #[track_caller]
    fn mended(head: &str, expected: &str, repairs: &[Repair]) {
        let mut out = Vec::new();
        let found = mend(head.as_bytes(), &mut out).map(|r| r.iter().collect::<Vec<_>>());
        assert_eq!(found, Ok(repairs.to_vec()), "{head:?}");
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[track_caller]
    fn refused(head: &str, expected: HeadError) {
        assert_eq!(mend(head.as_bytes(), &mut Vec::new()), Err(expected), "{head:?}");
    }

    #[test]
    fn a_strict_head_is_written_as_it_stands() {
        let head = "HTTP/1.1 200 OK\r\nA: b\r\nC:d \r\n\r\n";
        mended(head, head, &[]);
    }

    #[test]
    fn each_kind_of_fault_is_written_in_the_strict_form() {
        let ok = "HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        mended("HTTP/1.1 200 OK\nA: b\n\n", ok, &[LineEnd]);
        mended("HTTP/1.1 200 OK\r\nA: b\n\r\n", ok, &[LineEnd]);
        mended("HTTP/1.1 200 OK\r\nA \t: b\r\n\r\n", ok, &[SpaceBeforeColon]);
        mended("HTTP/1.1 200 OK\r\nA:\r\n b\r\n\r\n", ok, &[Fold]);
        mended("HTTP/1.1 200 OK\r\nA: b\r\n\t \r\n\r\n", ok, &[Fold]);
        mended("HTTP/1.7 200 OK\r\nA: b\r\n\r\n", ok, &[Version]);
        mended("ICY 200 OK\r\nA: b\r\n\r\n", "HTTP/1.0 200 OK\r\nA: b\r\n\r\n", &[Icy]);
        mended(
            "HTTP/1.1 200 O\u{1}K\r\nA: b\u{7}\u{7f}c\r\n \u{b}d \r\n  e\r\nF:g\n\n",
            "HTTP/1.1 200 O K\r\nA: b  c  d e\r\nF:g\r\n\r\n",
            &[Control, Fold, LineEnd],
        );
    }

    #[test]
    fn what_leaves_two_readings_is_refused() {
        let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        for (fields, expected) in [
            (" A: b", HeadError::ObsFold),
            ("\tA: b", HeadError::ObsFold),
            ("A", HeadError::BadFieldName),
            (": b", HeadError::BadFieldName),
            (" : b", HeadError::ObsFold),
            ("A b: c", HeadError::BadFieldName),
            ("A\u{b}: c", HeadError::BadFieldName),
            ("A\u{a0}: c", HeadError::BadFieldName),
            ("A: b\rC: d", HeadError::BareCr),
            ("A: b\0", HeadError::Nul),
            ("Content-Length: \u{b}5", HeadError::ControlInValue),
            ("Transfer-Encoding:\r\n \u{b}chunked", HeadError::ControlInValue),
            ("Content-Length : 5\r\nContent-Length: 6", HeadError::SpaceBeforeColon),
            ("content-length: 6\r\nContent-Length\t: 5", HeadError::SpaceBeforeColon),
            ("Connection : close\r\nConnection: keep-alive", HeadError::SpaceBeforeColon),
            ("Transfer-Encoding : chunked\r\nContent-Length: 5", HeadError::SpaceBeforeColon),
            ("Transfer-Encoding: chunked\r\nContent-Length : 5", HeadError::SpaceBeforeColon),
            (
                "Transfer-Encoding : chunked\r\nTransfer-Encoding:\r\n x",
                HeadError::SpaceBeforeColon,
            ),
            ("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5", HeadError::ObsFold),
            ("Content-Length:\r\n 5\r\nContent-Length: 6", HeadError::ObsFold),
        ] {
            refused(&head(fields), expected);
        }
        refused("HTTP/1.\r\n\r\n", HeadError::BadStatusLine);
        refused("HTTP/1.1\u{10}200 OK\r\n\r\n", HeadError::BadStatusLine);
        refused("ICY\t200 OK\r\n\r\n", HeadError::BadStatusLine);
    }

    #[test]
    fn a_framing_field_that_stands_alone_is_mended() {
        mended(
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\nConnection : close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
            &[SpaceBeforeColon],
        );
        mended(
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\ncontent-length:5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length:5\r\n\r\n",
            &[SpaceBeforeColon],
        );
    }

    /// Mending the largest head keeps no worker for long.
    #[test]
    fn mending_takes_time_in_proportion_to_the_head() {
        let head = |first: &str, line: &str| {
            let mut head = format!("HTTP/1.1 200 OK\r\n{first}\n");
            while head.len() < 1 << 20 {
                head.push_str(line);
            }
            head + "\n"
        };
        let long = format!("Connection : {}", "a".repeat(1 << 19));
        for head in [head("X: a", " a\n"), head(&long, "a:\n"), head("Connection: a", "\ta\n")] {
            let since = std::time::Instant::now();
            assert!(mend(head.as_bytes(), &mut Vec::new()).is_ok());
            // It took minutes while it was quadratic, and takes some 30 ms.
            assert!(since.elapsed() < std::time::Duration::from_secs(5), "{:?}", since.elapsed());
        }
    }

    #[test]
    fn a_set_of_repairs_holds_each_kind_once() {
        let mut repairs = Repairs::default();
        assert!(repairs.is_empty());
        for repair in Repair::ALL {
            assert!(!repairs.has(repair), "{}", repair.word());
            repairs.add(repair);
            repairs.add(repair);
        }
        assert_eq!(repairs.iter().count(), Repair::ALL.len());
        assert_eq!(Repairs::default().union(repairs), repairs);
    }
}
