//! A file's first fetch, as clients live through it.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hub_standin::{Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};

use crate::support::gateway::TestGateway;

const LARGE: usize = 24 << 20;
const URL: &str = "/acme/big/resolve/{commit}/big.bin";

/// A repo with one large file, and the URL of that at its commit.
async fn large() -> (Standin, TestGateway, String, Vec<u8>) {
    let commit = NewCommit::new("one")
        .file("README.md", "---\nlicense: mit\n---\n")
        .lfs("big.bin", Content::generated(LARGE as u64, 77));
    let hub = Standin::builder().repo(RepoBuilder::model("acme/big").commit(commit)).start().await;
    let gate = TestGateway::before(&hub).await;
    let url = URL.replace("{commit}", &hub.commit("acme/big", "main"));
    let whole = hub.bytes("acme/big", "main", "big.bin");
    (hub, gate, url, whole)
}

/// Trap 23: 0.x clients lose the whole file to a cut; it is mended behind their open connection.
#[tokio::test]
async fn a_cut_upstream_is_not_seen_by_the_client() {
    let (hub, gate, url, whole) = large().await;
    hub.fault(Fault::new(FaultKind::CutAfter { bytes: 9 << 20 }).origin(Origin::Cdn).once());
    hub.fault(Fault::new(FaultKind::CutAfter { bytes: 5 << 20 }).origin(Origin::Cdn).skip(1).once());
    let answer = gate.get(&url).await;
    assert!(!answer.broke && answer.body == whole);
    assert!(hub.counters().file_bytes("*big.bin") < 2 * LARGE as u64, "it resumed");
}

/// Trap 24: the first bytes go out while the rest is still to come.
#[tokio::test]
async fn the_first_bytes_of_a_large_file_do_not_wait_for_its_last() {
    let (hub, gate, url, whole) = large().await;
    let stall = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 12 << 20, ms: None }).origin(Origin::Cdn).once());
    let answer = gate.client.open(Method::GET, &url, &[], Bytes::new()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(!first.is_empty() && whole.starts_with(&first));
    hub.clear_fault(stall);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest == whole[first.len()..]);
}

/// Trap 25: the footer is read first, and must not wait for all that lies before it.
#[tokio::test]
async fn the_tail_of_a_cold_file_comes_before_its_middle() {
    let (hub, gate, url, whole) = large().await;
    let stall = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 0, ms: None }).origin(Origin::Cdn).once());
    let full = gate.client.open(Method::GET, &url, &[], Bytes::new());
    let tail = async {
        hub.wait_for("the fill", |now| now.recent.iter().any(|request| request.origin == Origin::Cdn)).await;
        let range = format!("bytes={}-{}", LARGE - 1000, LARGE);
        let answer = gate.get_with(&url, &[("range", &range)]).await;
        hub.clear_fault(stall);
        answer
    };
    let (full, tail) = tokio::join!(full, tail);
    assert_eq!(tail.status, 206, "{:?}", tail.headers);
    assert!(tail.body == whole[LARGE - 1000..]);
    assert!(full.unwrap().into_body().collect().await.unwrap().to_bytes() == whole);
}

/// Trap 26: `hf_transfer` opens a full GET and leaves it; what others wait for goes on.
#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_fetch() {
    let (hub, gate, url, whole) = large().await;
    let stall = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 4 << 20, ms: None }).origin(Origin::Cdn).once());
    let first = gate.client.open(Method::GET, &url, &[], Bytes::new()).await.unwrap();
    drop(first);
    let second = gate.client.open(Method::GET, &url, &[], Bytes::new()).await.unwrap();
    hub.clear_fault(stall);
    assert!(second.into_body().collect().await.unwrap().to_bytes() == whole);
    assert_eq!(hub.counters().file_bytes("*big.bin"), LARGE as u64, "each byte crossed once");
}

/// A file that is not what was announced breaks off: no client ends with a whole wrong file.
#[tokio::test]
async fn a_wrong_file_never_arrives_whole() {
    let (hub, gate, url, whole) = large().await;
    hub.fault(Fault::new(FaultKind::FlipByte { at: 20 << 20 }).origin(Origin::Cdn).once());
    let answer = gate.get(&url).await;
    assert!(answer.broke && answer.body.len() < whole.len(), "{} of {}", answer.body.len(), whole.len());
    hub.clear_faults();
    // What remains of it is not added to: the whole file, from the start.
    let range = format!("bytes={}-", answer.body.len());
    let resumed = async {
        loop {
            let answer = gate.get_with(&url, &[("range", &range)]).await;
            // Content that was wrong a moment ago is not fetched again at once.
            if answer.status != 503 {
                return answer;
            }
            assert!(!answer.header("retry-after").is_empty());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let resumed = tokio::time::timeout(std::time::Duration::from_secs(30), resumed).await.unwrap();
    assert_eq!(resumed.status, 200);
    assert!(resumed.body == whole);
}
