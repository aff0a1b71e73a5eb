//! Chromium and a page with parts on a block list: the page is shown, and each blocked part fails in the
//! way that was configured.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::admin::fetch;
use crate::programs::{free_port, logged, logging_proxy};

use super::browser::shown;
use super::installed::Nginx;
use super::origin::Echo;

/// Loads each part, and reports whether it came; of an image, how wide it is.
const PAGE: &str = r#"<!DOCTYPE html>
<meta charset="utf-8">
<title>a page of which a part is blocked</title>
<body>
<script>
function load(url) {
  return new Promise((resolve) => {
    const part = document.createElement(url.endsWith(".js") ? "script" : "img");
    part.onload = () => resolve(part.naturalWidth ?? "ran");
    part.onerror = () => resolve("failed");
    part.src = url;
    document.body.append(part);
  });
}

addEventListener("load", async () => {
  const outcomes = await Promise.all(PARTS.map(load));
  fetch("RESULT", { method: "POST", mode: "no-cors", body: JSON.stringify(outcomes) });
});
</script>
"#;

fn image(width: usize) -> String {
    format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="1"></svg>"#)
}

#[test]
fn chromium_shows_a_page_without_what_is_on_a_block_list() {
    let Some(nginx) = Nginx::start() else { return };
    let Some(echo) = Echo::start(nginx.ca.parent()) else { return };
    let (clear, tls) = (nginx.clear.port(), nginx.tls.port());
    for (name, text) in [
        ("part.svg", image(31).as_str()),
        ("blocked.svg", &image(77)),
        ("part.js", "var ran = true;"),
    ] {
        fs::write(nginx.root.join(name), text).unwrap();
    }
    let list = nginx.root.with_file_name("ads");
    fs::write(&list, "# ads\nads.example\n\n||tracker.example^\n").unwrap();
    let list = list.to_str().unwrap();
    let line = |line: usize| Value::from(format!("{list}:{line}"));
    // The parts, and the line of the list that refuses each.
    let parts = [
        (format!("http://site.example:{clear}/part.svg"), None),
        (format!("http://site.example:{clear}/part.js"), None),
        (format!("https://site.example:{tls}/part.js"), None),
        (format!("http://ads.example:{clear}/part.svg"), Some(line(2))),
        (format!("http://ads.example:{clear}/part.js"), Some(line(2))),
        (format!("http://www.tracker.example:{clear}/part.svg"), Some(line(4))),
        (format!("https://ads.example:{tls}/part.js"), Some(line(2))),
        (format!("https://www.tracker.example:{tls}/part.svg"), Some(line(4))),
    ];
    let urls: Vec<&str> = parts.iter().map(|(url, _)| url.as_str()).collect();
    let page = PAGE.replace("PARTS", &json!(urls).to_string());
    let page = page.replace("RESULT", &format!("http://{}/result", echo.clear));
    fs::write(nginx.root.join("page.html"), page).unwrap();

    let elsewhere = format!("http://site.example:{clear}/blocked.svg");
    for (deny_with, status, refused) in [
        ("403", 403, [json!("failed"), json!("failed"), json!("failed")]),
        // A script without a line has run.
        ("204", 204, [json!("failed"), json!("ran"), json!("failed")]),
        (elsewhere.as_str(), 302, [json!(77), json!("failed"), json!(77)]),
    ] {
        let admin = free_port();
        let proxy = logging_proxy(&[
            "--block-list",
            list,
            "--deny-with",
            deny_with,
            "--resolve=site.example:127.0.0.1",
            "--resolve=ads.example:127.0.0.1",
            "--admin",
            &admin.to_string(),
        ]);
        let url = format!("http://site.example:{clear}/page.html");
        let Some(result) = shown(&proxy, &url, &echo) else { return };
        let served = [json!(31), json!("ran"), json!("ran")];
        let tunnels = [json!("failed"), json!("failed")];
        let all: Vec<Value> = served.into_iter().chain(refused).chain(tunnels).collect();
        assert_eq!(result, Value::Array(all), "{deny_with}");

        // Each line of the log has the status that the browser got, and the line of the list.
        let asked = |line: &Value, url: &str| match url.strip_prefix("https://") {
            Some(rest) => {
                line["method"] == "CONNECT" && line["target"] == rest.split('/').next().unwrap()
            }
            None => line["method"] == "GET" && line["target"] == url,
        };
        let lines = logged(&proxy, |lines| {
            urls.iter().all(|url| lines.iter().any(|line| asked(line, url)))
        });
        let mut hits = BTreeMap::new();
        for (url, rule) in &parts {
            let of_a_tunnel = if rule.is_some() { 403 } else { 200 };
            let expected = match rule {
                _ if url.starts_with("https:") => of_a_tunnel,
                Some(_) => status,
                None => 200,
            };
            for line in lines.iter().filter(|line| asked(line, url)) {
                assert_eq!(line["status"], expected, "{deny_with} {url}");
                assert_eq!(line["rule"], rule.clone().unwrap_or(Value::Null), "{url}");
                if let Some(rule) = rule {
                    *hits.entry(rule.as_str().unwrap()).or_insert(0) += 1;
                }
            }
        }
        let stats: Value = serde_json::from_str(fetch(admin, "/stats.json").text()).unwrap();
        let all: u32 = hits.values().sum();
        assert_eq!(stats["rule_hits"][list], all, "{deny_with}: {stats}");
        for (rule, hits) in hits {
            assert_eq!(stats["busiest_rules"][rule], hits, "{deny_with}: {stats}");
        }
        drop(proxy);
        fs::remove_file(echo.page().with_file_name("result")).unwrap();
    }
}
