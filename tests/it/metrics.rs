//! `/-/metrics`: that it counts what happens, and that README names what it counts.

use std::collections::BTreeMap;

use http::Method;

use crate::support::{
    asking::{self, Asking},
    gateway::eventually,
};

/// The values of a page by name and labels. Panics where a line is not of the format.
fn read(page: &str) -> BTreeMap<String, u64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn what_happens_is_counted_by_outcome() {
    let gateway = Asking::start().await;
    let counted = async || read(gateway.get("/-/metrics").await.text());
    let before = counted().await;
    assert_eq!((before["hubgate_ready"], before["hubgate_degraded"]), (1, 0));
    assert!(!before.keys().any(|name| name.starts_with("hubgate_requests_total")), "our own pages do not count");

    let path = format!("/acme/tiny/resolve/{}/model.safetensors", gateway.commit("acme/tiny"));
    let size = u64::try_from(gateway.get(&path).await.body.len()).unwrap();
    gateway.get(&path).await;
    gateway.get("/other/x/resolve/main/a").await;
    // Counted behind the answers.
    let denied = "hubgate_requests_total{outcome=\"denied\",status=\"4xx\"}";
    eventually("all three are counted", async || counted().await.get(denied) == Some(&1)).await;
    let after = counted().await;
    assert_eq!(after["hubgate_requests_total{outcome=\"fill\",status=\"2xx\"}"], 1);
    assert_eq!(after["hubgate_requests_total{outcome=\"hit\",status=\"2xx\"}"], 1);
    assert!(after["hubgate_response_bytes_total"] >= 2 * size);
    assert_eq!(after["hubgate_fills_total{end=\"stored\"}"], 1);
    assert_eq!(after["hubgate_fills_live"], 0);
    assert!(after["hubgate_upstream_requests_total{class=\"api\",status=\"2xx\"}"] >= 1);
    assert!(after["hubgate_upstream_requests_total{class=\"elsewhere\",status=\"2xx\"}"] >= 1, "the CDN");
    assert!(after["hubgate_upstream_received_bytes_total"] >= size);
    let digest = gateway.get("/-/readyz").await.json()["policy_sha256"].as_str().unwrap().to_owned();
    assert_eq!(after[&format!("hubgate_policy_info{{sha256=\"{digest}\"}}")], 1);

    gateway.gate.set_policy("[[allow]]\nrepos = 1\n").unwrap_err();
    let bad = counted().await;
    assert_eq!((bad["hubgate_policy_rejected"], bad["hubgate_degraded"], bad["hubgate_ready"]), (1, 1, 1));
}

#[tokio::test]
async fn with_a_second_listener_metrics_are_there_alone_and_all_listeners_are_in_them() {
    let gateway = Asking::with("server.admin_listen = '127.0.1:0'").await;
    let admin = gateway.gate.admin.as_ref().unwrap();
    assert_eq!(gateway.get("/-/metrics").await.status, 404);
    gateway.get("/other/x/resolve/main/a").await;
    eventually("it is counted", async || {
        let page = asking::ask(admin, Method::GET, "/-/metrics", &[], "").await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        page.text().contains("hubgate_requests_total{outcome=\"denied\",status=\"4xx\"} 1")
    })
    .await;
}

#[tokio::test]
async fn every_metric_has_a_type_and_stands_in_the_readme() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let gateway = Asking::start().await;
    let page = gateway.get("/-/metrics").await;
    let types = page.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut names = 0;
    for (name, kind) in types {
        assert!(["counter", "gauge"].contains(&kind), "{name}: {kind}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(readme.contains(&format!("`{name}")), "{name} is not in README.md");
        names += 1;
    }
    assert!(names > 10, "{}", page.text());
}
