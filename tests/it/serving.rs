//! The main job from end to end: cold, warm, and with the Hub gone.

use std::path::Path;

use futures_util::TryStreamExt as _;
use hub_standin::{NewCommit, RepoBuilder, Standin};
use hubgate::store::Prefix;

use crate::support::{
    gateway::{Setup, TestGateway},
    process::hubgate,
    s3::S3sServer,
};

const FILES: [&str; 4] = ["README.md", "config.json", "model.safetensors", "empty.txt"];

#[tokio::test]
async fn a_model_is_fetched_once_and_served_with_the_hub_gone() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    for file in FILES {
        let url = format!("/acme/tiny/resolve/main/{file}");
        let (meta, content) = (gate.head(&url).await, gate.get(&url).await);
        assert_eq!((meta.status.as_u16(), content.status.as_u16()), (200, 200), "{file}: {}", content.text());
        assert_eq!(content.body, hub.bytes("acme/tiny", "main", file), "{file}");
        assert_eq!(meta.header("content-length"), content.body.len().to_string(), "{file}");
        assert_eq!(meta.header("x-repo-commit"), hub.commit("acme/tiny", "main"), "{file}");
    }
    let fetched = hub.counters().file_bytes("acme/tiny/*");
    let root = gate.stop().await;
    hub.stop().await;
    // Another process on the same store.
    let gate = Setup::new().on(&root).start(&hub).await;
    for file in FILES {
        let content = gate.get(&format!("/acme/tiny/resolve/main/{file}")).await;
        assert_eq!(content.status, 200, "{file}: {}", content.text());
        assert_eq!(content.body, hub.bytes("acme/tiny", "main", file), "{file}");
    }
    assert_eq!(hub.counters().file_bytes("acme/tiny/*"), fetched);
}

#[tokio::test]
async fn each_record_names_the_revision_that_was_asked() {
    let card = "---\nlicense: mit\n---\n";
    let commit = NewCommit::new("one").file("README.md", card).file("a.txt", "a\n").file("b.txt", "b\n");
    let hub =
        Standin::builder().repo(RepoBuilder::model("acme/two").commit(commit).tag("v1").branch("next")).start().await;
    let gate = TestGateway::before(&hub).await;
    for (revision, file) in [("main", "README.md"), ("v1", "a.txt"), ("next", "b.txt")] {
        assert_eq!(gate.get(&format!("/acme/two/resolve/{revision}/{file}")).await.status, 200);
    }
    let keys: Vec<_> = gate.store.list(&Prefix::log()).map_ok(|meta| meta.key).try_collect().await.unwrap();
    let mut recorded = std::collections::BTreeMap::new();
    for key in keys {
        let lines = gate.store.get(&key, 1 << 20).await.unwrap().unwrap();
        for line in std::str::from_utf8(&lines).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |field: &str| record[field].as_str().unwrap().to_owned();
            recorded.insert(text("path"), text("revision"));
        }
    }
    let expected = [("README.md", "main"), ("a.txt", "v1"), ("b.txt", "next")];
    assert_eq!(recorded, expected.map(|(path, revision)| (path.to_owned(), revision.to_owned())).into());
}

/// As `cp -r` does it, or any tool that copies a folder into a bucket: names and bytes, and nothing else.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { std::fs::write(to, std::fs::read(from).unwrap()).unwrap() }
    }
}

async fn serves(gate: &TestGateway, hub: &Standin, repo: &str, files: &[&str]) {
    for file in files {
        let answer = gate.get(&format!("/{repo}/resolve/main/{file}")).await;
        assert_eq!(answer.status, 200, "{repo} {file}: {}", answer.text());
        assert_eq!(answer.body, hub.bytes(repo, "main", file), "{repo} {file}");
    }
}

/// What `hubgate verify` says of the store of a stopped gateway.
fn is_sound(root: &Path, store: &str) {
    let output = hubgate(root, &["verify"]).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.contains("all is well"), "{store}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_copy_of_the_files_moves_a_directory_into_a_bucket_and_back() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    serves(&gate, &hub, "acme/tiny", &FILES).await;
    let directory = gate.stop().await;

    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    copy(&directory.path().join("store"), &server.folder());
    let fetched = hub.counters().file_bytes("acme/tiny/*");
    let gate = Setup::new().config(&server.lines(spool.path())).start(&hub).await;
    serves(&gate, &hub, "acme/tiny", &FILES).await;
    assert_eq!(hub.counters().file_bytes("acme/tiny/*"), fetched, "fetched again");
    // What the bucket took in itself comes along.
    serves(&gate, &hub, "acme/nested", &["config.json"]).await;
    let root = gate.stop().await;
    is_sound(root.path(), "the bucket");

    hub.stop().await;
    let back = std::sync::Arc::new(tempfile::tempdir().unwrap());
    copy(&server.folder(), &back.path().join("store"));
    let gate = Setup::new().on(&back).start(&hub).await;
    serves(&gate, &hub, "acme/tiny", &FILES).await;
    serves(&gate, &hub, "acme/nested", &["config.json"]).await;
    is_sound(gate.stop().await.path(), "the directory");
}
