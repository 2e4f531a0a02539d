//! Ranges and conditions: cold, warm, and while the file is still arriving.

use std::ops::Range;

use bytes::Bytes;
use http::Method;
use hub_standin::{Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};

use super::world;
use crate::support::gateway::TestGateway;

const SIZE: u64 = 100_000;

/// What is asked, and the part that is the answer; `None` is 416.
const CASES: [(&str, Option<Range<usize>>); 12] = [
    ("bytes=0-0", Some(0..1)),
    ("bytes=1000-1999", Some(1000..2000)),
    ("bytes=99999-99999", Some(99_999..100_000)),
    ("bytes=0-", Some(0..100_000)),
    ("bytes=70000-", Some(70_000..100_000)),
    ("bytes=-1", Some(99_999..100_000)),
    ("bytes=-500000", Some(0..100_000)),
    ("bytes=0-100000", Some(0..100_000)),
    ("bytes=99999-200000", Some(99_999..100_000)),
    ("bytes=100000-", None),
    ("bytes=100000-100001", None),
    ("bytes=-0", None),
];

/// A repo with as many LFS files and git files as there are cases, so that each is cold once.
fn crowd() -> RepoBuilder {
    let mut commit = NewCommit::new("one").file("README.md", "---\nlicense: mit\n---\n");
    for case in 0..CASES.len() as u64 {
        commit = commit
            .lfs(format!("{case}.lfs"), Content::generated(SIZE, 100 + case))
            .regular(format!("{case}.git"), Content::generated(SIZE, 200 + case));
    }
    RepoBuilder::model("acme/ranges").commit(commit)
}

/// Traps 27, 29: an end past the file is brought back to it, and a range is never answered with the whole file.
#[tokio::test]
async fn every_form_of_a_single_range_is_served_cold_and_warm() {
    let hub = Standin::builder().repo(crowd()).start().await;
    let gate = TestGateway::before(&hub).await;
    for (case, (range, part)) in CASES.iter().enumerate() {
        for kind in ["lfs", "git"] {
            let file = format!("{case}.{kind}");
            let whole = hub.bytes("acme/ranges", "main", &file);
            let url = format!("/acme/ranges/resolve/main/{file}");
            for when in ["cold", "warm"] {
                let asked = format!("{when} {kind} {range}");
                let answer = gate.get_with(&url, &[("range", range), ("accept-encoding", "gzip, deflate")]).await;
                assert_eq!(answer.header("etag"), format!("\"{}\"", hub.etag("acme/ranges", "main", &file)), "{asked}");
                match part {
                    Some(part) => {
                        assert_eq!(answer.status, 206, "{asked}: {}", answer.text());
                        assert!(answer.body == whole[part.clone()], "{asked}: other bytes");
                        let said = format!("bytes {}-{}/{SIZE}", part.start, part.end - 1);
                        assert_eq!(answer.header("content-range"), said, "{asked}");
                        assert_eq!(answer.header("content-length"), part.len().to_string(), "{asked}");
                    }
                    None => {
                        assert_eq!(answer.status, 416, "{asked}");
                        assert_eq!(answer.header("content-range"), format!("bytes */{SIZE}"), "{asked}");
                    }
                }
                assert_eq!(answer.header("accept-ranges"), "bytes", "{asked}");
                if when == "cold" {
                    assert!(gate.get(&url).await.body == whole);
                }
            }
        }
    }
}

/// Traps 25, 29: parts of a file that is still arriving are parts, those far ahead too.
#[tokio::test]
async fn ranges_are_answered_while_the_file_is_still_arriving() {
    const LARGE: usize = 30 << 20;
    let commit = NewCommit::new("one")
        .file("README.md", "---\nlicense: mit\n---\n")
        .lfs("big.bin", Content::generated(LARGE as u64, 9));
    let hub = Standin::builder().repo(RepoBuilder::model("acme/big").commit(commit)).start().await;
    let whole = hub.bytes("acme/big", "main", "big.bin");
    let gate = TestGateway::before(&hub).await;
    let url = format!("/acme/big/resolve/{}/big.bin", hub.commit("acme/big", "main"));
    let stall = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 2 << 20, ms: None }).origin(Origin::Cdn).once());
    let full = gate.client.open(Method::GET, &url, &[], Bytes::new()).await.unwrap();
    hub.wait_for("the first bytes", |now| now.file_bytes("*big.bin") >= 1 << 20).await;
    for range in [0..100, 500_000..600_001, LARGE - 5000..LARGE] {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = gate.get_with(&url, &[("range", &header)]).await;
        assert_eq!(answer.status, 206, "{header}");
        assert!(answer.body == whole[range.clone()], "{header}: other bytes");
        assert_eq!(answer.header("content-range"), format!("bytes {}-{}/{LARGE}", range.start, range.end - 1));
    }
    let beyond = gate.get_with(&url, &[("range", &format!("bytes={LARGE}-"))]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, &*format!("bytes */{LARGE}")));
    hub.clear_fault(stall);
    let body = http_body_util::BodyExt::collect(full.into_body()).await.unwrap().to_bytes();
    assert!(body == whole);
}

