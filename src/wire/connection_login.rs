//! Recognises logins that belong to a connection and not to one request: NTLM, Negotiate and Kerberos (RFC
//! 4559).
//!
//! These schemes do not prove who sent a request. They prove who is at the other end of the connection, and
//! later requests on it count as that user's. A connection on which one of them was used, or only offered,
//! must therefore not carry another client's request.

use super::field::trim_ows;

/// The schemes, as `Authorization` and `WWW-Authenticate` name them.
const SCHEMES: [&[u8]; 7] =
    [b"negotiate", b"ntlm", b"kerberos", b"nego2", b"credssp", b"spnego", b"pku2u"];

/// Fields that tell clients, beside such a challenge, that the proxy keeps the two connections together
/// (RFC 4559 §6). They are for this hop only, so `Connection` names them, as in Squid.
pub(super) const SUPPORT: &[u8] =
    b"Proxy-Support: Session-Based-Authentication\r\nConnection: Proxy-Support\r\n";

/// Whether a value of `Authorization` or `WWW-Authenticate` names one of the schemes.
///
/// A challenge may be anywhere in a list, and a comma in a quoted string looks like the end of an
/// element. This can only find too much: a connection is then kept apart without need.
pub(super) fn binds(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').map(trim_ows).any(|element| {
        let mut words = element.split(|&byte| matches!(byte, b' ' | b'\t' | b'='));
        let scheme = words.next().unwrap_or_default();
        SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_found_in_every_spelling_and_place() {
        for value in [
            "NTLM",
            "ntlm TlRMTVNTUAABAAAA",
            "Negotiate",
            "NEGOTIATE YIIB",
            "Kerberos YIIB",
            "Nego2",
            "CredSSP TlRM",
            "Basic realm=\"a, b\", NTLM",
            "Digest realm=\"x\", nonce=\"y\",negotiate",
            "Bearer ,\tNtLm\tTlRM",
            "NTLM=",
            // Where the string ends is unknown.
            "Basic realm=\"open, NTLM",
        ] {
            assert!(binds(value.as_bytes()), "{value}");
        }
        for value in
            ["", "Basic bnRsbTpudGxt", "Bearer NTLM", "NTLMv2 x", "XNTLM", "Digest realm=\"ntlm\""]
        {
            assert!(!binds(value.as_bytes()), "{value}");
        }
    }
}
