//! Lists in pages, and lists of repos, branches and commits.

use hub_standin::{NewCommit, RepoBuilder, Standin};
use serde_json::Value;

use super::{world, world_under, world_with};
use crate::support::{
    client::Answer,
    gateway::{POLICY, TestGateway},
};

/// The URL of the next page, as Python's `requests` and js's regex find it.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let (url, rel) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(rel, "; rel=\"next\"");
    Some(url.to_owned())
}

fn paths(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
}

/// Traps 14, 15: a relative Link crashes Python and makes JavaScript stop without a word; one to the Hub leaves the gateway.
#[tokio::test]
async fn a_tree_in_pages_is_the_whole_tree_by_absolute_links_to_the_gateway() {
    let (hub, gate) = world().await;
    let whole = gate.get("/api/models/acme/tiny/tree/main?recursive=true").await;
    assert_eq!(next(&whole), None, "one page, unless pages are asked for");
    for limit in [1, 3, 5, 100] {
        let mut url = format!("/api/models/acme/tiny/tree/main?recursive=true&limit={limit}");
        let mut found = Vec::new();
        let mut pages = 0;
        loop {
            let page = gate.get(&url).await;
            assert_eq!(page.status, 200, "{url}");
            let list = paths(&page.json());
            assert!(list.len() <= limit);
            found.extend(list);
            pages += 1;
            let Some(link) = next(&page) else { break };
            // The branch may move meanwhile: the pages are of one commit.
            assert!(link.contains(&hub.commit("acme/tiny", "main")), "{link}");
            url = link.strip_prefix(&gate.url).unwrap_or_else(|| panic!("not ours: {link}")).to_owned();
            assert!(pages < 50);
        }
        assert_eq!(found, paths(&whole.json()), "limit {limit}");
    }
}

/// A client that makes its own cursors goes on until a page is empty.
#[tokio::test]
async fn a_cursor_past_the_end_is_an_empty_page() {
    let (_hub, gate) = world().await;
    for cursor in ["zzzz", "%7E%7E", "ZmlsZQ%3D%3D~", "~"] {
        let answer = gate.get(&format!("/api/models/acme/tiny/tree/main?recursive=true&cursor=zzzz{cursor}")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "[]".to_owned()), "{cursor}");
    }
}

/// PROTOCOL 4.4: text-generation-webui makes the Hub's own cursors from the last path, and goes on until a page is empty.
#[tokio::test]
async fn a_client_that_makes_the_hubs_cursors_comes_to_an_end() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (_hub, gate) = world().await;
    let url = "/api/models/acme/tiny/tree/main";
    let whole = paths(&gate.get(url).await.json());
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for round in 0.. {
        assert!(round < 5, "round and round: {found:?}");
        let page = paths(&gate.get(&format!("{url}?cursor={cursor}")).await.json());
        let Some(last) = page.last() else { break };
        let inner = STANDARD.encode(format!("{{\"file_name\":\"{last}\"}}"));
        cursor = STANDARD.encode(format!("{inner}:50")).replace('=', "%3D");
        found.extend(page);
    }
    assert_eq!(found, whole);
}

/// Trap 14: the scheme and host are those that the client sees, through a trusted proxy too.
#[tokio::test]
async fn links_have_the_scheme_and_host_that_the_client_sees() {
    let url = "/api/models/acme/tiny/tree/main?recursive=true&limit=2";
    let forwarded = [("x-forwarded-proto", "https"), ("x-forwarded-host", "models.example.com")];
    let (_hub, gate) = world_with("server.trusted_proxies = [\"127.0.0.1\"]").await;
    let link = next(&gate.get_with(url, &forwarded).await).unwrap();
    assert!(link.starts_with("https://models.example.com/api/models/acme/tiny/tree/"), "{link}");
    let (_hub, gate) = world().await;
    let link = next(&gate.get_with(url, &forwarded).await).unwrap();
    assert!(link.starts_with(&gate.url), "a stranger's word is not believed: {link}");
}

