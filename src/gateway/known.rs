//! What is known of a commit: looked at upstream once, answered from the snapshot from then on.
//!
//! A large tree comes long after the facts, or never where it is past `limits.tree_nodes`. Files are served by
//! the facts alone then; these are stored at once, so that the same files are served with upstream gone (I10).
//! They are no snapshot: nothing that asks for the whole is answered from them.

use std::{sync::Arc, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Asker, Error, Gateway, Result,
    commit::{Resolved, is_gone},
    flights::Flight,
    limits::Fare,
    outage::OUTAGE_MEMORY,
    snapshot::{BadSnapshot, Bounds, Facts, Snapshot, gather},
};
use crate::{
    hub::{Commit, Repo},
    policy::{README_BYTES, kept_front_matter},
    upstream::{Look, OnGone, Purpose},
};

/// How long a question about one file waits for the whole tree.
const TREE_PATIENCE: Duration = Duration::from_millis(1500);

/// The same where the info says nothing of the files, as that of a large repo: the tree will take long. And
/// where upstream did not answer a moment ago.
const LARGE_TREE_PATIENCE: Duration = Duration::from_millis(50);

/// More siblings than this come cut from the Hub, and say nothing about the tree.
const MAX_WHOLE_SIBLINGS: usize = 40_000;

/// What is known of a commit.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Everything, stored.
    Whole(Arc<Snapshot>),
    /// The facts; the tree is on its way or too large to keep.
    Facts(Arc<Fresh>),
    /// The facts, and why upstream can't be asked for more. Files that are stored are served.
    Alone(Arc<Facts>, Error),
}

/// Facts without their tree.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) facts: Arc<Facts>,
    /// The info's file list, where it came whole.
    pub(super) siblings: Option<Vec<String>>,
}

impl Known {
    pub(super) fn facts(&self) -> &Arc<Facts> {
        match self {
            Self::Whole(snapshot) => &snapshot.facts,
            Self::Facts(fresh) => &fresh.facts,
            Self::Alone(facts, _) => facts,
        }
    }
}

impl Gateway {
    /// The snapshot, or the facts of a commit that has none yet.
    pub(super) async fn known(&self, asker: &Asker, resolved: &Resolved) -> Result<Known> {
        let name = (resolved.repo.clone(), resolved.commit);
        if let Some(snapshot) = self.snapshots.find(&name.0, name.1).await? {
            return Ok(Known::Whole(snapshot));
        }
        if let Some(fresh) = self.fresh.get(&name).await {
            return Ok(Known::Facts(fresh));
        }
        Box::pin(self.known_without_tree(asker, name)).await
    }

    async fn known_without_tree(&self, asker: &Asker, name: (Repo, Commit)) -> Result<Known> {
        let Some(early) = self.snapshots.early(&name.0, name.1).await? else {
            return self.begin_facts(asker, name).await?.await.map(Known::Facts);
        };
        let limit = self.config.limits.tree_nodes;
        if early.more_than.is_some_and(|nodes| nodes >= limit) {
            // What is too large stays so: as of a whole snapshot, upstream is asked nothing.
            let bad = BadSnapshot::TooLarge { repo: name.0.clone(), commit: name.1, limit };
            self.too_large.insert(name.clone(), Error::TooMany(bad.to_string())).await;
            let fresh = Arc::new(Fresh { facts: early.facts.clone(), siblings: None });
            self.fresh.insert(name, fresh.clone()).await;
            return Ok(Known::Facts(fresh));
        }
        if self.upstream_is_out(&name.0) {
            return Ok(Known::Alone(early.facts.clone(), out_of_reach()));
        }
        let why = match self.patiently(asker, self.begin_facts(asker, name)).await {
            Some(Ok(fresh)) => return Ok(Known::Facts(fresh)),
            Some(Err(error)) if is_gone(&error) && self.config.on_gone == OnGone::Refuse => return Err(error),
            // A commit never changes (I4): its facts hold, whatever upstream says of it now.
            Some(Err(error)) => error,
            None => out_of_reach(),
        };
        Ok(Known::Alone(early.facts.clone(), why))
    }

    async fn begin_facts(&self, asker: &Asker, name: (Repo, Commit)) -> Result<Flight<Arc<Fresh>>> {
        // The look at the revision that led here has paid for its info.
        let is_paid = self.infos.contains_key(&name);
        let fare = if is_paid { Fare::free() } else { self.limits.fare(asker, 1) };
        let purpose = asker.purpose();
        let work = || {
            let (gateway, (repo, commit)) = (self.clone(), name.clone());
            async move { gateway.learn_facts(repo, commit, purpose).await }
        };
        self.facts_flights.board((name.0.clone(), name.1, purpose), fare, work).await
    }

