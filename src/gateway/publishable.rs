//! What of a commit may be published now: allowed by policy, stored and recorded. Asked of the store alone; nothing
//! is fetched for it and nothing looked up upstream.

use futures_util::TryStreamExt as _;
use time::OffsetDateTime;

use super::{Asker, Error, Gateway, Refusal, Result, mirror::left_out};
use crate::{
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    policy::{DenialKind, FileVerdict, RevisionVerdict, Selection},
    store::Prefix,
};

/// A commit that policy lets through, with all files that policy serves of it, or that its `[[mirror]]` selects.
#[derive(Debug, Clone)]
pub struct Publishable {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The licence, as the manifest has it.
    pub license: String,
    /// The rule that allows it.
    pub rule: String,
    /// Who approved the rule.
    pub approved_by: Option<String>,
    /// Where that is written.
    pub ticket: Option<String>,
    /// The digest of the policy that decided.
    pub policy_sha256: Sha256,
    /// The files, in the order of their paths.
    pub files: Vec<PublishableFile>,
}

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishableFile {
    /// Its path in the commit.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// The digest of its content: its blob.
    pub sha256: Sha256,
}

/// A copy that was published, as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedCopy {
    /// Its path in the commit.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// The digest of its content; none where nobody has noted it.
    pub sha256: Option<Sha256>,
}

/// Whether a commit can be published.
#[derive(Debug, Clone)]
pub enum Publishability {
    /// All of it is here.
    Whole(Publishable),
    /// Policy allows it, but not all is stored yet.
    Incomplete {
        /// The commit, where the store knows which.
        commit: Option<Commit>,
        /// What is missing, for people.
        missing: String,
    },
}

impl Gateway {
    /// Whether `commit`, or where none is given the one that `revision` last meant, can be published.
    ///
    /// # Errors
    /// [`Error::Denied`] where policy says no now; the store's trouble.
    pub async fn publishable(
        &self,
        asked: &Repo,
        revision: &Revision,
        commit: Option<Commit>,
    ) -> Result<Publishability> {
        let missing = |commit, missing: String| Ok(Publishability::Incomplete { commit, missing });
        // Asked in any case: the revision itself may not be allowed any more.
        let meant = self.last_commit(asked, revision).await?;
        let Some(names) = self.identities.names(asked).await? else {
            return missing(None, format!("nothing of {asked} is stored"));
        };
        let Some(commit) = commit.or(meant) else {
            return missing(None, format!("which commit {revision} of {asked} means is not known here"));
        };
        if self.stored_home(&names, commit).await?.is_none() {
            return missing(Some(commit), format!("the list of its files ({asked}@{commit})"));
        }
        let view = self.view(&Asker::job("publish"), asked, &commit.into()).await?;
        let snapshot = self.whole(&Asker::job("publish"), &view.known).await?;
        let view = self.redecided(asked, view, snapshot.clone()).await?;
        let repo = &view.resolved.repo;

        let (rule, policy) = (&view.grant.approved.rule, &view.grant.policy);
        let everything = Selection::default();
        let selection = policy.mirror_of(asked, revision).map_or(&everything, |mirror| &mirror.selection);
        let mut wanted = Vec::new();
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            let nodes = piece.nodes.iter().filter(|node| left_out(rule, node, selection).is_none());
            wanted.extend(nodes.filter_map(|node| Some((node.path.clone(), node.size, node.blob_id()?))));
            // A commit that is not what was locked is published in no part.
            let verdicts = piece
                .nodes
                .iter()
                .filter_map(|node| Some(rule.decide_file(&node.path, node.size, Some(node.blob_id()?))));
            for verdict in verdicts {
                if let FileVerdict::Refused(denial) = verdict
                    && denial.kind() == DenialKind::LockDiffers
                {
                    return Err(self.denied(&denial));
                }
            }
        }
        // Counting keys is cheap, and most commits that are not whole lack many.
        let mut stored = 0;
        let mut keys = self.store.list(&Prefix::index_of(repo, commit));
        while keys.try_next().await?.is_some() {
            stored += 1;
        }
        let of = wanted.len();
        if stored < of {
            return missing(Some(commit), format!("{} of {of} files", of - stored));
        }
        let recorded = self.recorded(repo, commit).await?;
        let files = wanted.into_iter().filter_map(|(path, size, blob)| {
            let entry = recorded.get(&path).filter(|entry| entry.size == size && entry.etag == blob)?;
            Some(PublishableFile { path, size, sha256: entry.sha256 })
        });
        let files: Vec<_> = files.collect();
        if files.len() < of {
            return missing(Some(commit), format!("{} of {of} files", of - files.len()));
        }
        let denied = files.iter().find_map(|file| policy.decide_content(rule, repo, &file.path, &file.sha256).err());
        if let Some(denial) = denied {
            return Err(self.denied(&denial));
        }
        Ok(Publishability::Whole(Publishable {
            repo: repo.clone(),
            commit,
            license: view.grant.licence(),
            rule: rule.name.clone(),
            approved_by: rule.approved_by.clone(),
            ticket: rule.ticket.clone(),
            policy_sha256: policy.digest(),
            files,
        }))
    }
}

