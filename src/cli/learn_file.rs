//! Writes the file of `--learn-file`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::exit::Failure;
use crate::cli::status_files;
use crate::policy::learn::Learnt;

/// The option.
const OPTION: &str = "--learn-file";
/// Bytes of a file that is taken up; ten thousand entries have less.
const MOST_BYTES: u64 = 32 << 20;

/// A file that gets what was learnt.
#[derive(Debug)]
pub(crate) struct LearnFile {
    path: PathBuf,
    learnt: Arc<Learnt>,
}

impl LearnFile {
    /// Takes up what an earlier run has learnt, and writes it back: so it is known at the start whether
    /// the file can be written at the end.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let learnt = Arc::new(Self::read(path)?);
        // Where it is found also after the process has gone to another directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let file = Self { path, learnt };
        file.write()?;
        Ok(file)
    }

    /// What an earlier run has learnt; nothing if there is no file.
    pub(crate) fn read(path: &Path) -> Result<Learnt, Failure> {
        let learnt = Learnt::default();
        let mut text = String::new();
        let read = status_files::open_regular(path)
            .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::file(OPTION, path, "read", &e)),
            Ok(_) => learnt.read(&text).map_err(|_| {
                Failure::failed(format!(
                    "{OPTION} {}: it has something else in it than what --policy learn writes, \
                     and is left alone; give another file",
                    path.display()
                ))
            })?,
        }
        Ok(learnt)
    }

    /// What is learnt.
    pub(crate) fn learnt(&self) -> Arc<Learnt> {
        Arc::clone(&self.learnt)
    }

    /// Writes what was learnt so far, whole or not at all.
    pub(crate) fn write(&self) -> Result<(), Failure> {
        status_files::write_whole(&self.path, &self.learnt.to_string())
            .map_err(|e| Failure::file(OPTION, &self.path, "write", &e))
    }

    /// The same while the proxy runs: it goes on if that fails.
    pub(crate) fn write_or_warn(&self) {
        match self.write() {
            Ok(()) => {
                let (count, path) = (self.learnt.len(), self.path.display());
                log::info!("{OPTION} {path}: {count} domains are written");
            }
            Err(failure) => log::warn!("{}", failure.message),
        }
    }
}
