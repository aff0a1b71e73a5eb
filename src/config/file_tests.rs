use super::*;

fn words(text: &str) -> String {
    let (written, wrong) = parse(text, Path::new("dir/t.toml"));
    assert_eq!(wrong, []);
    said(&written)
}

/// The options as words of a command line.
fn said(written: &Written) -> String {
    let mut words = Vec::new();
    for (row, value) in written.settings.iter().flat_map(|(row, v)| v.iter().map(move |v| (row, v)))
    {
        match row.kind {
            OptionKind::Switch if value.text == "false" => {}
            OptionKind::Switch => words.push(format!("--{}", row.name)),
            OptionKind::Counter => {
                words.extend((0..value.text.parse().unwrap()).map(|_| format!("--{}", row.name)));
            }
            _ => words.push(format!("--{} {}", row.name, value.text)),
        }
    }
    words.join(" ")
}

#[test]
fn keys_are_options() {
    for (text, says) in [
        ("", ""),
        ("# nothing\r\n", ""),
        ("listen = ['a', 'b']", "--listen a --listen b"),
        ("listen = 'a'\r\nopen = true\r\n", "--listen a --open"),
        ("listen = []", ""),
        ("open = false", ""),
        ("timeout-head = '5s'", "--timeout-head 5s"),
        ("timeout-head = 1_000", "--timeout-head 1000"),
        ("timeout-head = 0x10", "--timeout-head 16"),
        ("verbose = 2", "--verbose --verbose"),
        ("verbose = true", "--verbose"),
        ("forwarded-for = true", "--forwarded-for on"),
        ("admin = false", "--admin off"),
        ("methods = 'GET,HEAD'", "--methods GET,HEAD"),
        ("methods = ['GET', 'HEAD', 1]", "--methods GET,HEAD,1"),
        // File names are relative to the directory of this file.
        ("access-log = 'a.log'", "--access-log dir/a.log"),
        ("access-log = '-'", "--access-log -"),
        ("access-log = 'off'", "--access-log off"),
        ("access-log = '/a.log'", "--access-log /a.log"),
        ("hosts-file = ['a', '../b']", "--hosts-file dir/a --hosts-file dir/../b"),
        ("admin = 'unix:a'", "--admin unix:dir/a"),
        ("admin = 'unix:/a'", "--admin unix:/a"),
        ("admin = ':1'", "--admin :1"),
    ] {
        assert_eq!(words(text), says, "{text}");
    }
}

