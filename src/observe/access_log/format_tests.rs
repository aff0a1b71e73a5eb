//! Tests exact lines, and that a hostile record cannot damage them.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::*;
use crate::error::{Kind, Phase, Side};
use crate::observe::access_log::{LoggedFailure, Phases, RecordKind};
use crate::policy::rule_origin::{Origins, RuleId, RuleSource};

fn plain() -> Record<'static> {
    Record {
        started: UNIX_EPOCH + Duration::from_millis(1_795_291_200_123),
        target: b"http://example.com/",
        bytes_from_client: 120,
        bytes_to_client: 1270,
        content_to_client: 1024,
        upstream: Some(([93, 184, 216, 34], 80).into()),
        reused: true,
        phases: Phases {
            request: Duration::from_micros(100),
            send: Duration::from_micros(20),
            wait: Duration::from_millis(12),
            transfer: Duration::from_micros(180),
            ..Phases::default()
        },
        ..Record::bare()
    }
}

fn failed() -> Record<'static> {
    Record {
        method: "CONNECT",
        target: b"example.com:443",
        status: 502,
        upstream: None,
        phases: Phases { connect: Duration::from_nanos(1_999), ..Phases::default() },
        failure: Some(LoggedFailure {
            side: Side::Upstream,
            phase: Phase::Connect,
            kind: Kind::ConnectionRefused,
            reason: "the upstream refused the connection",
        }),
        ..plain()
    }
}

fn line(format: LineFormat, record: &Record<'_>) -> String {
    String::from_utf8(Scratch::new().line(format, record).to_vec()).expect("ASCII")
}

#[track_caller]
fn check(format: LineFormat, record: &Record<'_>, expected: &str) {
    assert_eq!(line(format, record), format!("{expected}\n"));
}

#[test]
fn text_lines() {
    check(
        LineFormat::Text,
        &plain(),
        "2026-11-21T20:00:00.123Z 127.0.0.1:50112 GET http://example.com/ 200 kind=exchange \
         out=1270 in=120 upstream=93.184.216.34:80 reused=yes total=12.300ms request=0.100ms \
         lookup=- connect=- send=0.020ms wait=12.000ms transfer=0.180ms",
    );
    check(
        LineFormat::Text,
        &failed(),
        "2026-11-21T20:00:00.123Z 127.0.0.1:50112 CONNECT example.com:443 502 kind=exchange \
         out=1270 in=120 upstream=- reused=- total=0.001ms request=- lookup=- connect=0.001ms \
         send=- wait=- transfer=- error=connection_refused side=upstream phase=connect \
         reason=\"the upstream refused the connection\"",
    );
    check(
        LineFormat::Text,
        &Record {
            started: UNIX_EPOCH - Duration::from_secs(1),
            client: "[2001:db8::1]:1".parse().expect("an address"),
            kind: RecordKind::Tunnel,
            method: "",
            target: b"",
            status: 0,
            bytes_from_client: 0,
            bytes_to_client: u64::MAX,
            reused: false,
            phases: Phases::default(),
            ..plain()
        },
        "1970-01-01T00:00:00.000Z [2001:db8::1]:1 - - - kind=tunnel out=18446744073709551615 in=0 \
         upstream=93.184.216.34:80 reused=no total=0.000ms request=- lookup=- connect=- send=- \
         wait=- transfer=-",
    );
}

#[test]
fn json_lines() {
    check(
        LineFormat::Json,
        &plain(),
        r#"{"time":"2026-11-21T20:00:00.123Z","client":"127.0.0.1:50112","kind":"exchange","method":"GET","target":"http://example.com/","status":200,"bytes_to_client":1270,"bytes_from_client":120,"upstream":"93.184.216.34:80","reused":true,"total_us":12300,"request_us":100,"lookup_us":null,"connect_us":null,"send_us":20,"wait_us":12000,"transfer_us":180,"error":null,"side":null,"phase":null,"reason":null,"rule":null,"would_deny":null,"entry":null,"sni":null,"user":null}"#,
    );
    check(
        LineFormat::Json,
        &Record { status: 0, method: "", target: b"", ..failed() },
        r#"{"time":"2026-11-21T20:00:00.123Z","client":"127.0.0.1:50112","kind":"exchange","method":null,"target":null,"status":null,"bytes_to_client":1270,"bytes_from_client":120,"upstream":null,"reused":null,"total_us":1,"request_us":null,"lookup_us":null,"connect_us":1,"send_us":null,"wait_us":null,"transfer_us":null,"error":"connection_refused","side":"upstream","phase":"connect","reason":"the upstream refused the connection","rule":null,"would_deny":null,"entry":null,"sni":null,"user":null}"#,
    );
}

