use super::super::tests::at_every_split;
use super::*;

/// Real hellos, to `www.example.com` except for one.
const CURL: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/curl");
const OPENSSL_1_2: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl12");
const OPENSSL_1_3: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl13");
const OPENSSL_NO_SNI: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/openssl_nosni");
const PYTHON: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/python");
const NODE: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/node");
const CHROMIUM: &[u8] = include_bytes!("../../fuzz/corpus/client_hello/chromium");

fn read(bytes: &[u8]) -> Said {
    Reader::default().read(bytes).to_owned()
}

/// Asserts that the answer comes with the last byte and not before, however the bytes are cut.
#[track_caller]
fn check_last(bytes: &[u8], expected: &Said) {
    assert_eq!(read(bytes), *expected);
    at_every_split(bytes, |first, rest| {
        let mut reader = Reader::default();
        let early = reader.read(first).to_owned();
        assert_eq!(early == Said::Incomplete, !rest.is_empty(), "cut at {}", first.len());
        assert_eq!(reader.read(bytes).to_owned(), *expected, "cut at {}", first.len());
        assert_eq!(reader.read(bytes).to_owned(), *expected, "read again");
    });
    fuzz(bytes);
}

#[track_caller]
fn check_refused(bytes: &[u8], expected: HelloError) {
    assert_eq!(read(bytes), Said::Malformed(expected));
    fuzz(bytes);
}

fn hello_to(version: u16, sni: Option<&str>, ech: bool, alpn: &[&str]) -> Said {
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Said::Hello(version, sni.map(str::to_owned), ech, alpn)
}

/// `bytes` behind their length in two bytes.
fn vector(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(data)].concat()
}

fn name(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind][..], &vector(name)].concat()
}

fn sni(host: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(&name(HOST_NAME, host)))
}

/// A message with what follows the compression methods.
fn message(rest: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], rest].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], &body].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[HANDSHAKE, MAJOR, 1][..], &vector(fragment)].concat()
}

/// One record, with these extensions.
fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&message(&vector(&extensions.concat())))
}

#[test]
fn hellos_of_real_clients_name_their_host() {
    let www = Some("www.example.com");
    check_last(CURL, &hello_to(0x303, www, false, &["h2", "http/1.1"]));
    check_last(OPENSSL_1_2, &hello_to(0x303, www, false, &[]));
    check_last(OPENSSL_1_3, &hello_to(0x303, www, false, &["h2", "http/1.1"]));
    check_last(OPENSSL_NO_SNI, &hello_to(0x303, None, false, &[]));
    check_last(PYTHON, &hello_to(0x303, www, false, &[]));
    check_last(NODE, &hello_to(0x303, www, false, &[]));
    // Its Encrypted ClientHello is GREASE.
    check_last(CHROMIUM, &hello_to(0x303, www, true, &["h2", "http/1.1"]));
}

#[test]
fn a_hello_may_come_in_several_records() {
    let expected = read(OPENSSL_1_3);
    for cut in 1..OPENSSL_1_3.len() - RECORD_HEAD {
        check_last(&in_records(OPENSSL_1_3, cut), &expected);
    }
    let message = &OPENSSL_1_3[RECORD_HEAD..];
    let small: Vec<u8> = message.chunks(7).flat_map(record).collect();
    check_last(&small, &expected);
    let too_small: Vec<u8> = message.chunks(4).flat_map(record).collect();
    check_refused(&too_small, HelloError::TooLong);
}

#[test]
fn extensions_nobody_knows_and_old_hellos_without_any_are_fine() {
    let grease = [extension(0x0a0a, &[]), sni(b"a_b.Example.com."), extension(0xfafa, &[0])];
    check_last(&with(&grease), &hello_to(0x303, Some("a_b.Example.com."), false, &[]));
    check_last(&with(&[]), &hello_to(0x303, None, false, &[]));
    check_last(&record(&message(&[])), &hello_to(0x303, None, false, &[]));
}

#[test]
fn what_two_servers_could_read_two_ways_is_refused() {
    use HelloError::*;
    let (a, b) = (sni(b"a.example"), sni(b"b.example"));
    check_refused(&with(&[a.clone(), b]), Twice);
    check_refused(&with(&[a.clone(), a.clone()]), Twice);
    let two = [name(HOST_NAME, b"a.example"), name(HOST_NAME, b"b.example")].concat();
    check_refused(&with(&[extension(SERVER_NAME, &vector(&two))]), Twice);
    let other = [name(1, b"a.example"), name(HOST_NAME, b"b.example")].concat();
    check_refused(&with(&[extension(SERVER_NAME, &vector(&other))]), BadName);
    let alpn = extension(ALPN, &vector(b"\x02h2"));
    check_refused(&with(&[alpn.clone(), alpn]), Twice);
    check_refused(&with(&[sni(b"")]), BadLength);
}

