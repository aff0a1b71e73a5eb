//! Checks users: who asks, how they prove it, and which results are remembered.
//!
//! In reading order: [`password_hash`] (reads, computes and makes hashes), [`user_file`] (users from a
//! file), [`token_tag`] (stands in for credentials), [`verified`] (remembers the result for a token),
//! [`guessers`] (slows down guessing clients), and [`proven`] (lets known users past that delay). [`Auth`]
//! is the users of a listener, a value that never changes except for what it remembers.
//!
//! The tag of a request's token, a keyed hash, is compared in constant time. This is enough for users whose
//! password is known in plain. A hashed password has to be computed, which takes a good part of a second on
//! purpose: [`Auth::look`] then answers [`TokenLook::Unknown`], and the caller has the token
//! [verified](Auth::verify) on a thread that may take its time. The result is remembered under the tag for
//! a while.

pub mod guessers;
pub mod password_hash;
pub mod proven;
pub mod token_tag;
pub mod user_file;
pub mod verified;

use std::fmt;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use crate::wire::credentials::{self, NoToken, UserPass};

use password_hash::Hash;
use token_tag::{Tag, TagKey};
use verified::Results;

/// The proof of a user.
#[derive(Clone, Debug)]
pub enum Secret {
    /// This password.
    Plain(Plain),
    /// A password with this hash.
    Hashed(Hash),
}

/// A password in plain, hidden from `Debug` output.
#[derive(Clone, Eq, PartialEq)]
pub struct Plain(pub Box<str>);

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The users of a listener.
pub struct Auth {
    /// Unique in this process.
    number: u64,
    /// The value of `Proxy-Authenticate`.
    challenge: Box<str>,
    key: &'static TagKey,
    /// Sorted by name. The hash is `None` for users known in plain.
    users: Vec<(Box<str>, Option<Hash>)>,
    /// The tags of tokens of users known in plain, and the user of each.
    plain: Vec<(Tag, u32)>,
    /// Users with a hash.
    hashed: Vec<u32>,
    results: RwLock<Results>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Auth({} users)", self.users.len())
    }
}

/// The result of looking at a token without computing a hash.
#[derive(Debug)]
pub enum TokenLook<'a> {
    /// The token is this user's.
    Proven(&'a str, KnownBy),
    /// The token is no user's.
    Wrong(KnownBy),
    /// The token cannot be read, and why.
    NoToken(NoToken),
    /// The token has to be verified.
    Unknown(UserPass),
}

/// The source of a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KnownBy {
    /// The tag was compared.
    Compared,
    /// The token was verified before.
    Remembered,
}

