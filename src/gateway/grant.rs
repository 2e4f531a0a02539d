//! What an allowed commit carries with it: the decision, and what the manifest will say of its files.

use std::sync::Arc;

use crate::{
    hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256},
    manifest::{NewRecord, What},
    policy::{Approved, PolicySet},
};

/// A commit of a repo that policy lets through, as decided by one state of the policy.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// The decision.
    pub(crate) approved: Approved,
    /// The policy that decided, for its text.
    pub(crate) policy: Arc<PolicySet>,
    /// Upstream's own id of the repo.
    pub(crate) upstream_id: Option<String>,
    /// The revision under which the commit was asked for last; the sha itself if by that.
    pub(crate) revision: Revision,
    /// One ASCII line: what is withheld, and a rule that ends soon.
    pub(crate) warning: Option<Arc<str>>,
}

impl Grant {
    /// The canonical repo.
    pub(crate) fn repo(&self) -> &Repo {
        &self.approved.repo
    }

    /// The commit.
    pub(crate) fn commit(&self) -> Commit {
        self.approved.commit
    }

    /// The licence as the manifest has it.
    pub(crate) fn licence(&self) -> String {
        self.approved.license.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ")
    }

    /// The same decision, for whoever asked by this revision.
    pub(crate) fn asked_as(&self, revision: &Revision) -> Self {
        Self { revision: revision.clone(), ..self.clone() }
    }

    /// The record of a file of this commit being stored. `sha256` may still be unknown (a git file before
    /// it was fetched); the fill fills it in.
    pub(crate) fn record(
        &self,
        path: &RepoPath,
        size: u64,
        blob: BlobId,
        sha256: Sha256,
        asked_by: String,
        origin: &str,
    ) -> NewRecord {
        let rule = &self.approved.rule;
        NewRecord {
            what: What::Stored,
            repo: self.repo().clone(),
            upstream_id: self.upstream_id.clone(),
            revision: Some(self.revision.clone()),
            commit: self.commit(),
            path: path.clone(),
            size,
            sha256,
            etag: blob,
            licence: Some(self.licence()),
            licence_from: Some(self.approved.license.source.to_string()),
            rule: Some(rule.name.clone()),
            approved_by: rule.approved_by.clone(),
            ticket: rule.ticket.clone(),
            policy_sha256: Some(self.policy.digest()),
            asked_by: Some(asked_by),
            origin: origin.to_owned(),
        }
    }
}
