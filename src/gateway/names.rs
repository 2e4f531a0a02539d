//! What upstream calls a repo by now, and under which names its content may be stored.
//!
//! An identity is what was first seen and never changes. A new name is noted beside it, by whoever hears of it first,
//! whether policy allows it or not: policy is asked about it with every question from then on, also for what is stored.
//! Nothing is noted of repos of which nothing is stored. Never decides.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Result, identity::Identities, refs::MAX_SKEW};
use crate::{
    hub::Repo,
    store::{Error, ErrorKind, Key, PutMode},
};

/// A larger note is nothing that we wrote.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// How many names in a row are followed.
const MAX_NAMES: usize = 8;

/// What upstream called a repo when it was last asked, once that is another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Called {
    /// The name.
    pub(crate) name: Repo,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) looked_at: OffsetDateTime,
}

/// The names of one repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// What upstream calls it, by all that is known here.
    pub(crate) now: Repo,
    /// What it was called before, the newest first: content that came then is stored under these.
    pub(crate) before: Vec<Repo>,
}

impl Names {
    /// All of them, the newest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Repo> {
        std::iter::once(&self.now).chain(&self.before)
    }
}

impl Identities {
    /// The names of the repo that was asked for, if anything is known of it.
    pub(crate) async fn names(&self, asked: &Repo) -> Result<Option<Names>> {
        let Some(first) = self.of(asked).await? else { return Ok(None) };
        let mut names = Names { now: first.canonical.clone(), before: Vec::new() };
        let mut next = self.called(&names.now).await?;
        if !asked.same_name(&names.now)
            && let Some(called) = self.called(asked).await?
            && next.as_ref().is_none_or(|next| next.looked_at < called.looked_at)
        {
            // A name that was given up and is a repo's own again: what it led to before is another repo by now.
            if called.name.same_name(asked) {
                return Ok(Some(Names { now: called.name, before: Vec::new() }));
            }
            next = Some(called);
        }
        while let Some(Called { name, .. }) = next.take()
            && names.before.len() < MAX_NAMES
            && names.all().all(|known| *known != name)
        {
            next = self.called(&name).await?;
            names.before.insert(0, std::mem::replace(&mut names.now, name));
        }
        Ok(Some(names))
    }

    /// Takes note of what upstream calls the repo that was asked for, if something is known of it and that is new.
    /// Says whether it was.
    pub(crate) async fn note_called(&self, asked: &Repo, name: &Repo, looked_at: OffsetDateTime) -> Result<bool> {
        let Some(names) = self.names(asked).await?.filter(|names| names.now != *name) else { return Ok(false) };
        let called = Called { name: name.clone(), looked_at };
        // No redirect: the name is a repo's own again, and says nothing of the repo that it led to.
        let led_here = (!name.same_name(asked)).then(|| names.all());
        for former in led_here.into_iter().flatten().chain([asked]) {
            self.note(former, &called).await?;
        }
        // It may have been called otherwise in between.
        if self.called(name).await?.is_some() {
            self.note(name, &called).await?;
        }
        tracing::warn!(%asked, before = %names.now, now = %name, "upstream calls the repo by another name");
        Ok(true)
    }

    /// What is noted of one name.
    async fn called(&self, name: &Repo) -> Result<Option<Called>> {
        let folded = name.folded();
        if let Some(called) = self.called.get(&folded).await {
            return Ok(called);
        }
        let _turn = self.turns.take(&folded).await;
        // Whoever had the turn before may have read it.
        if let Some(called) = self.called.get(&folded).await {
            return Ok(called);
        }
        let called = self.read_called(&folded).await?;
        self.called.insert(folded, called.clone()).await;
        Ok(called)
    }

    async fn note(&self, name: &Repo, called: &Called) -> Result<()> {
        let folded = name.folded();
        let latest = OffsetDateTime::now_utc() + MAX_SKEW;
        let _turn = self.turns.take(&folded).await;
        let newest = match self.read_called(&folded).await? {
            // A clock that is far ahead would hold a name for ever.
            Some(stored) if stored.looked_at > called.looked_at && stored.looked_at <= latest => stored,
            _ => {
                let body = serde_json::to_vec(called).map_err(|error| corrupt(&folded, &error))?;
                self.store.put(&Key::called(&folded), Bytes::from(body), PutMode::Overwrite).await?;
                called.clone()
            }
        };
        self.called.insert(folded, Some(newest)).await;
        Ok(())
    }

    async fn read_called(&self, folded: &Repo) -> Result<Option<Called>> {
        let Some(body) = self.store.get(&Key::called(folded), MAX_NOTE_BYTES).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&body).map_err(|error| corrupt(folded, &error))?))
    }
}

fn corrupt(name: &Repo, error: &serde_json::Error) -> Error {
    Error { kind: ErrorKind::Corrupt(format!("not a name: {error}")), key: Some(Key::called(name)), source: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::identity::Identity;

    fn repo(name: &str) -> Repo {
        Repo::new(crate::hub::RepoKind::Model, name).unwrap()
    }

    #[tokio::test]
    async fn a_name_that_is_given_to_another_repo_leads_to_the_renamed_one_no_more_and_says_nothing_of_it() {
        let store = crate::manifest::testing::MemoryStore::new();
        let names = Identities::new(store, Duration::from_mins(1));
        let (old, new) = (repo("org/m"), repo("org/m-v1"));
        let identity = |canonical: &Repo| Identity { canonical: canonical.clone(), upstream_id: None, author: None };
        let now = OffsetDateTime::now_utc;
        names.first_seen(&old, &identity(&old)).await.unwrap();
        assert!(names.note_called(&old, &new, now()).await.unwrap());
        names.first_seen(&old, &identity(&new)).await.unwrap();
        let renamed = Names { now: new.clone(), before: vec![old.clone()] };
        assert_eq!(names.names(&old).await.unwrap(), Some(renamed));

        assert!(names.note_called(&old, &old, now()).await.unwrap());
        assert_eq!(names.names(&old).await.unwrap(), Some(Names { now: old, before: Vec::new() }));
        assert_eq!(names.names(&new).await.unwrap(), Some(Names { now: new, before: Vec::new() }));
    }
}
