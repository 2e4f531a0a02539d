//! Bringing a plan's files in, a few at a time, each by the fill that a client's request would begin.
//!
//! Dropped at any moment it leaves the store sound: a file is stored whole and recorded, or not at all. What
//! another process stores meanwhile is found and counts as brought in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{
    complete::{Completed, CompletedFile},
    plan::{FileState, Plan, Planned, PlannedFile, Sum},
};
use crate::{
    gateway::{
        Asker, Error, File, Gateway, Located, Result,
        fill::{FillEnd, Follower, Joined},
    },
    hub::{RepoPath, Revision, Sha256},
    store::{Key, ObjectMeta},
};

/// How often a transfer that was given up, or an answer that changed under our feet, is begun again.
const MAX_TRIES: u32 = 4;

/// The longest wait before a job looks again whether there is room for its transfer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Files in a row that fail because the origin is away before the rest are not tried.
const MAX_OUTAGES: u32 = 3;

/// What happens to a file of a plan that is being fetched.
#[derive(Debug, Clone)]
pub enum FileProgress {
    /// Its turn has come.
    Begun,
    /// So many of its bytes have come in, counted from its start.
    Bytes(u64),
    /// It is stored and recorded; whether any byte of it came from the origin.
    Done {
        /// Whether it was fetched, rather than found here under another name or brought by another process.
        fetched: bool,
    },
    /// It is not stored: why. The others go on.
    Failed(Error),
}

/// What fetching a plan came to.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Files that came from the origin.
    pub fetched: Sum,
    /// Files that were here already, under another name or since a moment.
    pub found: Sum,
    /// Files that are not stored, and why.
    pub failed: Vec<(RepoPath, Error)>,
    /// The commit, where all that the plan wanted of it is here now.
    pub completed: Option<Arc<Completed>>,
}

/// How one file came to be here.
pub(super) struct Brought {
    pub(super) sha256: Sha256,
    fetched: bool,
}

impl Gateway {
    /// Brings in the files that the plan wants and that are not here, at most `concurrency` at a time, the
    /// largest first. Tells `progress` of each. A file that fails leaves the others alone.
    ///
    /// # Errors
    /// The plan's refusal, where it is one. What becomes of single files is in the answer.
    pub async fn fetch(
        &self,
        asker: &Asker,
        plan: &Plan,
        concurrency: usize,
        progress: &(dyn Fn(&PlannedFile, FileProgress) + Send + Sync),
    ) -> Result<Fetched> {
        let planned = plan.verdict.as_ref().map_err(|refusal| Error::Denied(refusal.clone()))?;
        let mut wanted: Vec<&PlannedFile> = planned.wanted().collect();
        // The largest first, or the last one would be waited for alone.
        wanted.sort_by_key(|file| std::cmp::Reverse(file.size));
        let outages = AtomicU32::new(0);
        let mut wanted = wanted.into_iter();
        let (mut coming, mut ends) = (FuturesUnordered::new(), Vec::with_capacity(wanted.len()));
        loop {
            while coming.len() < concurrency.max(1)
                && let Some(file) = wanted.next()
            {
                coming.push(self.bring_reported(asker, plan, planned, file, &outages, progress));
            }
            let Some(end) = coming.next().await else { break };
            ends.push(end);
        }
        let mut fetched = Fetched::default();
        let mut files: Vec<CompletedFile> = planned.files.iter().filter_map(stored_file).collect();
        for (file, end) in ends {
            match end {
                Ok(Brought { sha256, fetched: from_origin }) => {
                    if from_origin { &mut fetched.fetched } else { &mut fetched.found }.add(file.size);
                    files.push(CompletedFile { path: file.path.clone(), size: file.size, sha256 });
                }
                Err(error) => fetched.failed.push((file.path.clone(), error)),
            }
        }
        fetched.failed.sort_by(|a, b| a.0.cmp(&b.0));
        if fetched.failed.is_empty() {
            files.sort_by(|a, b| a.path.cmp(&b.path));
            let completed = Arc::new(Completed::of(plan, planned, files));
            // An error means that nobody listens.
            let _ = self.completed.send(completed.clone());
            fetched.completed = Some(completed);
        }
        Ok(fetched)
    }

