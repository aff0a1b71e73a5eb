//! Tests which options are said to do nothing beside the others, and which are not.

use std::collections::BTreeSet;

use super::effective;
use crate::config::no_effect;

/// The warnings about these words, and a file of this text. A level of messages is set for options that
/// lower or raise it.
fn warnings(words: &str, text: &str) -> Vec<String> {
    let level = [("RUST_LOG", "debug")];
    let is_about_levels = words.contains("RUST_LOG");
    let words = words.replace("RUST_LOG", "");
    let found = effective(&words, &level[..usize::from(is_about_levels)], text)
        .unwrap_or_else(|e| panic!("{words} {text}: {e}"));
    let warnings = found.warnings.into_iter();
    // The directory of the file differs from run to run.
    warnings
        .map(|said| {
            said.split_once("/t.toml").map_or(said.clone(), |(_, at)| format!("t.toml{at}"))
        })
        .collect()
}

#[test]
fn each_option_that_does_nothing_is_named_with_what_it_lacks() {
    let mut seen = BTreeSet::new();
    for (words, says, beside) in [
        ("--admin-name a.example", "--admin-name a.example has no effect: there", "--admin :9127"),
        ("--admin-name a --admin unix:/run/a", "--admin-name a has no effect: there is no", ""),
        ("--open", "--open has no effect: nothing is protected on loopback", "--listen 0.0.0.0:1"),
        ("--open --listen [::1]:1", "--open has no effect", "--admin 0.0.0.0:2"),
        ("--watch", "--watch has no effect: there is no file to watch", "--hosts-file /h"),
        (
            "--deny-client 192.168.7.7",
            "--deny-client 192.168.7.7 has no effect: only this machine",
            "--listen 0.0.0.0:1",
        ),
        (
            "--deny-client 127.0.0.0/8",
            "--deny-client 127.0.0.0/8 refuses every client: it names all that can reach",
            "--listen 0.0.0.0:1",
        ),
        ("--deny-client ::1 --listen [::1]:1", "--deny-client ::1 refuses every client", ""),
        (
            "--deny-client 0.0.0.0/0 --listen 0.0.0.0:1",
            "--deny-client 0.0.0.0/0 refuses every client",
            "--listen [::]:2",
        ),
        (
            "--allow-client 192.168.0.0/16",
            "--allow-client 192.168.0.0/16 refuses every client: only this machine",
            "--allow-client 127.0.0.1",
        ),
        (
            "--allow-client ::1",
            "--allow-client ::1 refuses every client: only this machine",
            "--allow-client 127.0.0.1",
        ),
        (
            "--deny-client ::1",
            "--deny-client ::1 has no effect: only this machine",
            "--listen [::1]:1",
        ),
        ("--allow a.example", "--allow a.example refuses nothing by itself", "--policy enforce"),
        ("--allow a.example", "--allow a.example refuses nothing", "--deny .example"),
        ("--allow a.example --allow b", "--allow refuses nothing by itself", "--listen 0.0.0.0:1"),
        ("--allow-list /l", "--allow-list /l has no effect: there is no", "--block-list /b"),
        ("--allow-list /l --deny a", "--allow-list /l has no effect", "--policy report"),
        ("--allow-url /a", "--allow-url /a has no effect: no --deny-url", "--deny-url /b"),
        (
            "--list-options wide",
            "--list-options wide has no effect: there is no",
            "--block-list /b",
        ),
        (
            "--list-options wide --allow-list /l",
            "--list-options wide has no effect",
            "--block-list /b",
        ),
        ("--policy enforce", "--policy enforce refuses every request: nothing", "--allow a"),
        ("--policy enforce --deny a", "--policy enforce refuses every request", "--allow-list /l"),
        ("--policy enforce --allow-client 127.0.0.1", "--policy enforce refuses", "--allow-url a"),
        (
            "--schemes http --methods CONNECT",
            "--schemes http refuses every request together with --methods",
            "--policy report --allow a",
        ),
        (
            "--connect-ports 443 --methods GET",
            "--connect-ports 443 has no effect: --methods or --schemes lets no CONNECT",
            "",
        ),
        ("--connect-ports 443 --schemes http,ws", "--connect-ports 443 has no effect", ""),
        ("--sni match --schemes http", "--sni match has no effect: --methods or", ""),
        ("--timeout-tunnel 1h --schemes http", "--timeout-tunnel 1h has no effect", ""),
        ("--deny-url a --schemes connect", "--deny-url a has no effect: --methods or", ""),
        ("--deny-type video/* --methods CONNECT", "--deny-type video/* has no effect", ""),
        ("--max-response-size 1GB --schemes connect", "--max-response-size 1GB has no", ""),
        ("--forwarded-for on --schemes connect", "--forwarded-for on has no effect", ""),
        ("--strict-responses --schemes connect", "--strict-responses has no effect", ""),
        ("--deny-with 204", "--deny-with 204 has no effect: no rule", "--deny a"),
        ("--deny-with 204 --limit-requests 1/s", "--deny-with 204 has no effect", "--methods GET"),
        ("--fail-on-deny", "--fail-on-deny has no effect: no rule", "--deny-client 127.0.0.1"),
        (
            "--fail-on-deny --allow a --policy learn --learn-file /l",
            "--fail-on-deny has no",
            "--sni match",
        ),
        ("--fail-on-deny", "--fail-on-deny has no effect", "--listen 0.0.0.0:1"),
        (
            "--limit user:1mbit",
            "--limit user:1mbit has no effect: there are no users",
            "--auth a:b",
        ),
        (
            "--limit user=ann:1mbit --limit user:up=2mbit --limit 3mbit",
            "--limit user=ann:1mbit, user:up=2mbit has no effect: there are no users",
            "--auth-file /u",
        ),
        (
            "--limit user=bob:1mbit --auth ann:x",
            "--limit user=bob:1mbit has no effect: there is no such user",
            "--auth-env NO_SUCH",
        ),
        (
            "--limit-per user --limit 1mbit",
            "--limit-per user has no effect: there are",
            "--auth a:b",
        ),
        ("--log-format json", "--log-format json has no effect: there is no", "--access-log -"),
        ("RUST_LOG --verbose", "--verbose has no effect: THREADGATE_LOG or RUST_LOG sets", ""),
        ("RUST_LOG --quiet --quiet", "--quiet has no effect: THREADGATE_LOG or RUST_LOG", ""),
        ("--pool-idle 1m --pool-per-destination 0", "--pool-idle 1m has no effect", ""),
        ("--pool-per-destination 9 --pool-idle 0", "--pool-per-destination 9 has no", ""),
    ] {
        let found = warnings(words, "");
        let is_meant = |said: &&String| said.starts_with(says);
        let said = found.iter().find(is_meant);
        let said = said.unwrap_or_else(|| panic!("{words}: no {says:?} in {found:#?}"));
        seen.extend(no_effect::says().into_iter().filter(|sentence| said.ends_with(sentence)));
        if !beside.is_empty() {
            let found = warnings(&format!("{words} {beside}"), "");
            assert!(
                !found.iter().any(|said| said.starts_with(says)),
                "{words} {beside}: {found:#?}"
            );
        }
    }
    // Every row of the table is tried.
    let all: BTreeSet<&str> = no_effect::says().into_iter().collect();
    assert_eq!(seen, all);
    assert!(all.iter().all(|says| says.contains("; ")), "each sentence says what to try");
}