impl Auth {
    /// Takes users with distinct names. `realm` stands in the challenge.
    pub fn new(users: impl IntoIterator<Item = (Box<str>, Secret)>, realm: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let key = TagKey::of_process();
        let mut tokens = Vec::new();
        let mut all: Vec<(Box<str>, Option<Hash>)> = Vec::new();
        for (name, secret) in users {
            let hash = match secret {
                Secret::Hashed(hash) => Some(hash),
                Secret::Plain(Plain(password)) => {
                    let old = credentials::encode_old(&name, &password);
                    for token in iter::once(credentials::encode(&name, &password)).chain(old) {
                        tokens.push((key.tag(token.as_bytes()), name.clone()));
                    }
                    None
                }
            };
            all.push((name, hash));
        }
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let number =
            |name: &str| all.binary_search_by(|(n, _)| (**n).cmp(name)).unwrap_or(0) as u32;
        let mut plain: Vec<_> = tokens.iter().map(|(tag, name)| (*tag, number(name))).collect();
        plain.sort_unstable();
        let hashed = (0..).zip(&all).filter_map(|(n, (_, hash))| hash.as_ref().map(|_| n));
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            challenge: challenge(realm),
            hashed: hashed.collect(),
            key,
            users: all,
            plain,
            results: RwLock::default(),
        }
    }

    /// A number unique in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the other has the same users with the same proofs, and asks for them in the same words.
    pub fn is_same(&self, other: &Self) -> bool {
        // The key is one for the process, so the same token in plain has the same tag.
        self.users == other.users && self.plain == other.plain && self.challenge == other.challenge
    }

    /// The number of users.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// The value of `Proxy-Authenticate` (RFC 9110 §11.7.1, RFC 7617 §2).
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// The tag of a token.
    #[inline]
    pub fn tag(&self, token: &[u8]) -> Tag {
        self.key.tag(token)
    }

    /// Looks at a token with this tag, without computing the hash of a password.
    #[inline]
    pub fn look(&self, tag: Tag, token: &[u8], now: Instant) -> TokenLook<'_> {
        if let Some(user) = self.compare(tag) {
            return TokenLook::Proven(user, KnownBy::Compared);
        }
        if !self.hashed.is_empty() {
            let found = self.results.read().find(tag, now);
            match found {
                Some(Some(user)) => return TokenLook::Proven(self.name(user), KnownBy::Remembered),
                Some(None) => return TokenLook::Wrong(KnownBy::Remembered),
                None => {}
            }
        }
        match credentials::decode(token) {
            Err(why) => TokenLook::NoToken(why),
            Ok(_) if self.hashed.is_empty() => TokenLook::Wrong(KnownBy::Compared),
            Ok(read) => TokenLook::Unknown(read),
        }
    }

    /// The user known in plain whose token has this tag.
    #[inline]
    fn compare(&self, tag: Tag) -> Option<&str> {
        let from = self.plain.partition_point(|(own, _)| own.head() < tag.head());
        // Two tags with the same half are as unlikely as a guessed key.
        let (own, user) = self.plain.get(from)?;
        own.is(tag).then(|| self.name(*user))
    }

    fn name(&self, user: u32) -> &str {
        self.users.get(user as usize).map_or("", |(name, _)| name)
    }

    /// The name of the user that [`verify`](Self::verify) found.
    pub fn user(&self, user: Option<u32>) -> Option<&str> {
        user.map(|user| self.name(user))
    }

    /// Whether there is a user of this name.
    pub fn has_user(&self, name: &str) -> bool {
        self.users.binary_search_by(|(own, _)| (**own).cmp(name)).is_ok()
    }

    /// Finds the user of these credentials by computing a hash, which takes long. An unknown name, or that
    /// of a user without a hash, takes as long as a wrong password.
    pub fn verify(&self, read: &UserPass) -> Option<u32> {
        let found = self.users.binary_search_by(|(own, _)| own.as_bytes().cmp(read.user())).ok();
        let hashed = found.filter(|n| self.users.get(*n).is_some_and(|(_, hash)| hash.is_some()));
        let place = match hashed {
            Some(place) => place,
            // A name always gets the same stand-in, or time would reveal that the user does not exist.
            None => {
                let drawn = self.key.tag(read.user()).head();
                let place = (drawn % (self.hashed.len().max(1) as u64)) as usize;
                *self.hashed.get(place)? as usize
            }
        };
        let (_, hash) = self.users.get(place)?;
        let right = hash.as_ref()?.verify(read.password());
        (right && hashed.is_some()).then_some(place as u32)
    }

    /// Remembers what [`verify`](Self::verify) found.
    pub fn learn(&self, tag: Tag, user: Option<u32>, now: Instant) {
        self.results.write().insert(tag, user, now);
    }
}

