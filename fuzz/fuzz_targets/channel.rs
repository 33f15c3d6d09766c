#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decurion_ipc::channel::fuzz_consumer(bytes));
