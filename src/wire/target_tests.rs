//! Tests of targets and authorities: which are accepted, and what they mean.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn host(text: &str, host: &str, ip: Option<&str>, port: Option<u16>) {
    let ip = ip.map(|ip| ip.parse().unwrap());
    assert_eq!(Authority::parse(text), Ok(Authority { text, host, ip, port }));
    fuzz(format!("http://{text}").as_bytes());
    fuzz(text.as_bytes());
}

#[track_caller]
fn bad(text: &str, expected: TargetError) {
    assert_eq!(Authority::parse(text), Err(expected), "{text}");
    fuzz(format!("http://{text}/").as_bytes());
}

#[test]
fn an_authority_is_a_host_and_maybe_a_port() {
    host("example.com", "example.com", None, None);
    host("Example.COM.:8080", "Example.COM.", None, Some(8080));
    host("my_host-1:65535", "my_host-1", None, Some(65535));
    host("a:", "a", None, None);
    host("a:00080", "a", None, Some(80));
    host("192.0.2.1", "192.0.2.1", Some("192.0.2.1"), None);
    host("192.0.2.1:1", "192.0.2.1", Some("192.0.2.1"), Some(1));
    host("[::1]", "::1", Some("::1"), None);
    host("[2001:DB8::1]:443", "2001:DB8::1", Some("2001:db8::1"), Some(443));
    host("[::ffff:192.0.2.1]:", "::ffff:192.0.2.1", Some("::ffff:192.0.2.1"), None);
}

#[test]
fn what_an_address_parser_could_read_is_refused() {
    for (name, parser) in [
        ("127.1", "inet_aton: the last number fills the rest"),
        ("127.0.1", "inet_aton"),
        ("127.65536", "inet_aton"),
        ("2130706433", "inet_aton: one number is the whole address"),
        ("1", "inet_aton"),
        ("0", "inet_aton"),
        ("0x7f.1", "inet_aton: hexadecimal"),
        ("0x7f000001", "inet_aton"),
        ("127.0X1", "inet_aton"),
        ("0177.0.0.1", "inet_aton: octal"),
        ("192.0.2.01", "inet_aton; decimal for older Go and Python"),
        ("0300.0250.0.1", "inet_aton"),
        ("0000000177.1", "inet_aton"),
        ("08.8.8.8", "Java and older Python: decimal; the first BSDs: 8 as an octal digit"),
        ("010.8.8.8", "8.8.8.8 for inet_aton, 10.8.8.8 for Java"),
        ("1.2.3.0377", "inet_aton"),
        ("1.2.3.4.", "browsers: a dot at the end"),
        ("127.1.", "browsers"),
        ("0x", "browsers: 0 without a digit"),
        ("127.0x", "browsers"),
        ("0x.0x.0x.0x", "browsers"),
        ("4294967296", "the BSDs: modulo 2^32"),
        ("0x100000000", "the BSDs"),
        ("0x1000000000000007f000001", "the first BSDs: modulo 2^32, however long"),
        ("4294967423.1", "the BSDs: 127.0.0.1"),
    ] {
        bad(name, TargetError::BadHost);
        bad(&format!("{name}:80"), TargetError::BadHost);
        assert!(!parser.is_empty());
    }
}

#[test]
fn what_no_address_parser_reads_to_its_end_is_a_name() {
    for (name, why) in [
        ("x.se.1246", "a label that is no number"),
        ("a.1", "a label that is no number"),
        ("a.0x", "a label that is no number"),
        ("1.a", "a label that is no number"),
        ("127.1a", "a label that is no number"),
        ("127.0.0.0xg", "a label that is no number"),
        ("0xg", "a label that is no number"),
        ("a.0x1g", "a label that is no number"),
        ("x0", "a label that is no number"),
        ("a.x1", "a label that is no number"),
        ("1-1", "a label that is no number"),
        ("1_1", "a label that is no number"),
        ("0x7f.example.", "a label that is no number"),
        ("1.2.3.4.5", "five numbers"),
        ("0.0.0.0.0", "five numbers"),
        ("256.1.1.1", "256 has no room in its place"),
        ("1.2.3.256", "256 has no room in its place"),
        ("1.2.65536", "65536 has no room in its place"),
        ("1.16777216", "16777216 has no room in its place"),
        ("0x100.1", "256 has no room in its place"),
        ("0400.1", "neither 256 nor 400 has room in its place"),
    ] {
        host(name, name, None, None);
        assert!(!why.is_empty());
    }
}

