//! Policy's noes as clients meet them: the same reason on every path of a repo, in the form that the client shows.

use hub_standin::{NewCommit, RepoBuilder, Standin};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{world, world_under, world_with};
use crate::support::gateway::{POLICY, TestGateway};

/// All routes of a repo's files and facts. Git and Xet are refused to everybody alike: `errors`, `listings`.
fn routes(kind_path: &str, api: &str) -> Vec<(&'static str, String)> {
    vec![
        ("HEAD", format!("/{kind_path}/resolve/main/config.json")),
        ("GET", format!("/{kind_path}/resolve/main/config.json")),
        ("GET", format!("/{kind_path}/resolve/main/nowhere.txt")),
        ("GET", format!("/{kind_path}/resolve/main/../../x")),
        ("GET", format!("/{kind_path}/resolve/a..b/x")),
        ("GET", format!("/{kind_path}/raw/main/config.json")),
        ("GET", format!("/api/{api}")),
        ("GET", format!("/api/{api}/revision/main?expand=gated")),
        ("GET", format!("/api/{api}/tree/main?recursive=true")),
        ("POST", format!("/api/{api}/paths-info/main")),
        ("GET", format!("/api/{api}/refs")),
        ("GET", format!("/api/{api}/commits/main")),
        ("GET", format!("/api/{api}/auth-check")),
    ]
}

async fn each_is_refused(gate: &TestGateway, repo: &str, reason: &str) {
    for (method, url) in routes(repo, &format!("models/{repo}")) {
        let answer = gate
            .ask(method, &url, &[("content-type", "application/json"), ("user-agent", "unknown/None; hf_hub/2.4.0")])
            .await;
        assert_eq!(answer.status, 403, "{method} {url}: {}", answer.text());
        let message = answer.header("x-error-message");
        assert!(
            message.starts_with("Blocked by hubgate policy") && message.contains(reason),
            "{method} {url}: {message}"
        );
        assert!(message.ends_with("Contact: ask@example.com"), "{message}");
        assert!(message.is_ascii() && message.len() <= 1000);
        assert_eq!(answer.header("x-error-code"), "GatedRepo", "{method} {url}");
        assert_eq!(answer.header("x-hf-warning"), format!("policy; {message}"));
        assert_eq!(answer.header("x-repo-commit"), "");
        if method != "HEAD" {
            assert_eq!(answer.json()["error"], message, "{method} {url}");
        }
    }
}

/// Traps 18, 47: 403 with a reason on every path, before anything else is said of the repo; nothing goes upstream.
#[tokio::test]
async fn a_repo_that_no_rule_names_is_refused_everywhere_and_nothing_is_asked_of_it() {
    let (hub, gate) = world().await;
    each_is_refused(&gate, "other/model", "no allow rule names the model other/model").await;
    each_is_refused(&gate, "acme/evil-model", "Content policy 4.2").await;
    let denied = gate.get("/acme/evil-model/resolve/main/config.json").await;
    assert_eq!(denied.json()["rule"], "no-evil");
    assert_eq!(hub.counters().requests, 0);
}

#[tokio::test]
async fn licences_are_allowed_by_name_alone() {
    let (hub, gate) = world().await;
    for (repo, reason) in [
        ("acme/noncommercial", "cc-by-nc-4.0"),
        ("acme/no-license", "licen"),
        ("acme/no-readme", "licen"),
        ("acme/other-license", "acme-research-1.0"),
        ("acme/disagree", "mit"),
    ] {
        each_is_refused(&gate, repo, reason).await;
    }
    let disagree = gate.get("/api/models/acme/disagree").await;
    assert!(disagree.header("x-error-message").contains("apache-2.0"), "both are named: {}", disagree.text());
    assert_eq!(gate.get("/acme/list-license/resolve/main/config.json").await.status, 200);
    assert_eq!(hub.counters().matching("* *config.json"), hub.counters().matching("* *acme/list-license*config.json"));
}

#[tokio::test]
async fn a_rule_can_accept_a_licence_for_its_repo_alone() {
    let accept = "\n[[allow]]\nname = \"research\"\nrepo = \"acme/other-license\"\nlicense.accept = [\"other:acme-research-1.0\"]\n";
    let (_hub, gate) = world_under(&format!("{POLICY}{accept}")).await;
    assert_eq!(gate.get("/acme/other-license/resolve/main/config.json").await.status, 200);
    assert_eq!(gate.get("/acme/noncommercial/resolve/main/config.json").await.status, 403);
}

