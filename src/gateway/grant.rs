//! What an allowed commit carries with it: the decision, and what the manifest will say of its files.

use std::sync::Arc;

use time::Date;

use super::File;
use crate::{
    hub::{Commit, Repo, Sha256},
    manifest::{self, Manifest, NewRecord, What},
    policy::{Approved, Denial, PolicySet, RepoFacts},
};

/// Keeps the texts of a policy that a record is about to refer to: its own, and its lock's, of which it has the digest.
pub(crate) async fn remember_policy(manifest: &Manifest, policy: &PolicySet) -> manifest::Result<()> {
    if let Some((sha256, text)) = policy.lock_text() {
        manifest.remember_policy(sha256, text).await?;
    }
    manifest.remember_policy(policy.digest(), policy.text()).await
}

/// A commit of a repo that policy lets through, as decided by one state of the policy.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    /// The repo under the name that was asked.
    pub(crate) asked: Repo,
    /// What was decided on.
    pub(crate) facts: RepoFacts,
    /// The decision.
    pub(crate) approved: Approved,
    /// The policy that decided, for its text.
    pub(crate) policy: Arc<PolicySet>,
    /// Upstream's own id of the repo.
    pub(crate) upstream_id: Option<String>,
    /// One ASCII line: what is withheld, and a rule that ends soon.
    pub(crate) warning: Option<Arc<str>>,
}

impl Grant {
    /// What upstream calls the repo.
    pub(crate) fn called(&self) -> &Repo {
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

    /// The same commit by the same facts, as a later state of the policy decides.
    ///
    /// # Errors
    /// The later policy's no.
    pub(crate) fn under(&self, policy: &Arc<PolicySet>, today: Date) -> Result<Self, Denial> {
        let rule = policy.decide_repo(&self.asked, today)?;
        let approved = policy.decide_facts(&rule, &self.asked, &self.facts, today)?;
        Ok(Self { approved, policy: policy.clone(), ..self.clone() })
    }

    /// The record of a file of this commit being stored. `sha256` may still be unknown (a git file before
    /// it was fetched); the fill fills it in.
    pub(crate) fn record(&self, file: &File, sha256: Sha256, asked_by: String, origin: &str) -> NewRecord {
        let mut record = NewRecord {
            what: What::Stored,
            repo: file.repo.clone(),
            upstream_id: self.upstream_id.clone(),
            revision: Some(file.revision.clone()),
            commit: self.commit(),
            path: file.path.clone(),
            size: file.size,
            sha256,
            etag: file.blob,
            licence: None,
            licence_from: None,
            rule: None,
            approved_by: None,
            ticket: None,
            policy_sha256: None,
            asked_by: Some(asked_by),
            origin: origin.to_owned(),
        };
        self.sign(&mut record);
        record
    }

    /// Puts into a record by what it was allowed.
    pub(crate) fn sign(&self, record: &mut NewRecord) {
        let rule = &self.approved.rule;
        record.licence = Some(self.licence());
        record.licence_from = Some(self.approved.license.source.to_string());
        record.rule = Some(rule.name.clone());
        record.approved_by.clone_from(&rule.approved_by);
        record.ticket.clone_from(&rule.ticket);
        record.policy_sha256 = Some(self.policy.digest());
    }
}
