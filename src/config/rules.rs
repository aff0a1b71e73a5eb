//! Reads `[[rules]]` of a configuration file: the first rule that matches decides.
//!
//! | key | meaning | without it |
//! |---|---|---|
//! | `action` | `"allow"` or `"deny"` | refused |
//! | `name` | name of the rule in logs and replies | file and line |
//! | `clients` | networks of clients | any client |
//! | `users` | clients that have proven to be one of these | any user, or none |
//! | `destinations` | destinations in the form of `--allow` | anywhere |
//! | `lists` | destinations on one of these lists, files in the form of `--block-list` | anywhere |
//! | `ports` | `443`, `"8000-8999"` | any port |
//! | `methods` | `"GET"` | any method |
//! | `schemes` | `"http"`, `"ws"`, `"connect"` | any |

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::methods::{parse_method, parse_scheme};
use super::toml_source::{TomlSource, integer, kind};
use super::unusable::Unusable;
use super::written::{WrittenAt, WrongSetting};
use crate::policy::destination::{DestinationPattern, parse_ports};
use crate::policy::lists::Filter;
use crate::policy::network::Network;
use crate::policy::rule_origin::{self, Origins, RuleId};
use crate::policy::rules::{Action, Rule};

/// The keys of a rule; the lists come last.
const KEYS: [&str; 9] =
    ["action", "name", "clients", "destinations", "lists", "methods", "ports", "schemes", "users"];

/// A rule on clients, users and destinations together, as in `[[rules]]` of the configuration file. It
/// allows or denies the requests that match all of its lists.
///
/// Every request matches a list that is not given; a list that is given needs a value.
/// [`AccessOptions::check`](crate::AccessOptions::check) checks the values.
///
/// ```
/// use threadgate::{AccessOptions, WrittenRule};
///
/// let access = AccessOptions {
///     rules: vec![
///         WrittenRule::allow("lab").clients(["10.0.0.0/8"]).users(["alice", "bob"]),
///         WrittenRule::deny("no-uploads").destinations(["*.example.com"]).methods(["PUT", "POST"]),
///     ],
///     ..AccessOptions::default()
/// };
/// access.check()?;
/// # Ok::<(), threadgate::Unusable>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrittenRule {
    /// Its name, if it has one.
    pub(crate) name: Option<String>,
    /// Its place in the file.
    pub(crate) place: WrittenAt,
    /// Whether it allows.
    pub(crate) allows: bool,
    /// Its lists, by the names of their keys, in alphabetical order.
    pub(crate) lists: Vec<(&'static str, Vec<String>)>,
}

/// Builds a rule in code instead of reading it from a file.
impl WrittenRule {
    /// A rule that allows, even if protected mode would refuse the destination. Logs, replies and counts
    /// name it by `name`: up to 64 letters, digits, `-`, `_` and `.`. Each rule needs a different name.
    pub fn allow(name: impl Into<String>) -> Self {
        Self::new(name.into(), true)
    }

    /// A rule that denies; the name is as with [`allow`](Self::allow).
    pub fn deny(name: impl Into<String>) -> Self {
        Self::new(name.into(), false)
    }

    fn new(name: String, allows: bool) -> Self {
        Self { name: Some(name), place: WrittenAt::Flag, allows, lists: Vec::new() }
    }

    /// Clients in these networks: `10.0.0.0/8`, `::1`.
    #[must_use]
    pub fn clients<T: Into<String>>(self, networks: impl IntoIterator<Item = T>) -> Self {
        self.with("clients", networks)
    }

    /// Clients that have proven to be one of these users.
    #[must_use]
    pub fn users<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> Self {
        self.with("users", names)
    }

    /// These destinations, written as in [`AccessOptions::allow`](crate::AccessOptions::allow).
    #[must_use]
    pub fn destinations<T: Into<String>>(self, patterns: impl IntoIterator<Item = T>) -> Self {
        self.with("destinations", patterns)
    }

    /// Destinations on one of these lists, files as for
    /// [`AccessOptions::block_list`](crate::AccessOptions::block_list).
    #[must_use]
    pub fn lists<T: Into<String>>(self, files: impl IntoIterator<Item = T>) -> Self {
        self.with("lists", files)
    }

