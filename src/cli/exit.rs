//! How the process ends: every failure of a command, and its exit code.
//!
//! All exit codes are decided here. Those from 69 up come from sysexits.h, so that a service manager can
//! tell "try again" from "a person has to change something".

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::config::access::Unusable;
use crate::config::settings::{self, WrongSetting};
use crate::net::file_error;
use crate::net::listener::ListenPlace;

/// How the process ended, as its parent process sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Exit {
    /// Success, including a stop by a signal.
    Clean,
    /// The program failed while running.
    Failure,
    /// The command line cannot be understood.
    Usage,
    /// A rule denied a request.
    Denied,
    /// An address cannot be listened on, or connected from (`EX_UNAVAILABLE`).
    Unavailable,
    /// The system does not permit an operation (`EX_NOPERM`).
    NoPermission,
    /// A configuration file is wrong (`EX_CONFIG`).
    Configuration,
}

impl Exit {
    /// The number the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Unavailable => 69,
            Self::NoPermission => 77,
            Self::Configuration => 78,
        }
    }
}

/// Why a command could not be carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The status of the process.
    pub exit: Exit,
    /// One sentence a line for stderr, without `threadgate: ` before it; empty if the reason was already
    /// printed.
    pub message: String,
    /// For a wrong command line: the help to read.
    help: Option<HelpToRead>,
}

/// The help that explains a mistake of the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HelpToRead {
    /// The help of the command.
    Command(&'static str),
    /// All options of a proxy.
    Options,
    /// One option, without dashes.
    Option(&'static str),
}

/// The words that print it.
impl fmt::Display for HelpToRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command("serve") | Self::Options => f.write_str("--help"),
            Self::Command(name) => write!(f, "{name} --help"),
            Self::Option(option) => write!(f, "help --{option}"),
        }
    }
}

impl Failure {
    /// A failure with this status.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }

    /// A command line that cannot be understood.
    pub fn usage(message: impl Into<String>) -> Self {
        let help = Some(HelpToRead::Command("serve"));
        Self { help, ..Self::new(Exit::Usage, message) }
    }

    /// Points to this help.
    pub(crate) fn with_help(self, help: HelpToRead) -> Self {
        Self { help: Some(help), ..self }
    }

    /// Points to the help of this command, unless it points to that of options.
    pub(crate) fn of_command(self, name: &'static str) -> Self {
        let help = self.help.map(|help| match help {
            HelpToRead::Command(_) => HelpToRead::Command(name),
            of_options => of_options,
        });
        Self { help, ..self }
    }

    /// A configuration that cannot be used, with the place of the mistake.
    pub(crate) fn unusable(unusable: &Unusable, placed: WrongSetting) -> Self {
        let exit = if unusable.denied { Exit::NoPermission } else { Exit::Configuration };
        Self::new(exit, placed.message)
    }

    /// Rules denied requests, which is a failure with `--fail-on-deny`.
    pub(crate) fn denied(refused: u64, reported: u64) -> Self {
        let message = format!(
            "--fail-on-deny: {refused} requests were refused, {reported} would have been; the access \
             log lists them (--access-log)"
        );
        Self::new(Exit::Denied, message)
    }

    /// Mistakes in options, wherever they are given. It is a usage error if any is on the command line.
    pub(crate) fn wrong(all: &[WrongSetting]) -> Self {
        let lines: Vec<&str> = all.iter().map(|wrong| wrong.message.as_str()).collect();
        let message = lines.join("\n");
        let mut typed = all.iter().filter(|wrong| wrong.place == settings::WrittenAt::Flag);
        let Some(first) = typed.next() else { return Self::new(Exit::Configuration, message) };
        let same = typed.all(|other| other.option == first.option);
        let help = first.option.filter(|_| same).map(HelpToRead::Option);
        Self::usage(message).with_help(help.unwrap_or(HelpToRead::Options))
    }

    /// The same mistakes when they are in files that options name, and the options themselves are right.
    pub(crate) fn of_files(self, all_denied: bool) -> Self {
        let exit = if all_denied { Exit::NoPermission } else { Exit::Configuration };
        Self::new(exit, self.message)
    }

