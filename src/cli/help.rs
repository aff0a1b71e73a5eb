//! The help text. A test holds it to the options there are, and to their defaults;
//! `docs/threadgate.1` says the same at more length.

/// What `threadgate COMMAND --help` prints.
pub(crate) fn of(command: Option<&str>) -> &'static str {
    match command {
        Some("check") => CHECK,
        Some("explain") => EXPLAIN,
        Some("passwd") => PASSWD,
        _ => HELP,
    }
}

/// What the help says that an option is if nobody says anything: quoted as a value of the configuration
/// file would be, or in words.
pub(crate) fn default_of(option: &str) -> Option<String> {
    let is_head = |line: &str| {
        let words = line.trim_start().split([' ', ',']);
        line.trim_start().starts_with('-') && words.into_iter().any(|w| w == format!("--{option}"))
    };
    let mut lines = HELP.lines().skip_while(|line| !is_head(line));
    let head = lines.next()?;
    let rest = lines.take_while(|line| line.starts_with("      ") && !is_option(line));
    let text: Vec<&str> = [head].into_iter().chain(rest).map(str::trim).collect();
    let text = text.join(" ");
    let default = text.split_once("(default")?.1.split(')').next()?;
    match default.strip_prefix(':') {
        Some(words) => Some(words.trim().to_owned()),
        None => Some(format!("\"{}\"", default.trim())),
    }
}

fn is_option(line: &str) -> bool {
    line.trim_start().starts_with('-')
}

/// What `threadgate check --help` prints.
const CHECK: &str = "\
threadgate check: whether a proxy would start with these options, and what would count

Usage: threadgate check [OPTIONS]

  threadgate check -c threadgate.toml
  threadgate check -c threadgate.toml --policy enforce
  threadgate check > threadgate.toml
                                    a file to begin with

It takes the options of threadgate serve (threadgate --help), reads the configuration
file and all files that are named, and starts nothing. It prints each option with its
value and where that comes from: a file and its line, a variable, the command line, or
the default. What it prints is a configuration file itself; secrets are left out.

If something is wrong all of it is said on stderr. What only a start can tell is not: a
port that is taken, a file that cannot be written, another proxy that runs.

Exit status: 0 all is right, 1 the learn file is none, 2 wrong command line, 77 a file
may not be read, 78 wrong configuration.
";

/// What `threadgate explain --help` prints.
const EXPLAIN: &str = "\
threadgate explain: what a proxy with these options does with a request, and why

Usage: threadgate explain [OPTIONS] METHOD URL

  threadgate explain --deny .ads.example GET http://x.ads.example/
                                    each step of the decision, with its rule
  threadgate explain --policy enforce --allow-list allow.txt GET https://example.com/
                                    what goes through a tunnel is decided by CONNECT

      --client IP                   address of the client (default 127.0.0.1)
      --user NAME                   who asks, taken to be proven
      --address IP                  what the name leads to; may be repeated. Else
                                    --resolve, the hosts files, or a lookup tell
      --hello HOST                  the name with which TLS begins in the tunnel
      --listener ADDR               which of several listeners is asked (default: the
                                    first)
      --json                        write JSON

Beside these it takes the options of threadgate serve (threadgate --help), reads the
files that they name, decides as the proxy does, and connects to nothing.

Exit status: 0 it goes through, 3 it is denied, 2 wrong command line, 78 wrong
configuration.
";

/// What `threadgate passwd --help` prints.
const PASSWD: &str = "\
threadgate passwd: a user's line in a file for --auth-file

Usage: threadgate passwd [OPTIONS] FILE USER

  threadgate passwd users alice     ask for a password at the terminal, twice
  echo \"$PASSWORD\" | threadgate passwd users alice
                                    or take the first line of stdin
  threadgate passwd --delete users alice

