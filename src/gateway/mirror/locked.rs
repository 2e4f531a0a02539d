//! What `hubgate lock` writes down: which revisions there are to be locked, and each as it is stored or as upstream has it.

use std::{collections::BTreeMap, sync::atomic::AtomicU32};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;

use super::{
    Gateway,
    plan::{FileState, Plan},
};
use crate::{
    gateway::{Asker, Error, RETRY, Refusal, Result, known::Known},
    hub::{BlobId, Repo, RepoPath, Revision},
    policy::{Claim, FileVerdict, LicenseClaims, Locked, LockedFile, Mirror, RevisionVerdict, Selection, is_same_ref},
    store::{Key, Prefix},
};

/// Small files that are fetched at a time, to know their sha256.
const FILES_AT_ONCE: usize = 8;

/// Repos whose stored revisions are read at a time.
const REPOS_AT_ONCE: usize = 8;

/// A revision that is to be locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToBeLocked {
    /// The repo under the name that policy knows.
    pub repo: Repo,
    /// The branch, tag or sha.
    pub revision: Revision,
    /// Whether `HF_REPOS` or the policy names it; else somebody asked for it here.
    pub is_listed: bool,
}

/// A revision as it can be locked now.
#[derive(Debug, Clone)]
pub struct Lockable {
    /// What is to be written.
    pub locked: Locked,
    /// Why policy refuses it, if it does.
    pub refusal: Option<Refusal>,
    /// The files that policy withholds, and why.
    pub withheld: BTreeMap<RepoPath, String>,
    /// Files whose sha256 could not be found out, and why; they are locked by their git id alone.
    pub by_git_id: Vec<(RepoPath, Error)>,
}

