//! The queue between those who log and whatever reads the log.
//!
//! A request must neither wait for a log pipe nor pay for waking its writer. Lines gather in one buffer, and a
//! thread writes them out together: at once after a quiet time, else every [`GATHER`]. What does not fit into the
//! buffer is dropped and counted. A channel of lines (tracing-appender's) cost a copy, an allocation and
//! often a system call for each line: an eighth of the time of a request for a small file.

use std::{
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written, in bytes.
const MOST_BYTES: usize = 10 << 20;
/// A buffer that has grown beyond this is not kept.
const KEPT_BYTES: usize = 256 << 10;
/// The pause after a write, in which lines gather for the next.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end of the process waits for a log that nobody reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes lines. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Told when there is something to write or to end for, and when all is written.
    changed: Condvar,
    dropped: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Whether the writer waits for lines, so that somebody must wake it.
    is_idle: bool,
    is_closed: bool,
    /// Whether the writer has ended, everything written.
    is_over: bool,
}

/// Ends the queue when it is dropped, after what waits has been written.
#[derive(Debug)]
pub struct QueueGuard(Queue);

impl Queue {
    /// A queue whose thread writes to `to`.
    pub(super) fn to(to: impl Write + Send + 'static) -> (Self, QueueGuard) {
        let shared = Shared { waiting: Mutex::default(), changed: Condvar::new(), dropped: AtomicUsize::new(0) };
        let queue = Self(Arc::new(shared));
        let writer = queue.clone();
        let spawned = thread::Builder::new().name("hubgate-log".into()).spawn(move || writer.write_out(to));
        if let Err(error) = spawned {
            eprintln!("hubgate: no thread for the log, nothing will be logged: {error}");
            queue.waiting().is_over = true;
        }
        (queue.clone(), QueueGuard(queue))
    }

    /// Adds one line or several, whole or not at all.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.is_over || waiting.lines.len() + lines.len() > MOST_BYTES {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        let wake = std::mem::take(&mut waiting.is_idle);
        drop(waiting);
        if wake {
            self.0.changed.notify_all();
        }
    }

    /// Lines that were dropped so far.
    pub(super) fn dropped_lines(&self) -> usize {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut to: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut waiting = self.waiting();
            while waiting.lines.is_empty() && !waiting.is_closed {
                waiting.is_idle = true;
                waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.is_idle = false;
            if waiting.lines.is_empty() {
                waiting.is_over = true;
                self.0.changed.notify_all();
                return;
            }
            std::mem::swap(&mut lines, &mut waiting.lines);
            let is_closed = waiting.is_closed;
            drop(waiting);
            // A log that can't be written has nowhere to say so.
            let _ = to.write_all(&lines).and_then(|()| to.flush());
            lines.clear();
            lines.shrink_to(KEPT_BYTES);
            if !is_closed {
                thread::sleep(GATHER);
            }
        }
    }
}

impl Write for Queue {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.is_closed = true;
        self.0.0.changed.notify_all();
        // Whatever comes of the wait, the process goes on to its end.
        let _ = self.0.0.changed.wait_timeout_while(waiting, LAST_WORDS, |waiting| !waiting.is_over);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A log that is read at the pleasure of the test.
    struct Pipe {
        written: Arc<Mutex<Vec<u8>>>,
        may_write: mpsc::Receiver<()>,
        is_writing: mpsc::Sender<()>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.is_writing.send(());
            let _ = self.may_write.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_that_was_logged_is_written_by_the_end_in_its_order() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (allow, may_write) = mpsc::channel();
        let (queue, guard) = Queue::to(Pipe { written: written.clone(), may_write, is_writing: mpsc::channel().0 });
        // Nobody need allow anything: a closed channel lets every write through.
        drop(allow);
        let mut expected = Vec::new();
        for n in 0..10_000 {
            let line = format!("line {n}\n");
            queue.push(line.as_bytes());
            expected.extend_from_slice(line.as_bytes());
        }
        drop(guard);
        assert!(*written.lock().unwrap() == expected);
        queue.push(b"too late\n");
        assert_eq!(queue.dropped_lines(), 1);
    }

    #[test]
    fn a_log_that_nobody_reads_loses_whole_lines_and_they_are_counted() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (allow, may_write) = mpsc::channel();
        let (is_writing, writing) = mpsc::channel();
        let (queue, guard) = Queue::to(Pipe { written: written.clone(), may_write, is_writing });
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        queue.push(&line);
        writing.recv().unwrap();
        // The writer holds the first line; the buffer takes 10 MiB beside it.
        for _ in 0..MOST_BYTES / line.len() + 7 {
            queue.push(&line);
        }
        assert_eq!(queue.dropped_lines(), 7);
        drop(allow);
        drop(guard);
        assert_eq!(written.lock().unwrap().len(), line.len() + MOST_BYTES);
    }
}
