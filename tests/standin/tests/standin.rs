//! The stand-in as clients meet it, over a socket of its own.

use hub_standin::{Class, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};

mod client;
use client::{get, head, request};

#[tokio::test]
async fn a_regular_file_is_a_relative_redirect_and_then_the_bytes() {
    let hub = Standin::builder().fixtures().start().await;
    let commit = hub.commit("acme/tiny", "main");
    let first = head(hub.hub_url(), "/acme/tiny/resolve/main/config.json").await;
    assert_eq!(first.status, 307);
    let location = first.header("location");
    assert!(location.starts_with(&format!("/api/resolve-cache/models/acme/tiny/{commit}/config.json?%2Facme%2Ftiny")));
    assert_eq!(first.header("x-repo-commit"), commit);
    assert!(first.header("ratelimit").starts_with("\"resolvers\";r="));
    let second = get(hub.hub_url(), location).await;
    assert_eq!(second.status, 200);
    assert_eq!(second.header("etag"), format!("\"{}\"", hub.etag("acme/tiny", "main", "config.json")));
    assert_eq!(second.body, hub.bytes("acme/tiny", "main", "config.json"));
    let etag = second.header("etag").to_owned();
    assert_eq!(request("GET", hub.hub_url(), location, &[("if-none-match", &etag)], "").await.status, 304);
    assert_eq!(request("GET", hub.hub_url(), location, &[("range", "bytes=99999-")], "").await.status, 416);
}

#[tokio::test]
async fn an_lfs_file_is_a_redirect_to_the_cdn_whose_etag_is_another() {
    let hub = Standin::builder().fixtures().start().await;
    let path = "/acme/tiny/resolve/main/sub/dir/weights.bin";
    let first = head(hub.hub_url(), path).await;
    assert_eq!((first.status, first.header("x-linked-size")), (302, "3000000"));
    let sha256 = hub.sha256("acme/tiny", "main", "sub/dir/weights.bin");
    assert_eq!(first.header("x-linked-etag"), format!("\"{sha256}\""));
    assert!(first.header("link").contains("rel=\"xet-auth\""));
    let location = first.header("location").strip_prefix(hub.cdn_url()).unwrap().to_owned();
    let whole = get(hub.cdn_url(), &location).await;
    assert_eq!(whole.header("etag"), format!("\"{}\"", first.header("x-xet-hash")));
    assert_ne!(first.header("x-xet-hash"), sha256);
    assert_eq!(whole.body, hub.bytes("acme/tiny", "main", "sub/dir/weights.bin"));
    let part = request("GET", hub.cdn_url(), &location, &[("range", "bytes=1048570-1048590")], "").await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 1048570-1048590/3000000"));
    assert_eq!(part.body, whole.body[1_048_570..=1_048_590]);
    let unsigned = location.split("&Signature=").next().unwrap();
    assert_eq!(get(hub.cdn_url(), unsigned).await.status, 403);
    assert_eq!(hub.counters().file_bytes("acme/tiny/sub/dir/weights.bin"), 3_000_021);
}

#[tokio::test]
async fn errors_are_the_hubs_own() {
    let hub = Standin::builder().fixtures().stranger_token("hf_stranger").start().await;
    let bearer = format!("Bearer {}", hub.token());
    for (path, authorization, status, code, message) in [
        ("/no/repo/resolve/main/x", "", 401, "", "Invalid username or password."),
        ("/no/repo/resolve/main/x", bearer.as_str(), 404, "RepoNotFound", "Repository not found"),
        ("/acme/private/resolve/main/config.json", "Bearer hf_stranger", 404, "RepoNotFound", "Repository not found"),
        ("/acme/tiny/resolve/none/x", "", 404, "RevisionNotFound", "Invalid rev id: none"),
        ("/acme/tiny/resolve/main/none", "", 404, "EntryNotFound", "Entry not found"),
        (
            "/acme/gated/resolve/none/none",
            "",
            401,
            "GatedRepo",
            "Access to model acme/gated is restricted. You must have access to it and be authenticated to access it. Please log in.",
        ),
        (
            "/acme/gated/resolve/main/config.json",
            "Bearer hf_stranger",
            403,
            "GatedRepo",
            "Access to model acme/gated is restricted and you are not in the authorized list. Visit https://huggingface.co/acme/gated to ask for access.",
        ),
        ("/acme/gated/resolve/main/config.json", bearer.as_str(), 200, "", ""),
        ("/acme/disabled/resolve/main/x", "", 403, "", "Access to this resource is disabled."),
        (
            "/acme/tiny/resolve/main/config.json",
            "Bearer hf_wrong",
            401,
            "",
            "Invalid credentials in Authorization header",
        ),
        ("/api/models/acme/tiny?expand[]=bogus", "", 400, "", "*"),
    ] {
        let headers = [("authorization", authorization)];
        let headers = if authorization.is_empty() { &[][..] } else { &headers[..] };
        let answer = request("GET", hub.hub_url(), path, headers, "").await;
        assert_eq!((answer.status, answer.header("x-error-code")), (status, code), "{path} {authorization}");
        assert!(
            message == "*" || answer.header("x-error-message") == message,
            "{path}: {}",
            answer.header("x-error-message")
        );
    }
    let missing = get(hub.hub_url(), "/acme/tiny/resolve/main/none").await;
    assert_eq!(missing.header("x-repo-commit"), hub.commit("acme/tiny", "main"));
}

