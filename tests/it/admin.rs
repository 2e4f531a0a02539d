//! The admin API through the real gateway: tokens and scopes, and what each change leaves behind.

use http::Method;
use hub_standin::Standin;
use hubgate::{
    admin::{Actor, Admin, ApprovalsConfig, Proposal, Target},
    manifest::{Manifest, WriterId},
    policy::{EnvLists, LicenseId, PolicyHandle},
    store::ErrorKind,
};
use serde_json::{Value, json};

use crate::support::{
    asking::{Reply, ask},
    client::Client,
    faulty_store::{FaultyStore, Op},
    gateway::{POLICY, Setup, TestGateway, eventually},
    process::{self, Process},
};

/// The document that the API gives of itself.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// Admins of these names and scopes; the token of each is `hg_` and its name.
fn admins(who: &[(&str, &[&str])]) -> String {
    let admins = who.iter().map(|(name, scopes)| {
        let sha256 = hubgate::hub::Sha256::of(format!("hg_{name}").as_bytes());
        format!("{{ name = \"{name}\", token_sha256 = \"{sha256}\", scopes = {scopes:?} }}")
    });
    format!("auth.admins = [{}]", admins.collect::<Vec<_>>().join(", "))
}

/// One of each scope.
fn everybody() -> String {
    admins(&[
        ("rita", &["request"]),
        ("anna", &["approve"]),
        ("otto", &["operate"]),
        ("aude", &["audit"]),
        ("nobody", &[]),
    ])
}

/// One request of an admin's.
async fn by(client: &Client, name: &str, method: Method, path: &str, body: &Value) -> Reply {
    let token = format!("Bearer hg_{name}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask(client, method, &format!("/-/admin/v1{path}"), &[("authorization", &token)], &body).await
}

/// The error's code, after a look at its shape.
fn code(reply: &Reply) -> String {
    let body = reply.json();
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    body["error"]["code"].as_str().unwrap().to_owned()
}

async fn get(gate: &TestGateway, name: &str, path: &str) -> Value {
    let reply = by(&gate.client, name, Method::GET, path, &Value::Null).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.json());
    reply.json()
}

#[tokio::test]
async fn every_route_needs_a_token_and_one_of_its_scopes() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(gate.get("/-/admin/v1/openapi.json").await.text(), OPENAPI);
    let mut routes = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let scopes: Vec<&str> =
                operation["x-scopes"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
            if scopes.is_empty() {
                continue;
            }
            routes += 1;
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let path = path.replace("{id}", "20261124-0000000000");
            let said = |reply: &Reply| format!("{method} {path}: {}", reply.json());
            let without = ask(&gate.client, method.clone(), &format!("/-/admin/v1{path}"), &[], "").await;
            assert_eq!((without.status, code(&without).as_str()), (401, "no_token"), "{}", said(&without));
            let stranger = by(&gate.client, "stranger", method.clone(), &path, &Value::Null).await;
            assert_eq!((stranger.status, code(&stranger).as_str()), (401, "no_token"), "{}", said(&stranger));
            let scopeless = by(&gate.client, "nobody", method.clone(), &path, &Value::Null).await;
            assert_eq!((scopeless.status, code(&scopeless).as_str()), (403, "missing_scope"), "{}", said(&scopeless));
            for scope in &scopes {
                assert!(scopeless.text().contains(scope), "{}", said(&scopeless));
            }
            for (name, scope) in [("rita", "request"), ("anna", "approve"), ("otto", "operate"), ("aude", "audit")] {
                let reply = by(&gate.client, name, method.clone(), &path, &Value::Null).await;
                let may = reply.status != 401 && !(reply.status == 403 && code(&reply) == "missing_scope");
                assert_eq!(may, scopes.contains(&scope), "{name}: {}", said(&reply));
                let no_page = reply.status == 404 && code(&reply) == "no_such_page";
                assert!(reply.status != 405 && !no_page, "{name}: {}", said(&reply));
            }
        }
    }
    assert!(routes > 4);
    gate.stop().await;
}

#[tokio::test]
async fn unknown_pages_methods_and_questions_are_clear_errors_of_one_shape() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    let cases = [
        (Method::GET, "/nothing", 404, "no_such_page"),
        (Method::DELETE, "/policy", 405, "wrong_method"),
        (Method::GET, "/audit?limit=many", 400, "malformed"),
        (Method::GET, "/audit?sinse=2026-11-24", 400, "malformed"),
        (Method::GET, "/audit?since=yesterday", 400, "malformed"),
        (Method::GET, "/policy/explain", 400, "malformed"),
        (Method::GET, "/policy/explain?repo=a%20b", 422, "invalid"),
        (Method::GET, "/policy/explain?repo=acme/tiny&kind=thing", 400, "malformed"),
        (Method::GET, "/policy/explain?repo=acme/tiny&revision=a..b", 422, "invalid"),
    ];
    for (method, path, status, expected) in cases {
        let reply = by(&gate.client, "aude", method, path, &Value::Null).await;
        let said = reply.text();
        assert_eq!((reply.status, code(&reply).as_str()), (status, expected), "{path}: {said}");
    }
    gate.stop().await;
}

