//! One file, one repo, many spellings of the URL.

use hub_standin::Standin;

use super::{world, world_under};
use crate::support::gateway::POLICY;

/// Trap 36: 0.23, Rust 0.x and datasets send `//` when their endpoint ends in a slash.
#[tokio::test]
async fn leading_slashes_are_one() {
    let (hub, gate) = world().await;
    for path in ["//acme/tiny/resolve/main/config.json", "///acme/tiny/resolve/main/config.json"] {
        let hop = gate.ask("GET", path, &[]).await;
        assert_eq!(hop.status, 307, "{path}");
        assert!(hop.header("location").starts_with("/acme/"), "{path}: {}", hop.header("location"));
        assert_eq!(gate.get(path).await.body, hub.bytes("acme/tiny", "main", "config.json"));
    }
    assert_eq!(gate.get("//api/models/acme/tiny").await.json()["id"], "acme/tiny");
    assert_eq!(gate.get("//datasets/acme/table/resolve/main/README.md").await.status, 200);
}

/// Traps 33, 50: a path is decoded once, after it was split; `#`, blanks and letters beyond ASCII come encoded.
#[tokio::test]
async fn awkward_file_names_are_found_in_every_encoding() {
    let (hub, gate) = world().await;
    let name = "sub dir/filé #1 100%.txt";
    let content = hub.bytes("acme/tiny", "main", name);
    for spelled in ["sub%20dir/fil%C3%A9%20%231%20100%25.txt", "sub%20dir%2Ffil%c3%a9%20%231%20100%25.txt"] {
        for at in ["/acme/tiny/resolve/main", "/acme/tiny/raw/main"] {
            let answer = gate.get(&format!("{at}/{spelled}")).await;
            assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &content[..]), "{at}/{spelled}");
        }
        let hop = gate.ask("GET", &format!("/acme/tiny/resolve/main/{spelled}"), &[]).await;
        assert!(hop.header("location").ends_with("/sub%20dir/fil%C3%A9%20%231%20100%25.txt"), "{:?}", hop.headers);
    }
    let disposition = gate.get("/acme/tiny/resolve/main/sub%20dir/fil%C3%A9%20%231%20100%25.txt").await;
    assert!(
        disposition.header("content-disposition").contains("filename*=UTF-8''fil%C3%A9"),
        "{:?}",
        disposition.headers
    );
    // Decoded twice it would be another name.
    assert_eq!(gate.get("/acme/tiny/resolve/main/config%252Ejson").await.status, 404);
}

/// Trap 33: Python writes a folder of the tree as one segment, JavaScript as several.
#[tokio::test]
async fn folders_are_listed_by_both_encodings_of_their_path() {
    let (_hub, gate) = world().await;
    let mut answers = Vec::new();
    for spelled in ["sub%2Fdir", "sub/dir", "sub/dir/"] {
        let answer = gate.get(&format!("/api/models/acme/tiny/tree/main/{spelled}")).await;
        assert_eq!(answer.status, 200, "{spelled}: {}", answer.text());
        answers.push(answer.json());
    }
    let paths: Vec<_> = answers[0].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["sub/dir/notes.txt", "sub/dir/weights.bin"]);
    assert!(answers.iter().all(|answer| answer == &answers[0]));
    let blank = gate.get("/api/models/acme/tiny/tree/main/sub%20dir").await.json();
    assert_eq!(blank[0]["path"], "sub dir/filé #1 100%.txt");
}

/// A repo in another letter case is the same repo, stored once under its canonical name.
#[tokio::test]
async fn another_letter_case_is_the_same_repo() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    let hop = gate.ask("HEAD", "/Acme/TINY/resolve/main/config.json", &[]).await;
    assert_eq!(
        (hop.status.as_u16(), hop.header("location")),
        (307, &*format!("/Acme/TINY/resolve/{commit}/config.json"))
    );
    let there = gate.get(&format!("/Acme/Tiny/resolve/{commit}/model.safetensors")).await;
    assert_eq!(there.body, hub.bytes("acme/tiny", "main", "model.safetensors"));
    assert_eq!(gate.get("/api/models/ACME/tiny").await.json()["id"], "acme/tiny");
    assert_eq!(gate.get("/acme/tiny/resolve/main/model.safetensors").await.status, 200);
    assert_eq!(hub.counters().file_bytes("acme/tiny/model.safetensors"), there.body.len() as u64);
}

