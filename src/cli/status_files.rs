//! Writes the port file and the pid file, each as a whole or not at all.

use std::fs::{self, File, FileType};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use crate::cli::exit::Failure;
use crate::net::listener::alone_in;

/// Paths under which a descriptor appears as a file. The file behind it is written to and never replaced.
const DESCRIPTORS: [&str; 4] = ["/dev/fd", "/dev/stderr", "/dev/stdout", "/proc"];

/// Writes `text` to `file` so that a reader never sees a part of it: writes a new file beside it, then
/// renames that. Only a regular file is replaced. A FIFO or a character device is written to, without
/// waiting for its reader.
pub(crate) fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    match standing(file)? {
        None => replace(file, text),
        Some(it) if it.is_fifo() || it.is_char_device() => write_into(file, text),
        Some(it) if !it.is_file() => Err(no_file()),
        _ if DESCRIPTORS.iter().any(|at| file.starts_with(at)) => write_into(file, text),
        // If `file` is a link, the file behind it is replaced, not the link.
        Some(_) => replace(&fs::canonicalize(file)?, text),
    }
}

/// The type of the file at `file`, with links followed.
fn standing(file: &Path) -> io::Result<Option<FileType>> {
    match fs::metadata(file) {
        Ok(it) => Ok(Some(it.file_type())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(file) {
            Ok(it) if it.is_symlink() => Err(io::Error::other(
                "it is a link that leads nowhere; remove it, or give another name",
            )),
            // The file was created between the two calls.
            Ok(it) => Ok(Some(it.file_type())),
            Err(_) => Ok(None),
        },
        Err(e) => Err(e),
    }
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    // A killed process may have left this file; it may also be a link to somewhere else.
    if let Ok(left) = fs::symlink_metadata(&beside)
        && (left.is_file() || left.is_symlink())
    {
        fs::remove_file(&beside)?;
    }
    let mut new = File::options().write(true).create_new(true).open(&beside)?;
    // The new file keeps the permissions of the old one.
    let kept = match fs::metadata(file) {
        Ok(before) => new.set_permissions(before.permissions()),
        Err(_) => Ok(()),
    };
    let replaced = kept.and_then(|()| write_once(&mut new, text));
    replaced.and_then(|()| fs::rename(&beside, file)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

fn write_into(file: &Path, text: &str) -> io::Result<()> {
    let mut options = File::options();
    // Without O_NONBLOCK, a FIFO waits for its reader and a terminal line for a carrier.
    options.append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(file) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
            Err(io::Error::other("no process reads it; start the reader first"))
        }
        opened => write_once(&mut opened?, text),
    }
}

fn write_once(file: &mut File, text: &str) -> io::Result<()> {
    let written = file.write(text.as_bytes())?;
    if written < text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

fn no_file() -> io::Error {
    io::Error::other("it is not a regular file; give another name")
}

/// A file that an option names and that exists while the proxy runs. The file is removed when this drops,
/// if its content is still what was written.
#[derive(Debug)]
pub(crate) struct OwnFile {
    option: &'static str,
    path: PathBuf,
    text: String,
}

impl OwnFile {
    /// Writes `text` to the file of `option`.
    pub(crate) fn write(option: &'static str, path: &Path, text: String) -> Result<Self, Failure> {
        write_whole(path, &text).map_err(|e| Failure::file(option, path, "write", &e))?;
        // An absolute path stays valid if the process changes its directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { option, path, text })
    }

    /// Writes our process number to the file of `--pid-file`, unless another proxy has taken the file in
    /// the meantime.
    pub(crate) fn write_pid(path: &Path) -> Result<Self, Failure> {
        // If several proxies start at once, only one at a time checks and writes.
        let _alone = alone_in(path.parent());
        check_pid(path)?;
        Self::write("--pid-file", path, format!("{}\n", process::id()))
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let ours = self.text.len() as u64;
        let read = open_regular(&self.path).and_then(|file| {
            let mut text = String::new();
            file.take(ours + 1).read_to_string(&mut text).map(|_| text)
        });
        if read.is_ok_and(|text| text == self.text)
            && !DESCRIPTORS.iter().any(|at| self.path.starts_with(at))
            && let Err(e) = fs::canonicalize(&self.path).and_then(fs::remove_file)
        {
            log::warn!("{} {}: cannot remove it: {e}", self.option, self.path.display());
        }
    }
}

/// Opens a file for reading if it is a regular file. A FIFO is refused, because it would wait for its
/// writer.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    match standing(path)? {
        Some(it) if !it.is_file() => Err(no_file()),
        _ => File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path),
    }
}

