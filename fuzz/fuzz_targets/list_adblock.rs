#![no_main]

use threadgate::policy::list::{Format, fuzz};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz(Format::Adblock, bytes));
