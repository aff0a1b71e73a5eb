//! Access rules as written on the command line, in the environment and in files, and the policy
//! they make.
//!
//! A value keeps its text and where it stands; [`AccessOptions::build`] reads the files that are named
//! and makes a policy's [`Access`] of it all. A reload does that again.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::rules::WrittenRule;
use crate::config::users::UserOptions;
use crate::policy::Access;
use crate::policy::auth::Auth;
use crate::policy::decide::Mode;
use crate::policy::deny_with::{DenyWith, Redirect};
use crate::policy::destination::{DestinationPattern, parse_ports};
use crate::policy::lists::Filter;
use crate::policy::network::Network;
use crate::policy::request_bounds::Bounds;
use crate::policy::response_rules::{Responses, TypeRule};
use crate::policy::rule_origin::{OptionPlace, Origins, RuleId, RuleSource};
use crate::policy::rules::{Action, Rule};
use crate::policy::sni::Sni;
use crate::policy::url_rules::Urls;
use crate::wire::Authority;

use super::limits::LimitOptions;
use super::lists;
use super::methods::{parse_method, parse_scheme};
use super::size;

pub use super::unusable_file::Unusable;

/// What was written about access; every value is checked, the files are not read yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessOptions {
    /// Networks of clients that are refused.
    pub deny_client: Vec<String>,
    /// Networks of clients that are served; no other is, if there are any.
    pub allow_client: Vec<String>,
    /// Destinations that are allowed, also where protected mode would refuse them.
    pub allow: Vec<String>,
    /// Destinations that are refused.
    pub deny: Vec<String>,
    /// Ports that CONNECT may go to, separated by commas.
    pub connect_ports: Option<String>,
    /// Methods that requests may have.
    pub methods: Option<String>,
    /// How requests may go: `http`, `ws`, `connect`.
    pub schemes: Option<String>,
    /// Files with destinations that are refused.
    pub block_list: Vec<String>,
    /// Files with destinations that are let through though they are in one of those.
    pub allow_list: Vec<String>,
    /// What is done with a request that nothing speaks of.
    pub policy: Mode,
    /// What a client gets whose request is refused.
    pub deny_with: DenyWith,
    /// What is made of the name in a tunnel's ClientHello.
    pub sni: Hellos,
    /// Patterns of URLs that are allowed.
    pub allow_url: Vec<String>,
    /// Patterns of URLs that are refused.
    pub deny_url: Vec<String>,
    /// Media types of responses that are refused.
    pub deny_type: Vec<String>,
    /// Octets of a response's content at most.
    pub max_response_octets: Option<NonZeroU64>,
    /// How much, and how fast.
    pub limits: LimitOptions,
    /// Who proves by what to be whom.
    pub users: UserOptions,
    /// Rules of the configuration file: they come before all others.
    pub rules: Vec<WrittenRule>,
    /// Where the options above were said, if not on the command line.
    pub said: Vec<OptionPlace>,
}

/// What `--sni` says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hellos {
    /// They are not looked at.
    Off,
    /// The names they have are judged.
    #[default]
    Check,
    /// They have to name the host of the CONNECT.
    Match,
}

/// What listeners share that say the same of it: it is read once, and counts together.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    filter: Option<Arc<Filter>>,
    auth: Option<Arc<Auth>>,
}

impl Shared {
    pub(super) fn of(access: &Access) -> Self {
        Self { filter: access.filter.clone(), auth: access.auth.clone() }
    }
}

impl AccessOptions {
    /// Whether all values can be understood, without a look at the files they name.
    ///
    /// # Errors
    ///
    /// A sentence that begins with the name of the option.
    pub fn check(&self) -> Result<(), String> {
        lists::check("--block-list", &self.block_list)?;
        lists::check("--allow-list", &self.allow_list)?;
        self.users.check()?;
        let mut origins = Origins::default();
        origins.are_said(&self.said);
        self.rules(&mut origins)?;
        self.bounds(&mut origins)?;
        self.urls(&mut origins)?;
        self.responses(&mut origins)?;
        self.limits.build(&mut origins).map(drop)
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let lists = self.block_list.iter().chain(&self.allow_list).map(PathBuf::from);
        lists.chain(self.users.files.iter().cloned())
    }

