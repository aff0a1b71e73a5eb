//! Runs workers and the parking thread under `SCHED_BATCH`, except beside streams.
//!
//! A woken batch thread does not push aside the one that runs, so that more events come together before
//! they are handled. This saves a fifth of the processor time of a request, and more of a connection's
//! (`docs/performance.md`). Beside streams the threads leave it, because a message would wait there
//! until a stream's worker has used up its slice. The policy needs no privilege. It is for Linux only,
//! and only a hint: failing changes nothing.

use super::streams::Streams;

/// The scheduling policy of the thread that owns this.
#[derive(Debug, Default)]
pub struct Batch {
    is_in: bool,
}

impl Batch {
    /// Makes the calling thread a batch thread.
    pub fn enter() -> Self {
        set_policy(libc::SCHED_BATCH);
        Self { is_in: true }
    }

    /// Leaves the policy while streams run, and takes it up again when they have ended. To be called by
    /// the thread that entered.
    pub fn follow<J>(&mut self, streams: &Streams<J>) {
        if self.is_in {
            if streams.run() {
                self.is_in = false;
                set_policy(libc::SCHED_OTHER);
            }
        } else if !streams.ran_lately() {
            self.is_in = true;
            set_policy(libc::SCHED_BATCH);
        }
    }
}

fn set_policy(policy: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: thread 0 is the calling one, and `parameters` lives through the call, which only
    // reads it.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if outcome != 0 {
        log::debug!("scheduling policy {policy}: {}", std::io::Error::last_os_error());
    }
}