#[tokio::test]
async fn a_reload_is_in_the_audit_log_and_takes_effect() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    let before = get(&gate, "aude", "/policy").await;
    assert_eq!(before["rules"][0]["name"], "acme");
    assert!(before["text"].as_str().unwrap().contains("no-evil"));

    std::fs::write(gate.policy_file(), POLICY.replace("\"acme\"", "\"acme-two\"")).unwrap();
    let reply = by(&gate.client, "otto", Method::POST, "/policy/reload", &Value::Null).await;
    assert_eq!(reply.status, 200);
    assert_eq!(get(&gate, "aude", "/policy").await["rules"][0]["name"], "acme-two");
    let sha256 = gate.health().await["policy_sha256"].clone();
    assert_eq!(reply.json(), json!({ "changed": true, "sha256": sha256 }));

    std::fs::write(gate.policy_file(), "nonsense").unwrap();
    let refused = by(&gate.client, "otto", Method::POST, "/policy/reload", &Value::Null).await;
    assert_eq!((refused.status, code(&refused).as_str()), (409, "conflict"));
    assert!(refused.text().contains("policy.toml"), "{}", refused.text());

    let entries = get(&gate, "aude", "/audit?what=policy").await["entries"].clone();
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    let (newest, first) = (&entries[0], &entries[1]);
    assert_eq!((&first["who"], &first["what"], &first["seq"]), (&json!("otto"), &json!("policy.reload"), &json!(1)));
    assert_eq!((&first["from"], &newest["seq"]), (&json!("127.0.0.1"), &json!(2)));
    assert_eq!(first["request_id"], reply.header("x-request-id"));
    // Written once the answer is over, which its client may see first.
    let is_of_it = |line: &Value| line["request_id"] == first["request_id"];
    eventually("its line is written", async || gate.access_log().iter().any(is_of_it)).await;
    assert_eq!(gate.access_log().into_iter().find(is_of_it).unwrap()["client"], "otto");
    gate.stop().await;
}

#[tokio::test]
async fn a_policy_is_explained_as_on_the_command_line() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    let allowed = get(&gate, "rita", "/policy/explain?repo=acme/tiny").await;
    assert_eq!(allowed["verdict"], "allowed", "{allowed}");
    let denied = get(&gate, "rita", "/policy/explain?repo=org/other&kind=dataset&revision=v1").await;
    assert_eq!((&denied["verdict"], &denied["denial"]["kind"]), (&json!("refused"), &json!("no_rule")));
    gate.stop().await;
}

/// Two repos are refused here for want of a review: acme/tiny, which no rule names, and acme/noncommercial's licence.
const REVIEWED: &str = r#"
[licenses]
allow = ["mit"]
[[allow]]
name = "copy"
repo = "acme/copy"
license.accept = ["apache-2.0"]
[[allow]]
name = "noncommercial"
repo = "acme/non*"
[[deny]]
name = "no-evil"
repo = "acme/evil*"
reason = "Content policy 4.2"
"#;

async fn post(gate: &TestGateway, name: &str, path: &str, body: Value) -> Reply {
    by(&gate.client, name, Method::POST, path, &body).await
}

fn next_year() -> String {
    let year = time::OffsetDateTime::now_utc().year() + 1;
    format!("{year}-01-31")
}

fn approval(repo: &str) -> Value {
    json!({ "repo": repo, "licence": "apache-2.0", "reason": "reviewed", "expires": next_year(), "ticket": "SEC-7" })
}

#[tokio::test]
async fn a_refused_repo_waits_as_a_request_and_nothing_is_asked_upstream() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().policy(REVIEWED).config(&everybody()).start(&hub).await;
    for _ in 0..3 {
        assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 403);
    }
    assert_eq!(gate.get("/acme/evil/resolve/main/config.json").await.status, 403);
    assert_eq!(gate.get("/acme/%3Cscript%3E/resolve/main/config.json").await.status, 404);
    assert_eq!(gate.get("/api/models/acme/b%0Aad").await.status, 404);
    assert_eq!(hub.requests("*").len(), 0);

    let waiting = get(&gate, "aude", "/requests").await;
    let waiting = waiting["requests"].as_array().unwrap();
    assert_eq!(waiting.len(), 1, "denied and malformed names are no requests: {waiting:?}");
    let request = &waiting[0];
    assert_eq!(
        (&request["repo"], &request["kind"], &request["state"]),
        (&json!("acme/tiny"), &json!("model"), &json!("waiting"))
    );
    assert_eq!((&request["count"], &request["askers"]), (&json!(3), &json!({ "127.0.0.1": 3 })));
    assert_eq!(request["refused"], "no_rule");
    assert!(request["text"].as_str().unwrap().contains("no allow rule names"), "{request}");

    // A licence is refused once upstream was asked, as policy allows.
    assert_eq!(gate.get("/acme/noncommercial/resolve/main/config.json").await.status, 403);
    let again = get(&gate, "aude", "/requests").await;
    assert_eq!(again["requests"][0]["refused"], "license", "{again}");
    assert_eq!(again["requests"][0]["rule"], "noncommercial");
    gate.stop().await;
}