    /// A failure while the program started or ran.
    pub(crate) fn failed(message: String) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// The file of `option` cannot be used; `doing` names the operation that failed.
    pub(crate) fn file(option: &str, file: &Path, doing: &str, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Failure,
        };
        // All these files are written, also those that are read first.
        let advice = file_error::advice(file, error, "write");
        let advice = match (advice, option) {
            (Some(advice), "--access-log") => format!("; {advice}; or give - for stdout"),
            (None, "--access-log") => "; give another file, or - for stdout".to_owned(),
            (advice, _) => advice.map(|advice| format!("; {advice}")).unwrap_or_default(),
        };
        let file = file.display();
        Self::new(exit, format!("{option} {file}: cannot {doing} it: {error}{advice}"))
    }

    /// A listener that could not be opened at `address`.
    pub fn bind(address: SocketAddr, error: &io::Error) -> Self {
        let (exit, message) = bind_failure(address, error);
        Self::new(exit, message)
    }

    /// Upstream connections cannot come from `ip`.
    pub fn source(ip: IpAddr, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                "it is not an address of this machine; give one of those that 'ip address' shows"
                    .to_owned()
            }
            // A link-local address is valid only on one network.
            io::ErrorKind::InvalidInput => {
                "the system cannot bind to it; give an address that is valid everywhere on this \
                 machine"
                    .to_owned()
            }
            _ => format!("{error}; leave the option out to let the system choose"),
        };
        let message = format!("--source-address: cannot connect from {ip}: {why}");
        Self::new(Exit::Unavailable, message)
    }
}

impl Failure {
    /// An admin listener that could not be opened at `place`.
    pub fn admin(place: &ListenPlace, error: &io::Error) -> Self {
        let path = match place {
            ListenPlace::Unix(path) => path.display(),
            ListenPlace::Tcp(address) => {
                let (exit, message) = bind_failure(*address, error);
                // The advice is the same, for another option.
                let message = message.replace("--port or --listen", "--admin");
                let message = message.replace("--listen", "--admin");
                return Self::new(exit, format!("--admin: {message}"));
            }
        };
        use io::ErrorKind;
        let (exit, why) = match error.kind() {
            ErrorKind::AddrInUse => (
                Exit::Unavailable,
                "another process listens there; stop that one, or give another path".to_owned(),
            ),
            ErrorKind::AlreadyExists => (
                Exit::Unavailable,
                "a file that is not a socket is there, and is left alone; remove it, or give \
                 another path"
                    .to_owned(),
            ),
            ErrorKind::NotFound => {
                (Exit::Unavailable, "its directory does not exist; make it first".to_owned())
            }
            ErrorKind::PermissionDenied => (
                Exit::NoPermission,
                "permission denied; give a path in a directory this user can write".to_owned(),
            ),
            _ => (Exit::Unavailable, error.to_string()),
        };
        Self::new(exit, format!("--admin unix:{path}: cannot listen there: {why}"))
    }
}

/// Prints the sentences and, for a usage error, the help to read.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.message.split('\n').enumerate() {
            let begin = if number == 0 { "" } else { "\n" };
            write!(f, "{begin}threadgate: {line}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\ntry 'threadgate {help}'")?;
        }
        Ok(())
    }
}

/// The status and the message for an `address` that cannot be listened on.
pub fn bind_failure(address: SocketAddr, error: &io::Error) -> (Exit, String) {
    use io::ErrorKind;

    let (ip, port) = (address.ip(), address.port());
    let (any_port, any_ip) = (SocketAddr::new(ip, 0), SocketAddr::new(unspecified(ip), port));
    let no_such_family = Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    let (exit, why) = match error.kind() {
        ErrorKind::AddrInUse => (
            Exit::Unavailable,
            format!(
                "the address is in use (ss -ltnp 'sport = :{port}' shows by whom); choose \
                 another port with --port or --listen (--listen {any_port} lets the system choose)"
            ),
        ),
        ErrorKind::PermissionDenied if (1..1024).contains(&port) => (
            Exit::NoPermission,
            format!(
                "port {port} needs a privilege; choose a port from 1024 up, such as 8080, \
                 or grant the privilege: setcap cap_net_bind_service=+ep FILE, with the \
                 file of this program"
            ),
        ),
        ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            format!(
                "permission denied by a policy of this system; choose another port than {port}"
            ),
        ),
        ErrorKind::AddrNotAvailable => (
            Exit::Unavailable,
            format!(
                "{ip} is not an address of this machine ('ip address' shows them); \
                 for all of them write --listen {any_ip}"
            ),
        ),
        _ if error.raw_os_error() == no_such_family && address.is_ipv6() => {
            (Exit::Unavailable, format!("this system has no IPv6; write --listen 127.0.0.1:{port}"))
        }
        _ => (Exit::Unavailable, error.to_string()),
    };
    (exit, format!("cannot listen on {address}: {why}"))
}

