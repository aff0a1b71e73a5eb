//! Reads the names of methods and schemes: `GET`, `connect`.

use crate::policy::rules::Way;
use crate::wire::Method;
use crate::wire::field::is_token_byte;

/// Reads the name of a method.
pub(super) fn parse_method(text: &str) -> Result<Box<str>, String> {
    let advice = "give methods such as GET,HEAD,CONNECT";
    if text.is_empty() || !text.bytes().all(is_token_byte) {
        return Err(format!("'{text}' is not a method; {advice}"));
    }
    let usual = text.to_ascii_uppercase();
    if usual != text && Method::ALL.iter().any(|method| method.word() == usual) {
        return Err(format!("'{text}' is not {usual}: the case of a method counts; {advice}"));
    }
    Ok(text.into())
}

/// Reads the name of a scheme.
pub(super) fn parse_scheme(text: &str) -> Result<Way, String> {
    let find = |word: &str| Way::ALL.into_iter().find(|way| way.word() == word);
    find(text).ok_or_else(|| match text.to_ascii_lowercase().as_str() {
        "https" | "wss" => format!(
            "'{text}' is not a scheme that a proxy sees: clients send it inside a CONNECT; give connect \
             (--connect-ports 443 keeps it to the port of https)"
        ),
        lower if find(lower).is_some() => format!("'{text}' is not {lower}; write it in small letters"),
        _ => format!("'{text}' is not one of http, ws and connect; give those that are allowed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_scheme_says_what_is_meant() {
        assert_eq!(parse_scheme("connect"), Ok(Way::Connect));
        for (text, says) in [
            ("https", "inside a CONNECT; give connect (--connect-ports 443"),
            ("WSS", "inside a CONNECT; give connect"),
            ("HTTP", "'HTTP' is not http; write it in small letters"),
            ("ftp", "is not one of http, ws and connect"),
            ("", "is not one of http, ws and connect"),
        ] {
            let said = parse_scheme(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