    /// Waits a moment for the tree: with it, more can be decided and nothing needs asking by name.
    pub(super) async fn settled(&self, asker: &Asker, known: &Known) -> Result<Option<Known>> {
        let Known::Facts(fresh) = known else { return Ok(None) };
        let comes_soon = fresh.siblings.is_some() && !self.upstream_is_out(&fresh.facts.repo);
        let patience = if comes_soon { TREE_PATIENCE } else { LARGE_TREE_PATIENCE };
        match tokio::time::timeout(patience, self.whole(asker, known)).await {
            Ok(Ok(snapshot)) => Ok(Some(Known::Whole(snapshot))),
            Ok(Err(Error::TooMany(_))) => Ok(None),
            Ok(Err(error)) if self.stored_stands_in(&error) => Ok(Some(Known::Alone(fresh.facts.clone(), error))),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.snapshots.keep_early(&fresh.facts, None).await?;
                Ok(None)
            }
        }
    }

    /// Keeps a look's info for the question about facts that follows it.
    pub(super) async fn remember_info(&self, look: Look) {
        let mut info = look.info;
        info.siblings = info.siblings.filter(|list| is_whole(list.len()));
        self.infos.insert((look.repo, look.commit), Arc::new(info)).await;
    }

    pub(super) async fn learn_facts(self, repo: Repo, commit: Commit, purpose: Purpose) -> Result<Arc<Fresh>> {
        let name = (repo.clone(), commit);
        let called = self.called(&repo).await?;
        let info = match self.infos.get(&name).await {
            Some(info) => info,
            None => {
                let look = self.upstream.look(&called, &commit.into(), purpose).await;
                self.note_outage(&repo, look.as_ref().err());
                match look {
                    Ok(look) => {
                        self.allow_new_name(&repo, &look.repo, OffsetDateTime::now_utc()).await?;
                        Arc::new(look.info)
                    }
                    Err(error) => return Err(self.failed(&repo, &commit.into(), error).await),
                }
            }
        };
        let readme = match self.upstream.readme(&called, commit, README_BYTES, purpose).await {
            Ok(readme) => readme,
            Err(error) => return Err(self.failed(&repo, &commit.into(), error).await),
        };
        let siblings = info.siblings.as_ref().filter(|list| is_whole(list.len()));
        let fresh = Arc::new(Fresh {
            facts: Arc::new(Facts {
                repo: repo.clone(),
                commit,
                looked_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
                info: info.facts.clone(),
                front_matter: readme.as_deref().and_then(kept_front_matter),
                tree: None,
            }),
            siblings: siblings.map(|list| list.iter().map(|sibling| sibling.rfilename.clone()).collect()),
        });
        self.fresh.insert(name, fresh.clone()).await;
        Ok(fresh)
    }

    /// The whole snapshot, learned if need be.
    pub(super) async fn whole(&self, asker: &Asker, known: &Known) -> Result<Arc<Snapshot>> {
        let fresh = match known {
            Known::Whole(snapshot) => return Ok(snapshot.clone()),
            Known::Facts(fresh) => fresh.clone(),
            Known::Alone(_, why) => return Err(why.clone()),
        };
        let name = (fresh.facts.repo.clone(), fresh.facts.commit);
        for refused in [&self.too_large, &self.insane] {
            if let Some(error) = refused.get(&name).await {
                return Err(error);
            }
        }
        let purpose = asker.purpose();
        let work = || {
            let gateway = self.clone();
            async move {
                // It may have been learned since the asker looked.
                match gateway.snapshots.find(&fresh.facts.repo, fresh.facts.commit).await? {
                    Some(snapshot) => Ok(snapshot),
                    None => gateway.learn_tree(fresh, purpose).await,
                }
            }
        };
        // Paid for with the facts.
        self.tree_flights.join(name, Fare::free(), work).await
    }

    pub(super) async fn learn_tree(self, fresh: Arc<Fresh>, purpose: Purpose) -> Result<Arc<Snapshot>> {
        let (repo, commit) = (&fresh.facts.repo, fresh.facts.commit);
        // A tree of 300,000 nodes, whose info lists no files, is hundreds of requests; files are served by name meanwhile.
        let rest = if fresh.siblings.is_none() { Purpose::Background } else { purpose };
        let pages = self.upstream.tree(&self.called(repo).await?, commit, purpose, rest);
        let name = (repo.clone(), commit);
        let bounds = Bounds { nodes: self.config.limits.tree_nodes, large: &self.large_trees };
        match gather(repo, commit, pages, fresh.siblings.as_deref(), bounds).await {
            Ok((nodes, _place)) => self.snapshots.keep(fresh.facts.clone(), nodes).await,
            Err(BadSnapshot::Upstream(error)) => {
                self.note_outage(repo, Some(&error));
                Err(self.failed(repo, &commit.into(), error).await)
            }
            Err(bad @ BadSnapshot::TooLarge { .. }) => {
                tracing::warn!(%repo, %commit, "{bad}");
                self.snapshots.keep_early(&fresh.facts, Some(self.config.limits.tree_nodes)).await?;
                let error = Error::TooMany(bad.to_string());
                self.too_large.insert(name, error.clone()).await;
                Err(error)
            }
            Err(bad @ BadSnapshot::Insane { .. }) => {
                tracing::error!(%repo, %commit, error = %bad, "the commit's tree was not learned");
                let error = Error::Insane(bad.to_string());
                // Whichever of the two lied, both are asked again.
                self.snapshots.forget_early(repo, commit).await?;
                self.infos.invalidate(&name).await;
                self.fresh.invalidate(&name).await;
                self.insane.insert(name, error.clone()).await;
                Err(error)
            }
        }
    }
}

/// Why nothing is asked: upstream did not answer a moment ago.
fn out_of_reach() -> Error {
    let why = "the origin does not answer, and not all of this commit is stored".to_owned();
    Error::Busy { why, retry_after: OUTAGE_MEMORY }
}

/// Whether a list of so many siblings is all of them.
fn is_whole(siblings: usize) -> bool {
    (1..MAX_WHOLE_SIBLINGS).contains(&siblings)
}
