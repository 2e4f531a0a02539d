//! Errors over real sockets: PROTOCOL section 5, DESIGN sections 2 (I8, I10) and 6.

use http::Method;
use hub_standin::{Fault, FaultKind, NewCommit, RepoBuilder, Standin};

use crate::support::asking::{Asking, Reply};

const PYTHON: &str = "unknown/None; hf_hub/2.4.0; python/3.11.2";
const COMMAND_LINE: &str = "huggingface-cli/None; hf_hub/2.4.0; python/3.11.2";

fn face(reply: &Reply) -> (u16, &str, &str) {
    (reply.status, reply.header("x-error-code"), reply.header("x-error-message"))
}

#[tokio::test]
async fn a_refusal_explains_itself_on_every_route_in_the_form_that_the_client_shows() {
    let gateway = Asking::start().await;
    for path in [
        "/other/model/resolve/main/config.json",
        "/api/models/other/model",
        "/api/models/other/model/tree/main",
        "/api/models/other/model/refs",
        "/api/models/other/model/auth-check",
        "/other/model/raw/main/README.md",
    ] {
        for (agent, code) in [(PYTHON, "GatedRepo"), (COMMAND_LINE, "")] {
            let reply = gateway.get_with(path, &[("user-agent", agent)]).await;
            assert_eq!((reply.status, reply.header("x-error-code")), (403, code), "{path} for {agent}");
            let message = reply.header("x-error-message");
            assert!(message.contains("no allow rule") && message.contains("ask@example.com"), "{message}");
            assert_eq!(reply.header("x-hf-warning"), format!("policy; {message}"));
            assert_eq!(reply.json()["error"], message);
            assert!(!reply.headers.contains_key("x-repo-commit"));
        }
        let head = gateway.ask(Method::HEAD, path, &[("user-agent", PYTHON)], "").await;
        assert_eq!((head.status, head.header("x-error-code")), (403, "GatedRepo"), "{path}");
    }
    let by_rule = gateway.get("/acme/nested/resolve/main/config.json").await;
    assert!(by_rule.header("x-error-message").contains("Content policy 4.2"));
    assert_eq!(gateway.hub.requests("*").len(), 0, "nothing is asked of a repo that no rule allows");
}

#[tokio::test]
async fn one_form_of_refusal_can_be_fixed() {
    for (form, code) in [("gated", "GatedRepo"), ("plain", "")] {
        let gateway = Asking::with(&format!("policy.refusal = '{form}'")).await;
        for agent in [PYTHON, COMMAND_LINE] {
            let reply = gateway.get_with("/other/x/resolve/main/a", &[("user-agent", agent)]).await;
            assert_eq!((reply.status, reply.header("x-error-code")), (403, code), "{form}");
        }
    }
}

#[tokio::test]
async fn what_the_hub_does_not_have_is_said_as_the_hub_says_it() {
    let gateway = Asking::start().await;
    let commit = gateway.commit("acme/tiny");
    let entry = gateway.head("/acme/tiny/resolve/main/nope.json").await;
    assert_eq!(face(&entry), (404, "EntryNotFound", "Entry not found"));
    // Clients remember it by this, and so ask once.
    assert_eq!(entry.header("x-repo-commit"), commit);
    assert_eq!(entry.header("content-length"), "15");
    let folder = gateway.get("/acme/tiny/resolve/main/sub").await;
    assert_eq!(face(&folder).1, "EntryNotFound");
    let revision = gateway.get("/api/models/acme/tiny/revision/nope").await;
    assert_eq!(face(&revision), (404, "RevisionNotFound", "Invalid rev id: nope"));
    let repo = gateway.get("/api/models/acme/unknown").await;
    assert_eq!(face(&repo), (404, "RepoNotFound", "Repository not found"));
    assert_eq!(repo.json()["error"], "Repository not found");
}

