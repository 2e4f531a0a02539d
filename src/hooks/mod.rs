//! The hook: a command of the operator's that is run on every commit of which all files are here.
//!
//! It reads what it needs as JSON on its standard input, and its exit code decides: a commit on which it failed is not
//! published, and not served where the rule says `hook = "required"`. Every run is evidence, kept in the store
//! create-only with its output and exit code. The hook sees no secret of ours: its environment is empty but for PATH
//! and HOME, and no shell reads its words.

mod event;
mod evidence;
mod run;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use time::OffsetDateTime;

pub use event::{Commit as CompleteCommit, File as CompleteFile, Location};
pub use evidence::{Evidence, Run, Verdict};
pub use run::Ended;

use crate::store::{self, Store};

/// A hook that failed is tried again after this, unless somebody asks for it.
const RETRY_AFTER: Duration = Duration::from_hours(1);

/// `[hooks]`: commands that are run when something has happened.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HooksConfig {
    /// The command and its arguments, run when all files of a commit that policy serves are stored and recorded. It
    /// reads JSON on its standard input; its exit code decides whether the commit is published.
    pub commit_complete: Vec<String>,
    /// How long it may take; then it and all that it started is killed, which counts as a failure.
    #[serde(deserialize_with = "crate::duration::read")]
    pub timeout: Duration,
}

impl Default for HooksConfig {
    fn default() -> Self {
        Self { commit_complete: Vec::new(), timeout: Duration::from_mins(10) }
    }
}

/// Runs the hook, once for what is in a commit.
#[derive(Debug, Clone)]
pub struct Hooks {
    config: HooksConfig,
    store: Arc<dyn Store>,
    location: Arc<Location>,
}

/// Whether a hook that failed before is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// When its last run is an hour old.
    Later,
    /// Now.
    Now,
}

/// What the hook says of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// No hook is configured.
    Nothing,
    /// It passed, now or before.
    Passed,
    /// It failed: its last run, in one line.
    Failed(String),
}

impl Hooks {
    /// For objects of `store`, which lies at `location`.
    pub fn new(config: HooksConfig, store: Arc<dyn Store>, location: Location) -> Self {
        Self { config, store, location: Arc::new(location) }
    }

    /// What the hook says of a commit: by its newest run on these very files, else by running it.
    ///
    /// # Errors
    /// The store's: evidence that can't be read or written. The hook's own failures are answers.
    pub async fn on_complete(&self, commit: &CompleteCommit, again: Again) -> store::Result<Said> {
        let Some((program, arguments)) = self.config.commit_complete.split_first() else { return Ok(Said::Nothing) };
        let input = commit.to_json(&self.location)?;
        let content_sha256 = commit.content_sha256();
        let evidence = Evidence::new(self.store.clone());
        if let Some(last) = evidence.newest(&commit.repo, commit.commit).await?
            && last.content_sha256 == content_sha256
            && last.shown.len() == last.files
            && last.command == self.config.commit_complete
        {
            let age = OffsetDateTime::now_utc() - last.began;
            match last.verdict() {
                Verdict::Passed => return Ok(Said::Passed),
                Verdict::Failed(why) if again == Again::Later && age < RETRY_AFTER => return Ok(Said::Failed(why)),
                Verdict::Failed(_) => {}
            }
        }
        let began = OffsetDateTime::now_utc();
        let ended = run::run(program, arguments, input, self.config.timeout).await;
        let run = Run::new(&self.config.commit_complete, commit, began, ended);
        evidence.keep(&run).await?;
        let (repo, commit) = (&commit.repo, commit.commit);
        match run.verdict() {
            Verdict::Passed => {
                tracing::info!(%repo, %commit, program, output = run.last_line(), "the hook passed");
                Ok(Said::Passed)
            }
            Verdict::Failed(why) => {
                tracing::error!(%repo, %commit, program, why, output = run.last_line(), "the hook failed");
                Ok(Said::Failed(why))
            }
        }
    }
}
