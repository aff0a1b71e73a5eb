//! Tells whether the server asks for a second ClientHello, and where that one begins (RFC 8446 §4.1.4).
//!
//! A server of TLS 1.3 may answer a ClientHello with a HelloRetryRequest. Its client then sends another
//! ClientHello in the clear, and some servers serve the host named in that one. [`answer`] reads the
//! server's first bytes. [`Records`] finds the next handshake record of the client.
//!
//! Before the server's answer a client can send early data and ChangeCipherSpec records, which are skipped.
//! After a ServerHello nothing of interest is in the clear, so the caller stops looking.
//! [`client_hello`](super::client_hello) reads the second ClientHello itself. Versions of records are not
//! compared, because servers ignore them here.

use super::client_hello::{ALERT, CONTENT_TYPES, HANDSHAKE, MAX_FRAGMENT, RECORD_HEAD};

/// Limit on the bytes of a server's answer looked at. With this many there is an answer.
pub const MAX_ANSWER: usize = 1024;
/// Handshake types (RFC 8446 §4; the second one is from its drafts).
const SERVER_HELLO: u8 = 2;
const DRAFT_RETRY: u8 = 6;
/// Alert level (RFC 5246 §7.2).
const WARNING: u8 = 1;
/// The random of a ServerHello that is a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// Bytes of a ServerHello before its random: head and version.
const BEFORE_RANDOM: usize = 6;
/// Bytes of a ServerHello up to the end of its random.
const LOOKED_AT: usize = BEFORE_RANDOM + RETRY.len();

/// The kind of a server's answer to a ClientHello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryAnswer {
    /// More bytes are needed.
    Incomplete,
    /// A HelloRetryRequest: a second ClientHello follows.
    Retry,
    /// Something else: no ClientHello can follow in the clear.
    Settled,
}

/// Reads the server's first bytes after a ClientHello. `bytes` is everything received since.
pub fn answer(bytes: &[u8]) -> RetryAnswer {
    let looked_at = bytes.get(..MAX_ANSWER).unwrap_or(bytes);
    match read_answer(looked_at) {
        RetryAnswer::Incomplete if bytes.len() >= MAX_ANSWER => RetryAnswer::Settled,
        answer => answer,
    }
}

fn read_answer(mut rest: &[u8]) -> RetryAnswer {
    let mut hello = [0; LOOKED_AT];
    let mut filled = 0;
    loop {
        let kind = match rest.first() {
            None => return RetryAnswer::Incomplete,
            Some(&ALERT) if filled == 0 => ALERT,
            Some(&HANDSHAKE) => HANDSHAKE,
            Some(_) => return RetryAnswer::Settled,
        };
        let [_, _, _, a, b, after @ ..] = rest else { return RetryAnswer::Incomplete };
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        match (kind, length, after.first()) {
            (HANDSHAKE, 1..=MAX_FRAGMENT, _) | (ALERT, 2, Some(&WARNING)) => {}
            (ALERT, 2, None) => return RetryAnswer::Incomplete,
            // A fatal alert, or no record.
            _ => return RetryAnswer::Settled,
        }
        let fragment = after.get(..length).unwrap_or(after);
        if kind == HANDSHAKE {
            for (place, byte) in hello.iter_mut().skip(filled).zip(fragment) {
                *place = *byte;
                filled += 1;
            }
            match hello {
                [SERVER_HELLO, ..] if filled < LOOKED_AT => {}
                [SERVER_HELLO, ..] if hello.ends_with(&RETRY) => return RetryAnswer::Retry,
                [DRAFT_RETRY, ..] if filled > 0 => return RetryAnswer::Retry,
                _ if filled == 0 => {}
                _ => return RetryAnswer::Settled,
            }
        }
        let Some(next) = after.get(length..) else { return RetryAnswer::Incomplete };
        rest = next;
    }
}

/// The next record on a client's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextRecord {
    /// The next record is not known yet.
    More,
    /// A record of the handshake.
    Handshake,
    /// No record.
    NotTls,
}

/// The records that a client sends after its ClientHello.
#[derive(Clone, Copy, Debug, Default)]
pub struct Records {
    /// Bytes still to come of a record that has begun.
    left: usize,
}

impl Records {
    /// Skips records other than handshake records. Returns their length in bytes, and what follows them.
    /// The next call gets the bytes behind those. At most four bytes of a record's head are left.
    pub fn pass(&mut self, bytes: &[u8]) -> (usize, NextRecord) {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let part = self.left.min(rest.len());
            passed += part;
            self.left -= part;
            let next = match rest.get(part..).unwrap_or_default() {
                [] => NextRecord::More,
                [HANDSHAKE, ..] => NextRecord::Handshake,
                [kind, ..] if !CONTENT_TYPES.contains(kind) => NextRecord::NotTls,
                [_, _, _, a, b, ..] => match usize::from(u16::from_be_bytes([*a, *b])) {
                    length @ 0..=MAX_FRAGMENT => {
                        self.left = RECORD_HEAD + length;
                        continue;
                    }
                    _ => NextRecord::NotTls,
                },
                _ => NextRecord::More,
            };
            return (passed, next);
        }
    }
}

