//! Everything is bounded (I9): the time to an answer, transfers, what one client may cost.

use hub_standin::{Class, Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};

use crate::{
    fills::big,
    support::gateway::{Setup, TestGateway, eventually},
};

const BIG: &str = "/acme/big/resolve/main/model.safetensors";
const NAME: &str = "acme/big/model.safetensors";

#[tokio::test]
async fn a_stall_before_headers_is_answered_come_back_and_the_retry_hits() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let url = "/acme/tiny/resolve/main/config.json";
    for class in [Class::Info, Class::Resolve] {
        let stall = hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }).class(class));
        let answer = gate.get(url).await;
        assert_eq!(answer.status, 503, "{class:?}: {}", answer.text());
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        let asked = hub.count(class);
        hub.clear_fault(stall);
        // The work has gone on behind the answer: what was asked then is not asked again.
        if class == Class::Info {
            eventually("the facts are there", async || gate.head(url).await.status == 200).await;
            assert_eq!(hub.count(class), asked, "the look was repeated");
        }
    }
    let answer = gate.get(url).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &hub.bytes("acme/tiny", "main", "config.json")[..]));
}

#[tokio::test]
async fn finding_and_opening_a_file_have_eight_seconds_together() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let commit = hub.commit("acme/tiny", "main");
    // Six seconds to find it, and for ever to open it.
    hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: Some(6000) }).class(Class::Info));
    hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }).path("*/config.json"));
    let started = std::time::Instant::now();
    let answer = gate.get(&format!("/acme/tiny/resolve/{commit}/config.json")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    // Python clients give up at 10 s; twice eight is far past that.
    assert!(started.elapsed().as_secs_f32() < 13.0, "{:?}", started.elapsed());
}

/// Two repos with a large file each.
async fn two_large() -> Standin {
    let other = RepoBuilder::model("acme/other").commit(
        NewCommit::new("one")
            .file("README.md", "---\nlicense: mit\n---\n")
            .lfs("model.safetensors", Content::generated(10 << 20, 8)),
    );
    Standin::builder().repo(big(16 << 20)).repo(other).start().await
}

#[tokio::test]
async fn past_the_limits_on_transfers_a_miss_is_told_to_come_back() {
    for (key, name) in [("fill.max_live = 1", "fill.max_live"), ("fill.per_client = 1", "fill.per_client")] {
        let hub = two_large().await;
        let gate = Setup::new().config(key).start(&hub).await;
        let stall = FaultKind::StallAfter { bytes: 1_000_000, ms: None };
        let stall = hub.fault(Fault::new(stall).path(NAME).origin(Origin::Cdn));
        let mut first = gate.client.begin(BIG, &[]).await.unwrap();
        assert!(!first.read(1000).await.is_empty());
        let url = "/acme/other/resolve/main/model.safetensors";
        let refused = gate.get(url).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains(name), "{}", refused.text());
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
        // Joining the one that is under way is no new transfer.
        let second = gate.client.begin(BIG, &[]).await.unwrap();
        assert_eq!(second.status, 200);
        hub.clear_fault(stall);
        let (rest, broke) = second.rest().await;
        assert!(!broke && rest == hub.bytes("acme/big", "main", "model.safetensors"));
        gate.wait_until_idle().await;
        assert_eq!(gate.get(url).await.status, 200);
    }
}