#[test]
fn each_mistake_has_its_line_and_what_to_try() {
    for (text, says) in [
        ("\nlisen = 1", "2: unknown key 'lisen'; did you mean listen?"),
        ("timeout_head = 1", "1: unknown key 'timeout_head'; did you mean timeout-head?"),
        ("frobnicate = 1", "1: unknown key 'frobnicate'; 'threadgate check' lists"),
        ("\"a\\nb\" = 1", "1: unknown key 'a\\nb'; 'threadgate check' lists"),
        ("[timeout]\nhead = '1s'", "1: unknown key 'timeout'; did you mean timeout-head?"),
        ("open = true\nopen = false", "2: duplicate key at 'open'; give it once"),
        ("open = 'yes'", "1: open: text is not a switch; write open = true"),
        ("open = 1", "1: open: a number is not a switch"),
        ("verbose = 256", "1: verbose: a number from 0 to 255 is needed"),
        ("verbose = 'a'", "1: verbose: text is not a switch"),
        (
            "timeout-head = true",
            "1: timeout-head: true or false is not text; write timeout-head = \"",
        ),
        ("timeout-head = 1.5", "1: timeout-head: a number with a fraction is not text"),
        ("timeout-head = ['1s']", "1: timeout-head: an array is not text"),
        ("timeout-head = 2026-01-01", "1: timeout-head: a date is not text"),
        ("timeout-head = 99999999999999999999", "1: timeout-head: the number is too large"),
        ("timeout-head.x = 1", "1: timeout-head: a table is not text"),
        ("admin = true", "1: admin: true or false is not text"),
        (
            "listen = [\n'a',\n['b'],\n]",
            "3: listen: an array is not text; write listen = [\"ADDR\"",
        ),
        ("methods = []", "1: methods: the list is empty; leave the key out if all are meant"),
        ("timeout-head = 10s", "1: "),
        ("open = tru", "1: "),
        ("listen = ['a'", "1: "),
        ("= 1", "1: "),
        ("[rules]\naction = 'deny'", "1: [rules] is one table; write [[rules]], with two brackets"),
        ("rules = 1", "1: rules: a number is not a table; write [[rules]]"),
        ("rules = [1]", "1: rules: a number is not a table"),
        ("[[rules]]", "1: this rule has no action; write action = \"allow\" or"),
        ("[[rules]]\naction = 'drop'", "2: action: 'drop' is neither \"allow\" nor \"deny\"; give"),
        ("[[rules]]\naction = 1", "2: action: a number is neither"),
        (
            "[[rules]]\naction='deny'\nport = 1",
            "3: unknown key 'port' in [[rules]]; did you mean ports?",
        ),
        (
            "[[rules]]\naction='deny'\nsources = 1",
            "3: unknown key 'sources' in [[rules]]; it has action, name, clients",
        ),
        (
            "[[rules]]\naction='deny'\ntimeout-head = '1s'",
            "3: unknown key 'timeout-head' in [[rules]]; options belong above the first [[",
        ),
        ("[[rules]]\naction='deny'\nports = 0", "3: ports: '0' is neither a port nor a range"),
        ("[[rules]]\naction='deny'\nports = [1,\n'9-2']", "4: ports: '9-2' is neither a port"),
        ("[[rules]]\naction='deny'\nports = []", "3: ports: is empty; leave the key out"),
        ("[[rules]]\naction='deny'\nclients = 'x'", "3: clients: 'x' is not a network; give"),
        ("[[rules]]\naction='deny'\nclients = 1", "3: clients: a number is not text"),
        ("[[rules]]\naction='deny'\nusers = ''", "3: users: '' is not a user"),
        ("[[rules]]\naction='deny'\nmethods = 'get'", "3: methods: 'get' is not GET: the case"),
        (
            "[[rules]]\naction='deny'\nschemes = 'ftp'",
            "3: schemes: 'ftp' is not one of http, ws and",
        ),
        (
            "[[rules]]\naction='deny'\ndestinations = 'http://a'",
            "3: destinations: 'http://a' is a URL",
        ),
        ("[[rules]]\naction='deny'\nname = 'a b'", "3: name: 'a b' is not a name; give up to 64"),
        ("[[rules]]\naction='deny'\nname = 1", "3: name: a number is not text"),
        (
            "[[rules]]\naction='deny'\nname = 'protected-mode'",
            "3: name: 'protected-mode' is the name of a rule",
        ),
        ("[[rules]]\naction='deny'\nname = 'auth'", "3: name: 'auth' is the name of a rule"),
        (
            "[[rules]]\naction='deny'\nname='a'\n[[rules]]\naction='deny'\nname='a'",
            "6: name: 'a' is the name of another rule",
        ),
        ("[[listeners]]\nopen = true", "1: this listener has no address; write address"),
        ("[[listeners]]\naddress = 1", "2: address: a number is not text; write address = \"0"),
        ("[[listeners]]\naddress = ':1'\nopn = true", "3: unknown key 'opn' in [[listeners]]; did"),
        (
            "[[listeners]]\naddress = ':1'\ntimeout-head = '1s'",
            "3: timeout-head: holds for all listeners, not for one; write it above",
        ),
        (
            "[[listeners]]\naddress = ':1'\n[[listeners.rules]]\nname = 'a'",
            "3: this rule has no action",
        ),
    ] {
        let (_, wrong) = parse(text, Path::new("t.toml"));
        let first = wrong.first().unwrap_or_else(|| panic!("{text}: nothing is wrong"));
        let says = format!("t.toml:{says}");
        assert!(first.message.starts_with(&says), "{text}:\n{}\n{says}", first.message);
        assert!(first.message.contains("; ") || first.message.contains("did you"), "{first:?}");
    }
}

#[test]
fn what_may_be_a_password_is_not_repeated() {
    for text in [
        "auth = alice:s3cret",
        "auth = [alice:s3cret]",
        "auth = ['alice:s3cret",
        "auth = 'alice:s3cret\nx'",
        "auth = \"alice:s3cret\\q\"",
        "auth alice:s3cret",
        "auth = 'a' alice:s3cret",
    ] {
        let (_, wrong) = parse(text, Path::new("t.toml"));
        assert!(!wrong.is_empty(), "{text}");
        assert!(!wrong.iter().any(|wrong| wrong.message.contains("s3cret")), "{wrong:?}");
    }
}

#[test]
fn all_mistakes_are_found_up_to_a_number_and_in_the_order_of_the_lines() {
    let text = "[[rules]]\naction = 'drop'\n[[listeners]]\nx = 1\n";
    let (_, wrong) = parse(text, Path::new("t.toml"));
    let lines: Vec<&str> = wrong.iter().map(|w| w.message.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["t.toml:2:", "t.toml:3:", "t.toml:4:"]);
    let many: String = (0..50).map(|n| format!("x{n} = 1\n")).collect();
    let (_, wrong) = parse(&many, Path::new("t.toml"));
    assert_eq!(wrong.len(), MOST_WRONG + 1);
    assert_eq!(
        wrong.last().unwrap().message,
        "t.toml: there are more mistakes; correct these first"
    );
    let malformed = "= 1\n".repeat(50);
    let (_, wrong) = parse(&malformed, Path::new("t.toml"));
    assert_eq!(wrong.len(), MOST_WRONG + 1);
    assert!(wrong.last().unwrap().message.contains("there are more mistakes"), "{wrong:?}");
}

