//! The stand-in while things change or are hard to reach: TLS, crowds, renames, quotas, the control listener.

use std::sync::Arc;

use hub_standin::{Class, Content, Crowd, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

mod client;
use client::{get, head, request};

#[tokio::test]
async fn tls_holds_for_all_names_by_the_authority_it_shows() {
    let hub = Standin::builder().fixtures().tls().hosts("hub.test", "cdn.hub.test").start().await;
    assert_eq!(hub.hub_url(), format!("https://hub.test:{}", hub.hub_address().port()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(hub.ca_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for &name in hub_standin::NAMES {
        let socket = tokio::net::TcpStream::connect(hub.hub_address()).await.unwrap();
        let mut socket = connector.connect(ServerName::try_from(name).unwrap(), socket).await.unwrap();
        let path = "/acme/tiny/resolve/main/model.safetensors";
        let text = format!("HEAD {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 302 "), "{name}: {answer}");
        assert!(answer.contains("location: https://cdn.hub.test:"));
    }
}

#[tokio::test]
async fn a_crowd_is_listed_page_by_page_and_each_of_its_files_is_there() {
    let commit = NewCommit::new("many").file("README.md", "# Many\n").crowd(Crowd::new(300_000));
    let hub = Standin::builder().repo(RepoBuilder::model("acme/many").commit(commit)).start().await;
    let first = get(hub.hub_url(), "/api/models/acme/many/tree/main?recursive=true").await;
    assert_eq!(first.json().as_array().unwrap().len(), 1000);
    let link = first.header("link");
    let second = get(hub.hub_url(), link[1 + hub.hub_url().len()..].split('>').next().unwrap()).await.json();
    let file = &second[999];
    let at = format!("/acme/many/resolve/main/{}", file["path"].as_str().unwrap());
    let place = get(hub.hub_url(), &at).await;
    let bytes = get(hub.hub_url(), place.header("location")).await;
    assert_eq!(file["size"], bytes.body.len());
    assert_eq!(Content::from(bytes.body.clone()).blob_id().unwrap(), file["oid"].as_str().unwrap());
    let siblings = get(hub.hub_url(), "/api/models/acme/many").await.json();
    assert_eq!(siblings["siblings"].as_array().unwrap().len(), 50_000);
}

#[tokio::test]
async fn repos_are_renamed_and_change_hands() {
    let hub = Standin::builder().fixtures().start().await;
    let before = get(hub.hub_url(), "/api/models/acme/tiny").await.json();
    hub.rename("acme/tiny", "corp/tiny");
    let moved = head(hub.hub_url(), "/acme/tiny/resolve/main/config.json").await;
    assert_eq!((moved.status, moved.header("location")), (307, "/corp/tiny/resolve/main/config.json"));
    let after = get(hub.hub_url(), "/api/models/corp/tiny").await.json();
    assert_eq!((&after["_id"], &after["author"]), (&before["_id"], &"corp".into()));
    hub.add(RepoBuilder::model("acme/tiny").commit(NewCommit::new("mine now").file("config.json", "{}")).with(
        |repo| {
            repo.object_id = "0123456789abcdef01234567".into();
            repo.author = "squatter".into();
        },
    ));
    let taken = get(hub.hub_url(), "/api/models/acme/tiny").await.json();
    assert_ne!(taken["_id"], before["_id"]);
    hub.remove("acme/tiny");
    assert_eq!(get(hub.hub_url(), "/api/models/acme/tiny").await.status, 307);
}

#[tokio::test]
async fn hashes_of_a_gated_repo_are_masked_without_access() {
    let hub = Standin::builder().fixtures().stranger_token("hf_stranger").start().await;
    let own = format!("Bearer {}", hub.token());
    let path = "/api/models/acme/gated/tree/main";
    for (authorization, masked) in [("Bearer hf_stranger", true), (own.as_str(), false)] {
        let tree = request("GET", hub.hub_url(), path, &[("authorization", authorization)], "").await.json();
        let entry = tree.as_array().unwrap().iter().find(|entry| entry["path"] == "model.safetensors").unwrap();
        for hash in [&entry["lfs"]["oid"], &entry["xetHash"]] {
            assert_eq!(hash.as_str().unwrap() == "*".repeat(64), masked, "{authorization}");
        }
        assert_eq!(entry["oid"].as_str().unwrap().len(), 40);
    }
    assert_eq!(get(hub.hub_url(), "/acme/gated/resolve/main/README.md").await.status, 200);
}

#[tokio::test]
async fn a_quota_that_is_used_up_answers_429_with_its_window() {
    let hub = Standin::builder().fixtures().quota(2, 3000).start().await;
    for expected in [200, 200, 429] {
        let answer = get(hub.hub_url(), "/api/models/acme/tiny").await;
        assert_eq!(answer.status, expected);
        assert!(answer.header("ratelimit").starts_with("\"api\";r="));
    }
    assert_eq!(head(hub.hub_url(), "/acme/tiny/resolve/main/config.json").await.status, 307);
    hub.fault(Fault::new(FaultKind::RateLimited { reset: 55 }).class(Class::Resolve).once());
    let limited = head(hub.hub_url(), "/acme/tiny/resolve/main/config.json").await;
    assert_eq!((limited.status, limited.header("ratelimit")), (429, "\"api\";r=0;t=55"));
}

#[tokio::test]
async fn a_folder_on_disk_is_a_repo() {
    let dir = std::env::temp_dir().join(format!("hub-standin-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let large = Content::generated(2_500_000, 3).read(0..2_500_000).unwrap();
    std::fs::write(dir.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    std::fs::write(dir.join("sub/large.txt"), &large).unwrap();
    let repo = RepoBuilder::from_directory("datasets/acme/disk", &dir).unwrap();
    let hub = Standin::builder().repo(repo).start().await;
    let place = head(hub.hub_url(), "/datasets/acme/disk/resolve/main/sub/large.txt").await;
    assert_eq!(place.status, 302, "over 1 MiB is LFS");
    let path = place.header("location").strip_prefix(hub.cdn_url()).unwrap();
    assert!(get(hub.cdn_url(), path).await.body == large);
    hub.fault(Fault::new(FaultKind::CutAfter { bytes: 1_100_000 }).origin(Origin::Cdn));
    let cut = request("GET", hub.cdn_url(), path, &[("range", "bytes=1000-")], "").await;
    assert!(cut.broken && cut.body == large[1000..1_101_000]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn the_control_listener_does_what_the_api_does() {
    let hub = Standin::builder().fixtures().control("127.0.0.1:0".parse().unwrap()).start().await;
    let control = format!("http://{}", hub.control_address().unwrap());
    let fault = r#"{"fault":{"kind":"html","code":200},"path":"*/acme/tiny*","times":1}"#;
    let added = request("POST", &control, "/-/standin/faults", &[], fault).await.json();
    assert_eq!(added["ids"].as_array().unwrap().len(), 1);
    assert!(get(hub.hub_url(), "/api/models/acme/tiny").await.header("content-type").starts_with("text/html"));
    let first = hub.commit("acme/tiny", "v1.0");
    let moved = format!(r#"{{"repo":"acme/tiny","ref":"main","commit":"{first}"}}"#);
    assert_eq!(request("POST", &control, "/-/standin/refs", &[], &moved).await.status, 200);
    assert_eq!(get(hub.hub_url(), "/api/models/acme/tiny").await.json()["sha"], first);
    let change = r#"{"repo":"acme/tiny","rename":"corp/tiny","author":"x"}"#;
    assert_eq!(request("POST", &control, "/-/standin/repos", &[], change).await.status, 200);
    assert_eq!(get(hub.hub_url(), "/api/models/acme/tiny").await.status, 307);
    assert_eq!(get(&control, "/-/standin/counters").await.json()["classes"]["info"], 3);
    let wrong = request("POST", &control, "/-/standin/faults", &[], r#"{"fault":{"kind":"cut"}}"#).await;
    assert!(wrong.status == 400 && wrong.json()["error"].as_str().unwrap().contains("cut_after"));
}