#[tokio::test]
async fn listings_have_pages_with_absolute_links() {
    let hub = Standin::builder().fixtures().page_size(4).start().await;
    let mut paths = Vec::new();
    let mut next = "/api/models/acme/tiny/tree/main?recursive=true".to_owned();
    loop {
        let page = get(hub.hub_url(), &next).await;
        paths.extend(page.json().as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()));
        let link = page.header("link");
        if link.is_empty() {
            break;
        }
        assert!(link.starts_with(&format!("<{}/api/models/", hub.hub_url())) && link.ends_with(">; rel=\"next\""));
        next = link[1 + hub.hub_url().len()..].split('>').next().unwrap().to_owned();
    }
    assert_eq!(paths.len(), 10 + 3);
    assert!(paths.contains(&"sub dir/filé #1 100%.txt".to_owned()));
    let folder = get(hub.hub_url(), "/api/models/acme/tiny/tree/main/sub%2Fdir").await;
    assert_eq!(folder.json().as_array().unwrap().len(), 2);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let path = "/api/models/acme/tiny/paths-info/main";
    let info =
        request("POST", hub.hub_url(), path, &form, "paths=README.md&paths=none&paths=sub%2Fdir&expand=False").await;
    assert_eq!(info.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn info_states_card_tags_and_files_and_names_redirect() {
    let hub = Standin::builder().fixtures().start().await;
    let info = get(hub.hub_url(), "/api/models/acme/tiny/revision/v1.0?blobs=true").await.json();
    assert_eq!(info["cardData"]["license"], "apache-2.0");
    assert!(info["tags"].as_array().unwrap().contains(&"license:apache-2.0".into()));
    assert_eq!(info["sha"], hub.commit("acme/tiny", "v1.0"));
    assert!(info["siblings"].as_array().unwrap().iter().any(|line| line["lfs"]["pointerSize"].is_u64()));
    let narrow = get(hub.hub_url(), "/api/models/acme/tiny?expand[]=gated&expand=sha").await.json();
    assert_eq!(narrow.as_object().unwrap().keys().collect::<Vec<_>>(), ["_id", "gated", "id", "sha"]);
    for (from, to) in [("tiny", "acme/tiny"), ("ACME/Tiny", "acme/tiny"), ("acme/small", "acme/tiny")] {
        let moved = get(hub.hub_url(), &format!("/api/models/{from}/revision/main?blobs=true")).await;
        assert_eq!(
            (moved.status, moved.header("location")),
            (307, &*format!("/api/models/{to}/revision/main?blobs=true"))
        );
    }
    let list = get(hub.hub_url(), "/api/models?filter=license:apache-2.0&author=acme").await.json();
    assert!(list.as_array().unwrap().iter().any(|repo| repo["id"] == "acme/tiny"));
    assert!(list.as_array().unwrap().iter().all(|repo| repo["id"] != "acme/nested"));
}

#[tokio::test]
async fn faults_spoil_exactly_what_they_name() {
    let hub = Standin::builder().fixtures().start().await;
    let place = head(hub.hub_url(), "/acme/tiny/resolve/main/sub/dir/weights.bin").await;
    let path = place.header("location").strip_prefix(hub.cdn_url()).unwrap();
    let truth = hub.bytes("acme/tiny", "main", "sub/dir/weights.bin");
    let at = |fault| Fault::new(fault).path("acme/tiny/*.bin").origin(Origin::Cdn).once();

    hub.fault(at(FaultKind::CutAfter { bytes: 1_500_001 }));
    let cut = get(hub.cdn_url(), path).await;
    assert!(cut.broken);
    assert_eq!(cut.body, truth[..1_500_001]);

    hub.fault(at(FaultKind::FlipByte { at: 2_000_000 }));
    let mut flipped = get(hub.cdn_url(), path).await.body;
    assert_ne!(flipped[2_000_000], truth[2_000_000]);
    flipped[2_000_000] = truth[2_000_000];
    assert_eq!(flipped, truth);

    hub.fault(at(FaultKind::IgnoreRange));
    assert_eq!(request("GET", hub.cdn_url(), path, &[("range", "bytes=5-9")], "").await.body, truth);
    hub.fault(at(FaultKind::LieSize { by: 10 }));
    let padded = get(hub.cdn_url(), path).await.body;
    assert_eq!((&padded[..3_000_000], &padded[3_000_000..]), (&truth[..], &[0; 10][..]));
    hub.fault(at(FaultKind::Close));
    assert_eq!(get(hub.cdn_url(), path).await.status, 0);
    hub.fault(at(FaultKind::Status {
        code: 503,
        body: "later".into(),
        headers: vec![("retry-after".into(), "1".into())],
    }));
    let later = get(hub.cdn_url(), path).await;
    assert_eq!((later.status, later.header("retry-after")), (503, "1"));
    assert_eq!(get(hub.cdn_url(), path).await.body, truth);
    assert!(hub.faults().iter().all(|fault| fault.struck == 1));
}

#[tokio::test]
async fn a_stall_lasts_until_its_fault_is_cleared() {
    let hub = Standin::builder().fixtures().start().await;
    let place = head(hub.hub_url(), "/acme/tiny/resolve/main/sub/dir/weights.bin").await;
    let path = place.header("location").strip_prefix(hub.cdn_url()).unwrap().to_owned();
    let fault = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 1000, ms: None }).origin(Origin::Cdn));
    let url = hub.cdn_url().to_owned();
    let reader = tokio::spawn(async move { get(&url, &path).await });
    hub.wait_for("1000 bytes", |now| now.file_bytes("*weights.bin") == 1000).await;
    assert!(!reader.is_finished());
    hub.clear_fault(fault);
    assert_eq!(reader.await.unwrap().body.len(), 3_000_000);
}

