//! Policy is asked on every request: a change takes effect on what is stored.

use super::world;
use crate::support::gateway::POLICY;

const FILE: &str = "/acme/tiny/resolve/main/model.safetensors";

/// A withdrawal takes effect at once, on hits too, by branch and by sha.
#[tokio::test]
async fn what_is_withdrawn_is_refused_though_it_is_stored() {
    let (hub, gate) = world().await;
    assert_eq!(gate.get(FILE).await.status, 200);
    let sha = format!("/acme/tiny/resolve/{}/model.safetensors", hub.commit("acme/tiny", "main"));
    gate.set_policy(&format!(
        "{POLICY}\n[[deny]]\nname = \"withdrawn\"\nrepo = \"acme/tiny\"\nreason = \"SEC-9: backdoor\"\n"
    ))
    .unwrap();
    for url in [FILE, &sha, "/api/models/acme/tiny", "/api/models/acme/tiny/tree/main"] {
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 403, "{url}");
        assert!(answer.header("x-error-message").contains("SEC-9: backdoor"), "{url}: {:?}", answer.headers);
    }
    assert_eq!(gate.get("/api/models").await.json(), serde_json::json!([]));
    hub.stop().await;
    gate.set_policy(POLICY).unwrap();
    assert_eq!(gate.get(FILE).await.status, 200, "and served again, from the store");
}

/// What a git file's content is shows at the end of its fill. That refusal says whom to ask, too.
#[tokio::test]
async fn content_that_is_denied_is_refused_at_the_end_of_its_fill_with_whom_to_ask() {
    let (hub, gate) = world().await;
    let digest = hub.sha256("acme/tiny", "main", "config.json");
    gate.set_policy(&format!("{POLICY}\n[[deny]]\nsha256 = \"{digest}\"\nreason = \"SEC-9: poisoned\"\n")).unwrap();
    let answer = gate.get("/acme/tiny/resolve/main/config.json").await;
    let why = answer.header("x-error-message");
    assert_eq!(answer.status, 403, "{why}");
    assert!(why.contains("SEC-9: poisoned") && why.ends_with("Contact: ask@example.com"), "{why}");
}

/// A file that is hidden from now on is gone from listings and from HEAD.
#[tokio::test]
async fn what_is_hidden_later_is_hidden() {
    let (_hub, gate) = world().await;
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 200);
    gate.set_policy(&POLICY.replace("[\"*.pkl\", ", "[\"*.json\", ")).unwrap();
    assert_eq!(gate.get("/acme/tiny/resolve/main/config.json").await.status, 404);
    assert!(!gate.get("/api/models/acme/tiny/tree/main").await.text().contains("config.json"));
}

#[tokio::test]
async fn an_approval_that_has_ended_is_over_and_one_that_ends_soon_warns() {
    let (hub, gate) = world().await;
    assert_eq!(gate.get(FILE).await.status, 200);
    let until = |day: &str| POLICY.replacen("repo = \"acme/*\"", &format!("repo = \"acme/*\"\nexpires = \"{day}\""), 1);
    gate.set_policy(&until("2020-01-31")).unwrap();
    let over = gate.get(FILE).await;
    assert_eq!(over.status, 403);
    assert!(over.header("x-error-message").contains("ended after 2020-01-31"), "{:?}", over.headers);
    let soon = (time::OffsetDateTime::now_utc() + time::Duration::days(7)).date().to_string();
    gate.set_policy(&until(&soon)).unwrap();
    let answer = gate.get(FILE).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("x-hf-warning").contains(&soon), "{:?}", answer.headers);
    assert!(gate.get("/api/models/acme/tiny").await.header("x-hf-warning").contains(&soon));
    hub.stop().await;
}

/// A bad file is refused whole: the old policy stays, and readyz says so, by file and line.
#[tokio::test]
async fn a_bad_policy_leaves_the_old_one_and_readyz_says_so() {
    let (_hub, gate) = world().await;
    let digest = gate.get("/-/readyz").await.json()["policy_sha256"].clone();
    let problem = gate.set_policy(&format!("{POLICY}\n[[allow]]\nrepoo = \"other/*\"\n")).unwrap_err();
    assert!(problem.to_string().contains("repoo"), "{problem}");
    assert_eq!(gate.get(FILE).await.status, 200);
    assert_eq!(gate.get("/other/model/resolve/main/a").await.status, 403);
    let ready = gate.get("/-/readyz").await;
    let said = ready.json();
    assert_eq!((ready.status.as_u16(), &said["policy_sha256"]), (200, &digest));
    let error = said["policy_error"].as_str().unwrap();
    assert!(error.contains("policy.toml") && error.contains("repoo"), "{error}");
    assert!(!said["degraded"].as_array().unwrap().is_empty());

    gate.set_policy(&format!("{POLICY}\n")).unwrap();
    let mended = gate.get("/-/readyz").await.json();
    assert!(mended["policy_error"].is_null() && mended["policy_sha256"] != digest, "{mended}");
}
