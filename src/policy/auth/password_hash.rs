//! Reads, computes and makes password hashes: bcrypt, Argon2 and SHA-crypt.
//!
//! Hashes that are quickly guessed are refused by name. So are hashes that would take too long
//! or too much memory for one request: a hash states its own cost.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordVerifier};
use sha_crypt::ShaCrypt;

/// A password hash that can be computed.
#[derive(Clone, Eq, PartialEq)]
pub struct Hash(Kind);

#[derive(Clone, Eq, PartialEq)]
enum Kind {
    Bcrypt(Box<str>),
    Argon2(Box<PasswordHash>),
    ShaCrypt(Box<str>),
}

/// Prints the name of the algorithm, and nothing else.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Bcrypt(_) => "bcrypt",
            Kind::Argon2(_) => "Argon2",
            Kind::ShaCrypt(_) => "SHA-crypt",
        })
    }
}

/// The algorithm of a new hash.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Algorithm {
    /// `$2y$`, which Apache, nginx and others read too.
    #[default]
    Bcrypt,
    /// `$argon2id$`: each computation takes 19 MiB of memory, an attacker's guesses included.
    Argon2,
    /// `$6$`, which crypt(3) reads everywhere.
    Sha512,
}

impl Algorithm {
    /// Reads `bcrypt`, `argon2` or `sha512`.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "bcrypt" => Ok(Self::Bcrypt),
            "argon2" => Ok(Self::Argon2),
            "sha512" => Ok(Self::Sha512),
            _ => Err(format!("'{text}' is not an algorithm; give bcrypt, argon2 or sha512")),
        }
    }
}

/// The cost of a new bcrypt hash: 2^11 rounds.
pub const BCRYPT_COST: u32 = 11;
/// The rounds of a new `$6$` hash, which take about as long as [`BCRYPT_COST`].
pub const SHA512_ROUNDS: u32 = 200_000;
/// The number of bytes of a password that bcrypt uses.
pub const BCRYPT_BYTES: usize = 72;
/// The highest bcrypt cost accepted, which takes some seconds.
const MOST_COST: u32 = 15;
/// The most memory for Argon2, in KiB.
const MOST_MEMORY: u32 = 256 * 1024;
/// The most memory times passes for Argon2.
const MOST_WORK: u64 = 2 * 1024 * 1024;
/// The most rounds of SHA-crypt.
const MOST_ROUNDS: u32 = 5_000_000;

const MAKE_ANOTHER: &str = "make another with 'threadgate passwd FILE USER'";

impl Hash {
    /// Reads the hash of a password.
    ///
    /// # Errors
    ///
    /// The sentence says what the text is instead and what to do. It contains none of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let id = text.strip_prefix('$').and_then(|rest| rest.split('$').next());
        match id {
            Some("2a" | "2b" | "2y") => bcrypt(text),
            Some("argon2id" | "argon2i" | "argon2d") => argon2(text),
            Some("5" | "6") => sha_crypt(text),
            _ => Err(format!("{}; {MAKE_ANOTHER}", unknown(text, id))),
        }
    }

    /// Whether this is the password. Slow on purpose.
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            // bcrypt ignores bytes beyond the 72nd, here and where the hash was made.
            Kind::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Kind::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Kind::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, &**hash).is_ok(),
        }
    }
}

/// Describes a text that is not a hash we read.
fn unknown(text: &str, id: Option<&str>) -> &'static str {
    let is_crypt = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/';
    match id {
        Some("apr1") => "the hash is Apache's MD5 ($apr1$), which is quickly guessed",
        Some("1") => "the hash is MD5-crypt ($1$), which is quickly guessed",
        Some("2x" | "2") => "the hash is of a faulty bcrypt ($2$ or $2x$)",
        Some("y" | "gy") => "the hash is yescrypt ($y$), which is not supported",
        Some("7") => "the hash is scrypt ($7$), which is not supported",
        Some("sha1" | "md5") => "the hash is quickly guessed",
        Some(_) => "the hash is of an algorithm that is not supported",
        None if text.starts_with("{SHA}") => {
            "the hash is plain SHA-1 ({SHA}), which is quickly guessed"
        }
        None if text.starts_with("{SSHA}") => {
            "the hash is SHA-1 ({SSHA}), which is quickly guessed"
        }
        None if text.starts_with('{') => "the hash is of an LDAP scheme that is not supported",
        None if text.len() == 13 && text.chars().all(is_crypt) => {
            "this is DES crypt, which is quickly guessed, or a password in plain"
        }
        None => "this is not a hash; a password in plain is not read from a file",
    }
}

