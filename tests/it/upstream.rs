//! The way out against the stand-in Hub: look-ups, files, redirects, budgets and faults. What goes through
//! an egress proxy is in `egress`.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use hub_standin::{Class, DEFAULT_TOKEN, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use hubgate::{
    hub::{Commit, Repo, RepoPath, Revision},
    upstream::{ErrorKind, InHistory, OriginBody, ProxyEnv, Purpose::Client, Upstream, UpstreamConfig},
};

/// Allows the stand-in's two addresses, which are private, and no proxy.
fn config(hub: &Standin) -> UpstreamConfig {
    UpstreamConfig {
        endpoint: hub.hub_url().to_owned(),
        allowed_hosts: vec![hub.cdn_address().to_string()],
        allow_private: true,
        proxy: Some("none".into()),
        ..UpstreamConfig::default()
    }
}

fn upstream(hub: &Standin) -> Arc<Upstream> {
    Upstream::new(&config(hub), ProxyEnv::default()).unwrap()
}

fn with_token(hub: &Standin, token: &str) -> Arc<Upstream> {
    Upstream::new(&UpstreamConfig { token: Some(token.into()), ..config(hub) }, ProxyEnv::default()).unwrap()
}

pub(crate) fn repo(name: &str) -> Repo {
    name.parse().unwrap()
}

pub(crate) fn revision(name: &str) -> Revision {
    name.parse().unwrap()
}

fn path(name: &str) -> RepoPath {
    name.parse().unwrap()
}

pub(crate) fn commit(hub: &Standin, name: &str) -> Commit {
    hub.commit(name, "main").parse().unwrap()
}

async fn hub() -> Standin {
    Standin::builder().fixtures().start().await
}

async fn look(upstream: &Arc<Upstream>, name: &str) -> Result<hubgate::upstream::Look, ErrorKind> {
    upstream.look(&repo(name), &revision("main"), Client).await.map_err(|error| error.kind)
}

async fn read(mut body: OriginBody) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await.map_err(|error| error.kind)? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

const WEIGHTS: &str = "sub/dir/weights.bin";
const SIZE: u64 = 3_000_000;

#[tokio::test]
async fn a_look_tells_commit_facts_and_the_canonical_name() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    for former in ["acme/small", "tiny"] {
        assert_eq!(look(&upstream, former).await.unwrap_err(), ErrorKind::Moved(repo("acme/tiny")), "{former}");
    }
    for asked in ["acme/tiny", "Acme/TINY"] {
        let look = look(&upstream, asked).await.unwrap();
        assert_eq!((look.repo, look.commit), (repo("acme/tiny"), commit(&hub, "acme/tiny")), "{asked}");
        assert!(look.info.siblings.unwrap().iter().any(|sibling| sibling.rfilename == WEIGHTS));
    }
    let look = upstream.look(&repo("acme/tiny"), &revision("feature/x"), Client).await.unwrap();
    assert_eq!(look.commit.to_string(), hub.commit("acme/tiny", "feature/x"));
    let data = upstream.look(&repo("datasets/squid"), &revision("main"), Client).await.unwrap();
    assert_eq!(data.repo, repo("datasets/squid"));
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let hub = hub().await;
    let anonymous = upstream(&hub);
    assert_eq!(look(&anonymous, "acme/nothing").await.unwrap_err(), ErrorKind::RepoNotFound);
    assert_eq!(look(&anonymous, "acme/private").await.unwrap_err(), ErrorKind::RepoNotFound);
    assert_eq!(look(&anonymous, "acme/disabled").await.unwrap_err(), ErrorKind::Disabled);
    let no_branch = anonymous.look(&repo("acme/tiny"), &revision("nothing"), Client).await.unwrap_err();
    assert_eq!(no_branch.kind, ErrorKind::RevisionNotFound);
    let no_file = anonymous.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path("nothing"));
    assert_eq!(no_file.open(0..1, 1, true).await.unwrap_err().kind, ErrorKind::EntryNotFound);
    let gated = anonymous.file(&repo("acme/gated"), commit(&hub, "acme/gated"), &path("model.safetensors"));
    assert!(matches!(gated.open(0..1, 1, true).await.unwrap_err().kind, ErrorKind::Gated(_)));
    hub.fault(Fault::new(FaultKind::RepoGone { code: 451 }));
    assert_eq!(look(&anonymous, "acme/tiny").await.unwrap_err(), ErrorKind::Unavailable451);
    assert_eq!(hub.count(Class::Whoami), 0, "without a token there is nothing to check");
}

