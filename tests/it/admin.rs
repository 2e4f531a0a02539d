//! The admin API through the real gateway: tokens and scopes, and what each change leaves behind.

use http::Method;
use hub_standin::Standin;
use serde_json::{Value, json};

use crate::support::{
    asking::{Reply, ask},
    client::Client,
    gateway::{POLICY, Setup, TestGateway},
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
    let line = gate.access_log().into_iter().find(|line| line["request_id"] == first["request_id"]);
    assert_eq!(line.unwrap()["client"], "otto");
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
