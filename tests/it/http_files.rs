//! Files over real sockets: the header rules of PROTOCOL sections 3 and 16.

use http::Method;

use crate::support::asking::Asking;
use hub_standin::{Class, Fault, FaultKind, NewCommit};

const TINY: &str = "acme/tiny";

fn at(commit: &str, path: &str) -> String {
    format!("/{TINY}/resolve/{commit}/{path}")
}

#[tokio::test]
async fn a_branch_is_answered_by_a_relative_redirect_with_the_files_metadata_on_both_hops() {
    let gateway = Asking::start().await;
    let commit = gateway.commit(TINY);
    for (path, linked) in [("config.json", false), ("model.safetensors", true)] {
        let etag = gateway.hub.etag(TINY, "main", path);
        let size = gateway.hub.bytes(TINY, "main", path).len().to_string();
        let first = gateway.head(&at("main", path)).await;
        assert_eq!(first.status, 307);
        assert_eq!(first.header("location"), at(&commit, path));
        assert_eq!(first.header("x-repo-commit"), commit);
        assert_eq!(first.header("x-linked-etag"), format!("\"{etag}\""));
        // 0.x clients take Content-Length of a redirect for the file's, were it not for this.
        assert_eq!(first.header("x-linked-size"), size);
        assert_ne!(first.header("content-length"), "0");

        let head = gateway.head(first.header("location")).await;
        let get = gateway.get(first.header("location")).await;
        assert_eq!((head.status, get.status), (200, 200));
        for name in ["etag", "x-repo-commit", "content-length", "accept-ranges", "x-linked-size", "content-type"] {
            assert_eq!(head.header(name), get.header(name), "{name} differs between HEAD and GET");
        }
        assert_eq!(head.header("content-length"), size, "HEAD says the file's true length");
        assert_eq!(head.header("etag"), format!("\"{etag}\""), "strong and quoted");
        assert_eq!(head.headers.contains_key("x-linked-size"), linked);
        assert_eq!(head.header("accept-ranges"), "bytes");
        assert!(!head.headers.contains_key("location"), "Python follows Location on any status");
        assert_eq!(get.body, gateway.hub.bytes(TINY, "main", path));
        for name in head.headers.keys().chain(first.headers.keys()) {
            assert!(!name.as_str().contains("xet") && name != "link" && name != "x-cache", "{name}");
        }
    }
}

#[tokio::test]
async fn head_and_get_of_a_branch_that_moves_in_between_see_one_commit() {
    let gateway = Asking::with("upstream.ref_ttl = '0s'").await;
    let first = gateway.head(&at("main", "config.json")).await;
    let before = gateway.hub.bytes(TINY, "main", "config.json");
    gateway.hub.push(TINY, "main", NewCommit::new("Move").file("config.json", "{\"moved\": true}"));
    let get = gateway.get(first.header("location")).await;
    assert_eq!(get.body, before);
    assert_eq!(get.header("x-repo-commit"), first.header("x-repo-commit"));
    let again = gateway.head(&at("main", "config.json")).await;
    assert_ne!(again.header("x-repo-commit"), first.header("x-repo-commit"), "and the branch has moved");
}

#[tokio::test]
async fn a_redirect_keeps_the_query_the_spelling_of_the_path_and_the_prefix_of_public_url() {
    let gateway = Asking::with("server.public_url = 'https://hub.example.com/hf'").await;
    let commit = gateway.commit(TINY);
    let odd = "sub%20dir/fil%C3%A9%20%231%20100%25.txt";
    let expected = format!("/hf/{TINY}/resolve/{commit}/{odd}?download=true");
    for asked in
        [format!("/hf/{TINY}/resolve/main/{odd}?download=true"), format!("//{TINY}/resolve/main/{odd}?download=true")]
    {
        let reply = gateway.head(&asked).await;
        assert_eq!(reply.header("location"), expected, "{asked}");
    }
    let file = gateway.get(&expected).await;
    assert_eq!(file.text(), "A file with an awkward name.\n");
    let disposition = file.header("content-disposition");
    assert!(disposition.starts_with("attachment; filename*=UTF-8''fil%C3%A9%20%231%20100%25.txt;"), "{disposition}");
    let plain = gateway.head(&format!("/hf/{TINY}/resolve/{commit}/{odd}?noContentDisposition=1")).await;
    assert!(!plain.headers.contains_key("content-disposition"));
}

