#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| threadgate::policy::auth::user_file::fuzz(bytes));
