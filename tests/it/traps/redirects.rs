//! Branches and tags answer with a relative 307 to the same path at their commit; nothing else redirects.

use hub_standin::{NewCommit, Standin};

use super::{world, world_with};
use crate::support::{client::Answer, gateway::Setup};

/// Traps 2, 6: clients of the 0.x line and Rust 1.x stop at an absolute Location, and take a redirect's own
/// length for the file's where `X-Linked-Size` is missing.
#[tokio::test]
async fn a_branch_is_a_relative_redirect_to_its_commit_with_the_metadata_on_both_hops() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    for file in ["config.json", "model.safetensors", "empty.txt", "sub/dir/weights.bin"] {
        let size = hub.bytes("acme/tiny", "main", file).len().to_string();
        let etag = format!("\"{}\"", hub.etag("acme/tiny", "main", file));
        for method in ["HEAD", "GET"] {
            let hop = gate.ask(method, &format!("/acme/tiny/resolve/main/{file}"), &[]).await;
            assert_eq!(hop.status, 307, "{method} {file}");
            assert_eq!(hop.header("location"), format!("/acme/tiny/resolve/{commit}/{file}"));
            assert_eq!(hop.header("x-repo-commit"), commit);
            assert_eq!((hop.header("etag"), hop.header("x-linked-etag")), (&*etag, &*etag));
            assert_eq!(hop.header("x-linked-size"), size);
            let there = gate.ask(method, hop.header("location"), &[]).await;
            assert_eq!((there.status.as_u16(), there.header("content-length")), (200, &*size), "{method} {file}");
            assert_eq!((there.header("etag"), there.header("x-repo-commit")), (&*etag, &*commit));
        }
    }
    let raw = gate.ask("GET", "/acme/tiny/raw/main/model.safetensors", &[]).await;
    assert_eq!(raw.header("location"), format!("/acme/tiny/raw/{commit}/model.safetensors"));
    let awkward = gate.ask("GET", "/acme/tiny/resolve/v1.0/config.json?download=true", &[]).await;
    let tagged = hub.commit("acme/tiny", "v1.0");
    assert_eq!(awkward.header("location"), format!("/acme/tiny/resolve/{tagged}/config.json?download=true"));
}

/// Trap 3: a Location without the path prefix of the endpoint leads nowhere.
#[tokio::test]
async fn redirects_and_links_carry_the_prefix_of_the_public_url() {
    let (hub, gate) = world_with("server.public_url = \"https://hub.example.com/hf\"").await;
    let commit = hub.commit("acme/tiny", "main");
    let there = format!("/hf/acme/tiny/resolve/{commit}/config.json");
    // A proxy before us may have taken the prefix off already.
    for prefix in ["/hf", "", "/hf/", "//hf/"] {
        let hop = gate.ask("GET", &format!("{prefix}/acme/tiny/resolve/main/config.json"), &[]).await;
        assert_eq!((hop.status.as_u16(), hop.header("location")), (307, &*there), "{prefix}");
    }
    assert_eq!(gate.get(&there).await.body, hub.bytes("acme/tiny", "main", "config.json"));
    let page = gate.get("/hf/api/models/acme/tiny/tree/main?recursive=true&limit=2").await;
    let link = page.header("link");
    assert!(link.starts_with(&format!("<https://hub.example.com/hf/api/models/acme/tiny/tree/{commit}?")), "{link}");
    let other = gate.get("/hfx/acme/tiny/resolve/main/config.json").await;
    assert_eq!(other.status, 404, "a longer word is no prefix");
}

/// Traps 4, 5, 13: Python follows a Location on any status, and a redirect elsewhere leaves the gateway.
#[tokio::test]
async fn only_a_307_has_a_location_and_no_file_is_served_from_elsewhere() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    for url in [
        format!("/acme/tiny/resolve/{commit}/model.safetensors"),
        format!("/acme/tiny/resolve/{commit}/config.json"),
        format!("/acme/tiny/raw/{commit}/model.safetensors"),
        format!("/api/resolve-cache/models/acme/tiny/{commit}/config.json"),
        "/api/models/acme/tiny".into(),
        "/api/models/acme/tiny/revision/main".into(),
        "/api/models/acme/tiny/tree/main".into(),
        "/acme/tiny/resolve/main/nowhere.txt".into(),
        "/acme/evil/resolve/main/config.json".into(),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = gate.ask(method, &url, &[("accept", "application/vnd.xet-fileinfo+json, */*")]).await;
            assert_ne!(answer.status, 307, "{method} {url}");
            assert_eq!(answer.header("location"), "", "{method} {url}");
        }
    }
}

/// Trap 30: a HEAD and the GET after it are two requests; a push between them must not mix two commits.
#[tokio::test]
async fn what_head_announced_is_what_get_gives_though_the_branch_moves_in_between() {
    let hub = Standin::builder().fixtures().start().await;
    let root = Setup::new().config("upstream.ref_ttl = \"0s\"").start(&hub).await;
    let old = hub.bytes("acme/tiny", "main", "config.json");
    let head = root.ask("HEAD", "/acme/tiny/resolve/main/config.json", &[]).await;
    let moved = hub.push("acme/tiny", "main", NewCommit::new("four").file("config.json", "{}\n"));
    let there = root.ask("GET", head.header("location"), &[]).await;
    assert!(there.body == old);
    let same = |answer: &Answer| (answer.header("etag").to_owned(), answer.header("x-repo-commit").to_owned());
    assert_eq!(same(&there), same(&head));
    let again = root.ask("HEAD", "/acme/tiny/resolve/main/config.json", &[]).await;
    assert_eq!(again.header("x-repo-commit"), moved);
}