    /// Reads the files and makes rules of it all; sources that `before` has keep their numbers and
    /// counts.
    ///
    /// # Errors
    ///
    /// What is wrong with a file, or a value.
    pub fn build(&self, before: Option<&Origins>) -> Result<Access, Unusable> {
        self.build_beside(before, &[])
    }

    /// The same beside what was just made of others, with whom it shares the lists that are the same.
    pub(super) fn build_beside(
        &self,
        before: Option<&Origins>,
        others: &[(&Self, Shared)],
    ) -> Result<Access, Unusable> {
        let mut origins = before.cloned().unwrap_or_default();
        origins.are_said(&self.said);
        let rules = self.rules(&mut origins)?;
        let auth = match others.iter().find(|(other, _)| other.users == self.users) {
            Some((_, shared)) => shared.auth.clone(),
            None => self.users.build()?,
        };
        let bounds = self.bounds(&mut origins)?;
        let sni = match self.sni {
            // Nothing depends on names: the option is no rule that could be met.
            _ if self.has_no_rule() => Sni::default(),
            Hellos::Off => Sni::Off,
            Hellos::Check => Sni::Check(option(&mut origins, "--sni")),
            Hellos::Match => Sni::Match(option(&mut origins, "--sni")),
        };
        let (urls, responses) = (self.urls(&mut origins)?, self.responses(&mut origins)?);
        let limits = self.limits.build(&mut origins)?;
        let lists = |options: &Self| (options.block_list.clone(), options.allow_list.clone());
        let filter = match others.iter().find(|(other, _)| lists(other) == lists(self)) {
            Some((_, shared)) => shared.filter.clone(),
            None => lists::read(&self.block_list, &self.allow_list, &mut origins)?,
        };
        Ok(Access {
            origins,
            bounds,
            rules,
            filter,
            mode: self.policy,
            sni,
            urls,
            responses,
            deny_with: self.deny_with.clone(),
            limits,
            auth,
            own: Vec::new(),
        })
    }

    /// Whether nothing is said of what may be done.
    fn has_no_rule(&self) -> bool {
        let (limits, said) = (LimitOptions::default(), Vec::new());
        Self { limits, said, ..self.clone() } == Self::default()
    }

    fn urls(&self, origins: &mut Origins) -> Result<Urls, String> {
        let mut rules = Vec::new();
        for (name, action, written) in [
            ("--allow-url", Action::Allow, &self.allow_url),
            ("--deny-url", Action::Deny, &self.deny_url),
        ] {
            for (pattern, line) in written.iter().zip(1..) {
                Urls::check(pattern).map_err(|e| format!("{name}: {e}"))?;
                let rule = RuleId { line, ..option(origins, name) };
                rules.push((action, rule, pattern.as_str()));
            }
        }
        Urls::new(&rules).map_err(|e| format!("--deny-url: {e}"))
    }

    fn responses(&self, origins: &mut Origins) -> Result<Responses, String> {
        let mut types = Vec::new();
        for (text, line) in self.deny_type.iter().zip(1..) {
            let rule = RuleId { line, ..option(origins, "--deny-type") };
            types.extend(TypeRule::parse(text, rule).map_err(|e| format!("--deny-type: {e}"))?);
        }
        let most = self.max_response_octets;
        let most = most.map(|most| (most, option(origins, "--max-response-size")));
        Ok(Responses::new(types, most))
    }

