//! Two downloads by curl that share a rate: each gets half of it, and both together get no more than the
//! rate.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{STEP, comes_true};
use crate::programs::{Running, in_background, open_dir};
use crate::proxies::Binary;

use super::installed::{Nginx, tool};

/// The rate that both share, in bytes a second.
const RATE: f64 = 1_000_000.0;

/// A download into a file of its directory.
struct Download(Running);

impl Download {
    fn begin(mut curl: Command, proxy: &Binary, url: &str) -> Self {
        let dir = open_dir();
        curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
        // The bytes that have come are in the file.
        curl.args(["--no-buffer", "-k", "-o"]).arg(dir.path().join("file")).arg(url);
        Self(in_background(&mut curl, dir))
    }

    fn bytes(&self) -> u64 {
        fs::metadata(self.0.dir.path().join("file")).map_or(0, |file| file.len())
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.0.dir.path().join("file")).unwrap()
    }
}

#[test]
fn two_downloads_by_curl_get_half_of_the_rate_they_share() {
    let (Some(nginx), Some(_)) = (Nginx::start(), tool("curl")) else { return };
    // In clear, through a tunnel, and one of each.
    let (clear, tls) = (nginx.url(), nginx.tls_url());
    thread::scope(|scope| {
        for (limit, urls) in [
            ("client:down=1MB/s", [&clear, &clear]),
            ("total:down=1MB/s", [&tls, &tls]),
            ("total:8mbit", [&clear, &tls]),
        ] {
            let nginx = &nginx;
            scope.spawn(move || share(nginx, limit, urls));
        }
    });
}

fn share(nginx: &Nginx, limit: &str, urls: [&String; 2]) {
    let proxy = Binary::start(&["--limit", limit]);
    let all = nginx.content.len() as u64;
    let since = Instant::now();
    let downloads = urls.map(|url| Download::begin(tool("curl").unwrap(), &proxy, url));
    let bytes = || downloads.each_ref().map(Download::bytes);
    let becomes = |what: &str, is: &dyn Fn([u64; 2]) -> bool| {
        let is_so = comes_true(STEP * 3, &mut || is(bytes()));
        let said = downloads.each_ref().map(|download| download.0.said());
        assert!(is_so, "{limit}: not {what}: {:?} {said:?}", bytes());
        (bytes(), Instant::now())
    };
    // From the time when both are under way to the time when the first is nearly complete.
    let (before, begin) = becomes("under way", &|bytes| bytes.iter().all(|n| *n > all / 10));
    let (after, end) = becomes("nearly there", &|bytes| bytes.iter().any(|n| *n > all * 9 / 10));
    let got = [0, 1].map(|i| (after[i] - before[i]) as f64);
    let (both, took) = (got[0] + got[1], end.duration_since(begin).as_secs_f64());
    // Bytes come in portions of at most a tenth of a second, to each in its turn.
    let portion = RATE / 10.0;
    assert!(both <= (RATE * took + 2.0 * portion) * 1.02, "{limit}: {got:?} in {took} s");
    assert!(both >= (RATE * took - 2.0 * portion) * 0.7, "{limit}: {got:?} in {took} s");
    let uneven = (got[0] - got[1]).abs() / 2.0;
    assert!(uneven <= both / 2.0 * 0.12 + portion, "{limit}: {got:?}");
    becomes("all there", &|bytes| bytes.iter().all(|n| *n == all));
    let took = since.elapsed();
    assert!(took >= Duration::from_secs_f64(2.0 * all as f64 / RATE - 0.2), "{limit}: {took:?}");
    for download in &downloads {
        assert!(download.content() == nginx.content, "{limit}: other bytes came");
    }
    eprintln!("{limit}: {got:?} of {both} in {took:?}");
}
