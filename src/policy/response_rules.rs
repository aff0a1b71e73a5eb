//! Rules on responses: the media types and the amount of content that are passed on.
//!
//! The response's own header is believed. A type is looked for in every `Content-Type` line, because
//! recipients differ in which one counts (RFC 9110 §5.3, §8.3). `multipart/byteranges` is refused as
//! soon as any type is, because its parts have types of their own (RFC 9110 §14.6). The size is that
//! of the content as transferred (RFC 9110 §6.4), without its chunked coding; the unpacked size of a
//! coding such as gzip is not checked.

use std::fmt;
use std::num::NonZeroU64;

use super::rule_id::RuleId;
use super::verdict::{Decision, Mode, against};

/// Rules on responses.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    types: Vec<TypeRule>,
    most: Option<(NonZeroU64, RuleId)>,
}

/// A refused media type: `image/*`, `video/mp4`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TypeRule {
    /// In lower case.
    kind: Box<str>,
    /// In lower case; `None` is any subtype.
    subtype: Option<Box<str>>,
    id: RuleId,
}

impl TypeRule {
    /// Reads media types separated by commas.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str, id: RuleId) -> Result<Vec<Self>, String> {
        text.split(',').map(|one| Self::parse_one(text, one.trim(), id)).collect()
    }

    fn parse_one(text: &str, one: &str, id: RuleId) -> Result<Self, String> {
        let wrong = || {
            let which = if one == text { "" } else { &format!(" in '{text}'") };
            format!("'{one}'{which} is not a media type; give one such as video/mp4, or image/*")
        };
        let is_token = |text: &str| {
            let special = "!#$%&'+-.^_`|~";
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || special.contains(c))
        };
        let (kind, subtype) = one.split_once('/').ok_or_else(wrong)?;
        if !is_token(kind) || !(subtype == "*" || is_token(subtype)) {
            return Err(wrong());
        }
        let subtype = (subtype != "*").then(|| subtype.to_ascii_lowercase().into());
        Ok(Self { kind: kind.to_ascii_lowercase().into(), subtype, id })
    }

    /// The rule's source and line.
    pub fn id(&self) -> RuleId {
        self.id
    }

    fn has(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind)
            && self.subtype.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(subtype))
    }
}

impl fmt::Display for TypeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.subtype.as_deref().unwrap_or("*"))
    }
}

impl Responses {
    /// Rules that refuse these types, and content of more than this many bytes.
    pub fn new(types: Vec<TypeRule>, most: Option<(NonZeroU64, RuleId)>) -> Self {
        Self { types, most }
    }

    /// Whether nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.most.is_none()
    }

    /// The refused types.
    pub fn types(&self) -> &[TypeRule] {
        &self.types
    }

    /// The most bytes of content, with the rule that says so.
    pub fn most(&self) -> Option<(NonZeroU64, RuleId)> {
        self.most
    }

    /// The rule that refuses a response with these `Content-Type` lines, if one does.
    pub fn refuse_type<'f>(&self, lines: impl Iterator<Item = &'f [u8]>) -> Option<RuleId> {
        let first = self.types.first()?;
        for line in lines {
            for member in line.split(|c| *c == b',') {
                let media = member.split(|c| *c == b';').next().unwrap_or_default();
                let Ok(media) = std::str::from_utf8(media.trim_ascii()) else { continue };
                let Some((kind, subtype)) = media.split_once('/') else { continue };
                let (kind, subtype) = (kind.trim(), subtype.trim());
                if let Some(rule) = self.types.iter().find(|rule| rule.has(kind, subtype)) {
                    return Some(rule.id);
                }
                if kind.eq_ignore_ascii_case("multipart")
                    && subtype.eq_ignore_ascii_case("byteranges")
                {
                    return Some(first.id);
                }
            }
        }
        None
    }

    /// The rule that refuses a response with this length, if one does.
    pub fn refuse_length(&self, announced: Option<u64>) -> Option<RuleId> {
        let (most, rule) = self.most?;
        announced.is_some_and(|length| length > most.get()).then_some(rule)
    }
}

