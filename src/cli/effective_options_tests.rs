use std::fs;

use super::*;
use crate::config::options::OptionKind;

#[path = "idle_options_tests.rs"]
mod idle_options;

/// Values that some option takes.
const SAMPLES: [&str; 24] = [
    "wide",
    "8",
    "5s",
    "64KiB",
    "127.0.0.1:1",
    "on",
    "json",
    "never",
    "enforce",
    "http,ws",
    "off",
    "video/mp4",
    "1GB",
    "204",
    "a",
    "a.example",
    "a:1.1.1.1",
    "127.0.0.1",
    "10.0.0.0/8",
    "user:secret",
    "1mbit",
    "9/s",
    "client",
    "https://a.example/",
];

/// Options, and the words that each of them requires.
const BESIDE: [(&str, &str); 3] = [
    ("auth-realm", "--auth user:secret"),
    ("learn-file", "--policy learn"),
    ("limit-per", "--limit 10mbit"),
];

fn given(words: &str, variables: &[(&str, &str)]) -> GivenOptions {
    let words = Settings::of_words(&words.split_whitespace().collect::<Vec<_>>());
    let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).into())));
    GivenOptions::of(words, variables)
}

/// The options in effect with a file of this text; an empty text means no file.
fn effective(words: &str, variables: &[(&str, &str)], text: &str) -> Result<Effective, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    let mut given = given(words, variables);
    if !text.is_empty() {
        fs::write(&path, text).unwrap();
        given.file = Some(path.clone());
    }
    let result = given.effective();
    let dir = format!("{}/", dir.path().display());
    result.map_err(|failure| failure.message.replace(&dir, ""))
}

/// The parsed options, without their places, as text that can be compared.
fn meant(words: &str, variables: &[(&str, &str)], text: &str) -> Result<String, String> {
    let mut config = effective(words, variables, text)?.config;
    config.access.said = Vec::new();
    Ok(format!("{config:?}"))
}

fn config(words: &str, variables: &[(&str, &str)], text: &str) -> Config {
    effective(words, variables, text).unwrap().config
}

#[test]
fn each_option_is_a_key_and_a_variable() {
    let usual = format!("{:?}", Config::default());
    for row in options::all().filter(|row| row.file != FileUse::Configuration) {
        let name = row.name;
        let beside = BESIDE.iter().find(|(of, _)| *of == name).map_or("", |(_, words)| words);
        let flag = |value: &str| match row.kind {
            OptionKind::Switch | OptionKind::Counter => format!("--{name}"),
            _ => format!("{beside} --{name} {value}"),
        };
        let usual = meant(beside, &[], "").unwrap_or_else(|_| usual.clone());
        let means = |value: &&&str| meant(&flag(value), &[], "").is_ok_and(|it| it != usual);
        let value = SAMPLES.iter().find(means);
        let value = *value.unwrap_or_else(|| panic!("no sample changes anything for --{name}"));
        let expected = meant(&flag(value), &[], "");
        let (in_variable, in_file) = match row.kind {
            OptionKind::Switch => ("true", "true".to_owned()),
            OptionKind::Counter => ("1", "1".to_owned()),
            OptionKind::Once | OptionKind::List => (value, format!("\"{value}\"")),
            OptionKind::Repeated => (value, format!("[\"{value}\"]")),
        };
        let variable = row.variable();
        assert_eq!(meant(beside, &[(&variable, in_variable)], ""), expected, "{variable}");
        // File names are relative to the configuration file.
        let in_file = match row.file_of(value).is_some() {
            true => in_file.replace(value, &format!("/{value}")),
            false => in_file,
        };
        let expected = match row.file_of(value).is_some() {
            true => meant(&flag(&format!("/{value}")), &[], ""),
            false => expected,
        };
        assert_eq!(
            meant(beside, &[], &format!("{name} = {in_file}")),
            expected,
            "{name} = {in_file}"
        );
    }
}

