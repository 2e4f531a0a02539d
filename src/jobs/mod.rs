//! Jobs: whole repos that an operator wants brought in. Asked for by the admin API, run by whichever replica comes
//! first, behind clients' traffic.
//!
//! The store is the only place where jobs are ([`ledger`]), so they survive restarts, and any replica can take up one
//! whose runner is gone ([`standing`]). Nobody is kept from running a job twice: fills are single, and recording the
//! same file again writes the same entry. What comes in is decided by policy, file by file, when its turn comes; a
//! job permits nothing.

mod config;
mod expire;
mod ledger;
mod progress;
mod request;
mod runner;
mod standing;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::{
    gateway::Gateway,
    manifest::WriterId,
    store::{self, Key, ObjectMeta, Store},
};
use ledger::{Job, Ledger};
use runner::Running;
use standing::Watch;

pub use config::JobsConfig;
pub use expire::{Expired, KEPT_FOR};
pub use progress::{FileShown, FileWord, Progress};
pub use request::{JobId, Request};
pub use standing::State;

/// Jobs that are read at a time.
const READS_AT_ONCE: usize = 16;

/// Jobs that may wait or run.
const MOST_OPEN: usize = 1000;

/// Why a job can't be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of this id.
    #[error("there is no job {0}; GET preseed lists all")]
    Unknown(JobId),
    /// What was asked for does not fit where the job stands.
    #[error("{0}")]
    NotNow(String),
    /// Too many wait already.
    #[error("{MOST_OPEN} jobs wait already; ask again when some are done, or cancel some")]
    TooMany,
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The answers about jobs.
pub type Result<T> = std::result::Result<T, Error>;

/// The jobs of a store, and those of them that run in this process. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    config: JobsConfig,
    ledger: Ledger,
    gateway: Gateway,
    writer: WriterId,
    watch: Mutex<Watch>,
    running: Mutex<HashMap<JobId, Arc<Running>>>,
    /// Asked for here, and so taken up here without waiting whether another replica does.
    ours: Mutex<HashSet<JobId>>,
    /// The attempts that came to their end here.
    ended: Mutex<HashMap<JobId, u32>>,
    /// Jobs that are over, with the objects that they were read from: these don't change by themselves.
    over: Mutex<HashMap<JobId, (Objects, Shown)>>,
    /// Something is to be looked at now.
    wake: Notify,
}

/// What tells one state of a job's objects from another.
type Objects = Vec<(Key, u64, SystemTime)>;

/// A job as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Its id.
    pub id: JobId,
    /// Where it stands.
    pub state: State,
    /// What it brings in.
    #[serde(flatten)]
    pub request: Request,
    /// Higher goes first.
    pub priority: i32,
    /// Who asked first.
    pub asked_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub asked_at: OffsetDateTime,
    /// How often it was begun by request, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub reason: Option<String>,
    /// The process that works on it, or did last.
    pub runner: Option<WriterId>,
    /// When that began.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// When it gave its last sign of life.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated_at: Option<OffsetDateTime>,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
}

/// A job in a look at all of them.
enum Known {
    Over(Box<Shown>),
    Open(Box<Job>),
}

