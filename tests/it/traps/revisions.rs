//! Every way to name a commit.

use hub_standin::{Class, Fault, FaultKind, NewCommit};

use super::{world, world_under};
use crate::support::gateway::{POLICY, eventually};

/// Traps 33, 34: `refs/pr/1` comes encoded from Python and raw from JavaScript, `HEAD` from JavaScript.
#[tokio::test]
async fn every_spelling_of_a_revision_means_its_commit() {
    let policy = POLICY.replace(
        "repo = \"acme/*\"\n\n[[allow]]\nname = \"acme-data\"\nrepo = \"acme/*\"",
        "repo = \"acme/*\"\nrevisions = [\"*\", \"*/*\", \"refs/pr/*\"]\n\n[[allow]]\nname = \"acme-data\"\nrepo = \"acme/*\"\n\
         revisions = [\"main\", \"refs/convert/parquet\"]",
    );
    let (hub, gate) = world_under(&policy).await;
    let sha = hub.commit("acme/tiny", "main");
    let short = &sha[..8];
    let upper = sha.to_uppercase();
    for (spelled, means) in [
        ("main", "main"),
        ("HEAD", "main"),
        ("v1.0", "v1.0"),
        ("dev", "dev"),
        ("feature%2Fx", "feature/x"),
        ("refs%2Fpr%2F1", "refs/pr/1"),
        ("refs/pr/1", "refs/pr/1"),
        (short, "main"),
        (&sha, "main"),
        (&upper, "main"),
    ] {
        let commit = hub.commit("acme/tiny", means);
        let file = gate.get(&format!("/acme/tiny/resolve/{spelled}/config.json")).await;
        assert_eq!(file.status, 200, "{spelled}: {}", file.text());
        assert_eq!(file.header("x-repo-commit"), commit, "{spelled}");
        assert_eq!(file.body, hub.bytes("acme/tiny", means, "config.json"), "{spelled}");
        let info = gate.get(&format!("/api/models/acme/tiny/revision/{spelled}")).await;
        assert_eq!(info.json()["sha"], commit, "{spelled}");
        let tree = gate.get(&format!("/api/models/acme/tiny/tree/{spelled}?recursive=true")).await;
        assert_eq!((tree.status.as_u16(), tree.header("x-repo-commit")), (200, &*commit), "{spelled}");
        let commits = gate.get(&format!("/api/models/acme/tiny/commits/{spelled}")).await;
        assert_eq!(commits.json()[0]["id"], commit, "{spelled}");
        let paths = gate
            .post(
                &format!("/api/models/acme/tiny/paths-info/{spelled}"),
                "application/json",
                "{\"paths\":[\"config.json\"]}",
            )
            .await;
        assert_eq!(paths.header("x-repo-commit"), commit, "{spelled}");
    }
    let converted = hub.commit("datasets/acme/table", "refs/convert/parquet");
    for spelled in ["refs%2Fconvert%2Fparquet", "refs/convert/parquet"] {
        let file = gate.get(&format!("/datasets/acme/table/resolve/{spelled}/default/train/0000.parquet")).await;
        assert_eq!((file.status.as_u16(), file.header("x-repo-commit")), (200, &*converted), "{spelled}");
    }
}

/// Anyone can open a pull request on an approved repo: its commits have a sha, and are not approved by that.
#[tokio::test]
async fn the_commit_of_a_pull_request_is_refused_by_its_name_and_by_its_sha() {
    let (hub, gate) = world().await;
    let sha = hub.commit("acme/tiny", "refs/pr/1");
    for spelled in ["refs%2Fpr%2F1", "refs/pr/1", &sha, &sha[..9], &sha.to_uppercase()] {
        for url in [
            format!("/acme/tiny/resolve/{spelled}/config.json"),
            format!("/acme/tiny/raw/{spelled}/config.json"),
            format!("/api/models/acme/tiny/revision/{spelled}"),
            format!("/api/models/acme/tiny/tree/{spelled}"),
            format!("/api/models/acme/tiny/commits/{spelled}"),
        ] {
            let answer = gate.get(&url).await;
            assert_eq!(answer.status, 403, "{url}: {}", answer.text());
            assert!(answer.header("x-error-message").contains("policy"), "{url}: {:?}", answer.headers);
        }
    }
    let cached = gate.get(&format!("/api/resolve-cache/models/acme/tiny/{sha}/config.json")).await;
    assert_eq!(cached.status, 403);
    assert_eq!(hub.counters().matching(&format!("GET /acme/tiny/resolve/{sha}/config.json")), 0);
}

