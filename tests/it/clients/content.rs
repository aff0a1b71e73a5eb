//! curl and nginx with rules on media types and sizes between them.

use crate::peers::pattern;
use crate::programs::{clean, logged, logging_proxy, run};

use super::installed::{Nginx, tool};

#[test]
fn curl_is_refused_what_nginx_has_by_type_and_by_size() {
    let (Some(nginx), Some(_)) = (Nginx::start_with("gzip on; gzip_min_length 1;"), tool("curl"))
    else {
        return;
    };
    std::fs::write(nginx.root.join("page.html"), pattern(3000)).unwrap();
    std::fs::write(nginx.root.join("picture.svg"), "<svg/>").unwrap();
    let proxy = logging_proxy(&["--deny-type=image/*", "--max-response-size=500KiB"]);
    let curl = |path: &str, more: &[&str]| {
        let mut curl = clean("curl");
        curl.args(["-q", "-sS", "--noproxy", "", "--max-time", "20", "-x", &proxy.url()]);
        curl.args(["-w", "%{http_code}", "-o", "/dev/null"]).args(more);
        run(curl.arg(format!("http://{}/{path}", nginx.clear)))
    };
    assert_eq!(curl("page.html", &[]).text(), "200");
    assert_eq!(curl("page.html", &["--compressed"]).text(), "200");
    assert_eq!(curl("picture.svg", &[]).text(), "403");
    assert_eq!(curl("picture.svg", &["-I"]).text(), "403");
    assert_eq!(curl("file", &[]).text(), "502");
    assert_eq!(curl("file", &["-r", "0-99"]).text(), "206");
    assert_eq!(curl("file", &["-r", "0-99,200-299"]).text(), "403");
    let lines = logged(&proxy, |lines| lines.len() == 7);
    let rules: Vec<_> = lines.iter().map(|line| line["rule"].as_str()).collect();
    let (by_type, by_size) = (Some("--deny-type:1"), Some("--max-response-size"));
    assert_eq!(rules, [None, None, by_type, by_type, by_size, None, by_type]);
}
