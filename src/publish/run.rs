//! One set of copies, made a commit's or removed.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;

use super::{
    Error, Outcome, Publisher, Result,
    config::lies_inside,
    marker::marker,
    record::{Lease, Record, State, Target},
};
use crate::{
    gateway::{Publishability, Publishable, PublishableFile, PublishedCopy},
    hub::{Commit, Repo, RepoPath, Revision},
    policy::today,
    store::{CATALOGUE, CopyFacts, Key, MARKER, Prefix, PublishPrefix, PutMode},
};

/// Requests to the store at a time.
const AT_ONCE: usize = 16;

/// What lies in a repo's folder.
struct Found {
    /// Sizes by path.
    files: HashMap<RepoPath, u64>,
    /// What no file of a repo can be; somebody else's.
    strange: Vec<Key>,
    has_marker: bool,
}

impl Publisher {
    /// Makes the copies those of a commit, unless they are already.
    pub(super) async fn put(
        &self,
        place: &PublishPrefix,
        target: Target,
        revision: &Revision,
        whole: &Publishable,
    ) -> Result<Outcome> {
        let gate = self.gate(&target);
        let _turn = gate.turn.lock().await;
        let stop = gate.new_stop();
        let Some(lease) = Lease::take(&self.0.records, &target, false).await? else { return Ok(Outcome::Busy) };
        let outcome = tokio::select! {
            outcome = self.put_alone(place, &target, revision, whole, &lease) => outcome,
            kept = lease.keep() => kept.map(|()| Outcome::Busy).map_err(Error::from),
            () = stop.cancelled() => Ok(Outcome::Busy),
        };
        lease.give_back().await?;
        outcome
    }

    async fn put_alone(
        &self,
        place: &PublishPrefix,
        target: &Target,
        revision: &Revision,
        whole: &Publishable,
        lease: &Lease,
    ) -> Result<Outcome> {
        let records = &self.0.records;
        let before = records.read(target).await?;
        if let Some(before) = &before
            && before.prefix != place.to_string()
            && before.state != State::Unpublished
        {
            tracing::info!(repo = %target.repo, from = before.prefix, to = %place, "publish.prefix has changed");
            self.clear(target, before.clone(), "publish.prefix has changed").await?;
        }
        let found = self.look(place, target).await?;
        let known = records.files(target).await?;
        let is_right = |file: &&PublishableFile| {
            known.get(&file.path) == Some(&(file.sha256, file.size)) && found.files.get(&file.path) == Some(&file.size)
        };
        let (right, wrong): (Vec<_>, Vec<_>) = whole.files.iter().partition(is_right);
        let wanted: HashSet<&RepoPath> = whole.files.iter().map(|file| &file.path).collect();
        let gone = found.files.keys().filter(|path| !wanted.contains(path));
        let mut gone: Vec<Key> = gone.map(|path| Key::published(place, &target.repo, target.commit, path)).collect();
        gone.extend(found.strange);
        let text = marker(target, revision, whole)?;
        let marker_key = Key::marker(place, &target.repo, target.commit);
        let mut record = Record {
            repo: target.repo.clone(),
            prefix: place.to_string(),
            revision: revision.clone(),
            commit: whole.commit,
            license: whole.license.clone(),
            state: State::Published,
            reason: None,
            at: OffsetDateTime::now_utc(),
        };
        let is_done = before.is_some_and(|before| Record { at: record.at, ..before } == record);
        if wrong.is_empty() && gone.is_empty() && is_done && found.has_marker {
            let there = self.0.store.get(&marker_key, text.len() as u64).await;
            if there.is_ok_and(|there| there.as_ref() == Some(&text)) {
                return Ok(Outcome::Unchanged { commit: whole.commit });
            }
        }
        let policy = (self.0.policy.current().digest(), today());

        // From here on the list names only what this publication does not touch.
        record.state = State::Publishing;
        records.write(target, &record).await?;
        records.write_files(target, right.iter().copied()).await?;
        self.0.store.delete(&marker_key).await?;
        let removed = gone.len();
        self.delete_all(gone).await?;
        // Owned, since a stream over borrowed files can't be sent between threads.
        let files: Vec<PublishableFile> = wrong.iter().map(|file| (*file).clone()).collect();
        let copies = stream::iter(files).map(|file| self.copy(place, target, whole, file));
        copies.buffer_unordered(AT_ONCE).try_collect::<()>().await?;

        // Gigabytes take their time, and policy may have changed its mind.
        if policy != (self.0.policy.current().digest(), today()) {
            match self.0.gateway.publishable(&target.repo, revision, Some(whole.commit)).await? {
                Publishability::Whole(now) if now.files == whole.files => {}
                _ => return Ok(Outcome::Busy),
            }
        }
        if !lease.is_ours().await? {
            return Ok(Outcome::Busy);
        }
        records.write_files(target, whole.files.iter()).await?;
        self.0.store.put(&marker_key, text, PutMode::Overwrite).await?;
        record.state = State::Published;
        record.at = OffsetDateTime::now_utc();
        records.write(target, &record).await?;
        let (copied, kept) = (wrong.len(), right.len());
        let bytes = whole.files.iter().map(|file| file.size).sum();
        tracing::info!(repo = %target.repo, commit = %whole.commit, copied, kept, removed, bytes, "published");
        Ok(Outcome::Published { commit: whole.commit, copied, kept, removed, bytes })
    }

    async fn copy(
        &self,
        place: &PublishPrefix,
        target: &Target,
        whole: &Publishable,
        file: PublishableFile,
    ) -> Result<()> {
        let to = Key::published(place, &target.repo, target.commit, &file.path);
        let facts = CopyFacts {
            repo: target.repo.to_string(),
            commit: whole.commit,
            license: whole.license.clone(),
            size: file.size,
        };
        self.0.store.copy(&file.sha256, &to, &facts).await?;
        Ok(())
    }

