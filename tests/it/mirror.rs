//! Whole commits: planned, brought in by the same fills as clients use, and told of when complete.

use std::sync::Mutex;

use hub_standin::{Class, Content, Fault, FaultKind, NewCommit, Origin, RepoBuilder, Standin};
use hubgate::{
    gateway::{Asker, Error, FileProgress, FileState, Plan, Planned},
    manifest::{Filter, Format, export},
    policy::Selection,
    store::Prefix,
};

use crate::{
    fills::big,
    support::gateway::{POLICY, Setup, TestGateway, eventually},
};

fn job() -> Asker {
    Asker::job("test job")
}

fn selection(include: &[&str], exclude: &[&str]) -> Selection {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Selection::new(owned(include), owned(exclude)).unwrap()
}

async fn plan(gate: &TestGateway, repo: &str, selection: &Selection) -> Plan {
    let revision = "main".parse().unwrap();
    gate.gateway.plan(&job(), &repo.parse().unwrap(), &revision, selection).await.unwrap()
}

fn planned(plan: &Plan) -> &Planned {
    plan.verdict.as_ref().unwrap()
}

fn state<'p>(plan: &'p Plan, path: &str) -> &'p FileState {
    &planned(plan).files.iter().find(|file| file.path.as_str() == path).unwrap().state
}

fn quiet(_: &hubgate::gateway::PlannedFile, _: FileProgress) {}

/// A repo with a file of each sort.
fn mixed() -> RepoBuilder {
    let card = "---\nlicense: mit\n---\n";
    RepoBuilder::model("acme/mixed").commit(
        NewCommit::new("one")
            .file("README.md", card)
            .file("config.json", "{}")
            .file("twin.json", "{}")
            .file("notes.pkl", "x")
            .lfs("model.safetensors", Content::generated(3_000_000, 1))
            .lfs("other.gguf", Content::generated(2_000_000, 2))
            .lfs("huge.gguf", Content::generated(9_000_000, 3)),
    )
}

const LIMITED: &str = "[[allow]]\nname = \"mixed\"\nrepo = \"acme/mixed\"\nmax_file_size = \"5MB\"\n";

async fn all_of(gate: &TestGateway) -> Vec<String> {
    use futures_util::TryStreamExt as _;
    let all: Vec<_> = gate.store.list(&Prefix::all()).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap();
    all
}

#[tokio::test]
async fn a_plan_says_of_every_file_whether_it_is_here_to_come_or_left_out() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = Setup::new().policy(&format!("{POLICY}{LIMITED}")).start(&hub).await;
    assert!(gate.get("/acme/mixed/resolve/main/config.json").await.status.is_success());
    let plan = plan(&gate, "acme/mixed", &selection(&[], &["other.*", "notes.pkl"])).await;
    assert!(matches!(state(&plan, "config.json"), FileState::Stored(_)));
    assert_eq!(*state(&plan, "twin.json"), FileState::Here, "the same content under another name");
    assert_eq!(*state(&plan, "model.safetensors"), FileState::Missing);
    assert_eq!(*state(&plan, "other.gguf"), FileState::Excluded);
    assert!(matches!(state(&plan, "notes.pkl"), FileState::Withheld(why) if why.contains("files.deny *.pkl")));
    assert!(matches!(state(&plan, "huge.gguf"), FileState::Refused(why) if why.contains("max_file_size")));
    let sums = planned(&plan).sums();
    assert_eq!((sums.missing.files, sums.missing.bytes), (2, 3_000_000 + 21), "the README and the model");
    assert_eq!((sums.stored.files, sums.here.files, sums.withheld.files), (1, 1, 1));
    assert_eq!((sums.refused.bytes, sums.excluded.bytes), (9_000_000, 2_000_000));
    let planned = planned(&plan);
    assert_eq!((planned.licence.as_str(), planned.rule.as_str(), planned.stale), ("mit", "mixed", false));
    assert_eq!(planned.commit.to_string(), hub.commit("acme/mixed", "main"));
    assert_eq!(hub.counters().file_bytes("acme/mixed/model.safetensors"), 0);
}

#[tokio::test]
async fn a_refused_repo_is_a_value_with_policys_words_and_one_that_is_not_there_an_error() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let refused = plan(&gate, "other/x", &Selection::default()).await;
    assert!(refused.verdict.unwrap_err().text.contains("no allow rule names the model other/x"));
    let main = "main".parse().unwrap();
    let absent = gate.gateway.plan(&job(), &"acme/absent".parse().unwrap(), &main, &Selection::default()).await;
    assert!(matches!(absent, Err(Error::RepoNotFound(_))), "{absent:?}");
    let nowhere = "nowhere".parse().unwrap();
    let absent = gate.gateway.plan(&job(), &"acme/tiny".parse().unwrap(), &nowhere, &Selection::default()).await;
    assert!(matches!(absent, Err(Error::RevisionNotFound { .. })), "{absent:?}");
}