    pub(super) async fn bring_reported<'f>(
        &self,
        asker: &Asker,
        plan: &Plan,
        planned: &Planned,
        file: &'f PlannedFile,
        outages: &AtomicU32,
        progress: &(dyn Fn(&PlannedFile, FileProgress) + Send + Sync),
    ) -> (&'f PlannedFile, Result<Brought>) {
        if outages.load(Ordering::Relaxed) >= MAX_OUTAGES {
            let why = "not tried, since the origin could not be reached for the files before it".to_owned();
            let error = Error::Busy { why, retry_after: Duration::from_mins(1) };
            progress(file, FileProgress::Failed(error.clone()));
            return (file, Err(error));
        }
        progress(file, FileProgress::Begun);
        let end = self.bring(asker, plan, planned, file, &|bytes| progress(file, FileProgress::Bytes(bytes))).await;
        match &end {
            Ok(brought) => {
                outages.store(0, Ordering::Relaxed);
                progress(file, FileProgress::Done { fetched: brought.fetched });
            }
            Err(error) => {
                if matches!(error, Error::Upstream(cause) if cause.is_outage()) {
                    outages.fetch_add(1, Ordering::Relaxed);
                }
                progress(file, FileProgress::Failed(error.clone()));
            }
        }
        (file, end)
    }

    /// Brings one file in. Policy is asked again: it may have changed since the plan was made.
    pub(super) async fn bring(
        &self,
        asker: &Asker,
        plan: &Plan,
        planned: &Planned,
        file: &PlannedFile,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Brought> {
        let at: Revision = planned.commit.into();
        let located = self.locate_unhurried(asker, &plan.asked, &at, &file.path).await?;
        let (Located::Here(mut file) | Located::Elsewhere(mut file)) = located;
        // The manifest has the revision that was asked for, not the sha that the plan has made of it.
        file.revision = plan.revision.clone();
        let (mut tries, mut alone) = (0, false);
        loop {
            if let Some(sha256) = self.found(asker, &file).await? {
                return Ok(Brought { sha256, fetched: false });
            }
            let fill = match self.fills.join(self.order(asker, &file)).await {
                Ok(Joined::Begun(fill) | Joined::Live(fill)) => fill,
                // Our file is not among those that it records: look again when it has ended.
                Ok(Joined::Ending(fill)) => match fill.ended().await {
                    // Or those that it was for were refused; not ours.
                    FillEnd::Stored(_) | FillEnd::Denied(_) => continue,
                    end => return Err(end.into_error()),
                },
                // Whoever has the room gives it back; where nobody has it, waiting won't help.
                Err(Error::Busy { why, retry_after }) => {
                    if self.fills.count() > 0 {
                        tokio::time::sleep(retry_after.min(LONGEST_PAUSE)).await;
                    } else if alone {
                        return Err(Error::Busy { why, retry_after });
                    } else {
                        // Those that had the room may have ended just now.
                        alone = true;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Follower::of(&fill, file.name()).follow(on_bytes).await {
                FillEnd::Stored(sha256) => return Ok(Brought { sha256, fetched: true }),
                FillEnd::Abandoned if tries < MAX_TRIES => tries += 1,
                end => return Err(self.told_of_move(&file, end.into_error()).await),
            }
        }
    }

    /// The file's digest, if it is stored and recorded by now.
    async fn found(&self, asker: &Asker, file: &File) -> Result<Option<Sha256>> {
        if let Some(entry) = self.manifest.entry(&file.repo, file.commit, &file.path).await? {
            let blob = self.store.head(&Key::blob(&entry.sha256)).await?;
            if blob.is_some_and(|ObjectMeta { size, .. }| size == file.size) {
                return Ok(Some(entry.sha256));
            }
            tracing::error!(
                sha256 = %entry.sha256, path = %file.path, alarm = true,
                "recorded, but the blob is gone or not of its size; fetching it again"
            );
            self.manifest.forget(&file.repo, file.commit, &file.path).await;
        }
        Ok(self.adopt(asker, file).await?.map(|entry| entry.sha256))
    }
}

fn stored_file(file: &PlannedFile) -> Option<CompletedFile> {
    let FileState::Stored(sha256) = file.state else { return None };
    Some(CompletedFile { path: file.path.clone(), size: file.size, sha256 })
}
