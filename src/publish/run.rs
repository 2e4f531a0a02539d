//! One set of copies, made a commit's.

use std::{
    collections::{HashMap, HashSet},
    future,
    pin::pin,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Outcome, Publisher, Result,
    config::lies_inside,
    marker::marker,
    reconcile::Now,
    record::{Lease, Record, State, Target},
};
use crate::{
    gateway::{Publishability, Publishable, PublishableFile, PublishedCopy},
    hub::{Commit, Repo, RepoPath, Revision},
    store::{self, CATALOGUE, CopyFacts, Key, MARKER, Prefix, PublishPrefix, PutMode},
};

/// Requests to the store at a time.
const AT_ONCE: usize = 16;

/// What lies in a repo's folder.
pub(super) struct Found {
    /// Sizes by path.
    pub(super) files: HashMap<RepoPath, u64>,
    /// What no file of a repo can be; somebody else's.
    pub(super) strange: Vec<Key>,
    pub(super) has_marker: bool,
}

/// What is to be published where, and what that was decided by.
#[derive(Clone, Copy)]
pub(super) struct Publication<'a> {
    pub(super) place: &'a PublishPrefix,
    pub(super) target: &'a Target,
    pub(super) revision: &'a Revision,
    pub(super) whole: &'a Publishable,
    /// When policy was asked for it.
    pub(super) judged: Now,
    /// The record that it replaces, where only that is to be replaced.
    pub(super) over: Option<&'a Record>,
}

impl Publisher {
    /// Makes the copies those of a commit, unless they are already. Whatever ends this early, nothing of it is under way
    /// any more when the next publication begins: a copy that landed later would be taken for one of that.
    pub(super) async fn put(&self, publication: Publication<'_>) -> Result<Outcome> {
        let target = publication.target;
        let gate = self.gate(target);
        let _turn = gate.turn.lock().await;
        let removed = gate.new_stop();
        let Some(lease) = Lease::take(&self.0.records, target, false).await? else { return Ok(Outcome::Busy) };
        let going = removed.child_token();
        let (outcome, kept) = lease.during(&going, self.put_alone(publication, &lease, &going)).await;
        lease.give_back().await?;
        if removed.is_cancelled() {
            self.clear_late(&gate, publication).await?;
        }
        kept?;
        outcome
    }

    async fn put_alone(
        &self,
        publication: Publication<'_>,
        lease: &Lease,
        going: &CancellationToken,
    ) -> Result<Outcome> {
        let Publication { place, target, revision, whole, judged, over } = publication;
        let records = &self.0.records;
        let before = records.read(target).await?;
        if over.is_some_and(|over| before.as_ref().is_none_or(|before| !before.is_same_set(over))) {
            return Ok(Outcome::Busy);
        }
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
        if going.is_cancelled() {
            return Ok(Outcome::Busy);
        }
        // From here on the list names only what this publication does not touch.
        record.state = State::Publishing;
        records.write(target, &record).await?;
        records.write_files(target, right.iter().copied()).await?;
        self.0.store.delete(&marker_key).await?;
        let removed = gone.len();
        to_their_end(gone, going, |key| async move { self.0.store.delete(&key).await }).await?;
        // Owned, since a stream over borrowed files can't be sent between threads.
        let files: Vec<PublishableFile> = wrong.iter().map(|file| (*file).clone()).collect();
        to_their_end(files, going, |file| self.copy(place, target, whole, file)).await?;

        // Hooks, turns and gigabytes take their time, and policy may have changed its mind.
        if judged != self.now() {
            match self.0.gateway.publishable(&target.repo, revision, Some(whole.commit)).await? {
                Publishability::Whole(now) if now.files == whole.files => {}
                _ => return Ok(Outcome::Busy),
            }
        }
        if going.is_cancelled() || !lease.is_ours().await? {
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
    ) -> store::Result<()> {
        let to = Key::published(place, &target.repo, target.commit, &file.path);
        let facts = CopyFacts {
            repo: target.repo.to_string(),
            commit: whole.commit,
            license: whole.license.clone(),
            size: file.size,
        };
        self.0.store.copy(&file.sha256, &to, &facts).await.map(drop)
    }

    /// What lies in a set of copies' folder now.
    pub(super) async fn look(&self, place: &PublishPrefix, target: &Target) -> Result<Found> {
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

/// Runs requests to the store, some at a time. When one fails, or `going` ends, no more are begun; those under way come
/// to their end.
pub(super) async fn to_their_end<T, F: Future<Output = store::Result<()>>>(
    items: Vec<T>,
    going: &CancellationToken,
    request: impl Fn(T) -> F,
) -> Result<()> {
    let going = going.child_token();
    let begun = stream::iter(items).take_while(|_| future::ready(!going.is_cancelled()));
    let mut requests = pin!(begun.map(request).buffer_unordered(AT_ONCE));
    let mut outcome = Ok(());
    while let Some(ended) = requests.next().await {
        if let Err(error) = ended
            && outcome.is_ok()
        {
            going.cancel();
            outcome = Err(error.into());
        }
    }
    outcome
}

/// Whether a path lies below `@<commit>/`.
fn is_below_commit(path: &str) -> bool {
    path.strip_prefix('@')
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(commit, _)| commit.parse::<Commit>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::poll;
    use tokio::sync::Notify;

    use super::*;
    use crate::store::ErrorKind;

    #[tokio::test]
    async fn after_a_failure_none_is_begun_and_those_under_way_come_to_their_end() {
        let (begun, landed, hold) = (AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
        let (going, all) = (CancellationToken::new(), (0..100).collect());
        let request = async |number: i32| {
            begun.fetch_add(1, Ordering::SeqCst);
            if number == 3 {
                return Err(store::Error::new(ErrorKind::Busy));
            }
            hold.notified().await;
            landed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let mut work = pin!(to_their_end(all, &going, request));
        assert!(poll!(&mut work).is_pending(), "it waits for those under way");
        for _ in 2..AT_ONCE {
            hold.notify_one();
            assert!(poll!(&mut work).is_pending(), "one is under way yet");
        }
        hold.notify_one();
        assert!(work.await.is_err());
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        assert_eq!((count(&begun), count(&landed)), (AT_ONCE, AT_ONCE - 1));
        assert!(!going.is_cancelled(), "the caller's own");
    }
}