/// A legacy id of one label leads to the repo that it became; both names are put to policy.
#[tokio::test]
async fn a_legacy_id_of_one_label_leads_to_its_repo() {
    let (hub, gate) = world_under(&format!("{POLICY}\n[[allow]]\nname = \"legacy\"\nrepo = \"tiny\"\n")).await;
    let commit = hub.commit("acme/tiny", "main");
    let hop = gate.ask("HEAD", "/tiny/resolve/main/config.json", &[]).await;
    assert_eq!((hop.status.as_u16(), hop.header("location")), (307, &*format!("/tiny/resolve/{commit}/config.json")));
    assert_eq!(gate.get("/tiny/resolve/main/config.json").await.body, hub.bytes("acme/tiny", "main", "config.json"));
    let info = gate.get("/api/models/tiny").await;
    assert_eq!(info.json()["id"], "acme/tiny");
    for url in ["/api/models/tiny/revision/main", "/api/models/tiny/tree/main", "/api/models/tiny/commits/main"] {
        assert_eq!(gate.get(url).await.header("x-repo-commit"), commit, "{url}");
    }
    // Two readings: the repo `tiny/refs`, or the refs of `tiny`.
    for url in ["/api/models/tiny/refs", "/api/models/tiny/refs?include_prs=1"] {
        let refs = gate.get(url).await;
        assert_eq!(refs.status, 200, "{url}: {}", refs.text());
        assert!(
            refs.json()["branches"].as_array().unwrap().iter().any(|branch| branch["targetCommit"] == commit.as_str()),
            "{url}"
        );
    }
    assert_eq!(gate.get("/api/models/tiny/auth-check").await.status, 200);
}

/// The reading that no rule names is not asked upstream, and the refusal is about the repo that was meant.
#[tokio::test]
async fn of_two_readings_the_one_that_policy_names_is_taken() {
    let hub = Standin::builder().fixtures().start().await;
    let (_hub, gate) = (&hub, crate::support::gateway::Setup::new().start(&hub).await);
    let refused = gate.get("/api/models/gpt2/refs").await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("x-error-message").contains("the model gpt2."), "{:?}", refused.headers);
    assert_eq!(hub.counters().requests, 0, "nothing is asked for what no rule names");
    // A rule that names the first reading: asked, not there, so the second.
    let wide =
        POLICY.replacen("repo = \"acme/*\"", "repo = \"*/*\"", 1) + "\n[[allow]]\nname = \"legacy\"\nrepo = \"tiny\"\n";
    gate.set_policy(&wide).unwrap();
    let refs = gate.get("/api/models/tiny/refs").await;
    assert_eq!(refs.status, 200, "{}", refs.text());
    assert!(refs.json()["branches"].is_array());
    let line = gate.access_line(&refs).await;
    assert_eq!((line["route"].as_str(), line["repo"].as_str()), (Some("refs"), Some("tiny")), "logged as what it was");
}

/// A path that would leave its repo is no file, and an id that no repo can have is no repo; never 400 or 500.
#[tokio::test]
async fn malformed_urls_get_the_hubs_own_404() {
    let (hub, gate) = world().await;
    let long = format!("/acme/tiny/resolve/main/{}", "a".repeat(2000));
    for (url, code) in [
        ("/acme/tiny/resolve/main/../../etc/passwd", "EntryNotFound"),
        ("/acme/tiny/resolve/main/%2e%2e/%2e%2e/etc/passwd", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a%00b", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a%5Cb", "EntryNotFound"),
        ("/acme/tiny/resolve/main/%ff%fe", "EntryNotFound"),
        ("/acme/tiny/resolve/main/a//b", "EntryNotFound"),
        (&long, "EntryNotFound"),
        ("/acme/a--b/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/acme/.hidden", "RepoNotFound"),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = gate.ask(method, url, &[]).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-error-code")), (404, code), "{method} {url}");
        }
    }
    assert_eq!(hub.counters().matching("* *passwd*"), 0);
}
