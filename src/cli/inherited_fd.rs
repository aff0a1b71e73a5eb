//! Takes over a file descriptor that the parent process left open.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `number`, which then belongs to nobody else. To be called before anything
/// in this process opens a descriptor: the number must be the parent's, not one of ours.
///
/// # Errors
///
/// It is not open, or not for writing.
pub(super) fn for_writing(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFL takes no argument and touches no memory; a number that is no open descriptor
    // is answered with EBADF.
    #[allow(unsafe_code)]
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if !matches!(flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR) {
        return Err(io::Error::other("it is open for reading only"));
    }
    // SAFETY: it is open, as was just seen, and came with the process: nothing here has opened a
    // descriptor yet, so that no one else owns it, and it is taken once.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
