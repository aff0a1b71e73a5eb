//! curl and wget through a proxy with a block list.

use crate::lists::{lists, place};
use crate::programs::run;
use crate::proxies::Binary;

use super::installed::{Nginx, tool};

#[test]
fn curl_and_wget_get_what_is_not_listed_and_are_told_the_rest() {
    let (Some(nginx), Some(_), Some(_)) = (Nginx::start(), tool("curl"), tool("wget")) else {
        return;
    };
    let dir = lists(&[("ads", "||ads.example^\n||müller.example^\n".as_bytes())]);
    let list = place(&dir, "ads");
    let proxy = Binary::start(&["--block-list", &list, "--resolve=fine.example:127.0.0.1"]);
    let curl = |args: &[&str]| {
        let mut curl = tool("curl").unwrap();
        // Names in other scripts come in the encoding of the terminal.
        curl.env("LC_ALL", "C.UTF-8").args(["-q", "-s", "--max-time", "20", "--noproxy", ""]);
        curl.args(["-x", &proxy.url(), "-o", "/dev/null"]);
        curl.args(["-w", "%{http_code} %{http_connect}"]).args(args);
        run(&mut curl).text()
    };
    let (port, tls) = (nginx.clear.port(), nginx.tls.port());
    assert_eq!(curl(&[&format!("http://fine.example:{port}/file")]), "200 000");
    assert_eq!(curl(&["-k", &format!("https://fine.example:{tls}/file")]), "200 200");
    assert_eq!(curl(&["http://www.ADS.example/file"]), "403 000");
    assert_eq!(curl(&["-k", "https://ads.example./file"]), "000 403");
    assert_eq!(curl(&["http://MÜLLER.example/"]), "403 000");
    let wget = |url: &str| {
        let mut wget = tool("wget").unwrap();
        let proxies = ["http_proxy", "https_proxy"].map(|name| format!("{name}={}", proxy.url()));
        wget.args(["--no-config", "-O", "/dev/null", "--tries=1", "-e", "use_proxy=yes"]);
        wget.args(["-e", &proxies[0], "-e", &proxies[1], "--no-check-certificate", url]);
        run(&mut wget)
    };
    let got = wget(&format!("http://fine.example:{port}/file"));
    assert!(got.status.success(), "{}", got.stderr);
    for url in ["http://ads.example/", "https://ads.example/"] {
        let refused = wget(url);
        assert!(!refused.status.success(), "{url}");
        assert!(refused.stderr.contains("Forbidden"), "{}", refused.stderr);
    }
}
