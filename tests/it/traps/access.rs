//! One access line for each request, with all that an SRE asks for.

use hub_standin::{Fault, FaultKind, Origin, Standin};

use crate::{
    fills::big,
    support::gateway::{Setup, eventually},
};

#[tokio::test]
async fn every_request_has_one_line_with_its_fields() {
    let hub = Standin::builder().fixtures().start().await;
    let sha256 = hubgate::hub::Sha256::of(b"ci-token");
    let clients = format!("auth.clients = [{{ name = \"ci\", token_sha256 = \"{sha256}\" }}]");
    let gate = Setup::new().config(&clients).start(&hub).await;
    let commit = hub.commit("acme/tiny", "main");
    let at = format!("/acme/tiny/resolve/{commit}");
    let bytes = hub.bytes("acme/tiny", "main", "model.safetensors").len();
    let mut log = Vec::new();
    for (method, url, headers, cache, status, sent) in [
        ("GET", format!("{at}/model.safetensors"), vec![], "fill", 200, bytes),
        ("GET", format!("{at}/model.safetensors"), vec![("authorization", "Bearer ci-token")], "hit", 200, bytes),
        ("GET", format!("{at}/model.safetensors"), vec![("range", "bytes=0-9")], "hit", 206, 10),
        ("HEAD", format!("{at}/model.safetensors"), vec![], "none", 200, 0),
        ("GET", format!("{at}/nowhere.txt"), vec![("authorization", "Bearer hf_secret")], "none", 404, 15),
        (
            "GET",
            "/acme/evil/resolve/main/config.json".into(),
            vec![("user-agent", "curl/8.14.1")],
            "denied",
            403,
            usize::MAX,
        ),
    ] {
        let answer = gate.ask(method, &url, &headers).await;
        assert_eq!(answer.status, status, "{url}");
        let sent = if sent == usize::MAX { answer.body.len() } else { sent };
        let line = gate.access_line(&answer).await;
        let path = url.rsplit('/').next().unwrap();
        assert_eq!((line["method"].as_str(), line["route"].as_str()), (Some(method), Some("resolve")), "{line}");
        assert_eq!(
            (line["cache"].as_str(), &line["status"], &line["bytes"]),
            (Some(cache), &status.into(), &sent.into()),
            "{line}"
        );
        assert_eq!(line["path"], path, "{line}");
        assert!(line["duration_ms"].is_u64() && line["ended"] == "whole" && line["client"].is_string(), "{line}");
        if status != 403 {
            assert_eq!((line["repo"].as_str(), line["commit"].as_str()), (Some("acme/tiny"), Some(&*commit)), "{line}");
        }
        log.push(line);
    }
    assert_eq!(gate.access_log().iter().filter(|line| line["route"] != "own").count(), log.len(), "one line each");
    assert_eq!((&log[1]["client"], &log[0]["client"]), (&"ci".into(), &"127.0.0.1".into()));
    assert_eq!(log[5]["agent"], "curl/8.14.1");
    assert!(log[5]["reason"].as_str().unwrap().contains("Content policy 4.2"));
    assert!(
        !format!("{log:?}").contains("hf_secret") && !format!("{log:?}").contains("ci-token"),
        "no token is logged"
    );
}

/// Who shared another's transfer cost the egress nothing.
#[tokio::test]
async fn a_reader_of_a_transfer_that_another_began_has_joined_it() {
    const NAME: &str = "acme/big/model.safetensors";
    let hub = Standin::builder().repo(big(24 << 20)).start().await;
    let gate = Setup::new().start(&hub).await;
    let stall = FaultKind::StallAfter { bytes: 2_000_000, ms: None };
    let stall = hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn));
    let url = format!("/acme/big/resolve/{}/model.safetensors", hub.commit("acme/big", "main"));
    let mut readers = Vec::new();
    for id in ["first", "second"] {
        let mut reader = gate.client.begin(&url, &[("x-request-id", id)]).await.unwrap();
        assert!(!reader.read(1000).await.is_empty(), "{id}");
        readers.push(reader);
    }
    hub.clear_fault(stall);
    for reader in readers {
        assert!(!reader.rest().await.1);
    }
    let of = |id: &str| gate.access_log().into_iter().find(|line| line["request_id"] == id);
    eventually("both have their lines", async || of("first").is_some() && of("second").is_some()).await;
    assert_eq!(["first", "second"].map(|id| of(id).unwrap()["cache"].clone()), ["fill", "joined"]);
}

