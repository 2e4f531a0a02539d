//! Web pages of other origins: what a browser must be told before it gives a script what hubgate answers.

use http::Method;
use serde_json::json;

use crate::support::{asking::Asking, gateway::Setup};

const PAGE: (&str, &str) = ("origin", "https://notebooks.example.com");

const ANY: &str = "server.cors_origins = [\"*\"]";

#[tokio::test]
async fn pages_read_nothing_unless_their_origin_is_listed() {
    let hub = hub_standin::Standin::builder().fixtures().start().await;
    let path = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "main"));
    let told = async |config: &str, origin: &str| {
        let gate = Setup::new().config(config).start(&hub).await;
        let mut told = Vec::new();
        for method in ["GET", "OPTIONS"] {
            let answer = gate.ask(method, &path, &[("origin", origin)]).await;
            assert!(answer.status.is_success(), "{}", answer.text());
            let allowed = answer.header("access-control-allow-origin").to_owned();
            assert_eq!(allowed.is_empty(), answer.header("access-control-expose-headers").is_empty());
            let varies = answer.headers.get_all("vary").iter().any(|vary| vary == "Origin");
            told.push((allowed, varies));
        }
        assert_eq!(told[0], told[1], "before asking and after");
        told.remove(0)
    };
    assert_eq!(told("", PAGE.1).await, (String::new(), false));
    let listed = format!("server.cors_origins = [\"https://other.example\", \"{}\"]", PAGE.1);
    assert_eq!(told(&listed, PAGE.1).await, (PAGE.1.to_owned(), true));
    // What is kept for one page must not be shown to another.
    assert_eq!(told(&listed, "https://evil.example").await, (String::new(), true));
}

#[tokio::test]
async fn where_all_pages_may_read_every_answer_of_the_hubs_routes_says_so_and_none_of_ours() {
    let gateway = Asking::with(ANY).await;
    let commit = gateway.commit("acme/tiny");
    for (path, status) in [
        ("/acme/tiny/resolve/main/config.json".to_owned(), 307),
        (format!("/acme/tiny/resolve/{commit}/model.safetensors"), 200),
        (format!("/acme/tiny/raw/{commit}/README.md"), 200),
        ("/api/models/acme/tiny".into(), 200),
        ("/api/models/acme/tiny/tree/main".into(), 200),
        ("/acme/tiny/resolve/main/nope.json".into(), 404),
        ("/other/model/resolve/main/config.json".into(), 403),
        ("/no/such/page/at/all".into(), 404),
    ] {
        for headers in [&[PAGE][..], &[]] {
            let reply = gateway.get_with(&path, headers).await;
            assert_eq!(reply.status, status, "{path}");
            assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
            assert_eq!(reply.header("access-control-allow-credentials"), "", "no cookies: {path}");
            let exposed = reply.header("access-control-expose-headers").to_lowercase();
            // What huggingface.js reads.
            for name in ["x-repo-commit", "x-linked-size", "x-linked-etag", "etag", "link", "content-range"] {
                assert!(exposed.split(',').any(|shown| shown == name), "{name} is not in {exposed}");
            }
            assert!(["x-error-code", "x-error-message"].iter().all(|name| exposed.contains(name)), "{exposed}");
        }
    }
    for path in ["/-/readyz", "/-/livez", "/-/metrics", "/-/admin/v1/x"] {
        let reply = gateway.get_with(path, &[PAGE]).await;
        assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
        let reply = gateway.ask(Method::OPTIONS, path, &[PAGE], "").await;
        assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test]
async fn a_browser_that_asks_first_is_told_yes_even_where_only_known_clients_are_served() {
    let hub = hub_standin::Standin::builder().fixtures().start().await;
    let known = "auth.clients = [{ name = \"page\", token_sha256 = \"1660c21f1029de2c0b013c2acb5a749f47eed3e8379294bbed52e2a05c0d0f3f\" }]\nauth.anonymous = false";
    let gate = Setup::new().config(known).config(ANY).start(&hub).await;
    let path = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "main"));
    let asks =
        [PAGE, ("access-control-request-method", "GET"), ("access-control-request-headers", "authorization,range")];
    let before = gate.ask("OPTIONS", &path, &asks).await;
    assert_eq!((before.status.as_u16(), before.body.len()), (204, 0));
    assert_eq!(before.header("access-control-allow-origin"), "*");
    assert_eq!(before.header("access-control-allow-headers"), "authorization,range");
    assert!(before.header("access-control-allow-methods").contains("GET"));
    assert_eq!(before.header("access-control-max-age"), "86400");
    assert_eq!(hub.counters().requests, 0, "it costs nothing");

    let denied = gate.ask("GET", &path, &[PAGE]).await;
    assert_eq!((denied.status.as_u16(), denied.header("access-control-allow-origin")), (401, "*"));
    let token = ("authorization", "Bearer token-of-one");
    let answer = gate.ask("GET", &path, &[PAGE, token]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gate.access_line(&before).await["route"], json!("preflight"));
}
