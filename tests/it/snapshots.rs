//! What was looked at once is answered from the store for ever (I4), and only what is whole and sane is kept.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::Method;
use hub_standin::{Class, Crowd, Fault, FaultKind, NewCommit, RepoBuilder, Standin};
use hubgate::{
    gateway::Asker,
    hub::{Repo, RepoKind, Revision},
    store::Prefix,
};

use crate::support::{
    client::Answer,
    gateway::{Setup, TestGateway, eventually},
    process::hubgate,
};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn paths_info(gate: &TestGateway, repo: &str, paths: &[String]) -> serde_json::Value {
    let body = Bytes::from(serde_json::json!({ "paths": paths }).to_string());
    let answer = gate.client.send(Method::POST, &format!("/api/models/{repo}"), &JSON, body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// All that a client may ask about a commit, without its files' bytes.
async fn questions(gate: &TestGateway, commit: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for file in ["README.md", "config.json", "model.safetensors", "empty.txt"] {
        let head = gate.head(&format!("/acme/tiny/resolve/{commit}/{file}")).await;
        answers.push(format!("{} {} {}", head.status, head.header("etag"), head.header("content-length")));
    }
    let missing = gate.head(&format!("/acme/tiny/resolve/{commit}/no/such.file")).await;
    assert_eq!((missing.status.as_u16(), missing.header("x-error-code")), (404, "EntryNotFound"));
    for path in [
        format!("/api/models/acme/tiny/tree/{commit}?recursive=true"),
        format!("/api/models/acme/tiny/tree/{commit}?expand=true"),
        format!("/api/models/acme/tiny/revision/{commit}"),
        format!("/api/models/acme/tiny/revision/{commit}?blobs=true"),
    ] {
        let answer = gate.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answers.push(answer.text());
    }
    let paths = ["config.json".to_owned(), "none".to_owned()];
    let infos = paths_info(gate, &format!("acme/tiny/paths-info/{commit}"), &paths).await;
    assert_eq!(infos.as_array().unwrap().len(), 1, "{infos}");
    answers.push(infos.to_string());
    answers
}

#[tokio::test]
async fn one_look_at_a_commit_answers_everything_about_it_for_ever() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let commit = hub.commit("acme/tiny", "main");
    assert_eq!(gate.head("/acme/tiny/resolve/main/config.json").await.status, 200);
    let looked = hub.counters().requests;
    let answers = questions(&gate, &commit).await;
    assert_eq!(hub.counters().requests, looked, "{:#?}", hub.counters().paths);
    // Another process, and the Hub gone.
    let root = gate.stop().await;
    hub.stop().await;
    let gate = Setup::new().on(&root).start(&hub).await;
    assert_eq!(questions(&gate, &commit).await, answers);
    let gate = Setup::new().on(&gate.stop().await).config("upstream.offline = true").start(&hub).await;
    assert_eq!(questions(&gate, &commit).await, answers);
}

async fn facts_kept(gate: &TestGateway) -> usize {
    let all: Vec<_> = gate.store.list(&Prefix::snapshots(None)).try_collect().await.unwrap();
    all.len()
}

#[tokio::test]
async fn a_tree_that_is_not_whole_and_sane_is_never_kept_and_the_next_honest_one_is() {
    for lie in [
        FaultKind::MaskedTree,
        FaultKind::PartialTree { drop: vec!["model.safetensors".into()] },
        FaultKind::ExtraTreeEntry { path: "config.json".into() },
        FaultKind::ExtraTreeEntry { path: "../escape".into() },
        FaultKind::ExtraTreeEntry { path: "/etc/passwd".into() },
        FaultKind::SiblingsDisagree { drop: vec!["config.json".into()], add: Vec::new() },
        FaultKind::SiblingsDisagree { drop: Vec::new(), add: vec!["ghost.bin".into()] },
    ] {
        let hub = Standin::builder().fixtures().start().await;
        let gate = TestGateway::before(&hub).await;
        let fault = hub.fault(Fault::new(lie.clone()).path("*acme/tiny*"));
        for url in ["/acme/tiny/resolve/main/config.json", "/api/models/acme/tiny/tree/main"] {
            let answer = gate.get(url).await;
            assert_eq!(answer.status, 502, "{lie:?} {url}: {}", answer.text());
            assert!(!answer.text().contains(hub.hub_url()), "{}", answer.text());
        }
        assert_eq!(facts_kept(&gate).await, 0, "{lie:?} was kept");
        assert!(gate.health().await["ready"] == true);
        // Other repos are none the worse.
        assert_eq!(gate.head("/acme/nested/resolve/main/config.json").await.status, 200);
        hub.clear_fault(fault);
        let gate = Setup::new().on(&gate.stop().await).start(&hub).await;
        let answer = gate.get("/acme/tiny/resolve/main/config.json").await;
        assert_eq!(answer.status, 200, "{lie:?}: {}", answer.text());
        assert!(facts_kept(&gate).await > 0);
    }
}

fn crowded(files: usize, page_delay: Duration) -> RepoBuilder {
    let crowd = Crowd { page_delay, ..Crowd::new(files) };
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model("acme/crowd").commit(NewCommit::new("one").file("README.md", card).crowd(crowd))
}

#[tokio::test]
async fn a_repo_of_300_000_files_answers_at_once_and_lists_them_later() {
    const FILES: usize = 300_000;
    let crowd = Crowd::new(FILES);
    // Listing it takes far longer than any client waits.
    let hub = Standin::builder().repo(crowded(FILES, Duration::from_secs(5))).start().await;
    let gate = TestGateway::before(&hub).await;
    let url = format!("/acme/crowd/resolve/main/{}", crowd.path(123_456));
    let head = gate.head(&url).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), crowd.text(123_456).len().to_string());
    let answer = gate.get(&url).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, crowd.text(123_456)));
    let missing = gate.head("/acme/crowd/resolve/main/part-00000/none.txt").await;
    assert_eq!((missing.status.as_u16(), missing.header("x-error-code")), (404, "EntryNotFound"));
    let paths: Vec<String> = (0..400).map(|n| crowd.path(n * 7)).collect();
    let asked = hub.count(Class::PathsInfo);
    let commit = hub.commit("acme/crowd", "main");
    let infos = paths_info(&gate, &format!("acme/crowd/paths-info/{commit}"), &paths).await;
    assert_eq!(infos.as_array().unwrap().len(), paths.len());
    assert_eq!(hub.count(Class::PathsInfo), asked + 1, "not all at once");
    // The listing says when to come back.
    let listing = gate.get("/api/models/acme/crowd/tree/main?recursive=true").await;
    assert_eq!(listing.status, 503, "{}", listing.text());
    assert!(!listing.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_large_tree_follows_in_the_background_and_is_read_by_cursor() {
    const FILES: usize = 60_000;
    let hub = Standin::builder().repo(crowded(FILES, Duration::ZERO)).start().await;
    let gate = TestGateway::before(&hub).await;
    let url = format!("/acme/crowd/resolve/main/{}", Crowd::new(FILES).path(1));
    assert_eq!(gate.head(&url).await.status, 200);
    eventually("the tree is kept", async || facts_kept(&gate).await > 0 && gate.head(&url).await.status == 200).await;
    eventually("facts are written last", async || {
        gate.get("/api/models/acme/crowd/tree/main?recursive=true&limit=1").await.status == 200
    })
    .await;
    hub.stop().await;
    let mut next = "/api/models/acme/crowd/tree/main?recursive=true".to_owned();
    let mut files = std::collections::HashSet::new();
    loop {
        let page = gate.get(&next).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let nodes: Vec<serde_json::Value> = serde_json::from_slice(&page.body).unwrap();
        files.extend(nodes.iter().filter(|n| n["type"] == "file").map(|n| n["path"].as_str().unwrap().to_owned()));
        let link = page.header("link").to_owned();
        let Some((url, _)) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        next = url.strip_prefix(&gate.url).unwrap_or(url).to_owned();
    }
    assert_eq!(files.len(), FILES + 1);
}

#[tokio::test]
async fn past_the_cap_files_are_served_by_name_and_a_listing_says_why_not() {
    let hub = Standin::builder().repo(crowded(3000, Duration::ZERO)).start().await;
    let gate = Setup::new().config("limits.tree_nodes = 2000").start(&hub).await;
    let crowd = Crowd::new(3000);
    for n in [0, 2999] {
        let answer = gate.get(&format!("/acme/crowd/resolve/main/{}", crowd.path(n))).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, crowd.text(n)));
    }
    let listing = gate.get("/api/models/acme/crowd/tree/main?recursive=true").await;
    assert_eq!(listing.status, 400, "{}", listing.text());
    assert!(listing.header("x-error-message").contains("limits.tree_nodes"), "{}", listing.text());
    // What `HfFileSystem` and datasets ask before they read a file: the info, and a folder's own list.
    let info = gate.get("/api/models/acme/crowd").await;
    assert_eq!(info.status, 200, "{}", info.text());
    let info = info.json();
    assert_eq!(info["sha"], hub.commit("acme/crowd", "main"));
    assert_eq!(info["siblings"].as_array().map(Vec::len), Some(0));
    let names = |listing: Answer| {
        assert_eq!(listing.status, 200, "{}", listing.text());
        let nodes = listing.json().as_array().unwrap().clone();
        nodes.iter().map(|node| node["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let root = names(gate.get("/api/models/acme/crowd/tree/main").await);
    assert!(root.contains(&"README.md".to_owned()) && root.contains(&"part-00000".to_owned()), "{root:?}");
    let folder = names(gate.get("/api/models/acme/crowd/tree/main/part-00000").await);
    assert!(folder.contains(&crowd.path(0)) && folder.is_sorted(), "{folder:?}");
    assert_eq!(gate.get("/api/models/acme/crowd/tree/main/part-99999").await.status, 404);
    // Finding that out is not repeated for every question.
    let pages = hub.count(Class::Tree);
    assert_eq!(gate.get("/api/models/acme/crowd/tree/main?recursive=true").await.status, 400);
    assert_eq!(gate.head(&format!("/acme/crowd/resolve/main/{}", crowd.path(17))).await.status, 200);
    assert_eq!(hub.count(Class::Tree), pages);
}

#[tokio::test]
async fn what_is_stored_of_a_commit_without_its_tree_is_served_with_the_hub_gone_and_by_a_new_process() {
    // Too large to keep, and still coming in when the Hub goes away.
    for (config, page_delay) in
        [("limits.tree_nodes = 2000", Duration::ZERO), ("limits.tree_nodes = 500000", Duration::from_secs(30))]
    {
        let (crowd, hub) = (Crowd::new(3000), Standin::builder().repo(crowded(3000, page_delay)).start().await);
        let setup = || Setup::new().config(config).config("upstream.ref_ttl = \"0s\"");
        let gate = setup().start(&hub).await;
        let commit = hub.commit("acme/crowd", "main");
        let urls = ["main", &commit].map(|revision| format!("/acme/crowd/resolve/{revision}/{}", crowd.path(7)));
        assert_eq!(gate.get(&urls[0]).await.text(), crowd.text(7), "{config}");
        let looked = if page_delay.is_zero() { Some(hub.counters().requests) } else { None };
        let other = format!("/acme/crowd/resolve/{commit}/{}", crowd.path(8));
        let serves = async |gate: &TestGateway, what: &str| {
            for url in &urls {
                let (head, answer) = (gate.head(url).await, gate.get(url).await);
                assert_eq!((head.status.as_u16(), head.header("x-repo-commit")), (200, &*commit), "{config}, {what}");
                assert_eq!((answer.status.as_u16(), answer.text()), (200, crowd.text(7)), "{config}, {what}");
            }
            assert_eq!(
                paths_info(gate, &format!("acme/crowd/paths-info/{commit}"), &[crowd.path(7)]).await[0]["size"],
                crowd.text(7).len()
            );
        };
        if let Some(looked) = looked {
            // What is too large stays so: another process asks nothing about the commit.
            let again = setup().on(&gate.root).start(&hub).await;
            assert_eq!(again.get(&urls[1]).await.text(), crowd.text(7));
            assert_eq!(hub.counters().requests, looked, "{:#?}", hub.counters().paths);
            again.stop().await;
        }
        hub.stop().await;
        serves(&gate, "the same process").await;
        let gate = setup().on(&gate.stop().await).start(&hub).await;
        serves(&gate, "a new process").await;
        // What is not stored is not made up, and a part of a tree is no listing.
        for url in [&other, "/api/models/acme/crowd/tree/main?recursive=true"] {
            let answer = gate.get(url).await;
            assert!(!answer.status.is_success() && answer.status != 404, "{url}: {}", answer.text());
        }
        assert!(!stored_parts(&gate).await.iter().any(|key| key.ends_with("/facts.json") || key.contains("/tree")));
    }
}

async fn stored_parts(gate: &TestGateway) -> Vec<String> {
    let parts = gate.store.list(&Prefix::snapshots(None));
    parts.map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap()
}

/// What a request of this class asks the use cases.
async fn ask(gate: &TestGateway, class: Class) {
    let (asker, main) = (Asker { background: false, name: None, address: [127, 0, 0, 1].into() }, Revision::main());
    let repo = |id| Repo::new(RepoKind::Model, id).unwrap();
    match class {
        Class::Commits => drop(gate.gateway.commits(&asker, &repo("acme/tiny"), &main).await.unwrap()),
        Class::Refs => drop(gate.gateway.refs(&asker, &repo("acme/tiny")).await.unwrap()),
        _ => {
            let path = Crowd::new(3000).path(5).parse().unwrap();
            drop(gate.gateway.locate(&asker, &repo("acme/crowd"), &main, &path).await.unwrap());
        }
    }
}

#[tokio::test]
async fn look_ups_go_on_behind_a_client_that_leaves() {
    let hub = Standin::builder().fixtures().repo(crowded(3000, Duration::ZERO)).start().await;
    let gate = Setup::new().config("limits.tree_nodes = 2000").start(&hub).await;
    let file = format!("/acme/crowd/resolve/main/{}", Crowd::new(3000).path(5));
    for warm in ["/api/models/acme/tiny", "/acme/crowd/resolve/main/README.md"] {
        assert_eq!(gate.get(warm).await.status, 200);
    }
    for (class, url) in [
        (Class::Commits, "/api/models/acme/tiny/commits/main"),
        (Class::Refs, "/api/models/acme/tiny/refs"),
        (Class::PathsInfo, &file),
    ] {
        let before = hub.count(class);
        let stall = hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }).class(class));
        // As the server drops the work of a client that has left.
        tokio::select! {
            () = ask(&gate, class) => panic!("{class:?} was answered"),
            () = eventually("it is asked", async || hub.count(class) == before + 1) => {}
        }
        hub.clear_fault(stall);
        assert_eq!(gate.get(url).await.status, 200, "{class:?}");
        assert_eq!(hub.count(class), before + 1, "{class:?} was asked anew");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_snapshot_is_replaced_by_its_command_with_a_record_of_it() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let listing = "/api/models/acme/tiny/tree/main?recursive=true";
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200);
    let whole = gate.get(listing).await.text();
    let root = gate.stop().await;
    let commit = hub.commit("acme/tiny", "main");
    let tree = root.path().join(format!("store/snapshots/models/acme--tiny/{commit}/tree"));
    let only = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let piece = only(&only(&tree));
    std::fs::remove_file(&piece).unwrap();
    std::fs::write(&piece, "not a piece of a tree\n").unwrap();
    let run = |words: &[&str]| {
        let output = hubgate(root.path(), words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };

    let (code, said) = run(&["verify"]);
    assert!(code == 1 && said.contains("snapshot"), "{said}");
    let gate = Setup::new().on(&root).start(&hub).await;
    let bad = gate.get(listing).await;
    assert!(bad.status.is_server_error(), "{}: {}", bad.status, bad.text());
    gate.stop().await;

    let (code, said) = run(&["snapshot", "refresh", "acme/tiny"]);
    assert!(code == 0 && said.contains(&format!("acme/tiny@{commit}: learned anew")), "{said}");
    let (code, said) = run(&["verify"]);
    assert_eq!(code, 0, "{said}");
    let (_, exported) = run(&["manifest", "export", "--format", "jsonl", "--history"]);
    let refreshed: Vec<_> = exported.lines().filter(|line| line.contains("snapshot_refreshed")).collect();
    assert!(refreshed.len() == 1 && refreshed[0].contains(&commit) && refreshed[0].contains("tree.json"), "{exported}");
    hub.stop().await;
    let gate = Setup::new().on(&root).start(&hub).await;
    assert_eq!(gate.get(listing).await.text(), whole);
}
