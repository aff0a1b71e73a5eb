//! Reads a time span: `500ms`, `10s`, `5m`, `1h`, `2d`, or plain `0`.
//!
//! A span is one number and one unit. Fractions and `1m30s` are refused: every span has a spelling
//! without them, and a reader of a configuration never has to add up.

use std::fmt;
use std::time::Duration;

/// The longest span allowed, a year: a longer one is more likely a wrong unit.
pub use crate::net::timers::LONGEST;

/// Units with their milliseconds, the largest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a span of time.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(format!(
            "'{text}' is not a duration; give a whole number and a unit (ms, s, m, h, d), \
             for example 500ms, 10s or 5m"
        ));
    }
    let number: Option<u64> = digits.parse().ok();
    if unit.is_empty() {
        if number == Some(0) {
            return Ok(Duration::ZERO);
        }
        return Err(format!("'{text}' has no unit; write {digits}s for seconds or {digits}ms"));
    }
    let Some(&(_, millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!(
            "'{text}' is not a duration: '{unit}' is not one of the units ms, s, m, h, d; \
             give a whole number and a unit, for example 500ms, 10s or 5m"
        ));
    };
    number
        .and_then(|n| n.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|d| *d <= LONGEST)
        .ok_or_else(|| format!("'{text}' is too long; the longest is {}", ShownDuration(LONGEST)))
}

/// Reads a span of time other than zero.
///
/// # Errors
///
/// As [`parse`], and for zero.
pub fn parse_nonzero(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err(format!(
            "'{text}' would end everything at once; give at least 1ms, or a long time such as 1d"
        )),
        d => Ok(d),
    }
}

/// A span as [`parse`] reads it, in the largest unit that needs no fraction. Parts below a millisecond are
/// left out.
#[derive(Clone, Copy, Debug)]
pub struct ShownDuration(pub Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0");
        }
        let fits = |each: u64| millis.is_multiple_of(u128::from(each));
        match UNITS.iter().find(|(_, each)| fits(*each)) {
            Some((unit, each)) => write!(f, "{}{unit}", millis / u128::from(*each)),
            None => write!(f, "{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, millis: u64, shown: &str) {
        let span = parse(text).unwrap();
        assert_eq!(span, Duration::from_millis(millis), "{text}");
        assert_eq!(ShownDuration(span).to_string(), shown, "{text}");
        assert_eq!(parse(shown).unwrap(), span, "what is shown can be read");
    }

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        check("500ms", 500, "500ms");
        check("10s", 10_000, "10s");
        check("5m", 300_000, "5m");
        check("1h", 3_600_000, "1h");
        check("2d", 172_800_000, "2d");
        check("0", 0, "0");
        check("0s", 0, "0");
    }

    #[test]
    fn a_duration_is_shown_in_the_largest_unit_without_a_fraction() {
        check("600s", 600_000, "10m");
        check("90s", 90_000, "90s");
        check("1500ms", 1_500, "1500ms");
        check("24h", 86_400_000, "1d");
        check("365d", 31_536_000_000, "365d");
    }

    #[track_caller]
    fn refused(text: &str, says: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.contains(says) && error.contains(text), "{text}: {error}");
    }

    #[test]
    fn a_refused_duration_says_what_to_write() {
        refused("10", "has no unit; write 10s for seconds or 10ms");
        refused("abc", "is not a duration");
        refused("", "for example 500ms");
        refused("-5s", "is not a duration");
        refused("10sec", "'sec' is not one of the units");
        refused("1.5s", "give a whole number and a unit");
        refused("1m30s", "'m30s' is not one of the units");
        refused("10 s", "' s' is not one of the units");
        refused("366d", "too long; the longest is 365d");
        refused("99999999999999999999s", "too long");
        refused("99999999999999999999", "has no unit");
        refused("9é", "'é' is not one of the units");
        assert!(parse_nonzero("0s").unwrap_err().contains("at least 1ms"));
        assert_eq!(parse_nonzero("1ms"), Ok(Duration::from_millis(1)));
    }
}