#[test]
fn flags_come_before_variables_before_the_file_before_the_defaults() {
    for (words, variable, text, seconds) in [
        ("", "", "", 10),
        ("", "", "timeout-head = '3s'", 3),
        ("", "2s", "timeout-head = '3s'", 2),
        ("--timeout-head 1s", "2s", "timeout-head = '3s'", 1),
        ("--timeout-head 1s", "", "timeout-head = '3s'", 1),
        ("--timeout-head 1s", "2s", "", 1),
        ("", "2s", "threads = 1", 2),
    ] {
        let config = config(words, &[("THREADGATE_TIMEOUT_HEAD", variable)], text);
        let head = config.server.timeouts.head.as_secs();
        assert_eq!(head, seconds, "{words:?} {variable:?} {text:?}");
    }
    // Lists are not added up. Of --listen and --port, the one with precedence counts.
    for (words, variables, text, listen) in [
        ("-- --listen :1", &[("THREADGATE_LISTEN", ":2 :3")][..], "listen = ':4'", ":1"),
        ("", &[("THREADGATE_LISTEN", ":2 :3")], "listen = ':4'", ":2 :3"),
        ("", &[], "listen = [':4', ':5']", ":4 :5"),
        ("", &[], "port = 4", ":4"),
        ("--port 1", &[], "listen = ':4'", ":1"),
        ("", &[("THREADGATE_PORT", "2")], "listen = ':4'", ":2"),
        ("--listen :1", &[("THREADGATE_PORT", "2")], "port = 4", ":1"),
        ("", &[], "listen = ':4'\n[[listeners]]\naddress = ':5'", ":4 :5"),
        ("", &[], "port = 4\n[[listeners]]\naddress = ':5'", ":4 :5"),
        ("", &[], "[[listeners]]\naddress = ':5'", ":5"),
        ("--port 1", &[], "listen = ':4'\n[[listeners]]\naddress = ':5'", ":1"),
        ("", &[("THREADGATE_PORT", "2")], "[[listeners]]\naddress = ':5'", ":2"),
    ] {
        let config = config(words, variables, text);
        let expected: Vec<_> = listen.split(' ').map(|a| listen::parse(a).unwrap()).collect();
        assert_eq!(config.listen(), expected, "{words:?} {variables:?} {text:?}");
    }
    let off = [("THREADGATE_OPEN", "false")];
    assert!(!config("", &off, "open = true").server.open);
    assert!(config("--open", &off, "").server.open);
    assert_eq!(config("-- --quiet", &[], "verbose = 2").verbosity, -1);
}

#[test]
fn the_file_itself_is_named_by_a_flag_or_a_variable() {
    let file = |words, variables| given(words, variables).file;
    let variable = [("THREADGATE_CONFIG", "v.toml")];
    assert_eq!(file("--config f.toml", &variable), Some("f.toml".into()));
    assert_eq!(file("", &variable), Some("v.toml".into()));
    assert_eq!(file("", &[]), None);
    let error = effective("", &[], "config = 'other.toml'").unwrap_err();
    assert!(error.starts_with("t.toml:1: unknown key 'config'"), "{error}");
    let error = given("--config=", &[]);
    assert_eq!(error.file, None, "an empty name is no file");
}

#[test]
fn a_variable_that_is_no_option_is_warned_about_unless_an_option_names_it() {
    let variable = [("THREADGATE_USER", "alice:secret")];
    let warnings = |words, text| effective(words, &variable, text).unwrap().warnings;
    assert!(warnings("", "")[0].starts_with("THREADGATE_USER is not an option"));
    assert!(warnings("--auth-env THREADGATE_USER", "").is_empty());
    assert!(warnings("", "auth-env = 'THREADGATE_USER'").is_empty());
}

