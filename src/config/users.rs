//! Reads users from options, variables and files.
//!
//! The sentence about a mistake names the option, the variable, or the file and line. It never shows the
//! text itself, which may be a password.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::unusable::Unusable;
use crate::net::file_error;
use crate::policy::auth::user_file::{self, MOST_BYTES, check_name};
use crate::policy::auth::{Auth, Plain, Secret};
use crate::wire::credentials::MAX_PART_BYTES;

/// The default realm.
pub const REALM: &str = "threadgate";
/// How often to read a file that changes while it is read.
const ATTEMPTS: usize = 3;

/// Users and their passwords. Without users, clients are not asked for a password.
///
/// ```
/// use threadgate::{AccessOptions, Password, UserOptions};
///
/// let users = UserOptions {
///     auth: vec![Password::new("alice", "correct horse")?],
///     realm: Some("the lab".to_owned()),
///     ..UserOptions::default()
/// };
/// let access = AccessOptions { users, ..AccessOptions::default() };
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UserOptions {
    /// `--auth`: users with their passwords.
    pub auth: Vec<Password>,
    /// `--auth-env`: names of environment variables that hold lines of `USER:PASS`.
    pub env: Vec<String>,
    /// `--auth-file`: files with lines of `USER:HASH`, the hashes by bcrypt, Argon2 or SHA-crypt.
    pub files: Vec<PathBuf>,
    /// `--auth-realm`: the text that clients show when they ask for a password, 1 to 128 characters of
    /// printable ASCII; `threadgate` by default.
    pub realm: Option<String>,
}

/// A user with its password, which `Debug` does not show.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Password(pub(crate) String);

impl Password {
    /// The user `name` with this password: at most 1024 bytes each, without control characters. A name
    /// cannot contain a colon, because clients send `NAME:PASSWORD`.
    ///
    /// # Errors
    ///
    /// A sentence about the mistake, without the password.
    pub fn new(name: &str, password: &str) -> Result<Self, String> {
        if name.contains(':') {
            return Err("a user's name cannot contain ':', because the password follows it".into());
        }
        Self::parse(&format!("{name}:{password}"))
    }

