//! Opens a list, and looks at how it begins.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::config::unusable::Unusable;
use crate::net::file_error;
use crate::policy::list_draft::TooMuch;
use crate::policy::list_format::{How, ListFormat, ListOptions, Purpose};

/// The lists of a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists<'a> {
    pub(in crate::config) block: &'a [String],
    pub(in crate::config) allow: &'a [String],
    pub(in crate::config) options: ListOptions,
}

impl<'a> Lists<'a> {
    pub(super) fn all(self) -> impl Iterator<Item = List<'a>> {
        let block = self.block.iter().enumerate().map(move |(at, file)| {
            List::new(("block-list", at), file, Purpose::Block, self.options)
        });
        let allow = self.allow.iter().enumerate().map(move |(at, file)| {
            List::new(("allow-list", at), file, Purpose::Allow, self.options)
        });
        block.chain(allow)
    }
}

/// A list file that an option names.
pub(super) struct List<'a> {
    option: &'static str,
    /// Which of the option's files it is.
    at: usize,
    pub(super) file: &'a Path,
    /// How to read it; the format is not known before its beginning is.
    pub(super) how: How,
}

impl<'a> List<'a> {
    fn new(
        (option, at): (&'static str, usize),
        file: &'a str,
        purpose: Purpose,
        options: ListOptions,
    ) -> Self {
        let how = How { format: ListFormat::Domains, purpose, options };
        Self { option, at, file: Path::new(file), how }
    }

    /// Opens it if it is a regular file. A FIFO is refused, because reading it would wait for a writer.
    pub(super) fn open(&self) -> Result<(File, Metadata), Unusable> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.file);
        let file = file.map_err(|e| self.unread(&e))?;
        let metadata = file.metadata().map_err(|e| self.unread(&e))?;
        match metadata.is_file() {
            true => Ok((file, metadata)),
            false if metadata.is_dir() => {
                Err(self
                    .wrong(None, "it is a directory; give a file, and the option once for each"))
            }
            false => {
                Err(self
                    .wrong(None, "it is not a regular file; give one, because it is read again"))
            }
        }
    }

    /// How to read the file that begins with these bytes. Removes a UTF-8 byte order mark.
    pub(super) fn beginning(&self, bytes: &mut Vec<u8>) -> Result<How, Unusable> {
        let packed: [(&[u8], &str); 4] = [
            (b"\x1f\x8b", "it is compressed; unpack it with gunzip"),
            (b"\x28\xb5\x2f\xfd", "it is compressed; unpack it with unzstd"),
            (b"\xfd7zXZ\0", "it is compressed; unpack it with unxz"),
            (b"PK\x03\x04", "it is an archive; unpack it with unzip"),
        ];
        if let Some((_, why)) = packed.iter().find(|(mark, _)| bytes.starts_with(mark)) {
            return Err(self.wrong(Some(1), why));
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err(self.wrong(Some(1), "the file is UTF-16; save it as UTF-8"));
        }
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        if let Some(at) = memchr::memchr(0, bytes) {
            let before = bytes.get(..at).unwrap_or_default();
            let line = 1 + memchr::memchr_iter(b'\n', before).count();
            let why = "it contains a NUL, so it is not text; give a text file";
            return Err(self.wrong(u32::try_from(line).ok(), why));
        }
        let start = bytes.trim_ascii_start().get(..14).unwrap_or_default().to_ascii_lowercase();
        if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
            let why = "it is a web page; download the list itself, which some sites call raw";
            return Err(self.wrong(Some(1), why));
        }
        Ok(How { format: ListFormat::of(bytes), ..self.how })
    }

    pub(super) fn unread(&self, e: &io::Error) -> Unusable {
        let denied = e.kind() == io::ErrorKind::PermissionDenied;
        let why = file_error::unreadable(self.file, e);
        Unusable { denied, ..self.wrong(None, &why) }
    }

    pub(super) fn too_much(&self, TooMuch(most, of): TooMuch) -> Unusable {
        let why =
            format!("with this file, the lists have more than {most} {of}; leave some lists out");
        self.wrong(None, &why)
    }

    pub(super) fn wrong(&self, line: Option<u32>, why: &str) -> Unusable {
        let file = self.file.display();
        let place = line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}"));
        Unusable::of(self.option, why).value(self.at).about(place)
    }
}
