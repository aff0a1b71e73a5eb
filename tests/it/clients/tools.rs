//! curl, wget, openssl and Python's own clients, in clear and through tunnels.

use std::fs;
use std::process::Command;

use crate::peers::{field, pattern};
use crate::programs::output;
use crate::proxies::Binary;
use crate::servers::{Origin, Recorder, listen_v6};

use super::installed::{Nginx, python, script, tool};

/// curl through `proxy`, silent but for errors, for at most 20 s.
fn curl(proxy: &Binary) -> Option<Command> {
    let mut curl = tool("curl")?;
    curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
    Some(curl)
}

#[test]
fn curl_downloads_whole_files_ranges_and_heads() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), true) = (Nginx::start(), curl(&proxy).is_some()) else { return };
    let run = |args: &[&str]| output(curl(&proxy).unwrap().args(args));
    assert!(run(&[&nginx.url()]) == nginx.content);
    assert!(run(&["--http1.0", &nginx.url()]) == nginx.content);
    assert!(run(&["-r", "1000-1999", &nginx.url()]) == nginx.content[1000..2000]);
    assert!(run(&["--compressed", &nginx.url()]) == nginx.content);
    let head = String::from_utf8(run(&["-I", &nginx.url()])).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(field(&head, "content-length"), Some("1048576"));
    // Several requests in one run share curl's connection to the proxy.
    let url = nginx.url();
    let four =
        run(&["-w", "\n%{num_connects}\n", &url, &url, "-o", "/dev/null", "-o", "/dev/null"]);
    assert_eq!(String::from_utf8(four).unwrap().split_whitespace().collect::<Vec<_>>(), ["1", "0"]);
    let gone = run(&["-w", "%{http_code}", &format!("http://{}/gone", nginx.clear)]);
    assert_eq!(gone, b"gone410");
}

#[test]
fn curl_reaches_a_tls_server_with_a_private_authority_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    let ca = nginx.ca.to_str().unwrap();
    assert!(output(curl.args(["--cacert", ca, &nginx.tls_url()])) == nginx.content);
}

#[test]
fn curl_tunnels_plain_http_when_told_to() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    assert!(output(curl.args(["-p", &nginx.url()])) == nginx.content);
}

#[test]
fn curl_downloads_in_parallel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut curl)) = (Nginx::start(), curl(&proxy)) else { return };
    let dir = tempfile::tempdir().unwrap();
    curl.current_dir(dir.path()).args(["--parallel", "--parallel-max", "20"]);
    for i in 0..40 {
        curl.args(["-o", &format!("copy-{i}"), &nginx.url()]);
    }
    output(&mut curl);
    for i in 0..40 {
        let copy = fs::read(dir.path().join(format!("copy-{i}"))).unwrap();
        assert!(copy == nginx.content, "copy {i} differs");
    }
}

#[test]
fn curl_uploads_and_waits_for_the_continue_it_expects() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert!(head.starts_with("PUT /up HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert!(peer.read_exact(3 << 20) == pattern(3 << 20), "bytes differ");
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone");
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, pattern(3 << 20)).unwrap();
    // curl would send without a 100 after a second, and the server above would not notice.
    curl.args(["--expect100-timeout", "15", "-T"]).arg(file.path());
    assert_eq!(output(curl.arg(format!("http://{}/up", origin.addr))), b"done");
    origin.join();
}

#[test]
fn curl_uploads_what_has_no_length_in_chunks() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let origin = Origin::script(1, |peer| {
        let head = peer.read_head();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert!(peer.read_chunked().0 == pattern(300_000), "bytes differ");
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone");
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, pattern(300_000)).unwrap();
    curl.args(["-H", "Expect:", "-T", "-"]).stdin(fs::File::open(file.path()).unwrap());
    assert_eq!(output(curl.arg(format!("http://{}/up", origin.addr))), b"done");
    origin.join();
}

#[test]
fn curl_reaches_an_ipv6_server() {
    let proxy = Binary::start(&[]);
    let (Some(listener), Some(mut curl)) = (listen_v6(), curl(&proxy)) else { return };
    let origin = Origin::script_on(listener, 1, |peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix");
    });
    assert_eq!(output(curl.args(["-g", &format!("http://{}/", origin.addr)])), b"six");
    origin.join();
}

