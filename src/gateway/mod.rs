//! The use cases: what the Hub's questions mean here. Policy, refs, snapshots, manifest, fills.
//!
//! Knows no HTTP server, no status code and no AWS. Every question starts with policy, hits too; what is
//! stored is answered from the store; only what is allowed and missing goes upstream.

mod admission;
mod answer;
mod commit;
mod error;
mod explain;
mod files;
mod fill;
mod flights;
mod grant;
mod history;
mod hook;
mod identity;
mod inspect;
mod known;
mod limits;
mod listing;
mod mirror;
mod names;
mod nodes;
mod origin;
mod outage;
mod publishable;
mod refs;
mod repos;
mod snapshot;
mod stored;
mod tasks;
mod turns;
mod view;
mod weights;

use std::{ops::Deref, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use moka::future::Cache;
use tokio::{
    sync::{Semaphore, broadcast},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use answer::{
    Asker, Body, BodyError, Cached, File, ListedRepo, Listing, Located, OnWhole, Opened, Opening, RepoFacts,
};
pub use commit::Resolved;
pub use error::{Error, Refusal};
pub use fill::FillConfig;
pub use inspect::Inspection;
pub use limits::{ClientLimits, LimitsConfig};
pub use mirror::{
    Completed, CompletedFile, Completions, Fetched, FileProgress, FileState, Lockable, NamedBy, Plan, Planned,
    PlannedFile, Reference, References, Standing, Sum, Sums, ToBeLocked,
};
pub use publishable::{Publishability, Publishable, PublishableFile, PublishedCopy};
pub use snapshot::StoredSnapshots;
pub use stored::{StoredCommit, StoredQuery, StoredRepo};

use crate::{
    hooks,
    hub::{self, Commit, CommitInfo, Repo, RepoInfo, RepoPath, Revision, Sha256, TreeNode},
    manifest::{Manifest, WriterId},
    policy::PolicyHandle,
    store::{DryRun, Store},
    upstream::{self, OnGone, Purpose, Upstream},
};
use fill::Fills;
use flights::Flights;
use identity::Identities;
use known::Fresh;
use nodes::{FolderKey, NodesKey};
use outage::Outage;
use refs::Refs;
use repos::ListKey;
use snapshot::{Facts, Piece, Snapshot, Snapshots};
use tasks::Tasks;
use view::{Verdict, VerdictKey, View, ViewKey};
use weights::Weigh;

/// The gateway's answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Every answer begins within this time (I9): Python clients give up at 10 s. The work goes on behind.
const DEADLINE: Duration = Duration::from_secs(8);

/// When a client should come back for an answer that was not ready in time.
const RETRY: Duration = Duration::from_secs(2);

/// How long a client waits for upstream where something is stored that can answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long "no such repo" and "no such revision" are believed.
const UNKNOWN_TTL: Duration = Duration::from_secs(30);

/// How long a view of a commit is shown again: for the files that a client asks for in a row, and the many
/// clients that start together.
const VIEW_TTL: Duration = Duration::from_secs(1);

/// How long facts that are not stored (of a repo that was refused, of a tree that is on its way) are kept.
const FRESH_TTL: Duration = Duration::from_mins(10);

/// How long a commit is remembered whose tree is too large to keep, which costs hundreds of requests to
/// find out.
const TOO_LARGE_TTL: Duration = Duration::from_hours(24);

/// What looked-up facts that are not stored yet may take of memory, each sort, in bytes.
const FACTS_MEMORY_BYTES: u64 = 16 * 1024 * 1024;

/// How many trees of more than 50,000 nodes are gathered in memory at once.
const LARGE_TREES: usize = 2;

/// What snapshots may take of memory, in bytes.
const SNAPSHOT_MEMORY_BYTES: u64 = 48 * 1024 * 1024;

/// The parts of the configuration that the use cases read.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// `upstream.ref_ttl`.
    pub ref_ttl: Duration,
    /// `upstream.on_gone`.
    pub on_gone: OnGone,
    /// `policy.contact`.
    pub contact: Option<String>,
    /// `[fill]`.
    pub fill: FillConfig,
    /// `[limits]`.
    pub limits: LimitsConfig,
}

/// All use cases over one store, one policy and one upstream. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>);

/// What a gateway is made of. Private, but `Deref` must name it.
#[doc(hidden)]
pub struct Parts {
    config: GatewayConfig,
    store: Arc<dyn Store>,
    policy: Arc<PolicyHandle>,
    upstream: Arc<Upstream>,
    manifest: Manifest,
    identities: Identities,
    refs: Refs,
    snapshots: Snapshots,
    fills: Arc<Fills>,
    limits: ClientLimits,
    looks: Flights<(Repo, Revision, Purpose), commit::Looked>,
    histories: Flights<admission::SearchKey, Option<Revision>>,
    /// Commits that no allowed branch or tag led to a moment ago.
    outside: Cache<admission::SearchKey, ()>,
    facts_flights: Flights<(Repo, Commit, Purpose), Arc<Fresh>>,
    tree_flights: Flights<(Repo, Commit), Arc<Snapshot>>,
    node_flights: Flights<NodesKey, Arc<Vec<TreeNode>>>,
    folder_flights: Flights<FolderKey, Arc<Piece>>,
    ref_flights: Flights<(Repo, bool), Arc<hub::Refs>>,
    commit_flights: Flights<(Repo, Commit), Arc<Vec<CommitInfo>>>,
    inspection_flights: Flights<(Repo, Revision), Arc<Inspection>>,
    inspections: Cache<(Repo, Revision), Arc<Inspection>>,
    /// Commits that a branch or tag led to, with the last that did. Some rule allowed it; ask `led_to`.
    admitted: Cache<(Repo, Commit), Revision>,
    unknown: Cache<(Repo, Revision), Error>,
    /// Commits of which the origin says what makes no sense; it may do better soon.
    insane: Cache<(Repo, Commit), Error>,
    /// Commits with more files than are kept.
    too_large: Cache<(Repo, Commit), Error>,
    large_trees: Semaphore,
    /// Names that lead to one that policy did not allow, and that name.
    renamed: Cache<Repo, Repo>,
    infos: Cache<(Repo, Commit), Arc<RepoInfo>>,
    fresh: Cache<(Repo, Commit), Arc<Fresh>>,
    verdict_flights: Flights<VerdictKey, Verdict>,
    verdicts: Cache<VerdictKey, Verdict>,
    list_flights: Flights<ListKey, Arc<Vec<Arc<Facts>>>>,
    /// All repos of a kind that a policy shows.
    lists: Cache<ListKey, Arc<Vec<Arc<Facts>>>>,
    /// What was shown of whole commits a moment ago; holds as long as the policy that let it.
    views: Cache<ViewKey, Arc<View>>,
    /// What is right in a folder of a tree that is not stored.
    folders: Cache<FolderKey, Arc<Piece>>,
    /// Single nodes of trees that are not stored.
    single_nodes: Cache<(Repo, Commit, RepoPath), TreeNode>,
    /// With pull requests or without.
    ref_lists: Cache<(Repo, bool), Arc<hub::Refs>>,
    commit_lists: Cache<(Repo, Commit), Arc<Vec<CommitInfo>>>,
    /// What the hook said last of commits, where a rule asks for it.
    hook_runs: Cache<(Repo, Commit), Option<Arc<hooks::Run>>>,
    outage: Outage,
    /// What jobs have brought in whole.
    completed: broadcast::Sender<Arc<Completed>>,
}

impl Deref for Gateway {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What health checks say of the gateway.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Health {
    /// The policy in force.
    pub policy_sha256: Sha256,
    /// Why the newest policy is not in force, if it isn't.
    pub policy_error: Option<String>,
    /// What is degraded, one sentence each; stored content is served all the same.
    pub degraded: Vec<String>,
    /// Transfers under way.
    pub fills: usize,
}

fn cache<K, V>(entries: u64, ttl: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(entries).time_to_live(ttl).build()
}

/// A cache bounded by what its values weigh.
fn weighed<K, V>(ttl: Duration) -> Cache<K, Arc<V>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Weigh + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(FACTS_MEMORY_BYTES)
        .weigher(|_, value: &Arc<V>| u32::try_from(value.weight()).unwrap_or(u32::MAX))
        .time_to_live(ttl)
        .build()
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy)]
enum Awaited {
    /// A look-up or a transfer, which goes on behind the answer.
    Origin,
    /// The store alone.
    Store,
}

