//! The options as typed, and the configuration they make.
//!
//! Values stay text in [`ServeArgs`], so that what is wrong with one is said in our words
//! and not in argh's. The texts argh wants of the fields are not printed: `help.rs` has them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::config::access::{self, AccessOptions};
use crate::config::limits::LimitOptions;
use crate::config::users::{Password, UserOptions};
use crate::config::{
    self, Color, Config, ExitAfter, LogFormat, LogTarget, address_options, duration, listen,
    number, size,
};
use crate::net::listener::ListenPlace;
use crate::net::resolve::NameOptions;
use crate::net::source_address::Sources;
use crate::policy::decide::Mode;
use crate::proxy::Timeouts;
use crate::upstream::pool::PoolLimits;

/// start the proxy
#[derive(ArgsInfo, Debug, Default, FromArgs)]
#[argh(subcommand, name = "serve")]
pub(crate) struct ServeArgs {
    /// file with options
    #[argh(option, short = 'c', arg_name = "FILE")]
    config: Option<String>,

    /// whether files are read again when they change
    #[argh(switch)]
    watch: bool,

    /// address to listen on
    #[argh(option, short = 'l', arg_name = "ADDR")]
    listen: Vec<String>,

    /// port to listen on at 127.0.0.1
    #[argh(option, short = 'p', arg_name = "PORT")]
    port: Option<String>,

    /// file that receives the ports
    #[argh(option, arg_name = "FILE")]
    port_file: Option<String>,

    /// descriptor that is told of the start
    #[argh(option, arg_name = "N")]
    ready_fd: Option<String>,

    /// file with the process number
    #[argh(option, arg_name = "FILE")]
    pid_file: Option<String>,

    /// when to stop without a signal
    #[argh(option, arg_name = "N|DURATION")]
    exit_after: Option<String>,

    /// where to tell how the proxy does
    #[argh(option, arg_name = "ADDR|unix:PATH|off")]
    admin: Option<String>,

    /// a name that the admin listener goes by
    #[argh(option, arg_name = "NAME")]
    admin_name: Vec<String>,

    /// worker threads
    #[argh(option, short = 't', arg_name = "N")]
    threads: Option<String>,

    /// client connections at one time
    #[argh(option, arg_name = "N")]
    max_connections: Option<String>,

    /// pipes at one time
    #[argh(option, arg_name = "N")]
    max_pipes: Option<String>,

    /// idle upstream connections to one destination
    #[argh(option, arg_name = "N")]
    pool_per_destination: Option<String>,

    /// bytes of a head
    #[argh(option, arg_name = "SIZE")]
    max_head_size: Option<String>,

    /// connects to one address
    #[argh(option, arg_name = "N")]
    max_connecting: Option<String>,

    /// how long the addresses of a name are used
    #[argh(option, arg_name = "DURATION")]
    dns_ttl: Option<String>,

    /// address of a name
    #[argh(option, arg_name = "HOST[:PORT]:ADDR")]
    resolve: Vec<String>,

    /// file with addresses of names
    #[argh(option, arg_name = "FILE")]
    hosts_file: Vec<String>,

    /// address to connect from
    #[argh(option, arg_name = "ADDR")]
    source_address: Vec<String>,

    /// time for a head
    #[argh(option, arg_name = "DURATION")]
    timeout_head: Option<String>,

    /// time between exchanges
    #[argh(option, arg_name = "DURATION")]
    timeout_idle: Option<String>,

    /// time to reach the next server
    #[argh(option, arg_name = "DURATION")]
    timeout_connect: Option<String>,

    /// time for the head of a response
    #[argh(option, arg_name = "DURATION")]
    timeout_response: Option<String>,

    /// time of silence in a tunnel
    #[argh(option, arg_name = "DURATION")]
    timeout_tunnel: Option<String>,

    /// time an upstream connection is kept idle
    #[argh(option, arg_name = "DURATION")]
    pool_idle: Option<String>,

    /// time to finish after the signal to stop
    #[argh(option, arg_name = "DURATION")]
    drain: Option<String>,

    /// where the access log goes
    #[argh(option, arg_name = "FILE|-|off")]
    access_log: Option<String>,

    /// how it is written
    #[argh(option, arg_name = "FORMAT")]
    log_format: Option<String>,

    /// when output is in colour
    #[argh(option, arg_name = "WHEN")]
    color: Option<String>,

    /// our name in the Via field
    #[argh(option, arg_name = "NAME|off")]
    via: Option<String>,

    /// whether servers are told who asks
    #[argh(option, arg_name = "on|off")]
    forwarded_for: Option<String>,

    /// refuse responses that are not in the strict form
    #[argh(switch)]
    strict_responses: bool,

    /// accept clients from any network
    #[argh(switch)]
    open: bool,