    /// These ports of the destination: `443`, `8000-8999`.
    #[must_use]
    pub fn ports<T: Into<String>>(self, ports: impl IntoIterator<Item = T>) -> Self {
        self.with("ports", ports)
    }

    /// Requests with these methods: `GET`.
    #[must_use]
    pub fn methods<T: Into<String>>(self, methods: impl IntoIterator<Item = T>) -> Self {
        self.with("methods", methods)
    }

    /// Requests of these kinds: `http`, `ws`, `connect`.
    #[must_use]
    pub fn schemes<T: Into<String>>(self, schemes: impl IntoIterator<Item = T>) -> Self {
        self.with("schemes", schemes)
    }

    /// Adds texts to the list of this key.
    fn with<T: Into<String>>(
        mut self,
        key: &'static str,
        texts: impl IntoIterator<Item = T>,
    ) -> Self {
        let texts = texts.into_iter().map(Into::into);
        match self.lists.iter_mut().find(|(known, _)| *known == key) {
            Some((_, list)) => list.extend(texts),
            None => {
                let place = self.lists.partition_point(|(known, _)| *known < key);
                self.lists.insert(place, (key, texts.collect()));
            }
        }
        self
    }
}

impl WrittenRule {
    /// The parsed rule; its place is added to `origins`. `read` reads its lists.
    ///
    /// # Errors
    ///
    /// A value or a file is wrong.
    pub(super) fn rule(
        &self,
        origins: &mut Origins,
        read: &mut ReadLists<'_>,
    ) -> Result<Rule, Unusable> {
        let (source, line) = match (&self.name, &self.place) {
            (Some(name), _) => (rule_origin::RuleSource::Named(name.clone()), 0),
            (None, WrittenAt::File(path, line)) => {
                (rule_origin::RuleSource::File(path.to_path_buf()), *line)
            }
            (None, other) => (rule_origin::RuleSource::Named(other.to_string()), 0),
        };
        let action = if self.allows { Action::Allow } else { Action::Deny };
        let mut rule = Rule::new(RuleId { source: origins.add(source), line }, action);
        for (key, texts) in &self.lists {
            let id = rule.id;
            let about = format!("rule '{}': {key}: ", origins.name(id));
            let wrong = |why: String| format!("{about}{why}");
            if texts.is_empty() {
                return Err(wrong(format!("is empty; {OR_ALL}")).into());
            }
            for text in texts {
                add(&mut rule, key, text).map_err(wrong)?;
            }
            if *key == "lists" {
                let lists = read(texts);
                rule.lists = lists.map_err(|unusable| unusable.inside(&about))?;
            }
        }
        Ok(rule)
    }

    /// Its name, or its place.
    pub(crate) fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.place.to_string())
    }

    /// The files of its lists.
    pub(crate) fn list_files(&self) -> &[String] {
        let lists = self.lists.iter().find(|(key, _)| *key == "lists");
        lists.map_or(&[], |(_, files)| files)
    }
}

/// Checks the names of rules that are decided together: each is valid and none is used twice.
///
/// # Errors
///
/// A sentence about the first wrong name.
pub(super) fn check_names(rules: &[WrittenRule]) -> Result<(), String> {
    let mut names = HashSet::new();
    for name in rules.iter().filter_map(|rule| rule.name.as_deref()) {
        check_name(name, |name| names.contains(name)).map_err(|why| format!("rule: {why}"))?;
        names.insert(name);
    }
    Ok(())
}

/// Reads the lists of a rule.
pub(super) type ReadLists<'a> = dyn FnMut(&[String]) -> Result<Option<Arc<Filter>>, Unusable> + 'a;

/// The advice for an empty list.
const OR_ALL: &str = "leave it out if all are meant";

/// Adds one text of a list to the rule.
fn add(rule: &mut Rule, key: &str, text: &str) -> Result<(), String> {
    match key {
        "clients" => rule.clients.push(Network::parse(text)?),
        "destinations" => rule.destinations.push(DestinationPattern::parse(text)?),
        "ports" => rule.ports.push(parse_ports(text)?),
        "lists" if text.is_empty() => return Err("'' is not a file; give a file name".to_owned()),
        // They are read later, all at once.
        "lists" => {}
        "methods" => rule.methods.push(parse_method(text)?),
        "schemes" => rule.ways.push(parse_scheme(text)?),
        _ if text.is_empty() => return Err("'' is not a user; give a name".to_owned()),
        _ => rule.users.push(text.into()),
    }
    Ok(())
}