#[test]
fn a_port_is_a_number_that_can_be_connected_to() {
    for text in [
        "a:0", "a:65536", "a:+80", "a:-1", "a:8O", "a:80 ", "a:000080", "a:80:80", "::1",
        "[::1]80", "[::1]x",
    ] {
        bad(text, if text == "::1" { TargetError::EmptyHost } else { TargetError::BadPort });
    }
}

#[test]
fn a_host_that_can_be_read_two_ways_is_refused() {
    for text in [
        "a%41",
        "a b",
        "a,b",
        "a*",
        "a~",
        "a\\b",
        "a/b",
        "a?b",
        ".a",
        "a..b",
        ".",
        "[::1",
        "[::1%25eth0]",
        "[::1%eth0]",
        "[v1.x]",
        "[127.0.0.1]",
        "[]",
        "caf\u{e9}",
        "a\u{0}",
        "a]",
        "'a'",
    ] {
        bad(text, TargetError::BadHost);
    }
    bad("", TargetError::EmptyHost);
    bad(":80", TargetError::EmptyHost);
    bad("u@a", TargetError::UserInfo);
    bad("u:p@a:80", TargetError::UserInfo);
    bad("@", TargetError::UserInfo);
    bad(&"a".repeat(256), TargetError::BadHost);
    host(&"a".repeat(255), &"a".repeat(255), None, None);
}

#[track_caller]
fn refused(method: Method, text: &str, expected: TargetError) {
    assert_eq!(Target::parse(method, text), Err(expected), "{text}");
}

#[test]
fn the_form_fits_the_method() {
    assert_eq!(Target::parse(Method::Get, "/a?b"), Ok(Target::Origin("/a?b")));
    assert_eq!(Target::parse(Method::Get, "//a/b"), Ok(Target::Origin("//a/b")));
    assert_eq!(Target::parse(Method::Options, "*"), Ok(Target::Asterisk));
    assert!(matches!(Target::parse(Method::Connect, "a:443"), Ok(Target::Authority(_))));
    refused(Method::Get, "*", TargetError::BadForm);
    refused(Method::Options, "**", TargetError::BadForm);
    refused(Method::Get, "a:443", TargetError::BadForm);
    refused(Method::Get, "", TargetError::BadForm);
    refused(Method::Get, "urn:a", TargetError::BadForm);
    refused(Method::Get, "http:/a", TargetError::BadForm);
    refused(Method::Get, "://a", TargetError::BadForm);
    refused(Method::Get, "1http://a", TargetError::BadForm);
    refused(Method::Get, "ht_tp://a", TargetError::BadForm);
    refused(Method::Connect, "a", TargetError::MissingPort);
    refused(Method::Connect, "a:", TargetError::MissingPort);
    refused(Method::Connect, "/a", TargetError::BadHost);
    refused(Method::Connect, "http://a:80", TargetError::BadPort);
    refused(Method::Connect, "*", TargetError::BadHost);
}

