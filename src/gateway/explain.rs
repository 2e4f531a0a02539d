//! "What would this repo get, and why?" for `hubgate policy explain`: from what is stored, else by asking
//! upstream as a client's request would. And learning a commit anew, for `hubgate snapshot refresh`.

use std::{collections::HashMap, sync::Arc};

use time::OffsetDateTime;

use super::{Asker, Error, Gateway, Refusal, Result, commit::Resolved, grant::remember_policy, known::Known};
use crate::{
    hub::{BlobId, Repo, RepoPath, Revision, Sha256},
    manifest::{NewRecord, What},
    policy::{self, Denial, Explanation, HookDemand, Question, Rule},
};

/// What is to be explained by.
#[derive(Default)]
struct Learned {
    locked: Option<Arc<Rule>>,
    /// Whether the commit is known, and admitted.
    resolved: bool,
    refused: Option<Arc<Denial>>,
    facts: Option<policy::RepoFacts>,
    files: Option<Vec<(RepoPath, u64, BlobId)>>,
    refused_files: HashMap<RepoPath, Denial>,
    notes: Vec<String>,
}

impl Gateway {
    /// Explains what a repo at a revision would get. What can't be learned is said in a note.
    pub async fn explain(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Explanation {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let mut learned = Learned::default();
        if let Ok(rule) = policy.decide_repo(asked, today)
            && let Err(error) = self.learn_to_explain(asker, &rule, asked, revision, &mut learned).await
        {
            match error {
                Error::Denied(Refusal { denial: Some(denial), .. }) => learned.refused = Some(denial),
                Error::RepoNotFound(repo) => {
                    let note = format!("the origin says that there is no {repo}, or none for this gateway's token");
                    learned.notes.push(note);
                }
                error => {
                    let what = if learned.resolved { "facts" } else { "commit" };
                    learned.notes.push(format!("{what} not known: {error}"));
                }
            }
        }
        let question = Question {
            repo: asked,
            revision,
            locked: learned.locked.as_deref(),
            in_history: learned.resolved.then_some(true),
            refused: learned.refused.as_deref(),
            facts: learned.facts.as_ref(),
            files: learned.files.as_deref(),
            refused_files: &learned.refused_files,
            notes: &learned.notes,
            contact: self.config.contact.as_deref(),
        };
        policy::explain(&policy, &question, today)
    }

    async fn learn_to_explain(
        &self,
        asker: &Asker,
        rule: &Rule,
        asked: &Repo,
        revision: &Revision,
        learned: &mut Learned,
    ) -> Result<()> {
        learned.locked = self.locked_rule(rule, asked).await?;
        let resolved = self.resolve(asker, rule, asked, revision).await?;
        learned.resolved = true;
        learned.notes.extend(self.state_to_explain(&resolved).await);
        let known = self.known(asker, &resolved).await?;
        let facts = self.policy_facts(asked, &resolved, known.facts()).await?;
        let today = OffsetDateTime::now_utc().date();
        let approved = self.policy.current().decide_facts(rule, asked, &facts, today);
        learned.facts = Some(facts);
        let snapshot = match self.whole(asker, &known).await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                learned.notes.push(format!("files not known: {error}"));
                return Ok(());
            }
        };
        let mut files = Vec::with_capacity(snapshot.index.files);
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            let nodes = piece.nodes.iter();
            files.extend(nodes.filter_map(|node| Some((node.path.clone(), node.size, node.blob_id()?))));
        }
        if let Ok(approved) = approved {
            match self.refused_to_explain(&approved.rule, &resolved, &files).await {
                Ok(refused) => learned.refused_files = refused,
                Err(error) => learned.notes.push(format!("what is refused of the files is not known: {error}")),
            }
        }
        learned.files = Some(files);
        Ok(())
    }

    /// Files that are refused for what can't be told by their names: for their content, or for want of the hook's word.
    async fn refused_to_explain(
        &self,
        rule: &Rule,
        resolved: &Resolved,
        files: &[(RepoPath, u64, BlobId)],
    ) -> Result<HashMap<RepoPath, Denial>> {
        let (policy, repo) = (self.policy.current(), &resolved.repo);
        let mut refused = HashMap::new();
        let recorded = if files.iter().any(|(path, ..)| policy.asks_for_content(rule, path)) {
            self.recorded(repo, resolved.commit).await?
        } else {
            HashMap::new()
        };
        for (path, _, blob) in files {
            if policy.asks_for_content(rule, path) {
                let sha256 = match recorded.get(path) {
                    Some(entry) => Some(entry.sha256),
                    None => self.known_sha256(repo, blob).await?,
                };
                if let Some(sha256) = sha256
                    && let Err(denial) = policy.decide_content(rule, repo, path, &sha256)
                {
                    refused.insert(path.clone(), denial);
                    continue;
                }
            }
            if rule.hook == HookDemand::Required
                && let Some(denial) = self.hook_refuses(rule, resolved, path, blob).await?
            {
                refused.insert(path.clone(), denial);
            }
        }
        Ok(refused)
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
        let facts = self.policy_facts(asked, &resolved, Known::Facts(fresh.clone()).facts()).await?;
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