/// What an SRE looks for when the Hub is down: who was answered by what was known before.
#[tokio::test]
async fn answers_by_an_older_look_are_logged_as_stale() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config("upstream.ref_ttl = \"0s\"").start(&hub).await;
    let url = "/acme/tiny/resolve/main/model.safetensors";
    assert_eq!(gate.get(url).await.status, 200);
    let there = gate.ask("GET", url, &[]).await;
    assert_eq!(gate.access_line(&there).await["cache"], "none");
    hub.stop().await;
    for (asked, status, cache) in [
        (url, 307, "stale"),
        (there.header("location"), 200, "hit"),
        ("/api/models/acme/tiny", 200, "stale"),
        ("/api/models/acme/tiny/tree/main", 200, "stale"),
        (&format!("/api/models/acme/tiny/tree/{}", hub.commit("acme/tiny", "main")), 200, "none"),
    ] {
        let answer = gate.ask("GET", asked, &[]).await;
        assert_eq!(answer.status, status, "{asked}");
        assert_eq!(gate.access_line(&answer).await["cache"], cache, "{asked}");
    }
}

/// I7: every container sends a real Hub token; hubgate's own goes to the Hub alone.
#[tokio::test]
async fn a_clients_token_goes_nowhere_and_hubgates_own_to_the_hub_alone() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(&format!("upstream.token = {:?}", hub.token())).start(&hub).await;
    let headers = [("authorization", "Bearer hf_of_a_client"), ("cookie", "token=hf_of_a_client")];
    for url in [
        "/acme/tiny/resolve/main/model.safetensors",
        "/acme/tiny/resolve/main/config.json",
        "/acme/small/resolve/main/nowhere.txt",
        "/api/models/acme/nested?blobs=true",
        "/api/models/acme/copy/tree/main",
        "/api/models/acme/tiny/refs",
        "/api/models/acme/tiny/commits/main",
        "/api/whoami-v2",
    ] {
        gate.get_with(url, &headers).await;
    }
    let seen = hub.requests("*");
    assert!(seen.len() > 10);
    let ours = format!("Bearer {}", hub.token());
    for request in seen {
        assert!(!format!("{request:?}").contains("hf_of_a_client"), "{request:?}");
        let expected = (request.origin == hub_standin::Origin::Hub).then_some(ours.as_str());
        assert_eq!(request.header("authorization"), expected, "{}", request.target);
    }
}

#[tokio::test]
async fn redirects_and_listings_are_logged_as_what_they_are() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().start(&hub).await;
    let commit = hub.commit("acme/tiny", "main");
    let mut log = Vec::new();
    for url in [
        "/acme/tiny/resolve/main/config.json",
        "/api/models/acme/tiny",
        "/api/models/acme/tiny/tree/main/sub",
        "/nothing",
    ] {
        log.push(gate.access_line(&gate.ask("GET", url, &[]).await).await);
    }
    let routes: Vec<_> =
        log.iter().map(|line| (line["route"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(routes, [("resolve", 307), ("repo_info", 200), ("tree", 200), ("unknown", 404)]);
    assert!(log[..3].iter().all(|line| line["commit"] == commit.as_str()), "{log:#?}");
    assert_eq!(log[2]["path"], "sub");
    assert!(log[1]["bytes"].as_u64().unwrap() > 0);
}