#[tokio::test]
async fn a_refused_token_is_not_a_missing_repo() {
    let hub = hub().await;
    let good = with_token(&hub, DEFAULT_TOKEN);
    assert_eq!(look(&good, "acme/private").await.unwrap().repo, repo("acme/private"));
    // The Hub answers 401 for a repo while it knows the token well.
    hub.fault(Fault::new(FaultKind::RepoGone { code: 401 }).class(Class::Info));
    for _ in 0..3 {
        assert_eq!(look(&good, "acme/tiny").await.unwrap_err(), ErrorKind::RepoNotFound);
    }
    assert_eq!(hub.count(Class::Whoami), 1, "asked once, then remembered");
    hub.clear_faults();
    hub.set_token("another");
    let refused = with_token(&hub, DEFAULT_TOKEN);
    assert_eq!(look(&refused, "acme/tiny").await.unwrap_err(), ErrorKind::TokenRefused);
    assert!(refused.status().last_failure.is_some());
}

#[tokio::test]
async fn a_tree_comes_whole_in_pages() {
    let hub = Standin::builder().fixtures().page_size(2).start().await;
    let upstream = upstream(&hub);
    let of = commit(&hub, "acme/tiny");
    let pages: Vec<_> = upstream.tree(&repo("acme/tiny"), of, Client, Client).try_collect().await.unwrap();
    assert!(pages.len() > 3);
    let paths: Vec<String> = pages.concat().into_iter().map(|entry| entry.path.to_string()).collect();
    for expected in [WEIGHTS, "sub dir/filé #1 100%.txt", "empty.txt", "sub/dir"] {
        assert!(paths.iter().any(|path| path == expected), "{expected} is not in {paths:?}");
    }
}

#[tokio::test]
async fn a_listing_that_leads_round_or_away_is_no_listing() {
    let hub = Standin::builder().fixtures().page_size(2).start().await;
    let upstream = upstream(&hub);
    let of = commit(&hub, "acme/tiny");
    let here = format!("<{}/api/models/acme/tiny/tree/{of}?recursive=true>; rel=\"next\"", hub.hub_url());
    let away = format!("<{}/x>; rel=\"next\"", hub.cdn_url());
    for link in [here, away, "<http://hub.example/x>; rel=next".to_owned()] {
        hub.clear_faults();
        hub.fault(Fault::new(FaultKind::SetHeader { name: "link".into(), value: link.clone() }));
        let pages: Vec<_> = upstream.tree(&repo("acme/tiny"), of, Client, Client).take(9).collect().await;
        let last = pages.last().unwrap().as_ref().unwrap_err();
        assert!(matches!(last.kind, ErrorKind::Malformed(_)), "{link}: {last}");
        assert!(pages.len() < 9, "{link} was followed on and on");
    }
}