#[test]
fn a_listener_has_what_it_says_and_the_rest_like_the_others() {
    let text = "\
open = true
deny = ['all.example']
policy = 'enforce'
[[rules]]
action = 'deny'
ports = 25
[[listeners]]
address = ':1'
[[listeners]]
address = ':2'
open = false
deny = ['own.example', 'two.example']
[[listeners.rules]]
action = 'allow'
[[listeners]]
address = ':3'
deny = []
rules = []
";
    let config = effective("", &[], text).unwrap().config;
    let of = |number: usize| &config.own[number];
    assert_eq!(config.own.iter().map(|own| own.number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((of(0).open, of(1).open, of(2).open), (true, false, true));
    assert_eq!(of(0).access.deny, ["all.example"]);
    assert_eq!(of(0).access.rules, config.access.rules);
    assert_eq!(of(1).access.deny, ["own.example", "two.example"]);
    assert_eq!(of(1).access.policy, config.access.policy);
    assert!(of(1).access.rules.len() == 1 && of(1).access.rules[0].allows);
    assert!(of(2).access.deny.is_empty() && of(2).access.rules.is_empty());
    // Options above the file hold for all listeners.
    let config = effective("--deny x.example", &[], text).unwrap().config;
    assert!(config.own.iter().all(|own| own.access.deny == ["x.example"]));
    // --listen and --port replace each other.
    assert!(effective("--port 9", &[], text).unwrap().config.own.is_empty());
    let beside = "listen = [':8', ':9']\n[[listeners]]\naddress = ':1'";
    assert_eq!(effective("", &[], beside).unwrap().config.own[0].number, 2);
}

#[test]
fn rules_are_named_by_where_they_stand() {
    let text = "\
deny = ['a.example',
  'b.example']
[[rules]]
action = 'deny'
ports = [25]
[[rules]]
name = 'no-mail'
action = 'deny'
ports = [465, '587-588']
";
    let variables = [("THREADGATE_ALLOW", "c.example d.example")];
    let effective = effective("--deny-client 10.0.0.1", &variables, text).unwrap();
    let access = effective.config.access(None).unwrap();
    let names: Vec<String> =
        access.rules.iter().map(|rule| access.origins.name(rule.id).to_string()).collect();
    let names: Vec<&str> = names.iter().map(|name| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "t.toml:3",
            "no-mail",
            "--deny-client:1",
            "THREADGATE_ALLOW:1",
            "THREADGATE_ALLOW:2",
            "t.toml:1",
            "t.toml:2",
        ]
    );
}

#[test]
fn all_that_is_wrong_is_said_with_its_place() {
    let text = "\
timeout-head = 5
threads = 'many'
deny = [
  'a.example',
  'http://b.example',
]
[[listeners]]
address = '8080'
policy = 'closed'
";
    let error = effective("", &[], text).unwrap_err();
    let lines: Vec<&str> = error.lines().map(|line| line.split("; ").next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "t.toml:1: timeout-head: '5' has no unit",
            "t.toml:2: threads: 'many' is not a number",
            "t.toml:5: deny: 'http://b.example' is a URL, and a destination is a host",
            "t.toml:8: address: '8080' is a port without an address",
            "t.toml:9: policy: 'closed' is not a policy",
        ]
    );
    // An option that requires another is right once that one is given, wherever it is given.
    let variable = [("THREADGATE_LIMIT", "1mbit")];
    assert!(effective("", &variable, "limit-per = 'client'").is_ok());
    let error = effective("", &[], "limit-per = 'client'").unwrap_err();
    assert!(error.starts_with("t.toml:1: limit-per: no --limit"), "{error}");
    let error = effective("", &[], "limit-per = 'client'\nthreads = 0").unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(effective("", &[], "policy = 'learn'\nlearn-file = 'a'").is_ok());
    let error = effective("", &[], "policy = 'learn'\nlearn-file = 'a'\nthreads = 0").unwrap_err();
    assert!(error.starts_with("t.toml:3: threads: ") && error.lines().count() == 1, "{error}");
    // Values that are replaced by others are checked, too.
    let error = effective("--timeout-head 1s", &[], "timeout-head = 5").unwrap_err();
    assert!(error.starts_with("t.toml:1: timeout-head: '5' has no unit"), "{error}");
    for (words, variables, text, says, exit) in [
        ("--threads 0", &[][..], "", "--threads: '0' is less than 1", Exit::Usage),
        (
            "",
            &[("THREADGATE_THREADS", "0")],
            "",
            "THREADGATE_THREADS: '0' is less than 1",
            Exit::Configuration,
        ),
        ("", &[], "port = 1\nlisten = ':2'", "t.toml:1: port: cannot be", Exit::Configuration),
        (
            "",
            &[],
            "port = 1\nlisten = ':2'\n[[listeners]]\naddress = ':3'",
            "t.toml:1: port: cannot be combined with --listen; write --listen 127.0.0.1:1",
            Exit::Configuration,
        ),
        (
            "",
            &[],
            "listen = ':2'\n[[listeners]]\naddress = ':2'",
            "t.toml:3: address: 127.0.0.1:2 is given twice",
            Exit::Configuration,
        ),
        (
            "--port-file /a",
            &[],
            "pid-file = '/a'",
            "t.toml:1: pid-file: /a is the file of --port-file",
            Exit::Configuration,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        fs::write(&path, text).unwrap();
        let mut given = given(words, variables);
        given.file = Some(path);
        let failure = given.effective().unwrap_err();
        let message = failure.message.replace(&format!("{}/", dir.path().display()), "");
        assert!(message.starts_with(says), "{message}");
        assert_eq!(failure.exit, exit, "{message}");
    }
}