#[test]
fn what_is_usual_and_what_does_something_is_not_warned_about() {
    for words in [
        "",
        "--log-format text --sni check --deny-with 403 --policy open --timeout-tunnel 10m",
        "--forwarded-for off --access-log off --color auto --limit-per total --auth-realm threadgate",
        "--sni off",
        "--verbose --verbose",
        "--quiet",
        "RUST_LOG --log-format text",
        "--pool-idle 0",
        "--pool-idle 0 --pool-per-destination 0",
        "--drain 0",
        "--drain 1m --exit-after 5",
        "--limit client:1mbit --limit client=10.0.0.0/8:2mbit --limit destination=a:1mbit",
        "--limit user=ann:1mbit --auth ann:x --auth-realm house",
        "--policy learn --learn-file /l --allow a.example --allow-list /l",
        "--policy report --allow-url a",
        "--policy report --schemes connect --deny-url a --forwarded-for on",
        "--policy report",
        "--deny-client 127.0.0.9 --allow-client 127.0.0.0/8 --fail-on-deny --deny-with 204",
        "--allow-client ::/0 --allow-client 0.0.0.0/0",
        "--block-list /b --allow-list /l --deny-with http://a.example/",
        "--max-response-size 1GB --fail-on-deny",
        "--listen 0.0.0.0:1 --open --fail-on-deny --deny a",
        "--schemes ws --methods GET --timeout-tunnel 1h --deny-url a",
        "--admin :9127 --admin-name a.example",
    ] {
        assert_eq!(warnings(words, ""), [""; 0], "{words}");
    }
    for text in ["watch = true", "open = false\nstrict-responses = false\nlog-format = 'text'"] {
        assert_eq!(warnings("", text), [""; 0], "{text}");
    }
}

