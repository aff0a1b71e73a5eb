//! Says how to read a list: its format, its purpose, and what its options mean.

/// The format of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListFormat {
    /// Network rules, with `||` before a domain.
    Adblock,
    /// One domain a line.
    Domains,
    /// An address followed by names.
    Hosts,
    /// Configuration of dnsmasq.
    Dnsmasq,
    /// Configuration of unbound.
    Unbound,
    /// A response policy zone.
    Rpz,
    /// One regular expression a line, without slashes.
    Regex,
}

impl ListFormat {
    /// The format's name in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Adblock => "adblock rules",
            Self::Domains => "domains",
            Self::Hosts => "a hosts file",
            Self::Dnsmasq => "dnsmasq configuration",
            Self::Unbound => "unbound configuration",
            Self::Rpz => "a response policy zone",
            Self::Regex => "regular expressions",
        }
    }
}

/// The purpose of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Listed names are allowed.
    Allow,
    /// Listed names are refused.
    Block,
}

/// What happens to a rule whose options a list for a resolver does not have: `--list-options`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ListOptions {
    /// The rule is skipped.
    #[default]
    Strict,
    /// The rule refuses the whole host. Exceptions are skipped, because they would allow too much.
    Wide,
}

impl ListOptions {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Strict, Self::Wide];

    /// The name of the value.
    pub fn word(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Wide => "wide",
        }
    }
}

/// How to read a list.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// The list's format.
    pub format: ListFormat,
    /// What it is for.
    pub purpose: Purpose,
    /// What happens to rules with options that lists for resolvers do not have.
    pub options: ListOptions,
}
