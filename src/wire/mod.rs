//! HTTP/1 as bytes: parsing and writing, without a socket, a clock or a thread.
//!
//! In reading order: [`detect`] tells HTTP from other protocols. [`start_line`] knows methods and versions,
//! [`head`] finds where a head ends, [`request`] and [`response`] turn a head into a value and write it for
//! the next hop, [`chunked`] finds the end of a chunked body by the rules in [`chunk_rules`], and `trailer`
//! reads the fields after the last chunk.
//!
//! Below them: [`field`] knows the names that matter, [`target`] reads request-targets and authorities,
//! [`framing`] finds where content ends, [`hop_by_hop`] finds the fields that must not travel on,
//! [`credentials`] reads the client's user name and password, `connection_login` recognises logins that
//! belong to a connection, [`upgrade`] lists the protocols a connection may change to, [`via`] names the
//! proxies that handled the message before, and [`forwarded`] the client it is sent for.
//!
//! Beside them: [`leniency`] lists the faults of responses that are mended, and [`response_repair`] mends
//! those of a head. [`client_hello`] reads the start of a TLS connection in a tunnel, and [`hello_retry`]
//! finds out whether a second ClientHello follows.
//!
//! One rule is above all others: a request that two recipients could read in two ways is refused, never
//! repaired, and a response goes to the client in the strict form or not at all. A value borrows the bytes
//! it was read from. Parsing allocates only for a ClientHello in several records and for a mended response.

pub mod chunk_rules;
pub mod chunked;
pub mod client_hello;
mod connection_login;
pub mod credentials;
pub mod detect;
pub mod field;
pub mod forwarded;
pub mod framing;
pub mod head;
pub mod hello_retry;
pub mod hop_by_hop;
pub mod leniency;
pub mod request;
mod request_line;
pub mod response;
pub mod response_repair;
pub mod start_line;
pub mod target;
mod trailer;
pub mod upgrade;
pub mod via;

pub use chunk_rules::{ChunkError, ChunkLimits, Tolerance};
pub use chunked::{Chunked, Irregular, Piece};
pub use credentials::Credentials;
pub use field::{Field, KnownField, MoreSlots, Slots};
pub use forwarded::Forwarded;
pub use framing::{Framing, FramingError, ResponseFraming};
pub use head::{HeadError, HeadLimits, Persistence};
pub use leniency::{Leniency, Repair, Repairs};
pub use request::{Outgoing, RequestHead};
pub use request_line::{RequestLine, write_request_line};
pub use response::{Recode, ResponseHead, ResponseOutgoing};
pub use start_line::{Method, Version};
pub use target::{Authority, OriginForm, Scheme, Target, TargetError};
pub use upgrade::Protocols;

/// Framing fields that are accepted are forwarded as one line with the same meaning. A naive reader who
/// looks at only the first or only the last of them would agree.
#[doc(hidden)]
#[cfg(feature = "internals")]
pub fn fuzz_framing(bytes: &[u8]) {
    let head = [b"POST / HTTP/1.1\r\nHost: a\r\n", bytes, b"\r\n\r\n"].concat();
    request::fuzz(&head);
    response::fuzz(&[b"HTTP/1.1 200 OK\r\n", bytes, b"\r\n\r\n"].concat());
    let Some(end) = head::fuzz(&head, &HeadLimits::default()) else { return };
    let head = head.get(..end).unwrap_or_default();
    let mut slots = Slots::new();
    let Ok(head) = RequestHead::read(head, &mut slots, &HeadLimits::default()) else { return };
    let mut announced = None;
    for field in head.fields() {
        let framing = match field.known {
            KnownField::TransferEncoding => Framing::Chunked,
            KnownField::ContentLength => {
                let text = String::from_utf8_lossy(field.value);
                for element in text.split(',') {
                    let length = element.trim_matches([' ', '\t']).parse::<u64>();
                    assert_eq!(length.ok(), Some(content_bytes(head.framing)));
                }
                head.framing
            }
            _ => continue,
        };
        assert_eq!(*announced.get_or_insert(framing), framing, "framed in two ways");
    }
    assert_eq!(announced.unwrap_or(Framing::Empty), head.framing);
}

/// The bytes a framing announces, for fuzzing.
#[cfg(feature = "internals")]
fn content_bytes(framing: Framing) -> u64 {
    match framing {
        Framing::Empty => 0,
        Framing::Length(length) => length.get(),
        Framing::Chunked => panic!("a length beside a coding"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Calls `check` with `bytes` cut in two at every place, ends included.
    pub(super) fn at_every_split(bytes: &[u8], check: impl Fn(&[u8], &[u8])) {
        for cut in 0..=bytes.len() {
            let (first, rest) = bytes.split_at(cut);
            check(first, rest);
        }
    }

    /// The assertions of the fuzz targets also hold for their seeds, in every plain `cargo test`.
    #[test]
    fn every_seed_keeps_the_invariants() {
        type Fuzz = fn(&[u8]);
        let targets: &[(&str, Fuzz)] = &[
            ("chunked", super::chunked::fuzz),
            ("client_hello", super::client_hello::fuzz),
            ("credentials", super::credentials::fuzz),
            ("detect", super::detect::fuzz),
            ("framing", super::fuzz_framing),
            ("hello_retry", super::hello_retry::fuzz),
            ("request_head", super::request::fuzz),
            ("response_head", super::response::fuzz),
            ("target", super::target::fuzz),
        ];
        for (name, fuzz) in targets {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let seeds =
                fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
            let mut count = 0;
            for seed in seeds {
                fuzz(&fs::read(seed.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 3, "{name} has too few seeds");
        }
    }
}
