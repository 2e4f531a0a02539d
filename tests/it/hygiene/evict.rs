//! Eviction: what `store.max_size` removes, and what it never does.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use hub_standin::{Fault, FaultKind};
use hubgate::{hub::Sha256, store::Key};

use super::*;
use crate::support::{
    gateway::{POLICY, Setup, eventually},
    process::set_up,
    s3::S3sServer,
};

#[tokio::test]
async fn past_store_max_size_what_was_served_longest_ago_is_evicted_recorded_and_fetched_again() {
    let hub = models().await;
    let root = set_up(&hub, "store.max_size = \"10MB\"");
    let process = Process::start(root.path()).await;
    let get = async |name: &str| {
        let answer = process.client.get(&url(name)).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {}\n{}", answer.text(), process.log());
        assert_eq!(answer.body, weights(&hub, name));
    };
    get("a").await;
    get("b").await;
    get("a").await;
    // It does not fit: the one that was read longest ago goes, though it came later.
    get("c").await;
    let stored = |name: &str| is_stored(root.path(), &hub, name);
    assert!(stored("a") && !stored("b") && stored("c"), "{}", process.log());
    let fetched_before = hub.counters().file_bytes("acme/b/model.safetensors");
    get("b").await;
    // And one byte, by which the origin showed that it can be had before another file went for it.
    assert_eq!(hub.counters().file_bytes("acme/b/model.safetensors"), 2 * fetched_before + 1);
    let mut process = process;
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success());

    let (_, history, _) = ran(root.path(), &["manifest", "export", "--history", "--repo", "acme/b"]);
    let column = |line: &str| line.split(',').nth(9).unwrap().to_owned();
    let what: Vec<_> = history.lines().skip(1).filter(|line| line.contains("model.safetensors")).map(column).collect();
    assert_eq!(what, ["stored", "evicted", "stored"], "{history}");
    assert!(history.contains("store.max_size"), "{history}");
    let (code, said, _) = ran(root.path(), &["verify"]);
    assert!(code == 0 && said.contains("all is well"), "{said}");
    // What was served is in the store for the others.
    let notes: Vec<_> = files_below(&root.path().join("store/usage"));
    assert!(notes.len() == 1 && fs::read_to_string(&notes[0]).unwrap().contains("served"), "{notes:?}");
}

