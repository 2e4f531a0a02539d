//! What is not there, what can't be had for now, and what hubgate does not do: each in the form that clients test for.

use hub_standin::{Class, Fault, FaultKind, Standin};

use super::{world, world_with};
use crate::support::gateway::Setup;

/// Traps 16, 17: optional files are probed; without code and commit Python fails, or asks again at every load.
#[tokio::test]
async fn a_missing_file_is_entry_not_found_with_its_commit_and_known_for_ever() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    let urls = [
        "/acme/tiny/resolve/main/tokenizer.model".to_owned(),
        format!("/acme/tiny/resolve/{commit}/added_tokens.json"),
        "/acme/tiny/raw/main/chat_template.jinja".into(),
        "/acme/tiny/resolve/main/sub".into(),
        format!("/api/resolve-cache/models/acme/tiny/{commit}/nowhere.json"),
    ];
    for when in ["first", "again", "with the Hub gone"] {
        for url in &urls {
            for method in ["HEAD", "GET"] {
                let answer = gate.ask(method, url, &[]).await;
                assert_eq!(
                    (answer.status.as_u16(), answer.header("x-error-code")),
                    (404, "EntryNotFound"),
                    "{when} {url}"
                );
                assert_eq!(answer.header("x-error-message"), "Entry not found");
                assert_eq!(answer.header("x-repo-commit"), commit, "{when} {url}");
            }
        }
        if when == "first" {
            hub.reset_counters();
        } else {
            assert_eq!(hub.counters().requests, 0, "answered from what is stored");
            hub.stop().await;
        }
    }
}

/// Trap 19: behind http a bare 401 is no "repository not found" to any client; the Hub's 401 gets its code.
#[tokio::test]
async fn a_repo_that_is_not_there_is_repo_not_found() {
    let (_hub, gate) = world().await;
    for (method, url) in [
        ("HEAD", "/acme/nowhere/resolve/main/config.json"),
        ("GET", "/acme/nowhere/resolve/main/config.json"),
        ("GET", "/api/models/acme/nowhere"),
        ("GET", "/api/models/acme/nowhere/tree/main"),
        ("GET", "/api/models/acme/nowhere/refs"),
        ("GET", "/api/models/acme/nowhere/auth-check"),
    ] {
        let answer = gate.ask(method, url, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, "RepoNotFound"), "{url}");
        assert_eq!(answer.header("x-error-message"), "Repository not found");
    }
}

/// Negative answers are kept, briefly: a program that asks for a wrong name in a loop must not use up our requests.
#[tokio::test]
async fn a_repo_that_is_not_there_is_looked_for_once() {
    let (hub, gate) = world().await;
    for _ in 0..6 {
        let answer = gate.ask("HEAD", "/acme/nowhere/resolve/main/config.json", &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, "RepoNotFound"));
    }
    assert_eq!(hub.counters().requests, 1, "{:#?}", hub.counters().paths);
}

/// Trap 19: where hubgate itself wants a known client, its 401 has a code, a reason and a Bearer challenge.
#[tokio::test]
async fn unknown_clients_are_told_how_to_become_known() {
    let token = "secret-of-the-ci";
    let sha256 = hubgate::hub::Sha256::of(token.as_bytes());
    let (_hub, gate) = world_with(&format!(
        "auth.anonymous = false\nauth.clients = [{{ name = \"ci\", token_sha256 = \"{sha256}\" }}]"
    ))
    .await;
    let url = "/acme/tiny/resolve/main/config.json";
    for headers in [&[][..], &[("authorization", "Bearer hf_somebodys")]] {
        let refused = gate.get_with(url, headers).await;
        assert_eq!((refused.status.as_u16(), refused.header("x-error-code")), (401, "GatedRepo"));
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
        assert!(refused.header("x-error-message").contains("HF_TOKEN"), "{:?}", refused.headers);
    }
    let bearer = format!("Bearer {token}");
    let known = [("authorization", bearer.as_str())];
    assert_eq!(gate.get_with(url, &known).await.status, 200);
    assert_eq!(gate.get_with("/api/whoami-v2", &known).await.json()["name"], "ci");
}

