//! The API over real sockets: PROTOCOL section 4.

use http::Method;
use serde_json::{Value, json};

use crate::support::asking::Asking;

const TINY: &str = "acme/tiny";

fn xet_free(value: &Value) -> bool {
    !value.to_string().to_ascii_lowercase().contains("xet")
}

#[tokio::test]
async fn info_names_commit_and_files_and_nothing_of_xet_or_the_origin() {
    let gateway = Asking::start().await;
    let commit = gateway.commit(TINY);
    for path in ["/api/models/acme/tiny", "/api/models/acme/tiny/revision/main?blobs=true&securityStatus=true"] {
        let reply = gateway.get(path).await;
        assert_eq!((reply.status, reply.header("x-repo-commit")), (200, &*commit), "{path}");
        let info = reply.json();
        assert_eq!((&info["id"], &info["sha"]), (&json!(TINY), &json!(commit)));
        assert!(xet_free(&info), "{info}");
        assert!(!reply.text().contains(&gateway.hub.hub_address().to_string()));
        let siblings = info["siblings"].as_array().unwrap();
        let weights = siblings.iter().find(|file| file["rfilename"] == "model.safetensors").unwrap();
        let sha256 = gateway.hub.sha256(TINY, "main", "model.safetensors");
        if path.contains("blobs") {
            assert_eq!(weights["lfs"]["sha256"], sha256);
            assert!(weights["lfs"]["pointerSize"].is_u64() && weights["blobId"].is_string());
        } else {
            assert_eq!(weights.as_object().unwrap().len(), 1);
        }
    }
    let expanded = gateway.get("/api/models/acme/tiny/revision/main?expand=gated&expand=bogus").await.json();
    assert_eq!(expanded["gated"], false);
    assert!(expanded.get("siblings").is_none() && expanded.get("bogus").is_none());
}

#[tokio::test]
async fn a_tree_in_pages_is_the_whole_tree_and_its_links_lead_back_to_us() {
    let gateway = Asking::start().await;
    let whole = gateway.get("/api/models/acme/tiny/tree/main?recursive=True").await;
    assert!(!whole.headers.contains_key("link"), "one page where nobody asks for less");
    let whole = whole.json();
    assert!(xet_free(&whole));

    let mut pages = Vec::new();
    let mut next = "/api/models/acme/tiny/tree/main?recursive=true&limit=3".to_owned();
    loop {
        let page = gateway.get(&next).await;
        assert_eq!(page.status, 200);
        pages.extend(page.json().as_array().unwrap().clone());
        assert!(pages.len() < 100);
        let Some(link) = page.headers.get("link") else { break };
        let link = link.to_str().unwrap();
        let url = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        // Absolute, or JavaScript and Rust stop after the first page without a word.
        next = url.strip_prefix(&gateway.gate.url).unwrap().to_owned();
        // Of one commit, wherever the branch goes meanwhile.
        assert!(next.contains(&gateway.commit(TINY)), "{next}");
    }
    assert_eq!(Value::from(pages), whole);
}

#[tokio::test]
async fn links_follow_public_url_or_the_proxies_that_are_trusted() {
    let path = "/api/models/acme/tiny/tree/main?limit=1";
    let forwarded = [("x-forwarded-proto", "https"), ("x-forwarded-host", "hub.example.com")];
    let link_of = async |config: &str, path: &str| {
        Asking::with(config).await.get_with(path, &forwarded).await.header("link").to_owned()
    };
    let trusted = link_of("server.trusted_proxies = ['127.0.0.1']", path).await;
    assert!(trusted.starts_with("<https://hub.example.com/api/models/acme/tiny/tree/"), "{trusted}");
    let stranger = link_of("", path).await;
    assert!(stranger.starts_with("<http://127.0.0.1:"), "{stranger}");
    let public = link_of("server.public_url = 'https://h.example/hf'", &format!("/hf{path}")).await;
    assert!(public.starts_with("<https://h.example/hf/api/models/acme/tiny/tree/"), "{public}");
}

#[tokio::test]
async fn folders_are_asked_in_both_spellings_and_a_missing_one_is_entry_not_found() {
    let gateway = Asking::start().await;
    for path in ["sub%2Fdir", "sub/dir"] {
        let listed = gateway.get(&format!("/api/models/acme/tiny/tree/main/{path}?expand=true")).await.json();
        let names: Vec<&str> = listed.as_array().unwrap().iter().map(|node| node["path"].as_str().unwrap()).collect();
        assert_eq!(names, ["sub/dir/notes.txt", "sub/dir/weights.bin"], "{path}");
    }
    let missing = gateway.get("/api/models/acme/tiny/tree/main/additional_chat_templates").await;
    assert_eq!((missing.status, missing.header("x-error-code")), (404, "EntryNotFound"));
    assert_eq!(missing.json(), json!({"error": "Entry not found"}));
    let past_the_end = gateway.get("/api/models/acme/tiny/tree/main?cursor=zzzz").await;
    assert_eq!((past_the_end.status, past_the_end.text()), (200, "[]"));
}