#[tokio::test]
async fn nothing_is_evicted_for_a_file_that_cannot_be_had_and_it_is_when_it_can() {
    let hub = models().await;
    let gate = Setup::new().config("store.max_size = \"10MB\"").start(&hub).await;
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    assert_eq!(gate.head(&url("c")).await.status, 200, "it is known from here on");
    hub.fault(Fault::new(FaultKind::Close));
    let refused = gate.get(&url("c")).await;
    assert!(refused.status == 503 && !refused.header("retry-after").is_empty(), "{}", refused.text());
    for name in ["a", "b"] {
        assert!(is_stored(gate.root.path(), &hub, name), "{name} went during an outage");
    }

    let root = gate.stop().await;
    let offline = Setup::new().config("store.max_size = \"10MB\"\nupstream.offline = true").on(&root);
    let gate = offline.start(&hub).await;
    let refused = gate.get(&url("c")).await;
    let why = refused.header("x-error-message");
    assert!(refused.status == 503 && why.contains("offline and has not stored this"), "{}", refused.text());
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.body, weights(&hub, name), "{name} went while offline");
    }
    let root = gate.stop().await;
    // A bound that was narrowed meanwhile is not kept before the origin answers.
    let narrowed = "store.max_size = \"5MB\"\nupstream.offline = true";
    let gate = Setup::new().config(narrowed).on(&root).start(&hub).await;
    assert_eq!(gate.get(&url("a")).await.status, 200);
    assert_eq!(gate.get(&url("b")).await.status, 200);

    let root = gate.stop().await;
    hub.clear_faults();
    let gate = Setup::new().config("store.max_size = \"10MB\"").on(&root).start(&hub).await;
    eventually("room is made", async || gate.get(&url("c")).await.status == 200).await;
    let left = ["a", "b"].into_iter().filter(|name| is_stored(gate.root.path(), &hub, name)).count();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_file_larger_than_all_that_may_go_costs_nothing() {
    let hub = models().await;
    let policy = format!("{POLICY}\n[[mirror]]\nrepo = \"acme/a\"\n[[mirror]]\nrepo = \"acme/b\"\n");
    let bound = "store.max_size = \"13MB\"";
    let gate = Setup::new().policy(&policy).config(bound).start(&hub).await;
    for name in ["a", "b", "c"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    // c alone may go, and that is not enough.
    let root = gate.stop().await;
    let gate = Setup::new().policy(&policy).config("store.max_size = \"12.1MB\"").on(&root).start(&hub).await;
    let refused = gate.get("/acme/large/resolve/main/model.safetensors").await;
    assert!(refused.status == 503 && refused.header("x-error-message").contains("do not fit"), "{}", refused.text());
    assert!(is_stored(gate.root.path(), &hub, "c"));
}

#[tokio::test]
async fn a_process_that_has_heard_nothing_of_the_hub_evicts_nothing() {
    let hub = models().await;
    let root = set_up(&hub, "store.max_size = \"10MB\"");
    fetched(root.path(), &[&url("a"), &url("b")]).await;
    hub.fault(Fault::new(FaultKind::Close));
    let at = root.path().to_owned();
    let manifest = root.path().join("manifest.csv").display().to_string();
    // The bound was narrowed, and the first thing it does is to look whether it is kept.
    let sync = ["sync", "--repo", "acme/c", "--set", "store.max_size=5MB", "--manifest"];
    let ran = tokio::task::spawn_blocking(move || ran(&at, &[&sync[..], &[&manifest]].concat()));
    let (code, _, complaint) = ran.await.unwrap();
    assert_eq!(code, 1, "{complaint}");
    for name in ["a", "b"] {
        assert!(is_stored(root.path(), &hub, name), "{name} went: {complaint}");
    }
}

#[tokio::test]
async fn sync_keeps_the_bound_that_serving_keeps() {
    let hub = models().await;
    let root = set_up(&hub, "store.max_size = \"10MB\"");
    fetched(root.path(), &[&url("a"), &url("b")]).await;
    let at = root.path().to_owned();
    let sync = ["sync", "--repo", "acme/c", "--manifest"];
    let manifest = root.path().join("manifest.csv").display().to_string();
    // It asks the stand-in, which runs on this thread.
    let ran = tokio::task::spawn_blocking(move || ran(&at, &[&sync[..], &[&manifest]].concat()));
    let (code, said, complaint) = ran.await.unwrap();
    assert_eq!(code, 0, "{said}{complaint}");
    assert!(is_stored(root.path(), &hub, "c"), "{said}");
    let left = ["a", "b"].into_iter().filter(|name| is_stored(root.path(), &hub, name)).count();
    assert_eq!(left, 1, "{said}{complaint}");
}

#[tokio::test]
async fn what_the_mirror_list_or_a_pin_names_is_never_evicted_and_what_does_not_fit_says_so() {
    let hub = models().await;
    let commit = hub.commit("acme/b", "main");
    let policy = format!(
        "{POLICY}\n[[allow]]\nname = \"pinned\"\nrepo = \"acme/b\"\npin = \"{commit}\"\n[[mirror]]\nrepo = \"acme/a\"\n"
    );
    let gate = Setup::new().policy(&policy).config("store.max_size = \"10MB\"").start(&hub).await;
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    let refused = gate.get(&url("c")).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    let why = refused.header("x-error-message");
    assert!(why.contains("store.max_size is 9.5 MiB") && why.contains("pinned, locked, mirrored"), "{why}");
    for name in ["a", "b"] {
        assert!(is_stored(gate.root.path(), &hub, name), "{name}");
    }
    // One that can never fit is no matter of waiting.
    let root = gate.stop().await;
    let gate = Setup::new().config("store.max_size = \"3MB\"").on(&root).start(&hub).await;
    let refused = gate.head(&url("d")).await;
    assert!(
        refused.status == 403 && refused.header("x-error-message").contains("store.max_size"),
        "{:?}",
        refused.headers
    );
}

#[tokio::test]
async fn what_a_lock_names_is_never_evicted() {
    let hub = models().await;
    let root = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let lock = root.path().join("models.lock");
    fs::write(&lock, "version = 1\n").unwrap();
    let policy = format!("{POLICY}[[allow]]\nrepo = \"acme/a\"\n[[allow]]\nrepo = \"acme/b\"\n");
    let config = format!("store.max_size = \"10MB\"\npolicy.lock = \"{}\"", lock.display());
    let gate = Setup::new().policy(&policy).config(&config).on(&root).start(&hub).await;
    let at = root.path().to_owned();
    // It asks the stand-in, which runs on this thread.
    let (code, said, complaint) = tokio::task::spawn_blocking(move || ran(&at, &["lock"])).await.unwrap();
    assert!(code == 0 && said.contains("2 revisions locked"), "{said}{complaint}");
    gate.set_policy(&policy).unwrap();
    for name in ["a", "b"] {
        assert_eq!(gate.get(&url(name)).await.status, 200);
    }
    let refused = gate.get(&url("c")).await;
    assert!(refused.status == 503 && refused.header("x-error-message").contains("locked"), "{:?}", refused.headers);
    for name in ["a", "b"] {
        assert!(is_stored(gate.root.path(), &hub, name), "{name}");
    }
}

#[tokio::test]
async fn gc_evicts_on_demand_by_what_was_noted_and_twice_does_no_harm() {
    let hub = models().await;
    let root = set_up(&hub, "");
    let store = root.path().join("store");
    fetched(root.path(), &[&url("a"), &url("b"), &url("c")]).await;
    let (code, _, complaint) = ran(root.path(), &["gc", "--evict"]);
    assert!(code == 2 && complaint.contains("store.max_size is not set"), "{complaint}");

    // By the files' times a would go first; another replica has noted that it was served since.
    for (name, days) in [("a", 9), ("b", 8), ("c", 7)] {
        let content = weights(&hub, name);
        set_age(&blob(&store, &content), days * DAY);
    }
    let sha256 = Sha256::of(&hub.bytes("acme/a", "main", "model.safetensors"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    fs::create_dir_all(store.join("usage/other-replica")).unwrap();
    let note = format!("{{\"schema\":1,\"served\":{{\"{sha256}\":{now}}}}}");
    fs::write(store.join("usage/other-replica/2026-11-24.json"), note).unwrap();

    let bound = ["--set", "store.max_size=10MB"];
    let (code, said, _) = ran(root.path(), &[&bound[..], &["gc", "--evict"]].concat());
    assert!(code == 1 || code == 0, "{said}");
    assert!(said.contains("1 blobs to be evicted: 4000000 bytes") && said.contains("acme/b@"), "{said}");
    assert!(is_stored(root.path(), &hub, "b"));
    let report = json(root.path(), &[&bound[..], &["gc", "--apply", "--evict"]].concat(), 0);
    assert_eq!(report["evicted"]["bytes"], 4_000_000, "{report}");
    assert!(is_stored(root.path(), &hub, "a") && !is_stored(root.path(), &hub, "b"));
    let report = json(root.path(), &[&bound[..], &["gc", "--apply", "--evict"]].concat(), 0);
    assert_eq!(report["evicted"]["bytes"], 0, "{report}");
    assert_eq!(ran(root.path(), &["verify"]).0, 0);
    let (code, said, _) = ran(root.path(), &["manifest", "list"]);
    assert!(code == 0 && !said.contains("acme/b@") && said.contains("acme/a@"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_goes_while_another_repos_file_is_recorded_for_it_leaves_no_entry_and_is_fetched_again() {
    let hub = Standin::builder().fixtures().start().await;
    let (server, spool) = (S3sServer::start().await, tempfile::tempdir().unwrap());
    let gate = Setup::new().config(&server.lines(spool.path())).start(&hub).await;
    let content = gate.get(TINY).await.body;
    let copy = "/acme/copy/resolve/main/model.safetensors";
    // As by a purge that has looked at who names it a moment before.
    server.lose_with_index(blob(&server.folder(), &content));
    hub.fault(Fault::new(FaultKind::FlipByte { at: 5 }).path("acme/copy/model.safetensors"));
    assert_ne!(gate.get(copy).await.status, 200, "its fill fails");
    let repo = "acme/copy".parse().unwrap();
    let commit = hub.commit("acme/copy", "main").parse().unwrap();
    let entry = Key::index(&repo, commit, &"model.safetensors".parse().unwrap());
    assert!(gate.store.head(&entry).await.unwrap().is_none(), "an entry without its blob");
    hub.clear_faults();
    eventually("fetched again", async || gate.get(copy).await.body == content).await;
    assert!(gate.store.head(&entry).await.unwrap().is_some());
}
