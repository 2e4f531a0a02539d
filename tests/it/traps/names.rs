//! Names that lead elsewhere: renamed repos and repos that another owner has registered anew.

use futures_util::TryStreamExt as _;
use hub_standin::{NewCommit, RepoBuilder};
use hubgate::store::Prefix;

use super::{world, world_under, world_with};
use crate::support::gateway::POLICY;

/// A renamed repo is put to policy under its new name: deny on either wins.
#[tokio::test]
async fn a_renamed_repo_is_put_to_policy_under_its_new_name() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    assert_eq!(gate.get("/acme/small/resolve/main/config.json").await.status, 200, "acme/small is acme/tiny now");
    hub.rename("acme/nested", "acme/evil-now");
    hub.rename("acme/copy", "stranger/copy");
    for (old, reason) in [("acme/nested", "Content policy 4.2"), ("acme/copy", "stranger/copy")] {
        let commit = hub.commit(if old == "acme/copy" { "stranger/copy" } else { "acme/evil-now" }, "main");
        for url in [
            format!("/{old}/resolve/main/README.md"),
            format!("/{old}/resolve/{commit}/README.md"),
            format!("/api/models/{old}"),
            format!("/api/models/{old}/tree/main"),
            format!("/api/models/{old}/refs"),
        ] {
            let answer = gate.get(&url).await;
            assert_eq!(answer.status, 403, "{url}: {}", answer.text());
            assert!(answer.header("x-error-message").contains(reason), "{url}: {:?}", answer.headers);
        }
    }
    assert_eq!(hub.counters().file_bytes("stranger/copy/model.safetensors"), 0);
}

/// A repo that was stored under its old name stays refused after a rename to a denied one.
#[tokio::test]
async fn a_stored_repo_that_moves_to_a_denied_name_is_refused() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
    hub.rename("acme/copy", "acme/evil-copy");
    let answer = gate.get("/acme/copy/resolve/main/README.md").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.header("x-error-message").contains("Content policy 4.2"), "{:?}", answer.headers);
}

/// The rule must name what the client asked: an alias that no rule names is refused, whatever it leads to.
#[tokio::test]
async fn an_alias_that_no_rule_names_is_refused() {
    let (hub, gate) = world().await;
    let answer = gate.get("/tiny/resolve/main/config.json").await;
    assert_eq!(answer.status, 403);
    assert!(answer.header("x-error-message").contains("no allow rule names the model tiny"), "{:?}", answer.headers);
    assert_eq!(hub.counters().requests, 0);
}

/// A name that was deleted and registered again is another owner's.
#[tokio::test]
async fn another_owners_content_under_an_approved_name_is_refused_until_reviewed() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    let old = hub.bytes("acme/copy", "main", "model.safetensors");
    let stored = hub.commit("acme/copy", "main");
    assert_eq!(gate.get("/acme/copy/resolve/main/model.safetensors").await.body, old);
    hub.remove("acme/copy");
    let commit =
        NewCommit::new("Mine now").file("README.md", "---\nlicense: mit\n---\n").lfs("model.safetensors", "other");
    hub.add(
        RepoBuilder::model("acme/copy").commit(commit).with(|repo| repo.object_id = "0123456789abcdef01234567".into()),
    );
    let answer = gate.get("/acme/copy/resolve/main/model.safetensors").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.header("x-error-message").contains("0123456789abcdef01234567"), "{:?}", answer.headers);
    assert_eq!(hub.counters().file_bytes("acme/copy/model.safetensors"), old.len() as u64);
    let before = gate.get(&format!("/acme/copy/resolve/{stored}/model.safetensors")).await;
    assert_eq!((before.status.as_u16(), &before.body[..]), (200, &old[..]), "what was reviewed is still served");

    let reviewed =
        "\n[[allow]]\nname = \"reviewed\"\nrepo = \"acme/copy\"\nupstream_id = \"0123456789abcdef01234567\"\n";
    gate.set_policy(&format!("{POLICY}{reviewed}")).unwrap();
    assert_eq!(gate.get("/acme/copy/resolve/main/model.safetensors").await.text(), "other");
}

/// A licence that changes with a new commit is judged at that commit; the old one stays what it was.
#[tokio::test]
async fn a_licence_is_that_of_the_commit() {
    let hub_policy = POLICY;
    let hub = hub_standin::Standin::builder().fixtures().start().await;
    let gate =
        crate::support::gateway::Setup::new().policy(hub_policy).config("upstream.ref_ttl = \"0s\"").start(&hub).await;
    let old = hub.commit("acme/nested", "main");
    assert_eq!(gate.get("/acme/nested/resolve/main/config.json").await.status, 200);
    hub.push("acme/nested", "main", NewCommit::new("New terms").file("README.md", "---\nlicense: cc-by-nc-4.0\n---\n"));
    let answer = gate.get("/acme/nested/resolve/main/config.json").await;
    assert_eq!(answer.status, 403);
    assert!(answer.header("x-error-message").contains("cc-by-nc-4.0"), "{:?}", answer.headers);
    assert_eq!(gate.get(&format!("/acme/nested/resolve/{old}/config.json")).await.status, 200);
}

/// Datasets and spaces have rules of their own.
#[tokio::test]
async fn a_rule_speaks_for_one_kind() {
    let (_hub, gate) = world_under("[licenses]\nallow = [\"mit\", \"apache-2.0\", \"cc-by-4.0\"]\n[[allow]]\nname = \"models\"\nrepo = \"acme/*\"\n").await;
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200);
    for url in [
        "/datasets/acme/table/resolve/main/README.md",
        "/spaces/acme/demo/resolve/main/README.md",
        "/api/datasets/acme/table",
    ] {
        assert_eq!(gate.get(url).await.status, 403, "{url}");
    }
}

/// Nothing is kept under a name before policy has allowed it.
#[tokio::test]
async fn of_a_name_that_policy_refuses_nothing_is_stored() {
    let (hub, gate) = world().await;
    hub.rename("acme/copy", "stranger/copy");
    for _ in 0..2 {
        let answer = gate.get("/acme/copy/resolve/main/README.md").await;
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    assert_eq!(hub.counters().requests, 2, "a redirect and its target, once: {:#?}", hub.counters().paths);
    let keys: Vec<_> = gate.store.list(&Prefix::all()).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap();
    assert!(!keys.iter().any(|key| key.contains("copy")), "{keys:?}");
    // Once the new name is reviewed it is served.
    let reviewed = "\n[[allow]]\nname = \"moved\"\nrepo = \"stranger/copy\"\n";
    gate.set_policy(&format!("{POLICY}{reviewed}")).unwrap();
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
}