#[tokio::test]
async fn requests_outlive_the_process_that_noted_them_and_add_up() {
    let hub = Standin::builder().fixtures().start().await;
    let first = Setup::new().policy(REVIEWED).config(&everybody()).start(&hub).await;
    first.get("/acme/tiny/resolve/main/config.json").await;
    let root = first.stop().await;
    let second = Setup::new().policy(REVIEWED).config(&everybody()).on(&root).start(&hub).await;
    second.get("/Acme/Tiny/resolve/main/config.json").await;
    let asked = post(&second, "rita", "/requests", json!({ "repo": "acme/tiny", "reason": "for the demo" })).await;
    assert_eq!(asked.status, 201, "{}", asked.text());
    let requests = get(&second, "rita", "/requests").await["requests"].clone();
    assert_eq!(requests.as_array().unwrap().len(), 1, "{requests}");
    assert_eq!((&requests[0]["count"], &requests[0]["in_person"][0]["by"]), (&json!(2), &json!("rita")));
    let denied = post(&second, "rita", "/requests", json!({ "repo": "acme/evil", "reason": "x" })).await;
    assert_eq!((denied.status, code(&denied).as_str()), (409, "policy_denies"));
    second.stop().await;
}

#[tokio::test]
async fn inspect_asks_upstream_only_for_an_admin_and_is_written_down() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().policy(REVIEWED).config(&everybody()).start(&hub).await;
    let question = json!({ "repo": "acme/tiny", "reason": "asked for by the lab" });
    let refused = post(&gate, "rita", "/requests/inspect", question.clone()).await;
    assert_eq!((refused.status, hub.requests("*").len()), (403, 0));
    let answer = post(&gate, "anna", "/requests/inspect", question).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = answer.json();
    assert_eq!(found["commit"], hub.commit("acme/tiny", "main"));
    assert_eq!(found["licence"]["readme"], json!({ "stated": ["apache-2.0"] }), "{found}");
    assert!(found["files"].as_u64().unwrap() > 5 && found["bytes"].as_u64().unwrap() > 3_000_000, "{found}");
    assert_eq!(
        (&found["largest"][0][0], &found["code"]),
        (&json!("sub/dir/weights.bin"), &json!(["sub/dir/weights.bin"]))
    );
    let entry = get(&gate, "aude", "/audit?what=request.inspect").await["entries"][0].clone();
    assert_eq!(
        (&entry["who"], &entry["subject"], &entry["why"]),
        (&json!("anna"), &json!("acme/tiny"), &json!("asked for by the lab"))
    );
    let denied = post(&gate, "anna", "/requests/inspect", json!({ "repo": "acme/evil", "reason": "x" })).await;
    assert_eq!(denied.status, 403, "{}", denied.text());
    assert!(denied.text().contains("no-evil"), "{}", denied.text());
    gate.stop().await;
}

#[tokio::test]
async fn an_inspection_counts_as_its_askers_and_is_held_for_a_minute() {
    let hub = Standin::builder().fixtures().start().await;
    let limits = "limits.upstream_per_minute = 1\nlimits.burst = 3";
    let gate = Setup::new().policy(REVIEWED).config(limits).config(&everybody()).start(&hub).await;
    let question = |repo: &str| json!({ "repo": repo, "reason": "asked for by the lab" });
    let first = post(&gate, "anna", "/requests/inspect", question("acme/tiny")).await;
    assert_eq!(first.status, 200, "{}", first.text());
    hub.reset_counters();
    let held = post(&gate, "anna", "/requests/inspect", question("acme/tiny")).await;
    assert_eq!((held.status, held.json()), (200, first.json()));
    let spent = post(&gate, "anna", "/requests/inspect", question("acme/nested")).await;
    assert_eq!((spent.status, code(&spent).as_str()), (503, "failed"), "{}", spent.text());
    assert_eq!(hub.requests("*").len(), 0);
    gate.stop().await;
}