/// Rules on responses, and whether they are enforced. A long response keeps this, and nothing else of
/// the rules it began under.
#[derive(Debug)]
pub struct Judge {
    rules: Responses,
    mode: Mode,
}

impl Judge {
    pub(super) fn new(rules: Responses, mode: Mode) -> Self {
        Self { rules, mode }
    }

    /// The rules.
    pub fn rules(&self) -> &Responses {
        &self.rules
    }

    /// The objection to the media type of a response with these `Content-Type` lines, if any.
    pub fn refuse_type<'f>(&self, lines: impl Iterator<Item = &'f [u8]>) -> Option<Decision> {
        let rule = self.rules.refuse_type(lines)?;
        Some(against(self.mode, rule, "the response has a media type that a rule refuses"))
    }

    /// The objection to a response with this length, if any.
    pub fn refuse_length(&self, announced: Option<u64>) -> Option<Decision> {
        let rule = self.rules.refuse_length(announced)?;
        Some(against(self.mode, rule, TOO_LARGE))
    }

    /// The most content of a response that announces no length, and the objection to more.
    pub fn most_content(&self) -> Option<(NonZeroU64, Decision)> {
        let (most, rule) = self.rules.most().filter(|_| self.mode != Mode::Report)?;
        Some((most, against(self.mode, rule, TOO_LARGE)))
    }
}

const TOO_LARGE: &str = "the response has more content than is passed on";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(line: u32) -> RuleId {
        RuleId { source: 5, line }
    }

    #[test]
    fn a_type_is_refused_wherever_it_stands() {
        let types = ["image/*,Video/MP4", "application/x-thing+xml"];
        let types = types.iter().zip(1..).flat_map(|(t, n)| TypeRule::parse(t, id(n)).unwrap());
        let rules = Responses::new(types.collect(), None);
        for (lines, expected) in [
            (&["image/png"][..], Some(1)),
            (&["IMAGE/PNG; q=\"a,b\""], Some(1)),
            (&["video/mp4;codecs=x"], Some(1)),
            (&["video/webm"], None),
            (&["text/html; a=image/png"], None),
            (&["application/x-thing+xml"], Some(2)),
            (&["application/x-thing"], None),
            (&["text/html", "image/gif"], Some(1)),
            (&["text/html, image/gif"], Some(1)),
            (&["multipart/byteranges; boundary=x"], Some(1)),
            (&["imagex/png"], None),
            (&["image"], None),
            (&["", "\u{ff}/x"], None),
            (&[], None),
        ] {
            let found = rules.refuse_type(lines.iter().map(|line| line.as_bytes()));
            assert_eq!(found.map(|id| id.line), expected, "{lines:?}");
        }
        let none = Responses::default();
        assert_eq!(none.refuse_type([&b"multipart/byteranges"[..]].into_iter()), None);
    }

    #[test]
    fn an_announced_length_may_be_as_much_as_is_allowed() {
        let rules = Responses::new(Vec::new(), Some((NonZeroU64::new(10).unwrap(), id(0))));
        assert_eq!(rules.refuse_length(Some(10)), None);
        assert_eq!(rules.refuse_length(Some(11)), Some(id(0)));
        assert_eq!(rules.refuse_length(None), None);
        assert_eq!(Responses::default().refuse_length(Some(u64::MAX)), None);
    }

    #[test]
    fn what_is_no_type_is_refused_with_what_to_try() {
        for wrong in ["", "image", "/", "image/", "*/png", "*/*", "a b/c", "image/*,", "image/p*"] {
            let error = TypeRule::parse(wrong, id(1)).unwrap_err();
            assert!(error.contains("is not a media type; give one such as"), "{wrong}: {error}");
        }
        let error = TypeRule::parse("image/*,x", id(1)).unwrap_err();
        assert!(error.starts_with("'x' in 'image/*,x' is not"), "{error}");
    }
}
