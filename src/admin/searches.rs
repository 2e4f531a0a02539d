//! Operators' searches of the manifest: one at a time, since each reads the whole log, and none keeps its asker waiting for
//! long. A search goes on when nobody waits any more, so that the one who asks again finds its answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio::time::{Instant, timeout};

use super::{Admin, Error, Result};
use crate::manifest::{self, Filter, Found};

/// How long an asker is kept waiting.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// When to ask again.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer that nobody waited for is one.
const KEPT: Duration = Duration::from_mins(1);

/// The search under way, or the last one, whose answer nobody has heard.
#[derive(Default)]
pub(super) struct Searches(Mutex<Option<Search>>);

struct Search {
    filter: Filter,
    limit: usize,
    outcome: Outcome,
}

/// What was found, and when.
type Outcome = Shared<BoxFuture<'static, (Instant, manifest::Result<Arc<Found>>)>>;

impl Admin {
    /// The newest records of the manifest that a filter takes.
    ///
    /// # Errors
    /// The manifest's, and [`Error::Busy`] where it takes longer than 8 s: the search goes on.
    pub async fn search_manifest(&self, filter: &Filter, limit: usize) -> Result<Arc<Found>> {
        match timeout(ANSWER_WITHIN, self.searched(filter, limit)).await {
            Ok(found) => Ok(found?),
            Err(_) => Err(Error::Busy {
                why: "still reading the manifest's log; ask the same again, or read the store with `hubgate manifest list`"
                    .into(),
                retry_after: RETRY,
            }),
        }
    }

    async fn searched(&self, filter: &Filter, limit: usize) -> manifest::Result<Arc<Found>> {
        loop {
            let (outcome, is_ours) = self.join_search(filter, limit);
            let (ended, found) = outcome.clone().await;
            if is_ours {
                // Heard, it is no answer to who asks later.
                let mut search = self.searches.0.lock().unwrap_or_else(PoisonError::into_inner);
                drop(search.take_if(|search| search.outcome.ptr_eq(&outcome)));
                if ended.elapsed() <= KEPT {
                    return found;
                }
            }
        }
    }

    /// The search under way, or that for this, begun if there is none; and whether it is for this.
    fn join_search(&self, filter: &Filter, limit: usize) -> (Outcome, bool) {
        let mut search = self.searches.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = &*search {
            let is_ours = there.filter == *filter && there.limit == limit;
            if is_ours || there.outcome.peek().is_none() {
                return (there.outcome.clone(), is_ours);
            }
        }
        let (store, wanted) = (self.store.clone(), filter.clone());
        let reading = async move {
            let found = manifest::search(&*store, &wanted, limit).await.map(Arc::new);
            (Instant::now(), found)
        };
        let task = self.tasks.spawn_on(reading, &self.runtime);
        let ended_early = |_| (Instant::now(), Err(manifest::Error::Closed));
        let outcome = async move { task.await.unwrap_or_else(ended_early) }.boxed().shared();
        *search = Some(Search { filter: filter.clone(), limit, outcome: outcome.clone() });
        (outcome, true)
    }
}