#[tokio::test]
async fn paths_refs_history_and_readme_are_read() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let (tiny, of) = (repo("acme/tiny"), commit(&hub, "acme/tiny"));
    let asked = [path("config.json"), path("sub dir/filé #1 100%.txt"), path("nothing")];
    let found = upstream.paths_info(&tiny, of, &asked, Client).await.unwrap();
    assert_eq!(found.iter().map(|entry| &entry.path).collect::<Vec<_>>(), [&asked[0], &asked[1]]);

    let by_former_name = upstream.paths_info(&repo("acme/small"), of, &asked, Client).await.unwrap_err();
    assert_eq!(by_former_name.moved_to(), Some(&tiny), "of another name nothing is asked before policy has allowed it");
    let misspelled = upstream.paths_info(&repo("ACME/Tiny"), of, &asked, Client).await.unwrap();
    assert_eq!(misspelled, found, "a POST is put again where the name is spelled otherwise");

    let refs = upstream.refs(&tiny, false, Client).await.unwrap();
    assert!(refs.branches.iter().any(|branch| branch.name == "feature/x"));
    assert!(refs.tags.iter().any(|tag| tag.name == "v1.0"));

    let of_tag: Commit = hub.commit("acme/tiny", "v1.0").parse().unwrap();
    let of_pr: Commit = hub.commit("acme/tiny", "refs/pr/1").parse().unwrap();
    for (known, expected) in [(of, InHistory::Yes), (of_tag, InHistory::Yes), (of_pr, InHistory::No)] {
        let (answer, _) = upstream.history_contains(&tiny, &revision("main"), known, Client).await.unwrap();
        assert_eq!(answer, expected, "{known}");
    }

    let readme = upstream.readme(&tiny, of, 1 << 20, Client).await.unwrap().unwrap();
    assert_eq!(readme, hub.bytes("acme/tiny", "main", "README.md"));
    let none = upstream.readme(&repo("acme/no-readme"), commit(&hub, "acme/no-readme"), 1 << 20, Client).await.unwrap();
    assert_eq!(none, None);
}

#[tokio::test]
async fn one_signed_url_serves_a_whole_fill_and_the_token_stays_at_home() {
    let hub = hub().await;
    let upstream = with_token(&hub, DEFAULT_TOKEN);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    let all = hub.bytes("acme/tiny", "main", WEIGHTS);
    for (range, open_ended) in [(0..SIZE, true), (5..100, false), (SIZE - 10..SIZE, true), (2_000_000..SIZE, false)] {
        let body = file.open(range.clone(), SIZE, open_ended).await.unwrap();
        assert_eq!(body.host(), "127.0.0.1");
        let expected = &all[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert!(read(body).await.unwrap() == expected, "{range:?}");
    }
    assert_eq!((hub.count(Class::Resolve), hub.count(Class::Cdn)), (1, 4));
    assert!(hub.counters().recent.iter().any(|request| request.header("authorization").is_some()));
    for request in hub.counters().recent {
        assert_eq!(request.header("authorization").is_some(), request.origin == Origin::Hub, "{}", request.target);
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert!(request.header("user-agent").unwrap().starts_with("hubgate/"));
    }
}

#[tokio::test]
async fn a_signed_url_that_is_refused_is_signed_anew() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    drop(file.open(0..SIZE, SIZE, true).await.unwrap());
    for code in [403, 410] {
        let refusal = FaultKind::Status { code, body: "<Error>expired</Error>".into(), headers: Vec::new() };
        hub.fault(Fault::new(refusal).origin(Origin::Cdn).once());
        assert_eq!(read(file.open(0..10, SIZE, false).await.unwrap()).await.unwrap().len(), 10);
    }
    assert_eq!(hub.count(Class::Resolve), 3);
}

#[tokio::test]
async fn a_small_file_and_an_empty_one_come_by_the_relative_redirect() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    for name in ["config.json", "empty.txt", "sub dir/filé #1 100%.txt"] {
        let expected = hub.bytes("acme/tiny", "main", name);
        let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(name));
        let size = expected.len() as u64;
        assert_eq!(read(file.open(0..size, size, true).await.unwrap()).await.unwrap(), expected, "{name}");
    }
    assert_eq!(hub.count(Class::Cdn), 0);
}

#[tokio::test]
async fn a_whole_file_instead_of_a_range_is_skipped_through_and_counted() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    hub.fault(Fault::new(FaultKind::IgnoreRange));
    let all = hub.bytes("acme/tiny", "main", WEIGHTS);
    let mut body = file.open(1000..2000, SIZE, false).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!((bytes.as_slice(), body.skipped()), (&all[1000..2000], 1000));
}

