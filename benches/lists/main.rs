//! Measures the cost of a long block list: to load, to keep, to search.
//!
//! ```text
//! cargo bench --bench lists                            a million names
//! cargo bench --bench lists -- --names 100000 --seed 7
//! cargo bench --bench lists -- --write list.txt        the list itself, for another program
//! cargo bench --bench lists -- --write list.txt --plain    only its names, each once
//! cargo bench --bench lists -- --read list.txt --json      what this list costs, in one line
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the bans are for the proxy's own sockets"
)]

mod names;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::json;
use threadgate::config::access::AccessOptions;
use threadgate::policy::Access;
use threadgate::policy::lists::Filter;

use names::{Draw, distinct, name, write_list};

struct Options {
    names: usize,
    seed: u64,
    loads: usize,
    write: Option<PathBuf>,
    plain: bool,
    read: Option<PathBuf>,
    json: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("lists: {why}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        names: 1_000_000,
        seed: 1,
        loads: 5,
        write: None,
        plain: false,
        read: None,
        json: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word}: needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("'{text}' is no number"));
        match word.as_str() {
            // cargo passes it.
            "--bench" => {}
            "--names" => options.names = number(value()?)? as usize,
            "--seed" => options.seed = number(value()?)?,
            "--loads" => options.loads = number(value()?)?.max(1) as usize,
            "--write" => options.write = Some(value()?.into()),
            "--plain" => options.plain = true,
            "--read" => options.read = Some(value()?.into()),
            "--json" => options.json = true,
            _ => return Err(format!("'{word}' is unknown; see the head of benches/lists/main.rs")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    if let Some(file) = &options.read {
        return measure(options, file);
    }
    let mut draw = Draw::new(options.seed);
    let names = distinct(options.names, &mut draw);
    if let Some(file) = &options.write {
        return write(options, &names, &mut draw, file).map_err(|e| wrong(file, &e));
    }
    let dir = std::env::temp_dir().join(format!("threadgate-lists-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| wrong(&dir, &e))?;
    let file = dir.join("list.txt");
    let written = write(options, &names, &mut draw, &file).map_err(|e| wrong(&file, &e));
    let measured = written.and_then(|()| elsewhere(&file));
    // A directory that cannot be removed does no harm.
    let _ = fs::remove_dir_all(&dir);
    measured
}

fn wrong(file: &Path, error: &io::Error) -> String {
    format!("{}: {error}", file.display())
}

/// Measures in a process that has not made the list. Memory freed there would be used again, and the list
/// would seem to take less.
fn elsewhere(file: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    words.extend(["--read".to_owned(), file.display().to_string()]);
    let status = Command::new(program).args(words).status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("measuring: {status}")) }
}

fn write(options: &Options, names: &[String], draw: &mut Draw, file: &Path) -> io::Result<()> {
    let mut to = BufWriter::new(File::create(file)?);
    if options.plain {
        names.iter().try_for_each(|name| writeln!(to, "{name}"))?;
    } else {
        write_list(names, draw, &mut to)?;
    }
    to.flush()
}

/// The cost of one load, in seconds and MB.
struct Load {
    seconds: f64,
    growth: f64,
    peak: f64,
}

fn measure(options: &Options, file: &Path) -> Result<(), String> {
    let (mut loads, access) = load(options.loads, file)?;
    let (hits, misses) = asked(options, file).map_err(|e| wrong(file, &e))?;
    let filter = access.filter().ok_or("no list was read")?;
    let (hit, found) = look_up(filter, &hits);
    let (miss, wrongly) = look_up(filter, &misses);
    if found != hits.len() || wrongly * 100 > misses.len() {
        return Err(format!("{found} of {} names and {wrongly} others are listed", hits.len()));
    }
    if options.json {
        loads.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let median = &loads[loads.len() / 2];
        let list_mb = filter.bytes() as f64 / 1e6;
        println!(
            "{}",
            json!({
                "names": filter.len(), "load_s": median.seconds, "list_mb": list_mb,
                "hit_ns": hit, "miss_ns": miss,
            })
        );
        return Ok(());
    }
    for (number, Load { seconds, growth, peak }) in loads.iter().enumerate() {
        let number = number + 1;
        println!(
            "load {number}: {seconds:.3} s, resident growth {growth:.1} MB (peak {peak:.1} MB)"
        );
    }
    println!("names: {}, {:.1} MB", filter.len(), filter.bytes() as f64 / 1e6);
    println!("lookup, hit: {hit:.0} ns ({found} of {} found)", hits.len());
    println!("lookup, miss: {miss:.0} ns ({wrongly} of {} found)", misses.len());
    Ok(())
}

/// Names on the list or below it, and others.
fn asked(options: &Options, file: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    const ASKED: usize = 65_536;
    let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
    // In the form of a request: lower case, without a dot at the end.
    let is_name = |line: &&str| {
        line.contains('.')
            && line
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    let names: Vec<&str> = text.lines().filter(is_name).collect();
    if names.is_empty() {
        return Err(io::Error::other("has no names"));
    }
    // Not the draws that the list was made from.
    let mut draw = Draw::new(options.seed + 1);
    let hits = (0..ASKED).map(|_| {
        let name = names[draw.below(names.len())];
        if draw.below(2) == 0 { name.to_owned() } else { format!("www.{name}") }
    });
    let hits = hits.collect();
    let misses = (0..ASKED).map(|_| format!("www.{}", name(&mut draw))).collect();
    Ok((hits, misses))
}

/// Reads the list as a start or a reload does; the old list is dropped after the new one is read.
fn load(times: usize, file: &Path) -> Result<(Vec<Load>, Access), String> {
    let text = file.to_str().ok_or("the list's path is not UTF-8")?.to_owned();
    let options = AccessOptions { block_list: vec![text], ..AccessOptions::default() };
    let before = resident();
    let grown = |now: u64| now.saturating_sub(before) as f64 * 1024.0 / 1e6;
    let (mut loads, mut kept) = (Vec::new(), None);
    for _ in 0..times {
        let since = Instant::now();
        let built = options.build(None).map_err(|wrong| wrong.to_string())?;
        let seconds = since.elapsed().as_secs_f64();
        kept = Some(built);
        loads.push(Load { seconds, growth: grown(resident()), peak: grown(peak()) });
    }
    Ok((loads, kept.ok_or("nothing was loaded")?))
}

/// Nanoseconds of a lookup, and how many hosts were found. All hosts are looked up several times, a few at
/// a time, and the best time of each few counts, so that turns of other programs on this processor are left
/// out.
fn look_up(filter: &Filter, hosts: &[String]) -> (f64, usize) {
    let mut best = vec![Duration::MAX; hosts.len().div_ceil(FEW)];
    let mut found = 0;
    for _ in 0..20 {
        found = 0;
        for (best, few) in best.iter_mut().zip(hosts.chunks(FEW)) {
            let since = Instant::now();
            found +=
                few.iter().filter(|host| black_box(filter.find(black_box(host))).is_some()).count();
            *best = since.elapsed().min(*best);
        }
    }
    let sum: Duration = best.iter().sum();
    (sum.as_secs_f64() * 1e9 / hosts.len() as f64, found)
}

const FEW: usize = 512;

/// KiB of anonymous memory that this process uses.
fn resident() -> u64 {
    status("RssAnon:")
}

fn peak() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