#[tokio::test]
async fn paths_info_answers_forms_and_json_and_leaves_out_what_is_not_there() {
    let gateway = Asking::start().await;
    let path = "/api/models/acme/tiny/paths-info/main";
    let form = ("content-type", "application/x-www-form-urlencoded");
    let json_type = ("content-type", "application/json");
    for (kind, body) in [
        (form, "paths=config.json&paths=sub&paths=nope&paths=..%2Fx&expand=False"),
        (json_type, r#"{"paths": ["config.json", "sub", "nope", "../x"], "expand": true}"#),
    ] {
        let reply = gateway.ask(Method::POST, path, &[kind], body).await;
        assert_eq!(reply.status, 200);
        let found = reply.json();
        let names: Vec<&str> = found.as_array().unwrap().iter().map(|node| node["path"].as_str().unwrap()).collect();
        assert_eq!(names, ["config.json", "sub"], "{body}");
    }
    let broken = gateway.ask(Method::POST, path, &[json_type], "{\"paths\": 7}").await;
    assert_eq!(broken.status, 400);
    assert!(broken.json()["error"].as_str().unwrap().contains("paths-info takes"));
    let huge = gateway.ask(Method::POST, path, &[form], &"paths=a&".repeat(300_000)).await;
    assert_eq!(huge.status, 413);
}

#[tokio::test]
async fn refs_and_history_have_the_shapes_that_clients_require() {
    let gateway = Asking::start().await;
    let refs = gateway.get("/api/models/acme/tiny/refs").await.json();
    assert!(refs["converts"].is_array() && refs["tags"].is_array() && refs.get("pullRequests").is_none());
    let main = refs["branches"].as_array().unwrap().iter().find(|branch| branch["name"] == "main").unwrap();
    assert_eq!((&main["ref"], &main["targetCommit"]), (&json!("refs/heads/main"), &json!(gateway.commit(TINY))));
    assert!(gateway.get("/api/models/acme/tiny/refs?include_prs=1").await.json()["pullRequests"].is_array());

    let history = gateway.get("/api/models/acme/tiny/commits/main?limit=1").await;
    assert_eq!(history.header("x-total-count"), "3");
    assert_eq!(history.json().as_array().unwrap().len(), 1);
    assert_eq!(history.json()[0]["id"], gateway.commit(TINY));
    assert!(history.header("link").contains("/commits/"), "{}", history.header("link"));
    let all = gateway.get("/api/models/acme/tiny/commits/main").await;
    assert_eq!((all.json().as_array().unwrap().len(), all.headers.contains_key("link")), (3, false));
}

#[tokio::test]
async fn a_list_has_the_repos_that_are_stored() {
    let gateway = Asking::start().await;
    assert_eq!(gateway.get("/api/models?search=tiny").await.json(), json!([]));
    gateway.get("/api/models/acme/tiny").await;
    let listed = gateway.get("/api/models?search=tiny&limit=5").await.json();
    assert_eq!(listed[0]["id"], TINY);
    assert_eq!(gateway.get("/api/datasets").await.json(), json!([]));
}

#[tokio::test]
async fn a_known_client_is_told_its_name_and_no_hub_token_is_judged() {
    let token_sha256 = hubgate::hub::Sha256::of(b"hg_secret");
    let gateway = Asking::with(&format!("auth.clients = [{{ name = 'ci', token_sha256 = '{token_sha256}' }}]")).await;
    let known = gateway.get_with("/api/whoami-v2", &[("authorization", "Bearer hg_secret")]).await;
    assert_eq!((known.status, known.json()["name"].as_str()), (200, Some("ci")));
    let hubs = gateway.get_with("/api/whoami-v2", &[("authorization", "Bearer hf_container")]).await;
    assert_eq!(hubs.status, 401);
    assert!(hubs.header("x-error-message").contains("no login is needed"), "{}", hubs.header("x-error-message"));
    let nobody = gateway.get("/api/whoami-v2").await;
    assert_eq!((nobody.status, nobody.header("x-error-message")), (401, "Invalid username or password."));
    assert!(nobody.header("www-authenticate").starts_with("Bearer "));
    assert_eq!(gateway.get("/api/models/acme/tiny/auth-check").await.status, 200);
}

#[tokio::test]
async fn what_is_not_here_is_a_fast_and_plain_no() {
    let gateway = Asking::start().await;
    for path in
        ["/api/agent-harnesses", "/api/telemetry/x", "/api/models/acme/tiny/scan", "/v2/acme/tiny/manifests/latest"]
    {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
    let xet = gateway.get("/api/models/acme/tiny/xet-read-token/main").await;
    assert_eq!(xet.status, 404);
    assert!(xet.header("x-error-message").contains("HF_HUB_DISABLE_XET=1"));
    assert!(!xet.headers.contains_key("x-xet-cas-url"));
    let git = gateway.get("/acme/tiny.git/info/refs?service=git-upload-pack").await;
    assert_eq!(git.status, 404);
    assert!(git.header("x-error-message").contains("git"));
    let server = gateway.get_with("/info?dataset=acme/table", &[("host", "datasets-server.hub.example.com")]).await;
    assert_eq!(server.status, 404);
    for (method, path) in [
        (Method::POST, "/api/models/acme/tiny/commit/main"),
        (Method::POST, "/api/repos/create"),
        (Method::DELETE, "/api/repos/delete"),
        (Method::PUT, "/api/models/acme/tiny/settings"),
    ] {
        let refused = gateway.ask(method, path, &[], "{}").await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.header("x-error-message").contains("read-only"));
    }
    assert_eq!(gateway.hub.requests("*").len(), 0, "nothing of this asks the origin");
}
