//! What the origin says wrongly of its files: nothing of it is stored, and the answer says so.

use futures_util::TryStreamExt as _;
use hub_standin::{Class, Fault, FaultKind, NewCommit, RepoBuilder, Standin};
use hubgate::store::Prefix;

use crate::support::gateway::TestGateway;

/// A file of git's and one of LFS's.
const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// Asks for the files while the origin lies: each is refused in words that have these in them, and nothing is kept.
/// When it is honest again, they come.
async fn is_refused(lie: FaultKind, class: Class, words: &str) {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    hub.fault(Fault::new(lie.clone()).class(class).path("*acme/tiny*"));
    for file in FILES {
        let answer = gate.get(&format!("/acme/tiny/resolve/main/{file}")).await;
        assert_eq!(answer.status, 502, "{lie:?} {file}: {}", answer.text());
        assert!(answer.header("x-error-message").contains(words), "{lie:?} {file}: {}", answer.text());
    }
    for kept in [Prefix::blobs(), Prefix::index()] {
        let kept: Vec<_> = gate.store.list(&kept).try_collect().await.unwrap();
        assert!(kept.is_empty(), "{lie:?}: {kept:?}");
    }
}

#[tokio::test]
async fn a_digest_that_the_content_does_not_have_is_refused() {
    is_refused(FaultKind::LieDigest, Class::Tree, "nothing was stored").await;
}

#[tokio::test]
async fn a_size_that_the_content_does_not_have_is_refused() {
    for by in [1, -1] {
        is_refused(FaultKind::LieSize { by }, Class::Tree, "another size than was announced").await;
    }
}

#[tokio::test]
async fn what_the_info_says_of_a_files_content_is_not_believed() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    hub.fault(Fault::new(FaultKind::LieDigest).class(Class::Info));
    hub.fault(Fault::new(FaultKind::LieSize { by: 1 }).class(Class::Info));
    for file in FILES {
        let answer = gate.get(&format!("/acme/tiny/resolve/main/{file}")).await;
        assert_eq!(answer.body, hub.bytes("acme/tiny", "main", file), "{file}");
    }
    let info = gate.get("/api/models/acme/tiny?blobs=true").await.json();
    let weights = info["siblings"].as_array().unwrap().iter().find(|file| file["rfilename"] == FILES[1]).unwrap();
    assert_eq!(weights["lfs"]["sha256"], hub.sha256("acme/tiny", "main", FILES[1]));
    assert_eq!(weights["size"], hub.bytes("acme/tiny", "main", FILES[1]).len());
}

/// A git blob id is a SHA-1: within a repo it names content, and one repo's must not speak for another's.
#[tokio::test]
async fn an_equal_git_file_of_another_repo_is_fetched_by_itself() {
    const SAME: &str = "the same in both\n";
    let repo = |name| {
        let files = NewCommit::new("one").file("README.md", "---\nlicense: mit\n---\n").file("same.txt", SAME);
        RepoBuilder::model(name).commit(files)
    };
    let hub = Standin::builder().repo(repo("acme/one")).repo(repo("acme/two")).start().await;
    let gate = TestGateway::before(&hub).await;
    for _ in 0..2 {
        for repo in ["acme/one", "acme/two"] {
            assert_eq!(gate.get(&format!("/{repo}/resolve/main/same.txt")).await.text(), SAME);
        }
    }
    for repo in ["acme/one", "acme/two"] {
        assert_eq!(hub.counters().file_bytes(&format!("{repo}/same.txt")), SAME.len() as u64, "{repo}");
    }
}