#[tokio::test]
async fn listings_lie_as_told() {
    let hub = Standin::builder().fixtures().start().await;
    let tree = "/api/models/acme/tiny/tree/main?recursive=true";
    let once = |fault| hub.fault(Fault::new(fault).once());
    let weights = |entries: &serde_json::Value| {
        entries.as_array().unwrap().iter().find(|entry| entry["path"] == "model.safetensors").cloned()
    };
    let honest = get(hub.hub_url(), tree).await.json();
    once(FaultKind::MaskedTree);
    assert_eq!(weights(&get(hub.hub_url(), tree).await.json()).unwrap()["lfs"]["oid"], "*".repeat(64));
    once(FaultKind::PartialTree { drop: vec!["*.safetensors".into()] });
    assert!(weights(&get(hub.hub_url(), tree).await.json()).is_none());
    once(FaultKind::ExtraTreeEntry { path: "../x".into() });
    assert!(get(hub.hub_url(), tree).await.json().as_array().unwrap().iter().any(|entry| entry["path"] == "../x"));
    once(FaultKind::LieDigest);
    assert_ne!(
        weights(&get(hub.hub_url(), tree).await.json()).unwrap()["lfs"]["oid"],
        weights(&honest).unwrap()["lfs"]["oid"]
    );
    once(FaultKind::SiblingsDisagree { drop: vec!["README.md".into()], add: vec!["extra".into()] });
    let siblings = get(hub.hub_url(), "/api/models/acme/tiny").await.json()["siblings"].to_string();
    assert!(siblings.contains("extra") && !siblings.contains("README.md"));
    assert_eq!(get(hub.hub_url(), tree).await.json(), honest);
}

#[tokio::test]
async fn a_stopped_hub_refuses_and_a_restarted_one_has_moved_on() {
    let hub =
        Standin::builder().repo(RepoBuilder::model("a/b").commit(NewCommit::new("one").file("x", "1"))).start().await;
    let before = hub.commit("a/b", "main");
    hub.stop().await;
    assert_eq!(get(hub.hub_url(), "/api/models/a/b").await.status, 0);
    let after = hub.push("a/b", "main", NewCommit::new("two").file("x", "2"));
    hub.restart().await;
    assert_eq!(get(hub.hub_url(), "/api/models/a/b").await.json()["sha"], after);
    hub.set_branch("a/b", "main", &before);
    assert_eq!(get(hub.hub_url(), "/api/models/a/b").await.json()["sha"], before);
    assert_eq!(hub.count(Class::Info), 2);
    let requests = hub.requests("GET /api/models/a/b");
    assert_eq!((requests.len(), requests[0].header("authorization")), (2, None));
}

#[tokio::test]
async fn text_is_compressed_for_those_who_accept_it() {
    let hub = Standin::builder().fixtures().start().await;
    let path = "/api/models/acme/tiny/tree/main";
    let packed = request("GET", hub.hub_url(), path, &[("accept-encoding", "gzip, deflate")], "").await;
    assert_eq!((packed.header("content-encoding"), packed.header("content-length")), ("gzip", ""));
    let plain = request("GET", hub.hub_url(), path, &[("accept-encoding", "identity")], "").await;
    assert_eq!(plain.header("content-encoding"), "");
    hub.fault(Fault::new(FaultKind::Gzip));
    let trapped = get(hub.hub_url(), "//api/models/acme/tiny/refs").await;
    assert_eq!((trapped.status, trapped.header("content-encoding")), (200, "gzip"));
}
