use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use super::settings::Settings;
use super::together::Together;
use super::*;
use crate::config::access::Hellos;
use crate::config::address_options;
use crate::net::listener::ListenPlace;
use crate::policy::decide::Mode;
use crate::policy::list_format::ListOptions;
use crate::server::Via;

/// The configuration of these words, or the first mistake.
fn config(words: &str) -> Result<Config, String> {
    let words: Vec<&str> = words.split_whitespace().map(|w| w.trim_matches('\'')).collect();
    let settings = Settings::of_words(&words);
    let (config, wrong) = settings.meaning();
    if let Some(wrong) = wrong.into_iter().next() {
        return Err(wrong.message);
    }
    let together = Together { config: &config, settings: &settings, own: &[] };
    match together.contradictions().into_iter().next() {
        Some(unusable) => Err(unusable.to_string()),
        None => Ok(config),
    }
}

fn text(config: &Config) -> String {
    format!("{config:?}")
}

#[test]
fn no_option_gives_the_default_configuration() {
    assert_eq!(text(&config("").unwrap()), text(&Config::default()));
}

#[test]
fn no_file_has_two_uses() {
    for words in [
        "--pid-file a --port-file a",
        "--pid-file a --access-log ./a",
        "--port-file /x/a --access-log /x//a",
        "--admin unix:a --pid-file a",
    ] {
        let error = config(words).unwrap_err();
        assert!(error.contains("a is the file of --"), "{words}: {error}");
    }
    assert!(config("--pid-file a --port-file b --access-log c --admin unix:d").is_ok());
    assert!(config("--access-log - --pid-file -").is_ok());
    assert_eq!(text(&config("--admin off").unwrap()), text(&Config::default()));
}

