//! Files as a whole: headers, etags, lengths, `/raw/` and `resolve-cache`.

use hub_standin::{Content, Fault, FaultKind, Gzip, NewCommit, RepoBuilder, Standin};

use super::{world, world_with};
use crate::support::{client::Answer, gateway::TestGateway};

/// All headers but those that differ from one answer to the next.
fn lasting(answer: &Answer) -> Vec<(String, String)> {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    headers
}

/// Traps 1, 8: an answer to HEAD that says `Content-Length: 0` makes clients store an empty file.
#[tokio::test]
async fn head_has_the_status_and_headers_of_get_and_the_length_of_its_body() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    for at in
        [format!("/acme/tiny/resolve/{commit}"), "/acme/tiny/resolve/main".into(), format!("/acme/tiny/raw/{commit}")]
    {
        for file in ["README.md", "model.safetensors", "empty.txt", "sub/dir/weights.bin", "nowhere.txt"] {
            let url = format!("{at}/{file}");
            let cold = gate.ask("HEAD", &url, &[("accept-encoding", "gzip, deflate, br")]).await;
            let get = gate.ask("GET", &url, &[("accept-encoding", "gzip, deflate, br")]).await;
            let warm = gate.ask("HEAD", &url, &[("accept-encoding", "gzip, deflate, br")]).await;
            for head in [&cold, &warm] {
                assert_eq!(head.status, get.status, "{url}");
                assert_eq!(lasting(head), lasting(&get), "{url}");
                assert!(head.body.is_empty(), "{url}");
            }
            assert_eq!(get.header("content-length"), get.body.len().to_string(), "{url}");
            assert_eq!(get.header("content-encoding"), "", "{url}");
            assert_eq!(get.headers.get_all("content-length").iter().count(), 1, "{url}");
        }
    }
}

/// Traps 7, 48: the etag is the name of a client's cached file, so it is the content's own, strong and quoted.
#[tokio::test]
async fn the_etag_of_an_lfs_file_is_its_sha256_and_that_of_a_git_file_its_git_id() {
    let (hub, gate) = world().await;
    let commit = hub.commit("acme/tiny", "main");
    for (file, linked) in
        [("model.safetensors", true), ("sub/dir/weights.bin", true), ("config.json", false), ("empty.txt", false)]
    {
        let etag = format!("\"{}\"", hub.etag("acme/tiny", "main", file));
        if linked {
            assert_eq!(etag, format!("\"{}\"", hub.sha256("acme/tiny", "main", file)));
        }
        for revision in ["main", &commit] {
            let answer = gate.head(&format!("/acme/tiny/resolve/{revision}/{file}")).await;
            assert_eq!(answer.header("etag"), etag, "{file}");
            assert_eq!(answer.header("x-repo-commit"), commit, "{file}");
            let size = hub.bytes("acme/tiny", "main", file).len().to_string();
            let expected = if linked { (etag.as_str(), size.as_str()) } else { ("", "") };
            assert_eq!((answer.header("x-linked-etag"), answer.header("x-linked-size")), expected, "{file}");
        }
    }
}

/// Trap 9: a Hub that compresses text unless it is asked for identity would have its gzip stored.
#[tokio::test]
async fn the_origin_is_asked_for_identity_and_its_bytes_are_the_file() {
    let text = "a line that is easily compressed\n".repeat(200);
    let repo = RepoBuilder::model("acme/text")
        .commit(NewCommit::new("one").file("README.md", "---\nlicense: mit\n---\n").file("long.txt", text.clone()));
    let hub = Standin::builder().gzip(Gzip::UnlessIdentity).repo(repo).start().await;
    let gate = TestGateway::before(&hub).await;
    let answer = gate.get_with("/acme/text/resolve/main/long.txt", &[("accept-encoding", "gzip")]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, text));
    for request in hub.requests("GET *long.txt") {
        assert_eq!(request.header("accept-encoding"), Some("identity"), "{}", request.target);
    }
}

