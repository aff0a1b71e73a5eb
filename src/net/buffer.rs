//! Buffers for bytes between two peers, and the free list from which a worker lends them.
//!
//! A session that waits with nothing in hand owns no buffer: an idle client or a quiet tunnel costs only
//! its state. Buffers are lent while they hold bytes, and go back to the worker that emptied them.

use std::mem;

/// Capacity of an ordinary buffer, in bytes.
pub const ORDINARY: usize = 16 * 1024;
/// Capacity of a buffer for a stream that keeps filling ordinary ones, in bytes.
pub const LARGE: usize = 128 * 1024;

/// How many free buffers of each capacity a worker keeps.
const KEPT_ORDINARY: usize = 128;
const KEPT_LARGE: usize = 4;

/// Bytes received or written. The bytes before `start` are used up.
///
/// `0 <= start <= bytes.len()`; an empty buffer may own no memory.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// The bytes still to be used.
    pub fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// How many bytes are still to be used.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether no bytes are left to use.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether the buffer owns memory.
    pub fn is_lent(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// How many bytes still fit behind those held, once the used ones are moved out of the way.
    pub fn room(&self) -> usize {
        self.bytes.capacity() - self.len()
    }

    /// Marks `count` bytes as used.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Drops the unused bytes beyond the first `keep`.
    pub fn truncate(&mut self, keep: usize) {
        self.bytes.truncate(self.start + keep);
        self.consume(0);
    }

    /// The vector to append to. Its spare capacity is [`room`](Self::room).
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }

    /// Grows to hold `capacity` bytes in all.
    pub fn grow(&mut self, capacity: usize) {
        let bytes = self.tail();
        bytes.reserve_exact(capacity.saturating_sub(bytes.len()));
    }
}

/// The free buffers of one worker, never shared, so that lending takes no lock.
#[derive(Debug, Default)]
pub struct Buffers {
    ordinary: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Buffers {
    /// Lends `buffer` memory if it has none.
    pub fn lend(&mut self, buffer: &mut Buffer) {
        if !buffer.is_lent() {
            buffer.bytes = self.ordinary.pop().unwrap_or_else(|| Vec::with_capacity(ORDINARY));
        }
    }

    /// Lends a large buffer in place of an empty ordinary one.
    pub fn lend_large(&mut self, buffer: &mut Buffer) {
        if buffer.is_empty() && buffer.bytes.capacity() < LARGE {
            self.reclaim(buffer);
            buffer.bytes = self.large.pop().unwrap_or_else(|| Vec::with_capacity(LARGE));
        }
    }

    /// Takes the memory of `buffer` back if it holds nothing.
    pub fn reclaim(&mut self, buffer: &mut Buffer) {
        if buffer.is_empty() && buffer.is_lent() {
            buffer.start = 0;
            let mut bytes = mem::take(&mut buffer.bytes);
            bytes.clear();
            match bytes.capacity() {
                ORDINARY if self.ordinary.len() < KEPT_ORDINARY => self.ordinary.push(bytes),
                LARGE if self.large.len() < KEPT_LARGE => self.large.push(bytes),
                _ => {}
            }
        }
    }

    /// As [`reclaim`](Self::reclaim), but bytes that fit an ordinary buffer also move out of a large one.
    pub fn settle(&mut self, buffer: &mut Buffer) {
        if buffer.bytes.capacity() == LARGE && (1..=ORDINARY).contains(&buffer.len()) {
            let mut smaller = Buffer::default();
            self.lend(&mut smaller);
            smaller.bytes.extend_from_slice(buffer.unread());
            std::mem::swap(buffer, &mut smaller);
            self.discard(&mut smaller);
        }
        self.reclaim(buffer);
    }

    /// Takes the memory of `buffer` back, whatever it holds.
    pub fn discard(&mut self, buffer: &mut Buffer) {
        buffer.consume(buffer.len());
        self.reclaim(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_bytes_make_room_and_an_empty_buffer_goes_back() {
        let (mut buffers, mut buffer) = (Buffers::default(), Buffer::default());
        assert!(!buffer.is_lent());
        buffers.lend(&mut buffer);
        buffer.tail().extend_from_slice(b"hello, world");
        buffer.consume(7);
        assert_eq!(buffer.unread(), b"world");
        assert_eq!(buffer.room(), ORDINARY - 5);
        buffers.reclaim(&mut buffer);
        assert!(buffer.is_lent(), "bytes in hand are never taken");
        buffer.tail().push(b'!');
        assert_eq!(buffer.unread(), b"world!");
        buffer.consume(6);
        buffers.reclaim(&mut buffer);
        assert!(!buffer.is_lent());
        assert_eq!(buffers.ordinary.len(), 1);
    }

    #[test]
    fn a_truncated_buffer_keeps_what_comes_first() {
        let mut buffer = Buffer::default();
        buffer.tail().extend_from_slice(b"hello, world");
        buffer.consume(7);
        buffer.truncate(3);
        assert_eq!(buffer.unread(), b"wor");
        buffer.truncate(9);
        assert_eq!(buffer.unread(), b"wor");
        buffer.truncate(0);
        assert!(buffer.is_empty() && buffer.tail().is_empty());
    }

    #[test]
    fn few_bytes_do_not_keep_a_large_buffer() {
        let (mut buffers, mut buffer) = (Buffers::default(), Buffer::default());
        buffers.lend_large(&mut buffer);
        buffer.tail().extend_from_slice(&[b'x'; LARGE]);
        buffer.consume(LARGE - ORDINARY - 1);
        buffers.settle(&mut buffer);
        assert_eq!(buffer.bytes.capacity(), LARGE);
        buffer.consume(1);
        buffers.settle(&mut buffer);
        assert_eq!((buffer.bytes.capacity(), buffer.len()), (ORDINARY, ORDINARY));
        assert_eq!(buffers.large.len(), 1);
    }

    #[test]
    fn a_full_free_list_lets_go_of_what_comes_back() {
        let mut buffers = Buffers::default();
        for _ in 0..2 {
            let mut many: Vec<Buffer> = (0..KEPT_ORDINARY + 5).map(|_| Buffer::default()).collect();
            many.iter_mut().for_each(|b| buffers.lend(b));
            many.iter_mut().for_each(|b| buffers.reclaim(b));
            assert_eq!(buffers.ordinary.len(), KEPT_ORDINARY);
        }
    }
}
