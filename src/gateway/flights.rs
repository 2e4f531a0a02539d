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

use super::{Error, Result, limits::Fare, tasks::Tasks};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

/// A look-up under way. Dropping it leaves the look-up running.
pub(super) type Flight<V> = Shared<BoxFuture<'static, Result<V>>>;

/// Look-ups under way, by what they look up.
pub(crate) struct Flights<K, V> {
    tasks: Tasks,
    live: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Debug + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None under way; tasks run as `tasks`.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self { tasks, live: Arc::default() }
    }

    /// Joins the look-up of `key`, or begins `work` for it. Only who begins it pays the fare, and waits for it
    /// if need be.
    ///
    /// # Errors
    /// Those of the work, and [`Error::Busy`] where the fare can't be paid soon.
    pub(crate) async fn join<F>(&self, key: K, fare: Fare<'_>, work: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        self.board(key, fare, work).await?.await
    }

    /// The same without waiting for the end of the look-up: for the fare alone.
    ///
    /// # Errors
    /// [`Error::Busy`] where the fare can't be paid soon.
    pub(super) async fn board<F>(&self, key: K, mut fare: Fare<'_>, work: impl FnOnce() -> F) -> Result<Flight<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        loop {
            let too_soon = {
                let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(flight) = live.get(&key) {
                    return Ok(flight.clone());
                }
                match fare.take() {
                    Ok(()) => {
                        let flight = self.begin(key.clone(), work());
                        live.insert(key, flight.clone());
                        return Ok(flight);
                    }
                    Err(too_soon) => too_soon,
                }
            };
            fare.wait(too_soon).await?;
        }
    }

    fn begin(&self, key: K, work: impl Future<Output = Result<V>> + Send + 'static) -> Flight<V> {
        let table = self.live.clone();
        let task = self.tasks.spawn(async move {
            let landed = Landing { table, key };
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
        flight.boxed().shared()
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

    use tokio_util::task::TaskTracker;

    use super::{
        super::{
            Asker,
            limits::{ClientLimits, LimitsConfig},
        },
        *,
    };

    #[tokio::test]
    async fn askers_of_one_thing_share_one_task_that_outlives_them() {
        let flights = Flights::<&str, usize>::new(Tasks::here(TaskTracker::new()));
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let work = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
            }
        };
        let join = || flights.join("a", Fare::free(), work);
        // The first begins it and leaves.
        assert!(join().now_or_never().is_none());
        let (second, third) = (join(), join());
        gate.add_permits(1);
        let (second, third) = tokio::join!(second, third);
        assert_eq!((second.unwrap(), third.unwrap()), (1, 1));
        gate.add_permits(1);
        assert_eq!(join().await.unwrap(), 2, "the first has left the table");
    }

    #[tokio::test]
    async fn who_boards_a_look_up_has_paid_and_need_not_wait_for_its_end() {
        let flights = Flights::<usize, ()>::new(Tasks::here(TaskTracker::new()));
        let flight = flights.board(1, Fare::free(), std::future::pending).await.unwrap();
        assert!(flight.now_or_never().is_none());
        assert_eq!(flights.live.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn only_who_begins_a_look_up_pays_for_it() {
        let flights = Flights::<usize, ()>::new(Tasks::here(TaskTracker::new()));
        let config = LimitsConfig {
            upstream_per_minute: 1.try_into().unwrap(),
            burst: 2.try_into().unwrap(),
            ..LimitsConfig::default()
        };
        let limits = ClientLimits::new(&config);
        let asker = Asker::operator("one");
        let join = |key| flights.join(key, limits.fare(&asker, 1), std::future::pending);
        for _ in 0..10 {
            assert!(join(1).now_or_never().is_none());
        }
        assert!(join(2).now_or_never().is_none(), "the second token is still there");
        assert!(matches!(join(3).now_or_never(), Some(Err(Error::Busy { .. }))));
        assert!(join(2).now_or_never().is_none(), "joining is always possible");
    }
}
