//! What the store holds of jobs. Every object is create-only or has one writer:
//!
//! | key below `jobs/<id>/` | written by | says |
//! |---|---|---|
//! | `request.json` | whoever is asked first; create-only | what to bring in, and who asked |
//! | `runs/<writer>.json` | that process, again and again | its run: heartbeat, progress, outcome |
//! | `cancelled-<n>.json` | create-only | the n-th attempt is not to go on |
//! | `retry-<n>.json` | create-only | there is an n-th attempt; the first needs no word |

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use super::{
    progress::Progress,
    request::{JobId, Request},
};
use crate::{
    manifest::WriterId,
    store::{Error, ErrorKind, Key, ObjectMeta, Prefix, PutMode, Result, Store},
};

/// The version of all forms.
const SCHEMA: u32 = 1;
/// A larger object is nothing that we wrote.
const LARGEST_BYTES: u64 = 4 * 1024 * 1024;
/// Objects that are read at a time.
const READS_AT_ONCE: usize = 16;

/// `request.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Wanted {
    schema: u32,
    #[serde(flatten)]
    pub(super) request: Request,
    /// Higher goes first.
    pub(super) priority: i32,
    pub(super) asked_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) asked_at: OffsetDateTime,
}

/// `runs/<writer>.json`: one process's run of the newest attempt that it took up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) schema: u32,
    pub(super) attempt: u32,
    /// Counts up with each write; that it no longer does is how others see that the process is gone.
    pub(super) beat: u64,
    pub(super) state: RunState,
    /// Why it failed.
    pub(super) reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) updated_at: OffsetDateTime,
    pub(super) progress: Progress,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunState {
    Running,
    Done,
    Failed,
    Cancelled,
    /// Its process stopped, or left the job to another; it is up for taking.
    Released,
}

/// `cancelled-<n>.json` and `retry-<n>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: u32,
    by: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

/// All that is stored of one job.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) asked: Wanted,
    /// The newest attempt, from 1.
    pub(super) attempt: u32,
    /// Whether the newest attempt is not to go on.
    pub(super) cancelled: bool,
    /// Every process's run, of this attempt or an earlier one.
    pub(super) runs: Vec<(WriterId, Run)>,
}

impl Run {
    pub(super) fn begun(attempt: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            schema: SCHEMA,
            attempt,
            beat: 0,
            state: RunState::Running,
            reason: None,
            started_at: now,
            updated_at: now,
            progress: Progress::default(),
        }
    }
}

/// The jobs of one store.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    store: Arc<dyn Store>,
}

impl Ledger {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Writes down a request; the first one stays.
    pub(super) async fn ask(&self, request: &Request, priority: i32, by: &str) -> Result<()> {
        let asked_at = OffsetDateTime::now_utc();
        let asked = Wanted { schema: SCHEMA, request: request.clone(), priority, asked_by: by.to_owned(), asked_at };
        self.write(&Key::job(request.id().as_str(), "request.json"), &asked, PutMode::Create).await
    }

    /// Writes down that an attempt is not to go on.
    pub(super) async fn cancel(&self, id: &JobId, attempt: u32, by: &str) -> Result<()> {
        self.note(id, &format!("cancelled-{attempt}.json"), by).await
    }

    /// Writes down that there is a next attempt.
    pub(super) async fn retry(&self, id: &JobId, attempt: u32, by: &str) -> Result<()> {
        self.note(id, &format!("retry-{attempt}.json"), by).await
    }

    /// Removes a job whose objects are `seen`, its request first: without that there is no job, whatever a crash leaves
    /// of it. Returns whether it went; it does not where somebody has said something of it since.
    pub(super) async fn remove(&self, id: &JobId, seen: &[ObjectMeta]) -> Result<bool> {
        let request = Key::job(id.as_str(), "request.json");
        let asked = self.store.get(&request, LARGEST_BYTES).await?;
        self.store.delete(&request).await?;
        let there: Vec<ObjectMeta> = self.store.list(&Prefix::job(id.as_str())).try_collect().await?;
        if there.iter().all(|object| seen.contains(object)) {
            self.clear(id).await?;
            return Ok(true);
        }
        if let Some(asked) = asked {
            self.store.put(&request, asked, PutMode::Create).await?;
        }
        Ok(false)
    }

