//! Reads a size in bytes: `32k`, `64KiB`, `1MB`, or plain `4096`.
//!
//! `k`, `m`, `g` and `KiB`, `MiB`, `GiB` are powers of 1024 (as in nginx, HAProxy and
//! curl); `kB`, `MB`, `GB` are powers of 1000. Case does not matter.

use std::fmt;

/// Units and their bytes: powers of 1024 first, then powers of 1000, each from the largest down.
/// [`ShownSize`] prefers units in this order.
const UNITS: [(&str, u64); 6] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Other spellings, in lower case.
const ALSO: [(&str, u64); 4] = [("", 1), ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30)];

/// Reads a count of bytes.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let named = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
    let Some(&(_, each)) = UNITS.iter().chain(&ALSO).find(named) else {
        return Err(format!(
            "'{text}' is not a size; give a whole number of bytes or one with a unit \
             (k, KiB, MiB, GiB: powers of 1024; kB, MB, GB: powers of 1000), for example 64KiB"
        ));
    };
    if digits.is_empty() {
        return Err(format!("'{text}' is not a size: there is no number; write one, as in 64KiB"));
    }
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(each)).ok_or_else(|| format!("'{text}' is too large"))
}

/// Reads a count of bytes from `least` to `most`.
///
/// # Errors
///
/// As [`parse`]; for a count outside the range, the sentence names the range.
pub fn parse_within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let bytes = parse(text)?;
    if (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    let side = if bytes < least { "small" } else { "large" };
    Err(format!(
        "'{text}' is too {side}; give a size from {} to {}",
        ShownSize(least),
        ShownSize(most)
    ))
}

/// A count of bytes, shown exactly, in a form that [`parse`] reads.
#[derive(Clone, Copy, Debug)]
pub struct ShownSize(pub u64);

impl fmt::Display for ShownSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        match UNITS.iter().find(|(_, each)| bytes != 0 && bytes.is_multiple_of(*each)) {
            Some((unit, each)) => write!(f, "{}{unit}", bytes / each),
            None => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bytes: u64, shown: &str) {
        assert_eq!(parse(text), Ok(bytes), "{text}");
        assert_eq!(ShownSize(bytes).to_string(), shown, "{text}");
        assert_eq!(parse(shown), Ok(bytes), "what is shown can be read");
    }

    #[test]
    fn a_size_is_a_whole_number_with_or_without_a_unit() {
        check("0", 0, "0");
        check("4097", 4097, "4097");
        check("32k", 32 << 10, "32KiB");
        check("32K", 32 << 10, "32KiB");
        check("64KiB", 64 << 10, "64KiB");
        check("64kib", 64 << 10, "64KiB");
        check("2m", 2 << 20, "2MiB");
        check("1g", 1 << 30, "1GiB");
        check("1kB", 1_000, "1kB");
        check("1MB", 1_000_000, "1MB");
        check("3GB", 3_000_000_000, "3GB");
    }

    #[track_caller]
    fn refused(text: &str, says: &str) {
        let error = parse_within(text, 1024, 1 << 20).unwrap_err();
        assert!(error.contains(says) && error.contains(text), "{text}: {error}");
    }

    #[test]
    fn a_refused_size_says_what_to_write() {
        refused("abc", "is not a size");
        refused("", "there is no number");
        refused("KiB", "there is no number");
        refused("-1k", "is not a size");
        refused("1.5k", "is not a size");
        refused("64 KiB", "for example 64KiB");
        refused("10mbit", "is not a size");
        refused("1023", "too small; give a size from 1KiB to 1MiB");
        refused("2MiB", "too large; give a size from 1KiB to 1MiB");
        refused("99999999999999999999", "too large");
        refused("99999999999GiB", "too large");
    }
}