/// Trap 22 and PROTOCOL section 7: trouble upstream is never a 401 or 404, which clients believe for ever.
#[tokio::test]
async fn trouble_upstream_is_said_as_trouble() {
    let status = |code, body: &str| FaultKind::Status { code, body: body.into(), headers: Vec::new() };
    for (fault, expected) in [
        (status(500, "no"), 503),
        (status(502, "no"), 503),
        (status(503, "no"), 503),
        (FaultKind::Close, 503),
        (FaultKind::TokenRefused, 502),
        (FaultKind::Html { code: 200 }, 502),
        (FaultKind::RedirectTo { location: "https://elsewhere.example.com{target}".into() }, 502),
    ] {
        let hub = Standin::builder().fixtures().start().await;
        let gate = Setup::new().config(&format!("upstream.token = {:?}", hub.token())).start(&hub).await;
        hub.fault(Fault::new(fault.clone()));
        for (method, url) in [("HEAD", "/acme/tiny/resolve/main/config.json"), ("GET", "/api/models/acme/tiny")] {
            let answer = gate.ask(method, url, &[]).await;
            assert_eq!(answer.status, expected, "{fault:?} {url}: {}", answer.text());
            assert_eq!(answer.header("x-error-code"), "", "{fault:?} {url}");
            assert!(answer.header("x-error-message").starts_with("hubgate: "), "{fault:?} {url}: {:?}", answer.headers);
            assert_eq!(answer.header("retry-after").is_empty(), expected != 503, "{fault:?} {url}");
        }
        hub.clear_faults();
    }
}

/// Traps 21, 22: a file that can't be fetched is an answer with a status, not a closed connection.
#[tokio::test]
async fn a_file_whose_cdn_fails_is_503_and_later_there() {
    let (hub, gate) = world().await;
    let url = "/acme/tiny/resolve/main/model.safetensors";
    let fault = hub.fault(Fault::new(FaultKind::Close).class(Class::Cdn));
    let agent = [("user-agent", "curl/8")];
    let answer = gate.get_with(url, &agent).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(!answer.header("retry-after").is_empty());
    hub.clear_fault(fault);
    assert_eq!(gate.get_with(url, &agent).await.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
}

/// Trap 39: a relayed `t=280` would put clients to sleep for as long.
#[tokio::test]
async fn a_rate_limit_of_the_origin_is_not_relayed() {
    let (library, old) = ("unknown/None; hf_hub/2.4.0", "unknown/None; hf_hub/0.36.2");
    for (reset, method, agent, status) in [
        (280, "HEAD", library, 503),
        (2000, "HEAD", library, 503),
        (2000, "GET", library, 429),
        (2000, "GET", old, 503),
    ] {
        let (hub, gate) = world().await;
        hub.fault(Fault::new(FaultKind::RateLimited { reset }));
        let answer = gate.ask(method, "/acme/tiny/resolve/main/config.json", &[("user-agent", agent)]).await;
        assert_eq!(answer.status, status, "{method} {agent}: {}", answer.text());
        let after: u64 = answer.header("retry-after").parse().unwrap();
        assert!(after <= 30, "{after}");
        assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), ("", ""));
    }
}

/// Traps 31, 32: a listing whose hashes are masked is that of an account without access; it is never kept.
#[tokio::test]
async fn a_masked_tree_is_refused_and_forgotten() {
    let (hub, gate) = world().await;
    let fault = hub.fault(Fault::new(FaultKind::MaskedTree));
    for url in ["/api/models/acme/tiny/tree/main", "/acme/tiny/resolve/main/model.safetensors"] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 502, "{url}: {}", answer.text());
        assert!(!answer.text().contains("****"));
    }
    hub.clear_fault(fault);
    let root = gate.stop().await;
    let gate = Setup::new().on(&root).start(&hub).await;
    assert_eq!(gate.get("/acme/tiny/resolve/main/model.safetensors").await.status, 200);
}

/// Trap 40: datasets derives this host from the endpoint and waits for it.
#[tokio::test]
async fn the_datasets_server_is_a_fast_no() {
    let (hub, gate) = world().await;
    for url in ["/info?dataset=acme/table", "/parquet?dataset=acme/table", "/acme/tiny/resolve/main/config.json"] {
        let answer = gate.ask("GET", url, &[("host", "datasets-server.hub.example.com")]).await;
        assert_eq!(answer.status, 404, "{url}");
    }
    assert_eq!(hub.counters().requests, 0);
}

/// Asked by every process of 1.x and 2.x; any quick 4xx will do, and telemetry goes nowhere.
#[tokio::test]
async fn agent_harnesses_and_telemetry_end_here() {
    let (hub, gate) = world().await;
    for (method, url) in [
        ("GET", "/api/agent-harnesses"),
        ("HEAD", "/api/telemetry/transformers/model/AutoModel"),
        ("GET", "/api/telemetry/x"),
        ("POST", "/api/telemetry/x"),
    ] {
        let answer = gate.ask(method, url, &[]).await;
        assert!(answer.status.is_client_error(), "{method} {url}: {}", answer.status);
    }
    assert_eq!(hub.counters().requests, 0);
}

