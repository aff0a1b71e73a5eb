//! Chooses the defaults that depend on the machine, and draws the pseudonym for `Via`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Workers for this machine: `docs/performance.md` has the measurement.
pub(super) fn default_threads() -> usize {
    4 * thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Each client may need three descriptors: its own, and two while an upstream is dialled.
pub(super) fn default_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let places = files.saturating_sub(64) / 3;
    usize::try_from(places).unwrap_or(usize::MAX).clamp(1, 1_000_000)
}

/// Most connections need two of the three descriptors they are counted with. Half of the rest is for
/// pipes.
pub(super) fn default_pipes(places: usize) -> usize {
    (places / 4).min(256)
}

/// Raises the soft limit of open files to the hard one, and returns the limit in force. Meant for a
/// program that is a proxy and little else, before [`Server::start`](super::Server::start).
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If this fails, fewer connections are allowed, and nothing else changes.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

pub(super) fn draw_pseudonym() -> String {
    // The hasher's keys are random. Nothing secret depends on them.
    let drawn = RandomState::new().build_hasher().finish();
    format!("threadgate-{:04x}", drawn as u16)
}
