//! A store without room, or one that fails in the middle of a fill: a clear answer, and nothing half stored.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::TryStreamExt as _;
use hub_standin::{Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use hubgate::store::Prefix;

use crate::{
    fills::big,
    support::{
        gateway::{Setup, TestGateway, eventually},
        process::{Process, hubgate, set_up},
        s3::S3sServer,
    },
};

const SIZE: u64 = 24 << 20;
const URL: &str = "/acme/big/resolve/main/model.safetensors";

async fn in_bucket(hub: &Standin, server: &S3sServer, spool: &tempfile::TempDir, max_size: &str) -> TestGateway {
    let s3 = server.config();
    let config = format!(
        "store.kind = \"s3\"\nstore.s3.endpoint = {:?}\nstore.s3.bucket = {:?}\nstore.s3.prefix = {:?}\n\
         store.s3.access_key = \"test-key\"\nstore.s3.secret_key = \"test-secret\"\nspool.dir = \"{}\"\n\
         spool.max_size = {max_size:?}",
        s3.endpoint.unwrap(),
        s3.bucket,
        s3.prefix,
        spool.path().display(),
    );
    Setup::new().config(&config).start(hub).await
}

#[tokio::test]
async fn a_file_that_can_never_fit_is_refused_at_head_naming_the_key() {
    let hub = Standin::builder().fixtures().repo(big(SIZE)).start().await;
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let gate = in_bucket(&hub, &server, &spool, "10MiB").await;
    for answer in [gate.head(URL).await, gate.get(URL).await] {
        assert_eq!(answer.status, 403);
        assert!(answer.header("x-error-message").contains("spool.max_size"), "{:?}", answer.headers);
    }
    let small = gate.get("/acme/tiny/resolve/main/model.safetensors").await;
    assert_eq!(small.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
    assert_eq!(hub.counters().file_bytes("acme/big/model.safetensors"), 0);
}

#[tokio::test]
async fn past_the_spools_room_a_second_transfer_is_told_to_come_back_and_which_key_bounds_it() {
    let card = "---\nlicense: mit\n---\n";
    let other = RepoBuilder::model("acme/other").commit(
        NewCommit::new("one").file("README.md", card).lfs("model.safetensors", Content::generated(20 << 20, 9)),
    );
    let hub = Standin::builder().repo(big(SIZE)).repo(other).start().await;
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let gate = in_bucket(&hub, &server, &spool, "30MiB").await;
    let stall = FaultKind::StallAfter { bytes: 2_000_000, ms: None };
    let stall = hub.fault(Fault::new(stall).path("acme/big/model.safetensors").origin(Origin::Cdn));
    let mut first = gate.client.begin(URL, &[]).await.unwrap();
    let prefix = first.read(1000).await;
    // All who join it need no room of their own.
    let joined = gate.client.begin(URL, &[]).await.unwrap();
    assert_eq!(joined.status, 200);
    let url = "/acme/other/resolve/main/model.safetensors";
    let second = gate.get(url).await;
    assert_eq!(second.status, 503, "{}", second.text());
    assert!(second.text().contains("spool.max_size"), "{}", second.text());
    assert!(second.header("retry-after").parse::<u64>().unwrap() >= 1);
    hub.clear_fault(stall);
    let (rest, broke) = first.rest().await;
    assert!(!broke && [prefix, rest].concat() == hub.bytes("acme/big", "main", "model.safetensors"));
    gate.wait_until_idle().await;
    // The other reader has not come to its end: the file still takes its room.
    assert_eq!(gate.get(url).await.status, 503);
    drop(joined);
    eventually("there is room", async || gate.get(url).await.status == 200).await;
    assert!(gate.get(url).await.body == hub.bytes("acme/other", "main", "model.safetensors"));
}

#[tokio::test]
async fn a_store_that_fails_at_the_end_of_a_fill_keeps_nothing_of_it_and_the_next_try_works() {
    let hub = Standin::builder().fixtures().repo(big(SIZE)).start().await;
    let gate = TestGateway::before(&hub).await;
    assert_eq!(gate.head(URL).await.status, 200);
    for (url, repo) in [(URL, "acme/big"), ("/acme/tiny/resolve/main/model.safetensors", "acme/tiny")] {
        let digest = hub.sha256(repo, "main", "model.safetensors");
        // A file stands where the blob's folder should be.
        let folder = gate.root.path().join("store/blobs/sha256").join(&digest[..2]);
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::fs::write(&folder, "in the way").unwrap();
        let expected = hub.bytes(repo, "main", "model.safetensors");
        let failed = gate.get(url).await;
        assert!(failed.broke || failed.status.is_server_error(), "{}", failed.status);
        assert!(failed.body.len() < expected.len());
        assert!(!failed.text().contains("blobs/") || failed.broke, "{}", failed.text());
        gate.wait_until_idle().await;
        std::fs::remove_file(&folder).unwrap();
        let index: Vec<_> = gate.store.list(&Prefix::index()).try_collect().await.unwrap();
        assert!(index.is_empty() || repo == "acme/tiny", "recorded, though it could not be stored");
        let again = gate.get(url).await;
        assert!(again.status == 200 && again.body == expected, "{}: {}", again.status, again.body.len());
    }
}

#[tokio::test]
async fn a_full_disk_is_a_clear_answer_and_smaller_files_go_on() {
    let hub = Standin::builder().fixtures().repo(big(SIZE)).start().await;
    let root = set_up(&hub, "");
    // The largest file that the system lets this process make, in blocks of 512 bytes: 10 MB.
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", "trap '' XFSZ; ulimit -f 20000; exec \"$0\" --config \"$1\" serve"]);
    command.arg(env!("CARGO_BIN_EXE_hubgate")).arg(root.path().join("config.toml"));
    let process = Process::run(command).await;
    let full = process.client.get(URL).await.unwrap();
    assert_eq!(full.status, 503, "{}", full.text());
    assert!(full.text().contains("no room"), "{}", full.text());
    assert!(!full.header("retry-after").is_empty());
    let ready = process.client.get("/-/readyz").await.unwrap();
    assert_eq!(ready.status, 200, "what is stored is served");
    assert!(ready.json()["degraded"][0].as_str().unwrap().contains("takes nothing new (no room)"), "{}", ready.text());
    let small = process.client.get("/acme/tiny/resolve/main/model.safetensors").await.unwrap();
    assert_eq!(small.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
    assert_eq!(process.client.get("/-/readyz").await.unwrap().json()["degraded"], serde_json::json!([]));
}

#[tokio::test]
async fn until_the_store_has_answered_nothing_is_served_and_it_is_said_why() {
    let hub = Standin::builder().fixtures().start().await;
    // Accepts and answers nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bucket = format!(
        "store.kind = \"s3\"\nstore.s3.endpoint = \"http://{}\"\nstore.s3.bucket = \"models\"\n\
         store.s3.access_key = \"key\"\nstore.s3.secret_key = \"secret\"",
        silent.local_addr().unwrap()
    );
    let root = set_up(&hub, &bucket);
    let mut command = hubgate(root.path(), &["serve"]);
    command.current_dir(root.path());
    let process = Process::launch(command).await;
    for path in [URL, "/api/models/acme/tiny", "/other/x/resolve/main/a"] {
        let answer = process.client.get(path).await.unwrap();
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.text().contains("its store has not answered yet"), "{}", answer.text());
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    assert_eq!(process.client.get("/-/livez").await.unwrap().status, 200);
    let ready = process.client.get("/-/readyz").await.unwrap();
    assert_eq!((ready.status.as_u16(), &ready.json()["ready"]), (503, &serde_json::json!(false)));
    assert_eq!(hub.counters().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_late_is_waited_for_and_the_wait_is_said_once() {
    let hub = Standin::builder().fixtures().start().await;
    // Somebody else's port as yet: every connection is closed at once, and counted.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let closing = tokio::spawn(async move {
        while nobody.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let root = set_up(
        &hub,
        &format!(
            "store.kind = \"s3\"\nstore.s3.endpoint = \"http://{address}\"\nstore.s3.bucket = \"models\"\n\
             store.s3.access_key = \"test-key\"\nstore.s3.secret_key = \"test-secret\""
        ),
    );
    let mut command = hubgate(root.path(), &["serve"]);
    command.current_dir(root.path());
    let process = Process::launch(command).await;
    // A look at the store gives up after four of them: two looks have failed.
    eventually("the store is looked for a third time", async || tries.load(Ordering::SeqCst) > 8).await;
    assert_eq!(process.client.get("/-/readyz").await.unwrap().status, 503);
    closing.abort();
    let _ = closing.await;
    let _server = S3sServer::start_on(&address).await;
    process.client.wait_until_ready().await.unwrap();
    let said = process.log();
    assert_eq!(said.matches("waiting for the store").count(), 1, "{said}");
    let small = process.client.get("/acme/tiny/resolve/main/model.safetensors").await.unwrap();
    assert_eq!(small.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_bucket_has_is_a_setup_error() {
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let hub = Standin::builder().fixtures().start().await;
    let s3 = server.config();
    // The last two are names on some servers; this one says no.
    for name in ["my models", "models/x", "My_Models", "a..b"] {
        let bucket = format!(
            "store.kind = \"s3\"\nstore.s3.endpoint = {:?}\nstore.s3.bucket = {name:?}\nspool.dir = \"{}\"\n\
             store.s3.access_key = \"test-key\"\nstore.s3.secret_key = \"test-secret\"",
            s3.endpoint.as_deref().unwrap(),
            spool.path().display()
        );
        let root = set_up(&hub, &bucket);
        crate::crashes::fails_to_start(root.path(), &["store.s3.bucket", name]);
    }
}

#[tokio::test]
async fn a_file_of_many_parts_goes_to_the_bucket_and_comes_back_whole() {
    const LARGE: u64 = 90 << 20;
    let hub = Standin::builder().repo(big(LARGE)).start().await;
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let gate = in_bucket(&hub, &server, &spool, "1GiB").await;
    let expected = hub.bytes("acme/big", "main", "model.safetensors");
    let cold = gate.get(URL).await;
    assert!(cold.status == 200 && !cold.broke && cold.body == expected);
    hub.stop().await;
    let warm = gate.get(URL).await;
    assert!(warm.status == 200 && warm.body == expected);
    assert_eq!(hub.counters().file_bytes("acme/big/model.safetensors"), LARGE);
}
