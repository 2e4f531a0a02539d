//! Upstream down is a quiet day (I10): what is stored is served, branches resolve to their last known commit.

use hub_standin::{Fault, FaultKind, NewCommit, Standin};

use crate::support::gateway::{POLICY, Setup, TestGateway};

const URL: &str = "/acme/tiny/resolve/main/config.json";

/// A gateway that looks at branches anew each time, with acme/tiny stored.
async fn stored(hub: &Standin) -> TestGateway {
    stored_with(hub, "").await
}

async fn stored_with(hub: &Standin, config: &str) -> TestGateway {
    let gate = Setup::new().config("upstream.ref_ttl = \"0s\"").config(config).start(hub).await;
    for file in ["README.md", "config.json", "model.safetensors"] {
        assert_eq!(gate.get(&format!("/acme/tiny/resolve/main/{file}")).await.status, 200);
    }
    gate
}

/// Everything that is read of a repo works.
async fn serves(gate: &TestGateway, hub: &Standin) {
    let commit = hub.commit("acme/tiny", "main");
    for revision in ["main", &commit] {
        let url = format!("/acme/tiny/resolve/{revision}/config.json");
        assert_eq!(gate.head(&url).await.header("x-repo-commit"), commit, "{url}");
        let content = gate.get(&url).await;
        assert_eq!(
            (content.status.as_u16(), &content.body[..]),
            (200, &hub.bytes("acme/tiny", "main", "config.json")[..])
        );
    }
    for url in [
        "/api/models/acme/tiny",
        "/api/models/acme/tiny/revision/main",
        "/api/models/acme/tiny/tree/main?recursive=true",
        "/api/models/acme/tiny/commits/main",
        "/api/models/acme/tiny/refs",
        "/api/models?search=tiny",
    ] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        let answer = answer.text();
        assert!(answer.contains(&commit) || url.contains("/tree/"), "{url}: {answer}");
    }
}

#[tokio::test]
async fn whatever_fails_upstream_what_is_stored_is_served_and_health_says_degraded() {
    let failures = [
        FaultKind::Close,
        FaultKind::Status { code: 503, body: "down".into(), headers: Vec::new() },
        FaultKind::RateLimited { reset: 280 },
        FaultKind::Html { code: 502 },
    ];
    for failure in failures {
        let hub = Standin::builder().fixtures().start().await;
        let gate = stored(&hub).await;
        assert_eq!(gate.health().await["degraded"], serde_json::json!([]));
        hub.fault(Fault::new(failure.clone()));
        serves(&gate, &hub).await;
        let health = gate.get("/-/readyz").await;
        assert_eq!(health.status, 200, "{failure:?}");
        assert!(health.text().contains("stored content is served"), "{failure:?}: {}", health.text());
        assert!(!health.text().contains("127.0.0.1"), "{}", health.text());
        let hop = gate.ask("GET", URL, &[]).await;
        assert_eq!(gate.access_line(&hop).await["cache"], "stale", "{failure:?}");
        // And it is over when it is over.
        hub.clear_faults();
        let commit = hub.push("acme/tiny", "refs/heads/main", NewCommit::new("later").file("config.json", "{}"));
        let gate = Setup::new().config("upstream.ref_ttl = \"0s\"").on(&gate.stop().await).start(&hub).await;
        assert_eq!(gate.head(URL).await.header("x-repo-commit"), commit);
        assert_eq!(gate.health().await["degraded"], serde_json::json!([]));
    }
}

#[tokio::test]
async fn a_stopped_hub_and_an_offline_gateway_serve_what_is_stored() {
    let hub = Standin::builder().fixtures().start().await;
    let root = stored(&hub).await.stop().await;
    hub.stop().await;
    let gate = Setup::new().on(&root).config("upstream.ref_ttl = \"0s\"").start(&hub).await;
    serves(&gate, &hub).await;
    let new = gate.get("/acme/nested/resolve/main/config.json").await;
    assert_eq!(new.status, 503, "{}", new.text());
    assert!(!new.header("retry-after").is_empty());
    let gate = Setup::new().on(&gate.stop().await).config("upstream.offline = true").start(&hub).await;
    serves(&gate, &hub).await;
    assert!(gate.get("/-/readyz").await.text().contains("upstream.offline is set"));
}