/// `/raw/` does not follow an LFS pointer, and its etag is the pointer's git id.
#[tokio::test]
async fn raw_is_what_git_has() {
    let (hub, gate) = world().await;
    for (file, kind) in [("model.safetensors", "pointer"), ("config.json", "file"), ("empty.txt", "file")] {
        let ours = gate.get(&format!("/acme/tiny/raw/main/{file}")).await;
        let theirs = crate::support::client::Client::new(hub.hub_url());
        let theirs = theirs.get(&format!("/acme/tiny/raw/main/{file}")).await.unwrap();
        assert_eq!((ours.status.as_u16(), ours.text()), (200, theirs.text()), "{kind} {file}");
        assert_eq!(ours.header("etag"), theirs.header("etag"), "{file}");
        assert_eq!(ours.header("content-length"), ours.body.len().to_string(), "{file}");
        assert_eq!(ours.header("x-linked-size"), "", "{file}");
    }
}

/// A part of a pointer is a part like any other.
#[tokio::test]
async fn raw_serves_ranges_of_the_pointer() {
    let (_hub, gate) = world().await;
    let whole = gate.get("/acme/tiny/raw/main/model.safetensors").await.body;
    let part = gate.get_with("/acme/tiny/raw/main/model.safetensors", &[("range", "bytes=8-22")]).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &whole[8..23]));
    assert_eq!(part.header("content-range"), format!("bytes 8-22/{}", whole.len()));
}

/// 0.x clients follow the Hub's own redirect and drop its query; resolve-cache must not need it.
#[tokio::test]
async fn resolve_cache_answers_with_and_without_its_query() {
    let (hub, gate) = world().await;
    let (model, data) = (hub.commit("acme/tiny", "main"), hub.commit("datasets/acme/table", "main"));
    let etag = hub.etag("acme/tiny", "main", "config.json");
    for (url, repo, file) in [
        (format!("/api/resolve-cache/models/acme/tiny/{model}/config.json"), "acme/tiny", "config.json"),
        (
            format!(
                "/api/resolve-cache/models/acme/tiny/{model}/config.json?%2Facme%2Ftiny%2Fresolve%2Fmain%2Fconfig.json=&etag=%22{etag}%22"
            ),
            "acme/tiny",
            "config.json",
        ),
        (
            format!("/api/resolve-cache/datasets/acme/table/{data}/data/train.csv"),
            "datasets/acme/table",
            "data/train.csv",
        ),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = gate.ask(method, &url, &[]).await;
            assert_eq!(answer.status, 200, "{method} {url}: {}", answer.text());
            assert_eq!(answer.header("etag"), format!("\"{}\"", hub.etag(repo, "main", file)));
            if method == "GET" {
                assert_eq!(answer.body, hub.bytes(repo, "main", file));
            }
        }
    }
}

/// Only the name under which a browser saves differs, not the bytes or their etag.
#[tokio::test]
async fn download_true_is_the_same_file_to_be_saved() {
    let (_hub, gate) = world().await;
    let plain = gate.get("/acme/tiny/resolve/main/config.json").await;
    let saved = gate.get("/acme/tiny/resolve/main/config.json?download=true").await;
    assert_eq!((&saved.body, saved.header("etag")), (&plain.body, plain.header("etag")));
    assert!(plain.header("content-disposition").starts_with("inline;"), "{:?}", plain.headers);
    assert!(saved.header("content-disposition").starts_with("attachment;"), "{:?}", saved.headers);
    let bare = gate.get("/acme/tiny/resolve/main/config.json?noContentDisposition=1").await;
    assert_eq!((bare.header("content-disposition"), &bare.body), ("", &plain.body));
}

/// Trap 49: JavaScript keeps the redirected URL when it sees a CDN's `X-Cache`.
#[tokio::test]
async fn headers_of_the_origin_and_its_cdn_are_not_passed_on() {
    let (hub, gate) = world().await;
    for (name, value) in [
        ("x-cache", "Hit from cloudfront"),
        ("x-amz-cf-id", "abc"),
        ("server", "cdn"),
        ("set-cookie", "a=b"),
        ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ] {
        hub.fault(Fault::new(FaultKind::SetHeader { name: name.into(), value: value.into() }));
    }
    for file in ["model.safetensors", "config.json"] {
        for (when, answer) in [
            ("cold", gate.get(&format!("/acme/tiny/resolve/main/{file}")).await),
            ("warm", gate.get(&format!("/acme/tiny/resolve/main/{file}")).await),
        ] {
            assert_eq!(answer.status, 200);
            for name in ["x-cache", "x-amz-cf-id", "server", "set-cookie", "last-modified", "via"] {
                assert_eq!(answer.header(name), "", "{when} {file}: {name}");
            }
        }
    }
}