#[test]
fn a_user_stands_in_each_format_and_cannot_forge_a_column() {
    for (user, text, json, common) in [
        ("alice", " user=alice", "alice", " - alice ["),
        (
            "j\u{fc}rgen \"x\"",
            " user=j\\xc3\\xbcrgen\\x20\\x22x\\x22",
            "j\u{fc}rgen \"x\"",
            r#" - j\xc3\xbcrgen\x20\"x\" ["#,
        ),
    ] {
        let record = Record { user, ..plain() };
        assert!(
            line(LineFormat::Text, &record).contains(text),
            "{}",
            line(LineFormat::Text, &record)
        );
        let value: Value = serde_json::from_str(&line(LineFormat::Json, &record)).expect("JSON");
        assert_eq!(value["user"], json);
        let clf = line(LineFormat::Common, &record);
        assert!(clf.contains(common), "{clf}");
    }
}

#[test]
fn the_entry_of_a_list_stands_behind_the_rule() {
    let record = Record { entry: Some("/^a\\.b \"c/"), ..plain() };
    let text = line(LineFormat::Text, &record);
    assert!(text.contains(" entry=\"/^a\\x5c.b \\x22c/\""), "{text}");
    let value: Value = serde_json::from_str(&line(LineFormat::Json, &record)).expect("JSON");
    assert_eq!(value["entry"], "/^a\\.b \"c/");
}

#[test]
fn the_name_of_a_rule_is_one_column_even_with_a_space_in_it() {
    let mut origins = Origins::default();
    for (source, text, json) in [
        (RuleSource::Option("methods"), " rule=--methods", "--methods"),
        (
            RuleSource::OptionValue("policy", "enforce"),
            " rule=\"--policy enforce\"",
            "--policy enforce",
        ),
        (
            RuleSource::File("my \"list\"\n".into()),
            " rule=\"my \\x22list\\x22\\x0a\"",
            "my \\x22list\\x22\\x0a",
        ),
    ] {
        let rule = RuleId { source: origins.add(source), line: 0 };
        let record = Record { rule: Some(origins.name(rule)), ..plain() };
        let said = line(LineFormat::Text, &record);
        assert!(said.ends_with(&format!("{text}\n")), "{said}");
        let value: Value = serde_json::from_str(&line(LineFormat::Json, &record)).expect("JSON");
        assert_eq!(value["rule"], json);
    }
}

#[test]
fn every_json_line_has_the_same_keys() {
    let keys = |record: &Record<'_>| {
        let value: Value = serde_json::from_str(&line(LineFormat::Json, record)).expect("JSON");
        value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    let expected = keys(&plain());
    assert_eq!(expected.len(), 26);
    for record in [
        failed(),
        Record { kind: RecordKind::Tunnel, ..plain() },
        Record { method: "", target: b"", status: 0, upstream: None, ..plain() },
        Record { user: "alice", ..plain() },
    ] {
        assert_eq!(keys(&record), expected);
    }
}

#[test]
fn no_record_can_forge_a_line_or_a_column() {
    let hostile: [&[u8]; 6] = [
        b"/\n2026-11-21T20:00:00.123Z 10.0.0.1:1 GET / 200",
        b"/\" status=200 \"",
        b"/\",\"status\":200,\"x\":\"",
        b"/\x1b[2J\x9b\x07\0\r",
        b"/\xff\xfe\xe2\x80\xa8",
        b"/\\\\\" \\n",
    ];
    for target in hostile {
        for method in ["GET", "G\nE\" T", "GÉT\u{2028}"] {
            let mut record = Record { target, method, ..failed() };
            if let Some(failure) = &mut record.failure {
                failure.reason = "a \"quoted\"\n reason\u{85} with \\";
            }
            let text = line(LineFormat::Text, &record);
            assert!(text.is_ascii());
            assert_eq!(text.bytes().filter(|o| *o < b' ' || *o == 0x7f).count(), 1, "{text:?}");
            assert!(
                text.ends_with("reason=\"a \\x22quoted\\x22\\x0a reason\\xc2\\x85 with \\x5c\"\n")
            );
            let columns = line(LineFormat::Text, &failed()).split(' ').count();
            // The reason in `failed` has five words, and so has this one.
            assert_eq!(text.split(' ').count(), columns, "{text:?}");

            let json = line(LineFormat::Json, &record);
            assert_eq!(json.bytes().filter(|o| *o < b' ').count(), 1, "{json:?}");
            let value: Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(value["status"], 502);
            assert!(value["target"].as_str().expect("a string").starts_with("/"));
        }
    }
}

#[test]
fn credentials_reach_neither_format() {
    let record = Record { target: b"http://user:secret@example.com/", ..plain() };
    for format in [LineFormat::Text, LineFormat::Json] {
        let line = line(format, &record);
        assert!(!line.contains("secret") && !line.contains("user:"), "{line}");
        assert!(line.contains("http://***@example.com/"), "{line}");
    }
}

#[test]
fn the_kept_second_follows_the_clock_both_ways() {
    let mut scratch = Scratch::new();
    for (ms, expected) in [
        (0, "1970-01-01T00:00:00.000Z "),
        (999, "1970-01-01T00:00:00.999Z "),
        (1_000, "1970-01-01T00:00:01.000Z "),
        (86_400_007, "1970-01-02T00:00:00.007Z "),
        (59_040, "1970-01-01T00:00:59.040Z "),
    ] {
        let record = Record { started: UNIX_EPOCH + Duration::from_millis(ms), ..plain() };
        let line = scratch.line(LineFormat::Text, &record);
        assert!(line.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(line));
    }
}

