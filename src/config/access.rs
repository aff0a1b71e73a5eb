//! Makes a policy from access rules on the command line, in the environment and in files.
//!
//! Values keep their text and their place. [`AccessOptions::build`] reads the named files and makes the
//! [`Access`] of a policy. A reload builds it again.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::rules::WrittenRule;
use crate::config::users::UserOptions;
use crate::policy::auth::Auth;
use crate::policy::decide::Mode;
use crate::policy::deny_with::{DenyWith, Redirect};
use crate::policy::destination::{DestinationPattern, parse_ports};
use crate::policy::list_format::{ListOptions, Skipped, SkippedLine};
use crate::policy::lists::Filter;
use crate::policy::network::Network;
use crate::policy::request_bounds::Bounds;
use crate::policy::response_rules::{Responses, TypeRule};
use crate::policy::rule_origin::{OptionPlace, Origins, RuleId, RuleSource};
use crate::policy::rules::{Action, Rule};
use crate::policy::sni::Sni;
use crate::policy::url_rules::Urls;
use crate::policy::{Access, Own, Policy};

use super::limits::LimitOptions;
use super::lists::{self, ListedLine, Lists, Priority};
use super::methods::{parse_method, parse_scheme};
use super::rule_lists::RuleLists;
use super::rules::{self, ReadLists};
use super::size;

pub use super::unusable::Unusable;

/// Rules, lists, limits and users, as people write them: each field holds the values of the option
/// named there.
///
/// [`check`](Self::check) checks the values. [`build`](Self::build) also reads the files that they name,
/// and makes the [`Access`] that a proxy is started with.
///
/// ```
/// use threadgate::{AccessOptions, Mode, Options};
///
/// let access = AccessOptions {
///     allow: vec!["*.example.com:443".to_owned(), "10.0.0.0/8".to_owned()],
///     policy: Mode::Enforce,
///     ..AccessOptions::default()
/// };
/// let options = Options { access: access.build(None)?, ..Options::default() };
/// # Ok::<(), threadgate::Unusable>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessOptions {
    /// `--deny-client`: networks of clients that are refused, such as `192.0.2.0/24`.
    pub deny_client: Vec<String>,
    /// `--allow-client`: networks of clients that are served. If there are any, no other client is served.
    pub allow_client: Vec<String>,
    /// `--allow`: destinations that are allowed, even if protected mode would refuse them: a name,
    /// `*.example.com`, an address or a network. A port after a colon limits it to that port.
    pub allow: Vec<String>,
    /// `--deny`: destinations that are refused, written in the same way.
    pub deny: Vec<String>,
    /// `--connect-ports`: ports that CONNECT may go to, separated by commas: `443,8000-8999`.
    pub connect_ports: Option<String>,
    /// `--methods`: methods that requests may have, separated by commas: `GET,HEAD`.
    pub methods: Option<String>,
    /// `--schemes`: kinds of requests, separated by commas: `http`, `ws`, `connect`.
    pub schemes: Option<String>,
    /// `--block-list`: files with destinations that are refused: hosts files, lists of domains, adblock
    /// rules.
    pub block_list: Vec<String>,
    /// `--allow-list`: files with destinations that are let through even if a block list has them.
    pub allow_list: Vec<String>,
    /// `--list-options`: what adblock rules mean whose options only browsers can follow.
    pub list_options: ListOptions,
    /// `--policy`: the decision on a request that no rule names.
    pub policy: Mode,
    /// `--deny-with`: the answer to a refused request.
    pub deny_with: DenyWith,
    /// `--sni`: how the name in a tunnel's ClientHello is judged.
    pub sni: Hellos,
    /// `--allow-url`: regular expressions. Plain requests are allowed if one is found in their URL.
    pub allow_url: Vec<String>,
    /// `--deny-url`: regular expressions. Plain requests are refused if one is found in their URL.
    pub deny_url: Vec<String>,
    /// `--deny-type`: media types of responses that are refused: `video/*`.
    pub deny_type: Vec<String>,
    /// `--max-response-size`: the most bytes of content in a response.
    pub max_response_bytes: Option<NonZeroU64>,
    /// Limits on rates and numbers.
    pub limits: LimitOptions,
    /// Users and their passwords.
    pub users: UserOptions,
    /// Rules on several things at once. They come before all others, and the first one that matches a
    /// request decides.
    pub rules: Vec<WrittenRule>,
    /// Where the options above were given. Logs, replies and counts name a rule by its place. A rule of an
    /// option that is not among them is named by the option: `--deny:2`.
    pub said: Vec<OptionPlace>,
}

