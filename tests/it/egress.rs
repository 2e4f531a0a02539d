//! The way out through an egress proxy that is the only one who can look names up.

use std::sync::Arc;

use hub_standin::{Class, Fault, FaultKind, Standin};
use hubgate::upstream::{ErrorKind, ProxyEnv, Purpose::Client, Upstream, UpstreamConfig};

use crate::{
    support::proxy::{Proxy, ProxyConfig},
    upstream::{commit, repo, revision},
};

/// Names that nobody but the proxy can find.
async fn hidden(tls: bool) -> Standin {
    let builder = Standin::builder().fixtures().hosts("hub.test", "cdn.hub.test");
    if tls { builder.tls().start().await } else { builder.start().await }
}

struct Way {
    upstream: Arc<Upstream>,
    _ca: tempfile::NamedTempFile,
}

fn through(hub: &Standin, proxy: &Proxy, change: impl FnOnce(&mut UpstreamConfig)) -> Way {
    let ca = tempfile::NamedTempFile::new().unwrap();
    let pems = [hub.ca_pem(), proxy.ca_pem()];
    std::fs::write(ca.path(), pems.into_iter().flatten().collect::<String>()).unwrap();
    let mut config = UpstreamConfig {
        endpoint: hub.hub_url().to_owned(),
        allowed_hosts: vec![format!("cdn.hub.test:{}", hub.cdn_address().port())],
        proxy: Some(proxy.url()),
        ca_file: pems.iter().any(Option::is_some).then(|| ca.path().to_owned()),
        ..UpstreamConfig::default()
    };
    change(&mut config);
    Way { upstream: Upstream::new(&config, ProxyEnv::default()).unwrap(), _ca: ca }
}

async fn look(way: &Way) -> Result<(), hubgate::upstream::Error> {
    way.upstream.look(&repo("acme/tiny"), &revision("main"), Client).await.map(drop)
}

async fn fetch_weights(hub: &Standin, way: &Way) {
    let path = "model.safetensors".parse().unwrap();
    let expected = hub.bytes("acme/tiny", "main", "model.safetensors");
    let size = expected.len() as u64;
    let file = way.upstream.file(&repo("acme/tiny"), commit(hub, "acme/tiny"), &path);
    let mut body = file.open(0..size, size, true).await.unwrap();
    assert_eq!(body.host(), "cdn.hub.test");
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes == expected);
}

fn basic(schemes: &[&str]) -> ProxyConfig {
    ProxyConfig {
        account: Some("me:p@ss".into()),
        schemes: schemes.iter().map(ToString::to_string).collect(),
        ..ProxyConfig::default()
    }
}

fn with_account(password: &str) -> impl FnOnce(&mut UpstreamConfig) {
    let password = password.to_owned();
    move |config| {
        config.proxy_user = Some("me".into());
        config.proxy_password = Some(password.into());
    }
}

#[tokio::test]
async fn https_goes_through_connect_to_a_plain_proxy_and_to_one_with_tls() {
    for tls in [false, true] {
        let hub = hidden(true).await;
        let proxy = Proxy::start(ProxyConfig { tls, ..basic(&["Basic realm=\"x\""]) }).await;
        let way = through(&hub, &proxy, with_account("p@ss"));
        look(&way).await.unwrap();
        fetch_weights(&hub, &way).await;
        let lines: Vec<String> = proxy.asked().into_iter().map(|asked| asked.line).collect();
        let hub_line = format!("CONNECT hub.test:{}", hub.hub_address().port());
        let cdn_line = format!("CONNECT cdn.hub.test:{}", hub.cdn_address().port());
        assert!(lines.contains(&hub_line) && lines.contains(&cdn_line), "{lines:?}");
        assert!(proxy.asked().iter().all(|asked| asked.authorization.is_some()), "no 407 had to be asked for");
        assert_eq!(hub.counters().connections, lines.len() as u64, "a connection went past the proxy");
    }
}

#[tokio::test]
async fn plain_http_goes_through_in_absolute_form() {
    let hub = hidden(false).await;
    let proxy = Proxy::start(basic(&["Basic"])).await;
    let way = through(&hub, &proxy, with_account("p@ss"));
    look(&way).await.unwrap();
    fetch_weights(&hub, &way).await;
    for asked in proxy.asked() {
        assert!(asked.line.starts_with("GET http://"), "{asked:?}");
    }
    assert!(hub.counters().recent.iter().all(|request| request.header("proxy-authorization").is_none()));
    assert_eq!(hub.counters().requests, proxy.asked().len() as u64);
}