/// Several ranges at once, and what is no range: said, not answered with other bytes than asked.
#[tokio::test]
async fn ranges_that_are_not_served_are_416_with_a_reason_and_other_units_are_ignored() {
    let (hub, gate) = world().await;
    let url = "/acme/tiny/resolve/main/config.json";
    let size = hub.bytes("acme/tiny", "main", "config.json").len();
    for range in ["bytes=0-1,5-6", "bytes=5-2", "bytes=a-b", "bytes="] {
        let answer = gate.get_with(url, &[("range", range)]).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes */{size}"), "{range}");
        assert!(!answer.header("x-error-message").is_empty(), "{range}");
    }
    let answer = gate.get_with(url, &[("range", "lines=0-1")]).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, size));
}

/// Trap 28: JavaScript and Rust 0.x begin every download with `bytes=0-0`, of an empty file too.
#[tokio::test]
async fn a_range_of_an_empty_file_is_the_empty_file_with_its_size() {
    let (_hub, gate) = world().await;
    for when in ["cold", "warm"] {
        for range in ["bytes=0-0", "bytes=0-", "bytes=-5"] {
            let answer = gate.get_with("/acme/tiny/resolve/main/empty.txt", &[("range", range)]).await;
            assert_eq!(answer.status, 200, "{when} {range}");
            assert_eq!(answer.header("content-range"), "bytes */0", "{when} {range}");
            assert_eq!((answer.header("content-length"), answer.body.len()), ("0", 0), "{when} {range}");
        }
        let plain = gate.get("/acme/tiny/resolve/main/empty.txt").await;
        assert_eq!(
            (plain.status.as_u16(), plain.header("content-range"), plain.header("content-length")),
            (200, "", "0")
        );
    }
}

/// Trap 37: Rust 1.x asks again with the etag that it has.
#[tokio::test]
async fn if_none_match_is_answered_with_304_where_it_holds_and_only_there() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    for file in ["model.safetensors", "config.json"] {
        let url = format!("/acme/tiny/resolve/{commit}/{file}");
        let etag = format!("\"{}\"", hub.etag("acme/tiny", "main", file));
        let weak = format!("W/{etag}");
        let listed = format!("\"other\", {etag}");
        for method in ["HEAD", "GET"] {
            for same in [&etag, &weak, &listed, &"*".to_owned()] {
                let answer = gate.ask(method, &url, &[("if-none-match", same)]).await;
                assert_eq!(answer.status, 304, "{method} {same}");
                assert_eq!((answer.header("etag"), answer.header("x-repo-commit")), (&*etag, &*commit));
                assert!(answer.body.is_empty());
            }
            let other = gate.ask(method, &url, &[("if-none-match", "\"0123\"")]).await;
            assert_eq!(other.status, 200, "{method}");
        }
    }
}

/// A new commit of a branch is never hidden behind a client's old etag.
#[tokio::test]
async fn if_none_match_on_a_branch_is_judged_at_the_commit_it_means() {
    let (hub, gate) = super::world_with("upstream.ref_ttl = \"0s\"").await;
    let url = "/acme/tiny/resolve/main/config.json";
    let old = gate.get(url).await;
    let etag = old.header("etag").to_owned();
    assert_eq!(gate.get_with(url, &[("if-none-match", &etag)]).await.status, 304);
    hub.push("acme/tiny", "main", NewCommit::new("four").file("config.json", "{\"new\": true}\n"));
    let new = gate.get_with(url, &[("if-none-match", &etag)]).await;
    assert_eq!((new.status.as_u16(), new.text()), (200, "{\"new\": true}\n".to_owned()));
}

#[tokio::test]
async fn if_match_and_if_range_hold_for_the_strong_etag_alone() {
    let (hub, gate) = world().await;
    let url = "/acme/tiny/resolve/main/model.safetensors";
    let etag = format!("\"{}\"", hub.etag("acme/tiny", "main", "model.safetensors"));
    let weak = format!("W/{etag}");
    let size = hub.bytes("acme/tiny", "main", "model.safetensors").len();
    assert_eq!(gate.get_with(url, &[("if-match", &etag)]).await.status, 200);
    assert_eq!(gate.get_with(url, &[("if-match", "\"other\"")]).await.status, 412);
    for (if_range, status, length) in [
        (etag.as_str(), 206, 10),
        (&weak, 200, size),
        ("\"other\"", 200, size),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 200, size),
    ] {
        let answer = gate.get_with(url, &[("range", "bytes=0-9"), ("if-range", if_range)]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, length), "{if_range}");
    }
}