    /// destination that is allowed
    #[argh(option, arg_name = "DESTINATION")]
    allow: Vec<String>,

    /// destination that is refused
    #[argh(option, arg_name = "DESTINATION")]
    deny: Vec<String>,

    /// network of clients that is served
    #[argh(option, arg_name = "NETWORK")]
    allow_client: Vec<String>,

    /// network of clients that is refused
    #[argh(option, arg_name = "NETWORK")]
    deny_client: Vec<String>,

    /// ports that CONNECT may go to
    #[argh(option, arg_name = "LIST")]
    connect_ports: Option<String>,

    /// methods that are allowed
    #[argh(option, arg_name = "LIST")]
    methods: Option<String>,

    /// how requests may go
    #[argh(option, arg_name = "LIST")]
    schemes: Option<String>,

    /// what a refused client gets
    #[argh(option, arg_name = "403|204|URL")]
    deny_with: Option<String>,

    /// file with destinations that are refused
    #[argh(option, arg_name = "FILE")]
    block_list: Vec<String>,

    /// file with destinations that are let through
    #[argh(option, arg_name = "FILE")]
    allow_list: Vec<String>,

    /// user that is let in
    #[argh(option, short = 'a', arg_name = "USER:PASS")]
    auth: Vec<String>,

    /// variable with users
    #[argh(option, arg_name = "VAR")]
    auth_env: Vec<String>,

    /// file with users
    #[argh(option, arg_name = "FILE")]
    auth_file: Vec<String>,

    /// what users are asked for
    #[argh(option, arg_name = "TEXT")]
    auth_realm: Option<String>,

    /// what is done without a rule
    #[argh(option, arg_name = "MODE")]
    policy: Option<String>,

    /// what is made of the name in a tunnel
    #[argh(option, arg_name = "off|check|match")]
    sni: Option<String>,

    /// URLs that are allowed
    #[argh(option, arg_name = "REGEX")]
    allow_url: Vec<String>,

    /// URLs that are refused
    #[argh(option, arg_name = "REGEX")]
    deny_url: Vec<String>,

    /// media types that are refused
    #[argh(option, arg_name = "TYPES")]
    deny_type: Vec<String>,

    /// bytes of a response
    #[argh(option, arg_name = "SIZE")]
    max_response_size: Option<String>,

    /// how fast bytes go through
    #[argh(option, arg_name = "LIMIT")]
    limit: Vec<String>,

    /// who shares such a rate
    #[argh(option, arg_name = "WHO")]
    limit_per: Option<String>,

    /// requests of a client in a time
    #[argh(option, arg_name = "N/s|N/m")]
    limit_requests: Option<String>,

    /// connections of a client at one time
    #[argh(option, arg_name = "N")]
    limit_connections: Option<String>,

    /// bytes relayed before the proxy refuses more
    #[argh(option, arg_name = "SIZE")]
    max_bytes: Option<String>,

    /// file that gets what was reached
    #[argh(option, arg_name = "FILE")]
    learn_file: Option<String>,

    /// exit with 3 if anything was denied
    #[argh(switch)]
    fail_on_deny: bool,

    /// say more
    #[argh(switch, short = 'v')]
    verbose: u8,

    /// say less
    #[argh(switch, short = 'q')]
    quiet: u8,
}

