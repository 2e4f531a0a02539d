//! Work that goes on without the request that began it.

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::TaskTracker;

/// Spawns on the process's own runtime, whatever thread asks: those that serve connections are not for work
/// that hashes and stores (see [`crate::server::Workers`]).
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    runtime: Handle,
}

impl Tasks {
    /// On the runtime that this is called on, counted by `tracker`.
    pub(crate) fn here(tracker: TaskTracker) -> Self {
        Self { tracker, runtime: Handle::current() }
    }

    /// Begins work. Dropping the handle does not end it.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }
}
