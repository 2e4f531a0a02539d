//! Who a repo is: its canonical name, and upstream's own id and author as first seen.
//!
//! Stored once for each name that was asked, so that another spelling still finds its repo with upstream
//! gone, and so that another owner's content under an approved name is noticed (DESIGN section 6). Never
//! decides; policy compares.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use moka::future::Cache;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::{
    hub::{Repo, RepoInfo},
    store::{Error, ErrorKind, Key, PutMode, PutOutcome, Store},
};

/// A larger identity is nothing that we wrote.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// What upstream said of a repo when it was first seen under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The name under which everything is stored.
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
    store: Arc<dyn Store>,
    known: Cache<Repo, Arc<Identity>>,
}

impl Identities {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let known = Cache::builder().max_capacity(50_000).time_to_live(Duration::from_mins(10)).build();
        Self { store, known }
    }

    /// What is known of the repo under the name that was asked.
    pub(crate) async fn of(&self, asked: &Repo) -> Result<Option<Arc<Identity>>> {
        if let Some(identity) = self.known.get(asked).await {
            return Ok(Some(identity));
        }
        let key = Key::identity(asked);
        let Some(body) = self.store.get(&key, MAX_IDENTITY_BYTES).await? else { return Ok(None) };
        let identity: Identity = serde_json::from_slice(&body).map_err(|error| Error {
            kind: ErrorKind::Corrupt(format!("not an identity: {error}")),
            key: Some(key),
            source: None,
        })?;
        let identity = Arc::new(identity);
        self.known.insert(asked.clone(), identity.clone()).await;
        Ok(Some(identity))
    }

    /// Takes note of what a look-up under `asked` said, if nothing was known; returns what was first seen.
    /// Policy has allowed both names.
    pub(crate) async fn first_seen(&self, asked: &Repo, seen: &Identity) -> Result<Arc<Identity>> {
        let mut first = None;
        for name in [&seen.canonical, asked] {
            let known = match self.of(name).await? {
                Some(known) => known,
                None => {
                    let body = serde_json::to_vec(seen).map_err(std::io::Error::other).map_err(|error| Error {
                        kind: ErrorKind::Other(error.to_string()),
                        key: None,
                        source: None,
                    })?;
                    let outcome = self.store.put(&Key::identity(name), Bytes::from(body), PutMode::Create).await?;
                    let theirs = match outcome {
                        PutOutcome::Written => None,
                        // Another replica was first.
                        PutOutcome::Existed => self.of(name).await?,
                    };
                    let first = theirs.unwrap_or_else(|| Arc::new(seen.clone()));
                    self.known.insert(name.clone(), first.clone()).await;
                    first
                }
            };
            first.get_or_insert(known);
            if asked == &seen.canonical {
                break;
            }
        }
        Ok(first.unwrap_or_else(|| Arc::new(seen.clone())))
    }
}
