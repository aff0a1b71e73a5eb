//! Writes a [`Record`] as one line in the chosen format; [`LineFormat`] documents the layouts.
//!
//! Runs on workers, once an exchange. A warm [`Scratch`] allocates nothing, and formats each second of
//! the wall clock only once.

use std::time::Duration;

use super::record::{Phases, Record, RecordKind};
use super::values::{
    Clock, Stamp, address, decimal, method_or_dash, microseconds, milliseconds, quoted,
};
use super::{apache_formats, target, terminal};

/// The layout of a line. A record is always one line, without a newline inside.
///
/// Bytes of a target or method that are not printable ASCII, and space, `"` and `\`, are written as
/// `\xNN` (in JSON the `\` is then doubled; the NCSA formats use Apache's escapes). Userinfo is written
/// as `***@`. A target longer than 8 KiB is cut and ends in `...`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LineFormat {
    /// Columns separated by single spaces, `-` for missing values; columns after the status are named:
    ///
    /// ```text
    /// 2026-11-21T20:00:00.123Z 127.0.0.1:50112 GET http://example.com/ 200 kind=exchange out=1270
    /// in=120 upstream=93.184.216.34:80 reused=yes total=12.300ms request=0.100ms lookup=-
    /// connect=- send=0.020ms wait=12.000ms transfer=0.180ms
    /// ```
    ///
    /// (one line). `out` and `in` are bytes to and from the client; the phases add up to `total` except
    /// for rounding. A failed exchange has four more columns, the last quoted:
    ///
    /// ```text
    /// error=connection_refused side=upstream phase=connect reason="the upstream refused the connection"
    /// ```
    Text,
    /// The same for a person watching a terminal: status, method, total time, bytes to the client,
    /// client and target in columns of equal width, and the reason if it failed.
    Terminal {
        /// Colour the status by its class, and failures.
        colour: bool,
    },
    /// The NCSA common log format, `%h %l %u %t "%r" %>s %b` in Apache's letters:
    ///
    /// ```text
    /// 127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET http://example.com/ HTTP/1.1" 200 2326
    /// ```
    ///
    /// The bytes at the end are content alone, `-` for none. The status is 499 if the client got none,
    /// because the format needs a number.
    Common,
    /// The same with `"%{Referer}i" "%{User-Agent}i"` added.
    Combined,
    /// One JSON object a line, always with all keys, in this order: `time`, `client`, `kind`
    /// (`exchange` or `tunnel`), `method`, `target`, `status`, `bytes_to_client`,
    /// `bytes_from_client`, `upstream`, `reused`, `total_us`, `request_us`, `lookup_us`,
    /// `connect_us`, `send_us`, `wait_us`, `transfer_us`, `error`, `side`, `phase`, `reason`.
    ///
    /// `status`, `bytes_…` and `…_us` (microseconds) are integers, `reused` is a boolean, the rest
    /// strings; missing values, and phases that did not take place, are `null`. Later versions may add
    /// keys at the end, and change none; `docs/access-log.schema.json` is the JSON Schema.
    Json,
}

/// One thread's buffers for formatting.
#[derive(Debug)]
pub(super) struct Scratch {
    line: Vec<u8>,
    /// Escaped text on its way into a JSON string.
    text: Vec<u8>,
    clock: Clock,
}

