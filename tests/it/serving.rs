//! The main job from end to end: cold, warm, and with the Hub gone.

use hub_standin::Standin;

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