    /// What lies in a set of copies' folder now.
    async fn look(&self, place: &PublishPrefix, target: &Target) -> Result<Found> {
        let prefix = Prefix::published(place, &target.repo, target.commit);
        let mut found = Found { files: HashMap::new(), strange: Vec::new(), has_marker: false };
        let mut objects = self.0.store.list(&prefix);
        while let Some(object) = objects.try_next().await? {
            let Some(path) = object.key.as_str().strip_prefix(prefix.as_str()) else { continue };
            if path == MARKER {
                found.has_marker = true;
            } else if target.commit.is_some() || !is_below_commit(path) {
                match path.parse() {
                    Ok(path) => drop(found.files.insert(path, object.size)),
                    Err(_) => found.strange.push(object.key),
                }
            }
        }
        Ok(found)
    }

    async fn delete_all(&self, keys: Vec<Key>) -> Result<()> {
        let deletes = keys.into_iter().map(|key| async move { self.0.store.delete(&key).await });
        Ok(stream::iter(deletes).buffer_unordered(AT_ONCE).try_collect::<()>().await?)
    }

    /// The copies that lie there. Those without a digest are of a publication that was interrupted; what somebody else
    /// has put beside a published set is none of them.
    pub(super) async fn copies(&self, target: &Target, record: &Record) -> Result<Vec<PublishedCopy>> {
        let known = self.0.records.files(target).await?;
        let found = self.look(&record.prefix.parse().map_err(Error::Clash)?, target).await?;
        let copies = found.files.into_iter().filter_map(|(path, size)| {
            let sha256 = known.get(&path).map(|(sha256, _)| *sha256);
            let is_ours = sha256.is_some() || record.state == State::Publishing;
            is_ours.then_some(PublishedCopy { path, size, sha256 })
        });
        Ok(copies.collect())
    }

    /// Whether a set of copies was removed and nothing of it is left, as by a publisher that was stopped in the middle
    /// of a copy.
    pub(super) async fn is_gone(&self, target: &Target, record: &Record) -> Result<bool> {
        if record.state != State::Unpublished {
            return Ok(false);
        }
        let found = self.look(&record.prefix.parse().map_err(Error::Clash)?, target).await?;
        Ok(found.files.is_empty() && found.strange.is_empty() && !found.has_marker)
    }

    /// Removes a set of copies, whoever is publishing it. Returns how many files went.
    pub(super) async fn remove(&self, target: &Target, record: Record, reason: &str) -> Result<usize> {
        let gate = self.gate(target);
        gate.stop().cancel();
        let _turn = gate.turn.lock().await;
        // Nobody has it who took it a moment ago, too: then the next look goes on.
        let Some(lease) = Lease::take(&self.0.records, target, true).await? else { return Ok(0) };
        let removed = self.clear(target, record, reason).await;
        lease.give_back().await?;
        removed
    }

    async fn clear(&self, target: &Target, mut record: Record, reason: &str) -> Result<usize> {
        let place: PublishPrefix = record.prefix.parse().map_err(Error::Clash)?;
        let was_there = record.state != State::Unpublished;
        if was_there {
            record.state = State::Unpublishing;
            record.reason = Some(reason.to_owned());
            record.at = OffsetDateTime::now_utc();
            self.0.records.write(target, &record).await?;
            self.0.records.write_files(target, std::iter::empty()).await?;
        }
        self.0.store.delete(&Key::marker(&place, &target.repo, target.commit)).await?;
        let found = self.look(&place, target).await?;
        let files = found.files.keys().map(|path| Key::published(&place, &target.repo, target.commit, path));
        let mut files: Vec<Key> = files.collect();
        files.extend(found.strange);
        let removed = files.len();
        self.delete_all(files).await?;
        if was_there {
            record.state = State::Unpublished;
            record.at = OffsetDateTime::now_utc();
            self.0.records.write(target, &record).await?;
        }
        if removed > 0 || was_there {
            tracing::warn!(repo = %target.repo, commit = %record.commit, removed, reason, "unpublished");
        }
        Ok(removed)
    }

    /// Refuses copies that would lie where something else does.
    pub(super) async fn check_place(&self, repo: &Repo, whole: &Publishable) -> Result<()> {
        let clash = |problem: String| Err(Error::Clash(problem));
        if repo.to_string() == CATALOGUE {
            return clash(format!("{repo} can't be published: its copies would lie where the catalogue does"));
        }
        let own = |file: &&PublishableFile| file.path.as_str() == MARKER || is_below_commit(file.path.as_str());
        if let Some(file) = whole.files.iter().find(own) {
            return clash(format!("{repo} can't be published: its file {} has a name of hubgate's own", file.path));
        }
        let outer = repo.id().split_once('/').and_then(|(owner, _)| Repo::new(repo.kind(), owner).ok());
        let others = match outer {
            Some(repo) => {
                let target = Target { repo, commit: None };
                self.0.records.read(&target).await?.map(|record| (target, record)).into_iter().collect()
            }
            None => self.0.records.all().await?,
        };
        let is_there =
            |(other, record): &&(Target, Record)| record.state != State::Unpublished && lies_inside(repo, &other.repo);
        match others.iter().find(is_there) {
            None => Ok(()),
            Some((other, _)) => clash(format!(
                "{repo} can't be published: the copies of {} would lie inside its own, or the other way round; \
                 unpublish one of them",
                other.repo
            )),
        }
    }
}

/// Whether a path lies below `@<commit>/`.
fn is_below_commit(path: &str) -> bool {
    path.strip_prefix('@')
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(commit, _)| commit.parse::<Commit>().is_ok())
}
