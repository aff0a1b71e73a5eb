//! Chromium without a window: a page of sixty parts from two origin servers, and a WebSocket.
//!
//! The page checks what it got, and sends the result to its origin server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::peers::comes_true;
use crate::programs::{client_connections, in_background, in_short, logged, logging_proxy};
use crate::proxies::Binary;

use super::installed::{Nginx, script, tool};
use super::origin::Echo;

const PARTS: usize = 60;

/// The Nth part: its name, and its text.
fn part(n: usize) -> (String, String) {
    // Some parts are small, some larger than a buffer.
    let filler = "filler ".repeat(7 * n * n);
    match n % 3 {
        0 => (
            format!("{n}.svg"),
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{n}" height="1"><desc>{filler}</desc></svg>"#
            ),
        ),
        1 => (format!("{n}.css"), format!("/* {filler} */ #sheet-{n} {{ width: {n}px; }}")),
        _ => (format!("{n}.js"), format!("/* {filler} */ parts.push({n});")),
    }
}

/// Writes the page and its parts. Every other part comes from `other`.
fn write_page(dir: &Path, other_dir: &Path, other: &str, websocket: &str, result: &str) {
    let mut elements = String::new();
    for n in 1..=PARTS {
        let (name, text) = part(n);
        let (dir, base) = if n % 2 == 0 { (dir, "") } else { (other_dir, other) };
        fs::write(dir.join(&name), text).unwrap();
        elements += &match n % 3 {
            0 => format!("<img src=\"{base}{name}\">\n"),
            1 => format!(
                "<link rel=\"stylesheet\" href=\"{base}{name}\"><div id=\"sheet-{n}\"></div>\n"
            ),
            _ => format!("<script src=\"{base}{name}\"></script>\n"),
        };
    }
    let page = fs::read_to_string(script("page.html")).unwrap();
    let page = page.replace("PARTS", &elements).replace("WEBSOCKET", websocket);
    fs::write(dir.join("page.html"), page.replace("RESULT", result)).unwrap();
}

/// A Chromium that has only the files in `dir`, and reaches everything through the proxy.
pub(super) fn chromium(proxy: &Binary, dir: &Path) -> Option<Command> {
    let mut chromium = tool("chromium")?;
    for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        chromium.env(name, dir);
    }
    chromium.arg(format!("--user-data-dir={}", dir.display()));
    chromium.arg(format!("--proxy-server={}", proxy.url()));
    // Without this, Chromium reaches this machine without the proxy. Its own traffic (updates, the time)
    // is not for the proxy, and leads nowhere.
    chromium.arg("--proxy-bypass-list=<-loopback>;*.com");
    chromium.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
    chromium.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
    chromium.args(["--disable-component-update", "--disable-default-apps", "--disable-extensions"]);
    // Root may not use the sandbox, and there may be no graphics and little shared memory.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    chromium.arg("--disable-breakpad");
    Some(chromium)
}

/// The result of the page at `url`, after Chromium has shown it. No process of Chromium is left then.
#[track_caller]
pub(super) fn shown(proxy: &Binary, url: &str, origin: &Echo) -> Option<Value> {
    let dir = tempfile::tempdir().unwrap();
    let mut chromium = chromium(proxy, dir.path())?;
    chromium.args(["--ignore-certificate-errors", url]);
    let running = in_background(&mut chromium, dir);
    let mut result = None;
    comes_true(Duration::from_secs(30), &mut || {
        result = origin.result();
        result.is_some() || running.is_over()
    });
    let Some(result) = result else { panic!("{chromium:?}: no result\n{}", running.said()) };
    Some(serde_json::from_str(&result).unwrap())
}

#[test]
fn chromium_shows_a_page_of_many_parts_and_talks_over_a_websocket() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let Some(echo) = Echo::start(nginx.ca.parent()) else { return };
    let (page, other) =
        (format!("http://{}/page/", echo.clear), format!("http://{}/", nginx.clear));
    let websocket = format!("ws://{}/ws", echo.clear);
    write_page(&echo.page(), &nginx.root, &other, &websocket, "/result");
    let Some(result) = shown(&proxy, &format!("{page}page.html"), &echo) else { return };
    let all = json!({
        "parts": (1..=PARTS).collect::<Vec<_>>(),
        "protocols": ["http/1.1"],
        "websocket": "echoed"
    });
    assert_eq!(result, all);

    // Each of them went through the proxy, and the WebSocket through a tunnel.
    let tunnel = format!("CONNECT {} 200 ", echo.clear);
    let is_tunnel = |line: &Value| in_short(line).starts_with(&tunnel);
    let lines = logged(&proxy, |lines| lines.iter().any(is_tunnel));
    let texts: Vec<_> = lines.iter().map(in_short).collect();
    for n in 1..=PARTS {
        let base = if n % 2 == 0 { &page } else { &other };
        let text = format!("GET {base}{} 200 -", part(n).0);
        assert!(texts.contains(&text), "{text} in {texts:#?}");
    }
    let is_ours =
        |text: &str| [echo.clear, nginx.clear].iter().any(|addr| text.contains(&addr.to_string()));
    assert!(texts.iter().all(|text| is_ours(text)), "{texts:#?}");
    let gets: Vec<_> = lines.into_iter().filter(|line| line["method"] == "GET").collect();
    // Six kept connections for each origin server, and perhaps one opened ahead.
    assert!(client_connections(&gets) <= 14, "{}", client_connections(&gets));
}

/// HTTP/2 goes through tunnels, and so does the WebSocket.
#[test]
fn chromium_shows_a_page_over_https_and_http_2() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let Some(echo) = Echo::start(nginx.ca.parent()) else { return };
    let other = format!("https://{}/page/", echo.tls);
    let (websocket, result) =
        (format!("wss://{}/ws", echo.tls), format!("https://{}/result", echo.tls));
    write_page(&nginx.root, &echo.page(), &other, &websocket, &result);
    let url = format!("https://{}/page.html", nginx.tls);
    let Some(result) = shown(&proxy, &url, &echo) else { return };
    let all = json!({
        "parts": (1..=PARTS).collect::<Vec<_>>(),
        "protocols": ["h2"],
        "websocket": "echoed"
    });
    assert_eq!(result, all);
    for addr in [nginx.tls, echo.tls] {
        let tunnel = format!("CONNECT {addr} 200 ");
        logged(&proxy, |lines| lines.iter().any(|line| in_short(line).starts_with(&tunnel)));
    }
}