#[test]
fn decimals() {
    for n in [0, 7, 10, 999, 1_000, u64::MAX] {
        let mut out = Vec::new();
        decimal(&mut out, n);
        assert_eq!(out, n.to_string().into_bytes());
    }
}

/// Tests the schema in `docs` as far as it can be judged without a validator; `tests/it` validates
/// real lines.
#[test]
fn the_schema_has_the_keys_of_a_line_and_no_others() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/access-log.schema.json")).expect("JSON");
    let properties = schema["properties"].as_object().expect("an object");
    let required: Vec<_> = schema["required"].as_array().expect("a list").iter().collect();
    for record in [plain(), failed(), Record { method: "", status: 0, ..failed() }] {
        let text = line(LineFormat::Json, &record);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let object = value.as_object().expect("an object");
        let mut keys: Vec<_> = object.keys().collect();
        keys.sort();
        let mut documented: Vec<_> = properties.keys().collect();
        documented.sort();
        assert_eq!(keys, documented);
        // serde_json sorts the keys of objects, but not the elements of lists.
        let mut places: Vec<_> = required
            .iter()
            .map(|key| text.find(&format!("\"{}\":", key.as_str().expect("a key"))))
            .collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
        places.dedup();
        assert_eq!(places.len(), keys.len());
        for (key, value) in object {
            assert!(fits(&properties[key], value), "{key}: {value} is not {}", properties[key]);
        }
    }
}

fn fits(property: &Value, value: &Value) -> bool {
    if let Some(values) = property["enum"].as_array() {
        return values.contains(value);
    }
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::String(_) => "string",
        _ => return false,
    };
    let is = |expected: &Value| expected == name;
    property["type"].as_array().map_or_else(|| is(&property["type"]), |all| all.iter().any(is))
}

#[test]
fn each_side_and_phase_there_is_stands_in_the_schema() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/access-log.schema.json")).expect("JSON");
    let listed = |key: &str| schema["properties"][key]["enum"].as_array().expect("values").len();
    // Each also lists `null`.
    assert_eq!((listed("side"), listed("phase"), listed("kind")), (4, 7, 2));
    for side in [Side::Client, Side::Proxy, Side::Upstream] {
        assert!(fits(&schema["properties"]["side"], &side.word().into()));
    }
    use Phase::{Connect, Lookup, Request, Response, Send, Transfer};
    for phase in [Request, Lookup, Connect, Send, Response, Transfer] {
        assert!(fits(&schema["properties"]["phase"], &phase.word().into()));
    }
}

#[test]
fn lines_for_a_terminal_are_aligned_and_name_the_failure() {
    let plain_look = LineFormat::Terminal { colour: false };
    check(
        plain_look,
        &plain(),
        "20:00:00.123 200 GET        12.300ms       1270 127.0.0.1:50112       http://example.com/",
    );
    check(
        plain_look,
        &failed(),
        "20:00:00.123 502 CONNECT     0.001ms       1270 127.0.0.1:50112       example.com:443 \
         the upstream refused the connection (connection_refused, side upstream, phase connect)",
    );
    check(
        plain_look,
        &Record { method: "", target: b"", status: 0, bytes_to_client: u64::MAX, ..plain() },
        "20:00:00.123   - -          12.300ms 18446744073709551615 127.0.0.1:50112       -",
    );
}

#[test]
fn colour_goes_by_the_class_of_the_status_and_takes_no_width() {
    for (status, code) in [(101, 32), (204, 32), (304, 36), (407, 33), (502, 31), (0, 31)] {
        let coloured = line(LineFormat::Terminal { colour: true }, &Record { status, ..failed() });
        assert!(coloured.contains(&format!("\x1b[{code}m")), "{status}: {coloured:?}");
        assert!(coloured.contains("\x1b[31mthe upstream refused"), "{coloured:?}");
        let mut bare = coloured;
        for code in ["0", "2", "31", "32", "33", "36"] {
            bare = bare.replace(&format!("\x1b[{code}m"), "");
        }
        let expected = line(LineFormat::Terminal { colour: false }, &Record { status, ..failed() });
        assert_eq!(bare, expected);
    }
}

#[test]
fn a_thread_that_writes_in_two_formats_has_the_time_of_each() {
    let mut scratch = Scratch::new();
    for _ in 0..2 {
        for (format, time) in [
            (LineFormat::Text, "2026-11-21T20:00:00.123Z "),
            (LineFormat::Common, "127.0.0.1 - - [21/Nov/2026:20:00:00 +0000] "),
            (LineFormat::Terminal { colour: false }, "20:00:00.123 "),
        ] {
            let line = String::from_utf8_lossy(scratch.line(format, &plain())).into_owned();
            assert!(line.starts_with(time), "{line}");
        }
    }
}