#[tokio::test]
async fn an_approval_lets_a_repo_in_on_every_gateway_and_is_proven_by_the_manifest() {
    let hub = Standin::builder().fixtures().start().await;
    let config = format!("approvals.enabled = true\n{}", everybody());
    let one = Setup::new().policy(REVIEWED).config(&config).start(&hub).await;
    let two = Setup::new().policy(REVIEWED).config(&config).on(&one.root).start(&hub).await;
    let path = "/acme/tiny/resolve/main/config.json";
    for gate in [&one, &two] {
        assert_eq!(gate.get(path).await.status, 403);
    }

    let approved = post(&one, "anna", "/approvals", approval("acme/tiny")).await;
    assert_eq!(approved.status, 201, "{}", approved.text());
    let approved = approved.json();
    assert_eq!(approved["in_force"], true);
    let rule = format!("approval:{}", approved["id"].as_str().unwrap());
    assert_eq!(one.get(path).await.status, 200, "at once where it was said");
    eventually("the other gateway has read it", async || two.get(path).await.status == 200).await;
    assert_eq!(one.health().await["policy_sha256"], two.health().await["policy_sha256"]);

    let explained = get(&two, "rita", "/policy/explain?repo=acme/tiny").await;
    assert_eq!((&explained["rule"]["name"], &explained["rule"]["approved_by"]), (&json!(rule), &json!("anna")));
    let record = get(&one, "aude", "/manifest?repo=acme/tiny").await["records"][0].clone();
    assert_eq!(
        (&record["rule"], &record["approved_by"], &record["ticket"]),
        (&json!(rule), &json!("anna"), &json!("SEC-7"))
    );
    let key = hubgate::store::Key::policy(&record["policy_sha256"].as_str().unwrap().parse().unwrap());
    let text = one.store.get(&key, 1 << 20).await.unwrap().unwrap();
    assert!(std::str::from_utf8(&text).unwrap().contains(&format!("name = \"{rule}\"")), "{text:?}");
    assert_eq!(get(&one, "aude", "/requests").await["requests"], json!([]), "answered");

    let id = approved["id"].as_str().unwrap();
    let revoked = post(&two, "anna", &format!("/approvals/{id}/revoke"), json!({ "reason": "mistake" })).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(two.get(path).await.status, 403, "hits too");
    eventually("the first gateway has read it", async || one.get(path).await.status == 403).await;
    let again = post(&two, "anna", &format!("/approvals/{id}/revoke"), json!({ "reason": "mistake" })).await;
    assert_eq!((again.status, code(&again).as_str()), (409, "conflict"));
    let whats: Vec<Value> = get(&one, "aude", "/audit?what=approval").await["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["what"].clone())
        .collect();
    assert_eq!(whats, ["approval.revoke", "approval.approve"]);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn approvals_that_cannot_be_meant_or_would_not_count_are_clear_errors() {
    let hub = Standin::builder().fixtures().start().await;
    let who = admins(&[("anna", &["approve"]), ("both", &["request", "approve"]), ("rita", &["request"])]);
    let gate = Setup::new().policy(REVIEWED).config("approvals.enabled = true").config(&who).start(&hub).await;
    let with = |repo: &str, key: &str, value: Value| {
        let mut body = approval(repo);
        body[key] = value;
        body
    };
    let cases = [
        (with("acme/evil", "kind", json!("model")), 409, "policy_denies", "no-evil"),
        (approval("acme/copy"), 409, "policy_denies", "policy.toml:"),
        (with("acme/tiny", "expires", json!("2020-01-01")), 422, "invalid", "2020-01-01 is over"),
        (with("acme/tiny", "expires", json!("soon")), 422, "invalid", "YYYY-MM-DD"),
        (with("acme/tiny", "kind", json!("thing")), 400, "malformed", "thing"),
        (with("acme/tiny", "colour", json!("red")), 400, "malformed", "colour"),
        (with("acme/tiny", "pin", json!("main")), 422, "invalid", "pin"),
        (with("acme/tiny", "reason", json!(" ")), 422, "invalid", "reason"),
        (with("acme/tiny", "reason", json!("a\nb")), 422, "invalid", "reason"),
        (with("acme/tiny", "licence", json!("other:")), 422, "invalid", "licence"),
        (with("a b", "kind", Value::Null), 422, "invalid", "repo"),
        (json!({ "repo": "acme/tiny" }), 400, "malformed", "licence"),
        (json!([]), 400, "malformed", "body"),
    ];
    for (body, status, expected, text) in cases {
        let reply = post(&gate, "anna", "/approvals", body.clone()).await;
        let said = reply.text();
        assert_eq!((reply.status, code(&reply).as_str()), (status, expected), "{body}: {said}");
        assert!(said.contains(text), "{body}: {said}");
    }
    let headers = [("authorization", "Bearer hg_anna")];
    let broken = ask(&gate.client, Method::POST, "/-/admin/v1/approvals", &headers, "{").await;
    assert_eq!((broken.status, code(&broken).as_str()), (400, "malformed"));
    let huge = ask(&gate.client, Method::POST, "/-/admin/v1/approvals", &headers, &"x".repeat(100_000)).await;
    assert_eq!((huge.status, code(&huge).as_str()), (413, "too_large"));

    let wish = json!({ "repo": "Acme/Tiny", "reason": "mine" });
    assert_eq!(post(&gate, "both", "/requests", wish).await.status, 201);
    let own = post(&gate, "both", "/approvals", approval("acme/tiny")).await;
    assert_eq!((own.status, code(&own).as_str()), (403, "same_person"));
    let other = post(&gate, "anna", "/approvals", approval("acme/tiny")).await;
    assert_eq!((other.status, &other.json()["requested_by"]), (201, &json!(["both"])));
    let no = post(&gate, "anna", "/rejections", json!({ "repo": "acme/tiny", "reason": "late" })).await;
    assert_eq!((no.status, code(&no).as_str()), (409, "conflict"));
    for id in ["20261124-0000000000", "..%2f..%2fblobs", "x"] {
        let reply = post(&gate, "anna", &format!("/approvals/{id}/revoke"), json!({ "reason": "x" })).await;
        assert_eq!((reply.status, code(&reply).as_str()), (404, "not_found"), "{id}");
    }
    gate.stop().await;
}

#[tokio::test]
async fn without_approvals_enabled_nothing_is_let_in_and_a_no_still_answers_a_request() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().policy(REVIEWED).config(&everybody()).start(&hub).await;
    let off = post(&gate, "anna", "/approvals", approval("acme/tiny")).await;
    assert_eq!((off.status, code(&off).as_str()), (409, "approvals_off"));
    assert!(off.text().contains("--as-patch"), "{}", off.text());
    assert_eq!(get(&gate, "anna", "/approvals").await["approvals"], json!([]));

    gate.get("/acme/tiny/resolve/main/config.json").await;
    let no = post(&gate, "anna", "/rejections", json!({ "repo": "acme/tiny", "reason": "use acme/copy" })).await;
    assert_eq!((no.status, &no.json()["answer"]), (201, &json!("rejected")));
    assert_eq!(get(&gate, "anna", "/requests").await["requests"], json!([]));
    assert_eq!(get(&gate, "anna", "/requests?state=rejected").await["requests"][0]["repo"], "acme/tiny");
    gate.get("/acme/tiny/resolve/main/config.json").await;
    assert_eq!(get(&gate, "anna", "/requests").await["requests"][0]["state"], "waiting", "asked anew");
    gate.stop().await;
}

#[tokio::test]
async fn a_withdrawn_repo_is_refused_at_once_everywhere_until_it_is_lifted() {
    let hub = Standin::builder().fixtures().start().await;
    let one = Setup::new().config(&everybody()).start(&hub).await;
    let two = Setup::new().config(&everybody()).on(&one.root).start(&hub).await;
    let path = "/acme/tiny/resolve/main/config.json";
    for gate in [&one, &two] {
        assert_eq!(gate.get(path).await.status, 200);
    }
    let withdrawn =
        post(&one, "otto", "/withdrawals", json!({ "repo": "acme/tiny", "reason": "licence changed" })).await;
    assert_eq!(withdrawn.status, 201, "{}", withdrawn.text());
    let refused = one.get(path).await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-error-message").contains("licence changed"), "{:?}", refused.headers);
    eventually("the other gateway has read it", async || two.get(path).await.status == 403).await;
    assert_eq!(get(&one, "aude", "/requests").await["requests"], json!([]), "what is withdrawn waits for nobody");

    let id = withdrawn.json()["id"].as_str().unwrap().to_owned();
    let may_not = post(&one, "otto", &format!("/withdrawals/{id}/lift"), json!({ "reason": "fixed" })).await;
    assert_eq!(may_not.status, 403);
    let lifted = post(&one, "anna", &format!("/withdrawals/{id}/lift"), json!({ "reason": "fixed" })).await;
    assert_eq!((lifted.status, &lifted.json()["in_force"]), (200, &json!(false)));
    hub.reset_counters();
    assert_eq!(one.get(path).await.status, 200);
    eventually("the other gateway has read it", async || two.get(path).await.status == 200).await;
    assert_eq!(hub.requests("*/resolve/*").len(), 0, "nothing was removed");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_gateway_that_starts_knows_what_was_withdrawn_before_it_serves() {
    let hub = Standin::builder().fixtures().start().await;
    let one = Setup::new().config(&everybody()).start(&hub).await;
    let path = "/acme/tiny/resolve/main/config.json";
    assert_eq!(one.get(path).await.status, 200);
    let commit = hub.commit("acme/tiny", "main");
    let body = json!({ "repo": "acme/tiny", "commit": commit, "reason": "bad weights" });
    assert_eq!(post(&one, "otto", "/withdrawals", body).await.status, 201);
    let root = one.stop().await;
    let two = Setup::new().config(&everybody()).on(&root).start(&hub).await;
    let refused = two.get(path).await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-error-message").contains("bad weights"), "{:?}", refused.headers);
    assert_eq!(two.get("/acme/tiny/resolve/v1.0/config.json").await.status, 200, "another commit");
    two.stop().await;
}

#[tokio::test]
async fn a_purge_removes_files_and_the_blobs_that_nothing_else_names() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    for path in [
        "acme/tiny/resolve/main/config.json",
        "acme/tiny/resolve/main/model.safetensors",
        "acme/copy/resolve/main/model.safetensors",
    ] {
        assert_eq!(gate.get(&format!("/{path}")).await.status, 200, "{path}");
    }
    let stored = get(&gate, "aude", "/repos/show?repo=acme/tiny").await;
    assert_eq!((&stored["files"], &stored["allowed"]), (&json!(2), &json!(true)), "{stored}");
    let body = json!({ "repo": "acme/tiny", "reason": "leaked", "purge": true });
    let reply = post(&gate, "otto", "/withdrawals", body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let removed = reply.json()["purged"]["details"].clone();
    assert_eq!((&removed["files"], &removed["blobs"]), (&json!(2), &json!(1)), "the copy's weights stay: {removed}");
    assert_eq!(gate.get("/acme/copy/resolve/main/model.safetensors").await.status, 200);
    assert_eq!(get(&gate, "aude", "/repos/show?repo=acme/tiny").await["files"], 0);
    let history = get(&gate, "aude", "/manifest?repo=acme/tiny&history=true").await["records"].clone();
    let withdrawn = history.as_array().unwrap().iter().filter(|record| record["what"] == "withdrawn");
    assert_eq!(withdrawn.count(), 2, "{history}");

    // The content itself, under whatever name.
    let sha256 = hub.sha256("acme/copy", "main", "model.safetensors");
    let body = json!({ "sha256": sha256, "reason": "poisoned", "purge": true });
    let reply = post(&gate, "otto", "/withdrawals", body).await;
    assert_eq!(reply.json()["purged"]["details"]["blobs"], 1, "{}", reply.text());
    hub.reset_counters();
    let refused = gate.get("/acme/copy/resolve/main/model.safetensors").await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-error-message").contains("poisoned"), "{:?}", refused.headers);
    assert_eq!(gate.get("/acme/copy/resolve/main/README.md").await.status, 200);

    // A file that git names by another digest, fetched for the first time.
    let notes = hubgate::hub::Sha256::of(&hub.bytes("acme/nested", "main", "README.md"));
    assert_eq!(post(&gate, "otto", "/withdrawals", json!({ "sha256": notes, "reason": "doxed" })).await.status, 201);
    let refused = gate.get("/acme/nested/resolve/main/README.md").await;
    assert!(refused.broke || refused.status == 403, "{:?}", refused.status);
    let again = gate.head("/acme/nested/resolve/main/README.md").await;
    let served = gate.get("/acme/nested/resolve/main/README.md").await;
    assert!(served.broke || served.status == 403, "{:?} {:?}", again.status, served.status);
    let report = hubgate::manifest::verify::verify(gate.store.clone(), hubgate::manifest::verify::Options::default());
    assert!(report.await.unwrap().is_fine());
    gate.stop().await;
}

#[tokio::test]
async fn what_is_stored_can_be_listed_and_searched() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&everybody()).start(&hub).await;
    for path in [
        "/acme/tiny/resolve/v1.0/config.json",
        "/acme/tiny/resolve/main/empty.txt",
        "/datasets/acme/table/resolve/main/README.md",
    ] {
        assert_eq!(gate.get(path).await.status, 200, "{path}");
    }
    let page = get(&gate, "otto", "/repos?limit=1").await;
    assert_eq!((&page["repos"][0]["repo"], &page["next"]), (&json!("acme/tiny"), &json!("acme/tiny")), "{page}");
    let tiny = &page["repos"][0];
    assert_eq!((&tiny["files"], tiny["commits"].as_array().unwrap().len()), (&json!(2), 2), "{tiny}");
    assert!(tiny["bytes"].as_u64().unwrap() > 0);
    let next = get(&gate, "otto", "/repos?limit=1&after=acme/tiny").await;
    assert_eq!((&next["repos"][0]["repo"], &next["next"]), (&json!("datasets/acme/table"), &Value::Null), "{next}");
    let data = get(&gate, "otto", "/repos?kind=dataset").await;
    assert_eq!(data["repos"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gate, "otto", "/repos?search=TIN").await["repos"].as_array().unwrap().len(), 1);
    let missing = by(&gate.client, "otto", Method::GET, "/repos/show?repo=acme/none", &Value::Null).await;
    assert_eq!((missing.status, code(&missing).as_str()), (404, "not_found"));

    let found = get(&gate, "aude", "/manifest?repo=acme/*&limit=1").await;
    assert_eq!(
        (found["records"].as_array().unwrap().len(), &found["more"], &found["faults"]),
        (1, &json!(true), &json!(0))
    );
    assert_eq!(found["records"][0]["path"], "empty.txt", "the newest first");
    let sha256 = hubgate::hub::Sha256::of(b"");
    let by_digest = get(&gate, "aude", &format!("/manifest?sha256={sha256}")).await;
    assert_eq!(by_digest["records"].as_array().unwrap().len(), 1);
    assert_eq!(get(&gate, "aude", "/manifest?until=2020-01-01").await["records"], json!([]));
    gate.stop().await;
}

