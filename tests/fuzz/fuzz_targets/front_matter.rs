//! Any README, and any text as its front matter, is read without a panic, a stack overflow or memory beyond bounds; what
//! is read is a licence or a reason.
#![no_main]

use hubgate::policy::{Claim, license_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|yaml: &[u8]| {
    let wrapped = [b"---\n", yaml, b"\n---\n"].concat();
    for readme in [yaml, &wrapped] {
        match license_of(readme) {
            Claim::None => {}
            Claim::Stated(ids) => assert!(!ids.is_empty() && ids.iter().all(|id| !id.as_str().is_empty())),
            Claim::Unreadable(why) => assert!(!why.is_empty()),
        }
    }
});