/// Each case with the beginnings of all that is told, and nothing else.
#[test]
fn a_mistake_is_told_once_and_what_depends_on_it_is_not() {
    for (words, text, says) in [
        // What could not be read may be what seems to be missing.
        ("--learn-file l", "policy = 'learn'\ndeny = ['a'", &["t.toml:2: this [ is never"][..]),
        ("", "policy = learn\nlearn-file = 'x'", &["t.toml:1: "]),
        ("", "polcy = 'learn'\nlearn-file = 'x'", &["t.toml:1: unknown key 'polcy'"]),
        ("", "auht = ['a:b']\nauth-realm = 'x'", &["t.toml:1: unknown key 'auht'"]),
        ("", "auth-realm = 'x'\nauth-env = ['a=b']", &["t.toml:2: auth-env: "]),
        ("", "limit = 'x'\nlimit-per = 'client'", &["t.toml:1: limit: "]),
        // What is there contradicts, whatever else cannot be read.
        ("", "opn = 1\nport = 1\nlisten = ':2'", &["t.toml:1: ", "t.toml:2: port: cannot be"]),
        ("--limit-per client", "", &["--limit-per: no --limit leaves out"]),
        ("", "auth = ['a:b', 'a:c']", &["t.toml:1: auth: the user 'a' is already"]),
        ("", "[[rules]]\naction = 'deny'\nports = [0]", &["t.toml:3: ports: '0'"]),
        ("", "deny = ['a b', 'a b']", &["t.toml:1: deny: "]),
        (
            "--pid-file /a --port-file /a --access-log /a",
            "",
            &["--port-file: /a is the file of --pid-file", "--access-log: /a is the file of"],
        ),
        // A port beside listeners.
        ("", "port = 99999\n[[listeners]]\naddress = ':8080'", &["t.toml:1: port: '99999'"]),
        (
            "",
            "port = 3128\nlisten = ':3128'\n[[listeners]]\naddress = ':1'",
            &["t.toml:1: port: cannot be"],
        ),
        (
            "",
            "[[listeners]]\naddress = ':1'\n[[listeners]]\naddress = ':1'",
            &["t.toml:4: address: 127.0.0.1:1 is given twice"],
        ),
    ] {
        let error = match effective(words, &[], text) {
            Ok(_) => panic!("{words} {text}: nothing is wrong"),
            Err(error) => error,
        };
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), says.len(), "{words} {text}:\n{error}");
        for (line, says) in lines.iter().zip(says) {
            assert!(line.starts_with(says), "{words} {text}:\n{line}\n{says}");
        }
    }
    assert_eq!(config("", &[], "listen = []\nport = 9").listen(), [listen::parse(":9").unwrap()]);
    // A wrong variable hides nothing.
    let variable = [("THREADGATE_OPEN", "perhaps")];
    let error = effective("--threads x", &variable, "opn = 1").unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn files_and_variables_that_cannot_be_used_are_told_with_all_else() {
    let text =
        "opn = 1\nauth-env = ['NO_SUCH_ONE']\nblock-list = ['/none']\nauth-file = ['/none2']\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    let told = |text: &str| {
        fs::write(&path, text).unwrap();
        let mut given = given("", &[]);
        given.file = Some(path.clone());
        let failure = given.effective_with_files().unwrap_err();
        let lines = failure.message.lines();
        let lines: Vec<u32> = lines
            .map(|line| line.split("t.toml:").nth(1).unwrap().split(':').next().unwrap())
            .map(|line| line.parse().unwrap())
            .collect();
        (lines, failure.exit)
    };
    assert_eq!(told(text), (vec![1, 2, 3, 4], Exit::Configuration));
    assert_eq!(told("block-list = ['/none']"), (vec![1], Exit::Configuration));
    let rule = "[[rules]]\naction = 'deny'\ndestinations = 'a b'\nschemes = 'ftp'\n";
    assert_eq!(told(rule), (vec![3, 4], Exit::Configuration));
    assert_eq!(told("auth = ['a:b', 'a:c']"), (vec![1], Exit::Configuration));
}

