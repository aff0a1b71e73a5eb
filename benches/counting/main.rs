//! threadgate with a counting allocator, from which `benches/bench.py` computes allocations an exchange.
//!
//! It takes threadgate's command line and answers questions on standard input, a line each:
//!
//! | question | answer |
//! |---|---|
//! | `counts` | allocations, reallocations and frees so far, and bytes asked for |
//! | `trace` | `tracing`: from now on each allocation's backtrace is kept, which is slow |
//! | `where` | the backtraces kept, most frequent first, as a JSON list of `{"times", "frames"}` |

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;
use serde_json::json;

/// Counts, then calls the system's allocator.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static REALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

static TRACING: AtomicBool = AtomicBool::new(false);
static TRACES: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Taking a backtrace allocates, too; those allocations are not looked at.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call goes unchanged to the system's allocator, and its answer is returned unchanged. The
// counters are atomics and touch no memory that is handed out.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        count(layout.size());
        // SAFETY: the caller keeps this function's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        REALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        count(bytes);
        // SAFETY: the caller keeps this function's promises about all three.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `block` came from one of the above, which all ask the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

fn count(bytes: usize) {
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    if TRACING.load(Ordering::Relaxed) && !LOOKING.replace(true) {
        let trace = format!("{} bytes\n{}", bytes, Backtrace::force_capture());
        *TRACES.lock().entry(trace).or_default() += 1;
        LOOKING.set(false);
    }
}

fn main() -> ExitCode {
    // `cargo bench` and `cargo test --benches` start every bench target; this one is a tool.
    if std::env::args().len() == 1 || std::env::args().any(|a| a == "--bench" || a == "--test") {
        println!("counting: a tool of benches/bench.py");
        return ExitCode::SUCCESS;
    }
    let answering = thread::Builder::new().name("counts".into()).spawn(|| {
        // Fails when the asker has gone; the proxy goes on without it.
        let _ = answer();
    });
    if let Err(e) = answering {
        eprintln!("counting: no thread: {e}");
        return ExitCode::FAILURE;
    }
    threadgate::cli::run(std::env::args_os()).code().into()
}

fn answer() -> io::Result<()> {
    let mut question = String::with_capacity(64);
    while io::stdin().read_line(&mut question)? > 0 {
        // Read before writing the answer, which may allocate.
        let counts = [&ALLOCATIONS, &REALLOCATIONS, &FREES, &BYTES];
        let [allocations, reallocations, frees, bytes] =
            counts.map(|count| count.load(Ordering::Relaxed));
        match question.trim() {
            "counts" => println!("{allocations} {reallocations} {frees} {bytes}"),
            "trace" => {
                TRACING.store(true, Ordering::Relaxed);
                println!("tracing");
            }
            "where" => {
                TRACING.store(false, Ordering::Relaxed);
                println!("{}", traces());
            }
            _ => println!("ask for counts, trace or where"),
        }
        io::stdout().flush()?;
        question.clear();
    }
    Ok(())
}

fn traces() -> serde_json::Value {
    let mut traces: Vec<(String, u64)> = TRACES.lock().drain().collect();
    traces.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let told = traces.iter().map(|(frames, times)| json!({ "times": times, "frames": frames }));
    told.collect()
}
