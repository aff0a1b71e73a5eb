//! Takes over a file descriptor that the parent process left open.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `number`; the caller becomes its only owner. Call this before anything in this
/// process opens a descriptor, because the number must be one that the parent opened.
///
/// # Errors
///
/// The descriptor is not open, or not open for writing.
pub(super) fn for_writing(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFL takes no argument and touches no memory. For a number that is not an open
    // descriptor it fails with EBADF.
    #[allow(unsafe_code)]
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if !matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR) {
        return Err(io::Error::other("it is open for reading only"));
    }
    // SAFETY: the descriptor is open, as the check above shows. It came with the process: nothing here
    // has opened a descriptor yet, so it has no other owner, and it is taken only once.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
