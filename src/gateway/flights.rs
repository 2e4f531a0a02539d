//! One look-up at a time: askers of the same thing share one task, and the task outlives them.
//!
//! A client that gives up does not stop the work, so that its retry finds the answer. Nothing is cached
//! here; that is for those who look up.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio_util::task::TaskTracker;

use super::{Error, Result};

type Flight<V> = Shared<BoxFuture<'static, Result<V>>>;

/// Look-ups under way, by what they look up.
pub(crate) struct Flights<K, V> {
    tasks: TaskTracker,
    live: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Debug + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None under way; tasks run as `tasks`.
    pub(crate) fn new(tasks: TaskTracker) -> Self {
        Self { tasks, live: Arc::default() }
    }

    /// Joins the look-up of `key`, or begins `work` for it.
    pub(crate) fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> BoxFuture<'static, Result<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = live.get(&key) {
            return flight.clone().boxed();
        }
        let (table, work, name) = (self.live.clone(), work(), key.clone());
        let task = self.tasks.spawn(async move {
            let landed = Landing { table, key: name };
            let value = work.await;
            drop(landed);
            value
        });
        let flight = async move {
            task.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a look-up ended without an answer");
                Err(Error::Busy {
                    why: "a look-up failed inside the gateway; ask again".into(),
                    retry_after: super::RETRY,
                })
            })
        };
        let flight = flight.boxed().shared();
        live.insert(key, flight.clone());
        flight.boxed()
    }
}

/// Takes a look-up off the table when it ends, however it ends.
struct Landing<K: Eq + Hash, V> {
    table: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn askers_of_one_thing_share_one_task_that_outlives_them() {
        let flights = Flights::<&str, usize>::new(TaskTracker::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let work = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
            }
        };
        let first = flights.join("a", work);
        drop(first);
        let (second, third) = (flights.join("a", work), flights.join("a", work));
        gate.add_permits(1);
        assert_eq!((second.await.unwrap(), third.await.unwrap()), (1, 1));
        gate.add_permits(1);
        assert_eq!(flights.join("a", work).await.unwrap(), 2, "the first has left the table");
    }
}
