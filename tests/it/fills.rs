//! Files on their way in: a byte crosses the egress once (I5), and nobody ever holds a whole wrong one (I2).

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use hub_standin::{Class, Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use hubgate::store::Prefix;

use crate::support::gateway::{POLICY, Setup, TestGateway, eventually};

/// More than is verified before its first byte, and than two fills hold back.
const SIZE: u64 = 24 << 20;
const URL: &str = "/acme/big/resolve/main/model.safetensors";
const NAME: &str = "acme/big/model.safetensors";

/// A repo with one large file.
pub(crate) fn big(size: u64) -> RepoBuilder {
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model("acme/big")
        .commit(NewCommit::new("one").file("README.md", card).lfs("model.safetensors", Content::generated(size, 7)))
}

async fn hub() -> Standin {
    Standin::builder().fixtures().repo(big(SIZE)).start().await
}

fn content(hub: &Standin) -> Vec<u8> {
    hub.bytes("acme/big", "main", "model.safetensors")
}

/// The file at its commit, where nothing is asked for the branch.
fn at_commit(hub: &Standin) -> String {
    format!("/acme/big/resolve/{}/model.safetensors", hub.commit("acme/big", "main"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_readers_of_one_cold_file_cost_exactly_its_size() {
    let hub = hub().await;
    let gate = Arc::new(TestGateway::before(&hub).await);
    let expected = Arc::new(content(&hub));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (gate, expected) = (gate.clone(), expected.clone());
        readers.spawn(async move {
            let answer = gate.get(URL).await;
            assert!(answer.status == 200 && !answer.broke && answer.body == *expected, "{}", answer.status);
        });
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
    assert_eq!(hub.counters().file_bytes(NAME), SIZE);
    assert_eq!(hub.count(Class::Cdn), 1);
}

#[tokio::test]
async fn the_same_content_under_another_repo_and_revision_costs_no_byte() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    for file in ["model.safetensors", "config.json"] {
        assert_eq!(gate.get(&format!("/acme/tiny/resolve/main/{file}")).await.status, 200);
    }
    let (cdn, bytes) = (hub.count(Class::Cdn), hub.counters().file_bytes("acme/tiny/config.json"));
    let copy = gate.get("/acme/copy/resolve/main/model.safetensors").await;
    assert_eq!(copy.body, hub.bytes("acme/copy", "main", "model.safetensors"));
    let commit = hub.push("acme/tiny", "refs/heads/main", NewCommit::new("later").file("notes.txt", "x"));
    for file in ["model.safetensors", "config.json"] {
        let answer = gate.get(&format!("/acme/tiny/resolve/{commit}/{file}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.body, hub.bytes("acme/tiny", "main", file));
    }
    assert_eq!(hub.count(Class::Cdn), cdn, "large content was fetched again");
    assert_eq!(hub.counters().file_bytes("acme/tiny/config.json"), bytes, "a git blob was fetched again");
    // What was adopted is recorded for each name under which it was asked.
    eventually("three lines say hit", async || {
        gate.access_log().iter().filter(|line| line["cache"] == "hit").count() == 3
    })
    .await;
}

#[tokio::test]
async fn a_cut_is_resumed_behind_the_open_connection() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    let cut = FaultKind::CutAfter { bytes: 10_000_000 };
    hub.fault(Fault::new(cut).path(NAME).origin(Origin::Cdn).times(2));
    let answer = gate.get(URL).await;
    assert!(answer.status == 200 && !answer.broke && answer.body == content(&hub));
    assert_eq!(hub.counters().file_bytes(NAME), SIZE);
    let ranges: Vec<_> =
        hub.requests("GET *").iter().filter_map(|request| request.header("range").map(ToOwned::to_owned)).collect();
    assert_eq!(ranges, ["bytes=10000000-", "bytes=20000000-"]);
}

#[tokio::test]
async fn a_prefix_of_wrong_content_and_an_honest_tail_never_make_a_whole_file() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    let expected = content(&hub);
    // A byte is wrong, then the origin cuts before the end, and is honest from then on.
    hub.fault(Fault::new(FaultKind::FlipByte { at: 5000 }).path(NAME).origin(Origin::Cdn).once());
    hub.fault(Fault::new(FaultKind::CutAfter { bytes: 20_000_000 }).path(NAME).origin(Origin::Cdn).once());
    let wrong = gate.get(URL).await;
    assert!(wrong.broke && wrong.body.len() > 5000 && wrong.body.len() < expected.len(), "{}", wrong.body.len());
    assert!(wrong.body != expected[..wrong.body.len()], "the origin was to lie");
    let blobs: Vec<_> = gate.store.list(&Prefix::blobs()).try_collect().await.unwrap();
    assert!(blobs.iter().all(|blob| blob.size != SIZE), "wrong content was stored");
    gate.wait_until_idle().await;
    // At once, it is not fetched again.
    let again = gate.get(URL).await;
    assert_eq!(again.status, 503, "{}", again.text());
    assert!(again.header("retry-after").parse::<u64>().unwrap() > 0);

    // Whoever resumes gets the whole file: cold in a new process, warm, and warm in one more.
    let root = gate.stop().await;
    let resume = format!("bytes={}-", wrong.body.len());
    let mut gate = Setup::new().on(&root).start(&hub).await;
    for round in ["cold", "warm", "warm in another process"] {
        let rest = gate.get_with(&at_commit(&hub), &[("range", &resume)]).await;
        assert_eq!(rest.status, 200, "{round}: a wrong prefix would be completed");
        assert!(rest.body == expected, "{round}");
        if round == "warm" {
            let root = gate.stop().await;
            gate = Setup::new().on(&root).start(&hub).await;
        }
    }
    // But for `HfFileSystem`, which would take the whole for the rest: it is told, where it can be told from a download.
    let file_system = "datasets/5.2.0; hf_hub/2.4.0; python/3.11.2";
    let (agent, range) = (("user-agent", file_system), ("range", resume.as_str()));
    let refused = gate.get_with(&at_commit(&hub), &[agent, range]).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.header("x-error-message").contains("read it again from its start"), "{:?}", refused.headers);
    let download = gate.get_with(&at_commit(&hub), &[agent, range, ("x-hf-download-counter", "1")]).await;
    assert!(download.status == 200 && download.body == expected, "{}", download.status);
    let before_the_mark = ("user-agent", "unknown/None; hf_hub/1.31.0; python/3.11.2");
    assert_eq!(gate.get_with(&at_commit(&hub), &[before_the_mark, range]).await.status, 200);
    // A range within the file is nobody's tail.
    let slice = gate.get_with(&at_commit(&hub), &[("range", "bytes=5000-5009")]).await;
    assert_eq!((slice.status.as_u16(), &slice.body[..]), (206, &expected[5000..5010]));
}

#[tokio::test]
async fn a_client_that_is_cut_off_goes_on_where_it_was_while_the_fill_still_runs() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    let (expected, url) = (content(&hub), at_commit(&hub));
    assert_eq!(gate.head(URL).await.status, 200);
    let stall = FaultKind::StallAfter { bytes: 14 << 20, ms: None };
    let stall = hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn).once());
    let file_system = ("user-agent", "datasets/5.2.0; hf_hub/2.4.0; python/3.11.2");
    let mut cut = gate.client.begin(&url, &[file_system]).await.unwrap();
    let mut held = cut.read(9 << 20).await;
    drop(cut);
    assert!(held.len() < expected.len());
    // As it opens the file again after any trouble, without a look at the status.
    let range = format!("bytes={}-", held.len());
    let again = gate.client.begin(&url, &[file_system, ("range", &range)]).await.unwrap();
    assert_eq!(again.status, 206);
    // Somebody else may hold bytes of another fill, and is not told from one who does.
    let root = gate.root.clone();
    let other = Setup::new().on(&root).start(&hub).await;
    let elsewhere = other.get_with(&url, &[file_system, ("range", &range)]).await;
    assert_eq!(elsewhere.status, 409, "{}", elsewhere.text());
    hub.clear_fault(stall);
    let (rest, broke) = again.rest().await;
    held.extend(rest);
    assert!(!broke && held == expected);
    assert_eq!(hub.counters().file_bytes(NAME), SIZE);
}