/// Trap 38: clients refuse an announced size over 50 GB on plain HTTP.
#[tokio::test]
async fn a_size_over_50_gb_is_left_out_for_clients_that_then_go_on_and_explained_to_the_others() {
    const GROWN: u64 = 60_000_000_000;
    let repo = RepoBuilder::model("acme/big").commit(
        NewCommit::new("one")
            .file("README.md", "---\nlicense: mit\n---\n")
            .lfs("model.safetensors", Content::generated(1000, 3)),
    );
    let hub = Standin::builder().repo(repo).start().await;
    for path in ["*/tree/*", "*/revision/*", "*/paths-info/*", "/api/models/acme/big"] {
        hub.fault(Fault::new(FaultKind::LieSize { by: i64::try_from(GROWN).unwrap() }).path(path));
    }
    let gate = TestGateway::before(&hub).await;
    let commit = hub.commit("acme/big", "main");
    let grown = (GROWN + 1000).to_string();
    for url in
        ["/acme/big/resolve/main/model.safetensors".to_owned(), format!("/acme/big/resolve/{commit}/model.safetensors")]
    {
        let head = async |agent: &str| gate.ask("HEAD", &url, &[("user-agent", agent)]).await;
        let new = head("unknown/None; hf_hub/2.4.0; python/3.11.2").await;
        assert!(matches!(new.status.as_u16(), 200 | 307), "{:?}", new.headers);
        assert_eq!(new.header("x-linked-size"), "");
        if new.status == 200 {
            assert_eq!(new.header("content-length"), "");
        }
        let old = head("unknown/None; hf_hub/0.36.2; python/3.11.2").await;
        assert_eq!((old.status.as_u16(), old.header("x-error-code")), (403, "GatedRepo"));
        assert!(old.header("x-error-message").contains("50 GB"), "{:?}", old.headers);
        let curl = head("curl/8.14.1").await;
        assert_eq!(curl.header("x-linked-size"), grown);
    }
}

/// Data sets and spaces have their own paths; what the query says of nothing that we know is ignored.
#[tokio::test]
async fn data_sets_and_spaces_are_served_at_their_own_paths() {
    let (hub, gate) = world().await;
    for (repo, file) in [("datasets/acme/table", "data/train.csv"), ("spaces/acme/demo", "index.html")] {
        let commit = hub.commit(repo, "main");
        let hop = gate.ask("GET", &format!("/{repo}/resolve/main/{file}?unknown=1&_=2"), &[]).await;
        assert_eq!(hop.header("location"), format!("/{repo}/resolve/{commit}/{file}?unknown=1&_=2"));
        let there = gate.ask("GET", hop.header("location"), &[]).await;
        assert_eq!((there.status.as_u16(), &there.body[..]), (200, &hub.bytes(repo, "main", file)[..]), "{repo}");
        let info = gate.get(&format!("/api/{repo}?unknown=1")).await.json();
        assert_eq!(
            (info["id"].as_str(), info["sha"].as_str()),
            (repo.split_once('/').map(|(_, id)| id), Some(&*commit))
        );
        assert!(gate.get(&format!("/api/{repo}/refs")).await.json()["branches"].is_array());
        assert_eq!(gate.get(&format!("/api/{repo}/commits/main?limit=1")).await.json()[0]["id"], commit);
        assert_eq!(gate.get(&format!("/api/{repo}/auth-check")).await.status, 200);
    }
    // The names of models and of data sets do not mix.
    assert_eq!(gate.get("/acme/table/resolve/main/README.md").await.status, 404);
}

/// What HEAD says of a file is known without fetching it.
#[tokio::test]
async fn head_fetches_no_file_and_every_file_is_fetched_once() {
    let (hub, gate) = world_with("").await;
    for _ in 0..3 {
        assert_eq!(gate.head("/acme/tiny/resolve/main/sub/dir/weights.bin").await.status, 200);
    }
    assert_eq!(hub.counters().file_bytes("*weights.bin"), 0);
    for _ in 0..3 {
        assert_eq!(gate.get("/acme/tiny/resolve/main/sub/dir/weights.bin").await.body.len(), 3_000_000);
    }
    assert_eq!(hub.counters().file_bytes("*weights.bin"), 3_000_000);
}