/// Whose name a Hub token stands for, only the Hub knows; a client without one is told as on the Hub.
#[tokio::test]
async fn whoami_knows_hubgates_own_clients_alone() {
    let (hub, gate) = world().await;
    let nobody = gate.get("/api/whoami-v2").await;
    assert_eq!((nobody.status.as_u16(), nobody.header("x-error-message")), (401, "Invalid username or password."));
    assert!(nobody.header("www-authenticate").starts_with("Bearer"));
    let stranger = gate.get_with("/api/whoami-v2", &[("authorization", "Bearer hf_somebodys")]).await;
    assert_eq!(stranger.status, 401);
    assert!(stranger.json()["error"].as_str().unwrap().contains("hubgate"));
    assert_eq!(hub.counters().requests, 0, "a client's token goes nowhere");
}

/// Traps 44, 45: git is not served, and says so; no pack and no LFS link leads past the gateway.
#[tokio::test]
async fn git_and_lfs_are_a_clear_404() {
    let (_hub, gate) = world().await;
    for (method, url) in [
        ("GET", "/acme/tiny/info/refs?service=git-upload-pack"),
        ("GET", "/acme/tiny.git/info/refs?service=git-upload-pack"),
        ("POST", "/acme/tiny/git-upload-pack"),
        ("POST", "/acme/tiny.git/info/lfs/objects/batch"),
        ("GET", "/datasets/acme/table.git/info/refs?service=git-upload-pack"),
    ] {
        let answer = gate.ask(method, url, &[("user-agent", "git/2.47.3")]).await;
        assert_eq!(answer.status, 404, "{method} {url}");
        assert!(answer.text().contains("does not serve git"), "{method} {url}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate"), "");
    }
}

/// Never 400: the Hub's own 404, as JSON below `/api/`.
#[tokio::test]
async fn what_means_nothing_is_the_hubs_404() {
    let (hub, gate) = world().await;
    for url in ["/api/nothing", "/api/models/acme/tiny/nothing/at/all", "/api/kernels/acme/x", "/api/trending"] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 404, "{url}");
        assert_eq!(answer.json()["error"], "Sorry, we can't find the page you are looking for.", "{url}");
    }
    for url in [
        "/",
        "/acme",
        "/acme/tiny",
        "/acme/tiny/blob/main/config.json",
        "/favicon.ico",
        "/buckets/a/b/resolve/c",
        "/kernels/a/b/resolve/main/c",
        "/v2/acme/tiny/manifests/latest",
    ] {
        let answer = gate.get(url).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, ""), "{url}: {}", answer.text());
    }
    assert_eq!(hub.counters().requests, 0);
}

/// A repo that the origin has taken down, of which nothing is stored.
#[tokio::test]
async fn a_repo_that_is_gone_upstream_is_said_to_be_gone() {
    for (code, status, error_code) in [(401, 404, "RepoNotFound"), (404, 404, "RepoNotFound"), (451, 403, "GatedRepo")]
    {
        let (hub, gate) = world().await;
        hub.fault(Fault::new(FaultKind::RepoGone { code }));
        let answer = gate.get("/acme/tiny/resolve/main/config.json").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-error-code")),
            (status, error_code),
            "{code}: {}",
            answer.text()
        );
    }
}

/// Of a repo that the origin has taken down, what is stored is served: files, and all that leads clients to them.
#[tokio::test]
async fn what_is_stored_of_a_repo_that_is_gone_is_served() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    let (url, commit) = ("/acme/tiny/resolve/main/model.safetensors", hub.commit("acme/tiny", "main"));
    let whole = gate.get(url).await.body;
    hub.fault(Fault::new(FaultKind::RepoGone { code: 404 }));
    assert_eq!(gate.get(url).await.body, whole);
    for url in ["/api/models/acme/tiny", "/api/models/acme/tiny/tree/main", "/api/models/acme/tiny/auth-check"] {
        assert_eq!(gate.get(url).await.status, 200, "{url}");
    }
    let refs = gate.get("/api/models/acme/tiny/refs").await.json();
    assert_eq!(
        (&refs["branches"][0]["name"], &refs["branches"][0]["targetCommit"]),
        (&"main".into(), &commit.as_str().into())
    );
    assert_eq!(gate.get("/api/models/acme/tiny/commits/main").await.json()[0]["id"], commit);
}