impl Gateway {
    /// All revisions that policy approves and somebody names: `named` (`HF_REPOS`) or the `[[mirror]]` list, rules with a
    /// repo's id in full, and what of allowed repos was asked for here. Sorted, each once. Those of the first two are told
    /// even if policy refuses them, since they are wanted. Asks the store alone.
    pub async fn to_be_locked(&self, named: Option<&[(Repo, Option<Revision>)]>) -> Result<Vec<ToBeLocked>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let mut found: Vec<ToBeLocked> = Vec::new();
        let mut add = |repo: &Repo, revision: Revision, is_listed: bool| {
            let is_it = |known: &ToBeLocked| known.repo.same_name(repo) && is_same_ref(&known.revision, &revision);
            if !found.iter().any(is_it) {
                found.push(ToBeLocked { repo: repo.clone(), revision, is_listed });
            }
        };
        let is_allowed = |repo: &Repo, revision: &Revision| {
            let verdict = policy.decide_repo(repo, today).and_then(|rule| rule.decide_revision(revision));
            matches!(verdict, Ok(RevisionVerdict::Allowed | RevisionVerdict::PinnedTo(_)))
        };
        match named {
            Some(named) => {
                for (repo, revision) in named {
                    add(repo, revision.clone().unwrap_or_else(Revision::main), true);
                }
            }
            None => {
                for Mirror { repo, revisions, .. } in policy.mirrors() {
                    for revision in revisions {
                        add(repo, revision.clone(), true);
                    }
                }
            }
        }
        for (repo, rule) in policy.rules().iter().filter_map(|rule| Some((rule.named_repo()?, rule))) {
            let revisions = rule.named_revisions().into_iter();
            revisions.filter(|revision| is_allowed(&repo, revision)).for_each(|revision| add(&repo, revision, true));
        }
        for (repo, revision) in self.asked_for().await? {
            if is_allowed(&repo, &revision) {
                add(&repo, revision, false);
            }
        }
        found.sort_by(|a, b| (&a.repo, a.revision.as_str()).cmp(&(&b.repo, b.revision.as_str())));
        Ok(found)
    }

    /// Branches and tags that were looked at, of all repos that are known here, each under the name that policy knows.
    async fn asked_for(&self) -> Result<Vec<(Repo, Revision)>> {
        let keys: Vec<Key> = self.store.list(&Prefix::identities()).map_ok(|meta| meta.key).try_collect().await?;
        let found: Vec<Vec<(Repo, Revision)>> = stream::iter(keys.iter().filter_map(Key::identified))
            .map(|name| async move {
                let identity = self.identities.of(&name).await?;
                if identity.is_none_or(|identity| identity.canonical != name) {
                    return Ok(Vec::new());
                }
                let asked = self.allowed_name(&name).await?;
                let records = self.refs.all(&name).await?.into_iter().map(|record| record.revision);
                // `HEAD` is `main` under another name.
                let names = records.filter(|revision| !revision.may_be_short_sha() && revision.as_str() != "HEAD");
                Ok::<_, Error>(names.map(|revision| (asked.clone(), revision)).collect())
            })
            .buffered(REPOS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// A revision as it is to be locked: at the commit that it meant at the last look that is stored, else as upstream
    /// says. With `newest`, upstream says in any case. Policy's no to the commit is a part of the answer.
    ///
    /// # Errors
    /// [`Error::Denied`] where policy refuses the repo or the revision by name; what keeps it from being known.
    pub async fn lockable(&self, asker: &Asker, asked: &Repo, revision: &Revision, newest: bool) -> Result<Lockable> {
        let stored = if newest { None } else { self.last_commit(asked, revision).await? };
        let at = stored.map_or_else(|| revision.clone(), Revision::from);
        let question = self.question(asked)?;
        let resolved = self.resolve(asker, &question.rule, asked, &at).await?;
        if newest && resolved.stale {
            return Err(self.not_the_newest(&resolved.repo).await?);
        }
        let known = self.known(asker, &resolved).await?;
        let snapshot = self.whole(asker, &known).await?;
        let facts = self.policy_facts(asked, &resolved, &snapshot.facts).await?;
        let grant = match self.grant(&question, &resolved, &Known::Whole(snapshot.clone())).await {
            Ok(grant) => Ok(grant),
            Err(Error::Denied(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        };
        let (mut files, mut withheld) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            for (node, blob) in piece.nodes.iter().filter_map(|node| Some((node, node.blob_id()?))) {
                if let Ok(grant) = &grant
                    && let FileVerdict::Hidden(denial) =
                        grant.approved.rule.decide_file(&node.path, node.size, Some(blob))
                {
                    withheld.insert(node.path.clone(), denial.reason().to_owned());
                }
                let sha256 = if let BlobId::Sha256(sha256) = blob { Some(sha256) } else { None };
                files.insert(node.path.clone(), LockedFile { size: node.size, blob, sha256 });
            }
        }
        let locked = Locked {
            repo: asked.clone(),
            canonical: Some(facts.canonical).filter(|canonical| !asked.same_name(canonical)),
            revision: revision.clone(),
            commit: resolved.commit,
            identity: facts.identity,
            license: grant.as_ref().map_or_else(|_| stated(&facts.license), |grant| grant.licence()),
            rule: grant.as_ref().map_or(&question.rule, |grant| &grant.approved.rule).name.clone(),
            files,
            source: String::new(),
        };
        Ok(Lockable { locked, refusal: grant.err(), withheld, by_git_id: Vec::new() })
    }

    /// Finds out the sha256 of the files that the Hub names by a git id and that policy serves: by the store, or by
    /// fetching them, since they are small.
    pub async fn find_digests(&self, asker: &Asker, lockable: &mut Lockable) -> Result<()> {
        let (repo, at) = (lockable.locked.repo.clone(), Revision::from(lockable.locked.commit));
        let plan = self.plan(asker, &repo, &at, &Selection::default()).await?;
        // The manifest has the revision that is locked.
        let plan = Plan { revision: lockable.locked.revision.clone(), ..plan };
        let planned = plan.verdict.as_ref().map_err(|refusal| Error::Denied(refusal.clone()))?;
        let (outages, mut unknown) = (AtomicU32::new(0), Vec::new());
        for file in planned.files.iter().filter(|file| matches!(file.blob, BlobId::Git(_))) {
            let sha256 = match &file.state {
                FileState::Stored(sha256) => Some(*sha256),
                FileState::Here => self.known_sha256(&planned.repo, &file.blob).await?,
                _ => None,
            };
            if sha256.is_none() && matches!(file.state, FileState::Missing | FileState::Here) {
                unknown.push(file);
            }
            if let Some(locked) = lockable.locked.files.get_mut(&file.path) {
                locked.sha256 = sha256;
            }
        }
        // A file is tried for longer than somebody waits who has no origin; one question tells.
        if !unknown.is_empty()
            && let Err(error) = self.look(asker, &repo, &at).await
        {
            lockable.by_git_id = unknown.iter().map(|file| (file.path.clone(), error.clone())).collect();
            return Ok(());
        }
        let mut ends = stream::iter(unknown)
            .map(|file| self.bring_reported(asker, &plan, planned, file, &outages, &|_, _| {}))
            .buffered(FILES_AT_ONCE);
        while let Some((file, end)) = ends.next().await {
            match (end, lockable.locked.files.get_mut(&file.path)) {
                (Ok(brought), Some(locked)) => locked.sha256 = Some(brought.sha256),
                (Err(error), _) => lockable.by_git_id.push((file.path.clone(), error)),
                (Ok(_), None) => {}
            }
        }
        Ok(())
    }

    /// Why an answer is an older one.
    async fn not_the_newest(&self, repo: &Repo) -> Result<Error> {
        if self.refs.gone(repo).await?.is_some() {
            return Ok(Error::RepoNotFound(repo.clone()));
        }
        let why = "the origin could not be asked; what is stored may not be the newest".to_owned();
        Ok(Error::Busy { why, retry_after: RETRY })
    }
}

/// What a repo says of its licence where policy has not decided on it.
fn stated(claims: &LicenseClaims) -> String {
    let stated = [&claims.readme, &claims.card, &claims.tags].into_iter().find_map(|claim| match claim {
        Claim::Stated(ids) => Some(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ")),
        _ => None,
    });
    stated.unwrap_or_else(|| "unknown".to_owned())
}
