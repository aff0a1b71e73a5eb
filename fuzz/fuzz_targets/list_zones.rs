#![no_main]

use threadgate::policy::list_draft::fuzz;
use threadgate::policy::list_format::ListFormat;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz(ListFormat::Rpz, bytes));