    /// What is written in options and in the configuration file itself.
    fn rules(&self, origins: &mut Origins) -> Result<Vec<Rule>, String> {
        let written = self.rules.iter().map(|rule| rule.rule(origins));
        let mut rules = written.collect::<Result<Vec<_>, _>>()?;
        clients(&mut rules, origins, "--deny-client", Action::Deny, &self.deny_client)?;
        clients(&mut rules, origins, "--allow-client", Action::Allow, &self.allow_client)?;
        if !self.allow_client.is_empty() {
            let everybody = ["0.0.0.0/0", "::/0"].map(Network::parse).into_iter();
            let clients = everybody.collect::<Result<_, _>>()?;
            rules.push(Rule {
                admission: true,
                clients,
                ..Rule::new(RuleId::DEFAULT, Action::Deny)
            });
        }
        destinations(&mut rules, origins, "--allow", Action::Allow, &self.allow)?;
        destinations(&mut rules, origins, "--deny", Action::Deny, &self.deny)?;
        Ok(rules)
    }

    fn bounds(&self, origins: &mut Origins) -> Result<Bounds, String> {
        Ok(Bounds {
            connect_ports: bound(origins, "--connect-ports", &self.connect_ports, parse_ports)?,
            methods: bound(origins, "--methods", &self.methods, parse_method)?,
            schemes: bound(origins, "--schemes", &self.schemes, parse_scheme)?,
        })
    }
}

/// The values of an option that has several, separated by commas; the option is the rule.
fn bound<T>(
    origins: &mut Origins,
    option: &'static str,
    written: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<(RuleId, Vec<T>)>, String> {
    let Some(written) = written else { return Ok(None) };
    let rule = RuleId { source: origins.add(RuleSource::Option(option)), line: 0 };
    let values = written.split(',').map(|text| parse(text.trim()));
    let values = values.collect::<Result<_, _>>().map_err(|e| format!("{option}: {e}"))?;
    Ok(Some((rule, values)))
}

/// An option that is one rule.
fn option(origins: &mut Origins, name: &'static str) -> RuleId {
    RuleId { source: origins.add(RuleSource::Option(name)), line: 0 }
}

fn clients(
    rules: &mut Vec<Rule>,
    origins: &mut Origins,
    option: &'static str,
    action: Action,
    written: &[String],
) -> Result<(), String> {
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
) -> Result<(), String> {
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
) -> Result<(), String> {
    if written.is_empty() {
        return Ok(());
    }
    let source = origins.add(RuleSource::Option(option));
    for (text, line) in written.iter().zip(1..) {
        let mut rule = Rule::new(RuleId { source, line }, action);
        set(&mut rule, text).map_err(|e| format!("{option}: {e}"))?;
        rules.push(rule);
    }
    Ok(())
}

/// Reads what a client gets whose request is refused: `403`, `204`, or a URL.
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
    let (rest, default_port) = match text {
        "403" => return Ok(DenyWith::Refusal),
        "204" => return Ok(DenyWith::Nothing),
        url => match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (rest, 80),
            (_, Some(rest)) => (rest, 443),
            (None, None) => return Err(wrong()),
        },
    };
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = Authority::parse(authority).map_err(|_| wrong())?;
    let host = match authority.ip {
        Some(ip) if ip.is_ipv6() => format!("[{ip}]"),
        _ => authority.host.to_ascii_lowercase(),
    };
    let port = authority.port.unwrap_or(default_port);
    let authority = format!("{host}:{port}").into();
    Ok(DenyWith::Elsewhere(Redirect { url: text.into(), authority }))
}

/// Reads what is done with a request that nothing speaks of.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_mode(text: &str) -> Result<Mode, String> {
    let mode = Mode::ALL.into_iter().find(|mode| mode.word() == text);
    mode.ok_or_else(|| format!("'{text}' is not a policy; give open, learn, report or enforce"))
}

/// Reads what is made of the name in a ClientHello.
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

/// Reads how much content a response may have.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_response_size(text: &str) -> Result<NonZeroU64, String> {
    let octets = size::parse_within(text, 1, i64::MAX as u64)?;
    NonZeroU64::new(octets).ok_or_else(|| format!("'{text}' is no size"))
}