#[tokio::test]
async fn a_file_of_another_size_is_refused() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    for (range, total, open_ended) in
        [(0..SIZE - 1, SIZE - 1, true), (0..10, SIZE + 1, false), (10..SIZE + 1, SIZE + 1, true)]
    {
        let error = file.open(range.clone(), total, open_ended).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::WrongSize(_)), "{range:?} of {total}: {error}");
    }
    hub.fault(Fault::new(FaultKind::SetHeader { name: "content-range".into(), value: "bytes 0-9/3000000".into() }));
    let error = file.open(20..30, SIZE, false).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Malformed(_)), "{error}");
}

#[tokio::test]
async fn a_cut_body_ends_with_an_error_and_is_resumed_by_opening_again() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    hub.fault(Fault::new(FaultKind::CutAfter { bytes: 1_000_000 }).origin(Origin::Cdn).once());
    let mut body = file.open(0..SIZE, SIZE, true).await.unwrap();
    let mut bytes = Vec::new();
    let error = loop {
        match body.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => panic!("a cut body ended well after {} bytes", bytes.len()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(body.chunk().await.unwrap().is_none(), "an error is said once");
    let rest = file.open(bytes.len() as u64..SIZE, SIZE, true).await.unwrap();
    bytes.extend(read(rest).await.unwrap());
    assert!(bytes == hub.bytes("acme/tiny", "main", WEIGHTS));
    assert_eq!(hub.count(Class::Resolve), 1);
}

#[tokio::test]
async fn silence_ends_a_wait() {
    let hub = hub().await;
    let short = Duration::from_millis(200);
    let config = UpstreamConfig { read_timeout: short, ..config(&hub) };
    let upstream = Upstream::new(&config, ProxyEnv::default()).unwrap();
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    hub.fault(Fault::new(FaultKind::StallAfter { bytes: 100_000, ms: None }).origin(Origin::Cdn));
    assert_eq!(read(file.open(0..SIZE, SIZE, true).await.unwrap()).await.unwrap_err(), ErrorKind::Timeout);

    let config = UpstreamConfig { header_timeout: short, ..config };
    let upstream = Upstream::new(&config, ProxyEnv::default()).unwrap();
    hub.fault(Fault::new(FaultKind::StallBeforeHeaders { ms: None }).class(Class::Info));
    assert_eq!(look(&upstream, "acme/tiny").await.unwrap_err(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_redirect_leads_to_allowed_hosts_only() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    for location in ["http://evil.example/{target}", "http://127.0.0.2/x", "//[::1]:80/x"] {
        hub.clear_faults();
        hub.fault(Fault::new(FaultKind::RedirectTo { location: location.into() }));
        for kind in
            [look(&upstream, "acme/tiny").await.unwrap_err(), file.open(0..10, SIZE, false).await.unwrap_err().kind]
        {
            assert!(matches!(kind, ErrorKind::HostNotAllowed(_)), "{location}: {kind:?}");
        }
    }
    hub.clear_faults();
    hub.fault(Fault::new(FaultKind::RedirectTo { location: format!("{}/round", hub.hub_url()) }));
    assert!(matches!(look(&upstream, "acme/tiny").await.unwrap_err(), ErrorKind::Malformed(_)), "round and round");
    assert_eq!(hub.counters().matching("GET /round"), 5);
}

#[tokio::test]
async fn without_a_proxy_private_addresses_are_refused_at_connect_time() {
    let hub = hub().await;
    let port = hub.hub_address().port();
    for host in ["127.0.0.1", "localhost"] {
        let config = UpstreamConfig { endpoint: format!("http://{host}:{port}"), allow_private: false, ..config(&hub) };
        let upstream = Upstream::new(&config, ProxyEnv::default()).unwrap();
        let kind = look(&upstream, "acme/tiny").await.unwrap_err();
        assert!(matches!(kind, ErrorKind::PrivateAddress(_)), "{host}: {kind:?}");
    }
    assert_eq!(hub.counters().connections, 0);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_a_no_is_not() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    let status = |code| FaultKind::Status { code, body: String::new(), headers: Vec::new() };
    for fault in [status(503), status(408), FaultKind::Close] {
        hub.fault(Fault::new(fault).times(2));
        look(&upstream, "acme/tiny").await.unwrap();
    }
    hub.reset_counters();
    look(&upstream, "acme/nothing").await.unwrap_err();
    assert_eq!(hub.counters().requests, 1);
    hub.fault(Fault::new(status(500)));
    hub.reset_counters();
    assert_eq!(look(&upstream, "acme/tiny").await.unwrap_err(), ErrorKind::Server(500));
    assert_eq!(hub.counters().requests, 4);
    hub.clear_faults();
    let degraded = upstream.status();
    assert!(degraded.is_degraded());
    look(&upstream, "acme/tiny").await.unwrap();
    assert!(!upstream.status().is_degraded());
    hub.stop().await;
    assert_eq!(look(&upstream, "acme/tiny").await.unwrap_err(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_429_is_waited_out_inside() {
    let hub = hub().await;
    let upstream = upstream(&hub);
    hub.fault(Fault::new(FaultKind::RateLimited { reset: 0 }).times(1));
    let two = tokio::join!(look(&upstream, "acme/tiny"), look(&upstream, "acme/copy"));
    assert!(two.0.is_ok() && two.1.is_ok());
    assert!(hub.counters().requests <= 3);
    let api = &upstream.status().budget[0];
    assert_eq!(api.quota, Some(500));
    assert!(api.left.is_some());
}

#[tokio::test]
async fn connections_for_files_are_bounded_and_look_ups_have_their_own() {
    let hub = hub().await;
    let upstream = Upstream::new(&UpstreamConfig { connections: 2, ..config(&hub) }, ProxyEnv::default()).unwrap();
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    hub.fault(Fault::new(FaultKind::StallAfter { bytes: 1000, ms: None }).origin(Origin::Cdn));
    let first = file.open(0..SIZE, SIZE, true).await.unwrap();
    let mut second = Box::pin(file.open(0..SIZE, SIZE, true));
    assert!(second.as_mut().now_or_never().is_none());
    look(&upstream, "acme/tiny").await.unwrap();
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(hub.count(Class::Cdn), 1);
    drop(first);
    second.await.unwrap();
    assert_eq!(hub.count(Class::Cdn), 2);
}

#[tokio::test]
async fn offline_asks_nothing() {
    let hub = hub().await;
    let upstream = Upstream::new(&UpstreamConfig { offline: true, ..config(&hub) }, ProxyEnv::default()).unwrap();
    assert_eq!(look(&upstream, "acme/tiny").await.unwrap_err(), ErrorKind::Offline);
    let file = upstream.file(&repo("acme/tiny"), commit(&hub, "acme/tiny"), &path(WEIGHTS));
    assert_eq!(file.open(0..1, SIZE, false).await.unwrap_err().kind, ErrorKind::Offline);
    assert_eq!(hub.counters().connections, 0);
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_not_believed() {
    let hub = Standin::builder()
        .repo(RepoBuilder::model("acme/m").commit(NewCommit::new("x").file("a.txt", "a")))
        .start()
        .await;
    let upstream = upstream(&hub);
    hub.fault(Fault::new(FaultKind::Html { code: 200 }));
    assert!(matches!(look(&upstream, "acme/m").await.unwrap_err(), ErrorKind::Malformed(_)));
    let of = commit(&hub, "acme/m");
    let file = upstream.file(&repo("acme/m"), of, &path("a.txt"));
    assert!(matches!(file.open(0..1, 1, true).await.unwrap_err().kind, ErrorKind::Malformed(_)));
    hub.clear_faults();
    hub.fault(Fault::new(FaultKind::ExtraTreeEntry { path: "../escape".into() }));
    let pages: Vec<_> = upstream.tree(&repo("acme/m"), of, Client, Client).collect().await;
    assert!(matches!(pages[0].as_ref().unwrap_err().kind, ErrorKind::Malformed(_)));
}
