//! The proxy's own responses: they say what went wrong, in which phase, on whose side, and what to try.
//!
//! They are short on purpose. A browser gets HTML, every other client plain text. `Proxy-Status` (RFC
//! 9209) tells programs the same.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use crate::error::{Error, Kind, Phase, Side};
use crate::policy::rule_origin::RuleName;

/// A response of our own.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Status code.
    pub status: u16,
    /// Content and its media type; `None` sends no content.
    pub content: Option<(&'a str, &'a [u8])>,
    /// Further field lines, each with its line end.
    pub fields: &'a str,
}

/// What happens to the connection after a reply, if its head must say so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connection {
    /// The connection ends: `Connection: close`.
    Close,
    /// The connection stays open, as is the default in HTTP/1.1.
    Keep,
    /// The connection stays open, and an HTTP/1.0 client must be told so.
    KeepOld,
}

impl Reply<'_> {
    /// Appends the reply. With `head_only` the content is announced but not sent (RFC 9110 §9.3.2).
    pub fn write(&self, out: &mut Vec<u8>, connection: Connection, head_only: bool) {
        let mut head = String::with_capacity(256);
        // Writing to a String cannot fail.
        let _ = write!(
            head,
            "HTTP/1.1 {} {}\r\nDate: {}\r\n",
            self.status,
            reason_phrase(self.status),
            httpdate::fmt_http_date(SystemTime::now()),
        );
        if let Some((media_type, _)) = self.content {
            let _ = write!(head, "Content-Type: {media_type}\r\n");
        }
        // A 204 has no content by its number (RFC 9110 §8.6).
        if self.status != 204 {
            let length = self.content.map_or(0, |(_, content)| content.len());
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        head.push_str(self.fields);
        head.push_str(match connection {
            Connection::Close => "Connection: close\r\n\r\n",
            Connection::Keep => "\r\n",
            Connection::KeepOld => "Connection: keep-alive\r\n\r\n",
        });
        out.extend_from_slice(head.as_bytes());
        if let (Some((_, content)), false) = (self.content, head_only) {
            out.extend_from_slice(content);
        }
    }
}

/// The facts that a reply gives in addition to the error.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Our name in `Proxy-Status`.
    pub name: &'a str,
    /// The request's destination; empty if that is not known.
    pub destination: &'a str,
    /// The rule that decided, if one did.
    pub rule: Option<RuleName<'a>>,
    /// The location to send the client to instead.
    pub location: Option<&'a str>,
    /// The challenge in a 407.
    pub challenge: Option<&'a str>,
    /// Whether the client prefers HTML.
    pub html: bool,
}

/// Writes the reply for `error`.
pub fn write_error(
    out: &mut Vec<u8>,
    error: &Error,
    about: &About<'_>,
    connection: Connection,
    head_only: bool,
) {
    let About { name, destination, rule, location, challenge, html } = *about;
    let status = error.status();
    let (phase, side) = (error.phase().word(), error.side().word());
    let reason = error.reason();
    let said = error.said().unwrap_or_default();
    let advice = advice(error, rule, destination);
    let title = format!("{status} {}", reason_phrase(status));
    let details = if said.is_empty() { reason.to_owned() } else { format!("{reason}: {said}") };
    let mut fields = format!(
        "Cache-Control: no-store\r\nProxy-Status: {}; error={}; details=\"{}\"\r\n",
        item(name),
        error.kind().token(),
        quotable(&details),
    );
    let rule = rule.map(|rule| rule.to_string()).unwrap_or_default();
    if !rule.is_empty() {
        let rule = printable(&rule);
        let _ = write!(fields, "X-Threadgate-Reason: {rule}; {}\r\n", printable(reason));
    }
    if let Some(location) = location {
        let _ = write!(fields, "Location: {location}\r\n");
    }
    if status == 204 {
        Reply { status, content: None, fields: &fields }.write(out, connection, head_only);
        return;
    }
    if let Some(seconds) = error.retry_after() {
        let _ = write!(fields, "Retry-After: {seconds}\r\n");
    }
    if let Some(challenge) = challenge {
        let _ = write!(fields, "Proxy-Authenticate: {challenge}\r\n");
    }
    let content = if html {
        let (details, to) = (escape(&details), escape(destination));
        let to = if to.is_empty() { to } else { format!("<dt>to<dd>{to}") };
        let rule = if rule.is_empty() { rule } else { format!("<dt>rule<dd>{}", escape(&rule)) };
        let advice = escape(&advice);
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <style>:root{{color-scheme:light dark}}body{{font:16px/1.5 sans-serif;max-width:40em;\
             margin:3em auto;padding:0 1em;overflow-wrap:anywhere}}h1+p::first-letter\
             {{text-transform:uppercase}}dt{{float:left;clear:left;width:6em;opacity:.7}}\
             dd{{margin-left:6em}}</style>\n\
             <h1>{title}</h1>\n<p>{details}.\n<dl>{to}{rule}<dt>phase<dd>{phase}<dt>side<dd>{side}\
             <dt>try<dd>{advice}</dl>\n<p><small>threadgate</small>\n"
        )
    } else {
        let to =
            if destination.is_empty() { String::new() } else { format!("to: {destination}\n") };
        let rule = if rule.is_empty() { rule } else { format!("rule: {rule}\n") };
        format!("{title}: {details}\n{to}{rule}phase: {phase}\nside: {side}\ntry: {advice}\n")
    };
    let media_type = if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    Reply { status, content: Some((media_type, content.as_bytes())), fields: &fields }
        .write(out, connection, head_only);
}

