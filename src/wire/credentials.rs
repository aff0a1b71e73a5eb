//! Finds and decodes `Proxy-Authorization: Basic` (RFC 9110 §11.7.2, RFC 7617).
//!
//! [`Credentials::of`] looks at the field's lines and finds the token without decoding it, because a caller
//! that has seen the token before knows the answer. [`decode`] takes the token apart. Errors have fixed
//! texts without any of the bytes, because those are secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Limit on the bytes of a user name, and of a password. No user has longer ones.
pub const MAX_PART_BYTES: usize = 1024;

/// The contents of a request's `Proxy-Authorization` lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credentials<'b> {
    /// There is no such line.
    None,
    /// The bytes behind the Basic scheme: a token, not yet checked.
    Basic(&'b [u8]),
    /// Another scheme, or something that is no scheme.
    Other,
    /// More than one line: two recipients could use different ones.
    Repeated,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoToken {
    /// More than one token, or other things: two recipients could read it in two ways.
    Ambiguous,
    /// No credentials, for this reason.
    Malformed(&'static str),
}

impl<'b> Credentials<'b> {
    /// Reads the values of the field's lines.
    #[inline]
    pub fn of(mut values: impl Iterator<Item = &'b [u8]>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) => Self::read(value),
            (Some(_), Some(_)) => Self::Repeated,
        }
    }

    #[inline]
    fn read(value: &'b [u8]) -> Self {
        let Some((scheme, rest)) = value.split_at_checked(5) else { return Self::Other };
        // `credentials = auth-scheme 1*SP token68`
        if !scheme.eq_ignore_ascii_case(b"basic") || rest.first().is_some_and(|o| *o != b' ') {
            return Self::Other;
        }
        let mut token = rest;
        while let [b' ', rest @ ..] = token {
            token = rest;
        }
        Self::Basic(token)
    }
}

/// User and password from a token, in UTF-8 (RFC 7617 §2.1). Bytes that are not UTF-8 are read as ISO
/// 8859-1, which clients that ignore `charset` still send.
#[derive(Clone, Eq, PartialEq)]
pub struct UserPass {
    bytes: Vec<u8>,
    colon: usize,
}

impl UserPass {
    /// The user's name.
    pub fn user(&self) -> &[u8] {
        self.bytes.get(..self.colon).unwrap_or_default()
    }

    /// The password.
    pub fn password(&self) -> &[u8] {
        self.bytes.get(self.colon + 1..).unwrap_or_default()
    }
}

/// Shows neither user nor password.
impl std::fmt::Debug for UserPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserPass(***)")
    }
}

/// Takes a token apart.
///
/// # Errors
///
/// Why the token is refused.
pub fn decode(token: &[u8]) -> Result<UserPass, NoToken> {
    if token.iter().any(|byte| matches!(byte, b' ' | b'\t' | b',' | b'"')) {
        return Err(NoToken::Ambiguous);
    }
    take_apart(token).map_err(NoToken::Malformed)
}

fn take_apart(token: &[u8]) -> Result<UserPass, &'static str> {
    // Four characters encode three bytes, and a colon separates the parts.
    if token.len() > MAX_PART_BYTES / 3 * 4 * 2 {
        return Err("the credentials are too long");
    }
    let mut bytes = STANDARD.decode(token).map_err(|_| "the credentials are not base64")?;
    if std::str::from_utf8(&bytes).is_err() {
        bytes = bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes();
    }
    let Some(colon) = memchr::memchr(b':', &bytes) else {
        return Err("the credentials have no colon behind the user's name");
    };
    if bytes.iter().any(u8::is_ascii_control) {
        return Err("the credentials have a control character");
    }
    let read = UserPass { bytes, colon };
    if read.user().len().max(read.password().len()) > MAX_PART_BYTES {
        return Err("the credentials are too long");
    }
    Ok(read)
}

/// The token for this user and password in UTF-8, the input of [`decode`].
pub fn encode(user: &str, password: &str) -> String {
    STANDARD.encode([user.as_bytes(), b":", password.as_bytes()].concat())
}

/// The token in ISO 8859-1, if it exists and differs.
pub fn encode_old(user: &str, password: &str) -> Option<String> {
    let text = format!("{user}:{password}");
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    let bytes = bytes.filter(|bytes| std::str::from_utf8(bytes).is_err())?;
    Some(STANDARD.encode(bytes))
}

