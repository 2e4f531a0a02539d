//! What is taken away, and what stays.

use std::{sync::Arc, time::Duration};

use hubgate::{
    hooks::{Again, Hooks, HooksConfig, Location},
    hub::{Repo, Revision},
    policy::EnvLists,
    publish::{Outcome, PublishConfig, Publisher},
    store::{Store, StoreConfig},
};

use super::{hooks::hook, *};
use crate::support::{
    faulty_store::{FaultyStore, Op},
    gateway::{Setup, TestGateway},
};

#[tokio::test]
async fn a_file_that_is_withheld_from_now_on_is_taken_away() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let policy = POLICY.replace("[\"*.pkl\", ", "[\"*.pkl\", \"*.txt\", ");
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (code, said) = ran(root.path(), &["publish"]);
    assert_eq!(code, 0, "{said}");
    assert!(!names(&copies(root.path())).iter().any(|name| name.ends_with(".txt")), "in no copy of any commit");
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    drop(process);
}

#[tokio::test]
async fn withdrawn_content_is_taken_away_though_its_commit_is_not_whole_any_more() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let sha256 = hub.sha256(REPO, &hub.commit(REPO, "main"), "model.safetensors");
    let (code, said) = ran(root.path(), &["withdraw", &format!("sha256:{sha256}"), "--reason", "stolen", "--purge"]);
    assert_eq!(code, 0, "{said}");
    let (_, said) = ran(root.path(), &["publish"]);
    assert!(names(&copies(root.path())).is_empty() && said.contains("stolen"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_withheld_from_now_on_is_taken_away_though_another_is_not_stored() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    fs::remove_dir_all(root.path().join("store/manifest/index")).unwrap();
    assert_ne!(ran(root.path(), &["publish"]).0, 0);
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    let policy = POLICY.replace("[\"*.pkl\", ", "[\"*.pkl\", \"*.txt\", ");
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    let (_, said) = ran(root.path(), &["publish"]);
    assert!(names(&copies(root.path())).is_empty() && said.contains("withheld"), "{said}");
}

#[tokio::test]
async fn a_revision_that_is_refused_takes_nothing_of_another_away() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    let policy = POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nrevisions = [\"main\"]", 1);
    fs::write(root.path().join("policy/policy.toml"), policy).unwrap();
    assert_eq!(ran(root.path(), &["publish"]).0, 0);
    let (code, said) = ran(root.path(), &["publish", &format!("{REPO}@dev")]);
    assert!(code == 1 && said.contains("Blocked by hubgate policy"), "{said}");
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
}

// The origin answers while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_moves_keeps_the_copies_until_the_next_commit_is_whole() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, &format!("{REPOS}\npublish.by_commit = true")).await;
    process.kill().await;
    let lock = root.path().join("models.lock").display().to_string();
    let held = format!("policy.lock={lock}");
    let publish = || ran(root.path(), &["--set", &held, "publish"]);
    let lock = |arguments: &[&str]| {
        let (code, said) = ran(root.path(), &[&["lock", "--file", &lock], arguments].concat());
        assert_eq!(code, 0, "{said}");
    };
    lock(&[]);
    let (folder, one) = (copies(root.path()), hub.commit(REPO, "main"));
    assert_eq!(publish().0, 0);
    is_commit(&hub, &folder, &one);

    hub.push(REPO, "main", second());
    let two = hub.commit(REPO, "main");
    lock(&["--update", REPO]);
    let (code, said) = publish();
    assert!(code == 1 && said.contains("not stored yet"), "{said}");
    is_commit(&hub, &folder, &one);
    assert!(!folder.join(format!("@{one}")).exists(), "what names a commit does not stand for the next one");

    let process = Process::start(root.path()).await;
    fetch_all(&process.client).await;
    process.kill().await;
    let (code, said) = publish();
    assert!(code == 0 && !said.contains("unpublished"), "{said}");
    is_commit(&hub, &folder, &two);

    // What speaks against the commit itself is not waited for.
    hub.push(REPO, "main", NewCommit::new("Third").lfs("model.safetensors", vec![8; 100_000]));
    lock(&["--update", REPO]);
    publish();
    is_commit(&hub, &folder, &two);
    let denied = format!("{POLICY}\n[[deny]]\ncommit = \"{two}\"\nreason = \"poisoned\"\n");
    fs::write(root.path().join("policy/policy.toml"), denied).unwrap();
    let (_, said) = publish();
    assert!(names(&folder).is_empty(), "{said}");
}

