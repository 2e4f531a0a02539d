//! The moment when all of a commit is here: what publishing and hooks wait for.
//!
//! A job says so itself at its end. What clients bring in is looked at when a commit has been quiet for a
//! moment, and only where somebody listens. Two replicas that fill one commit together look after their own
//! last file each, so that one of them sees it whole; both may, and whoever listens must bear it twice.

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use time::OffsetDateTime;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use super::{
    Gateway,
    plan::{FileState, Plan, Planned, left_out},
};
use crate::{
    gateway::{Error, Resolved, Result, known::Known, view::Question},
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    manifest::StoredFile,
    policy::Selection,
};

/// How many commits a listener may lag behind before it misses some.
pub(in crate::gateway) const COMPLETED_UNHEARD: usize = 1024;

/// How long nothing of a commit is stored before it is looked at whether all of it is here.
const QUIET: Duration = Duration::from_secs(1);

/// How many commits are remembered as told. Past it they may be told again.
const REMEMBERED: usize = 10_000;

/// A commit of which everything is here that its rule serves, or that a selection wants.
///
/// In JSON: `repo`, `kind`, `commit`, `revision`, `licence`, `licence_from`, `rule`, `left_out`, and `files` of
/// `path`, `size` and `sha256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The revision that led here.
    pub revision: Revision,
    /// The licence, as the manifest has it.
    pub licence: String,
    /// Where it was found.
    pub licence_from: String,
    /// The rule that allows it.
    pub rule: String,
    /// How many files a selection left out that the rule would serve.
    pub left_out: usize,
    /// The files, in the order of their paths.
    pub files: Vec<CompletedFile>,
}

/// A stored file of a complete commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompletedFile {
    /// Its path.
    pub path: RepoPath,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its content, and so its blob's name.
    pub sha256: Sha256,
}

impl Completed {
    pub(super) fn of(plan: &Plan, planned: &Planned, files: Vec<CompletedFile>) -> Self {
        Self {
            repo: planned.repo.clone(),
            commit: planned.commit,
            revision: plan.revision.clone(),
            licence: planned.licence.clone(),
            licence_from: planned.licence_from.clone(),
            rule: planned.rule.clone(),
            left_out: planned.files.iter().filter(|file| file.state == FileState::Excluded).count(),
            files,
        }
    }

    /// What tells it from the same commit with other files.
    fn digest(&self) -> Sha256 {
        let mut text = String::new();
        for file in &self.files {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{} {}", file.sha256, file.path);
        }
        Sha256::of(text.as_bytes())
    }
}

impl Serialize for Completed {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Completed", 9)?;
        fields.serialize_field("repo", self.repo.id())?;
        fields.serialize_field("kind", self.repo.kind().singular())?;
        fields.serialize_field("commit", &self.commit)?;
        fields.serialize_field("revision", &self.revision)?;
        fields.serialize_field("licence", &self.licence)?;
        fields.serialize_field("licence_from", &self.licence_from)?;
        fields.serialize_field("rule", &self.rule)?;
        fields.serialize_field("left_out", &self.left_out)?;
        fields.serialize_field("files", &self.files)?;
        fields.end()
    }
}

/// Commits as they become complete in this process, each once.
///
/// The listener does the looking itself, in [`Completions::next`]: nobody listening costs nothing. What
/// became complete before somebody listened, or in a process that died right after, is not told: who must
/// not miss it asks [`Gateway::completed`] when it starts.
pub struct Completions {
    gateway: Gateway,
    stored: broadcast::Receiver<StoredFile>,
    fetched: broadcast::Receiver<Arc<Completed>>,
    /// Commits of which something was stored, and when to look whether all of them is here.
    quiet_at: HashMap<(Repo, Commit), (Instant, Option<Revision>)>,
    told: HashMap<(Repo, Commit), Sha256>,
}