#[tokio::test]
async fn a_hub_that_hangs_does_not_make_every_answer_wait() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = stored(&hub).await;
    hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }));
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(gate.get(URL).await.status, 200);
    }
    // One wait of three seconds, not twenty.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_hub_that_hangs_keeps_nobody_from_the_refs_and_commits_of_a_pinned_repo() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = stored(&hub).await;
    assert_eq!(gate.get("/api/models/acme/tiny/refs").await.status, 200);
    // Another process, which remembers nothing; under a pin, no look at a branch tells it that the Hub hangs.
    let pin = hub.commit("acme/tiny", "main");
    let policy = format!("{POLICY}\n[[allow]]\nname = \"pinned\"\nrepo = \"acme/tiny\"\npin = \"{pin}\"\n");
    let gate = Setup::new().policy(&policy).on(&gate.stop().await).start(&hub).await;
    hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }));
    let refs = gate.get("/api/models/acme/tiny/refs").await;
    assert_eq!(refs.status, 200, "{}", refs.text());
    assert_eq!(refs.json()["branches"][0]["targetCommit"], pin);
    let commits = gate.get("/api/models/acme/tiny/commits/main").await;
    assert_eq!(commits.status, 200, "{}", commits.text());
    assert_eq!(commits.json()[0]["id"], pin);
}

#[tokio::test]
async fn one_repo_that_the_hub_fails_on_is_no_outage_for_the_others() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = stored(&hub).await;
    assert_eq!(gate.get("/acme/copy/resolve/main/model.safetensors").await.status, 200);
    hub.fault(
        Fault::new(FaultKind::Status { code: 500, body: "broken".into(), headers: Vec::new() }).path("*acme/tiny*"),
    );
    assert_eq!(gate.head(URL).await.status, 200);
    assert!(hub.requests("*acme/tiny*").iter().any(|request| request.status == 500), "the Hub failed");
    let commit = hub.push("acme/copy", "refs/heads/main", NewCommit::new("later").file("new.txt", "x"));
    let new = gate.head("/acme/copy/resolve/main/new.txt").await;
    assert_eq!((new.status.as_u16(), new.header("x-repo-commit")), (200, &*commit), "the last known commit answered");
}

#[tokio::test]
async fn our_own_token_refused_is_an_error_that_names_the_token() {
    let hub = Standin::builder().fixtures().start().await;
    let token = format!("upstream.token = {:?}", hub.token());
    let gate = stored_with(&hub, &token).await;
    hub.set_token("hf_another");
    for url in [URL, "/acme/nested/resolve/main/config.json", "/acme/none/resolve/main/config.json"] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 502, "{url}: {}", answer.text());
        assert!(answer.header("x-error-message").contains("upstream.token"), "{url}: {}", answer.text());
        assert_ne!(answer.header("x-error-code"), "RepoNotFound");
    }
    // A commit is asked nothing about.
    let commit = hub.commit("acme/tiny", "main");
    assert_eq!(gate.get(&format!("/acme/tiny/resolve/{commit}/config.json")).await.status, 200);
}

