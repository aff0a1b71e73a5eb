//! Shows a progress bar on a terminal while long lists load.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

/// A shorter wait shows no bar.
const QUIET: Duration = Duration::from_millis(500);
/// The time between two pictures.
const STEP: Duration = Duration::from_millis(100);
const WIDTH: u64 = 30;

/// A bar in one line of stderr, without colours. It leaves the line empty at the end.
pub(super) struct ProgressBar<W: Write = io::Stderr> {
    to: W,
    total: u64,
    /// When to draw it next, if a person is watching.
    next: Option<Instant>,
    drawn: usize,
}

impl ProgressBar {
    /// A bar for `total` bytes.
    pub(super) fn new(total: u64, now: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let to = io::stderr();
        let is_watched = !dumb && log::log_enabled!(log::Level::Info) && to.is_terminal();
        Self { to, total, next: is_watched.then(|| now + QUIET), drawn: 0 }
    }
}

impl<W: Write> ProgressBar<W> {
    /// Shows that `done` bytes have been read.
    pub(super) fn at(&mut self, done: u64, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + STEP);
            self.draw(&picture(done, self.total));
        }
    }

    /// Clears the line to make room for other output.
    pub(super) fn clear(&mut self) {
        if self.drawn > 0 {
            self.draw("");
        }
    }

    fn draw(&mut self, text: &str) {
        // Spaces cover the rest of the previous picture.
        let width = self.drawn.max(text.len());
        let back = if text.is_empty() { "\r" } else { "" };
        // A bar that cannot be written is dropped.
        let _ = write!(self.to, "\r{text:width$}{back}").and_then(|()| self.to.flush());
        self.drawn = text.len();
    }
}

impl<W: Write> Drop for ProgressBar<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn picture(done: u64, total: u64) -> String {
    let total = total.max(1);
    let done = done.min(total);
    let filled = (done * WIDTH / total) as usize;
    let (percent, rest) = (done * 100 / total, WIDTH as usize - filled);
    format!(
        "reading lists [{}{}] {percent:3} % of {} MB",
        "=".repeat(filled),
        " ".repeat(rest),
        total.div_ceil(1_000_000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_how_much_is_read() {
        let bar = |filled, rest| format!("[{}{}]", "=".repeat(filled), " ".repeat(rest));
        for (done, says) in [(0, bar(0, 30)), (50, bar(15, 15)), (100, bar(30, 0))] {
            let shown = picture(done * 1_000_000, 100_000_000);
            assert_eq!(shown, format!("reading lists {says} {done:3} % of 100 MB"));
        }
        assert!(picture(7, 0).contains("100 % of 1 MB"), "a file that has grown");
    }

    #[test]
    fn it_draws_after_a_while_and_now_and_then_and_leaves_nothing() {
        let (mut said, now) = (Vec::new(), Instant::now());
        let mut progress =
            ProgressBar { to: &mut said, total: 100, next: Some(now + QUIET), drawn: 0 };
        for (millis, done) in [(0, 10), (499, 20), (500, 30), (599, 40), (600, 50)] {
            progress.at(done, now + Duration::from_millis(millis));
        }
        drop(progress);
        let said = String::from_utf8(said).unwrap();
        let (before, after) = (picture(30, 100), picture(50, 100));
        let blank = " ".repeat(after.len());
        assert_eq!(said, format!("\r{before}\r{after}\r{blank}\r"));
    }

    #[test]
    fn nothing_is_written_if_nobody_watches() {
        let (mut said, now) = (Vec::new(), Instant::now());
        let mut progress = ProgressBar { to: &mut said, total: 100, next: None, drawn: 0 };
        progress.at(50, now + QUIET * 10);
        drop(progress);
        assert!(said.is_empty());
    }
}
