//! `SCHED_BATCH` for threads that serve many sessions: woken, they do not push aside who runs, so
//! that more events come together before they are looked at. Worth about a tenth of the processor
//! time a request; no privilege is needed. Linux only, and only a hint: failing changes nothing.

/// Makes the calling thread a batch thread.
pub fn enter() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: thread 0 is the calling one, and `parameters` lives through the call, which only
    // reads it.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if outcome != 0 {
        log::debug!("SCHED_BATCH: {}", std::io::Error::last_os_error());
    }
}
