//! Users as programs know them: files of htpasswd, and the clients that are asked for a password.

use std::fs;

use serde_json::Value;

use crate::programs::{in_background, logged, logging_proxy, output, run, text};
use crate::proxies::Binary;
use crate::users::passwd;

use super::browser::chromium;
use super::installed::{Nginx, python, script, tool};

/// curl through `proxy` as this user.
fn curl(proxy: &Binary, user: Option<&str>) -> Option<std::process::Command> {
    let mut curl = tool("curl")?;
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
    if let Some(user) = user {
        curl.args(["-U", user]);
    }
    Some(curl)
}

const CODE: [&str; 4] = ["-o", "/dev/null", "-w", "%{http_code} %{http_connect} %{num_connects}"];

#[test]
fn curl_proves_whom_it_is_with_every_odd_character() {
    let odd = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~:";
    let users = [("alice", odd), ("jürgen müller", "päß wörd€ 密码"), ("b", "x")];
    let proxy = Binary::start_by(
        &["env"],
        |command| {
            let lines = users.map(|(user, password)| format!("{user}:{password}"));
            command.env("USERS_OF_MINE", lines.join("\n"));
        },
        &["--auth-env=USERS_OF_MINE"],
    );
    let (Some(nginx), true) = (Nginx::start(), tool("curl").is_some()) else { return };
    let ca = nginx.ca.to_str().unwrap();
    for (user, password) in users {
        let curl = || curl(&proxy, Some(&format!("{user}:{password}"))).unwrap();
        assert!(output(curl().arg(nginx.url())) == nginx.content, "{user}");
        assert!(output(curl().args(["--cacert", ca, &nginx.tls_url()])) == nginx.content, "{user}");
    }
    let wrong = text(curl(&proxy, Some("b:y")).unwrap().args(CODE).arg(nginx.url()));
    assert_eq!(wrong, "407 000 1");
    let none = run(curl(&proxy, None).unwrap().args(CODE).args(["--cacert", ca, &nginx.tls_url()]));
    assert_eq!((none.status.code(), none.text().as_str()), (Some(56), "000 407 1"));
}

#[test]
fn curl_that_asks_first_answers_on_the_same_connection_and_for_a_tunnel_on_a_new_one() {
    let proxy = logging_proxy(&["--auth", "alice:secret"]);
    let (Some(nginx), Some(mut asks)) = (Nginx::start(), curl(&proxy, Some("alice:secret"))) else {
        return;
    };
    let said = text(asks.arg("--proxy-anyauth").args(CODE).arg(nginx.url()));
    assert_eq!(said, "200 000 1", "one connection for both");
    let lines = logged(&proxy, |lines| lines.len() == 2);
    assert_eq!((&lines[0]["status"], &lines[0]["user"]), (&407.into(), &Value::Null));
    assert_eq!((&lines[1]["status"], &lines[1]["user"]), (&200.into(), &"alice".into()));
    assert_eq!(lines[0]["client"], lines[1]["client"]);
    let mut asks = curl(&proxy, Some("alice:secret")).unwrap();
    asks.arg("--proxy-anyauth").args(CODE).args(["--cacert", nginx.ca.to_str().unwrap()]);
    assert_eq!(text(asks.arg(nginx.tls_url())), "200 200 2", "the first was closed");
}

