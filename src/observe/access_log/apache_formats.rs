//! Writes the formats `common` and `combined`, as Apache's `mod_log_config` does.
//!
//! `common` is `%h %l %u %t "%r" %>s %b`; `combined` adds `"%{Referer}i" "%{User-Agent}i"`.

use super::record::Record;
use super::target::{self, MAX_TARGET_BYTES};
use super::values::{Clock, Stamp, decimal, ip};

/// The number in place of a status if the client got none. The format needs a number, and nginx
/// writes this one for a client that left, so tools know it.
const NO_STATUS: u64 = 499;

/// Appends the line for `r`, without a newline.
pub(super) fn write(out: &mut Vec<u8>, clock: &mut Clock, r: &Record<'_>, combined: bool) {
    ip(out, r.client.ip());
    out.extend_from_slice(b" - ");
    match r.user {
        "" => out.push(b'-'),
        user => escape_word(out, user),
    }
    out.extend_from_slice(b" [");
    clock.write(out, Stamp::Clf, r.started);
    out.extend_from_slice(b"] \"");
    match r.version {
        None => out.push(b'-'),
        Some(version) => {
            target::write_method(out, r.method.as_bytes(), escape);
            out.push(b' ');
            target::write(out, r.target, escape);
            out.extend_from_slice(b" HTTP/");
            out.extend_from_slice(version.number().as_bytes());
        }
    }
    out.extend_from_slice(b"\" ");
    decimal(out, if r.status == 0 { NO_STATUS } else { r.status.into() });
    out.push(b' ');
    match r.content_to_client {
        0 => out.push(b'-'),
        bytes => decimal(out, bytes),
    }
    if combined {
        out.extend_from_slice(b" \"");
        match r.referer {
            b"" => out.push(b'-'),
            // Usually a URL like the target, so it may contain a password too.
            referer => target::write(out, referer, escape),
        }
        out.extend_from_slice(b"\" \"");
        match r.user_agent {
            b"" => out.push(b'-'),
            agent => cut(out, agent),
        }
        out.push(b'"');
    }
}

/// Escapes at most [`MAX_TARGET_BYTES`] of `value`, and adds `...` if there was more.
fn cut(out: &mut Vec<u8>, value: &[u8]) {
    match value.split_at_checked(MAX_TARGET_BYTES) {
        Some((shown, rest)) if !rest.is_empty() => {
            escape(out, shown);
            out.extend_from_slice(b"...");
        }
        _ => escape(out, value),
    }
}

/// Escapes like [`escape`], and spaces too, because another column follows.
fn escape_word(out: &mut Vec<u8>, word: &str) {
    for (n, part) in word.split(' ').enumerate() {
        if n > 0 {
            out.extend_from_slice(b"\\x20");
        }
        escape(out, part.as_bytes());
    }
}

/// Escapes like Apache: a backslash before quotes and backslashes, C escapes for white space except
/// the space, and `\xhh` for every other byte that is not printable ASCII.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    if target::is_plain(bytes, b' ') {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'\x08' => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\x0b' => out.extend_from_slice(b"\\v"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte if target::is_plain(&[*byte], b' ') => out.push(*byte),
            byte => target::hex(out, *byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::LineFormat;
    use super::super::format::Scratch;
    use super::super::record::RecordKind;
    use super::*;
    use crate::wire::Version;

    fn apache() -> Record<'static> {
        Record {
            // The line in Apache's manual.
            started: UNIX_EPOCH + Duration::from_millis(971_186_136_999),
            target: b"/apache_pb.gif",
            version: Some(Version::Http10),
            referer: b"http://www.example.com/start.html",
            user_agent: b"Mozilla/4.08 [en] (Win98; I ;Nav)",
            bytes_from_client: 100,
            bytes_to_client: 2526,
            content_to_client: 2326,
            ..Record::bare()
        }
    }

    #[track_caller]
    fn check(format: LineFormat, record: &Record<'_>, expected: &str) {
        let line = String::from_utf8(Scratch::new().line(format, record).to_vec());
        assert_eq!(line.expect("ASCII"), format!("{expected}\n"));
    }

    #[test]
    fn the_lines_of_apaches_manual() {
        let common =
            r#"127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;
        check(LineFormat::Common, &apache(), common);
        check(
            LineFormat::Combined,
            &apache(),
            &format!(
                r#"{common} "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)""#
            ),
        );
    }

    #[test]
    fn what_is_missing_is_a_dash_and_a_missing_status_499() {
        check(
            LineFormat::Combined,
            &Record {
                client: "[2001:db8::1]:1".parse().expect("an address"),
                method: "",
                target: b"",
                version: None,
                referer: b"",
                user_agent: b"",
                status: 0,
                content_to_client: 0,
                ..apache()
            },
            r#"2001:db8::1 - - [10/Oct/2000:13:55:36 +0000] "-" 499 - "-" "-""#,
        );
    }

    #[test]
    fn a_tunnel_has_its_authority_for_a_target() {
        check(
            LineFormat::Common,
            &Record {
                kind: RecordKind::Tunnel,
                method: "CONNECT",
                target: b"example.com:443",
                version: Some(Version::Http11),
                ..apache()
            },
            r#"127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "CONNECT example.com:443 HTTP/1.1" 200 2326"#,
        );
    }

    #[test]
    fn bytes_that_could_end_a_column_are_escaped_as_apache_does() {
        let hostile = b"a\" \"b\\c\x08\t\n\x0b\r\x1b[2J\0\x7f\xff\xc3\xa4";
        check(
            LineFormat::Combined,
            &Record { target: hostile, referer: hostile, user_agent: hostile, ..apache() },
            &r#"127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET @ HTTP/1.0" 200 2326 "@" "@""#
                .replace('@', r#"a\" \"b\\c\b\t\n\v\r\x1b[2J\x00\x7f\xff\xc3\xa4"#),
        );
    }

    #[test]
    fn no_password_is_shown_and_nothing_without_end() {
        let long = "x".repeat(MAX_TARGET_BYTES + 1);
        let url = b"http://me:secret@example.com/";
        let record = Record { target: url, referer: url, user_agent: long.as_bytes(), ..apache() };
        let mut scratch = Scratch::new();
        let line =
            String::from_utf8_lossy(scratch.line(LineFormat::Combined, &record)).into_owned();
        assert!(!line.contains("secret") && !line.contains("me:"), "{line}");
        assert_eq!(line.matches("http://***@example.com/").count(), 2, "{line}");
        assert!(line.ends_with(&format!("{}...\"\n", &long[1..])));
    }
}