/// The unspecified address of the family of `ip`, which stands for all addresses.
fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::io::Errno;

    use super::*;

    /// All of them, in the order of their codes.
    const ALL: [Exit; 7] = [
        Exit::Clean,
        Exit::Failure,
        Exit::Usage,
        Exit::Denied,
        Exit::Unavailable,
        Exit::NoPermission,
        Exit::Configuration,
    ];

    #[test]
    fn every_exit_has_its_own_code() {
        let codes = ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 69, 77, 78]);
        // A new one fails to compile here until it is in the list.
        for exit in ALL {
            match exit {
                Exit::Clean
                | Exit::Failure
                | Exit::Usage
                | Exit::Denied
                | Exit::Unavailable
                | Exit::NoPermission
                | Exit::Configuration => {}
            }
        }
    }

    /// The numbers behind `before` at the beginning of lines, from the text `from` to the next heading.
    fn numbers(text: &str, from: &str, before: &str) -> Vec<u8> {
        let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from:?}"));
        let lines = rest.lines().skip_while(|line| !line.starts_with(before));
        let lines = lines.take_while(|line| !line.starts_with("#") && !line.starts_with(".SH"));
        let numbers = lines.filter_map(|line| {
            let number = line.strip_prefix(before)?.split_whitespace().next()?;
            number.parse().ok()
        });
        numbers.collect()
    }

    #[test]
    fn every_table_of_exit_codes_has_the_codes_there_are() {
        use crate::cli::help::commands::COMMANDS;

        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = |name: &str| std::fs::read_to_string(root.join("docs").join(name)).unwrap();
        let all = ALL.map(Exit::code).to_vec();
        for (name, from, before) in [
            ("manual.md", "## Exit codes", "| "),
            ("threadgate.1", ".SH EXIT STATUS", ".B "),
            ("guide/script.md", "| exit status |", "| "),
        ] {
            assert_eq!(numbers(&page(name), from, before), all, "{name}");
        }
        // A success is no reason to look there.
        let systemd = page("guide/systemd.md");
        assert_eq!(numbers(&systemd, "## When it does not start", "| "), all[1..]);
        let errors = page("guide/errors.md");
        let start = errors.split_once("## When it does not start").unwrap().1;
        for code in &all[1..] {
            let has = |line: &str| {
                let cell = line.strip_prefix("| ").and_then(|line| line.split(" |").next());
                cell.is_some_and(|cell| cell.split(", ").any(|it| it == code.to_string()))
            };
            assert!(start.lines().any(has), "errors.md has no {code}");
        }
        for command in &COMMANDS {
            let named = command.statuses.trim_end_matches('.').split(", ");
            let codes = named.filter_map(|it| it.split(' ').next()?.parse().ok());
            let codes: Vec<u8> = codes.collect();
            assert!(codes.iter().all(|code| all.contains(code)), "{}: {codes:?}", command.name);
            assert!(codes.is_sorted() && codes.starts_with(&[0]), "{}: {codes:?}", command.name);
            let whole = command.name != "serve" || codes == all;
            assert!(whole && codes.contains(&2), "{}: {codes:?}", command.name);
        }
    }

    #[test]
    fn only_a_usage_error_points_to_the_help() {
        let usage = Failure::usage("--port: needs a value");
        let text = "threadgate: --port: needs a value\ntry 'threadgate --help'";
        assert_eq!(usage.to_string(), text);
        let explain = Failure::usage("no").of_command("explain");
        assert_eq!(explain.to_string(), "threadgate: no\ntry 'threadgate explain --help'");
        for (help, says) in [
            (HelpToRead::Options, "threadgate: no\ntry 'threadgate --help'"),
            (HelpToRead::Option("port"), "threadgate: no\ntry 'threadgate help --port'"),
        ] {
            assert_eq!(Failure::usage("no").with_help(help).of_command("check").to_string(), says);
        }
        let other = Failure::new(Exit::Failure, "no\nnever").of_command("explain");
        assert_eq!(other.to_string(), "threadgate: no\nthreadgate: never");
    }

    #[test]
    fn a_refused_address_says_why_and_what_to_try() {
        for (address, errno, exit, says) in [
            ("127.0.0.1:3128", Errno::ADDRINUSE, Exit::Unavailable, "ss -ltnp 'sport = :3128'"),
            ("[::1]:3128", Errno::ADDRINUSE, Exit::Unavailable, "--listen [::1]:0"),
            ("0.0.0.0:80", Errno::ACCESS, Exit::NoPermission, "port 80 needs a privilege"),
            ("127.0.0.1:8080", Errno::ACCESS, Exit::NoPermission, "by a policy of this system"),
            ("192.0.2.1:80", Errno::ADDRNOTAVAIL, Exit::Unavailable, "--listen 0.0.0.0:80"),
            ("[2001:db8::1]:80", Errno::ADDRNOTAVAIL, Exit::Unavailable, "--listen [::]:80"),
            ("[::1]:80", Errno::AFNOSUPPORT, Exit::Unavailable, "has no IPv6"),
            ("127.0.0.1:80", Errno::MFILE, Exit::Unavailable, "Too many open files"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let (found, message) = bind_failure(address.parse().unwrap(), &error);
            assert_eq!(found, exit, "{message}");
            let start = format!("cannot listen on {address}: ");
            assert!(message.starts_with(&start) && message.contains(says), "{message}");
        }
    }

    #[test]
    fn a_source_address_that_is_refused_says_why_and_what_to_try() {
        for (errno, says) in [
            (Errno::ADDRNOTAVAIL, "not an address of this machine; give one of those"),
            (Errno::INVAL, "cannot bind to it; give an address"),
            (Errno::AFNOSUPPORT, "leave the option out"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let failure = Failure::source("192.0.2.1".parse().unwrap(), &error);
            assert_eq!(failure.exit, Exit::Unavailable);
            let start = "--source-address: cannot connect from 192.0.2.1: ";
            assert!(failure.message.starts_with(start), "{failure}");
            assert!(failure.message.contains(says), "{failure}");
        }
    }

    #[test]
    fn a_file_that_is_not_permitted_has_the_same_code_for_each_option() {
        for (option, doing, says) in [
            ("--access-log", "open", "cannot open it: permission denied; give a file this user"),
            ("--port-file", "write", "cannot write it: permission denied; give a file"),
            ("--pid-file", "read", "cannot read it: permission denied; give a file"),
        ] {
            let of = |kind: io::ErrorKind| Failure::file(option, "f".as_ref(), doing, &kind.into());
            let denied = of(io::ErrorKind::PermissionDenied);
            assert_eq!(denied.exit, Exit::NoPermission);
            assert_eq!(of(io::ErrorKind::NotFound).exit, Exit::Failure);
            assert!(denied.message.starts_with(&format!("{option} f: {says}")), "{denied}");
        }
    }

    #[test]
    fn a_refused_admin_listener_says_why_and_what_to_try() {
        let path = ListenPlace::Unix("/run/x".into());
        for (kind, exit, says) in [
            (io::ErrorKind::AddrInUse, Exit::Unavailable, "another process listens"),
            (io::ErrorKind::AlreadyExists, Exit::Unavailable, "not a socket is there"),
            (io::ErrorKind::NotFound, Exit::Unavailable, "directory does not exist"),
            (io::ErrorKind::PermissionDenied, Exit::NoPermission, "this user can write"),
        ] {
            let failure = Failure::admin(&path, &kind.into());
            assert_eq!(failure.exit, exit);
            let message = failure.message;
            assert!(message.starts_with("--admin unix:/run/x: "), "{message}");
            assert!(message.contains(says), "{message}");
        }
        let in_use = io::Error::from_raw_os_error(Errno::ADDRINUSE.raw_os_error());
        let failure = Failure::admin(&ListenPlace::Tcp("127.0.0.1:9127".parse().unwrap()), &in_use);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.message.contains("--admin 127.0.0.1:0"), "{}", failure.message);
        assert!(!failure.message.contains("--listen"), "{}", failure.message);
    }

    #[test]
    fn an_address_in_use_is_told_from_the_error_the_system_gives() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let failure = Failure::bind(address, &error);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.message.contains("is in use"), "{}", failure.message);
    }
}