#[tokio::test]
async fn malformed_parts_are_not_found_never_400_and_never_a_way_out() {
    let gateway = Asking::start().await;
    for (path, code) in [
        ("/acme/tiny/resolve/main/../../etc/passwd", "EntryNotFound"),
        ("/acme/tiny/resolve/main/%2e%2e/%2e%2e/etc/passwd", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a%00b", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a%5Cb", "EntryNotFound"),
        ("/acme/tiny/resolve/main/%ff%fe", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a//b", "EntryNotFound"),
        ("/acme/tiny/resolve/a..b/config.json", "RevisionNotFound"),
        ("/ac--me/tiny/resolve/main/config.json", "RepoNotFound"),
    ] {
        let reply = gateway.get(path).await;
        assert_eq!((reply.status, reply.header("x-error-code")), (404, code), "{path}");
    }
    let long = gateway.get(&format!("/acme/tiny/resolve/main/{}", "x".repeat(2000))).await;
    assert_eq!((long.status, long.header("x-error-code")), (404, "EntryNotFound"));
    let refused = gateway.get("/other/model/resolve/main/%2e%2e/x").await;
    assert_eq!(refused.status, 403, "policy is asked before anything else is said of the repo");
}

#[tokio::test]
async fn a_hidden_file_is_not_found_without_a_commit_and_says_why() {
    let commit = NewCommit::new("Both")
        .file("README.md", "---\nlicense: mit\n---\n")
        .lfs("model.safetensors", "weights")
        .lfs("model.pkl", "pickle");
    let hub = Standin::builder().repo(RepoBuilder::model("acme/both").commit(commit)).start().await;
    let gateway = Asking::over(hub, "").await;
    let hidden = gateway.head("/acme/both/resolve/main/model.pkl").await;
    assert_eq!((hidden.status, hidden.header("x-error-code")), (404, "EntryNotFound"));
    assert!(hidden.header("x-error-message").contains("*.pkl"), "{}", hidden.header("x-error-message"));
    // With it, Python would remember for ever that there is no such file.
    assert!(!hidden.headers.contains_key("x-repo-commit"));
    let info = gateway.get("/api/models/acme/both").await;
    assert!(!info.text().contains("model.pkl"));
    assert!(info.header("x-hf-warning").starts_with("policy; ") && info.header("x-hf-warning").contains("model.pkl"));
}

#[tokio::test]
async fn an_origin_in_trouble_is_503_and_never_a_404_and_never_named() {
    let gateway = Asking::start().await;
    gateway.hub.fault(Fault::new(FaultKind::Status { code: 500, body: String::new(), headers: Vec::new() }));
    for path in ["/acme/tiny/resolve/main/config.json", "/api/models/acme/tiny"] {
        let reply = gateway.get(path).await;
        assert_eq!(reply.status, 503, "{path}: {}", reply.header("x-error-message"));
        assert!(!reply.header("retry-after").is_empty(), "{path}");
        assert_eq!(reply.header("x-error-code"), "");
        let address = gateway.hub.hub_address();
        let said = format!("{:?} {}", reply.headers, reply.text());
        assert!(!said.contains(&address.to_string()) && !said.contains(&address.port().to_string()), "{said}");
    }
    gateway.hub.stop().await;
    let away = gateway.get("/acme/columns/resolve/main/config.json").await;
    assert_eq!(away.status, 503, "{}", away.header("x-error-message"));
}

#[tokio::test]
async fn a_refused_token_of_ours_is_named_and_is_no_404() {
    let gateway = Asking::start().await;
    gateway.hub.set_token("hf_another");
    let reply = gateway.get("/api/models/acme/tiny").await;
    assert_eq!(reply.status, 502);
    assert!(reply.header("x-error-message").contains("upstream.token"), "{}", reply.header("x-error-message"));
}

#[tokio::test]
async fn without_anonymous_only_known_clients_are_served() {
    let token_sha256 = hubgate::hub::Sha256::of(b"hg_secret");
    let auth = format!("auth.anonymous = false\nauth.clients = [{{ name = 'ci', token_sha256 = '{token_sha256}' }}]");
    let gateway = Asking::with(&auth).await;
    let path = "/api/models/acme/tiny";
    for headers in [&[][..], &[("authorization", "Bearer hf_container")]] {
        let refused = gateway.get_with(path, headers).await;
        assert_eq!(refused.status, 401);
        assert!(refused.header("www-authenticate").starts_with("Bearer "));
        assert!(refused.header("x-error-message").contains("HF_TOKEN"));
    }
    assert_eq!(gateway.get_with(path, &[("authorization", "Bearer hg_secret")]).await.status, 200);
    assert_eq!(gateway.get("/-/livez").await.status, 200, "probes carry no token");
    let sent: Vec<String> =
        gateway.hub.requests("*").iter().filter_map(|asked| asked.header("authorization").map(str::to_owned)).collect();
    assert!(sent.iter().all(|token| !token.contains("hg_secret")), "a client's token never goes upstream");
}