#[tokio::test]
async fn a_pin_that_moves_keeps_the_copies_until_the_next_commit_is_here() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    process.kill().await;
    let pin = |commit: &str, more: &str| {
        let rule = format!("{POLICY}\n[[allow]]\nname = \"pinned\"\nrepo = \"{REPO}\"\npin = \"{commit}\"\n{more}");
        fs::write(root.path().join("policy/policy.toml"), rule).unwrap();
        ran(root.path(), &["publish"])
    };
    let (folder, one) = (copies(root.path()), hub.commit(REPO, "main"));
    assert_eq!(pin(&one, "").0, 0);
    let two = hub.push(REPO, "main", second());
    let (code, said) = pin(&two, "");
    assert_eq!(code, 1, "{said}");
    is_commit(&hub, &folder, &one);
    let (_, said) = pin(&two, "expires = \"2020-01-31\"\n");
    assert!(names(&folder).is_empty() && said.contains("ended after 2020-01-31"), "{said}");
}

#[tokio::test]
async fn what_was_withdrawn_is_published_again_when_that_is_lifted() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, REPOS).await;
    let folder = copies(root.path());
    let marker = folder.join(".hubgate-commit");
    fs::write(root.path().join("policy/policy.toml"), format!("{POLICY}\n")).unwrap();
    eventually("published", async || marker.exists()).await;
    let (code, said) = ran(root.path(), &["withdraw", REPO, "--reason", "to be looked at", "--json"]);
    assert_eq!(code, 0, "{said}");
    let said: Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
    eventually("unpublished", async || names(&folder).is_empty()).await;
    let (code, said) = ran(root.path(), &["withdraw", "--lift", said["id"].as_str().unwrap(), "--reason", "fine"]);
    assert_eq!(code, 0, "{said}");
    eventually("published again", async || marker.exists()).await;
    is_commit(&hub, &folder, &hub.commit(REPO, "main"));
    drop(process);
}

#[tokio::test]
async fn no_publication_keeps_what_is_refused_from_being_removed() {
    let hub = Standin::builder().repo(first()).repo(
        RepoBuilder::model("acme/other")
            .commit(NewCommit::new("First").file("README.md", README).file("config.json", "{}")),
    );
    let hub = hub.start().await;
    let aside = tempfile::tempdir().unwrap();
    let more = format!("publish.repos = [\"{REPO}\", \"acme/other\"]\n{}", hook(aside.path(), 0));
    let (root, process) = world(&hub, &more).await;
    process.kill().await;
    ran(root.path(), &["publish", REPO]);
    is_commit(&hub, &copies(root.path()), &hub.commit(REPO, "main"));
    // The hook on the other repo does not end, for whoever asks.
    let runs = aside.path().join("runs");
    let script = format!("echo >> {0}\nwhile [ -e {0} ]; do sleep 0.1; done\n", runs.display());
    fs::write(aside.path().join("hook.sh"), script).unwrap();
    let process = Process::start(root.path()).await;
    for path in ["README.md", "config.json"] {
        assert_eq!(process.client.get(&format!("/acme/other/resolve/main/{path}")).await.unwrap().status, 200);
    }
    fs::write(root.path().join("policy/policy.toml"), format!("{POLICY}\n")).unwrap();
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    eventually("the hook runs for the listener and for the look", async || count() >= 2).await;
    let denied = format!("{POLICY}\n[[deny]]\nname = \"no\"\nrepo = \"{REPO}\"\nreason = \"not this\"\n");
    fs::write(root.path().join("policy/policy.toml"), denied).unwrap();
    eventually("unpublished", async || names(&copies(root.path())).is_empty()).await;
    fs::remove_file(&runs).unwrap();
    process.kill().await;
}

