//! varnishtest: scripts of `tests/vtc` about where messages end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs::output;
use crate::proxies::Binary;

use super::installed::tool;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vtc")
}

/// Runs the script of this name with a proxy of its own.
#[track_caller]
fn play(name: &str) {
    let Some(mut varnishtest) = tool("varnishtest") else { return };
    let proxy = Binary::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    varnishtest.env("TMPDIR", dir.path()).arg("-D").arg(format!("gate={}", proxy.addr));
    // It prints everything when it fails.
    output(varnishtest.args(["-q", "-t", "30"]).arg(scripts().join(format!("{name}.vtc"))));
}

macro_rules! each_is_a_test {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                play(stringify!($name));
            }
        )*

        #[test]
        fn every_script_is_played() {
            let files = fs::read_dir(scripts()).unwrap().map(|file| file.unwrap().path());
            let scripts = files.filter(|path| path.extension().is_some_and(|e| e == "vtc"));
            let mut there: Vec<_> =
                scripts.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
            there.sort();
            assert_eq!(there, [$(stringify!($name)),*]);
        }
    };
}

each_is_a_test! {
    chunk_lines
    chunked
    chunks_refused
    cut
    early_answer
    expect_continue
    fields
    http_1_0
    interim
    length
    length_and_coding_refused
    lengths_refused
    lines_refused
    no_content
    persistence
    pipeline
    responses_refused
    trailers
    tunnel
    until_close
}
