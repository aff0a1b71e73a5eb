//! Writes the values that the log formats share: times, addresses, numbers and words.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::target;

/// The `strftime` layout of `10/Oct/2000:13:55:36 +0000`, which is English in every locale.
const CLF_TIME: &str = "%d/%b/%Y:%H:%M:%S +0000";

/// The layout of a time, always in UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stamp {
    /// `2026-11-21T20:00:00.123Z`
    Iso,
    /// `10/Oct/2000:13:55:36 +0000`
    Clf,
    /// `20:00:00.123`
    TimeOfDay,
}

/// Writes times, and keeps the text of the last second.
#[derive(Debug)]
pub(super) struct Clock {
    /// The second that `text` shows, since the epoch.
    second: u64,
    stamp: Stamp,
    /// The part that stays the same for a second; empty before the first use.
    text: Vec<u8>,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { second: 0, stamp: Stamp::Iso, text: Vec::new() }
    }

    /// Appends `time`. Times before 1970 are shown as 1970.
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
                Stamp::Clf => CLF_TIME,
                Stamp::TimeOfDay => "%H:%M:%S",
            };
            self.text = time.strftime(layout).to_string().into_bytes();
        }
        out.extend_from_slice(&self.text);
        let [a, b, c] = digits(since.subsec_millis());
        match stamp {
            Stamp::Iso => out.extend_from_slice(&[b'.', a, b, c, b'Z']),
            Stamp::TimeOfDay => out.extend_from_slice(&[b'.', a, b, c]),
            Stamp::Clf => {}
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

/// Appends a sentence for use between quotes: spaces stay, the rest follows the rule for
/// targets.
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

/// Appends an address without its port.
pub(super) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            decimal(out, a.into());
            for byte in [b, c, d] {
                out.push(b'.');
                decimal(out, byte.into());
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

pub(super) fn microseconds(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1_000_000).saturating_add(d.subsec_micros().into())
}

/// Appends milliseconds with three decimals. All lines have the same unit, so that they sort.
pub(super) fn milliseconds(out: &mut Vec<u8>, d: Duration) {
    let us = microseconds(d);
    decimal(out, us / 1000);
    let [a, b, c] = digits((us % 1000) as u32);
    out.extend_from_slice(&[b'.', a, b, c, b'm', b's']);
}

/// Appends a number. Most numbers of a line are short; a copy of a length that the compiler knows takes a
/// fifth of the instructions of a general one.
pub(super) fn decimal(out: &mut Vec<u8>, n: u64) {
    let short = n as u32;
    match n {
        0..=9 => out.extend_from_slice(&digits::<1>(short)),
        10..=99 => out.extend_from_slice(&digits::<2>(short)),
        100..=999 => out.extend_from_slice(&digits::<3>(short)),
        1000..=9999 => out.extend_from_slice(&digits::<4>(short)),
        10_000..=99_999 => out.extend_from_slice(&digits::<5>(short)),
        _ => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
    }
}

/// The last `N` decimal digits of `n`, with zeros in front.
fn digits<const N: usize>(mut n: u32) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (n % 10) as u8;
        n /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_decimal() {
        let powers = (0..20).map(|power| 10_u64.pow(power));
        for n in powers.flat_map(|n| [n - 1, n, n + 1]).chain([0, 99_999, 123_456, u64::MAX]) {
            let mut out = Vec::new();
            decimal(&mut out, n);
            assert_eq!(String::from_utf8(out).expect("ASCII"), n.to_string());
        }
    }

    #[test]
    fn milliseconds_have_three_decimals_whatever_they_are() {
        for (d, text) in [
            (Duration::ZERO, "0.000ms"),
            (Duration::from_nanos(1_999), "0.001ms"),
            (Duration::from_micros(12_045), "12.045ms"),
            (Duration::from_secs(86_400), "86400000.000ms"),
            (Duration::MAX, "18446744073709551.615ms"),
        ] {
            let mut out = Vec::new();
            milliseconds(&mut out, d);
            assert_eq!(String::from_utf8(out).expect("ASCII"), text);
        }
    }
}