/// The advice to the reader of a reply.
fn advice(error: &Error, rule: Option<RuleName<'_>>, destination: &str) -> Cow<'static, str> {
    let is_protected_mode = rule.is_some_and(|rule| rule.is_protected_mode());
    let advice = match error.kind() {
        Kind::ConnectionLimitReached if error.side() == Side::Upstream => {
            "checking whether the server can be reached from here; --max-connecting sets how many \
             connects to one address may be under way"
        }
        Kind::ConnectionLimitReached if error.status() == 429 => {
            "again with fewer connections at a time; --limit-connections sets how many"
        }
        Kind::ConnectionLimitReached => {
            "again in a moment; raise the open-file limit or --max-connections if it goes on"
        }
        Kind::ConnectionRefused => {
            "checking whether the server runs, and whether the port is right"
        }
        Kind::ConnectionTerminated => "again; the server closed before it answered",
        Kind::ConnectionTimeout => {
            "checking whether the server can be reached from here; --timeout-connect sets the wait"
        }
        Kind::ConnectionWriteTimeout | Kind::HttpResponseTimeout => {
            "again, or raise --timeout-response if the server is known to be slow"
        }
        // The narrow option comes first: the wide one opens the proxy to everybody.
        Kind::DestinationIpProhibited if is_protected_mode => {
            let host = if destination.is_empty() { "HOST" } else { destination };
            return format!(
                "another destination, or asking the operator of this proxy, who can allow this one: \
                 --allow {host}, or a rule that names it"
            )
            .into();
        }
        Kind::DestinationIpProhibited => {
            "another destination, or asking the operator of this proxy, whose rule it is"
        }
        Kind::DestinationIpUnroutable => {
            "checking whether this machine has a route to the destination"
        }
        Kind::DnsError => {
            "checking whether the name is spelled right and this machine can resolve it"
        }
        Kind::DnsTimeout => "again; this machine's name server does not answer",
        Kind::HttpResponseBodySize => {
            "asking the operator of this proxy; --max-response-size sets the limit"
        }
        Kind::HttpRequestDenied => return of_refusal(error, rule),
        Kind::HttpRequestError => match error.status() {
            414 | 431 => "a shorter request; --max-head-size sets the limit",
            501 => "CONNECT for https; other schemes and codings are not forwarded",
            505 => "HTTP/1.1",
            _ => "a request in the form of RFC 9112; the sentence above says what was wrong",
        },
        Kind::HttpRequestTimeout => {
            "sending faster; --timeout-head sets the wait for a head, --timeout-response for content"
        }
        Kind::HttpResponseIncomplete | Kind::HttpProtocolError => {
            "checking whether the port is one that speaks HTTP; the server's answer broke its rules"
        }
        Kind::ProxyLoopDetected => "the address of the server you want, not the proxy's own",
        Kind::ShuttingDown => "again in a moment; the proxy is shutting down",
        Kind::ClientGone => "again; the proxy's log says more",
    };
    advice.into()
}

/// The advice to the reader of a refusal.
fn of_refusal(error: &Error, rule: Option<RuleName<'_>>) -> Cow<'static, str> {
    let is_protected_mode = rule.is_some_and(|rule| rule.is_protected_mode());
    let is_policy = rule.is_some_and(|rule| rule.is_policy());
    let retry_after = error.retry_after().unwrap_or_default();
    let advice = match (error.status(), error.side(), error.phase()) {
        (407, ..) => "a user name and a password that the operator of this proxy has given you",
        (429, Side::Client, _) => return format!("the right password, in {retry_after} s").into(),
        (503, ..) if error.retry_after().is_some() => {
            return format!("again in {retry_after} s").into();
        }
        (_, _, Phase::Response) => {
            "another resource; the operator of this proxy does not let such content through"
        }
        (429, ..) => {
            return format!("again in {retry_after} s; --limit-requests sets how many").into();
        }
        (503, ..) => "asking the operator of this proxy; --max-bytes sets how much it relays",
        _ if is_protected_mode => {
            "a client in a private network, or asking the operator of this proxy: --allow-client \
             NETWORK serves the networks it names, and no others"
        }
        _ if is_policy => {
            "asking the operator of this proxy, which lets only listed destinations through; \
             --allow HOST adds one"
        }
        _ if rule.is_none() => "asking the operator of this proxy",
        _ => "asking the operator of this proxy, whose rule it is ('threadgate explain' tells why)",
    };
    advice.into()
}

/// The standard phrase of a status code we send.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

/// `name` as a structured-field item (RFC 8941 §3.3): a token if possible, otherwise a string.
fn item(name: &str) -> String {
    let token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c));
    if token { name.to_owned() } else { format!("\"{}\"", quotable(name)) }
}