/// Operators' side over a store that can be made to fail.
struct Desk {
    admin: Admin,
    policy: std::sync::Arc<PolicyHandle>,
    store: std::sync::Arc<FaultyStore>,
    _dir: tempfile::TempDir,
}

impl Desk {
    async fn open(config: &ApprovalsConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("policy")).unwrap();
        std::fs::write(dir.path().join("policy/policy.toml"), REVIEWED).unwrap();
        let mut at = hubgate::store::StoreConfig::default();
        at.local.path = dir.path().join("store");
        let local = hubgate::store::build(&at, &hubgate::store::SpoolConfig::default(), "test").await.unwrap();
        let store = FaultyStore::over(local);
        let policy = std::sync::Arc::new(PolicyHandle::open(dir.path().join("policy"), EnvLists::default()).unwrap());
        let tasks = tokio_util::task::TaskTracker::new();
        let stop = tokio_util::sync::CancellationToken::new();
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, stop);
        let admin = Admin::new(config, store.clone(), policy.clone(), manifest, "hub.test", &tasks);
        Self { admin, policy, store, _dir: dir }
    }
}

#[tokio::test]
async fn a_store_that_goes_away_later_is_named_with_approvals_off_too() {
    let Desk { admin, store, .. } = Desk::open(&ApprovalsConfig::default()).await;
    admin.refresh().await.unwrap();
    assert!(admin.degraded().is_empty());
    store.fail(Op::List, u32::MAX, ErrorKind::Unreachable);
    admin.refresh().await.unwrap_err();
    let degraded = admin.degraded();
    assert!(degraded.len() == 1 && degraded[0].contains("what was known holds"), "{degraded:?}");
    assert!(admin.is_read(), "what was known is served");
    store.fail(Op::List, 0, ErrorKind::Unreachable);
    admin.refresh().await.unwrap();
    assert!(admin.degraded().is_empty());
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    assert!(admin.degraded()[0].contains("has not been read for a while"), "a look that hangs");
}

