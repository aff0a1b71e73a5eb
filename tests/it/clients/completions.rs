//! Completions, asked of the shells themselves: what stands behind a command line that is not whole.

use std::fs;
use std::process::Command;

use crate::programs::text;

use super::installed::tool;

/// Command lines whose last word is to be completed, some of what is offered, and what must not be.
const LINES: [(&[&str], &[&str], &[&str]); 12] = [
    (&["ex"], &["explain"], &["serve"]),
    (&[""], &["serve", "check", "explain", "passwd", "completions", "help"], &["--deny"]),
    (&["--timeout-h"], &["--timeout-head"], &["--timeout-idle"]),
    (&["serve", "--timeout-h"], &["--timeout-head"], &[]),
    (&["--log-format", ""], &["text", "json", "common", "combined"], &["--deny"]),
    (&["-c", "thr"], &["threadgate.toml"], &["users.txt"]),
    (&["--access-log", "o"], &["off"], &[]),
    (&["explain", "--he"], &["--hello", "--help"], &[]),
    (&["explain", "--deny-t"], &["--deny-type"], &[]),
    (&["passwd", "us"], &["users.txt"], &[]),
    (&["completions", ""], &["bash", "zsh", "fish"], &["users.txt"]),
    (&["help", "acc"], &["access", "access-log"], &["logs"]),
];

/// A directory with some files, and the completions of a shell in it.
fn directory(shell: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script = text(Command::new(env!("CARGO_BIN_EXE_threadgate")).args(["completions", shell]));
    fs::write(dir.path().join("completions"), script).unwrap();
    for name in ["threadgate.toml", "users.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    dir
}

#[track_caller]
fn check(shell: &str, ask: impl Fn(&mut Command, &[&str])) {
    let dir = directory(shell);
    for (words, offered, others) in LINES {
        let Some(mut command) = tool(shell) else { return };
        ask(command.current_dir(dir.path()), words);
        let said = text(&mut command);
        // What stands behind a tab, or a blank that is escaped, explains the word.
        let found: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap()).collect();
        for word in offered {
            assert!(found.contains(word), "{shell} {words:?}: no {word} in {found:?}");
        }
        for word in others {
            assert!(!found.contains(word), "{shell} {words:?}: {word} in {found:?}");
        }
    }
}

#[test]
fn bash_completes_commands_options_values_and_files() {
    check("bash", |bash, words| {
        let ask = "source completions; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                   compopt() { :; }; _threadgate; printf '%s\\n' \"${COMPREPLY[@]}\"";
        bash.args(["--norc", "-c", ask, "bash", "threadgate"]).args(words);
    });
}

#[test]
fn bash_knows_an_option_with_its_value_in_one_word() {
    let dir = directory("bash");
    let Some(mut bash) = tool("bash") else { return };
    let ask = "source completions; COMP_WORDS=(threadgate --log-format = j); COMP_CWORD=3; \
               _threadgate; printf '%s\\n' \"${COMPREPLY[@]}\"";
    assert_eq!(text(bash.current_dir(dir.path()).args(["--norc", "-c", ask])), "json\n");
}

#[test]
fn fish_completes_commands_options_values_and_files() {
    check("fish", |fish, words| {
        let line = format!("threadgate {}", words.join(" "));
        let ask = "source completions; complete -C \"$argv[1]\"";
        fish.env("HOME", ".").args(["--no-config", "-c", ask, &line]);
    });
}

/// Only zsh's line editor completes, so what is handed to it is looked at.
#[test]
fn zsh_describes_commands_and_the_options_of_each() {
    let dir = directory("zsh");
    for (words, offered, others) in [
        (&["threadgate", ""][..], &["serve:", "explain:", "help:"][..], &["--deny"][..]),
        (&["threadgate", "--"], &["--listen=", "--log-format=", "json"], &["--hello="]),
        (&["threadgate", "explain", "-"], &["--hello=", "--deny=", "GET"], &[]),
        (&["threadgate", "passwd", ""], &["--algorithm=", "_files"], &["--deny="]),
        (&["threadgate", "help", ""], &["access", "timeouts"], &["--deny="]),
    ] {
        let Some(mut zsh) = tool("zsh") else { return };
        let ask = "words=(\"$@\"); CURRENT=$#; _arguments() { print -rl -- \"$@\"; }; \
                   _describe() { print -rl -- $commands; }; source ./completions";
        zsh.current_dir(dir.path()).args(["-f", "-c", ask, "zsh"]).args(words);
        let said = text(&mut zsh);
        for word in offered {
            assert!(said.contains(word), "{words:?}: no {word} in {said}");
        }
        for word in others {
            assert!(!said.contains(word), "{words:?}: {word} in {said}");
        }
    }
}