/// Checks that the file of `--pid-file` may become ours: it does not exist, is empty, or holds the number
/// of a process that is not a running proxy.
///
/// # Errors
///
/// A proxy is already running, or the file holds something else, which is not overwritten.
pub(crate) fn check_pid(path: &Path) -> Result<(), Failure> {
    let failed = |why: String| Failure::failed(format!("--pid-file {}: {why}", path.display()));
    let mut text = String::new();
    match open_regular(path).and_then(|file| file.take(64).read_to_string(&mut text)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // The file is not text.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => text.push('?'),
        Err(e) => return Err(Failure::file("--pid-file", path, "read", &e)),
        Ok(_) => {}
    }
    let number = text.trim();
    if number.is_empty() {
        return Ok(());
    }
    match number.parse::<u32>() {
        Ok(pid) if pid != process::id() && is_one_of_us(pid) => Err(failed(format!(
            "{} already runs as process {pid}; stop it, or give another file",
            env!("CARGO_PKG_NAME")
        ))),
        Ok(_) => Ok(()),
        Err(_) => Err(failed(
            "it exists and does not hold a process number; \
             give another file, or delete it"
                .to_owned(),
        )),
    }
}

/// Whether process `pid` is alive and the same program, as far as its name tells.
fn is_one_of_us(pid: u32) -> bool {
    let ours = status(&process::id().to_string());
    let other = status(&pid.to_string());
    // A zombie has already ended; its parent has just not collected its status.
    other.is_some_and(|(name, state)| state != 'Z' && ours.is_some_and(|(own, _)| own == name))
}

/// Name and state of a process, from proc_pid_stat(5): `12 (name) S …`. The name may contain any
/// character.
fn status(pid: &str) -> Option<(String, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    Some((before.split_once('(')?.1.to_owned(), after.chars().next()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[track_caller]
    fn fifo(path: &Path) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn a_file_appears_whole_and_over_what_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let (file, precious) = (dir.path().join("port"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, dir.path().join("port.new")).unwrap();
        for text in ["1\n2\n", "3\n"] {
            write_whole(&file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_neither_replaced_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("fifo"), dir.path().join("link"));
        fifo(&file);
        symlink(&file, &link).unwrap();
        let unread = write_whole(&file, "1\n").unwrap_err();
        assert!(unread.to_string().contains("no process reads it"), "{unread}");
        let options = || File::options().read(true).custom_flags(libc::O_NONBLOCK).to_owned();
        let mut reader = options().open(&file).unwrap();
        drop(OwnFile::write("--port-file", &file, "1\n".to_owned()).unwrap());
        drop(OwnFile::write("--port-file", &link, "2\n".to_owned()).unwrap());
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "1\n2\n");
        assert!(fs::metadata(&file).unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        // A path under which a bug cannot replace a file of the machine.
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", null.as_raw_fd()));
        drop(OwnFile::write("--port-file", &path, "1\n".to_owned()).unwrap());
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let directory = write_whole(dir.path(), "1\n").unwrap_err();
        assert!(directory.to_string().contains("not a regular file"), "{directory}");

        fs::create_dir(dir.path().join("port.new")).unwrap();
        assert!(write_whole(&dir.path().join("port"), "1\n").is_err());
    }

    #[test]
    fn behind_a_link_the_file_is_replaced_and_removed_not_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink("file", &link).unwrap();
        let written = OwnFile::write("--port-file", &link, "1\n".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        drop(written);
        assert!(!file.exists() && fs::symlink_metadata(&link).unwrap().is_symlink());
        let nowhere = write_whole(&link, "1\n").unwrap_err();
        assert!(nowhere.to_string().contains("leads nowhere"), "{nowhere}");
    }

    #[test]
    fn only_what_nobody_needs_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let check = |file: &Path| check_pid(file).map_err(|failure| failure.message);
        assert_eq!(check(&file), Ok(()));
        let own = process::id().to_string();
        // Process 1 has another name than this test, and no process has the last number.
        for stale in ["", "\n", "1\n", "4194305\n", own.as_str()] {
            fs::write(&file, stale).unwrap();
            assert_eq!(check(&file), Ok(()), "{stale:?}");
        }
        for other in ["text", "-1", "1 2", "99999999999", "1\n".repeat(99).as_str()] {
            fs::write(&file, other).unwrap();
            assert!(
                check(&file).unwrap_err().contains("does not hold a process number"),
                "{other:?}"
            );
        }
        fs::write(&file, b"\xff").unwrap();
        assert!(check(&file).unwrap_err().contains("does not hold a process number"));
        let wait = dir.path().join("fifo");
        fifo(&wait);
        let null = dir.path().join("null");
        symlink("/dev/null", &null).unwrap();
        for other in [dir.path(), &wait, &null] {
            let refused = check(other).unwrap_err();
            assert!(refused.contains("cannot read it: it is not a regular file"), "{refused}");
        }
    }

    #[test]
    fn the_file_goes_with_its_process_unless_it_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let written = OwnFile::write_pid(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", process::id()));
        drop(written);
        assert!(!file.exists());
        let written = OwnFile::write_pid(&file).unwrap();
        fs::write(&file, "1\n").unwrap();
        drop(written);
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
    }

    #[test]
    fn a_process_is_known_by_its_name_and_by_being_alive() {
        let (name, state) = status("self").unwrap();
        assert!(!name.is_empty() && state != 'Z', "{name} {state}");
        assert!(is_one_of_us(process::id()));
        assert!(!is_one_of_us(1) && !is_one_of_us(4_194_305));
    }
}
