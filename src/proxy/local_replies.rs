//! Answers requests to the proxy itself: its page, `/healthz`, and OPTIONS or TRACE that end here.
//! Nothing is forwarded.

use crate::wire::{Method, RequestHead};

use super::reply::Reply;

const PAGE_TEXT: &str = "\
This is threadgate, an HTTP proxy.

It forwards requests that name another server: set it as your HTTP proxy, for example
  curl -x http://THIS-ADDRESS http://example.com/
/healthz answers \"ok\" while the proxy runs.
";

const PAGE_HTML: &str = "\
<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>threadgate</title>
<meta name=\"viewport\" content=\"width=device-width\">
<style>:root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;\
padding:0 1em}code{background:#8883;padding:.1em .3em}</style>
<h1>threadgate</h1>
<p>This is an HTTP proxy. It forwards requests that name another server: set it as your HTTP proxy, \
for example
<p><code>curl -x http://THIS-ADDRESS http://example.com/</code>
<p><a href=\"/healthz\">/healthz</a> answers <code>ok</code> while the proxy runs.
";

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const ALLOW_HERE: &str = "Allow: GET, HEAD, OPTIONS\r\n";
const ALLOW_ANY: &str = "Allow: CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE\r\n";
const NO_STORE: &str = "Cache-Control: no-store\r\n";

/// The reply to an origin-form request for `path`.
pub fn page(method: Method, path: &str, html: bool) -> Reply<'static> {
    let path = path.split('?').next().unwrap_or_default();
    let known = matches!(path, "/" | "/healthz");
    match method {
        Method::Get | Method::Head => {}
        Method::Options if known => {
            return Reply { status: 200, content: None, fields: ALLOW_HERE };
        }
        _ if known => {
            let content = Some((TEXT, b"only GET, HEAD and OPTIONS are allowed here\n".as_slice()));
            return Reply { status: 405, content, fields: ALLOW_HERE };
        }
        _ => {}
    }
    let (status, content) = match path {
        "/" if html => (200, (HTML, PAGE_HTML)),
        "/" => (200, (TEXT, PAGE_TEXT)),
        "/healthz" => (200, (TEXT, "ok\n")),
        _ => {
            let hint = "not found: this is a proxy, and serves only / and /healthz itself; \
                        to have a request forwarded, send its whole URL\n";
            (404, (TEXT, hint))
        }
    };
    Reply { status, content: Some((content.0, content.1.as_bytes())), fields: NO_STORE }
}

/// The reply to an OPTIONS that is for the proxy itself (RFC 9110 §9.3.7).
pub fn options() -> Reply<'static> {
    Reply { status: 200, content: None, fields: ALLOW_ANY }
}

/// The content of the reply to a TRACE that ends here (RFC 9110 §9.3.8): the head as received, without
/// the fields that carry secrets.
pub fn trace(head: &RequestHead<'_, '_>) -> Vec<u8> {
    let secret = ["authorization", "cookie", "proxy-authorization"];
    let mut echo = Vec::with_capacity(head.bytes());
    echo.extend_from_slice(head.method_name.as_bytes());
    echo.push(b' ');
    echo.extend_from_slice(head.target_text.as_bytes());
    echo.extend_from_slice(b" HTTP/");
    echo.extend_from_slice(head.version.number().as_bytes());
    echo.extend_from_slice(b"\r\n");
    for field in head.fields() {
        if !secret.iter().any(|s| field.name.eq_ignore_ascii_case(s)) {
            echo.extend_from_slice(field.name.as_bytes());
            echo.extend_from_slice(b": ");
            echo.extend_from_slice(field.value);
            echo.extend_from_slice(b"\r\n");
        }
    }
    echo.extend_from_slice(b"\r\n");
    echo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_paths_exist_and_only_reading_them_is_allowed() {
        for (method, path, status) in [
            (Method::Get, "/", 200),
            (Method::Head, "/?q", 200),
            (Method::Get, "/healthz", 200),
            (Method::Post, "/", 405),
            (Method::Options, "/", 200),
            (Method::Get, "/etc/passwd", 404),
            (Method::Post, "/else", 404),
        ] {
            assert_eq!(page(method, path, false).status, status, "{method:?} {path}");
        }
    }
}