#[tokio::test]
async fn a_repo_that_is_gone_is_served_and_marked_or_refused() {
    for code in [401, 404, 451] {
        let hub = Standin::builder().fixtures().start().await;
        let gate = stored(&hub).await;
        hub.fault(Fault::new(FaultKind::RepoGone { code }).path("*acme/tiny*"));
        serves(&gate, &hub).await;
        // Not stored: a definite no.
        assert!(gate.get("/acme/tiny/resolve/dev/config.json").await.status.is_client_error(), "{code}");

        let hub = Standin::builder().fixtures().start().await;
        let gate = stored_with(&hub, "upstream.on_gone = \"refuse\"").await;
        let gone = hub.fault(Fault::new(FaultKind::RepoGone { code }).path("*acme/tiny*"));
        let commit = hub.commit("acme/tiny", "main");
        let at_commit = format!("/acme/tiny/resolve/{commit}/config.json");
        for url in [URL, &at_commit] {
            let answer = gate.get(url).await;
            assert!(answer.status.is_client_error(), "{code} {url}: {}", answer.status);
        }
        assert_eq!(gate.head("/acme/nested/resolve/main/config.json").await.status, 200);
        hub.clear_fault(gone);
    }
}

#[tokio::test]
async fn a_moved_branch_is_noticed_and_a_head_and_its_get_see_one_commit() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = stored(&hub).await;
    let old = hub.commit("acme/tiny", "main");
    let hop = gate.client.send(http::Method::HEAD, URL, &[], bytes::Bytes::new()).await.unwrap();
    assert_eq!((hop.status.as_u16(), hop.header("x-repo-commit")), (307, &old[..]));
    let before = hub.bytes("acme/tiny", "main", "config.json");
    let new = hub.push("acme/tiny", "refs/heads/main", NewCommit::new("moved").file("config.json", "{\"new\":1}"));
    // Who was sent to the commit gets that commit.
    let get = gate.get(hop.header("location")).await;
    assert_eq!((get.header("x-repo-commit"), &get.body[..]), (&old[..], &before[..]));
    let get = gate.get(URL).await;
    assert_eq!((get.header("x-repo-commit"), &get.text()[..]), (&new[..], "{\"new\":1}"));
    // Another process on the store knows it with the Hub gone, and never the older look.
    hub.stop().await;
    let gate = Setup::new().on(&gate.stop().await).start(&hub).await;
    assert_eq!(gate.head(URL).await.header("x-repo-commit"), new);
}

#[tokio::test]
async fn a_deleted_branch_is_not_found_and_the_others_go_on() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = stored(&hub).await;
    assert_eq!(gate.head("/acme/tiny/resolve/dev/config.json").await.status, 200);
    hub.delete_branch("acme/tiny", "dev");
    let gone = gate.head("/acme/tiny/resolve/dev/config.json").await;
    assert_eq!((gone.status.as_u16(), gone.header("x-error-code")), (404, "RevisionNotFound"));
    assert_eq!(gate.head(URL).await.status, 200);
}

#[tokio::test]
async fn that_a_repo_is_gone_is_known_to_a_new_process_that_cannot_ask() {
    for (on_gone, status) in [("refuse", 404), ("serve", 200)] {
        let hub = Standin::builder().fixtures().start().await;
        let config = format!("upstream.on_gone = {on_gone:?}");
        let gate = stored_with(&hub, &config).await;
        let at_commit = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "main"));
        hub.fault(Fault::new(FaultKind::RepoGone { code: 404 }).path("*acme/tiny*"));
        assert_eq!(gate.get(URL).await.status, status);
        let root = gate.stop().await;
        hub.stop().await;
        let gate = Setup::new().on(&root).config("upstream.ref_ttl = \"0s\"").config(&config).start(&hub).await;
        for url in [&at_commit, URL] {
            let answer = gate.get(url).await;
            assert_eq!(answer.status, status, "{on_gone} {url}: {}", answer.text());
        }
        if on_gone == "serve" {
            let repo = hubgate::hub::Repo::new(hubgate::hub::RepoKind::Model, "acme/tiny").unwrap();
            let asker = hubgate::gateway::Asker::operator("test");
            let explained = gate.gateway.explain(&asker, &repo, &hubgate::hub::Revision::main()).await;
            assert!(format!("{explained:?}").contains("it has this repo no more"), "{explained:?}");
        }
    }
}