/// A listener with its own access options: see [`AccessOptions::build_with`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnListener {
    /// Its number in [`Options::listen`](crate::Options::listen), from 0. A number without a listener is
    /// ignored; using a number twice is an error.
    pub number: u16,
    /// Whether it serves every client and connects to every address even beyond loopback, as
    /// [`Options::open`](crate::Options::open) does for the other listeners.
    pub open: bool,
    /// All its access options. The options of other listeners are not added.
    pub access: AccessOptions,
}

/// How the name in the ClientHello of a tunnel is judged (`--sni`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hellos {
    /// ClientHellos are not read.
    Off,
    /// Their names are judged by the rules.
    #[default]
    Check,
    /// Their names also have to equal the host of the CONNECT.
    Match,
}

/// The parts that listeners with the same options share: each is read once, and counts for all of them.
#[derive(Clone, Debug)]
struct Shared {
    filter: Option<Arc<Filter>>,
    auth: Option<Arc<Auth>>,
}

impl Shared {
    fn of(access: &Access) -> Self {
        Self { filter: access.filter.clone(), auth: access.auth.clone() }
    }
}

impl AccessOptions {
    /// Checks all values, without reading the files and variables that they name.
    ///
    /// # Errors
    ///
    /// The first option that is wrong, and why.
    pub fn check(&self) -> Result<(), Unusable> {
        self.wrong().into_iter().next().map_or(Ok(()), Err)
    }

    /// The first wrong option of each kind.
    pub(crate) fn wrong(&self) -> Vec<Unusable> {
        let mut origins = Origins::default();
        origins.are_said(&self.said);
        let looked_at = [
            lists::check("block-list", &self.block_list),
            lists::check("allow-list", &self.allow_list),
            self.users.check(),
            self.rules(&mut origins, &mut |_| Ok(None)).map(drop),
            self.bounds(&mut origins).map(drop),
            self.urls(&mut origins).map(drop),
            self.responses(&mut origins).map(drop),
            self.limits.build(&mut origins).and_then(|_| self.limits.check_per()),
        ];
        looked_at.into_iter().filter_map(Result::err).collect()
    }