    /// The name of the user.
    pub(super) fn name(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// Reads `USER:PASS`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        parse(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The users read so far, and the place of each.
#[derive(Default)]
struct Users {
    all: Vec<(Box<str>, Secret)>,
    places: HashMap<Box<str>, String>,
}

impl Users {
    fn add(&mut self, name: Box<str>, secret: Secret, place: &Unusable) -> Result<(), Unusable> {
        if let Some(before) = self.places.get(&name) {
            let why = format!("the user '{name}' is already in {before}; give one of them");
            return Err(Unusable { why, ..place.clone() });
        }
        let option = place.option.unwrap_or_default();
        let shown = match &place.subject {
            Some(subject) => format!("--{option} {subject}"),
            None => format!("--{option}"),
        };
        self.places.insert(name.clone(), shown);
        self.all.push((name, secret));
        Ok(())
    }

    /// Adds a user with a plain password.
    fn add_plain(&mut self, text: &str, place: &Unusable) -> Result<(), Unusable> {
        let (name, password) = parse(text).map_err(|why| Unusable { why, ..place.clone() })?;
        self.add(name.into(), Secret::Plain(Plain(password.into())), place)
    }

    fn add_given(&mut self, given: &[Password]) -> Result<(), Unusable> {
        let mut given = given.iter().enumerate();
        given.try_for_each(|(at, Password(text))| {
            self.add_plain(text, &Unusable::of("auth", "").value(at))
        })
    }

    fn add_variable(&mut self, at: usize, name: &str) -> Result<(), Unusable> {
        let wrong = |why: &str| Unusable::of("auth-env", why).value(at).about(name);
        let value = std::env::var(name).map_err(|e| match e {
            std::env::VarError::NotPresent => {
                wrong("there is no such variable; set it to USER:PASS")
            }
            std::env::VarError::NotUnicode(_) => wrong("the variable is not UTF-8"),
        })?;
        self.add_lines(&value, &wrong(""))
    }

    /// Adds the users of a variable.
    fn add_lines(&mut self, value: &str, place: &Unusable) -> Result<(), Unusable> {
        let before = self.all.len();
        let name = place.subject.as_deref().unwrap_or_default();
        for (line, n) in value.lines().zip(1..) {
            let line = line.trim_end_matches('\r');
            if !line.is_empty() {
                self.add_plain(line, &place.clone().about(format!("{name}: line {n}")))?;
            }
        }
        match self.all.len() == before {
            true => {
                let why = "the variable is empty; set it to USER:PASS".to_owned();
                Err(Unusable { why, ..place.clone() })
            }
            false => Ok(()),
        }
    }

    fn add_file(&mut self, at: usize, path: &Path) -> Result<(), Unusable> {
        let shown = path.display();
        let wrong =
            |place: String, why: String| Unusable::of("auth-file", why).value(at).about(place);
        let bytes = read(path).map_err(|e| Unusable {
            denied: e.kind() == io::ErrorKind::PermissionDenied,
            ..wrong(shown.to_string(), file_error::unreadable(path, &e))
        })?;
        let users = user_file::parse(&bytes).map_err(|e| match e.line {
            0 => wrong(shown.to_string(), e.message),
            line => wrong(format!("{shown}:{line}"), e.message),
        })?;
        for user in users {
            let place = wrong(format!("{shown}:{}", user.line), String::new());
            self.add(user.name, Secret::Hashed(user.hash), &place)?;
        }
        Ok(())
    }
}

impl UserOptions {
    /// Whether clients have to prove who they are.
    pub fn are_given(&self) -> bool {
        !(self.auth.is_empty() && self.env.is_empty() && self.files.is_empty())
    }

    /// Checks all values, without reading variables and files.
    ///
    /// # Errors
    ///
    /// The first option that is wrong, and why.
    pub fn check(&self) -> Result<(), Unusable> {
        Users::default().add_given(&self.auth)?;
        for (at, name) in self.env.iter().enumerate() {
            checked_variable(name).map_err(|e| Unusable::of("auth-env", e).value(at))?;
        }
        let Some(realm) = &self.realm else { return Ok(()) };
        if !self.are_given() && realm != REALM {
            let why =
                "nobody is asked for a password; give users with --auth-file, --auth-env or --auth";
            return Err(Unusable::of("auth-realm", why).without(&[
                "auth",
                "auth-env",
                "auth-file",
            ]));
        }
        check_realm(realm)
    }

    /// Reads variables and files; `None` if there are no users.
    ///
    /// # Errors
    ///
    /// A variable, a file, or a value is wrong.
    pub(crate) fn build(&self) -> Result<Option<Arc<Auth>>, Unusable> {
        if !self.are_given() {
            return Ok(None);
        }
        let mut users = Users::default();
        users.add_given(&self.auth)?;
        for (at, name) in self.env.iter().enumerate() {
            users.add_variable(at, name)?;
        }
        for (at, path) in self.files.iter().enumerate() {
            users.add_file(at, path)?;
        }
        let realm = self.realm.as_deref().unwrap_or(REALM);
        check_realm(realm)?;
        Ok(Some(Arc::new(Auth::new(users.all, realm))))
    }
}

/// Reads the name of a variable with users.
pub(super) fn checked_variable(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains(['=', '\0']) {
        true => Err(format!("'{name}' is not the name of a variable; give one such as PROXY_USER")),
        false => Ok(name.to_owned()),
    }
}

/// Reads a realm, which is sent in a field of each 407.
pub(super) fn checked_realm(realm: &str) -> Result<String, String> {
    match realm.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true if (1..=128).contains(&realm.len()) => Ok(realm.to_owned()),
        _ => Err("give 1 to 128 characters of printable ASCII".to_owned()),
    }
}

fn check_realm(realm: &str) -> Result<(), Unusable> {
    checked_realm(realm).map(drop).map_err(|why| Unusable::of("auth-realm", why))
}

/// User and password of `USER:PASS`.
fn parse(text: &str) -> Result<(&str, &str), String> {
    let Some((name, password)) = text.split_once(':') else {
        return Err("there is no ':' between user and password; write USER:PASS".to_owned());
    };
    check_name(name)?;
    let wrong = match password {
        "" => "there is no password behind the ':'; write USER:PASS",
        _ if password.len() > MAX_PART_BYTES => "the password is longer than 1024 bytes",
        _ if password.chars().any(char::is_control) => "the password has a control character in it",
        _ => return Ok((name, password)),
    };
    Err(wrong.to_owned())
}

/// Reads a file, up to one byte more than the largest allowed.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        // Without O_NONBLOCK, opening a FIFO waits for its writer.
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let before = file.metadata()?;
        if !before.is_file() && !before.is_dir() {
            return Err(io::Error::other(
                "it is not a regular file; give one, because it is read again",
            ));
        }
        let mut bytes = Vec::new();
        file.by_ref().take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        let after = file.metadata()?;
        if before.len() == after.len() && before.modified()? == after.modified()? {
            return Ok(bytes);
        }
    }
    Err(io::Error::other("it changes while it is read; write it beside and rename it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$V9QQyxCWOTjxVrQJRjCLEeBHOl/34Oh9MAnNAWEhC4/yVRXabhhwq";

    fn given(users: &[&str]) -> UserOptions {
        let auth = users.iter().map(|text| Password((*text).to_owned())).collect();
        UserOptions { auth, ..UserOptions::default() }
    }

    #[test]
    fn users_are_read_with_every_printable_character() {
        for text in ["a:b", "a:b:c", "a b: c ", "jürgen:päß", "a:!\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~"]
        {
            let options = given(&[text]);
            assert_eq!(options.check(), Ok(()), "{text}");
            let auth = options.build().unwrap().unwrap();
            assert!(auth.has_user(text.split(':').next().unwrap()), "{text}");
        }
        assert!(UserOptions::default().build().unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_said_without_showing_it() {
        for (users, says) in [
            (&["secret"][..], "--auth: there is no ':'"),
            (&[":secret"], "--auth: the user's name is empty"),
            (&["a:"], "--auth: there is no password"),
            (&["a:secret\n"], "--auth: the password has a control character"),
            (&["a:secret", "a:secret2"], "--auth: the user 'a' is already in --auth"),
        ] {
            let options = given(users);
            let error = options.check().unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
            assert!(!error.contains("secret"), "{error}");
            assert_eq!(options.build().unwrap_err().to_string(), error);
            assert!(!format!("{options:?}").contains("secret"));
        }
        let realm = |text: &str| UserOptions { realm: Some(text.to_owned()), ..given(&["a:b"]) };
        assert_eq!(realm("house \"A\"").check(), Ok(()));
        for wrong in ["", "ä", "a\r\nX: y", &"x".repeat(129)] {
            assert!(
                realm(wrong)
                    .check()
                    .unwrap_err()
                    .to_string()
                    .starts_with("--auth-realm: give 1 to 128")
            );
        }
        let alone = UserOptions { realm: Some("x".to_owned()), ..UserOptions::default() };
        assert!(alone.check().unwrap_err().to_string().contains("nobody is asked"));
        let env = |name: &str| UserOptions { env: vec![name.to_owned()], ..UserOptions::default() };
        assert!(env("").check().unwrap_err().to_string().contains("not the name of a variable"));
        let missing = env("NO_SUCH_VARIABLE").build().unwrap_err();
        assert!(missing.to_string().contains("there is no such variable"), "{missing:?}");
    }

    #[test]
    fn a_variable_may_hold_several_lines() {
        let mut users = Users::default();
        let place = |name: &str| Unusable::of("auth-env", "").about(name);
        users.add_lines("a:1\r\n\nb:2:3", &place("V")).unwrap();
        assert_eq!(users.all.len(), 2);
        let error = users.add_lines("c:1\nsecret", &place("W")).unwrap_err().to_string();
        assert_eq!(
            error,
            "--auth-env W: line 2: there is no ':' between user and password; write USER:PASS"
        );
        assert!(users.add_lines("\n", &place("X")).unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn files_are_named_by_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let build = |text: &str, others: &[&str]| {
            std::fs::write(&path, text).unwrap();
            let options = UserOptions { files: vec![path.clone()], ..given(others) };
            options.build().map(|auth| auth.unwrap().users())
        };
        assert_eq!(build(&format!("a:{HASH}\nb:{HASH}\n"), &["c:x"]), Ok(3));
        assert_eq!(build("", &[]), Ok(0), "nobody is let in");
        let says = |text: &str, others: &[&str]| build(text, others).unwrap_err().to_string();
        let line = format!("--auth-file {}:", path.display());
        assert!(says("a:secret", &[]).starts_with(&format!("{line}1: the user 'a': this is not")));
        let twice = says(&format!("a:{HASH}"), &["a:x"]);
        assert!(twice.ends_with("the user 'a' is already in --auth; give one of them"), "{twice}");
        std::fs::remove_file(&path).unwrap();
        let gone = UserOptions { files: vec![path.clone()], ..given(&[]) }.build().unwrap_err();
        assert!(gone.to_string().contains("cannot read it") && !gone.denied, "{gone:?}");
        let dir = UserOptions { files: vec![dir.path().into()], ..given(&[]) }.build();
        assert!(dir.unwrap_err().to_string().contains("cannot read it: Is a directory"));
    }
}