/// An accepted token is the one for its user and password, in one of two codings.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let lines = || bytes.split(|byte| *byte == b'\n');
    match Credentials::of(lines()) {
        Credentials::None => unreachable!("a line at least"),
        Credentials::Repeated => assert!(lines().count() > 1),
        Credentials::Other => {}
        Credentials::Basic(token) => {
            assert!(bytes.ends_with(token));
            if let Ok(read) = decode(token) {
                assert!(!read.user().contains(&b':'));
                let texts =
                    (std::str::from_utf8(read.user()), std::str::from_utf8(read.password()));
                if let (Ok(user), Ok(password)) = texts {
                    let old = encode_old(user, password);
                    let mut all = std::iter::once(encode(user, password)).chain(old);
                    assert!(all.any(|it| it.as_bytes() == token), "{}", token.escape_ascii());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'b>(values: &[&'b str]) -> Credentials<'b> {
        Credentials::of(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn the_token_is_found() {
        use Credentials::{Basic, None, Other, Repeated};
        for (values, expected) in [
            (&[][..], None),
            (&["Basic YTpi"], Basic(b"YTpi")),
            (&["bAsIc    YTpi"], Basic(b"YTpi")),
            (&["Basic YTpi", "Basic YTpi"], Repeated),
            (&["", "Basic YTpi"], Repeated),
            (&["Basic YTpi, Basic eA=="], Basic(b"YTpi, Basic eA==")),
            (&["Basic"], Basic(b"")),
            (&["Basic "], Basic(b"")),
            (&["Basic\tYTpi"], Other),
            (&["BasicYTpi"], Other),
            (&["Basics YTpi"], Other),
            (&["Bearer YTpi"], Other),
            (&["Digest username=\"a\", realm=\"b\""], Other),
            (&[""], Other),
            (&["x"], Other),
        ] {
            assert_eq!(of(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_token_has_a_user_a_colon_and_a_password() {
        let parts = |token: &str| {
            let read = decode(token.as_bytes())?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Ok::<_, NoToken>((text(read.user()), text(read.password())))
        };
        for (user, password) in
            [("a", "b"), ("a", ""), ("", "b"), ("a", "b:c:"), ("jürgen", "päß wörd€"), ("a", " b ")]
        {
            let (user, password) = (user.to_owned(), password.to_owned());
            assert_eq!(parts(&encode(&user, &password)), Ok((user, password)));
        }
        // RFC 7617 §2.1
        assert_eq!(parts("dGVzdDoxMjPCow=="), Ok(("test".to_owned(), "123£".to_owned())));
        // The same in ISO 8859-1. A token already in UTF-8 is not read as that.
        assert_eq!(parts("dGVzdDoxMjOj"), Ok(("test".to_owned(), "123£".to_owned())));
        assert_eq!(encode_old("test", "123£").as_deref(), Some("dGVzdDoxMjOj"));
        assert_eq!(encode_old("test", "123"), None);
        assert_eq!(encode_old("test", "€"), None);
        assert_eq!(encode_old("test", "Â£"), None);
        let long = encode(&"x".repeat(MAX_PART_BYTES + 1), "");
        for (token, says) in [
            ("", "no colon"),
            ("YWI=", "no colon"),
            ("YTpi=", "not base64"),
            ("YTpiYw", "not base64"),
            // Bits behind the last byte.
            ("YTpiYx==", "not base64"),
            ("YTp_", "not base64"),
            ("YTp\u{e9}", "not base64"),
            ("YToKYg==", "control"),
            (&long, "too long"),
            (&"YTpi".repeat(MAX_PART_BYTES), "too long"),
        ] {
            let Err(NoToken::Malformed(why)) = decode(token.as_bytes()) else { panic!("{token}") };
            assert!(why.contains(says), "{token}: {why}");
        }
    }

    #[test]
    fn what_could_be_read_twice_is_no_token() {
        for token in ["YTpi, Basic eA==", "YTpi eA==", "YTpi\teA==", "YTpi,", "realm=\"x\""] {
            assert_eq!(decode(token.as_bytes()), Err(NoToken::Ambiguous), "{token}");
        }
    }

    #[test]
    fn what_is_decoded_does_not_show() {
        let read = decode(encode("me", "secret").as_bytes()).unwrap();
        assert_eq!(format!("{read:?}"), "UserPass(***)");
    }
}