/// Bounds the time to an answer.
// No `async fn`: that would hold the work twice, as what it was given and as what it waits for.
fn by<T>(
    deadline: Instant,
    awaited: Awaited,
    work: impl Future<Output = Result<T>>,
) -> impl Future<Output = Result<T>> {
    tokio::time::timeout_at(deadline, work).map(move |done| {
        done.unwrap_or_else(|_| {
            let why = match awaited {
                Awaited::Origin => "still fetching from the origin; the answer will be here soon",
                Awaited::Store => {
                    tracing::warn!("the store does not answer in time; a client was told to come back");
                    "this gateway's store does not answer in time; tell the operator if that goes on"
                }
            };
            Err(Error::Busy { why: why.to_owned(), retry_after: RETRY })
        })
    })
}

impl Gateway {
    /// Puts the parts together. Tasks run as `tasks`, which the caller waits for at the end.
    pub fn new(
        config: GatewayConfig,
        store: Arc<dyn Store>,
        policy: Arc<PolicyHandle>,
        upstream: Arc<Upstream>,
        manifest: Manifest,
        tasks: &TaskTracker,
    ) -> Self {
        let tasks = Tasks::here(tasks.clone());
        let (fill, contact) = (config.fill.clone(), config.contact.clone());
        let fills = Fills::new(fill, store.clone(), manifest.clone(), policy.clone(), contact, tasks.clone());
        Self(Arc::new(Parts {
            identities: Identities::new(store.clone(), config.ref_ttl),
            refs: Refs::new(store.clone(), config.ref_ttl),
            snapshots: Snapshots::new(store.clone(), SNAPSHOT_MEMORY_BYTES),
            fills,
            limits: ClientLimits::new(&config.limits),
            looks: Flights::new(tasks.clone()),
            histories: Flights::new(tasks.clone()),
            outside: cache(10_000, UNKNOWN_TTL),
            facts_flights: Flights::new(tasks.clone()),
            tree_flights: Flights::new(tasks.clone()),
            node_flights: Flights::new(tasks.clone()),
            folder_flights: Flights::new(tasks.clone()),
            ref_flights: Flights::new(tasks.clone()),
            commit_flights: Flights::new(tasks.clone()),
            inspection_flights: Flights::new(tasks.clone()),
            inspections: cache(1_000, inspect::INSPECTION_TTL),
            admitted: cache(100_000, FRESH_TTL),
            unknown: cache(10_000, UNKNOWN_TTL),
            insane: cache(1_000, UNKNOWN_TTL),
            too_large: cache(10_000, TOO_LARGE_TTL),
            large_trees: Semaphore::new(LARGE_TREES),
            renamed: cache(10_000, UNKNOWN_TTL),
            infos: weighed(UNKNOWN_TTL),
            fresh: weighed(FRESH_TTL),
            verdict_flights: Flights::new(tasks.clone()),
            verdicts: cache(10_000, FRESH_TTL),
            list_flights: Flights::new(tasks.clone()),
            lists: weighed(repos::LIST_TTL),
            views: cache(1_000, VIEW_TTL),
            folders: weighed(FRESH_TTL),
            single_nodes: cache(50_000, FRESH_TTL),
            ref_lists: weighed(history::REFS_TTL),
            commit_lists: weighed(history::REFS_TTL),
            hook_runs: cache(1_000, hook::VERDICT_TTL),
            outage: Outage::default(),
            completed: broadcast::Sender::new(mirror::COMPLETED_UNHEARD),
            config,
            store,
            policy,
            upstream,
            manifest,
        }))
    }