/// A publisher beside a gateway, to whose mind approvals count or don't.
fn publisher(gate: &TestGateway, store: Arc<dyn Store>, approvals_count: bool) -> Publisher {
    let config = PublishConfig { prefix: Some("mirrors/hf".into()), ..PublishConfig::default() };
    let (gateway, policy) = (gate.gateway.clone(), gate.policy.clone());
    let hooks = Hooks::new(HooksConfig::default(), store.clone(), Location::of(&StoreConfig::default()));
    let (lists, count) = (EnvLists::default(), Box::new(move || approvals_count));
    Publisher::new(&config, &lists, store, gateway, policy, hooks, count).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_copied_when_it_was_removed_does_not_stay() {
    let hub = Standin::builder().repo(first()).start().await;
    let gate = TestGateway::before(&hub).await;
    fetch_all(&gate.client).await;
    let store = FaultyStore::over(gate.store.clone());
    store.delay(Op::Copy, Duration::from_millis(500));
    let publisher = publisher(&gate, store.clone(), true);
    let repo: Repo = REPO.parse().unwrap();
    let publishing = tokio::spawn({
        let (publisher, repo) = (publisher.clone(), repo.clone());
        async move { publisher.publish(&repo, &Revision::main(), Again::Later).await }
    });
    eventually("copies are under way", async || store.calls(Op::Copy) >= 5).await;
    publisher.unpublish(&repo, "at once").await.unwrap();
    assert!(matches!(publishing.await.unwrap(), Ok(Outcome::Busy)));
    assert_eq!(names(&copies(gate.root.path())), [""; 0], "what landed behind the removal");
    let record = gate.root.path().join("store/published/models/acme--move/current/record.json");
    assert!(fs::read_to_string(record).unwrap().contains("\"unpublished\""));
}

#[tokio::test]
async fn what_was_published_in_place_of_what_is_refused_is_not_removed_for_it() {
    let hub = Standin::builder().repo(first()).start().await;
    let gate = Setup::new().config("upstream.ref_ttl = \"0s\"").start(&hub).await;
    fetch_all(&gate.client).await;
    let repo: Repo = REPO.parse().unwrap();
    // As of two processes: they share nothing but the store.
    let store = FaultyStore::over(gate.store.clone());
    let (one, other) = (publisher(&gate, store.clone(), true), publisher(&gate, gate.store.clone(), true));
    other.publish(&repo, &Revision::main(), Again::Later).await.unwrap();
    let (folder, refused) = (copies(gate.root.path()), hub.commit(REPO, "main"));
    is_commit(&hub, &folder, &refused);
    hub.push(REPO, "main", second());
    fetch_all(&gate.client).await;
    let denied = format!("{POLICY}\n[[deny]]\ncommit = \"{refused}\"\nreason = \"not this\"\n");
    gate.set_policy(&denied).unwrap();

    // One has found the first commit refused and is about to take the right to remove it.
    store.hold(Op::Put);
    let removing = tokio::spawn(async move { one.reconcile().await });
    eventually("it is about to remove", async || store.calls(Op::Put) == 1).await;
    let published = other.publish(&repo, &Revision::main(), Again::Later).await.unwrap();
    assert!(matches!(published, Outcome::Published { .. }), "{published:?}");
    store.release(Op::Put);
    let done = removing.await.unwrap().unwrap();
    assert!(done.lines.is_empty(), "{:?}", done.lines);
    is_commit(&hub, &folder, &hub.commit(REPO, "main"));
    // And nobody is kept out by it.
    let again = other.publish(&repo, &Revision::main(), Again::Later).await.unwrap();
    assert!(matches!(again, Outcome::Unchanged { .. }), "{again:?}");
}

#[tokio::test]
async fn a_withdrawal_wins_while_approvals_can_not_be_read() {
    let hub = Standin::builder().repo(first()).start().await;
    let gate = TestGateway::before(&hub).await;
    fetch_all(&gate.client).await;
    let publisher = publisher(&gate, gate.store.clone(), false);
    publisher.publish(&REPO.parse().unwrap(), &Revision::main(), Again::Later).await.unwrap();
    let (folder, commit) = (copies(gate.root.path()), hub.commit(REPO, "main"));

    // No rule of the folder allows it; whether an approval does is not known for now.
    let unapproved = POLICY.replace("repo = \"acme/*\"", "repo = \"nobody/*\"");
    gate.set_policy(&unapproved).unwrap();
    publisher.reconcile().await.unwrap();
    is_commit(&hub, &folder, &commit);
    let sha256 = hub.sha256(REPO, "main", "config.json");
    let withdrawn = format!("{unapproved}\n[[deny]]\nsha256 = \"{sha256}\"\nreason = \"stolen\"\n");
    gate.set_policy(&withdrawn).unwrap();
    let done = publisher.reconcile().await.unwrap();
    assert!(names(&folder).is_empty() && done.lines[0].contains("stolen"), "{:?}", done.lines);
}

#[tokio::test]
async fn what_is_removed_at_a_former_prefix_goes_from_the_catalogue_there() {
    let hub = Standin::builder().repo(first()).start().await;
    let (root, process) = world(&hub, "").await;
    process.kill().await;
    let catalogue = root.path().join("store/mirrors/hf/manifest.csv");
    let moved = |arguments: &[&str]| ran(root.path(), &[&["--set", "publish.prefix=mirrors/new"], arguments].concat());
    for remove in [&["publish", "--unpublish", REPO][..], &["publish"]] {
        assert_eq!(ran(root.path(), &["publish", REPO]).0, 0);
        assert!(fs::read_to_string(&catalogue).unwrap().contains(REPO));
        if remove == ["publish"] {
            let denied = format!("{POLICY}\n[[deny]]\nname = \"no\"\nrepo = \"{REPO}\"\nreason = \"not this\"\n");
            fs::write(root.path().join("policy/policy.toml"), denied).unwrap();
        }
        let (_, said) = moved(remove);
        assert!(names(&copies(root.path())).is_empty(), "{said}");
        assert!(!catalogue.exists(), "{remove:?}: {}", fs::read_to_string(&catalogue).unwrap());
    }
}