#[tokio::test]
async fn one_407_is_the_last_try_for_a_minute() {
    for tls in [true, false] {
        let hub = hidden(tls).await;
        let proxy = Proxy::start(basic(&["Negotiate", "NTLM", "Basic realm=\"corp\""])).await;
        let way = through(&hub, &proxy, with_account("wrong"));
        let (a, b, c) = tokio::join!(look(&way), look(&way), look(&way));
        let expected = ErrorKind::ProxyAuth { schemes: vec!["Negotiate".into(), "NTLM".into(), "Basic".into()] };
        for result in [a, b, c, look(&way).await] {
            let error = result.unwrap_err();
            assert_eq!(error.kind, expected);
            assert!(error.is_outage() && !error.to_string().contains("wrong"), "{error}");
        }
        assert_eq!(proxy.asked().len(), 1, "an account would be locked");
    }
}

#[tokio::test]
async fn a_refused_connect_shows_the_proxys_page() {
    let hub = hidden(true).await;
    let page = "<html><style>x{}</style><h1>Access denied</h1><p>Category: AI.</p></html>";
    let proxy = Proxy::start(ProxyConfig { refusal: Some((403, "text/html", page)), ..ProxyConfig::default() }).await;
    let error = look(&through(&hub, &proxy, |_| {})).await.unwrap_err();
    let expected = ErrorKind::ProxyRefused { status: 403, text: "Access denied Category: AI.".into() };
    assert_eq!(error.kind, expected);
    assert_eq!(proxy.asked().len(), 1, "a refusal is not tried again");
    assert_eq!(error.public_text(), "the egress proxy refuses the request (403)");
}

/// squid's `ERR_CONNECT_FAIL` and `ERR_DNS_FAIL` are 503, its `ERR_READ_TIMEOUT` is 504.
#[tokio::test]
async fn a_proxy_that_finds_nobody_behind_it_has_not_refused() {
    for tls in [true, false] {
        let hub = hidden(tls).await;
        for status in [502, 503, 504] {
            let refusal = Some((status, "text/html", "<h1>ERROR</h1><p>Connection to hub.test failed.</p>"));
            let proxy = Proxy::start(ProxyConfig { refusal, ..ProxyConfig::default() }).await;
            let error = look(&through(&hub, &proxy, |_| {})).await.unwrap_err();
            let text = "ERROR Connection to hub.test failed.".to_owned();
            assert_eq!(error.kind, ErrorKind::BeyondProxy { status, text }, "tls {tls}");
            assert!(error.is_outage() && error.is_worth_retrying(), "{error}");
            assert_eq!(error.public_text(), format!("the origin cannot be reached by the egress proxy ({status})"));
        }
        assert_eq!(hub.counters().requests, 0);
    }
}

#[tokio::test]
async fn a_block_page_is_the_proxys_whatever_its_status() {
    let hub = hidden(false).await;
    for status in [200, 403, 404] {
        let refusal = Some((status, "text/html; charset=utf-8", "<b>Blocked</b> by policy"));
        let proxy = Proxy::start(ProxyConfig { refusal, ..ProxyConfig::default() }).await;
        let way = through(&hub, &proxy, |_| {});
        let expected = ErrorKind::ProxyRefused { status, text: "Blocked by policy".into() };
        assert_eq!(look(&way).await.unwrap_err().kind, expected);
        let path = "model.safetensors".parse().unwrap();
        let file = way.upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path);
        assert_eq!(file.open(0..5000, 5000, true).await.unwrap_err().kind, expected);
    }
}

#[tokio::test]
async fn a_page_inside_a_tunnel_is_an_inspecting_proxys() {
    let hub = hidden(true).await;
    let proxy = Proxy::start(ProxyConfig::default()).await;
    let way = through(&hub, &proxy, |_| {});
    hub.fault(Fault::new(FaultKind::Html { code: 200 }).class(Class::Info));
    let kind = look(&way).await.unwrap_err().kind;
    assert!(matches!(kind, ErrorKind::ProxyRefused { status: 200, .. }), "{kind:?}");
}

#[tokio::test]
async fn a_certificate_of_nobody_we_trust_names_the_remedy() {
    let hub = hidden(true).await;
    let proxy = Proxy::start(ProxyConfig::default()).await;
    let error = look(&through(&hub, &proxy, |config| config.ca_file = None)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.to_string().contains("upstream.ca_file"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let hub = hidden(true).await;
    let proxy = Proxy::start(ProxyConfig::default()).await;
    let address = proxy.url();
    let way = through(&hub, &proxy, |_| {});
    drop(proxy);
    let error = look(&way).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ProxyUnreachable);
    assert!(error.to_string().contains(address.trim_start_matches("http://")), "{error}");
    assert_eq!(hub.counters().connections, 0, "there is no other way out");
}
