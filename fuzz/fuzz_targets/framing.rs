#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| threadgate::wire::fuzz_framing(bytes));
