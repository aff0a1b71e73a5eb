//! curl logs in by NTLM, a login that belongs to a connection.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::logins::authorization;
use crate::programs::output;
use crate::proxies::Binary;
use crate::servers::Origin;

use super::installed::tool;

/// An NTLM acceptor's answer to the first message: no target, a challenge, names in OEM.
fn ntlm_challenge() -> String {
    let mut message = b"NTLMSSP\0".to_vec();
    message.extend(2_u32.to_le_bytes());
    message.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    message.extend(0x0000_0206_u32.to_le_bytes());
    message.extend(*b"noncense");
    message.extend([0; 8]);
    message.extend([0, 0, 0, 0, 48, 0, 0, 0]);
    BASE64_STANDARD.encode(message)
}

/// The user in the last NTLM message.
fn ntlm_user(message: &[u8]) -> String {
    let number = |at: usize| usize::from(u16::from_le_bytes([message[at], message[at + 1]]));
    let (length, offset) = (number(36), number(40));
    String::from_utf8(message[offset..offset + length].to_vec()).expect("a name in ASCII")
}

/// A server that does the three messages of NTLM with a real client, on each connection anew.
fn ntlm_server(connections: usize) -> Origin {
    Origin::script_at_once(connections, |peer| {
        let mut user = None;
        while let Some(head) = peer.try_read_head() {
            let mut challenge = "NTLM".to_owned();
            if let Some(("NTLM", message)) = authorization(&head) {
                let message = BASE64_STANDARD.decode(message).expect("base64");
                match message[8] {
                    1 => challenge = format!("NTLM {}", ntlm_challenge()),
                    3 => user = Some(ntlm_user(&message)),
                    other => panic!("an NTLM message of type {other}"),
                }
            }
            let challenge = format!("HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\n");
            peer.send(match &user {
                Some(user) => {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len())
                }
                None => format!("{challenge}Content-Length: 6\r\n\r\nnobody"),
            });
        }
    })
}

#[test]
fn curl_logs_in_by_ntlm_with_and_without_a_pool_and_only_for_itself() {
    for options in [&[][..], &["--pool-idle=0"]] {
        let proxy = Binary::start(options);
        let curl = |user: &str, origin: &Origin| -> Option<Command> {
            let mut curl = tool("curl")?;
            curl.args(["-q", "-sS", "--max-time", "20", "--noproxy", "", "-x", &proxy.url()]);
            if !user.is_empty() {
                curl.args(["--ntlm", "-u", user]);
            }
            curl.arg(format!("http://{}/", origin.addr));
            Some(curl)
        };
        let said = |mut curl: Command| String::from_utf8(output(&mut curl)).unwrap();
        let origin = ntlm_server(3);
        let Some(alice) = curl("alice:secret", &origin) else { return };
        // Twice in one run: the second request finds the login.
        let url = format!("http://{}/", origin.addr);
        let mut twice = alice;
        twice.arg(url);
        assert_eq!(said(twice), "alicealice", "{options:?}");
        assert_eq!(said(curl("", &origin).unwrap()), "nobody", "{options:?}");
        assert_eq!(said(curl("bob:other", &origin).unwrap()), "bob", "{options:?}");
        drop(proxy);
        origin.join();
    }
}
