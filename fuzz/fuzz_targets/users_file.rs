#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| threadgate::policy::auth::user_file::fuzz(octets));