#[tokio::test]
async fn a_thousand_clients_that_open_and_leave_leave_nothing_behind() {
    let hub = two_large().await;
    let gate = TestGateway::before(&hub).await;
    let stall =
        hub.fault(Fault::new(FaultKind::StallAfter { bytes: 2_000_000, ms: None }).path(NAME).origin(Origin::Cdn));
    assert_eq!(gate.head(BIG).await.status, 200);
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..50 {
        let clients = (0..20).map(|_| async {
            // A client of its own, whose connection ends with it.
            let client = crate::support::client::Client::new(&gate.url);
            let mut download = client.begin(BIG, &[]).await.unwrap();
            assert!(!download.read(1).await.is_empty());
        });
        futures_util::future::join_all(clients).await;
    }
    assert_eq!(gate.health().await["fills"], 1);
    assert_eq!(hub.count(Class::Cdn), 1);
    hub.clear_fault(stall);
    gate.wait_until_idle().await;
    eventually("all tasks of those who left have ended", async || {
        tokio::runtime::Handle::current().metrics().num_alive_tasks() <= before
    })
    .await;
    // It was fetched to its end, for the next.
    hub.stop().await;
    assert_eq!(gate.get(BIG).await.body.len(), 16 << 20);
}

#[tokio::test]
async fn a_client_past_its_share_of_the_origin_is_told_when_to_come_back_and_others_are_served() {
    let hub = Standin::builder().fixtures().start().await;
    let one =
        "[{ name = \"one\", token_sha256 = \"1660c21f1029de2c0b013c2acb5a749f47eed3e8379294bbed52e2a05c0d0f3f\" }]";
    let gate = Setup::new()
        .config("limits.upstream_per_minute = 1")
        .config("limits.burst = 4")
        .config(&format!("auth.clients = {one}"))
        .start(&hub)
        .await;
    let mut refused = None;
    for n in 0..8 {
        let answer = gate.get(&format!("/acme/tiny/resolve/branch-{n}/config.json")).await;
        if answer.status != 404 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("nothing limits a client");
    assert!(matches!(refused.status.as_u16(), 429 | 503), "{}", refused.status);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 5);
    assert!(refused.text().contains("limits.upstream_per_minute"), "{}", refused.text());
    // huggingface_hub from 1.0 on retries 429 alone.
    let agent = [("user-agent", "unknown/None; hf_hub/2.4.0; python/3.12.1")];
    let refused = gate.get_with("/acme/tiny/resolve/branch-x/config.json", &agent).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    // "one" is somebody else.
    let token = [("authorization", "Bearer token-of-one")];
    let answer = gate.get_with("/acme/nested/resolve/main/config.json", &token).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What a new connection hears to one request; it is the connection's last.
async fn hears(gate: &TestGateway, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = gate.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn a_gateway_that_is_full_lives_and_says_come_back_as_each_client_hears_it() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config("server.limits.connections = 1").start(&hub).await;
    // The test's own client holds the one place.
    let asked = |path: &str, agent: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nuser-agent: {agent}\r\n\r\n");
    assert!(hears(&gate, &asked("/-/livez", "kube-probe/1.31")).await.starts_with("HTTP/1.1 200"));
    let new = hears(&gate, &asked("/api/models/acme/tiny", "unknown/None; hf_hub/2.4.0; python/3.11.2")).await;
    assert!(new.starts_with("HTTP/1.1 429") && new.contains("retry-after"), "{new}");
    assert!(hears(&gate, &asked("/api/models/acme/tiny", "curl/8.14.1")).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn bodies_are_waited_for_only_where_policy_names_the_repo_and_only_so_many_at_once() {
    use tokio::io::AsyncWriteExt as _;
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let asks = |repo: &str| {
        let path = format!("/api/models/{repo}/paths-info/main");
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\npaths=")
    };
    assert!(hears(&gate, &asks("other/model")).await.starts_with("HTTP/1.1 403"));
    let hold = async || {
        let address = gate.url.strip_prefix("http://").unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(asks("acme/tiny").as_bytes()).await.unwrap();
        stream
    };
    let form = "application/x-www-form-urlencoded";
    let post = async || gate.post("/api/models/acme/tiny/paths-info/main", form, "paths=config.json").await;
    let mut waiting = Vec::new();
    // A question that is answered had a place itself, which one of those that wait may have missed.
    while post().await.status != 503 {
        waiting.push(hold().await);
        assert!(waiting.len() < 1000, "there is always a place");
    }
    drop(waiting);
    eventually("there are places again", async || post().await.status == 200).await;
}