    /// Removes whatever there is of a job that has no request; with one, nothing.
    pub(super) async fn clear(&self, id: &JobId) -> Result<()> {
        let request = Key::job(id.as_str(), "request.json");
        let there: Vec<ObjectMeta> = self.store.list(&Prefix::job(id.as_str())).try_collect().await?;
        if there.iter().any(|object| object.key == request) {
            return Ok(());
        }
        for object in there {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }

    async fn note(&self, id: &JobId, part: &str, by: &str) -> Result<()> {
        let note = Note { schema: SCHEMA, by: by.to_owned(), at: OffsetDateTime::now_utc() };
        self.write(&Key::job(id.as_str(), part), &note, PutMode::Create).await
    }

    /// Replaces this process's run.
    pub(super) async fn keep(&self, id: &JobId, writer: &WriterId, run: &Run) -> Result<()> {
        self.write(&Key::job(id.as_str(), &format!("runs/{writer}.json")), run, PutMode::Overwrite).await
    }

    async fn write(&self, key: &Key, body: &impl Serialize, mode: PutMode) -> Result<()> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::new(ErrorKind::Other(format!("no form as JSON: {error}"))).on(key))?;
        self.store.put(key, Bytes::from(body), mode).await.map(drop)
    }

    /// The objects of each job.
    pub(super) async fn objects(&self) -> Result<BTreeMap<JobId, Vec<ObjectMeta>>> {
        let mut jobs: BTreeMap<JobId, Vec<ObjectMeta>> = BTreeMap::new();
        let mut all = self.store.list(&Prefix::jobs());
        while let Some(meta) = all.try_next().await? {
            let id = meta.key.as_str().split('/').nth(1).and_then(|id| id.parse().ok());
            if let Some(id) = id {
                jobs.entry(id).or_default().push(meta);
            }
        }
        Ok(jobs)
    }

    /// One job; `None` where there is none of this id.
    pub(super) async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        let objects: Vec<ObjectMeta> = self.store.list(&Prefix::job(id.as_str())).try_collect().await?;
        self.read(id, &objects).await
    }

    /// A job from its objects.
    pub(super) async fn read(&self, id: &JobId, objects: &[ObjectMeta]) -> Result<Option<Job>> {
        let folder = Prefix::job(id.as_str());
        let parts: Vec<&str> =
            objects.iter().filter_map(|meta| meta.key.as_str().strip_prefix(folder.as_str())).collect();
        let request = Key::job(id.as_str(), "request.json");
        let Some(asked) = self.parsed::<Wanted>(&request).await? else { return Ok(None) };
        let numbered = |word: &'static str| {
            parts.iter().filter_map(move |part| part.strip_prefix(word)?.strip_suffix(".json")?.parse::<u32>().ok())
        };
        let attempt = numbered("retry-").max().unwrap_or(1);
        let cancelled = numbered("cancelled-").any(|cancelled| cancelled == attempt);
        let writers = parts.iter().filter_map(|part| part.strip_prefix("runs/")?.strip_suffix(".json")?.parse().ok());
        let writers: Vec<WriterId> = writers.collect();
        let runs = stream::iter(writers).map(|writer| async move {
            let run = self.parsed::<Run>(&Key::job(id.as_str(), &format!("runs/{writer}.json"))).await?;
            Ok::<_, Error>(run.map(|run| (writer, run)))
        });
        let runs: Vec<_> = runs.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(Some(Job { id: id.clone(), asked, attempt, cancelled, runs: runs.into_iter().flatten().collect() }))
    }

    /// An object that is not what we write counts as none, loudly.
    async fn parsed<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let Some(body) = self.store.get(key, LARGEST_BYTES).await? else { return Ok(None) };
        match serde_json::from_slice(&body) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => {
                tracing::error!(%key, %error, "a job's object is unreadable");
                Ok(None)
            }
        }
    }
}
