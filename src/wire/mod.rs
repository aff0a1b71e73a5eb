//! HTTP/1 as octets: bytes to values and back, without a socket, a clock or a thread.
//!
//! In reading order: [`detect`] tells HTTP from what else may arrive, [`head`] finds where a head
//! ends, [`request`] and [`response`] turn a head into a value and write it for the next hop,
//! [`chunked`] finds the end of a chunked body. Below them: [`field`] knows the names that matter,
//! [`target`] reads request-targets and authorities, [`framing`] says where content ends, [`hop`]
//! what must not travel further, [`credentials`] who asks, `login` what logs a connection in, [`upgrade`] what the connection may turn into, [`via`] who handled
//! the message before, [`forwarded`] on whose behalf. Apart from them [`client_hello`] reads how a TLS
//! connection in a tunnel begins, [`hello_retry`] whether it begins a second time, and [`repair`] writes a response
//! anew that clients take and the grammar does not.
//!
//! One rule is above all others: a request that two recipients could read in two ways is refused, never
//! repaired, and a response goes to the client in the strict form or not at all. Parsing allocates nothing,
//! but for a ClientHello in several records and a response that is mended; a value borrows the octets it was
//! read from.

pub mod chunked;
pub mod client_hello;
pub mod credentials;
pub mod detect;
pub mod field;
pub mod forwarded;
pub mod framing;
pub mod head;
pub mod hello_retry;
pub mod hop;
mod login;
pub mod repair;
pub mod request;
pub mod response;
pub mod target;
mod trailer;
pub mod upgrade;
pub mod via;

pub use chunked::{ChunkError, ChunkLimits, Chunked, Irregular, Piece, Tolerance};
pub use credentials::Credentials;
pub use field::{Field, Known, MoreSlots, Slots};
pub use forwarded::Forwarded;
pub use framing::{Framing, FramingError, ResponseFraming};
pub use head::{HeadError, Limits, Method, Persistence, Version};
pub use repair::{Leniency, Repair, Repairs};
pub use request::{Outgoing, RequestHead};
pub use response::{Recode, ResponseHead, ResponseOutgoing};
pub use target::{Authority, OriginForm, Scheme, Target, TargetError};
pub use upgrade::Protocols;

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

    /// What the fuzz targets assert also holds for their seeds, in every plain `cargo test`.
    #[test]
    fn every_seed_keeps_the_invariants() {
        type Fuzz = fn(&[u8]);
        let targets: &[(&str, Fuzz)] = &[
            ("chunked", super::chunked::fuzz),
            ("client_hello", super::client_hello::fuzz),
            ("credentials", super::credentials::fuzz),
            ("detect", super::detect::fuzz),
            ("framing", super::framing::fuzz),
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
