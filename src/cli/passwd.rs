//! `threadgate passwd`: adds, replaces or deletes a user in a file of users.
//!
//! The password comes only from stdin. At a terminal the command asks for it twice and does not show it;
//! from a pipe it reads the first line. The file is replaced in one step, so a proxy that reads it at the
//! same time finds either the old file or the new one.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::thread;

use argh::{ArgsInfo, FromArgs};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::cli::exit::{Exit, Failure};
use crate::net::file_error;
use crate::net::listener::alone_in;
use crate::policy::auth::password_hash::{self, Algorithm};
use crate::policy::auth::user_file::{self, MOST_BYTES, check_name};
use crate::wire::credentials::MAX_PART_BYTES;

/// write a user and a hash into a file
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "passwd")]
pub(crate) struct PasswdArgs {
    /// how the hash is made (default bcrypt)
    #[argh(option, arg_name = "bcrypt|argon2|sha512")]
    algorithm: Option<String>,

    /// remove the user
    #[argh(switch)]
    delete: bool,

    /// the file and the user
    #[argh(positional)]
    words: Vec<String>,
}

/// The mode of a new file.
const MODE: u32 = 0o600;

/// Edits the file.
pub(crate) fn passwd(args: &PasswdArgs) -> Result<(), Failure> {
    let algorithm = match &args.algorithm {
        Some(_) if args.delete => {
            return Err(Failure::usage("--algorithm: --delete needs none; leave one of them out"));
        }
        Some(text) => {
            Algorithm::parse(text).map_err(|e| Failure::usage(format!("--algorithm: {e}")))?
        }
        None => Algorithm::default(),
    };
    let (file, user) = match args.words.as_slice() {
        [file, user] => (file, user),
        [] => {
            let says = "passwd: needs a file and a user; write threadgate passwd users alice";
            return Err(Failure::usage(says));
        }
        [file] => {
            let says = format!(
                "passwd: needs a user behind '{file}'; write threadgate passwd {file} alice"
            );
            return Err(Failure::usage(says));
        }
        // The extra word may be a password, so it is not shown.
        [_, _, ..] => {
            let says = "passwd: takes a file and a user, and no more; the password is asked for, or is \
                        the first line of stdin";
            return Err(Failure::usage(says));
        }
    };
    check_name(user).map_err(Failure::usage)?;
    let path = Path::new(file);
    // Fail before the user types a password.
    read(path)?;
    let hash = if args.delete {
        None
    } else {
        let password = password(user)?;
        Some(password_hash::make(algorithm, password.as_bytes()).map_err(refused)?)
    };
    // If several commands edit the file at once, only one at a time reads and writes.
    let _alone = alone_in(path.parent());
    let before = read(path)?;
    let old = before.as_ref().map_or(&[][..], |(_, bytes)| bytes);
    let Some(new) = user_file::edit(old, user, hash.as_deref()) else {
        return Err(refused(format!("{file}: there is no user '{user}' to remove")));
    };
    write(path, before.as_ref().map(|(file, _)| file), &new)
        .map_err(|e| failed(path, "write", &e))?;
    if let Err(wrong) = user_file::parse(&new) {
        let line = wrong.line;
        log_line(&format!("{file}:{line}: {}; the line was left as it is", wrong.message));
    }
    Ok(())
}

fn refused(message: String) -> Failure {
    Failure::failed(message)
}

fn failed(path: &Path, doing: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Failure,
    };
    let advice = file_error::advice(path, error, doing);
    let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
    Failure::new(exit, format!("{}: cannot {doing} it: {error}{advice}", path.display()))
}

fn log_line(text: &str) {
    // If stderr is gone, the message has nowhere to go.
    let _ = writeln!(io::stderr(), "threadgate: {text}");
}

/// The file and its bytes; `None` if there is none yet.
fn read(path: &Path) -> Result<Option<(fs::Metadata, Vec<u8>)>, Failure> {
    let read = || {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file; give one"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MOST_BYTES {
            return Err(io::Error::other(
                "it is larger than 16 MiB, so it is not a file of users; give another one",
            ));
        }
        Ok((metadata, bytes))
    };
    match read() {
        Ok(read) => Ok(Some(read)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            let directory = path.parent().filter(|directory| *directory != Path::new(""));
            // A new file needs its directory. Better now than when the password has been typed.
            match directory.is_none_or(Path::exists) {
                true => Ok(None),
                false => Err(failed(path, "write", &e)),
            }
        }
        Err(e) => Err(failed(path, "read", &e)),
    }
}

/// Replaces the file with a new one of the same mode and owner.
fn write(path: &Path, before: Option<&fs::Metadata>, bytes: &[u8]) -> io::Result<()> {
    // If the path is a link, the file behind it is replaced, not the link.
    let path = if before.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{}.new", std::process::id()));
    let mut options = File::options();
    let mut new = options.write(true).create_new(true).mode(MODE).open(&beside)?;
    let written = fill(&mut new, before, bytes).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn fill(new: &mut File, before: Option<&fs::Metadata>, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = new.write(rest)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    if let Some(before) = before {
        let now = new.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            // Otherwise the proxy's user could no longer read the file.
            fchown(new.as_fd(), Some(before.uid()), Some(before.gid()))?;
        }
        new.set_permissions(fs::Permissions::from_mode(before.mode() & 0o777))?;
    }
    new.sync_all()
}

/// Asks for the password at a terminal, or reads it from a pipe.
fn password(user: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let quiet = Quiet::begin().map_err(|e| {
            refused(format!("cannot keep the terminal from showing what is typed: {e}"))
        })?;
        let once = ask(&format!("password for {user}: "))?;
        let again = ask("once more: ")?;
        drop(quiet);
        if once != again {
            return Err(refused("the two passwords differ; nothing was changed".to_owned()));
        }
        once
    } else {
        line()?
    };
    let wrong = match password.as_str() {
        "" => "there is no password on stdin; pipe a line into it, or type one",
        _ if password.len() > MAX_PART_BYTES => "the password is longer than 1024 bytes",
        _ if password.chars().any(char::is_control) => "the password has a control character in it",
        _ => return Ok(password),
    };
    Err(refused(wrong.to_owned()))
}

fn ask(prompt: &str) -> Result<String, Failure> {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
    let answer = line();
    // The terminal did not show the typed line end either.
    let _ = writeln!(stderr);
    answer
}

/// A line of stdin, without its end.
fn line() -> Result<String, Failure> {
    let mut line = String::new();
    // More than the longest password, so that a longer one is noticed.
    let most = 2 * MAX_PART_BYTES as u64;
    match io::stdin().lock().take(most).read_line(&mut line) {
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            Err(refused("the password is not UTF-8".to_owned()))
        }
        Err(e) => Err(refused(format!("cannot read the password from stdin: {e}"))),
    }
}

/// A terminal that does not show what is typed, until this drops or a signal comes.
struct Quiet {
    before: Termios,
    signals: signal_hook::iterator::Handle,
}

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP])?;
        let (handle, shown) = (signals.handle(), before.clone());
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        let hidden = quiet.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                show(&shown);
                let _ = emulate_default_handler(signal);
                // The process was stopped and has resumed.
                let _ = tcsetattr(io::stdin(), OptionalActions::Now, &hidden);
            }
        })?;
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self { before, signals: handle })
    }
}

fn show(before: &Termios) {
    // Nothing can be done about a terminal that is gone.
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
}

impl Drop for Quiet {
    fn drop(&mut self) {
        show(&self.before);
        self.signals.close();
    }
}
