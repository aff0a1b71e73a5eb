//! The formats of the access log, judged by GoAccess and by a JSON Schema validator.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::log_formats::one_of_each;
use crate::programs::output;

use super::installed::{python, tool};

#[test]
fn goaccess_reads_every_line_of_both_formats() {
    for format in ["common", "combined"] {
        let Some(mut goaccess) = tool("goaccess") else { return };
        let (lines, _, file, dir) = one_of_each(format);
        let report = dir.path().join("report.json");
        output(
            goaccess
                .arg(&file)
                .args(["--no-global-config", "--no-progress", "--no-ip-validation", "-o"])
                .arg(&report)
                .arg(format!("--log-format={}", format.to_uppercase())),
        );
        let text = fs::read_to_string(&report).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let general = &report["general"];
        assert_eq!(general["failed_requests"], 0, "{lines:#?}\n{general}");
        assert_eq!(general["valid_requests"], lines.len(), "{lines:#?}\n{general}");
        let hits = |panel: &str, name: &str| {
            fn find(rows: &Value, name: &str) -> u64 {
                let rows = rows.as_array().map_or(&[][..], |rows| rows);
                let of_row = |row: &Value| match row["data"].as_str() {
                    Some(data) if data.contains(name) => row["hits"]["count"].as_u64().unwrap(),
                    _ => find(&row["items"], name),
                };
                rows.iter().map(of_row).sum()
            }
            find(&report[panel]["data"], name)
        };
        assert_eq!(hits("hosts", "127.0.0.1"), 9);
        assert_eq!(hits("status_codes", "502 "), 1, "{text}");
        assert_eq!(hits("status_codes", "499 "), 1, "{text}");
        if format == "combined" {
            assert_eq!(hits("browsers", "Firefox"), 3, "{text}");
            assert_eq!(hits("referring_sites", "a.example"), 1, "{text}");
        }
    }
}

#[test]
fn json_lines_are_valid_by_the_schema() {
    const VALIDATE: &str = "
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
# To show that it can refuse, every key is also taken away and made an array.
count = refused = 0
for line in open(sys.argv[2]):
    value = json.loads(line)
    jsonschema.Draft7Validator(schema).validate(value)
    count += 1
    for key in value:
        for wrong in ({k: v for k, v in value.items() if k != key}, {**value, key: []}):
            refused += not jsonschema.Draft7Validator(schema).is_valid(wrong)
    assert refused == 2 * len(value) * count, (line, refused)
print(count)
";
    let Some(mut python) = python("jsonschema") else { return };
    let (lines, _, file, _dir) = one_of_each("json");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access-log.schema.json");
    let said = output(python.args(["-c", VALIDATE]).arg(schema).arg(file));
    assert_eq!(String::from_utf8_lossy(&said).trim(), lines.len().to_string());
}
