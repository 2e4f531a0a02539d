//! What operators decide, against a store in memory.

use std::sync::Arc;

use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Actor, Admin, ApprovalsConfig, Error, Id, Note, Proposal, ledger::Ledger};
use crate::{
    hub::{Commit, Repo},
    manifest::{Manifest, WriterId, testing::MemoryStore},
    policy::{EnvLists, LicenseId, PolicyHandle, today},
    store::{Key, Prefix},
};

const POLICY: &str = "[licenses]\nallow = [\"mit\"]\n[[allow]]\nname = \"org\"\nrepo = \"org/*\"\n";

/// One gateway's operators' side over a store that others may share.
struct Desk {
    admin: Admin,
    policy: Arc<PolicyHandle>,
    _dir: TempDir,
}

impl Desk {
    async fn over(store: &Arc<MemoryStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
        let policy = Arc::new(PolicyHandle::open(dir.path(), EnvLists::default()).unwrap());
        let tasks = TaskTracker::new();
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, CancellationToken::new());
        let config = ApprovalsConfig { enabled: true };
        let admin = Admin::new(&config, store.clone(), policy.clone(), manifest, "hub.test");
        admin.refresh().await.unwrap();
        Self { admin, policy, _dir: dir }
    }

    fn allows(&self, repo: &str) -> bool {
        self.policy.current().decide_repo(&repo.parse().unwrap(), today()).is_ok()
    }
}

fn anna() -> Actor {
    Actor { name: "anna".into(), from: None, request_id: None }
}

fn proposal(repo: &str, pin: Option<Commit>) -> Proposal {
    Proposal {
        repo: repo.parse::<Repo>().unwrap(),
        licence: LicenseId::new("apache-2.0"),
        reason: "reviewed".into(),
        expires: today().next_day().unwrap(),
        pin,
        gated: false,
        ticket: None,
    }
}

#[tokio::test]
async fn revoking_the_newest_approval_does_not_bring_an_older_one_back() {
    let desk = Desk::over(&MemoryStore::new()).await;
    desk.admin.approve(&proposal("acme/tiny", None), &anna()).await.unwrap();
    let pin = "a".repeat(40).parse().unwrap();
    let newest = desk.admin.approve(&proposal("Acme/Tiny", Some(pin)), &anna()).await.unwrap();
    assert!(newest.in_force && desk.allows("acme/tiny"));
    desk.admin.revoke(&newest.approval.id, "mistake", &anna()).await.unwrap();
    assert!(!desk.allows("acme/tiny"), "the first one spoke again");
    desk.admin.reject(&"acme/tiny".parse().unwrap(), "no", &anna()).await.unwrap();
    let anew = desk.admin.approve(&proposal("acme/tiny", None), &anna()).await.unwrap();
    assert!(anew.in_force && desk.allows("acme/tiny"));
}

#[tokio::test]
async fn a_decision_that_was_written_already_by_this_very_write_counts_as_written() {
    let store = MemoryStore::new();
    let now = OffsetDateTime::now_utc();
    let (id, note) = (Id::new(now), |by: &str| Note {
        time: now,
        by: by.into(),
        reason: "r".into(),
        details: serde_json::Value::Null,
    });
    let ledger = || Ledger::<Note>::new(store.clone(), Prefix::withdrawals(), Key::withdrawal);
    ledger().write(&id, note("anna")).await.unwrap();
    let again = ledger();
    again.write(&id, note("anna")).await.unwrap();
    assert!(again.get(&id).is_some(), "it is known at once");
    for other in ["otto", "somebody with a longer name"] {
        let refused = ledger().write(&id, note(other)).await;
        assert!(matches!(refused, Err(Error::Already(_))), "{refused:?}");
    }
}
