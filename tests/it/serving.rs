//! The main job from end to end: cold, warm, and with the Hub gone.

use futures_util::TryStreamExt as _;
use hub_standin::{NewCommit, RepoBuilder, Standin};
use hubgate::store::Prefix;

use crate::support::gateway::{Setup, TestGateway};

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
