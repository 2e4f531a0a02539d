//! Any `Range` header and any conditional header is judged without a panic, and no range leaves the file.
#![no_main]

use hubgate::hub::{BlobId, ByteRange, Condition, Selected, Sha256, if_range_holds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (size, header) = input;
    if let Ok(Some(range)) = ByteRange::parse(header) {
        if let Selected::Part(part) = range.select(size) {
            assert!(part.start < part.end && part.end <= size);
        }
        assert_eq!(ByteRange::parse(&range.to_string()), Ok(Some(range)));
    }
    let etag = BlobId::Sha256(Sha256::of(header.as_bytes()));
    Condition::of(Some(header), Some(header), &etag);
    if_range_holds(Some(header), &etag);
});