The line is made, or replaced; all others stay as they are. FILE is replaced in one step;
a new one has mode 600. A running proxy reads it again on SIGHUP.

      --algorithm NAME              bcrypt, argon2 or sha512 (default bcrypt)
      --delete                      take the user out

  -h, --help                        print this text and exit
  -V, --version                     print the version and exit

Exit status: 0 done, 1 nothing was changed, 2 wrong command line, 77 not permitted.
";

/// What `threadgate --help` prints.
pub(crate) const HELP: &str = "\
threadgate: an HTTP proxy on a fixed pool of blocking threads

Usage: threadgate [serve] [OPTIONS]
       threadgate check [OPTIONS]   whether they and the files they name are right
       threadgate explain [OPTIONS] METHOD URL
                                    what becomes of a request, by which rule
       threadgate passwd FILE USER  a user's line in a file for --auth-file

  threadgate                        listen on 127.0.0.1:3128, for this machine only
  curl -x http://127.0.0.1:3128 http://example.com/
                                    use it; or set http_proxy and https_proxy to it
  threadgate -p 8080                another port
  threadgate -l 0.0.0.0:3128        serve the private networks of this machine, too
  threadgate --access-log -         show what goes through, a line an exchange
  threadgate --access-log access.log --log-format combined
                                    for GoAccess and its like
  threadgate --resolve www.example:127.0.0.1
                                    send a name somewhere else
  threadgate --deny .ads.example --limit client:10mbit
                                    refuse a name and what is below it; a rate for each
  threadgate -p 0 --port-file port --exit-after 10m
                                    a free port, for a script; it ends by itself

Listening:
  -l, --listen ADDR                 address to listen on; may be repeated
                                    (default 127.0.0.1:3128). IP:PORT or [IP]:PORT;
                                    :PORT and localhost:PORT mean 127.0.0.1:PORT,
                                    0.0.0.0:PORT and [::]:PORT every network;
                                    port 0 lets the system choose
  -p, --port PORT                   short for --listen 127.0.0.1:PORT
      --port-file FILE              write the ports to FILE once they are bound
      --admin ADDR|unix:PATH|off    tell how the proxy does, over HTTP: /metrics for
                                    Prometheus, /stats.json, /healthz, /readyz
                                    (default off)
      --admin-name NAME             a name that requests there may have as Host, beside
                                    addresses, localhost and, beyond loopback, the
                                    machine's own; may be repeated
      --open                        beyond loopback, serve any network and not only
                                    private ones, and connect to any address and not
                                    only to public ones

Configuration:
  -c, --config FILE                 read FILE (TOML): options as keys, rules, listeners;
                                    the command line and THREADGATE_* variables such as
                                    THREADGATE_TIMEOUT_HEAD=5s come before it
      --watch                       read FILE and the files named again when one changes

Process:
      --ready-fd N                  write a line to descriptor N once it listens, and
                                    close it
      --pid-file FILE               the process number, while it runs
      --exit-after N|DURATION       stop after so many exchanges, or that time

Limits:
  -t, --threads N                   worker threads, 1 to 1024 (default: four for each
                                    processor)
      --max-connections N           client connections at one time, 1 to 1000000
                                    (default: by the limit on open files)
      --max-pipes N                 streams moved without copying at one time, 0 to
                                    65536, two descriptors each (default: a quarter of
                                    the connections, at most 256)
      --pool-per-destination N      idle connections kept to one server, 0 to 1000000
                                    (default 2048)
      --max-head-size SIZE          largest head of a message, 1KiB to 1MiB
                                    (default 32KiB)

