//! Fuzz target `descriptor`: the work is in `sfu/tests/support/fuzz_entry.rs`.
#![no_main]

#[path = "../../tests/support/fuzz_entry.rs"]
mod fuzz_entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entry::run("descriptor", data));
