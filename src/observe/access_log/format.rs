//! A [`Record`] as one line; the layouts are documented at [`Format`].
//!
//! Runs on workers, once an exchange: a warm [`Scratch`] allocates nothing, and the wall-clock
//! second is formatted once.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::record::Record;
use super::{Format, clf, target, terminal};

/// One thread's buffers for formatting.
#[derive(Debug)]
pub(super) struct Scratch {
    line: Vec<u8>,
    /// Escaped text on its way into a JSON string.
    text: Vec<u8>,
    clock: Clock,
}

/// Buffers larger than this are given back after a line that needed them.
const KEPT_OCTETS: usize = 16 * 1024;

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { line: Vec::new(), text: Vec::new(), clock: Clock::new() }
    }

    /// The line for `record`, with its newline: the only one in it.
    pub(super) fn line(&mut self, format: Format, record: &Record<'_>) -> &[u8] {
        self.line.clear();
        self.line.shrink_to(KEPT_OCTETS);
        self.text.shrink_to(KEPT_OCTETS);
        match format {
            Format::Text => self.write_text(record),
            Format::Terminal { colour } => {
                terminal::write(&mut self.line, &mut self.clock, record, colour);
            }
            Format::Json => self.write_json(record),
            Format::Common => clf::write(&mut self.line, &mut self.clock, record, false),
            Format::Combined => clf::write(&mut self.line, &mut self.clock, record, true),
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
        out.extend_from_slice(b" kind=");
        out.extend_from_slice(r.kind.word().as_bytes());
        out.extend_from_slice(b" out=");
        decimal(out, r.octets_to_client);
        out.extend_from_slice(b" in=");
        decimal(out, r.octets_from_client);
        out.extend_from_slice(b" upstream=");
        match r.upstream {
            None => out.extend_from_slice(b"- reused=-"),
            Some(upstream) => {
                address(out, upstream);
                out.extend_from_slice(if r.reused { b" reused=yes" } else { b" reused=no" });
            }
        }
        out.extend_from_slice(b" total=");
        milliseconds(out, r.phases.total());
        for (name, spent) in r.phases.named() {
            out.push(b' ');
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            if spent.is_zero() {
                out.push(b'-');
            } else {
                milliseconds(out, spent);
            }
        }
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
            target::escape(out, rule.to_string().as_bytes());
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
        out.extend_from_slice(b",\"octets_to_client\":");
        decimal(out, r.octets_to_client);
        out.extend_from_slice(b",\"octets_from_client\":");
        decimal(out, r.octets_from_client);
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
                target::escape(text, rule.to_string().as_bytes());
            }
            json_string(out, text);
        }
        out.extend_from_slice(b",\"sni\":");
        text.clear();
        target::escape(text, r.sni.unwrap_or_default().as_bytes());
        json_string(out, text);
        out.extend_from_slice(b",\"user\":");
        json_string(out, r.user.as_bytes());
        out.push(b'}');
    }
}

/// How a format writes a moment, always in UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stamp {
    /// `2026-11-21T20:00:00.123Z`
    Iso,
    /// `10/Oct/2000:13:55:36 +0000`
    Clf,
    /// `20:00:00.123`
    TimeOfDay,
}

/// The wall clock as text, with its last second kept.
#[derive(Debug)]
pub(super) struct Clock {
    /// What `text` is for: seconds since the epoch.
    second: u64,
    stamp: Stamp,
    /// All that stays the same for a second; empty before the first use.
    text: Vec<u8>,
}

impl Clock {
    const fn new() -> Self {
        Self { second: 0, stamp: Stamp::Iso, text: Vec::new() }
    }

    /// Appends `time`. A clock before 1970 is shown as 1970.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, stamp: Stamp, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() || self.stamp != stamp {
            (self.second, self.stamp) = (since.as_secs(), stamp);
            let second = i64::try_from(self.second).ok();
            let time = second
                .and_then(|s| Timestamp::from_second(s).ok())
                .unwrap_or(Timestamp::UNIX_EPOCH);
            let layout = match stamp {
                Stamp::Iso => "%Y-%m-%dT%H:%M:%S",
                Stamp::Clf => clf::TIME,
                Stamp::TimeOfDay => "%H:%M:%S",
            };
            self.text = time.strftime(layout).to_string().into_bytes();
        }
        out.extend_from_slice(&self.text);
        if stamp != Stamp::Clf {
            out.push(b'.');
            three_digits(out, since.subsec_millis());
        }
        if stamp == Stamp::Iso {
            out.push(b'Z');
        }
    }
}

pub(super) fn method_or_dash(out: &mut Vec<u8>, method: &[u8]) {
    if method.is_empty() {
        out.push(b'-');
    } else {
        target::write_method(out, method, target::escape);
    }
}

/// A sentence between quotes: spaces stay, the rest follows the rule for targets.
pub(super) fn quoted(out: &mut Vec<u8>, text: &str) {
    if target::fits_in_quotes(text) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        target::escape(out, word.as_bytes());
    }
}

/// A JSON string, or `null` for an empty one.
fn json_string(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    let written = match std::str::from_utf8(text) {
        Ok("") | Err(_) => false,
        Ok(text) => serde_json::to_writer(&mut *out, text).is_ok(),
    };
    // Neither happens to non-empty ASCII going into a `Vec`; if it did, the line stays JSON.
    if !written {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Appends an address without its port.
pub(super) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                decimal(out, octet.into());
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a `Vec` cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, (*v4.ip()).into());
            out.push(b':');
            decimal(out, v4.port().into());
        }
        SocketAddr::V6(v6) => {
            // Writing to a `Vec` cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

fn microseconds(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// Appends milliseconds with three decimals: one unit for all lines, so that they sort.
pub(super) fn milliseconds(out: &mut Vec<u8>, d: Duration) {
    let us = microseconds(d);
    decimal(out, us / 1000);
    out.push(b'.');
    three_digits(out, (us % 1000) as u32);
    out.extend_from_slice(b"ms");
}

fn three_digits(out: &mut Vec<u8>, n: u32) {
    out.extend([n / 100, n / 10, n].map(|digit| b'0' + (digit % 10) as u8));
}

pub(super) fn decimal(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