    /// A gateway that answers the same and writes nothing: what it learns is forgotten with it.
    #[must_use]
    pub fn dry_run(&self) -> Self {
        let (tasks, store) = (TaskTracker::new(), Arc::new(DryRun::over(Some(self.store.clone()))));
        // Its chain of records ends with it, and is never written to.
        let manifest = Manifest::start(store.clone(), WriterId::new(), &tasks, CancellationToken::new());
        Self::new(self.config.clone(), store, self.policy.clone(), self.upstream.clone(), manifest, &tasks)
    }

    /// Gives up transfers that nobody reads, so that a stopping process need not wait for them.
    pub fn give_up_paused(&self) {
        self.fills.give_up_paused();
    }

    /// What health checks say.
    pub fn health(&self) -> Health {
        let mut degraded = Vec::new();
        let upstream = self.upstream.status();
        if upstream.is_degraded() {
            let why = match &upstream.last_failure {
                Some((_, error)) if !upstream.offline => error.public_text(),
                _ => "upstream.offline is set".to_owned(),
            };
            degraded.push(format!("{why}; stored content is served"));
        } else if self.outage.is_of_all() {
            degraded.push("the origin does not answer in time; stored content is served".to_owned());
        }
        let policy_error = self.policy.problem().map(|problem| problem.to_string());
        if policy_error.is_some() {
            degraded.push("the newest policy is refused; the one before it is in force".to_owned());
        }
        Health { policy_sha256: self.policy.current().digest(), policy_error, degraded, fills: self.fills.count() }
    }

    /// How fills ended since the start.
    pub fn fills_ended(&self) -> Vec<(String, u64)> {
        self.fills.ended().rows()
    }

    /// How the way out is doing.
    pub fn upstream_status(&self) -> upstream::Status {
        self.upstream.status()
    }

    /// Bounds the time to an answer. Shared work goes on when a client's time is over.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        // Boxed: what lists and facts take of state is large, and would be part of every request's.
        by(Instant::now() + DEADLINE, Awaited::Origin, Box::pin(work)).await
    }
}