/// Gated, private and closed repos: the rule must say so, though hubgate's own account has access.
#[tokio::test]
async fn gated_private_and_disabled_repos_are_refused_by_reason() {
    let hub = Standin::builder().fixtures().start().await;
    let token = format!("upstream.token = {:?}", hub.token());
    let gate = crate::support::gateway::Setup::new().config(&token).start(&hub).await;
    each_is_refused(&gate, "acme/gated", "gated").await;
    each_is_refused(&gate, "acme/private", "private").await;
    let disabled = gate.get("/acme/disabled/resolve/main/config.json").await;
    assert_eq!(disabled.status, 403);
    assert!(disabled.header("x-error-message").contains("disabled"), "{:?}", disabled.headers);

    gate.set_policy(&POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\ngated = true", 1)).unwrap();
    for repo in ["acme/gated", "acme/private"] {
        let answer = gate.get(&format!("/{repo}/resolve/main/model.safetensors")).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &hub.bytes(repo, "main", "model.safetensors")[..]),
            "{repo}"
        );
    }
}

/// Hidden: 404 without the commit, or Python remembers "no such file" for ever; the reason beside it.
#[tokio::test]
async fn hidden_files_are_not_there_and_say_why() {
    let repo = RepoBuilder::model("acme/mixed").commit(
        NewCommit::new("one")
            .file("README.md", "---\nlicense: mit\n---\n")
            .file("code.py", "print()\n")
            .lfs("model.safetensors", "abc")
            .lfs("old.pkl", "xyz"),
    );
    let hub = Standin::builder().repo(repo).start().await;
    let gate = TestGateway::before(&hub).await;
    let commit = hub.commit("acme/mixed", "main");
    for file in ["code.py", "old.pkl"] {
        for url in [
            format!("/acme/mixed/resolve/main/{file}"),
            format!("/acme/mixed/resolve/{commit}/{file}"),
            format!("/acme/mixed/raw/main/{file}"),
        ] {
            for method in ["HEAD", "GET"] {
                let answer = gate.ask(method, &url, &[]).await;
                assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, "EntryNotFound"), "{url}");
                assert_eq!(answer.header("x-repo-commit"), "", "{url}");
                assert!(answer.header("x-error-message").contains("withheld"), "{url}: {:?}", answer.headers);
            }
        }
    }
    let shown = |text: &str| !text.contains("code.py") && !text.contains("old.pkl");
    for url in [
        "/api/models/acme/mixed",
        "/api/models/acme/mixed?blobs=true",
        "/api/models/acme/mixed/tree/main?recursive=true",
    ] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 200);
        assert!(shown(&answer.text()), "{url}: {}", answer.text());
        assert!(
            answer.header("x-hf-warning").starts_with("policy; 2 files are withheld"),
            "{url}: {:?}",
            answer.headers
        );
    }
    let paths = gate
        .post(
            "/api/models/acme/mixed/paths-info/main",
            "application/json",
            r#"{"paths":["code.py","model.safetensors"]}"#,
        )
        .await;
    assert!(shown(&paths.text()) && paths.text().contains("model.safetensors"));
    assert_eq!(gate.get("/acme/mixed/resolve/main/model.safetensors").await.text(), "abc");
    assert_eq!(hub.counters().file_bytes("*.pkl") + hub.counters().file_bytes("*.py"), 0);
}

/// Without its weights a model is a riddle: it is refused, with the reason.
#[tokio::test]
async fn a_model_whose_weights_are_all_hidden_is_refused() {
    let policy = POLICY.replace("[\"*.pkl\", \"*.py\"]", "[\"*.pkl\", \"*.py\", \"*.bin\"]");
    let (_hub, gate) = world_under(&policy).await;
    for url in [
        "/acme/only-pickles/resolve/main/config.json",
        "/api/models/acme/only-pickles",
        "/api/models/acme/only-pickles/tree/main",
    ] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 403, "{url}: {}", answer.text());
        assert!(answer.header("x-error-message").contains("weights is withheld"), "{url}: {:?}", answer.headers);
    }
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200);
}