#[tokio::test]
async fn all_readers_of_a_wrong_file_together_never_hold_every_byte() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    let size = usize::try_from(SIZE).unwrap();
    // Wrong in the very last byte, so that all before it has gone out when that shows.
    hub.fault(Fault::new(FaultKind::FlipByte { at: SIZE - 1 }).path(NAME).origin(Origin::Cdn));
    let url = at_commit(&hub);
    assert_eq!(gate.head(URL).await.status, 200);
    let third = size / 3;
    let ranges = [
        (0, format!("bytes=0-{}", third - 1)),
        (third, format!("bytes={third}-{}", 2 * third - 1)),
        (2 * third, format!("bytes={}-", 2 * third)),
        (size - 1000, format!("bytes={}-{}", size - 1000, size - 1)),
        (0, "bytes=0-".to_owned()),
    ];
    let reads = ranges.iter().map(|(start, range)| async {
        let headers = [("range", range.as_str())];
        let Ok(answer) = gate.client.get_with(&url, &headers).await else { return (*start, Vec::new()) };
        let start = if answer.status == 206 { *start } else { 0 };
        (start, if answer.status.is_success() { answer.body.to_vec() } else { Vec::new() })
    });
    let mut held = vec![false; size];
    for (start, bytes) in futures_util::future::join_all(reads).await {
        held[start..start + bytes.len()].fill(true);
    }
    let missing = held.iter().filter(|held| !**held).count();
    assert!(missing > 0, "together they hold the whole wrong file");
    assert!(missing < size, "nobody was given anything: the test shows nothing");
    let blobs: Vec<_> = gate.store.list(&Prefix::blobs()).try_collect().await.unwrap();
    assert!(blobs.iter().all(|blob| blob.size != SIZE), "wrong content was stored");
}

