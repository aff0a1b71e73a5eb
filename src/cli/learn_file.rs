//! Reads and writes the file of `--learn-file`, which holds the domains that were reached.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::exit::Failure;
use crate::cli::status_files;
use crate::policy::learn::Learnt;

/// The name of the option.
const OPTION: &str = "--learn-file";
/// The most bytes read from an existing file; ten thousand entries have fewer.
const MOST_BYTES: u64 = 32 << 20;

/// The file for the learnt domains.
#[derive(Debug)]
pub(crate) struct LearnFile {
    path: PathBuf,
    learnt: Arc<Learnt>,
}

impl LearnFile {
    /// Reads the domains of an earlier run and writes them back. So an unwritable file fails at the start,
    /// not at the end.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let learnt = Arc::new(Self::read(path)?);
        // An absolute path stays valid if the process changes its directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let file = Self { path, learnt };
        file.write()?;
        Ok(file)
    }

    /// Reads the domains of an earlier run; none if there is no file.
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
                    "{OPTION} {}: it contains something that --policy learn does not write, \
                     and is left alone; give another file",
                    path.display()
                ))
            })?,
        }
        Ok(learnt)
    }

    /// The learnt domains.
    pub(crate) fn learnt(&self) -> Arc<Learnt> {
        Arc::clone(&self.learnt)
    }

    /// Writes the domains learnt so far, as a whole or not at all.
    pub(crate) fn write(&self) -> Result<(), Failure> {
        status_files::write_whole(&self.path, &self.learnt.to_string())
            .map_err(|e| Failure::file(OPTION, &self.path, "write", &e))
    }

    /// The same while the proxy runs. A failure is only logged.
    pub(crate) fn write_or_warn(&self) {
        match self.write() {
            Ok(()) => {
                let (count, path) = (self.learnt.len(), self.path.display());
                log::info!("{OPTION} {path}: {count} domains written");
            }
            Err(failure) => log::warn!("{}", failure.message),
        }
    }
}