#[tokio::test]
async fn encoded_revisions_stay_one_revision() {
    let gateway = Asking::start().await;
    for (revision, asked) in [("feature/x", "feature%2Fx"), ("v1.0", "v1.0"), ("main", "HEAD")] {
        let reply = gateway.head(&at(asked, "config.json")).await;
        assert_eq!(reply.status, 307, "{asked}");
        assert_eq!(reply.header("x-repo-commit"), gateway.hub.commit(TINY, revision));
    }
}

#[tokio::test]
async fn ranges_are_206_clamped_to_the_file_or_416() {
    let gateway = Asking::start().await;
    let path = at(&gateway.commit(TINY), "model.safetensors");
    let whole = gateway.hub.bytes(TINY, "main", "model.safetensors");
    let size = whole.len();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=0-100000", 0, size),
        ("bytes=0-", 0, size),
        ("bytes=20000-", 20000, size),
        ("bytes=-7", size - 7, size),
    ] {
        let reply = gateway.get_with(&path, &[("range", range)]).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {start}-{}/{size}", end - 1), "{range}");
        assert_eq!(reply.header("content-length"), (end - start).to_string(), "{range}");
        assert_eq!(reply.body, whole[start..end], "{range}");
    }
    for range in ["bytes=999999-", "bytes=5-4", "bytes=0-1,5-6"] {
        let reply = gateway.get_with(&path, &[("range", range)]).await;
        assert_eq!((reply.status, reply.header("content-range")), (416, &*format!("bytes */{size}")), "{range}");
    }
    let other_unit = gateway.get_with(&path, &[("range", "lines=0-1")]).await;
    assert_eq!((other_unit.status, other_unit.body.len()), (200, size));
    let head = gateway.ask(Method::HEAD, &path, &[("range", "bytes=0-0")], "").await;
    assert_eq!((head.status, head.header("content-length")), (200, &*size.to_string()));
}

#[tokio::test]
async fn an_empty_file_with_a_range_is_200_with_a_content_range() {
    let gateway = Asking::start().await;
    let path = at(&gateway.commit(TINY), "empty.txt");
    let ranged = gateway.get_with(&path, &[("range", "bytes=0-0")]).await;
    assert_eq!((ranged.status, ranged.header("content-range"), ranged.body.len()), (200, "bytes */0", 0));
    let head = gateway.head(&path).await;
    assert_eq!((head.status, head.header("content-length")), (200, "0"));
    assert!(!gateway.get(&path).await.headers.contains_key("content-range"));
}

#[tokio::test]
async fn conditions_are_judged_by_the_etag() {
    let gateway = Asking::start().await;
    let path = at(&gateway.commit(TINY), "config.json");
    let etag = gateway.head(&path).await.header("etag").to_owned();
    let ask = async |name: &str, value: &str| gateway.get_with(&path, &[(name, value), ("range", "bytes=0-4")]).await;
    let same = ask("if-none-match", &etag).await;
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, &*etag));
    assert_eq!(ask("if-none-match", "\"other\"").await.status, 206);
    assert_eq!(ask("if-match", "\"other\"").await.status, 412);
    assert_eq!(ask("if-match", &etag).await.status, 206);
    assert_eq!(ask("if-range", &etag).await.status, 206);
    assert_eq!(ask("if-range", "\"other\"").await.status, 200);
}

#[tokio::test]
async fn raw_shows_the_pointer_of_an_lfs_file_and_the_bytes_of_others() {
    let gateway = Asking::start().await;
    let commit = gateway.commit(TINY);
    let sha256 = gateway.hub.sha256(TINY, "main", "model.safetensors");
    let pointer = gateway.get(&format!("/{TINY}/raw/{commit}/model.safetensors")).await;
    let size = gateway.hub.bytes(TINY, "main", "model.safetensors").len();
    assert_eq!(
        pointer.text(),
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
    );
    assert_eq!(pointer.header("content-length"), pointer.body.len().to_string());
    assert!(!pointer.headers.contains_key("x-linked-etag"));
    assert_eq!(pointer.header("etag").len(), 42, "the git id of the pointer, quoted");
    let git = gateway.get(&format!("/{TINY}/raw/{commit}/config.json")).await;
    assert_eq!(git.body, gateway.hub.bytes(TINY, "main", "config.json"));
    assert_eq!(
        gateway.head(&format!("/{TINY}/raw/main/config.json")).await.header("location"),
        format!("/{TINY}/raw/{commit}/config.json")
    );
}