#[tokio::test]
async fn approvals_that_cannot_be_read_for_a_minute_do_not_count_and_withdrawals_hold() {
    let Desk { admin, policy, store, _dir } = Desk::open(&ApprovalsConfig { enabled: true }).await;
    assert!(!admin.is_read());
    admin.refresh().await.unwrap();
    assert!(admin.is_read());
    let anna = Actor { name: "anna".into(), from: None, request_id: None };
    let proposal = Proposal {
        repo: "acme/tiny".parse().unwrap(),
        licence: LicenseId::new("apache-2.0"),
        reason: "reviewed".into(),
        expires: hubgate::policy::today().next_day().unwrap(),
        pin: None,
        gated: false,
        ticket: None,
    };
    admin.approve(&proposal, &anna).await.unwrap();
    let target = Target::Repo { repo: "acme/copy".parse().unwrap() };
    admin.withdraw(target, "gone", false, &anna).await.unwrap();
    let allowed = |repo: &str| policy.current().decide_repo(&repo.parse().unwrap(), hubgate::policy::today()).is_ok();
    assert!(allowed("acme/tiny") && !allowed("acme/copy"));

    tokio::time::pause();
    store.fail(Op::List, u32::MAX, ErrorKind::Unreachable);
    tokio::time::advance(std::time::Duration::from_secs(50)).await;
    assert!(admin.refresh().await.is_err());
    assert!(allowed("acme/tiny"), "what was read less than a minute ago counts");
    assert_eq!(admin.degraded().len(), 1, "{:?}", admin.degraded());
    tokio::time::advance(std::time::Duration::from_secs(15)).await;
    assert!(admin.refresh().await.is_err());
    assert!(!allowed("acme/tiny") && !allowed("acme/copy"));
    assert_eq!(admin.degraded().len(), 2, "{:?}", admin.degraded());
    store.fail(Op::List, 0, ErrorKind::Unreachable);
    admin.refresh().await.unwrap();
    assert!(allowed("acme/tiny") && !allowed("acme/copy"));
    assert!(admin.degraded().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_withdraws_on_the_store_and_over_the_api() {
    let hub = Standin::builder().fixtures().start().await;
    let root = process::set_up(&hub, &everybody());
    let gate = Process::start(root.path()).await;
    let path = "/acme/tiny/resolve/main/config.json";
    assert_eq!(gate.client.get(path).await.unwrap().status, 200);
    let run = |arguments: &[&str], name: &str| {
        let mut command = process::hubgate(root.path(), arguments);
        if !name.is_empty() {
            command.env("HUBGATE_ADMIN_URL", gate.client.endpoint()).env("HUBGATE_ADMIN_TOKEN", format!("hg_{name}"));
        }
        let output = command.env("USER", "sre").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };

    let (status, said, complaint) = run(&["withdraw", "acme/tiny", "--reason", "at night", "--json"], "");
    assert_eq!(status, 0, "{complaint}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["by"], "cli:sre");
    eventually("the gateway has read it", async || gate.client.get(path).await.unwrap().status == 403).await;

    let id = said["id"].as_str().unwrap();
    // A command that found nothing of this would list what its own store has.
    std::fs::write(root.path().join(".env"), "HUBGATE_ADMIN_URL=http://127.0.0.1:1\nHUBGATE_ADMIN_TOKEN=x\n").unwrap();
    let list = process::hubgate(root.path(), &["withdraw", "--list"]).current_dir(root.path()).output().unwrap();
    let complaint = String::from_utf8(list.stderr).unwrap();
    assert!(list.status.code() == Some(1) && complaint.contains("http://127.0.0.1:1"), "{complaint}");
    let (status, _, complaint) = run(&["withdraw", "--lift", id, "--reason", "day"], "otto");
    assert!(status == 1 && complaint.contains("lacks the scope approve"), "{complaint}");
    let (status, said, complaint) = run(&["withdraw", "--lift", id, "--reason", "day"], "anna");
    assert!(status == 0 && said.contains("lifted"), "{said}{complaint}");
    assert_eq!(gate.client.get(path).await.unwrap().status, 200, "the API's own gateway knows at once");
    let (status, said, _) = run(&["withdraw", "--list"], "otto");
    assert!(status == 0 && said.contains("model acme/tiny  lifted  by cli:sre: at night"), "{said}");

    assert_eq!(gate.client.get("/org/other/resolve/main/config.json").await.unwrap().status, 403);
    let (status, said, complaint) = run(&["requests"], "rita");
    assert!(status == 0 && said.contains("org/other") && said.contains("no_rule"), "{said}{complaint}");
    let approve = ["approve", "org/other", "--licence", "mit", "--reason", "needed", "--expires", &next_year()];
    let (status, _, complaint) = run(&approve, "anna");
    assert!(status == 1 && complaint.contains("approvals.enabled"), "{complaint}");
    let (status, _, complaint) = run(&approve, "");
    assert!(status == 2 && complaint.contains("--url"), "{complaint}");
    let (status, said, _) = run(&["reject", "org/other", "--reason", "no"], "anna");
    assert!(status == 0 && said.contains("rejected"), "{said}");
    assert_eq!(run(&["withdraw", "acme/tiny"], "").0, 2, "a reason is due");
    assert_eq!(run(&["withdraw", "sha256:12", "--reason", "x"], "").0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_inspects_approves_and_revokes() {
    let hub = Standin::builder().fixtures().start().await;
    let config = format!("approvals.enabled = true\n{}", everybody());
    let root = process::set_up(&hub, &config);
    let gate = Process::start(root.path()).await;
    let run = |arguments: &[&str]| {
        let mut command = process::hubgate(root.path(), arguments);
        let output =
            command.env("HUBGATE_ADMIN_URL", gate.client.endpoint()).env("HUBGATE_ADMIN_TOKEN", "hg_anna").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = "/datasets/squid/resolve/main/data/train.csv";
    assert_eq!(gate.client.get(path).await.unwrap().status, 403);
    let found = run(&["inspect", "datasets/squid", "--reason", "asked for by the lab"]);
    let commit = hub.commit("datasets/squid", "main");
    assert!(found.starts_with(&format!("datasets/squid@{commit}\n")), "{found}");
    assert!(found.contains("  licence    mit (README.md)") && found.contains("  files      "), "{found}");
    let json: Value =
        serde_json::from_str(&run(&["inspect", "datasets/squid", "--reason", "again", "--json"])).unwrap();
    assert_eq!(json["commit"], commit);

    let day = next_year();
    run(&["approve", "datasets/squid", "--licence", "mit", "--reason", "needed", "--expires", &day]);
    assert_eq!(gate.client.get(path).await.unwrap().status, 200);
    let listed = run(&["revoke", "--list"]);
    assert!(listed.contains(&format!("dataset squid  approved until {day}  by anna: needed")), "{listed}");
    let id = listed.split_whitespace().next().unwrap();
    assert!(run(&["revoke", id, "--reason", "licence changed"]).contains("squid  revoked"));
    assert_eq!(gate.client.get(path).await.unwrap().status, 403);
}

#[test]
fn an_approval_as_a_patch_is_a_rule_that_loads() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hubgate"));
    command.current_dir(folder.path()).env_clear();
    let day = next_year();
    command.args(["approve", "datasets/acme/table", "--licence", "CC-BY-4.0", "--reason", "say \"hi\"", "--expires"]);
    command.args([&day, "--ticket", "SEC-8", "--approved-by", "legal@example.com", "--as-patch"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    std::fs::write(folder.path().join("policy/patch.toml"), &output.stdout).unwrap();
    let policy = PolicyHandle::open(folder.path().join("policy"), EnvLists::default()).unwrap().current();
    let rule = policy.decide_repo(&"datasets/acme/table".parse().unwrap(), hubgate::policy::today()).unwrap();
    assert_eq!((rule.approved_by.as_deref(), rule.ticket.as_deref()), (Some("legal@example.com"), Some("SEC-8")));
    assert_eq!(rule.accepted_licenses(), [LicenseId::new("cc-by-4.0")]);
}