/// `Basic realm="…", charset="UTF-8"`; the realm is printable ASCII.
fn challenge(realm: &str) -> Box<str> {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::credentials::encode;

    /// The hash of `x`, at bcrypt's smallest cost.
    const X: &str = "$2y$04$6DZGgZdPqZ1JpVIsWwCaxuw/xe/wCZYhmeWs4c2MyZpXAUFT2uWyS";

    fn plain(name: &str, password: &str) -> (Box<str>, Secret) {
        (name.into(), Secret::Plain(Plain(password.into())))
    }

    fn hashed(name: &str) -> (Box<str>, Secret) {
        let hash = bcrypt::hash_with_salt("x", 4, [7; 16]).unwrap().to_string();
        (name.into(), Secret::Hashed(Hash::parse(&hash).unwrap()))
    }

    fn look(auth: &Auth, user: &str, password: &str) -> String {
        let token = encode(user, password);
        let now = Instant::now();
        match auth.look(auth.tag(token.as_bytes()), token.as_bytes(), now) {
            TokenLook::Proven(user, known) => format!("{user} {known:?}"),
            TokenLook::Wrong(known) => format!("wrong {known:?}"),
            TokenLook::NoToken(why) => format!("{why:?}"),
            TokenLook::Unknown(_) => "unknown".to_owned(),
        }
    }

    #[test]
    fn users_in_plain_are_compared() {
        let auth = Auth::new([plain("b", "2:3"), plain("a", "1"), plain("jürgen", "ö")], "r");
        assert_eq!(look(&auth, "a", "1"), "a Compared");
        assert_eq!(look(&auth, "b", "2:3"), "b Compared");
        assert_eq!(look(&auth, "jürgen", "ö"), "jürgen Compared");
        let old = credentials::encode_old("jürgen", "ö").unwrap();
        let old = auth.look(auth.tag(old.as_bytes()), old.as_bytes(), Instant::now());
        assert!(matches!(old, TokenLook::Proven("jürgen", KnownBy::Compared)), "{old:?}");
        for (user, password) in
            [("a", ""), ("a", "2"), ("a", "11"), ("a", "2:3"), ("c", "1"), ("A", "1"), ("", "1")]
        {
            assert_eq!(look(&auth, user, password), "wrong Compared", "{user}:{password}");
        }
        let nobody = auth.look(auth.tag(b"YQ=="), b"YQ==", Instant::now());
        assert!(matches!(nobody, TokenLook::NoToken(_)), "{nobody:?}");
    }

    #[test]
    fn a_hashed_password_is_verified_once_and_remembered() {
        let auth = Auth::new([hashed("h"), plain("p", "1")], "r");
        let verify = |user: &str, password: &str| {
            let token = encode(user, password);
            let read = credentials::decode(token.as_bytes()).unwrap();
            let found = auth.verify(&read);
            auth.learn(auth.tag(token.as_bytes()), found, Instant::now());
            auth.user(found)
        };
        assert_eq!(look(&auth, "h", "x"), "unknown");
        assert_eq!(verify("h", "x"), Some("h"));
        assert_eq!(look(&auth, "h", "x"), "h Remembered");
        for (user, password) in [("h", "y"), ("p", "x"), ("nobody", "x")] {
            assert_eq!(look(&auth, user, password), "unknown", "{user}:{password}");
            assert_eq!(verify(user, password), None, "{user}:{password}");
            assert_eq!(look(&auth, user, password), "wrong Remembered", "{user}:{password}");
        }
        assert_eq!(look(&auth, "p", "1"), "p Compared");
    }

    #[test]
    fn a_name_that_is_nobodys_takes_as_long_as_a_wrong_password() {
        use rustix::time::{ClockId, clock_gettime};
        let hash = bcrypt::hash_with_salt("x", 8, [7; 16]).unwrap().to_string();
        let slow = ("h".into(), Secret::Hashed(Hash::parse(&hash).unwrap()));
        let auth = Auth::new([slow, plain("p", "1")], "r");
        // The thread's own processor time leaves out other work on the machine.
        let cost = |user: &str| {
            let read = credentials::decode(encode(user, "wrong").as_bytes()).unwrap();
            let before = clock_gettime(ClockId::ThreadCPUTime);
            assert_eq!(auth.verify(&read), None);
            let after = clock_gettime(ClockId::ThreadCPUTime);
            (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec)
        };
        let fastest = |user: &str| (0..5).map(|_| cost(user)).min().unwrap();
        let known = fastest("h");
        for user in ["p", "nobody"] {
            let took = fastest(user);
            assert!(took > known / 2 && took < known * 2, "{user}: {took} ns of {known} ns");
        }
    }

    #[test]
    fn the_realm_is_quoted() {
        let says = |realm: &str| Auth::new([], realm).challenge().to_owned();
        assert_eq!(says("threadgate"), "Basic realm=\"threadgate\", charset=\"UTF-8\"");
        assert_eq!(says("a \"b\\"), "Basic realm=\"a \\\"b\\\\\", charset=\"UTF-8\"");
    }

    #[test]
    fn nothing_secret_shows() {
        let auth = Auth::new([plain("a", "secret")], "r");
        assert_eq!(format!("{auth:?}"), "Auth(1 users)");
        let (_, secret) = plain("a", "secret");
        assert_eq!(format!("{secret:?}"), "Plain(***)");
        let hash = Secret::Hashed(Hash::parse(X).unwrap());
        assert!(!format!("{hash:?}").contains("6DZG"), "{hash:?}");
    }
}
