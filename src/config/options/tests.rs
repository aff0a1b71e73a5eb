use std::collections::BTreeSet;

use super::*;
use crate::config::settings::Settings;
use crate::config::values::Config;

fn words(text: &str) -> Settings {
    Settings::of_words(&text.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn no_two_options_have_one_name_or_one_letter() {
    let names: BTreeSet<&str> = all().map(|row| row.name).collect();
    assert_eq!(names.len(), all().count());
    let letters: Vec<char> = all().filter_map(|row| row.letter).chain(['h', 'V']).collect();
    assert_eq!(BTreeSet::from_iter(letters.iter().copied()).len(), letters.len());
    let topics: BTreeSet<&str> = TOPICS.iter().map(|topic| topic.name).collect();
    assert_eq!(topics.len(), TOPICS.len());
    assert!(all().filter_map(|row| row.instead_of).all(|other| find(other).is_some()));
}

#[test]
fn every_row_is_whole() {
    for row in all() {
        let name = row.name;
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        assert_eq!(row.has_value(), !row.hint.is_empty(), "{name}: a value has a hint");
        assert!(!row.brief.is_empty() && row.brief.len() <= 52, "{name}: {}", row.brief);
        assert!(!row.brief.ends_with('.'), "{name}: {}", row.brief);
        for text in [row.help, row.more] {
            let ends = text.is_empty() || text.ends_with(['.', ')']);
            assert!(ends && !text.contains("  "), "{name}: {text}");
        }
        assert!(!row.help.is_empty(), "{name}");
        let has_value = !row.example.is_empty() || matches!(row.default, Usual::Value(_));
        let is_key = row.file != FileUse::Configuration;
        assert!(has_value || !is_key, "{name}: the example of a file has a value");
    }
}

/// Each default of the table is the value without the option, and each word is accepted.
#[test]
fn defaults_and_words_are_those_that_are_read() {
    // The code that uses these options has the default.
    const USED_ELSEWHERE: [&str; 2] = ["auth-realm", "limit-per"];
    let usual = format!("{:?}", Config::default());
    for row in all() {
        if let Usual::Value(value) = row.default {
            let mut settings = Settings::default();
            settings.add(
                row,
                crate::config::settings::WrittenValue {
                    text: value.to_owned(),
                    place: crate::config::settings::WrittenAt::Flag,
                },
            );
            let (config, wrong) = settings.meaning();
            assert_eq!(wrong, [], "{}", row.name);
            let same = format!("{config:?}") == usual;
            assert!(same || USED_ELSEWHERE.contains(&row.name), "{} {value}", row.name);
        }
        for word in row.words() {
            let (_, wrong) = words(&format!("--{} {word}", row.name)).meaning();
            assert_eq!(wrong, [], "{} {word}", row.name);
        }
    }
}

#[test]
fn a_file_is_known_among_the_words_of_its_option() {
    for (option, value, file) in [
        ("access-log", "a", Some("a")),
        ("access-log", "-", None),
        ("access-log", "off", None),
        ("access-log", "./off", Some("./off")),
        ("admin", "unix:a", Some("a")),
        ("admin", ":9127", None),
        ("admin", "off", None),
        ("pid-file", "a", Some("a")),
        ("pid-file", "", None),
        ("deny", "a", None),
    ] {
        assert_eq!(find(option).unwrap().file_of(value), file, "{option} {value}");
    }
}
