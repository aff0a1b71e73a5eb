//! Writes lines for a person watching a terminal: aligned, in colour, and as short as possible.
//!
//! ```text
//! 21:39:01.559 200 GET         1.092ms        241 127.0.0.1:41636       http://127.0.0.1:8000/hello.txt
//! ```
//!
//! Time of day (UTC), status, method, total time, bytes to the client, the client, the target, and the
//! reason if it failed. The target comes after the aligned columns, because it may be long.

use super::record::{LoggedFailure, Record};
use super::target;
use super::values::{Clock, Stamp, address, decimal, method_or_dash, milliseconds, quoted};

const DIM: &[u8] = b"\x1b[2m";
const RED: &[u8] = b"\x1b[31m";
const GREEN: &[u8] = b"\x1b[32m";
const YELLOW: &[u8] = b"\x1b[33m";
const CYAN: &[u8] = b"\x1b[36m";
const PLAIN: &[u8] = b"\x1b[0m";

/// Appends the line for `r`, without a newline.
pub(super) fn write(out: &mut Vec<u8>, clock: &mut Clock, r: &Record<'_>, colour: bool) {
    in_colour(out, colour, DIM, |out| clock.write(out, Stamp::TimeOfDay, r.started));
    out.push(b' ');
    in_colour(out, colour, of_status(r.status), |out| match r.status {
        0 => out.extend_from_slice(b"  -"),
        status => decimal(out, status.into()),
    });
    out.push(b' ');
    to_the_left(out, 7, |out| method_or_dash(out, r.method.as_bytes()));
    out.push(b' ');
    to_the_right(out, 11, |out| milliseconds(out, r.phases.total()));
    out.push(b' ');
    to_the_right(out, 10, |out| decimal(out, r.bytes_to_client));
    out.push(b' ');
    to_the_left(out, 21, |out| address(out, r.client));
    out.push(b' ');
    match r.target {
        b"" => out.push(b'-'),
        target => target::write(out, target, target::escape),
    }
    if let Some(rule) = r.rule.filter(|_| r.would_deny) {
        out.push(b' ');
        in_colour(out, colour, YELLOW, |out| {
            out.extend_from_slice(b"would be denied by ");
            quoted(out, &rule.to_string());
        });
    }
    if let Some(failure) = &r.failure {
        out.push(b' ');
        in_colour(out, colour, RED, |out| write_failure(out, failure));
    }
}

fn write_failure(out: &mut Vec<u8>, failure: &LoggedFailure<'_>) {
    quoted(out, failure.reason);
    for (before, word) in [
        (&b" ("[..], failure.kind.token()),
        (b", side ", failure.side.word()),
        (b", phase ", failure.phase.word()),
    ] {
        out.extend_from_slice(before);
        out.extend_from_slice(word.as_bytes());
    }
    out.push(b')');
}

fn of_status(status: u16) -> &'static [u8] {
    match status {
        100..=299 => GREEN,
        300..=399 => CYAN,
        400..=499 => YELLOW,
        _ => RED,
    }
}

fn in_colour(out: &mut Vec<u8>, colour: bool, code: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
    if colour {
        out.extend_from_slice(code);
    }
    write(out);
    if colour {
        out.extend_from_slice(PLAIN);
    }
}

fn to_the_left(out: &mut Vec<u8>, width: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let end = out.len() + width;
    write(out);
    if out.len() < end {
        out.resize(end, b' ');
    }
}

fn to_the_right(out: &mut Vec<u8>, width: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let missing = (start + width).saturating_sub(out.len());
    out.resize(out.len() + missing, b' ');
    if let Some(column) = out.get_mut(start..) {
        column.rotate_right(missing);
    }
}
