//! "What would this repo get, and why?" for `hubgate policy explain`: from what is stored, else by asking
//! upstream as a client's request would. And learning a commit anew, for `hubgate snapshot refresh`.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{Asker, Error, Gateway, Result, commit::Resolved, grant::remember_policy, known::Known};
use crate::{
    hub::{BlobId, Repo, RepoPath, Revision, Sha256},
    manifest::{NewRecord, What},
    policy::{self, Explanation, Question, RevisionVerdict, Rule},
};

impl Gateway {
    /// Explains what a repo at a revision would get. What can't be learned is said in a note.
    pub async fn explain(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Explanation {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let mut notes = Vec::new();
        let mut in_history = None;
        let mut facts = None;
        let mut files = None;
        if let Ok(rule) = policy.decide_repo(asked, today) {
            match self.resolve_to_explain(asker, &rule, asked, revision, &mut in_history).await {
                Ok(resolved) => {
                    notes.extend(self.state_to_explain(&resolved).await);
                    match self.learn_to_explain(asker, &resolved, &mut notes).await {
                        Ok((known_facts, known_files)) => (facts, files) = (Some(known_facts), known_files),
                        Err(error) => notes.push(format!("facts not known: {error}")),
                    }
                }
                // Policy's no is explained by policy itself.
                Err(Error::Denied(_)) => {}
                Err(Error::RepoNotFound(repo)) => {
                    notes.push(format!("the origin says that there is no {repo}, or none for this gateway's token"));
                }
                Err(error) => notes.push(format!("commit not known: {error}")),
            }
        }
        let contact = self.config.contact.as_deref();
        let (repo, facts, files, notes) = (asked, facts.as_ref(), files.as_deref(), notes.as_slice());
        policy::explain(&policy, &Question { repo, revision, in_history, facts, files, notes, contact }, today)
    }

    async fn resolve_to_explain(
        &self,
        asker: &Asker,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
        in_history: &mut Option<bool>,
    ) -> Result<Resolved> {
        let needs = matches!(rule.decide_revision(revision), Ok(RevisionVerdict::NeedsHistory));
        let resolved = self.resolve(asker, rule, asked, revision).await;
        if needs {
            *in_history = match &resolved {
                Ok(_) => Some(true),
                Err(Error::Denied(_)) => Some(false),
                Err(_) => None,
            };
        }
        resolved
    }

    /// What is to be said of an answer that upstream did not give now.
    async fn state_to_explain(&self, resolved: &Resolved) -> Option<String> {
        let gone = self.refs.gone(&resolved.repo).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether the repo is gone is not known");
            None
        });
        match gone {
            Some(gone) => {
                let day = gone.at.date();
                Some(format!("the origin said on {day} that it has this repo no more; this is the last known state"))
            }
            None => resolved.stale.then(|| "the origin could not be asked; this is the last known state".to_owned()),
        }
    }

    async fn learn_to_explain(
        &self,
        asker: &Asker,
        resolved: &Resolved,
        notes: &mut Vec<String>,
    ) -> Result<(policy::RepoFacts, Option<Vec<(RepoPath, u64, BlobId)>>)> {
        let known = self.known(asker, resolved).await?;
        let facts = self.policy_facts(resolved, known.facts()).await?;
        let snapshot = match self.whole(asker, &known).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                notes.push(format!("files not known: {error}"));
                return Ok((facts, None));
            }
        };
        let mut files = Vec::with_capacity(snapshot.index.files);
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            let nodes = piece.nodes.iter();
            files.extend(nodes.filter_map(|node| Some((node.path.clone(), node.size, node.blob_id()?))));
        }
        Ok((facts, Some(files)))
    }

    /// Learns a commit anew and replaces its snapshot; the log says so. Returns how many files it has.
    pub async fn refresh_snapshot(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
    ) -> Result<(Resolved, usize)> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let rule = policy.decide_repo(asked, today).map_err(|denial| self.denied(&denial))?;
        let resolved = self.resolve(asker, &rule, asked, revision).await?;
        let (repo, commit) = (resolved.repo.clone(), resolved.commit);
        let fresh = self.clone().learn_facts(repo.clone(), commit, asker.purpose()).await?;
        let facts = self.policy_facts(&resolved, Known::Facts(fresh.clone()).facts()).await?;
        let approved = policy.decide_facts(&rule, asked, &facts, today).map_err(|denial| self.denied(&denial))?;
        let snapshot = self.clone().learn_tree(fresh, asker.purpose()).await?;
        self.verdicts.invalidate_all();
        self.views.invalidate_all();
        remember_policy(&self.manifest, &policy).await?;
        let index = serde_json::to_vec(&snapshot.index).unwrap_or_default();
        let sha256 = Sha256::of(&index);
        let path = "tree.json".parse().map_err(|error: crate::hub::ParseError| Error::Insane(error.to_string()))?;
        self.manifest
            .record(NewRecord {
                what: What::Other("snapshot_refreshed".into()),
                repo,
                upstream_id: facts.identity.id,
                revision: Some(revision.clone()),
                commit,
                path,
                size: index.len() as u64,
                sha256,
                etag: BlobId::Sha256(sha256),
                licence: Some(approved.license.to_string()),
                licence_from: Some(approved.license.source.to_string()),
                rule: Some(approved.rule.name.clone()),
                approved_by: approved.rule.approved_by.clone(),
                ticket: approved.rule.ticket.clone(),
                policy_sha256: Some(policy.digest()),
                asked_by: Some(asker.label()),
                origin: self.upstream.endpoint_host().to_owned(),
            })
            .await?;
        Ok((resolved, snapshot.index.files))
    }
}

impl Asker {
    /// An operator at the command line, or a job of hubgate's own.
    pub fn operator(name: &str) -> Self {
        Self { address: std::net::Ipv4Addr::LOCALHOST.into(), name: Some(Arc::from(name)), background: false }
    }

    /// A job that can wait, under its name in logs, limits and the manifest.
    pub fn job(name: &str) -> Self {
        Self { background: true, ..Self::operator(name) }
    }
}
