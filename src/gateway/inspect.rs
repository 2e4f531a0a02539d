//! What upstream says of a repo that no rule names, for an admin who is to decide on it. Nothing is stored, nothing
//! fetched but its info, README and tree; the only question upstream that policy does not allow first (DESIGN I1), and
//! so it is an admin's alone, and written to the audit log by whoever calls.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use serde::Serialize;
use time::OffsetDateTime;

use super::{Asker, Gateway, Result, commit::from_upstream};
use crate::{
    hub::{Commit, EntryKind, Repo, RepoPath, Revision},
    policy::{DenialKind, LicenseClaims, README_BYTES, runs_code},
    upstream::Purpose,
};

/// Clients come first: the last tenth of the budget is theirs.
const PURPOSE: Purpose = Purpose::Background;
/// How long an inspection is held.
pub(super) const INSPECTION_TTL: Duration = Duration::from_mins(1);
/// What an inspection costs its asker: info, README, and the tree's first page.
const REQUESTS: usize = 3;
/// Files that are named of each sort.
const NAMED: usize = 20;
/// Entries of a tree that are read.
const MAX_ENTRIES: u64 = 100_000;

/// What a reviewer wants to know before saying yes.
#[derive(Debug, Clone, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "they are upstream's own flags")]
pub struct Inspection {
    /// The repo as it was asked.
    pub asked: Repo,
    /// What upstream calls it.
    pub canonical: Repo,
    /// The commit that the revision means.
    pub commit: Commit,
    /// Upstream's own id of it.
    pub upstream_id: Option<String>,
    /// Its owner.
    pub author: Option<String>,
    /// Whether upstream gates it.
    pub gated: bool,
    /// Whether it is private.
    pub private: bool,
    /// Whether upstream closed it.
    pub disabled: bool,
    /// When it was last changed, as upstream writes it.
    pub last_modified: Option<String>,
    /// What it states of its licence, by source.
    pub licence: LicenseClaims,
    /// How many files it has.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether these are all; past 100,000 entries counting stops.
    pub whole: bool,
    /// The largest files.
    pub largest: Vec<(RepoPath, u64)>,
    /// Some of the files that run code when they are loaded.
    pub code: Vec<RepoPath>,
    /// And how many there are.
    pub code_files: u64,
}

impl Gateway {
    /// Asks upstream about a repo, at most once a minute. It counts as the asker's requests to the origin, and goes on
    /// behind an answer that it is too slow for.
    ///
    /// # Errors
    /// [`super::Error::Denied`] where a deny rule names it: that is decided. [`super::Error::Busy`] where it takes
    /// longer than an answer may: ask again.
    pub async fn inspect(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<Inspection> {
        let today = OffsetDateTime::now_utc().date();
        if let Err(denial) = self.policy.current().decide_repo(asked, today)
            && denial.kind() == DenialKind::DenyRule
        {
            return Err(self.denied(&denial));
        }
        let name = (asked.clone(), revision.clone());
        if let Some(inspection) = self.inspections.get(&name).await {
            return Ok((*inspection).clone());
        }
        let work = || {
            let (gateway, name) = (self.clone(), name.clone());
            async move {
                let inspection = Arc::new(gateway.inspect_now(&name.0, &name.1).await?);
                gateway.inspections.insert(name, inspection.clone()).await;
                Ok(inspection)
            }
        };
        let fare = self.limits.fare(asker, REQUESTS);
        let inspection = self.in_time(self.inspection_flights.join(name.clone(), fare, work)).await?;
        Ok((*inspection).clone())
    }

    async fn inspect_now(&self, asked: &Repo, revision: &Revision) -> Result<Inspection> {
        let failed = |error| from_upstream(error, asked, revision);
        let mut look = self.upstream.look(asked, revision, PURPOSE).await;
        if let Err(error) = &look
            && let Some(name) = error.moved_to().cloned()
        {
            look = self.upstream.look(&name, revision, PURPOSE).await;
        }
        let look = look.map_err(failed)?;
        let readme = self.upstream.readme(&look.repo, look.commit, README_BYTES, PURPOSE).await.map_err(failed)?;
        let mut inspection = Inspection {
            asked: asked.clone(),
            canonical: look.repo.clone(),
            commit: look.commit,
            upstream_id: look.info.hub_id.clone(),
            author: look.info.author.clone(),
            gated: look.info.gated.is_gated(),
            private: look.info.private,
            disabled: look.info.disabled,
            last_modified: look.info.last_modified.clone(),
            licence: LicenseClaims::read(readme.as_deref(), &look.info.facts),
            files: 0,
            bytes: 0,
            whole: true,
            largest: Vec::new(),
            code: Vec::new(),
            code_files: 0,
        };
        let mut pages = self.upstream.tree(&look.repo, look.commit, PURPOSE, PURPOSE);
        while let Some(page) = pages.try_next().await.map_err(failed)? {
            for entry in page.into_iter().filter(|entry| entry.kind == EntryKind::File) {
                inspection.count(entry.path, entry.lfs.map_or(entry.size, |lfs| lfs.size));
            }
            if inspection.files >= MAX_ENTRIES {
                inspection.whole = false;
                break;
            }
        }
        Ok(inspection)
    }
}

impl Inspection {
    fn count(&mut self, path: RepoPath, size: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if runs_code(&path).is_some() {
            self.code_files += 1;
            if self.code.len() < NAMED {
                self.code.push(path.clone());
            }
        }
        let place = self.largest.partition_point(|(_, other)| *other >= size);
        self.largest.insert(place, (path, size));
        self.largest.truncate(NAMED);
    }
}