#[test]
fn each_option_sets_its_own_field() {
    fn field(words: &str, set: impl FnOnce(&mut Config)) {
        let mut expected = Config::default();
        set(&mut expected);
        let (found, expected) = (text(&config(words).unwrap()), text(&expected));
        assert_ne!(expected, text(&Config::default()), "{words}: the row must change something");
        assert_eq!(found, expected, "{words}");
    }
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let seconds = Duration::from_secs;

    field("--listen 0.0.0.0:8080", |c| c.server.listen = vec![address("0.0.0.0:8080")]);
    field("--listen :1 --listen [::1]:1", |c| {
        c.server.listen = vec![address("127.0.0.1:1"), address("[::1]:1")]
    });
    field("--listen :0 --listen :0", |c| c.server.listen = vec![address("127.0.0.1:0"); 2]);
    field("--port 8080", |c| c.server.listen = vec![address("127.0.0.1:8080")]);
    field("--port 0", |c| c.server.listen = vec![address("127.0.0.1:0")]);
    field("--admin :9127", |c| c.server.admin = Some(ListenPlace::Tcp(address("127.0.0.1:9127"))));
    field("--admin-name a.example --admin-name b", |c| {
        c.server.admin_names = vec!["a.example".into(), "b".into()];
    });
    field("--admin unix:a", |c| c.server.admin = Some(ListenPlace::Unix("a".into())));
    field("--threads 1024", |c| c.server.threads = NonZeroUsize::new(1024));
    field("--threads 1", |c| c.server.threads = NonZeroUsize::new(1));
    field("--max-connections 9", |c| c.server.max_connections = NonZeroUsize::new(9));
    field("--max-pipes 0", |c| c.server.max_pipes = Some(0));
    field("--pool-per-destination 0", |c| c.server.pool.per_destination = 0);
    field("--pool-idle 5s", |c| c.server.pool.idle = seconds(5));
    field("--pool-idle 0", |c| c.server.pool.idle = Duration::ZERO);
    field("--max-connecting 9", |c| c.server.max_connecting = NonZeroUsize::new(9).unwrap());
    field("--dns-ttl 0", |c| c.server.names.ttl = Duration::ZERO);
    field("--resolve a:1.1.1.1 --resolve b:80:[::1]", |c| {
        c.server.names.given = vec![
            address_options::parse_given("a:1.1.1.1").unwrap(),
            address_options::parse_given("b:80:[::1]").unwrap(),
        ];
    });
    field("--hosts-file a --hosts-file b", |c| {
        c.server.names.hosts_files = vec!["a".into(), "b".into()];
    });
    field("--source-address 127.0.0.1 --source-address ::1", |c| {
        address_options::add_source(&mut c.server.sources, "127.0.0.1").unwrap();
        address_options::add_source(&mut c.server.sources, "::1").unwrap();
    });
    field("--ready-fd 3", |c| c.ready_fd = Some(3));
    field("--pid-file p", |c| c.pid_file = Some("p".into()));
    field("--exit-after 5s", |c| c.exit_after = Some(ExitAfter::Time(seconds(5))));
    field("--port-file p", |c| c.port_file = Some("p".into()));
    field("--timeout-head 1s", |c| c.server.timeouts.head = seconds(1));
    field("--timeout-idle 2s", |c| c.server.timeouts.idle = seconds(2));
    field("--timeout-connect 3s", |c| c.server.timeouts.connect = seconds(3));
    field("--timeout-response 4s", |c| c.server.timeouts.response = seconds(4));
    field("--timeout-tunnel 1h", |c| c.server.timeouts.tunnel = seconds(3600));
    field("--drain 0", |c| c.drain = Duration::ZERO);
    field("--max-head-size 64KiB", |c| c.server.max_head_bytes = 64 << 10);
    field("--access-log -", |c| c.access_log = LogTarget::Stdout);
    field("--log-format json", |c| c.log_format = LogFormat::Json);
    field("--log-format common", |c| c.log_format = LogFormat::Common);
    field("--color never", |c| c.color = Color::Never);
    field("--color always", |c| c.color = Color::Always);
    field("--via edge", |c| c.server.via = Via::Named("edge".to_owned()));
    field("--via off", |c| c.server.via = Via::Off);
    field("--forwarded-for on", |c| c.server.forwarded_for = true);
    field("--strict-responses", |c| c.server.strict_responses = true);
    field("--watch", |c| c.watch = true);
    field("--open", |c| c.server.open = true);
    field("--allow a --allow .b", |c| c.access.allow = vec!["a".into(), ".b".into()]);
    field("--deny re:^ads", |c| c.access.deny = vec!["re:^ads".into()]);
    field("--allow-client 10.0.0.0/8", |c| c.access.allow_client = vec!["10.0.0.0/8".into()]);
    field("--deny-client ::1", |c| c.access.deny_client = vec!["::1".into()]);
    field("--block-list a --block-list b", |c| {
        c.access.block_list = vec!["a".into(), "b".into()];
    });
    field("--allow-list a", |c| c.access.allow_list = vec!["a".into()]);
    field("--policy enforce", |c| c.access.policy = Mode::Enforce);
    field("--list-options wide", |c| c.access.list_options = ListOptions::Wide);
    field("--sni match", |c| c.access.sni = Hellos::Match);
    field("--sni off", |c| c.access.sni = Hellos::Off);
    field("--allow-url a --allow-url b", |c| {
        c.access.allow_url = vec!["a".into(), "b".into()];
    });
    field("--deny-url ^http:", |c| c.access.deny_url = vec!["^http:".into()]);
    field("--deny-type image/*", |c| c.access.deny_type = vec!["image/*".into()]);
    field("--max-response-size 5MiB", |c| {
        c.access.max_response_bytes = NonZeroU64::new(5 << 20);
    });
    field("--limit 10mbit --limit user:up=1mbit", |c| {
        c.access.limits.limit = vec!["10mbit".into(), "user:up=1mbit".into()];
    });
    field("--limit 1mbit --limit-per client", |c| {
        c.access.limits.limit = vec!["1mbit".into()];
        c.access.limits.limit_per = Some("client".into());
    });
    field("--limit-requests 10/s", |c| c.access.limits.limit_requests = Some("10/s".into()));
    field("--limit-connections 9", |c| c.access.limits.limit_connections = Some("9".into()));
    field("--max-bytes 5GB", |c| c.access.limits.max_bytes = Some("5GB".into()));
    field("--verbose --verbose --quiet", |c| c.verbosity = 1);
    field("--quiet --quiet", |c| c.verbosity = -2);
}