#[tokio::test]
async fn files_above_the_rules_size_are_refused_and_others_served() {
    let (_hub, gate) =
        world_under(&POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\nmax_file_size = \"1 MB\"", 1)).await;
    let large = gate.get("/acme/tiny/resolve/main/sub/dir/weights.bin").await;
    assert_eq!(large.status, 403);
    assert!(large.header("x-error-message").contains("max_file_size"), "{:?}", large.headers);
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200);
}

/// Trap 18: no one form shows the reason in every client, so it is chosen by the User-Agent, or fixed.
#[tokio::test]
async fn the_form_of_a_refusal_is_the_one_that_the_client_shows() {
    let url = "/other/model/resolve/main/config.json";
    let code = async |gate: &TestGateway, agent: &str| {
        gate.ask("HEAD", url, &[("user-agent", agent)]).await.header("x-error-code").to_owned()
    };
    let (library, tool) = (
        "unknown/None; hf_hub/2.4.0; python/3.11.2; transformers/5.23.0",
        "huggingface-cli/None; hf_hub/2.4.0; python/3.11.2",
    );
    let (_hub, auto) = world().await;
    assert_eq!((code(&auto, library).await.as_str(), code(&auto, tool).await.as_str()), ("GatedRepo", ""));
    let (_hub, plain) = world_with("policy.refusal = \"plain\"").await;
    assert_eq!((code(&plain, library).await.as_str(), code(&plain, tool).await.as_str()), ("", ""));
    let (_hub, gated) = world_with("policy.refusal = \"gated\"").await;
    assert_eq!((code(&gated, library).await.as_str(), code(&gated, tool).await.as_str()), ("GatedRepo", "GatedRepo"));
}

/// Writing is refused before anything is read of the body, and nothing is asked upstream.
#[tokio::test]
async fn write_routes_are_read_only() {
    let (hub, gate) = world().await;
    for (method, url) in [
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/api/repos/move"),
        ("POST", "/api/models/acme/tiny/commit/main"),
        ("POST", "/api/models/acme/tiny/preupload/main"),
        ("PUT", "/api/models/acme/tiny/settings"),
        ("POST", "/api/models/acme/tiny/branch/x"),
        ("DELETE", "/api/models/acme/tiny/tag/v1.0"),
        ("POST", "/api/models/acme/tiny/discussions"),
        ("POST", "/acme/tiny.git/git-receive-pack"),
        ("GET", "/acme/tiny/info/refs?service=git-receive-pack"),
        ("PUT", "/acme/tiny/resolve/main/config.json"),
        ("DELETE", "/acme/tiny/resolve/main/config.json"),
        ("GET", "/api/models/acme/tiny/xet-write-token/main"),
    ] {
        let answer = gate.ask(method, url, &[]).await;
        assert_eq!(answer.status, 403, "{method} {url}: {}", answer.text());
        assert!(answer.header("x-error-message").contains("read-only"), "{method} {url}: {:?}", answer.headers);
    }
    assert_eq!(hub.counters().requests, 0);

    // Nor is a file that was read a moment ago.
    let url = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "main"));
    for (method, status) in [("GET", 200), ("PUT", 403), ("HEAD", 200), ("DELETE", 403), ("GET", 200)] {
        assert_eq!(gate.ask(method, &url, &[]).await.status, status, "{method}");
    }
}

/// Python's requests write the whole body before they look for an answer: the reason must still be there then.
#[tokio::test]
async fn an_upload_is_told_why_it_is_refused_however_large_it_is() {
    // More than the sockets between hold, so that it can't be written unless somebody reads it.
    const LARGE: usize = 32 << 20;
    let (_hub, gate) = world().await;
    for (url, status, reason) in [
        ("/api/models/acme/tiny/commit/main", 403, "read-only"),
        ("/api/models/acme/tiny/paths-info/main", 413, "the body is larger than"),
        ("/acme/tiny.git/git-upload-pack", 404, "does not serve git"),
        ("/-/admin/v1/requests", 401, "no_token"),
    ] {
        let mut socket = TcpStream::connect(gate.url.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "POST {url} HTTP/1.1\r\nhost: gate\r\ncontent-type: application/json\r\ncontent-length: {LARGE}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b' '; LARGE]).await.expect(url);
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect(url);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(reason), "{url}: {answer}");
        assert!(answer.contains("connection: close"), "{url}: {answer}");
    }
}