impl Jobs {
    /// The jobs of a store. `writer` is this process's name in it.
    pub fn new(config: JobsConfig, store: Arc<dyn Store>, gateway: Gateway, writer: WriterId) -> Self {
        Self(Arc::new(Inner {
            config,
            ledger: Ledger::new(store),
            gateway,
            writer,
            watch: Mutex::default(),
            running: Mutex::default(),
            ours: Mutex::default(),
            ended: Mutex::default(),
            over: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// Asks for a repo. The same request is the same job: one that waits or runs goes on as it is, with the priority
    /// that it has; one that is over begins anew, and fetches what is missing by now.
    ///
    /// # Errors
    /// Too many jobs wait already, or the store's.
    pub async fn ask(&self, request: &Request, priority: i32, by: &str) -> Result<Shown> {
        let id = request.id();
        match self.0.ledger.job(&id).await? {
            None => {
                if self.all().await?.iter().filter(|known| matches!(known, Known::Open(_))).count() >= MOST_OPEN {
                    return Err(Error::TooMany);
                }
                // What is left of an earlier job of this id would be read as this one's.
                self.0.ledger.clear(&id).await?;
                self.0.ledger.ask(request, priority, by).await?;
            }
            Some(job) if self.state(&job).is_over() => self.0.ledger.retry(&id, job.attempt + 1, by).await?,
            Some(_) => {}
        }
        self.take_up(&id);
        self.show(&id).await
    }

    /// All jobs, the newest first, without their files and references.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<Vec<Shown>> {
        let shown = |known| match known {
            Known::Over(shown) => *shown,
            Known::Open(job) => self.shown(&job),
        };
        let mut jobs: Vec<Shown> = self.all().await?.into_iter().map(shown).collect();
        for job in &mut jobs {
            job.progress = without_lists(&job.progress);
        }
        jobs.sort_by(|a, b| b.asked_at.cmp(&a.asked_at).then_with(|| a.id.cmp(&b.id)));
        Ok(jobs)
    }

    /// One job with all that is known of it.
    ///
    /// # Errors
    /// There is none, or the store's.
    pub async fn show(&self, id: &JobId) -> Result<Shown> {
        Ok(self.shown(&self.job(id).await?))
    }

    /// Ends a job that waits or runs; within seconds, wherever it runs. What is stored stays.
    ///
    /// # Errors
    /// It is over already; there is none; or the store's.
    pub async fn cancel(&self, id: &JobId, by: &str) -> Result<Shown> {
        let job = self.job(id).await?;
        let state = self.state(&job);
        if state.is_over() {
            return Err(Error::NotNow(format!("job {id} is {} already", word(state))));
        }
        self.0.ledger.cancel(id, job.attempt, by).await?;
        if let Some(running) = self.running().get(id) {
            running.stop(runner::End::Cancelled);
        }
        self.0.wake.notify_one();
        self.show(id).await
    }

    /// Begins a failed or cancelled job anew.
    ///
    /// # Errors
    /// It is neither; there is none; or the store's.
    pub async fn retry(&self, id: &JobId, by: &str) -> Result<Shown> {
        let job = self.job(id).await?;
        match self.state(&job) {
            State::Failed | State::Cancelled => self.0.ledger.retry(id, job.attempt + 1, by).await?,
            State::Done => {
                let remedy = "ask for the repo again to look for a newer commit";
                return Err(Error::NotNow(format!("job {id} is done; {remedy}")));
            }
            state => return Err(Error::NotNow(format!("job {id} is {}; it needs no retry", word(state)))),
        }
        self.take_up(id);
        self.show(id).await
    }

    fn take_up(&self, id: &JobId) {
        self.0.ours.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        self.0.wake.notify_one();
    }

    async fn job(&self, id: &JobId) -> Result<Job> {
        self.0.ledger.job(id).await?.ok_or_else(|| Error::Unknown(id.clone()))
    }

    /// Every job; of those that are over, what was read once.
    async fn all(&self) -> Result<Vec<Known>> {
        let objects = self.0.ledger.objects().await?;
        self.over().retain(|id, _| objects.contains_key(id));
        self.ended().retain(|id, _| objects.contains_key(id));
        let all = stream::iter(objects).map(|(id, metas)| async move { self.known(id, &metas).await });
        let all: Vec<Option<Known>> = all.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(all.into_iter().flatten().collect())
    }

    async fn known(&self, id: JobId, metas: &[ObjectMeta]) -> Result<Option<Known>> {
        let objects: Objects = metas.iter().map(|meta| (meta.key.clone(), meta.size, meta.modified)).collect();
        if let Some((read_from, shown)) = self.over().get(&id)
            && *read_from == objects
        {
            return Ok(Some(Known::Over(Box::new(shown.clone()))));
        }
        let Some(job) = self.0.ledger.read(&id, metas).await? else { return Ok(None) };
        // A runner of ours writes its last word yet.
        if !self.state(&job).is_over() || self.running().contains_key(&id) {
            return Ok(Some(Known::Open(Box::new(job))));
        }
        let mut shown = self.shown(&job);
        shown.progress = without_lists(&shown.progress);
        self.over().insert(id, (objects, shown.clone()));
        Ok(Some(Known::Over(Box::new(shown))))
    }

    fn state(&self, job: &Job) -> State {
        let watch = self.watch();
        job.state(|writer, _| watch.unchanged(&job.id, Some(writer)) >= self.0.config.takeover)
    }

    fn shown(&self, job: &Job) -> Shown {
        let run = job.telling();
        let live = self.running().get(&job.id).filter(|running| running.attempt == job.attempt).cloned();
        let progress = match (&live, run) {
            (Some(running), _) => running.live.picture(),
            (None, Some((_, run))) => run.progress.clone(),
            (None, None) => Progress::default(),
        };
        Shown {
            id: job.id.clone(),
            state: self.state(job),
            request: job.asked.request.clone(),
            priority: job.asked.priority,
            asked_by: job.asked.asked_by.clone(),
            asked_at: job.asked.asked_at,
            attempt: job.attempt,
            reason: run.and_then(|(_, run)| run.reason.clone()),
            runner: run.map(|(writer, _)| writer.clone()),
            started_at: run.map(|(_, run)| run.started_at),
            updated_at: run.map(|(_, run)| run.updated_at),
            progress,
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.0.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Running>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<JobId, u32>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> MutexGuard<'_, HashMap<JobId, (Objects, Shown)>> {
        self.0.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn without_lists(progress: &Progress) -> Progress {
    Progress { files: Vec::new(), references: crate::gateway::References::default(), ..progress.clone() }
}

fn word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Done => "done",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}
