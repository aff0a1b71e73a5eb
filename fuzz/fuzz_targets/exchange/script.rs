//! The notation: bytes that are said as they stand, and nine bytes that direct the play.
//!
//! | byte | means |
//! |---|---|
//! | `FF` | the script ends; the next one is the next upstream connection's |
//! | `FE` | a pause, until the proxy has taken a turn |
//! | `FD`, `FC`, `FB` | the authority of origin server A (an address), B (a name), the proxy itself |
//! | `FA` | client: a pause until bytes came; origin server: until another request head came |
//! | `F9` | a reset; what follows is not said |
//! | `F8` | a serial number, so that two requests can be told apart |
//! | `F7` | a close of both directions; what follows is not said |
//!
//! The first script is the client's. An upstream connection without a script of its own plays the
//! last one. At its script's end a peer ends its direction and goes on reading.

use std::collections::VecDeque;

/// A peer's next action.
#[derive(Debug, Clone, Eq, PartialEq)]
pub enum Step {
    Say(Vec<u8>),
    Pause,
    Await,
    Reset,
    Close,
}

/// The part of one peer.
pub type Script = VecDeque<Step>;

/// The parts of all peers.
#[derive(Debug)]
pub struct Scripts {
    pub client: Script,
    pub upstream: Vec<Script>,
}

const MAX_SCRIPTS: usize = 9;
const MAX_STEPS: usize = 40;

impl Scripts {
    /// Reads the notation. `None` if it is too long to be worth the time, or if the client would make the
    /// proxy connect to a host outside the play.
    pub fn read(bytes: &[u8], authorities: &[String; 3]) -> Option<Self> {
        let mut serial = 0;
        let mut scripts: Vec<Script> = bytes
            .split(|&b| b == 0xff)
            .map(|part| read_one(part, authorities, &mut serial))
            .collect();
        if scripts.len() > MAX_SCRIPTS || scripts.iter().any(|s| s.len() > MAX_STEPS) {
            return None;
        }
        let client = scripts.remove(0);
        if names_a_stranger(&said(&client), authorities) {
            return None;
        }
        Some(Self { client, upstream: scripts })
    }
}

fn read_one(part: &[u8], authorities: &[String; 3], serial: &mut u32) -> Script {
    let mut script = Script::new();
    for &byte in part {
        let step = match byte {
            0xf7 => Step::Close,
            0xf9 => Step::Reset,
            0xfa => Step::Await,
            0xfe => Step::Pause,
            _ => {
                if !matches!(script.back(), Some(Step::Say(_))) {
                    script.push_back(Step::Say(Vec::new()));
                }
                let Some(Step::Say(bytes)) = script.back_mut() else { continue };
                match byte {
                    0xf8 => {
                        *serial += 1;
                        bytes.extend_from_slice(serial.to_string().as_bytes());
                    }
                    0xfb..=0xfd => {
                        let authority = &authorities[usize::from(0xfd - byte)];
                        bytes.extend_from_slice(authority.as_bytes());
                    }
                    _ => bytes.push(byte),
                }
                continue;
            }
        };
        script.push_back(step);
    }
    script
}

fn said(script: &Script) -> Vec<u8> {
    let said = script.iter().filter_map(|step| match step {
        Step::Say(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    said.collect::<Vec<_>>().concat()
}

/// Whether an authority in a request line, wherever one might be read, is an address or a known name
/// outside the play. The play's resolver does not know any other names.
fn names_a_stranger(said: &[u8], authorities: &[String; 3]) -> bool {
    let starts = |mark: &'static [u8]| {
        said.windows(mark.len())
            .enumerate()
            .filter(move |(_, w)| *w == mark)
            .map(|(at, w)| at + w.len())
    };
    let is_stranger = |start: usize| {
        let rest = said[start..].trim_ascii_start();
        let end = rest.iter().position(|o| b" \t\r\n/?#".contains(o)).unwrap_or(rest.len());
        let authority = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let host = |authority: &str| authority.split(':').next().unwrap_or_default().to_owned();
        !authorities.contains(&authority)
            && (authority.starts_with(|c: char| c.is_ascii_digit() || c == '[')
                || authorities.iter().any(|known| host(known) == host(&authority)))
    };
    starts(b"://").chain(starts(b"CONNECT")).any(is_stranger)
}