/// Reads a rule. Mistakes are added to `wrong`; `names` has the names of earlier rules.
pub(super) fn read(
    source: &TomlSource,
    table: &DeTable<'_>,
    span: &Range<usize>,
    names: &mut Vec<String>,
    wrong: &mut Vec<WrongSetting>,
) -> Option<WrittenRule> {
    let (mut name, mut action) = (None, None);
    let mut has_action = false;
    let mut lists = Vec::new();
    for (key, value) in table {
        let Some(known) = KEYS.into_iter().find(|known| known == key.get_ref()) else {
            wrong.push(source.unknown_in("rules", key, KEYS.into_iter()));
            continue;
        };
        match known {
            "action" => {
                has_action = true;
                match value.get_ref().as_str() {
                    Some("allow") => action = Some(true),
                    Some("deny") => action = Some(false),
                    found => {
                        let found = found.map_or_else(
                            || kind(value.get_ref()).to_owned(),
                            |text| format!("'{text}'"),
                        );
                        let why = format!("action: {found} is neither \"allow\" nor \"deny\"");
                        wrong
                            .push(source.wrong(&value.span(), &format!("{why}; give one of them")));
                    }
                }
            }
            "name" => match checked_name(value, names) {
                Ok(text) => {
                    names.push(text.clone());
                    name = Some(text);
                }
                Err(why) => wrong.push(source.wrong(&value.span(), &format!("name: {why}"))),
            },
            known => lists.push((known, list(source, known, value, wrong))),
        }
    }
    if !has_action && source.is_whole(span) {
        let why = "this rule has no action; write action = \"allow\" or action = \"deny\"";
        wrong.push(source.wrong(span, why));
    }
    Some(WrittenRule { name, place: source.place(span), allows: action?, lists })
}

fn checked_name(value: &Spanned<DeValue<'_>>, names: &[String]) -> Result<String, String> {
    let Some(text) = value.get_ref().as_str() else {
        return Err(format!("{} is not text; write name = \"no-ads\"", kind(value.get_ref())));
    };
    check_name(text, |text| names.iter().any(|name| name == text))?;
    Ok(text.to_owned())
}

/// Checks the name of a rule; `is_taken` says whether another rule already has it.
fn check_name(text: &str, is_taken: impl Fn(&str) -> bool) -> Result<(), String> {
    const LONGEST: usize = 64;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > LONGEST || !text.chars().all(allowed) {
        let text: String = text.chars().take(LONGEST).collect();
        return Err(format!(
            "'{text}' is not a name; give up to {LONGEST} letters, digits, '-', '_' and '.'"
        ));
    }
    if is_taken(text) {
        return Err(format!("'{text}' is the name of another rule; give another one"));
    }
    if Origins::ALWAYS.contains(&text) {
        return Err(format!("'{text}' is the name of a rule that is always there; give another"));
    }
    Ok(())
}

fn list(
    source: &TomlSource,
    key: &'static str,
    value: &Spanned<DeValue<'_>>,
    wrong: &mut Vec<WrongSetting>,
) -> Vec<String> {
    let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(items) if items.is_empty() => {
            let why = format!("{key}: is empty; leave the key out if all are meant");
            wrong.push(source.wrong(&value.span(), &why));
            return Vec::new();
        }
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    let mut texts = Vec::new();
    for item in items {
        let text: Result<Cow<'_, str>, String> = match item.get_ref() {
            DeValue::String(text) => Ok(text.as_ref().into()),
            number @ DeValue::Integer(_) if key == "ports" => {
                Ok(integer(number).unwrap_or(i64::MAX).to_string().into())
            }
            other => Err(format!("{} is not text; write {key} = [\"..\"]", kind(other))),
        };
        let mut probe = Rule::new(RuleId::UNNAMED, Action::Deny);
        let checked = text.and_then(|text| add(&mut probe, key, &text).map(|()| text.into_owned()));
        match checked {
            Ok(text) => texts.push(text),
            Err(why) => wrong.push(source.wrong(&item.span(), &format!("{key}: {why}"))),
        }
    }
    texts
}
