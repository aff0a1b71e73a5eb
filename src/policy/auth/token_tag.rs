//! Replaces credentials by a keyed hash, so that the proxy does not keep the credentials
//! themselves.

use std::fmt;
use std::sync::LazyLock;

use siphasher::sip128::SipHasher24;
use subtle::ConstantTimeEq;

/// The key of tags, drawn at random and never shown.
pub struct TagKey(SipHasher24);

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

impl TagKey {
    /// The key of this process. A token keeps its tag over a reload.
    pub fn of_process() -> &'static Self {
        static KEY: LazyLock<TagKey> = LazyLock::new(TagKey::draw);
        &KEY
    }

    /// Draws a key.
    pub fn draw() -> Self {
        let mut key = [0; 16];
        super::password_hash::draw(&mut key);
        Self(SipHasher24::new_with_key(&key))
    }

    /// The tag of these bytes: SipHash-2-4 with 128 bits. Without the key a tag looks random, so
    /// the time that a comparison of two takes reveals nothing about the bytes.
    #[inline]
    pub fn tag(&self, bytes: &[u8]) -> Tag {
        Tag(self.0.hash(bytes).as_u128())
    }
}

/// A hash in place of a token.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(u128);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(***)")
    }
}

impl Tag {
    /// The first half of the tag.
    #[inline]
    pub fn head(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// Whether both tags are the same, in constant time.
    #[inline]
    pub fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_same_for_the_same_bytes_under_the_same_key_only() {
        let (one, two) = (TagKey::draw(), TagKey::draw());
        assert!(one.tag(b"a").is(one.tag(b"a")));
        assert!(!one.tag(b"a").is(one.tag(b"b")));
        assert!(!one.tag(b"a").is(one.tag(b"a\0")));
        assert!(!one.tag(b"a").is(two.tag(b"a")));
        assert_eq!(format!("{one:?} {:?}", one.tag(b"a")), "Key(***) Tag(***)");
    }
}
