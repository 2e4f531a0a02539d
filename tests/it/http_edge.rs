//! What surrounds the routes: ids, the access log, our own pages, two listeners, stopping.

use http::Method;
use hub_standin::Origin;
use serde_json::json;

use crate::support::{
    asking::{self, Asking},
    client::Client,
    gateway::{Setup, eventually},
};

#[tokio::test]
async fn every_request_has_an_id_and_the_clients_own_are_in_it() {
    let gateway = Asking::start().await;
    let path = "/api/models/acme/tiny";
    let ours = gateway.get(path).await.header("x-request-id").to_owned();
    assert!(!ours.is_empty() && ours != gateway.get(path).await.header("x-request-id"));
    let taken = gateway.get_with(path, &[("x-request-id", "from-client"), ("x-amzn-trace-id", "trace-7")]).await;
    assert_eq!(taken.header("x-request-id"), "from-client;trace-7");
    let traced = gateway.get_with(path, &[("x-amzn-trace-id", "trace-7")]).await;
    assert!(traced.header("x-request-id").ends_with(";trace-7"));
    let odd = gateway.get_with(path, &[("x-request-id", "a b")]).await;
    assert!(!odd.header("x-request-id").contains("a b"));
}

#[tokio::test]
async fn a_request_is_one_line_without_query_and_token() {
    let mut gateway = Asking::start().await;
    let commit = gateway.commit("acme/tiny");
    let path = format!("/acme/tiny/resolve/{commit}/model.safetensors?download=true&secret=query-text");
    let agent = "unknown/None; hf_hub/2.4.0; python/3.11.2";
    let headers = [("authorization", "Bearer hf_container"), ("user-agent", agent), ("x-request-id", "mine")];
    let size = gateway.hub.bytes("acme/tiny", "main", "model.safetensors").len();

    gateway.get_with(&path, &headers).await;
    let first = gateway.next_line().await;
    for (key, value) in [
        ("client", json!("127.0.0.1")),
        ("method", json!("GET")),
        ("route", json!("resolve")),
        ("repo", json!("acme/tiny")),
        ("commit", json!(commit)),
        ("path", json!("model.safetensors")),
        ("status", json!(200)),
        ("bytes", json!(size)),
        ("cache", json!("fill")),
        ("ended", json!("whole")),
        ("request_id", json!("mine")),
        ("agent", json!(agent)),
    ] {
        assert_eq!(first[key], value, "{key} in {first}");
    }
    assert!(first["duration_ms"].is_u64());
    assert!(!first.to_string().contains("query-text") && !first.to_string().contains("hf_container"), "{first}");

    gateway.get_with(&path, &headers).await;
    assert_eq!(gateway.next_line().await["cache"], "hit");
    gateway.get("/other/x/resolve/main/a").await;
    let denied = gateway.next_line().await;
    assert_eq!((&denied["cache"], &denied["status"]), (&json!("denied"), &json!(403)));
    assert!(denied["reason"].as_str().unwrap().contains("no allow rule"));
    gateway.ask(Method::HEAD, &path, &headers, "").await;
    let head = gateway.next_line().await;
    assert_eq!((&head["bytes"], &head["ended"]), (&json!(0), &json!("whole")));
    gateway.get_with(&path, &[("range", "bytes=0-9")]).await;
    let part = gateway.next_line().await;
    assert_eq!((&part["status"], &part["bytes"], &part["ended"]), (&json!(206), &json!(10), &json!("whole")));
}

#[tokio::test]
async fn readiness_names_the_policy_and_survives_the_origin() {
    let gateway = Asking::start().await;
    assert_eq!(gateway.get("/-/livez").await.status, 200);
    let ready = gateway.get("/-/readyz").await.json();
    assert_eq!((&ready["ready"], &ready["degraded"]), (&json!(true), &json!([])));
    assert_eq!(ready["policy_sha256"].as_str().unwrap().len(), 64);
    gateway.hub.stop_origin(Origin::Hub).await;
    gateway.get("/api/models/acme/tiny").await;
    let degraded = gateway.get("/-/readyz").await;
    assert_eq!(degraded.status, 200, "what is stored is still served");
    assert!(degraded.json()["degraded"][0].as_str().unwrap().contains("origin"), "{}", degraded.text());
    assert_eq!(gateway.get("/-/admin/v1/anything").await.status, 404);
    assert_eq!(gateway.get("/-/nothing").await.status, 404);
}

#[tokio::test]
async fn a_second_listener_takes_our_own_pages_and_nothing_of_the_hubs() {
    let gateway = Asking::with("server.admin_listen = '127.0.0.1:0'").await;
    let admin = gateway.gate.admin.as_ref().unwrap();
    let on_admin = async |path: &str| asking::ask(admin, Method::GET, path, &[], "").await;
    assert_eq!(on_admin("/-/readyz").await.status, 200);
    assert_eq!(on_admin("/api/models/acme/tiny").await.status, 404);
    assert_eq!(on_admin("/-/admin/v1/x").await.json()["error"]["code"], "no_such_page");
    assert_eq!(gateway.get("/-/livez").await.status, 200);
    assert_eq!(gateway.get("/api/models/acme/tiny").await.status, 200);
}

#[tokio::test]
async fn a_stopped_gateway_starts_again_on_what_it_stored() {
    let gateway = Asking::start().await;
    let path = format!("/acme/tiny/resolve/{}/config.json", gateway.commit("acme/tiny"));
    let before = gateway.get(&path).await;
    assert_eq!(before.status, 200);
    let Asking { hub, gate, .. } = gateway;
    let root = gate.stop().await;
    hub.stop().await;
    let gate = Setup::new().policy(asking::POLICY).on(&root).start(&hub).await;
    let after = asking::ask(&gate.client, Method::GET, &path, &[], "").await;
    assert_eq!((after.status, after.body), (200, before.body));
}

/// The kept connection of the test's own client takes the only place.
#[tokio::test]
async fn past_the_limit_of_connections_clients_are_told_to_come_back_and_places_become_free() {
    let Asking { hub, mut gate, .. } = Asking::with("server.limits.connections = 1").await;
    let path = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "main"));
    let library = [("user-agent", "unknown/None; hf_hub/2.4.0; python/3.11.2")];
    for (method, headers, statuses) in
        [(Method::GET, &[][..], &[503][..]), (Method::HEAD, &library, &[503]), (Method::GET, &library, &[503, 429])]
    {
        let busy = asking::ask(&Client::new(&gate.url), method, &path, headers, "").await;
        assert!(statuses.contains(&busy.status), "{headers:?}: {}", busy.status);
        assert!(busy.header("retry-after").parse::<u64>().unwrap() >= 1, "{:?}", busy.headers);
        assert_eq!(busy.header("connection"), "close");
        assert!(busy.header("x-error-message").contains("connections"), "{:?}", busy.headers);
    }
    assert_eq!(hub.counters().requests, 0);
    gate.client = Client::new(&gate.url);
    eventually("its place is free", async || gate.get(&path).await.status == 200).await;
}
