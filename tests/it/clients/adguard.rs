//! AdGuard's DNS filtering engine, which reads the same lists: the same lines give the same verdicts, but
//! for the differences in a table.
//!
//! `generate` makes lists, `lines` the hosts that tell readers of a list apart, and `differences` is the
//! table. `docs/lists-adguard.md` is made from it. `compare` checks that a row really is the reason: it takes
//! the lines out that the row is about, and asks both engines again. To compare the engines on lists of your own:
//!
//! ```console
//! $ THREADGATE_LISTS=easylist.txt:hosts.txt cargo test --test it -- --nocapture given_lists
//! ```

mod agreed;
mod compare;
mod differences;
mod engines;
mod generate;
mod lines;

use std::fs;
use std::path::{Path, PathBuf};

use self::agreed::AGREED;
use self::compare::Compared;
use self::differences::{DIFFERENCES, table};
use self::engines::{Action, Case, Engines};
use self::generate::Draw;

/// Cases of lists in adblock format.
fn adblock_cases() -> Vec<Case> {
    let case = |seed| {
        let draw = &mut Draw::new(seed);
        let names = generate::names(draw);
        let lists = generate::adblock_lists(draw, &names, 3, 28, 60);
        Case::with_own_hosts(format!("case {seed}"), lists)
    };
    (1..=36).map(case).collect()
}

/// Cases of lists in all formats, with many rare rules.
fn mixed_cases() -> Vec<Case> {
    let case = |seed| {
        let draw = &mut Draw::new(seed);
        let names = generate::names(draw);
        let mut lists = generate::adblock_lists(draw, &names, 1, 24, 500);
        lists.push(generate::hosts_file(draw, &names));
        lists.push(generate::domains(draw, &names));
        Case::with_own_hosts(format!("case {seed}"), lists)
    };
    (101..=132).map(case).collect()
}

#[test]
fn generated_lists_mean_to_adguard_what_they_mean_here_but_for_the_table() {
    let Some(engines) = Engines::installed() else { return };
    let (adblock, mixed) = (adblock_cases(), mixed_cases());
    let rules = adblock.iter().flat_map(|case| &case.lists).flat_map(|list| list.lines()).count();
    assert!(rules > 3000, "{rules}");
    let (adblock, mixed) = (Compared::new(&engines, &adblock), Compared::new(&engines, &mixed));
    let report = format!("{}\nmixed: {}", adblock.report(), mixed.report());
    println!("{report}");
    assert_eq!(adblock.unexplained().count() + mixed.unexplained().count(), 0, "{report}");
    assert!(adblock.asked > 10_000 && mixed.asked > 3000, "{report}");
    // The hosts tell readers apart: each verdict is common.
    assert!(
        adblock.given.iter().all(|(_, count)| count * 10 > adblock.asked),
        "{:?}",
        adblock.given
    );
    assert!(adblock.disagreements.len() * 100 <= adblock.asked, "{report}");
    let rows = adblock.by_row().into_iter().zip(mixed.by_row()).zip(DIFFERENCES);
    let dead: Vec<_> =
        rows.filter(|((one, other), _)| one + other == 0).map(|(_, row)| row.list_has).collect();
    assert!(dead.is_empty(), "these rows explain nothing: {dead:#?}\n{report}");
}

#[test]
fn each_form_of_a_rule_means_to_adguard_what_it_means_here() {
    let Some(engines) = Engines::installed() else { return };
    let hosts =
        |row: &[(&'static str, Action)]| row.iter().map(|(host, _)| *host).collect::<Vec<_>>();
    let cases: Vec<_> = AGREED.iter().map(|(list, row)| Case::of(list, &hosts(row))).collect();
    let mut wrong = Vec::new();
    for ((list, row), verdicts) in AGREED.iter().zip(engines.verdicts(&cases)) {
        for ((host, expected), (adguard, threadgate)) in row.iter().zip(verdicts) {
            if adguard.action != *expected || threadgate.action != *expected {
                wrong.push(format!(
                    "{list:?} {host} should be {expected:?}: AdGuard's engine: {adguard}; \
                     threadgate: {threadgate}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_row_of_the_table_says_how_the_engines_differ() {
    let Some(engines) = Engines::installed() else { return };
    let examples = DIFFERENCES.iter().map(|row| &row.example);
    let cases: Vec<_> = examples.clone().map(|e| Case::of(e.list, &[e.host])).collect();
    let mut wrong = Vec::new();
    for (example, verdicts) in examples.zip(engines.verdicts(&cases)) {
        let (adguard, threadgate) = &verdicts[0];
        if (adguard.action, threadgate.action) != (example.adguard, example.threadgate) {
            let (list, host) = (example.list, example.host);
            wrong.push(format!(
                "{list:?} {host}: AdGuard's engine: {adguard}; threadgate: {threadgate}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let compared = Compared::new(&engines, &cases);
    let rows = (0..DIFFERENCES.len()).zip(&compared.disagreements);
    for (row, of) in rows {
        assert!(of.is_explained && of.rows.contains(&row), "{of} is not explained by its row");
    }
}

#[test]
fn the_page_has_the_table_of_differences() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("docs/lists-adguard.md");
    let written = fs::read_to_string(&page).unwrap();
    let (head, rest) = written.split_once("|---|---|---|---|\n").unwrap();
    let length = rest.lines().take_while(|l| l.starts_with('|')).map(|l| l.len() + 1).sum();
    let (rows, after) = rest.split_at(length);
    let made = table();
    if std::env::var_os("THREADGATE_WRITE_DOCS").is_some() {
        fs::write(page, format!("{head}|---|---|---|---|\n{made}{after}")).unwrap();
        return;
    }
    let tools = fs::read_to_string(root.join(".ci/tools")).unwrap();
    let (_, version) = tools.split_once("@adguard/tsurlfilter@").unwrap();
    let version = version.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap();
    assert!(head.contains(&format!("`@adguard/tsurlfilter` {version}")), "{version}");
    assert!(rows == made, "docs/lists-adguard.md is old; run `make docs`. It should have:\n{made}");
}

/// The lists in THREADGATE_LISTS, or else the seeds of the fuzz targets, each alone, with hosts from its own lines.
#[test]
fn given_lists_mean_to_adguard_what_they_mean_here() {
    const MOST_HOSTS: usize = 20_000;
    let Some(engines) = Engines::installed() else { return };
    let files: Vec<PathBuf> = match std::env::var_os("THREADGATE_LISTS") {
        Some(files) => std::env::split_paths(&files).collect(),
        None => {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/list_adblock");
            fs::read_dir(corpus).unwrap().map(|seed| seed.unwrap().path()).collect()
        }
    };
    assert!(files.len() > 1 || std::env::var_os("THREADGATE_LISTS").is_some());
    let mut unexplained = 0;
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let mut case = Case::with_own_hosts(file.display().to_string(), vec![text]);
        let step = case.hosts.len().div_ceil(MOST_HOSTS).max(1);
        case.hosts = case.hosts.into_iter().step_by(step).collect();
        let cases = [case];
        let compared = Compared::new(&engines, &cases);
        println!("{}: {}", file.display(), compared.report());
        unexplained += compared.unexplained().count();
    }
    assert_eq!(unexplained, 0);
}