/// Trap 41: llama.cpp asks for the refs before every download.
#[tokio::test]
async fn refs_are_those_that_policy_allows() {
    let (hub, gate) = world().await;
    let refs = gate.get("/api/models/acme/tiny/refs").await.json();
    let main = hub.commit("acme/tiny", "main");
    assert!(
        refs["branches"]
            .as_array()
            .unwrap()
            .contains(&serde_json::json!({"name": "main", "ref": "refs/heads/main", "targetCommit": main}))
    );
    assert_eq!(refs["tags"][0]["name"], "v1.0");
    assert_eq!(refs["converts"], serde_json::json!([]));
    assert!(refs.get("pullRequests").is_none());
    let with_prs = gate.get("/api/models/acme/tiny/refs?include_prs=1").await.json();
    assert_eq!(with_prs["pullRequests"], serde_json::json!([]), "allowed by name only");

    let (_hub, gate) = world_under(&POLICY.replacen(
        "repo = \"acme/*\"",
        "repo = \"acme/*\"\nrevisions = [\"main\", \"refs/pr/1\"]",
        1,
    ))
    .await;
    let refs = gate.get("/api/models/acme/tiny/refs?include_prs=True").await.json();
    assert_eq!((refs["branches"].as_array().unwrap().len(), refs["tags"].as_array().unwrap().len()), (1, 0));
    assert_eq!(refs["pullRequests"][0]["ref"], "refs/pr/1");
    hub.stop().await;
}

/// JavaScript counts commits by `X-Total-Count` of a page of one.
#[tokio::test]
async fn commits_come_in_pages_with_their_total() {
    let (hub, gate) = world().await;
    let whole = gate.get("/api/models/acme/tiny/commits/main").await;
    let list = whole.json();
    assert_eq!((list.as_array().unwrap().len(), whole.header("x-total-count")), (3, "3"));
    assert_eq!(list[0]["id"], hub.commit("acme/tiny", "main"));
    for key in ["id", "title", "message", "date", "authors"] {
        assert!(list[0].get(key).is_some(), "{key}");
    }
    let one = gate.get("/api/models/acme/tiny/commits/main?limit=1").await;
    assert_eq!((one.json().as_array().unwrap().len(), one.header("x-total-count")), (1, "3"));
    let mut link = next(&one).unwrap();
    let mut ids = vec![one.json()[0]["id"].clone()];
    loop {
        let page = gate.get(link.strip_prefix(&gate.url).unwrap()).await;
        ids.extend(page.json().as_array().unwrap().iter().map(|commit| commit["id"].clone()));
        match next(&page) {
            Some(more) => link = more,
            None => break,
        }
    }
    assert_eq!(ids, list.as_array().unwrap().iter().map(|commit| commit["id"].clone()).collect::<Vec<_>>());
}

