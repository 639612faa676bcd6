//! Any bytes as translog and checkpoint files.
#![no_main]

#[path = "../../tests/arbitrary/mod.rs"]
mod arbitrary;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    arbitrary::generation(bytes);
    arbitrary::checkpoint(bytes);
});
