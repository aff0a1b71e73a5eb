//! What a long block list costs: to load, to keep, to look into.
//!
//! ```text
//! cargo bench --bench lists                            a million names
//! cargo bench --bench lists -- --names 100000 --seed 7
//! cargo bench --bench lists -- --write list.txt        the list itself, for another program
//! cargo bench --bench lists -- --write list.txt --plain    only its names, each once
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
use std::process::ExitCode;
use std::time::Instant;

use threadgate::config::access::AccessOptions;

use names::{Draw, distinct, name, write_list};

struct Options {
    names: usize,
    seed: u64,
    loads: usize,
    write: Option<PathBuf>,
    plain: bool,
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
    let mut options = Options { names: 1_000_000, seed: 1, loads: 5, write: None, plain: false };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word}: needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("'{text}' is no number"));
        match word.as_str() {
            // cargo says so.
            "--bench" => {}
            "--names" => options.names = number(value()?)? as usize,
            "--seed" => options.seed = number(value()?)?,
            "--loads" => options.loads = number(value()?)?.max(1) as usize,
            "--write" => options.write = Some(value()?.into()),
            "--plain" => options.plain = true,
            _ => return Err(format!("'{word}' is unknown; see the head of benches/lists/main.rs")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let mut draw = Draw::new(options.seed);
    let names = distinct(options.names, &mut draw);
    let dir = std::env::temp_dir().join(format!("threadgate-lists-{}", std::process::id()));
    let file = options.write.clone().unwrap_or_else(|| dir.join("list.txt"));
    let wrong = |e: io::Error| format!("{}: {e}", file.display());
    if options.write.is_none() {
        fs::create_dir_all(&dir).map_err(wrong)?;
    }
    write(options, &names, &mut draw, &file).map_err(wrong)?;
    if options.write.is_some() {
        return Ok(());
    }
    let hits: Vec<String> = (0..65_536)
        .map(|_| {
            let name = &names[draw.below(names.len())];
            if draw.below(2) == 0 { name.clone() } else { format!("www.{name}") }
        })
        .collect();
    drop(names);
    let misses: Vec<String> = (0..65_536).map(|_| format!("www.{}", name(&mut draw))).collect();
    let measured = measure(options, &file, &hits, &misses);
    // What cannot be removed does not matter.
    let _ = fs::remove_dir_all(&dir);
    measured
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

fn measure(
    options: &Options,
    file: &Path,
    hits: &[String],
    misses: &[String],
) -> Result<(), String> {
    let text = file.to_str().ok_or("the directory for temporary files is not UTF-8")?.to_owned();
    let access = AccessOptions { block_list: vec![text], ..AccessOptions::default() };
    let mut kept = None;
    let before = resident();
    for number in 1..=options.loads {
        let since = Instant::now();
        let built = access.build(None).map_err(|wrong| wrong.message)?;
        let took = since.elapsed();
        // The one before is dropped behind the new one, as a reload does it.
        kept = Some(built);
        println!(
            "load {number}: {:.3} s, resident growth {:.1} MB (peak {:.1} MB)",
            took.as_secs_f64(),
            resident().saturating_sub(before) as f64 / 1e3,
            peak().saturating_sub(before) as f64 / 1e3,
        );
    }
    let filter =
        kept.as_ref().and_then(|access| access.filter.as_ref()).ok_or("no list was read")?;
    println!("names: {}, {:.1} MB", filter.len(), filter.octets() as f64 / 1e6);
    for (what, hosts) in [("hit", hits), ("miss", misses)] {
        let mut best = f64::INFINITY;
        let mut found = 0;
        for _ in 0..20 {
            let since = Instant::now();
            found = hosts
                .iter()
                .filter(|host| black_box(filter.find(black_box(host))).is_some())
                .count();
            best = best.min(since.elapsed().as_secs_f64() * 1e9 / hosts.len() as f64);
        }
        println!("lookup, {what}: {best:.0} ns ({found} of {} found)", hosts.len());
    }
    Ok(())
}

/// KiB of this process's own memory in use.
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
