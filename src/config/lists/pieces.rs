//! Cuts a file into pieces of whole lines, however long a line is.

use std::io::{self, Read};
use std::mem;

use memchr::{memchr, memrchr};

use crate::policy::list_format::MOST_LINE;

/// The size of a piece in bytes.
pub(super) const PIECE: usize = 64 << 10;

/// Cuts into pieces of about `bytes` bytes. No piece is more than twice as long, however long a line is:
/// of a line that exceeds the limit, only enough is kept to show that it is too long.
pub(super) struct Pieces<R> {
    from: R,
    bytes: usize,
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
    /// Whether that line is too long; the rest of it is dropped, up to its end.
    is_cut: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(from: R, bytes: usize) -> Self {
        Self { from, bytes, rest: Vec::new(), is_cut: false }
    }

    /// The next piece. Every line in it is complete, except perhaps the last one of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut piece = mem::take(&mut self.rest);
        loop {
            let had = piece.len();
            let got = self.from.by_ref().take(self.bytes as u64).read_to_end(&mut piece)?;
            if got == 0 {
                return Ok((!piece.is_empty()).then_some(piece));
            }
            let new = piece.get(had..).unwrap_or_default();
            if self.is_cut {
                let end = memchr(b'\n', new).unwrap_or(new.len());
                self.is_cut = end == new.len();
                piece.drain(had..had + end);
            }
            match memrchr(b'\n', &piece) {
                Some(end) => {
                    self.rest = piece.split_off(end + 1);
                    return Ok(Some(piece));
                }
                None if piece.len() > MOST_LINE => {
                    piece.truncate(MOST_LINE + 1);
                    self.is_cut = true;
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let all = pieces.concat();
        all.split_inclusive(|&o| o == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn read(text: &[u8], bytes: usize) -> Vec<Vec<u8>> {
        let mut pieces = Pieces::new(text, bytes);
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().unwrap() {
            assert!(piece.len() <= MOST_LINE + 1 + 2 * bytes, "{}", piece.len());
            all.push(piece);
        }
        for piece in all.iter().rev().skip(1) {
            assert_eq!(piece.last(), Some(&b'\n'));
        }
        all
    }

    #[test]
    fn pieces_of_every_size_are_the_same_lines() {
        for text in ["a\nbb\n\nccc", "a\r\nb\n", "", "\n", "\n\n\n", "a", "0123456789\n"] {
            for bytes in 1..=text.len() + 1 {
                assert_eq!(read(text.as_bytes(), bytes).concat(), text.as_bytes(), "{bytes}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_wherever_the_pieces_end() {
        for over in [0, 1, 2, 40_000] {
            for end in ["", "\n", "\nb", "\nb\n"] {
                let long = vec![b'x'; MOST_LINE + over];
                let text = [b"a\n".as_slice(), &long, end.as_bytes()].concat();
                for bytes in [61, 4096, MOST_LINE - 1, MOST_LINE, MOST_LINE + 3, 1 << 20] {
                    let all = lines(&read(&text, bytes));
                    let found: Vec<usize> =
                        all.iter().map(|line| line.trim_ascii_end().len()).collect();
                    let is_long = found[1] > MOST_LINE;
                    assert_eq!(is_long, over > 0, "{over} {bytes} {found:?}");
                    assert_eq!(found.len(), 2 + usize::from(end.contains('b')), "{end:?} {bytes}");
                    assert_eq!(found[0], 1);
                }
            }
        }
    }
}
