#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decurion_proxy::http1::fuzz_chunked(bytes));
