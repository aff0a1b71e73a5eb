//! The checked values of all options, and how single words are read into them.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::access::{AccessOptions, OwnListener, Unusable};
use super::{duration, listen};

use crate::observe::access_log::{LineFormat, LogDestination};
use crate::policy::{Access, Policy};
use crate::server::{Options, Via};
use crate::wire::field::is_token_byte;

/// The most worker threads allowed: more would cost more than they serve.
pub const MOST_THREADS: usize = 1024;

/// The most client connections allowed; each also needs descriptors from the system.
pub const MOST_CONNECTIONS: usize = 1_000_000;

/// The most pipes allowed; each takes two descriptors, and memory of the kernel when it is full.
pub const MOST_PIPES: usize = 65_536;
/// The most connects to one address allowed: with more, ports run out.
pub const MOST_CONNECTING: usize = 65_535;

/// The smallest limit on the bytes of a head: below it ordinary requests do not fit.
pub const LEAST_HEAD_BYTES: usize = 1024;

/// The largest limit on the bytes of a head: each connection may hold that much.
pub const MOST_HEAD_BYTES: usize = 1024 * 1024;

/// Everything a proxy needs to run, from the options.
#[derive(Clone, Debug)]
pub struct Config {
    /// The options of the server, without those that [`options`](Self::options) adds.
    pub server: Options,
    /// Who may do what.
    pub access: AccessOptions,
    /// The options of single listeners.
    pub own: Vec<OwnListener>,
    /// Where the access log goes, which has a line for each exchange.
    pub access_log: LogTarget,
    /// The format of a line of the access log.
    pub log_format: LogFormat,
    /// When messages on stderr, and the access log on a terminal, are in colour.
    pub color: Color,
    /// How many levels more (or, below zero, fewer) than usual are logged on stderr.
    pub verbosity: i8,
    /// File that receives the ports once they are bound, one a line in the order of the listeners. The
    /// port of the admin listener comes last.
    pub port_file: Option<PathBuf>,
    /// Descriptor that gets a line once the proxy listens; 3 or more.
    pub ready_fd: Option<i32>,
    /// File that holds the process number while the proxy runs.
    pub pid_file: Option<PathBuf>,
    /// When the proxy stops by itself.
    pub exit_after: Option<ExitAfter>,
    /// How long sessions may go on after the signal to stop; zero closes them at once.
    pub drain: Duration,
    /// File for the domains that were reached, with a policy that learns.
    pub learn_file: Option<PathBuf>,
    /// Whether a request that a rule denies makes the exit status 3.
    pub fail_on_deny: bool,
    /// Whether files are read again when they change.
    pub watch: bool,
}

impl Config {
    /// The options that the server is started with.
    ///
    /// # Errors
    ///
    /// A file of rules cannot be used.
    pub fn options(&self) -> Result<Options, Unusable> {
        let format = match self.log_format {
            LogFormat::Text => LineFormat::Text,
            LogFormat::Json => LineFormat::Json,
            LogFormat::Common => LineFormat::Common,
            LogFormat::Combined => LineFormat::Combined,
        };
        Ok(Options {
            access: self.access(None)?,
            access_log: match &self.access_log {
                LogTarget::Off => None,
                LogTarget::Stdout => Some((LogDestination::Stdout, format)),
                LogTarget::File(path) => Some((LogDestination::File(path.clone()), format)),
            },
            ..self.server.clone()
        })
    }

    /// Reads the files of rules, and makes the parts of a policy. Rules that are the same in the policy
    /// `before` keep their numbers and counts.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub fn access(&self, before: Option<&Policy>) -> Result<Access, Unusable> {
        self.access.build_with(&self.own, before)
    }

    /// The addresses that the proxy listens on.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.server.listen
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Options {
                listen: vec![listen::loopback(listen::DEFAULT_PORT)],
                ..Options::default()
            },
            access: AccessOptions::default(),
            own: Vec::new(),
            access_log: LogTarget::Off,
            log_format: LogFormat::Text,
            color: Color::Auto,
            verbosity: 0,
            port_file: None,
            ready_fd: None,
            pid_file: None,
            exit_after: None,
            drain: Duration::from_secs(10),
            learn_file: None,
            fail_on_deny: false,
            watch: false,
        }
    }
}

/// Reads the name of a file.
///
/// # Errors
///
/// A sentence to print after the name of the option, for an empty name.
pub fn parse_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("'' is not a file; give a file name".to_owned()),
        file => Ok(file.into()),
    }
}

/// When a proxy stops without a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitAfter {
    /// After this number of exchanges and tunnels, including failed ones.
    Exchanges(NonZeroU64),
    /// This long after the start.
    Time(Duration),
}

impl ExitAfter {
    /// Reads a number of exchanges, or a time with a unit.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let advice = "give a number of exchanges, for example 100, or a time, for example 30s";
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<u64>().map(NonZeroU64::new) {
                Ok(Some(exchanges)) => Ok(Self::Exchanges(exchanges)),
                Ok(None) => Err(format!("'{text}' would end everything at once; {advice}")),
                Err(_) => Err(format!("'{text}' is too many; {advice}")),
            };
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("'{text}' is neither a number nor a time; {advice}"));
        }
        duration::parse_nonzero(text).map(Self::Time)
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// To stdout.
    Stdout,
    /// To the end of this file, which is reopened when the log is rotated.
    File(PathBuf),
}

