//! I1: no answer to a client names the upstream, whatever the upstream says.

use hub_standin::{Fault, FaultKind, Standin};

use crate::support::{
    client::Answer,
    gateway::{POLICY, Setup, TestGateway},
};

/// Nothing in headers or body leads to the Hub, its CDN or their real namesakes.
fn names_nobody(hub: &Standin, what: &str, answer: &Answer) {
    let ports = [hub.hub_address().port(), hub.cdn_address().port()].map(|port| format!(":{port}"));
    let named = |text: &str| {
        let text = text.to_lowercase();
        let hosts = ["huggingface.co", "hf.co", "elsewhere.example.com", "xethub"];
        ports.iter().any(|port| text.contains(port)) || hosts.iter().any(|host| text.contains(host))
    };
    for (name, value) in &answer.headers {
        assert!(!named(&format!("{value:?}")), "{what}: {name}: {value:?}");
    }
    assert!(!named(&answer.text()), "{what}: {}", answer.text());
}

/// All routes, for a repo that is there, one that isn't, and several that are refused.
fn routes(hub: &Standin) -> Vec<(&'static str, String)> {
    let commit = hub.commit("acme/tiny", "main");
    let mut all = vec![
        ("GET", "/".to_owned()),
        ("GET", "/api/models".into()),
        ("GET", "/api/whoami-v2".into()),
        ("GET", "/api/agent-harnesses".into()),
        ("GET", format!("/api/resolve-cache/models/acme/tiny/{commit}/config.json")),
        ("GET", format!("/acme/tiny/resolve/{commit}/model.safetensors")),
        ("POST", "/api/models/acme/tiny/commit/main".into()),
        ("GET", "/-/readyz".into()),
        ("GET", "/-/nothing".into()),
    ];
    for repo in [
        "acme/tiny",
        "acme/small",
        "acme/nowhere",
        "acme/gated",
        "acme/private",
        "acme/disabled",
        "acme/noncommercial",
        "other/model",
    ] {
        for file in ["README.md", "model.safetensors", "nowhere.txt"] {
            all.push(("HEAD", format!("/{repo}/resolve/main/{file}")));
            all.push(("GET", format!("/{repo}/resolve/main/{file}")));
            all.push(("GET", format!("/{repo}/raw/main/{file}")));
        }
        all.push(("GET", format!("/{repo}/resolve/nowhere/README.md")));
        for call in [
            "",
            "/revision/main?blobs=true",
            "/tree/main?recursive=true&limit=3",
            "/refs",
            "/commits/main?limit=1",
            "/auth-check",
            "/xet-read-token/main",
        ] {
            all.push(("GET", format!("/api/models/{repo}{call}")));
        }
        all.push(("GET", format!("/{repo}/info/refs?service=git-upload-pack")));
    }
    all
}

async fn sweep(hub: &Standin, gate: &TestGateway, what: &str) -> usize {
    let routes = routes(hub);
    let mut good = 0;
    for (method, url) in &routes {
        let answer = gate.ask(method, url, &[("accept", "application/vnd.xet-fileinfo+json, */*")]).await;
        names_nobody(hub, &format!("{what}: {method} {url}"), &answer);
        good += usize::from(answer.status.as_u16() < 400);
    }
    good
}

#[tokio::test]
async fn no_answer_of_any_route_names_the_origin() {
    let hub = Standin::builder().fixtures().start().await;
    // Allowed as gated, but hubgate has no account there: the Hub's own words name its pages.
    let policy = POLICY.replacen("repo = \"acme/*\"", "repo = \"acme/*\"\ngated = true", 1);
    let gate = Setup::new().policy(&policy).start(&hub).await;
    for when in ["cold", "warm"] {
        assert!(sweep(&hub, &gate, when).await > 20, "most of these are real answers");
    }
    hub.stop().await;
    assert!(sweep(&hub, &gate, "with the Hub gone").await > 10);
}

#[tokio::test]
async fn no_error_names_the_origin_whatever_it_says() {
    let page = "<html>Go to https://huggingface.co/login or http://elsewhere.example.com/</html>";
    let status = |code: u16| FaultKind::Status {
        code,
        body: page.into(),
        headers: vec![
            ("x-error-message".into(), "see https://huggingface.co/docs".into()),
            ("location".into(), "https://huggingface.co/x".into()),
        ],
    };
    for fault in [
        status(400),
        status(403),
        status(404),
        status(451),
        status(500),
        FaultKind::Html { code: 200 },
        FaultKind::RedirectTo { location: "https://elsewhere.example.com{target}".into() },
        FaultKind::TokenRefused,
        FaultKind::Close,
        FaultKind::SetHeader { name: "link".into(), value: "<https://huggingface.co/next>; rel=\"next\"".into() },
    ] {
        let hub = Standin::builder().fixtures().start().await;
        let gate = TestGateway::before(&hub).await;
        hub.fault(Fault::new(fault.clone()));
        for (method, url) in [
            ("HEAD", "/acme/tiny/resolve/main/README.md"),
            ("GET", "/acme/tiny/resolve/main/model.safetensors"),
            ("GET", "/api/models/acme/copy/tree/main?recursive=true&limit=1"),
            ("GET", "/api/models/acme/nested/refs"),
            ("GET", "/-/readyz"),
        ] {
            names_nobody(&hub, &format!("{fault:?}: {method} {url}"), &gate.ask(method, url, &[]).await);
        }
    }
}

/// The same where only the CDN misbehaves, so that the answer begins before its trouble does.
#[tokio::test]
async fn no_trouble_of_the_cdn_names_it() {
    for fault in [
        FaultKind::RedirectTo { location: "https://elsewhere.example.com{target}".into() },
        FaultKind::Html { code: 200 },
        FaultKind::Status { code: 403, body: "<Error>us.aws.cdn.hf.co: expired</Error>".into(), headers: Vec::new() },
        FaultKind::CutAfter { bytes: 10 },
        FaultKind::FlipByte { at: 5 },
    ] {
        let hub = Standin::builder().fixtures().start().await;
        let gate = TestGateway::before(&hub).await;
        hub.fault(Fault::new(fault.clone()).origin(hub_standin::Origin::Cdn));
        let answer = gate.get("/acme/tiny/resolve/main/model.safetensors").await;
        assert!(answer.status.is_server_error() || answer.broke, "{fault:?}: {}", answer.status);
        names_nobody(&hub, &format!("{fault:?}"), &answer);
    }
}
