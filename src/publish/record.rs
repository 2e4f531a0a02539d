//! What is known of a repo's copies, kept among the store's own keys: the copies themselves can't say it, since a
//! publication that was interrupted leaves some of them and no marker.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{
    TryStreamExt as _,
    future::{Either, select},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    gateway::PublishableFile,
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    store::{Error, ErrorKind, Key, Prefix, PutMode, PutOutcome, Result, Store},
};

/// A record or a lease is a few hundred bytes.
const RECORD_LIMIT_BYTES: u64 = 64 * 1024;

/// 300,000 files with long paths take less.
const LIST_LIMIT_BYTES: u64 = 512 * 1024 * 1024;

/// How long a publisher that has died keeps others out.
const LEASE: Duration = Duration::from_mins(1);

/// How often a lease is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// One set of copies: a repo's, or those of one of its commits below `@<commit>/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    /// The repo, under the name that its workloads read.
    pub(super) repo: Repo,
    /// The commit, for copies below `@<commit>/`.
    pub(super) commit: Option<Commit>,
}

/// How far a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Begun; the copies are a mixture and have no marker.
    Publishing,
    /// Done: the marker stands.
    Published,
    /// Being removed.
    Unpublishing,
    /// Removed.
    Unpublished,
}

/// A set of copies, as last worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The repo, as in a web URL.
    pub(super) repo: Repo,
    /// The publish prefix under which the copies lie.
    pub(super) prefix: String,
    /// The revision that led to the commit.
    pub(super) revision: Revision,
    /// The commit.
    pub(super) commit: Commit,
    /// The licence.
    pub(super) license: String,
    /// How far it is.
    pub(super) state: State,
    /// Why it was removed.
    pub(super) reason: Option<String>,
    /// When this was written.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
}

impl Record {
    /// Whether this is still the set of copies that another record speaks of.
    pub(super) fn is_same_set(&self, other: &Self) -> bool {
        let is_there = |record: &Self| matches!(record.state, State::Publishing | State::Published);
        (&self.prefix, self.commit, is_there(self)) == (&other.prefix, other.commit, is_there(other))
    }
}

/// The files that certainly are what they should be, by their paths.
pub(super) type Files = BTreeMap<RepoPath, (Sha256, u64)>;

#[derive(Serialize, Deserialize)]
struct ListedFile {
    path: RepoPath,
    sha256: Sha256,
    size: u64,
}

/// All records, in the store.
#[derive(Debug, Clone)]
pub(super) struct Records(pub(super) Arc<dyn Store>);

impl Target {
    fn key(&self, part: &str) -> Key {
        Key::publishing(&self.repo, self.commit, part)
    }
}

impl Records {
    pub(super) async fn read(&self, target: &Target) -> Result<Option<Record>> {
        self.json(&target.key("record.json"), RECORD_LIMIT_BYTES).await
    }

    pub(super) async fn write(&self, target: &Target, record: &Record) -> Result<()> {
        self.put(&target.key("record.json"), record).await
    }

    /// The files that are known to be in place.
    pub(super) async fn files(&self, target: &Target) -> Result<Files> {
        let listed: Option<Vec<ListedFile>> = self.json(&target.key("files.json"), LIST_LIMIT_BYTES).await?;
        Ok(listed.into_iter().flatten().map(|file| (file.path, (file.sha256, file.size))).collect())
    }

    pub(super) async fn write_files<'a>(
        &self,
        target: &Target,
        files: impl Iterator<Item = &'a PublishableFile>,
    ) -> Result<()> {
        let listed = files.map(|file| ListedFile { path: file.path.clone(), sha256: file.sha256, size: file.size });
        self.put(&target.key("files.json"), &listed.collect::<Vec<_>>()).await
    }

    /// All sets of copies of which anything is known, in an order that stays.
    pub(super) async fn all(&self) -> Result<Vec<(Target, Record)>> {
        let mut all = Vec::new();
        let mut objects = self.0.list(&Prefix::publishing());
        while let Some(object) = objects.try_next().await? {
            let Some(place) = object.key.as_str().strip_suffix("/record.json") else { continue };
            let commit = place.rsplit('/').next().and_then(|commit| commit.parse().ok());
            if let Some(record) = self.json::<Record>(&object.key, RECORD_LIMIT_BYTES).await? {
                all.push((Target { repo: record.repo.clone(), commit }, record));
            }
        }
        Ok(all)
    }

    async fn json<T: DeserializeOwned>(&self, key: &Key, limit: u64) -> Result<Option<T>> {
        let Some(text) = self.0.get(key, limit).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let problem = format!("not what hubgate knows of published copies ({error}); remove it and publish again");
            Error::new(ErrorKind::Corrupt(problem)).on(key)
        })
    }

    async fn put<T: Serialize>(&self, key: &Key, value: &T) -> Result<()> {
        let text =
            serde_json::to_vec(value).map_err(|error| Error::new(ErrorKind::Other(error.to_string())).on(key))?;
        self.0.put(key, Bytes::from(text), PutMode::Overwrite).await.map(drop)
    }
}