#[tokio::test]
async fn resolve_cache_is_the_file_at_its_commit_with_or_without_the_query() {
    let gateway = Asking::start().await;
    let path = format!("/api/resolve-cache/models/{TINY}/{}/config.json", gateway.commit(TINY));
    for asked in [path.clone(), format!("{path}?%2Facme%2Ftiny%2Fresolve%2Fmain%2Fconfig.json=&etag=%22x%22")] {
        let reply = gateway.get(&asked).await;
        assert_eq!(reply.status, 200, "{asked}");
        assert_eq!(reply.body, gateway.hub.bytes(TINY, "main", "config.json"));
    }
}

#[tokio::test]
async fn what_a_client_would_accept_of_xet_changes_nothing() {
    let gateway = Asking::start().await;
    let path = at(&gateway.commit(TINY), "model.safetensors");
    let reply = gateway.get_with(&path, &[("accept", "application/vnd.xet-fileinfo+json, */*")]).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(reply.body, gateway.hub.bytes(TINY, "main", "model.safetensors"));
}

#[tokio::test]
async fn old_spellings_are_served_where_they_were_asked() {
    let gateway = Asking::start().await;
    let commit = gateway.commit(TINY);
    // `tiny` was the repo's name once; a client keeps the name it asked for.
    let reply = gateway.head("/tiny/resolve/main/config.json").await;
    assert_eq!((reply.status, reply.header("x-repo-commit")), (307, &*commit));
    let direct = gateway.get(reply.header("location")).await;
    assert_eq!(direct.status, 200, "{} must not lead round in a circle", reply.header("location"));
    assert_eq!(direct.body, gateway.hub.bytes(TINY, "main", "config.json"));
}

#[tokio::test]
async fn sizes_over_50_gb_are_left_out_for_clients_that_then_go_on_and_refused_to_those_that_never_would() {
    let gateway = Asking::start().await;
    let true_size = gateway.hub.bytes(TINY, "main", "model.safetensors").len();
    let size = 60_000_000_000_usize;
    // Nothing of the file is fetched here: what the origin says of its size is enough.
    let by = i64::try_from(size - true_size).unwrap();
    for class in [Class::Info, Class::Tree, Class::PathsInfo] {
        gateway.hub.fault(Fault::new(FaultKind::LieSize { by }).class(class));
    }
    let path = at(&gateway.commit(TINY), "model.safetensors");
    let head = async |agent: &str| gateway.ask(Method::HEAD, &path, &[("user-agent", agent)], "").await;
    let new = head("unknown/None; hf_hub/2.4.0; python/3.11").await;
    assert_eq!(new.status, 200);
    assert!(!new.headers.contains_key("content-length") && !new.headers.contains_key("x-linked-size"));
    for agent in ["unknown/None; hf_hub/0.23.5; python/3.11", "hf-hub/1.0.0", "curl/8"] {
        let fine = head(agent).await;
        assert_eq!((fine.status, fine.header("content-length")), (200, &*size.to_string()), "{agent}");
    }
    let refused = head("unknown/None; hf_hub/0.36.2; python/3.11").await;
    assert_eq!((refused.status, refused.header("x-error-code")), (403, "GatedRepo"));
    let message = refused.header("x-error-message");
    assert!(message.contains("huggingface_hub 1.31 or newer") && !message.contains("HF_TRANSFER"), "{message}");
    // The same version reads ranges and streams files of any size: only its downloads have the limit.
    let old = ("user-agent", "datasets/2.14.0; hf_hub/0.36.2; python/3.11");
    let beyond = gateway.get_with(&path, &[old, ("range", "bytes=60000000000-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */60000000000"));
    let branch = gateway.ask(Method::GET, &at("main", "model.safetensors"), &[old], "").await;
    assert_eq!(branch.status, 307);
}
