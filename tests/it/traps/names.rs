//! Names that lead elsewhere: renamed repos and repos that another owner has registered anew.

use futures_util::TryStreamExt as _;
use hub_standin::{NewCommit, RepoBuilder};
use hubgate::{gateway::Asker, policy::Verdict, store::Prefix};

use super::{world, world_under, world_with};
use crate::support::gateway::{POLICY, Setup};

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
    assert_eq!(hub.counters().requests, 1, "the redirect alone, once: {:#?}", hub.counters().paths);
    let keys: Vec<_> = gate.store.list(&Prefix::all()).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap();
    assert!(!keys.iter().any(|key| key.contains("copy")), "{keys:?}");
    // Once the new name is reviewed it is served.
    let reviewed = "\n[[allow]]\nname = \"moved\"\nrepo = \"stranger/copy\"\n";
    gate.set_policy(&format!("{POLICY}{reviewed}")).unwrap();
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
}

/// A sha is no way around it: neither a commit that came after the rename, nor a file of an older one, nor what is stored.
#[tokio::test]
async fn no_sha_of_a_repo_that_moved_to_a_denied_name_is_served() {
    let old_name_alone =
        "[licenses]\nallow = [\"mit\", \"apache-2.0\"]\n[[allow]]\nname = \"one\"\nrepo = \"acme/copy\"\n";
    for (policy, name, reason) in
        [(POLICY, "acme/evil-copy", "Content policy 4.2"), (old_name_alone, "acme/new", "no allow rule names")]
    {
        let (hub, gate) = world_under(policy).await;
        let old = hub.commit("acme/copy", "main");
        assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
        hub.rename("acme/copy", name);
        let new = hub.push(name, "refs/heads/main", NewCommit::new("later").file("later.txt", "later"));
        for url in [
            // Known and allowed by its old name, not stored yet: upstream itself must be heard first.
            format!("/acme/copy/resolve/{old}/model.safetensors"),
            format!("/acme/copy/resolve/{new}/later.txt"),
            format!("/api/models/acme/copy/tree/{new}"),
            format!("/api/models/acme/copy/tree/{old}"),
            "/api/models/acme/copy/refs".to_owned(),
        ] {
            let answer = gate.get(&url).await;
            assert_eq!(answer.status, 403, "{name} {url}: {}", answer.text());
            assert!(answer.header("x-error-message").contains(reason), "{url}: {:?}", answer.headers);
        }
        let asker = Asker::operator("test");
        let told = gate.gateway.explain(&asker, &"acme/copy".parse().unwrap(), &"main".parse().unwrap()).await;
        assert_eq!(told.verdict, Verdict::Refused, "{told}");
        assert!(told.message.as_ref().is_some_and(|message| message.contains(reason)), "{told}");
        let asked = hub.counters();
        assert!(!asked.paths.keys().any(|path| path.contains(name)), "{:#?}", asked.paths);
        // Nor does it depend on who heard of it, or on the Hub.
        let gate =
            Setup::new().policy(policy).config("upstream.offline = true").on(&gate.stop().await).start(&hub).await;
        for revision in ["main", &old] {
            let answer = gate.get(&format!("/acme/copy/resolve/{revision}/README.md")).await;
            assert_eq!(answer.status, 403, "{name} {revision}: {}", answer.text());
            assert!(answer.header("x-error-message").contains(reason), "{:?}", answer.headers);
        }
    }
}

/// A repo that gets an allowed name back is served again, by sha too.
#[tokio::test]
async fn a_name_that_was_denied_and_is_no_more_is_served_again() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    let commit = hub.commit("acme/copy", "main");
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
    hub.rename("acme/copy", "acme/evil-copy");
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 403);
    hub.rename("acme/evil-copy", "acme/copy");
    // Another process, since this one remembers for half a minute what it was told.
    let gate = Setup::new().on(&gate.stop().await).start(&hub).await;
    assert_eq!(gate.get(&format!("/acme/copy/resolve/{commit}/README.md")).await.status, 200);
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
}