/// The right to change a set of copies, which one publisher has at a time. Where a server lets two take it in the same
/// instant, both see it at the next renewal; the marker and the lists are written by whoever still has it.
#[derive(Debug)]
pub(super) struct Lease {
    records: Records,
    key: Key,
    holder: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    holder: String,
    /// Seconds since 1970.
    until: u64,
}

impl Lease {
    /// Takes it, unless another publisher has it. One that removes takes it in any case.
    pub(super) async fn take(records: &Records, target: &Target, by_force: bool) -> Result<Option<Self>> {
        let lease = Self {
            records: records.clone(),
            key: target.key("lease.json"),
            holder: Uuid::now_v7().simple().to_string(),
        };
        let mode = match lease.held().await? {
            Some(held) if !by_force && held.until > now() => return Ok(None),
            Some(_) => PutMode::Overwrite,
            None => PutMode::Create,
        };
        if lease.hold(mode).await? == PutOutcome::Existed && !by_force {
            return Ok(None);
        }
        if by_force {
            lease.hold(PutMode::Overwrite).await?;
        }
        Ok(lease.is_ours().await?.then_some(lease))
    }

    /// Keeps it as long as `work` runs. When somebody else has it, or nobody can tell, `work` goes on without it, and
    /// `going` ends, so that it comes to its end soon.
    pub(super) async fn during<T>(&self, going: &CancellationToken, work: impl Future<Output = T>) -> (T, Result<()>) {
        let (work, keep) = (pin!(work), pin!(self.keep()));
        match select(work, keep).await {
            Either::Left((done, _)) => (done, Ok(())),
            Either::Right((kept, work)) => {
                going.cancel();
                (work.await, kept)
            }
        }
    }

    /// Keeps it as long as this runs; ends when somebody else has it.
    async fn keep(&self) -> Result<()> {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if !self.is_ours().await? {
                return Ok(());
            }
            self.hold(PutMode::Overwrite).await?;
        }
    }

    pub(super) async fn is_ours(&self) -> Result<bool> {
        Ok(self.held().await?.is_some_and(|held| held.holder == self.holder))
    }

    pub(super) async fn give_back(self) -> Result<()> {
        if self.is_ours().await? {
            self.records.0.delete(&self.key).await?;
        }
        Ok(())
    }

    async fn held(&self) -> Result<Option<Held>> {
        self.records.json(&self.key, RECORD_LIMIT_BYTES).await
    }

    async fn hold(&self, mode: PutMode) -> Result<PutOutcome> {
        let held = Held { holder: self.holder.clone(), until: now() + LEASE.as_secs() };
        let text = serde_json::to_vec(&held).map_err(|error| Error::new(ErrorKind::Other(error.to_string())))?;
        self.records.0.put(&self.key, Bytes::from(text), mode).await
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::testing::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn work_whose_lease_is_lost_is_told_and_comes_to_its_end() {
        let records = Records(MemoryStore::new());
        let target = Target { repo: "acme/tiny".parse().unwrap(), commit: None };
        let lease = Lease::take(&records, &target, false).await.unwrap().unwrap();
        assert!(Lease::take(&records, &target, false).await.unwrap().is_none(), "one at a time");
        let going = CancellationToken::new();
        let work = async {
            let other = Lease::take(&records, &target, true).await.unwrap().unwrap();
            going.cancelled().await;
            tokio::time::sleep(LEASE).await;
            other
        };
        let (other, kept) = lease.during(&going, work).await;
        kept.unwrap();
        lease.give_back().await.unwrap();
        assert!(other.is_ours().await.unwrap(), "what is another's is not given back");
    }
}