/// `refs/convert/parquet` is listed as `parquet`, and is no branch of that name.
#[tokio::test]
async fn the_commit_of_a_converted_copy_is_refused_by_its_name_and_by_its_sha() {
    let (hub, gate) = world().await;
    let sha = hub.commit("datasets/acme/table", "refs/convert/parquet");
    for spelled in ["refs%2Fconvert%2Fparquet", &sha] {
        let answer = gate.get(&format!("/datasets/acme/table/resolve/{spelled}/default/train/0000.parquet")).await;
        assert_eq!(answer.status, 403, "{spelled}: {}", answer.text());
    }
    assert_eq!(gate.get("/api/datasets/acme/table/refs").await.json()["converts"], serde_json::json!([]));
}

/// An older commit of an allowed branch is as approved as the branch is.
#[tokio::test]
async fn a_commit_in_the_history_of_an_allowed_branch_is_served() {
    let (hub, gate) = world().await;
    let old = hub.commit("acme/tiny", "main");
    hub.push("acme/tiny", "main", NewCommit::new("four").file("config.json", "{}\n"));
    hub.push("acme/tiny", "main", NewCommit::new("five").file("more.txt", "more\n"));
    let answer = gate.ask("GET", &format!("/acme/tiny/resolve/{old}/config.json"), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-repo-commit")), (200, &*old));
}

#[tokio::test]
async fn a_pin_is_what_every_branch_means_and_the_only_commit_there_is() {
    let (hub, _) = world().await;
    let pin = hub.commit("acme/tiny", "v1.0");
    let policy = format!("{POLICY}\n[[allow]]\nname = \"pinned\"\nrepo = \"acme/tiny\"\npin = \"{pin}\"\n");
    let gate = crate::support::gateway::Setup::new().policy(&policy).start(&hub).await;
    for revision in ["main", "v1.0", "dev", "HEAD", &pin, &pin[..8]] {
        let answer = gate.get(&format!("/acme/tiny/resolve/{revision}/config.json")).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-repo-commit")), (200, &*pin), "{revision}");
    }
    let main = hub.commit("acme/tiny", "main");
    let refused = gate.get(&format!("/acme/tiny/resolve/{main}/config.json")).await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-error-message").contains(&pin), "the refusal names the pin");
    assert_eq!(gate.get("/api/models/acme/tiny").await.json()["sha"], pin);
    // llama.cpp takes its commit from here.
    let refs = gate.get("/api/models/acme/tiny/refs").await.json();
    for list in ["branches", "tags"] {
        for found in refs[list].as_array().unwrap() {
            assert_eq!(found["targetCommit"], pin, "{found}");
        }
    }
    assert_eq!(gate.get("/api/models/acme/tiny/commits/main").await.json()[0]["id"], pin);
}

#[tokio::test]
async fn an_unknown_revision_is_the_hubs_own_error() {
    let (_hub, gate) = world().await;
    for (method, url) in [
        ("HEAD", "/acme/tiny/resolve/nowhere/config.json"),
        ("GET", "/acme/tiny/resolve/nowhere/config.json"),
        ("GET", "/api/models/acme/tiny/revision/nowhere"),
        ("GET", "/api/models/acme/tiny/tree/nowhere"),
        ("GET", "/acme/tiny/resolve/a..b/config.json"),
        ("GET", "/acme/tiny/resolve/%00/config.json"),
    ] {
        let answer = gate.ask(method, url, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, "RevisionNotFound"), "{url}");
        assert!(answer.header("x-error-message").starts_with("Invalid rev id"), "{url}: {:?}", answer.headers);
    }
}

fn policy_of(licenses: &str, revisions: &str) -> String {
    format!(
        "[licenses]\nallow = [{licenses}]\n[[allow]]\nname = \"acme\"\nrepo = \"acme/*\"\nrevisions = [{revisions}]\n"
    )
}

