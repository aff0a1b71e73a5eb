//! Pipes for `splice(2)`, which moves bytes from socket to socket without copying them.
//!
//! A flow borrows a pipe when it splices, and returns it as soon as it is empty. A pipe that holds bytes,
//! because the sink takes none now, stays with its flow. The number of pipes is limited; a flow that gets
//! none copies.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// The bytes a pipe is asked to hold: larger portions wake a peer less often.
pub const PIPE_BYTES: usize = 512 * 1024;
/// How many pipes are that large, 32 MiB in all. The system counts the pages of all pipes of a user, full
/// or not; past 64 MiB (`fs.pipe-user-pages-soft`) a new pipe gets only a page or two.
const LARGE_PIPES: usize = 64;
/// The bytes the other pipes hold, the system's default. Less would cost more than copying.
const ORDINARY_BYTES: usize = 64 * 1024;
/// How many empty pipes are kept for the next splice.
const KEPT: usize = 16;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    made: Arc<AtomicUsize>,
}

impl Pipe {
    /// Bytes in it. Bytes that were never counted in are never asked for.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The end to splice out of.
    pub(super) fn reader(&self) -> &OwnedFd {
        &self.reader
    }

    /// The end to splice into.
    pub(super) fn writer(&self) -> &OwnedFd {
        &self.writer
    }