#[test]
fn a_name_is_a_host_as_a_request_may_name_it_and_nothing_more() {
    for wrong in [
        &b"a\0b.example"[..],
        b"bad.example\0",
        b"a b",
        b" a.example",
        b"m\xc3\xbcller.example",
        b"\xff.example",
        b"a/b",
        b"a%2eb",
        b"user@a.example",
        b"*.example",
        // nginx uses the host before the port.
        b"bad.example:443",
        b"bad.example:",
        b"bad.example:x",
        b"bad.example.:443",
        b"192.0.2.7:443",
        b".bad.example",
        b"bad..example",
        b"bad.example..",
        b"..",
        b".",
        b":443",
        // Names that some parsers read as addresses.
        b"127.1",
        b"0x7f000001",
        b"2130706433",
        b"192.0.2.7.",
        b"[2001:db8::1]",
        b"[::1]:443",
        b"fe80::1%eth0",
        &[b'a'; 256],
        &[b'a'; 4096],
    ] {
        assert_eq!(read(&with(&[sni(wrong)])), Said::Malformed(HelloError::BadName), "{wrong:?}");
        fuzz(&with(&[sni(wrong)]));
    }
    let longest = "a".repeat(255);
    for right in ["a", "A_b-c.example.", "xn--mller-kva.example", "192.0.2.7", "::1", &longest] {
        check_last(&with(&[sni(right.as_bytes())]), &hello_to(0x303, Some(right), false, &[]));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    use HelloError::*;
    let good = message(&vector(&sni(b"a.example")));
    // One byte more or less everywhere, and each length one too large or too small.
    check_refused(&record(&[&good[..], &[0]].concat()), BadLength);
    check_refused(&record(&message(&[vector(&sni(b"a")), vec![0]].concat())), BadLength);
    check_refused(&record(&message(&[0])), BadLength);
    check_refused(&with(&[extension(SERVER_NAME, b"")]), BadLength);
    check_refused(&with(&[extension(SERVER_NAME, &vector(b""))]), BadLength);
    check_refused(&with(&[extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a'])]), BadLength);
    check_refused(&with(&[extension(SERVER_NAME, &[0, 4, 0, 0, 2, b'a'])]), BadLength);
    check_refused(&with(&[extension(SERVER_NAME, &[0, 4, 0, 0, 1, b'a', 0])]), BadLength);
    check_refused(&with(&[extension(ALPN, &[0, 3, 3, b'h', b'2'])]), BadLength);
    check_refused(&with(&[extension(ALPN, &[0, 0])]), BadLength);
    for (at, byte) in [(4, 2), (38, 33), (40, 3), (43, 0)] {
        let mut wrong = good.clone();
        wrong[at] = byte;
        check_refused(&record(&wrong), BadLength);
    }
}

#[test]
fn records_that_no_hello_comes_in_are_refused() {
    use HelloError::*;
    let hello = OPENSSL_1_3;
    let (first, second) = hello[RECORD_HEAD..].split_at(100);
    check_refused(&[0x16, 3, 1, 0, 0], BadRecord);
    check_refused(&[0x16, 3, 1, 0x40, 1], BadRecord);
    let alert = [0x15, 3, 1, 0, 2, 1, 0];
    check_refused(&[&alert[..], hello].concat(), NotFirst);
    check_refused(&[0x14, 3], NotFirst);
    check_refused(&[&record(first)[..], &alert].concat(), BadRecord);
    check_refused(&[&record(first)[..], b"GET / "].concat(), BadRecord);
    check_refused(&[&record(first)[..], &[0x16, 4]].concat(), BadRecord);
    check_refused(&[&record(first)[..], &record(&[]), &record(second)].concat(), BadRecord);
    // A ServerHello.
    check_refused(&[0x16, 3, 1, 0, 9, 2], NotFirst);
}

#[test]
fn a_hello_is_bounded() {
    use HelloError::*;
    let room = MAX_MESSAGE - message(&vector(&extension(21, &[]))).len();
    let most = with(&[extension(21, &vec![0; room])]);
    assert_eq!(most.len(), MAX_MESSAGE + RECORD_HEAD);
    assert_eq!(read(&most), hello_to(0x303, None, false, &[]));
    let more = message(&vector(&extension(21, &vec![0; room + 1])));
    let (first, second) = more.split_at(8000);
    let more = [record(first), record(second)].concat();
    check_refused(&more[..8005], TooLong);
    // The head of the message in a separate record.
    check_refused(&[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], TooLong);
    // One byte too few for the whole message, in the largest number of records.
    let most = &most[RECORD_HEAD..MAX_MESSAGE + RECORD_HEAD - 1];
    let parts = MAX_MESSAGE / MAX_RECORDS;
    let records: Vec<u8> = most.chunks(parts).flat_map(record).collect();
    assert_eq!(records.len(), MAX_BYTES - 1);
    check_refused(&records, TooLong);
    assert_eq!(read(&records[..records.len() - 1]), Said::Incomplete);
    fuzz(&[0x16; 70_000]);
    fuzz(&[3; 70_000]);
}

/// The same record under another version.
fn versioned(record: &[u8], version: [u8; 2]) -> Vec<u8> {
    let mut record = record.to_vec();
    record[1..3].copy_from_slice(&version);
    record
}

#[test]
fn a_record_with_a_client_hello_is_tls_whatever_its_version() {
    use HelloError::*;
    let expected = read(OPENSSL_1_3);
    for version in [[0, 0], [0, 2], [1, 3], [2, 0], [4, 0], [0x0f, 0xff], [0x10, 0], [0xff, 0xff]] {
        check_last(&versioned(OPENSSL_1_3, version), &expected);
        // Servers that accept any version accept the rest under any.
        let (first, second) = OPENSSL_1_3[RECORD_HEAD..].split_at(1);
        let two = [versioned(&record(first), version), record(second)].concat();
        check_last(&two, &expected);
        let odd = |fragment: &[u8]| versioned(&record(fragment), version);
        check_refused(&[odd(first), odd(second)].concat(), BadRecord);
        check_refused(&odd(&[]), BadRecord);
        check_refused(&[&[HANDSHAKE][..], &version, &[0x48, 0, CLIENT_HELLO]].concat(), BadRecord);
        // Go skips a warning of any version below 16.
        for before in [&[ALERT, 9, 9, 0, 2, 1, 0][..], &[CHANGE_CIPHER_SPEC, 9, 9, 0, 1, 1]] {
            check_refused(&[&versioned(before, version), OPENSSL_1_3].concat(), NotFirst);
        }
    }
}

/// Java takes records of up to 33,088 bytes under any version.
#[test]
fn a_hello_in_a_record_that_is_too_long_is_refused_under_every_version() {
    for major in [0, 2, MAJOR, 4, 15, 255] {
        for length in [16_385, 18_432, 18_433, 33_088, 65_535_u16] {
            let [high, low] = length.to_be_bytes();
            let head = [HANDSHAKE, major, 1, high, low];
            let hello = [&head[..], &OPENSSL_1_3[RECORD_HEAD..]].concat();
            check_refused(&[&head[..], &[CLIENT_HELLO]].concat(), HelloError::BadRecord);
            super::super::tests::at_every_split(&hello, |first, _| {
                let early = read(first);
                let known = Said::Malformed(HelloError::BadRecord);
                assert!(early == Said::Incomplete || early == known, "{first:?}: {early:?}");
            });
            let full = [&hello[..], &vec![0; usize::from(length)]].concat();
            assert_eq!(read(&full), Said::Malformed(HelloError::BadRecord), "{major} {length}");
            fuzz(&full);
        }
    }
}

#[test]
fn a_hello_in_the_format_of_ssl_2_is_refused() {
    for hello in [&b"\x80\x2e\x01\x03\x01"[..], b"\x80\x2e\x01\x00\x02", b"\xa0\x09\x01\x04\x00"] {
        check_last(&hello[..4], &Said::Malformed(HelloError::OldFormat));
    }
}

#[test]
fn what_is_no_tls_is_known_by_its_first_bytes() {
    for bytes in [
        &b"SSH-2.0-"[..],
        b"GET / HTTP/1.1\r\n",
        b"\0",
        b"\x16EHLO ",
        b"\x16\x02\x00\x00\x20\x02",
        b"\x15\x02\x00\x00\x20",
        b"\x17\x02",
        // Telnet; a length or a message that no hello has; a version that no server accepts.
        b"\xff\xfb",
        b"\x80\x08",
        b"\x80\x2e\x02",
        b"\x80\x2e\x01\x10",
    ] {
        assert_eq!(read(bytes), Said::NotTls, "{:?}", bytes.escape_ascii());
        fuzz(bytes);
    }
    for bytes in [
        &b""[..],
        b"\x16",
        b"\x15",
        b"\x16\x03",
        b"\x16\x02\x00\x01\x02",
        b"\x16\x02\x00\x81\x40",
        b"\x16\x03\x01\x02",
    ] {
        assert_eq!(read(bytes), Said::Incomplete, "{:?}", bytes.escape_ascii());
    }
}

#[test]
fn all_errors_are_listed() {
    let source = include_str!("client_hello.rs");
    let body = source.split_once("pub enum HelloError {").unwrap().1.split_once("\n}").unwrap().0;
    let variants = body.lines().filter(|line| line.ends_with(',')).map(str::trim);
    let listed: Vec<String> = HelloError::ALL.iter().map(|error| format!("{error:?},")).collect();
    assert_eq!(listed, variants.collect::<Vec<_>>());
}