/// `text` as a field value: bytes other than printable ASCII become `?`.
fn printable(text: &str) -> String {
    text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect()
}

/// `text` for a structured-field string: printable ASCII, quotes and backslashes escaped.
fn quotable(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted
}

/// `text` for HTML content.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::{Phase, Side};
    use crate::policy::rule_origin::{Origins, RuleId, RuleSource};

    fn refused() -> Error {
        Error::new(
            Side::Upstream,
            Phase::Connect,
            Kind::ConnectionRefused,
            "the upstream refused the connection",
        )
        .with_source(io::Error::other("say \"no\""))
    }

    fn write(html: bool, head_only: bool) -> String {
        let mut out = Vec::new();
        let connection = Connection::Close;
        let about = About {
            name: "t",
            destination: "<a>:80",
            rule: None,
            location: None,
            challenge: None,
            html,
        };
        write_error(&mut out, &refused(), &about, connection, head_only);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_error_names_phase_side_and_what_to_try_in_text_and_html() {
        let text = write(false, false);
        assert!(text.starts_with("HTTP/1.1 502 Bad Gateway\r\nDate: "), "{text}");
        let status = "Proxy-Status: t; error=connection_refused; \
                      details=\"the upstream refused the connection: say \\\"no\\\"\"\r\n";
        assert!(text.contains(status), "{text}");
        for part in ["\r\nConnection: close\r\n", "phase: connect\n", "side: upstream\n", "try: "] {
            assert!(text.contains(part), "{text}");
        }
        let html = write(true, false);
        assert!(html.contains("text/html"));
        assert!(html.contains("<dd>&lt;a&gt;:80"), "{html}");
        assert!(!html.contains("<a>"), "{html}");
    }

    #[test]
    fn a_refusal_names_the_narrow_option_that_lets_the_request_through() {
        let mut origins = Origins::default();
        let mut add = |source, line| RuleId { source: origins.add(source), line };
        let deny = add(RuleSource::Option("deny"), 1);
        let policy = add(RuleSource::OptionValue("policy", "enforce"), 0);
        let (request, address) = (Kind::HttpRequestDenied, Kind::DestinationIpProhibited);
        for (kind, rule, destination, says) in [
            (request, RuleId::PROTECTED, "a:80", "--allow-client NETWORK serves the networks"),
            (request, policy, "a:80", "only listed destinations through; --allow HOST adds"),
            (request, deny, "a:80", "whose rule it is"),
            (address, RuleId::PROTECTED, "a:80", "--allow a:80, or a rule"),
            (address, RuleId::PROTECTED, "", "--allow HOST, or a rule"),
            (address, deny, "a:80", "whose rule it is"),
        ] {
            let error = Error::new(Side::Proxy, Phase::Request, kind, "no");
            let said = advice(&error, Some(origins.name(rule)), destination);
            assert!(said.contains(says), "{kind:?} {rule:?}: {said}");
            assert!(!said.contains("--open"), "{said}");
        }
        // Nobody sees fields in a browser.
        for (side, status) in [(Side::Proxy, 429), (Side::Client, 429), (Side::Proxy, 503)] {
            let error = Error::new(side, Phase::Request, Kind::HttpRequestDenied, "no");
            let error = error.with_status(status).with_retry_after(20);
            assert!(advice(&error, None, "").contains("in 20 s"), "{side:?} {status}");
        }
    }

    #[test]
    fn a_reply_to_head_announces_what_it_does_not_send() {
        let (with, without) = (write(false, false), write(false, true));
        let (head, content) = with.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}\r\n", content.len());
        assert!(head.contains(&length), "{head}");
        assert!(without.contains(&length) && without.ends_with("\r\n\r\n"), "{without}");
    }

    #[test]
    fn a_name_that_is_no_token_is_quoted_in_proxy_status() {
        assert_eq!(item("threadgate-1f"), "threadgate-1f");
        assert_eq!(item("9lives"), "\"9lives\"");
        assert_eq!(item("a b"), "\"a b\"");
    }
}