    /// The files that [`build`](Self::build) reads: the lists, and the files of users.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let lists = self.block_list.iter().chain(&self.allow_list).map(PathBuf::from);
        let of_rules = self.rules.iter().flat_map(WrittenRule::list_files).map(PathBuf::from);
        lists.chain(of_rules).chain(self.users.files.iter().cloned())
    }

    /// Reads the files, and makes the access part of a policy, for a start or a reload.
    ///
    /// To change the rules of a running proxy, give the policy in force
    /// ([`Control::policy`](crate::Control::policy)) as `before`: rules that are still there keep their
    /// hits, and unchanged users need not be verified again. The call takes as long as reading the files,
    /// and changes nothing by itself.
    ///
    /// # Errors
    ///
    /// A value, a file or a variable is wrong.
    pub fn build(&self, before: Option<&Policy>) -> Result<Access, Unusable> {
        self.build_with(&[], before)
    }

    /// Like [`build`](Self::build), with listeners that have their own access options.
    ///
    /// # Errors
    ///
    /// A value, a file or a variable is wrong, in these options or a listener's.
    pub fn build_with(
        &self,
        listeners: &[OwnListener],
        before: Option<&Policy>,
    ) -> Result<Access, Unusable> {
        let origins = before.map(|before| before.origins.again());
        let priority = if before.is_some() { Priority::BesideWorkers } else { Priority::First };
        let mut of_rules = RuleLists::new(priority);
        let mut access = self.build_beside(origins.as_ref(), &[], &mut of_rules)?;
        let mut others = vec![(self, Shared::of(&access))];
        for own in listeners {
            if access.own.iter().any(|(number, _)| *number == own.number) {
                let number = own.number;
                return Err(format!("two have access options for listener {number}").into());
            }
            let built = own.access.build_beside(Some(&access.origins), &others, &mut of_rules);
            let built = built.map_err(|unusable| unusable.of_listener(own.number))?;
            others.push((&own.access, Shared::of(&built)));
            access.origins = built.origins.clone();
            let shares_limits = own.access.limits == self.limits;
            access.own.push((own.number, Own { open: own.open, shares_limits, access: built }));
        }
        if let Some(before) = before {
            access.keep_users(before);
        }
        Ok(access)
    }

    /// Builds these options. They share equal lists and users with `others`, which are already built.
    fn build_beside(
        &self,
        before: Option<&Origins>,
        others: &[(&Self, Shared)],
        of_rules: &mut RuleLists,
    ) -> Result<Access, Unusable> {
        let mut origins = before.cloned().unwrap_or_default();
        origins.are_said(&self.said);
        let mut read = |files: &[String]| of_rules.read(files, self.list_options);
        let rules = self.rules(&mut origins, &mut read)?;
        let by_default = match self.policy {
            Mode::Open | Mode::Learn => RuleId::UNNAMED,
            mode @ (Mode::Report | Mode::Enforce) => {
                let source = RuleSource::OptionValue("policy", mode.word());
                RuleId { source: origins.add(source), line: 0 }
            }
        };
        let auth = match others.iter().find(|(other, _)| other.users == self.users) {
            Some((_, shared)) => shared.auth.clone(),
            None => self.users.build()?,
        };
        let bounds = self.bounds(&mut origins)?;
        let sni = match self.sni {
            // No rule depends on names, so the option is not a rule either.
            _ if self.has_no_rule() => Sni::default(),
            Hellos::Off => Sni::Off,
            Hellos::Check => Sni::Check(option(&mut origins, "sni")),
            Hellos::Match => Sni::Match(option(&mut origins, "sni")),
        };
        let (urls, responses) = (self.urls(&mut origins)?, self.responses(&mut origins)?);
        let limits = self.limits.build(&mut origins)?;
        let lists = |options: &Self| {
            (options.block_list.clone(), options.allow_list.clone(), options.list_options)
        };
        let filter = match others.iter().find(|(other, _)| lists(other) == lists(self)) {
            Some((_, shared)) => shared.filter.clone(),
            None => lists::read(self.lists(), of_rules.priority(), &mut origins)?,
        };
        Ok(Access {
            origins,
            bounds,
            rules,
            filter,
            mode: self.policy,
            by_default,
            sni,
            urls,
            responses,
            deny_with: self.deny_with.clone(),
            limits,
            auth,
            own: Vec::new(),
        })
    }

    fn lists(&self) -> Lists<'_> {
        Lists { block: &self.block_list, allow: &self.allow_list, options: self.list_options }
    }

    /// The lists, and then those of each rule, with the rule's name.
    fn all_lists(&self) -> impl Iterator<Item = (Option<String>, Lists<'_>)> {
        let of_rules = self.rules.iter().map(|rule| {
            let options = self.list_options;
            (Some(rule.shown()), Lists { block: rule.list_files(), allow: &[], options })
        });
        [(None, self.lists())].into_iter().chain(of_rules)
    }

    /// The lines of all lists that are about a host: a name in lower case, or an address in its usual text.
    ///
    /// # Errors
    ///
    /// The first list that cannot be used.
    pub(crate) fn lines_about(&self, host: &str) -> Result<Vec<ListedLine>, Unusable> {
        let mut all = Vec::new();
        for (rule, lists) in self.all_lists() {
            let lines = lists::about(lists, host)?.into_iter();
            all.extend(lines.map(|line| ListedLine { rule: rule.clone(), ..line }));
        }
        Ok(all)
    }

    /// Passes the lines of all lists that are skipped to `f`.
    ///
    /// # Errors
    ///
    /// The first list that cannot be used.
    pub(crate) fn lines_skipped(
        &self,
        mut f: impl FnMut(&Path, Skipped, &SkippedLine),
    ) -> Result<(), Unusable> {
        self.all_lists().try_for_each(|(_, lists)| lists::skipped(lists, &mut f))
    }

    /// Whether all options but the limits have their defaults.
    fn has_no_rule(&self) -> bool {
        let (limits, said) = (LimitOptions::default(), Vec::new());
        Self { limits, said, ..self.clone() } == Self::default()
    }

    fn urls(&self, origins: &mut Origins) -> Result<Urls, Unusable> {
        let mut rules = Vec::new();
        for (name, action, written) in [
            ("allow-url", Action::Allow, &self.allow_url),
            ("deny-url", Action::Deny, &self.deny_url),
        ] {
            for (at, (pattern, line)) in written.iter().zip(1..).enumerate() {
                Urls::check(pattern).map_err(|e| Unusable::of(name, e).value(at))?;
                let rule = RuleId { line, ..option(origins, name) };
                rules.push((action, rule, pattern.as_str()));
            }
        }
        Urls::new(&rules).map_err(|e| Unusable::of("deny-url", e).beside(&["allow-url"]))
    }

    fn responses(&self, origins: &mut Origins) -> Result<Responses, Unusable> {
        let mut types = Vec::new();
        for (at, (text, line)) in self.deny_type.iter().zip(1..).enumerate() {
            let rule = RuleId { line, ..option(origins, "deny-type") };
            let read = TypeRule::parse(text, rule);
            types.extend(read.map_err(|e| Unusable::of("deny-type", e).value(at))?);
        }
        let most = self.max_response_bytes;
        let most = most.map(|most| (most, option(origins, "max-response-size")));
        Ok(Responses::new(types, most))
    }

    /// The rules from options and from `[[rules]]`, but not from lists.
    fn rules(
        &self,
        origins: &mut Origins,
        read: &mut ReadLists<'_>,
    ) -> Result<Vec<Rule>, Unusable> {
        rules::check_names(&self.rules)?;
        let written = self.rules.iter().map(|rule| rule.rule(origins, read));
        let mut rules = written.collect::<Result<Vec<_>, _>>()?;
        clients(&mut rules, origins, "deny-client", Action::Deny, &self.deny_client)?;
        clients(&mut rules, origins, "allow-client", Action::Allow, &self.allow_client)?;
        if !self.allow_client.is_empty() {
            let everybody = ["0.0.0.0/0", "::/0"].map(Network::parse).into_iter();
            let clients = everybody.collect::<Result<_, _>>()?;
            rules.push(Rule {
                admission: true,
                clients,
                ..Rule::new(option(origins, "allow-client"), Action::Deny)
            });
        }
        destinations(&mut rules, origins, "allow", Action::Allow, &self.allow)?;
        destinations(&mut rules, origins, "deny", Action::Deny, &self.deny)?;
        Ok(rules)
    }

    fn bounds(&self, origins: &mut Origins) -> Result<Bounds, Unusable> {
        Ok(Bounds {
            connect_ports: bound(origins, "connect-ports", &self.connect_ports, parse_ports)?,
            methods: bound(origins, "methods", &self.methods, parse_method)?,
            schemes: bound(origins, "schemes", &self.schemes, parse_scheme)?,
        })
    }
}

