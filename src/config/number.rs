//! Reads a whole number in a range; the refusal of a number outside it names the range.

use std::num::NonZeroUsize;

/// Reads a whole number from 1 to `most`; `example` is a number for the advice.
///
/// # Errors
///
/// A sentence to print after the name of the option: what was found and what to write.
pub fn parse_count(text: &str, most: usize, example: &str) -> Result<NonZeroUsize, String> {
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let problem = if all_digits(text) {
        match text.parse::<usize>() {
            Ok(n) if n <= most => match NonZeroUsize::new(n) {
                Some(n) => return Ok(n),
                None => "is less than 1".to_owned(),
            },
            _ => format!("is more than {most}"),
        }
    } else if text.strip_prefix('-').is_some_and(all_digits) {
        "is less than 1".to_owned()
    } else {
        "is not a number".to_owned()
    };
    Err(format!("'{text}' {problem}; give a whole number from 1 to {most}, for example {example}"))
}

/// As [`parse_count`], with 0 among the numbers.
///
/// # Errors
///
/// As [`parse_count`].
pub fn parse_from_zero(text: &str, most: usize, example: &str) -> Result<usize, String> {
    if text.bytes().all(|b| b == b'0') && !text.is_empty() {
        return Ok(0);
    }
    let count = parse_count(text, most, example).map(NonZeroUsize::get);
    count.map_err(|e| e.replace("less than 1", "less than 0").replace("from 1 to", "from 0 to"))
}

/// Reads the number of a descriptor that was opened for this process.
///
/// # Errors
///
/// A sentence to print after the name of the option; 0, 1 and 2 have their own meaning.
pub fn parse_descriptor(text: &str) -> Result<i32, String> {
    let advice = "give the number of one that was opened for this, for example 3";
    match text.parse::<i32>() {
        Ok(0..=2) => Err(format!("{text} is stdin, stdout or stderr; {advice}")),
        Ok(number @ 3..) => Ok(number),
        _ => Err(format!("'{text}' is not a descriptor; {advice}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_from_one_to_the_most() {
        assert_eq!(parse_count("1", 8, "4").unwrap().get(), 1);
        assert_eq!(parse_count("8", 8, "4").unwrap().get(), 8);
        assert_eq!(parse_count("007", 8, "4").unwrap().get(), 7);
    }

    #[test]
    fn a_count_from_zero_may_be_zero() {
        assert_eq!(parse_from_zero("0", 8, "4"), Ok(0));
        assert_eq!(parse_from_zero("8", 8, "4"), Ok(8));
        let error = parse_from_zero("-1", 8, "4").unwrap_err();
        assert!(error.contains("is less than 0; give a whole number from 0 to 8"), "{error}");
    }

    #[test]
    fn a_refused_count_names_the_range() {
        for (text, says) in [
            ("0", "is less than 1"),
            ("-3", "is less than 1"),
            ("9", "is more than 8"),
            ("99999999999999999999999", "is more than 8"),
            ("abc", "is not a number"),
            ("", "is not a number"),
            ("2.5", "is not a number"),
            ("+2", "is not a number"),
            ("- 2", "is not a number"),
        ] {
            let error = parse_count(text, 8, "4").unwrap_err();
            let rest = "; give a whole number from 1 to 8, for example 4";
            assert_eq!(error, format!("'{text}' {says}{rest}"));
        }
    }

    #[test]
    fn a_descriptor_is_none_of_the_three_every_process_has() {
        assert_eq!((parse_descriptor("3"), parse_descriptor("1023")), (Ok(3), Ok(1023)));
        for (text, says) in [
            ("0", "0 is stdin, stdout or stderr; "),
            ("2", "2 is stdin"),
            ("-1", "'-1' is not a descriptor"),
            ("", "'' is not a descriptor"),
            ("3x", "'3x' is not"),
            ("2147483648", "is not a descriptor"),
        ] {
            let error = parse_descriptor(text).unwrap_err();
            assert!(error.starts_with(says) || error.contains(says), "{text}: {error}");
        }
    }
}
