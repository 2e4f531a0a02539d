//! One way out (I1) and credentials that stay home (I7), through the whole gateway.

use hub_standin::{Class, Fault, FaultKind, Origin, Standin};

use crate::support::{
    gateway::{Setup, TestGateway},
    proxy::{Proxy, ProxyConfig},
};

const URL: &str = "/acme/tiny/resolve/main/model.safetensors";
const CLIENT_TOKEN: &str = "hf_ofTheContainer0123456789";

#[tokio::test]
async fn of_a_repo_that_no_rule_names_nothing_is_asked() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    for repo in ["other/model", "gpt2", "acme/evil-one", "datasets/other/data", "spaces/other/app"] {
        let (kind, id) = match repo.split_once('/') {
            Some((kind @ ("datasets" | "spaces"), id)) => (kind, id),
            _ => ("models", repo),
        };
        for url in [
            format!("/{repo}/resolve/main/config.json"),
            format!("/{repo}/resolve/{}/config.json", "a".repeat(40)),
            format!("/{repo}/raw/main/README.md"),
            format!("/api/{kind}/{id}"),
            format!("/api/{kind}/{id}/revision/main"),
            format!("/api/{kind}/{id}/tree/main"),
            format!("/api/{kind}/{id}/refs"),
            format!("/api/{kind}/{id}/commits/main"),
            format!("/api/{kind}/{id}/auth-check"),
            format!("/api/{kind}/{id}/xet-read-token/main"),
            format!("/{repo}/resolve/main/..%2f..%2fx"),
        ] {
            let answer = gate.get(&url).await;
            assert!(matches!(answer.status.as_u16(), 403 | 404), "{url}: {} {}", answer.status, answer.text());
            assert_eq!(answer.header("x-repo-commit"), "", "{url}");
        }
    }
    assert_eq!(hub.counters().requests, 0, "{:#?}", hub.counters().paths);
    assert_eq!(hub.counters().connections, 0);
}

#[tokio::test]
async fn bytes_come_through_the_configured_proxy_alone() {
    let hub = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test").start().await;
    let proxy = Proxy::start(ProxyConfig::default()).await;
    let hosts = format!("upstream.allowed_hosts = [\"cdn.hub.test:{}\"]", hub.cdn_address().port());
    let setup = || Setup::new().config(&hosts).config("upstream.allow_private = false");
    let gate = setup().config(&format!("upstream.proxy = {:?}", proxy.url())).start(&hub).await;
    let answer = gate.get(URL).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
    // No name could be looked up but by the proxy, and each request that the Hub saw is one that it saw.
    let seen = u64::try_from(proxy.asked().len()).unwrap();
    assert_eq!(seen, hub.counters().requests, "{:#?}", proxy.asked());
    // Gone, it is not gone around.
    let url = proxy.url();
    drop(proxy);
    let gate = setup().config(&format!("upstream.proxy = {url:?}")).on(&gate.stop().await).start(&hub).await;
    assert_eq!(gate.get(URL).await.status, 200, "stored");
    let cold = gate.get("/acme/nested/resolve/main/config.json").await;
    assert_eq!(cold.status, 503, "{}", cold.text());
    assert!(cold.text().contains("egress proxy cannot be reached"), "{}", cold.text());
    assert_eq!(hub.counters().requests, seen);
}

#[tokio::test]
async fn a_redirect_to_a_foreign_host_is_refused_and_not_shown() {
    let hub = Standin::builder().fixtures().start().await;
    let thief = Standin::builder().fixtures().start().await;
    let token = hub.token();
    let gate = Setup::new().config(&format!("upstream.token = {token:?}")).start(&hub).await;
    assert_eq!(gate.head(URL).await.status, 200);
    for location in
        [format!("{}{{target}}", thief.hub_url()), "http://evil.example/x".into(), "file:///etc/passwd".into()]
    {
        let away = hub.fault(Fault::new(FaultKind::RedirectTo { location }).path(URL.replace("main", "*")));
        let answer = gate.get(URL).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        for secret in [thief.hub_url(), hub.hub_url(), "evil.example", "passwd", &token] {
            assert!(!answer.text().contains(secret), "{}", answer.text());
            assert!(answer.headers.values().all(|value| !value.to_str().unwrap_or_default().contains(secret)));
        }
        hub.clear_fault(away);
    }
    assert_eq!(thief.counters().requests, 0, "the foreign host was asked");
    assert_eq!(gate.get(URL).await.status, 200);
}

