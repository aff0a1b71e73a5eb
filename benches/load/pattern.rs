//! The content that every origin server of the benchmarks sends: byte `i` is a fixed function of `i`.
//!
//! The period is a prime, so content that was shifted, repeated or cut by any power-of-two buffer does not
//! compare equal. Bytes are letters, digits, `+` and `-`, all fit for a configuration file.

use std::sync::LazyLock;

/// Length of the period, a prime.
const PERIOD: usize = 65_521;

/// The longest run that [`at`] can lend at once.
pub(crate) const MAX_RUN: usize = 256 * 1024;

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            // xorshift64: any fixed sequence without a short period would do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ALPHABET[(state >> 58) as usize]
        })
        .collect();
    period.iter().copied().cycle().take(PERIOD + MAX_RUN).collect()
});

/// The content from `position`, `bytes` of it, at most [`MAX_RUN`].
pub(crate) fn at(position: u64, bytes: usize) -> &'static [u8] {
    let start = (position % PERIOD as u64) as usize;
    &TABLE[start..start + bytes.min(MAX_RUN)]
}

/// Whether `seen` is the content from `position`.
pub(crate) fn matches(position: u64, seen: &[u8]) -> bool {
    let mut position = position;
    seen.chunks(MAX_RUN).all(|part| {
        let same = at(position, part.len()) == part;
        position += part.len() as u64;
        same
    })
}
