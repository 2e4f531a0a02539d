//! What a lock asks of what the rules let through: the commit that was reviewed, of the owner it had, with the files it
//! had. The pin of a reviewed rule counts before the lock; its files are then held against the lock where that has them. An
//! approval's pin does not: it was given to a token, and both must hold then.

use std::sync::Arc;

use super::{Lock, Locked, LockedFile};
use crate::{
    hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256},
    policy::{
        denial::{Denial, DenialKind},
        facts::Identity,
        pattern::ref_name,
        rule::{RevisionVerdict, Rule},
        set::PolicySet,
    },
};

/// Entries that a refusal names.
const NAMED: usize = 3;

/// What a lock has of one repo, as a part of the rule that speaks for it.
#[derive(Debug, Clone)]
pub(in crate::policy) struct LockedRepo {
    entries: Arc<[Arc<Locked>]>,
    /// The entry of the commit that is decided on.
    at: Option<Arc<Locked>>,
}

impl Rule {
    /// This rule, for a repo of which the lock has these entries.
    pub(in crate::policy) fn locked_to(&self, entries: &Arc<[Arc<Locked>]>) -> Arc<Self> {
        Arc::new(Self { locked: Some(LockedRepo { entries: entries.clone(), at: None }), ..self.clone() })
    }

    /// This rule, for a repo that was asked for under a name of which `asked` is the rule: what is locked under that name
    /// holds where upstream calls it by another one since.
    pub(in crate::policy) fn held_as(self: Arc<Self>, asked: &Self) -> Arc<Self> {
        match (&self.locked, &asked.locked) {
            (None, Some(locked)) => self.locked_to(&locked.entries),
            _ => self,
        }
    }

    /// This rule, for one commit of its repo: the files are held against what the lock has of that.
    #[must_use]
    pub fn at(self: Arc<Self>, commit: Commit) -> Arc<Self> {
        let Some(LockedRepo { entries, at: None }) = &self.locked else { return self };
        let Some(entry) = entries.iter().find(|entry| entry.commit == commit) else { return self };
        let locked = LockedRepo { entries: entries.clone(), at: Some(entry.clone()) };
        Arc::new(Self { locked: Some(locked), ..(*self).clone() })
    }

    /// The entries that count: those whose revision the rule still allows.
    fn locked_entries(&self) -> impl Iterator<Item = &Arc<Locked>> {
        let entries = self.locked.iter().flat_map(|locked| locked.entries.iter());
        entries.filter(|entry| match entry.revision.as_commit() {
            Some(_) => self.may_name_sha(entry.revision.as_str()),
            None => self.allows_ref(entry.revision.as_str()),
        })
    }

    /// The entry that a lock has for a branch or tag, where the lock decides what that means.
    pub fn locked(&self, name: &str) -> Option<&Arc<Locked>> {
        let name = ref_name(name);
        self.locked_entries().filter(|_| self.is_locked()).find(|entry| ref_name(entry.revision.as_str()) == name)
    }

    /// The commit that a branch or tag means by the rule's pin or by the lock, whatever upstream says.
    pub fn fixes(&self, name: &str) -> Option<Commit> {
        if self.is_locked() { self.locked(name).map(|entry| entry.commit) } else { self.pin }
    }

    /// Whether the lock decides what the revisions of this repo mean: no pin of the reviewed folder does.
    pub fn is_locked(&self) -> bool {
        self.locked.is_some() && (self.pin.is_none() || self.is_approval())
    }

    /// Whether a branch or tag is listed: allowed, and not kept out by the lock.
    pub fn shows_ref(&self, name: &str) -> bool {
        self.allows_ref(name) && (!self.is_locked() || self.locked(name).is_some())
    }

    /// A revision under which to ask about the repo as such: its pin, `main`, else the first that it names in full. `main`
    /// too where it allows that not and names others by a pattern: see [`Rule::allows_ref`].
    pub fn default_revision(&self) -> Revision {
        if let Some(pin) = self.pin {
            return pin.into();
        }
        if self.is_locked() {
            let entry = self.locked("main").or_else(|| self.locked_entries().next());
            return entry.map_or_else(Revision::main, |entry| entry.commit.into());
        }
        let named = if self.allows_ref("main") { None } else { self.named_revisions().into_iter().next() };
        named.unwrap_or_else(Revision::main)
    }

    /// What a revision means under a lock: what was locked for it, or nothing.
    pub(in crate::policy) fn decide_locked_revision(&self, revision: &Revision) -> Result<RevisionVerdict, Denial> {
        let text = revision.as_str();
        if let Some(commit) = revision.as_commit() {
            let is_locked = self.locked_entries().any(|entry| entry.commit == commit);
            return if is_locked { Ok(RevisionVerdict::Allowed) } else { Err(self.not_locked(text)) };
        }
        if let Some(entry) = self.locked(text) {
            return Ok(RevisionVerdict::PinnedTo(entry.commit));
        }
        if revision.may_be_short_sha() {
            let short = text.to_ascii_lowercase();
            let entry = self.locked_entries().find(|entry| entry.commit.to_string().starts_with(&short));
            return entry.map(|entry| RevisionVerdict::PinnedTo(entry.commit)).ok_or_else(|| self.not_locked(text));
        }
        if self.allows_ref(text) { Err(self.not_locked(text)) } else { Err(self.not_allowed(text)) }
    }

    /// Refuses a commit that was not locked, however it was come by.
    pub fn check_locked(&self, commit: Commit) -> Result<(), Denial> {
        let is_other = self.is_locked() && !self.locked_entries().any(|entry| entry.commit == commit);
        if is_other { Err(self.not_locked(&commit.to_string())) } else { Ok(()) }
    }