impl LogTarget {
    /// Reads `off`, `-` for stdout, or the name of a file (`./off` for a file of that name).
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option, for an empty name.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("'' is not a file; give a file name, - for stdout, or off".to_owned()),
            "off" => Ok(Self::Off),
            "-" => Ok(Self::Stdout),
            file => Ok(Self::File(file.into())),
        }
    }
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// Fields separated by spaces, for people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
    /// The NCSA common log format, for programs that read logs of web servers.
    Common,
    /// The same with `Referer` and `User-Agent`.
    Combined,
}

impl LogFormat {
    /// Reads `text`, `json`, `common` or `combined`.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "common" => Ok(Self::Common),
            "combined" => Ok(Self::Combined),
            _ => Err(format!("'{text}' is not a log format; give text, json, common or combined")),
        }
    }
}

/// When output is in colour.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Color {
    /// On a terminal that supports colours, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// Reads `auto`, `always` or `never`.
    ///
    /// # Errors
    ///
    /// A sentence to print after the name of the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(format!("'{text}' is not one of auto, always and never; give one of them")),
        }
    }
}

/// Reads `on` or `off`.
///
/// # Errors
///
/// A sentence to print after the name of the option.
pub fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}' is neither on nor off; give one of them")),
    }
}

/// Reads the pseudonym for the `Via` field, or `off` for none.
///
/// This is stricter than RFC 9110 §7.6.3, which lets a port follow the pseudonym. Loops are found by
/// comparing names, and a port would turn one name into two.
///
/// # Errors
///
/// A sentence to print after the name of the option, when it is not a token (§5.6.2).
pub fn parse_via(text: &str) -> Result<Via, String> {
    const LONGEST: usize = 255;
    let advice = "give letters, digits and dashes, for example threadgate-1, or off";
    if text == "off" {
        return Ok(Via::Off);
    }
    if text.is_empty() {
        return Err(format!("'' is not a name; {advice}"));
    }
    if text.len() > LONGEST {
        return Err(format!("the name has more than {LONGEST} characters; {advice}"));
    }
    match text.chars().find(|&c| !u8::try_from(c).is_ok_and(is_token_byte)) {
        Some(c) => Err(format!("'{text}' has a {c:?}, which a name in Via cannot have; {advice}")),
        None => Ok(Via::Named(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_via_name_is_a_token_or_off() {
        assert_eq!(parse_via("off"), Ok(Via::Off));
        assert_eq!(parse_via("edge-1.example"), Ok(Via::Named("edge-1.example".to_owned())));
        for (text, says) in [
            ("", "is not a name"),
            ("two words", "has a ' '"),
            ("a,b", "has a ','"),
            ("host:3128", "has a ':'"),
            ("a\r\nX-Y: z", "has a '\\r'"),
            ("größe", "has a 'ö'"),
            ("(comment)", "has a '('"),
        ] {
            let error = parse_via(text).unwrap_err();
            assert!(error.contains(says) && error.contains("or off"), "{text:?}: {error}");
        }
        assert!(parse_via(&"a".repeat(255)).is_ok());
        assert!(parse_via(&"a".repeat(256)).unwrap_err().contains("more than 255"));
    }

    #[test]
    fn a_proxy_stops_after_exchanges_or_a_time() {
        let exchanges = |n| ExitAfter::Exchanges(NonZeroU64::new(n).unwrap());
        assert_eq!(ExitAfter::parse("1"), Ok(exchanges(1)));
        assert_eq!(ExitAfter::parse("18446744073709551615"), Ok(exchanges(u64::MAX)));
        assert_eq!(ExitAfter::parse("5m"), Ok(ExitAfter::Time(Duration::from_secs(300))));
        for (text, says) in [
            ("0", "at once; give a number of exchanges"),
            ("00", "at once"),
            ("0s", "would end everything at once"),
            ("18446744073709551616", "is too many"),
            ("5x", "'x' is not one of the units"),
            ("", "is neither a number nor a time"),
            ("-1", "is neither a number nor a time"),
            ("soon", "is neither a number nor a time; give a number of exchanges"),
        ] {
            let error = ExitAfter::parse(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_log_target_is_off_stdout_or_a_file() {
        assert_eq!(LogTarget::parse("off"), Ok(LogTarget::Off));
        assert_eq!(LogTarget::parse("-"), Ok(LogTarget::Stdout));
        assert_eq!(LogTarget::parse("./off"), Ok(LogTarget::File("./off".into())));
        assert!(LogTarget::parse("").unwrap_err().contains("- for stdout"));
    }

    #[test]
    fn a_log_format_is_one_of_four() {
        assert_eq!(LogFormat::parse("text"), Ok(LogFormat::Text));
        assert_eq!(LogFormat::parse("json"), Ok(LogFormat::Json));
        assert_eq!(LogFormat::parse("common"), Ok(LogFormat::Common));
        assert_eq!(LogFormat::parse("combined"), Ok(LogFormat::Combined));
        assert!(LogFormat::parse("xml").unwrap_err().contains("give text, json, common"));
    }

    #[test]
    fn the_default_listens_on_loopback_only() {
        assert!(Config::default().listen().iter().all(|a| a.ip().is_loopback()));
    }
}
