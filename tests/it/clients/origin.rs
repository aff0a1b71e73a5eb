//! An origin server that answers while it receives: aiohttp's, in `origin.py`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::programs::{Running, free_port, open_dir, started};

use super::installed::{certificates, python, script};

/// The addresses that `origin.py` prints, and its process.
pub(super) struct Echo {
    pub(super) clear: SocketAddr,
    pub(super) tls: SocketAddr,
    running: Running,
}

impl Echo {
    /// Starts it with the certificates of `ca_dir`, or its own.
    pub(super) fn start(ca_dir: Option<&Path>) -> Option<Self> {
        let mut origin = python("aiohttp")?;
        let dir = open_dir();
        match ca_dir {
            Some(from) => {
                for file in ["leaf.pem", "leaf.key"] {
                    fs::copy(from.join(file), dir.path().join(file)).unwrap();
                }
            }
            None => drop(certificates(dir.path())?),
        }
        let (clear, tls) = (free_port(), free_port());
        origin.arg(script("origin.py")).arg(dir.path());
        origin.args([clear.port().to_string(), tls.port().to_string()]);
        let running = started(&mut origin, clear, dir);
        Some(Self { clear, tls, running })
    }

    /// The directory served below `/page/`.
    pub(super) fn page(&self) -> PathBuf {
        self.running.dir.path().join("page")
    }

    /// The content sent to `/result`, if it has come.
    pub(super) fn result(&self) -> Option<String> {
        fs::read_to_string(self.running.dir.path().join("result")).ok()
    }
}
