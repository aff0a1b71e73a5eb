//! Runs workers and the parking thread under `SCHED_BATCH`, except beside streams. A woken thread
//! then does not push aside the one that runs, so that more events come together before they are
//! looked at. Worth a fifth of the processor time of a request and more of a connection's
//! (`docs/performance.md`). Beside streams it is left: there a message would wait until a stream's
//! worker has used up its slice. No privilege is needed. Linux only, and only a hint: failing
//! changes nothing.

use super::streams::Streams;

/// How the scheduler takes the thread that has this.
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

    /// Leaves it while streams run, and takes it up again when they have ended. Called by the thread
    /// that entered.
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
