//! One access line for each request, with all that an SRE asks for.

use hub_standin::Standin;

use crate::support::gateway::Setup;

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
