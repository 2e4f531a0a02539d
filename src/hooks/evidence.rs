//! What the hook did, kept in the store: one object for each run, create-only, read back by its newest.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{event::Commit, run::Ended};
use crate::{
    hub::{self, BlobId, Repo, RepoPath, Sha256},
    store::{Error, ErrorKind, Key, Prefix, PutMode, Result, Store},
};

/// A run on 300,000 files with long paths, with the whole output that is kept, is smaller.
const RUN_LIMIT_BYTES: u64 = 512 * 1024 * 1024;

/// One run of the hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The repo, as in a web URL.
    pub repo: Repo,
    /// The commit.
    pub commit: hub::Commit,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The digest over the commit and its files with their digests: what the hook was shown.
    pub content_sha256: Sha256,
    /// How many files that were.
    pub files: usize,
    /// Those files with their digests: what its verdict is about. Runs of former versions lack it and vouch for nothing.
    #[serde(default)]
    pub shown: BTreeMap<RepoPath, Sha256>,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub began: OffsetDateTime,
    /// How it ended.
    #[serde(flatten)]
    pub ended: Ended,
}

/// Whether a run lets the commit pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Exit code 0.
    Passed,
    /// Anything else, in one line.
    Failed(String),
}

impl Run {
    pub(super) fn new(command: &[String], commit: &Commit, began: OffsetDateTime, ended: Ended) -> Self {
        Self {
            repo: commit.repo.clone(),
            commit: commit.commit,
            command: command.to_vec(),
            content_sha256: commit.content_sha256(),
            files: commit.files.len(),
            shown: commit.files.iter().map(|file| (file.path.clone(), file.sha256)).collect(),
            began,
            ended,
        }
    }

    /// Whether it passed.
    pub fn verdict(&self) -> Verdict {
        match &self.ended {
            Ended { exit_code: Some(0), problem: None, .. } => Verdict::Passed,
            Ended { problem: Some(problem), .. } => Verdict::Failed(format!("the hook failed: {problem}")),
            Ended { exit_code: Some(code), .. } => Verdict::Failed(format!("the hook ended with exit code {code}")),
            Ended { .. } => Verdict::Failed("the hook was ended by a signal".into()),
        }
    }

    /// Whether the hook was shown this file. At one commit a path has one content.
    pub fn covers(&self, path: &RepoPath, blob: &BlobId) -> bool {
        self.shown.get(path).is_some_and(|shown| match blob {
            BlobId::Sha256(sha256) => shown == sha256,
            BlobId::Git(_) => true,
        })
    }

    /// The last line that it said, for logs.
    pub(super) fn last_line(&self) -> &str {
        let Ended { stdout, stderr, .. } = &self.ended;
        let both = if self.verdict() == Verdict::Passed { [stdout, stderr] } else { [stderr, stdout] };
        both.iter().flat_map(|text| text.lines().rev()).map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
    }
}

/// All runs, in the store.
#[derive(Debug, Clone)]
pub struct Evidence(Arc<dyn Store>);

impl Evidence {
    /// The runs in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// The newest run on a commit.
    pub async fn newest(&self, repo: &Repo, commit: hub::Commit) -> Result<Option<Run>> {
        let mut newest = None;
        let mut runs = self.0.list(&Prefix::evidence(repo, commit));
        while let Some(run) = runs.try_next().await? {
            // Keys come in their order, which is that of the runs.
            newest = Some(run.key).filter(Key::is_hook).or(newest);
        }
        let Some(key) = newest else { return Ok(None) };
        let Some(text) = self.0.get(&key, RUN_LIMIT_BYTES).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let problem = format!("not a run of the hook ({error}); remove it and the hook is run again");
            Error::new(ErrorKind::Corrupt(problem)).on(&key)
        })
    }

    pub(super) async fn keep(&self, run: &Run) -> Result<()> {
        let text = serde_json::to_vec(run).map_err(|error| Error::new(ErrorKind::Other(error.to_string())))?;
        // Later runs have later names.
        let key = Key::hook(&run.repo, run.commit, &Uuid::now_v7().to_string());
        self.0.put(&key, Bytes::from(text), PutMode::Create).await.map(drop)
    }
}