/// After a rename that policy allows a branch is held, never steps back, and what is new is stored under the new name.
#[tokio::test]
async fn a_branch_of_a_renamed_repo_is_held_and_never_steps_back() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    let old = hub.commit("acme/copy", "main");
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);
    hub.rename("acme/copy", "acme/new");
    let new = hub.push("acme/new", "refs/heads/main", NewCommit::new("later").file("later.txt", "later"));
    assert_eq!(gate.get("/acme/copy/resolve/main/later.txt").await.text(), "later");
    let keys: Vec<_> = gate.store.list(&Prefix::all()).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap();
    let of_new: Vec<_> = keys.iter().filter(|key| key.contains(&new)).collect();
    assert!(!of_new.is_empty() && of_new.iter().all(|key| key.contains("acme--new")), "{of_new:?}");
    // The record is fresh, and so nothing is asked.
    let gate = Setup::new().on(&gate.stop().await).start(&hub).await;
    hub.reset_counters();
    for name in ["copy", "new"] {
        let answer = gate.get(&format!("/acme/{name}/resolve/main/later.txt")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "later".to_owned()), "{name}");
    }
    assert_eq!(hub.counters().requests, 0, "{:#?}", hub.counters().paths);
    // With the Hub out of reach it means the same, and the older commit is still here.
    let gate = Setup::new()
        .config("upstream.ref_ttl = \"0s\"\nupstream.offline = true")
        .on(&gate.stop().await)
        .start(&hub)
        .await;
    assert_eq!(gate.head("/acme/copy/resolve/main/later.txt").await.header("x-repo-commit"), new);
    assert_eq!(gate.get(&format!("/acme/copy/resolve/{old}/README.md")).await.status, 200);
}

/// The Hub ignores case, and so does who registers a name anew.
#[tokio::test]
async fn a_name_registered_anew_in_other_letters_is_another_owners() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    let repo = |id: &str, object_id: &str| {
        let readme = "---\nlicense: mit\n---\n";
        let commit = NewCommit::new(id).file("README.md", readme).lfs("model.safetensors", id);
        let object_id = object_id.to_owned();
        RepoBuilder::model(id).commit(commit).with(move |repo| repo.object_id = object_id)
    };
    hub.add(repo("Acme/X", "0000000000000000000000a1"));
    assert_eq!(gate.get("/Acme/X/resolve/main/model.safetensors").await.text(), "Acme/X");
    hub.remove("Acme/X");
    hub.add(repo("acme/x", "0000000000000000000000b2"));
    let refused = async |gate: &crate::support::gateway::TestGateway, what: &str| {
        for name in ["Acme/X", "acme/x", "ACME/x"] {
            let answer = gate.get(&format!("/{name}/resolve/main/model.safetensors")).await;
            assert_eq!(answer.status, 403, "{what} {name}: {}", answer.text());
            let reason = answer.header("x-error-message");
            assert!(reason.contains("0000000000000000000000b2"), "{what} {name}: {reason}");
        }
    };
    refused(&gate, "stored").await;
    // As the store was written before: under its own letters alone.
    let root = gate.stop().await;
    let identities = root.path().join("store/repos/models");
    assert!(identities.join("Acme--X.json").exists());
    std::fs::remove_file(identities.join("acme--x.json")).unwrap();
    let gate = Setup::new().config("upstream.ref_ttl = \"0s\"").on(&root).start(&hub).await;
    refused(&gate, "of an older store").await;
    // A move to another allowed name changes nothing.
    hub.rename("acme/x", "acme/y");
    refused(&gate, "moved on").await;
}

/// What the rule of the present name says of revisions holds under a former one too.
#[tokio::test]
async fn a_former_name_is_no_way_around_the_revisions_of_the_present_one() {
    let policy = "[licenses]\nallow = [\"apache-2.0\", \"mit\"]\n[[allow]]\nname = \"all\"\nrepo = \"acme/*\"\n\
                  [[allow]]\nname = \"tiny\"\nrepo = \"acme/tiny\"\nrevisions = [\"v1.0\"]\n";
    let (hub, gate) = world_under(policy).await;
    let main = hub.commit("acme/tiny", "main");
    for revision in ["main", &main] {
        for name in ["tiny", "small"] {
            let answer = gate.get(&format!("/acme/{name}/resolve/{revision}/config.json")).await;
            assert_eq!(answer.status, 403, "{name}@{revision}: {}", answer.text());
        }
    }
    assert_eq!(gate.get("/acme/small/resolve/v1.0/config.json").await.status, 200);
}