#[test]
fn a_line_that_cannot_be_parsed_is_one_mistake_and_hides_and_invents_no_other() {
    for (text, lines) in [
        ("a = 1\nlisten = [':1'\nopn = true", "1 2"),
        ("listen = [':1'\nthreads = 0\n[[rules]]\n", "1"),
        ("[[rules]\naction = 'deny'", "1"),
        ("[rules]]\naction = 'deny'", "1"),
        ("deny = 'a', 'b']\nopn = true", "1 2"),
        ("limit = [{a = 2]\nopn = true", "1"),
        ("deny = [\"a\nopn = true\n", "1 2"),
        ("access-log = \"C:\\\"\nopn = true", "1 2"),
        ("timeout-head = 10s\nopn = true", "1 2"),
        ("[[rules]]\nname = 'a'\naction 'deny'", "3"),
        ("[[rules]]\nname = 'a'\n[[rules]]\naction 'deny'", "1 4"),
        ("[[listeners]]\naddress '0.0.0.0:8080'\nopn = true", "2"),
        ("[[listeners]]\naddress =\nopen = true", "2"),
        ("connect-ports = [\n443,\n'x',\n99999,\n]", "3 4"),
        ("methods = ['GET', 'get', 'a b']", "1 1"),
    ] {
        let (_, wrong) = parse(text, Path::new("t.toml"));
        let found: Vec<String> = wrong.iter().map(|wrong| wrong.place.line().to_string()).collect();
        assert_eq!(found.join(" "), lines, "{text}: {wrong:#?}");
    }
}

#[test]
fn rules_are_kept_in_their_order_and_with_their_lines() {
    let text = "\
[[rules]]
action = 'deny'
clients = ['10.0.0.0/8', '::1']
users = 'eve'
destinations = '.example'
ports = [443, '8000-8999']
methods = 'POST'
schemes = ['http', 'ws', 'connect']

[[rules]]
name = 'rest'
action = 'allow'
";
    let (written, wrong) = parse(text, Path::new("t.toml"));
    assert_eq!(wrong, []);
    let mut origins = crate::policy::rule_origin::Origins::default();
    let rules: Vec<_> =
        written.rules.iter().map(|r| r.rule(&mut origins, &mut |_| Ok(None)).unwrap()).collect();
    let names: Vec<_> = rules.iter().map(|r| origins.name(r.id).to_string()).collect();
    assert_eq!(names, ["t.toml:1", "rest"]);
    let first = &rules[0];
    let counts = [
        first.clients.len(),
        first.users.len(),
        first.destinations.len(),
        first.ports.len(),
        first.methods.len(),
        first.ways.len(),
    ];
    assert_eq!(counts, [2, 1, 1, 2, 1, 3]);
    assert!(!first.admission, "it is looked at in its place");
}

#[test]
fn bytes_that_are_no_text_are_named_by_their_line() {
    let says = |bytes: &[u8]| text(Path::new("t.toml"), bytes).unwrap_err().message;
    assert!(says(b"a = 1\nb = '\xff'\n").starts_with("t.toml:2: this line is not UTF-8; save"));
    assert!(says(b"\xff\xfea\0").starts_with("t.toml:1: the file is UTF-16; save it as UTF-8"));
    assert_eq!(text(Path::new("t.toml"), b"\xef\xbb\xbfopen = true"), Ok("open = true"));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_taken_half() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, "open = true\n").unwrap();
    let (written, _) = read(&path).unwrap();
    assert_eq!(said(&written), "--open");
    // A file that is replaced while it is read is either the old one or the new one.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut seen = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let beside = dir.path().join("new");
            let texts = ["open = true\n", "verbose = 3\nopen = true\n"];
            for text in texts.iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                std::fs::write(&beside, text).unwrap();
                std::fs::rename(&beside, &path).unwrap();
            }
        });
        seen.extend((0..500).map(|_| read(&path).map(|(written, _)| said(&written)).ok()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let whole = ["--open", "--open --verbose --verbose --verbose"].map(str::to_owned).map(Some);
    assert!(seen.iter().all(|said| whole.contains(said)), "{seen:?}");
}

#[test]
fn what_people_and_machines_write_by_mistake_is_refused_in_time() {
    let mib = 1 << 20;
    for text in [
        "[".repeat(mib),
        "a = [".to_owned() + &"[".repeat(mib - 5),
        "=\n".repeat(mib / 2),
        "a.".repeat(mib / 2),
        "[[a]]\n".repeat(mib / 6),
        "\"".repeat(mib),
        "\0".repeat(mib),
        "a = '".to_owned() + &"x".repeat(mib - 5),
        (0..mib / 8).map(|n| format!("k{n}=1\n")).collect(),
    ] {
        let begin = std::time::Instant::now();
        let (_, wrong) = parse(&text, Path::new("t.toml"));
        assert!(!wrong.is_empty());
        let took = begin.elapsed();
        assert!(took.as_secs() < 30, "{:?}..: {took:?}", &text[..9]);
    }
}

/// The assertions of the fuzz target, for its seeds cut off anywhere, in every plain `cargo test`.
#[test]
fn every_seed_of_the_fuzz_target_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    for seed in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(seed.unwrap().path()).unwrap();
        for cut in 0..=bytes.len() {
            fuzz(&bytes[..cut]);
        }
    }
}
