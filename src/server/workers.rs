//! The threads that serve connections: one event loop for each core, and each connection stays with one.
//!
//! Tokio's work-stealing runtime moves a connection between threads at almost every request, each time
//! with a system call to wake the other, which made an answer from the store a third dearer. Here the thread
//! that hears of a request answers it. Work that is to go on without its client, or that takes long, does
//! not belong on these threads: the gateway spawns it on the process's own runtime.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::oneshot};

/// Event loops that end, with what still runs on them, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Worker]>);

#[derive(Debug)]
struct Worker {
    loop_: runtime::Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped with the worker, which ends its thread.
    _end: oneshot::Sender<()>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// What the system says where it gives no thread or no event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count).map(Worker::start).collect::<io::Result<Vec<_>>>().map(|workers| Self(workers.into()))
    }

    /// One thread for each core that this process may use.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn for_this_machine() -> io::Result<Self> {
        Self::start(thread::available_parallelism().map_or(1, usize::from))
    }

    /// No threads: connections are served by the runtime that accepts them.
    pub fn none() -> Self {
        Self(Arc::new([]))
    }

    /// The event loop with the fewest connections, and a count on it for as long as the seat is held.
    pub(super) fn seat(&self) -> Option<Seat> {
        let worker = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some(Seat { loop_: worker.loop_.clone(), connections: worker.connections.clone() })
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let loop_ = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = loop_.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            // Nothing is ever sent: this is the sender being dropped.
            let _ = loop_.block_on(ended);
            // What still waits on its blocking threads may finish there.
            loop_.shutdown_background();
        };
        thread::Builder::new().name(format!("hubgate-http-{number}")).spawn(run)?;
        Ok(Self { loop_: handle, connections: Arc::default(), _end: end })
    }
}

/// A connection's place on an event loop.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) loop_: runtime::Handle,
    connections: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_evenly_and_a_seat_that_is_left_is_taken_first() {
        let workers = Workers::start(3).unwrap();
        let seats: Vec<_> = (0..6).map(|_| workers.seat().unwrap()).collect();
        let loads = || workers.0.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(loads(), [2, 2, 2]);
        drop(seats.into_iter().skip(1).step_by(3).collect::<Vec<_>>());
        assert_eq!(loads(), [0, 0, 0], "all seats were dropped with the iterator");
        let _first = workers.seat().unwrap();
        let _second = workers.seat().unwrap();
        assert_eq!(loads(), [1, 1, 0]);
        assert!(Workers::none().seat().is_none());
    }

    #[test]
    fn a_worker_runs_what_it_is_given_on_its_own_thread_and_ends_when_it_is_dropped() {
        let workers = Workers::start(1).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let held = tell.clone();
        workers.seat().unwrap().loop_.spawn(async move {
            tell.send(thread::current().name().map(ToOwned::to_owned)).unwrap();
            // Goes on until the loop ends, and holds the channel open until then.
            std::future::pending::<()>().await;
            drop(tell);
        });
        assert_eq!(told.recv().unwrap().as_deref(), Some("hubgate-http-0"));
        drop(workers);
        drop(held);
        assert!(told.recv().is_err(), "the task is gone with its loop");
    }
}