#[tokio::test]
async fn a_small_file_goes_out_verified_or_not_at_all() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    for (file, origin) in [("config.json", Origin::Hub), ("model.safetensors", Origin::Cdn)] {
        let lie = Fault::new(FaultKind::FlipByte { at: 3 }).path(format!("acme/tiny/{file}")).origin(origin);
        let lie = hub.fault(lie);
        let answer = gate.get(&format!("/acme/tiny/resolve/main/{file}")).await;
        assert_eq!(answer.status, 502, "{file}: {}", answer.text());
        assert!(answer.text().contains("nothing was stored"), "{}", answer.text());
        hub.clear_fault(lie);
    }
    let blobs: Vec<_> = gate.store.list(&Prefix::blobs()).try_collect().await.unwrap();
    assert!(blobs.is_empty(), "{blobs:?}");
}

#[tokio::test]
async fn under_a_rule_that_wants_it_not_even_a_few_bytes_go_out_unverified() {
    let hub = hub().await;
    let verified = POLICY.replacen("name = \"acme\"", "name = \"acme\"\nranges = \"verified\"", 1);
    let gate = Setup::new().policy(&verified).start(&hub).await;
    assert_eq!(gate.head(URL).await.status, 200);
    let stall = FaultKind::StallAfter { bytes: SIZE - 1000, ms: None };
    let stalled = hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn));
    let url = at_commit(&hub);
    for range in ["bytes=0-9", "bytes=10-", "bytes=0-"] {
        let headers = [("range", range)];
        let early = gate.client.begin(&url, &headers);
        let early = tokio::time::timeout(std::time::Duration::from_secs(2), early).await;
        assert!(early.is_err(), "{range}: an answer began before anything was verified");
    }
    hub.clear_fault(stalled);
    let few = gate.get_with(&url, &[("range", "bytes=0-9")]).await;
    assert_eq!((few.status.as_u16(), &few.body[..]), (206, &content(&hub)[..10]));
}

#[tokio::test]
async fn what_is_withdrawn_while_it_comes_in_is_broken_off_and_not_recorded() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    assert_eq!(gate.head(URL).await.status, 200);
    let stall = FaultKind::StallAfter { bytes: SIZE / 2, ms: None };
    let stalled = hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn));
    let mut download = gate.client.begin(&at_commit(&hub), &[]).await.unwrap();
    assert!(!download.read(1000).await.is_empty());
    gate.set_policy(&format!("{POLICY}\n[[deny]]\nrepo = \"acme/big\"\nreason = \"withdrawn\"\n")).unwrap();
    let (bytes, broke) = download.rest().await;
    assert!(broke && bytes.len() < content(&hub).len());
    gate.wait_until_idle().await;
    hub.clear_fault(stalled);
    let blobs: Vec<_> = gate.store.list(&Prefix::blobs()).try_collect().await.unwrap();
    assert!(blobs.iter().all(|blob| blob.size != SIZE), "stored for a repo that is denied");
}

#[tokio::test]
async fn two_gateways_on_one_store_fetch_a_file_twice_at_most_and_share_it() {
    let hub = hub().await;
    let one = TestGateway::before(&hub).await;
    let two = Setup::new().on(&one.root).start(&hub).await;
    let (a, b) = tokio::join!(one.get(URL), two.get(URL));
    let expected = content(&hub);
    assert!(a.body == expected && b.body == expected, "{} {}", a.status, b.status);
    let fetched = hub.counters().file_bytes(NAME);
    assert!(fetched <= 2 * SIZE, "{fetched}");
    let three = Setup::new().on(&one.root).start(&hub).await;
    hub.stop().await;
    for gate in [&one, &two, &three] {
        assert!(gate.get(URL).await.body == expected);
    }
    assert_eq!(hub.counters().file_bytes(NAME), fetched);
}

#[tokio::test]
async fn an_origin_that_refuses_ranges_is_not_asked_over_and_over_for_a_footer() {
    let hub = hub().await;
    let gate = TestGateway::before(&hub).await;
    assert_eq!(gate.head(URL).await.status, 200);
    // The main fetch stands still; the footer's own requests are refused for good.
    let main =
        hub.fault(Fault::new(FaultKind::StallAfter { bytes: 100_000, ms: None }).path(NAME).origin(Origin::Cdn).once());
    let url = at_commit(&hub);
    let mut head = gate.client.begin(&url, &[("range", "bytes=0-")]).await.unwrap();
    assert!(!head.read(1000).await.is_empty());
    let refused = FaultKind::Status { code: 416, body: String::new(), headers: Vec::new() };
    hub.fault(Fault::new(refused).path(NAME));
    let range = format!("bytes={}-{}", SIZE - 1000, SIZE - 1);
    let footer = [("range", range.as_str())];
    let read = gate.client.get_with(&url, &footer);
    tokio::pin!(read);
    let early = tokio::time::timeout(std::time::Duration::from_secs(2), &mut read).await;
    assert!(early.is_err(), "the footer can't be there");
    let asked = hub.counters().matching("GET *model.safetensors");
    assert!(asked < 20, "asked {asked} times");
    hub.clear_faults();
    hub.clear_fault(main);
    let answer = read.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (206, 1000));
}