/// The comma-separated values of an option that is one rule.
fn bound<T>(
    origins: &mut Origins,
    name: &'static str,
    written: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<(RuleId, Vec<T>)>, Unusable> {
    let Some(written) = written else { return Ok(None) };
    let values = each_of(written, parse).map_err(|e| Unusable::of(name, e))?;
    Ok(Some((option(origins, name), values)))
}

/// The values in a comma-separated list.
fn each_of<T>(list: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    list.split(',').map(|text| parse(text.trim())).collect()
}

/// The rule that stands for an option.
fn option(origins: &mut Origins, name: &'static str) -> RuleId {
    RuleId { source: origins.add(RuleSource::Option(name)), line: 0 }
}

fn clients(
    rules: &mut Vec<Rule>,
    origins: &mut Origins,
    option: &'static str,
    action: Action,
    written: &[String],
) -> Result<(), Unusable> {
    each(rules, origins, option, action, written, |rule, text| {
        rule.admission = true;
        rule.clients.push(Network::parse(text)?);
        Ok(())
    })
}

fn destinations(
    rules: &mut Vec<Rule>,
    origins: &mut Origins,
    option: &'static str,
    action: Action,
    written: &[String],
) -> Result<(), Unusable> {
    each(rules, origins, option, action, written, |rule, text| {
        rule.destinations.push(DestinationPattern::parse(text)?);
        Ok(())
    })
}

/// A rule for each value of an option.
fn each(
    rules: &mut Vec<Rule>,
    origins: &mut Origins,
    option: &'static str,
    action: Action,
    written: &[String],
    set: impl Fn(&mut Rule, &str) -> Result<(), String>,
) -> Result<(), Unusable> {
    if written.is_empty() {
        return Ok(());
    }
    let source = origins.add(RuleSource::Option(option));
    for (at, (text, line)) in written.iter().zip(1..).enumerate() {
        let mut rule = Rule::new(RuleId { source, line }, action);
        set(&mut rule, text).map_err(|e| Unusable::of(option, e).value(at))?;
        rules.push(rule);
    }
    Ok(())
}

/// Checks a destination and returns its text.
pub(super) fn checked_destination(text: &str) -> Result<String, String> {
    DestinationPattern::parse(text).map(|_| text.to_owned())
}

/// Checks a network of clients and returns its text.
pub(super) fn checked_network(text: &str) -> Result<String, String> {
    Network::parse(text).map(|_| text.to_owned())
}

/// Checks a comma-separated list of ports and ranges and returns its text.
pub(super) fn checked_ports(text: &str) -> Result<String, String> {
    each_of(text, parse_ports).map(|_| text.to_owned())
}

/// Checks a comma-separated list of methods and returns its text.
pub(super) fn checked_methods(text: &str) -> Result<String, String> {
    each_of(text, parse_method).map(|_| text.to_owned())
}

/// Checks a comma-separated list of schemes and returns its text.
pub(super) fn checked_schemes(text: &str) -> Result<String, String> {
    each_of(text, parse_scheme).map(|_| text.to_owned())
}

/// Checks a regular expression for URLs and returns its text.
pub(super) fn checked_url(text: &str) -> Result<String, String> {
    Urls::check(text).map(|()| text.to_owned())
}

/// Checks a comma-separated list of media types and returns its text.
pub(super) fn checked_types(text: &str) -> Result<String, String> {
    TypeRule::parse(text, RuleId::UNNAMED).map(|_| text.to_owned())
}

impl DenyWith {
    /// Redirects clients to `url`: `http://` or `https://`, a host, and an optional rest, in printable
    /// ASCII. A refused request to the host and port of the URL itself gets a 403, because the redirect
    /// would loop.
    ///
    /// ```
    /// use threadgate::{AccessOptions, DenyWith};
    ///
    /// let access = AccessOptions {
    ///     deny: vec!["ads.example".to_owned()],
    ///     deny_with: DenyWith::redirect("http://intranet.example/blocked")?,
    ///     ..AccessOptions::default()
    /// };
    /// access.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A sentence that says why `url` cannot be used.
    pub fn redirect(url: &str) -> Result<Self, String> {
        match Redirect::parse(url) {
            Some(to) => Ok(Self::Elsewhere(to)),
            None => Err(format!(
                "'{url}' is not a URL to send clients to; give one such as \
                 http://intranet.example/blocked"
            )),
        }
    }
}

/// Reads the answer to a refused request: `403`, `204`, or a URL.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_deny_with(text: &str) -> Result<DenyWith, String> {
    let wrong = || {
        format!(
            "'{text}' is not an answer; give 403, 204, or a URL such as http://intranet.example/blocked"
        )
    };
    match text {
        "403" => Ok(DenyWith::Refusal),
        "204" => Ok(DenyWith::Nothing),
        url => Redirect::parse(url).map(DenyWith::Elsewhere).ok_or_else(wrong),
    }
}

/// Reads the decision on a request that no rule names.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_mode(text: &str) -> Result<Mode, String> {
    let mode = Mode::ALL.into_iter().find(|mode| mode.word() == text);
    mode.ok_or_else(|| format!("'{text}' is not a policy; give open, learn, report or enforce"))
}

/// Reads what adblock rules with options for browsers mean.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_list_options(text: &str) -> Result<ListOptions, String> {
    let found = ListOptions::ALL.into_iter().find(|options| options.word() == text);
    found.ok_or_else(|| format!("'{text}' is not known; give strict or wide"))
}

/// Reads how the name in a ClientHello is judged.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_sni(text: &str) -> Result<Hellos, String> {
    match text {
        "off" => Ok(Hellos::Off),
        "check" => Ok(Hellos::Check),
        "match" => Ok(Hellos::Match),
        _ => Err(format!("'{text}' is not one of off, check and match")),
    }
}

/// Reads the most bytes of content in a response.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_response_size(text: &str) -> Result<NonZeroU64, String> {
    let bytes = size::parse_within(text, 1, i64::MAX as u64)?;
    NonZeroU64::new(bytes).ok_or_else(|| format!("'{text}' is not a size"))
}