#[test]
fn a_refused_value_names_its_option() {
    for (words, says) in [
        (
            "--threads abc",
            "--threads: 'abc' is not a number; give a whole number from 1 to 1024, \
             for example 8",
        ),
        ("--threads 0", "--threads: '0' is less than 1; "),
        ("--threads 1025", "--threads: '1025' is more than 1024; "),
        ("--max-connections -1", "--max-connections: '-1' is less than 1; "),
        ("--max-pipes -1", "--max-pipes: '-1' is less than 0; "),
        ("--pool-per-destination x", "--pool-per-destination: 'x' is not a number; "),
        ("--pool-idle 30", "--pool-idle: '30' has no unit; write 30s"),
        ("--listen 8080", "--listen: '8080' is a port without an address; write :8080"),
        ("--listen :80 --listen 127.0.0.1:80", "--listen: 127.0.0.1:80 is given twice"),
        ("--config ''", "--config: '' is not a file"),
        ("--port 65536", "--port: '65536' is not a port"),
        (
            "--port 80 --listen :81",
            "--port: cannot be combined with --listen; write --listen 127.0.0.1:80",
        ),
        ("--max-connecting 0", "--max-connecting: '0' is less than 1; "),
        ("--dns-ttl 30", "--dns-ttl: '30' has no unit; write 30s"),
        ("--resolve a", "--resolve: 'a' has no address; give HOST:ADDR or HOST:PORT:ADDR"),
        ("--hosts-file ''", "--hosts-file: '' is not a file"),
        ("--source-address a", "--source-address: 'a' is not an address; give an address"),
        ("--timeout-head 0", "--timeout-head: '0' would end everything at once"),
        ("--timeout-idle 10", "--timeout-idle: '10' has no unit; write 10s"),
        ("--timeout-connect x", "--timeout-connect: 'x' is not a duration"),
        ("--timeout-response 1w", "--timeout-response: '1w' is not a duration"),
        ("--timeout-tunnel 400d", "--timeout-tunnel: '400d' is too long"),
        ("--drain soon", "--drain: 'soon' is not a duration"),
        ("--max-head-size 1", "--max-head-size: '1' is too small; give a size from 1KiB to 1MiB"),
        ("--access-log ''", "--access-log: '' is not a file"),
        ("--ready-fd 1", "--ready-fd: 1 is stdin, stdout or stderr; "),
        ("--pid-file ''", "--pid-file: '' is not a file"),
        ("--exit-after 0", "--exit-after: '0' would end everything at once; "),
        ("--port-file ''", "--port-file: '' is not a file"),
        ("--log-format xml", "--log-format: 'xml' is not a log format; give text, json"),
        ("--color blue", "--color: 'blue' is not one of auto, always and never"),
        ("--forwarded-for yes", "--forwarded-for: 'yes' is neither on nor off; "),
        ("--deny http://a", "--deny: 'http://a' "),
        ("--block-list ''", "--block-list: '' is not a file; give a file name"),
        ("--allow-list ''", "--allow-list: '' is not a file; give a file name"),
        ("--allow-client a", "--allow-client: 'a' is not a network; give one such as"),
        ("--policy closed", "--policy: 'closed' is not a policy; give open"),
        ("--list-options wider", "--list-options: 'wider' is not known; give strict or wide"),
        ("--sni on", "--sni: 'on' is not one of off, check and match"),
        ("--allow-url (", "--allow-url: '(' is not a regular expression: "),
        ("--deny-url [", "--deny-url: '[' is not a regular expression: "),
        ("--deny-type image", "--deny-type: 'image' is not a media type; give one such as"),
        ("--max-response-size 0", "--max-response-size: '0' is too small; give a size from 1"),
        ("--max-response-size x", "--max-response-size: 'x' is not a size"),
        ("--limit 10", "--limit: '10' is a size, not a rate: bytes, or bits? give bits as in"),
        ("--limit-per client", "--limit-per: no --limit leaves out who it is for"),
        ("--limit-requests 10", "--limit-requests: '10' is not a number of requests; give"),
        ("--limit-connections 0", "--limit-connections: '0' is less than 1; "),
        ("--max-bytes 5XB", "--max-bytes: '5XB' is not a size; "),
        ("--via a:b", "--via: 'a:b' has a ':'"),
    ] {
        let error = config(words).unwrap_err();
        assert!(error.starts_with(says), "{words}: {error}");
    }
}

#[test]
fn verbosity_cannot_overflow() {
    let verbosity = |words: &str| config(words).unwrap().verbosity;
    assert_eq!(verbosity(&"--verbose ".repeat(300)), i8::MAX);
    assert!(verbosity(&"--quiet ".repeat(300)) <= -127);
}