Access:
      --allow DESTINATION           let requests to it through, protected mode or not;
                                    may be repeated. www.example.com, .example.com (and
                                    all below it), *.cdn.*, re:^ads[0-9], 10.1.0.0/16;
                                    perhaps with :PORT or :FROM-TO behind it
      --deny DESTINATION            refuse requests to it; may be repeated; what --allow
                                    names is let through all the same
      --allow-client NETWORK        serve clients in it, and no others; may be repeated
      --deny-client NETWORK         refuse clients in it; may be repeated
      --connect-ports LIST          ports that CONNECT may go to: 443,8000-8999
                                    (default: all)
      --methods LIST                methods that requests may have: GET,HEAD,CONNECT
                                    (default: all); without CONNECT there are no tunnels
      --schemes LIST                how requests may go, of http,ws,connect
                                    (default: all)
      --block-list FILE             refuse requests to the domains in FILE and all below
                                    them; may be repeated. Hosts files, a domain a line,
                                    adblock rules (||ads.example^)
      --allow-list FILE             let the domains in FILE through all the same, and
                                    where nothing else is allowed; may be repeated
      --deny-with 403|204|URL       what a refused request gets: an answer that names
                                    the rule, nothing, or a redirect; CONNECT always
                                    gets the first (default 403)
  -a, --auth USER:PASS              let in who sends this, and nobody else; may be
                                    repeated. Other users of this machine can see it
      --auth-env VAR                the same, from a variable that holds USER:PASS, or
                                    several lines of it; may be repeated
      --auth-file FILE              the same, from a file of users and hashes, as
                                    'threadgate passwd' and htpasswd write it; may be
                                    repeated; read again on SIGHUP
      --auth-realm TEXT             shown by browsers that ask (default threadgate)
      --policy MODE                 what is done with requests that no --allow names:
                                    open lets them through, enforce refuses them; learn
                                    is open and writes down what was reached; report
                                    refuses nothing, and logs what enforce would refuse
                                    (default open)
      --learn-file FILE             where --policy learn writes it, as a list of domains
                                    for --allow-list: at the end, and on HUP and USR2
      --fail-on-deny                exit with 3 instead of 0 if a rule was against any
                                    request, be it refused or reported
      --sni off|check|match         the name with which TLS begins in a tunnel: not
                                    looked at, judged like the CONNECT's if rules are
                                    about names, or it has to be the same besides
                                    (default check)
      --deny-url REGEX              refuse http URLs in which it is found; may be
                                    repeated
      --allow-url REGEX             let such URLs through, with --deny-url or with
                                    a policy that refuses the rest; may be repeated
      --deny-type TYPES             refuse responses of these media types: video/mp4,
                                    image/*, with commas between; may be repeated
      --max-response-size SIZE      refuse responses with more content, or cut them off
                                    where they did not announce it; not of tunnels

Traffic:
      --limit LIMIT                 how fast bytes go through; may be repeated.
                                    [WHO:][DIRECTION=]RATE: 10mbit, client:down=1MB/s,
                                    user=ann:500kbit. RATE is bits (kbit, mbit, gbit) or
                                    bytes (B/s, kB/s, KiB/s, ..) a second; DIRECTION is
                                    down, to clients, or up; without it both have RATE
      --limit-per WHO               who shares a rate that does not say: connection,
                                    client, user, destination or total (default total)
      --limit-requests N/s|N/m      requests of a client a second or minute, all at once
                                    or one by one; those beyond get a 429
      --limit-connections N         connections of a client, and of a user, at one time;
                                    those beyond get a 429
      --max-bytes SIZE              stop relaying after so many bytes, both directions
                                    together: what is under way is cut, requests get a
                                    503

Names and connecting:
      --resolve HOST[:PORT]:ADDR    connect to ADDR for HOST; may be repeated, also for
                                    several addresses in the order of trying
      --hosts-file FILE             look names up in FILE first, lines of an address and
                                    its names; may be repeated; read again on SIGHUP
      --dns-ttl DURATION            how long the addresses of a name are used; 0 keeps
                                    none (default 30s)
      --source-address ADDR         connect from ADDR, an address of this machine; may
                                    be given for IPv4 and for IPv6
      --max-connecting N            connects to one address under way, 1 to 65535; more
                                    wait their turn (default 128)

Times:
      --timeout-head DURATION       for a request head to come whole (default 10s)
      --timeout-idle DURATION       a client connection without a request (default 60s)
      --timeout-connect DURATION    to look up a name, and to connect (default 10s)
      --timeout-response DURATION   for a response to begin, and for any standstill of
                                    content after it (default 60s)
      --timeout-tunnel DURATION     a tunnel in which nobody sends (default 10m)
      --pool-idle DURATION          an idle connection to a server is kept; 0 keeps none
                                    (default 30s)
      --drain DURATION              to finish after SIGTERM or SIGINT; 0 does not wait
                                    (default 10s)

Messages and logs:
      --via NAME|off                name in the Via field (default threadgate-XXXX)
      --forwarded-for on|off        tell servers the client's address, in Forwarded and
                                    X-Forwarded-For (default off)
      --strict-responses            refuse responses that are not in the strict form of
                                    HTTP, instead of mending what clients take
      --access-log FILE|-|off       a line for each exchange; - is stdout (default off)
      --log-format FORMAT           how that line is written: text, json, common or
                                    combined (default text)
      --color WHEN                  auto, always or never (default auto): on a terminal,
                                    unless NO_COLOR is set
  -v, --verbose                     say more on stderr; may be repeated
  -q, --quiet                       say less on stderr; may be repeated

  -h, --help                        print this text and exit
  -V, --version                     print the version and exit

A DURATION is a whole number and a unit: 500ms, 10s, 5m, 1h, 2d.
A SIZE is a number of bytes, or one with a unit: 32k, 64KiB (of 1024), 64kB (of 1000).

Signals: TERM and INT stop it, HUP and USR1 open the access log again and read the
configuration and the files it names, USR2 writes counters to stderr.

Exit status: 0 stopped by a signal or --exit-after, 1 failed while running, 2 wrong
command line, 3 something was denied (--fail-on-deny), 69 cannot listen or connect from
there, 77 not permitted, 78 wrong configuration.

More: man threadgate, and docs/guide in the source.
";

#[cfg(test)]
mod tests {
    use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

    use super::*;
    use crate::cli::options::ServeArgs;
    use crate::config::users::REALM;
    use crate::config::{Config, duration, size};

    const MAN: &str = include_str!("../../docs/threadgate.1");

    /// The manual page without its marks for fonts and dashes.
    fn man() -> String {
        ["\\fB", "\\fI", "\\fR"].iter().fold(MAN.replace("\\-", "-"), |t, m| t.replace(m, ""))
    }

    /// How an option is written, as `--port PORT`, with its letter.
    fn written(flag: &FlagInfo<'_>) -> (String, Option<char>) {
        let value = match flag.kind {
            FlagInfoKind::Switch => String::new(),
            FlagInfoKind::Option { arg_name } => format!(" {arg_name}"),
        };
        (format!("{}{value}", flag.long), flag.short)
    }

    /// What stands at the beginning of a line before its explanation.
    fn options_of_help() -> Vec<(String, Option<char>)> {
        HELP.lines()
            .filter(|line| line.trim_start().starts_with('-'))
            .map(|line| {
                let head = line.trim_start().split("  ").next().unwrap();
                match head.split_once(", ") {
                    Some((short, long)) => (long.to_owned(), short.chars().nth(1)),
                    None => (head.to_owned(), None),
                }
            })
            .collect()
    }

    fn options_there_are() -> Vec<(String, Option<char>)> {
        let flags = ServeArgs::get_args_info().flags;
        let own = flags.iter().filter(|f| f.long != "--help").map(written);
        own.chain([("--help".to_owned(), Some('h')), ("--version".to_owned(), Some('V'))]).collect()
    }

    #[test]
    fn the_help_lists_the_options_there_are_and_no_other() {
        let (mut listed, mut there) = (options_of_help(), options_there_are());
        listed.sort();
        there.sort();
        assert_eq!(listed, there);
    }

    #[test]
    fn the_man_page_lists_the_options_there_are_and_no_other() {
        let plain = man();
        let mut listed: Vec<(String, Option<char>)> = Vec::new();
        let mut lines = plain.lines();
        while let Some(line) = lines.next() {
            let head = if line == ".TP" { lines.next().unwrap() } else { continue };
            match head.split_once(", ") {
                Some((short, long)) if long.starts_with("--") => {
                    listed.push((long.to_owned(), short.chars().nth(1)));
                }
                _ if head.starts_with("--") => listed.push((head.to_owned(), None)),
                _ => {}
            }
        }
        let mut there = options_there_are();
        listed.sort();
        there.sort();
        assert_eq!(listed, there);
    }

    /// An example that is not there cannot be taken; what only a command line has is left out.
    #[test]
    fn the_example_of_a_configuration_has_the_options_there_are() {
        const EXAMPLE: &str = include_str!("../../docs/threadgate.toml");
        let keys: Vec<&str> = EXAMPLE
            .lines()
            .filter_map(|line| line.trim_start_matches(['#', ' ']).split_once(" = "))
            .map(|(key, _)| key)
            .collect();
        for option in ServeArgs::get_args_info().flags {
            let name = option.long.trim_start_matches("--");
            let left_out = ["help", "config"].contains(&name);
            assert!(left_out || keys.contains(&name), "docs/threadgate.toml has no {name}");
        }
    }

    #[test]
    fn the_texts_name_the_defaults_there_are() {
        let config = Config::default();
        let times = config.timeouts;
        let rows = [
            ("--listen ADDR", config.listen[0].to_string()),
            ("--timeout-head DURATION", duration::ShownDuration(times.head).to_string()),
            // A minute is the same in either unit; the texts say it in the usual one.
            ("--timeout-idle DURATION", format!("{}s", times.idle.as_secs())),
            ("--timeout-connect DURATION", duration::ShownDuration(times.connect).to_string()),
            ("--timeout-response DURATION", format!("{}s", times.response.as_secs())),
            ("--timeout-tunnel DURATION", duration::ShownDuration(times.tunnel).to_string()),
            ("--dns-ttl DURATION", duration::ShownDuration(config.names.ttl).to_string()),
            ("--max-connecting N", config.max_connecting.to_string()),
            ("--drain DURATION", duration::ShownDuration(config.drain).to_string()),
            ("--max-head-size SIZE", size::ShownSize(config.max_head_bytes as u64).to_string()),
            ("--sni off|check|match", "check".to_owned()),
            ("--via NAME|off", "threadgate-XXXX".to_owned()),
            ("--forwarded-for on|off", "off".to_owned()),
            ("--access-log FILE|-|off", "off".to_owned()),
            ("--log-format FORMAT", "text".to_owned()),
            ("--auth-realm TEXT", REALM.to_owned()),
            ("--color WHEN", "auto".to_owned()),
        ];
        let man = man();
        for (option, default) in rows {
            for text in [HELP, &man] {
                let rest = text.split_once(option).unwrap().1;
                let found = rest.split_once("(default ").unwrap().1.split(')').next().unwrap();
                assert_eq!(found, default, "{option}");
            }
        }
    }

    #[test]
    fn defaults_are_read_from_the_help() {
        for (option, default) in [
            ("timeout-head", Some("\"10s\"")),
            ("listen", Some("\"127.0.0.1:3128\"")),
            ("threads", Some("four for each processor")),
            ("max-pipes", Some("a quarter of the connections, at most 256")),
            ("policy", Some("\"open\"")),
            ("limit", None),
            ("open", None),
            ("port", None),
            ("hosts-file", None),
        ] {
            assert_eq!(default_of(option).as_deref(), default, "{option}");
        }
    }

    #[test]
    fn the_help_fits_a_terminal() {
        for line in HELP.lines().chain(CHECK.lines()) {
            assert!(line.chars().count() <= 88, "{line}");
        }
    }
}
