//! Logs: set up once, written by a thread of their own, and the access log's lines. And the counters of metrics.
//!
//! Imports nothing of ours. The writer's queue is bounded and **lossy**: a log pipe that nobody reads must
//! not stop serving, so lines past the queue are dropped, counted, and the count is said aloud. What must
//! not be lost is in the manifest, not here.

mod family;
mod line;
mod queue;

use std::{io::Write, time::Duration};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{Level, warn};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

pub use family::{Family, labels, status_class};
pub use line::Line;
use queue::Queue;
pub use queue::QueueGuard;

/// How often dropped lines are said aloud.
const DROPPED_EVERY: Duration = Duration::from_mins(1);
/// The access log's target, for `log.filter`: `info,access=off` leaves it out.
const ACCESS: &str = "access";

/// `[log]`: one line per event, on standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
    /// Which events: levels by target, as `RUST_LOG` has them: `info`, `info,hubgate=debug`. The access lines
    /// have the target `access`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `time LEVEL target: message key=value`.
    Text,
    /// One JSON object.
    Json,
}

/// `log.filter` that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("log.filter: {filter:?}: {problem}; write levels by target, such as \"info,hubgate=debug\"")]
pub struct FilterError {
    filter: String,
    problem: String,
}

impl LogConfig {
    /// Reads the filter.
    ///
    /// # Errors
    /// Where it is no filter.
    pub fn parse_filter(&self) -> Result<EnvFilter, FilterError> {
        self.filter.parse().map_err(|error: tracing_subscriber::filter::ParseError| FilterError {
            filter: self.filter.clone(),
            problem: error.to_string(),
        })
    }
}

/// The logs of a running process. Dropped, it writes what is still queued.
pub struct Telemetry {
    /// Where access lines go.
    pub access: AccessLog,
    queue: Queue,
    _guard: QueueGuard,
}

/// Sets up logging for the whole process, to standard error. Once a process.
///
/// # Errors
/// Where `log.filter` can't be read.
pub fn init(config: &LogConfig) -> Result<Telemetry, FilterError> {
    let filter = config.parse_filter()?;
    let (queue, guard) = Queue::to(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone());
    let set = match config.format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    if set.is_err() {
        // Only a second call in one process, as tests make: the first one's subscriber stays.
        warn!("logging is set up already");
    }
    Ok(Telemetry { access: AccessLog { queue: Some(queue.clone()), format: config.format }, queue, _guard: guard })
}

impl Telemetry {
    /// Lines that were dropped so far since the queue was full.
    pub fn dropped_lines(&self) -> usize {
        self.queue.dropped_lines()
    }

    /// Says once a minute how many lines were dropped, if any.
    pub fn report_dropped(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let queue = self.queue.clone();
        async move {
            let mut said = 0;
            while stop.run_until_cancelled(tokio::time::sleep(DROPPED_EVERY)).await.is_some() {
                let lines = queue.dropped_lines();
                if lines > said {
                    warn!(lines = lines - said, "log lines were dropped: whatever reads the log is too slow");
                    said = lines;
                }
            }
        }
    }
}

/// An error with everything beneath it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(beneath) = cause {
        let more = beneath.to_string();
        // Some errors quote their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = beneath.source();
    }
    text
}

/// Writes access lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Option<Queue>,
    format: LogFormat,
}

impl AccessLog {
    /// One that writes nothing.
    pub fn none() -> Self {
        Self { queue: None, format: LogFormat::Text }
    }

    /// One that writes to `to`, as tests want. The guard writes what is queued when it is dropped.
    pub fn to(to: impl Write + Send + 'static, format: LogFormat) -> (Self, QueueGuard) {
        let (queue, guard) = Queue::to(to);
        (Self { queue: Some(queue), format }, guard)
    }

    /// Writes one line of what `fill` puts in it, unless `log.filter` leaves access lines out.
    pub fn write(&self, fill: impl FnOnce(&mut Line<'_>)) {
        let Some(queue) = &self.queue else { return };
        if !tracing::enabled!(target: ACCESS, Level::INFO) && tracing::dispatcher::has_been_set() {
            return;
        }
        Line::make(self.format, ACCESS, fill, |bytes| queue.push(bytes));
    }
}