#[test]
fn wget_and_requests_prove_whom_they_are() {
    let proxy = logging_proxy(&["--auth", "alice:s@cret/ü"]);
    let Some(nginx) = Nginx::start() else { return };
    let with = proxy.url().replace("http://", "http://alice:s%40cret%2F%C3%BC@");
    if let Some(mut wget) = tool("wget") {
        let dir = tempfile::tempdir().unwrap();
        wget.current_dir(dir.path()).env("http_proxy", &with).env("https_proxy", &with);
        wget.args(["-nv", "--tries=1", "--timeout=10"]);
        wget.arg(format!("--ca-certificate={}", nginx.ca.display()));
        output(wget.args(["-O", "clear", &nginx.url()]));
        output(wget.args(["-O", "tls", &nginx.tls_url()]));
        assert!(fs::read(dir.path().join("clear")).unwrap() == nginx.content);
    }
    if let Some(mut python) = python("requests") {
        let script = r#"
import sys, requests
proxy, wrong, ca, *urls = sys.argv[1:]
for url in urls:
    got = requests.get(url, proxies={"http": proxy, "https": proxy}, verify=ca, timeout=10)
    print(got.status_code, len(got.content))
print(requests.get(urls[0], proxies={"http": wrong}, timeout=10).status_code)
try:
    requests.get(urls[1], proxies={"https": wrong}, verify=ca, timeout=10)
except requests.exceptions.ProxyError as e:
    print("407" in str(e))
"#;
        python.args(["-c", script]).arg(&with).arg(proxy.url()).arg(&nginx.ca);
        let said = text(python.args([nginx.url(), nginx.tls_url()]));
        let length = nginx.content.len();
        assert_eq!(said, format!("200 {length}\n200 {length}\n407\nTrue\n"));
    }
}

#[test]
fn files_that_htpasswd_makes_are_read() {
    let Some(mut htpasswd) = tool("htpasswd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let name = path.to_str().unwrap();
    output(htpasswd.args(["-cbB", "-C", "5", name, "alice", "päss:wörd"]));
    output(tool("htpasswd").unwrap().args(["-bB", "-C", "5", name, "bob", "b"]));
    let proxy = Binary::start(&["--auth-file", name]);
    let (Some(nginx), true) = (Nginx::start(), tool("curl").is_some()) else { return };
    for (user, code) in [("alice:päss:wörd", "200"), ("bob:b", "200"), ("bob:c", "407")] {
        let said = text(curl(&proxy, Some(user)).unwrap().args(CODE).arg(nginx.url()));
        assert!(said.starts_with(code), "{user}: {said}");
    }
    // htpasswd reads the files that we make.
    let ours = passwd(&[name, "carol"], "sesame\n");
    assert!(ours.status.success());
    output(tool("htpasswd").unwrap().args(["-vb", name, "carol", "sesame"]));
    // Its other formats are refused by name.
    for (option, says) in [("-m", "Apache's MD5"), ("-s", "plain SHA-1"), ("-d", "DES crypt")] {
        output(tool("htpasswd").unwrap().args(["-cb", option, name, "alice", "secret12"]));
        let refused = crate::lifecycle::run(&["check", "--auth-file", name]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("users:1: the user 'alice': ") && said.contains(says), "{said}");
    }
}

/// A person types a wrong password, and then the right one.
#[test]
fn chromium_asks_and_shows_the_page() {
    let proxy = logging_proxy(&["--auth", "alice:päss", "--auth-realm", "the house"]);
    let dir = tempfile::tempdir().unwrap();
    let (Some(mut chromium), Some(mut python)) =
        (chromium(&proxy, dir.path()), python("websockets"))
    else {
        return;
    };
    let Some(nginx) = Nginx::start() else { return };
    fs::write(nginx.root.join("page.html"), "<body>in the house</body>").unwrap();
    chromium.args(["--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]);
    python.arg(script("asked_for_a_password.py")).arg(dir.path()).args(["alice", "päss"]);
    python.arg(format!("http://{}/page.html", nginx.clear));
    let running = in_background(&mut chromium, dir);
    let ended = run(&mut python);
    let said = ended.text();
    let asked = "Proxy basic the house\n";
    let all = format!("{asked}{asked}in the house\n");
    assert_eq!(said, all, "{}\n{}\n{}", ended.stderr, running.said(), proxy.stdout());
    let page = |line: &Value| {
        let status = line["status"].as_u64()?;
        let target = line["target"].as_str()?;
        target.ends_with("/page.html").then(|| (status, line["user"].clone()))
    };
    let lines = logged(&proxy, |lines| lines.iter().filter_map(page).any(|(s, _)| s == 200));
    let pages: Vec<_> = lines.iter().filter_map(page).collect();
    let asked = (407, Value::Null);
    assert_eq!(pages, [asked.clone(), asked, (200, "alice".into())]);
}