/// Buffers that a line made larger than this are shrunk afterwards.
const KEPT_BYTES: usize = 16 * 1024;

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { line: Vec::new(), text: Vec::new(), clock: Clock::new() }
    }

    /// The line for `record`, with its newline.
    pub(super) fn line(&mut self, format: LineFormat, record: &Record<'_>) -> &[u8] {
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
        self.text.shrink_to(KEPT_BYTES);
        match format {
            LineFormat::Text => self.write_text(record),
            LineFormat::Terminal { colour } => {
                terminal::write(&mut self.line, &mut self.clock, record, colour);
            }
            LineFormat::Json => self.write_json(record),
            LineFormat::Common => {
                apache_formats::write(&mut self.line, &mut self.clock, record, false)
            }
            LineFormat::Combined => {
                apache_formats::write(&mut self.line, &mut self.clock, record, true)
            }
        }
        self.line.push(b'\n');
        &self.line
    }

    fn write_text(&mut self, r: &Record<'_>) {
        let out = &mut self.line;
        self.clock.write(out, Stamp::Iso, r.started);
        out.push(b' ');
        address(out, r.client);
        out.push(b' ');
        method_or_dash(out, r.method.as_bytes());
        out.push(b' ');
        if r.target.is_empty() {
            out.push(b'-');
        } else {
            target::write(out, r.target, target::escape);
        }
        out.push(b' ');
        match r.status {
            0 => out.push(b'-'),
            status => decimal(out, status.into()),
        }
        match r.kind {
            RecordKind::Exchange => out.extend_from_slice(b" kind=exchange out="),
            RecordKind::Tunnel => out.extend_from_slice(b" kind=tunnel out="),
        }
        decimal(out, r.bytes_to_client);
        out.extend_from_slice(b" in=");
        decimal(out, r.bytes_from_client);
        out.extend_from_slice(b" upstream=");
        match r.upstream {
            None => out.extend_from_slice(b"- reused=-"),
            Some(upstream) => {
                address(out, upstream);
                match r.reused {
                    true => out.extend_from_slice(b" reused=yes"),
                    false => out.extend_from_slice(b" reused=no"),
                }
            }
        }
        out.extend_from_slice(b" total=");
        milliseconds(out, r.phases.total());
        let Phases { request, lookup, connect, send, wait, transfer } = r.phases;
        phase(out, b" request=", request);
        phase(out, b" lookup=", lookup);
        phase(out, b" connect=", connect);
        phase(out, b" send=", send);
        phase(out, b" wait=", wait);
        phase(out, b" transfer=", transfer);
        write_rare(out, r);
    }

    fn write_json(&mut self, r: &Record<'_>) {
        let (out, text) = (&mut self.line, &mut self.text);
        out.extend_from_slice(b"{\"time\":\"");
        self.clock.write(out, Stamp::Iso, r.started);
        out.extend_from_slice(b"\",\"client\":\"");
        address(out, r.client);
        out.extend_from_slice(b"\",\"kind\":\"");
        out.extend_from_slice(r.kind.word().as_bytes());
        out.extend_from_slice(b"\",\"method\":");
        text.clear();
        target::write_method(text, r.method.as_bytes(), target::escape);
        json_string(out, text);
        out.extend_from_slice(b",\"target\":");
        text.clear();
        target::write(text, r.target, target::escape);
        json_string(out, text);
        out.extend_from_slice(b",\"status\":");
        match r.status {
            0 => out.extend_from_slice(b"null"),
            status => decimal(out, status.into()),
        }
        out.extend_from_slice(b",\"bytes_to_client\":");
        decimal(out, r.bytes_to_client);
        out.extend_from_slice(b",\"bytes_from_client\":");
        decimal(out, r.bytes_from_client);
        out.extend_from_slice(b",\"upstream\":");
        match r.upstream {
            None => out.extend_from_slice(b"null,\"reused\":null"),
            Some(upstream) => {
                out.push(b'"');
                address(out, upstream);
                out.extend_from_slice(b"\",\"reused\":");
                out.extend_from_slice(if r.reused { b"true" } else { b"false" });
            }
        }
        out.extend_from_slice(b",\"total_us\":");
        decimal(out, microseconds(r.phases.total()));
        for (name, spent) in r.phases.named() {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"_us\":");
            if spent.is_zero() {
                out.extend_from_slice(b"null");
            } else {
                decimal(out, microseconds(spent));
            }
        }
        let failure = r.failure.as_ref();
        for (key, value) in [
            (&b",\"error\":"[..], failure.map(|f| f.kind.token())),
            (b",\"side\":", failure.map(|f| f.side.word())),
            (b",\"phase\":", failure.map(|f| f.phase.word())),
            (b",\"reason\":", failure.map(|f| f.reason)),
        ] {
            out.extend_from_slice(key);
            json_string(out, value.unwrap_or_default().as_bytes());
        }
        for (key, is_it) in
            [(&b",\"rule\":"[..], !r.would_deny), (b",\"would_deny\":", r.would_deny)]
        {
            out.extend_from_slice(key);
            text.clear();
            if let Some(rule) = r.rule.filter(|_| is_it) {
                quoted(text, &rule.to_string());
            }
            json_string(out, text);
        }
        out.extend_from_slice(b",\"entry\":");
        json_string(out, r.entry.unwrap_or_default().as_bytes());
        out.extend_from_slice(b",\"sni\":");
        text.clear();
        target::escape(text, r.sni.unwrap_or_default().as_bytes());
        json_string(out, text);
        out.extend_from_slice(b",\"user\":");
        json_string(out, r.user.as_bytes());
        out.push(b'}');
    }
}

#[inline(always)]
fn phase<const N: usize>(out: &mut Vec<u8>, name: &[u8; N], spent: Duration) {
    out.extend_from_slice(name);
    if spent.is_zero() {
        out.push(b'-');
    } else {
        milliseconds(out, spent);
    }
}

/// Appends the columns that most lines do not have.
fn write_rare(out: &mut Vec<u8>, r: &Record<'_>) {
    if let Some(sni) = r.sni {
        out.extend_from_slice(b" sni=");
        target::escape(out, sni.as_bytes());
    }
    if !r.user.is_empty() {
        out.extend_from_slice(b" user=");
        target::escape(out, r.user.as_bytes());
    }
    if let Some(rule) = r.rule {
        out.extend_from_slice(if r.would_deny { b" would-deny=" } else { b" rule=" });
        write_name(out, &rule.to_string());
    }
    if let Some(entry) = r.entry {
        out.extend_from_slice(b" entry=");
        write_name(out, entry);
    }
    if let Some(failure) = &r.failure {
        out.extend_from_slice(b" error=");
        out.extend_from_slice(failure.kind.token().as_bytes());
        out.extend_from_slice(b" side=");
        out.extend_from_slice(failure.side.word().as_bytes());
        out.extend_from_slice(b" phase=");
        out.extend_from_slice(failure.phase.word().as_bytes());
        out.extend_from_slice(b" reason=\"");
        quoted(out, failure.reason);
        out.push(b'"');
    }
}

/// Appends the name of a rule or an entry. One with a space in it, such as `--policy enforce`, stands in quotes.
fn write_name(out: &mut Vec<u8>, name: &str) {
    if !name.contains(' ') {
        target::escape(out, name.as_bytes());
        return;
    }
    out.push(b'"');
    quoted(out, name);
    out.push(b'"');
}

/// A JSON string, or `null` for an empty one.
fn json_string(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    let written = match std::str::from_utf8(text) {
        Ok("") | Err(_) => false,
        Ok(text) => serde_json::to_writer(&mut *out, text).is_ok(),
    };
    // Neither happens for non-empty ASCII written to a `Vec`; if it did, the line would still be JSON.
    if !written {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