#[test]
fn an_option_of_several_listeners_does_something_if_it_does_on_one() {
    let here = "[[listeners]]\naddress = '127.0.0.1:1'\n";
    let beyond = "[[listeners]]\naddress = '0.0.0.0:2'\n";
    let users = "auth = 'ann:x'\n";
    for (common, first, second, says) in [
        ("limit = 'user:1mbit'\n", users, "", None),
        ("limit = 'user:1mbit'\n", "", "", Some("t.toml:1: limit user:1mbit has no effect")),
        ("auth = 'ann:x'\n", "limit = 'user:1mbit'\n", "", None),
        ("", "limit = 'user:1mbit'\n", users, Some("t.toml:3: limit user:1mbit has no effect")),
        ("limit-per = 'user'\nlimit = '1mbit'\n", users, "", None),
        ("limit-per = 'client'\n", "limit = '1mbit'\n", "", None),
        ("auth-realm = 'house'\n", users, "", None),
        ("open = true\n", "", "", None),
        ("", "open = true\n", "", Some("t.toml:3: open has no effect")),
        ("policy = 'enforce'\n", "allow = 'a'\n", "allow = 'b'\n", None),
        ("policy = 'enforce'\n", "allow = 'a'\n", "", None),
        (
            "",
            "policy = 'enforce'\n",
            "allow = 'b'\n",
            Some("t.toml:3: policy enforce refuses every"),
        ),
        ("", "", "policy = 'enforce'\n[[listeners.rules]]\naction = 'allow'\nports = 80\n", None),
        ("deny-with = '204'\n", "deny = 'a'\n", "", None),
        ("allow = 'a.example'\n", "", "", None),
        ("", "allow = 'a.example'\n", "", Some("t.toml:3: allow a.example refuses nothing")),
        ("fail-on-deny = true\n", "", "", None),
        (
            "fail-on-deny = true\n",
            "",
            "open = true\n",
            Some("t.toml:1: fail-on-deny has no effect"),
        ),
        ("fail-on-deny = true\n", "deny = 'a'\n", "open = true\n", None),
    ] {
        let text = format!("{common}{here}{first}{beyond}{second}");
        let found = warnings("", &text);
        match says {
            None => assert_eq!(found, [""; 0], "{text}"),
            Some(says) => {
                assert!(found.len() == 1 && found[0].starts_with(says), "{text}{found:#?}")
            }
        }
    }
}

#[test]
fn rules_are_looked_at_too() {
    let deny = "[[rules]]\naction = 'deny'\nports = 81\n";
    let allow = "[[rules]]\naction = 'allow'\nclients = '127.0.0.1'\n";
    for (words, text) in [
        ("--fail-on-deny --deny-with 204", deny),
        ("--policy enforce", allow),
        ("--allow a.example", deny),
        ("--auth ann:x", "[[rules]]\naction = 'deny'\nusers = 'ann'\n"),
    ] {
        assert_eq!(warnings(words, text), [""; 0], "{words} {text}");
    }
    let found = warnings("--fail-on-deny", allow);
    assert!(found[0].starts_with("--fail-on-deny has no effect"), "{found:?}");
    let found = warnings("--policy enforce", deny);
    assert!(found[0].starts_with("--policy enforce refuses every request"), "{found:?}");
    let found = warnings("", "[[rules]]\naction = 'allow'\nusers = ['ann']\n");
    assert!(
        found[0].starts_with("t.toml:1: this rule for users has no effect: there are no users")
    );
    let bob = "[[rules]]\naction = 'allow'\nusers = ['bob']\n";
    let found = warnings("--auth ann:x --deny a", bob);
    assert!(
        found[0].starts_with("t.toml:1: this rule for users has no effect: there is no such user"),
        "{found:?}"
    );
    assert_eq!(warnings("--auth ann:x --auth bob:y --deny a", bob), [""; 0]);
    let found = warnings("--deny-with 204 --policy report --deny a", "");
    assert!(found[0].starts_with("--deny-with 204 has no effect"), "{found:?}");
    let words = "--deny-with 204 --policy report --deny-client 10.0.0.1 --listen 0.0.0.0:1";
    assert_eq!(warnings(words, ""), [""; 0]);
}

#[test]
fn a_value_is_named_by_its_place() {
    let variable = [("THREADGATE_LOG_FORMAT", "json")];
    let said = effective("", &variable, "").unwrap().warnings;
    assert!(said[0].starts_with("THREADGATE_LOG_FORMAT json has no effect"), "{said:?}");
    let said = warnings("", "\n\nlog-format = 'json'");
    assert!(said[0].starts_with("t.toml:3: log-format json has no effect"), "{said:?}");
    // A value that another one replaces is not in effect.
    assert_eq!(warnings("--log-format text", "log-format = 'json'"), [""; 0]);
}
