//! What operators decide, against a store in memory.

use std::sync::Arc;

use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Actor, Admin, ApprovalsConfig, Error, Id, LOOK_EVERY, Note, Proposal, Target, Withdrawal, ledger::Ledger};
use crate::{
    hub::{Commit, Repo, Sha256},
    manifest::{
        Entry, Filter, Manifest, NewRecord, What, WriterId,
        testing::{Fate, MemoryStore, content, fact},
    },
    policy::{EnvLists, LicenseId, PolicyHandle, today},
    store::{ErrorKind, Key, Prefix},
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
        Self::locked(store, "version = 1\n").await
    }

    async fn locked(store: &Arc<MemoryStore>, lock: &str) -> Self {
        let desk = Self::unread(store, lock);
        desk.admin.refresh().await.unwrap();
        desk
    }

    /// One that has read nothing yet.
    fn unread(store: &Arc<MemoryStore>, lock: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
        let path = dir.path().join("models.lock");
        std::fs::write(&path, lock).unwrap();
        let policy = Arc::new(PolicyHandle::open_locked(dir.path(), Some(path), EnvLists::default()).unwrap());
        let tasks = TaskTracker::new();
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, CancellationToken::new());
        let config = ApprovalsConfig { enabled: true };
        let admin = Admin::new(&config, store.clone(), policy.clone(), manifest, "hub.test", &tasks);
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
async fn an_approval_of_a_commit_that_is_not_locked_is_refused_and_names_the_lock() {
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let lock = format!(
        "version = 1\n[[repo]]\nrepo = \"org/x\"\nkind = \"model\"\nrevision = \"main\"\ncommit = \"{one}\"\n\
         license = \"mit\"\nrule = \"org\"\nfiles = []\n"
    );
    let desk = Desk::locked(&MemoryStore::new(), &lock).await;
    let refused = desk.admin.approve(&proposal("Org/X", Some(two.parse().unwrap())), &anna()).await.unwrap_err();
    assert!(matches!(refused, Error::Overruled { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains(&format!("the lock (models.lock:2) has Org/X at other commits than {two}")), "{text}");
    assert!(desk.admin.list_approvals().await.unwrap().is_empty(), "nothing is written down");
    for pin in [None, Some(one.parse().unwrap())] {
        assert!(desk.admin.approve(&proposal("org/x", pin), &anna()).await.unwrap().in_force, "{pin:?}");
    }
    let pin = Some(two.parse().unwrap());
    assert!(desk.admin.approve(&proposal("org/free", pin), &anna()).await.unwrap().in_force);
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

/// Stores a file whose content is that of number `n`, as a fill does.
async fn stored(store: &MemoryStore, desk: &Desk, n: usize, fact: NewRecord) {
    store.plant(Key::blob(&fact.sha256).as_str(), content(n));
    desk.admin.manifest.record_stored(fact).await.unwrap();
}

fn copy(n: usize) -> NewRecord {
    NewRecord { repo: "org/copy".parse().unwrap(), ..fact(n) }
}

fn blob(n: usize) -> String {
    Key::blob(&fact(n).sha256).as_str().to_owned()
}

fn index(fact: &NewRecord) -> String {
    Entry::of(fact).key().as_str().to_owned()
}

/// What a process that died wrote to the log.
async fn recorded(desk: &Desk, fact: NewRecord, withdrawal: &Withdrawal) {
    let record = desk.admin.removal(What::Withdrawn, &Entry::of(&fact), withdrawal, Sha256::ZERO);
    desk.admin.manifest.record(record).await.unwrap();
}

#[tokio::test]
async fn a_purge_that_died_before_its_blobs_went_is_completed() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    for n in 0..2 {
        stored(&store, &desk, n, fact(n)).await;
    }
    stored(&store, &desk, 1, copy(1)).await;
    let target = Target::Repo { repo: fact(0).repo };
    let shown = desk.admin.withdraw(target, "leaked", true, &anna()).await.unwrap();
    for n in 0..2 {
        recorded(&desk, fact(n), &shown.withdrawal).await;
    }
    let next = Desk::over(&store).await;
    next.admin.carry_out(&shown.withdrawal.id).await.unwrap();
    assert_eq!(store.keys("blobs/"), [blob(1)], "the copy's stays");
    assert_eq!(store.keys("manifest/index/"), [index(&copy(1))]);
    let purged = next.admin.withdrawal(&shown.withdrawal.id).unwrap().purged.unwrap();
    assert_eq!((&purged.details["files"], &purged.details["blobs"]), (&2.into(), &1.into()), "{purged:?}");
}

#[tokio::test]
async fn a_purge_of_a_content_that_died_before_its_entries_went_is_completed() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    stored(&store, &desk, 0, fact(0)).await;
    let entry = store.object(&index(&fact(0)));
    let target = Target::Sha256 { sha256: fact(0).sha256 };
    let shown = desk.admin.withdraw(target, "poisoned", true, &anna()).await.unwrap();
    recorded(&desk, fact(0), &shown.withdrawal).await;
    store.plant(&index(&fact(0)), entry);
    Desk::over(&store).await.admin.carry_out(&shown.withdrawal.id).await.unwrap();
    assert_eq!((store.keys("blobs/").len(), store.keys("manifest/index/").len()), (0, 0));
}

#[tokio::test]
async fn a_file_that_adopted_a_content_while_it_was_removed_is_a_miss() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    stored(&store, &desk, 0, fact(0)).await;
    let target = Target::Repo { repo: fact(0).repo };
    let shown = desk.admin.withdraw(target, "leaked", true, &anna()).await.unwrap();
    stored(&store, &desk, 0, copy(0)).await;
    store.uproot(&blob(0));
    desk.admin.carry_out(&shown.withdrawal.id).await.unwrap();
    assert_eq!(store.keys("manifest/index/"), Vec::<String>::new());
    let found = desk.admin.manifest.entry(&copy(0).repo, copy(0).commit, &copy(0).path).await.unwrap();
    assert_eq!(found, None);
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_failed_is_tried_again_while_the_gateway_runs() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    stored(&store, &desk, 0, fact(0)).await;
    let target = Target::Repo { repo: fact(0).repo };
    let mut withdrawal = desk.admin.withdraw(target, "leaked", true, &anna()).await.unwrap().withdrawal;
    withdrawal.time -= time::Duration::hours(1);
    let key = Key::withdrawal(withdrawal.id.as_str(), None);
    store.plant(key.as_str(), serde_json::to_vec(&withdrawal).unwrap());
    store.next_write("policies/", Fate::Fails(ErrorKind::PermissionDenied));
    let next = Desk::over(&store).await;
    let (opened, stop) = (CancellationToken::new(), CancellationToken::new());
    opened.cancel();
    let watching = tokio::spawn(next.admin.clone().watch(opened, stop.clone()));
    for _ in 0..100 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(store.keys("blobs/"), Vec::<String>::new());
    assert!(next.admin.withdrawal(&withdrawal.id).unwrap().purged.is_some());
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn withdrawing_a_former_name_refuses_the_one_under_which_the_files_are_stored() {
    let store = MemoryStore::new();
    store.plant(Key::identity(&"org/old".parse().unwrap()).as_str(), r#"{"canonical":"org/new"}"#);
    let desk = Desk::over(&store).await;
    assert!(desk.allows("org/old") && desk.allows("org/new"));
    let target = Target::Repo { repo: "org/old".parse().unwrap() };
    let shown = desk.admin.withdraw(target, "leaked", false, &anna()).await.unwrap();
    assert_eq!(shown.withdrawal.stored_as, ["org/new".parse().unwrap()]);
    for desk in [&desk, &Desk::over(&store).await] {
        assert!(!desk.allows("org/old") && !desk.allows("org/new") && desk.allows("org/other"));
    }
    desk.admin.lift(&shown.withdrawal.id, "fixed", &anna()).await.unwrap();
    assert!(desk.allows("org/old") && desk.allows("org/new"));
}

fn withdrawal_key(id: &Id) -> String {
    Key::withdrawal(id.as_str(), None).to_string()
}

#[tokio::test]
async fn a_decision_that_cannot_be_read_keeps_nobody_from_learning_the_others() {
    let store = MemoryStore::new();
    let (one, other) = (Desk::over(&store).await, Desk::over(&store).await);
    let id = Id::new(OffsetDateTime::now_utc());
    let key = withdrawal_key(&id);
    for (body, why) in [(vec![b' '; 65 * 1024], "more than 65536 bytes"), (b"{".to_vec(), "EOF")] {
        store.plant(&key, body);
        other.admin.refresh().await.unwrap();
        let degraded = other.admin.degraded();
        assert!(degraded[0].contains(&key) && degraded[0].contains(why), "{degraded:?}");
        assert!(degraded[0].contains("may still be served") && other.admin.is_read(), "it serves on: {degraded:?}");
        let fresh = Desk::unread(&store, "version = 1\n");
        fresh.admin.refresh().await.unwrap();
        assert!(!fresh.admin.is_read(), "it can't know what was withdrawn");
        assert!(fresh.admin.check_read().unwrap_err().to_string().contains(&key), "nor may a command go on");
        assert!(fresh.admin.degraded()[0].contains("nothing is served"), "{:?}", fresh.admin.degraded());
    }
    let target = Target::Repo { repo: "org/bad".parse().unwrap() };
    let shown = one.admin.withdraw(target, "leaked", false, &anna()).await.unwrap();
    other.admin.refresh().await.unwrap();
    assert!(!other.allows("org/bad") && other.allows("org/good"));
    // Mended in its place.
    let mended = Target::Repo { repo: "org/good".parse().unwrap() };
    store.plant(&key, serde_json::to_vec(&Withdrawal { id, target: mended, ..shown.withdrawal }).unwrap());
    other.admin.refresh().await.unwrap();
    assert!(!other.allows("org/good") && other.admin.degraded().is_empty());
}

#[tokio::test]
async fn a_withdrawal_holds_though_its_object_goes_and_is_named_until_it_is_lifted() {
    let store = MemoryStore::new();
    let (one, other) = (Desk::over(&store).await, Desk::over(&store).await);
    let target = Target::Repo { repo: "org/bad".parse().unwrap() };
    let id = one.admin.withdraw(target, "leaked", false, &anna()).await.unwrap().withdrawal.id;
    other.admin.refresh().await.unwrap();
    store.uproot(&withdrawal_key(&id));
    for desk in [&one, &other] {
        desk.admin.refresh().await.unwrap();
        desk.admin.refresh().await.unwrap();
        assert!(!desk.allows("org/bad"), "forgotten");
        let degraded = desk.admin.degraded();
        assert!(degraded.len() == 1 && degraded[0].contains(id.as_str()), "{degraded:?}");
    }
    one.admin.lift(&id, "over", &anna()).await.unwrap();
    assert!(one.allows("org/bad") && one.admin.degraded().is_empty());
    other.admin.refresh().await.unwrap();
    assert!(other.allows("org/bad") && other.admin.degraded().is_empty());
}

#[tokio::test]
async fn an_approval_ends_with_its_object_and_by_a_note_that_cannot_be_read() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    let key = |id: &Id, word| Key::approval(id.as_str(), word).to_string();
    desk.admin.approve(&proposal("acme/a", None), &anna()).await.unwrap();
    let newest = desk.admin.approve(&proposal("acme/a", None), &anna()).await.unwrap().approval.id;
    let other = desk.admin.approve(&proposal("acme/b", None), &anna()).await.unwrap().approval.id;
    assert!(desk.allows("acme/a") && desk.allows("acme/b"));
    store.plant(&key(&other, Some("revoked")), "{");
    store.uproot(&key(&newest, None));
    desk.admin.refresh().await.unwrap();
    assert!(!desk.allows("acme/a"), "an older one speaks");
    assert!(!desk.allows("acme/b"), "revoked, however badly it is written");
    assert!(desk.admin.degraded()[0].contains(&key(&other, Some("revoked"))), "{:?}", desk.admin.degraded());
    // A revocation that was read holds, whatever becomes of its object.
    let third = desk.admin.approve(&proposal("acme/c", None), &anna()).await.unwrap().approval.id;
    desk.admin.revoke(&third, "mistake", &anna()).await.unwrap();
    store.uproot(&key(&third, Some("revoked")));
    desk.admin.refresh().await.unwrap();
    assert!(!desk.allows("acme/c"));
}

#[tokio::test]
async fn what_is_withdrawn_for_no_readable_reason_is_refused_before_anything_is_written() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    let target = || Target::Repo { repo: "org/bad".parse().unwrap() };
    for reason in ["", " ", "two\nlines", "\u{202e}turned", &"x".repeat(1001)] {
        let refused = desk.admin.withdraw(target(), reason, false, &anna()).await.unwrap_err();
        assert!(matches!(&refused, Error::Invalid(text) if text.starts_with("reason: ")), "{refused:?}");
    }
    assert_eq!((store.keys("withdrawals/").len(), store.keys("audit/").len()), (0, 0));
    let id = desk.admin.withdraw(target(), " leaked ", false, &anna()).await.unwrap().withdrawal.id;
    assert!(matches!(desk.admin.lift(&id, "a\tb", &anna()).await, Err(Error::Invalid(_))));
    let note = Note {
        time: OffsetDateTime::now_utc(),
        by: "x".repeat(65 * 1024),
        reason: "r".into(),
        details: serde_json::Value::Null,
    };
    let ledger = Ledger::<Note>::new(store.clone(), Prefix::withdrawals(), Key::withdrawal);
    assert!(matches!(ledger.write(&id, note).await, Err(Error::Invalid(_))), "more than anybody would read");
}

#[tokio::test(start_paused = true)]
async fn a_search_that_takes_long_is_busy_and_answers_who_asks_again() {
    let store = MemoryStore::new();
    let desk = Desk::over(&store).await;
    store.plant_record("a", 0, fact(1));
    let slow = store.hold_read("manifest/log/");
    let all = Filter { history: true, ..Filter::default() };
    let none = Filter { licence: Some("mit".into()), ..all.clone() };
    // Another question waits for its turn, too.
    for filter in [&all, &none] {
        assert!(matches!(desk.admin.search_manifest(filter, 10).await, Err(Error::Busy { .. })));
    }
    // What comes now is not in what it has listed: the answer is that of the search that was under way.
    store.plant_record("b", 0, fact(2));
    slow.notify_one();
    let found = desk.admin.search_manifest(&all, 10).await.unwrap();
    assert_eq!(found.records.len(), 1);
    assert_eq!(desk.admin.search_manifest(&none, 10).await.unwrap().records.len(), 0);
    assert_eq!(desk.admin.search_manifest(&all, 10).await.unwrap().records.len(), 2, "an answer was given twice");
}