/// Neither answer depends on how bytes come, and both readers terminate.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz(bytes: &[u8]) {
    let whole = answer(bytes);
    assert!(whole != RetryAnswer::Incomplete || bytes.len() < MAX_ANSWER, "no answer");
    let mut before = RetryAnswer::Incomplete;
    for came in 0..=bytes.len().min(MAX_ANSWER) {
        let now = answer(bytes.get(..came).unwrap_or_default());
        assert!(before == RetryAnswer::Incomplete || before == now, "{before:?} became {now:?}");
        before = now;
    }
    assert_eq!(before, whole);
    let at_once = Records::default().pass(bytes);
    for step in [1, 2, 7, 1000] {
        let mut records = Records::default();
        let (mut passed, mut came) = (0, 0);
        let next = loop {
            let (more, next) = records.pass(bytes.get(passed..came).unwrap_or_default());
            passed += more;
            if next != NextRecord::More || came == bytes.len() {
                break next;
            }
            assert!(came - passed < RECORD_HEAD, "held too much");
            came = bytes.len().min(came + step);
        };
        assert_eq!((passed, next), at_once, "{step} at a time");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::at_every_split;
    use super::*;

    /// Real answers of nginx with OpenSSL.
    const HELLO_RETRY: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/retry");
    const HELLO_1_3: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/hello13");
    const HELLO_1_2: &[u8] = include_bytes!("../../fuzz/corpus/hello_retry/hello12");

    fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, fragment].concat()
    }

    /// The first record, split into smaller ones.
    fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        bytes[5..5 + length].chunks(size).flat_map(|part| record(HANDSHAKE, part)).collect()
    }

    #[test]
    fn a_hello_retry_request_is_told_from_a_server_hello() {
        let warning = record(ALERT, &[WARNING, 112]);
        let warned = |rest: &[u8]| [&warning[..], &warning, rest].concat();
        for (bytes, expected) in [
            (HELLO_RETRY.to_vec(), RetryAnswer::Retry),
            (in_records(HELLO_RETRY, 1), RetryAnswer::Retry),
            (in_records(HELLO_RETRY, 37), RetryAnswer::Retry),
            (warned(HELLO_RETRY), RetryAnswer::Retry),
            (record(HANDSHAKE, &[DRAFT_RETRY]), RetryAnswer::Retry),
            (HELLO_1_3.to_vec(), RetryAnswer::Settled),
            (in_records(HELLO_1_3, 1), RetryAnswer::Settled),
            (HELLO_1_2.to_vec(), RetryAnswer::Settled),
            (warned(HELLO_1_2), RetryAnswer::Settled),
            (record(ALERT, &[2, 40]), RetryAnswer::Settled),
            (record(ALERT, &[1]), RetryAnswer::Settled),
            (record(HANDSHAKE, &[]), RetryAnswer::Settled),
            (record(HANDSHAKE, &[11]), RetryAnswer::Settled),
            (record(0x17, b"x"), RetryAnswer::Settled),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), RetryAnswer::Settled),
            (warning.repeat(200), RetryAnswer::Settled),
            (warning.repeat(100), RetryAnswer::Incomplete),
            (HELLO_RETRY[..42].to_vec(), RetryAnswer::Incomplete),
            (vec![], RetryAnswer::Incomplete),
        ] {
            assert_eq!(answer(&bytes), expected, "{bytes:?}");
            at_every_split(&bytes, |first, _| {
                let early = answer(first);
                assert!(
                    early == RetryAnswer::Incomplete || early == expected,
                    "{first:?}: {early:?}"
                );
            });
            fuzz(&bytes);
        }
    }

    #[test]
    fn records_that_are_no_handshake_are_passed_up_to_the_next_that_is() {
        let early = record(0x17, &[HANDSHAKE; 300]);
        let change = record(0x14, &[1]);
        let some =
            [&early[..], &change, &record(0x17, &[]), &record(ALERT, &[1, 0]), &early].concat();
        for (behind, next, left) in [
            (&b""[..], NextRecord::More, 0),
            (&[0x17, 3, 3, 1], NextRecord::More, 4),
            (&[HANDSHAKE], NextRecord::Handshake, 1),
            (b"GET", NextRecord::NotTls, 3),
            (&[0x13], NextRecord::NotTls, 1),
            (&[0x17, 3, 3, 0xff, 0xff], NextRecord::NotTls, 5),
        ] {
            let all = [&some[..], behind].concat();
            at_every_split(&all, |first, rest| {
                let mut records = Records::default();
                let (passed, early) = records.pass(first);
                let (more, last) = match early {
                    NextRecord::More => records.pass(&[&first[passed..], rest].concat()),
                    known => (0, known),
                };
                assert_eq!((passed + more, last), (all.len() - left, next), "{behind:?}");
            });
            fuzz(&all);
        }
    }
}
