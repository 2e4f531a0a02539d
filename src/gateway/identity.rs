//! Who a repo is: its canonical name, and upstream's own id and author as first seen.
//!
//! Stored once for each name that was asked, so that a former name still finds its repo with upstream gone, and so
//! that another owner's content under an approved name is noticed (DESIGN section 6). All spellings of a name are one
//! name: the Hub ignores case, and so does who registers it again. What a repo is called since is told by `names`.
//! Never decides; policy compares.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::{Result, names::Called, turns::Turns};
use crate::{
    hub::{Repo, RepoInfo},
    store::{Error, ErrorKind, Key, Prefix, PutMode, PutOutcome, Store},
};

/// A larger identity is nothing that we wrote.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// What upstream said of a repo when it was first seen under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The name that it had.
    pub(crate) canonical: Repo,
    /// Upstream's own id of the repo (`_id`), where it gives one.
    pub(crate) upstream_id: Option<String>,
    /// Its owner.
    pub(crate) author: Option<String>,
}

impl Identity {
    /// What a look-up says.
    pub(crate) fn of(canonical: &Repo, info: &RepoInfo) -> Self {
        Self { canonical: canonical.clone(), upstream_id: info.hub_id.clone(), author: info.author.clone() }
    }
}

/// All identities that were seen.
pub(crate) struct Identities {
    pub(super) store: Arc<dyn Store>,
    known: Cache<Repo, Arc<Identity>>,
    /// Of names with capitals, those that the store had when it was first asked for one that it has not, by their
    /// lower case: stores from before have no identity under that.
    spelled: OnceCell<HashMap<Repo, Repo>>,
    /// Names with capitals that are known to be stored in their own letters.
    listed: Cache<Repo, ()>,
    /// What upstream calls repos by now, as far as it was asked, by their names in lower case.
    pub(super) called: Cache<Repo, Option<Called>>,
    /// Taken between reading what a repo is called and replacing it.
    pub(super) turns: Turns,
}

impl Identities {
    /// Believes for `ttl` what repos are called; another replica may have heard of a new name.
    pub(crate) fn new(store: Arc<dyn Store>, ttl: Duration) -> Self {
        Self {
            store,
            known: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_mins(10)).build(),
            spelled: OnceCell::new(),
            listed: Cache::builder().max_capacity(50_000).build(),
            called: Cache::builder().max_capacity(50_000).time_to_live(ttl.max(Duration::from_secs(1))).build(),
            turns: Turns::default(),
        }
    }

    /// What is known of the repo under the name that was asked, in this spelling or another.
    pub(crate) async fn of(&self, asked: &Repo) -> Result<Option<Arc<Identity>>> {
        if let Some(identity) = self.known.get(asked).await {
            return Ok(Some(identity));
        }
        let folded = asked.folded();
        let mut found = self.read(asked).await?;
        if found.is_none() && folded != *asked {
            found = self.read(&folded).await?;
        }
        if found.is_none()
            && let Some(spelled) = self.spelled().await?.get(&folded)
        {
            found = self.read(spelled).await?;
        }
        if let Some(identity) = &found {
            self.known.insert(asked.clone(), identity.clone()).await;
        }
        Ok(found)
    }

    /// The identity that is stored under this very name.
    async fn read(&self, name: &Repo) -> Result<Option<Arc<Identity>>> {
        let key = Key::identity(name);
        let Some(body) = self.store.get(&key, MAX_IDENTITY_BYTES).await? else { return Ok(None) };
        let identity = serde_json::from_slice(&body).map_err(|error| Error {
            kind: ErrorKind::Corrupt(format!("not an identity: {error}")),
            key: Some(key),
            source: None,
        })?;
        Ok(Some(Arc::new(identity)))
    }

    async fn spelled(&self) -> Result<&HashMap<Repo, Repo>> {
        let list = async {
            let keys: Vec<Key> = self.store.list(&Prefix::identities()).map_ok(|meta| meta.key).try_collect().await?;
            let names = keys.iter().filter_map(Key::identified).map(|name| (name.folded(), name));
            Ok::<_, super::Error>(names.filter(|(folded, name)| folded != name).collect())
        };
        self.spelled.get_or_try_init(|| list).await
    }

    /// Takes note of what a look-up under `asked` said, for each of the two names of which nothing was known.
    /// Policy has allowed both.
    pub(crate) async fn first_seen(&self, asked: &Repo, seen: &Identity) -> Result<()> {
        for name in [&seen.canonical, asked] {
            let folded = name.folded();
            let first = match self.of(&folded).await? {
                Some(first) => first,
                // What all spellings share comes first: of two replicas that see two repos, one is first.
                None => self.create(&folded, Arc::new(seen.clone())).await?,
            };
            // Lists of what is stored have a repo under its own name, in its own letters.
            if *name == seen.canonical && *name == first.canonical && *name != folded && !self.listed.contains_key(name)
            {
                if self.read(name).await?.is_none() {
                    self.create(name, first).await?;
                }
                self.listed.insert(name.clone(), ()).await;
            }
        }
        Ok(())
    }

    /// Stores an identity under a name; returns what is stored there.
    async fn create(&self, name: &Repo, seen: Arc<Identity>) -> Result<Arc<Identity>> {
        let body = serde_json::to_vec(&*seen).map_err(std::io::Error::other).map_err(|error| Error {
            kind: ErrorKind::Other(error.to_string()),
            key: None,
            source: None,
        })?;
        let first = match self.store.put(&Key::identity(name), Bytes::from(body), PutMode::Create).await? {
            PutOutcome::Written => seen,
            // Another replica was first.
            PutOutcome::Existed => self.read(name).await?.unwrap_or(seen),
        };
        self.known.insert(name.clone(), first.clone()).await;
        Ok(first)
    }
}