    /// Counts bytes that were spliced into it.
    pub(super) fn add(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Counts bytes that were spliced out of it.
    pub(super) fn take(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.made.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long no pipe is made after a failure to make one.
const SHORT_MILLIS: u64 = 1000;

/// All pipes of a proxy.
#[derive(Debug)]
pub struct Pipes {
    // Boxed in flows too, so that they move between the two without being copied.
    #[allow(clippy::vec_box)]
    free: Mutex<Vec<Box<Pipe>>>,
    made: Arc<AtomicUsize>,
    most: usize,
    start: Instant,
    /// No pipe is made before this time, because the last attempt failed; in milliseconds since `start`.
    short_until: AtomicU64,
}

impl Pipes {
    /// At most `most` pipes at once, each two descriptors; with 0, all bytes are copied.
    pub fn new(most: usize) -> Self {
        let (start, short_until) = (Instant::now(), AtomicU64::new(0));
        Self { free: Mutex::default(), made: Arc::default(), most, start, short_until }
    }

    /// Whether the last attempt failed a moment ago: each attempt would cost five calls.
    fn is_short(&self) -> bool {
        self.millis() < self.short_until.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - SHORT_MILLIS)
    }

    /// How many pipes exist, lent and free.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Lends an empty pipe, unless the limit is reached or the system has none. Never waits.
    pub fn lend(&self) -> Option<Box<Pipe>> {
        if self.most == 0 {
            return None;
        }
        if let Some(pipe) = self.free.lock().pop() {
            return Some(pipe);
        }
        if self.is_short() {
            return None;
        }
        let before = self.made.fetch_add(1, Ordering::Relaxed);
        if before >= self.most {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        match open(if before < LARGE_PIPES { PIPE_BYTES } else { ORDINARY_BYTES }) {
            Ok((reader, writer)) => {
                let made = Arc::clone(&self.made);
                Some(Box::new(Pipe { reader, writer, held: 0, made }))
            }
            // The system has no descriptor or no page left; copying needs neither.
            Err(_) => {
                self.made.fetch_sub(1, Ordering::Relaxed);
                self.short_until.store(self.millis() + SHORT_MILLIS, Ordering::Relaxed);
                None
            }
        }
    }

    /// Takes a pipe back. A pipe that still holds bytes is closed, because the bytes belong to one flow
    /// only.
    pub fn put(&self, pipe: Box<Pipe>) {
        let mut free = self.free.lock();
        if pipe.held == 0 && free.len() < KEPT {
            free.push(pipe);
        }
    }

    /// Closes the free pipes, because descriptors are short. Returns how many there were.
    pub fn clear(&self) -> usize {
        let free = std::mem::take(&mut *self.free.lock());
        free.len()
    }
}

fn open(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Past the user's share (pipe(7)) the default size has to do.
    let holds = match bytes > ORDINARY_BYTES {
        true => fcntl_setpipe_size(&writer, bytes).or_else(|_| fcntl_getpipe_size(&writer)),
        false => fcntl_getpipe_size(&writer),
    };
    enough(holds?)?;
    Ok((reader, writer))
}

/// Whether a pipe that holds `bytes` is worth having.
fn enough(bytes: usize) -> Result<(), io::ErrorKind> {
    if bytes < ORDINARY_BYTES { Err(io::ErrorKind::OutOfMemory) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_at_most_so_many_and_a_free_one_is_lent_again() {
        let pipes = Pipes::new(2);
        let (a, b) = (pipes.lend().unwrap(), pipes.lend().unwrap());
        assert!(pipes.lend().is_none());
        pipes.put(a);
        assert_eq!(pipes.made(), 2, "it is kept");
        let a = pipes.lend().unwrap();
        assert!(pipes.lend().is_none());
        drop((a, b));
        assert_eq!(pipes.made(), 0);
        assert!(pipes.lend().is_some());
    }

    #[test]
    fn one_that_holds_bytes_is_not_lent_again() {
        let pipes = Pipes::new(2);
        let mut pipe = pipes.lend().unwrap();
        rustix::io::write(pipe.writer(), b"secret").unwrap();
        pipe.add(6);
        pipes.put(pipe);
        assert_eq!((pipes.made(), pipes.clear()), (0, 0));
    }

    #[test]
    fn after_one_could_not_be_made_none_is_tried_for_a_while() {
        let pipes = Pipes::new(2);
        let made = pipes.lend().unwrap();
        pipes.put(made);
        pipes.short_until.store(pipes.millis() + 60_000, Ordering::Relaxed);
        let kept = pipes.lend().expect("one that there is");
        assert!(pipes.lend().is_none());
        pipes.short_until.store(pipes.millis(), Ordering::Relaxed);
        assert!(pipes.lend().is_some());
        drop(kept);
    }

    #[test]
    fn none_is_made_where_none_is_wanted() {
        let pipes = Pipes::new(0);
        assert!(pipes.lend().is_none());
        assert_eq!(pipes.made(), 0);
    }

    #[test]
    fn many_threads_stay_within_the_bound() {
        let pipes = Pipes::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let pipe = pipes.lend();
                        assert!(pipes.made.load(Ordering::Relaxed) <= 3 + 4);
                        pipe.into_iter().for_each(|pipe| pipes.put(pipe));
                    }
                });
            }
        });
        assert!(pipes.made() <= 3);
    }

    #[test]
    fn only_so_many_are_large_that_all_of_them_keep_within_a_users_share_of_pages() {
        let pipes = Pipes::new(LARGE_PIPES + 2);
        let lent: Vec<_> = (0..LARGE_PIPES + 2).map(|_| pipes.lend().unwrap()).collect();
        let sizes = lent.iter().map(|pipe| fcntl_getpipe_size(pipe.writer()).unwrap());
        let sizes: Vec<_> = sizes.collect();
        assert!(sizes[..LARGE_PIPES].iter().all(|size| *size <= PIPE_BYTES));
        assert_eq!(sizes[LARGE_PIPES..], [ORDINARY_BYTES; 2]);
        // 256 pipes, the default limit.
        let most = LARGE_PIPES * PIPE_BYTES + (256 - LARGE_PIPES) * ORDINARY_BYTES;
        assert!(most <= 48 << 20, "{most}");
    }

    #[test]
    fn a_pipe_of_a_page_or_two_is_none() {
        // The system leaves so little only to users who already have many pipes.
        for bytes in [4096, 8192] {
            assert_eq!(enough(bytes), Err(io::ErrorKind::OutOfMemory));
        }
        assert_eq!(enough(ORDINARY_BYTES), Ok(()));
    }
}