#[test]
fn secrets_are_not_shown_to_developers() {
    let effective = effective("", &[], "auth = ['alice:s3cret']").unwrap();
    assert!(!format!("{effective:?}").contains("s3cret"));
}

#[test]
fn what_is_no_readable_file_is_said_with_what_to_try() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    fs::write(&big, "#".repeat((1 << 20) + 1)).unwrap();
    for (path, says) in [
        (dir.path().join("none"), "No such file"),
        (dir.path().to_owned(), "it is a directory"),
        (big, "it is larger than 1 MiB"),
    ] {
        let mut given = given("", &[]);
        given.file = Some(path);
        let failure = given.effective().unwrap_err();
        assert!(failure.message.starts_with("--config /"), "{failure}");
        assert!(failure.message.contains(says), "{failure}");
        assert_eq!(failure.exit, Exit::Configuration);
    }
    let denied = unreadable(Path::new("f"), &io::ErrorKind::PermissionDenied.into());
    assert_eq!(denied.exit, Exit::NoPermission);
}

#[test]
fn a_variable_of_blanks_says_nothing() {
    let config = effective("", &[("THREADGATE_DENY", "  ")], "deny = 'a.example'").unwrap().config;
    assert_eq!(config.access.deny, ["a.example"]);
}

#[test]
fn listeners_that_are_left_out_are_told() {
    let text = "open = true\n[[listeners]]\naddress = ':1'\nauth = 'a:b'\n";
    let warnings = |words, text| {
        let mut warnings = effective(words, &[], text).unwrap().warnings;
        warnings.retain(|said| said.contains("[[listeners]]"));
        warnings
    };
    assert!(warnings("", text).is_empty());
    assert!(warnings("--port 9", "open = true").is_empty());
    for words in ["--port 9", "--listen :9"] {
        let warnings = warnings(words, text);
        assert!(warnings[0].contains("t.toml:3: [[listeners]] are ignored"), "{warnings:?}");
    }
}

#[test]
fn no_file_that_is_read_may_be_one_that_is_written() {
    for (words, text, says) in [
        ("--port-file f --block-list f", "", "--port-file: "),
        ("--access-log f --auth-file ./f", "", "--access-log: "),
        ("--pid-file f --hosts-file f", "", "--pid-file: "),
        ("--admin unix:f --allow-list f", "", "--admin: "),
        ("--pid-file f", "[[listeners]]\naddress = ':1'\nblock-list = '/f'", ""),
    ] {
        let absolute = words.replace(" f", " /f").replace("./f", "/f").replace(":f", ":/f");
        let error = effective(&absolute, &[], text).unwrap_err();
        assert!(error.starts_with(says), "{error}");
        assert!(error.contains("/f is the file of --"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, "open = true").unwrap();
    let words = format!("--config {0} --port-file {0}", file.display());
    let error = given(&words, &[]).effective().unwrap_err().message;
    assert!(error.contains("is the file of --config; give another one"), "{error}");
    effective("--policy learn --learn-file /f --allow-list /f", &[], "").unwrap();
}

#[test]
fn what_learns_has_a_file_whichever_listener_it_is() {
    let learn = "policy = 'learn'\n";
    let file = "learn-file = 'l'\n";
    let own = |policy: &str| format!("[[listeners]]\naddress = ':1'\npolicy = '{policy}'\n");
    for text in [format!("{learn}{file}{}", own("enforce")), format!("{file}{}", own("learn"))] {
        effective("", &[], &text).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    for (text, says) in [
        (own("learn"), "t.toml:3: policy: learn needs a file"),
        (format!("{file}{}", own("enforce")), "t.toml:1: learn-file: only --policy learn"),
    ] {
        let error = effective("", &[], &text).unwrap_err();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn a_file_that_only_a_listener_names_is_named_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("good.list");
    fs::write(&list, "a.example\n").unwrap();
    let text = format!(
        "block-list = ['{}']\n[[listeners]]\naddress = ':1'\nblock-list = ['/none.list']\n",
        list.display()
    );
    let effective = effective("", &[], &text).unwrap();
    let unusable = effective.config.access(None).unwrap_err();
    let message = effective.unusable(&unusable).message;
    assert!(message.contains("t.toml:4: block-list /none.list"), "{message}");
}
