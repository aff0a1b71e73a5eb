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
    let way = Way::ALL.into_iter().find(|way| way.word() == text);
    way.ok_or_else(|| {
        format!("'{text}' is not one of http, ws and connect; give those that are allowed")
    })
}
