//! logrotate moves the access log, as the manual shows it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::log_destinations::{ask, read, said};
use crate::peers::eventually;
use crate::programs::output;
use crate::proxies::Binary;

use super::installed::tool;

#[test]
fn logrotate_moves_the_file_and_either_signal_opens_the_new_one() {
    for signal in ["USR1", "HUP"] {
        let dir = tempfile::tempdir().unwrap();
        let Some(logrotate) = tool("logrotate") else { return };
        let path = dir.path().join("access.log");
        let proxy = Binary::start(&["--access-log", path.to_str().unwrap()]);
        ask(&proxy, "first", 1);
        eventually(|| read(&path).contains("?first"));
        let conf = rotation(dir.path(), &path, signal, proxy.pid().as_raw_pid());
        rotate(logrotate, &conf);
        eventually(|| path.exists());
        ask(&proxy, "second", 1);
        eventually(|| read(&path).contains("?second"));
        let old = read(&dir.path().join("access.log.1"));
        assert!(old.contains("?first") && !old.contains("?second"), "{signal}: {old}");
        assert_eq!(said(&proxy, "WARN"), 0, "{}", proxy.stderr());
    }
}

/// The configuration of the manual, with this signal and process.
fn rotation(dir: &Path, log: &Path, signal: &str, pid: i32) -> PathBuf {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual.md"));
    let manual = manual.unwrap();
    let (_, after) = manual.split_once("/var/log/threadgate/access.log {").expect("the example");
    let body = after.split_once("```").unwrap().0;
    let kill = "kill -USR1 \"$(cat /run/threadgate.pid)\"";
    assert!(body.contains(kill), "{body}");
    let text =
        format!("{} {{{}", log.display(), body.replace(kill, &format!("kill -{signal} {pid}")));
    let conf = dir.join("logrotate.conf");
    fs::write(&conf, text).unwrap();
    // logrotate takes no configuration that others may write.
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o600)).unwrap();
    conf
}

fn rotate(mut logrotate: Command, conf: &Path) {
    output(logrotate.arg("--force").arg("--state").arg(conf.with_extension("state")).arg(conf));
}