#[tokio::test]
async fn a_dry_runs_plan_writes_nothing() {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    let before = all_of(&gate).await;
    let main = "main".parse().unwrap();
    let dry = gate.gateway.dry_run();
    let plan = dry.plan(&job(), &"acme/tiny".parse().unwrap(), &main, &Selection::default()).await.unwrap();
    assert!(planned(&plan).sums().missing.files > 0);
    dry.fetch(&job(), &plan, 4, &quiet).await.unwrap();
    assert_eq!(all_of(&gate).await, before);
}

#[tokio::test]
async fn what_a_plan_wants_is_fetched_once_verified_and_recorded() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = TestGateway::before(&hub).await;
    let wanted = selection(&[], &["*.gguf"]);
    let first = plan(&gate, "acme/mixed", &wanted).await;
    let events = Mutex::new(Vec::new());
    let watch = |file: &hubgate::gateway::PlannedFile, what: FileProgress| {
        if let FileProgress::Done { fetched } = what {
            events.lock().unwrap().push((file.path.to_string(), fetched));
        }
    };
    let fetched = gate.gateway.fetch(&job(), &first, 4, &watch).await.unwrap();
    assert!(fetched.failed.is_empty(), "{:?}", fetched.failed);
    assert_eq!(fetched.fetched.files + fetched.found.files, 4);
    assert_eq!(events.lock().unwrap().len(), 4);
    let completed = fetched.completed.unwrap();
    let paths: Vec<&str> = completed.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["README.md", "config.json", "model.safetensors", "twin.json"]);
    assert_eq!((completed.left_out, completed.licence.as_str(), completed.rule.as_str()), (2, "mit", "acme"));
    assert_eq!(completed.files[2].sha256.to_string(), hub.sha256("acme/mixed", "main", "model.safetensors"));
    let mut csv = Vec::new();
    export(&*gate.store, &Filter::default(), Format::Csv, &mut csv).await.unwrap();
    let csv = String::from_utf8(csv).unwrap();
    assert_eq!(csv.lines().count(), 1 + 4);
    assert!(csv.lines().skip(1).all(|line| line.contains("acme/mixed,main,") && line.contains(",test job,")), "{csv}");

    hub.reset_counters();
    let again = plan(&gate, "acme/mixed", &wanted).await;
    assert_eq!(planned(&again).wanted().count(), 0);
    let nothing = gate.gateway.fetch(&job(), &again, 4, &quiet).await.unwrap();
    assert_eq!((nothing.fetched.files, nothing.found.files), (0, 0));
    assert_eq!(nothing.completed.unwrap().files, completed.files);
    assert_eq!(hub.count(Class::Resolve) + hub.count(Class::Cdn), 0);
}

#[tokio::test]
async fn a_file_that_fails_leaves_the_others_alone_and_is_all_that_is_fetched_the_next_time() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = TestGateway::before(&hub).await;
    let lie = hub.fault(Fault::new(FaultKind::FlipByte { at: 5 }).path("acme/mixed/other.gguf"));
    let first = plan(&gate, "acme/mixed", &Selection::default()).await;
    let fetched = gate.gateway.fetch(&job(), &first, 2, &quiet).await.unwrap();
    assert_eq!(fetched.failed.len(), 1);
    let (path, error) = &fetched.failed[0];
    assert!(path.as_str() == "other.gguf" && matches!(error, Error::Integrity { .. }), "{path}: {error}");
    assert!(fetched.completed.is_none());
    hub.clear_fault(lie);
    let again = plan(&gate, "acme/mixed", &Selection::default()).await;
    let wanted: Vec<&str> = planned(&again).wanted().map(|file| file.path.as_str()).collect();
    assert_eq!(wanted, ["other.gguf"]);
}

#[tokio::test]
async fn a_job_that_is_dropped_takes_its_transfer_with_it_and_leaves_the_store_sound() {
    const SIZE: u64 = 24 << 20;
    let hub = Standin::builder().repo(big(SIZE)).start().await;
    let gate = TestGateway::before(&hub).await;
    let stall = FaultKind::StallAfter { bytes: 2_000_000, ms: None };
    let stall = hub.fault(Fault::new(stall).path("acme/big/model.safetensors").origin(Origin::Cdn));
    let plan = plan(&gate, "acme/big", &Selection::default()).await;
    let job = job();
    let some_came = tokio::sync::Notify::new();
    let watch = |_: &hubgate::gateway::PlannedFile, what: FileProgress| {
        if matches!(what, FileProgress::Bytes(1_000_000..)) {
            some_came.notify_one();
        }
    };
    tokio::select! {
        _ = gate.gateway.fetch(&job, &plan, 2, &watch) => panic!("it can't end"),
        () = some_came.notified() => {}
    }
    gate.wait_until_idle().await;
    hub.clear_fault(stall);
    let fetched = gate.gateway.fetch(&job, &plan, 2, &quiet).await.unwrap();
    assert!(fetched.completed.is_some(), "{:?}", fetched.failed);
}