/// A branch that led to a commit under an earlier policy opens nothing once the policy doesn't allow it.
#[tokio::test]
async fn a_commit_that_only_an_earlier_policy_led_to_is_refused() {
    // The licence is refused, so that nothing of the commit is stored.
    let (hub, gate) = world_under(&policy_of("\"mit\"", "\"main\", \"dev\"")).await;
    hub.push("acme/tiny", "dev", NewCommit::new("on dev alone").file("config.json", "{}\n"));
    let sha = hub.commit("acme/tiny", "dev");
    let by_branch = gate.get("/acme/tiny/resolve/dev/config.json").await;
    assert!(by_branch.header("x-error-message").contains("licen"), "{:?}", by_branch.headers);

    gate.set_policy(&policy_of("\"apache-2.0\"", "\"main\"")).unwrap();
    let by_sha = gate.get(&format!("/acme/tiny/resolve/{sha}/config.json")).await;
    assert_eq!(by_sha.status, 403, "{}", by_sha.text());
    assert!(by_sha.header("x-error-message").contains("in the history of no allowed"), "{:?}", by_sha.headers);

    gate.set_policy(&policy_of("\"apache-2.0\"", "\"main\", \"dev\"")).unwrap();
    assert_eq!(gate.get(&format!("/acme/tiny/resolve/{sha}/config.json")).await.status, 200, "allowed again");
}

/// A rule may name its revisions by a pattern alone: what is asked of the repo as such is asked of one of those.
#[tokio::test]
async fn a_rule_without_main_answers_about_its_repo() {
    let (_hub, gate) = world_under(&policy_of("\"apache-2.0\"", "\"v*\"")).await;
    let refs = gate.get("/api/models/acme/tiny/refs").await;
    assert_eq!(refs.status, 200, "{}", refs.text());
    assert!(refs.text().contains("v1.0") && !refs.text().contains("refs/heads/main"), "{}", refs.text());
    assert_eq!(gate.get("/api/models/acme/tiny/auth-check").await.status, 200);
    assert_eq!(gate.get("/api/models/acme/tiny/revision/main").await.status, 403);
}

/// That nothing allowed leads to a commit is remembered for a moment, under this policy: a client that asks in a loop
/// doesn't spend the gateway's budget at the Hub.
#[tokio::test]
async fn a_commit_outside_of_all_histories_is_searched_for_once() {
    let (hub, gate) = world_under(&policy_of("\"apache-2.0\"", "\"main\"")).await;
    hub.push("acme/tiny", "dev", NewCommit::new("on dev alone").file("config.json", "{}\n"));
    let url = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "dev"));
    assert_eq!(gate.get(&url).await.status, 403);
    hub.reset_counters();
    for _ in 0..3 {
        let answer = gate.get(&url).await;
        assert!(answer.header("x-error-message").contains("in the history of no allowed"), "{:?}", answer.headers);
    }
    assert_eq!(hub.counters().requests, 0, "{:#?}", hub.counters().paths);
    gate.set_policy(&policy_of("\"apache-2.0\"", "\"main\", \"dev\"")).unwrap();
    assert_eq!(gate.get(&url).await.status, 200, "forgotten with the policy");
}

/// Two rules that look for one commit at the same time each look among their own branches.
#[tokio::test]
async fn a_search_under_one_rule_answers_nobody_under_another() {
    let (hub, gate) = world_under(&policy_of("\"apache-2.0\"", "\"main\", \"dev\"")).await;
    hub.push("acme/tiny", "dev", NewCommit::new("older").file("config.json", "{}\n"));
    let url = format!("/acme/tiny/resolve/{}/config.json", hub.commit("acme/tiny", "dev"));
    hub.push("acme/tiny", "dev", NewCommit::new("newer").file("config.json", "[]\n"));
    assert_eq!(gate.get("/api/models/acme/tiny").await.status, 200, "its name is known");
    let held = hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }).class(Class::Refs));
    let before = hub.count(Class::Refs);
    let searches = async |wanted| eventually("a search", async || hub.count(Class::Refs) >= before + wanted).await;
    let (wide, narrow, ()) = tokio::join!(
        gate.get(&url),
        async {
            searches(1).await;
            gate.set_policy(&policy_of("\"apache-2.0\"", "\"main\"")).unwrap();
            gate.get(&url).await
        },
        async {
            searches(2).await;
            hub.clear_fault(held);
        }
    );
    assert_eq!((wide.status.as_u16(), narrow.status.as_u16()), (200, 403), "{} {}", wide.text(), narrow.text());
}
