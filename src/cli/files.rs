//! Files that others wait for and read: they appear whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

/// Writes `text` beside `file` and renames it, so that whoever waits for `file` may read it as soon
/// as it is there.
pub(crate) fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    // One that a killed process left, perhaps a link to somewhere else.
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut new = File::options().write(true).create_new(true).open(&beside)?;
    let written = new.write(text.as_bytes())?;
    if written < text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    fs::rename(&beside, file)
}

/// A file with our process number, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Whether `path` may become ours: it is not there, is empty, or has the number of a process that
    /// is no proxy (any more).
    ///
    /// # Errors
    ///
    /// A sentence: a proxy runs already, or the file is something else, which is not overwritten.
    pub(crate) fn check(path: &Path) -> Result<(), String> {
        let mut text = String::new();
        match File::open(path).and_then(|file| file.take(64).read_to_string(&mut text)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("cannot read it: {e}")),
            Ok(_) => {}
        }
        let number = text.trim();
        if number.is_empty() {
            return Ok(());
        }
        match number.parse::<u32>() {
            Ok(pid) if pid != process::id() && is_one_of_us(pid) => Err(format!(
                "{} runs already, as process {pid}; stop that, or give another file",
                env!("CARGO_PKG_NAME")
            )),
            Ok(_) => Ok(()),
            Err(_) => Err("it is there and has something else than the number of a process; \
                           give another file, or delete it"
                .to_owned()),
        }
    }

    /// Writes our number to `path`.
    pub(crate) fn write(path: &Path) -> io::Result<Self> {
        write_whole(path, &format!("{}\n", process::id()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Removes the file, if it is still ours.
    pub(crate) fn remove(&self) {
        let ours =
            fs::read_to_string(&self.path).is_ok_and(|t| t.trim() == process::id().to_string());
        if ours && let Err(e) = fs::remove_file(&self.path) {
            log::warn!("--pid-file {}: cannot remove it: {e}", self.path.display());
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether process `pid` is alive and the same program, as far as its name tells.
fn is_one_of_us(pid: u32) -> bool {
    let ours = status(&process::id().to_string());
    let other = status(&pid.to_string());
    // A zombie has ended, and only its parent has not looked.
    other.is_some_and(|(name, state)| state != 'Z' && ours.is_some_and(|(own, _)| own == name))
}

/// Name and state of a process, of proc_pid_stat(5): `12 (name) S …`, and the name may have anything
/// in it.
fn status(pid: &str) -> Option<(String, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    Some((before.split_once('(')?.1.to_owned(), after.chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_over_what_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let (file, precious) = (dir.path().join("port"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("port.new")).unwrap();
        for text in ["1\n2\n", "3\n"] {
            write_whole(&file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn only_what_nobody_needs_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        assert_eq!(PidFile::check(&file), Ok(()));
        let own = process::id().to_string();
        // Process 1 is not called as this test is; no process has the last number.
        for stale in ["", "\n", "1\n", "4194305\n", own.as_str()] {
            fs::write(&file, stale).unwrap();
            assert_eq!(PidFile::check(&file), Ok(()), "{stale:?}");
        }
        for other in ["text", "-1", "1 2", "99999999999", "1\n".repeat(99).as_str()] {
            fs::write(&file, other).unwrap();
            assert!(PidFile::check(&file).unwrap_err().contains("something else"), "{other:?}");
        }
        assert!(PidFile::check(dir.path()).unwrap_err().contains("cannot read it"));
    }

    #[test]
    fn the_file_goes_with_its_process_unless_it_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let written = PidFile::write(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", process::id()));
        drop(written);
        assert!(!file.exists());
        let written = PidFile::write(&file).unwrap();
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