#[tokio::test]
async fn tokens_go_where_they_belong_and_nowhere_else() {
    let hub = Standin::builder().fixtures().start().await;
    let token = hub.token();
    let gate = Setup::new().config(&format!("upstream.token = {token:?}")).start(&hub).await;
    let bearer = format!("Bearer {CLIENT_TOKEN}");
    for url in
        [URL, "/acme/tiny/resolve/main/config.json", "/api/models/acme/tiny/tree/main", "/api/models/acme/tiny/refs"]
    {
        assert_eq!(gate.get_with(url, &[("authorization", &bearer)]).await.status, 200, "{url}");
    }
    let mut to_cdn = 0;
    for request in hub.requests("*") {
        assert!(!format!("{request:?}").contains(CLIENT_TOKEN), "{request:?}");
        assert_eq!(request.header("accept-encoding"), Some("identity"), "{request:?}");
        match request.origin {
            Origin::Hub => {
                assert_eq!(request.header("authorization"), Some(&*format!("Bearer {token}")), "{request:?}");
            }
            Origin::Cdn => {
                to_cdn += 1;
                assert!(request.header("authorization").is_none() && !format!("{request:?}").contains(&token));
            }
        }
    }
    assert!(to_cdn > 0 && hub.count(Class::Cdn) == to_cdn);
    let log = format!("{:?}", gate.access_log());
    assert!(log.contains("config.json") && !log.contains(CLIENT_TOKEN) && !log.contains(&token), "{log}");
    let store = gate.root.path().join("store");
    for file in walk(&store) {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [CLIENT_TOKEN.as_bytes(), token.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
        }
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_is_asked_once_and_named() {
    let hub = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test").start().await;
    let schemes = vec!["NTLM".to_owned(), "Negotiate".to_owned()];
    let proxy =
        Proxy::start(ProxyConfig { account: Some("me:secret".into()), schemes, ..ProxyConfig::default() }).await;
    let gate = Setup::new().config(&format!("upstream.proxy = {:?}", proxy.url())).start(&hub).await;
    for _ in 0..3 {
        let answer = gate.get(URL).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.text().contains("egress proxy refuses this gateway's credentials"), "{}", answer.text());
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
    assert_eq!(proxy.asked().len(), 1, "accounts get locked: {:?}", proxy.asked());
    assert_eq!(hub.counters().requests, 0);
    assert!(gate.get("/-/readyz").await.text().contains("egress proxy refuses"));
}

#[tokio::test]
async fn a_block_page_is_the_proxys_and_never_a_file() {
    let hub = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test").start().await;
    for status in [200, 403] {
        let page = "<html><title>Blocked</title><body>Category: AI. Ask the network team</body></html>";
        let refusal = Some((status, "text/html", page));
        let proxy = Proxy::start(ProxyConfig { refusal, ..ProxyConfig::default() }).await;
        let gate = Setup::new().config(&format!("upstream.proxy = {:?}", proxy.url())).start(&hub).await;
        for url in [URL, "/api/models/acme/tiny"] {
            let answer = gate.get(url).await;
            assert_eq!(answer.status, 502, "{status}: {}", answer.text());
            assert!(answer.text().contains("egress proxy refuses"), "{status}: {}", answer.text());
        }
    }
    assert_eq!(hub.counters().requests, 0);
}

/// 502 where somebody must change something, 503 where waiting helps; what is stored is served in either case.
#[tokio::test]
async fn a_proxy_that_refuses_and_one_that_finds_nobody_are_told_apart() {
    let hub = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test").start().await;
    let hosts = format!("upstream.allowed_hosts = [\"cdn.hub.test:{}\"]", hub.cdn_address().port());
    let behind = |proxy: &Proxy| {
        // A branch is looked at again each time.
        let lines = format!("{hosts}\nupstream.proxy = {:?}\nupstream.ref_ttl = \"0s\"", proxy.url());
        Setup::new().config(&lines)
    };
    let open = Proxy::start(ProxyConfig::default()).await;
    let gate = behind(&open).start(&hub).await;
    assert_eq!(gate.get(URL).await.status, 200);
    let mut root = gate.stop().await;
    for (status, expected, reason) in [
        (403, 502, "the egress proxy refuses the request (403)"),
        (503, 503, "the origin cannot be reached by the egress proxy (503)"),
        (504, 503, "the origin cannot be reached by the egress proxy (504)"),
    ] {
        let refusal = Some((status, "text/html", "<h1>No</h1>"));
        let proxy = Proxy::start(ProxyConfig { refusal, ..ProxyConfig::default() }).await;
        let gate = behind(&proxy).on(&root).start(&hub).await;
        let cold = gate.get("/acme/nested/resolve/main/config.json").await;
        assert_eq!(cold.status.as_u16(), expected, "{}", cold.text());
        assert!(cold.text().contains(reason), "{}", cold.text());
        assert_eq!(cold.header("retry-after").is_empty(), expected == 502, "{:?}", cold.headers);
        let warm = gate.get(URL).await;
        assert_eq!(warm.status, 200, "{status}: stored");
        assert!(gate.get("/-/readyz").await.text().contains(reason), "{}", gate.get("/-/readyz").await.text());
        root = gate.stop().await;
    }
}
