//! Says why a file that somebody named cannot be read or written, and what to try.

use std::io::{self, ErrorKind};
use std::path::Path;

/// The reason why `file` cannot be read, and what to try: `cannot read it: REASON; ADVICE`.
pub fn unreadable(file: &Path, e: &io::Error) -> String {
    let advice = advice(file, e, "read").map(|advice| format!("; {advice}")).unwrap_or_default();
    format!("cannot read it: {e}{advice}")
}

/// What to try if an operation of this name (`read`, `write`) has failed; `None` if the error already
/// says it.
pub fn advice(file: &Path, e: &io::Error, doing: &str) -> Option<String> {
    // An error of our own has its advice.
    if e.get_ref().is_some() {
        return None;
    }
    let is = |error: i32| e.raw_os_error() == Some(error);
    let advice = match e.kind() {
        ErrorKind::NotFound => return Some(of_missing(file, doing)),
        ErrorKind::PermissionDenied => return Some(format!("give a file this user can {doing}")),
        ErrorKind::IsADirectory => "it is a directory, so give a file in it",
        ErrorKind::NotADirectory => "a part of its name is a file and not a directory",
        ErrorKind::ReadOnlyFilesystem => "give a file on a file system that can be written",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or give another file"
        }
        _ if is(libc::ELOOP) => "correct the link, or give another file",
        _ => "give another file",
    };
    Some(advice.to_owned())
}

/// What to try if there is no such file.
fn of_missing(file: &Path, doing: &str) -> String {
    let shown = file.display().to_string();
    if shown.contains("://") {
        return "it is a URL: download it, and give the file".to_owned();
    }
    if file.symlink_metadata().is_ok() {
        return "it is a link that leads nowhere: correct it, or give another file".to_owned();
    }
    // A relative name without a directory is looked up in the current one.
    let directory = file.parent().filter(|directory| *directory != Path::new(""));
    let lacks_directory = directory.is_some_and(|directory| !directory.exists());
    let at = match std::env::current_dir() {
        Ok(here) if file.is_relative() => format!(", which is looked up in {}", here.display()),
        _ => String::new(),
    };
    match (lacks_directory, doing) {
        (true, "read") => format!("its directory does not exist either; check the name{at}"),
        (true, _) => format!("its directory does not exist; make it first, or check the name{at}"),
        (false, _) => format!("check the name{at}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The message about reading this file.
    fn read(file: &Path) -> String {
        unreadable(file, &fs::read(file).unwrap_err())
    }

    #[test]
    fn the_advice_fits_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink("nowhere", at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for (file, says) in [
            (at("none"), "No such file or directory (os error 2); check the name"),
            (at("none/file"), "(os error 2); its directory does not exist either; check the name"),
            (at("link"), "(os error 2); it is a link that leads nowhere: correct it"),
            (at("loop"), "(os error 40); correct the link"),
            (dir.path().to_owned(), "Is a directory (os error 21); it is a directory, so give"),
            (at("file/file"), "(os error 20); a part of its name is a file and not a directory"),
            ("https://lists.example/ads.txt".into(), "it is a URL: download it"),
        ] {
            let said = read(&file);
            assert!(said.starts_with("cannot read it: ") && said.contains(says), "{said}");
            assert!(!said.contains("this user can"), "{said}");
        }
        let here = std::env::current_dir().unwrap();
        let said = read("no-such-file".as_ref());
        assert!(
            said.ends_with(&format!("check the name, which is looked up in {}", here.display()))
        );
        assert!(!read(&at("none")).contains("looked up"));
    }

    #[test]
    fn only_what_is_not_permitted_is_said_to_be() {
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let said = unreadable("f".as_ref(), &denied);
        assert_eq!(said, "cannot read it: permission denied; give a file this user can read");
        let own = io::Error::other("it has more than 1 MiB; give a smaller one");
        assert_eq!(unreadable("f".as_ref(), &own), format!("cannot read it: {own}"));
        for (kind, file, says) in [
            (ErrorKind::PermissionDenied, "f", "give a file this user can write"),
            (ErrorKind::NotFound, "/none/f", "its directory does not exist; make it first"),
            (ErrorKind::ReadOnlyFilesystem, "f", "on a file system that can be written"),
            (ErrorKind::StorageFull, "f", "free some space"),
            (ErrorKind::TimedOut, "f", "give another file"),
        ] {
            let advice = advice(file.as_ref(), &kind.into(), "write").unwrap();
            assert!(advice.contains(says), "{kind}: {advice}");
        }
    }
}