#[tokio::test]
async fn a_client_that_joins_a_jobs_transfer_gets_the_file_and_the_job_ends_too() {
    const SIZE: u64 = 24 << 20;
    let hub = Standin::builder().repo(big(SIZE)).start().await;
    let gate = TestGateway::before(&hub).await;
    let plan = plan(&gate, "acme/big", &selection(&["*.safetensors"], &[])).await;
    let job = job();
    let (fetched, answer) =
        tokio::join!(gate.gateway.fetch(&job, &plan, 2, &quiet), gate.get("/acme/big/resolve/main/model.safetensors"));
    assert!(answer.body == hub.bytes("acme/big", "main", "model.safetensors"));
    assert!(fetched.unwrap().completed.is_some());
    assert_eq!(hub.counters().file_bytes("acme/big/model.safetensors"), SIZE);
}

#[tokio::test]
async fn a_policy_that_changes_under_a_job_stops_what_is_not_fetched_yet() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = TestGateway::before(&hub).await;
    let plan = plan(&gate, "acme/mixed", &Selection::default()).await;
    gate.set_policy(&format!("{POLICY}[[deny]]\nrepo = \"acme/mixed\"\nreason = \"withdrawn\"\n")).unwrap();
    let fetched = gate.gateway.fetch(&job(), &plan, 2, &quiet).await.unwrap();
    assert_eq!(fetched.failed.len(), planned(&plan).wanted().count());
    assert!(fetched.failed.iter().all(|(_, error)| error.to_string().contains("withdrawn")), "{:?}", fetched.failed);
    assert_eq!(hub.count(Class::Cdn), 0);
}

#[tokio::test]
async fn clients_that_bring_in_the_last_file_of_a_commit_make_it_complete_once() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = TestGateway::before(&hub).await;
    let mut completions = gate.gateway.completions();
    let (repo, main) = ("acme/mixed".parse().unwrap(), "main".parse().unwrap());
    let commit = hub.commit("acme/mixed", "main").parse().unwrap();
    for path in ["README.md", "config.json", "twin.json", "model.safetensors", "other.gguf"] {
        assert!(gate.get(&format!("/acme/mixed/resolve/main/{path}")).await.status.is_success());
    }
    assert_eq!(gate.gateway.completed(&repo, commit, &main, None).await.unwrap(), None, "one is missing");
    let without = selection(&[], &["huge.gguf"]);
    let completed = gate.gateway.completed(&repo, commit, &main, Some(&without)).await.unwrap().unwrap();
    assert_eq!((completed.files.len(), completed.left_out), (5, 1));
    assert!(gate.get("/acme/mixed/resolve/main/huge.gguf").await.status.is_success());
    let told = completions.next().await;
    assert_eq!((told.repo.id(), told.files.len(), told.left_out), ("acme/mixed", 6, 0));
    assert_eq!((told.revision.as_str(), told.commit), ("main", commit));
    let json = serde_json::to_value(&*told).unwrap();
    assert_eq!((&json["kind"], &json["files"][0]["path"]), (&"model".into(), &"README.md".into()));

    // A job that finds all of it here says so too, but it is no news.
    let plan = plan(&gate, "acme/mixed", &Selection::default()).await;
    assert!(gate.gateway.fetch(&job(), &plan, 2, &quiet).await.unwrap().completed.is_some());
    assert!(gate.get("/acme/mixed/resolve/main/notes.pkl").await.status.is_client_error());
    let more = tokio::time::timeout(std::time::Duration::from_secs(3), completions.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn jobs_leave_half_of_the_places_to_clients() {
    let hub = Standin::builder().repo(mixed()).start().await;
    let gate = Setup::new().config("fill.max_live = 2").start(&hub).await;
    let stall = hub.fault(Fault::new(FaultKind::StallAfter { bytes: 1000, ms: None }).path("acme/mixed/*.gguf"));
    let plan = plan(&gate, "acme/mixed", &selection(&["*.gguf"], &[])).await;
    let job = job();
    let fetching = gate.gateway.fetch(&job, &plan, 2, &quiet);
    tokio::pin!(fetching);
    tokio::select! {
        _ = &mut fetching => panic!("it can't end"),
        () = eventually("one transfer is under way", async || gate.health().await["fills"] == 1) => {}
    }
    // The job's other file waits; the client's does not.
    let client = gate.get("/acme/mixed/resolve/main/model.safetensors");
    tokio::select! {
        _ = &mut fetching => panic!("it can't end"),
        answer = client => assert!(answer.status.is_success()),
    }
    hub.clear_fault(stall);
    assert!(fetching.await.unwrap().completed.is_some());
}