impl Completions {
    /// The next commit that is complete. Can be dropped at any await and called again.
    pub async fn next(&mut self) -> Arc<Completed> {
        loop {
            let due = self.quiet_at.iter().min_by_key(|(_, (at, _))| *at);
            let due = due.map(|(name, (at, revision))| (*at, name.clone(), revision.clone()));
            let quiet = async {
                match &due {
                    Some((at, ..)) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                fetched = self.fetched.recv() => match fetched {
                    Ok(completed) if self.is_news(&completed) => return completed,
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "complete commits were missed"),
                    // The gateway that we hold has the sender.
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                stored = self.stored.recv() => match stored {
                    Ok(StoredFile { repo, commit, revision }) => {
                        self.quiet_at.insert((repo, commit), (Instant::now() + QUIET, revision));
                    }
                    Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "stored files were missed"),
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                () = quiet => {
                    let Some((_, name, revision)) = due else { continue };
                    let found = self.look(&name, revision).await;
                    self.quiet_at.remove(&name);
                    if let Some(completed) = found && self.is_news(&completed) {
                        return completed;
                    }
                }
            }
        }
    }

    async fn look(&self, (repo, commit): &(Repo, Commit), revision: Option<Revision>) -> Option<Arc<Completed>> {
        let revision = revision.unwrap_or_else(|| (*commit).into());
        let policy = self.gateway.policy.current();
        let selection = policy.mirror_of(repo, &revision).map(|mirror| &mirror.selection);
        match self.gateway.completed(repo, *commit, &revision, selection).await {
            Ok(completed) => completed.map(Arc::new),
            Err(error) => {
                tracing::warn!(%repo, %commit, %error, "whether all of the commit is here could not be told");
                None
            }
        }
    }

    fn is_news(&mut self, completed: &Completed) -> bool {
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        let (name, digest) = ((completed.repo.clone(), completed.commit), completed.digest());
        self.told.insert(name, digest) != Some(digest)
    }
}

impl Gateway {
    /// Listens for commits that become complete from now on.
    pub fn completions(&self) -> Completions {
        Completions {
            gateway: self.clone(),
            stored: self.manifest.stored_files(),
            fetched: self.completed.subscribe(),
            quiet_at: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// A commit with its files, if every one of them that its rule serves and `selection` wants is stored and
    /// recorded; `None` where one is not, where the tree is not known, or where policy says no by now. Asks the
    /// store alone. `repo` is the canonical name.
    pub async fn completed(
        &self,
        repo: &Repo,
        commit: Commit,
        revision: &Revision,
        selection: Option<&Selection>,
    ) -> Result<Option<Completed>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let asked = self.allowed_name(repo).await?;
        let Ok(rule) = policy.decide_repo(&asked, today) else { return Ok(None) };
        let Some(snapshot) = self.snapshots.find(repo, commit).await? else { return Ok(None) };
        let resolved = Resolved { repo: repo.clone(), commit, revision: revision.clone(), stale: false };
        let known = Known::Whole(snapshot.clone());
        let question = Question { policy, rule, asked: &asked, today };
        let grant = match self.grant(&question, &resolved, &known).await {
            Ok(grant) => grant,
            Err(Error::Denied(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let everything = Selection::default();
        let selection = selection.unwrap_or(&everything);
        let recorded = self.recorded(repo, commit).await?;
        let (mut files, mut excluded) = (Vec::with_capacity(recorded.len()), 0);
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            for node in &piece.nodes {
                let Some(blob) = node.blob_id() else { continue };
                match left_out(&grant.approved.rule, node, selection) {
                    None => {}
                    Some(left_out) => {
                        excluded += usize::from(left_out == FileState::Excluded);
                        continue;
                    }
                }
                let entry = recorded.get(&node.path).filter(|entry| entry.size == node.size && entry.etag == blob);
                match entry {
                    Some(entry) => {
                        files.push(CompletedFile { path: node.path.clone(), size: node.size, sha256: entry.sha256 });
                    }
                    None if self.store.largest_stage().is_some_and(|(limit, _)| node.size > limit) => {}
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(Completed {
            repo: repo.clone(),
            commit,
            revision: revision.clone(),
            licence: grant.licence(),
            licence_from: grant.approved.license.source.to_string(),
            rule: grant.approved.rule.name.clone(),
            left_out: excluded,
            files,
        }))
    }

    /// The name of a repo to put to policy where nobody asked: its own, or the legacy one that it was found
    /// under, such as `gpt2`, where a rule names that.
    pub async fn allowed_name(&self, repo: &Repo) -> Result<Repo> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        if policy.decide_repo(repo, today).is_err()
            && let Some(legacy) = repo.id().split_once('/').and_then(|(_, name)| Repo::new(repo.kind(), name).ok())
            && policy.decide_names(&legacy, repo, today).is_ok()
            && self.identities.of(&legacy).await?.is_some_and(|identity| identity.canonical == *repo)
        {
            return Ok(legacy);
        }
        Ok(repo.clone())
    }
}
