//! What is never evicted: files of pinned and locked commits, of what the policy's `[[mirror]]` list names, and of repos with
//! published copies.

use std::collections::HashSet;

use futures_util::TryStreamExt as _;

use super::Result;
use crate::{
    gateway::Gateway,
    hub::{Commit, Repo},
    manifest::Entry,
    policy::{Lock, Mirror, PolicySet},
    store::{Prefix, Store},
};

/// The commits and repos of such files.
#[derive(Debug)]
pub(super) struct Kept {
    /// By a rule or the lock.
    pinned: HashSet<Commit>,
    /// Where a revision's commit is not known, all of the repo is kept.
    mirrored: Vec<(Mirror, Option<HashSet<Commit>>)>,
    published: HashSet<Repo>,
}

impl Kept {
    pub(super) async fn read(store: &dyn Store, gateway: &Gateway, policy: &PolicySet) -> Result<Self> {
        let locked = policy.lock().into_iter().flat_map(Lock::entries).map(|entry| entry.commit);
        let pinned = policy.rules().iter().filter_map(|rule| rule.pin).chain(locked).collect();
        let mut mirrored = Vec::new();
        for mirror in policy.mirrors() {
            let mut commits = Some(HashSet::new());
            for revision in &mirror.revisions {
                match (gateway.last_commit(&mirror.repo, revision).await, &mut commits) {
                    (Ok(Some(commit)), Some(commits)) => drop(commits.insert(commit)),
                    _ => commits = None,
                }
            }
            mirrored.push((mirror.clone(), commits));
        }
        let mut published = HashSet::new();
        let mut tells = store.list(&Prefix::publishing());
        while let Some(meta) = tells.try_next().await? {
            published.extend(meta.key.publishes());
        }
        Ok(Self { pinned, mirrored, published })
    }

    pub(super) fn keeps(&self, entry: &Entry) -> bool {
        let is_mirrored = |(mirror, commits): &(Mirror, Option<HashSet<Commit>>)| {
            let is_named = match commits {
                Some(commits) => commits.contains(&entry.commit),
                None => mirror.repo == entry.repo,
            };
            is_named && mirror.selection.takes(&entry.path)
        };
        self.pinned.contains(&entry.commit)
            || self.published.contains(&entry.repo)
            || self.mirrored.iter().any(is_mirrored)
    }
}
