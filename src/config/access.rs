//! Who may do what, as it is written: on the command line, in the environment, in files.
//!
//! A value keeps its text and where it stands; [`AccessOptions::build`] reads the files that are named
//! and makes a policy's [`Access`] of it all. A reload does that again.

use crate::policy::Access;
use crate::policy::decide::Mode;
use crate::policy::destination::Destination;
use crate::policy::network::Network;
use crate::policy::origin::{Origins, RuleId, Source};
use crate::policy::rules::{Action, Rule};

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
    /// What is done with a request that nothing speaks of.
    pub policy: Mode,
}

/// Why no policy can be made of a file that is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unusable {
    /// A sentence that begins with the name of the option, with file and line.
    pub message: String,
    /// The system does not let us read it.
    pub denied: bool,
}

impl From<String> for Unusable {
    fn from(message: String) -> Self {
        Self { message, denied: false }
    }
}

impl AccessOptions {
    /// Whether all values can be understood, without a look at the files they name.
    ///
    /// # Errors
    ///
    /// A sentence that begins with the name of the option.
    pub fn check(&self) -> Result<(), String> {
        self.rules(&mut Origins::default()).map(drop)
    }

    /// Reads the files and makes rules of it all; sources that `before` has keep their numbers and
    /// counts.
    ///
    /// # Errors
    ///
    /// What is wrong with a file, or a value.
    pub fn build(&self, before: Option<&Origins>) -> Result<Access, Unusable> {
        let mut origins = before.cloned().unwrap_or_default();
        let rules = self.rules(&mut origins)?;
        Ok(Access { origins, rules, mode: self.policy, own: Vec::new() })
    }

    /// What is written on the command line itself.
    fn rules(&self, origins: &mut Origins) -> Result<Vec<Rule>, String> {
        let mut rules = Vec::new();
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
        rule.destinations.push(Destination::parse(text)?);
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
    let source = origins.add(Source::Option(option));
    for (text, line) in written.iter().zip(1..) {
        let mut rule = Rule::new(RuleId { source, line }, action);
        set(&mut rule, text).map_err(|e| format!("{option}: {e}"))?;
        rules.push(rule);
    }
    Ok(())
}

/// Reads what is done with a request that nothing speaks of.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "open" => Ok(Mode::Open),
        "enforce" => Ok(Mode::Enforce),
        _ => Err(format!("'{text}' is not a policy; give open or enforce")),
    }
}