    /// Whose repo was reviewed.
    pub(in crate::policy) fn locked_identity(&self) -> Option<&Identity> {
        let LockedRepo { entries, at } = self.locked.as_ref()?;
        at.as_ref().or_else(|| entries.first()).map(|entry| &entry.identity)
    }

    /// Whether the commit that is decided on is locked without this file.
    pub(in crate::policy) fn lock_lacks(&self, path: &RepoPath) -> bool {
        self.locked_at().is_some_and(|entry| !entry.files.contains_key(path))
    }

    /// The refusal of a file that is not the one that was locked. A digest that is not known differs from none.
    pub(in crate::policy) fn decide_locked_file(
        &self,
        path: &RepoPath,
        size: u64,
        blob: Option<BlobId>,
    ) -> Result<(), Denial> {
        let Some((entry, locked)) = self.locked_at().and_then(|entry| Some((entry, entry.files.get(path)?))) else {
            return Ok(());
        };
        let sha256 = match blob {
            Some(BlobId::Sha256(sha256)) => Some(sha256),
            Some(BlobId::Git(_)) | None => None,
        };
        let found = LockedFile { size, blob: blob.unwrap_or(locked.blob), sha256 };
        if locked.is_same(&found) {
            return Ok(());
        }
        // Which digest differs: the git id, where both have one.
        let name = |file: &LockedFile| match (file.blob, blob) {
            (BlobId::Git(oid), Some(BlobId::Git(_))) => format!("git id {oid}"),
            _ => file.to_string(),
        };
        let (now, was) = (name(&found), name(locked));
        let (now, was) = match blob {
            None => (format!("{size} bytes"), format!("{} bytes", locked.size)),
            Some(_) if now == was => (format!("{now} and {size} bytes"), format!("{was} and {} bytes", locked.size)),
            Some(_) => (now, was),
        };
        Err(self.differs(entry, path, &now, &was))
    }

    /// The refusal of content that is not what was locked, once it is known.
    fn decide_locked_content(&self, path: &RepoPath, sha256: &Sha256) -> Result<(), Denial> {
        let Some(entry) = self.locked_at() else { return Ok(()) };
        match entry.files.get(path).and_then(|file| file.sha256) {
            Some(locked) if locked != *sha256 => {
                Err(self.differs(entry, path, &format!("sha256 {sha256}"), &format!("sha256 {locked}")))
            }
            _ => Ok(()),
        }
    }

    fn locked_at(&self) -> Option<&Arc<Locked>> {
        self.locked.as_ref()?.at.as_ref()
    }

    fn differs(&self, entry: &Locked, path: &RepoPath, now: &str, was: &str) -> Denial {
        let Locked { repo, commit, source, .. } = entry;
        let reason = format!("{path} of {}@{commit} has {now}, and the lock ({source}) has {was}", repo.id());
        let remedy = format!("Ask for a review: hubgate lock --diff {repo} shows what differs");
        self.deny(DenialKind::LockDiffers, &reason, &remedy)
    }

    fn not_locked(&self, revision: &str) -> Denial {
        let entries: Vec<&Arc<Locked>> = self.locked_entries().collect();
        let named: Vec<String> =
            entries.iter().take(NAMED).map(|entry| format!("{} at {}", entry.revision, entry.commit)).collect();
        let more = if entries.len() > NAMED { ", ..." } else { "" };
        let named = if named.is_empty() { "no revision that the rule allows".into() } else { named.join(", ") + more };
        let repo = self.locked.iter().flat_map(|locked| locked.entries.iter()).next();
        let repo = repo.map_or_else(|| self.repo.clone(), |entry| entry.repo.to_string());
        let reason = format!("revision {revision} of {repo} is not in the lock, which has {named}");
        let remedy = format!("Ask for one of these, or for a review and then hubgate lock --update {repo}");
        self.deny(DenialKind::NotLocked, &reason, &remedy)
    }
}

impl PolicySet {
    /// The lock in force, if there is one.
    pub fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref().map(|held| &*held.lock)
    }

    /// The lock's text and its sha256, which stands in [`PolicySet::text`].
    pub fn lock_text(&self) -> Option<(Sha256, &str)> {
        self.lock.as_ref().map(|held| (held.file.sha256, held.file.source.text.as_str()))
    }

    /// The rule for a repo that upstream calls `canonical`, if the lock has that name only.
    pub(in crate::policy) fn with_lock_of(&self, rule: Arc<Rule>, canonical: &Repo) -> Arc<Rule> {
        match self.lock().filter(|_| rule.locked.is_none()).and_then(|lock| lock.of(canonical)) {
            Some(entries) => rule.locked_to(entries),
            None => rule,
        }
    }

    /// Whether the digest of this file's content matters: if not, nobody need find it out for
    /// [`PolicySet::decide_content`].
    pub fn asks_for_content(&self, rule: &Rule, path: &RepoPath) -> bool {
        let is_locked =
            rule.locked_at().and_then(|entry| entry.files.get(path)).is_some_and(|file| file.sha256.is_some());
        is_locked || !self.denied_contents.is_empty()
    }

    /// Refuses content that a deny rule names, whatever its file is called, and content that is not what was locked.
    /// `rule` is the one of [`crate::policy::Approved`].
    pub fn decide_content(&self, rule: &Rule, repo: &Repo, path: &RepoPath, sha256: &Sha256) -> Result<(), Denial> {
        self.decide_digest(repo, sha256)?;
        rule.decide_locked_content(path, sha256)
    }
}

#[cfg(test)]
mod tests;