impl Gateway {
    /// Whether policy lets copies of a commit lie where they are, by all that can be told when the commit itself is not
    /// whole in the store any more: by its name, by their paths and lengths, by their content.
    ///
    /// # Errors
    /// [`Error::Denied`] where policy says no to any of them now; the store's trouble.
    pub async fn copies_may_stay(&self, asked: &Repo, commit: Commit, copies: &[PublishedCopy]) -> Result<()> {
        self.decide_copies(asked, commit, copies, true).await
    }

    /// The same of copies whose commit a pin or the lock fixes no more, whatever that says of it.
    ///
    /// # Errors
    /// As [`Gateway::copies_may_stay`].
    pub async fn copies_may_wait(&self, asked: &Repo, commit: Commit, copies: &[PublishedCopy]) -> Result<()> {
        self.decide_copies(asked, commit, copies, false).await
    }

    async fn decide_copies(
        &self,
        asked: &Repo,
        commit: Commit,
        copies: &[PublishedCopy],
        must_be_locked: bool,
    ) -> Result<()> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let repo = &self.called(asked).await?;
        let rule = policy.decide_names(asked, repo, today).map_err(|denial| self.denied(&denial))?.at(commit);
        policy.decide_commit(repo, commit).map_err(|denial| self.denied(&denial))?;
        if must_be_locked {
            rule.check_locked(commit).map_err(|denial| self.denied(&denial))?;
        }
        for copy in copies {
            match rule.decide_file(&copy.path, copy.size, None) {
                FileVerdict::Served => {}
                FileVerdict::Hidden(denial) | FileVerdict::Refused(denial) => return Err(self.denied(&denial)),
            }
            match &copy.sha256 {
                Some(sha256) => {
                    let decided = policy.decide_content(&rule, repo, &copy.path, sha256);
                    decided.map_err(|denial| self.denied(&denial))?;
                }
                None if policy.asks_for_content(&rule, &copy.path) => {
                    let text =
                        format!("content is withdrawn or locked, and which {} in {repo} has is not known", copy.path);
                    return Err(Error::Denied(Refusal::of_ours(text)));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Whether no deny rule, such as a withdrawal, speaks against copies of a commit, whatever allows their repo.
    ///
    /// # Errors
    /// [`Error::Denied`] where one does; the store's trouble.
    pub async fn copies_not_denied(&self, asked: &Repo, commit: Commit, copies: &[PublishedCopy]) -> Result<()> {
        let policy = self.policy.current();
        let canonical = self.canonical_name(asked).await?;
        let called = self.called(asked).await?;
        for repo in [asked, &called].into_iter().chain(&canonical) {
            policy.decide_denied(repo).map_err(|denial| self.denied(&denial))?;
        }
        policy.decide_commit(asked, commit).map_err(|denial| self.denied(&denial))?;
        for sha256 in copies.iter().filter_map(|copy| copy.sha256.as_ref()) {
            policy.decide_digest(asked, sha256).map_err(|denial| self.denied(&denial))?;
        }
        Ok(())
    }

    /// The repo's canonical name as it was first seen, as far as it is stored.
    pub async fn canonical_name(&self, asked: &Repo) -> Result<Option<Repo>> {
        Ok(self.identities.of(asked).await?.map(|identity| identity.canonical.clone()))
    }

    /// Whether the repo that is asked for by this name is, or was, called `name`.
    pub async fn is_called(&self, asked: &Repo, name: &Repo) -> Result<bool> {
        let names = self.identities.names(asked).await?;
        Ok(asked.same_name(name) || names.is_some_and(|names| names.all().any(|known| known.same_name(name))))
    }

    /// The commit that a revision meant at the newest look that is stored, or that a rule pins it to.
    ///
    /// # Errors
    /// [`Error::Denied`] where policy says no now; the store's trouble.
    pub async fn last_commit(&self, asked: &Repo, revision: &Revision) -> Result<Option<Commit>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let rule = policy.decide_repo(asked, today).map_err(|denial| self.denied(&denial))?;
        if let RevisionVerdict::PinnedTo(commit) = self.decide_revision(&rule, asked, revision).await? {
            return Ok(Some(commit));
        }
        if let Some(commit) = revision.as_commit() {
            return Ok(Some(commit));
        }
        let Some(names) = self.identities.names(asked).await? else { return Ok(None) };
        Ok(self.last_look(&names, revision).await?.map(|record| record.commit))
    }
}

impl Error {
    /// Whether policy, or the origin by `upstream.on_gone`, says that the repo is not to be served now. Anything else
    /// may pass, and is no reason to take away what was published.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Hidden { .. } | Self::RepoNotFound(_))
    }
}
