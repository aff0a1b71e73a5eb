//! The names in the ClientHellos of programs, and what programs are told.

use threadgate::wire::client_hello::{Reader, Reading};

use crate::peers::{End, STEP};
use crate::programs::{clean, in_short, logged, logging_proxy, run};
use crate::servers::Origin;
use crate::sni_again::{CHANGE, HELLO, REFUSED, RETRY, hello_to, tunnel};

use super::installed::{Nginx, tool};

/// The lowest and the highest version for curl to use.
const VERSIONS: [(&str, &str); 2] = [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")];

#[test]
fn curl_is_told_by_an_alert_and_gets_through_under_the_right_name() {
    let (Some(nginx), Some(_)) =
        (Nginx::start_with("ssl_protocols TLSv1.2 TLSv1.3;"), tool("curl"))
    else {
        return;
    };
    let proxy = logging_proxy(&[
        "--deny=bad.example",
        "--resolve=good.example:127.0.0.1",
        "--resolve=other.example:127.0.0.1",
    ]);
    let port = nginx.tls.port();
    for (version, at_most) in VERSIONS {
        let curl = |host: &str| {
            let mut curl = clean("curl");
            curl.args(["-q", "-sSk", "--noproxy", "", "--max-time", "20", version]);
            curl.args(["--tls-max", at_most, "-x", &proxy.url()]);
            // The CONNECT names good.example, whatever the URL names.
            curl.args(["--connect-to", &format!("{host}:{port}:good.example:{port}")]);
            run(curl.arg(format!("https://{host}:{port}/file")))
        };
        assert!(curl("good.example").stdout == nginx.content, "{version}");
        assert!(curl("other.example").stdout == nginx.content, "{version}");
        let refused = curl("bad.example");
        assert_eq!(refused.status.code(), Some(35), "{}", refused.stderr);
        assert!(refused.stderr.contains("unrecognized name"), "{}", refused.stderr);
    }
    let lines = logged(&proxy, |lines| lines.len() == 6);
    let names: Vec<_> = lines.iter().map(|line| line["sni"].as_str()).collect();
    let expected = [None, Some("other.example"), Some("bad.example")];
    assert_eq!(names, [expected, expected].concat(), "{:?}", lines.iter().map(in_short));
}

#[test]
fn hellos_of_programs_are_read() {
    let openssl = |extra: &'static [&'static str]| {
        move |to: String| {
            let mut command = clean("openssl");
            command.args(["s_client", "-connect", &to, "-servername", "www.example.com"]);
            command.args(extra);
            command
        }
    };
    let python = |to: String| {
        let mut command = clean("/usr/bin/python3");
        let (host, port) = to.split_once(':').unwrap();
        command.args(["-I", "-c"]).arg(format!(
            "import socket, ssl; c = ssl._create_unverified_context(); \
             c.wrap_socket(socket.create_connection(('{host}', {port})), server_hostname='www.example.com')"
        ));
        command
    };
    let node = |to: String| {
        let mut command = clean("node");
        let (host, port) = to.split_once(':').unwrap();
        command.arg("-e").arg(format!(
            "require('tls').connect({{host: '{host}', port: {port}, servername: 'www.example.com', \
             rejectUnauthorized: false}}).on('error', () => {{}})"
        ));
        command
    };
    let curl = |to: String| {
        let mut command = clean("curl");
        command.args(["-q", "-sk", "--noproxy", "*", "--connect-to", &format!("::{to}")]);
        command.arg("https://www.example.com/");
        command
    };
    type Command = Box<dyn Fn(String) -> std::process::Command>;
    let programs: [(&str, Command); 5] = [
        ("curl", Box::new(curl)),
        ("openssl", Box::new(openssl(&["-tls1_2"]))),
        ("openssl", Box::new(openssl(&["-tls1_3"]))),
        ("python3", Box::new(python)),
        ("node", Box::new(node)),
    ];
    for (name, command) in programs {
        if tool(name).is_none() {
            continue;
        }
        let (sender, came) = crossbeam_channel::bounded(1);
        let origin = Origin::script(1, move |peer| {
            let head = peer.read_exact(5);
            let rest = peer.read_exact(usize::from(u16::from_be_bytes([head[3], head[4]])));
            sender.send([head, rest].concat()).unwrap();
        });
        // It fails, because nobody answers it.
        let _ = run(&mut command(origin.addr.to_string()));
        let hello = came.recv_timeout(STEP).unwrap();
        match Reader::default().read(&hello) {
            Reading::Hello(hello) => assert_eq!(hello.sni, Some("www.example.com"), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        origin.join();
    }
}

/// nginx accepts only a key on a curve that no client offers first.
#[test]
fn programs_get_through_a_retry_and_nginx_never_has_a_second_name() {
    let settings = "ssl_protocols TLSv1.3; ssl_ecdh_curve secp384r1;";
    let (Some(nginx), Some(_)) = (Nginx::start_with(settings), tool("curl")) else { return };
    let proxy = logging_proxy(&["--deny=bad.example.com", "--resolve=www.example.com:127.0.0.1"]);
    let port = nginx.tls.port();
    let mut curl = clean("curl");
    curl.args(["-q", "-sSk", "--noproxy", "", "--max-time", "20", "-x", &proxy.url()]);
    assert!(run(curl.arg(format!("https://www.example.com:{port}/file"))).stdout == nginx.content);

    let mut client = tunnel(proxy.addr, nginx.tls);
    client.send(HELLO);
    let head = client.read_exact(5);
    let rest = client.read_exact(usize::from(u16::from_be_bytes([head[3], head[4]])));
    assert_eq!([&head[..1], &rest[6..38]].concat(), [&RETRY[..1], &RETRY[11..43]].concat());
    client.send([CHANGE, &hello_to("bad.example.com")].concat());
    let (said, end) = client.read_to_any_end();
    assert_eq!((said.strip_prefix(CHANGE).unwrap_or(&said), end), (REFUSED, End::Closed));
    let lines = logged(&proxy, |lines| lines.len() == 2);
    assert_eq!(lines[1]["sni"].as_str(), Some("bad.example.com"), "{}", lines[1]);
    assert_eq!(lines[1]["rule"].as_str(), Some("--sni"), "{}", lines[1]);
}