impl ServeArgs {
    /// Checks each value and all of them together.
    ///
    /// # Errors
    ///
    /// A sentence that begins with the name of the option.
    pub(crate) fn into_config(self) -> Result<Config, String> {
        // What it says was read before: here are the options that came of it.
        read("--config", &self.config, file_name)?;
        let usual = Config::default();
        let threads = |v: &str| number::parse_count(v, config::MOST_THREADS, "--threads 8");
        let connections =
            |v: &str| number::parse_count(v, config::MOST_CONNECTIONS, "--max-connections 10000");
        let pipes = |v: &str| number::parse_from_zero(v, config::MOST_PIPES, "--max-pipes 64");
        let connecting =
            |v: &str| number::parse_count(v, config::MOST_CONNECTING, "--max-connecting 256");
        let listen = addresses(&self.listen, self.port.as_deref())?.unwrap_or(usual.listen);
        let config = Config {
            admin: admin(&self.admin, &listen)?,
            admin_names: read_all("--admin-name", &self.admin_name, listen::parse_admin_name)?,
            listen,
            threads: read("--threads", &self.threads, threads)?,
            max_connections: read("--max-connections", &self.max_connections, connections)?,
            max_pipes: read("--max-pipes", &self.max_pipes, pipes)?,
            pool: self.pool_limits(usual.pool)?,
            max_connecting: read("--max-connecting", &self.max_connecting, connecting)?
                .unwrap_or(usual.max_connecting),
            names: self.name_options(usual.names)?,
            sources: sources(&self.source_address)?,
            port_file: read("--port-file", &self.port_file, file_name)?,
            ready_fd: read("--ready-fd", &self.ready_fd, number::parse_descriptor)?,
            pid_file: read("--pid-file", &self.pid_file, file_name)?,
            exit_after: read("--exit-after", &self.exit_after, ExitAfter::parse)?,
            timeouts: self.timeouts(usual.timeouts)?,
            drain: read("--drain", &self.drain, duration::parse)?.unwrap_or(usual.drain),
            max_head_bytes: read("--max-head-size", &self.max_head_size, head_bytes)?
                .unwrap_or(usual.max_head_bytes),
            access_log: read("--access-log", &self.access_log, LogTarget::parse)?
                .unwrap_or(usual.access_log),
            log_format: read("--log-format", &self.log_format, LogFormat::parse)?
                .unwrap_or(usual.log_format),
            via: read("--via", &self.via, config::parse_via)?.unwrap_or(usual.via),
            forwarded_for: read("--forwarded-for", &self.forwarded_for, config::parse_switch)?
                .unwrap_or(usual.forwarded_for),
            strict_responses: self.strict_responses,
            open: self.open,
            access: self.access_options()?,
            learn_file: read("--learn-file", &self.learn_file, file_name)?,
            fail_on_deny: self.fail_on_deny,
            own: Vec::new(),
            watch: self.watch,
            color: read("--color", &self.color, Color::parse)?.unwrap_or(usual.color),
            verbosity: verbosity(self.verbose, self.quiet),
        };
        each_file_once(&config)?;
        config.access.check()?;
        Ok(config)
    }

    fn pool_limits(&self, usual: PoolLimits) -> Result<PoolLimits, String> {
        const POOL_PER: &str = "--pool-per-destination";
        let kept = |v: &str| {
            number::parse_from_zero(v, config::MOST_CONNECTIONS, "--pool-per-destination 64")
        };
        Ok(PoolLimits {
            per_destination: read(POOL_PER, &self.pool_per_destination, kept)?
                .unwrap_or(usual.per_destination),
            idle: read("--pool-idle", &self.pool_idle, duration::parse)?.unwrap_or(usual.idle),
            ..usual
        })
    }

    fn name_options(&self, usual: NameOptions) -> Result<NameOptions, String> {
        Ok(NameOptions {
            ttl: read("--dns-ttl", &self.dns_ttl, duration::parse)?.unwrap_or(usual.ttl),
            given: read_all("--resolve", &self.resolve, address_options::parse_given)?,
            hosts_files: read_all("--hosts-file", &self.hosts_file, file_name)?,
        })
    }

    fn timeouts(&self, usual: Timeouts) -> Result<Timeouts, String> {
        Ok(Timeouts {
            head: time("--timeout-head", &self.timeout_head, usual.head)?,
            idle: time("--timeout-idle", &self.timeout_idle, usual.idle)?,
            connect: time("--timeout-connect", &self.timeout_connect, usual.connect)?,
            response: time("--timeout-response", &self.timeout_response, usual.response)?,
            tunnel: time("--timeout-tunnel", &self.timeout_tunnel, usual.tunnel)?,
        })
    }