/// A search finds what is stored and allowed, asks nobody, and shows nothing that policy refuses.
#[tokio::test]
async fn lists_of_repos_are_made_from_what_is_stored_and_allowed() {
    let (hub, gate) = world().await;
    assert_eq!(gate.get("/api/models").await.json(), serde_json::json!([]));
    for url in [
        "/acme/tiny/resolve/main/config.json",
        "/acme/nested/resolve/main/config.json",
        "/acme/copy/resolve/main/README.md",
    ] {
        assert_eq!(gate.get(url).await.status, 200);
    }
    assert_eq!(gate.get("/datasets/acme/table/resolve/main/README.md").await.status, 200);
    assert_eq!(gate.get("/acme/noncommercial/resolve/main/config.json").await.status, 403);
    hub.reset_counters();
    let ids = async |query: &str| {
        let list = gate.get(&format!("/api/models{query}")).await.json();
        let mut ids: Vec<String> =
            list.as_array().unwrap().iter().map(|info| info["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("").await, ["acme/copy", "acme/nested", "acme/tiny"]);
    assert_eq!(ids("?search=TIN").await, ["acme/tiny"]);
    assert_eq!(
        ids("?author=acme&search=e").await,
        ["acme/copy", "acme/nested", "acme/tiny"]
            .map(String::from)
            .into_iter()
            .filter(|id| id.contains('e'))
            .collect::<Vec<_>>()
    );
    assert_eq!(ids("?author=other").await, [""; 0]);
    assert_eq!(ids("?filter=license:mit").await, ["acme/nested"]);
    assert_eq!(ids("?filter=license:apache-2.0&filter=feature-extraction").await, ["acme/tiny"]);
    assert_eq!(ids("?limit=1").await.len(), 1);
    assert_eq!(gate.get("/api/datasets?search=table").await.json()[0]["id"], "acme/table");
    assert_eq!(hub.counters().requests, 0);

    let mut found = Vec::new();
    let mut url = "/api/models?limit=1".to_owned();
    loop {
        let page = gate.get(&url).await;
        found.extend(page.json().as_array().unwrap().iter().map(|info| info["id"].as_str().unwrap().to_owned()));
        let Some(link) = next(&page) else { break };
        url = link.strip_prefix(&gate.url).unwrap().to_owned();
        assert!(found.len() < 9);
    }
    assert_eq!(found, ["acme/copy", "acme/nested", "acme/tiny"]);
    // A licence that is no longer allowed takes its repos out of the list.
    gate.set_policy(&POLICY.replace("\"mit\", ", "")).unwrap();
    assert_eq!(ids("").await, ["acme/copy", "acme/tiny"]);
}

/// A refreshed branch shows in refs and commits, not only in files.
#[tokio::test]
async fn a_push_is_seen_in_every_listing() {
    let (hub, gate) = world_with("upstream.ref_ttl = \"0s\"").await;
    assert_eq!(gate.get("/api/models/acme/tiny").await.json()["sha"], hub.commit("acme/tiny", "main"));
    let new = hub.push("acme/tiny", "main", NewCommit::new("four").file("new.txt", "new\n"));
    assert_eq!(gate.get("/api/models/acme/tiny").await.json()["sha"], new);
    assert!(paths(&gate.get("/api/models/acme/tiny/tree/main").await.json()).contains(&"new.txt".to_owned()));
    assert_eq!(gate.get("/api/models/acme/tiny/commits/main").await.json()[0]["title"], "four");
}

/// Lists are sorted as the Hub sorts them, the latest or highest first, and in pages that fit together.
#[tokio::test]
async fn lists_of_repos_are_sorted_by_what_was_known_when_they_were_looked_at() {
    let (hub, gate) = world().await;
    for (repo, downloads) in [("acme/copy", 5), ("acme/nested", 1000), ("acme/tiny", 70)] {
        hub.update(repo, |repo| repo.downloads = downloads);

        assert_eq!(gate.get(&format!("/api/models/{repo}")).await.status, 200);
    }
    for (query, expected) in [
        ("", ["acme/copy", "acme/nested", "acme/tiny"]),
        ("sort=downloads&", ["acme/nested", "acme/tiny", "acme/copy"]),
        ("sort=nonsense&", ["acme/copy", "acme/nested", "acme/tiny"]),
    ] {
        for limit in [1, 2, 3, 100] {
            let (mut found, mut url) = (Vec::new(), format!("/api/models?{query}limit={limit}"));
            loop {
                let page = gate.get(&url).await;
                let list = page.json();
                found.extend(list.as_array().unwrap().iter().map(|info| info["id"].as_str().unwrap().to_owned()));
                let Some(link) = next(&page) else { break };
                assert!(found.len() < 4, "{link}");
                url = link.strip_prefix(&gate.url).unwrap().to_owned();
            }
            assert_eq!(found, expected, "{query} {limit}");
        }
    }
}

/// A history of more than one of the Hub's pages is counted and paged through as a whole.
#[tokio::test]
async fn a_long_history_is_whole() {
    const COMMITS: usize = 1203;
    let mut repo = RepoBuilder::model("acme/long");
    for n in 0..COMMITS {
        let commit = NewCommit::new(format!("{n}"));
        repo = repo.commit(if n == 0 { commit.file("README.md", "---\nlicense: mit\n---\n") } else { commit });
    }
    let hub = Standin::builder().repo(repo).start().await;
    let gate = TestGateway::before(&hub).await;
    let one = gate.get("/api/models/acme/long/commits/main?limit=1").await;
    assert_eq!((one.status.as_u16(), one.header("x-total-count")), (200, &*COMMITS.to_string()), "{}", one.text());
    let (mut titles, mut url) = (Vec::new(), "/api/models/acme/long/commits/main".to_owned());
    loop {
        let page = gate.get(&url).await;
        titles
            .extend(page.json().as_array().unwrap().iter().map(|commit| commit["title"].as_str().unwrap().to_owned()));
        let Some(link) = next(&page) else { break };
        url = link.strip_prefix(&gate.url).unwrap().to_owned();
    }
    assert_eq!(titles, (0..COMMITS).rev().map(|n| n.to_string()).collect::<Vec<_>>());
}