#[test]
fn curl_says_what_the_proxy_said() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let refused = crate::servers::RefusedPort::new();
    let url = format!("http://{}/", refused.addr);
    let said = output(curl.args(["-w", "\n%{http_code}", &url]));
    let said = String::from_utf8(said).unwrap();
    assert!(said.ends_with("\n502") && said.contains("refused"), "{said}");
}

#[test]
fn wget_downloads_and_resumes() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), true) = (Nginx::start(), tool("wget").is_some()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let wget = |args: &[&str]| {
        let mut wget = tool("wget").unwrap();
        wget.current_dir(dir.path()).env("http_proxy", proxy.url()).env("https_proxy", proxy.url());
        output(wget.args(["-nv", "--tries=1", "--timeout=10"]).args(args));
        fs::read(dir.path().join("file")).unwrap()
    };
    assert!(wget(&[&nginx.url()]) == nginx.content);
    fs::write(dir.path().join("file"), &nginx.content[..1000]).unwrap();
    assert!(wget(&["-c", &nginx.url()]) == nginx.content);
    fs::remove_file(dir.path().join("file")).unwrap();
    let ca = format!("--ca-certificate={}", nginx.ca.display());
    assert!(wget(&[&ca, &nginx.tls_url()]) == nginx.content);
}

#[test]
fn pythons_urllib_works_in_clear_and_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut python)) = (Nginx::start(), tool("python3")) else { return };
    let script = r#"
import hashlib, ssl, sys, urllib.request, urllib.error
ca, gone, *urls = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
https = urllib.request.HTTPSHandler(context=context)
opener = urllib.request.build_opener(https)
for url in urls:
    print(hashlib.sha256(opener.open(url, timeout=10).read()).hexdigest())
try:
    opener.open(gone, timeout=10)
except urllib.error.HTTPError as e:
    print(e.code, e.read().decode())
"#;
    python.env("http_proxy", proxy.url()).env("https_proxy", proxy.url()).args(["-c", script]);
    python.arg(&nginx.ca).arg(format!("http://{}/gone", nginx.clear));
    let said = String::from_utf8(output(python.args([nginx.url(), nginx.tls_url()]))).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2], "410 gone");
    let mut check = tool("python3").unwrap();
    check.args([
        "-c",
        "import hashlib,sys; print(hashlib.sha256(open(sys.argv[1],'rb').read()).hexdigest())",
    ]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, &nginx.content).unwrap();
    assert_eq!(String::from_utf8(output(check.arg(file.path()))).unwrap().trim(), lines[0]);
}

#[test]
fn openssl_s_client_speaks_tls_through_a_tunnel() {
    let proxy = Binary::start(&[]);
    let (Some(nginx), Some(mut openssl)) = (Nginx::start(), tool("openssl")) else { return };
    openssl.args([
        "s_client",
        "-proxy",
        &proxy.addr.to_string(),
        "-connect",
        &nginx.tls.to_string(),
    ]);
    openssl.arg("-CAfile").arg(&nginx.ca).args(["-verify_return_error", "-brief"]);
    let said = openssl.output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("Verification: OK"), "{text}");
}

#[test]
fn a_websocket_goes_through_by_a_plain_request() {
    let Some(mut python) = python("websockets") else { return };
    let proxy = Binary::start(&[]);
    let (host, port) = (proxy.addr.ip().to_string(), proxy.addr.port().to_string());
    assert_eq!(output(python.arg(script("websocket.py")).args([host, port])), b"ok\n");
}

/// A peer that does not speak HTTP must not hang a browser: the connection closes at once.
#[test]
fn a_recorder_that_answers_in_another_protocol_is_a_502_for_curl() {
    let proxy = Binary::start(&[]);
    let Some(mut curl) = curl(&proxy) else { return };
    let server = Recorder::answering("SSH-2.0-OpenSSH_9.2p1\r\n");
    let url = format!("http://{}/", server.addr);
    let said = output(curl.args(["-o", "/dev/null", "-w", "%{http_code}", &url]));
    assert_eq!(said, b"502");
}
