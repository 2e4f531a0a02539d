//! Any README, and any text as its front matter, has its licence read without a panic, a stack overflow or
//! memory beyond bounds.
#![no_main]

use hubgate::policy::license_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    license_of(input);
    license_of(&[b"---\n", input, b"\n---\n"].concat());
});