    fn access_options(&self) -> Result<AccessOptions, String> {
        Ok(AccessOptions {
            deny_client: self.deny_client.clone(),
            allow_client: self.allow_client.clone(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            connect_ports: self.connect_ports.clone(),
            methods: self.methods.clone(),
            schemes: self.schemes.clone(),
            deny_with: read("--deny-with", &self.deny_with, access::parse_deny_with)?
                .unwrap_or_default(),
            block_list: self.block_list.clone(),
            allow_list: self.allow_list.clone(),
            users: UserOptions {
                auth: self.auth.iter().cloned().map(Password).collect(),
                env: self.auth_env.clone(),
                files: read_all("--auth-file", &self.auth_file, file_name)?,
                realm: self.auth_realm.clone(),
            },
            policy: read("--policy", &self.policy, access::parse_mode)?.unwrap_or_default(),
            sni: read("--sni", &self.sni, access::parse_sni)?.unwrap_or_default(),
            allow_url: self.allow_url.clone(),
            deny_url: self.deny_url.clone(),
            deny_type: self.deny_type.clone(),
            max_response_bytes: read(
                "--max-response-size",
                &self.max_response_size,
                access::parse_response_size,
            )?,
            limits: LimitOptions {
                limit: self.limit.clone(),
                limit_per: self.limit_per.clone(),
                limit_requests: self.limit_requests.clone(),
                limit_connections: self.limit_connections.clone(),
                max_bytes: self.max_bytes.clone(),
            },
            rules: Vec::new(),
            said: Vec::new(),
        })
    }
}

/// Reads the value of `option`, if it has one; an error gets the option's name in front.
fn read<T>(
    option: &str,
    value: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    value.as_deref().map(|v| parse(v).map_err(|e| format!("{option}: {e}"))).transpose()
}

/// Reads each value of an option that may be repeated.
fn read_all<T>(
    option: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    values.iter().map(|v| parse(v).map_err(|e| format!("{option}: {e}"))).collect()
}

fn sources(addresses: &[String]) -> Result<Sources, String> {
    let mut sources = Sources::default();
    for text in addresses {
        address_options::add_source(&mut sources, text)
            .map_err(|e| format!("--source-address: {e}"))?;
    }
    Ok(sources)
}

fn time(option: &str, value: &Option<String>, usual: Duration) -> Result<Duration, String> {
    Ok(read(option, value, duration::parse_nonzero)?.unwrap_or(usual))
}

/// What `--listen` and `--port` say, `None` if neither is there.
fn addresses(listens: &[String], port: Option<&str>) -> Result<Option<Vec<SocketAddr>>, String> {
    let port = port.map(listen::parse_port).transpose().map_err(|e| format!("--port: {e}"))?;
    let mut addresses = Vec::new();
    for text in listens {
        let address = listen::parse(text).map_err(|e| format!("--listen: {e}"))?;
        if address.port() != 0 && addresses.contains(&address) {
            return Err(format!("--listen: {address} is given twice; give it once"));
        }
        addresses.push(address);
    }
    match (port.map(listen::loopback), addresses.is_empty()) {
        (Some(address), true) => Ok(Some(vec![address])),
        (Some(address), false) => Err(format!(
            "--port: cannot be combined with --listen; write --listen {address} for that port too"
        )),
        (None, false) => Ok(Some(addresses)),
        (None, true) => Ok(None),
    }
}

/// Where the admin listener is to be; not where one of `listen` is.
fn admin(value: &Option<String>, listen: &[SocketAddr]) -> Result<Option<ListenPlace>, String> {
    let place = read("--admin", value, listen::parse_admin)?.flatten();
    match &place {
        Some(ListenPlace::Tcp(address)) if address.port() != 0 && listen.contains(address) => {
            Err(format!(
                "--admin: {address} is where the proxy listens; give another port, such as :9127"
            ))
        }
        _ => Ok(place),
    }
}

/// No two options may have the same file: one would destroy what the other wrote.
fn each_file_once(config: &Config) -> Result<(), String> {
    let files = files_written(config);
    for (i, (option, path)) in files.iter().enumerate() {
        if let Some((other, _)) = files.iter().take(i).find(|(_, before)| before == path) {
            let path = path.display();
            return Err(format!("{option}: {path} is the file of {other}; give another one"));
        }
    }
    Ok(())
}

/// The files that are written, and the options that name them.
pub(crate) fn files_written(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let admin = match &config.admin {
        Some(ListenPlace::Unix(path)) => Some(path),
        _ => None,
    };
    let log = match &config.access_log {
        LogTarget::File(path) => Some(path),
        _ => None,
    };
    let files = [
        ("--pid-file", config.pid_file.as_ref()),
        ("--port-file", config.port_file.as_ref()),
        ("--access-log", log),
        ("--admin", admin),
        ("--learn-file", config.learn_file.as_ref()),
    ];
    let named = files.into_iter();
    named.filter_map(|(option, path)| Some((option, std::path::absolute(path?).ok()?))).collect()
}

/// A policy that learns has somewhere to write it, and only such a one has.
pub(crate) fn learns(config: &Config) -> Result<(), String> {
    let own = config.own.iter().map(|own| &own.access);
    let learns = [&config.access].into_iter().chain(own).any(|access| access.policy == Mode::Learn);
    match (learns, &config.learn_file) {
        (true, None) => {
            Err("--policy learn: needs a file for what is reached; give --learn-file FILE"
                .to_owned())
        }
        (false, Some(_)) => {
            Err("--learn-file: only --policy learn learns anything; give both".to_owned())
        }
        _ => Ok(()),
    }
}

fn file_name(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("'' is not a file; give a file name".to_owned())
    } else {
        Ok(text.into())
    }
}

fn head_bytes(text: &str) -> Result<usize, String> {
    let (least, most) = (config::LEAST_HEAD_BYTES, config::MOST_HEAD_BYTES);
    let bytes = size::parse_within(text, least as u64, most as u64)?;
    Ok(usize::try_from(bytes).unwrap_or(most))
}

/// How many `-v` there are more than `-q`.
fn verbosity(verbose: u8, quiet: u8) -> i8 {
    let difference = i16::from(verbose) - i16::from(quiet);
    difference.clamp(i8::MIN.into(), i8::MAX.into()).try_into().unwrap_or(0)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