fn wrong(what: &str) -> String {
    format!("this is not a complete {what} hash; {MAKE_ANOTHER}")
}

fn bcrypt(text: &str) -> Result<Hash, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| wrong("bcrypt"))?;
    match parts.get_cost() {
        0..4 => Err(wrong("bcrypt")),
        4..=MOST_COST => Ok(Hash(Kind::Bcrypt(text.into()))),
        cost => Err(format!(
            "bcrypt at cost {cost} would take too long for a request; make another at cost \
             {MOST_COST} or less"
        )),
    }
}

fn argon2(text: &str) -> Result<Hash, String> {
    let hash = PasswordHash::new(text).map_err(|_| wrong("Argon2"))?;
    let params = argon2::Params::try_from(&hash).map_err(|_| wrong("Argon2"))?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(wrong("Argon2"));
    }
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MOST_MEMORY || work > MOST_WORK {
        return Err(format!(
            "Argon2 with m={} and t={} would take too much for a request; make another with m of \
             {MOST_MEMORY} or less, and m times t of {MOST_WORK} or less",
            params.m_cost(),
            params.t_cost()
        ));
    }
    Ok(Hash(Kind::Argon2(Box::new(hash))))
}

fn sha_crypt(text: &str) -> Result<Hash, String> {
    let what = || wrong("SHA-crypt");
    let mut fields = text.split('$').skip(1);
    let bytes = if fields.next() == Some("5") { 43 } else { 86 };
    let mut next = fields.next().ok_or_else(what)?;
    if let Some(rounds) = next.strip_prefix("rounds=") {
        let rounds: u32 = rounds.parse().map_err(|_| what())?;
        if rounds > MOST_ROUNDS {
            return Err(format!(
                "SHA-crypt with {rounds} rounds would take too long for a request; make another \
                 with {MOST_ROUNDS} or less"
            ));
        }
        if rounds < 1000 {
            return Err(what());
        }
        next = fields.next().ok_or_else(what)?;
    }
    let is_crypt = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/');
    let hash = fields.next().ok_or_else(what)?;
    let whole = next.len() <= 16
        && !next.is_empty()
        && next.bytes().all(is_crypt)
        && hash.len() == bytes
        && hash.bytes().all(is_crypt)
        && fields.next().is_none();
    if whole { Ok(Hash(Kind::ShaCrypt(text.into()))) } else { Err(what()) }
}

/// A new hash of this password, with a salt drawn at random.
///
/// # Errors
///
/// The sentence says why this password cannot have one.
pub fn make(algorithm: Algorithm, password: &[u8]) -> Result<String, String> {
    let mut salt = [0; 16];
    draw(&mut salt);
    let failed = |e: &dyn fmt::Display| format!("the hash could not be computed: {e}");
    match algorithm {
        Algorithm::Bcrypt if password.len() > BCRYPT_BYTES => Err(format!(
            "bcrypt uses only the first {BCRYPT_BYTES} bytes of a password, and this one has \
             {}; use a shorter one, or --algorithm argon2",
            password.len()
        )),
        Algorithm::Bcrypt => bcrypt::hash_with_salt(password, BCRYPT_COST, salt)
            .map(|parts| parts.format_for_version(bcrypt::Version::TwoY))
            .map_err(|e| failed(&e)),
        Algorithm::Argon2 => {
            use argon2::PasswordHasher;
            Argon2::default()
                .hash_password_with_salt(password, &salt)
                .map(|hash| hash.to_string())
                .map_err(|e| failed(&e))
        }
        Algorithm::Sha512 => {
            use sha_crypt::{CustomizedPasswordHasher, Params};
            // crypt(3) uses sixteen letters of salt, which twelve bytes make.
            let (salt, _) = salt.split_at(12);
            let params = Params::new(SHA512_ROUNDS).map_err(|e| failed(&e))?;
            ShaCrypt::SHA512
                .hash_password_with_params(password, salt, params)
                .map(|hash| hash.to_string())
                .map_err(|e| failed(&e))
        }
    }
}