#[test]
fn an_absolute_target_names_scheme_server_and_path() {
    for (text, scheme, server, path) in [
        ("http://a", Scheme::Http, "a", ""),
        ("HTTP://a:80/", Scheme::Http, "a:80", "/"),
        ("http://a?b", Scheme::Http, "a", "?b"),
        ("https://a/b/../c?d=http://e", Scheme::Https, "a", "/b/../c?d=http://e"),
        ("Ws://a/b?c", Scheme::Ws, "a", "/b?c"),
        ("wss://a/b", Scheme::Other, "a", "/b"),
        ("ftp://a/b", Scheme::Other, "a", "/b"),
        ("http://[::1]:81/x", Scheme::Http, "[::1]:81", "/x"),
        ("http://a/@b", Scheme::Http, "a", "/@b"),
    ] {
        let authority = Authority::parse(server).unwrap();
        let expected = Target::Absolute { scheme, authority, path };
        assert_eq!(Target::parse(Method::Get, text), Ok(expected), "{text}");
        fuzz(text.as_bytes());
    }
    refused(Method::Get, "http://", TargetError::EmptyHost);
    refused(Method::Get, "http:///a", TargetError::EmptyHost);
    refused(Method::Get, "http://:80/", TargetError::EmptyHost);
    refused(Method::Get, "http://u:p@a/", TargetError::UserInfo);
    refused(Method::Get, "http://a\\@b/", TargetError::UserInfo);
    refused(Method::Get, "http://a\\b/", TargetError::BadHost);
}

#[test]
fn characters_that_must_be_encoded_are_refused() {
    for text in ["/a b", "/a\tb", "/\u{e9}", "/\u{7f}", "/a\r", "/\u{0}"] {
        refused(Method::Get, text, TargetError::BadCharacter);
    }
    refused(Method::Get, "/a#b", TargetError::Fragment);
    refused(Method::Get, "http://a#b", TargetError::Fragment);
    assert!(Target::parse(Method::Get, "/a|b{c}\"d\"^`<>%zz").is_ok());
}

#[test]
fn an_origin_server_gets_the_path_alone() {
    for (method, text, expected) in [
        (Method::Get, "http://a", "/"),
        (Method::Get, "http://a/b", "/b"),
        (Method::Get, "http://a?b", "/?b"),
        (Method::Options, "http://a", "*"),
        (Method::Options, "http://a/", "/"),
        (Method::Options, "http://a?b", "/?b"),
        (Method::Options, "*", "*"),
        (Method::Get, "/b", "/b"),
    ] {
        let form = Target::parse(method, text).unwrap().origin_form(method);
        assert_eq!((form.to_string(), form.len()), (expected.to_owned(), expected.len()));
    }
}

proptest! {
    #[test]
    fn any_text_keeps_the_invariants(text in "(http|HTTPS|x)?(://)?[a-b0-9.:@\\[\\]%-]{0,12}[/?#*a:]{0,4}") {
        fuzz(text.as_bytes());
    }

    #[test]
    fn an_address_in_any_numbers_is_that_address_or_refused(
        ip: u32, parts in 1_u32..=4, bases: [usize; 4], dot: bool,
    ) {
        let number = |value: u32, base: usize| match base % 4 {
            0 => format!("{value}"),
            1 => format!("{value:#x}"),
            2 => format!("0X{value:07X}"),
            _ => format!("0{value:o}"),
        };
        let mut words = Vec::new();
        for (at, &base) in (1..=parts).zip(&bases) {
            let bits = if at == parts { 8 * (5 - parts) } else { 8 };
            let shift = 8 * (4 - at + 1) - bits;
            words.push(number((ip >> shift) & (u32::MAX >> (32 - bits)), base));
        }
        let text = words.join(".") + if dot { "." } else { "" };
        if let Ok(authority) = Authority::parse(&text) {
            prop_assert_eq!(authority.ip, Some(IpAddr::V4(ip.into())), "{}", text);
        }
    }

    #[test]
    fn an_address_and_a_port_survive(ip: IpAddr, port in 1_u16..) {
        let text = std::net::SocketAddr::new(ip, port).to_string();
        let authority = Authority::parse(&text).unwrap();
        prop_assert_eq!((authority.ip, authority.port), (Some(ip), Some(port)));
    }
}