/// Fills `bytes` at random.
pub(super) fn draw(bytes: &mut [u8]) {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut rest = bytes;
    while !rest.is_empty() {
        match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Ok(filled) => rest = rest.get_mut(filled..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Every supported kernel has it. Without a secret no user may be let in.
            Err(e) => panic!("the system has no random numbers: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_that_others_made_are_verified() {
        for hash in [
            // htpasswd -nbB -C 4
            "$2y$04$V9QQyxCWOTjxVrQJRjCLEeBHOl/34Oh9MAnNAWEhC4/yVRXabhhwq",
            // crypt(3) of Debian 12
            "$2a$04$abcdefghijklmnopqrstuum174eFeoTj0DHmtuueFaS3Wde4P7wHG",
            "$2b$04$abcdefghijklmnopqrstuum174eFeoTj0DHmtuueFaS3Wde4P7wHG",
            "$6$rounds=1000$xyz$xlCATYnREtSUFA2KEAzucMsmhbtHd6VXDxd24J/BV0oF2a9OtX8Sn4SxR6syFVRWzN6PLgupt1qp3QKlkfHNJ.",
            // openssl passwd -5, -6
            "$5$abcdefgh$PMzeX.3Tb43iNPh8ENNzPM9M7q/BLyRKM1Djd5s4Nu8",
            "$6$saltsaltsaltsalt$RqBvYJbe6cvQP32EUxmJtPSsHChBWS4Lec1cIovhbwoY/THZEUepzZsEmC6my.1fWOUXRX9biNyAqPb9arBTc/",
        ] {
            let read = Hash::parse(hash).unwrap_or_else(|e| panic!("{hash}: {e}"));
            assert!(read.verify("pässword".as_bytes()), "{hash}");
            for wrong in ["", "password", "pässword ", "pässwor"] {
                assert!(!read.verify(wrong.as_bytes()), "{hash}: {wrong}");
            }
        }
    }

    #[test]
    fn argon2_is_that_of_its_authors() {
        // From the tests of the reference implementation.
        let hash =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let read = Hash::parse(hash).unwrap();
        assert!(read.verify(b"password") && !read.verify(b"passwork"));
    }

    #[test]
    fn what_is_made_is_verified() {
        for algorithm in [Algorithm::Bcrypt, Algorithm::Argon2, Algorithm::Sha512] {
            let (one, two) = (make(algorithm, b"x").unwrap(), make(algorithm, b"x").unwrap());
            assert_ne!(one, two, "salted");
            let read = Hash::parse(&one).unwrap();
            assert!(read.verify(b"x"), "{one}");
            assert!(!read.verify(b"y"), "{one}");
        }
        let long = [b'x'; BCRYPT_BYTES + 1];
        assert!(make(Algorithm::Bcrypt, &long).unwrap_err().contains("72 bytes"));
        assert!(make(Algorithm::Bcrypt, &long[1..]).is_ok());
        assert!(make(Algorithm::Sha512, &long).is_ok());
    }

    #[test]
    fn what_is_weak_unknown_or_too_dear_is_refused_by_name() {
        let bcrypt = |cost: u32| {
            let text = bcrypt::hash_with_salt("x", 4, [1; 16]).unwrap().to_string();
            text.replace("$04$", &format!("${cost:02}$"))
        };
        for (text, says) in [
            ("$apr1$abc$def", "Apache's MD5 ($apr1$)"),
            ("$1$abc$def", "MD5-crypt"),
            ("{SHA}qvTGHdzF6KLavt4PO0gs2a6pQ00=", "plain SHA-1"),
            ("{SSHA}x", "SHA-1 ({SSHA})"),
            ("{CRYPT}x", "LDAP"),
            ("rl0uE0g2MKPlQ", "DES crypt"),
            ("secret", "not a hash"),
            ("", "not a hash"),
            ("$y$j9T$abc$def", "yescrypt"),
            ("$7$abc", "scrypt"),
            ("$2x$04$abc", "faulty bcrypt"),
            ("$2y$04$abc", "not a complete bcrypt"),
            (&bcrypt(3), "not a complete bcrypt"),
            (&bcrypt(16), "at cost 16 would take too long"),
            ("$argon2id$v=19$m=19456", "not a complete Argon2"),
            ("$argon2id$v=19$m=1048576,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hhc2g", "would take too much"),
            ("$argon2id$v=19$m=65536,t=64,p=1$c2FsdHNhbHQ$aGFzaGhhc2hhc2g", "would take too much"),
            ("$5$salt$short", "not a complete SHA-crypt"),
            ("$6$rounds=10000000$salt$x", "10000000 rounds would take too long"),
            ("$6$rounds=10$salt$x", "not a complete SHA-crypt"),
            ("$6$", "not a complete SHA-crypt"),
            ("$md5$x", "quickly guessed"),
            ("$what$x", "not supported"),
            ("$", "not supported"),
        ] {
            let error = Hash::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(error.contains("make another"), "{text}: {error}");
        }
    }
}
